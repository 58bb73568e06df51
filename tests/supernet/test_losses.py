"""Losses against their formulas, written in numpy, and their gradients against autograd."""

import math

import numpy as np
import pytest
import torch

from supernet.losses import WEIGHT_MOST, adaptive_divergence, soft_cross_entropy, taught


def logits(scale=1.0, seed=0, count=7, classes=5):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, classes, generator=generator)


def softmax(values):
    values = np.exp(values - values.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def divergence(q, p, alpha):
    """D_alpha(p || q) of each image, Wang et al., equation 4, with what is cut."""
    ratio = p / q
    if alpha == 1:
        return (p * np.log(ratio)).sum(1)
    if alpha == 0:
        return -(q * np.log(np.minimum(ratio, WEIGHT_MOST))).sum(1)
    power = np.minimum(ratio**alpha, WEIGHT_MOST)
    return (q * (power - 1)).sum(1) / (alpha * (alpha - 1))


def gradient(function, student):
    student = student.clone().requires_grad_()
    function(student).backward()
    return student.grad


def test_soft_cross_entropy():
    student, targets = logits(), torch.from_numpy(softmax(logits(seed=1).numpy()))
    expected = -(targets.numpy() * np.log(softmax(student.double().numpy()))).sum(1).mean()
    assert float(soft_cross_entropy(student, targets)) == pytest.approx(expected, rel=1e-5)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    hard = torch.nn.functional.one_hot(labels, 5).float()
    assert float(soft_cross_entropy(student, hard)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(student, labels)), rel=1e-6
    )
    assert soft_cross_entropy(student.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.5, 0.5), (0.0, 1.0), (-2.0, 0.3)])
def test_the_value_is_the_larger_divergence(scale, low, high):
    student, teacher = logits(scale), logits(scale, seed=1)
    q, p = softmax(student.double().numpy()), softmax(teacher.double().numpy())
    sides = np.stack([divergence(q, p, low), divergence(q, p, high)])
    found = float(adaptive_divergence(student, teacher, low=low, high=high))
    assert found == pytest.approx(sides.max(0).mean(), rel=1e-4)
    if scale == 4 and (low, high) == (-1.0, 1.0):  # the images are of both kinds
        assert set(sides.argmax(0)) == {0, 1}


def exact(student, teacher, alpha):
    """The divergence with nothing cut, for autograd."""
    q, p = student.softmax(1), teacher.softmax(1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1).mean()
    if alpha == 0:
        return (q * (q / p).log()).sum(1).mean()
    return ((q * (p / q) ** alpha).sum(1) - 1).mean() / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-1.0, -0.4, 0.0, 0.3, 0.7, 1.0, 1.5])
def test_the_gradient_is_that_of_the_divergence(alpha):
    """Where no ratio is cut."""
    student, teacher = logits(0.4).double(), logits(0.4, seed=1).double()
    ratio = teacher.softmax(1) / student.softmax(1)
    assert float((ratio**alpha).max()) < WEIGHT_MOST
    found = gradient(lambda s: adaptive_divergence(s, teacher, low=alpha, high=alpha), student)
    expected = gradient(lambda s: exact(s, teacher, alpha), student)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_at_one_it_is_kullback_leibler(scale):
    """However far apart the two are: nothing is cut."""
    student, teacher = logits(scale), logits(scale, seed=1)
    found = gradient(lambda s: adaptive_divergence(s, teacher, low=1.0, high=1.0), student)
    expected = (student.softmax(1) - teacher.softmax(1)) / len(student)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_each_image_takes_its_own_side():
    student, teacher = logits(3.0), logits(3.0, seed=1)
    both = gradient(lambda s: adaptive_divergence(s, teacher), student)
    sides = [
        gradient(lambda s, a=alpha: adaptive_divergence(s, teacher, low=a, high=a), student)
        for alpha in (-1.0, 1.0)
    ]
    q, p = softmax(student.double().numpy()), softmax(teacher.double().numpy())
    takes = divergence(q, p, -1.0) > divergence(q, p, 1.0)
    assert set(takes) == {False, True}
    for image, low in enumerate(takes):
        torch.testing.assert_close(both[image], sides[0 if low else 1][image])


def test_the_teacher_learns_nothing():
    teacher = logits(seed=1).requires_grad_()
    adaptive_divergence(logits().requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0])
def test_equal_logits_have_nothing_to_learn(alpha):
    student = logits(3.0)
    value = adaptive_divergence(student, student, low=alpha, high=alpha)
    assert float(value) == pytest.approx(0, abs=1e-6)
    found = gradient(lambda s: adaptive_divergence(s, logits(3.0), low=alpha, high=alpha), student)
    assert found.abs().max() < 1e-6


def test_a_teacher_that_is_sure_does_not_drown_the_others():
    """A student that gives some weight to what the teacher rules out: the cut bounds it."""
    student = torch.zeros(1, 3)
    for sure in (10.0, 100.0, 1e4):
        teacher = torch.tensor([[sure, 0.0, 0.0]])
        value = float(adaptive_divergence(student, teacher))
        most = max((WEIGHT_MOST - 1) / 2, math.log(3))
        assert 0 < value <= most + 1e-4
        found = gradient(lambda s, t=teacher: adaptive_divergence(s, t), student)
        assert found.isfinite().all()
        assert found.abs().max() < WEIGHT_MOST


def test_what_a_teacher_says_hard():
    """Touvron et al., section 4: the class that it likes best is the label."""
    student, teacher = logits(), logits(3.0, seed=1)
    best = teacher.numpy().argmax(1)
    expected = -np.log(softmax(student.numpy())[np.arange(7), best]).mean()
    assert float(taught(student, teacher, "hard", 9.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_what_a_teacher_says_softly(temperature):
    """Hinton et al., section 2: T^2 times the divergence of softened probabilities."""
    student, teacher = logits(), logits(3.0, seed=1)
    p = softmax(teacher.numpy() / temperature)
    q = softmax(student.numpy() / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = taught(student, teacher, "soft", temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    slope = gradient(lambda x: taught(x, teacher, "soft", temperature), student)
    np.testing.assert_allclose(slope, temperature * (q - p) / 7, atol=1e-6)
