"""What everything that runs on Ray shares: starting it, sending functions by name, and tensors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

RETRIES = 3  # further attempts at a piece of work whose worker died
_PACKAGES = ("space", "evaluator", "supernet", "search", "results", "commands")
_STORE_BYTES = 200_000_000  # Ray's object store, beside the shared tensors


def reason_of(error: Exception) -> str:
    """The last line that says something: Ray's errors quote a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def import_name(function: Callable[..., Any]) -> str:
    """`"module:function"`; ValueError where the function cannot be imported by that name."""
    name = f"{function.__module__}:{function.__qualname__}"
    if function.__module__ == "__main__" or not hasattr(
        importlib.import_module(function.__module__), function.__qualname__
    ):
        raise ValueError(f"{name} must be a function at the top of a module that can be imported")
    return name


def imported(name: str) -> Callable[..., Any]:
    """The function of `import_name`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def start_ray(name: str, packed: Mapping[str, Any], workers: int, address: str | None) -> None:
    """Connects to the Ray at `address`, or starts one of our own with `workers` cores and room for
    the `packed` tensors. Processes can import what this one does, and the module of `name`.
    ValueError where there is none at `address`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    # Otherwise some versions of Ray hide the GPUs from actors that asked for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is not None:
        try:
            ray.init(address=address, runtime_env={"py_modules": _modules(name)}, **quiet)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster at {address!r}: {reason_of(error)}") from None
        except RuntimeError as error:
            if "ersion" not in str(error):
                raise
            said = " ".join(str(error).split())
            text = f"the Ray cluster at {address!r} runs another version of Ray or Python: {said}"
            raise ValueError(text) from None
        except SystemExit:  # how Ray ends where the address is that of something else
            raise ValueError(f"no Ray cluster at {address!r}") from None
        return
    size = sum(array.nbytes for array, *_ in packed.values())
    with environment({"PYTHONPATH": _import_path()}):
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES + int(1.2 * size),
            **quiet,
        )


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; processes that are started meanwhile inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _import_path() -> str:
    """With which processes that are started here import what this one does."""
    return os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))


def _modules(name: str) -> list[str]:
    """Folders of our packages, and of the one that makes evaluators: what a cluster needs."""
    paths = []
    for package in dict.fromkeys((*_PACKAGES, name.partition(":")[0].partition(".")[0])):
        module = importlib.import_module(package)
        if hasattr(module, "__path__"):
            paths.append(str(Path(next(iter(module.__path__))).resolve()))
        elif module.__file__ is not None:
            paths.append(str(Path(module.__file__).resolve()))
    return paths


def pack(tensor: Tensor | np.ndarray) -> tuple[np.ndarray, torch.dtype, tuple[int, ...]]:
    """The bytes of a tensor as a flat array, which Ray shares without a copy. (Numpy has no
    bfloat16.)"""
    if isinstance(tensor, np.ndarray):
        tensor = torch.from_numpy(tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)


def unpack(array: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`; the memory is shared and must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory cannot be written to
        return torch.from_numpy(array).view(dtype).reshape(shape)
