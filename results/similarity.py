"""How alike the finalists of a run are, as it is read, said and shown.

Everything here is plain data. `commands.similarity` makes it:

- `networks`: for each its `name`, `digest`, `accuracy` on the held-out images, and the names of its
  `layers`; those trained to the end, the winner first.
- `cka`: linear CKA of all layers of all networks, in the order of the networks and of their layers;
  None where a layer is the same for all images.
- `kappa`: error consistency of all pairs of networks, and `kappa_by_chance`, its standard deviation
  if errors were independent (None where a network is always right or always wrong).
- `about`: `split` and number of `images`, how many of them CKA is of (`cka_images`), the largest
  `minibatch`, and `steps` and `seed` of the trainings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from results.run_folder import RunFolder, write_text

FORMAT = 1
SHOWN = 5  # networks whose layers are drawn: 15 pairs
_SURE = 1.96  # standard deviations on either side of 0 that hold 95%
_ENTRIES = {"format", "networks", "cka", "kappa", "kappa_by_chance", "about"}

MEANING = (
    "CKA compares what two layers make of the same images: 1 where they see the same images as "
    "alike, 0 where the one says nothing of the other; rotating or scaling a layer's features does "
    "not change it. Kappa compares on which images two networks err: 1 where on the same ones, 0 "
    "where they share no more than independent networks of these accuracies would, below 0 where "
    "they share fewer."
)

Similarity = Mapping[str, Any]


# ---- the file


def write(folder: RunFolder, found: Similarity | None) -> None:
    """As JSON; None takes away what an earlier choice of finalists has left."""
    if found is None:
        folder.similarity.unlink(missing_ok=True)
        return
    write_text(folder.similarity, json.dumps(found, indent=1, allow_nan=False) + "\n")


def read(folder: RunFolder) -> dict[str, Any] | None:
    """What a run has, None where it has none; ValueError where the file is something else."""
    if not folder.similarity.is_file():
        return None
    try:
        found = json.loads(folder.similarity.read_text(encoding="utf-8"))
        sound = found["format"] == FORMAT and set(found) >= _ENTRIES and _fits(found)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(
            f"{folder.similarity} is not a comparison of format {FORMAT}; remove it, and give the "
            "command finalists again"
        )
    return found


def _fits(found: Similarity) -> bool:
    """Whether the tables are as large as they have to be."""
    count, layers = len(found["networks"]), sum(len(n["layers"]) for n in found["networks"])
    sizes = ((found["cka"], layers), (found["kappa"], count), (found["kappa_by_chance"], count))
    return all(len(t) == size and all(len(row) == size for row in t) for t, size in sizes)


# ---- words


def sentences(found: Similarity | None) -> list[str]:
    """Who is most alike, and who least."""
    if found is None:
        return ["Fewer than two networks came to the end, so there are none to compare."]
    names = [net["name"] for net in found["networks"]]
    pairs = list(combinations(range(len(names)), 2))
    said = [
        _extremes(
            "errors",
            "kappa",
            [(found["kappa"][i][j], f"{names[i]} and {names[j]}") for i, j in pairs],
        )
    ]
    ends = _ends(found)
    last = [(found["cka"][ends[i]][ends[j]], f"{names[i]} and {names[j]}") for i, j in pairs]
    said.append(_extremes("features before the classifier", "CKA", last))
    return [*filter(None, said), by_chance(found)]


def _extremes(what: str, measure: str, pairs: Sequence[tuple[float | None, str]]) -> str:
    known = [(value, who) for value, who in pairs if value is not None]
    if not known:
        return ""
    (most, alike), (least, unlike) = max(known), min(known)
    if len(known) == 1:
        return f"The {what} of {alike}: {measure} {number(most)}."
    return (
        f"Most alike are the {what} of {alike} ({measure} {number(most)}), least those of {unlike} "
        f"({number(least)})."
    )


def by_chance(found: Similarity) -> str:
    """What was computed from what, and how far kappa is from 0 by chance: at most, of all pairs."""
    about = found["about"]
    pairs = combinations(range(len(found["networks"])), 2)
    known = [found["kappa_by_chance"][i][j] for i, j in pairs]
    spread = max((value for value in known if value is not None), default=None)
    chance = "" if spread is None else f" (by chance, ±{_SURE * spread:.2f} in 95% of cases)"
    seen = f"{about['cka_images']:,} of them"
    if about["cka_images"] == about["images"]:
        seen = "the same ones"
    return (
        f"Kappa is of {about['images']:,} {about['split']} images{chance}, CKA of {seen}, by the "
        f"unbiased estimator over minibatches of up to {about['minibatch']}."
    )


def number(value: float | None) -> str:
    """`0.87`; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}".replace("-0.00", "0.00")


# ---- what the report shows


def section(found: Similarity | None) -> dict[str, Any] | None:
    """What `similarity.html.j2` shows; None where nothing was compared."""
    if found is None:
        return None
    networks = found["networks"]
    starts = _starts(found)
    drawn = range(min(SHOWN, len(networks)))
    maps = [_map(found, starts, i, j) for i in drawn for j in drawn if i <= j]
    return {
        "meaning": MEANING,
        "sentences": sentences(found),
        "names": [net["name"] for net in networks],
        "kappa": [
            {
                "name": f"{net['name']}, right on {net['accuracy']:.1%}",
                "cells": [_cell(value) for value in row],
            }
            for net, row in zip(networks, found["kappa"], strict=True)
        ],
        "maps": [one for one in maps if one["row"] != one["column"]],
        "own": [one for one in maps if one["row"] == one["column"]],
        "left_out": len(networks) - len(drawn),
    }


def _starts(found: Similarity) -> list[int]:
    """Where the layers of each network begin."""
    starts = [0]
    for net in found["networks"]:
        starts.append(starts[-1] + len(net["layers"]))
    return starts


def _ends(found: Similarity) -> list[int]:
    """Where the last layer of each network stands."""
    return [start - 1 for start in _starts(found)[1:]]


def _map(found: Similarity, starts: Sequence[int], i: int, j: int) -> dict[str, Any]:
    """CKA of the layers of network i, a row each, with those of network j."""
    row, column = found["networks"][i], found["networks"][j]
    return {
        "row": row["name"],
        "column": column["name"],
        "heads": [_brief(name) for name in column["layers"]],
        "rows": [
            {
                "name": _brief(name),
                "cells": [_cell(v) for v in found["cka"][starts[i] + k][starts[j] : starts[j + 1]]],
            }
            for k, name in enumerate(row["layers"])
        ],
    }


def _brief(layer: str) -> str:
    return layer.removeprefix("stage ").replace("head input", "head")


def _cell(value: float | None) -> dict[str, Any]:
    """A number, and how much colour its cell has, in percent."""
    shade = 0.0 if value is None else min(1.0, max(0.0, value))
    return {"text": number(value), "shade": round(100 * shade)}
