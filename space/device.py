"""Where a network runs, and how: what a latency is a latency of.

`cpu:threads=4`, `cuda:batch=1,dtype=bf16`, `onnxruntime-cpu`, or the path of a profile file that
was measured elsewhere. It is a description only: `evaluator.runtimes` finds the device itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

RUNTIMES = ("cpu", "cuda", "onnxruntime-cpu")
DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
}
OPTIONS = "threads=N, batch=N and dtype=float32, bfloat16 or float16"
DEVICE_EXAMPLES = "cpu, cpu:threads=4, cuda:batch=1,dtype=bf16, onnxruntime-cpu or phone.json"
PROFILE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Device:
    """One device and how networks run there. `index` is that of a GPU; `threads` are those of a
    pass on a CPU, None for as many as PyTorch takes; `profile` is the path of a profile file,
    which then says all else."""

    runtime: str = "cpu"
    index: int = 0
    threads: int | None = None
    batch: int = 1
    dtype: str = "float32"
    profile: str | None = None

    @classmethod
    def parse(cls, text: str) -> Device:
        """ValueError that names the piece that is wrong, and what can be written."""
        if text.split(",")[0].lower().endswith(PROFILE_SUFFIX):
            if "," in text:
                raise ValueError(
                    f"device {text!r} has options behind a profile file, which has its own: "
                    "leave them out"
                )
            return cls(runtime="profile", profile=text)
        name, *pieces = re.split(r"[:,]", text.strip())
        if name.lower() not in RUNTIMES:
            raise ValueError(f"unknown device {text.strip()!r}; write {DEVICE_EXAMPLES}")
        device = cls(runtime=name.lower())
        if device.runtime == "cuda" and pieces and pieces[0].isdecimal():
            device = replace(device, index=int(pieces.pop(0)))
        seen = set()
        for piece in pieces:
            option, equals, value = (part.strip().lower() for part in piece.partition("="))
            if option in seen:
                raise ValueError(f"device {text!r} gives {option} twice")
            seen.add(option)
            device = device._with(option, value if equals else "", text, piece)
        return device

    def _with(self, option: str, value: str, text: str, piece: str) -> Device:
        if option in ("threads", "batch"):
            if not value.isdecimal() or not 1 <= int(value) <= 1_000_000:
                raise ValueError(
                    f"device {text!r}: {option} is {value!r}, but must be a whole number of at "
                    "least 1"
                )
            if option == "threads" and self.runtime == "cuda":
                raise ValueError(f"device {text!r}: a GPU has no threads to choose")
            count = int(value)
            return replace(self, batch=count) if option == "batch" else replace(self, threads=count)
        if option == "dtype":
            if value not in DTYPES:
                raise ValueError(
                    f"device {text!r}: dtype is {value!r}, but must be float32, bfloat16 or float16"
                )
            if self.runtime == "onnxruntime-cpu" and DTYPES[value] != "float32":
                raise ValueError(f"device {text!r}: onnxruntime-cpu runs float32 only")
            return replace(self, dtype=DTYPES[value])
        raise ValueError(
            f"device {text!r}: {piece.strip()!r} cannot be read; options are {OPTIONS}"
        )

    @property
    def name(self) -> str:
        """What `parse` reads, with everything that differs from the default."""
        if self.profile is not None:
            return self.profile
        options = [f"{self.index}"] if self.index else []
        options += [f"threads={self.threads}"] if self.threads else []
        options += [f"batch={self.batch}"] if self.batch != 1 else []
        options += [f"dtype={self.dtype}"] if self.dtype != "float32" else []
        return ":".join([self.runtime, ",".join(options)]) if options else self.runtime
