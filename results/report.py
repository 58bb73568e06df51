"""The report of a run: one HTML file that works offline.

Nothing in it loads from anywhere: the charting code (Vega, Vega-Lite, Vega-Embed; BSD-3-Clause) is
part of the page, and a content security policy keeps the browser from fetching and from running
any script but the page's own two, named by their hash. Text of a run (names, paths, errors) is
escaped by Jinja2, and data for the charts goes in as JSON that cannot close its element.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from results import charts, drawing, latencies, pareto, similarity, trust_card
from results.against_chance import against_chance
from results.history import FROM_PRESET, Row, Run
from space.budget import cost_figure, cost_text, cost_title
from space.cost import Cost
from space.genome import Genome
from space.objectives import SCORE

TEMPLATES = Path(__file__).with_name("templates")
POINTS = 4000  # in a chart; more are thinned out evenly
LISTED = 50  # candidates in the table
ERRORS = 10  # failed candidates that are shown with their message
NEAR = 0.2  # published networks within this share of the budget are near it
BAND = 0.95  # networks that use so much of the budget are at the budget
FEWEST = 3  # published networks that are listed, however far
_SHOWN_APART = frozenset(("curve", "accuracies", "probes"))


def write_report(path: Path, run: Run) -> None:
    """Writes the report of `run` to `path`; a reader sees the old file or the new, never half.

    Links lead to files beside it: `candidates.sqlite`, `front.csv` and `architectures/<name>/`.
    """
    text = _page(run)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A path in the settings may hold bytes that are no text; they become question marks.
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _page(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        big=_big, million=_million, score=_score, percent=_percent, duration=_duration, words=_words
    )
    library = _library()
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        run=run,
        library=Markup(library),
        script=Markup(script),
        policy=_policy(library, script),
        **_content(run),
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets a default


def _policy(*scripts: str) -> str:
    """A content security policy under which only these scripts run and nothing is fetched."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _content(run: Run) -> dict[str, Any]:
    rows = [row for row in run.rows if _finite(row.score) is not None]
    known = {row.digest: row for row in reversed(rows)}  # the first evaluation of each counts
    best = known.get(run.best) if run.best is not None else None
    costs, others = _costs(run), _others(run)
    members = sorted(
        (known[d] for d in dict.fromkeys(run.front) if d in known),
        key=lambda row: row.cost(costs[0]),
    )
    ranked = sorted(rows, key=_reward, reverse=True)
    failed = [row for row in run.rows if row.status != "ok"]
    comparison = _comparison(run, best)
    chance = _against_chance(run)
    winners = [best, *(row for row in members if row is not best)] if best else members
    return {
        "evaluated": rows,
        "failed": failed,
        "errors": failed[:ERRORS],
        "seconds": sum(row.seconds for row in run.rows),
        "best": best,
        "limits": _limits(run.budget, best),
        "others": [{"name": name, "title": cost_title(name)} for name in others],
        "tiles": [] if best is None else _tiles(run, best, others),
        "front": [_listing(row, run, others) for row in members],
        "winners": [_winner(row) for row in winners],
        "ranked": [_listing(row, run, others) for row in ranked[:LISTED]],
        "several": len({_proposer(row) for row in run.rows}) > 1,
        "shares": _operator_shares(rows, ranked, members),
        "legend": _legend(rows),
        "comparison": comparison,
        "size": _size(run.space_summary.get("size")),
        "settings": list(_flat(run.settings)),
        "environment": list(_flat(run.environment)),
        "seeds": [
            entry
            for entry in chain(_flat(run.settings), _flat(run.environment))
            if entry[0].rpartition(".")[2] in ("seed", "seeds")
        ],
        "supernet": list(_flat({k: v for k, v in run.supernet.items() if k not in _SHOWN_APART})),
        "accuracies": run.supernet.get("accuracies") or {},
        "steps": _steps(run, best),
        "trust": None if run.trust is None else _trust(run.trust),
        "similarity": similarity.section(run.similarity),
        "latencies": latencies.by_device(run.latencies),
        "chance": chance["final"],
        **_charts(run, members, best, comparison["names"], chance["curves"]),
    }


# What the tables say.


