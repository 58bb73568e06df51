"""The kernel that says what a network makes of each image."""

import math

import pytest
import torch

pytest.importorskip("triton")

from evaluator.scoring import Outcomes
from supernet.kernels import outcomes as kernels
from supernet.kernels.outcomes import outcomes, outcomes_reference


def inputs(images=5, classes=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    labels[::2] = logits[::2].argmax(1)
    return logits.to(dtype), labels


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (33, 10), (3, 1500), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_its_definition(size, dtype):
    given = inputs(*size, dtype=dtype)
    (log_p, right), (expected, expected_right) = outcomes(*given), outcomes_reference(*given)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, expected, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(right, expected_right)


@pytest.mark.parametrize("labels", [torch.int64, torch.int32])
def test_classes_that_take_several_steps(labels, monkeypatch):
    monkeypatch.setattr(kernels, "MOST_COLUMNS", 4)
    logits, true = inputs(9, 11)
    logits[0, :4] = -math.inf  # all of the first step
    log_p, right = outcomes(logits, true.to(labels))
    expected, expected_right = outcomes_reference(logits, true)
    torch.testing.assert_close(log_p, expected)
    torch.testing.assert_close(right, expected_right)


def test_equals_what_scoring_sums_up():
    logits, labels = inputs(40, 10)
    summed = Outcomes()
    summed.add(logits, labels)
    expected = summed.score()
    log_p, right = outcomes(logits, labels)
    assert float(log_p.exp().mean()) == pytest.approx(expected.score, rel=1e-5)
    assert float(-log_p.mean()) == pytest.approx(expected.details["loss"], rel=1e-5)
    assert float(right.float().mean()) == pytest.approx(expected.details["top1"])
    assert 0.4 < expected.details["top1"] < 1


def test_the_first_of_several_likeliest_classes_counts():
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]]).expand(4, 4)
    _, right = outcomes(logits, torch.arange(4))
    assert right.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "row",
    [
        [math.nan, 1.0, 2.0],
        [0.0, 1.0, math.nan],
        [0.0, math.inf, 1.0],
        [-math.inf, -math.inf, -math.inf],
    ],
)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_logits_that_are_not_finite(row, label):
    given = torch.tensor([row, [0.0, 1.0, 2.0]]), torch.tensor([label, 2])
    for function in (outcomes, outcomes_reference):
        log_p, right = function(*given)
        assert log_p.isnan().tolist() == [True, False]
        assert right.tolist() == [False, True]


def test_a_class_ruled_out():
    logits = torch.tensor([[-math.inf, 0.0], [-math.inf, 0.0]])
    log_p, right = outcomes(logits, torch.tensor([0, 1]))
    assert log_p.tolist() == [-math.inf, 0.0]
    assert right.tolist() == [False, True]


def test_logits_and_labels_stored_otherwise():
    logits, labels = inputs(6, 5)
    expected = outcomes(logits, labels)
    for stored in (logits.mT.contiguous().mT, torch.cat([logits, logits], 1)[:, 5:]):
        found = outcomes(stored, labels.repeat_interleave(2)[::2])
        torch.testing.assert_close(found, expected)


def test_a_label_that_is_no_class_is_noticed():
    """The kernel must not read beside the logits."""
    log_p, right = outcomes(torch.zeros(3, 4), torch.tensor([0, -1, 4]))
    assert log_p.isnan().tolist() == [False, True, True]
    assert right.tolist() == [True, False, False]


def test_what_pytorch_asks_of_an_operator():
    torch.library.opcheck(outcomes, inputs())
