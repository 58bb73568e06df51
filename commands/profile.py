"""`run_search.py profile`: measures a device once, for all searches on it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commands.latency import MINUTES, measure_device, profile_path
from evaluator.latency_model import accuracy_of
from evaluator.latency_profile import Profile, read_profile
from evaluator.runtimes import make_runtime
from results.console import CommandLine, Console, table
from space.device import DEVICE_EXAMPLES, Device
from space.files import make_space, read_definition, shipped_spaces
from space.onnx_file import require_onnx
from space.search_space import Space

NETWORKS = 60  # of a kit


def profile_parser() -> CommandLine:
    parser = CommandLine(
        prog="run_search.py profile",
        description="Measures networks of a space on a device, so that searches can keep to a "
        "latency there. It goes on where it was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("--device", default="cpu", help=DEVICE_EXAMPLES)
    parser.add_argument(
        "--space", default="unified", help=f"a file, or one of {', '.join(shipped_spaces())}"
    )
    parser.add_argument("--resolution", type=int, help="side of the networks' input, pixels")
    parser.add_argument("--classes", type=int, help="of the networks (default: 1000)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: where searches look")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"at most (default: {MINUTES:g})"
    )
    parser.add_argument(
        "--kit",
        type=Path,
        metavar="ZIP",
        help="do not measure here: write a kit that measures --device onnxruntime-cpu elsewhere, "
        "where Python has onnxruntime and numpy",
    )
    parser.add_argument(
        "--networks", type=int, default=NETWORKS, help=f"of the kit (default: {NETWORKS})"
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="say what a profile knows")
    parser.add_argument("--plugin", action="append", help="a Python file with parts of your own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(action=_profile, kept="what was measured is kept")
    return parser


def _profile(options: argparse.Namespace, console: Console) -> int:
    if options.show is not None:
        _say(read_profile(options.show), options.show, console)
        return 0
    if not 0 < options.minutes < 1e6:
        raise ValueError(f"minutes is {options.minutes}, but must be above 0")
    space = _space(options)
    if options.kit is not None:
        return _kit(options, space, console)
    runtime = make_runtime(Device.parse(options.device))
    path = options.out or profile_path(space, runtime)
    if options.out is not None and options.out.suffix != ".json":
        raise ValueError(f"--out is {str(options.out)!r}, but a profile's name ends in .json")
    _say(measure_device(space, runtime, path, console, options.minutes), path, console)
    return 0


def _kit(options: argparse.Namespace, space: Space, console: Console) -> int:
    require_onnx("onnxruntime")
    from evaluator.runtimes.kit import make_kit, networks_for  # wants them

    if options.out is not None:
        raise ValueError("--out cannot be given together with --kit, which measures nothing")
    if not 2 <= options.networks <= 10_000:
        raise ValueError(f"networks is {options.networks}, but must be 2 to 10,000")
    if options.kit.exists():
        raise ValueError(f"{str(options.kit)!r} is there already; choose another --kit")
    networks = networks_for(space, options.networks)
    device = Device.parse(options.device)
    with console.progress("writing networks", len(networks) + 1) as meter:
        make_kit(
            space,
            networks,
            options.kit,
            device,
            progress=lambda done, total: meter.update(done, total=total),
        )
    console.result(
        {"kit": str(options.kit), "networks": len(networks), "space": space.name},
        [
            f"Kit: {options.kit}, {len(networks)} networks of {space.name!r}. On the device:",
            "    python -m pip install onnxruntime numpy",
            f"    unzip {options.kit.name} -d kit && python kit/measure.py --out device.json",
            "and back here: --budget 8ms@device.json",
        ],
    )
    return 0


def _space(options: argparse.Namespace) -> Space:
    definition = dict(read_definition(options.space))
    if options.resolution is not None:
        definition["resolution"] = [options.resolution]
    definition["classes"] = options.classes or 1000
    return make_space(definition)


def _say(profile: Profile, path: Path, console: Console) -> None:
    level, accuracy = profile.level, accuracy_of(profile)
    ms = sorted(network.ms * level / network.anchor for network in profile.networks)
    facts: dict[str, Any] = {
        "file": str(path),
        "device": profile.device.name,
        "environment": dict(profile.environment),
        "space": profile.space,
        "networks": len(profile.networks),
        "fastest_ms": ms[0],
        "median_ms": ms[len(ms) // 2],
        "slowest_ms": ms[-1],
        "anchor_ms": level,
        "accuracy": asdict(accuracy),
    }
    cells = [[name, str(value)] for name, value in facts["environment"].items()]
    console.result(
        facts,
        [
            (
                f"{profile.device.name}, space {profile.space!r}, {len(ms)} networks: "
                f"{ms[0]:.3g} to {ms[-1]:.3g} ms, half of them at most {facts['median_ms']:.3g}."
            ),
            table("", ["", "measured under"], cells),
            (
                f"Of {accuracy.networks} networks that were predicted from the others, half are "
                f"within {accuracy.median:.1%}, nine of ten within {accuracy.nine_of_ten:.1%}."
            ),
            f"Profile: {path}",
        ],
    )
