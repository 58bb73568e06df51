"""A run as plain data: what the report, the tables and later readers of a run work on.

Rows hold genomes as JSON and not as `Genome`, so that a run whose operators have since been
renamed or removed can still be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FROM_PRESET = "preset:"  # how the origin of a candidate begins that a published network became


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluated candidate, in the order of evaluation.

    `genome` is `Genome.to_json()` at the target size; `macs`, `params` and `resolution` are those
    of that genome. `score` and `top1` (share of the validation images that the shared weights
    classify right, 0 to 1) are None where the evaluation failed, and `error` then says why.
    `reward` is the score minus the budget term, what controllers maximise; `origin` names the
    controller that proposed the candidate, or, as `preset:convnext_t`, the published network that
    it was made of. `costs` are those beside MACs and parameters that the search limited or wanted
    small, by column (`space.budget.MeasuredCost`): predicted latencies in ms, memory in bytes.
    `details` are further numbers of the scorer, such as the `images` that the score rests on.
    """

    order: int
    name: str
    digest: str
    genome: Mapping[str, Any]
    status: str
    score: float | None
    top1: float | None
    macs: int
    params: int
    resolution: int
    reward: float | None
    seconds: float
    origin: str
    error: str | None
    costs: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)

    def cost(self, name: str) -> float:
        """MACs, parameters, or one of `costs`; ValueError, with what there is, for another."""
        if name in ("macs", "params"):
            return float(getattr(self, name))
        if name not in self.costs:
            known = ", ".join(["macs", "params", *self.costs])
            raise ValueError(f"candidate {self.name} has no cost {name!r}; it has {known}")
        return self.costs[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that a report of a run says. Nested values are plain: numbers, strings, None.

    - `settings`: every setting, resolved; `environment`: versions, device, commit.
    - `front`: digests of the candidates that no other beats; `best`: digest of the best network
      inside the budget, None where there is none.
    - `budget`: upper limits by name (`macs`, `params`, `latency@cpu`, ...; None for no limit) and
      `text`, the budget as the user wrote it. `target` names the cost that was steered towards its
      limit; without it, it is MACs where they are limited, else parameters.
    - `objectives`: what the front is of, the score and names of costs.
    - `presets`: published networks, each with `name`, `macs`, `params`, `top1`, `resolution`,
      `source`, and perhaps `kind`. `macs` and `params` are those of `Genome.cost()`, so that they
      compare; `top1` is in percent, as published (a value of at most 1 is read as a share), None
      where there is none.
    - `space_summary`: `name`, `size` (number of networks), and the MACs of the `smallest`, the
      `median` and the `largest`.
    - `supernet`: `curve`, a list of `{"step", "loss", "seconds"}`; `probes`, a list of
      `{"step", "largest", "smallest", "random"}`, shares of some validation images that these
      networks classified right; `accuracies`, as
      `{"largest": {"validation": 0.5, "test": 0.49}, "smallest": {...}}`, shares from 0 to 1; any
      other plain entry is listed as it is.
    - `command`: what was run; `finished`: False for a report of a run that is still under way.
    - `next_steps`: pairs of a sentence and a command; empty for the usual ones.
    - `by_chance`: the candidates of a random search with as many evaluations, to compare with;
      empty where there was none.
    - `latencies`: `devices`, for each limit on latency `{"column", "limit", "accuracy"}`;
      `networks`, what was measured (`results.latencies`); `unmeasured`, why not all was. Empty
      where the budget limits no latency.
    - `trust`: the trust card (`results.trust_card`), None where the scores are unchecked;
      `trust_command`: what checks them. `finalists`: what came of training some alone
      (`results.finalists`), None where nobody did.
    - `similarity`: how alike the finalists are (`results.similarity`), None where nobody looked.
    - `folder`: where the run is, as commands name it; `exported`: the folders of exported networks
      by digest, beside the report; `evaluations`: how many there are to be.
    """

    name: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    front: Sequence[str]
    best: str | None
    budget: Mapping[str, Any]
    presets: Sequence[Mapping[str, Any]] = ()
    space_summary: Mapping[str, Any] = field(default_factory=dict)
    supernet: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    finished: bool = True
    next_steps: Sequence[tuple[str, str]] = ()
    by_chance: Sequence[Row] = ()
    latencies: Mapping[str, Any] = field(default_factory=dict)
    trust: Mapping[str, Any] | None = None
    similarity: Mapping[str, Any] | None = None
    trust_command: str = "python run_search.py trust RUN"
    finalists: Mapping[str, Any] | None = None
    folder: str = ""
    exported: Mapping[str, str] = field(default_factory=dict)
    evaluations: int | None = None
    target: str | None = None
    objectives: Sequence[str] = ("score", "macs")
