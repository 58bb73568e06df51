"""A study of Optuna as a copy of rows: what stands in it, and what is refused."""

import math
import sqlite3
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from results.pareto import hypervolume as ours
from search.optuna_mirror import Entry, Foreign, StudyCopy, check_storage, shown
from space.decisions import Variable

VARIABLES = (
    Variable("kind", ("convolution", "attention")),
    Variable("convolution.kernel", (3, 5, 7), ((0, frozenset({0})),)),
    Variable("attention.bias", (False, True), ((0, frozenset({1})),)),
    Variable("attention.bias.scale", (0.5, None, (1, 2)), ((2, frozenset({1})),)),
)
ENTRIES = [
    Entry("a", (0, 2, 0, 0), (0.5, 90.0), (-0.1,), {"evaluation": 0, "name": "A"}, 1.5),
    Entry("b", (1, 0, 1, 2), (0.25, 40.0), (0.2,), {"evaluation": 1}),
    Entry("c", (1, 0, 0, 0), None, (-0.5,), {"evaluation": 2, "message": "no memory"}),
]


def copy_at(place, *, name="run", objectives=("score", "macs"), about=None):
    about = about or {"budget": "4GFLOPs"}
    return StudyCopy(f"sqlite:///{place}", name, VARIABLES, objectives, ["macs"], about)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "studies.db"


