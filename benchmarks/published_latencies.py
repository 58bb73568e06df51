"""Latencies that others measured, as rows that a predictor takes: parts, codes and numbers.

Each reader takes a table of `TABLES` as CSV, and says how a network of it is a sum of parts. What
is known of a published space beyond its table (widths, strides, how a network is run) is said, and
checked, here.

Shapes: N rows, V variables, M numbers, P parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluator.latency_regression import Features

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Form:
    """One way to write rows as sums: parts, and the parts of each row, (N, ...), -1 for none."""

    parts: Features
    rows: Integers


@dataclass(frozen=True)
class Device:
    """Milliseconds of rows, NaN where nobody measured. `stated` are relative deviations of one
    row's repeated runs; `only` are the rows that count, all if None."""

    ms: Floats
    stated: Floats | None = None
    only: NDArray[np.bool_] | None = None

    def rows(self) -> Integers:
        known = np.isfinite(self.ms)
        return np.flatnonzero(known if self.only is None else known & self.only)


@dataclass(frozen=True)
class Table:
    """`codes` (N, V) and `numbers` (N, M) are what other predictors see; `size` (N,) is MACs, or
    what comes nearest. Where a row is one part, `forms` has one form with rows (N, 1). `repeats`
    (R, 2) are rows that are the same network, or do the same work in another order."""

    name: str
    title: str
    source: str
    licence: str
    codes: Integers
    numbers: Floats
    size: Floats
    forms: Sequence[Form]
    devices: Mapping[str, Device]
    repeats: Integers = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    single: bool = False


# ---- MnasNet-like networks (Accel-NASBench)

# Published in configurationspaces/searchspaces.py of github.com/afzalxo/Accel-NASBench; that the
# stem, the last layers and the images are those of EfficientNet-B0 at 224 pixels (arXiv 1905.11946)
# follows from parameters and MACs, which come out exactly for all 5,138 rows.
STRIDES = (1, 2, 2, 2, 1, 2, 1)
WIDTHS = (32, 16, 24, 40, 80, 112, 192, 320)  # into the first stage, and out of each
SIDE, HEAD, CLASSES = 112, 1280, 1000
# tpuv3 was measured in several runs: of 1,273 networks that are fast on tpuv2, all but one before
# row 3,719 are faster than 1,480 images/s, and all from it on are slower. From row 4,079 on the
# networks are drawn from a larger space, with four layers in stage 5. Ids.
RUNS = {"first run": (0, 3719), "last run": (4079, 10**6)}


