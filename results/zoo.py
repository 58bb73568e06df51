"""The table of published networks: what each costs here, on reference code, and in print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from results.export import count_macs
from results.run_folder import write_text
from space.budget import Budget, quantity
from space.cost import Cost
from space.genes import part_to_json
from space.genome import Genome, Placed
from space.network import build
from space.presets import Preset, presets
from space.presets.published import figures
from space.repeats import repeats

KINDS = ("convolution", "attention", "hybrid", "mlp", "modulation", "macro")
PAGE = "docs/zoo.md"
COMMAND = f"python run_search.py zoo --markdown {PAGE}"

PARAMS_TOLERANCE = 0.03  # of a size that is only printed, in millions and rounded
MACS_TOLERANCE = 1e-3  # of a reference count, which is kept in 1e9 MACs and rounded

# Figures that are not counts of the network as its authors define it, and why: preset -> figure
# ("published parameters", "reference parameters" or "reference MACs") -> reason.
EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "cmt_s": {
        "published parameters": "the size printed for S is not that of the released code, with "
        "which its MACs and the sizes printed for Ti, XS and B agree",
    },
    "fcvit_s12_called_b12_in_the_repo": {
        "published parameters": "the sizes printed for this family are in units of 2**20 "
        "parameters, as those of tiny, S24 and S48 show",
    },
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A preset and what its genome costs; `problem` is what a check of it has found."""

    preset: Preset
    cost: Cost
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Our count beside the one that it is held against: that of reference code, or else the one
    in print. `kind` is "reference" or "published", None where there is neither."""

    ours: int
    theirs: int | None
    kind: str | None

    @property
    def difference(self) -> int | None:
        return None if self.theirs is None else self.ours - self.theirs

    @property
    def share(self) -> float | None:
        return None if self.theirs is None else self.ours / self.theirs - 1


def select(
    known: Mapping[str, Preset], *, budget: Budget | None = None, kind: str | None = None
) -> list[Entry]:
    """The presets within a budget and of a kind, system by system in the order of the figures."""
    order = {
        (system, row["variant"], row["resolution"]): (i, j)
        for i, (system, facts) in enumerate(figures().items())
        for j, row in enumerate(facts["rows"])
    }

    def place(preset: Preset) -> tuple[int, int]:
        at = (preset.system, preset.variant)
        return order.get((*at, preset.genome.resolution)) or order[*at, None]

    chosen = [p for p in known.values() if kind in (None, p.kind)]
    entries = [Entry(p, p.genome.cost()) for p in sorted(chosen, key=place)]
    return [e for e in entries if budget is None or budget.allows(e.cost)]


def check(entry: Entry) -> str | None:
    """What is wrong with a preset when it is built and traced, which takes no memory; None where
    all is as it is said to be."""
    genome = entry.preset.genome
    try:
        with torch.device("meta"):
            network = build(genome).requires_grad_(False)
        params = sum(p.numel() for p in network.parameters())
        macs = count_macs(network, genome)
    except (ValueError, RuntimeError, TypeError) as error:
        return f"cannot be built: {error}"
    for name, found, said in (
        ("parameters", params, entry.cost.params),
        ("MACs", macs, entry.cost.macs),
    ):
        if found != said:
            return f"{found:,} {name} in the network, but {said:,} by formula"
    return "; ".join(_off(entry)) or None


def _off(entry: Entry) -> list[str]:
    """The figures that a preset does not meet and that are no exception."""
    found = []
    params, macs = compare_params(entry), compare_macs(entry)
    allowed = PARAMS_TOLERANCE if params.kind == "published" else 0
    if params.share is not None and abs(params.share) > allowed:
        found.append((f"{params.kind} parameters", params))
    if macs.kind == "reference" and abs(macs.share or 0) > MACS_TOLERANCE:
        found.append(("reference MACs", macs))
    return [
        f"{compared.ours:,} instead of {compared.theirs:,} {what}"
        for what, compared in found
        if what not in EXCEPTIONS.get(entry.preset.name, {})
    ]


# ---- one variant as plain data


def compare_params(entry: Entry) -> Compared:
    return _compared(entry.cost.params, reference(entry.preset), printed(entry.preset), "params")


def compare_macs(entry: Entry) -> Compared:
    return _compared(entry.cost.macs, reference(entry.preset), printed(entry.preset), "macs")


def _compared(
    ours: int, counted: Mapping[str, Any], print_: Mapping[str, Any], figure: str
) -> Compared:
    for kind, values in (("reference", counted), ("published", print_)):
        if values[figure] is not None:
            return Compared(ours, values[figure], kind)
    return Compared(ours, None, None)


def reference(preset: Preset) -> dict[str, int | None]:
    """Counts of reference code."""
    return {"params": preset.params, "macs": _scaled(preset.gmacs, 1e9)}


def printed(preset: Preset) -> dict[str, int | float | None]:
    """What its authors print: counts, and top-1 in percent."""
    return {
        "params": _scaled(preset.published_params_m, 1e6),
        "macs": _scaled(preset.published_gmacs, 1e9),
        "top1": preset.top1,
    }


def _scaled(value: float | None, unit: float) -> int | None:
    return None if value is None else round(value * unit)


def plain(entry: Entry) -> dict[str, Any]:
    """The variant for `--json`: parameters and MACs as counts, for one image at `resolution`.

    `difference` is our count less that of reference code, or less the one in print where there is
    no other; `against` says which.
    """
    preset = entry.preset
    params, macs = compare_params(entry), compare_macs(entry)
    return {
        "system": preset.system,
        "variant": preset.variant,
        "name": preset.name,
        "kind": preset.kind,
        "resolution": preset.genome.resolution,
        "params": entry.cost.params,
        "macs": entry.cost.macs,
        "published": printed(preset),
        "reference": reference(preset),
        "difference": {"params": params.difference, "macs": macs.difference},
        "against": {"params": params.kind, "macs": macs.kind},
        "reconstruction": preset.reconstruction,
        "source": preset.source,
    }


# ---- the table in a terminal

COLUMNS = ("name", "kind", "px", "parameters", "MACs", "published", "difference", "top-1", "source")
LEGEND = (
    "Difference: from the parameters and MACs of reference code, or with ~ from those in print. "
    "1 MAC is what most papers call 1 FLOP. Top-1: published, percent of ImageNet-1k."
)
RECONSTRUCTED = "* reconstructed from the paper, where neither code nor all sizes could be had."


def cells(entry: Entry) -> list[str]:
    """A line of the table."""
    preset, figures_ = entry.preset, printed(entry.preset)
    published = [figures_["params"], figures_["macs"]]
    return [
        preset.name + "*" * preset.reconstruction,
        preset.kind,
        str(preset.genome.resolution),
        f"{entry.cost.params:,}",
        quantity(entry.cost.macs),
        ", ".join("-" if value is None else quantity(value) for value in published),
        f"{_off_by(compare_params(entry))}, {_off_by(compare_macs(entry))}",
        "-" if preset.top1 is None else f"{preset.top1:g}",
        preset.source,
    ]


def _off_by(compared: Compared) -> str:
    """`0`, `+0.02%`, `~ -1.3%`, `-`."""
    if compared.share is None:
        return "-"
    mark = "~ " if compared.kind == "published" else ""
    return mark + ("0" if compared.ours == compared.theirs else percent(compared.share))


def percent(share: float) -> str:
    """`+0.02%`; `0.00%` without a sign."""
    text = f"{100 * share:+.2f}%"
    return text[1:] if float(text[:-1]) == 0 else text


def facts(entry: Entry) -> list[str]:
    """What is known of a preset, for a person."""
    preset, cost = entry.preset, entry.cost
    costs = (
        f"{cost.params:,} parameters, {quantity(cost.macs)} MACs (= {quantity(2 * cost.macs)} "
        f"FLOPs at 2 each) at {preset.genome.resolution} pixels"
    )
    known = [f"{preset.system}: {preset.variant} ({preset.name}), {preset.kind}", costs]
    for title, values in (
        ("reference code", reference(preset)),
        ("published", printed(preset)),
    ):
        texts = [
            f"{what} {value:g}%" if what == "top1" else f"{quantity(value)} {what}"
            for what, value in values.items()
            if value is not None
        ]
        if texts:
            known.append(f"{title}: {', '.join(texts)}")
    known.append(f"source: {preset.source}" + "; reconstructed" * preset.reconstruction)
    return known


ANATOMY = ("", "times", "part", "channels", "map", "MACs", "params", "genes")


def anatomy(genome: Genome) -> list[list[str]]:
    """The network from the image down: a line for each part of it, where what is repeated in a
    stage stands once; MACs and parameters are those of all repetitions."""
    lines = []
    for scope, placed in groupby(genome.parts(), key=lambda p: ".".join(p.path.split(".")[:2])):
        parts = list(placed)
        title = f"stage {int(scope.split('.')[1]) + 1}" if "." in scope else scope
        if parts[0].path.endswith("downsample"):
            lines.append(_line(title, "", parts[:1]))
            parts, title = parts[1:], ""
        start = 0
        for unit, times in repeats([one.part for one in parts]):
            for i in range(len(unit)):
                same = parts[start + i : start + times * len(unit) : len(unit)]
                lines.append(_line(title, _bracket(i, len(unit), times), same))
                title = ""
            start += times * len(unit)
    return lines


def _bracket(i: int, length: int, times: int) -> str:
    """`3`, or for a unit of several parts `3 ┌`, `│`, `└`."""
    if times == 1:
        return ""
    if length == 1:
        return str(times)
    return f"{times} ┌" if i == 0 else "└" if i == length - 1 else "│"


def _line(title: str, times: str, same: Sequence[Placed]) -> list[str]:
    site, part = same[0].site, same[0].part
    total = sum((one.cost() for one in same), Cost())
    genes = part_to_json(part, brief=True)
    head = part.category == "head"
    return [
        title,
        times,
        part.kind,
        str(site.channels)
        if site.channels == site.in_channels
        else f"{site.in_channels} -> {site.channels}",
        "" if head else f"{site.out_height} x {site.out_width}",
        quantity(total.macs),
        quantity(total.params),
        ", ".join(f"{name} {_gene(value)}" for name, value in genes.items() if name != "kind"),
    ]


def _gene(value: Any) -> str:
    """Values as a person writes them: `yes`, `none`, `0.5`, `3:2:0.5`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(
            ":".join(map(_gene, v)) if isinstance(v, tuple) else _gene(v) for v in value
        )
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# ---- the page in the documentation