def _listing(row: Row, run: Run, others: Sequence[str]) -> dict[str, Any]:
    target = _target(run)
    limit = _positive(run.budget).get(target)
    return {
        "row": row,
        "operators": drawing.operators(row.genome),
        "share": row.cost(target) / limit if limit else None,
        "others": [(row.cost(name), cost_figure(name, row.cost(name))) for name in others],
        "after": _after(row),
        "best": row.digest == run.best,
        "front": row.digest in run.front,
    }


def _against_chance(run: Run) -> dict[str, Any]:
    """The curves of this search and of the random one; empty without one or without a limit."""
    target, limits = _target(run), _positive(run.budget)
    if target not in limits or not run.by_chance:
        return {"curves": [], "final": {}}
    who = str(run.settings.get("controller", "this search"))
    return against_chance(run.rows, run.by_chance, who, limits, target, BAND, run.objectives)


def _target(run: Run) -> str:
    """The cost that the search steered towards its limit."""
    params_only = run.budget.get("params") and not run.budget.get("macs")
    return run.target or ("params" if params_only else "macs")


def _positive(budget: Mapping[str, Any]) -> dict[str, float]:
    """The limits of the budget, by cost."""
    return {
        name: limit
        for name, limit in budget.items()
        if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0
    }


def _costs(run: Run) -> list[str]:
    """The costs that are objectives, MACs where none is."""
    return [name for name in run.objectives if name != SCORE] or ["macs"]


def _others(run: Run) -> list[str]:
    """Costs beside MACs and parameters that are limited or objectives, and known of all rows."""
    names = dict.fromkeys([*_positive(run.budget), *_costs(run)])
    return [name for name in names if run.rows and all(name in row.costs for row in run.rows)]


def _limits(budget: Mapping[str, Any], best: Row | None) -> list[dict[str, Any]]:
    """Each limit of the budget, and how much of it the best network uses where that is known."""
    used = {} if best is None else {"macs": best.macs, "params": best.params, **best.costs}
    return [
        {
            "name": name,
            "limit": cost_text(name, limit),
            "share": used[name] / limit if name in used else None,
        }
        for name, limit in _positive(budget).items()
    ]


def _tiles(run: Run, best: Row, others: Sequence[str]) -> list[dict[str, Any]]:
    """What the best network costs beside MACs and parameters."""
    limits = _positive(run.budget)
    return [
        {
            "title": cost_title(name)[:1].upper() + cost_title(name)[1:],
            "figure": cost_figure(name, best.cost(name)),
            "share": best.cost(name) / limits[name] if name in limits else None,
        }
        for name in others
    ]


def _winner(row: Row) -> dict[str, Any]:
    """Drawing, cost by stage and genes of a network; only `problem` where it cannot be read."""
    try:
        anatomy = _anatomy(Genome.from_json(row.genome))
    except ValueError as error:
        return {"row": row, "problem": str(error)}
    return {"row": row, "problem": None, "after": _after(row), **anatomy}


def _anatomy(genome: Genome) -> dict[str, Any]:
    return {
        "svg": Markup(drawing.draw_svg(genome)),
        "stages": _stage_costs(genome),
        "total": genome.cost(),
        "genes": [
            {
                "path": same[0].path,
                "count": len(same),
                "kind": same[0].part.kind,
                "genes": drawing.gene_text(same[0].part, full=True),
            }
            for same in drawing.runs(genome)
        ],
    }


def _stage_costs(genome: Genome) -> list[dict[str, Any]]:
    """The cost of stem, stages (each with the downsampling module before it) and head."""
    costs: dict[str, Cost] = {}
    for placed in genome.parts():
        where = ".".join(placed.path.split(".")[:2])
        costs[where] = costs.get(where, Cost()) + placed.cost()
    whole = genome.cost().macs
    stages = genome.to_json()["stages"]
    return [
        {
            "name": where if "." not in where else f"stage {int(where[7:]) + 1}",
            "operators": drawing.stage_operators(stages[int(where[7:])]) if "." in where else "",
            "cost": cost,
            "share": cost.macs / whole if whole else 0,
        }
        for where, cost in costs.items()
    ]


