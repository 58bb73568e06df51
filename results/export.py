"""Writes a network as a folder that stands alone: source, genome, weights, README, ONNX.

What was written is run against the genome's own network before the folder takes its place
(`verify`), so a folder that exists is a folder that is right.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from results.compact import Origins
from results.formats import FILES, require, write_format
from results.model_file import cost_rows, fact_rows, model_file, model_source, safe_name
from space.genome import Genome
from space.network import build
from space.norm_statistics import take_statistics

__all__ = [
    "Exported",
    "count_macs",
    "export_network",
    "load_module",
    "model_source",
    "safe_name",
    "verify",
]


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export_network` wrote: the folder, the names of its files, the network's cost, and for
    each format how far its logits are from the network's (None where nothing here can run it)."""

    folder: Path
    name: str
    files: tuple[str, ...]
    params: int
    macs: int
    differences: Mapping[str, float | None]


def export_network(
    genome: Genome,
    folder: Path,
    *,
    name: str,
    facts: Mapping[str, str] | None = None,
    state: Mapping[str, Tensor] | None = None,
    formats: Sequence[str] = (),
) -> Exported:
    """Writes `genome` to `folder` (model.py, genome.json, README.md), all of it or nothing.

    `facts` are lines for the reader, such as `{"search": ..., "score": ..., "command": ...}`.
    `state` becomes weights.safetensors; its keys and shapes must be the network's. `formats` are
    those of `results.formats`, with these weights or fresh ones, whose BatchNorms have the
    statistics of noise. An export already in `folder` is replaced; anything else there is a
    ValueError. Raises RuntimeError where the export does not equal the network (see `verify`), or
    one of its formats.
    """
    folder, name, facts = Path(folder), safe_name(name), facts or {}
    if folder.exists() and not is_export(folder):
        raise ValueError(f"{folder} exists and is not an exported network; choose another folder")
    require(formats)
    if state is not None:
        state = checked_state(genome, state)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(folder)
    new.mkdir()
    try:
        made = model_file(genome, name, facts)
        _write(new / "model.py", made.text)
        _write(new / "genome.json", json.dumps(genome.to_json(), indent=2) + "\n")
        names = verify(new, genome, made.origins)
        if state is not None:
            weights = save(renamed(state, names), metadata={"format": "pt"})
            (new / "weights.safetensors").write_bytes(weights)
        differences = _write_formats(formats, new, genome, state, names)
        files = {path.name for path in new.iterdir()} | {"README.md"}
        card = _readme(genome, name, facts, files, _follow_classes(new), differences)
        _write(new / "README.md", card)
        _put_in_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    cost = genome.cost()
    return Exported(folder, name, tuple(sorted(files)), cost.params, cost.macs, differences)


def _write_formats(
    formats: Sequence[str],
    folder: Path,
    genome: Genome,
    state: Mapping[str, Tensor] | None,
    names: Mapping[str, str],
) -> dict[str, float | None]:
    """Writes the exported network in these formats; how far each is from the genome's network."""
    if not formats:
        return {}
    network = build(genome)
    image = torch.empty(1, genome.in_channels, genome.resolution, genome.resolution)
    if state is not None:
        network.load_state_dict(state)
    else:  # or maps may grow from layer to layer until there is nothing but rounding to compare
        take_statistics(network, [torch.randn(4, *image.shape[1:])])
    exported = load_module(folder / "model.py").model()
    exported.load_state_dict(renamed(network.state_dict(), names))
    return {name: write_format(name, exported.eval(), image, folder) for name in formats}


