"""How well latencies of others are predicted from 200 measurements: our predictor and plain ones.

    python -m benchmarks.latency_tables --tables DIR --json benchmarks/results/latency_tables.json

For each device of each table (`benchmarks.published_latencies`; DIR holds them as .csv.gz): 200
random rows are known, all others are predicted, once for each seed; the table of a phone has 69
rows, and each is predicted from the others. Beside it stand

- predictors that take the same 200 rows: a power of MACs; a ridge regression, a random forest,
  gradient boosting and a Gaussian process of scikit-learn, all of the logarithm of the latency,
  with the codes of the table (as numbers for trees, else one-hot) and its numbers (logarithms of
  MACs, parameters and the like);
- what can be reached: Spearman's correlation of the measurements with themselves once more with
  the error of a measurement, as the table's own repeated measurements have it (`repeats`) or as it
  states it (`stated`). Measurements spread more than the truth, so that is too high; with what our
  predictor says from 2,000 rows in place of them it is `spearman_fitted`. And what is reached from
  far more rows, by gradient boosting from 80% of them and by our predictor from 2,000.
- what our predictor does without each of its ideas.

A form of a table (`Form`) is one way to write its rows as sums. Where there are several, all are
fitted and their logarithms averaged, with weights that fall with the error of a 5-fold
cross-validation on the same 200 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # python benchmarks/latency_tables.py
    sys.path.insert(0, str(Path(__file__).parents[1]))

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import scipy
import sklearn
from scipy.stats import spearmanr
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import LinearRegression, Ridge

from benchmarks.published_latencies import (
    TABLES,
    Device,
    Floats,
    Form,
    Integers,
    Table,
    check_counts,
)
from evaluator import latency_regression
from evaluator.latency_regression import Features, PartRegression

KNOWN = 200
FOLDS = 5
SEEDS = 5
SHARPNESS = 10.0  # of the weights of forms: e^-1 for an error that is a tenth larger
MORE, MOST = 2000, 20000  # rows of the fits that say what can be reached
DRAWS = 20
Predict = Callable[[Table, Floats, Integers, Integers], Floats]
Errors = Callable[[Integers], Floats]  # errors of the logarithms of rows, drawn


# ---- predictors: logarithms of the latencies of `test`, from those of `train`


def ours(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    found = np.stack([of_form(table, form, ms, train, test) for form in table.forms])
    if len(found) == 1:
        return found[0]
    errors = np.array([_cross_validated(table, form, ms, train[:KNOWN]) for form in table.forms])
    weights = np.exp(-SHARPNESS * (errors / errors.min() - 1))
    return weights @ found / weights.sum()


def of_form(
    table: Table, form: Form, ms: Floats, train: Integers, test: Integers, floor: bool = True
) -> Floats:
    if table.single:
        model = PartRegression.fit(form.parts[train], np.arange(len(train)), ms[train])
        return np.log(model.predict(form.parts[test]).ms)
    model = PartRegression.fit(
        form.parts, networks=form.rows[train], network_ms=ms[train], floor=floor
    )
    return np.log(model.networks(form.rows[test]))


def _cross_validated(table: Table, form: Form, ms: Floats, train: Integers) -> float:
    errors = []
    for fold in range(FOLDS):
        held = train[fold::FOLDS]
        found = of_form(table, form, ms, np.setdiff1d(train, held), held)
        errors.append(np.abs(found - np.log(ms[held])))
    return float(np.concatenate(errors).mean())


def macs(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    size = np.log(table.size)[:, None]
    return LinearRegression().fit(size[train], np.log(ms[train])).predict(size[test])


def linear(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    x = one_hot(table, train)
    return Ridge(1e-2).fit(x[train], np.log(ms[train])).predict(x[test])


def forest(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    x = np.concatenate([table.codes, table.numbers], axis=1)
    return (
        RandomForestRegressor(300, random_state=0).fit(x[train], np.log(ms[train])).predict(x[test])
    )


def boosting(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    x = np.concatenate([table.codes, table.numbers], axis=1)
    model = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.7, random_state=0
    )
    return model.fit(x[train], np.log(ms[train])).predict(x[test])


def gaussian_process(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    x, y = one_hot(table, train), np.log(ms)
    smooth = ConstantKernel(1.0) * RBF(3.0) + ConstantKernel(0.5) * DotProduct(1.0)
    model = GaussianProcessRegressor(smooth + WhiteKernel(0.01), alpha=1e-8)
    centre, spread = y[train].mean(), y[train].std()
    model.fit(x[train], (y[train] - centre) / spread)
    parts = np.array_split(test, max(1, len(test) // 5000))
    return np.concatenate([model.predict(x[part]) for part in parts]) * spread + centre


def boosting_of_sums(table: Table, ms: Floats, train: Integers, test: Integers) -> Floats:
    """Gradient boosting that also sees what we predict: what the sum misses, learnt from codes."""
    rows = np.concatenate([train, test])
    x = np.concatenate([table.codes[rows], ours(table, ms, train, rows)[:, None]], axis=1)
    model = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.03, max_depth=3, subsample=0.7, random_state=0
    )
    return model.fit(x[: len(train)], np.log(ms[train])).predict(x[len(train) :])


def one_hot(table: Table, train: Integers) -> Floats:
    """Codes as columns of 0 and 1, and numbers in units of the known rows."""
    columns = [
        (table.codes[:, v, None] == np.unique(table.codes[train, v])).astype(float)
        for v in range(table.codes.shape[1])
    ]
    spread = np.maximum(table.numbers[train].std(axis=0), 1e-9)
    numbers = (table.numbers - table.numbers[train].mean(axis=0)) / spread
    return np.concatenate([*columns, numbers], axis=1)


METHODS: Mapping[str, Predict] = {
    "sums over parts": ours,
    "MACs": macs,
    "linear": linear,
    "random forest": forest,
    "gradient boosting": boosting,
    "Gaussian process": gaussian_process,
    "boosting on sums": boosting_of_sums,
}


# ---- our predictor without one of its ideas


class Without:
    """Constants of `evaluator.latency_regression` that are others for a while."""

    def __init__(self, **changed: float):
        self._changed = changed

    def __enter__(self) -> None:
        self._kept = {name: getattr(latency_regression, name) for name in self._changed}
        vars(latency_regression).update(self._changed)

    def __exit__(self, *_: object) -> None:
        vars(latency_regression).update(self._kept)


def _plain(table: Table, change: Callable[[Features], Features]) -> Table:
    form = table.forms[0]
    changed = Form(change(form.parts), form.rows)
    return Table(**{**vars(table), "forms": [changed]})


def _no_amounts(parts: Features) -> Features:
    """No roofline: what a part costs is thought to be one constant for each kind."""
    return Features(parts.categories, parts.amounts[:, :0], parts.sizes)


def _no_sizes(parts: Features) -> Features:
    """Relatives are those with equal settings."""
    return Features(parts.categories, parts.amounts, parts.sizes[:, :0])


def ablations(table: Table, ms: Floats, train: Integers, test: Integers) -> dict[str, Floats]:
    whole = _plain(table, lambda parts: parts)

    def fitted(of: Table, floor: bool = True) -> Floats:
        return of_form(of, of.forms[0], ms, train, test, floor)

    found = {"all": fitted(whole)}
    with Without(_PASSES=1):
        found["one pass: f = m (1 + g)"] = fitted(whole)
    with Without(_FREEDOM=1e9):
        found["normal errors"] = fitted(whole)
    if not table.single:
        found["no floor"] = fitted(whole, floor=False)
    if whole.forms[0].parts.sizes.shape[1]:
        found["no roofline"] = fitted(_plain(table, _no_amounts))
        found["no sizes in the covariance"] = fitted(_plain(table, _no_sizes))
    return found


# ---- what is reported


def scores(logarithms: Floats, ms: Floats) -> dict[str, float]:
    """Spearman's correlation, the median of the error relative to what was measured, and the share
    of rows with less than 10 % and 5 %."""
    errors = np.abs(np.exp(logarithms) / ms - 1)
    return {
        "spearman": float(spearmanr(logarithms, ms)[0]),
        "median_error": float(np.median(errors)),
        "within_10": float((errors < 0.1).mean()),
        "within_5": float((errors < 0.05).mean()),
    }


def spread(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest over seeds, of each score."""
    table = {name: [one[name] for one in found] for name in found[0]}
    return {
        name: {"mean": float(np.mean(v)), "low": min(v), "high": max(v)}
        for name, v in table.items()
    }


