"""Nested transformer blocks and the stems of LocalViT's hosts against their formulas, and their
counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from naive_layers import (
    batch_norm,
    convolve,
    layer_norm,
    linear,
    mlp,
    noise,
    randomised,
    self_attention,
)
from torch.utils.flop_counter import FlopCounterMode

from space.genes import Flow, Part, Site
from space.operators.embedding import AbsolutePosition, ClassTokens, PlacedClassTokens
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.nested import Nested
from space.slicing import Cut, describe
from space.stems.nested import NestedStem
from space.stems.tokens_to_token import LinearAttention, TokensToToken

PIXELS = 6  # channels of pixels
SITE = Site(8, 8, 3, 2, flow=Flow("nested", PIXELS))
BLOCK = Nested(inner_heads=3, head_dim=16, squeeze_ratio=1 / 8)


def state(images: int = 2, site: Site = SITE):
    patches = noise(images, site.channels, site.height, site.width)
    tokens = noise(images, site.channels, 1, 1, seed=2)
    pixels = noise(images, site.flow.count, 4 * site.height, 4 * site.width, seed=3)
    return patches, tokens, pixels


def hardswish(x):
    return x * (x + 3).clamp(0, 6) / 6


def squeeze_excite(w, name, x):
    mean = x.mean((2, 3), keepdim=True)
    gate = linear(w, f"{name}.expand", linear(w, f"{name}.reduce", mean).clamp(min=0))
    return x * ((gate + 3).clamp(0, 6) / 6)


def feed_forward(w, name, x, *, gate: bool = True):
    """LocalViT's layer on a map (names of the operator inverted_bottleneck)."""
    b = f"{name}.branch"
    y = hardswish(batch_norm(w, f"{b}.expand.1", linear(w, f"{b}.expand.0", x)))
    y = hardswish(batch_norm(w, f"{b}.mix.1", convolve(w, f"{b}.mix.0", y)))
    y = squeeze_excite(w, f"{b}.gate", y) if gate else y
    return x + batch_norm(w, f"{b}.last_norm", linear(w, f"{b}.project", y))


def as_one(w, name):
    """A linear layer in a sequence with an identity in front, by the name of the sequence."""
    return {**w, **{k.replace(f"{name}.1.", f"{name}."): v for k, v in w.items()}}


def find(module, kind):
    (found,) = (m for m in module.modules() if isinstance(m, kind))
    return found


def patch_rows(pixels, i, j):
    """One image (d, 4 H, 4 W): the 16 pixels of patch (i, j), row by row, (16, d)."""
    return torch.stack([pixels[:, 4 * i + a, 4 * j + b] for a in range(4) for b in range(4)])


