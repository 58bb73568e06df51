"""Scores against their definition, with weights that are made up."""

import math

import pytest
import torch

from evaluator.scoring import SupernetEvaluator


class Made:
    """Weights whose logits are what the first pixels say; `genome` is added to them."""

    def __init__(self):
        self.calibrated, self.buffers = [], []

    def __call__(self, genome, images, *, buffers=None):
        assert not torch.is_grad_enabled()
        self.buffers.append(buffers)
        return images[:, 0, 0, :3].float() + genome

    def calibrate(self, genome, batches):
        self.calibrated.append([len(images) for images in batches])
        return {"of": genome}


def evaluator(weights, count=10, chunk=4, **changes):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 5, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    options = {
        "calibration": images[:6],
        "normalise": lambda pixels: pixels.float() / 2,
        "proxy": lambda genome: torch.tensor(genome),
        "chunk": chunk,
    }
    return SupernetEvaluator(weights, images, labels, **options | changes), images, labels


@pytest.mark.parametrize("chunk", [1, 4, 10, 256])
def test_scores_are_means_over_all_images(chunk):
    """Whatever the size of a chunk; the last may be smaller."""
    scorer, images, labels = evaluator(Made(), chunk=chunk)
    bias = [0.0, 1.0, -2.0]
    score = scorer.evaluate(bias)
    total, loss, right = 0.0, 0.0, 0
    for image, label in zip(images, labels.tolist(), strict=True):
        logits = [float(image[0, 0, i]) / 2 + bias[i] for i in range(3)]
        probability = math.exp(logits[label]) / sum(map(math.exp, logits))
        total, loss = total + probability, loss - math.log(probability)
        right += max(range(3), key=logits.__getitem__) == label
    assert score.score == pytest.approx(total / 10, rel=1e-6)
    assert score.details["loss"] == pytest.approx(loss / 10, rel=1e-6)
    assert score.details["top1"] == right / 10


def test_the_chunk_changes_no_score():
    scores = [evaluator(Made(), chunk=chunk)[0].evaluate([0.0] * 3).score for chunk in (1, 3, 256)]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-12)


def test_the_score_tells_apart_what_the_share_of_right_answers_does_not():
    """A network surer of the same right answers is better."""
    images = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    scorer = SupernetEvaluator(
        Made(),
        images,
        torch.zeros(4, dtype=torch.long),
        calibration=images,
        normalise=lambda pixels: pixels,
        proxy=lambda genome: torch.tensor(genome),
    )
    sure, less = scorer.evaluate([5.0, 0, 0]), scorer.evaluate([1.0, 0, 0])
    assert sure.details["top1"] == less.details["top1"] == 1.0
    assert sure.score > less.score


def test_statistics_are_measured_once_for_each_candidate():
    """Over the calibration images, chunk by chunk, and used for every chunk of the others."""
    weights = Made()
    scorer, *_ = evaluator(weights, chunk=4)
    for _ in range(2):
        scorer.evaluate([0.0, 0.0, 0.0])
    assert weights.calibrated == [[4, 2]] * 2
    assert len(weights.buffers) == 6
    assert all(set(buffers) == {"of"} for buffers in weights.buffers)


def test_a_score_depends_on_the_candidate_alone():
    scorer, *_ = evaluator(Made())
    before = scorer.evaluate([1.0, 0.0, 0.0])
    scorer.evaluate([-3.0, 2.0, 0.0])
    assert scorer.evaluate([1.0, 0.0, 0.0]) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers(bad):
    scorer, *_ = evaluator(Made())
    with pytest.raises(RuntimeError, match="not numbers"):
        scorer.evaluate([bad, 0.0, 0.0])
