"""Checks every kernel, then measures it against what PyTorch does without it.

    python -m benchmarks.kernels --json benchmarks/results/kernels-DEVICE.json

Each case of `benchmarks/kernel_cases` is first checked, in bfloat16 against its definition in
float64: the relative norm error of the result and of each gradient may be twice that of the first
stock path. Then it is timed on the device with cold caches, median and quartiles: the forward pass
without gradients, and where the case has one the backward pass behind it. The host goes ahead while
the device sleeps, so that the device never waits for Python; how long the host takes is written
beside it. What others take is that of the stock paths and of the first of them through
`torch.compile`. Last comes what registers and memory the kernels take when compiled for Hopper,
which needs no GPU: `--ahead`.

Cases run in a process of their own. One that fails, crashes, hangs or loses the device is written
down and the next goes on; the file is written anew after each case. `--go-on` keeps those of its
cases that passed and measures the others, and with `--again` cases of kernels that have changed.
It needs torch, Triton and numpy. `--small` is for a CPU, under Triton's interpreter.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import pkgutil
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import kernel_cases
from benchmarks.kernel_cases import Case, Inputs

# Triton decides when it is imported whether it interprets, so nothing here imports it: `main` has
# to read the options first.

ROOT = Path(__file__).parents[1]
# Ours may have this many times the error of the first stock path, and this much more: in a result,
# in a gradient. In bfloat16 the latter is one rounding: the stock path may have all three numbers
# of a small gradient nearly right by chance.
FACTOR = 2.0
FLOORS = {torch.bfloat16: (1e-6, 2e-3)}
# The interpreter truncates to bfloat16 where a GPU rounds: half a percent each time, which does not
# cancel in a sum. So what it computes is checked in float32 too.
INTERPRETED_FLOORS = {torch.bfloat16: (0.02, 0.02), torch.float32: (2e-6, 2e-6)}
KEEP, GOAL, SHARE = 1.2, 1.5, 0.8  # times faster; share of the bandwidth of a copy
COPIED = 2**30  # bytes
CASE_SECONDS = 240  # of one case, most of which is compiling
LONGEST = 2500  # characters of a message
SPENT = 0.1  # seconds of repetitions of one timing
REPEATS = (10, 500)  # of them, at least and at most
CYCLES = 2e9  # of a GPU in a second, at most
Function = Callable[..., Tensor]
Errors = dict[str, dict[str, float | None]]  # by path, by result or gradient
Times = dict[str, dict[str, float]]  # by path


class Place(NamedTuple):
    """Where a case is, which a process can be told; a case itself cannot be sent."""

    module: str
    number: int

    def case(self) -> Case:
        return importlib.import_module(self.module).CASES[self.number]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--only", metavar="NAME", help="this file of cases, or this kernel")
    parser.add_argument("--small", action="store_true", help="small cases, one timing of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="take no new case after this long"
    )
    parser.add_argument(
        "--go-on", action="store_true", help="measure what the file of --json lacks"
    )
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="KERNEL", help="with --go-on: what it has, too"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--ahead", action="store_true", help="registers and memory only; no device")
    options = parser.parse_args(arguments)
    on_cpu = torch.device(options.device).type == "cpu"
    if on_cpu and not (options.small or options.ahead):
        parser.error(f"--device {options.device} is for --small or --ahead")
    if on_cpu:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)
    record = Record(options, sys.argv[1:] if arguments is None else arguments)
    if options.go_on:
        if options.json is None or not options.json.exists():
            parser.error("--go-on needs the file of --json")
        try:
            record.go_on()
        except ValueError as error:
            parser.error(f"--go-on: {error}")
    if options.ahead:
        record.ahead()
        return record.ended()
    places = record.found(options.only, options.small, options.again)
    if not (places or record.result["problems"] or options.go_on):
        parser.error(f"--only {options.only}: no such file of cases, and no such kernel")
    measure_all(places, record, options)
    if not (options.small or options.only):
        if record.seconds() < options.seconds:
            record.ahead()
        else:
            record.result["left_out"].append("registers and memory")
    return record.ended()


# ---- which cases, and in what order


def files() -> list[str]:
    """Modules that have cases."""
    return [
        f"{kernel_cases.__name__}.{m.name}" for m in pkgutil.iter_modules(kernel_cases.__path__)
    ]


def in_order(
    cases: Iterable[tuple[Place, Case]], known: Iterable[str] = ()
) -> tuple[list[Place], list[Place]]:
    """The first case of each kernel, but for those that are `known`, and the others."""
    known, first, rest = set(known), {}, []
    for place, case in cases:
        if case.kernel in known or first.setdefault(case.kernel, place) is not place:
            rest.append(place)
    return list(first.values()), rest


def measure_all(places: Sequence[Place], record: Record, options: Any) -> None:
    worker = Worker(options.device)
    copied: float | None = None
    try:
        device, problem = worker.ask(device_name)
        if problem is None and record.result["device"] not in (None, device):
            problem = f"the file is of another device, {record.result['device']}"
        if problem is not None:
            record.problem(options.device, problem)
            return
        record.result["device"] = device
        if not options.small and places:
            copied, problem = worker.ask(copy_speed)
            record.result["copy_bytes_per_second"] = copied
            if problem is not None:
                record.problem("copy", problem)
        for place in places:
            if record.seconds() >= options.seconds:
                record.result["left_out"].append(name_of(place))
                continue
            compiled = not (options.small or options.no_compile)
            begun = record.seconds()
            row, problem = worker.ask(measured, place, options.small, compiled, copied)
            if row is None:
                row = about(place) | {"correct": None, "problems": []}
                row["problems"].append({"where": "the process", "error": problem})
            record.add(row | {"seconds": round(record.seconds() - begun, 1)})
    finally:
        worker.close()
    if record.result["left_out"]:
        print(f"left out after {options.seconds:g} s:", *record.result["left_out"], sep="\n  ")


def about(place: Place) -> dict[str, Any]:
    case = place.case()
    file = place.module.rpartition(".")[2]
    return {"file": file, "kernel": case.kernel, "label": case.label, "moved_bytes": case.moved}


def name_of(place: Place) -> str:
    return "{file}: {kernel}, {label}".format_map(about(place))


class Record:
    """The result file, which is whole after each case."""

    def __init__(self, options: Any, arguments: Sequence[str]):
        self.begun, self.path = time.monotonic(), options.json
        self.earlier = 0.0  # seconds of the processes before
        self.result: dict[str, Any] = {
            "benchmark": "kernels",
            "command": " ".join(["python -m benchmarks.kernels", *arguments]),
            "device": None,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "triton": version("triton"),
            },
            "seed": 0,
            "dtype": "bfloat16",
            "copy_bytes_per_second": None,
            "seconds": 0.0,
            "passed": True,
            "problems": [],
            "left_out": [],
            "cases": [],
            "ahead": [],
        }

    def go_on(self) -> None:
        """Keeps the cases of the file that passed; ValueError where other versions made it."""
        before = json.loads(self.path.read_text(encoding="utf-8"))
        for what in ("benchmark", "versions", "dtype"):
            if before[what] != self.result[what]:
                raise ValueError(f"{self.path} has {what} {before[what]}, not {self.result[what]}")
        self.result["command"] = f"{before['command']} && {self.result['command']}"
        self.earlier = before["seconds"]
        self.result["device"], self.result["ahead"] = before["device"], before["ahead"]
        self.result["copy_bytes_per_second"] = before["copy_bytes_per_second"]
        self.result["cases"] = [row for row in before["cases"] if passed(row)]

    def seconds(self) -> float:
        """Since this process began."""
        return time.monotonic() - self.begun

    def found(self, only: str | None, small: bool, again: Sequence[str]) -> list[Place]:
        """The cases to measure, what there is of the kernels in `again` behind those of which there
        is nothing; a file that cannot be imported is a problem, and no more."""
        cases, repeated = [], []
        done = {key_of(row) for row in self.result["cases"]}
        for module in files():
            try:
                listed = importlib.import_module(module).CASES
            except Exception as error:
                self.problem(module, said(error))
                continue
            for number, case in enumerate(listed):
                file = module.rpartition(".")[2]
                wanted = case.small == small and (only is None or only in (file, case.kernel))
                if wanted and (file, case.kernel, case.label) not in done:
                    cases.append((Place(module, number), case))
                elif wanted and case.kernel in again:
                    repeated.append(Place(module, number))
        first, rest = in_order(cases, {kernel for _, kernel, _ in done})
        return [*first, *repeated, *rest]

    def problem(self, where: str, error: str) -> None:
        print(f"FAILED {where}: {error}", flush=True)
        self.result["problems"].append({"where": where, "error": error})
        self.write()

    def add(self, row: dict[str, Any]) -> None:
        print(line_of(row), flush=True)
        kept = [old for old in self.result["cases"] if key_of(old) != key_of(row)]
        self.result["cases"] = [*kept, row]
        self.write()

    def ahead(self) -> None:
        rows, problems = compiled_ahead()
        self.result["ahead"] = rows
        for where, error in problems.items():
            self.problem(where, error)
        if not self.result["cases"]:
            for row in rows:
                print(
                    f"{row['kernel']:32} {row['variant']:32} {row['registers']:4} registers"
                    f"{row['spill_stores'] + row['spill_loads']:6} bytes spilled"
                    f"{row['shared_bytes']:8} bytes shared"
                )

    def write(self) -> None:
        self.result["seconds"] = round(self.earlier + self.seconds(), 1)
        failed = [row for row in self.result["cases"] if not passed(row)]
        self.result["passed"] = not failed and not self.result["problems"]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_name(f".{self.path.name}.partial")
            aside.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
            aside.replace(self.path)

    def ended(self) -> int:
        self.write()
        cases = self.result["cases"]
        failed = [row for row in cases if not passed(row)]
        if self.result["device"] is not None:
            print(f"{len(cases)} cases, {len(failed)} failed", *map(line_of, failed), sep="\n")
        return 0 if self.result["passed"] else 1


def key_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["file"], row["kernel"], row["label"]


def passed(row: Mapping[str, Any]) -> bool:
    return row["correct"] is True and not row["problems"]


def line_of(row: Mapping[str, Any]) -> str:
    """A case on the screen."""
    state = "ok" if passed(row) else "WRONG" if row["correct"] is False else "FAILED"
    text = f"{state:6} {row['kernel']}, {row['label']}"
    for name in ("forward", "training"):
        found = row.get(name)
        if found and "ours" in found["times"]:
            text += f"; {name} {found['times']['ours']['median_us']:.1f} us"
            if found.get("times_faster") is not None:
                text += f", {found['times_faster']:.2f} of {found['best_stock']}"
            if found.get("copy_share") is not None:
                text += f", {found['copy_share']:.0%} of a copy"
            text += f": {found['verdict']}" if "verdict" in found else ""
    for wrong in row.get("wrong", ()):
        text += f"\n       {wrong}"
    for problem in row["problems"]:
        text += f"\n       {problem['where']}: {problem['error']}"
    return text


def device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu ({platform.machine()}), interpreted"
    return torch.cuda.get_device_name(device)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def said(error: BaseException) -> str:
    """An error with the end of its traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-4)
    text = "".join(lines).strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}"


