"""Objectives by name: what they stand for, and what is refused."""

import re

import pytest

from space.budget import Budget, pieces
from space.device import Device
from space.objectives import measured_objectives, resolve_objectives

CPU = Device()


@pytest.mark.parametrize(
    ("text", "budget", "names"),
    [
        ("score,macs", "4GFLOPs", ("score", "macs")),
        ("macs, Score", "4GFLOPs", ("score", "macs")),
        ("score,params,activations,bytes_moved", "4GFLOPs", None),
        ("score,latency", "4GFLOPs", ("score", "latency@cpu")),
        ("score,latency", "8ms@cuda:batch=2", ("score", "latency@cuda:batch=2")),
        ("score,latency,memory", "9ms@cuda,1GB", ("score", "latency@cuda", "memory@cpu")),
        (
            "score,latency@cuda:batch=1,dtype=bf16,macs",
            "8ms@cpu",
            ("score", "latency@cuda:dtype=bfloat16", "macs"),
        ),
        ("score,memory@cuda", "4GFLOPs", ("score", "memory@cuda")),
    ],
)
def test_names_of_columns(text, budget, names):
    found = resolve_objectives(pieces(text), Budget.parse(budget).on(CPU), CPU)
    assert found == (names or tuple(text.split(",")))
    assert resolve_objectives(found, Budget.parse(budget).on(CPU), CPU) == found
    assert [cost.column for cost in measured_objectives(found)] == [n for n in found if "@" in n]


def test_none_are_none():
    assert resolve_objectives((), Budget.parse("4GFLOPs"), CPU) == ()
    assert measured_objectives(()) == []


@pytest.mark.parametrize(
    ("text", "budget", "message"),
    [
        ("score,speed", "4GFLOPs", "unknown objective 'speed'; there are score, macs, params"),
        ("score,", "4GFLOPs", "unknown objective ''"),
        ("score", "4GFLOPs", "are 'score', but must be score and one cost or several"),
        ("macs,params", "4GFLOPs", "are 'macs, params', but must be score and one cost"),
        ("score,macs,MACs", "4GFLOPs", "objectives name macs twice"),
        ("score,latency,latency@cpu", "8ms", "objectives name latency@cpu twice"),
        ("score,latency", "8ms@cpu,9ms@cuda", "may be any of latency@cpu and latency@cuda"),
        ("score,latency@", "4GFLOPs", "names no device behind '@'"),
        ("score,latency@tpu", "4GFLOPs", "unknown device 'tpu'"),
    ],
)
def test_names_that_are_refused(text, budget, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_objectives(pieces(text), Budget.parse(budget).on(CPU), CPU)
