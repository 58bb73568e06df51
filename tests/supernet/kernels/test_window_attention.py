"""Attention in windows that nothing cuts out, against its definition and the plain modules."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("triton")

from space.attention_layers import (
    AttendMap,
    HaloBlocks,
    ShiftedWindowAttention,
    ShiftedWindows,
    SpreadWindows,
    Windows,
)
from space.genes import Site
from space.operators.attention import Attention
from supernet.kernels import window_attention as kernels
from supernet.kernels.twins import accelerate
from supernet.kernels.window_attention import (
    halo_attention,
    halo_attention_backward_reference,
    halo_attention_reference,
    window_attention,
    window_attention_backward_reference,
    window_attention_reference,
)

REFERENCES = {
    window_attention: (window_attention_reference, window_attention_backward_reference),
    halo_attention: (halo_attention_reference, halo_attention_backward_reference),
}


def case(
    operator, heads, shape, channels, bias=None, key_shape=None, dtype=torch.float32, **numbers
):
    """The operator's arguments: q (N, heads * d, H, W) of `shape` (N, d, H, W), kv with `channels`
    of each head's keys and values, a bias for "all" windows, for "each" or None."""
    generator = torch.Generator().manual_seed(0)
    images, width, *sides = shape
    q = torch.randn(images, heads * width, *sides, generator=generator)
    kv = torch.randn(images, heads * channels, *(key_shape or sides), generator=generator)
    given = tuple(numbers.values())
    if operator is window_attention:
        places = kernels.window_places(q, kv, *given)
    else:
        places = kernels.halo_places(q, kv, *given)
    added = None
    if bias:
        count = images * places.windows if bias == "each" else 1
        size = (count, heads, places.queries, places.keys)
        added = torch.randn(size, generator=generator).to(dtype)
    return q.to(dtype), kv.to(dtype), added, heads, *given


windows = partial(case, window_attention)
halo = partial(case, halo_attention)
SQUARES = {"rows": 2, "columns": 2, "up": 0, "left": 0, "spread": False}
NINES = {"rows": 9, "columns": 9, "up": 0, "left": 0, "spread": False}

# Tiny, but each runs through another branch: windows of more than 64 pixels need several tiles.
WINDOW_CASES = {
    "shared bias": windows(2, (1, 8, 4, 4), 16, "all", **SQUARES),
    "own bias, odd widths": windows(1, (2, 12, 4, 2), 17, "each", **SQUARES),
    "no bias, oblong": windows(1, (1, 8, 3, 8), 16, rows=3, columns=4, up=0, left=0, spread=False),
    "shifted": windows(2, (1, 8, 4, 6), 16, "all", rows=2, columns=3, up=1, left=2, spread=False),
    "shifted along one side": windows(
        1, (1, 8, 4, 4), 16, rows=2, columns=4, up=1, left=0, spread=False
    ),
    "spread": windows(1, (2, 8, 4, 6), 24, "all", rows=2, columns=3, up=0, left=0, spread=True),
    "windows of one pixel": windows(
        1, (1, 1, 1, 2), 2, "all", rows=1, columns=1, up=0, left=0, spread=False
    ),
    "one window": windows(1, (1, 8, 2, 2), 16, "all", **SQUARES),
    "large, shared bias": windows(1, (2, 8, 9, 9), 16, "all", **NINES),
    "large, shifted, own bias": windows(1, (1, 8, 9, 18), 16, "each", **NINES | {"left": 4}),
    "large, wide, no bias": windows(1, (1, 40, 9, 9), 104, **NINES),
}
HALO_CASES = {
    "blocks that reach beyond the map": halo(
        1, (1, 8, 3, 4), 16, "each", rows=2, columns=2, halo=1, stride=1
    ),
    "every second query": halo(
        2, (1, 8, 2, 2), 16, key_shape=(3, 4), rows=1, columns=2, halo=1, stride=2
    ),
    "halo wider than the block": halo(
        1, (1, 8, 2, 2), 16, "all", rows=1, columns=1, halo=2, stride=1
    ),
    "large": halo(1, (1, 8, 5, 5), 16, "each", rows=5, columns=5, halo=2, stride=1),
}
CASES = [
    *((window_attention, given) for given in WINDOW_CASES.values()),
    *((halo_attention, given) for given in HALO_CASES.values()),
]
NAMES = [*WINDOW_CASES, *HALO_CASES]
every_case = pytest.mark.parametrize(("operator", "given"), CASES, ids=NAMES)


