"""Tables of enumerated networks as problems for controllers: a CSV file with one network a line.

A line has genes, what was measured of the network, and what it costs. `read_table` says which
columns are which and checks them. The table then is a `search.compare.Ground`: it gives the problem
that controllers see, what an evaluation of a row observes, and how that is judged.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.acquisition import hypervolume
from search.compare import BEST, Truth
from search.problem import Problem, Row
from space.decisions import Codes, PlainDecisions, Variable

DIGITS = ":digits"  # behind the name of a column whose values are strings with a gene a digit
_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "-"))
_RARE = 0.01  # where a smaller share of a complete table is feasible, its rows are listed
_LIMIT = re.compile(r"\s*(.+?)\s*(<=|>=)\s*(.+?)\s*")
_QUANTILE = re.compile(r"q(\d+(?:\.\d+)?)")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """Which columns of a table are what.

    `objective` (`col`, `col:max` or `col:min`) is what a search is judged by. An evaluation
    observes the columns in `observed`, the first time a row is evaluated the first of them and so
    on, around; without any, the objective. `second` is one more objective (`col:min` or `col:max`),
    observed too, or, where it is `known`, known before. `limits` (`col<=value`, `col>=value`) are
    known before; a value may be `median`, or `q25` for a quantile of the column.

    Genes are the columns `genes`; one whose name ends in `:digits` holds a gene a digit, and so
    does a single one with digits of one length throughout.

    Lines are one network where they are equal in all that is no gene (`merge`), or in the column
    `same_as`. With a file of `encodings`, genes come from there, and its column `line` says in
    which line of the table, from 0, all else is; a negative number says in none.
    """

    path: Path
    genes: tuple[str, ...]
    objective: str
    observed: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    second: str | None = None
    known: bool = False
    merge: bool = False
    same_as: str | None = None
    encodings: Path | None = None
    line: str | None = None
    best: float = BEST


@dataclass(frozen=True, slots=True)
class _Limit:
    column: str
    upper: bool
    value: float
    text: str

    def holds(self, values: Floats) -> NDArray[np.bool_]:
        return values <= self.value if self.upper else values >= self.value


@dataclass(frozen=True)
class Table:
    """A table that was read. Values that are to be small are held with the other sign, so that
    larger is better everywhere; `sign` turns the objective back."""

    name: str
    problem: Problem
    sign: float
    truth: Truth
    facts: Mapping[str, Any]  # how the table was read, as plain data
    notes: tuple[str, ...]  # what a person should know of that
    rows: Codes
    feasible: NDArray[np.bool_]
    _index: _Index = field(repr=False)
    _observed: Floats = field(repr=False)  # (N, number of observations)
    _judged: Floats = field(repr=False)  # (N, objectives)
    _second_is_observed: bool = field(repr=False)

    @property
    def observations(self) -> int:
        """How many evaluations of one row may observe something new."""
        return self._observed.shape[1]

    def observe(self, row: Row, times: int = 0) -> tuple[float, ...]:
        """What an evaluation observes of a row that was evaluated `times` before."""
        place = self._place(row)
        first = float(self._observed[place, times % self.observations])
        return (first, float(self._judged[place, 1])) if self._second_is_observed else (first,)

    def judge(self, row: Row) -> tuple[float, ...]:
        """All objectives as they are judged, larger is better."""
        return tuple(map(float, self._judged[self._place(row)]))

    def _place(self, row: Row) -> int:
        place = int(self._index.places(np.array([row], np.int64))[0])
        if place < 0:
            raise ValueError(f"table {self.name!r} has no row {row}")
        return place


def read_table(reading: Reading) -> Table:
    """Reads and checks. ValueError, in a line, says what is wrong with the file or the columns."""
    frame, notes = _frame(reading)
    objective, sign = _aim(reading.objective, "max")
    second, second_sign = _aim(reading.second, "min") if reading.second else (None, 1.0)
    observed = reading.observed or (objective,)
    parts = [_split_limit(text) for text in reading.limits]
    gene_columns = [name.removesuffix(DIGITS) for name in reading.genes]
    numeric = list(
        dict.fromkeys([objective, *observed, *filter(None, [second]), *(p[0] for p in parts)])
    )
    _check_columns(frame, reading, [*gene_columns, *numeric], gene_columns)
    if reading.known and second is None:
        raise ValueError("known says what is known of the second objective, but there is none")
    numbers = {name: _numbers(frame, name) for name in numeric}
    whole = np.all([np.isfinite(values) for values in numbers.values()], axis=0)
    if not whole.any():
        raise ValueError(f"no row of {reading.path.name} has a number in all of {_list(numeric)}")
    if not whole.all():
        without = [name for name in numeric if not np.isfinite(numbers[name]).all()]
        notes.append(
            f"{(~whole).sum()} of {len(whole)} rows are left out: no number in {_list(without)}"
        )
    frame = frame[whole].reset_index(names="line")
    numbers = {name: values[whole] for name, values in numbers.items()}
    codes, variables = _genes(frame, reading)
    groups = _groups(frame, reading, gene_columns)
    keep = _without_repeats(frame, codes, numbers, groups, notes)
    frame, codes, groups = frame.iloc[keep], codes[keep], groups[keep]
    numbers = {name: values[keep] for name, values in numbers.items()}
    merged = reading.merge or reading.same_as is not None
    if merged:
        _check_merged(frame, numbers, groups, reading.same_as)

    limits = [_limit(part, numbers[part[0]]) for part in parts]
    feasible = np.all([np.ones(len(codes), bool), *(x.holds(numbers[x.column]) for x in limits)], 0)
    if not feasible.any():
        reach = "; ".join(
            f"{x.column} is from {numbers[x.column].min():g} to {numbers[x.column].max():g}"
            for x in limits
        )
        raise ValueError(f"no row of the table is within {_list(x.text for x in limits)}: {reach}")

    judged = sign * numbers[objective][:, None]
    if second is not None:
        judged = np.column_stack([judged, second_sign * numbers[second]])
    index = _Index(codes)
    decisions = PlainDecisions(reading.path.name.split(".")[0], variables)
    complete = len(codes) == math.prod(len(variable.choices) for variable in variables)
    problem = Problem(
        decisions,
        observed=1 if second is None or reading.known else 2,
        **_costs(index, numbers, limits, second if reading.known else None, second_sign),
        key=_Keys(index, groups) if merged else tuple,
        members=None if complete and feasible.mean() >= _RARE else codes,
    )
    units = _first_of_each(groups, feasible)
    facts = {
        **_facts(reading),
        "observed": list(observed),
        "limits": [{"text": x.text, "column": x.column, "value": x.value} for x in limits],
        "rows": len(codes),
        "networks": len(np.unique(groups)),
        "counted": "networks" if merged else "encodings",
        "feasible": len(units),
        "left_out": int((~whole).sum()),
        "digest": f"{_digest(codes, judged, *(sign * numbers[name] for name in observed)):08x}",
    }
    return Table(
        name=decisions.name,
        problem=problem,
        sign=sign,
        truth=_truth(judged[units], reading.best),
        facts=facts,
        notes=tuple(notes),
        rows=codes,
        feasible=feasible,
        _index=index,
        _observed=np.column_stack([sign * numbers[name] for name in observed]),
        _judged=judged,
        _second_is_observed=second is not None and not reading.known,
    )


# ---- the file


def _frame(reading: Reading) -> tuple[pd.DataFrame, list[str]]:
    """All columns as text; with `encodings`, their lines with what the table has of each."""
    frame = _read(reading.path)
    if reading.encodings is None:
        return frame, []
    if reading.line is None:
        raise ValueError("encodings need line, their column that says in which line the rest is")
    encodings = _read(reading.encodings)
    if reading.line not in encodings:
        _no_column(reading.encodings, [reading.line], encodings)
    lines = _numbers(encodings, reading.line)
    if not np.all(np.isfinite(lines) & (lines == np.round(lines)) & (lines < len(frame))):
        raise ValueError(
            f"column {reading.line!r} of {reading.encodings.name} must hold line numbers "
            f"below {len(frame)}"
        )
    there = lines >= 0
    rest = frame.drop(columns=[c for c in encodings.columns if c in frame])
    rest = rest.iloc[lines[there].astype(int)].reset_index(drop=True)
    joined = pd.concat([encodings[there].reset_index(drop=True), rest], axis=1)
    missing = int((~there).sum())
    return joined, [f"{missing} encodings have no line in the table"] if missing else []


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} cannot be read as a table (CSV): {said}") from None
    if not len(frame):
        raise ValueError(f"the table {str(path)!r} has no rows")
    # A line that ends early has no text there.
    return frame.fillna("").rename(columns=str.strip)


def _check_columns(
    frame: pd.DataFrame, reading: Reading, wanted: Sequence[str], genes: Sequence[str]
) -> None:
    if not genes:
        raise ValueError("genes are missing: name at least one column")
    if len(set(genes)) < len(genes):
        raise ValueError(f"a gene stands twice among {_list(genes)}")
    more = [reading.same_as] if reading.same_as is not None else []
    if missing := [name for name in dict.fromkeys([*wanted, *more]) if name not in frame]:
        _no_column(reading.path, missing, frame)
    if double := [name for name in wanted[len(genes) :] if name in genes]:
        raise ValueError(f"column {double[0]!r} cannot be a gene and an objective or limit too")


def _no_column(path: Path, missing: Sequence[str], frame: pd.DataFrame) -> None:
    word = "column" if len(missing) == 1 else "columns"
    raise ValueError(
        f"{path.name} has no {word} {_list(missing)}; it has {', '.join(map(str, frame.columns))}"
    )


def _numbers(frame: pd.DataFrame, column: str) -> Floats:
    """The column's numbers, NaN where there is none; ValueError where it holds other text."""
    text = frame[column].str.strip()
    missing = text.str.lower().isin(_MISSING)
    values = pd.to_numeric(text.where(~missing), errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(np.isnan(values) & ~missing.to_numpy(bool))
    if len(wrong):
        raise ValueError(
            f"column {column!r} is not numeric: line {wrong[0] + 2} has {text.iloc[wrong[0]]!r}"
        )
    return values


def _aim(text: str, usual: str) -> tuple[str, float]:
    """The column, and 1 where it is to be large, -1 where it is to be small."""
    column, colon, way = text.rpartition(":")
    if not colon:
        column, way = text, usual
    if way not in ("max", "min"):
        raise ValueError(f"{text!r} must end in ':max' or ':min', or in neither")
    return column, 1.0 if way == "max" else -1.0


def _split_limit(text: str) -> tuple[str, bool, str, str]:
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise ValueError(f"limit {text!r} must read 'column<=value' or 'column>=value'")
    return found[1], found[2] == "<=", found[3], text


def _limit(parts: tuple[str, bool, str, str], values: Floats) -> _Limit:
    column, upper, value, text = parts
    quantile = _QUANTILE.fullmatch(value)
    try:
        if value == "median" or quantile:
            share = float(quantile[1]) / 100 if quantile else 0.5
            if share > 1:
                raise ValueError
            number = float(np.quantile(values, share))
        else:
            number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"limit {text!r}: {value!r} must be a number, 'median', or a quantile such as 'q25'"
        ) from None
    return _Limit(column, upper, number, text)


