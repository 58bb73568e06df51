"""The interface of exported networks: that of timm's models."""

from __future__ import annotations

import re
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from results.model_file import model_source
from space import Genome, Stage, registered
from space.files import load_space
from space.presets import presets


def found(side: int = 64, seed: int = 0) -> Genome:
    """A network of the default space, for small images."""
    genome = load_space("unified").sample(np.random.default_rng(seed))
    return genome.at(resolution=side, classes=5)


def with_tokens() -> Genome:
    """A small transformer with a class token beside the map."""
    operators = registered("operator")
    blocks = (operators["embedding"](tokens=1), operators["attention"](), operators["attention"]())
    stem = registered("stem")["convolution"](channels=32, kernel=8, step=8, norm="none")
    stages = (Stage(channels=32, blocks=blocks),)
    head = registered("head")["pooled"]()
    return Genome(resolution=64, stem=stem, stages=stages, head=head, classes=5)


def loaded(genome: Genome) -> ModuleType:
    module = ModuleType("exported")
    exec(compile(model_source(genome, "toy"), "model.py", "exec"), vars(module))
    return module


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return loaded(found())


@pytest.fixture(scope="module")
def network(module: ModuleType) -> nn.Module:
    torch.manual_seed(0)
    made = module.model().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al., 2016, arXiv 1612.03144, section 3), as small as it can be."""

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


def test_a_pyramid_stands_on_its_maps(network):
    images = torch.randn(2, 3, 64, 64)
    maps = network.forward_intermediates(images, intermediates_only=True)
    assert [info["reduction"] for info in network.feature_info] == [4, 8, 16, 32]
    for x, info in zip(maps, network.feature_info, strict=True):
        side = 64 // info["reduction"]
        assert x.shape == (2, info["num_chs"], side, side)
        modules = dict(network.named_modules())
        assert info["module"] in modules
    pyramid = Pyramid([info["num_chs"] for info in network.feature_info], 16)
    levels = pyramid(maps)
    assert [level.shape[2] for level in levels] == [16, 8, 4, 2]
    network.zero_grad()
    sum(level.square().mean() for level in levels).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert all(name.startswith("head.") for name in without)  # all maps reach all stages


def test_intermediates_are_what_stages_give(network):
    images = torch.randn(1, 3, 64, 64)
    x, expected = network.stem(images), []
    for i, stage in enumerate(network.stages):
        x = stage(x)
        if f"stages.{i}" in [info["module"] for info in network.feature_info]:
            expected.append(x)
    last, maps = network.forward_intermediates(images)
    assert torch.equal(last, x)
    assert torch.equal(last, network.forward_features(images))
    assert all(map(torch.equal, maps, expected))
    for indices, wanted in ((2, expected[-2:]), ([0, -1], [expected[0], expected[-1]])):
        given = network.forward_intermediates(images, indices, intermediates_only=True)
        assert len(given) == len(wanted)
        assert all(map(torch.equal, given, wanted))


def test_heads_come_and_go(module):
    network = module.model().eval()
    images = torch.randn(2, 3, 64, 64)
    features = network.forward_features(images)
    assert features.shape[1] == network.num_features
    before = network.forward_head(features, pre_logits=True)
    assert before.shape == (2, network.get_classifier().in_features)
    assert torch.equal(network.get_classifier()(before), network(images))
    network.reset_classifier(9)
    assert network(images).shape == (2, 9)
    assert network.num_classes == 9
    assert torch.equal(network.forward_head(features, pre_logits=True), before)
    network.reset_classifier(0)
    assert torch.equal(network(images), before)
    network.reset_classifier(4)
    assert network(images).shape == (2, 4)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "vit_ti_16"])
def test_heads_of_tokens_and_of_two_classifiers(name):
    if name not in presets():
        name = next(preset for preset in presets() if preset.startswith("deit"))
    network = loaded(presets()[name].genome.at(resolution=224)).model(num_classes=6).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert network(images).shape == (1, 6)
        assert network.forward_head(network.forward_features(images), pre_logits=True).ndim == 2
        network.reset_classifier(0)
        assert network(images).ndim == 2
        network.reset_classifier(3)
        assert network(images).shape == (1, 3)


def test_what_travels_beside_the_map_is_no_feature():
    network = loaded(with_tokens()).model().eval()
    (features,) = network.forward_intermediates(torch.randn(2, 3, 64, 64), intermediates_only=True)
    assert features.shape == (2, 32, 8, 8)
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_checkpointing_changes_memory_alone(network):
    images = torch.randn(2, 3, 64, 64)

    def gradients() -> dict[str, Tensor]:
        network.zero_grad()
        network(images).square().sum().backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    plain = gradients()
    network.set_grad_checkpointing()
    try:
        again = gradients()
    finally:
        network.set_grad_checkpointing(False)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def test_vectors_do_not_decay(network):
    spared = network.no_weight_decay()
    for name, value in network.named_parameters():
        assert (name in spared) == (value.ndim <= 1)
        if name.endswith(("norm.weight", "bias")):
            assert name in spared


def test_source_passes_a_type_checker(tmp_path):
    """Those of all kinds of networks: mypy reads them in one go."""
    from mypy import api

    genomes = {"found": found(), "tokens": with_tokens()}
    names = ["convnext_t", "levit_128s", "maxvit_t", "cmt_ti", "cvt_13", "lg_transformer_all"]
    names += ["localvit_t2t", "localvit_tnt_t", "regionvit_ti", "revcol_t", "sehalonet33ts"]
    genomes |= {name: presets()[name].genome for name in [*names, "uninet_b1"]}
    for name, genome in genomes.items():
        text = model_source(genome, name)
        assert re.search(r"^from torch import .*nn", text, re.M)
        (tmp_path / f"{name}.py").write_text(text)
    options = ["--no-incremental", "--ignore-missing-imports", "--check-untyped-defs"]
    report, errors, status = api.run([*options, "--config-file=", str(tmp_path)])
    assert status == 0, report + errors