def in_dtype(given, dtype):
    return [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in given]


def results(function, given, dy):
    """The result, and the gradients of all tensors among the arguments."""
    given = [x.detach().requires_grad_() if isinstance(x, torch.Tensor) else x for x in given]
    y = function(*given)
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    return y, *torch.autograd.grad(y, tensors, dy)


def agree(found, expected, bound):
    """Whether each tensor is near the other, by the norm of the difference."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        error = (one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-6)
        assert error < bound, f"{error:.2g} of a tensor of shape {tuple(one.shape)}"


def output_like(q, kv):
    return torch.randn(len(q), kv.shape[1] - q.shape[1], *q.shape[2:]).to(q.dtype)


# ---- the kernels


@every_case
def test_equals_its_definition(operator, given):
    torch.manual_seed(1)
    dy = output_like(*given[:2])
    found = results(operator, given, dy)
    expected = results(REFERENCES[operator][0], in_dtype(given, torch.float64), dy.double())
    agree(found, expected, 2e-6)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["shifted", "large, shared bias", "large"])
def test_in_bfloat16(name):
    operator, given = CASES[NAMES.index(name)]
    given = in_dtype(given, torch.bfloat16)
    dy = output_like(*given[:2])
    found = results(operator, given, dy)
    expected = results(REFERENCES[operator][0], in_dtype(given, torch.float64), dy.double())
    assert {x.dtype for x in found} == {torch.bfloat16}
    # The interpreter truncates where a GPU rounds to bfloat16, which makes errors of 0.4 %.
    agree(found, expected, 1.5e-2)


@pytest.mark.parametrize("name", ["shared bias", "large, shared bias", "no bias, oblong"])
def test_programs_of_several_windows(name, monkeypatch):
    """As on large maps, where the last windows of some programs do not exist."""
    monkeypatch.setattr(kernels, "PROGRAMS", 1)
    monkeypatch.setattr(kernels, "SUMMED", 1)
    _, given = CASES[NAMES.index(name)]
    if name == "no bias, oblong":  # three windows, by two programs of two
        monkeypatch.setattr(kernels, "PROGRAMS", 2)
        given = windows(1, (1, 8, 2, 6), 16, **SQUARES)
    dy = output_like(*given[:2])
    found = results(window_attention, given, dy)
    expected = results(window_attention_reference, in_dtype(given, torch.float64), dy.double())
    agree(found, expected, 2e-6)


def test_maps_stored_otherwise():
    q, kv, bias, *rest = WINDOW_CASES["shared bias"]
    stored = [x.contiguous(memory_format=torch.channels_last) for x in (q, kv)]
    cut = [x.repeat_interleave(2, 1).repeat(1, 1, 1, 2)[:, ::2, :, : x.shape[3]] for x in (q, kv)]
    wide = bias.repeat(1, 1, 1, 2)[..., : bias.shape[3]]
    dy = output_like(q, kv)
    expected = results(window_attention, (q, kv, bias, *rest), dy)
    for given in ((*stored, bias), (*cut, wide)):
        assert not all(x.is_contiguous() for x in given)
        agree(results(window_attention, (*given, *rest), dy.mT.clone().mT), expected, 1e-7)


def test_no_images():
    q, kv, bias, *rest = WINDOW_CASES["shared bias"]
    given = (q[:0], kv[:0], bias, *rest)
    y, dq, dkv, dbias = results(window_attention, given, output_like(*given[:2]))
    assert y.numel() == dq.numel() == dkv.numel() == 0
    assert not dbias.any()


def test_what_it_cannot_do():
    q, kv, bias, heads, *_ = WINDOW_CASES["shared bias"]
    with pytest.raises(ValueError, match="do not divide"):
        window_attention(q, kv, None, heads, 3, 3, 0, 0, False)
    with pytest.raises(ValueError, match="cannot move 1 up"):
        window_attention(q, kv, None, heads, 2, 2, 1, 0, True)
    with pytest.raises(ValueError, match="the bias is"):
        window_attention(q, kv, bias[:, :, :3], heads, 2, 2, 0, 0, False)
    with pytest.raises(ValueError, match="not one for each 2"):
        halo_attention(q, kv, None, heads, 2, 2, 1, 2)
    with pytest.raises(ValueError, match="64 channels of a head"):
        kernels._window_launch(*windows(1, (1, 72, 2, 2), 80, **SQUARES))


# ---- the definition


def pieces(region, q, kv, bias, heads):
    """What the plain modules do with maps of queries, keys and values."""
    keys = region.cut_keys(kv) if isinstance(region, HaloBlocks) else region.cut(kv)
    if isinstance(region, ShiftedWindows):
        bias = region.mask(q) if bias is None else region.mask(q) + bias
    return region.join(AttendMap(heads)(region.cut(q), keys, bias), *q.shape[2:])


@every_case
def test_definition_equals_the_plain_modules(operator, given):
    q, kv, bias, heads, *numbers = in_dtype(given, torch.float64)
    if operator is halo_attention:
        rows, columns, wide, stride = numbers
        region = HaloBlocks(rows, columns, halo=wide, stride=stride)
    else:
        rows, columns, up, left, spread = numbers
        region = SpreadWindows(rows, columns) if spread else Windows(rows, columns)
        if up or left:
            region = ShiftedWindows(rows, columns, up, left)
    dy = output_like(q, kv)
    found = results(REFERENCES[operator][0], (q, kv, bias, heads, *numbers), dy)
    expected = results(partial(pieces, region), (q, kv, bias, heads), dy)
    agree(found, expected, 1e-12)


@every_case
def test_definition_of_the_gradients(operator, given):
    forward, backward = REFERENCES[operator]
    given = in_dtype(given, torch.float64)
    dy = output_like(*given[:2])
    *gradients, dbias = backward(dy, *given, True)
    if given[2] is not None:
        gradients.append(dbias)
    agree(gradients, results(forward, given, dy)[1:], 1e-12)
    assert backward(dy, *given, False)[2].numel() == 0


# ---- the operators


def test_what_pytorch_asks_of_an_operator():
    q, kv, bias, *rest = windows(1, (1, 8, 2, 2), 16, "all", **SQUARES)
    given = (*(x.requires_grad_() for x in (q, kv, bias)), *rest)
    torch.library.opcheck(window_attention, given)
    quick = ("test_schema", "test_faketensor")
    torch.library.opcheck(window_attention, (q, kv, None, *rest), test_utils=quick)
    given = halo(1, (1, 8, 1, 2), 16, rows=1, columns=2, halo=1, stride=1)
    torch.library.opcheck(halo_attention, given, test_utils=quick)


def counted(run):
    with FlopCounterMode(display=False) as counter:
        found = run()
    return counter.get_total_flops(), found


@every_case
def test_flops_are_those_of_attention(operator, given):
    """As many as PyTorch counts for its own function, with windows in the place of images; where
    that one keeps the weights for the backward pass, this one makes them once more."""
    given = [x.to("meta").requires_grad_() if isinstance(x, torch.Tensor) else x for x in given]
    q, kv, _, heads, *numbers = given
    found = kernels.halo_places if operator is halo_attention else kernels.window_places
    places = found(q, kv, *numbers)
    batch = len(q) * places.windows
    widths = (q.shape[1] // heads, kv.shape[1] // heads - q.shape[1] // heads)
    own = [
        torch.empty(batch, heads, pixels, width, device="meta", requires_grad=True)
        for pixels, width in (
            (places.queries, widths[0]),
            (places.keys, widths[0]),
            (places.keys, widths[1]),
        )
    ]
    forward, y = counted(lambda: operator(*given))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected, own_y = counted(lambda: F.scaled_dot_product_attention(*own))
    assert forward == expected
    backward, _ = counted(lambda: y.backward(torch.empty_like(y)))
    expected, _ = counted(lambda: own_y.backward(torch.empty_like(own_y)))
    scores = 2 * batch * heads * places.queries * places.keys * widths[0]
    assert backward == expected + scores


# ---- the twins


def built(site, **genes):
    """An attention operator's block, its weights random, and a copy with twins."""
    torch.manual_seed(2)
    blocks = []
    for _ in range(2):
        block = Attention(expansion=0, **genes).build(site)
        blocks.append(block)
    with torch.no_grad():
        for parameter in blocks[0].parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    blocks[1].load_state_dict(blocks[0].state_dict())
    accelerate(blocks[1])
    return blocks


