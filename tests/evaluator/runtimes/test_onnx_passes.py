"""Nodes of a profiler's trace go to the parts that they are from, and none is lost."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

from evaluator.runtimes.onnx_passes import nodes_of_passes, parts_ms, places


def event(name: str, ts: int, dur: int, category: str = "Node") -> dict:
    return {"cat": category, "name": name, "ts": ts, "dur": dur}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["part0/1.Conv", "part1/2.Conv", "part12/3.Add"], [0, 1, 12]),
        (["part0/1.Conv_nchwc", "Gelu", "part1/2.Gemm/MatMulAddFusion"], [0, 0, 1]),
        (["part0/1", "ReorderOutput", "ReorderInput_token_3", "part1/2"], [0, 0, 1, 1]),
        (["part0/1", "gemm_input_reshape", "part1/2", "gemm_output_reshape"], [0, 1, 1, 1]),
        (["Transpose", "part0/1", "ReorderInput"], [0, 0, 0]),
        (["part1/1", "ReorderInput", "Gelu", "part2/2"], [1, 2, 2, 2]),
    ],
)
def test_a_node_without_a_part_belongs_to_its_neighbours(names, expected):
    assert places(names) == expected


def test_a_network_whose_nodes_have_no_parts_is_refused():
    with pytest.raises(ValueError, match="no node of the network has the name of a part"):
        places(["Conv", "Add"])


def test_nodes_are_told_pass_by_pass_in_the_order_in_which_they_ran():
    events = [
        event("session_initialization", 0, 5, "Session"),
        event("model_run", 8, 90, "Session"),
        event("part0/0.Conv_kernel_time", 10, 50),
        event("model_run", 100, 90, "Session"),
        event("part1/1.Add_kernel_time", 150, 2000),
        event("part0/0.Conv_kernel_time", 110, 1000),
        event("part0/0.Conv_fence_before", 105, 1),
    ]
    first, second = nodes_of_passes(events)
    assert first == [("part0/0.Conv", 0.05)]
    assert second == [("part0/0.Conv", 1.0), ("part1/1.Add", 2.0)]


def test_parts_are_sums_of_their_nodes_without_what_looking_costs():
    nodes = [("part0/0", 1.0), ("Gelu", 0.5), ("part2/1", 0.25), ("part2/2", 0.01)]
    assert parts_ms(nodes, 4) == [1.5, 0.0, 0.26, 0.0]
    assert parts_ms(nodes, 4, looking_ms=0.05) == pytest.approx([1.4, 0.0, 0.2, 0.0])