def load(place, name="run"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{place}")


def test_what_stands_in_it(place):
    copy_at(place).add(ENTRIES)
    study = load(place)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["score", "macs"]
    assert study.user_attrs["budget"] == "4GFLOPs"
    assert study.user_attrs["constraints"] == ["macs"]
    one, two, three = study.trials
    assert (one.state, one.values) == (TrialState.COMPLETE, [0.5, 90.0])
    assert one.params == {"kind": "convolution", "convolution.kernel": 7}
    assert one.distributions["convolution.kernel"].choices == (3, 5, 7)
    assert one.user_attrs == {"digest": "a", "evaluation": 0, "name": "A"}
    assert one.duration.total_seconds() == pytest.approx(1.5)
    # A choice that is neither number nor text stands there as it is written.
    assert two.params == {
        "kind": "attention",
        "attention.bias": True,
        "attention.bias.scale": "(1, 2)",
    }
    assert (three.state, three.values) == (TrialState.FAIL, None)
    assert three.params == {"kind": "attention", "attention.bias": False}
    assert three.user_attrs["message"] == "no memory"
    # The second is above the limit, so it is not on Optuna's front.
    assert [trial.number for trial in study.best_trials] == [0]
    assert two.system_attrs["constraints"] == [0.2]


def test_a_copy_can_be_caught_up(place):
    first = copy_at(place)
    assert first.known() == []
    assert not place.exists()  # nothing is made by looking
    first.add(ENTRIES[:1])
    again = copy_at(place)
    assert again.known() == ["a"]
    again.add(ENTRIES[1:])
    assert first.known() == again.known() == ["a", "b", "c"]
    assert len(load(place).trials) == 3


def test_a_study_that_was_killed_while_it_was_made(place):
    optuna.create_study(
        study_name="run", storage=f"sqlite:///{place}", directions=["maximize", "minimize"]
    )
    assert copy_at(place).known() == []
    copy_at(place).add(ENTRIES)
    assert load(place).user_attrs["budget"] == "4GFLOPs"
    assert copy_at(place).known() == ["a", "b", "c"]


def test_several_studies_in_one_storage(place):
    copy_at(place).add(ENTRIES)
    other = copy_at(place, name="other")
    assert other.known() == []
    other.add([])
    assert len(load(place, "other").trials) == 0
    assert len(load(place).trials) == 3


def test_studies_of_others_are_left_alone(place):
    theirs = optuna.create_study(
        study_name="run", storage=f"sqlite:///{place}", directions=["maximize", "minimize"]
    )
    theirs.add_trial(optuna.create_trial(values=[0.1, 1.0]))
    for call in (lambda copy: copy.known(), lambda copy: copy.add(ENTRIES)):
        with pytest.raises(Foreign, match="is no copy of a search"):
            call(copy_at(place))
    assert len(load(place).trials) == 1
    optuna.create_study(study_name="one", storage=f"sqlite:///{place}")
    with pytest.raises(Foreign, match="other objectives"):
        copy_at(place, name="one").add(ENTRIES)
    copy_at(place, name="two").add(ENTRIES)
    with pytest.raises(Foreign, match="other objectives"):
        copy_at(place, name="two", objectives=("score", "params")).add(ENTRIES)
    # A sampler that went on with the study put a trial of its own into it.
    load(place, "two").add_trial(optuna.create_trial(values=[0.1, 1.0]))
    with pytest.raises(Foreign, match="no candidates of a search"):
        copy_at(place, name="two").known()


def test_a_storage_that_fails_says_so_in_one_line(place, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # as Optuna does between its tries
    copy = copy_at(place)
    copy.add(ENTRIES[:1])
    with sqlite3.connect(place) as database:
        database.execute("ALTER TABLE trial_params RENAME TO other")
    with pytest.raises(OSError, match="no such table") as error:
        copy.add(ENTRIES[1:2])
    assert "\n" not in str(error.value)
    place.write_bytes(b"nothing of the kind")
    with pytest.raises(OSError, match="not a database"):
        copy_at(place).known()


def test_a_storage_that_is_locked_can_be_caught_up(place, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    copy = StudyCopy(
        f"sqlite:///{place}?timeout=0.05", "run", VARIABLES, ("score", "macs"), ["macs"], {}
    )
    copy.add(ENTRIES[:1])
    other = sqlite3.connect(place, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match="locked"):
        copy.add(ENTRIES[1:])
    other.execute("ROLLBACK")
    other.close()
    assert copy.known() == ["a"]
    copy.add(ENTRIES[1:])
    assert [trial.user_attrs["digest"] for trial in load(place).trials] == ["a", "b", "c"]


URLS = {
    "studies.db": "must be a URL such as sqlite:///studies.db",
    "": "must be a URL",
    "nothing:///x": "must be a URL",
    "sqlite://": "nobody else can open",
    "sqlite:///:memory:": "nobody else can open",
    "sqlite:////no/such/folder/x.db": "its folder is not there",
    "sqlite:////": "is a folder",
}


@pytest.mark.parametrize(("url", "said"), URLS.items(), ids=URLS)
def test_urls(url, said):
    with pytest.raises(ValueError, match=said) as error:
        check_storage(url)
    assert repr(url) in str(error.value)


def test_databases_of_others(place):
    check_storage(f"sqlite:///{place}")
    place.touch()
    check_storage(f"sqlite:///{place}")  # an empty file will do
    with sqlite3.connect(place) as database:
        database.execute("CREATE TABLE candidates (number INTEGER)")
    with pytest.raises(ValueError, match="holds something else"):
        check_storage(f"sqlite:///{place}")
    place.write_bytes(b"text" * 100)
    with pytest.raises(ValueError, match="no SQLite database"):
        check_storage(f"sqlite:///{place}")


def test_passwords_are_not_shown():
    url = "postgresql://ann:secret@host/studies"
    assert shown(url) == "postgresql://ann:***@host/studies"
    check_storage(url)
    assert shown("sqlite:///x.db") == "sqlite:///x.db"


@pytest.mark.filterwarnings("ignore:PedAnovaImportanceEvaluator")
def test_importance_and_hypervolume(place):
    """What Optuna computes of studies runs on a conditional space, failures included."""
    hypervolume = pytest.importorskip("optuna._hypervolume").compute_hypervolume
    entries = []
    for i in range(24):
        kind = i % 2
        row = (kind, 0 if kind else i % 3, kind * (i // 2 % 2), 0)
        values = None if i == 7 else (math.sin(i) + kind, 10.0 + i)
        entries.append(Entry(str(i), row, values, (-0.1,), {"evaluation": i}))
    copy_at(place).add(entries)
    study = load(place)
    found = optuna.importance.get_param_importances(
        study, params=["kind"], target=lambda trial: trial.values[0]
    )
    assert found.keys() == {"kind"}
    best = [(-t.values[0], t.values[1]) for t in study.best_trials]
    everything = [(-e.values[0], e.values[1]) for e in entries if e.values]
    reference = (2.0, 40.0)
    theirs = hypervolume(np.array(sorted(best)), np.array(reference))
    assert theirs == pytest.approx(ours(everything, reference))
