"""Profiles of a device whose times are known."""

import dataclasses
import json

import numpy as np
import pytest

from evaluator.interleaved import TooNoisy
from evaluator.latency import Anchor, measure
from evaluator.latency_model import LatencyColumn, LatencyModel, accuracy_of
from evaluator.latency_profile import read_profile
from evaluator.profiling import SEEN, anchor_of, profile_device
from space.device import Device
from space.files import load_space, make_space
from space.part_list import PartList
from tests.evaluator.timed import KnownRuntime, network_ms
from tests.small_spaces import LAYERS


@pytest.fixture(scope="module")
def space():
    return make_space(LAYERS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "device.json"


def test_every_part_of_the_space_is_seen(space, path):
    profile = profile_device(space, KnownRuntime(), path, minutes=10)
    assert profile.finished
    places = PartList(space)
    seen = np.zeros(len(places.parts), int)
    for network in profile.networks:
        np.add.at(seen, places.numbers_of(network.genome), 1)
    assert seen.min() >= SEEN


def test_predictions_of_new_networks_are_those_of_the_device(space, path):
    profile = profile_device(space, KnownRuntime(noise=0.01), path, minutes=10)
    column = LatencyColumn.of(space, Device(), LatencyModel(profile))
    rows = space.sample_codes(np.random.default_rng(5), 200)
    true = np.array([network_ms(space.decode(row)) for row in rows])
    apart = np.abs(column(rows) / true - 1)
    assert np.median(apart) < 0.01
    assert apart.max() < 0.05
    assert accuracy_of(profile).median < 0.02


def test_a_drifting_device_is_profiled_as_if_it_stood_still(space, path):
    drifting = KnownRuntime(drift=lambda n: 1 + 0.1 * np.sin(n / 300))
    profile = profile_device(space, drifting, path, minutes=10)
    column = LatencyColumn.of(space, Device(), LatencyModel(profile))
    rows = space.sample_codes(np.random.default_rng(5), 50)
    true = np.array([network_ms(space.decode(row)) for row in rows])
    ratio = column(rows) / true
    assert ratio.std() < 0.02  # all alike: what is left is what the anchor's level is


def test_parts_that_were_never_measured_are_predicted_from_relatives(path, monkeypatch):
    """Of a space with more parts than there is time for."""
    monkeypatch.setattr("evaluator.profiling.SEEN", 1)
    space = load_space("unified").scaled(width=0.125, resolution=32, classes=10)
    profile = profile_device(space, KnownRuntime(), path, minutes=10)
    model = LatencyModel(profile, profile.networks[:20])
    column = LatencyColumn.of(space, Device(), model)
    known = [model.knows(part) for part in PartList(space).parts]
    assert np.mean(known) < 0.5
    rows = space.sample_codes(np.random.default_rng(5), 100)
    true = np.array([network_ms(space.decode(row)) for row in rows])
    apart = np.abs(column(rows) / true - 1)
    assert np.median(apart) < 0.03
    assert np.quantile(apart, 0.95) < 0.10


def test_a_profile_that_was_stopped_goes_on_as_if_it_had_not(space, path, tmp_path):
    whole = profile_device(space, KnownRuntime(), tmp_path / "whole.json", minutes=10)

    class Stops(KnownRuntime):
        def prepare(self, network, shape):
            self.made = getattr(self, "made", 0) + 1
            if self.made == 6:
                raise KeyboardInterrupt
            return super().prepare(network, shape)

    with pytest.raises(KeyboardInterrupt):
        profile_device(space, Stops(), path, minutes=10)
    begun = read_profile(path)
    assert not begun.finished
    assert len(begun.networks) == 4  # the anchor was the first that was prepared
    again = profile_device(space, KnownRuntime(), path, minutes=10)
    assert [n.genome for n in again.networks] == [n.genome for n in whole.networks]


def test_a_profile_that_is_there_is_not_measured_again(space, path):
    profile_device(space, KnownRuntime(), path, minutes=10)
    runtime = KnownRuntime()
    profile_device(space, runtime, path, minutes=10)
    assert runtime.passes == 0


def test_what_is_written_is_read_back(space, path):
    profile = profile_device(space, KnownRuntime(), path, minutes=10)
    assert read_profile(path) == profile


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "something"}, "not a latency profile"),
        ({"format": 0}, "format 0, and this version reads 1: how things are measured has changed"),
        ({"format": 2}, "format 2, and this version reads 1"),
        ({"networks": [{"ms": 1}]}, "damaged: it lacks 'genome'"),
        ({"environment": None}, "damaged: its environment is not an object"),
        ({"device": {"runtime": "cpu"}}, "damaged: its device must have"),
    ],
)
def test_other_files_are_refused_with_the_reason(space, path, change, said):
    profile_device(space, KnownRuntime(), path, minutes=10)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        read_profile(path)


@pytest.mark.parametrize("value", [-1, 0, "fast", None, True, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(space, path, value):
    profile_device(space, KnownRuntime(), path, minutes=10)
    plain = json.loads(path.read_text())
    plain["networks"][0]["ms"] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match="damaged"):
        read_profile(path)


def test_a_file_that_is_no_json_or_not_there_is_refused(path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_profile(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a JSON file"):
        read_profile(path)


def test_a_profile_of_other_conditions_is_refused_with_both(space, path):
    profile_device(space, KnownRuntime(torch="2.11"), path, minutes=10)
    with pytest.raises(ValueError, match=r"measured with torch '2.11', but here it is '2.13'"):
        profile_device(space, KnownRuntime(torch="2.13"), path, minutes=10)


def test_a_restless_machine_is_refused_and_what_was_measured_is_kept(space, path, monkeypatch):
    monkeypatch.setattr("evaluator.interleaved.PATIENCE", 0.0)
    restless = KnownRuntime(drift=lambda n: 1.0 if n < 200 else 1.0 + (n % 7))
    with pytest.raises(TooNoisy, match="measure again when it is quiet"):
        profile_device(space, restless, path, minutes=10)
    kept = read_profile(path)
    assert kept.networks
    assert not kept.finished


def test_a_column_goes_to_plain_data_and_back(space, path):
    model = LatencyModel(profile_device(space, KnownRuntime(), path, minutes=10))
    column = LatencyColumn.of(space, Device(), model)
    again = LatencyColumn.from_plain(space, json.loads(json.dumps(column.to_plain())))
    rows = space.sample_codes(np.random.default_rng(0), 20)
    assert (again(rows) == column(rows)).all()
    with pytest.raises(ValueError, match="has"):
        LatencyColumn.from_plain(make_space({**LAYERS, "resolution": [8]}), column.to_plain())


def test_the_model_needs_networks(space, path):
    profile = profile_device(space, KnownRuntime(), path, minutes=10)
    with pytest.raises(ValueError, match="needs two at least"):
        LatencyModel(dataclasses.replace(profile, networks=profile.networks[:1]))


def test_networks_are_measured_in_groups_and_all_are_there(space):
    runtime, anchor = KnownRuntime(drift=lambda n: 1 + n / 1e5), anchor_of(space)
    genomes = {f"{i}": space.decode(r) for i, r in enumerate(_rows(space, 19))}
    shape = (1, 3, 16, 16)
    found = measure(
        runtime,
        {name: lambda g=genome: runtime.fresh(g) for name, genome in genomes.items()},
        shape,
        Anchor(runtime.fresh(anchor), shape, network_ms(anchor)),
        rounds=3,
    )
    for name, genome in genomes.items():
        assert found[name].ms == pytest.approx(network_ms(genome), rel=0.01)


def _rows(space, count):
    return space.sample_codes(np.random.default_rng(1), count)
