"""onnxruntime as a device: what is run is the network, and what is timed are its parts."""

from __future__ import annotations

import gc
import re
import sys
import tempfile

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
from small_spaces import LAYERS

from evaluator.runtimes import make_runtime, onnx_graph, parts_of
from evaluator.runtimes.onnx_graph import name_parts, write_network, write_probe
from evaluator.runtimes.onnx_passes import PART, looking_ms, places
from space import build
from space.device import Device
from space.files import load_space, make_space
from space.genome import Genome


@pytest.fixture
def runtime():
    return make_runtime(Device.parse("onnxruntime-cpu:threads=1"))


def small(seed: int = 0) -> Genome:
    return make_space(LAYERS).sample(np.random.default_rng(seed))


def shape(genome: Genome, batch: int = 1) -> tuple[int, int, int, int]:
    return batch, genome.in_channels, genome.resolution, genome.resolution


def test_times_are_of_the_whole_and_of_each_part(runtime):
    genome = small()
    with runtime.held():
        runner = runtime.prepare(runtime.fresh(genome), shape(genome))
        assert runner.time() > 0
        times = runner.time_parts()
        nodes, *_ = runner.look()
    assert len(times) == len(list(genome.parts()))
    assert all(ms >= 0 for ms in times)
    found = places([name for name, _ in nodes])
    assert found == sorted(found)  # one part after the other, as the chain says
    assert set(found) == set(range(len(times)))


def test_passes_that_were_looked_at_are_not_kept_beyond_the_next_whole_pass(runtime, monkeypatch):
    genome = small()
    with runtime.held():
        runner = runtime.prepare(runtime.fresh(genome), shape(genome))
        looks = [[[("part0/0", float(10 * i + j))] for j in range(2)] for i in range(3)]
        monkeypatch.setattr(runner, "_looking_ms", 0.0)
        monkeypatch.setattr(runner, "look", lambda: looks.pop(0))
        first = [runner.time_parts()[0] for _ in range(3)]
        runner.time()
        assert [*first, runner.time_parts()[0]] == [0.0, 1.0, 10.0, 20.0]


def test_files_of_a_network_go_with_it(runtime, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    genome = small()
    with runtime.held():
        runner = runtime.prepare(runtime.fresh(genome), shape(genome))
        runner.time_parts()
    assert list(tmp_path.iterdir())
    del runner
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_the_environment_says_what_timings_depend_on(runtime):
    found = runtime.environment()
    assert found["onnxruntime"] == onnxruntime.__version__
    assert found["threads"] == 1
    assert {"device", "opset", "torch"} <= set(found)


@pytest.mark.parametrize("exporter", ["quick_model", "thorough_model"])
def test_both_exporters_write_the_network_and_its_parts(exporter, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("not this one")

    (other,) = {"quick_model", "thorough_model"} - {exporter}
    monkeypatch.setattr(onnx_graph, other, refuse)
    genome = small(1)
    network, images = build(genome).eval(), torch.randn(shape(genome, 2))
    write_network(network, images, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(images), atol=1e-4, rtol=1e-4)
    named = {int(match[1]) for node in model.graph.node if (match := PART.match(node.name))}
    assert named == set(range(len(list(genome.parts()))))
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("seed", range(3))
def test_every_node_of_a_network_of_the_default_space_has_its_part(seed, runtime):
    space = load_space("unified").scaled(width=0.125, resolution=32, classes=10)
    genome = space.sample(np.random.default_rng(seed))
    with runtime.held():
        runner = runtime.prepare(runtime.fresh(genome), shape(genome))
        nodes, *_ = runner.look()
    found = places([name for name, _ in nodes])
    assert len(found) == len(nodes)
    assert set(found) == set(range(len(list(genome.parts()))))
    assert found == sorted(found)
    named = sum(name.startswith("part") for name, _ in nodes)
    assert named > len(nodes) / 2


def test_the_quick_exporter_says_sizes_as_numbers(runtime):
    """Otherwise the device would compute them in each pass."""
    space = load_space("unified").scaled(width=0.125, resolution=32, classes=10)
    genome = space.sample(np.random.default_rng(0))
    model = onnx_graph.quick_model(build(genome).eval(), torch.randn(shape(genome)))
    assert not [node for node in model.graph.node if node.op_type in ("Loop", "If")]


class Wrong(nn.Module):
    """What the older exporter takes for a constant."""

    def forward(self, x):
        return x * float(x.mean() * 0 + torch.rand(()))


def test_a_network_that_is_written_wrongly_is_refused(tmp_path):
    genome = small()
    network = build(genome)
    network.stem.append(Wrong())
    with pytest.raises(ValueError, match="cannot run on onnxruntime: "):
        write_network(network, torch.randn(shape(genome)), tmp_path / "network.onnx")


def test_parts_are_named_in_the_order_of_the_network():
    genome = small(2)
    network = build(genome).eval()
    model = onnx_graph.quick_model(network, torch.randn(shape(genome)))
    name_parts(model, network)
    order = [int(match[1]) for node in model.graph.node if (match := PART.match(node.name))]
    assert order == sorted(order)
    assert max(order) == len(list(parts_of(network))) - 1


def test_what_looking_costs_is_little(tmp_path):
    write_probe(tmp_path / "probe.onnx")
    assert 0 <= looking_ms(tmp_path / "probe.onnx", threads=1) < 1.0


def test_without_its_packages_the_device_names_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "evaluator.runtimes.onnxruntime_cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=re.escape("onnxruntime: pip install chimera-nas[export]")):
        make_runtime(Device.parse("onnxruntime-cpu"))