def test_nested_block():
    module, w = randomised(BLOCK.build(SITE))
    w = as_one(as_one(w, "inner.mixer.branch.project"), "outer.0.block.mixer.branch.project")
    patches, tokens, pixels = state()
    wanted_patches, wanted_tokens, wanted_pixels = (x.clone() for x in (patches, tokens, pixels))
    for n in range(2):
        for i in range(SITE.height):
            for j in range(SITE.width):
                rows = patch_rows(pixels[n], i, j)
                normed = layer_norm(w, "inner.mixer.norm", rows.T[None, :, :, None])
                normed = normed[0, :, :, 0].T
                rows = rows + self_attention(w, "inner.mixer.branch", normed, 3)
                x = rows.T[None, :, :, None]
                x = x + mlp(w, "inner.mlp.branch", layer_norm(w, "inner.mlp.norm", x))
                side_by_side = layer_norm(w, "project.0", x)[0, :, :, 0].T.reshape(-1)
                patch = linear(w, "project.1.2", side_by_side[None, :, None, None])
                wanted_patches[n, :, i, j] += patch[0, :, 0, 0]
                square = x[0, :, :, 0].reshape(PIXELS, 4, 4)
                wanted_pixels[n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = square
        row = torch.cat([wanted_tokens[n].flatten(1), wanted_patches[n].flatten(1)], 1)
        normed = layer_norm(w, "outer.0.block.mixer.norm", row[None, :, :, None])[0, :, :, 0].T
        row = row + self_attention(w, "outer.0.block.mixer.branch", normed, 1).T
        wanted_tokens[n] = row[:, :1, None]
        wanted_patches[n] = row[:, 1:].reshape(wanted_patches[n].shape)
    wanted_patches = feed_forward(w, "outer.1.part", wanted_patches)
    found = module((patches, tokens, pixels))
    wanted = (wanted_patches, wanted_tokens, wanted_pixels)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_the_last_block_lets_the_pixels_go():
    last = Nested(inner_heads=3, head_dim=16, squeeze_ratio=1 / 8, keep_pixels=False)
    module, w = randomised(BLOCK.build(SITE))
    without = last.build(SITE).double().eval()
    without.load_state_dict(w)
    for one, other in zip(without(state()), module(state())[:2], strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    assert last.gives(SITE) == Flow("tokens", 1)
    assert BLOCK.gives(SITE) == SITE.flow


def test_nested_stem():
    part = NestedStem(channels=8, pixel_channels=PIXELS)
    module, w = randomised(part.build(Site(3, 8, 48, 32, 16)))
    image = noise(2, 3, 48, 32)
    pixels = convolve(w, "pixels.0", image, stride=4)
    for i in range(pixels.shape[2]):
        for j in range(pixels.shape[3]):
            pixels[:, :, i, j] += w["pixels.1.position"][:, i % 4, j % 4]
    patches = torch.empty(2, 8, 3, 2, dtype=torch.float64)
    for n in range(2):
        for i in range(3):
            for j in range(2):
                row = patch_rows(pixels[n], i, j).reshape(1, -1, 1, 1)
                row = linear(w, "patches.0.2", layer_norm(w, "patches.0.1", row))
                patches[n, :, i, j] = layer_norm(w, "patches.1", row)[0, :, 0, 0]
    patches = patches + find(module, AbsolutePosition).position
    token = find(module, PlacedClassTokens)
    tokens = token.tokens + token.position
    found = module(image)
    wanted = (patches, tokens.expand(2, -1, -1, -1), pixels)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def soft_split(x, side, stride, padding):
    rows, columns = x.shape[2] // stride, x.shape[3] // stride
    y = x.new_zeros(len(x), x.shape[1] * side**2, rows, columns)
    for c in range(x.shape[1]):
        for a in range(side):
            for b in range(side):
                for i in range(rows):
                    for j in range(columns):
                        row, column = i * stride + a - padding, j * stride + b - padding
                        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                            y[:, (c * side + a) * side + b, i, j] = x[:, c, row, column]
    return y


def linear_attention(w, name, x):
    """Each query's weights are those of its features with every key's, one query at a time."""
    k, q, v = linear(w, f"{name}.kqv", x).flatten(2).chunk(3, 1)
    directions = LinearAttention.directions(k)
    count = len(directions)
    y = torch.empty_like(v)
    for n in range(len(x)):

        def features(t, n=n):
            exponents = [d @ t[n] - (t[n] ** 2).sum(0) / 2 for d in directions]
            return torch.stack(exponents).exp() / math.sqrt(count)

        of_keys, of_queries = features(k), features(q)
        for t in range(q.shape[2]):
            weights = of_queries[:, t] @ of_keys
            y[n, :, t] = v[n] @ weights / weights.sum()
    y = v + linear(w, f"{name}.project", y[..., None])[..., 0]
    return y.reshape(len(x), -1, *x.shape[2:])


def sinusoid(places, channels):
    """As T2T-ViT has it: sines at even channels, cosines at odd ones, in numpy."""
    table = np.array(
        [[p / 10000 ** (2 * (j // 2) / channels) for j in range(channels)] for p in range(places)]
    )
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    return torch.from_numpy(table)


def test_linear_attention_does_not_underflow():
    """In float32 the features of long keys and queries are all 0 unless they are scaled."""
    module, _ = randomised(
        TokensToToken(channels=8, token_channels=16).build(Site(3, 8, 32, 32, 16))
    )
    attention = module[1].attention
    x = 10 * noise(1, 147, 4, 4)
    lengths = attention.kqv(x)[:, :32].square().sum(1) / 4
    assert lengths.min() > 1000  # exp(-1000) is 0 even in float64
    assert attention(x).isfinite().all()
    attention.float()(x.float()).sum().backward()
    assert attention.project.weight.grad.abs().max() > 0
    assert attention.kqv.weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["mlp", "local"])
def test_tokens_to_token(kind):
    part = TokensToToken(channels=10, token_channels=16, feed_forward=kind)
    module, w = randomised(part.build(Site(3, 10, 32, 48, 16)))
    x = noise(2, 3, 32, 48)
    for layer, split in ((1, (7, 4, 2)), (3, (3, 2, 1))):
        x = layer_norm(w, f"{layer}.norm", soft_split(x, *split))
        x = linear_attention(w, f"{layer}.attention", x)
        name = f"{layer}.feed_forward"
        if kind == "local":
            x = feed_forward(w, name, x, gate=False)
        else:
            x = x + mlp(w, f"{name}.branch", layer_norm(w, f"{name}.norm", x))
    x = linear(w, "5", soft_split(x, 3, 2, 1))
    table = sinusoid(1 + 2 * 3, 10).T
    pixels = x + table[:, 1:].reshape(10, 2, 3)
    tokens = (find(module, ClassTokens).tokens + table[:, :1, None]).expand(2, -1, -1, -1)
    for one, other in zip(module(noise(2, 3, 32, 48)), (pixels, tokens), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_directions_are_at_right_angles():
    w = LinearAttention.directions(torch.zeros(1, 64, 1, dtype=torch.float64))
    torch.testing.assert_close(w @ w.T, 32 * torch.eye(32, dtype=torch.float64))


def test_other_directions_are_a_rotation_of_queries_and_keys():
    """What the docstring says of the released code's random directions."""
    module, _ = randomised(
        TokensToToken(channels=10, token_channels=16).build(Site(3, 10, 32, 32, 16))
    )
    attention = module[1].attention
    x = 0.1 * noise(1, 147, 4, 4)
    own = LinearAttention.directions(torch.zeros(1, 16, 1, dtype=torch.float64))
    q, _ = torch.linalg.qr(noise(16, 16, seed=5))
    random = math.sqrt(8) * q[:8]
    wanted = attention(x)
    # A rotation that takes the other directions to these.
    rest = torch.linalg.svd(own)[2][8:]
    rotation = torch.cat([own / math.sqrt(8), rest]).T @ torch.cat([random / math.sqrt(8), q[8:]])
    torch.testing.assert_close(random @ rotation.T, own)
    with torch.no_grad():
        for part in (slice(0, 16), slice(16, 32)):
            for tensor in (attention.kqv.weight, attention.kqv.bias):
                tensor[part] = rotation.T @ tensor[part]
    attention.directions = lambda _: random
    torch.testing.assert_close(attention(x), wanted, atol=1e-9, rtol=0)


def test_the_feed_forward_layer_leaves_class_tokens_alone():
    site = Site(8, 8, 3, 4, flow=Flow("tokens", 2))
    part = InvertedBottleneck(context=3, norm="batch", last_norm="batch")
    module, w = randomised(part.build(site))
    x, tokens = noise(2, 8, 3, 4), noise(2, 8, 2, 1)
    alone = part.build(Site(8, 8, 3, 4)).double().eval()
    alone.load_state_dict({k.removeprefix("part."): v for k, v in w.items()})
    found = module((x, tokens))
    torch.testing.assert_close(found[0], alone(x), atol=0, rtol=0)
    assert found[1] is tokens
    with pytest.raises(
        ValueError, match="leaves class tokens as they are, so the width must stay 8"
    ):
        part.blueprint(Site(8, 16, 3, 4, flow=Flow("tokens", 2)))


PLACED: list[tuple[Part, Site]] = [
    (BLOCK, SITE),
    (Nested(inner_heads=2, head_dim=16, inner_expansion=0, qkv_bias=True, norm="none"), SITE),
    (Nested(inner_heads=1, head_dim=16, norm="batch", keep_pixels=False), SITE),
    (NestedStem(channels=8, pixel_channels=PIXELS), Site(3, 8, 48, 32, 16)),
    (NestedStem(channels=8, pixel_channels=5, norm="batch"), Site(3, 8, 16, 16, 16)),
    (TokensToToken(channels=8, token_channels=16), Site(3, 8, 32, 48, 16)),
    (TokensToToken(channels=8, token_channels=32, feed_forward="local"), Site(3, 8, 32, 16, 16)),
]


@pytest.mark.parametrize(("part", "site"), PLACED, ids=str)
def test_counts_gradients_and_independence(part, site):
    images = state(3) if site.flow.count else noise(3, 3, site.height, site.width)

    def picked(which):
        return tuple(t[which] for t in images) if site.flow.count else images[which]

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = part.build(site).double().eval()
        one = picked(slice(1))
        module(tuple(t.to("meta") for t in one) if site.flow.count else one.to("meta"))
    cost = part.cost(site)
    assert counter.get_total_flops() == 2 * cost.macs
    assert sum(p.numel() for p in module.parameters()) == cost.params

    module, _ = randomised(part.build(site))
    y = module(images)
    sum((t * noise(*t.shape)).sum() for t in y).backward()
    for name, parameter in module.named_parameters():
        if "unused_norm" in name:  # counted in LocalViT's T2T-ViT
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0, name
    for whole, alone in zip(y, module(picked(slice(1, 2))), strict=True):
        torch.testing.assert_close(whole[1:2], alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (
            (BLOCK, Site(16, 16, 3, 2, flow=Flow("nested", 3))),
            (BLOCK, Site(32, 32, 3, 2, flow=SITE.flow)),
        ),
        (
            (NestedStem(channels=8, pixel_channels=3), Site(3, 8, 16, 16, 16)),
            (NestedStem(channels=12, pixel_channels=6), Site(3, 12, 48, 32, 16)),
        ),
        (
            (TokensToToken(channels=8, token_channels=16), Site(3, 8, 32, 16, 16)),
            (TokensToToken(channels=12, token_channels=32), Site(3, 12, 32, 16, 16)),
        ),
    ],
    ids=["nested", "nested stem", "tokens to token"],
)
def test_a_narrow_one_is_cut_from_a_wide_one(small, large):
    shapes = [
        {name: tuple(p.shape) for name, p in part.build(site).named_parameters()}
        for part, site in (small, large)
    ]
    axes = [
        describe(shape, part.axes(site))
        for shape, (part, site) in zip(shapes, (small, large), strict=True)
    ]
    for name in shapes[0]:
        cut = Cut.between(axes[0][name], axes[1][name])(torch.zeros(shapes[1][name]))
        assert tuple(cut.shape) == shapes[0][name]


def test_a_slice_keeps_every_pixel_of_a_patch():
    part = NestedStem(channels=4, pixel_channels=3)
    wide = NestedStem(channels=4, pixel_channels=5)
    axes = [
        describe(
            {name: tuple(p.shape) for name, p in each.build(site).named_parameters()},
            each.axes(site),
        )["patches.0.2.weight"]
        for each in (part, wide)
        for site in [Site(3, 4, 16, 16, 16)]
    ]
    columns = torch.arange(80.0).expand(4, 80)
    wanted = [float(5 * pixel + channel) for pixel in range(16) for channel in range(3)]
    assert Cut.between(*axes)(columns)[0].tolist() == wanted
