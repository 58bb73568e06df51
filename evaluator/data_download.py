"""Data sets of the Hugging Face Hub, downloaded once and kept as parquet files.

The library `datasets` downloads them; it is imported here only, and nothing else needs it. They are
kept beside its own cache, in `chimera/<owner>--<name>` below $HF_DATASETS_CACHE (otherwise
$HF_HOME/datasets, otherwise ~/.cache/huggingface/datasets). What lies there is used as it is,
without the library and without a network. A data set takes its size twice: as downloaded, which
`datasets` may clear, and as parquet.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluator.data_rows import LABEL_COLUMNS

HUB_NAMES = {  # short names
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet-1k": "ILSVRC/imagenet-1k",
}
_REASON_MOST = 300  # characters of the library's message


def on_hub(source: str | os.PathLike[str]) -> bool:
    """Whether it can only be the name of a data set of the Hub: no path, but of the form owner/name
    or a short name."""
    name = os.fspath(source)
    known = name in HUB_NAMES or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name)
    return bool(known) and not Path(name).exists()


def download(name: str) -> Path:
    """The folder with train*.parquet of a data set "owner/name", or of a short name for one.

    Raises ValueError, in one line, where it cannot be had: `datasets` is not installed, the network
    or the Hub refuses, or it has no training split.
    """
    home = _home(name)
    if home.is_dir():
        return home
    library = _library(name)
    work = home.with_name(home.name + ".download")
    try:
        builder = library.load_dataset_builder(_repository(name))
        _check_splits(name, builder.info.splits or ("train",))
        # Writes to another folder first and renames it, so `work` is whole where it exists.
        builder.download_and_prepare(str(work), file_format="parquet")
        _check_splits(name, builder.info.splits)
        _rename(work, builder.info.splits)
        if not home.is_dir():  # another process may have been faster
            work.rename(home)
    except Exception as error:  # hub, network, disk and parsers: all of it is the library's
        raise ValueError(_refused(name, error)) from error
    return home


def described_classes(name: str) -> tuple[str, ...]:
    """The names of the classes as the Hub describes them, without a download of images; () where
    the data set is here already or its description leaves them out. Raises ValueError likewise."""
    if _home(name).is_dir():
        return ()
    library = _library(name)
    try:
        features = library.load_dataset_builder(_repository(name)).info.features or {}
    except Exception as error:
        raise ValueError(_refused(name, error)) from error
    label = next((features[column] for column in LABEL_COLUMNS if column in features), None)
    return tuple(getattr(label, "names", None) or ())


def _repository(name: str) -> str:
    return HUB_NAMES.get(name, name)


def _home(name: str) -> Path:
    cache = os.environ.get("HF_DATASETS_CACHE")
    if not cache:
        above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = os.path.join(os.environ.get("HF_HOME") or f"{above}/huggingface", "datasets")
    return Path(cache).expanduser() / "chimera" / _repository(name).replace("/", "--")


def _library(name: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(
            f"{_asked_for(name)}, but the library `datasets`, which downloads it, is not "
            f"installed (pip install datasets); {_alternatives()}"
        ) from error


def _check_splits(name: str, splits: Iterable[str]) -> None:
    if "train" not in splits:
        raise ValueError(f"it has no split named 'train', but {', '.join(sorted(splits))}")


def _rename(work: Path, splits: Iterable[str]) -> None:
    """From <data set>-<split>-00000-of-00002.parquet to <split>-00000-of-00002.parquet, as the
    reader expects it; splits that are not for training, validation or test are removed."""
    validation = sorted(split for split in splits if split.startswith("val"))[:1]
    wanted = {"train", "test", *validation}
    for path in sorted(work.glob("*.parquet")):
        found = re.fullmatch(r".+?-([\w.]+?)((?:-\d+-of-\d+)?\.parquet)", path.name)
        if found and found[1] in wanted:
            path.rename(work / (found[1] + found[2]))
        elif found and found[1] in splits:
            path.unlink()


def _refused(name: str, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ValueError):
        reason = " ".join(str(error).split())
    if len(reason) > _REASON_MOST:
        reason = reason[:_REASON_MOST] + "..."
    repository, advice = _repository(name), ""
    missing = "DatasetNotFoundError" in (base.__name__ for base in type(error).__mro__)
    if "gated" in reason.lower() or (missing and name in HUB_NAMES):
        advice = (
            f"its licence must be accepted at https://huggingface.co/datasets/{repository}, and "
            "this machine logged in (hf auth login); or "
        )
    elif missing:
        advice = "check the name, or log in if it is private (hf auth login); or "
    elif isinstance(error, (ConnectionError, TimeoutError)):
        advice = "check the network; or "
    return f"{_asked_for(name)}, but it cannot be had ({reason}); {advice}{_alternatives()}"


def _asked_for(name: str) -> str:
    return (
        f"{name!r} is no path here, so it means the data set {_repository(name)} of the Hugging "
        "Face Hub"
    )


def _alternatives() -> str:
    return (
        "give the path of a folder of class folders or of parquet files instead, or take the "
        "built-in `digits`"
    )
