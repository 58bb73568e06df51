"""Writes docs/measured.md: where the numbers that the documents claim come from.

A claim is a number as a document writes it, and the place in a result file that it must equal; a
test holds each to it, and holds that the README claims no other number of a result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pages.markdown import table
from space.presets import presets

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README, ARCHITECTURE = "README.md", "docs/architecture.md"
RANKING = "ranking_nasbench_macro-efficienttrain-cpu.json"
LOOP, WORKERS = "loop_speed-cpu.json", "many_workers-cpu.json"
PRESETS = "presets"  # in place of a file: counted, not measured


@dataclass(frozen=True, slots=True)
class Claim:
    """`text` stands in `document`, for `about`; it is the value at `place` of the result `file`,
    written by `form`. `within` are the words around it, where the number alone would be found
    anywhere. `spread` is the place of an interval, `note` what else there is to know of it."""

    document: str
    text: str
    about: str
    file: str
    place: tuple[str, ...]
    form: Callable[[Any], str] = "{:.3f}".format
    within: str = "{}"
    spread: tuple[str, ...] = ()
    note: str = ""

    def value(self) -> Any:
        return at(self.file, self.place)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}"


def thousands(value: float) -> str:
    return f"{value:,.0f}"


def tens(value: float) -> str:
    """Rounded down to tens, by thousands: a capacity is not rounded up."""
    return f"{10 * int(value // 10):,}"


def share(value: float) -> str:
    return f"{value:.0%}"


def _tau(text: str, about: str, *place: str, within: str = "{}") -> Claim:
    measured = place[0] == "supernet" or place[1] == "macs"
    return Claim(
        README,
        text,
        about,
        RANKING,
        (*place, "tau"),
        within=within,
        spread=(*place, "tau_interval") if measured else (),
    )


CLAIMS: Sequence[Claim] = (
    Claim(
        README, "22", "minutes of training", RANKING, ("seconds", "training"), minutes, "{} minutes"
    ),
    Claim(README, "3,969", "networks of the table", RANKING, ("networks",), thousands),
    Claim(README, "893", "of these near 50M MACs", RANKING, ("in_band",), thousands),
    _tau("0.790", "tau of scores, all", "supernet", "probability", "all", within="tau of {}"),
    _tau("0.671", "tau of scores, near 50M MACs", "supernet", "probability", "band"),
    _tau("0.818", "tau by single choices, all", "supernet", "main_effects", "all"),
    _tau("0.712", "tau by single choices, near 50M MACs", "supernet", "main_effects", "band"),
    _tau("0.546", "tau of MACs, all", "others", "macs", "all"),
    _tau("0.134", "tau of MACs, near 50M MACs", "others", "macs", "band"),
    _tau("0.880", "tau of one training with another, all", "others", "one run with another", "all"),
    _tau("0.854", "the same, near 50M MACs", "others", "one run with another", "band"),
    Claim(README, "240", "published networks", PRESETS, ("networks",), str, "{} published"),
    Claim(README, "45", "systems of these", PRESETS, ("systems",), str, "of {} systems"),
    Claim(
        "docs/concepts/score.md",
        "0.790",
        "tau of scores, all",
        RANKING,
        ("supernet", "probability", "all", "tau"),
        spread=("supernet", "probability", "all", "tau_interval"),
    ),
    Claim(
        "docs/concepts/score.md",
        "0.546",
        "tau of MACs, all",
        RANKING,
        ("others", "macs", "all", "tau"),
        spread=("others", "macs", "all", "tau_interval"),
    ),
    Claim(
        ARCHITECTURE,
        "79,435",
        "evaluations a second that cost nothing",
        LOOP,
        ("free", "evaluations_per_second"),
        thousands,
    ),
    Claim(
        ARCHITECTURE,
        "45",
        "ms for a suggestion of the predictor",
        LOOP,
        ("suggestion_ms", "predictor", "400"),
        "{:.0f}".format,
        "{} ms",
    ),
    Claim(
        ARCHITECTURE,
        "1.91",
        "times as many evaluations by two workers",
        LOOP,
        ("workers", "speed_up"),
        "{:.2f}".format,
        note="two repetitions of each, in the file",
    ),
    Claim(
        ARCHITECTURE,
        "85%",
        "time that 1,000 simulated workers work, evolution",
        WORKERS,
        ("controllers", "evolution", "busy"),
        share,
    ),
    Claim(
        ARCHITECTURE,
        "84%",
        "the same, predictor",
        WORKERS,
        ("controllers", "predictor", "busy"),
        share,
    ),
    Claim(
        ARCHITECTURE,
        "2,280",
        "workers that evolution could keep at work",
        WORKERS,
        ("controllers", "evolution", "most_workers"),
        tens,
    ),
    Claim(
        ARCHITECTURE,
        "1,100",
        "the same, predictor",
        WORKERS,
        ("controllers", "predictor", "most_workers"),
        tens,
    ),
)
# Words of a paragraph of the README with a link to a result that are definitions, not findings.
DEFINITIONS = ("within 10% of 50 million MACs",)
# Pages that a script writes from results, and that script.
PAGES: Mapping[str, str] = {
    "ranking.md": "ranking_page",
    "controllers.md": "search_page",
    "scoring.md": "scoring_page",
    "latency.md": "latency_page",
    "latency_tables.md": "latency_tables_page",
    "kernels.md": "kernels_page",
}

ABOUT = (
    "What was measured stands in the files of [benchmarks/results](../benchmarks/results), each "
    "with the command that made it, the machine, the versions and the seeds. "
    "[benchmarks/README.md](../benchmarks/README.md) says what each script measures. This page is "
    "made from those files by `make reference`, and a test holds that it is up to date."
)
CLAIMED = (
    "A test holds each to its file, and holds that the README claims no number of a result "
    "beside these. A 95% interval is over which networks were drawn; it says nothing of "
    "another training. Where there is one seed, nobody knows yet how far another would be."
)


@cache
def result(file: str) -> Any:
    if file == PRESETS:
        every = presets().values()
        return {"networks": len(every), "systems": len({p.system for p in every})}
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


def at(file: str, place: Sequence[str]) -> Any:
    found = result(file)
    for name in place:
        found = found[name]
    return found


def page() -> str:
    """docs/measured.md."""
    lines = [
        "# Where the numbers come from",
        "",
        ABOUT,
        "",
        "## Numbers in the text",
        "",
        CLAIMED,
        "",
        *table(
            ["Where", "Number", "Of what", "95% interval", "Result", "Seeds"],
            [_claim_row(claim) for claim in CLAIMS],
            "lrllll",
        ),
        "",
        "The tutorial shows what one run on one machine gave; those are not claims.",
        "",
        "## Pages of measurements",
        "",
        "Written by scripts from the results that they name; tests hold that they are up to date.",
        "",
        *table(
            ["Page", "Written by"],
            [
                [
                    f"[{name}]({name})",
                    f"[benchmarks/{script}.py](../benchmarks/{script}.py)",
                ]
                for name, script in PAGES.items()
            ],
            "ll",
        ),
        "",
        "## Result files",
        "",
        "Commands and machines as the files have them, without folders and `--json FILE`.",
        "",
        *table(
            ["File", "Device", "Seeds", "Made with", "Command"],
            [_file_row(path) for path in sorted(RESULTS.glob("*.json"))],
            "lllll",
        ),
    ]
    return "\n".join(lines) + "\n"


def _claim_row(claim: Claim) -> list[str]:
    depth = Path(claim.document)
    where = f"[{claim.document}]({_link(depth)})"
    if claim.file == PRESETS:
        return [where, claim.text, claim.about, "", "counted: [zoo.md](zoo.md)", ""]
    spread = ""
    if claim.spread:
        low, high = at(claim.file, claim.spread)
        spread = f"{claim.form(low)} to {claim.form(high)}"
    file = f"[{claim.file.removesuffix('.json')}](../benchmarks/results/{claim.file})"
    return [where, claim.text, claim.about, spread or claim.note, file, seeds(result(claim.file))]


def _link(document: Path) -> str:
    if document.parts[0] == "docs":
        return document.relative_to("docs").as_posix()
    return f"../{document.as_posix()}"


def _file_row(path: Path) -> list[str]:
    found = result(path.name)
    head = {**found.get("about", {}), **found}
    commands = head.get("commands") or [head["command"]]
    versions = head.get("versions") or found.get("environment") or {}
    if not isinstance(versions, Mapping):
        versions = {}
    made_with = [f"{name} {versions[name]}" for name in ("python", "torch") if name in versions]
    where = str(found.get("environment", {}).get("device") or head.get("device") or "")
    device = str(head.get("device") or "none")
    if device in ("cpu", "cuda") or device.startswith(("cpu:", "cuda:")):
        device = f"{where}, `{device}`"
    shown = plain_command(commands[0])
    if len(commands) > 1:
        shown += f" and {len(commands) - 1} more, in the file"
    return [
        f"[{path.stem}](../benchmarks/results/{path.name})",
        device,
        seeds(found),
        ", ".join(made_with),
        shown,
    ]


def plain_command(command: str) -> str:
    """In code marks; a path of some machine is its last name, one in the project as from there."""
    words = []
    for word in re.sub(r" --json \S+", "", command).split():  # which is the file itself
        inside = re.search(r"benchmarks/results/.*", word)
        if word.startswith(("/", "..")):
            word = inside[0] if inside else word.rpartition("/")[2]
        words.append(word)
    return f"`{' '.join(words)}`"


def seeds(found: Mapping[str, Any]) -> str:
    """The seeds of a result, as far as it says."""
    about = found.get("about", {})
    if isinstance(found.get("seed"), int):
        return f"seed&nbsp;{found['seed']}"
    if isinstance(about, Mapping) and about.get("seeds"):
        return f"seed&nbsp;{', '.join(map(str, about['seeds']))}"
    several = found.get("seeds")
    if isinstance(several, list) and all(isinstance(seed, int) for seed in several):
        return f"seeds {several[0]} to {several[-1]}"
    counts = sorted({int(n) for c in commands_of(found) for n in re.findall(r"--seeds (\d+)", c)})
    if counts:
        few, many = counts[0], counts[-1]
        return f"{many} seeds" if few == many else f"{few} to {many} seeds of each"
    return ""


def commands_of(found: Mapping[str, Any]) -> Iterator[str]:
    yield from found.get("commands", ())
    if "command" in found:
        yield found["command"]
