"""RepMixer and FastViT's other parts against their formulas, pixel by pixel, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from naive import (
    batch,
    convolution,
    gelu,
    held_against,
    linear,
    mlp_behind,
    norm,
    relu,
    squeeze_excite,
)

from space.genes import Site
from space.heads.mobileone import MobileOneHead
from space.operators.rep_mixer import RepMixer
from space.presets.fastvit import fastvit
from space.reparameterised import squeeze_excite as gate_to
from space.stems.mobileone import MobileOneStem


def branches(x, p, *, kind="batch", stride=1, groups=1, skip=True):
    """k x k, 1x1 and the map itself, each with its norm."""
    y = sum(
        norm(convolution(x, p.at(i, 0), stride=stride, groups=groups, bias=False), p.at(i, 1), kind)
        for i in range(2)
    )
    return y + norm(x, p.at(2), kind) if skip else y


def mixed(x, p, kind="batch"):
    y = branches(x, p.at("mixer", "branches"), kind=kind, groups=len(x))
    y = y - norm(x, p.at("norm"), kind)
    return x + (y * p["scale.weight"][:, None, None] if "scale.weight" in p else y)


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
@pytest.mark.parametrize("context", [3, 7])
@pytest.mark.parametrize("layer_scale", [None, 1e-5])
def test_rep_mixer(kind, context, layer_scale, randomise):
    part = RepMixer(norm=kind, context=context, layer_scale=layer_scale, activation="relu")

    def formula(x, p):
        return mlp_behind(mixed(x, p.at("mixer"), kind), p.at("mlp"), relu, kind)

    for height, width in ((5, 4), (1, 3)):
        module = randomise(part.build(Site(6, 6, height, width)))
        held_against(formula, module, torch.randn(2, 6, height, width))


def test_rep_mixer_folds_into_one_convolution(randomise):
    """FastViT's section 3.1: after training, mixer, norms, scale and shortcut are one filter."""
    part = RepMixer(norm="batch", layer_scale=0.1, expansion=0)
    module = randomise(part.build(Site(6, 6, 5, 4))).double()
    p = {name.removeprefix("mixer."): t for name, t in module.state_dict().items()}

    def gain(prefix):
        return p[f"{prefix}.weight"] / (p[f"{prefix}.running_var"] + 1e-5).sqrt()

    def rest(prefix):
        return p[f"{prefix}.bias"] - gain(prefix) * p[f"{prefix}.running_mean"]

    large, small, skip = (f"mixer.branches.{i}" for i in range(3))
    taps = p[f"{large}.0.weight"] * gain(f"{large}.1")[:, None, None, None]
    centre = p[f"{small}.0.weight"].flatten() * gain(f"{small}.1") + gain(skip) - gain("norm")
    taps[:, 0, 1, 1] += centre
    bias = rest(f"{large}.1") + rest(f"{small}.1") + rest(skip) - rest("norm")
    scale = p["scale.weight"]
    taps = taps * scale[:, None, None, None]
    taps[:, 0, 1, 1] += 1
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        folded = F.conv2d(x, taps, scale * bias, padding=1, groups=6)
        torch.testing.assert_close(module(x), folded, atol=1e-9, rtol=1e-9)


def test_the_block_of_fastvit_ends_in_its_conv_ffn(randomise):
    """A 7x7 depthwise convolution without bias, BatchNorm, and an MLP with biases."""

    def formula(x, p):
        branch = p.at("branch")
        y = convolution(x, branch.at("lead"), groups=6, bias=False)
        y = linear(batch(y, branch.at("norm")), branch.at("expand", 0))
        y = linear(gelu(y), branch.at("project"))
        return x + y * p["scale.weight"][:, None, None]

    genome = fastvit(48, (2, 2, 4, 2), 3, attends=False, scale=1e-5)
    mixer, ffn = genome.stages[0].blocks[:2]
    site = Site(6, 6, 5, 4)
    held_against(formula, randomise(ffn.build(site)), torch.randn(2, 6, 5, 4))
    block = randomise(mixer.build(site))
    held_against(lambda x, p: mixed(x, p.at("mixer")), block, torch.randn(2, 6, 5, 4))


def test_stem(randomise):
    def formula(x, p):
        y = gelu(branches(x, p.at(0, "branches"), stride=2, skip=False))
        y = gelu(branches(y, p.at(2, "branches"), stride=2, groups=8, skip=False))
        last = p.at(4, "branches")
        return gelu(
            batch(linear(y, last.at(0, 0), bias=False), last.at(0, 1)) + batch(y, last.at(1))
        )

    part = MobileOneStem(channels=8, norm="batch")
    module = randomise(part.build(Site(3, 8, 10, 7, 4)))
    held_against(formula, module, torch.randn(2, 3, 10, 7))


@pytest.mark.parametrize(("expansion", "groups"), [(2, 6), (1.5, 3), (1, 6)])
@pytest.mark.parametrize("squeeze_ratio", [0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_head(expansion, groups, squeeze_ratio, bias, randomise):
    def formula(x, p):
        y = branches(x, p.at("features", 0, "branches"), groups=groups, skip=expansion == 1)
        y = gelu(squeeze_excite(y, p.at("features", 1)) if squeeze_ratio else y)
        return linear(y.mean((1, 2))[:, None, None], p.at("classifier"), bias=bias)[:, 0, 0]

    part = MobileOneHead(expansion=expansion, squeeze_ratio=squeeze_ratio, norm="batch", bias=bias)
    module = randomise(part.build(Site(6, 5, 3, 4)))
    held_against(formula, module, torch.randn(2, 6, 3, 4))


@pytest.mark.parametrize(("channels", "ratio", "squeezed"), [(1216, 1 / 16, 76), (64, 1 / 16, 8)])
def test_the_gate_is_squeezed_by_the_ratio(channels, ratio, squeezed):
    assert gate_to(channels, ratio).cost.params == 2 * channels * squeezed + channels + squeezed
    assert gate_to(channels, 0) is None


def test_an_activation_without_an_mlp_is_refused():
    with pytest.raises(ValueError, match="activation is 'relu', but makes no difference without"):
        RepMixer(expansion=0, activation="relu")
