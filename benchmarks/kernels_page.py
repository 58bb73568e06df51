"""Writes docs/kernels.md from the result files: `python -m benchmarks.kernels_page`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kernels import FACTOR, GOAL, KEEP, SHARE, passed

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "kernels.md"

BEGIN = """# Kernels for a GPU

Networks of this project spend much of their time on moving numbers between a GPU and its memory: a
convolution, a norm and an activation that follow one another each read and write the whole map.
The kernels in [supernet/kernels](../supernet/kernels), written in Triton, do in one pass what else
takes several, or read data where it lies and so save copies of it. Each is an operator of PyTorch
(`torch.ops.chimera`), with gradients where training needs them and a count of FLOPs. The modules of
a network stay plain PyTorch; `supernet.kernels.twins.accelerate` puts kernels into those layers
that one can do, and leaves the others alone.

"""
UNMEASURED = """**None has been measured on a GPU yet. They are off by default until a
measurement on this page says that they pay.**

"""
MEASURED = """They are off unless asked for (`--kernels`): what they do for scoring as a whole has
not been measured on a GPU yet. Only scoring takes them, forward, and it compiles no network; so
what counts for it is how much faster they are than uncompiled. Training runs the plain layers.

"""
FUSED = """## What each does

A map is stored channels last: the channels of a pixel lie side by side.

| file | what is done in one pass |
|---|---|
"""
# By file of `supernet/kernels`; the operators that a file defines, and what each fuses.
FILES = {
    "depthwise": "Depthwise convolution with filters of 2x2 to 13x13, stride 1 or 2, dilation 1 to "
    "3; with the bias, and if asked for the norm over channels, the activation, and the mean over "
    "the map that a squeeze-excite begins with. It reads the middle of a larger filter, or the "
    "leading channels of a wider one, without a copy. Backward: input, weight and norm.",
    "norm_linear": "`norm_linear`: norm over channels, linear layer and activation, the way into "
    "an MLP. `linear_residual`: a squeeze-excite's gate, linear layer, factor of each channel and "
    "residual, the way out of it. Weights may be slices of larger ones.",
    "norm_linear_mlp": "All of an MLP: norm, linear layer, activation, linear layer, factors and "
    "residual. For narrow maps what is hidden between both layers stays on the chip; wider maps "
    "take the two kernels of `norm_linear`.",
    "window_attention": "Attention in windows, moved windows, spread windows (a grid) and blocks "
    "with a halo, with a bias. Nothing is cut out of the map and joined again, and scores are "
    "never written. Backward makes the scores anew.",
    "state_attention": "Attention between channels, and linear attention: sums over the pixels "
    "make a small matrix for each head, which is then applied to each pixel. Small maps take one "
    "launch.",
    "gated_aggregation": "Modulation: `focal_contexts` (a chain of filters and activations, times "
    "gates, added up; a pass for each filter and one for the sum), `shares_context` (filters of "
    "several sizes, each on its share of the channels), `gated_product` (two activations and their "
    "product), `decomposed` (a map and what sets it apart from its mean).",
    "outcomes": "From logits the log-probability of the true class of each image and whether it is "
    "the likeliest: what scoring adds up. No gradient.",
    "pixels": "A batch of stored uint8 images: gathered, moved, mirrored, normalised, and written "
    "as floating point. No gradient.",
}
TESTED = f"""
## How they are tested

- The definition of each kernel is a few lines of plain PyTorch. Tests compare the kernel with it,
  results and gradients, for usual, odd and tiny shapes, for maps that are stored otherwise, and for
  float32 and bfloat16; and the modules that use kernels with the plain modules.
- PyTorch's own check of operators (`torch.library.opcheck`) passes for each.
- Where there is no GPU the tests run the kernels in Triton's interpreter. It says nothing about
  speed, about races between threads or about the precision of tensor cores, and it truncates to
  bfloat16 where a GPU rounds.
- All are compiled for Hopper (H100, H200) without one: the table below.
- On a GPU `python -m benchmarks.kernels` checks before it measures: in bfloat16, against the
  definition in float64, the relative error of the result and of each gradient may be {FACTOR:g}
  times that of PyTorch's own layers, and in a gradient one rounding more. A kernel is worth keeping
  where it is {KEEP:g} times faster than the fastest other path, `torch.compile` included; the goal
  is {GOAL:g} times, or {SHARE:.0%} of the bandwidth of a copy.
"""
TIMES = """
Microseconds on the device: median, and quartiles in brackets, with cold caches. The share is that
of the copy's bandwidth, for the bytes that must be moved. The last column is what Python took to
ask for the work, in advance of it; where it is empty the work was asked for as it went, and the
device may have waited for Python.
"""
AHEAD = """
## Registers and memory

As compiled for Hopper by `python -m benchmarks.kernels --ahead`, with Triton {triton}:
{file}.
A thread has at most 255 registers. What does not fit into them is spilled to memory, which costs
time. Shared memory is that of one program. A processor runs several programs at once while it has
memory and registers for them: each one of an H100 has 228 KiB and 65,536 registers.

