"""Compares published networks, built from their genomes, with timm's: same weights, same logits.

    pip install timm
    python -m benchmarks.timm_logits          # all of them
    python -m benchmarks.timm_logits LeViT    # those of one family, or one preset
    python -m benchmarks.timm_logits --write  # all of them, into docs/timm.md and a result file

Every use of a parameter is noted while an image passes through either network. The layers of the
two lists, each in the order of first use, are then paired by kind and shape; `RULES` says where
timm keeps weights in another form (queries, keys and values in one matrix, a position table by rows
of offsets). What does not come out even is an error. Weights, scales and running statistics are
random: the zeros and ones of a fresh network would hide differences.
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

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from space.genome import Genome
from space.network import build
from space.presets.published import preset

TOLERANCE = 1e-4  # of logits of order 1, in float32
ROUNDING = 1e-7  # in float64; EdgeNeXt's sines, which timm has in float32, are 5e-9 off
SEED = 0
ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "timm.md"
RESULT = ROOT / "benchmarks" / "results" / "timm_logits.json"


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
    running statistics of the size that `images` make.

    A norm that starts at zero closes a residual branch and stays small, and running means do not
    take away what all pixels have in common: else a deep network blows rounding up a thousandfold.
    """
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
        normal(norm.get_buffer("running_mean"), 0, 0.2 * size.sqrt())
        normal(norm.get_buffer("running_var"), size, 0.1 * size)

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
        rule = next(
            (rule for pattern, rule in rules.items() if re.search(pattern, layer.name)), None
        )
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


# ---- how timm keeps the weights of a family


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What parts the layers of timm's network and of `ours`, by a pattern that is in their names;
    the first one counts. `order` as in `in_order`."""

    timm: Mapping[str, Rule] = field(default_factory=dict)
    ours: Mapping[str, Rule] = field(default_factory=dict)
    order: Sequence[str] = ()


# Behind those of the family. Ours have queries alone, and keys in front of values.
_COMMON = Rules(
    timm={r"qkv\.weight": rows(1, 1, 1)}, ours={r"\.kv\.": rows(1, 1), r"\.tokens$": each_token}
)
_BRANCHES = ("large_conv", "small_conv", "conv_kxk", "conv_scale", "identity")
_TABLES = ("height_rel", "width_rel")


def _levit(key_dim: int) -> Rules:
    return Rules(
        timm={
            r"\.qkv\.": rows(1, 1, 2, head_dim=key_dim),
            r"\.kv\.": rows(1, 4, head_dim=key_dim),
            "attention_biases": by_distance,
        },
        ours={r"downsample.*\.kv\.": rows(1, 4), r"\.kv\.": rows(1, 2)},
        order=("attn_downsample.q", "attn_downsample.kv"),
    )


RULES = {  # by family, or by preset where one of the family differs
    "CoAtNet": Rules(timm={r"qkv\.weight": rows(1, 1, 1, head_dim=32), "bias_table": offsets}),
    "Swin": Rules(timm={"bias_table": offsets}),
    "FastViT": Rules(order=_BRANCHES),
    "MobileCLIP MCi": Rules(timm={r"head\.fc": zero_bias}, order=_BRANCHES),
    "ViT/DeiT": Rules(timm={"pos_embed": placed_tokens(1)}),
    "deit_tiny_distilled_patch16_224": Rules(timm={"pos_embed": placed_tokens(2)}),
    "ConViT": Rules(timm={r"qk\.weight": rows(1, 1), "pos_embed": placed_tokens(0)}),
    "LeViT": _levit(32),
    "levit_128s": _levit(16),
    "BoTNet": Rules(order=_TABLES),
    "HaloNet": Rules(timm={r"\.kv": rows(1, 1, heads=8)}, order=_TABLES),
    "halonet50ts": Rules(
        timm={r"stages\.1\..*\.kv": rows(1, 1, heads=4), r"\.kv": rows(1, 1, heads=8)},
        order=_TABLES,
    ),
    "eca_halonext26ts": Rules(
        timm={
            r"stages\.2\..*\.kv": rows(1, 2, heads=8),
            r"stages\.3\..*\.kv": rows(1, 4, heads=8),
        },
        ours={r"stages\.2\..*\.kv": rows(1, 2), r"stages\.3\..*\.kv": rows(1, 4)},
        order=_TABLES,
    ),
}


# ---- which networks


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preset, and timm's network with the `options` that make it the same; `fast` ones are
    compared in every run of the tests."""

    family: str
    preset: str
    timm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    fast: bool = False

    @property
    def rules(self) -> Rules:
        own = RULES.get(self.preset) or RULES.get(self.family) or Rules()
        return Rules(  # its own come first, and count where both have the same pattern
            timm={**own.timm, **_COMMON.timm, **own.timm},
            ours={**own.ours, **_COMMON.ours, **own.ours},
            order=own.order,
        )


