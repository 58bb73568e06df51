"""Linear, channel and gated attention against their formulas, one head and query at a time, in
float64; and how they start."""

from __future__ import annotations

import math

import pytest
import torch
from naive_layers import noise, randomised
from torch import Tensor

from space.attention_scores import ChannelAttend, GatedAttend, LinearAttend, channel_attend

EXACT = {"atol": 1e-9, "rtol": 0}
HEADS, WIDTH, VALUES = 3, 4, 2


def row(x: Tensor, image: int, head: int, width: int, start: int = 0) -> Tensor:
    """The channels of one head of a map as pixels (T, width), read row by row."""
    own = x[image, start + head * width : start + (head + 1) * width]
    return torch.stack([own[:, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])])


def joined(heads: list[Tensor], height: int, width: int) -> Tensor:
    """Answers (T, d) of each head as a map (1, heads * d, H, W)."""
    return torch.cat(heads, 1).T.reshape(1, -1, height, width)


@pytest.mark.parametrize("size", [0.5, 10.0], ids=["clamped", "large"])
def test_linear(size):
    module, w = randomised(LinearAttend(HEADS, WIDTH))
    q = size * noise(2, HEADS * WIDTH, 3, 4)
    kv = size * noise(2, HEADS * (WIDTH + VALUES), 2, 5, seed=2)
    expected, totals = [], []
    for image in range(2):
        heads = []
        for head in range(HEADS):
            keys = row(kv, image, head, WIDTH).clamp(min=0)
            values = row(kv, image, head, VALUES, start=HEADS * WIDTH)
            answers = []
            for query in row(q, image, head, WIDTH).clamp(min=0):
                products = keys @ query
                totals.append(float(products.sum()))
                summed = sum(
                    p * w["scale"][head] * v for p, v in zip(products, values, strict=True)
                )
                answers.append(summed / max(totals[-1], 100))
            heads.append(torch.stack(answers))
        expected.append(joined(heads, 3, 4))
    torch.testing.assert_close(module(q, kv), torch.cat(expected), **EXACT)
    assert all(total < 100 for total in totals) or sum(total > 100 for total in totals) > 20


def test_linear_starts_at_the_root_of_the_width():
    assert torch.allclose(LinearAttend(2, 16).scale, torch.full((2,), 0.25))


def test_channel():
    module, w = randomised(ChannelAttend(HEADS))
    q = noise(2, HEADS * WIDTH, 3, 4)
    kv = noise(2, 2 * HEADS * WIDTH, 3, 4, seed=2)
    expected = []
    for image in range(2):
        heads = []
        for head in range(HEADS):
            queries, keys = row(q, image, head, WIDTH), row(kv, image, head, WIDTH)
            values = row(kv, image, head, WIDTH, start=HEADS * WIDTH)
            channels = []
            for a in range(WIDTH):
                cosines = torch.stack(
                    [
                        queries[:, a] @ keys[:, b] / (queries[:, a].norm() * keys[:, b].norm())
                        for b in range(WIDTH)
                    ]
                )
                weights = (w["temperature"][head] * cosines).exp()
                channels.append(values @ (weights / weights.sum()))
            heads.append(torch.stack(channels, 1))
        expected.append(joined(heads, 3, 4))
    torch.testing.assert_close(module(q, kv), torch.cat(expected), **EXACT)


def test_a_channel_cannot_attend_to_itself_alone():
    with pytest.raises(ValueError, match="heads of 2 channels or more, not 1"):
        channel_attend(4, 1, batch=1, pixels=9)


def test_gated():
    module, w = randomised(GatedAttend(HEADS))
    height, width = 3, 4
    q = noise(2, HEADS * WIDTH, height, width)
    kv = noise(2, HEADS * (WIDTH + VALUES), height, width, seed=2)
    pixels = [(i, j) for i in range(height) for j in range(width)]
    expected = []
    for image in range(2):
        heads = []
        for head in range(HEADS):
            keys = row(kv, image, head, WIDTH)
            values = row(kv, image, head, VALUES, start=HEADS * WIDTH)
            gate = 1 / (1 + math.exp(-w["gate"][head]))
            answers = []
            for (y, x), query in zip(pixels, row(q, image, head, WIDTH), strict=True):
                content = (keys @ query / math.sqrt(WIDTH)).exp()
                offsets = [(j - x, i - y, (j - x) ** 2 + (i - y) ** 2) for i, j in pixels]
                features = torch.tensor(offsets, dtype=torch.float64)
                place = features @ w["position.weight"][head] + w["position.bias"][head]
                place = (place - place.max()).exp()
                weights = (1 - gate) * content / content.sum() + gate * place / place.sum()
                answers.append(weights / weights.sum() @ values)
            heads.append(torch.stack(answers))
        expected.append(joined(heads, height, width))
    torch.testing.assert_close(module(q, kv), torch.cat(expected), **EXACT)


@pytest.mark.parametrize("heads", [4, 9, 11])
def test_gated_heads_start_on_the_places_of_a_filter(heads):
    """The K x K places around a pixel have a head each, for an even K in between pixels."""
    module = GatedAttend(heads)
    side, middle = math.isqrt(heads), 3
    logits = module.position(module.offsets(7, 7, module.gate))[middle * 7 + middle]
    found = set()
    for head in range(side**2):
        best = logits[:, head].max()
        near = (logits[:, head] > best - 1e-4).nonzero()[:, 0]
        rows, columns = near // 7 - middle, near % 7 - middle
        found.add((rows.float().mean().item(), columns.float().mean().item()))
    reach = [place - (side - 1) / 2 for place in range(side)]
    assert found == {(down, right) for down in reach for right in reach}
    assert module.gate.tolist() == [1.0] * heads
