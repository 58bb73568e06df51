"""Scores of a population are those of its networks one by one."""

import numpy as np
import pytest
import torch

from evaluator.population import PopulationScorer
from evaluator.scoring import SupernetEvaluator
from space.files import load_space, make_space, read_definition
from supernet.augmentation import normalise
from supernet.network import Supernet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def noise(count, side):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 10


def spaces():
    macro = load_space("nasbench_macro").scaled(width=0.25, resolution=16, classes=10)
    unified = load_space("unified").scaled(width=0.0625, resolution=32, classes=10)
    definition = read_definition("nasbench_macro") | {"resolution": [16, 32]}
    several = make_space(definition).scaled(width=0.25, resolution=32, classes=10)
    return {"BatchNorm": macro, "LayerNorm": unified, "two resolutions": several}


@pytest.mark.parametrize("name", spaces())
@pytest.mark.parametrize("chunk", [5, 100])
def test_one_by_one(name, chunk):
    """Of random networks and their mutants, some of them twice; exactly."""
    space = spaces()[name]
    supernet = Supernet(space)
    with torch.no_grad():
        for weight in supernet.weights.values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    rng = np.random.default_rng(0)
    rows = space.sample_codes(rng, 4)
    rows = np.concatenate([rows, space.mutate_codes(rows, rng), rows[:1]])
    genomes = [space.decode(row) for row in rows]
    side = max(space.resolution.choices)
    images, labels = noise(12, side)
    seen, _ = noise(20, side)

    def pixels(x):
        return normalise(x, MEAN, STD)

    common = {"calibration": seen, "normalise": pixels, "chunk": chunk}
    alone = SupernetEvaluator(supernet, images, labels, proxy=lambda genome: genome, **common)
    heard = []
    together = PopulationScorer(supernet, images, labels, **common).scores(
        genomes, progress=lambda *now: heard.append(now)
    )
    assert together == [alone.evaluate(genome) for genome in genomes]
    chunks = -(-len(images) // chunk)
    assert heard[-1] == (chunks * len(genomes), chunks * len(genomes))
    assert len({score.score for score in together}) > 4