PAIRS = (
    Pair(family="ConvNeXt", preset="convnext_t", timm="convnext_tiny"),
    Pair(family="FocalNet", preset="focalnet_t_srf", timm="focalnet_tiny_srf"),
    Pair(family="FocalNet", preset="focalnet_t_lrf", timm="focalnet_tiny_lrf"),
    Pair(family="MLP-Mixer", preset="mixer_s_32", timm="mixer_s32_224"),
    Pair(family="ResMLP", preset="resmlp_12", timm="resmlp_12_224"),
    Pair(family="gMLP", preset="gmlp_ti", timm="gmlp_ti16_224", fast=True),
    Pair(family="CoAtNet", preset="coatnet_0_strided_depthwise", timm="coatnet_0_224"),
    Pair(
        family="CoAtNet",
        preset="coatnet_0",
        timm="coatnet_0_224",
        options={"conv_stride_mode": "1x1"},
        note="the paper's place of the stride; timm's own is that of the row above",
    ),
    Pair(
        family="MaxViT",
        preset="maxvit_t",
        timm="maxvit_tiny_tf_224",
        options={"conv_padding": ""},
        note="ours pads all around; timm pads as TensorFlow where not told otherwise, and so do "
        "the released weights: at stride 2 one pixel behind the map, none in front of it",
    ),
    Pair(family="Next-ViT", preset="next_vit_s", timm="nextvit_small"),
    Pair(family="LeViT", preset="levit_128s", timm="levit_128s", fast=True),
    Pair(family="LeViT", preset="levit_256", timm="levit_256"),
    Pair(
        family="EdgeNeXt",
        preset="edgenext_xxs",
        timm="edgenext_xx_small",
        note="timm has the sines of its positions in float32",
        fast=True,
    ),
    Pair(
        family="EdgeNeXt",
        preset="edgenext_b",
        timm="edgenext_base",
        note="timm has the sines of its positions in float32",
    ),
    Pair(family="Visformer", preset="visformer_ti", timm="visformer_tiny", fast=True),
    Pair(family="Visformer", preset="visformer_s", timm="visformer_small"),
    Pair(family="FastViT", preset="fastvit_t8", timm="fastvit_t8", fast=True),
    Pair(family="FastViT", preset="fastvit_sa12", timm="fastvit_sa12"),
    Pair(
        family="MobileCLIP MCi",
        preset="mci0",
        timm="fastvit_mci0",
        options={"num_classes": 512},
        note="timm's last layer has a bias, zero here",
    ),
    Pair(family="BoTNet", preset="botnet26t_256_timm", timm="botnet26t_256"),
    Pair(family="BoTNet", preset="botnet50ts_256_timm", timm="botnet50ts_256"),
    Pair(family="HaloNet", preset="halonet26t", timm="halonet26t"),
    Pair(family="HaloNet", preset="halonet50ts", timm="halonet50ts"),
    Pair(family="HaloNet", preset="sehalonet33ts", timm="sehalonet33ts"),
    Pair(family="HaloNet", preset="eca_halonext26ts", timm="eca_halonext26ts"),
    Pair(family="HaloNet", preset="halonet_h1_timm", timm="halonet_h1"),
    Pair(family="MViTv2", preset="mvitv2_t", timm="mvitv2_tiny"),
    Pair(family="ConViT", preset="convit_tiny", timm="convit_tiny"),
    Pair(
        family="ViT/DeiT",
        preset="deit_tiny_patch16_224",
        timm="deit_tiny_patch16_224",
        fast=True,
    ),
    Pair(
        family="ViT/DeiT",
        preset="deit_tiny_distilled_patch16_224",
        timm="deit_tiny_distilled_patch16_224",
    ),
    Pair(
        family="Swin",
        preset="swin_tiny_patch4_window7_224",
        timm="swin_tiny_patch4_window7_224",
    ),
)


