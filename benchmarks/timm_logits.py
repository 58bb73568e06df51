"""Compares published networks, built from their genomes, with timm's: same weights, same logits.

    pip install timm
    python -m benchmarks.timm_logits

Both networks run once while every use of a parameter is noted. The layers of the two lists, each in
the order of first use, are then paired by kind and shape; `Pair.rules` says where timm keeps weights
in another form (queries, keys and values in one matrix, a position table by rows of offsets).
A pair that does not come out even is an error. Weights, scales and running statistics are random:
zeros and ones of a fresh network would hide differences.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from space.network import build
from space.presets.published import preset

TOLERANCE = 1e-4  # of logits of order 1, in float32
ROUNDING = 1e-9  # in float64: nothing but rounding is left
SEED = 0
ROOT = Path(__file__).parents[1]
NO_RULES: Mapping[str, Any] = {}


# ---- the layers of a network, in the order of first use


@dataclass(frozen=True)
class Layer:
    """Parameters that are used together: a "matrix" (weight, bias; convolutions too), a "norm"
    (running mean and variance, weight, bias) or a "table" of anything else."""

    name: str
    kind: str
    tensors: tuple[Tensor, ...]

    def fits(self, other: Layer) -> bool:
        """Whether the tensors are the same but for dimensions of 1."""
        return self.kind == other.kind and self._shapes() == other._shapes()

    def _shapes(self) -> list[torch.Size]:
        return [tensor.squeeze().shape for tensor in self.tensors]

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {[tuple(t.shape) for t in self.tensors]}"


_KINDS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d"), "matrix"),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm"), "norm"),
}
_LOOKS = ("__get__", "size", "dim", "numel", "data_ptr", "stride", "is_contiguous")


class _Uses(TorchFunctionMode):
    """Notes the parameters of a network when they are first used."""

    def __init__(self, network: nn.Module):
        super().__init__()
        named = [*network.named_parameters(), *network.named_buffers()]
        self.unused = {id(tensor): name for name, tensor in named if _learned(name, tensor)}
        self.layers: list[Layer] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name not in _LOOKS:
            found = [a for a in _flat([*args, *(kwargs or {}).values()]) if id(a) in self.unused]
            if name == "addcmul":  # a shift and its factor: we have them the other way round
                found.reverse()
            names = [self.unused.pop(id(tensor)) for tensor in found]
            kind = _KINDS.get(name, "table")
            if found and kind != "table":
                self.layers.append(Layer(names[0], kind, tuple(found)))
            else:
                self.layers += [Layer(n, kind, (t,)) for n, t in zip(names, found, strict=True)]
        return func(*args, **(kwargs or {}))


def _learned(name: str, tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or name.endswith(("running_mean", "running_var"))


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


@torch.no_grad()
def layers_of(network: nn.Module, side: int) -> list[Layer]:
    """The layers in the order of first use by an image of `side` pixels."""
    image = torch.zeros(1, 3, side, side, dtype=next(network.parameters()).dtype)
    with _Uses(network.eval()) as uses:
        network(image)
    if uses.unused:
        raise ValueError(f"not used: {sorted(uses.unused.values())}")
    return uses.layers


# ---- random weights


@torch.no_grad()
def randomise(network: nn.Module, layers: Sequence[Layer], images: Tensor, seed: int) -> None:
    """Weights that keep the size of their inputs, norms and scales away from one and zero, and
    running statistics near those of `images`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: Any, deviation: Any) -> None:
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        tensor.copy_(mean + deviation * noise)

    for layer in layers:
        if layer.kind == "matrix":
            weight, *biases = layer.tensors
            normal(weight, 0, weight[0].numel() ** -0.5)
            for bias in biases:
                normal(bias, 0, 0.2)
        elif layer.kind == "norm":
            *_, weight, bias = layer.tensors
            normal(weight, 1 if weight.any() else 0.3, 0.1)
            normal(bias, 0, 0.2)
        else:
            (table,) = layer.tensors
            is_scale = table.squeeze().dim() < 2
            normal(table, 0.6 if is_scale else 0, 0.2)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def settle(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        size = inputs[0].transpose(0, 1).flatten(1).square().mean(1)
        size = size + 0.1 * size.mean()
        normal(norm.running_mean, 0, 0.2 * size.sqrt())
        normal(norm.running_var, size, 0.1 * size)

    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    # Position tables that a network keeps in eval mode are forgotten when it trains.
    network.train().eval()(images)
    for hook in hooks:
        hook.remove()


# ---- carrying weights over

Rule = Callable[[Layer], list[Layer]]


def rows(*shares: int, heads: int = 0, head_dim: int = 0) -> Rule:
    """Parts a fused matrix into matrices of these shares of its rows, one behind another; with
    `heads`, or as many as there are of `head_dim`, each head has these shares side by side."""

    def split(layer: Layer) -> list[Layer]:
        made = []
        for tensor in layer.tensors:
            count = heads or (tensor.shape[0] // sum(shares) // head_dim if head_dim else 1)
            unit = tensor.shape[0] // count // sum(shares)
            parts = tensor.unflatten(0, (count, -1)).split([unit * share for share in shares], 1)
            made.append([part.flatten(0, 1) for part in parts])
        return [Layer(layer.name, layer.kind, part) for part in zip(*made, strict=True)]

    return split


def offsets(layer: Layer) -> list[Layer]:
    """A table ((2 w - 1)^2, heads) by query minus key to (heads, 2 w - 1, 2 w - 1) by key minus
    query."""
    (table,) = layer.tensors
    side = round(table.shape[0] ** 0.5)
    return [Layer(layer.name, "table", (table.T.unflatten(1, (side, side)).flip(1, 2),))]


def by_distance(layer: Layer) -> list[Layer]:
    """A table (heads, pixels) of a square map to (heads, H, W)."""
    (table,) = layer.tensors
    return [Layer(layer.name, "table", (table.unflatten(1, (round(table.shape[1] ** 0.5), -1)),))]


def zero_bias(layer: Layer) -> list[Layer]:
    """Leaves the bias out, and has none there."""
    weight, bias = layer.tensors
    bias.detach().zero_()
    return [Layer(layer.name, layer.kind, (weight,))]


def placed_tokens(count: int) -> Rule:
    """Positions (1, T + pixels, C) to those of the map and of T class tokens, (C, T)."""

    def split(layer: Layer) -> list[Layer]:
        position = layer.tensors[0][0].T
        side = round((position.shape[1] - count) ** 0.5)
        parts = (position[:, count:].unflatten(1, (side, side)), position[:, :count])
        return [Layer(layer.name, "table", (part,)) for part in parts if part.numel()]

    return split


def each_token(layer: Layer) -> list[Layer]:
    """Tokens (C, T, 1) one by one."""
    return [Layer(layer.name, "table", (token,)) for token in layer.tensors[0].unbind(1)]


def ruled(layers: Sequence[Layer], rules: Mapping[str, Rule]) -> list[Layer]:
    """The layers, or what the first rule whose pattern the name has makes of them (views)."""
    made = []
    for layer in layers:
        rule = next((rule for pattern, rule in rules.items() if re.search(pattern, layer.name)), None)
        made += [layer] if rule is None else rule(layer)
    return made


def in_order(layers: Sequence[Layer], words: Sequence[str]) -> list[Layer]:
    """Sorts what follows one another in one module by which of `words` its name has."""
    if not words:
        return list(layers)
    pattern = re.compile(f"(.*?)({'|'.join(words)})")
    found: list[tuple[str, int, Layer]] = []
    for layer in layers:
        match = pattern.match(layer.name)
        found.append((match[1], words.index(match[2]), layer) if match else ("", 0, layer))
    made = []
    for _, run in groupby(found, key=lambda one: one[0]):
        made += [layer for _, _, layer in sorted(run, key=lambda one: one[1])]
    return made


@torch.no_grad()
def carry(theirs: Sequence[Layer], ours: Sequence[Layer]) -> None:
    """Copies each of `theirs` to the first of `ours` that is left and fits; ValueError where none
    does, and where some are left at the end."""
    left = list(ours)
    for layer in theirs:
        place = next((i for i, other in enumerate(left) if layer.fits(other)), None)
        if place is None:
            near = "\n  ".join(map(str, left[:8]))
            raise ValueError(f"no place for {layer}; the next ones are\n  {near}")
        for source, target in zip(layer.tensors, left.pop(place).tensors, strict=True):
            target.copy_(source.reshape(target.shape))
    if left:
        raise ValueError(f"nothing to copy to {', '.join(map(str, left))}")


# ---- which networks, and what is found


_QKV = {r"qkv\.weight": rows(1, 1, 1)}
_KV = {r"\.kv\.": rows(1, 1), r"\.tokens$": each_token}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preset and timm's network. `rules` (of its layers) and `ours` are by a part of a layer's
    name, `order` as in `in_order`."""

    family: str
    preset: str
    timm: str
    rules: Mapping[str, Rule] = field(default_factory=lambda: _QKV)
    ours: Mapping[str, Rule] = field(default_factory=lambda: _KV)
    order: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = True
    note: str = ""


_BRANCHES = ("large_conv", "small_conv", "conv_kxk", "conv_scale", "identity")
_SAME = "timm pads as TensorFlow unless told otherwise, as here"

def _levit(size: str, key_dim: int) -> Pair:
    return Pair(
        family="LeViT",
        preset=f"levit_{size}",
        timm=f"levit_{size}",
        rules={
            r"\.qkv\.": rows(1, 1, 2, head_dim=key_dim),
            r"\.kv\.": rows(1, 4, head_dim=key_dim),
            "attention_biases": by_distance,
        },
        ours={r"downsample.*\.kv\.": rows(1, 4), r"\.kv\.": rows(1, 2)},
        order=("attn_downsample.q", "attn_downsample.kv"),
    )


def _bottleneck(
    family: str,
    name: str,
    timm: str,
    rules: Mapping[str, Rule] | None = None,
    ours: Mapping[str, Rule] | None = None,
) -> Pair:
    """Of HaloNet, keys and values lie side by side in each of 8 heads, where no rule says
    otherwise."""
    return Pair(
        family=family,
        preset=name,
        timm=timm,
        rules={**_QKV, **(rules or {}), r"\.kv": rows(1, 1, heads=8)},
        ours={**(ours or {}), **_KV},
        order=("height_rel", "width_rel"),
    )


PAIRS = (
    Pair(family="ConvNeXt", preset="convnext_t", timm="convnext_tiny"),
    Pair(family="FocalNet", preset="focalnet_t_srf", timm="focalnet_tiny_srf"),
    Pair(family="FocalNet", preset="focalnet_t_lrf", timm="focalnet_tiny_lrf"),
    Pair(family="MLP-Mixer", preset="mixer_s_32", timm="mixer_s32_224", slow=False),
    Pair(family="ResMLP", preset="resmlp_12", timm="resmlp_12_224"),
    Pair(family="gMLP", preset="gmlp_ti", timm="gmlp_ti16_224", slow=False),
    Pair(
        family="CoAtNet",
        preset="coatnet_0_strided_depthwise",
        timm="coatnet_0_224",
        rules={r"qkv\.weight": rows(1, 1, 1, head_dim=32), "bias_table": offsets},
    ),
    Pair(
        family="CoAtNet",
        preset="coatnet_0",
        timm="coatnet_0_224",
        rules={r"qkv\.weight": rows(1, 1, 1, head_dim=32), "bias_table": offsets},
        options={"conv_stride_mode": "1x1"},
        note="stride in the expansion, which timm does when told",
    ),
    Pair(
        family="MaxViT",
        preset="maxvit_t",
        timm="maxvit_tiny_tf_224",
        options={"conv_padding": ""},
        note=_SAME,
    ),
    Pair(family="FastViT", preset="fastvit_t8", timm="fastvit_t8", order=_BRANCHES, slow=False),
    Pair(family="FastViT", preset="fastvit_sa12", timm="fastvit_sa12", order=_BRANCHES),
    Pair(
        family="MobileCLIP MCi",
        preset="mci0",
        timm="fastvit_mci0",
        order=_BRANCHES,
        options={"num_classes": 512},
        rules={**_QKV, r"head\.fc": zero_bias},
        note="timm's last layer has a bias, which is zero here",
    ),
    Pair(family="Next-ViT", preset="next_vit_s", timm="nextvit_small"),
    Pair(
        family="Swin",
        preset="swin_tiny_patch4_window7_224",
        timm="swin_tiny_patch4_window7_224",
        rules={**_QKV, "bias_table": offsets},
    ),
    Pair(
        family="ViT/DeiT",
        preset="deit_tiny_patch16_224",
        timm="deit_tiny_patch16_224",
        rules={**_QKV, "pos_embed": placed_tokens(1)},
        slow=False,
    ),
    Pair(
        family="ViT/DeiT",
        preset="deit_tiny_distilled_patch16_224",
        timm="deit_tiny_distilled_patch16_224",
        rules={**_QKV, "pos_embed": placed_tokens(2)},
    ),
    Pair(family="Visformer", preset="visformer_ti", timm="visformer_tiny"),
    Pair(family="MViTv2", preset="mvitv2_t", timm="mvitv2_tiny"),
    _levit("128s", 16),
    _levit("256", 32),
    Pair(family="EdgeNeXt", preset="edgenext_xxs", timm="edgenext_xx_small", slow=False),
    Pair(family="EdgeNeXt", preset="edgenext_b", timm="edgenext_base"),
    Pair(
        family="ConViT",
        preset="convit_tiny",
        timm="convit_tiny",
        rules={**_QKV, r"qk\.weight": rows(1, 1), "pos_embed": placed_tokens(0)},
    ),
    _bottleneck("BoTNet", "botnet26t_256_timm", "botnet26t_256"),
    _bottleneck("BoTNet", "botnet50ts_256_timm", "botnet50ts_256"),
    _bottleneck("HaloNet", "halonet_h1_timm", "halonet_h1"),
    _bottleneck("HaloNet", "halonet26t", "halonet26t"),
    _bottleneck(
        "HaloNet",
        "halonet50ts",
        "halonet50ts",
        {r"stages\.1\..*kv": rows(1, 1, heads=4)},
    ),
    _bottleneck("HaloNet", "sehalonet33ts", "sehalonet33ts"),
    _bottleneck(
        "HaloNet",
        "eca_halonext26ts",
        "eca_halonext26ts",
        {r"stages\.2.*kv": rows(1, 2, heads=8), r"stages\.3.*kv": rows(1, 4, heads=8)},
        {r"stages\.2.*kv": rows(1, 2), r"stages\.3.*kv": rows(1, 4)},
    ),
)


def compared(pair: Pair, seed: int = SEED) -> dict[str, Any]:
    """The largest differences of the logits of two images, in float32 and in float64."""
    import timm  # not needed by anything else here

    torch.manual_seed(seed)
    known = preset(pair.preset)
    side = known.genome.resolution
    theirs = timm.create_model(pair.timm, **pair.options).double().eval()
    ours = build(known.genome).double().eval()
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    layers = layers_of(theirs, side)
    randomise(theirs, layers, images, seed)
    theirs_ruled = ruled(in_order(layers, pair.order), pair.rules)
    carry(theirs_ruled, ruled(layers_of(ours, side), pair.ours))
    differences = {}
    with torch.no_grad():
        for dtype in (torch.float64, torch.float32):
            inputs = images.to(dtype)
            logits, wanted = ours.to(dtype)(inputs), theirs.to(dtype)(inputs)
            differences[dtype] = (logits - wanted).abs().max().item()
    return {
        "family": pair.family,
        "preset": pair.preset,
        "timm": pair.timm,
        "resolution": side,
        "params": sum(p.numel() for p in ours.parameters()),
        "largest_logit": wanted.abs().max().item(),
        "largest_difference": differences[torch.float32],
        "largest_difference_float64": differences[torch.float64],
        "note": pair.note,
    }
