"""Budgets: what is written, what it means, what is refused."""

import re

import pytest

from space.budget import (
    Budget,
    MeasuredCost,
    cost_figure,
    cost_text,
    cost_title,
    pieces,
    quantity,
)
from space.cost import Cost
from space.device import Device


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
        ("4GFLOPs/s", "units FLOPs, MACs, params, us, ms"),
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


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("8ms", {"latency": 8.0}),
        ("8MS", {"latency": 8.0}),
        ("8 ms @ cpu", {"latency@cpu": 8.0}),
        ("0.5s@CPU", {"latency@cpu": 500.0}),
        ("250us@cuda", {"latency@cuda": 0.25}),
        ("250µs@cuda", {"latency@cuda": 0.25}),
        ("1e1ms@cuda:1", {"latency@cuda:1": 10.0}),
        ("25ms@cpu:threads=4", {"latency@cpu:threads=4": 25.0}),
        ("8ms@onnxruntime-cpu", {"latency@onnxruntime-cpu": 8.0}),
        ("8ms@phone.json", {"latency@phone.json": 8.0}),
        ("8ms@profiles/My Phone.json", {"latency@profiles/My Phone.json": 8.0}),
        ("5ms@cuda:batch=1,dtype=bf16", {"latency@cuda:dtype=bfloat16": 5.0}),
        ("5ms@cuda,dtype=half", {"latency@cuda:dtype=float16": 5.0}),
        # 64 images at 2000 a second are 32 ms.
        ("2000img/s@cuda:batch=64", {"latency@cuda:batch=64": 32.0}),
        ("2kimages/s@cuda:batch=64", {"latency@cuda:batch=64": 32.0}),
        ("50fps", {"latency": 20.0}),
        ("50 image/s@cpu", {"latency@cpu": 20.0}),
        ("512MB", {"memory": 512e6}),
        ("512mb", {"memory": 512e6}),
        ("512MiB", {"memory": 512 * 2**20}),
        ("1.5GiB@cuda:batch=8,dtype=bf16", {"memory@cuda:batch=8,dtype=bfloat16": 1.5 * 2**30}),
        ("800kBytes", {"memory": 800e3}),
        ("4GFLOPs,8ms", {"macs": 4_000_000_000, "latency": 8.0}),
        (
            "5ms@cuda:batch=1,dtype=bf16,25ms@cpu:threads=4,25Mparams,1GB",
            {
                "params": 25_000_000,
                "latency@cuda:dtype=bfloat16": 5.0,
                "latency@cpu:threads=4": 25.0,
                "memory": 1e9,
            },
        ),
        ("8ms@phone.json,4GFLOPs", {"macs": 4_000_000_000, "latency@phone.json": 8.0}),
        ("8ms@cpu,9ms@cpu:threads=2", {"latency@cpu": 8.0, "latency@cpu:threads=2": 9.0}),
    ],
)
def test_measured_limits(text, limits):
    assert Budget.parse(text).limits() == pytest.approx(limits, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", "'8' cannot be read"),
        ("8@cpu", "'8@cpu' cannot be read"),
        ("8min@cpu", "'8min@cpu' cannot be read"),
        ("ms@cpu", "'ms@cpu' cannot be read"),
        ("512B", "'512B' cannot be read"),
        ("nanms@cpu", "'nanms@cpu' cannot be read"),
        ("infms", "'infms' cannot be read"),
        ("-8ms@cpu", "'-8ms@cpu' cannot be read"),
        ("8ms,9", "'9' cannot be read"),
        ("8ms@cpu,4", "'4' cannot be read"),
        ("8ms@cpu,fast", "'fast' cannot be read"),
        ("0ms", "'0ms' must be above zero and finite"),
        ("0img/s@cpu", "'0img/s@cpu' must be above zero and finite"),
        ("1e-999ms", "'1e-999ms' must be above zero and finite"),
        ("1e999s@cpu", "'1e999s@cpu' must be above zero and finite"),
        ("0MB", "'0MB' must be above zero and finite"),
        ("8ms@", "'8ms@' names no device behind '@'; write cpu"),
        ("8ms@ ,4GFLOPs", "'8ms@' names no device"),
        ("8ms@tpu", "unknown device 'tpu'; write cpu"),
        ("8ms@cpu,dtype=int8", "dtype is 'int8', but must be float32, bfloat16 or float16"),
        ("8ms@cpu:threads=0", "threads is '0', but must be a whole number of at least 1"),
        ("8ms@cuda:batch=2,batch=3", "gives batch twice"),
        ("8ms@cuda:speed=3", "'speed=3' cannot be read; options are threads=N"),
        ("5ms@cuda:threads=2", "a GPU has no threads to choose"),
        ("dtype=bf16,8ms@cuda", "option 'dtype=bf16' belongs behind a device"),
        ("8ms,dtype=bf16", "option 'dtype=bf16' belongs behind a device"),
        ("8ms@cuda,4GFLOPs,dtype=bf16", "option 'dtype=bf16' belongs behind a device"),
        ("8ms@phone.json,batch=4", "has options behind a profile file"),
        ("8ms@my,phone.json", "'my,phone.json' has a comma in its path"),
        ("100img/s@phone.json", "write the time of one pass, such as 8ms@phone.json"),
        ("4GFLOPs@cuda", "the same on all of them: write 4GFLOPs"),
        ("512MB@phone.json", "a profile file has latencies alone"),
        ("512MB@cpu:threads=4", "memory does not depend on them"),
        ("8ms@cpu,9ms@cpu", "limits latency on cpu twice"),
        ("8ms@cuda:dtype=bf16,9ms@cuda,dtype=bfloat16", "latency on cuda:dtype=bfloat16 twice"),
        ("8ms,100img/s", "limits latency twice"),
        ("8ms@cpu,100img/s@cpu", "limits latency on cpu twice"),
        ("512MB,1GB", "limits memory twice"),
    ],
)
def test_measured_limits_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        Budget.parse(text)
    assert "\n" not in str(raised.value)