@dataclass(frozen=True)
class MBConv:
    """1x1 to `expand` times the channels, depthwise k x k, squeeze-excite of a quarter of the
    input's channels, 1x1; costs as properties. `expand` 1 has no first convolution."""

    cin: int
    cout: int
    expand: int
    kernel: int
    stride: int
    squeeze: int
    side: int

    @property
    def hidden(self) -> int:
        return self.cin * self.expand

    @property
    def out_side(self) -> int:
        return -(-self.side // self.stride)

    @property
    def expanded(self) -> int:
        """Elements behind the first convolution, 0 where there is none."""
        return self.hidden * self.side**2 if self.expand > 1 else 0

    @property
    def inner(self) -> int:
        return self.hidden * self.out_side**2

    @property
    def outer(self) -> int:
        return self.cout * self.out_side**2

    @property
    def pointwise_macs(self) -> int:
        return self.expanded * self.cin + self.outer * self.hidden

    @property
    def depthwise_macs(self) -> int:
        return self.inner * self.kernel**2

    @property
    def squeezed(self) -> int:
        return self.squeeze * max(1, self.cin // 4)

    @property
    def params(self) -> int:
        first = (self.cin + 2) * self.hidden if self.expand > 1 else 0
        depthwise = (self.kernel**2 + 2) * self.hidden
        gate = 2 * self.hidden * self.squeezed + self.squeeze * (self.hidden + self.squeezed)
        return first + depthwise + gate + (self.hidden + 2) * self.cout

    @property
    def published_macs(self) -> int:
        """As the table counts: 4 for each element that is normalised, and squeeze-excite's mean
        and gate, beside the convolutions."""
        gate = 2 * self.hidden * self.squeezed
        gate += self.squeeze * (self.inner + self.hidden)
        normalised = 4 * (self.expanded + self.inner + self.outer)
        return self.pointwise_macs + self.depthwise_macs + gate + normalised


def blocks(row: Mapping[str, int]) -> Iterator[tuple[int, MBConv]]:
    """The blocks of one row, each with its stage."""
    side = SIDE
    for stage, stride in enumerate(STRIDES):
        expand, kernel, layers, squeeze = (int(row[f"b{stage}_{g}"]) for g in ("e", "k", "l", "se"))
        for layer in range(layers):
            first = layer == 0
            cin, cout = WIDTHS[stage + (not first)], WIDTHS[stage + 1]
            block = MBConv(cin, cout, expand, kernel, stride if first else 1, squeeze, side)
            side = block.out_side
            yield stage, block


def published_counts(row: Mapping[str, int]) -> tuple[int, int]:
    """MACs as the table counts them, and parameters, of one row."""
    found = [block for _, block in blocks(row)]
    pixels = found[-1].out_side ** 2
    stem, last = 32 * SIDE**2, WIDTHS[-1] * HEAD
    macs = 27 * stem + 4 * stem + last * pixels + 4 * HEAD * pixels + HEAD * (pixels + 1)
    params = (27 + 2) * 32 + last + 2 * HEAD + (HEAD + 1) * CLASSES
    return (
        macs + HEAD * CLASSES + sum(block.published_macs for block in found),
        params + sum(block.params for block in found),
    )


def accel(folder: Path) -> Table:
    data = pd.read_csv(folder / "accel_nasbench.csv.gz")
    names = [f"b{stage}_{gene}" for stage in range(7) for gene in ("e", "k", "l", "se")]
    known: dict[tuple[int, MBConv], int] = {}
    rows = [
        [known.setdefault(placed, len(known)) for placed in blocks(row)]
        for row in data[names].to_dict("records")
    ]
    parts = Features.of(
        kinds=np.zeros(len(known)),
        settings=[
            [stage, b.expand, b.kernel, b.squeeze, b.stride, b.cin == b.cout and b.stride == 1]
            for stage, b in known
        ],
        amounts=[
            [
                b.pointwise_macs,
                b.depthwise_macs,
                b.cin * b.side**2 + b.expanded + b.inner + b.outer,
                b.params,
                b.squeeze * b.inner,
            ]
            for _, b in known
        ],
        sizes=[[b.cin, b.hidden, b.cout, b.out_side] for _, b in known],
    )
    keys = data[names].apply(tuple, axis=1)
    counts = data[["macs_m", "params_m"]].to_numpy()
    return Table(
        name="accel_nasbench",
        title="MnasNet-like networks",
        source="github.com/afzalxo/Accel-NASBench, raw records",
        licence="Apache-2.0",
        codes=data[names].to_numpy(),
        numbers=np.log(counts),
        size=counts[:, 0],
        forms=[Form(parts, padded(rows))],
        devices=_accel_devices(data),
        repeats=_pairs(keys),
    )


def _accel_devices(data: pd.DataFrame) -> dict[str, Device]:
    devices = {}
    for name in ("a100", "3090", "tpuv2", "tpuv3", "zcu102", "vck190"):
        speed = data[f"throughput_{name}"].to_numpy()
        stated = data.get(f"throughput_{name}_std")
        share = None if stated is None else stated.to_numpy() / speed
        devices[f"{name}, throughput"] = Device(1000 / speed, share)
        if name == "tpuv3":
            for run, (begin, end) in RUNS.items():
                only = data["id"].between(begin, end - 1).to_numpy()
                devices[f"tpuv3, throughput, {run}"] = Device(1000 / speed, share, only)
    for name in ("zcu102", "vck190"):
        devices[f"{name}, latency"] = Device(data[f"latency_{name}"].to_numpy())
    return devices


def check_counts(folder: Path) -> dict[str, int]:
    """How many rows of the table have exactly the MACs and parameters that `blocks` gives."""
    data = pd.read_csv(folder / "accel_nasbench.csv.gz")
    found = np.array([published_counts(row) for row in data.to_dict("records")])
    published = np.round(data[["macs_m", "params_m"]].to_numpy() * 1e6).astype(np.int64)
    macs, params = (found == published).sum(axis=0).tolist()
    return {"rows": len(data), "macs": macs, "params": params}


# ---- graph networks (NAS-Bench-Graph)

LINKS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
GRAPH_OPERATORS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "kgnn", "fc", "skip")
SKIP = 8
# These look at the edges before they compute, and make the host wait for the device. It follows
# from the latencies: of a network without them only the launches seem to be counted (on cs a chain
# of four fc takes 1.1 ms, with one gin in place of one 1.4, with one gcn 6.5), and with one of them
# all work that comes before it.
WAITING = (0, 1, 3)
TASKS = ("cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv")
# What tells parts apart. In front of the colon what has a roofline of its own.
GRAPH_FORMS = (
    "operator waited : operator waited root after place",
    "operator waited root : operator waited root leaf after place",
    "operator : operator waited root leaf after place",
    "operator root : operator waited root leaf after",
)


def graph_nodes(link: int, operators: Sequence[int]) -> list[dict[str, int]]:
    """What may matter of each of the four nodes. `waited`: whether a later operator makes the host
    wait, so that this one's work is counted; `after`: whether an earlier one does; `root`: whether
    the input is that of the network, `leaf`: whether the output is."""
    inputs = [int(digit) for digit in LINKS[link]]
    nodes = []
    for place, (operator, source) in enumerate(zip(operators, inputs, strict=True), start=1):
        while source and operators[source - 1] == SKIP:
            source = inputs[source - 1]
        nodes.append(
            {
                "operator": operator,
                "waited": int(any(other in WAITING for other in operators[place:])),
                "after": int(any(other in WAITING for other in operators[: place - 1])),
                "root": int(source == 0),
                "leaf": int(place not in inputs),
                "place": place,
            }
        )
    return nodes


def graph_form(form: str, networks: Sequence[Sequence[dict[str, int]]]) -> Form:
    kinds, settings = (words.split() for words in form.split(":"))
    known: dict[tuple[int, ...], int] = {}
    codes: dict[tuple[int, ...], int] = {}
    rows = []
    for nodes in networks:
        row = []
        for node in nodes:
            kind = codes.setdefault(tuple(node[word] for word in kinds), len(codes))
            part = (kind, *(node[word] for word in settings))
            row.append(known.setdefault(part, len(known)))
        rows.append(row)
    parts = np.array(list(known))
    return Form(Features.of(parts[:, 0], parts[:, 1:]), np.array(rows))


def graph(folder: Path) -> Table:
    data = pd.read_csv(folder / "nasbench_graph.csv.gz")
    codes = data[["link", "op1", "op2", "op3", "op4"]].to_numpy()
    networks = [graph_nodes(row[0], row[1:]) for row in codes.tolist()]
    params = data[[f"{task}_params_m" for task in TASKS]].to_numpy()
    return Table(
        name="nasbench_graph",
        title="graph networks",
        source="github.com/THUMNLab/NAS-Bench-Graph, light version",
        licence="Apache-2.0",
        codes=codes,
        numbers=np.log(params),
        size=params[:, 0],
        forms=[graph_form(form, networks) for form in GRAPH_FORMS],
        devices={task: Device(1000 * data[f"{task}_latency_s"].to_numpy()) for task in TASKS},
        repeats=exchanged(codes),
    )


def exchanged(codes: Integers) -> Integers:
    """(R, 2): chains whose second and third operator are exchanged, where neither makes the host
    wait: the same operators with inputs of the same shape, in another order."""
    chain = {tuple(row[1:]): i for i, row in enumerate(codes.tolist()) if LINKS[row[0]] == "0123"}
    pairs = [
        (i, chain[a, c, b, d])
        for (a, b, c, d), i in chain.items()
        if b < c and not {b, c, SKIP} & {*WAITING} and SKIP not in (b, c) and (a, c, b, d) in chain
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


# ---- single convolutions, blocks of a phone, models of timm

USUAL = 10


def convolutions(folder: Path) -> Table:
    data = pd.read_csv(folder / "v100_conv_latency.csv.gz")
    depthwise = (data["kind"] == "D").to_numpy()
    batch, cin, cout, kernel = (data[c].to_numpy(float) for c in ("batch", "cin", "cout", "kernel"))
    side = np.ceil(data["h"].to_numpy() / data["stride"].to_numpy())
    taps = np.where(depthwise, 1, cin) * kernel**2
    pixels = batch * side**2
    macs = pixels * cout * taps
    moved = np.stack([batch * cin * data["h"].to_numpy() ** 2, pixels * cout, cout * taps], 1)
    # Tiles of 128 pixels and 64 channels, as many at once as a V100 has processors (80).
    waves = np.ceil(np.ceil(pixels / 128) * np.ceil(cout / 64) / 80) * taps
    amounts = np.concatenate([macs[:, None], moved, waves[:, None], taps[:, None]], axis=1)
    sizes = np.stack([batch, cin, cout, side, kernel], axis=1)
    settings = data[["kernel", "stride", "fused_add"]].to_numpy()
    narrow = np.stack([cin % 8 != 0, cout % 16 != 0, cin % 32 != 0], axis=1)
    parts = Features.of(depthwise, np.concatenate([settings, narrow], axis=1), amounts, sizes)
    codes = np.concatenate([depthwise[:, None], settings, narrow], axis=1).astype(np.int64)
    names = {"fp32": "fp32_ms", "fp16": "fp16_ms", "int8": "int8_ms"}
    return Table(
        name="v100_conv_latency",
        title="single convolutions on a V100, TensorRT",
        source="github.com/alibaba/lightweight-neural-architecture-search, op_profiler/V100",
        licence="Apache-2.0",
        codes=codes,
        numbers=np.log(np.concatenate([sizes, amounts], axis=1)),
        size=macs,
        forms=[Form(parts, np.arange(len(data))[:, None])],
        devices={name: Device(data[column].to_numpy()) for name, column in names.items()},
        single=True,
    )


def pixel(folder: Path) -> Table:
    data = pd.read_csv(folder / "proxyless_pixel_lut.csv.gz")
    data = data[data["block"] == "mbconv"].astype(
        dict.fromkeys(("in_hw", "cin", "out_hw", "cout", "expand", "kernel", "stride"), int)
    )
    found = [
        MBConv(r.cin, r.cout, r.expand, r.kernel, r.stride, 0, r.in_hw)
        for r in data.itertuples(index=False)
    ]
    moved = [b.cin * b.side**2 + b.expanded + b.inner + b.outer for b in found]
    amounts = np.array(
        [[b.pointwise_macs, b.depthwise_macs, m] for b, m in zip(found, moved, strict=True)], float
    )
    sizes = np.array([[b.cin, b.cout, b.side, b.out_side] for b in found], float)
    codes = data[["expand", "kernel", "stride", "idskip"]].to_numpy().astype(np.int64)
    ms = data["mean_ms"].to_numpy()
    error = np.sqrt(data["var_ms2"] / data["count"]).to_numpy() / ms
    return Table(
        name="proxyless_pixel_lut",
        title="blocks of ProxylessNAS on a Pixel phone",
        source="github.com/itouchz/Neural-Predictor-Tensorflow, after ProxylessNAS",
        licence="MIT",
        codes=codes,
        numbers=np.log(np.concatenate([sizes, amounts], axis=1)),
        size=amounts[:, :2].sum(axis=1),
        forms=[
            Form(
                Features.of(np.zeros(len(data)), codes, amounts, sizes),
                np.arange(len(data))[:, None],
            )
        ],
        devices={"Pixel": Device(ms, error)},
        single=True,
    )


def timm(folder: Path) -> Table:
    """One row for each architecture and resolution: others have the same speed to the last digit,
    so it was measured once."""
    data = pd.read_csv(folder / "timm_imagenet.csv.gz")
    data = data.drop_duplicates(["arch", "img_size"]).reset_index(drop=True)
    names = data["arch"].str.split("_")
    family = pd.factorize(names.str[0].str.replace(r"\d+.*", "", regex=True))[0]
    member = pd.factorize(names.str[:2].str.join("_"))[0]
    amounts = data[["gmacs", "macts_m", "param_count"]].to_numpy()
    sizes = data[["img_size"]].to_numpy(float)
    codes = np.concatenate([np.stack([family, member], axis=1), usual_words(data["arch"])], axis=1)
    parts = Features.of(np.zeros(len(data)), codes, amounts, sizes)
    speeds = {
        "RTX 3090, eager": "ips_rtx3090_amp_pt24",
        "RTX 4090, eager": "ips_rtx4090_amp_pt24",
        "RTX 4090, compiled": "ips_rtx4090_amp_dynamo_pt24",
        "RTX 5090, eager": "ips_rtx5090_amp_pt29",
        "RTX 5090, compiled": "ips_rtx5090_amp_dynamo_pt29",
        "i9-10940X, batch 1": "ips_i9_10940x_fp32_b1_pt24",
    }
    return Table(
        name="timm_imagenet",
        title="models of timm",
        source="github.com/huggingface/pytorch-image-models, results",
        licence="Apache-2.0",
        codes=codes,
        numbers=np.log(np.concatenate([amounts, sizes], axis=1) + 1e-3),
        size=amounts[:, 0],
        forms=[Form(parts, np.arange(len(data))[:, None])],
        devices={name: Device(1000 / data[column].to_numpy()) for name, column in speeds.items()},
        single=True,
    )


def usual_words(names: Sequence[str]) -> Integers:
    """(N, W): which of the words that at least `USUAL` names have each has; words are letters."""
    words = [set(re.findall("[a-z]+", name)) for name in names]
    many = Counter(word for found in words for word in found)
    usual = sorted(word for word, count in many.items() if count >= USUAL)
    return np.array([[word in found for word in usual] for found in words], np.int64)


TABLES: Mapping[str, Callable[[Path], Table]] = {
    "accel_nasbench": accel,
    "nasbench_graph": graph,
    "v100_conv_latency": convolutions,
    "timm_imagenet": timm,
    "proxyless_pixel_lut": pixel,
}


def padded(rows: Sequence[Sequence[int]]) -> Integers:
    """(N, longest), with -1 behind the end of each row."""
    found = np.full((len(rows), max(map(len, rows))), -1)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return found


def _pairs(keys: pd.Series) -> Integers:
    """(R, 2): rows with equal keys, the first and each later one."""
    pairs = [
        (places[0], other) for places in keys.groupby(keys).indices.values() for other in places[1:]
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)