{spilled}
"""


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    return 0


def page(results: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The whole page, from the committed files or from `results`."""
    results = load() if results is None else results
    measured = [found for found in results if found["cases"]]
    text = BEGIN + (MEASURED if measured else UNMEASURED) + FUSED
    text += "".join(f"| `{name}.py` | {fused} |\n" for name, fused in FILES.items())
    text += TESTED
    text += "".join(map(times, measured))
    tables = [found for found in results if found["ahead"]]
    # Of several, that which was made for nothing else.
    return text + "".join(map(ahead, sorted(tables, key=lambda found: len(found["cases"]))[:1]))


def load() -> list[dict[str, Any]]:
    paths = sorted(RESULTS.glob("kernels-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) | {"file": path.name} for path in paths]


def link(file: str) -> str:
    return f"[{file}](../benchmarks/results/{file})"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


# ---- measured


def times(found: Mapping[str, Any]) -> str:
    versions, cases = found["versions"], found["cases"]
    failed = [case for case in cases if not passed(case)]
    text = f"\n## On {found['device']}\n\n"
    text += f"{link(found['file'])}: `{found['command']}`, PyTorch {versions['torch']}, "
    text += f"Triton {versions['triton']}, Python {versions['python']}, "
    text += f"{found['seconds'] / 60:.0f} minutes. "
    if found["copy_bytes_per_second"]:
        speed = found["copy_bytes_per_second"] / 1e12
        text += f"A copy reads and writes {speed:.2f} TB a second. "
    text += f"{len(failed)} of {len(cases)} cases failed"
    text += f"; {len(found['left_out'])} were left out for time.\n" if found["left_out"] else ".\n"
    text += "".join(f"- {case['kernel']}, {case['label']}: {why(case)}\n" for case in failed)
    text += TIMES
    for kind, title in (("forward", "Forward"), ("training", "Forward and backward")):
        lines = [case_row(case, kind) for case in cases if "ours" in timed(case, kind)]
        if lines:
            text += f"\n### {title}\n\n{outcome(cases, kind)}\n\n"
            text += row("kernel and case", "us", "fastest other", "times faster",
                        "than uncompiled", "share of a copy", "verdict", "host, us")  # fmt: skip
            text += row(*8 * ["---"]) + "".join(lines)
    return text


def outcome(cases: Sequence[Mapping[str, Any]], kind: str) -> str:
    """How many are worth keeping, in a sentence; a case without `torch.compile` has no verdict."""
    found = [case[kind] for case in cases if passed(case) and kind in case]
    verdicts = [each["verdict"] for each in found if "verdict" in each]
    text = f"Of {len(verdicts)} cases {verdicts.count('keep')} are worth keeping."
    plain = [each.get("times_faster_than_eager") for each in found]
    plain = [times for times in plain if times is not None]
    if plain:
        above = sum(times >= KEEP for times in plain)
        text += f" Against uncompiled alone {above} of {len(plain)} are: {min(plain):.2f} times "
        text += f"faster at least, {max(plain):.2f} at most."
    return text


def timed(case: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return case.get(kind, {}).get("times", {})


def why(case: Mapping[str, Any]) -> str:
    """Why it failed, in one line."""
    if case.get("wrong"):
        return case["wrong"][0]
    if case["problems"]:
        problem = case["problems"][0]
        return f"{problem['where']}: {problem['error'].splitlines()[-1][:200]}"
    return "wrong"


def case_row(case: Mapping[str, Any], kind: str) -> str:
    found, ours = case[kind], timed(case, kind)["ours"]
    spent = f"{ours['median_us']:.1f}"
    if "quartile_1_us" in ours:
        spent += f" ({ours['quartile_1_us']:.1f} to {ours['quartile_3_us']:.1f})"

    def number(key: str, form: str) -> str:
        return "" if found.get(key) is None else format(found[key], form)

    return row(
        f"{case['kernel']}, {case['label']}"
        + " (changed since)" * case.get("changed_since", False),
        spent,
        found.get("best_stock", ""),
        number("times_faster", ".2f"),
        number("times_faster_than_eager", ".2f"),
        number("copy_share", ".0%"),
        found.get("verdict", ""),
        f"{ours['host_us']:.0f}" if "host_us" in ours else "",
    )


# ---- compiled ahead of time


def ahead(found: Mapping[str, Any]) -> str:
    count, spilling = len(found["ahead"]), [each for each in found["ahead"] if spilled(each)]
    if not spilling:
        text = f"None of {count} variants spills"
    else:
        names = (
            f"`{each['kernel'].strip('_')}` of {each['file']}, {each['variant']}"
            for each in spilling
        )
        text = f"Of {count} variants {len(spilling)} spilled: {'; '.join(names)}"
    text = AHEAD.format(
        file=link(found["file"]), triton=found["versions"]["triton"], spilled=f"{text}."
    )
    for file in dict.fromkeys(each["file"] for each in found["ahead"]):
        text += f"\n### {file}\n\n"
        text += row("kernel", "variant", "registers", "bytes spilled", "bytes of shared memory")
        text += row("---", "---", "--:", "--:", "--:")
        for each in found["ahead"]:
            if each["file"] == file:
                text += row(
                    f"`{each['kernel'].strip('_')}`",
                    each["variant"],
                    str(each["registers"]),
                    str(spilled(each)),
                    f"{each['shared_bytes']:,}",
                )
    return text


def spilled(variant: Mapping[str, Any]) -> int:
    """Bytes stored and loaded."""
    return variant["spill_stores"] + variant["spill_loads"]


if __name__ == "__main__":
    raise SystemExit(main())
