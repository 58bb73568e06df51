"""What is kept, and what goes first."""

import numpy as np
import pytest
import torch

from evaluator.prefix_cache import RECENT, PrefixCache


def bytes_of(count):
    return torch.zeros(count, dtype=torch.uint8)


def test_gives_back_what_was_put():
    cache, tensor = PrefixCache(100), bytes_of(60)
    cache.put("a", tensor, 1.0)
    assert cache.get("a") is tensor
    assert cache.get("b") is None
    assert (len(cache), cache.used, cache.hits) == (1, 60, 1)


def test_what_is_worth_least_for_a_byte_goes():
    cache = PrefixCache(100)
    cache.put("large", bytes_of(50), 50.0)
    cache.put("small", bytes_of(10), 20.0)
    cache.put("dear", bytes_of(50), 500.0)
    assert cache.get("large") is None
    assert cache.get("small") is not None
    assert cache.get("dear") is not None


def test_what_is_not_asked_for_goes_in_the_end():
    """Even what was dear once."""
    cache = PrefixCache(100)
    cache.put("dear", bytes_of(50), 200.0)
    for i in range(20):
        cache.put(i, bytes_of(50), 50.0)
        cache.get(i)
    assert cache.get("dear") is None


def test_what_is_asked_for_stays():
    cache = PrefixCache(100)
    cache.put("wanted", bytes_of(50), 50.0)
    for i in range(20):
        cache.put(i, bytes_of(50), 50.0)
        assert cache.get("wanted") is not None


def test_children_do_not_push_out_what_is_left_of_their_parents():
    """Until it has been asked for in their generation, or for some generations nobody has."""
    cache = PrefixCache(100)
    cache.put("parent", bytes_of(50), 1.0)
    cache.begin()
    for i in range(5):
        cache.put(i, bytes_of(50), 500.0)
    assert cache.get("parent") is not None
    cache.put("dear", bytes_of(50), 500.0)
    cache.put("dearer", bytes_of(50), 5000.0)
    assert cache.get("parent") is None
    cache = PrefixCache(100)
    cache.put("grandparent", bytes_of(50), 1.0)
    for _ in range(RECENT + 1):
        cache.begin()
    cache.put("dear", bytes_of(50), 500.0)
    cache.put("dearer", bytes_of(50), 5000.0)
    assert cache.get("grandparent") is None


def test_what_is_too_large_is_not_kept():
    cache = PrefixCache(100)
    cache.put("a", bytes_of(10), 1.0)
    cache.put("b", bytes_of(101), 1e9)
    assert cache.get("b") is None
    assert cache.get("a") is not None
    with pytest.raises(ValueError, match="at least 0 bytes"):
        PrefixCache(-1)


def test_never_above_the_limit():
    """And its account of memory is right, whatever happens in whichever order."""
    rng = np.random.default_rng(0)
    cache = PrefixCache(1000)
    for _ in range(3000):
        key = int(rng.integers(40))
        if rng.random() < 0.01:
            cache.begin()
        if rng.random() < 0.5:
            cache.put(key, bytes_of(int(rng.integers(1, 400))), float(rng.random()))
        else:
            cache.get(key)
        held = [entry.tensor.numel() for entry in cache._kept.values()]
        assert cache.used == sum(held) <= 1000
        assert len(cache._order) < 64 + 5 * max(1, len(held))
    cache.clear()
    assert (len(cache), cache.used) == (0, 0)
