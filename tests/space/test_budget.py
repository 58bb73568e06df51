"""Budgets: what is written, what it means, what is refused."""

import pytest

from space.budget import Budget, quantity
from space.cost import Cost


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("4GFLOPs", {"macs": 4_000_000_000}),
        ("4GMACs", {"macs": 4_000_000_000}),
        ("600MFLOPs", {"macs": 600_000_000}),
        ("0.6gflops", {"macs": 600_000_000}),
        (".5GFLOP", {"macs": 500_000_000}),
        ("1.5TMAC", {"macs": 1_500_000_000_000}),
        ("600e6 FLOPs", {"macs": 600_000_000}),
        ("2500 macs", {"macs": 2500}),
        ("25Mparams", {"params": 25_000_000}),
        ("25Mparameters", {"params": 25_000_000}),
        ("1Bparams", {"params": 1_000_000_000}),
        ("80kparam", {"params": 80_000}),
        ("4GFLOPs,25Mparams", {"macs": 4_000_000_000, "params": 25_000_000}),
        (" 25Mparams , 4GMACs ", {"macs": 4_000_000_000, "params": 25_000_000}),
        ("1mFLOPs", {"macs": 1_000_000}),  # no milli: a budget of less than one is none
    ],
)
def test_parse(text, limits):
    assert Budget.parse(text).limits() == limits


def test_two_flops_per_mac():
    """Of FLOPs only."""
    budget = Budget.parse("4GFLOPs,25Mparams", flops_per_mac=2)
    assert budget.limits() == {"macs": 2_000_000_000, "params": 25_000_000}
    assert Budget.parse("4GMACs", flops_per_mac=2).macs == 4_000_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4G", "'4G' cannot be read"),
        ("25 M parameters", "'25 M parameters' cannot be read"),
        ("fast", "'fast' cannot be read"),
        ("", "'' cannot be read"),
        ("4GFLOPs,", "'' cannot be read"),
        ("-4GFLOPs", "'-4GFLOPs' cannot be read"),
        ("4GFLOPs/s", "units FLOPs, MACs and params"),
        ("nanGFLOPs", "cannot be read"),
        ("0FLOPs", "'0FLOPs' must be above zero"),
        ("0.4params", "above zero"),
        ("1e999FLOPs", "finite"),
        ("1GFLOPs,2GMACs", "limits macs twice"),
        ("1Mparams,2Mparams", "limits params twice"),
    ],
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        Budget.parse(text)


def test_limits_are_inclusive():
    budget = Budget.parse("100MACs,10params")
    assert budget.allows(Cost(macs=100, params=10))
    assert not budget.allows(Cost(macs=101, params=10))
    assert not budget.allows(Cost(macs=100, params=11))
    assert Budget.parse("100MACs").allows(Cost(macs=100, params=10**9))


def test_the_target_is_macs_where_they_are_limited():
    assert Budget.parse("10params,100MACs").target == "macs"
    assert Budget.parse("10params").target == "params"
    assert Budget.parse("10params").limit == 10
    assert Budget.parse("10params,200MACs").use(Cost(macs=50, params=9)) == 0.25
    assert Budget.parse("10params").use(Cost(macs=50, params=9)) == 0.9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1k"),
        (1000, "1k"),
        (8_100, "8.1k"),
        (612_400_000, "612M"),
        (999_499_999, "999M"),
        (999_600_000, "1G"),
        (3_980_000_000, "3.98G"),
        (2_500_000_000_000, "2.5T"),
    ],
)
def test_quantities_for_people(value, text):
    assert quantity(value) == text