def _genes(frame: pd.DataFrame, reading: Reading) -> tuple[Codes, tuple[Variable, ...]]:
    columns, names = [], []
    for name in reading.genes:
        column = name.removesuffix(DIGITS)
        values = frame[column].str.strip()
        lengths = values.str.len()
        digits = bool(values.str.fullmatch("[0-9]+").all())
        if name.endswith(DIGITS) and not (digits and lengths.nunique() == 1):
            raise ValueError(f"column {column!r} must hold digits, equally many in every row")
        alone = len(reading.genes) == 1 and digits and lengths.nunique() == 1
        if name.endswith(DIGITS) or (alone and lengths.iloc[0] > 1):
            for i in range(int(lengths.iloc[0])):
                columns.append(values.str[i])
                names.append(f"{column}[{i}]")
            continue
        if (empty := np.flatnonzero(values == "")).size:
            raise ValueError(f"gene {column!r} has no value in line {frame.line[empty[0]] + 2}")
        columns.append(values)
        names.append(column)
    coded, variables = [], []
    for name, values in zip(names, columns, strict=True):
        choices = _sorted(values.unique())
        place = {text: i for i, text in enumerate(choices)}
        coded.append(values.map(place).to_numpy(np.int64))
        variables.append(Variable(name, tuple(_plain(text) for text in choices)))
    return np.column_stack(coded), tuple(variables)


