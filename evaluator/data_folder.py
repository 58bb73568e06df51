"""Image folders: one folder of images for each class, with or without splits above them.

    flowers/train/rose/1.jpg    or    flowers/rose/1.jpg
    flowers/val/rose/2.jpg            flowers/tulip/3.jpg
    flowers/test/tulip/3.jpg

Classes are in alphabetical order of their folders, images in that of their paths. What starts
with a dot and files of other types are passed over. A class folder without an image is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluator.data_rows import Listing, Picture, Rows

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
VALIDATION_NAMES = ("val", "valid", "validation")

_Files = dict[str, list[str]]  # class -> paths of its images


def list_folder(root: Path) -> Listing:
    """Raises ValueError where there are no images, one class only, classes without training images
    or class folders without images."""
    splits = _splits(root)
    files = {split: _class_files(folder) for split, folder in splits.items()}
    train = files.pop("train")
    if not train:
        raise ValueError(
            f"{splits['train']} holds no images in class folders; expected train/<class>/ or "
            f"<class>/ with files of type {' '.join(EXTENSIONS)}, or train*.parquet"
        )
    for split, found in {"train": train, **files}.items():
        _check_filled(splits[split], found)
    classes = tuple(sorted(train))
    if len(classes) < 2:
        raise ValueError(
            f"{splits['train']} has one class only, {classes[0]!r}; a classifier needs at least "
            "two class folders with images"
        )
    for split, found in files.items():
        unknown = sorted(set(found) - set(classes))
        if unknown:
            raise ValueError(
                f"{splits[split]} has {len(unknown)} classes without training images, first "
                f"{unknown[0]!r}; its folders must be named as those in {splits['train']}"
            )
    if "validation" in files and not files["validation"] and _images(splits["validation"]):
        raise ValueError(
            f"{splits['validation']} has images but no class folders; sort them into folders named "
            f"as those in {splits['train']}, or remove them"
        )
    # Test images in one heap are unlabelled, as competitions give them: no test split.
    held = {split: _rows(root, found, classes) for split, found in files.items() if found}
    name = root.resolve().name
    return Listing(
        name, classes, _rows(root, train, classes), held.get("validation"), held.get("test")
    )


def _splits(root: Path) -> dict[str, Path]:
    """The folder of each split. `train` is a split if it holds folders: it can be a class too."""
    if not any(child.is_dir() for child in _visible(root / "train")):
        named = [name for name in (*VALIDATION_NAMES, "test") if _class_files(root / name)]
        if named:
            raise ValueError(
                f"{root} has class folders in {named[0]}/ but none in train/; put the training "
                "images in train/<class>/"
            )
        return {"train": root}
    splits = {"train": root / "train"}
    validation = [root / name for name in VALIDATION_NAMES if (root / name).is_dir()]
    if len(validation) > 1:
        names = " and ".join(f"{folder.name}/" for folder in validation)
        raise ValueError(f"{root} has both {names}; keep one of them as the validation split")
    if validation:
        splits["validation"] = validation[0]
    if (root / "test").is_dir():
        splits["test"] = root / "test"
    return splits


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))


def _class_files(folder: Path) -> _Files:
    found = {child.name: _images(child) for child in _visible(folder) if child.is_dir()}
    return {name: images for name, images in found.items() if images}


def _check_filled(folder: Path, found: _Files) -> None:
    """ValueError where some class folders hold images and others do not: a copy that stopped
    half-way would otherwise train a smaller classifier without a word."""
    children = [child.name for child in _visible(folder) if child.is_dir()]
    empty = [name for name in children if name not in found]
    if found and empty:
        raise ValueError(
            f"{folder} has {len(empty)} class folders without images, first {empty[0]!r}; put "
            f"images into it (files of type {' '.join(EXTENSIONS)}) or remove it"
        )


def _images(folder: Path) -> list[str]:
    """Images at any depth: some data sets put them in <class>/images/."""
    found = []
    for directory, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            os.path.join(directory, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    return sorted(found, key=lambda path: path.split(os.sep))  # as Path sorts: folder by folder


@dataclass(frozen=True, eq=False)
class _Paths:
    """Millions of paths in one piece of memory, which forked processes share."""

    root: Path
    text: bytes
    ends: np.ndarray  # int64 (N + 1,): path i is text[ends[i] : ends[i + 1]]

    @classmethod
    def of(cls, root: Path, paths: Sequence[str]) -> _Paths:
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(root, b"".join(encoded), ends)

    def pictures(self, rows: np.ndarray) -> Iterator[Picture]:
        return (self._path(row) for row in rows)

    def describe(self, row: int) -> str:
        return str(self._path(row).relative_to(self.root))

    def _path(self, row: int) -> Path:
        return Path(os.fsdecode(self.text[self.ends[row] : self.ends[row + 1]]))


def _rows(root: Path, files: _Files, classes: tuple[str, ...]) -> Rows:
    paths = [path for name in classes for path in files.get(name, [])]
    counts = [len(files.get(name, [])) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    packed = _Paths.of(root, paths)
    return Rows(labels, packed.pictures, packed.describe)