_START = f"""\
# Published networks

{{count}} variants of {{systems}} systems, each written as a genome that Chimera builds, counts,
searches around and exports like any other. `zoo show NAME` draws one, `zoo export NAME` writes it
as plain PyTorch.

This page is made by `{COMMAND}`, and a test holds that it is up to date.

- *Parameters* and *MACs* are those of our networks, for one image of so many pixels. 1 MAC is one
  multiply-add, which most papers call a FLOP. Convolutions, linear layers and matrix products
  count.
- *Reference* is the same count on code that its authors or timm have released; it is empty where
  there was none to count. *Off* is ours less the reference.
- *Published* is what is printed in the paper or beside the code. Authors count MACs in different
  ways, and round.
- *Top-1* is in percent on ImageNet-1k, as published, for networks trained without other data. It
  was reached by different recipes.
- \\* marks a reconstruction: neither code nor all sizes could be had, and the network follows the
  published idea.
"""

_HEAD = """\
| variant | name | pixels | parameters | reference | off | 1e9 MACs | reference | off | published \
parameters, 1e6 | published MACs, 1e9 | top-1 |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def markdown(entries: Iterable[Entry]) -> str:
    """The page of all presets, `docs/zoo.md`."""
    entries = list(entries)
    systems = Counter(entry.preset.system for entry in entries)
    sections = [_START.format(count=len(entries), systems=len(systems))]
    for system, group in groupby(entries, key=lambda entry: entry.preset.system):
        rows = list(group)
        sources = sorted({_plain(row.preset.source) for row in rows})
        table = "\n".join([_HEAD, *map(_markdown_row, rows)])
        about = f"Kind: {rows[0].preset.kind}. Source: {'; '.join(sources)}."
        sections.append(f"## {_plain(system)}\n\n{about}\n\n{table}\n")
    excepted = [
        f"- {_plain(entry.preset.variant)}, {figure}: {_plain(reason)}."
        for entry in entries
        for figure, reason in EXCEPTIONS.get(entry.preset.name, {}).items()
    ]
    if excepted:
        sections.append(
            "## Figures that are not of these networks\n\n" + "\n".join(excepted) + "\n"
        )
    return "\n".join(sections)


def _markdown_row(entry: Entry) -> str:
    preset, cost = entry.preset, entry.cost
    of_reference = preset.params is not None
    share = None if preset.gmacs is None else cost.macs / (1e9 * preset.gmacs) - 1
    columns = [
        _plain(preset.variant) + "\\*" * preset.reconstruction,
        f"`{preset.name}`",
        str(preset.genome.resolution),
        f"{cost.params:,}",
        f"{preset.params:,}" if of_reference else "",
        f"{cost.params - (preset.params or 0):,}" if of_reference else "",
        f"{cost.macs / 1e9:.6f}",
        "" if preset.gmacs is None else f"{preset.gmacs:.10g}",
        "" if share is None else percent(share),
        "" if preset.published_params_m is None else f"{preset.published_params_m:.10g}",
        "" if preset.published_gmacs is None else f"{preset.published_gmacs:.10g}",
        "" if preset.top1 is None else f"{preset.top1:g}",
    ]
    return f"| {' | '.join(columns)} |"


def _plain(text: str) -> str:
    """`text` with what Markdown reads as its own made plain."""
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#" else c for c in text)


def everything() -> list[Entry]:
    """Every preset."""
    return select(presets())


def write_page(path: Path) -> None:
    """Writes the page of all presets to `path`, in one piece."""
    write_text(path, markdown(everything()))
