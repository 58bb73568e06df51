"""What controllers maximise: the score, less what the distance to the budget costs."""

from __future__ import annotations

WEIGHT = 0.1


def absolute_reward(score: float, use: float, weight: float = WEIGHT) -> float:
    """`score - weight * |use - 1|`, where `use` is the cost divided by its target.

    Source: Bender et al., 2020, "Can weight sharing outperform random architecture search? An
    investigation with TuNAS", arXiv 2008.06120, section 3.3 (there the weight is a beta below
    zero, and is added). Unlike MnasNet's product of powers it has one peak, at the target, so a
    search with it settles there. Here costs above the target do not occur: budgets are hard.
    """
    return score - weight * abs(use - 1)
