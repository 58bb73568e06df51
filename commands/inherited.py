"""The networks that `run_search.py train` is asked for, and the weights that they may inherit."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.alone import open_folder
from commands.finalists import Finalist, ranked, searched
from commands.job import Job
from commands.own_size import WEIGHTS, State, read_state, without_buffers
from commands.zoo import read_genome
from results.console import Console
from results.history import Row
from results.run_folder import RunFolder
from space.genome import Genome
from supernet.checkpoints import Checkpoints
from supernet.network import Supernet


@dataclass(frozen=True, eq=False)
class Found:
    """Networks by the names that they go by, each as it was `found` and as it is trained (its
    `proxy`, which has the classes of the data and the resolution that was asked for)."""

    names: tuple[str, ...]
    networks: tuple[Finalist, ...]
    path: Path | None = None  # of an export
    run: tuple[RunFolder, Job] | None = None

    @property
    def trained(self) -> list[Genome]:
        return [network.proxy for network in self.networks]


def find(options: argparse.Namespace, device: str, console: Console) -> Found:
    """ValueError where there is no such network, or are not so many."""
    text, path = options.network, Path(options.network)
    if (path / "config.yaml").is_file():
        return _of_run(path, options.networks, device, console)
    if options.networks > 1:
        raise ValueError(
            f"networks is {options.networks}, but {text!r} is one network: several are chosen from "
            "a run folder, which has a config.yaml"
        )
    if path.is_dir() and not (path / "genome.json").is_file():
        raise ValueError(
            f"{text!r} has neither a config.yaml nor a genome.json: give a run folder, an exported "
            "network, a genome.json, or the name of a preset"
        )
    name, genome = read_genome(text)
    if path.is_file():
        path = path.parent
    return Found(
        (name,), (Finalist(genome, genome, "front", None),), path if path.is_dir() else None
    )


def _of_run(path: Path, count: int, device: str, console: Console) -> Found:
    folder, settings, job = open_folder(path, device, console)
    rows = searched(folder, settings)
    chosen: dict[str, tuple[Row, Finalist]] = {}
    if count == 1:
        won = _winner(folder, rows)
        if won is not None:
            console.say(f"{won.name} has won among the run's finalists")
            genome = Genome.from_json(won.genome)
            chosen[won.digest] = (won, Finalist(genome, genome, "best", won.score))
    for group, row in ranked(job, folder, rows):
        if len(chosen) < count and row.digest not in chosen:
            genome = Genome.from_json(row.genome)
            chosen[row.digest] = (row, Finalist(genome, genome, group, row.score))
    if len(chosen) < count:
        raise ValueError(
            f"networks is {count}, but {str(path)!r} has only {len(chosen)} at its budget or on "
            "its front"
        )
    names = tuple(row.name for row, _ in chosen.values())
    return Found(names, tuple(network for _, network in chosen.values()), run=(folder, job))


def _winner(folder: RunFolder, rows: Sequence[Row]) -> Row | None:
    """Of the run's finalists, if they were trained and it is one of the search's own."""
    try:
        digest = json.loads(folder.finalists.read_text(encoding="utf-8"))["winner"]
    except (OSError, ValueError, KeyError):
        return None
    return next((row for row in rows if row.digest == digest), None)


def fitted(found: Found, classes: int, resolution: int | None) -> Found:
    """The networks for the classes of the data, and images of `resolution` pixels; ValueError where
    one cannot be."""
    networks = []
    for name, network in zip(found.names, found.networks, strict=True):
        if network.genome.in_channels != 3:
            raise ValueError(f"{name} has {network.genome.in_channels} input channels, not 3")
        try:
            proxy = network.genome.at(resolution=resolution, classes=classes)
            proxy.cost()
        except ValueError as error:
            raise ValueError(
                f"{name} cannot be trained on images of {resolution or network.genome.resolution} "
                f"pixels: {error}"
            ) from None
        networks.append(dataclasses.replace(network, proxy=proxy))
    return dataclasses.replace(found, networks=tuple(networks))


# ---- inherited weights


def inherit(found: Found) -> dict[str, State]:
    """The weights that a supernet has for each of the networks, by digest. ValueError, with what to
    do, where it has none of their size."""
    if found.run is None:
        return _of_export(found)
    folder, job = found.run
    for network in found.networks:
        _check_size(folder, job, network)
    supernet = _trained_supernet(folder, job, found.trained[0].classes)
    starts: dict[str, State] = {}
    for network in found.networks:
        proxy = supernet.space.decode(job.space.encode(network.genome))
        starts[network.proxy.digest] = supernet.state_of(proxy)
    return starts


def _of_export(found: Found) -> dict[str, State]:
    (genome,) = found.trained
    file = None if found.path is None else found.path / WEIGHTS
    if file is None or not file.is_file():
        raise ValueError(
            f"{found.names[0]} has no weights to inherit: give a run folder, or an exported folder "
            f"that has {WEIGHTS}; or leave out --inherit"
        )
    return {genome.digest: without_buffers(genome, read_state(genome, file))}


def _check_size(folder: RunFolder, job: Job, network: Finalist) -> None:
    """ValueError where the supernet of a run has no network of this size."""
    settings, genome = job.settings, network.genome
    what = None
    if settings.proxy_width != 1:
        what = f"its networks have {settings.proxy_width:g} of the width"
    elif network.proxy.resolution != settings.proxy_resolution:
        what = (
            f"its networks have images of {settings.proxy_resolution} pixels, and this one of "
            f"{network.proxy.resolution}"
        )
    if what is not None:
        raise ValueError(
            f"the supernet of {str(folder.path)!r} has no weights of this size to inherit: {what}; "
            "leave out --inherit, or search with --proxy-width 1 --proxy-resolution "
            f"{genome.resolution}"
        )


def _trained_supernet(folder: RunFolder, job: Job, classes: int) -> Supernet:
    """ValueError where it tells other classes apart."""
    kept = Checkpoints(folder.checkpoints).latest()
    if kept is None:
        raise ValueError(f"{str(folder.path)!r} has no checkpoint of its supernet to inherit from")
    prefix = "weight:"
    tensors = {k.removeprefix(prefix): v for k, v in kept[0].items() if k.startswith(prefix)}
    supernet = job.supernet(classes)
    try:
        supernet.load(tensors)
    except ValueError as error:
        raise ValueError(
            f"the supernet of {str(folder.path)!r} does not fit the data, which have {classes} "
            f"classes: {error}; train on the data of the run, or leave out --inherit"
        ) from None
    return supernet
