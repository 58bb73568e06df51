"""Image folders: one folder of images for each class, with or without splits above them.

    flowers/train/rose/1.jpg    or    flowers/rose/1.jpg
    flowers/val/rose/2.jpg            flowers/tulip/3.jpg
    flowers/test/tulip/3.jpg

Classes are in alphabetical order of their folders, images in that of their paths. What starts
with a dot, files of other types and folders without an image are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evaluator.data_rows import Listing, Picture, Rows

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
VALIDATION_NAMES = ("val", "valid", "validation")

_Files = dict[str, list[Path]]  # class -> its images


def list_folder(root: Path) -> Listing:
    """Raises ValueError where there are no images, one class only, or classes without training."""
    splits = _splits(root)
    files = {split: _class_files(folder) for split, folder in splits.items()}
    train = files.pop("train")
    if not train:
        raise ValueError(
            f"{splits['train']} holds no images in class folders; expected train/<class>/ or "
            f"<class>/ with files of type {' '.join(EXTENSIONS)}, or train*.parquet"
        )
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


def _images(folder: Path) -> list[Path]:
    """Images at any depth: some data sets put them in <class>/images/."""
    found = []
    for directory, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            Path(directory, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    return sorted(found)


def _rows(root: Path, files: _Files, classes: tuple[str, ...]) -> Rows:
    paths = [path for name in classes for path in files.get(name, [])]
    counts = [len(files.get(name, [])) for name in classes]

    def pictures(rows: np.ndarray) -> Iterator[Picture]:
        return (paths[row] for row in rows)

    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return Rows(labels, pictures, lambda row: str(paths[row].relative_to(root)))
