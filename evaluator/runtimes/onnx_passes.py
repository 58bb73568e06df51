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
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

WARM_UP = 3  # passes; the first finds out how much memory it takes, the second allocates that
IN_A_ROW = 5  # passes that the profiler looks at
TRIES = 3  # of what looking costs
PART = re.compile(r"part(\d+)/")
KERNEL = "_kernel_time"  # what the profiler adds to the name of a node
BEFORE = ("ReorderInput", "gemm_input_reshape")  # what stands in front of the node that it is for


def open_session(
    model: Path, threads: int, *, trace: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of one file, on the processor; with `trace`, the beginning of a file's name, the
    profiler looks on.

    All optimisations; the threads of a session wait actively inside a pass, as they do by default,
    and sleep between passes, so that sessions that take turns do not disturb one another.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    return onnxruntime.InferenceSession(
        str(model), sess_options=options, providers=["CPUExecutionProvider"]
    )


class OnnxRunner:
    """One network, ready to run (`evaluator.runtimes.Runner`). Its file must stay where it is."""

    def __init__(
        self, model: Path, parts: int, images: np.ndarray, threads: int, looking_ms: float = 0.0
    ):
        """`looking_ms` is what the profiler adds to each node's time."""
        self._model, self._parts, self._threads = model, parts, threads
        self._looking_ms = looking_ms
        self._session = open_session(model, threads)
        self._inputs = {self._session.get_inputs()[0].name: images}
        self._looks: list[list[tuple[str, float]]] = []
        for _ in range(WARM_UP):
            self._session.run(None, self._inputs)

    def time(self) -> float:
        self._looks = []
        begun = time.perf_counter_ns()
        self._session.run(None, self._inputs)
        return (time.perf_counter_ns() - begun) / 1e6

    def time_parts(self) -> list[float]:
        """onnxruntime looks only from a session's beginning to its end. So some passes are looked
        at in a row, and the calls up to the next one of `time` take them one after the other."""
        self._looks = self._looks or self.look()
        return parts_ms(self._looks.pop(0), self._parts, self._looking_ms)

    def look(self) -> list[list[tuple[str, float]]]:
        """Nodes of some passes in the order in which they ran, each with its milliseconds."""
        with tempfile.TemporaryDirectory(prefix="chimera-") as folder:
            session = open_session(self._model, self._threads, trace=Path(folder) / "trace")
            for _ in range(WARM_UP + IN_A_ROW):
                session.run(None, self._inputs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return nodes_of_passes(events)[-IN_A_ROW:]


def nodes_of_passes(events: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, float]]]:
    """Names and milliseconds of the nodes in a profiler's trace, pass by pass, in the order in
    which they ran."""
    begins = sorted(event["ts"] for event in events if event["name"] == "model_run")
    passes: list[list[tuple[str, float]]] = [[] for _ in begins]
    for event in sorted(events, key=lambda event: event["ts"]):
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            name, ms = event["name"].removesuffix(KERNEL), event["dur"] / 1e3
            passes[bisect(begins, event["ts"]) - 1].append((name, ms))
    return passes


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
    looks = [nodes for _ in range(TRIES) for nodes in runner.look()]
    seen = float(np.median([sum(ms for _, ms in nodes) for nodes in looks]))
    alone = float(np.median([runner.time() for _ in range(10 * len(looks))]))
    return max(0.0, (seen - alone) / len(looks[0]))
