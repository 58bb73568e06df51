"""The benchmark of kernels goes on after a failure and does not hide it; its page says what the
result files say."""

import json

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels_page import PAGE, page

CASES = '''
import os

import torch

from benchmarks.kernel_cases import Case


def inputs(device, dtype):
    return (torch.randn(3, 5, device=device, dtype=dtype).requires_grad_(),)


def case(label, ours, stock=torch.exp):
    return Case("exponential", label, inputs, torch.exp, ours, {"eager": stock}, 60, small=True)


def absent(x):
    raise RuntimeError("no such kernel")


def crash(x):
    os._exit(3)


class Wrong(torch.autograd.Function):
    """The right result with another gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    def backward(ctx, grad):
        return grad


CASES = [
    case("right", lambda x: x.exp()),
    case("result", lambda x: 1.1 * x.exp()),
    case("gradient", Wrong.apply),
    case("not a number", lambda x: x.exp() * float("nan")),
    case("shape", lambda x: x.exp()[:2]),
    case("absent", absent),
    case("stock", lambda x: x.exp(), absent),
    case("crash", crash),
    case("after it", lambda x: x.exp()),
]
'''


HEAD = CASES.split("CASES = [")[0]
RIGHT = 'case("right", lambda x: x.exp())'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The benchmark over other cases: the exit code and what is written."""

    def run(source, *arguments):
        (tmp_path / "cases_of_a_test.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(kernels, "files", lambda: ["cases_of_a_test"])
        monkeypatch.delitem(kernels.sys.modules, "cases_of_a_test", raising=False)
        path = tmp_path / "found.json"
        words = ["--small", "--device", "cpu", "--json", str(path), *arguments]
        return kernels.main(words), json.loads(path.read_text())

    return run


def test_failures_are_recorded_and_the_others_go_on(run):
    code, found = run(CASES)
    assert code == 1
    assert not found["passed"]
    rows = {row["label"]: row for row in found["cases"]}
    passed = {label: kernels.passed(row) for label, row in rows.items()}
    assert [label for label in passed if passed[label]] == ["right", "after it"]
    assert len(rows) == 9
    assert rows["right"]["errors"]["bfloat16"]["ours"]["result"] < 0.01
    assert rows["right"]["training"]["times"]["ours"]["median_us"] > 0
    assert rows["result"]["wrong"][0].startswith("bfloat16, result: relative error 0.")
    assert [text.split(":")[0] for text in rows["gradient"]["wrong"]] == [
        "bfloat16, gradient of argument 0",
        "float32, gradient of argument 0",
    ]
    assert rows["not a number"]["correct"] is False
    assert "no such kernel" in rows["absent"]["problems"][0]["error"]
    assert rows["stock"]["correct"] is None
    assert rows["crash"]["problems"] == [{"where": "the process", "error": "it ended with code 3"}]


def test_a_file_that_cannot_be_imported(run):
    code, found = run("CASES = [unknown]")
    assert code == 1
    assert "unknown" in found["problems"][0]["error"]


def test_what_there_was_no_time_for_is_listed(run):
    code, found = run(CASES, "--seconds", "0")
    assert code == 0
    assert not found["cases"]
    assert found["left_out"][0] == "cases_of_a_test: exponential, right"
    assert len(found["left_out"]) == 9


def test_what_a_file_lacks_is_measured_later(run):
    _, before = run(f"{HEAD}CASES = [{RIGHT}, case('absent', absent)]")
    assert [kernels.passed(row) for row in before["cases"]] == [True, False]
    code, found = run(f"{HEAD}CASES = [{RIGHT}, case('after it', lambda x: x.exp())]", "--go-on")
    assert code == 0
    assert [row["label"] for row in found["cases"]] == ["right", "after it"]
    assert found["cases"][0] == before["cases"][0]
    assert found["command"].count("--go-on") == 1
    assert found["command"].startswith(before["command"])
    assert found["seconds"] > before["seconds"]
    _, again = run(f"{HEAD}CASES = [{RIGHT}]", "--go-on", "--again", "exponential")
    assert [row["label"] for row in again["cases"]] == ["after it", "right"]
    assert again["cases"][1]["forward"] != found["cases"][0]["forward"]


def test_a_case_of_each_kernel_comes_first():
    def case(kernel):
        return kernels.Case(kernel, "", tuple, torch.exp, torch.exp, {}, 0)

    cases = [(kernels.Place("file", i), case(kernel)) for i, kernel in enumerate("aabca")]

    def numbers(*known):
        return [[place.number for place in part] for part in kernels.in_order(cases, known)]

    assert numbers() == [[0, 2, 3], [1, 4]]
    assert numbers("a") == [[2, 3], [0, 1, 4]]


def test_verdicts():
    times = {"ours": {"median_us": 10.0}, "eager": {"median_us": 30.0}}
    found = kernels.compared(times, 1000, 1.25e8, True)
    assert (found["times_faster"], found["best_stock"]) == (3, "eager")
    assert (found["verdict"], found["goal"], found["near_copy"]) == ("keep", True, True)
    assert found["copy_share"] == pytest.approx(0.8)
    found = kernels.compared(times | {"compiled": {"median_us": 11.0}}, 1000, 1.3e8, True)
    assert (found["verdict"], found["goal"], found["near_copy"]) == ("drop", False, False)
    assert found["times_faster_than_eager"] == 3
    assert kernels.compared(times, None, None, False)["verdict"] == "wrong"


def test_the_host_goes_ahead_of_what_is_timed(monkeypatch):
    """Without a device: what is asked of one, in which order."""
    asked = []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            asked.append("mark")

        def elapsed_time(self, other):
            return 0.25

    class Active:
        def get_empty_cache_for_benchmark(self):
            return None

        def clear_cache(self, cache):
            asked.append("clear")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: asked.append("wait"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: asked.append("sleep"), raising=False)
    driver = pytest.importorskip("triton.runtime").driver
    monkeypatch.setattr(driver, "_active", Active(), raising=False)
    leaf = torch.zeros(1, requires_grad=True)
    leaf.grad = torch.ones(1)
    seen = []
    found = kernels.spread(lambda: (asked.append("work"), seen.append(leaf.grad)), [leaf], False)
    assert found["median_us"] == found["quartile_1_us"] == found["quartile_3_us"] == 250
    assert 0 < found["host_us"] < 1e4
    assert asked[:24] == ["wait", "work", "wait"] * 8
    repeats = kernels.REPEATS[1]
    assert asked[24:] == ["clear", "sleep", "mark", "work", "mark"] * repeats + ["wait"]
    assert seen == [None] * (8 + repeats)


def test_the_page_is_made_from_the_committed_results():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_page_with_measurements():
    row = {
        "kernel": "depthwise", "label": "3x3", "correct": True, "problems": [], "wrong": [],
        "forward": {
            "times": {"ours": {"median_us": 10.0, "quartile_1_us": 9.0, "quartile_3_us": 11.0}},
            "best_stock": "convolution", "times_faster": 2.0, "times_faster_than_eager": 2.0,
            "verdict": "keep", "copy_share": 0.5,
        },
    }  # fmt: skip
    found = {
        "file": "kernels-x.json", "device": "a GPU", "command": "python", "seconds": 60.0,
        "versions": {"torch": "2", "triton": "3", "python": "3.11"}, "left_out": [], "ahead": [],
        "copy_bytes_per_second": 4e12, "problems": [], "cases": [row, row | {"correct": False}],
    }  # fmt: skip
    text = page([found])
    assert "None has been measured" not in text
    assert (
        "| depthwise, 3x3 | 10.0 (9.0 to 11.0) | convolution | 2.00 | 2.00 | 50% | keep |" in text
    )
    assert "1 of 2 cases failed" in text
