"""How fast candidates are scored: one after the other, as a tree, with kept prefixes, in a race.

    python -m benchmarks.scoring --data CIFAR10 --json benchmarks/results/scoring-DEVICE.json

trains the supernet of the default space on CIFAR-10 at the proxy's size for as many steps as a
default run, makes one generation of an evolution (64 children of 16 parents, one gene changed in
each), and scores it on 10,000 images that were not trained on in every way that there is, in turns
and several times over:

- `plain`: each candidate alone, on all images;
- `tree`: what children begin with in common is computed once;
- `kept`: the same, where what their parents began with is still there;
- `race`: the same, and who cannot be among the 16 best any more drops out;
- on a GPU also `graphs`, the tree with each part as a CUDA graph, `graphs race`, and
  `kernels race`, the last with kernels of our own (`supernet/kernels`).

Then: whether outcomes are the same image by image; how often a race over the images in another
order finds the same 16; what slicing weights costs beside the extracted network; what first-order
predictions of single swaps are worth; and which settings of the processor help. Times are wall
times of one machine in one run: compare them as ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.machine import device_name
from evaluator.data import ImageData, Split, load_data
from evaluator.population import PopulationScorer
from evaluator.scoring import Outcomes, SupernetEvaluator
from evaluator.swaps import swap_scores
from search.racing import looks, race
from space import build
from space.decisions import Codes
from space.files import load_space
from space.genome import Genome
from space.search_space import Space
from supernet.augmentation import normalise
from supernet.batches import Batches, ResidentImages
from supernet.checkpoints import Checkpoints
from supernet.frozen import FrozenParts
from supernet.graphs import GraphedParts, RerunParts
from supernet.network import Supernet
from supernet.recipe import TrainingSettings
from supernet.training import Trainer

PARENTS, CHILDREN, PLACES = 16, 64, 16
WAYS = ("plain", "tree", "kept", "race")
GRAPH_WAYS = ("graphs", "graphs race", "kernels race")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--data", required=True, help="CIFAR-10 as a parquet folder, digits, or noise (only times)"
    )
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--side", type=int, default=32, help="of the images, pixels")
    parser.add_argument("--steps", type=int, default=430, help="of the training, 0 for none")
    parser.add_argument("--images", type=int, default=10_000, help="to score on")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--memory", type=int, default=1024, help="MiB of kept prefixes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--orders", type=int, default=1000, help="of images, for the race")
    parser.add_argument("--error", type=float, default=0.01, help="of the race")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        help="also with graphs, and kernels of our own (default: on a GPU)",
    )
    parser.add_argument("--bfloat16", action="store_true", help="score in bfloat16")
    parser.add_argument("--checkpoints", type=Path, help="folder to train into and go on from")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for result in measure(options):
        if options.json is not None:
            aside = options.json.with_name(f".{options.json.name}.partial")
            aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    if options.json is not None:
        aside.replace(options.json)
    return 0


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result, as far as there is one: whole in the end."""
    bench = Bench(options)
    parents, children = bench.generation()
    ways = bench.ways(parents, children)
    result: dict[str, Any] = {
        "benchmark": "scoring",
        "command": " ".join(["python -m benchmarks.scoring", *sys.argv[1:]]),
        "device": device_name(options.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": options.seed,
        "shapes": {
            "space": options.space,
            "width": options.width,
            "side": options.side,
            "images": bench.count,
            "children": len(children),
            "chunk": options.chunk,
        },
        "trained_steps": options.steps,
        "ways": ways,
        "times_faster": {
            way: ways["plain"]["seconds"]["median"] / found["seconds"]["median"]
            for way, found in ways.items()
        },
    }
    yield result
    plain, same = bench.outcomes(children)
    result["mean_score"] = float(np.mean([found.score().score for found in plain]))
    result["same_outcomes_image_by_image"] = same
    yield result
    result["race"] = bench.race_orders(plain, ways)
    yield result
    result["slicing"] = bench.slicing(children)
    yield result
    result["swaps"] = bench.swaps(parents, children)
    result["processor"] = bench.processor(children) if bench.device.type == "cpu" else {}
    yield result


def trained(
    space: Space, data: ImageData, options: argparse.Namespace, device: torch.device
) -> Supernet:
    """The supernet after as many steps as were asked for."""
    if not options.steps:
        return Supernet(space, seed=options.seed, device=device)
    settings = TrainingSettings(steps=options.steps, shift=0.125)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    source = ResidentImages(images, labels, batch=settings.batch, seed=options.seed)
    batches = Batches(source, data.mean, data.std, settings, classes=10, seed=options.seed)
    trainer = Trainer(
        Supernet(space, seed=options.seed, device=device), batches, settings, seed=options.seed
    )
    checkpoints = None if options.checkpoints is None else Checkpoints(options.checkpoints)
    if checkpoints is not None:
        trainer.load(checkpoints)

    def note(done: int, total: int, loss: float) -> None:
        if done % 10 == 0:
            print(f"\rstep {done}/{total}  loss {loss:.3f} ", end="", file=sys.stderr)

    trainer.run(checkpoints, progress=note)
    print(file=sys.stderr)
    return trainer.supernet


def noise(options: argparse.Namespace) -> ImageData:
    """Images of noise, where only times matter."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        size = (count, 3, options.side, options.side)
        images = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % 10)

    return ImageData(
        name="noise",
        classes=tuple(map(str, range(10))),
        train=split(512),
        validation=split(options.images),
        test=None,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        digest="noise",
        skipped=0,
    )


class Bench:
    """A trained supernet, images, and the ways to score networks with them."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, torch.device(options.device)
        self.graphs = self.device.type == "cuda" if options.graphs is None else options.graphs
        data = (
            noise(options)
            if options.data == "noise"
            else load_data(options.data, resolution=options.side)
        )
        self.space = load_space(options.space).scaled(
            width=options.width, resolution=options.side, classes=len(data.classes)
        )
        self.supernet = trained(self.space, data, options, self.device)
        held_out = data.validation if data.test is None else data.test
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(held_out)))
        order = order[: options.images]
        self.images = held_out.images[order].to(self.device)
        self.labels = held_out.labels[order].to(self.device)
        self.count = len(self.images)
        self.calibration = data.train.images[:512].to(self.device)
        self.looks = looks(self.count)
        self.rng = np.random.default_rng(options.seed)
        self.pixels = lambda images: normalise(images, data.mean, data.std)

    def scorer(
        self, *, memory: int = 0, images: int | None = None, way: str = ""
    ) -> PopulationScorer:
        graphs, kernels = "graphs" in way or "kernels" in way, "kernels" in way
        dtype = torch.bfloat16 if self.options.bfloat16 else None
        make = FrozenParts
        if graphs:
            make = GraphedParts if self.device.type == "cuda" else RerunParts
        return PopulationScorer(
            make(self.supernet, dtype=dtype, kernels=kernels),
            self.images[:images],
            self.labels[:images],
            calibration=self.calibration,
            normalise=self.pixels,
            chunk=self.options.chunk,
            looks=[look for look in self.looks if images is None or look <= images],
            memory=memory,
            copies=graphs,
        )

    def alone(self) -> SupernetEvaluator:
        return SupernetEvaluator(
            self.supernet,
            self.images,
            self.labels,
            calibration=self.calibration,
            normalise=self.pixels,
            proxy=lambda genome: genome,
            chunk=self.options.chunk,
        )

    def decode(self, rows: Codes) -> list[Genome]:
        return [self.space.decode(row) for row in rows]

    # ---- who is scored

    def generation(self) -> tuple[list[Genome], list[Genome]]:
        """The 16 best of 64 random networks by a fifth of the images, and 64 different children of
        them, in each of which one gene of its parent is changed."""
        rows = self.space.sample_codes(self.rng, CHILDREN)
        found = self.scorer(images=self.looks[len(self.looks) // 2]).scores(self.decode(rows))
        best = np.argsort([-score.score for score in found], kind="stable")[:PARENTS]
        parents = rows[best]
        seen = {row.tobytes() for row in parents}
        children: list[Codes] = []
        while len(children) < CHILDREN:
            parent = parents[self.rng.integers(PARENTS)][None]
            child = self.space.mutate_codes(parent, self.rng)[0]
            if child.tobytes() not in seen:
                seen.add(child.tobytes())
                children.append(child)
        return self.decode(parents), self.decode(np.stack(children))

    # ---- how long it takes

    def ways(self, parents: list[Genome], children: list[Genome]) -> dict[str, Any]:
        """Seconds and memory of each way to score the children, in turns."""
        memory = self.options.memory * 2**20
        seconds: dict[str, list[float]] = {}
        peaks: dict[str, float] = {}
        notes: dict[str, dict[str, Any]] = {}
        for repeat in range(self.options.repeats):
            for way in WAYS + (GRAPH_WAYS if self.graphs else ()):
                kept = way == "kept" or "race" in way
                scorer = self.scorer(memory=memory if kept else 0, way=way)
                if kept:
                    scorer.measure(parents)  # their prefixes are what is kept
                    scorer.cache.hits = 0
                elif "graphs" in way:
                    scorer.measure(children[:1])
                work, note = self.way(way, scorer, children)
                forget_peak(self.device)
                spent = timed(work, self.device)
                seconds.setdefault(way, []).append(spent)
                peaks[way] = max(peaks.get(way, 0.0), peak(self.device))
                notes[way] = {**note, "kept_mib": scorer.cache.used / 2**20}
                print(f"{repeat + 1}: {way:6} {spent:.1f} s", file=sys.stderr)
        return {
            way: {
                "seconds": spread(found),
                "candidates_a_second": len(children) / statistics.median(found),
                "peak_mib": peaks[way],
                **notes[way],
            }
            for way, found in seconds.items()
        }

    def way(
        self, way: str, scorer: PopulationScorer, children: list[Genome]
    ) -> tuple[Callable[[], Any], dict[str, Any]]:
        note: dict[str, Any] = {}
        if way == "plain":
            alone = self.alone()
            return lambda: [alone.evaluate(genome) for genome in children], note
        if "race" in way:

            def run() -> None:
                ended = race(
                    lambda which, first, last: scorer.measure(
                        [children[i] for i in which], first, last
                    ),
                    len(children),
                    self.looks,
                    places=PLACES,
                    error=self.options.error,
                    settle=True,
                )
                note["winners"] = [int(i) for i in np.flatnonzero(~ended.lost)]
                note["share_of_images"] = float(ended.seen.mean() / self.count)

            return run, note
        return lambda: scorer.measure(children), note

    # ---- whether it is the same

    def outcomes(self, children: list[Genome]) -> tuple[list[Outcomes], bool]:
        """What each child makes of each image, and whether one after the other makes the same."""
        together = self.scorer().measure(children)
        same = True
        for genome, found in zip(children[:8], together, strict=False):
            assert isinstance(found, Outcomes)
            (alone,) = self.scorer().measure([genome])
            assert isinstance(alone, Outcomes)
            same &= bool((alone.log_probabilities() == found.log_probabilities()).all())
        return [found for found in together if isinstance(found, Outcomes)], same

    def race_orders(self, plain: Sequence[Outcomes], ways: dict[str, Any]) -> dict[str, Any]:
        """Races over the same outcomes with the images in other orders."""
        values = np.stack([found.probabilities().numpy() for found in plain])
        best = set(np.argsort(-values.mean(1), kind="stable")[:PLACES].tolist())
        rng, shares, same, kept = np.random.default_rng(1), [], 0, 0
        for _ in range(self.options.orders):
            shuffled = values[:, rng.permutation(self.count)]
            ended = race(
                lambda which, first, last, v=shuffled: [  # type: ignore[misc]
                    Given(v[i, first:last]) for i in which
                ],
                len(values),
                self.looks,
                places=PLACES,
                error=self.options.error,
                settle=True,
            )
            winners = set(np.flatnonzero(~ended.lost).tolist())
            same += winners == best
            kept += len(winners & best)
            shares.append(float(ended.seen.mean() / self.count))
        return {
            "places": PLACES,
            "error": self.options.error,
            "looks": list(self.looks),
            "orders": self.options.orders,
            "same_winners": same / self.options.orders,
            "winners_kept": kept / self.options.orders / PLACES,
            "share_of_images": spread(shares),
            "the_timed_race_found_them": set(ways["race"]["winners"]) == best,
            "gap_at_the_last_place": float(
                np.diff(np.sort(values.mean(1))[::-1][PLACES - 1 : PLACES + 1])[0]
            ),
        }

    # ---- what else there is to know

    @torch.no_grad()
    def slicing(self, children: list[Genome]) -> dict[str, Any]:
        """A candidate in the supernet, its weights cut out in each pass or once, against its
        extracted network, in turns."""
        pixels = self.pixels(self.images[: self.options.chunk])
        ratios: dict[str, list[float]] = {"supernet": [], "frozen": []}
        frozen = FrozenParts(self.supernet)
        for genome in children[:12]:
            network = build(genome).to(self.device).eval()
            buffers = self.supernet.calibrate(genome, [])
            network.load_state_dict(self.supernet.state_of(genome, buffers), strict=False)
            network = network.to(memory_format=torch.channels_last)

            def parts(genome: Genome = genome) -> None:
                x = pixels
                for placed in genome.parts():
                    x = frozen.run(placed, x)

            runs: dict[str, Callable[[], Any]] = {
                "supernet": lambda g=genome: self.supernet(g, pixels),  # type: ignore[misc]
                "frozen": parts,
                "network": lambda n=network: n(pixels),  # type: ignore[misc]
            }
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(7):
                for name, run in runs.items():
                    seconds[name].append(timed(run, self.device))
            for name, found in ratios.items():
                found.append(min(seconds[name]) / min(seconds["network"]))
        return {f"{name}_over_network": spread(found) for name, found in ratios.items()}

    def swaps(self, parents: list[Genome], children: list[Genome]) -> dict[str, Any]:
        """Spearman's rho of first-order predictions with scores, among the neighbours of a parent
        that differ in one part."""
        scorer = self.scorer(images=self.looks[len(self.looks) // 2])
        images = self.images[: self.looks[len(self.looks) // 2]]
        labels = self.labels[: len(images)]
        rhos = []
        for parent in parents[:4]:
            row = self.space.encode(parent)
            near = self.decode(self.space.neighbours(row))
            predicted = swap_scores(self.supernet, parent, near, self.pixels(images), labels)
            pairs = [(p, g) for p, g in zip(predicted, near, strict=True) if p is not None]
            actual = [score.score for score in scorer.scores([g for _, g in pairs])]
            rhos.append(float(spearmanr([p for p, _ in pairs], actual).statistic))
        return {"spearman": rhos, "neighbours": len(pairs), "images": len(images)}

    @torch.no_grad()
    def processor(self, children: list[Genome]) -> dict[str, Any]:
        """Seconds for some children under settings of the processor, over those as they are; and
        for two chunks at once over one after the other, which is what batching equal ends of
        networks could save."""
        chunk = self.pixels(self.images[: self.options.chunk])
        twice = torch.cat([chunk, chunk]).contiguous(memory_format=torch.channels_last)
        rows = chunk.contiguous()
        some = children[:6]

        def all_of(x: torch.Tensor) -> Callable[[], Any]:
            return lambda: [self.supernet(genome, x) for genome in some]

        def bfloat16() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                all_of(chunk)()

        def one_thread() -> None:
            torch.set_num_threads(1)
            try:
                all_of(chunk)()
            finally:
                torch.set_num_threads(self.options.threads)

        tried = {
            "as it is": all_of(chunk),
            "images not channels last": all_of(rows),
            "bfloat16": bfloat16,
            "one thread": one_thread,
            "two chunks at once": all_of(twice),
        }
        seconds = {name: [timed(run, self.device) for _ in range(3)] for name, run in tried.items()}
        least = {name: min(found) for name, found in seconds.items()}
        least["two chunks at once"] /= 2
        return {name: found / least["as it is"] for name, found in least.items()}


class Given:
    """Outcomes that are known already (`evaluator.interfaces.ImageOutcomes`)."""

    def __init__(self, values: Any):
        self._values = [values]

    def extend(self, later: Given) -> None:
        self._values += later._values

    def probabilities(self) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(self._values))

    def finite(self) -> bool:
        return True


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def forget_peak(device: torch.device) -> None:
    """From now on `peak` is of what comes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # then it is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(device: torch.device) -> float:
    """MiB at most: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"median": values[0], "quartile_1": values[0], "quartile_3": values[0], "count": 1}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartile_1": low, "quartile_3": high, "count": len(values)}


if __name__ == "__main__":
    sys.exit(main())