def is_export(folder: Path) -> bool:
    """Whether a folder is empty, or has an exported network."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or {"model.py", "genome.json"} <= names


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _put_in_place(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; what stood there is removed only when that has worked."""
    if not folder.exists():
        new.rename(folder)
        return
    old = _beside(folder)
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def checked_state(genome: Genome, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights on the CPU, each with storage of its own. ValueError where they do not fit."""
    expected = _shapes(_on_meta(lambda: build(genome)))
    for title, names in (
        ("lack", sorted(set(expected) - set(state))),
        ("have, beyond the network's,", sorted(set(state) - set(expected))),
    ):
        if names:
            raise ValueError(f"the weights {title} {names[0]!r} ({len(names)} such names)")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(
                f"the weights have {name!r} of shape {tuple(state[name].shape)}, but the "
                f"network's is {shape}"
            )
    return {name: state[name].detach().cpu().clone().contiguous() for name in expected}


# --- verification -------------------------------------------------------------------------------


def verify(folder: Path, genome: Genome, origins: Origins | None = None) -> dict[str, str]:
    """The genome's name of each weight, by its name in `folder`/model.py.

    RuntimeError unless that file is `genome`'s network: parameters, MACs, weights and their shapes
    (for other classes and input channels too), and the same outputs to the last bit in float32 on
    the CPU. `origins` are those of the file (`results.model_file`), made again unless given.
    """
    origins = model_file(genome, "model").origins if origins is None else origins
    path = Path(folder) / "model.py"
    module = load_module(path)
    exported, expected = _on_meta(module.model), _on_meta(lambda: build(genome))
    names = weight_names(exported, genome, origins)
    _compare_shapes(path, exported, expected, names)
    cost = genome.cost()
    _compare(path, "PARAMS", module.PARAMS, cost.params)
    _compare(path, "MACS", module.MACS, cost.macs)
    _compare(path, "parameters", sum(p.numel() for p in exported.parameters()), cost.params)
    _compare(path, "MACs", count_macs(exported, genome), cost.macs)
    for theirs, ours in (
        ({"num_classes": genome.classes + 1}, {"classes": genome.classes + 1}),
        ({"in_chans": genome.in_channels + 1}, {"in_channels": genome.in_channels + 1}),
    ):
        other = genome.at(**ours)
        with torch.device("meta"):
            _compare_shapes(path, module.model(**theirs), build(other), names)
    _compare_outputs(path, module.model, genome, names)
    return names


def weight_names(network: nn.Module, genome: Genome, origins: Origins) -> dict[str, str]:
    """The name that each weight of an exported network has in the genome's own, in the order of
    the exported one."""
    found: dict[str, str] = {}

    def follow(module: nn.Module, path: str, origin: str) -> None:
        moved = origins.get(type(module).__name__, {})
        for name in (*module._parameters, *module._buffers):
            found[path + name] = origin + moved.get(name, name)
        for name, child in module.named_children():
            follow(child, f"{path}{name}.", f"{origin}{moved.get(name, name)}.")

    for name in ("stem", "head"):
        follow(network.get_submodule(name), f"{name}.", f"{name}.")
    for i, stage in enumerate(genome.stages):
        path = f"stages.{i}"
        for j, block in network.get_submodule(path).named_children():
            number = int(j) - (stage.downsample is not None)
            origin = "downsample" if number < 0 else f"blocks.{number}"
            follow(block, f"{path}.{j}.", f"{path}.{origin}.")
    state = network.state_dict()
    return {name: origin for name, origin in found.items() if name in state}


def names_of_export(genome: Genome) -> dict[str, str]:
    """The genome's name of each weight, by its name in an export."""
    made = model_file(genome, "model")
    module = _run(made.text, "model.py", ModuleType("exported"))
    return weight_names(_on_meta(module.model), genome, made.origins)


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of a genome's network by their names in the exported one (`weight_names`)."""
    return {name: state[origin] for name, origin in names.items()}


def load_module(path: Path) -> ModuleType:
    """Runs an exported model.py as a module that is registered nowhere and leaves no cache."""
    module = ModuleType(f"exported_{re.sub(r'[^A-Za-z0-9]', '_', path.parent.name)}")
    module.__file__ = str(path)
    return _run(path.read_text(encoding="utf-8"), str(path), module)


def _run(text: str, path: str, module: ModuleType) -> ModuleType:
    exec(compile(text, path, "exec"), vars(module))
    return module


def count_macs(network: nn.Module, genome: Genome) -> int:
    """Multiply-adds of one image through a network on the meta device.

    On the CPU the counter would miss fused attention. With gradients off it fails where a
    parameter itself, such as a class token, goes from module to module.
    """
    image = torch.empty(1, genome.in_channels, genome.resolution, genome.resolution, device="meta")
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return counter.get_total_flops() // 2


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _compare(path: Path, what: str, exported: Any, expected: Any) -> None:
    if exported != expected:
        raise RuntimeError(f"{path}: {what} is {exported}, but the genome's network has {expected}")


def _compare_shapes(
    path: Path, exported: nn.Module, expected: nn.Module, names: Mapping[str, str]
) -> None:
    ours = {names.get(name, name): shape for name, shape in _shapes(exported).items()}
    theirs = _shapes(expected)
    for name in {**theirs, **ours}:
        _compare(path, f"shape of {name}", ours.get(name), theirs.get(name))


def _compare_outputs(
    path: Path, model: Callable[[], nn.Module], genome: Genome, names: Mapping[str, str]
) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network, exported = build(genome).eval(), _on_meta(model).eval()
        for parameter in network.parameters():
            # Blocks whose last norm or layer scale starts at zero would otherwise not be seen.
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        # The same tensors, not copies: the largest published networks have gigabytes of them.
        exported.load_state_dict(renamed(network.state_dict(), names), assign=True)
        images = torch.randn(1, genome.in_channels, genome.resolution, genome.resolution)
        expected, found = network(images), exported(images)
    if not expected.isfinite().all() or not torch.equal(found, expected):
        difference = (found - expected).abs().max().item()
        raise RuntimeError(f"{path}: logits differ from the genome's network by {difference}")


# --- README.md ----------------------------------------------------------------------------------


def _readme(
    genome: Genome,
    name: str,
    facts: Mapping[str, str],
    files: set[str],
    classifier: Sequence[str],
    differences: Mapping[str, float | None],
) -> str:
    side, given = genome.resolution, fact_rows(facts)
    rows = [
        ("Input", f"{genome.in_channels} x {side} x {side} pixels"),
        ("Classes", str(genome.classes)),
        *cost_rows(genome),
        ("Genome", genome.digest),
        *given,
        ("Checked", _checked(differences)),
    ]
    table = "\n".join(f"| {_markdown(key)} | {_markdown(value)} |" for key, value in rows)
    sections = [f"# {name}", _README_START, f"| | |\n|---|---|\n{table}"]
    if any("score" in key.lower() for key, _ in given):
        sections.append(_README_SCORE)
    sections += ["## Use", _python(_USE.format(genome)), "`python model.py` checks the numbers."]
    if "weights.safetensors" in files:
        names = "".join(f"    {json.dumps(key)},\n" for key in classifier)
        sections += [
            "## Weights",
            "`weights.safetensors` needs `pip install safetensors`:",
            _python(_LOAD),
            "For other classes, leave out what belongs to the old ones:",
            _python(_LOAD_OTHER.format(names=names)),
        ]
    sections += ["## Train", _README_TRAIN, _python(_TRAIN)]
    if "model.onnx" in files:
        weights = "the weights above" if "weights.safetensors" in files else "untrained weights"
        sections += ["## ONNX", _README_ONNX.format(genome, weights=weights)]
    if "model.pt2" in files:
        sections += ["## torch.export", _python(_PT2.format(genome))]
    present = [f"- `{file}`: {what}" for file, what in _FILES.items() if file in files]
    sections += ["## Files", "\n".join(present)]
    return "\n\n".join(sections) + "\n"


def _checked(differences: Mapping[str, float | None]) -> str:
    """How far what was written is from the network that was searched."""
    said = ["model.py gives the same logits to the last bit in float32 on a CPU"]
    for name, difference in differences.items():
        far = "was not run here" if difference is None else f"differs by at most {difference:.1e}"
        said.append(f"{FILES[name]} {far}")
    return "; ".join(said)


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _markdown(text: str) -> str:
    """`text` with the marks of Markdown and HTML made plain."""
    return re.sub(r"([\\`*_\[\]<>&|#!~])", r"\\\1", text)


def _follow_classes(folder: Path) -> list[str]:
    """The weights whose shape follows the number of classes."""
    module = load_module(folder / "model.py")
    shapes = _shapes(_on_meta(module.model))
    others = _shapes(_on_meta(lambda: module.model(num_classes=module.NUM_CLASSES + 1)))
    return [key for key in shapes if shapes[key] != others.get(key)]


_FILES = {
    "model.py": "the network; `model()` at its top says what it is made of",
    "genome.json": "the same as genes, from which Chimera builds it again",
    "weights.safetensors": "its weights",
    "model.onnx": "the network for ONNX runtimes",
    "model.onnx.data": "the weights of `model.onnx`",
    "model.pt2": "the network for `torch.export.load`",
    "model.torchscript.pt": "the network for `torch.jit.load`",
}

_README_START = """\
An image classifier in plain PyTorch. `model.py` is the whole network in one file; it needs torch
and nothing else."""

_README_SCORE = """\
The score is a supernet's: measured with weights that all candidates share, it serves to rank them.
It is not the accuracy of this network, which takes training it by itself."""

_README_TRAIN = """\
A plain recipe to start from. `batches` is a DataLoader, or anything else with a length that gives
normalised images and their labels as whole numbers."""

_README_ONNX = """\
`model.onnx` is the same network with {weights}, for any number N of images: input `images`
(N, {0.in_channels}, {0.resolution}, {0.resolution}), output `logits` (N, {0.classes})."""

_PT2 = """\
import torch

network = torch.export.load("model.pt2").module()
logits = network(torch.randn(2, {0.in_channels}, {0.resolution}, {0.resolution}))  # any number
"""

_USE = """\
import torch

from model import model

network = model()  # model(num_classes=10) changes the classifier only
logits = network(torch.randn(2, {0.in_channels}, {0.resolution}, {0.resolution}))"""

_LOAD = """\
from safetensors.torch import load_file

from model import model

network = model()
network.load_state_dict(load_file("weights.safetensors"))"""

_LOAD_OTHER = """\
from safetensors.torch import load_file

from model import model

classifier = (
{names})
weights = load_file("weights.safetensors")
network = model(num_classes=10)
kept = {{name: value for name, value in weights.items() if name not in classifier}}
network.load_state_dict(kept, strict=False)"""

_TRAIN = """\
import torch
from torch import nn


def train(network, batches, epochs, peak_rate=1e-3, warmup_epochs=5, device="cpu"):
    network.to(device).train()
    # Norms, biases and other vectors are not pulled towards zero.
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=peak_rate,
        total_steps=epochs * len(batches),
        pct_start=min(0.3, warmup_epochs / epochs),
        cycle_momentum=False,
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(epochs):
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = loss_of(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return network"""