def _sorted(values: Sequence[str]) -> list[str]:
    """By number where all are numbers, else by text."""
    try:
        return sorted(values, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(values)


def _plain(text: str) -> Any:
    """The number that the text is, if it is written so."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            pass
    return text


def _groups(frame: pd.DataFrame, reading: Reading, genes: Sequence[str]) -> Codes:
    """The number of the network that each row is, (N,); a row each without merging."""
    if reading.merge and reading.same_as is not None:
        raise ValueError("merge and same_as cannot both say which rows are one network")
    if reading.same_as is not None:
        return pd.factorize(frame[reading.same_as].str.strip())[0].astype(np.int64)
    if reading.merge:
        rest = [c for c in frame.columns if c not in genes and c != "line"]
        return frame.groupby(rest, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    return np.arange(len(frame), dtype=np.int64)


def _without_repeats(
    frame: pd.DataFrame,
    codes: Codes,
    numbers: Mapping[str, Floats],
    groups: Codes,
    notes: list[str],
) -> Codes:
    """The first row of each that have the same genes; ValueError where they differ elsewhere."""
    _, first, place = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    original = first[place.reshape(-1)]
    repeats = np.flatnonzero(original != np.arange(len(codes)))
    for name, values in numbers.items():
        other = repeats[values[repeats] != values[original[repeats]]]
        if len(other):
            lines = [int(frame.line[i]) + 2 for i in (original[other[0]], other[0])]
            raise ValueError(
                f"lines {lines[0]} and {lines[1]} have the same genes, but {name} is "
                f"{values[original[other[0]]]:g} and {values[other[0]]:g}; "
                f"{len(other)} rows are such"
            )
    if len(repeats):
        notes.append(f"{len(repeats)} rows are repeats of others and left out")
    return np.sort(first)


def _check_merged(
    frame: pd.DataFrame, numbers: Mapping[str, Floats], groups: Codes, same_as: str | None
) -> None:
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    original = first[place.reshape(-1)]
    for name, values in numbers.items():
        other = np.flatnonzero(values != values[original])
        if len(other):
            lines = [int(frame.line.iloc[i]) + 2 for i in (original[other[0]], other[0])]
            raise ValueError(
                f"lines {lines[0]} and {lines[1]} are one network by {same_as!r}, but differ in "
                f"{name!r}"
            )


# ---- rows


class _Index:
    """Finds rows of a table by hash; hashes of the table's own rows differ."""

    def __init__(self, rows: Codes):
        self._rows = rows
        for attempt in range(100):
            odd = np.random.default_rng(attempt).integers(0, 2**63, rows.shape[1], np.uint64)
            self._weights = odd * np.uint64(2) + np.uint64(1)
            hashes = self._hash(rows)
            self._order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[self._order]
            if len(np.unique(hashes)) == len(rows):
                return
        raise AssertionError("rows of a table must differ")

    def _hash(self, rows: Codes) -> NDArray[np.uint64]:
        return (rows.astype(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64)

    def places(self, rows: Codes) -> Codes:
        """Where in the table each row is, (B,); -1 where it is not."""
        at = np.searchsorted(self._hashes, self._hash(rows))
        places = self._order[np.minimum(at, len(self._order) - 1)]
        return np.where((self._rows[places] == rows).all(axis=1), places, -1)


class _Keys:
    """The number of the network that a row is."""

    def __init__(self, index: _Index, groups: Codes):
        self._index, self._groups = index, groups
        self._known: dict[Row, int] = {}

    def __call__(self, row: Row) -> int | Row:
        row = tuple(row)
        if row not in self._known:
            place = int(self._index.places(np.array([row], np.int64))[0])
            if place < 0:
                return row
            self._known[row] = int(self._groups[place])
        return self._known[row]


class _Costs:
    """What rows cost, (B, V) to (B, K); what is no row costs as much as any."""

    def __init__(self, index: _Index, costs: Floats):
        self._index = index
        self._costs = np.concatenate([costs, costs.max(axis=0, keepdims=True)])

    def __call__(self, codes: Codes) -> Floats:
        return self._costs[self._index.places(codes)]  # -1 is the last


def _costs(
    index: _Index,
    numbers: Mapping[str, Floats],
    limits: Sequence[_Limit],
    known: str | None,
    known_sign: float,
) -> dict[str, Any]:
    """The problem's costs: limited columns, and the second objective where it is known. Costs are
    above 0 and to be small, so some columns are shifted or turned round."""
    columns: dict[str, Floats] = {}
    upper: dict[str, float] = {}
    for limit in limits:
        values, bound = numbers[limit.column], limit.value
        name = limit.column if limit.upper else f"-{limit.column}"
        if not limit.upper:
            values, bound = -values, -bound
        shift = 0.0
        if min(values.min(), bound) <= 0:
            shift = float(max(np.ptp(values), 1.0) - min(values.min(), bound))
            name += f"{shift:+g}"
        columns[name] = values + shift
        # A shift rounds: the largest that is allowed says better where the limit is.
        inside = columns[name][limit.holds(numbers[limit.column])]
        upper[name] = min(float(inside.max()), upper.get(name, math.inf))
    wanted: tuple[str, ...] = ()
    target: str | None = None
    if known is not None:
        values = -known_sign * numbers[known]
        name = known if known_sign < 0 else f"-{known}"
        if values.min() < 0:
            values = values - values.min()
            name += " (from the best)"
        columns[name] = values
        wanted = (name,)
        target = name if values.max() > 0 else None
    if not columns:
        return {}
    return {
        "costs": _Costs(index, np.column_stack(list(columns.values()))),
        "cost_names": tuple(columns),
        "limits": upper,
        "wanted_small": wanted,
        "target": target,
    }


def _first_of_each(groups: Codes, feasible: NDArray[np.bool_]) -> Codes:
    """One feasible row of each network that has one."""
    inside = np.flatnonzero(feasible)
    return inside[np.unique(groups[inside], return_index=True)[1]]


def _truth(judged: Floats, share: float) -> Truth:
    """Of feasible networks, (M, objectives)."""
    if not 0 < share <= 1:
        raise ValueError(f"best is {share}, but must be above 0 and at most 1")
    count = max(1, round(share * len(judged)))
    threshold = float(np.sort(judged[:, 0])[-count])
    reference, area = None, None
    if judged.shape[1] == 2:
        reference = tuple(map(float, judged.min(axis=0)))
        area = hypervolume(judged, judged.min(axis=0))
    return Truth(
        optimum=float(judged[:, 0].max()),
        best=threshold,
        best_count=int((judged[:, 0] >= threshold).sum()),
        reference=reference,
        area=area,
    )


def _facts(reading: Reading) -> dict[str, Any]:
    return {
        "table": reading.path.name,
        "genes": list(reading.genes),
        "objective": reading.objective,
        "second": reading.second,
        "known": reading.known,
        "merge": reading.merge,
        "same_as": reading.same_as,
        "encodings": reading.encodings and reading.encodings.name,
        "line": reading.line,
        "best": reading.best,
    }


def _digest(*arrays: NDArray[Any]) -> int:
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
    return value


def _list(names: Any) -> str:
    return ", ".join(map(str, names))
