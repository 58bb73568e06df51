"""Controller states as bytes: a JSON skeleton and the arrays beside it, without pickle.

The bytes are a safetensors file, in which the skeleton is one more tensor (its UTF-8 bytes). An
array stands in the skeleton as a reference, and what JSON lacks as an object with one reserved
key: `{"$tuple": [...]}`, `{"$float": "nan"}`, or `{"$map": [[key, value], ...]}` for a mapping
whose keys are not plain strings. Whole numbers of any size and floats come back exactly: Python
writes the shortest decimal that reads as the same float.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

_SKELETON = "skeleton"


def pack(state: Any) -> bytes:
    """The state as bytes; TypeError names the type of a value that cannot be kept."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_encode(state, tensors), allow_nan=False).encode()
    tensors[_SKELETON] = torch.frombuffer(bytearray(skeleton), dtype=torch.uint8)
    return save(tensors)


def unpack(data: bytes) -> Any:
    """The inverse of `pack`; ValueError where the bytes are not a packed state."""
    try:
        tensors = load(data)
        return _decode(json.loads(tensors[_SKELETON].numpy().tobytes()), tensors)
    except Exception as error:
        raise ValueError(f"this is not a saved search state: {error}") from None


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        array = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = array.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$array" if isinstance(value, np.ndarray) else "$tensor": name}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, tensors) for key, item in value.items()}
        pairs = [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]
        return {"$map": pairs}
    raise TypeError(f"a search state cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        if key in _READERS:
            return _READERS[key](inner, tensors)
    return {key: _decode(item, tensors) for key, item in value.items()}


_READERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$float": lambda inner, tensors: float(inner),
    "$array": lambda inner, tensors: tensors[inner].numpy(),
    "$tensor": lambda inner, tensors: tensors[inner],
    "$tuple": lambda inner, tensors: tuple(_decode(item, tensors) for item in inner),
    "$map": lambda inner, tensors: {
        _decode(key, tensors): _decode(item, tensors) for key, item in inner
    },
}
