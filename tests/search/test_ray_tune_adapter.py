"""Our controllers under Ray Tune."""

import contextlib
import logging
import os
from itertools import product

import pytest

from search.state import pack, unpack

pytest.importorskip("ray.tune")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray import tune
from ray.tune.search import Searcher

from search import ray_tune_adapter
from search.ray_common import start_ray
from search.ray_trials import _SWITCHES
from search.ray_tune_adapter import ChimeraSearcher

SPACE = {"width": [1, 2, 3, 4], "block": {"depth": [1, 2, 3], "kind": ["plain", "wide"]}}
EVERY = {(w, d, k) for w, d, k in product([1, 2, 3, 4], [1, 2, 3], ["plain", "wide"])}


def flat(config):
    return config["width"], config["block"]["depth"], config["block"]["kind"]


def value_of(config):
    width, depth, kind = flat(config)
    return 10 * width + depth + (kind == "wide")


def run(searcher, count, first=0, metric="value"):
    """Trials one after the other, without Ray."""
    configs = []
    for i in range(first, first + count):
        config = searcher.suggest(f"t{i}")
        if config == Searcher.FINISHED:
            break
        configs.append(flat(config))
        searcher.on_trial_complete(f"t{i}", {metric: value_of(config)})
    return configs


@pytest.mark.parametrize("controller", ["evolution", "random"])
def test_each_configuration_once_and_then_the_end(controller):
    searcher = ChimeraSearcher(SPACE, metric="value", mode="max", controller=controller)
    configs = run(searcher, 100)
    assert len(configs) == len(EVERY)
    assert set(configs) == EVERY
    assert searcher.suggest("more") == Searcher.FINISHED


@pytest.mark.parametrize(("mode", "of"), [("max", 1), ("min", -1)])
def test_it_goes_where_the_metric_says(mode, of):
    space = {name: list(range(5)) for name in "abcd"}
    searcher = ChimeraSearcher(space, metric="v", mode=mode, seed=2)
    values = []
    for i in range(80):
        config = searcher.suggest(str(i))
        values.append(sum(config.values()))
        searcher.on_trial_complete(str(i), {"v": values[-1]})
    assert of * (sum(values[20:]) / 60 - 8) > 1.5  # 8 is the mean of all


def test_saved_and_restored_it_goes_on_as_it_would_have(tmp_path):
    def made():
        return ChimeraSearcher(SPACE, metric="value", mode="max", seed=5, population=4)

    whole = run(made(), 16)
    begun = made()
    first = run(begun, 7)
    under_way = begun.suggest("t7")
    begun.save(str(tmp_path / "state"))
    again = made()
    again.restore(str(tmp_path / "state"))
    assert pack(again.get_state()) == pack(begun.get_state())
    again.on_trial_complete("t7", {"value": value_of(under_way)})
    assert [*first, flat(under_way), *run(again, 8, first=8)] == whole
    assert unpack((tmp_path / "state").read_bytes())["under_way"].keys() == {"t7"}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_nothing_is_learnt_from_what_failed(monkeypatch):
    searcher = ChimeraSearcher(SPACE, metric=["value", "size"], mode=["max", "min"])
    told = []
    monkeypatch.setattr(searcher._controller, "tell", told.extend)
    for i, (result, error) in enumerate(
        [
            ({"value": 3, "size": 2}, False),
            ({"value": 3, "size": 2}, True),
            ({"value": float("nan"), "size": 2}, False),
            ({"value": 3}, False),
            (None, False),
        ]
    ):
        searcher.suggest(str(i))
        searcher.on_trial_complete(str(i), result, error)
    assert [trial.values for trial in told] == [(3, -2), None, None, None, None]


def test_the_tuner_may_bring_the_space():
    searcher = ChimeraSearcher()
    config = {"a": tune.choice([1, 2]), "deep": {"b": tune.randint(3, 5), "c": "as it is"}, "d": 7}
    assert searcher.set_search_properties("value", "min", config)
    found = []
    while (suggested := searcher.suggest(str(len(found)))) != Searcher.FINISHED:
        found.append(suggested)
        searcher.on_trial_complete(str(len(found) - 1), {"value": 1.0})
    assert all(one["deep"]["c"] == "as it is" and one["d"] == 7 for one in found)
    pairs = {(one["a"], one["deep"]["b"]) for one in found}
    assert (len(found), pairs) == (4, set(product([1, 2], [3, 4])))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: ChimeraSearcher({"a": 3}, metric="v", mode="max"), "a is 3, but must be a list"),
        (lambda: ChimeraSearcher({}, metric="v", mode="max"), "no choices"),
        (lambda: ChimeraSearcher(SPACE, metric="v", mode="up"), "mode is 'up'"),
        (lambda: ChimeraSearcher(SPACE, metric=["v", "w"], mode=["max"]), "metric has 2"),
        (lambda: ChimeraSearcher(SPACE, controller="none"), "unknown controller 'none'"),
        (lambda: ChimeraSearcher(SPACE, size=3), "no setting 'size'"),
        (lambda: ChimeraSearcher(metric="v").suggest("t"), "no space"),
        (lambda: ChimeraSearcher(SPACE).suggest("t"), "no metric"),
        (
            lambda: ChimeraSearcher().set_search_properties("v", "max", {"a": tune.uniform(0, 1)}),
            "a is Float",
        ),
        (
            lambda: ChimeraSearcher(SPACE).set_search_properties("v", "max", {"a": 1}),
            "give it once",
        ),
    ],
)
def test_what_is_wrong_is_said(made, said):
    with pytest.raises(ValueError, match=said):
        made()


def toy():
    """A trainable of one step. A process goes on with the next trial, as it takes seconds to start;
    made in a function it travels by value, and a worker need not import what this file does."""

    class Toy(tune.Trainable):
        def setup(self, config):
            self.now = config

        def reset_config(self, new_config):
            self.now = new_config
            return True

        def step(self):
            width, block = self.now["width"], self.now["block"]
            value = 10 * width + block["depth"] + (block["kind"] == "wide")
            return {"value": float("nan") if width == 2 else value, "done": True}

    return Toy


def test_tune_on_two_workers(tmp_path, monkeypatch):
    """A dozen trials, of which some report no number; what is proposed is new each time."""
    import ray

    for name, value in _SWITCHES.items():
        monkeypatch.setenv(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    searcher = ChimeraSearcher(SPACE, metric="value", mode="max", seed=1)
    told = []
    monkeypatch.setattr(
        searcher._controller,
        "tell",
        lambda trials, tell=searcher._controller.tell: (told.extend(trials), tell(trials)),
    )
    start_ray(f"{ray_tune_adapter.__name__}:_list", {}, 2, None)
    try:
        with contextlib.redirect_stderr(None):
            grid = tune.Tuner(
                tune.with_resources(toy(), {"cpu": 1}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=12,
                    max_concurrent_trials=2,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=str(tmp_path),
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
    finally:
        ray.shutdown()
    configs = [flat(result.config) for result in grid]
    assert len(set(configs)) == 12
    values = [10 * w + d + (k == "wide") for w, d, k in configs if w != 2]
    assert 0 < len(values) < 12
    assert sorted(trial.values[0] for trial in told if trial.values) == sorted(values)
    assert len(told) == 12
