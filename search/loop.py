"""The loop that every search runs: ask, score, tell, write down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluator.interfaces import Result
from search.interfaces import Controller, Log, Outcome, Runner
from search.reward import absolute_reward
from search.state import pack, unpack
from space.budget import Budget
from space.cost import Cost
from space.genome import Genome

GIVE_UP = 4  # failures in a row, the last ones a whole batch, that end a search


@dataclass(frozen=True, slots=True)
class Progress:
    """What `on_batch` hears: the candidates of the last batch, and how many there are so far."""

    done: int
    evaluations: int
    results: Sequence[Result]


def search(
    controller: Controller,
    runner: Runner,
    log: Log,
    *,
    evaluations: int,
    batch: int,
    budget: Budget,
    origin: str,
    reward: Callable[[float, float], float] = absolute_reward,
    costs: Callable[[Genome], Cost] = Genome.cost,
    origins: Mapping[str, str] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
) -> int:
    """Scores candidates until the log holds `evaluations` of them; gives how many it holds.

    That is fewer only where the controller has nothing new left inside the budget. `batch`
    candidates are asked for at a time, whatever the number of workers, so that the history does
    not depend on it. `reward` is a function of the score and the share of the budget in use.
    `origin` is where candidates are said to be from, `origins` (digest -> text) where some are not
    the controller's own.

    Where the log holds candidates, the controller (new, made with the same arguments) takes up
    its state from there, and the search goes on as if it had not stopped: candidates and state
    are written in one transaction, so whatever ends the process leaves whole batches behind, and
    a batch that was under way is asked for again. (A run that ended within a batch, because
    `evaluations` is not a multiple of it, goes on from there with whole batches.)

    A candidate whose evaluation fails, or whose score is not a finite number, is written down
    with its error. RuntimeError, with the first error, where a whole batch failed and before it
    none succeeded, or none of the last `GIVE_UP`: then it is not the candidates' fault. That
    batch is not written down, so that a search which is started again tries it again.
    """
    if batch < 1 or evaluations < 0:
        raise ValueError(f"batch is {batch}, evaluations {evaluations}: at least 1 and 0")
    statuses = log.statuses()
    state = log.state()
    if state is not None:
        controller.load_state_dict(unpack(state))
    while len(statuses) < evaluations:
        genomes = controller.ask(min(batch, evaluations - len(statuses)))
        if not genomes:
            break
        candidates = [(genome, costs(genome)) for genome in genomes]
        for genome, cost in candidates:
            assert budget.allows(cost), f"{genome.digest} costs {cost}, above {budget.text}"
        outcomes = runner.run(genomes)
        results = [
            replace(
                _result(genome, cost, outcome, reward, budget.use(cost)),
                origin=(origins or {}).get(genome.digest),
            )
            for (genome, cost), outcome in zip(candidates, outcomes, strict=True)
        ]
        latest = ["failed" if result.score is None else "ok" for result in results]
        if "ok" not in latest and _hopeless(statuses + latest):
            raise RuntimeError(f"no candidate can be scored: {results[0].error}")
        controller.tell(results)
        log.append(results, origin, pack(controller.state_dict()))
        statuses += latest
        if on_batch is not None:
            on_batch(Progress(len(statuses), evaluations, results))
    return len(statuses)


def _hopeless(statuses: Sequence[str]) -> bool:
    return "ok" not in statuses or "ok" not in statuses[-GIVE_UP:]


def _result(
    genome: Genome,
    cost: Cost,
    outcome: Outcome,
    reward: Callable[[float, float], float],
    use: float,
) -> Result:
    score, error = outcome.score, outcome.error
    if score is None or not math.isfinite(score.score):
        error = error or f"the score is {score and score.score}, but must be a finite number"
        return Result(genome, cost, seconds=outcome.seconds, error=error)
    return Result(
        genome,
        cost,
        score.score,
        reward(score.score, use),
        outcome.seconds,
        score.details,
    )