def _operator_shares(
    rows: Sequence[Row], ranked: Sequence[Row], members: Sequence[Row]
) -> list[dict[str, Any]]:
    """For each stage, how often each operator and downsampling module stands there, among all
    candidates, the tenth of largest reward, and the front. Empty where there was no choice."""
    groups = {"all": rows, "best tenth": ranked[: math.ceil(len(ranked) / 10)], "front": members}
    table = []
    for i in range(max((len(row.genome["stages"]) for row in rows), default=0)):
        for what, kinds in (("downsampling", _downsampling_kinds), ("operators", _block_kinds)):
            found = {name: Counter(kinds(group, i)) for name, group in groups.items()}
            if len(found["all"]) > 1:
                bars = {name: _bar(counts) for name, counts in found.items()}
                table.append({"stage": i + 1, "what": what, "bars": bars})
    return table


def _block_kinds(rows: Iterable[Row], i: int) -> Iterator[str]:
    for row in rows:
        for stage in row.genome["stages"][i : i + 1]:
            yield from (block["kind"] for block in stage["blocks"])


def _downsampling_kinds(rows: Iterable[Row], i: int) -> Iterator[str]:
    for row in rows:
        for stage in row.genome["stages"][i : i + 1]:
            yield (stage["downsample"] or {"kind": "none"})["kind"]


def _bar(counts: Counter[str]) -> list[dict[str, Any]]:
    whole = sum(counts.values())
    return [{**_look(kind), "share": counts[kind] / whole} for kind in sorted(counts)]


def _look(kind: str) -> dict[str, Any]:
    fill = drawing.colour(kind)
    label = drawing.short_label(kind)
    return {"kind": kind, "label": label, "fill": fill, "ink": drawing.ink(fill)}


