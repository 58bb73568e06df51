"""Trainings that climb rungs (`search.halving`), of proxies or of whole networks.

Two things are kept, so that a command can be stopped and given again: each training's
checkpoints, with what was found at its rungs, and a log of who came to which rung and went on. The
log belongs to one choice of networks and rungs, the checkpoints serve any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from commands.alone import Unfit
from results.console import Console, Meter
from results.finalists import Log
from search.halving import Halving, Ladder, Reached, climb
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.training import AloneTrainer, Diverged

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]


class Climbing:
    """Trains networks from rung to rung (`search.halving.RungWork`). A piece has a `genome` as
    JSON, a `seed`, `steps` of the whole training, and its `rungs`; the value at a rung is the
    accuracy on validation images.

    Checkpoints are in a folder of `home` for each training; the last has what was found at all its
    rungs.
    """

    def __init__(self, home: Path):
        self._home = home

    def make(self, genome: Genome, piece: Mapping[str, Any]) -> AloneTrainer:
        """A training at its beginning."""
        raise NotImplementedError

    def looked(self, trainer: AloneTrainer) -> dict[str, Any]:
        """What is found where a training is: `accuracy` on validation images, and what else is to
        be known of it."""
        raise NotImplementedError

    def begun(self, trainer: AloneTrainer, place: Path) -> None:
        """Hears of a training that is taken up, whose files are in `place`."""

    def stepped(self, trainer: AloneTrainer) -> None:
        """Hears of every step."""

    def seen(self, trainer: AloneTrainer) -> None:
        """Hears of what was found at a rung."""

    def ended(self) -> None:
        """Hears that the training ends here, for now."""

    def __call__(self, piece: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        genome = Genome.from_json(piece["genome"])
        place = training_folder(self._home, genome, piece["steps"], piece["seed"])
        checkpoints = Checkpoints(place)
        with one_at_a_time(place):
            trainer = self._taken_up(genome, piece, checkpoints)
            try:
                self.begun(trainer, place)
                seen = {probe["step"]: probe for probe in trainer.probes}
                losses = trainer.advance(checkpoints)
                for rung in piece["rungs"]:
                    if rung not in seen:
                        for loss in losses:
                            self.stepped(trainer)
                            if trainer.step == rung:
                                break
                            yield {"step": trainer.step, "loss": loss}
                        found = {"step": trainer.step, **self.looked(trainer)}
                        seen[rung] = found | {"seconds": trainer.seconds}
                        trainer.probes.append(seen[rung])
                        self.seen(trainer)
                        trainer.save(checkpoints)
                    yield _report(seen[rung])
            except (Diverged, Unfit) as error:
                yield {"problem": str(error)}
            finally:
                self.ended()
                trainer.close()

    def _taken_up(
        self, genome: Genome, piece: Mapping[str, Any], checkpoints: Checkpoints
    ) -> AloneTrainer:
        """Where its checkpoint ends; at the beginning where that is no good, or past a rung at
        which nobody has looked, as where the rungs are others now."""
        trainer = self.make(genome, piece)
        try:
            trainer.load(checkpoints)
            seen = {probe["step"] for probe in trainer.probes}
            if all(rung > trainer.step or rung in seen for rung in piece["rungs"]):
                return trainer
        except (ValueError, KeyError):
            pass
        trainer.close()
        return self.make(genome, piece)


def training_folder(home: Path, genome: Genome, steps: int, seed: int) -> Path:
    """Where the checkpoints of a training are."""
    return home / f"{genome.digest}-{steps}-{seed}"


def _report(found: Mapping[str, Any]) -> dict[str, Any]:
    details = {key: value for key, value in found.items() if key not in ("step", "accuracy")}
    return {"step": found["step"], "value": found["accuracy"], "details": details}


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits for another process that trains in `folder`: a worker whose command was killed lives
    some seconds longer. Where files cannot be locked, nobody waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def log_of(home: Path, of: Mapping[str, Any]) -> Log:
    """The log of trainings that are `of` this: it lies in `home`."""
    key = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
    return Log(home / f"{key}.json", of)


def climb_all(
    work: Climbing,
    pieces: Sequence[Mapping[str, Any]],
    halving: Halving,
    log: Log,
    elsewhere: Callable[[Ladder, Callable[[], None]], None],
    *,
    workers: int,
    console: Console,
) -> Ladder:
    """Trains the pieces until each has come to the end, was stopped, or failed: in this process, or
    where there are several `workers` `elsewhere`, which gets the ladder and what is to be called
    when something was noted on it. What was done before is read, the rest kept as it is done."""
    ladder = _ladder(halving, [Genome.from_json(piece["genome"]).digest for piece in pieces], log)
    with ExitStack() as until_done:
        meter: Meter | None = None

        def progress() -> None:
            nonlocal meter
            if meter is None:  # only now: until workers have started, there is nothing to tell
                shown = console.progress(
                    "training finalists, steps", ladder.expected_steps(), ladder.done_steps()
                )
                meter = until_done.enter_context(shown)
            meter.update(ladder.done_steps(), _note(ladder), ladder.expected_steps())

        while True:
            left = sum(bool(ladder.wanted(place)) for place in range(len(pieces)))
            if workers > 1 and left > 1:
                console.say(f"starting {min(workers, left)} workers")
                elsewhere(ladder, progress)
            else:
                climb(work, pieces, ladder, progress)
            if not ladder.revive():
                return ladder


def _ladder(halving: Halving, keys: Sequence[str], log: Log) -> Ladder:
    """From what the log has of the networks; it is told of what happens from now on."""
    entries = {i: log.networks[key] for i, key in enumerate(keys) if key in log.networks}

    def changed(place: int) -> None:
        lasts = place in ladder.problems and place not in ladder.passing
        entry = {
            "reached": [
                [found.step, found.value, found.goes_on, dict(found.details)]
                for found in ladder.reached[place]
            ],
            "problem": ladder.problems[place] if lasts else None,
        }
        log.write(keys[place], entry)

    ladder = Ladder(
        halving,
        len(keys),
        known={i: [Reached(*found) for found in e["reached"]] for i, e in entries.items()},
        problems={i: e["problem"] for i, e in entries.items() if e["problem"] is not None},
        changed=changed,
    )
    return ladder


def _note(ladder: Ladder) -> str:
    """Of the highest rung to which anyone came."""
    for rung in reversed(ladder.halving.rungs):
        there = ladder.at(rung)
        if there:
            best = max(found.value for found in there.values())
            return f"{len(there)} came to {rung:,} steps, best accuracy {best:.1%}"
    return ""
