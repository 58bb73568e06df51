"""Networks as ONNX files whose nodes say which part of the network they are from.

The nodes and values of part `i` (in the order of `parts_of`) get names that begin with `part{i}/`;
`evaluator.runtimes.onnx_passes` finds them again in the profiler's trace.

Of PyTorch's two exporters the older one takes a fifth of the time, and knows fewer operations; a
few it writes wrongly. So what it wrote is run beside the network, and where that is not the same
the newer one does it.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evaluator.runtimes import parts_of
from space.onnx_file import INPUT, ONE_FILE_BYTES, OPSET, OUTPUT, write_onnx

TOLERANCE = 1e-3  # of the largest logit; other kernels add in another order
PROBE_NODES = 200
LARGE_BYTES, PAGE_BYTES = 4096, 4096
SCOPES = "pkg.torch.onnx.name_scopes"  # where the newer exporter writes them
STAGE_PART = re.compile(
    r"stages[./](?:stages\.)?(\d+)[./](downsample|blocks[./](?:blocks\.)?(\d+))"
)


def write_network(network: nn.Module, images: Tensor, path: Path) -> None:
    """Writes `network` for inputs as `images`, (N, C, H, W); nodes say their part. It is put into
    evaluation mode. ValueError where neither exporter can write it as something that onnxruntime
    can run."""
    reason = ""
    with torch.no_grad():
        expected = network.eval()(images)
    for make in (quick_model, thorough_model):
        try:
            model = make(network, images)
            name_parts(model, network)
            save_model(model, path)
            session = _plain_session(path)
            (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        except Exception as error:  # exporters raise whatever they like where they cannot
            reason = " ".join(str(error).split())[:200]
            continue
        difference = (torch.from_numpy(found) - expected).abs().max()
        if difference <= TOLERANCE * expected.abs().max():
            return
        reason = f"its outputs there differ by {difference:.2g}"
    raise ValueError(f"the network cannot run on onnxruntime: {reason}")


def _plain_session(path: Path) -> onnxruntime.InferenceSession:
    """What runs a file as it is written; quickest to open."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def quick_model(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    """By the older exporter. It raises whatever it likes where it cannot."""
    file = io.BytesIO()
    with _quiet(), _KnownShapes(), torch.no_grad():
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]  # the older one takes it
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    return onnx.load_from_string(file.getvalue())


def thorough_model(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    """By the newer exporter."""
    with tempfile.TemporaryDirectory(prefix="chimera-") as folder, torch.no_grad():
        path = Path(folder) / "network.onnx"
        write_onnx(network, images, path, any_batch=False)
        return onnx.load(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that it is the older one and that shapes became constants, and without
    the whole graph where it fails."""
    log = torch._C._jit_onnx_log  # it means to be off unless asked for, but is not
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = log


class _KnownShapes(TorchFunctionMode):
    """Says the sizes of tensors as plain numbers. The older exporter otherwise writes down how they
    would be computed, and then does not know them where it needs them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.shape.__get__, Tensor.size):  # type: ignore[attr-defined]
            return _untraced(func, *args, **kwargs)
        if func is Tensor.unflatten:
            return _unflatten(*args, **kwargs)
        if func is Tensor.tensor_split:
            return _tensor_split(*args, **kwargs)
        if func == Tensor.mT.__get__:  # type: ignore[attr-defined]
            return args[0].transpose(-2, -1)
        return func(*args, **kwargs)


def _untraced(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return func(*args, **kwargs)
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    shape, dim = _untraced(x.size), dim % x.ndim
    known = math.prod(size for size in sizes if size != -1)
    inner = [shape[dim] // known if size == -1 else size for size in sizes]
    return x.reshape(*shape[:dim], *inner, *shape[dim + 1 :])


def _tensor_split(x: Tensor, ends: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    size = _untraced(x.size)[dim]
    if isinstance(ends, int):  # so many pieces, the first of them longer by one
        longer, short = size % ends, size // ends
        ends = [i * short + min(i, longer) for i in range(1, ends)]
    return tuple(x.narrow(dim, a, b - a) for a, b in pairwise([0, *ends, size]))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes the file, with the weights beside it where one file cannot hold them."""
    large = model.ByteSize() > ONE_FILE_BYTES
    onnx.save_model(model, path, save_as_external_data=large, location=f"{path.name}.data")


def point_weights(model: onnx.ModelProto, location: str) -> int:
    """Takes the large weights out of the file: they become places in a file `location` beside it,
    one behind the other. How many bytes that file must have."""
    end = 0
    for tensor in model.graph.initializer:
        size = 4 * math.prod(tensor.dims)
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or size < LARGE_BYTES:
            continue
        begin = -(-end // PAGE_BYTES) * PAGE_BYTES
        end = begin + size
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", begin), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
    return end


def write_probe(path: Path) -> None:
    """A chain of nodes that do next to nothing (`onnx_passes.looking_ms`)."""
    names = [INPUT, *(f"part0/{i}" for i in range(1, PROBE_NODES)), OUTPUT]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1]) for n in (INPUT, OUTPUT)]
    nodes = [
        helper.make_node("Neg", [before], [behind], name=f"part0/{i}.Neg")
        for i, (before, behind) in enumerate(pairwise(names))
    ]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:])
    version = helper.make_opsetid("", OPSET)
    onnx.save_model(helper.make_model(graph, opset_imports=[version], ir_version=9), path)


def name_parts(model: onnx.ModelProto, network: nn.Module) -> None:
    """Renames all nodes, and the values between them. A node that no module has made belongs where
    its inputs are from."""
    numbers = {path: i for i, (path, _) in enumerate(parts_of(network))}
    graph = model.graph
    made: dict[str, int] = {}  # by which part each value is
    renamed: dict[str, str] = {}
    kept = {value.name for value in [*graph.input, *graph.output, *graph.initializer]}
    kept |= {name for inner in _inner_nodes(graph) for name in inner.input}
    for number, node in enumerate(graph.node):
        part = numbers.get(_scope(node))
        if part is None:
            part = max((made[name] for name in node.input if name in made), default=None)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if part is None:  # computed from nothing but constants
            continue
        node.name = f"part{part}/{number}.{node.op_type}"
        for i, name in enumerate(node.output):
            if name and name not in kept:
                made[name] = part
                renamed[name] = node.output[i] = f"part{part}/{number}.{i}"
    for value in list(graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _inner_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of graphs inside of nodes. (The older exporter writes a branch where it does not know a
    shape; onnxruntime, which does, takes it out again.)"""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from inner.node
                yield from _inner_nodes(inner)


def _scope(node: onnx.NodeProto) -> str:
    """The path of the part in whose module a node was made; empty where it was made in none."""
    said = {entry.key: entry.value for entry in node.metadata_props}
    for text in (said.get(SCOPES, ""), node.name):
        found = STAGE_PART.search(text)
        if found:
            stage, what, block = found.groups()
            return f"stages.{stage}.{f'blocks.{block}' if block else what}"
        if outer := re.search(r"(?:^|/|')(stem|head)\b", text):
            return outer[1]
    return ""
