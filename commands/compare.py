"""Compares controllers on equal terms: `python run_search.py compare-controllers --table FILE ...`.

What they are compared on is a table of networks that are all evaluated already (`search.tables`),
or, with `--run`, the supernet of a run (`commands.compare_run`).
Each search is kept in the result file as soon as it is done, so that the command can be stopped and
given again, also with more seeds or other controllers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from results.console import CommandLine, Console, table
from results.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from results.run_folder import environment, write_text
from search.compare import (
    BEST,
    Game,
    Ground,
    Maker,
    Named,
    Plan,
    compare,
    make_named,
    parse_names,
    settings_of,
    summary,
)
from search.proposals import Proposals

WRITE_EVERY_SECONDS = 2.0
COLUMNS = 6  # points that a table in the terminal has room for


# ---- what is compared on, and how


@dataclass(frozen=True, slots=True)
class Setting:
    """A ground with its name, and plain `facts` that say which it is: result files of others are
    not gone on with."""

    name: str
    ground: Ground
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()


def add_table_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the table")
    group.add_argument("--table", type=Path, help="a CSV file, also gzipped")
    group.add_argument("--genes", help="columns, by commas; NAME:digits is one gene a digit")
    group.add_argument("--objective", help="the column that counts: COL[:max|min]")
    group.add_argument("--observed", help="columns that evaluations see (default: the objective)")
    group.add_argument(
        "--limit",
        action="append",
        default=[],
        help="COL<=VALUE or COL>=VALUE; a value is a number, median, or a quantile like q25",
    )
    group.add_argument("--second", help="a second objective: COL[:min|max]")
    group.add_argument(
        "--known",
        nargs="?",
        const="",
        metavar="COL",
        help="the second objective is known before an evaluation",
    )
    same = group.add_mutually_exclusive_group()
    same.add_argument(
        "--merge", action="store_true", help="rows that differ in genes only are one network"
    )
    same.add_argument("--same-as", metavar="COL", help="rows with the same COL are one network")
    group.add_argument("--encodings", type=Path, help="a file of genes; --line is its column ...")
    group.add_argument("--line", metavar="COL", help="... that says in which line the rest is")
    group.add_argument(
        "--best", type=float, default=BEST, help=f"share that is among the best (default: {BEST})"
    )


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the searches")
    group.add_argument("--evaluations", type=int, required=True, help="of each search")
    group.add_argument("--seeds", type=int, required=True, help="searches by each controller")
    group.add_argument("--batch", type=int, default=1, help="rows asked for at a time (default: 1)")
    group.add_argument(
        "--confirm", type=int, default=0, help="last evaluations that look at the best again"
    )
    group.add_argument("--marks", help="evaluations to look at, by commas (default: a curve)")


def table_setting(options: argparse.Namespace) -> Setting:
    """ValueError where the table is not as the options say."""
    for name in ("table", "genes", "objective"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name} is missing: a table needs --table, --genes and --objective")
    from search.tables import Reading, read_table  # pandas takes its time, and few need it

    second = options.second
    column = second and (second.rpartition(":")[0] or second)
    if options.known is not None and options.known not in ("", column):
        raise ValueError(f"--known {options.known} must name the column of --second, or nothing")
    found = read_table(
        Reading(
            path=options.table,
            genes=_names(options.genes),
            objective=options.objective,
            observed=_names(options.observed),
            limits=tuple(options.limit),
            second=second,
            known=options.known is not None,
            merge=options.merge,
            same_as=options.same_as,
            encodings=options.encodings,
            line=options.line,
            best=options.best,
        )
    )
    return Setting(options.table.name, found, found.facts, found.notes)


def plan_of(options: argparse.Namespace) -> Plan:
    if options.seeds < 1:
        raise ValueError(f"seeds is {options.seeds}, but must be at least 1")
    try:
        marks = tuple(map(int, _names(options.marks)))
    except ValueError:
        raise ValueError(f"marks {options.marks!r} must be whole numbers by commas") from None
    return Plan(options.evaluations, options.batch, options.confirm, marks)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def makers_of(
    controllers: str, ground: Ground, more: Mapping[str, Named] | None = None
) -> dict[str, Maker]:
    """By what was written. ValueError where one cannot be made: each is, once."""
    makers: dict[str, Maker] = {}
    proposals = Proposals(ground.problem)
    for written, (name, settings) in parse_names(controllers).items():

        def make(
            proposals: Proposals,
            seed: int,
            name: str = name,
            settings: Mapping[str, Any] = settings,
        ) -> Any:
            return make_named(name, proposals, seed, more, **settings)

        try:
            make(proposals, 0)
        except TypeError as error:
            raise ValueError(f"{written}: {error}") from None
        makers[written] = make
    return makers


# ---- the result file


class ResultFile:
    """What was played, and what it comes to. Without a path it is in memory only."""

    def __init__(self, path: Path | None, setting: Setting, plan: Plan, about: Mapping[str, Any]):
        self._path, self._plan = path, plan
        self._settings = settings_of(plan, setting.facts)
        truth, sign = setting.ground.truth, setting.ground.sign
        self._about = {
            **about,
            "setting": setting.name,
            "notes": list(setting.notes),
            "settings": self._settings,
            "sign": sign,
            "truth": truth and asdict(truth),
        }
        self.games: dict[str, list[Game]] = {}
        self._commands = [about["command"]]
        self._written = 0.0
        if path is not None and path.exists():
            self.games = self._read(path)

    def _read(self, path: Path) -> dict[str, list[Game]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            settings, games = found["settings"], found["games"]
            earlier = [text for text in found["commands"] if text not in self._commands]
            differ = [k for k, v in _flat(self._settings).items() if _flat(settings).get(k) != v]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{str(path)!r} is no result of a comparison; name another") from None
        if differ:
            was, now = (_flat(one).get(differ[0]) for one in (settings, self._settings))
            raise ValueError(
                f"{str(path)!r} was made with {differ[0]} {was!r}, not {now!r}; name another file"
            )
        self._commands = earlier + self._commands
        return games

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.games.pop(name, None)

    def keep(self) -> None:
        """Writes what there is, unless it has just done so."""
        if time.monotonic() - self._written > WRITE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, self._text())
        self._written = time.monotonic()

    def plain(self) -> dict[str, Any]:
        """All but the single games."""
        about = {"commands" if k == "command" else k: v for k, v in self._about.items()}
        about["commands"] = self._commands
        return {**about, "summary": summary(self.games, self._plan.points)}

    def _text(self) -> str:
        """As JSON, with a line for each game."""
        text = json.dumps(self.plain(), indent=2).removesuffix("\n}")
        lists = []
        for name, games in self.games.items():
            ordered = sorted(games, key=lambda game: game["seed"])
            lines = ",\n      ".join(json.dumps(game) for game in ordered)
            lists.append(f"    {json.dumps(name)}: [\n      {lines}\n    ]")
        return f'{text},\n  "games": {{\n' + ",\n".join(lists) + "\n  }\n}\n"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in settings.items() if k != "ground"}, **settings["ground"]}


def play_all(
    setting: Setting,
    makers: Mapping[str, Maker],
    seeds: int,
    plan: Plan,
    file: ResultFile,
    console: Console,
) -> None:
    """Plays what the file lacks; it is written whatever ends this."""
    for note in setting.notes:
        console.say(note)
    lacking = {(name, seed) for name in makers for seed in range(seeds)}
    lacking -= {(name, game["seed"]) for name, games in file.games.items() for game in games}
    total = len(makers) * seeds
    done = total - len(lacking)
    try:
        with console.progress("searches", total, done) as meter:
            for name, seed in compare(setting.ground, makers, seeds, plan, file.games, file.keep):
                meter.update(done, f"{name}, seed {seed}")
                done += 1
            meter.update(done)
    finally:
        file.write()


# ---- the command


def compare_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py compare-controllers",
        description="Has controllers search a table of networks that are all evaluated already, "
        "or the networks of a run with its supernet, and says how good what they find is, and how "
        "soon they find it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--run", type=Path, help="score networks with the supernet of this run, in place of a table"
    )
    parser.add_argument("--device", help="for --run (default: that of the run)")
    add_table_options(parser)
    add_plan_options(parser)
    parser.add_argument(
        "--controllers",
        required=True,
        help="by commas: names of --list controllers, optuna:tpe and the like; with settings: "
        "'evolution(population=20)'",
    )
    parser.add_argument(
        "--json", dest="file", type=Path, metavar="OUT", help="where results are kept"
    )
    parser.add_argument("--report", type=Path, metavar="OUT", help="a page with curves (HTML)")
    parser.add_argument("--again", action="store_true", help="play what the file has anew")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    # `json` is what the command line looks for: whether the result is printed as JSON.
    parser.set_defaults(action=_compare, json=False)
    return parser


def _compare(options: argparse.Namespace, console: Console) -> int:
    anew = options.again
    del options.again  # the name under which an interrupt finds the command to go on with
    plan = plan_of(options)
    if options.run is not None:
        if options.table is not None:
            raise ValueError("--run and --table cannot both say what is searched")
        from commands.compare_run import run_setting  # a table needs no supernet

        setting = run_setting(options.run, options.device, console)
    else:
        setting = table_setting(options)
    makers = makers_of(options.controllers, setting.ground)
    _check_writable(options.report)
    _check_writable(options.file)
    machine = environment("cpu")
    del machine["command"]  # which is said by itself
    about = {"command": _command(), "environment": machine}
    file = ResultFile(options.file, setting, plan, about)
    if anew:
        file.forget(list(makers))
    if options.file is not None:
        options.kept = "finished searches are kept"
        options.again = _command()
    play_all(setting, makers, options.seeds, plan, file, console)
    plain = file.plain()
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.report, page(plain))
    console.result(plain, show(plain))
    for path in filter(None, (options.file, options.report)):
        console.say(f"written: {path}")
    return 0


def _command() -> str:
    words = [word for word in sys.argv[1:] if word != "--again"]
    return shlex.join(["python", "run_search.py", *words])


def _check_writable(path: Path | None) -> None:
    if path is not None and path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name a file")


# ---- what a person sees

MEASURES = {
    "chosen": "what looks best, in truth",
    "seen": "the best that was evaluated",
    "hypervolume": "hypervolume, as a share",
    "front": "the same, of what looks best only",
}


def show(plain: Mapping[str, Any]) -> list[Any]:
    """Tables for the terminal."""
    ground, found = plain["settings"]["ground"], plain["summary"]
    points = _some(plain["settings"]["points"])
    shown: list[Any] = []
    for measure, title in MEASURES.items():
        names = [name for name in found if measure in found[name]]
        if not names:
            continue
        rows = [
            [name, str(found[name]["seeds"])]
            + [_mean(found[name][measure][str(point)]) for point in points]
            for name in names
        ]
        columns = ["controller", "searches", *(f"after {point}" for point in points)]
        shown.append(table(f"{title}: mean ± standard error", columns, rows))
    seconds = {name: one["seconds_a_suggestion"]["median"] for name, one in found.items()}
    rows = [
        [name, *_until(one["until"]), f"{1e3 * seconds[name]:.2f}"] for name, one in found.items()
    ]
    columns = ["controller", "median", "quartiles", "never", "ms a suggestion"]
    if not _known(plain):
        rows = [[row[0], row[-1]] for row in rows]
        shown.append(table("", [columns[0], columns[-1]], rows))
    else:
        best = plain["sign"] * plain["truth"]["best"]
        count = plain["truth"]["best_count"]
        title = f"evaluations until one of the best {count} ({best:g} or better) was evaluated"
        shown.append(table(title, columns, rows))
        shown.append(
            f"best there is: {plain['sign'] * plain['truth']['optimum']:g}, "
            f"of {ground['feasible']} {ground['counted']} within the limits"
        )
    return shown


def _known(plain: Mapping[str, Any]) -> bool:
    """Whether anybody knows which rows are the best."""
    return plain["truth"] is not None and plain["truth"]["best"] is not None


def _some(points: Sequence[int]) -> list[int]:
    """So many that a table has room for them, the last among them."""
    if len(points) <= COLUMNS:
        return list(points)
    places = {round((i + 1) * len(points) / COLUMNS) - 1 for i in range(COLUMNS)}
    return [points[i] for i in sorted(places)]


def _mean(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "-"
    error = "" if spread["error"] is None else f" ± {spread['error']:.2g}"
    return f"{spread['mean']:.5g}{error}"


def _until(times: Mapping[str, Any]) -> list[str]:
    middle, (low, high) = times["median"], times["quartiles"]
    said = ["never" if n is None else f"{n:g}" for n in (low, high)]
    return [
        "-" if middle is None else f"{middle:g}",
        f"{said[0]} to {said[1]}",
        f"{times['misses']} of {times['seeds']}",
    ]


# ---- the page

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY)
DASHES = ("", "6 3", "2 2", "8 3 2 3", "12 4")  # so that colour is not all that tells them apart
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 40

STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.45 }
svg { width: 100%; height: auto } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .7rem .2rem 0; text-align: right } td:first-child, th:first-child
{ text-align: left } caption { text-align: left; font-weight: 600 } code { overflow-wrap: anywhere }
.wide { overflow-x: auto }
"""


