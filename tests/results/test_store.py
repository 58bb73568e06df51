import json
import shutil
import sqlite3
from dataclasses import replace

import pytest

from evaluator.interfaces import Result
from results.store import Store, network_name
from space.cost import Cost
from space.files import make_space

SPACE = make_space(
    {
        "name": "two",
        "resolution": [64, 96],
        "stem": {"convolution": {"channels": [8, 16]}},
        "stages": [{"channels": [8], "depth": [1, 2, 3], "operators": {"inverted_bottleneck": {}}}],
        "head": {"pooled": {"features": [64]}},
    }
)
GENOMES = [SPACE.decode((r, s, d)) for r in range(2) for s in range(2) for d in range(3)]


def result(i):
    genome = GENOMES[i]
    if i % 3 == 2:
        return Result(genome, genome.cost(), seconds=0.5, error="it broke")
    details = {"top1": i / 20, "loss": 1.5} if i % 2 else {}
    costs = {"latency@cpu": 1 / (1 + i), "memory": 1e6} if i % 2 else {}
    return Result(genome, genome.cost(), 0.1 + i / 30, 0.1 * i - 1 / 3, i / 7, details, costs=costs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "candidates.sqlite"


def test_rows_say_what_was_added(path):
    with Store(path) as store:
        store.append([result(0), result(1)], "evolution", lambda: b"one")
        store.append([result(2)], "random", lambda: b"two")
    with Store(path, readonly=True) as store:
        rows = store.rows()
        assert store.state() == b"two"
        assert store.statuses() == ["ok", "ok", "failed"]
    for i, row in enumerate(rows):
        told = result(i)
        assert (row.order, row.digest) == (i, told.genome.digest)
        assert row.genome == told.genome.to_json()
        assert (row.macs, row.params) == (told.cost.macs, told.cost.params)
        assert row.resolution == told.genome.resolution
        assert (row.score, row.reward, row.seconds) == (told.score, told.reward, told.seconds)
        assert row.top1 == told.details.get("top1")
        assert (row.status, row.error) == (("failed", "it broke") if i == 2 else ("ok", None))
        assert row.origin == ("random" if i == 2 else "evolution")
        assert row.name == network_name(told.cost, told.genome.digest)
        assert row.costs == told.costs
        for name, value in {
            **told.costs,
            "macs": told.cost.macs,
            "params": told.cost.params,
        }.items():
            assert row.cost(name) == value
        with pytest.raises(
            ValueError, match=f"{row.name} has no cost 'speed'; it has macs, params"
        ):
            row.cost("speed")


def test_other_details_are_kept_too(path):
    with Store(path) as store:
        store.append([result(1)], "x", lambda: b"")
    kept = sqlite3.connect(path).execute("SELECT details FROM candidates").fetchone()[0]
    assert json.loads(kept) == {"top1": 0.05, "loss": 1.5}


@pytest.mark.parametrize(
    ("macs", "name"),
    [
        (3_980_000_000, "3.98G-1f2e3d"),
        (12_345_678_901, "12.35G-1f2e3d"),
        (612_400_000, "612M-1f2e3d"),
        (999_499_999, "999M-1f2e3d"),
        (999_500_000, "1.00G-1f2e3d"),
    ],
)
def test_names(macs, name):
    assert network_name(Cost(macs=macs), "1f2e3d4c5b6a") == name


def test_a_new_store_is_empty_and_an_old_one_goes_on(path):
    with Store(path) as store:
        assert (store.rows(), store.statuses(), store.state()) == ([], [], None)
    for i in range(3):
        with Store(path) as store:
            store.append([result(i)], "x", lambda i=i: bytes([i]))
    with Store(path) as store:
        assert [row.order for row in store.rows()] == [0, 1, 2]


def test_a_candidate_twice_changes_nothing(path):
    with Store(path) as store:
        store.append([result(0)], "x", lambda: b"before")
        with pytest.raises(ValueError, match=r"candidates\.sqlite.*digest"):
            store.append([result(1), result(0)], "x", lambda: b"after")
        assert [row.digest for row in store.rows()] == [GENOMES[0].digest]
        assert store.state() == b"before"


def test_candidates_and_state_come_together_or_not_at_all(path):
    """An interrupt between any two statements of the transaction leaves what was before."""
    seen = []
    with Store(path) as store:
        store.append([result(0)], "x", lambda: b"before")
        store._database.set_trace_callback(seen.append)
        store.append([result(1), result(2)], "x", lambda: b"between")
        store._database.set_trace_callback(None)
        assert len(seen) >= 5
    for stop in range(len(seen)):
        calls = []

        def interrupt(calls=calls, stop=stop):
            calls.append(None)
            return len(calls) > stop  # true ends the statement that is under way

        with Store(path) as store:
            store._database.set_progress_handler(interrupt, 5)
            with pytest.raises(OSError, match="interrupted"):
                store.append([result(3 + stop)], "x", lambda: b"after")
            store._database.set_progress_handler(None, 0)
            assert len(store.rows()) == 3
            assert store.state() == b"between"


def test_readable_while_a_search_writes(path):
    with Store(path) as writer, Store(path, readonly=True) as reader:
        writer.append([result(0)], "x", lambda: b"")
        assert len(reader.rows()) == 1
        writer._database.execute("BEGIN IMMEDIATE")
        writer._database.execute("DELETE FROM candidates")
        assert len(reader.rows()) == 1  # what is not committed is not there
        writer._database.execute("ROLLBACK")
        writer.append([result(1)], "x", lambda: b"")
        assert len(reader.rows()) == 2


def test_a_reader_writes_nothing(path):
    Store(path).close()
    before = path.read_bytes()
    with Store(path, readonly=True) as reader:
        reader.rows()
        with pytest.raises(OSError, match="readonly"):
            reader.append([result(0)], "x", lambda: b"")
    assert path.read_bytes() == before


def test_a_copy_of_the_file_is_whole(path, tmp_path):
    with Store(path) as store:
        store.append([result(0), result(1)], "x", lambda: b"state")
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        shutil.copy(path, tmp_path / "copy.sqlite")
        with Store(tmp_path / "copy.sqlite") as copy:
            assert copy.rows() == store.rows()
            assert copy.state() == b"state"


def test_a_full_disk(path):
    with Store(path) as store:
        store.append([result(0)], "x", lambda: b"small")
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match=r"candidates\.sqlite: database or disk is full"):
            store.append([result(1)], "x", lambda: bytes(1_000_000))
        assert len(store.rows()) == 1
        assert store.state() == b"small"


