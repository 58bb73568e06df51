"""Budgets: upper limits on what a network may cost.

`4GFLOPs` means what vision papers mean by it: 4e9 multiply-adds (MACs) for one image. `4GMACs` is
the same budget.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from space.cost import Cost

_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_LIMIT = re.compile(
    r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmgbt]??)(flops?|macs?|param(?:eter)?s?)\s*",
    re.IGNORECASE,
)
EXAMPLES = "4GFLOPs, 600MFLOPs, 4GMACs, 25Mparams, or several joined by commas"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for one image; None is no limit. MACs are the `target` where they are limited."""

    macs: int | None = None
    params: int | None = None
    text: str = ""

    @classmethod
    def parse(cls, text: str, *, flops_per_mac: int = 1) -> Budget:
        """`4GFLOPs,25Mparams`; `flops_per_mac=2` is for those who count a MAC as two FLOPs.

        Raises ValueError that names the piece that is wrong and what can be written.
        """
        limits: dict[str, int] = {}
        for piece in text.split(","):
            match = _LIMIT.fullmatch(piece)
            if match is None:
                raise ValueError(
                    f"budget {piece.strip()!r} cannot be read: it takes a number and one of the "
                    f"units FLOPs, MACs and params, such as {EXAMPLES}"
                )
            number, prefix, unit = match.groups()
            kind = "params" if unit.lower().startswith("param") else "macs"
            if kind in limits:
                raise ValueError(f"budget {text!r} limits {kind} twice")
            value = float(number) * _PREFIXES[prefix.lower()]
            if unit.lower().startswith("flop"):
                value /= flops_per_mac
            if not 1 <= value < math.inf:
                raise ValueError(
                    f"budget {piece.strip()!r} must be above zero and finite; write {EXAMPLES}"
                )
            limits[kind] = round(value)
        return cls(**limits, text=text.strip())

    @property
    def target(self) -> str:
        """The cost that is steered towards its limit: MACs where they are limited."""
        return "macs" if self.macs is not None else "params"

    @property
    def limit(self) -> int:
        """The limit of `target`."""
        limit = getattr(self, self.target)
        assert limit is not None, "a budget has at least one limit"
        return limit

    def limits(self) -> dict[str, int]:
        """What is limited, and to what."""
        pairs = (("macs", self.macs), ("params", self.params))
        return {name: limit for name, limit in pairs if limit is not None}

    def allows(self, cost: Cost) -> bool:
        return all(getattr(cost, name) <= limit for name, limit in self.limits().items())

    def use(self, cost: Cost) -> float:
        """Share of the target's limit that is used."""
        return getattr(cost, self.target) / self.limit


def quantity(value: float) -> str:
    """3.98G, 612M, 8.1k: three digits and a prefix, for people."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
