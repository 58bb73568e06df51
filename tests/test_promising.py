"""First candidates that scores without training choose."""

import numpy as np
import pytest
from conftest import BUDGET, TINY

from commands.job import Job
from commands.promising import POOL, few_images, promising, scores_without_training
from evaluator.data import load_data
from evaluator.zero_cost import log_rank_sum
from results.console import Console
from results.store import Store
from search.proposals import BAND
from search.settings import Settings
from space.files import make_space


def job(**changes):
    return Job(
        Settings(
            budget=BUDGET,
            space_definition=TINY,
            classes=1000,
            proxy_width=0.5,
            proxy_resolution=16,
            **changes,
        )
    )


def test_the_best_of_a_pool_at_the_budget():
    """In order, without repeats, the same at every call, and better than the rest of the pool."""
    names = ("naswot", "synflow")
    made = job(zero_cost=names)
    data = load_data("digits", resolution=16)
    rows = promising(made, data, 3, Console(quiet=True))
    assert len({tuple(row) for row in rows}) == 3
    again = promising(made, data, 3, Console(quiet=True))
    assert all((a == b).all() for a, b in zip(rows, again, strict=True))
    assert made.proposals.fits(np.stack(rows), BAND, 1.0).all()
    pool = np.unique(made.proposals.sample(np.random.default_rng([0, 6]), POOL * 3, BAND), axis=0)
    images, labels = few_images(data)
    proxies = make_space(TINY).scaled(width=0.5, resolution=16, classes=10)
    found = [scores_without_training(proxies.decode(row), names, images, labels, 0) for row in pool]
    joined = log_rank_sum({name: [scores[name] for scores in found] for name in names})
    place = {tuple(row): value for row, value in zip(pool, joined, strict=True)}
    chosen = [place[tuple(row)] for row in rows]
    assert chosen == sorted(chosen, reverse=True) == sorted(joined, reverse=True)[:3]


def test_a_run_begins_with_them(runs):
    """They are its first candidates; a run that asks for an unknown score says so."""
    ended = runs(zero_cost="swap", evaluations=6, batch=3)
    assert ended.code == 0, ended.err
    made = job(zero_cost=("swap",))
    data = load_data("digits", resolution=16, limit=60)
    expected = [
        made.space.decode(row).digest for row in promising(made, data, 3, Console(quiet=True))
    ]
    with Store(ended.folder / "candidates.sqlite", readonly=True) as store:
        assert [row.digest for row in store.rows()][:3] == expected
    ended = runs(name="other", zero_cost="luck")
    assert ended.code == 2
    assert "zero_cost names 'luck', but must name some of" in ended.err


@pytest.mark.parametrize("name", ["az_nas", "zico"])
def test_every_score_may_choose(name):
    made = job(zero_cost=(name,))
    data = load_data("digits", resolution=16)
    assert len(promising(made, data, 2, Console(quiet=True))) == 2