def older(path):
    """As format 1 was: the same without costs."""
    with Store(path) as store:
        store.append([result(0), result(1)], "x", lambda: b"state")
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE candidates DROP COLUMN costs")
        database.execute("PRAGMA user_version = 1")


def test_an_older_format_is_read_as_it_is(path):
    older(path)
    before = path.read_bytes()
    with Store(path, readonly=True) as store:
        assert [row.costs for row in store.rows()] == [{}, {}]
        assert store.state() == b"state"
    assert path.read_bytes() == before


def test_an_older_format_goes_on_as_the_new_one(path):
    older(path)
    reader = Store(path, readonly=True)  # from before, while another process writes
    with Store(path) as store:
        assert [row.costs for row in store.rows()] == [{}, {}]
        store.append([result(3)], "x", lambda: b"")
        assert [row.costs for row in store.rows()] == [{}, {}, result(3).costs]
        assert reader.rows() == store.rows()
    with Store(path) as store:
        assert len(store.rows()) == 3


def other_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE candidates (x)")


def text(path):
    path.write_text("not a database at all, but long enough to have a header" * 40)


def newer(path):
    Store(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_database, "is not a database of candidates"),
        (text, "is not a database of candidates"),
        (newer, "has format 3; this version of Chimera reads 1 and 2: use the one that made it"),
    ],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_files_that_are_not_ours(path, make, message, readonly):
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Store(path, readonly=readonly)
    assert path.read_bytes() == before


def test_places_where_nothing_can_be(path, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        Store(path, readonly=True)
    with pytest.raises(OSError, match="unable to open"):
        Store(tmp_path / "no folder" / "candidates.sqlite")
    with pytest.raises(OSError, match="unable to open"):
        Store(tmp_path)


def test_paths_with_odd_characters(tmp_path):
    path = tmp_path / "100% done? #1 ü.sqlite"
    with Store(path) as store:
        store.append([replace(result(0), details={"top1": 0.5})], "x", lambda: b"")
    assert path.is_file()
    assert Store(path, readonly=True).rows()[0].top1 == 0.5
