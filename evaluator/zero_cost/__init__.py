"""Scores of networks before any training, alone or joined.

`SCORES` has them by name; `zero_cost_scores` measures a genome, and `log_rank_sum` joins the scores
of a population. They say how networks compare, never how accurate one is.
"""

from evaluator.zero_cost.az_nas import AZ_NAS, join_az_nas
from evaluator.zero_cost.ranks import log_rank_sum
from evaluator.zero_cost.registry import SCORES, Score
from evaluator.zero_cost.scores import fresh_network, score_names, zero_cost_scores

__all__ = [
    "AZ_NAS",
    "SCORES",
    "Score",
    "fresh_network",
    "join_az_nas",
    "log_rank_sum",
    "score_names",
    "zero_cost_scores",
]