# ---- the process that measures


class Worker:
    """A process for the device; begun anew after it has crashed or lost the device."""

    def __init__(self, device: str):
        self.device = device
        self.process: Any = None
        self.pipe: Any = None

    def ask(self, job: Callable[..., Any], *given: Any) -> tuple[Any, str | None]:
        """What `job(device, *given)` returns, or else None and what went wrong."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, self.device))
            self.process.start()
            theirs.close()
        try:
            self.pipe.send((job, given))
            if not self.pipe.poll(CASE_SECONDS):
                self.close()
                return None, f"no answer within {CASE_SECONDS} s"
            found, problem, alive = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.close()
            return None, f"it ended with code {code}"
        if not alive:
            self.close()
        return found, problem

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


def serve(pipe: Any, name: str) -> None:
    """Does jobs until nobody asks any more."""
    device = torch.device(name)
    # float32 factors stand beside the bfloat16 maps of some cases.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    while True:
        try:
            job, given = pipe.recv()
        except EOFError:
            return
        found, problem = None, None
        try:
            found = job(device, *given)
        except Exception as error:
            problem = said(error)
        alive = released(device)
        pipe.send((found, problem, alive))
        if not alive:
            return


def released(device: torch.device) -> bool:
    """Gives memory back; whether the device still works. After an illegal access it does not."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except Exception:
            return False
    return True


