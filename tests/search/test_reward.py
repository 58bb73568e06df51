import numpy as np
import pytest

from search.reward import absolute_reward


@pytest.mark.parametrize(
    ("score", "use", "expected"), [(0.8, 1, 0.8), (0.8, 0.5, 0.75), (0.8, 1.5, 0.75), (0.2, 0, 0.1)]
)
def test_values_by_hand(score, use, expected):
    assert absolute_reward(score, use) == pytest.approx(expected)


def test_its_peak_is_at_the_target():
    uses = np.linspace(0, 2, 401)
    assert uses[np.argmax([absolute_reward(0.5, use) for use in uses])] == 1