def with_gradients(block, x, autocast=False):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = block(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in block.parameters())]


def twins_in(block):
    """Other kernels have twins of layers inside attention."""
    return [layer for layer in block.modules() if type(layer) in kernels.TWINS.values()]


SETTINGS = {
    "relative": (4, {"region": "window", "position": "relative", "context": 2}),
    "filled": (3, {"region": "window", "position": "relative", "context": 2, "fit": "padded"}),
    "shifted": (4, {"region": "window", "shift": True, "position": "relative", "context": 2}),
    "shifted and filled": (
        3,
        {"region": "window", "shift": True, "context": 2, "fit": "padded", "heads": 1},
    ),
    "grid": (4, {"region": "grid", "position": "products", "context": 2}),
    "query": (4, {"region": "window", "position": "query", "context": 2, "heads": 1}),
    "norms behind layers": (
        3,
        {
            "region": "window",
            "context": 2,
            "fit": "padded",
            "qkv_bias": False,
            "project": "plain",
            "linear_norm": True,
            "norm": "batch",
            "inner_activation": "gelu",
        },
    ),
    "halo": (3, {"region": "halo", "context": 2, "halo": 1, "fit": "padded", "heads": 1}),
    "halo, query": (
        4,
        {"region": "halo", "context": 2, "halo": 1, "position": "scaled_query", "heads": 1},
    ),
    "values of another width": (4, {"region": "grid", "context": 2, "value_ratio": 2}),
    "too large": (17, {"region": "window", "context": 17, "position": "relative"}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_twin_equals_the_plain_module(name):
    side, genes = SETTINGS[name]
    site = Site(in_channels=8, channels=8, height=side, width=side)
    plain, twin = built(site, **{"head_dim": 8} | genes)
    assert len(twins_in(twin)) == 1
    x = torch.randn(1, 8, side, side)
    agree(with_gradients(twin, x), with_gradients(plain, x), 2e-5)


def test_twin_of_strided_queries():
    site = Site(in_channels=8, channels=8, height=4, width=4, stride=2)
    genes = {"region": "halo", "context": 2, "halo": 1, "downsampled": "queries", "head_dim": 8}
    plain, twin = built(site, **genes)
    x = torch.randn(1, 8, 4, 4)
    agree(with_gradients(twin, x), with_gradients(plain, x), 2e-5)


def test_twin_under_autocast():
    site = Site(in_channels=8, channels=8, height=4, width=4)
    plain, twin = built(site, region="window", context=2, position="relative", head_dim=8)
    x = torch.randn(1, 8, 4, 4)
    found = with_gradients(twin, x, autocast=True)
    assert found[0].dtype == with_gradients(plain, x, autocast=True)[0].dtype
    plain.zero_grad()
    agree(found, with_gradients(plain, x), 3e-2)


def test_twin_reads_cuts_of_larger_weights():
    """As a supernet calls it: every weight a view of a larger one."""
    site = Site(in_channels=8, channels=8, height=4, width=4)
    plain, twin = built(site, region="window", context=2, position="relative", head_dim=8)
    large, cuts = {}, {}
    for name, weight in plain.named_parameters():
        large[name] = torch.randn([side + 3 for side in weight.shape], requires_grad=True)
        cuts[name] = large[name][tuple(slice(side) for side in weight.shape)]
    x = torch.randn(1, 8, 4, 4)
    found, expected = [], []
    for block, gathered in ((twin, found), (plain, expected)):
        y = functional_call(block, cuts, (x,))
        gathered += [y, *torch.autograd.grad(y.square().sum(), large.values(), retain_graph=True)]
    agree(found, expected, 2e-5)


@pytest.mark.parametrize(
    "genes",
    [
        {"region": "window", "kv_reduction": 2},
        {"region": "window", "value_position": True},
        {"region": "window", "scoring": "linear"},
        {"region": "halo", "scoring": "linear"},
        {
            "region": "window",
            "linear_norm": True,
            "norm": "group",
            "qkv_bias": False,
            "project": "plain",
        },
    ],
)
def test_what_has_no_twin(genes):
    """Among others a norm over all pixels of an image, which on the whole map is another."""
    site = Site(in_channels=8, channels=8, height=4, width=4)
    _, twin = built(site, context=2, head_dim=8, **genes)
    assert not twins_in(twin)


def test_shifted_module_takes_the_shifted_twin():
    site = Site(in_channels=8, channels=8, height=4, width=4)
    plain, twin = built(site, region="window", context=2, shift=True, head_dim=8)
    assert type(plain.mixer.branch) is ShiftedWindowAttention
    assert type(twin.mixer.branch) is kernels.ShiftedWindowAttentionTwin