def test_what_names_no_device_is_of_the_one_at_hand():
    budget = Budget.parse("4GFLOPs, 8ms,9ms@cpu,512MB").on(Device.parse("cuda:1"))
    assert budget.text == "4GFLOPs,8ms@cuda:1,9ms@cpu,512MB@cuda:1"
    assert budget == Budget.parse(budget.text)
    assert budget.on(Device()) == budget
    assert set(budget.limits()) == {"macs", "latency@cuda:1", "latency@cpu", "memory@cuda:1"}
    for text, twice in (("8ms,9ms@cpu", "latency"), ("1GB@cpu,512MB", "memory")):
        with pytest.raises(ValueError, match=f"limits {twice} on cpu twice"):
            Budget.parse(text).on(Device())
    counts = Budget.parse(" 4GFLOPs, 25Mparams")
    assert counts.on(Device()) == counts


def test_where_only_counts_are_limited():
    assert Budget.parse("4GFLOPs,25Mparams", counts_only=True).macs == 4e9
    for text in ("8ms", "4GFLOPs,512MB", "9fps@cpu"):
        with pytest.raises(ValueError, match="only MACs and parameters can be limited here"):
            Budget.parse(text, counts_only=True)
    with pytest.raises(ValueError, match=r"'4G' cannot be read.* FLOPs, MACs and params, such"):
        Budget.parse("4G", counts_only=True)


def test_what_is_steered_comes_first():
    assert Budget.parse("512MB,9ms@cpu,25Mparams,8ms,4GMACs").targets == (
        "macs",
        "latency@cpu",
        "latency",
        "memory",
        "params",
    )


def test_measured_limits_are_inclusive():
    budget = Budget.parse("100MACs,8ms@cpu,1kB")
    cost = Cost(macs=100)
    assert budget.allows(cost, {"latency@cpu": 8.0, "memory": 1000.0})
    assert not budget.allows(cost, {"latency@cpu": 8.1, "memory": 1000.0})
    assert not budget.allows(cost, {"latency@cpu": 8.0, "memory": 1001.0})
    assert not budget.allows(Cost(macs=101), {"latency@cpu": 1.0})
    assert budget.allows(cost)  # nothing was measured


@pytest.mark.parametrize(
    "name", ["latency", "latency@cuda:1,batch=4,dtype=bfloat16", "memory", "latency@a/b.json"]
)
def test_names_of_measured_costs_can_be_read_again(name):
    assert MeasuredCost.parse(name).column == name


def test_names_that_are_no_measured_cost():
    with pytest.raises(ValueError, match="unknown cost 'speed@cpu'; write latency or memory"):
        MeasuredCost.parse("speed@cpu")
    with pytest.raises(ValueError, match="names no device"):
        MeasuredCost.parse("latency@")


def test_options_stay_with_their_device():
    text = "score,latency@cuda:batch=2,dtype=bf16,macs"
    assert pieces(text) == ["score", "latency@cuda:batch=2,dtype=bf16", "macs"]


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


@pytest.mark.parametrize(
    ("name", "value", "title", "figure", "text"),
    [
        ("macs", 3.98e9, "MACs", "3.98G", "3.98G MACs"),
        ("params", 25e6, "parameters", "25M", "25M parameters"),
        ("bytes_moved", 5e8, "bytes moved", "500MB", "500MB moved"),
        ("latency@cpu", 7.914, "latency on cpu", "7.91 ms", "7.91 ms on cpu"),
        ("latency", 0.0125, "latency", "0.0125 ms", "0.0125 ms"),
        ("memory", 512e6, "memory", "512MB", "512MB of memory"),
        (
            "memory@cuda:batch=8",
            1e9,
            "memory on cuda:batch=8",
            "1GB",
            "1GB of memory on cuda:batch=8",
        ),
    ],
)
def test_costs_for_people(name, value, title, figure, text):
    assert cost_title(name) == title
    assert cost_figure(name, value) == figure
    assert cost_text(name, value) == text
