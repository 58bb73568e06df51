"""Compiles kernels for a GPU that is not here, and says what registers and memory they take.

    python -m supernet.kernels.ahead            # prints a table
    python -m supernet.kernels.ahead --json     # or JSON

Every file of kernels lists the ways in which it is compiled as `VARIANTS`. Registers beyond those
that a thread has are spilled to memory, which costs time; a kernel should not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from supernet import kernels

ARCHITECTURE = 90  # Hopper: H100 and H200


def files() -> list[str]:
    """Names of the files of this package that have kernels."""
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    return [name for name in names if hasattr(_imported(name), "VARIANTS")]


def _imported(name: str) -> Any:
    return importlib.import_module(f"supernet.kernels.{name}")


def compiled(name: str) -> list[dict[str, Any]]:
    """What each variant of the file `name` takes: registers of a thread, bytes spilled, bytes of
    shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    rows = []
    for variant in _imported(name).VARIANTS:
        arguments = variant.kernel.arg_names
        signature = {
            argument: variant.signature.get(argument, "constexpr") for argument in arguments
        }
        source = ASTSource(
            fn=variant.kernel,
            signature=signature,
            constexprs={(arguments.index(key),): value for key, value in variant.constants.items()},
            # Tensors begin at multiples of 16 bytes, which the launcher finds out by itself.
            attrs={
                (i,): [["tt.divisibility", 16]]
                for i, argument in enumerate(arguments)
                if signature[argument].startswith("*")
            },
        )
        made = triton.compile(
            source,
            target=GPUTarget("cuda", ARCHITECTURE, 32),
            options={"num_warps": variant.warps, "num_stages": variant.stages},
        )
        rows.append(
            {
                "file": name,
                "kernel": variant.kernel.__name__,
                "variant": variant.label,
                **_resources(made.asm["ptx"]),
                "shared_bytes": made.metadata.shared,
            }
        )
    return rows


def _resources(ptx: str) -> dict[str, int]:
    """Registers and spills, as `ptxas` reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    path = get_ptxas(ARCHITECTURE).path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        target = re.search(r"\.target\s+(\w+)", ptx)
        assert target is not None
        said = subprocess.run(
            [path, "-v", f"--gpu-name={target[1]}", str(source), "-o", os.devnull],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    found = {
        "registers": re.search(r"Used (\d+) registers", said),
        "spill_stores": re.search(r"(\d+) bytes spill stores", said),
        "spill_loads": re.search(r"(\d+) bytes spill loads", said),
    }
    return {key: int(match[1]) if match else 0 for key, match in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", help="this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)  # before any kernel is imported
    names = [options.only] if options.only else files()
    rows = [row for name in names for row in compiled(name)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(
            f"{row['kernel']:32} {row['variant']:32} {row['registers']:4} registers"
            f"{row['spill_stores'] + row['spill_loads']:6} bytes spilled"
            f"{row['shared_bytes']:8} bytes shared"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
