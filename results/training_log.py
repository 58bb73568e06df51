"""What is written down of a training as it goes on: tables, TensorBoard, and others if asked for.

Tables are made anew from the training's own state, so that one which was stopped and goes on leaves
no gap and nothing twice. TensorBoard is told from where its curves begin again; MLflow and W&B go
on with the run whose name they find in the folder.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from results.run_folder import write_text

OPTIONAL = ("mlflow", "wandb")
CURVE_POINTS = 2000  # of the loss, about, that are written to others
COLUMNS = ("step", "epoch", "loss", "learning_rate", "accuracy", "validation_loss", "seconds")


class Training(Protocol):
    """What is asked of a training."""

    step: int
    steps: int
    losses: list[float]
    probes: list[dict[str, Any]]

    def learning_rate(self, step: int) -> float: ...


class Writer(Protocol):
    """Whoever draws curves."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_logs(names: Iterable[str]) -> None:
    """ValueError where one of them is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"log is {name!r}, which is not installed: pip install {name}, or leave out "
                f"--log {name}"
            )


class TrainingLog:
    """The log of one training in `folder`; `names` are those of `OPTIONAL` that hear of it, too,
    and `about` is what they are told of its settings."""

    def __init__(
        self, folder: Path, training: Training, names: Sequence[str], about: Mapping[str, Any]
    ):
        self._folder, self._training = folder, training
        folder.mkdir(parents=True, exist_ok=True)
        self._every = max(1, training.steps // CURVE_POINTS)
        board = _TensorBoard(folder / "tensorboard", training.step)
        self._writers: list[Writer] = [board, *(_MAKERS[name](folder, about) for name in names)]

    def stepped(self) -> None:
        """After a step."""
        training = self._training
        if training.step % self._every == 0:
            rate = training.learning_rate(training.step - 1)
            self._write({"training/loss": training.losses[-1], "training/learning_rate": rate})

    def looked(self) -> None:
        """After somebody has looked at the network."""
        probe = self._training.probes[-1]
        self._write({f"validation/{k}": probe[k] for k in ("accuracy", "loss")})
        write_tables(self._folder, self._training.losses, self._training.probes)

    def _write(self, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(self._training.step, values)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_tables(folder: Path, losses: Sequence[float], probes: Sequence[Mapping]) -> None:
    """`metrics.csv` and `metrics.json`: a row for each time that somebody looked."""
    rows = metrics(losses, probes)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "metrics.csv", out.getvalue())
    write_text(folder / "metrics.json", json.dumps(rows, indent=1) + "\n")


def metrics(losses: Sequence[float], probes: Sequence[Mapping]) -> list[dict[str, float]]:
    """Rows of `COLUMNS`; `loss` is the mean of the training's since the row before."""
    rows, before = [], 0
    for probe in probes:
        since = losses[before : probe["step"]]
        row = {"loss": sum(since) / len(since), "validation_loss": probe["loss"]}
        names = ("step", "epoch", "learning_rate", "accuracy", "seconds")
        rows.append(row | {name: probe[name] for name in names})
        before = probe["step"]
    return [{name: row[name] for name in COLUMNS} for row in rows]


# ---- who draws curves


class _TensorBoard:
    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter  # brings protobuf; nobody else wants it

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    def __init__(self, folder: Path, about: Mapping[str, Any]):
        import mlflow

        kept = folder / ".mlflow-run"
        known = kept.read_text(encoding="utf-8") if kept.is_file() else None
        self._mlflow = mlflow
        run = mlflow.start_run(run_id=known, run_name=None if known else str(about["name"]))
        if known is None:
            mlflow.log_params(dict(about))
            write_text(kept, run.info.run_id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _Wandb:
    def __init__(self, folder: Path, about: Mapping[str, Any]):
        import wandb

        kept = folder / ".wandb-run"
        known = kept.read_text(encoding="utf-8") if kept.is_file() else None
        self._run = wandb.init(
            project="chimera",
            name=str(about["name"]),
            config=dict(about),
            dir=str(folder),
            id=known,
            resume="allow",
        )
        if known is None:
            write_text(kept, self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_MAKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Writer]] = {
    "mlflow": _Mlflow,
    "wandb": _Wandb,
}
