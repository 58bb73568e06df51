import numpy as np
import pytest

from evaluator.interfaces import Score
from search.runner import local_runner


class Broken:
    def evaluate(self, genome):
        if genome.resolution == 64:
            raise RuntimeError("out of\n  memory")
        return Score(0.5)


def test_outcomes_in_the_order_asked(toy, target):
    genomes = [toy.space.decode(row) for row in toy.space.sample_codes(np.random.default_rng(0), 9)]
    scores = target(toy)
    runner = local_runner(scores)
    assert [outcome.score for outcome in runner.run(genomes)] == [
        scores.evaluate(genome) for genome in genomes
    ]
    runner.close()


def test_an_error_is_an_outcome(toy):
    genomes = [toy.space.decode(row) for row in toy.space.sample_codes(np.random.default_rng(0), 9)]
    for genome, outcome in zip(genomes, local_runner(Broken()).run(genomes), strict=True):
        failed = genome.resolution == 64
        assert (outcome.score is None) == failed
        assert outcome.error == ("RuntimeError: out of memory" if failed else None)
        assert outcome.seconds >= 0
    assert {genome.resolution for genome in genomes} == {64, 96}


def test_an_interrupt_is_not(toy):
    class Interrupted:
        def evaluate(self, genome):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_runner(Interrupted()).run([toy.space.sample(np.random.default_rng(0))])
