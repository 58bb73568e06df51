"""Passes of ONNX files through onnxruntime, timed as a whole and part by part.

It needs the standard library, numpy and onnxruntime alone, since it also runs on devices where
nothing else of this project does. The files are those of `evaluator.runtimes.onnx_graph`: the nodes
and values of part `i` have names that begin with `part{i}/`.

The parts' times are those that onnxruntime's own profiler gives its nodes within a pass of the
whole network, after all fusions. A fused node keeps the name of a node that is in it; what
onnxruntime adds under a name of its own (a change of layout, a fused activation) belongs to its
neighbours.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

WARM_UP = 3  # passes; the first finds out how much memory it takes, the second allocates that
LOOK_AGAIN = 9  # passes of the network that costs nothing, to see what looking costs
PART = re.compile(r"part(\d+)/")
KERNEL = "_kernel_time"  # what the profiler adds to the name of a node
BEFORE = ("ReorderInput", "gemm_input_reshape")  # what stands in front of the node that it is for


def open_session(
    model: Path, threads: int, *, optimised: Path | None = None, trace: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of one file, on the processor. `optimised` is where to write what becomes of the
    network; `trace` is the beginning of a profiler's file, and `model` is then what was written.

    All optimisations; the threads of a session wait actively inside a pass, as they do by default,
    and sleep between passes, so that sessions that take turns do not disturb one another.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors; a file written after optimisations would warn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if trace is not None:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    return onnxruntime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )


class OnnxRunner:
    """One network, ready to run (`evaluator.runtimes.Runner`)."""

    def __init__(
        self, model: Path, parts: int, images: np.ndarray, threads: int, looking_ms: float = 0.0
    ):
        """`looking_ms` is what the profiler adds to each node's time."""
        self._parts, self._threads, self._looking_ms = parts, threads, looking_ms
        self._folder = tempfile.TemporaryDirectory(prefix="chimera-")
        self._optimised = Path(self._folder.name) / "optimised.onnx"
        self._session = open_session(model, threads, optimised=self._optimised)
        self._inputs = {self._session.get_inputs()[0].name: images}
        for _ in range(WARM_UP):
            self._session.run(None, self._inputs)

    def outputs(self) -> np.ndarray:
        """Of the last layer, (N, classes)."""
        found: np.ndarray = self._session.run(None, self._inputs)[0]
        return found

    def time(self) -> float:
        begun = time.perf_counter_ns()
        self._session.run(None, self._inputs)
        return (time.perf_counter_ns() - begun) / 1e6

    def time_parts(self) -> list[float]:
        """Opens a session for it, since onnxruntime looks only from a session's beginning to its
        end; the last of its passes counts."""
        return parts_ms(self.look(), self._parts, self._looking_ms)

    def look(self) -> list[tuple[str, float]]:
        """Nodes of a pass in the order in which they ran, each with its milliseconds."""
        session = open_session(
            self._optimised, self._threads, trace=Path(self._folder.name) / "trace"
        )
        for _ in range(WARM_UP + 1):
            session.run(None, self._inputs)
        trace = Path(session.end_profiling())
        events = json.loads(trace.read_text(encoding="utf-8"))
        trace.unlink()
        return nodes_of_last_pass(events)


def nodes_of_last_pass(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Names and milliseconds of the nodes of a trace's last pass, in the order they ran."""
    begun = max(event["ts"] for event in events if event["name"] == "model_run")
    nodes = [
        (event["ts"], event["name"].removesuffix(KERNEL), event["dur"] / 1e3)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL) and event["ts"] >= begun
    ]
    return [(name, ms) for _, name, ms in sorted(nodes, key=lambda node: node[0])]


def parts_ms(
    nodes: Sequence[tuple[str, float]], parts: int, looking_ms: float = 0.0
) -> list[float]:
    """Milliseconds of each part, from nodes in the order in which they ran."""
    found = [0.0] * parts
    for place, (_, ms) in zip(places([name for name, _ in nodes]), nodes, strict=True):
        found[place] += max(0.0, ms - looking_ms)
    return found


def places(names: Sequence[str]) -> list[int]:
    """The part that each node belongs to: by its name, or else that of the node in front of it, or
    behind it where it prepares what comes. ValueError where no node has a part in its name."""
    known = [PART.match(name) for name in names]
    told = [None if match is None else int(match[1]) for match in known]
    if told and all(part is None for part in told):
        raise ValueError("no node of the network has the name of a part")
    following: list[int | None] = [None] * len(told)
    last: int | None = None
    for i in reversed(range(len(told))):
        last = following[i] = last if told[i] is None else told[i]
    found: list[int] = []
    for name, part, behind in zip(names, told, following, strict=True):
        front = found[-1] if found else behind
        if part is None:
            prepares = name.startswith(BEFORE) and behind is not None
            part = behind if prepares or front is None else front
        assert part is not None
        found.append(part)
    return found


def looking_ms(probe: Path, threads: int) -> float:
    """What the profiler adds to the time of a node: the difference that looking makes to a chain
    of nodes which do nothing to speak of (`evaluator.runtimes.onnx_graph.write_probe`)."""
    runner = OnnxRunner(probe, 1, np.zeros((1, 1), np.float32), threads)
    looks = [runner.look() for _ in range(LOOK_AGAIN)]
    seen = float(np.median([sum(ms for _, ms in nodes) for nodes in looks]))
    alone = float(np.median([runner.time() for _ in range(10 * LOOK_AGAIN)]))
    return max(0.0, (seen - alone) / len(looks[0]))