def reachable(table: Table, device: Device, seed: int = 0) -> dict[str, Any]:
    """Spearman's correlations that bound, or show, what can be reached."""
    rng, rows = np.random.default_rng(seed), device.rows()
    found: dict[str, Any] = {}
    drawn: dict[str, Errors] = {}
    pairs = table.repeats[np.isin(table.repeats, rows).all(axis=1)]
    if len(pairs):
        away = np.log(device.ms[pairs[:, 0]] / device.ms[pairs[:, 1]]) / np.sqrt(2)
        drawn["repeats"] = lambda of: away[rng.integers(0, len(away), len(of))]
        found["repeats"] = {"pairs": len(pairs), "error": float(np.sqrt(np.mean(away**2)))}
    if device.stated is not None:
        stated = device.stated
        drawn["stated"] = lambda of: stated[of] * rng.normal(size=len(of))
        found["stated"] = {"error": float(np.sqrt(np.mean(stated[rows] ** 2)))}
    for name, errors in drawn.items():
        found[name]["spearman"] = _again(np.log(device.ms[rows]), rows, errors, rng)
    if len(rows) > 5 * KNOWN:
        train, test = np.split(rng.permutation(rows), [min(len(rows) * 4 // 5, MOST)])
        found["boosting"] = _boosting_from_more(table, device, train, test)
        fitted = ours(table, device.ms, train[:MORE], test)
        found["ours"] = {"rows": len(train[:MORE])} | scores(fitted, device.ms[test])
        for name, errors in drawn.items():
            found[name]["spearman_fitted"] = _again(fitted, test, errors, rng)
    return found


def _again(logarithms: Floats, rows: Integers, errors: Errors, rng: np.random.Generator) -> float:
    """Mean correlation of latencies with themselves, measured once more."""
    draws = []
    for _ in range(DRAWS):
        signs = rng.choice([-1.0, 1.0], len(rows))
        draws.append(spearmanr(logarithms, logarithms + signs * errors(rows))[0])
    return float(np.mean(draws))


def _boosting_from_more(
    table: Table, device: Device, train: Integers, test: Integers
) -> dict[str, Any]:
    x = np.concatenate([table.codes, table.numbers], axis=1)
    model = HistGradientBoostingRegressor(max_iter=500, learning_rate=0.06, random_state=0)
    logarithms = model.fit(x[train], np.log(device.ms[train])).predict(x[test])
    return {"rows": len(train)} | scores(logarithms, device.ms[test])


def covered(table: Table, ms: Floats, train: Integers, test: Integers) -> dict[str, float]:
    """The share of rows that are not further from the first form's prediction than one and two of
    its standard deviations."""
    form = table.forms[0]
    model = PartRegression.fit(
        form.parts, networks=form.rows[train], network_ms=ms[train], floor=True
    )
    rows = form.rows[test]
    away = np.abs(ms[test] - model.networks(rows)) / model.deviations(rows)
    return {"one": float((away < 1).mean()), "two": float((away < 2).mean())}


def judge(table: Table, device: Device, seeds: int) -> dict[str, Any]:
    """Everything about one device."""
    rows, began = device.rows(), time.process_time()
    left: dict[str, list[dict[str, float]]] = {}
    inside: list[dict[str, float]] = []
    if len(rows) < 2 * KNOWN:
        methods = {
            name: [_leave_one_out(table, device, predict)] for name, predict in METHODS.items()
        }
    else:
        methods = {name: [] for name in METHODS}
        for seed in range(seeds):
            train, test = np.split(np.random.default_rng(seed).permutation(rows), [KNOWN])
            for name, predict in METHODS.items():
                logarithms = predict(table, device.ms, train, test)
                methods[name].append(scores(logarithms, device.ms[test]))
            for name, logarithms in ablations(table, device.ms, train, test[:MOST]).items():
                left.setdefault(name, []).append(scores(logarithms, device.ms[test[:MOST]]))
            if not table.single:
                inside.append(covered(table, device.ms, train, test[:MOST]))
    return {
        "rows": len(rows),
        "methods": {name: spread(found) for name, found in methods.items()},
        "covered": spread(inside) if inside else {},
        "without": {name: spread(found) for name, found in left.items()},
        "reachable": reachable(table, device),
        "seconds": round(time.process_time() - began),
    }


def _leave_one_out(table: Table, device: Device, predict: Predict) -> dict[str, float]:
    rows = device.rows()
    logarithms = [
        float(predict(table, device.ms, np.delete(rows, i), rows[i : i + 1])[0])
        for i in range(len(rows))
    ]
    return scores(np.array(logarithms), device.ms[rows])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency_tables", allow_abbrev=False)
    parser.add_argument("--tables", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", nargs="*", choices=[*TABLES], help="the others are kept")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    options = parser.parse_args(words)
    warnings.filterwarnings("ignore", module="sklearn")  # a Gaussian process at its bounds
    kept = json.loads(options.json.read_text())["tables"] if options.json.exists() else {}
    for name in options.only or TABLES:
        table = TABLES[name](options.tables)
        devices = {}
        for device, measured in table.devices.items():
            devices[device] = judge(table, measured, options.seeds)
            _show(device, devices[device])
        about = {"title": table.title, "source": table.source, "licence": table.licence}
        kept[name] = about | {"rows": len(table.codes), "devices": devices}
        if name == "accel_nasbench":
            kept[name]["counts"] = check_counts(options.tables)
        document = _about(options) | {"tables": kept}
        options.json.write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
    return 0


def rounded(value: Any) -> Any:
    """The same with five digits behind the point."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def _about(options: argparse.Namespace) -> dict[str, Any]:
    given = ["--tables", "DIR", "--json", str(options.json)]  # a folder says nothing elsewhere
    if options.seeds != SEEDS:
        given += ["--seeds", str(options.seeds)]
    return {
        "benchmark": "latency_tables",
        "command": shlex.join(["python", "-m", "benchmarks.latency_tables", *given]),
        "device": f"{platform.machine()} CPU, 1 thread",
        "seeds": list(range(options.seeds)),
        "known": KNOWN,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "sklearn": sklearn.__version__,
            "pandas": pd.__version__,
        },
    }


def _show(device: str, found: Mapping[str, Any]) -> None:
    one = found["methods"]["sums over parts"]
    print(
        f"{device:32s} {one['spearman']['mean']:.4f} ({one['spearman']['low']:.4f} to "
        f"{one['spearman']['high']:.4f}), {one['median_error']['mean']:.2%}, "
        f"{one['within_10']['mean']:.1%} within 10%; {found['seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