# ---- what is found


def compared(pair: Pair, genome: Genome | None = None, seed: int = SEED) -> dict[str, Any]:
    """The largest differences of the logits of two images, in float32 and in float64; `genome` in
    place of the preset's, with layers of the same shapes."""
    torch.manual_seed(seed)
    genome = genome or preset(pair.preset).genome
    side, rules = genome.resolution, pair.rules
    theirs = timm.create_model(pair.timm, **pair.options).double().eval()
    ours = build(genome).double().eval()
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    layers = layers_of(theirs, side)
    randomise(theirs, layers, images, seed)
    parted = ruled(in_order(layers, rules.order), rules.timm)
    carry(parted, ruled(layers_of(ours, side), rules.ours))
    differences = {}
    with torch.no_grad():
        for dtype in (torch.float64, torch.float32):
            inputs = images.to(dtype)
            logits, wanted = ours.to(dtype)(inputs), theirs.to(dtype)(inputs)
            differences[dtype] = (logits - wanted).abs().max().item()
    single, double = differences[torch.float32], differences[torch.float64]
    return {
        "family": pair.family,
        "preset": pair.preset,
        "timm": pair.timm,
        "options": dict(pair.options),
        "resolution": side,
        "params": sum(parameter.numel() for parameter in ours.parameters()),
        "largest_logit": wanted.abs().max().item(),
        "max_abs_float32": single,
        "max_abs_float64": double,
        "passed": single <= TOLERANCE and double <= ROUNDING,
        "note": pair.note,
    }


def document(result: Mapping[str, Any]) -> str:
    """The page in docs/."""
    lines = [
        "| Family | Preset | timm | Parameters | Pixels | Largest logit | float32 | float64 | |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["networks"]:
        options = ", ".join(f"{name}={value!r}" for name, value in row["options"].items())
        cells = [
            row["family"],
            f"`{row['preset']}`",
            f"`{row['timm']}`" + (f" with `{options}`" if options else ""),
            f"{row['params']:,}",
            str(row["resolution"]),
            f"{row['largest_logit']:.1f}",
            *(
                f"{row[key]:.1e}" if row[key] else "0"
                for key in ("max_abs_float32", "max_abs_float64")
            ),
            row["note"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    families = len({row["family"] for row in result["networks"]})
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    table = "\n".join(lines)
    return f"""# Same weights, same logits

The presets of {families} families that [timm](https://github.com/huggingface/pytorch-image-models)
has too, against timm's networks: random weights are copied from these, and both see the same two
images, in evaluation mode. The table has the largest difference of any logit. In float32 it must
not pass {TOLERANCE:g}; in float64, where little rounding is left and even another epsilon in a
norm shows, {ROUNDING:g}.

Scales, biases, position tables, layer scales and running statistics are random as well, so that no
zero or one of a fresh network hides a difference. Counts of parameters alone would not tell a wrong
activation, padding, epsilon or order of layers.

{table}

Made on the {result["device"]} with {versions}, seed {result["seed"]}, by:

```sh
pip install timm
python -m benchmarks.timm_logits --write
```

[benchmarks/timm_logits.py](../benchmarks/timm_logits.py) says how layers are paired. timm is no
dependency: without it the tests of this are left out.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="families or presets; all, if none is given")
    parser.add_argument("--write", action="store_true", help="the document and the result file")
    options = parser.parse_args()
    if options.names and options.write:
        parser.error("--write is for all networks; leave the names out")
    unknown = set(options.names) - {name for pair in PAIRS for name in (pair.family, pair.preset)}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    networks = []
    for pair in PAIRS:
        if not options.names or {pair.family, pair.preset} & set(options.names):
            networks.append(row := compared(pair))
            print(
                f"{'same' if row['passed'] else 'DIFFERS':8}{pair.preset:34}"
                f"float32 {row['max_abs_float32']:.1e}  float64 {row['max_abs_float64']:.1e}",
                flush=True,
            )
    result = {
        "benchmark": "timm_logits",
        "command": " ".join(["python -m benchmarks.timm_logits", *sys.argv[1:]]),
        "device": "CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "seed": SEED,
        "networks": networks,
        "passed": all(row["passed"] for row in networks),
    }
    if options.write:
        DOCUMENT.write_text(document(result), encoding="utf-8")
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
