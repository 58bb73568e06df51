"""Writes the numbers of docs/latency.md, between its two marks, from benchmarks/results.

python -m benchmarks.latency_page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "latency.md", ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- numbers: benchmarks/latency_page.py -->", "<!-- end of numbers -->"


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE} lacks the marks {BEGIN} and {END}")
    PAGE.write_text(before + numbers() + after, encoding="utf-8")
    return 0


def numbers() -> str:
    """What stands between the marks, with them."""
    return "\n".join([BEGIN, *predictions(), *budgets(), END])


def predictions() -> Iterator[str]:
    yield (
        "| device, networks | measured for the profile | held out | median error "
        "| nine of ten within | within 10% | Spearman | |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|---|"
    for path in sorted(RESULTS.glob("latency-*.json")):
        yield prediction(json.loads(path.read_text(encoding="utf-8")), path)


def prediction(found: dict[str, Any], path: Path) -> str:
    name = f"{found['environment']['device']}, `{found['device']}`, {found['space']}"
    profile = found["profile"]
    cells = [
        name,
        f"{profile['networks']} in {profile['seconds'] / 60:.1f} min",
        f"{found['held_out']}",
        f"{found['median_absolute_error']:.1%}",
        f"{found['nine_of_ten']:.1%}",
        f"{found['within_10_percent']:.0%}",
        f"{found['spearman']:.3f}",
        f"[result](../benchmarks/results/{path.name})",
    ]
    return f"| {' | '.join(cells)} |"


def budgets() -> Iterator[str]:
    for path in sorted(RESULTS.glob("latency_budgets-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = found["entries"]
        at_most = sum(entry["plain_of_budget"] <= 1.05 for entry in entries)
        least, most = (end(entry["budget_ms"] for entry in entries) for end in (min, max))
        yield ""
        yield (
            f"Of {found['searches']} searches under budgets from {least:g} to {most:g} ms on "
            f"`{found['device']}`, the exported best"
        )
        yield (
            f"network of {found['within_5_percent_above']} measured at most 5% above the budget "
            f"when it was measured again, of {found['within']}"
        )
        yield (
            f"within it; the median took {found['median_of_budget']:.1%} of it, the slowest "
            f"{found['most_of_budget']:.1%}. In a process with"
        )
        yield (
            f"PyTorch alone {at_most} took at most 5% more, the slowest "
            f"{found['plain_most_of_budget']:.1%} "
            f"([result](../benchmarks/results/{path.name}))."
        )


if __name__ == "__main__":
    sys.exit(main())
