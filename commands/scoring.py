"""Has a controller propose, and what it proposes scored, until there is enough in a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from commands.job import Job, make_runner
from evaluator.data import ImageData
from results.console import Console
from results.run_folder import best_at_budget, front_of
from results.store import Store
from search.interfaces import Controller, Log
from search.loop import Progress, search
from search.networks import NetworkProposals, Networks
from search.proposals import BAND
from space.genome import Genome
from supernet.training import Trainer


def look_for(
    job: Job,
    trainer: Trainer,
    data: ImageData,
    store: Store,
    controller: Controller,
    proposals: NetworkProposals,
    console: Console,
    *,
    what: str,
    origin: str,
    evaluations: int,
    log: Log | None = None,
    origins: Mapping[str, str] | None = None,
    watch: Callable[[], None] | None = None,
) -> None:
    """Scores what the controller proposes until the store holds so many candidates. `what` is being
    done, for people; `log` stands for the store where the search is to see another one,
    and `watch` is called after each batch. ValueError where nothing can be scored, or no worker is
    left."""
    settings, known = job.settings, len(store.statuses())
    runner = make_runner(job, trainer, data, lambda: front_so_far(proposals, store))
    try:
        with console.progress(what, evaluations, known) as meter:

            def after(progress: Progress) -> None:
                meter.update(progress.done, best_so_far(proposals, store))
                if watch is not None:
                    watch()

            search(
                controller,
                runner,
                log or store,
                Networks(proposals, origins),
                evaluations=evaluations,
                batch=settings.batch,
                origin=origin,
                in_flight=settings.in_flight,
                in_order=settings.in_order,
                on_batch=after,
            )
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    finally:
        runner.close()


def front_so_far(proposals: NetworkProposals, store: Store) -> list[Genome]:
    """The networks that no other beats on the objectives, by what is written down."""
    front = front_of(store.rows(), proposals.objectives)
    return [Genome.from_json(row.genome) for row in front]


def best_so_far(proposals: NetworkProposals, store: Store) -> str:
    best = best_at_budget(store.rows(), proposals.target, proposals.limit, BAND)
    return "" if best is None else f"best {best.name} score {best.score:.4f}"