def _legend(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every operator and downsampling module that occurs, by name."""
    kinds: set[str] = set()
    for row in rows:
        for stage in row.genome["stages"]:
            kinds.update(block["kind"] for block in stage["blocks"])
            kinds.update([stage["downsample"]["kind"]] if stage["downsample"] else [])
    return [_look(kind) for kind in sorted(kinds)]


def _comparison(run: Run, best: Row | None) -> dict[str, Any]:
    """The published networks near the budget, or near the best network where there is no budget,
    and at least the nearest three; the best network stands among them."""
    target = _target(run) if _target(run) == "params" else "macs"
    limit = run.budget.get(target) if run.target in (None, target) else None
    centre = limit or (getattr(best, target) if best else None)
    whose = "the budget's" if limit or not best else "the best network's"
    presets = list(run.presets)
    if centre:
        presets.sort(key=lambda preset: abs(math.log(preset[target] / centre)))
        close = [preset for preset in presets if abs(preset[target] / centre - 1) <= NEAR]
        presets = close if len(close) >= FEWEST else presets[:FEWEST]
    entries = [
        {
            "name": preset["name"],
            "resolution": preset["resolution"],
            "macs": preset["macs"],
            "params": preset["params"],
            "top1": _published(preset["top1"]),
            "source": preset["source"],
            "found": False,
        }
        for preset in presets
    ]
    if best:
        found = {"name": best.name, "resolution": best.resolution, "macs": best.macs}
        found |= {"params": best.params, "top1": None, "source": "this search", "found": True}
        entries.append(found)
    return {
        "entries": sorted(entries, key=lambda entry: entry[target]),
        "left_out": len(run.presets) - len(presets),
        "near": f"{whose} {cost_title(target)}",
        "names": {preset["name"] for preset in presets},
    }


def _trust(card: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says, as text."""
    return {
        "verdict": trust_card.verdict(card),
        "truth": trust_card.truth(card),
        "notes": trust_card.notes(card),
        "near": trust_card.near_level(card),
        "agreements": [
            {key: _estimate(value) if key != "name" else value for key, value in row.items()}
            for row in card["agreements"]
        ],
        "kinds": trust_card.kind_cells(card),
        "command": card["about"]["command"],
        "networks": [
            {
                "name": net["name"],
                "macs": net["macs"],
                "near": trust_card.in_band(net, card),
                "kind": net["main_kind"],
                "score": net["score"],
                "accuracy": trust_card.mean(net["accuracies"]),
                "problem": net["problem"],
            }
            for net in card["networks"]
        ],
    }


def _estimate(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": trust_card.number(estimate), "n": estimate["n"]}


def _published(top1: float | None) -> float | None:
    """Published top-1 as a share; above 1 it is in percent."""
    return top1 if top1 is None or top1 <= 1 else top1 / 100


def _steps(run: Run, best: Row | None) -> Sequence[tuple[str, str]]:
    """The steps given, else those that fit the folder which an export leaves."""
    if run.next_steps or best is None:
        return run.next_steps
    folder = shlex.quote(f"architectures/{best.name}")
    return (
        (
            "Check the network: plain PyTorch in one file, which needs nothing but torch.",
            f"python {folder}/model.py",
        ),
        (
            "Load it in Python, there or anywhere else.",
            f'cd {folder}\npython -c "from model import model; print(model())"',
        ),
        (
            "Train it, which alone tells its accuracy. A recipe, and how to load weights:",
            f"less {folder}/README.md",
        ),
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as lines `search.seed`, `7`."""
    if isinstance(value, Mapping) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield name, ", ".join(_plain(item) for item in value) or "none"
    else:
        yield name, _plain(value)


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


# Charts.


def _charts(
    run: Run,
    members: Sequence[Row],
    best: Row | None,
    near: Collection[str],
    chance: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The charts that there is data for, with their data, as JSON for the page's script; `near`
    are the published networks in the table."""
    points = _points(run, {row.digest for row in members}, best)
    shown = _thinned(points)
    scored = [point for point in shown if point["score"] is not None]
    curve = [step for step in run.supernet.get("curve") or () if _finite(step["loss"]) is not None]
    probes = [
        {"step": probe["step"], "network": name, "share": probe[name]}
        for probe in run.supernet.get("probes") or ()
        for name in charts.PROBED
        if name in probe
    ]
    specs: dict[str, Any] = {}
    fronts = _fronts(run, members, points) if scored else []
    data = {
        "candidates": shown,
        "curve": curve[:: 1 + len(curve) // POINTS],
        "networks": _networks(run, members, best, near),
        "limits": _chart_limits(run.budget),
    }
    if probes:
        data["probes"] = probes
    if run.trust is not None:
        data["trust"] = trust_card.points(run.trust)
    several = bool(_others(run))
    for axis, lines, number in fronts:
        data |= {f"{what}{number}": found for what, found in lines.items()}
        specs[f"front{number}"] = charts.front_chart(axis, number, several)
    if any(point["reward"] is not None for point in shown):
        specs["progress"] = charts.progress_chart(len({_proposer(row) for row in run.rows}) > 1)
    if chance:
        data["chance"] = [dict(point) for point in chance]
        names = list(dict.fromkeys(point["who"] for point in chance))
        specs["chance-best"] = charts.chance_chart("best", "best score at the budget", names)
        specs["chance-volume"] = charts.chance_chart("volume", "hypervolume (share)", names)
    if run.latencies.get("networks"):
        data["latencies"] = latencies.points(run.latencies)
        specs["latency"] = charts.latency_chart()
    if data.get("trust"):
        specs["trust"] = charts.spec(
            trust_card.scatter(run.trust or {}), "Accuracy of proxies trained alone against score"
        )
    if run.presets:
        specs["published"] = charts.published_chart(
            [axis for limit in data["limits"] for axis in limit]
        )
    if len(curve) > 1:
        specs["supernet"] = charts.supernet_chart()
    if probes:
        specs["probes"] = charts.probes_chart()
    return {
        "charts": list(specs),
        "fronts": [{"name": f"front{number}", "words": axis.words} for axis, _, number in fronts],
        "thinned": len(points) - len(shown),
        "chart_json": _embedded({"data": data, "specs": specs}),
    }


def _fronts(
    run: Run, members: Sequence[Row], points: Sequence[dict[str, Any]]
) -> list[tuple[charts.Axis, dict[str, list[Any]], str]]:
    """For each cost that is an objective its axis, the front of the score against it alone and its
    limit, and what their names end in; the points get their places on the axis."""
    sizes = sorted({row.resolution for row in run.rows})
    side = f" at {sizes[0]} px" if len(sizes) == 1 else ""
    limits, found = _positive(run.budget), []
    for i, cost in enumerate(_costs(run)):
        axis = charts.axis(cost, i, max(row.cost(cost) for row in run.rows), side)
        for point, row in zip(points, run.rows, strict=True):
            point[axis.field] = axis.at(row.cost(cost))
        line = pareto.front([(row.cost(cost), -float(row.score or 0)) for row in members])
        lines: dict[str, list[Any]] = {
            "front": [
                {axis.field: axis.at(row.cost(cost)), "score": row.score}
                for row in sorted((members[i] for i in line), key=lambda row: row.cost(cost))
            ],
            "budget": [{axis.field: axis.at(limits[cost]), "text": "budget"}]
            if cost in limits
            else [],
        }
        found.append((axis, lines, str(i + 1) if i else ""))
    return found


def _proposer(row: Row) -> str:
    """Who proposed a candidate; all published networks are one."""
    return "published network" if row.origin.startswith(FROM_PRESET) else row.origin


def _after(row: Row) -> str | None:
    """The published network that a candidate was made of."""
    return row.origin.removeprefix(FROM_PRESET) if row.origin.startswith(FROM_PRESET) else None


def _networks(
    run: Run, members: Sequence[Row], best: Row | None, near: Collection[str]
) -> list[dict[str, Any]]:
    """Published networks and the front, by their cost."""
    networks: list[dict[str, Any]] = [
        {
            "name": preset["name"],
            "kind": preset.get("kind"),
            "macs": preset["macs"],
            "params": preset["params"],
            "top1": _percent(_published(preset["top1"])),
            "place": "near" if preset["name"] in near else "far",
        }
        for preset in run.presets
    ]
    networks += [
        {
            "name": row.name,
            "kind": "found here",
            "macs": row.macs,
            "params": row.params,
            "top1": "not trained yet",
            "place": "best" if best and row.digest == best.digest else "front",
            "digest": row.digest,
        }
        for row in [*members, *([best] if best and best not in members else [])]
    ]
    for network in networks:
        network["gmacs"], network["mparams"] = network["macs"] / 1e9, network["params"] / 1e6
        network["cost"] = _big(network["macs"], "MACs")
        network["size"] = _big(network["params"])
    return networks


def _chart_limits(budget: Mapping[str, Any]) -> list[dict[str, float]]:
    """The limits of the budget in the units of the chart of networks."""
    places = (("macs", "gmacs", 1e9), ("params", "mparams", 1e6))
    return [{axis: budget[name] / unit} for name, axis, unit in places if budget.get(name)]


def _points(run: Run, members: set[str], best: Row | None) -> list[dict[str, Any]]:
    points, others = [], _others(run)
    so_far = None
    for row in run.rows:
        reward, score = _finite(row.reward), _finite(row.score)
        if reward is not None:
            so_far = reward if so_far is None else max(so_far, reward)
        place = "best" if best and row.digest == best.digest else "front"
        points.append(
            {
                "order": row.order,
                "name": row.name,
                "digest": row.digest,
                "macs": row.macs,
                "cost": f"{_big(row.macs, 'MACs')} ({_big(2 * row.macs, 'FLOPs')})",
                "params": _big(row.params),
                "others": ", ".join(cost_text(name, row.cost(name)) for name in others),
                "score": score,
                "top1": _percent(row.top1),
                "reward": reward,
                "so_far": so_far,
                "operators": drawing.operators(row.genome),
                "origin": _proposer(row),
                "error": row.error,
                "place": place if row.digest in members or place == "best" else "other",
            }
        )
    return points


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about `POINTS`: an even choice, and all that the charts point out."""
    step = 1 + len(points) // POINTS
    if step == 1:
        return points
    kept, high = [], None
    for i, point in enumerate(points):
        if i % step == 0 or point["place"] != "other" or point["so_far"] != high:
            kept.append(point)
        high = point["so_far"]
    return kept


def _embedded(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: ASCII alone, so no line separator of
    JavaScript, and no `<`, `>` or `&` that could end the element. Infinite numbers and NaN, which
    JSON has not, become null."""
    text = json.dumps(_jsonable(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# Numbers as text.


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _reward(row: Row) -> float:
    reward = _finite(row.reward)
    return -math.inf if reward is None else reward


def _big(value: float | None, unit: str = "") -> str:
    """`3.98 G`, `512 MB`, `42`: three digits, a power of a thousand, and the unit."""
    if value is None:
        return "–"
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            scaled = value / scale
            digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
            return f"{scaled:,.{digits}f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def _million(value: float) -> str:
    return f"{value / 1e6:,.1f}"


def _score(value: float | None) -> str:
    value = _finite(value)
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    value = _finite(value)
    return "–" if value is None else f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _size(size: int | None) -> str | None:
    """`12,345`, or `1.2 × 10^20` with the exponent in superscript digits."""
    if size is None or size < 1_000_000:
        return None if size is None else f"{size:,}"
    mantissa, exponent = f"{Decimal(size):.1e}".split("e+")
    raised = exponent.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}"
