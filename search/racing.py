"""Races: networks are compared on the same images, and who cannot win any more stops early.

After each *look* all that are still running have been seen on the same first n of N images. One is
*ahead* of another where the mean of their differences, image by image, is further from zero than
chance explains. The images are drawn without replacement from those that decide in the end, so
what chance explains shrinks to nothing as n comes to N, and the verdict on all images is exact.

Comparing on the same images is what makes this cheap: networks mostly fail on the same ones
(Maron and Moore, 1994, "Hoeffding races", NIPS 6, section 5, on blocking). The test is a
normal one on the paired differences, with the correction for finite populations (Cochran, 1977,
"Sampling techniques", section 2.6), shared out among the looks as Bonferroni does. A network drops
out only where as many rivals as there are places are each ahead of it, so to lose one that belongs
among the winners, the test must err for at least one pair that includes it. The share of races that
lose a winner is measured in `benchmarks/scoring.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evaluator.interfaces import GroupEvaluator, ImageOutcomes, Measured, Score
from search.interfaces import Outcome
from search.proposals import BAND
from search.reward import absolute_reward
from search.workers import Done, Unit, one_line

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Images at the first look. On fewer, small networks take hardly less time than on these, and the
# spread of the differences is hardly known.
FEWEST = 256
GROWTH = 1.5  # from one look to the next


def looks(images: int, first: int | None = None, growth: float = GROWTH) -> tuple[int, ...]:
    """How many images have been seen at each look; the last sees all `images`.

    The first sees 1 in 32 of them unless told otherwise, but at least `FEWEST`; where that is more
    than half of them, there is no other look than that at all.
    """
    if images < 1 or growth <= 1:
        raise ValueError(f"images is {images}, growth {growth}: at least 1, and above 1")
    n = max(FEWEST, images // 32) if first is None else max(1, first)
    found: list[int] = []
    while n < images and (found or 2 * n <= images):
        found.append(n)
        n = max(n + 1, round(n * growth))
    if len(found) > 1 and found[-1] * growth > images and images - found[-1] < found[-1] // 8:
        found.pop()  # a look just before the end decides hardly anything
    return (*found, images)


def threshold(error: float, count: int) -> float:
    """How many standard errors make a lead, for a chance of `error` in `count` looks that one pair
    is judged wrongly."""
    if not 0 < error < 1:
        raise ValueError(f"error is {error}, but must be above 0 and below 1")
    return NormalDist().inv_cdf(1 - error / max(1, count))


def ahead(
    values: Floats, images: int, standard_errors: float, offsets: Floats | None = None
) -> Flags:
    """(B, B): whether each row is ahead of each column, from what they made of the same n of
    `images` images, `values` (B, n). `offsets` (B,) are added to their means."""
    count, n = values.shape
    means = values.mean(1) + (0 if offsets is None else offsets)
    lead = means[:, None] - means[None]
    if n >= images:
        return lead > 0
    if n < 2:
        return np.zeros((count, count), bool)
    centred = values - values.mean(1, keepdims=True)
    covariance = centred @ centred.T / (n - 1)
    own = np.diag(covariance)
    variance = np.maximum(own[:, None] + own[None] - 2 * covariance, 0)
    error = np.sqrt(variance / n * (1 - n / images))
    return (lead > standard_errors * error) & (lead > 0)


@dataclass(frozen=True, slots=True)
class Race:
    """How a race ended. `measured` is what is known of each network; `seen` how many images it has
    been through; `lost` says which dropped out."""

    measured: list[Measured]
    seen: NDArray[np.int64]
    lost: Flags


def race(
    measure: Callable[[list[int], int, int], Sequence[Measured]],
    count: int,
    looks: Sequence[int],
    *,
    places: int,
    error: float = 0.01,
    rivals: Flags | None = None,
    offsets: Floats | None = None,
    known: Sequence[ImageOutcomes] = (),
    settle: bool = False,
) -> Race:
    """Races `count` networks for `places` places.

    `measure` gets the numbers of networks and a range of images, `looks` are how many images have
    been seen at each look. `known` are outcomes on all images of further networks, which run
    along. `rivals` (count, count + len(known)) says who may push whom out; without it everyone.
    `offsets` are added to the means of all, known ones last. A network drops out where `places`
    rivals are ahead of it. With `settle`, the race also ends for those that are sure of a place,
    and for all as soon as the places are settled: then the winners are those with `lost` False,
    but not all of them have been through all images.

    What cannot be measured, or is not a number, has lost.
    """
    total = looks[-1]
    z = threshold(error, len(looks) - 1)
    along = np.array([_values(one) for one in known]).reshape(len(known), total)
    offsets = np.zeros(count + len(known)) if offsets is None else offsets
    rivals = np.ones((count, count + len(known)), bool) if rivals is None else rivals
    measured: list[Measured] = []
    seen, lost, safe = np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool)
    for begin, look in zip((0, *looks), looks, strict=False):
        running = [int(i) for i in np.flatnonzero(~lost & ~safe)]
        if not running:
            break
        found = measure(running, begin, look)
        if not measured:
            measured = list(found)
        for i, later in zip(running, found, strict=True):
            mine = measured[i]
            if isinstance(later, Exception):
                measured[i] = later
            elif not isinstance(mine, Exception):
                if later is not mine:
                    mine.extend(later)
                seen[i] = look
            lost[i] = isinstance(later, Exception) or not later.finite()
        running = [i for i in running if not lost[i]]
        if not running or (look == total and not settle):
            continue
        everyone = [*running, *range(count, count + len(known))]
        rows = np.array([_values(measured[i]) for i in running])
        values = np.concatenate([rows, along[:, :look]])
        leads = ahead(values, total, z, offsets[everyone])
        left = places - int(safe.sum())  # places that are not taken yet
        pushed = (leads[:, : len(running)] & rivals[np.ix_(running, everyone)].T).sum(0)
        if settle and look == total:  # ties at the last place go to those that come first
            order = np.lexsort((running, -(rows.mean(1) + offsets[running])))
            pushed = np.zeros(len(running), int)
            pushed[order[left:]] = left
        out = pushed >= left
        lost[np.array(running)[out]] = True
        if settle:
            ours = leads[: len(running), : len(running)]
            near = (~ours & ~out[None]).sum(1) - 1  # that are not behind it, itself left out
            sure = ~out & ((near < left) | ((~out).sum() <= left))
            safe[np.array(running)[sure]] = True
    return Race(measured, seen, lost)


def _values(measured: Measured) -> Floats:
    assert not isinstance(measured, Exception)
    return measured.probabilities().numpy()


class Racer:
    """Scores units of candidates; one that cannot come onto the front any more drops out early.

    It drops out where one candidate that uses no more of the budget, and costs no more in any
    objective, is ahead of it in reward, from its unit or from the front that came with it (at the
    budget, only one that is there, too). Such a rival has the higher score: of two that use no more
    than the budget, the reward takes more off the one that uses less. So whoever drops out is on no
    front of scores and costs, whatever the number of objectives. What has dropped out keeps a
    score: that of the best such rival on all images, less its distance on the images that both were
    seen on; so it never comes out above. `details` says on how many images a score rests
    (`images`).

    Costs come with each unit. With a single look, at all images, nobody drops out.
    """

    def __init__(
        self,
        evaluator: GroupEvaluator,
        looks: Sequence[int],
        *,
        error: float = 0.01,
    ):
        self._evaluator, self._looks, self._error = evaluator, tuple(looks), error

    def work(self, unit: Unit) -> Done:
        begun, genomes = time.perf_counter(), unit.candidates
        if not genomes:
            return Done([])
        found_again = self._missing(unit) if len(self._looks) > 1 else {}
        everyone = {**unit.known, **found_again}
        front = [g for g in unit.front if g.digest in everyone] if len(self._looks) > 1 else []
        costs = np.ones((len(genomes) + len(front), 1))
        if len(self._looks) > 1:
            costs = np.array([unit.costs[genome.digest] for genome in (*genomes, *front)], float)
        rivals = _rivals(costs, len(genomes))
        offsets = np.array([absolute_reward(0.0, use) for use in costs[:, 0]])
        known = [everyone[genome.digest] for genome in front]
        ended = race(
            lambda which, first, last: self._evaluator.measure(
                [genomes[i] for i in which], first, last
            ),
            len(genomes),
            self._looks,
            places=1,
            error=self._error,
            rivals=rivals,
            offsets=offsets,
            known=known,
        )
        whole = [*ended.measured, *known]
        total = self._looks[-1]
        finished = [*(ended.seen == total) & ~ended.lost, *[True] * len(known)]
        values = [_values(one) if done else None for one, done in zip(whole, finished, strict=True)]
        seconds = (time.perf_counter() - begun) / max(1, len(genomes))
        outcomes, kept = [], dict(found_again)
        for i, (genome, found) in enumerate(zip(genomes, ended.measured, strict=True)):
            try:
                if isinstance(found, Exception):
                    raise found
                score = found.score()
            except Exception as error:
                outcomes.append(Outcome(None, seconds, one_line(error)))
                continue
            if finished[i]:
                if len(self._looks) > 1:
                    kept[genome.digest] = found
                estimate = score.score
            else:
                ranks = [
                    v for v, may in zip(values, rivals[i], strict=True) if may and v is not None
                ]
                estimate = _estimate(_values(found), ranks)
            details = {**score.details, "images": float(ended.seen[i])}
            share = float(ended.seen[i]) / total
            outcomes.append(Outcome(Score(estimate, details, share), seconds))
        return Done(outcomes, kept)

    def _missing(self, unit: Unit) -> dict[str, ImageOutcomes]:
        """Of the front, what is not known, by digest: of a search that goes on, its members are
        measured again."""
        missing = [genome for genome in unit.front if genome.digest not in unit.known]
        if not missing:
            return {}
        found = self._evaluator.measure(missing, 0, self._looks[-1])
        return {
            genome.digest: one
            for genome, one in zip(missing, found, strict=True)
            if not isinstance(one, Exception)
        }


def _rivals(costs: Floats, count: int) -> Flags:
    """(`count`, N): which of N networks may push out which of the first `count`, from their costs
    (N, 1 + K), of which the first is the use of the budget: those that cost no more in anything."""
    use, mine = costs[None, :, 0], costs[:count, None, 0]
    rivals = (costs[None] <= costs[:count, None]).all(axis=2) & ((mine < BAND) | (use >= BAND))
    np.fill_diagonal(rivals, False)
    return np.asarray(rivals)


def _estimate(seen: Floats, rivals: Sequence[Floats]) -> float:
    """The mean on all images of a network that dropped out, from the images that it was `seen` on,
    by that of the rival which is best on these."""
    n = len(seen)
    if not rivals:  # they all dropped out themselves
        return float(seen.mean())
    best = max(rivals, key=lambda values: float(values[:n].mean()))
    return float(best.mean() - max(0.0, best[:n].mean() - seen.mean()))