def page(plain: Mapping[str, Any]) -> str:
    """All of it as one HTML file that needs nothing else."""
    ground, found = plain["settings"]["ground"], plain["summary"]
    title = f"Controllers on {plain['setting']}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(_about(plain))}</p>"]
    body += [f"<p>{escape(note)}</p>" for note in plain["notes"]]
    for measure, words in MEASURES.items():
        curves = {name: one[measure] for name, one in found.items() if measure in one}
        if curves:
            best = plain["truth"]["optimum"] * plain["sign"] if _known(plain) else None
            level = 1.0 if _known(plain) and measure in ("hypervolume", "front") else best
            body.append(f"<h2>{escape(words[0].upper() + words[1:])}</h2>")
            body.append(draw_curves(curves, level, f"{words}, {ground.get('objective', '')}"))
    body.append(_html_table(plain))
    body.append(
        "<p>Lines are means over the searches of a controller, bands their 95 % intervals "
        "(Student's t); the thin line is the best there is.</p>"
        f"<p>Made by <code>{escape(plain['commands'][-1])}</code></p>"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def _about(plain: Mapping[str, Any]) -> str:
    settings, ground = plain["settings"], plain["settings"]["ground"]
    text = f"Searches of {settings['evaluations']} evaluations"
    if ground.get("observed"):
        text += f" that see {', '.join(ground['observed'])}, judged by {ground['objective']}"
    if ground.get("second"):
        text += f", and {ground['second']}"
    if ground.get("limits"):
        shown = (f"{limit['text']} ({limit['value']:g})" for limit in ground["limits"])
        text += f", within {', '.join(shown)}"
    return f"{text}; counted are {ground.get('counted', 'rows')}."


def _html_table(plain: Mapping[str, Any]) -> str:
    heads = ["controller", "searches"]
    if _known(plain):
        heads += ["median until one of the best", "quartiles", "never"]
    heads.append("ms a suggestion")
    rows = [
        [
            name,
            str(one["seeds"]),
            *(_until(one["until"]) if _known(plain) else ()),
            f"{1e3 * one['seconds_a_suggestion']['median']:.2f}",
        ]
        for name, one in plain["summary"].items()
    ]
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{cells}</table></div>'


def draw_curves(
    curves: Mapping[str, Mapping[str, Mapping[str, Any]]], level: float | None, label: str
) -> str:
    """Means against evaluations, with their intervals, as one `<svg>` element. `level` is a line
    of its own. What is far below at the beginning is cut off."""
    points = {
        name: [
            (int(n), s["mean"], *(s["interval"] or (s["mean"], s["mean"])))
            for n, s in curve.items()
            if s["mean"] is not None
        ]
        for name, curve in curves.items()
    }
    points = {name: curve for name, curve in points.items() if curve}
    if not points:
        return "<p>Nothing was evaluated.</p>"
    last = max(curve[-1][0] for curve in points.values())
    shown = [p for curve in points.values() for p in curve if p[0] >= last / 8]
    ends = [value for point in shown for value in point[2:]] + ([] if level is None else [level])
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or abs(high) * 0.01 or 1.0
    low, high = low - margin, high + margin

    def x(n: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * n / last, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 1)

    frame = (
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/>'
    )
    body = [f'<clipPath id="inside">{frame}</clipPath>']
    for value in _ticks(low, high):
        body.append(
            f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="currentColor" '
            f'stroke-opacity="0.15"/><text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">'
            f"{value:g}</text>"
        )
    for n in _ticks(0, last):
        body.append(
            f'<text x="{x(n)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{n:g}</text>'
        )
    if level is not None:
        body.append(f'<path d="M{LEFT} {y(level)}H{WIDTH - RIGHT}" stroke="currentColor"/>')
    bands, lines, legend = [], [], []
    for i, (name, curve) in enumerate(points.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        over = [f"{x(n)},{y(top)}" for n, _, _, top in curve]
        under = [f"{x(n)},{y(bottom)}" for n, _, bottom, _ in reversed(curve)]
        middle = " ".join(f"{x(n)},{y(mean)}" for n, mean, _, _ in curve)
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'
        title = f"<title>{escape(name)}</title>"
        corners = " ".join(over + under)
        bands.append(
            f'<polygon points="{corners}" fill="{colour}" fill-opacity="0.15">{title}</polygon>'
        )
        lines.append(f'<polyline points="{middle}" {style}>{title}</polyline>')
        row = HEIGHT + 8 + 16 * i
        legend.append(
            f'<path d="M{LEFT} {row}h28" {style}/>'
            f'<text x="{LEFT + 36}" y="{row + 4}">{escape(name)}</text>'
        )
    body.append(f'<g clip-path="url(#inside)">{"".join(bands + lines)}</g>{"".join(legend)}')
    body.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">'
        "evaluations</text>"
    )
    height = HEIGHT + 12 + 16 * len(points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, sans-serif" font-size="11" '
        f'fill="currentColor">{"".join(body)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to ten of them."""
    unit = 10.0 ** len(f"{high - low:.0f}")
    while True:
        for step in (unit, unit / 2, unit / 5):
            first = -(-low // step)
            count = int(high // step - first) + 1
            if count >= 4:
                return [round((first + i) * step, 12) for i in range(count)]
        unit /= 10
