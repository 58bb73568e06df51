import json
import math
import random
import struct

import numpy as np
import pytest
import torch

from search.state import pack, unpack

FLOATS = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, math.nan, math.inf, -math.inf]
NUMPY = ["float64", "float32", "int64", "uint8", "bool", "float16", "int32"]
TORCH = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def random_state(rng: random.Random, depth: int):
    """Anything that a state may hold, nested."""
    kind = rng.randrange(9 if depth else 6)
    shape = rng.choice([(), (0,), (3,), (2, 0, 4), (2, 3)])
    if kind == 0:
        return rng.choice([None, True, False, "", "text", "$float", "\ud800\u00e9\0"])
    if kind == 1:
        return rng.choice([0, -1, rng.getrandbits(128), -rng.getrandbits(200), 2**63])
    if kind in (2, 3):
        return rng.choice([*FLOATS, rng.random(), rng.gauss(0, 1e-9)])
    if kind == 4:
        values = np.random.default_rng(rng.getrandbits(32)).normal(0, 50, shape)
        return np.asarray(values).astype(rng.choice(NUMPY))
    if kind == 5:
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        return (50 * torch.randn(shape, generator=generator)).to(rng.choice(TORCH))
    items = [random_state(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return items
    if kind == 7:
        return tuple(items)
    keys = rng.sample(["a", "b", "$tuple", "$map", "", 0, 1, 2**70, -1.5, (1, "x")], len(items))
    return dict(zip(keys, items, strict=True))


def assert_same(a, b):
    """Equal in type and to the last bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("seed", range(200))
def test_states_come_back_exactly(seed):
    state = random_state(random.Random(seed), 4)
    assert_same(unpack(pack(state)), state)


def test_random_generators_go_on_where_they_were():
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    rng.random(7), torch.rand(7, generator=generator)
    state = unpack(pack([rng.bit_generator.state, generator.get_state()]))
    expected = rng.random(5), torch.rand(5, generator=generator)
    rng, generator = np.random.default_rng(), torch.Generator()
    rng.bit_generator.state = state[0]
    generator.set_state(state[1])
    np.testing.assert_array_equal(rng.random(5), expected[0])
    torch.testing.assert_close(torch.rand(5, generator=generator), expected[1], rtol=0, atol=0)


def test_tensors_that_share_memory_or_are_views():
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    state = {"whole": base, "again": base, "transposed": base.T, "column": base[:, 1]}
    back = unpack(pack(state))
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor)
        assert not back[key].requires_grad


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.float32(1), print, 1j])
def test_what_cannot_be_kept_is_named(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        pack({"x": [value]})


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-3], lambda b: b"\x80\x04" + b])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(ValueError, match="not a saved search state"):
        unpack(damage(pack({"a": torch.zeros(3), "b": "text"})))


def test_the_format_is_plain_safetensors():
    data = pack({"a": 1})
    size = struct.unpack("<Q", data[:8])[0]
    assert list(json.loads(data[8 : 8 + size])) == ["skeleton"]
    assert json.loads(data[8 + size :]) == {"a": 1}