def copy_speed(device: torch.device) -> float:
    """Bytes read and written in a second by a copy of 1 GiB."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    spent = spread(lambda: target.copy_(source), [], once=False)
    return 2e6 * COPIED / spent["median_us"]


def measured(
    device: torch.device, place: Place, small: bool, compiled: bool, copied: float | None
) -> dict[str, Any]:
    """One case: correctness, then times. `copied` is the bandwidth of a copy, bytes a second."""
    case = place.case()
    torch.manual_seed(0)
    problems: list[dict[str, str]] = []
    row: dict[str, Any] = {**about(place), "correct": None, "problems": problems}

    def tried(where: str, work: Callable[..., Any], *given: Any) -> Any:
        """None where it fails, which is written down."""
        try:
            return work(*given)
        except Exception as error:
            problems.append({"where": where, "error": said(error)})
        released(device)  # not in the clause above, where the error keeps tensors alive
        return None

    errors: dict[str, Errors] = {}
    row |= {"errors": errors, "wrong": []}
    for dtype, floors in (INTERPRETED_FLOORS if device.type == "cpu" else FLOORS).items():
        name = str(dtype).removeprefix("torch.")
        errors[name] = tried(f"{name}, reference", checked, case, device, dtype, tried) or {}
        row["wrong"] += [f"{name}, {found}" for found in too_large(errors[name], floors)]
    ran = [name for name in errors["bfloat16"] if all(name in found for found in errors.values())]
    if "ours" not in ran:
        return row
    if len(ran) > 1:
        row["correct"] = not row["wrong"]
    inputs = tried("inputs", case.inputs, device, torch.bfloat16)
    if inputs is None:
        return row
    row["shapes"] = [shape_of(given) for given in inputs]
    paths = {name: path for name, path in paths_of(case).items() if name in ran}
    if compiled and len(paths) > 1:
        torch.compiler.reset()
        paths["compiled"] = torch.compile(next(iter(case.stock.values())), dynamic=False)
    for kind in ("forward", "training") if case.backward else ("forward",):
        times: Times = {}
        for name, path in paths.items():
            if name == "compiled":
                try:
                    times[name] = timed(path, inputs, kind, small)
                except Exception as error:
                    row["not_compiled"] = said(error)
                continue
            found = tried(f"{name}, {kind}", timed, path, inputs, kind, small)
            if found is not None:
                times[name] = found
        row[kind] = {"times": times}
        if not small:
            moved = case.moved if kind == "forward" else None
            row[kind] |= compared(times, moved, copied, row["correct"] is True)
            if not compiled:  # what is left out may be the fastest
                row[kind].pop("verdict", None)
    return row


def shape_of(given: Any) -> Any:
    if isinstance(given, torch.dtype):
        return str(given)
    if not isinstance(given, Tensor):
        return given
    layout = "" if given.is_contiguous() else f", strides {list(given.stride())}"
    return f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}{layout}"


# ---- correctness


def checked(
    case: Case, device: torch.device, dtype: torch.dtype, tried: Callable[..., Any]
) -> Errors:
    """Errors of all paths against the definition in float64."""
    inputs = case.inputs(device, dtype)
    wide = tuple(
        x.detach().double().requires_grad_(x.requires_grad)
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in inputs
    )
    names = ["result"]
    if case.backward:
        names += [f"gradient of argument {i}" for i, x in enumerate(inputs) if wants(x)]
    with torch.no_grad():
        grad = torch.randn_like(case.reference(*wide)).to(dtype) if case.backward else None
    right = results(case.reference, wide, grad)

    def errors(path: Function) -> dict[str, float | None]:
        found = results(path, inputs, grad)
        return {name: apart(*pair) for name, *pair in zip(names, found, right, strict=True)}

    made = {name: tried(f"{dtype}, {name}", errors, path) for name, path in paths_of(case).items()}
    return {name: found for name, found in made.items() if found is not None}


def paths_of(case: Case) -> dict[str, Function]:
    return {"ours": case.ours, **case.stock}


def too_large(errors: Errors, floors: tuple[float, float]) -> list[str]:
    """Which errors of ours are, in words."""
    stock = next((name for name in errors if name != "ours"), None)
    if "ours" not in errors or stock is None:
        return []
    wrong = []
    for name, error in errors["ours"].items():
        other, floor = errors[stock][name], floors[name != "result"]
        if error is None or (other is not None and not error <= FACTOR * other + floor):
            wrong.append(f"{name}: relative error {error}, of {stock!r} {other}")
    return wrong


def wants(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def results(path: Function, inputs: Inputs, grad: Tensor | None) -> list[Tensor]:
    """The result, and with `grad` at it the gradients of the arguments that have one."""
    if grad is None:
        with torch.no_grad():
            return [path(*inputs)]
    y = path(*inputs)
    found = torch.autograd.grad(y, [x for x in inputs if wants(x)], laid_out(grad, y))
    return [y.detach(), *found]


def laid_out(grad: Tensor, y: Tensor) -> Tensor:
    """`grad` in the dtype and layout of `y`."""
    return torch.empty_like(y, requires_grad=False).copy_(grad)


def apart(found: Tensor, right: Tensor) -> float | None:
    """Relative error in norm; None where something is not finite."""
    if found.shape != right.shape:
        raise ValueError(f"shape {list(found.shape)}, not {list(right.shape)}")
    norm = float(torch.linalg.vector_norm(right))
    error = float(torch.linalg.vector_norm(found.double() - right)) / (norm or 1.0)
    return error if math.isfinite(error) else None


# ---- time


def timed(path: Function, inputs: Inputs, kind: str, once: bool) -> dict[str, float]:
    """Of a forward pass without gradients, or of one with the backward pass behind it."""
    if kind == "forward":
        with torch.no_grad():
            return spread(lambda: path(*inputs), [], once)
    leaves = [x for x in inputs if wants(x)]
    grad = laid_out(torch.ones((), device=leaves[0].device), path(*inputs)).normal_()
    try:
        return spread(lambda: path(*inputs).backward(grad), leaves, once)
    finally:
        for leaf in leaves:
            leaf.grad = None


def spread(work: Callable[[], Any], leaves: list[Tensor], once: bool) -> dict[str, float]:
    """Median and quartiles in microseconds on the device, and those of the host, which it is given
    in advance; of one call if `once`."""
    if once:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return {"median_us": 1e6 * (time.perf_counter() - begun)}
    from triton.runtime import driver  # here, for nothing may import Triton before `main`

    def forget() -> None:
        for leaf in leaves:
            leaf.grad = None

    host, whole = [], []
    for _ in range(8):
        forget()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        host.append(time.perf_counter() - begun)
        torch.cuda.synchronize()
        whole.append(time.perf_counter() - begun)
    alone = statistics.median(host[3:])  # what comes before compiles, and fills memory
    repeats = round(SPENT / statistics.median(whole[3:]))
    repeats = min(max(repeats, REPEATS[0]), REPEATS[1])
    cache = driver.active.get_empty_cache_for_benchmark()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in marks:
        forget()
        driver.active.clear_cache(cache)
        torch.cuda._sleep(round(CYCLES * (2 * alone + 1e-4)))
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    spent = [1000 * begin.elapsed_time(end) for begin, end in marks]
    low, middle, high = statistics.quantiles(spent, n=4, method="inclusive")
    return {
        "median_us": middle,
        "quartile_1_us": low,
        "quartile_3_us": high,
        "host_us": 1e6 * alone,
    }


def compared(
    times: Times, moved: int | None, copied: float | None, correct: bool
) -> dict[str, Any]:
    """Ours against the fastest other path, and `moved` bytes in its time against a copy."""
    made: dict[str, Any] = {}
    if moved is not None and copied is not None:
        for spent in times.values():
            spent["copy_share"] = 1e6 * moved / spent["median_us"] / copied
        made["copy_share"] = times.get("ours", {}).get("copy_share")
    others = {name: spent["median_us"] for name, spent in times.items() if name != "ours"}
    if "ours" not in times or not others:
        return made
    ours = times["ours"]["median_us"]
    best = min(others, key=others.__getitem__)
    faster = others[best] / ours
    eager = [spent for name, spent in others.items() if name != "compiled"]
    return made | {
        "best_stock": best,
        "times_faster": faster,
        "times_faster_than_eager": min(eager) / ours if eager else None,
        "verdict": "wrong" if not correct else "keep" if faster >= KEEP else "drop",
        "goal": faster >= GOAL,
        "near_copy": (made.get("copy_share") or 0) >= SHARE,
    }


# ---- compiled ahead of time


def compiled_ahead() -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of `supernet.kernels.ahead`, and what went wrong in which file of kernels."""
    folder = ROOT / "supernet" / "kernels"
    names = [
        path.stem
        for path in sorted(folder.glob("*.py"))
        if re.search(r"^VARIANTS\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}

    def one(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "supernet.kernels.ahead", "--only", name, "--json"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    rows, problems = [], {}
    with ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) // 2))) as pool:
        for name, done in zip(names, pool.map(one, names), strict=True):
            if done.returncode == 0:
                rows += json.loads(done.stdout)
            else:
                problems[f"{name}, ahead of time"] = done.stderr.strip()[-LONGEST:]
    return rows, problems


if __name__ == "__main__":
    sys.exit(main())
