"""Parquet files in the layout of Hugging Face's `datasets`.

A file of training images, or a folder (or its `data/`) with train*.parquet and perhaps
val*.parquet and test*.parquet; shards are named as in train-00000-of-00002.parquet. Columns:
`image` (a struct with `bytes`, or plain binary) and `label` (whole numbers). Class names come from
the `ClassLabel` feature in the schema's metadata; without it a class is named by its number.
A negative or missing label means "unlabelled": a whole split of them is as good as absent.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluator.data_rows import LABEL_COLUMNS, Listing, Picture, Rows

IMAGE_COLUMNS = ("image", "img")
_PATTERNS = {"train": "train*.parquet", "validation": "val*.parquet", "test": "test*.parquet"}
_BATCH = 256  # rows decompressed at a time


@dataclass(frozen=True)
class _File:
    path: Path
    groups: tuple[int, ...]  # rows of each row group
    image: str  # column, as `image.bytes` where it is a struct
    label: str | None
    names: tuple[str, ...]  # of the classes; () where the metadata has none

    @property
    def rows(self) -> int:
        return sum(self.groups)


def list_parquet(name: str, source: Path) -> Listing:
    """`source` is a file of training images, or a folder with train*.parquet in it.

    Raises ValueError for broken files, missing shards or columns, and impossible labels.
    """
    files = {split: [_inspect(path) for path in paths] for split, paths in _splits(source).items()}
    labels = {split: _labels(split, found) for split, found in files.items()}
    train = labels["train"]
    if train is None:
        path = files["train"][0].path
        raise ValueError(
            f"{path} has no labelled images; training rows need a whole number from 0 in a "
            f"column named {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}"
        )
    present = np.unique(train)
    if len(present) < 2:
        raise ValueError(
            f"{source}: all training labels are {present[0]}; at least two must differ"
        )
    classes = _classes(files, present)
    rows = {}
    for split, found in labels.items():
        if found is not None:
            numbers = _class_numbers(source, split, found, present, bool(files["train"][0].names))
            rows[split] = _rows(files[split], numbers)
    return Listing(name, classes, rows["train"], rows.get("validation"), rows.get("test"))


def _splits(source: Path) -> dict[str, list[Path]]:
    if source.is_file():
        return {"train": [source]}
    found = {split: sorted(source.glob(pattern)) for split, pattern in _PATTERNS.items()}
    for paths in found.values():
        _check_shards(paths)
    return {split: paths for split, paths in found.items() if paths}


def _check_shards(paths: Sequence[Path]) -> None:
    """ValueError where a download stopped half-way."""
    numbered = [re.search(r"^(.*)-\d+-of-(\d+)\.parquet$", path.name) for path in paths]
    have = Counter((match[1], match[2]) for match in numbered if match)
    for (stem, total), count in have.items():
        if count != int(total):
            raise ValueError(
                f"{paths[0].parent} has {count} of the {int(total)} shards "
                f"{stem}-*-of-{total}.parquet; download the rest"
            )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a readable parquet file: {reason}") from error


def _inspect(path: Path) -> _File:
    with _reading(path), pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if label and not pa.types.is_integer(schema.field(label).type):
        kind = schema.field(label).type
        raise ValueError(f"{path}: column {label!r} holds {kind}, but must hold whole numbers")
    return _File(path, groups, _image_column(schema, path), label, _class_names(schema, label))


def _image_column(schema: pa.Schema, path: Path) -> str:
    name = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if name is None:
        raise ValueError(
            f"{path} has columns {', '.join(schema.names)}; one of {', '.join(IMAGE_COLUMNS)} "
            "must hold the encoded images"
        )
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
        if _is_bytes(inner):
            return f"{name}.bytes"
    if _is_bytes(kind):
        return name
    raise ValueError(
        f"{path}: column {name!r} holds {kind}, but must hold encoded images as binary, or as a "
        "struct with binary 'bytes'"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):  # other writers leave this metadata out
        return ()


def _labels(split: str, files: Sequence[_File]) -> np.ndarray | None:
    """int64 labels of a split, None where it has none; ValueError where some rows lack one."""
    parts = []
    for file in files:
        if file.label is None:
            parts.append(np.full(file.rows, -1))
            continue
        with _reading(file.path), pq.ParquetFile(file.path) as opened:
            column = opened.read(columns=[file.label]).column(0).cast(pa.int64())
        parts.append(pc.fill_null(column, -1).to_numpy())
    labels = np.concatenate(parts)
    missing = np.flatnonzero(labels < 0)
    if len(missing) == len(labels):
        return None
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(labels)} {split} rows have a negative or missing label, first "
            f"{_describe(files, int(missing[0]))}; label all rows of a split or none"
        )
    return labels


def _classes(files: dict[str, list[_File]], present: np.ndarray) -> tuple[str, ...]:
    first = files["train"][0]
    for file in (file for found in files.values() for file in found):
        if file.names and first.names and file.names != first.names:
            raise ValueError(f"{file.path} and {first.path} name different classes")
    if first.names and present[-1] >= len(first.names):
        raise ValueError(
            f"{first.path}: label {present[-1]} is beyond the {len(first.names)} class names in "
            "its metadata; correct one of the two"
        )
    return first.names or tuple(str(label) for label in present)


def _class_numbers(
    source: Path, split: str, labels: np.ndarray, present: np.ndarray, named: bool
) -> np.ndarray:
    """Labels as places in the class names: as they are where those are given."""
    unknown = np.setdiff1d(labels, present)
    if len(unknown):
        raise ValueError(
            f"{source}: the {split} split has {len(unknown)} classes without training images, "
            f"first label {unknown[0]}; remove those rows or add training images"
        )
    return labels if named else np.searchsorted(present, labels).astype(np.int64)


def _describe(files: Sequence[_File], row: int) -> str:
    ends = list(accumulate(file.rows for file in files))
    place = bisect_right(ends, row)
    return f"row {row - ends[place] + files[place].rows} of {files[place].path.name}"


@dataclass(frozen=True, eq=False)
class _Shards:
    """The files of a split, as one sequence of rows."""

    files: tuple[_File, ...]

    def pictures(self, rows: np.ndarray) -> Iterator[Picture]:
        start = 0
        for file in self.files:
            stop = start + file.rows
            first, last = np.searchsorted(rows, (start, stop))
            if first < last:
                yield from _pictures(file, rows[first:last] - start)
            start = stop

    def describe(self, row: int) -> str:
        return _describe(self.files, row)


def _rows(files: Sequence[_File], labels: np.ndarray) -> Rows:
    shards = _Shards(tuple(files))
    sizes = [rows for file in files for rows in file.groups]
    blocks = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return Rows(labels, shards.pictures, shards.describe, blocks)


def _pictures(file: _File, rows: np.ndarray) -> Iterator[bytes]:
    """Reads the row groups that hold `rows`, a batch at a time, so that memory stays small."""
    with _reading(file.path), pq.ParquetFile(file.path) as opened:
        start = 0
        for group in range(opened.num_row_groups):
            stop = start + opened.metadata.row_group(group).num_rows
            if np.any((rows >= start) & (rows < stop)):
                for batch in opened.iter_batches(_BATCH, [group], columns=[file.image]):
                    column = batch.column(0)
                    if pa.types.is_struct(column.type):
                        column = column.flatten()[0]
                    wanted = rows[(rows >= start) & (rows < start + len(column))] - start
                    # A row without bytes is a corrupt picture, not a corrupt file.
                    yield from (column[place].as_py() or b"" for place in wanted.tolist())
                    start += len(column)
            start = stop
