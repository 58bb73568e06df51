"""Data sets against what was written into them: every test image has a colour of its own."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from evaluator import data as data_module
from evaluator.data import available_memory_bytes, load_data
from evaluator.data_rows import Listing, Rows, draw

SIDE = 4


def colour(number):
    """A colour that no other number below 2**16 has."""
    return (number // 256, number % 256, 77)


def number_of(images):
    """The inverse of `colour`; also checks that each image is of one colour."""
    assert (images == images[:, :, :1, :1]).all()
    assert (images[:, 2] == 77).all()
    corner = images[:, :, 0, 0].int()
    return (256 * corner[:, 0] + corner[:, 1]).tolist()


def encoded(number, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour(number)).save(buffer, kind)
    return buffer.getvalue()


def write_classes(folder, counts, start=0):
    """`counts[name]` images in each class folder, numbered on from `start`; the next number."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            (folder / name / f"{number:05}.png").write_bytes(encoded(number))
        start += count
    return start


def write_parquet(
    path, labels, *, start=0, names=None, image="image", label="label", struct=True, group=7
):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [encoded(start + i) if value != "bad" else b"" for i, value in enumerate(labels)]
    labels = [0 if value == "bad" else value for value in labels]
    column = pa.array(pictures, pa.binary())
    if struct:
        column = pa.array(
            [{"bytes": picture, "path": "x.png"} for picture in pictures],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    columns = {image: column}
    if label:
        columns[label] = pa.array(labels, pa.int64())
    table = pa.table(columns)
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=group)


def splits_of(loaded):
    return [split for split in (loaded.train, loaded.validation, loaded.test) if split is not None]


def load(source, **settings):
    return load_data(str(source), **{"resolution": SIDE, **settings})


# --- what the import needs ---------------------------------------------------------------------


def test_import_needs_no_optional_library():
    code = (
        "import sys, evaluator; heavy = {'torch', 'numpy'} & set(sys.modules);"
        "import evaluator.data; print(heavy | {'PIL', 'sklearn', 'pyarrow'} & set(sys.modules))"
    )
    home = Path(data_module.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


# --- digits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", resolution=8)


def test_digits_are_divided_60_20_20_and_nothing_is_lost(digits):
    truth = load_digits()
    assert [len(split) for split in splits_of(digits)] == [1079, 359, 359]
    expected = sorted(
        (label, (pixels * 255 / 16).round().astype(np.uint8).tobytes())
        for label, pixels in zip(truth.target.tolist(), truth.images, strict=True)
    )
    found = []
    for split in splits_of(digits):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert (split.images == split.images[:, :1]).all()
        found += [
            (label, image[0].numpy().tobytes())
            for label, image in zip(split.labels.tolist(), split.images, strict=True)
        ]
    assert sorted(found) == expected


def test_digits_splits_are_stratified(digits):
    whole = np.bincount(load_digits().target)
    assert digits.classes == tuple("0123456789")
    for split in (digits.validation, digits.test):
        assert np.abs(split.labels.bincount().numpy() - whole / 5).max() <= 1


def test_digits_do_not_depend_on_the_seed(digits):
    assert load_data("digits", resolution=8, seed=5).digest == digits.digest


def test_digits_are_resized_bilinearly(digits):
    large = load_data("digits", resolution=20)
    expected = F.interpolate(digits.test.images.float(), size=20, mode="bilinear", antialias=True)
    assert large.test.images.shape == (359, 3, 20, 20)
    assert large.resolution == 20
    assert (large.test.images.float() - expected).abs().max() <= 1


# --- folders -----------------------------------------------------------------------------------


def test_folder_with_three_splits(tmp_path):
    end = write_classes(tmp_path / "train", {"b": 3, "a": 2})
    end = write_classes(tmp_path / "valid", {"a": 2, "b": 1}, end)
    write_classes(tmp_path / "test", {"b": 2}, end)
    loaded = load(tmp_path)
    assert loaded.name == tmp_path.name
    assert loaded.classes == ("a", "b")
    assert number_of(loaded.train.images) == [3, 4, 0, 1, 2]
    assert loaded.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert number_of(loaded.validation.images) == [5, 6, 7]
    assert number_of(loaded.test.images) == [8, 9]
    assert loaded.test.labels.tolist() == [1, 1]
    assert loaded.skipped == 0


@pytest.mark.parametrize("below", ["", "train"])
def test_missing_validation_is_cut_from_training(tmp_path, below):
    write_classes(tmp_path / below, {"a": 50, "b": 25})
    loaded = load(tmp_path)
    assert loaded.test is None
    assert loaded.validation.labels.bincount().tolist() == [10, 5]
    train, validation = number_of(loaded.train.images), number_of(loaded.validation.images)
    assert sorted(train + validation) == list(range(75))
    assert loaded.train.labels.tolist() == [int(number >= 50) for number in train]
    assert loaded.validation.labels.tolist() == [int(number >= 50) for number in validation]
    assert validation != list(range(10)) + list(range(50, 55)), "the cut must be random"
    again = load(tmp_path, seed=3)
    assert number_of(again.validation.images) == validation


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_without_test_is_held_out(tmp_path, name):
    end = write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / name, {"a": 2, "b": 3}, end)
    loaded = load(tmp_path)
    assert number_of(loaded.test.images) == [20, 21, 22, 23, 24]
    seen = number_of(loaded.train.images) + number_of(loaded.validation.images)
    assert sorted(seen) == list(range(20))
    assert loaded.validation.labels.tolist() == [0, 0, 1, 1]


def test_at_most_10_000_images_are_cut():
    labels = np.repeat([0, 1, 2], [10_000, 20_000, 30_000])
    rows = Rows(labels, lambda wanted: iter(()), str)
    listing = data_module._with_validation(Listing("x", ("a", "b", "c"), rows))
    assert abs(np.bincount(listing.validation.labels) - [1667, 3333, 5000]).max() <= 1
    assert len(listing.validation) == 10_000
    assert len(listing.train) == 50_000


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, {"bus": 5, "train": 5, "test": 5})
    assert load(tmp_path).classes == ("bus", "test", "train")


def test_unlabelled_test_folder_is_no_test_split(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_classes(tmp_path, {"test": 3})
    assert load(tmp_path).test is None


def test_what_is_no_image_is_passed_over(tmp_path):
    write_classes(tmp_path, {"a": 4, "b": 4, ".hidden": 4, "a/deeper": 1, "a/empty": 0})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "._00000.png").write_text("x")
    (tmp_path / "b" / "UPPER.PNG").write_bytes(encoded(500))
    loaded = load(tmp_path)
    assert loaded.classes == ("a", "b")
    assert len(loaded.train) + len(loaded.validation) == 10
    assert loaded.skipped == 0


def test_pixels_are_those_of_pillow(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.jpg", quality=90)
    loaded = load(tmp_path, resolution=12)
    expected = {
        np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).tobytes()
        for path in tmp_path.glob("*/*.jpg")
    }
    found = [image.numpy().tobytes() for split in splits_of(loaded) for image in split.images]
    assert len(found) == 6
    assert set(found) == expected


@pytest.mark.parametrize("size", [(37, 24), (24, 37), (9, 40), (5, 3)])
def test_short_side_is_resized_and_the_centre_kept(tmp_path, size):
    width, height = size
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    found = load(tmp_path, resolution=12).train.images[0]
    map_ = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    resized = (12 * height // min(size), 12 * width // min(size))
    whole = F.interpolate(map_, size=resized, mode="bilinear", antialias=True)[0]
    top, left = round((resized[0] - 12) / 2), round((resized[1] - 12) / 2)
    expected = whole[:, top : top + 12, left : left + 12]
    assert (found.float() - expected).abs().max() <= 1.01  # Pillow rounds after each direction


def _picture(mode):
    """An image of one colour in `mode`, as Pillow image, save options and expected RGB."""
    if mode == "I;16":
        return Image.fromarray(np.full((SIDE, SIDE), 0x8040, np.uint16)), {}, (128, 128, 128)
    if mode == "L":
        return Image.new("L", (SIDE, SIDE), 90), {}, (90, 90, 90)
    if mode == "RGBA":
        return Image.new("RGBA", (SIDE, SIDE), (10, 20, 30, 200)), {}, (10, 20, 30)
    if mode == "1":
        return Image.new("1", (SIDE, SIDE), 1), {}, (255, 255, 255)
    first, second = (Image.new("RGB", (SIDE, SIDE), c) for c in ((10, 20, 30), (200, 0, 0)))
    if mode == "P":
        return first.quantize(4), {}, (10, 20, 30)
    options = {"save_all": True, "append_images": [second]}
    return first.quantize(4), options, (10, 20, 30)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("I;16", "png"),
        ("I;16", "tiff"),
        ("L", "png"),
        ("RGBA", "png"),
        ("1", "png"),
        ("P", "png"),
        ("L", "bmp"),
        ("L", "pgm"),
        ("animation", "gif"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
    picture, options, expected = _picture(mode)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            picture.save(tmp_path / name / f"{i}.{suffix}", **options)
    loaded = load(tmp_path)
    assert loaded.skipped == 0
    colours = torch.tensor(expected, dtype=torch.uint8)[:, None, None]
    assert all((split.images == colours).all() for split in splits_of(loaded))


# --- parquet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("below", ["", "data"])
def test_parquet_splits_and_shards(tmp_path, struct, below):
    home = tmp_path / below
    names = ["cat", "dog", "emu"]
    write_parquet(
        home / "train-00001-of-00002.parquet", [2, 0] * 5, start=20, names=names, struct=struct
    )
    write_parquet(home / "train-00000-of-00002.parquet", [0, 1] * 10, names=names, struct=struct)
    write_parquet(home / "validation-00000-of-00001.parquet", [1, 2], start=40, names=names)
    write_parquet(home / "test-00000-of-00001.parquet", [2], start=50, names=names)
    loaded = load(tmp_path)
    assert loaded.name == tmp_path.name
    assert loaded.classes == ("cat", "dog", "emu")
    assert number_of(loaded.train.images) == list(range(30))
    assert loaded.train.labels.tolist() == [0, 1] * 10 + [2, 0] * 5
    assert number_of(loaded.validation.images) == [40, 41]
    assert loaded.validation.labels.tolist() == [1, 2]
    assert number_of(loaded.test.images) == [50]


@pytest.mark.parametrize(
    ("image", "label", "group"),
    [("image", "label", 7), ("img", "fine_label", 1000), ("img", "labels", 300)],
)
def test_parquet_file_without_names(tmp_path, image, label, group):
    """Labels 3 and 11 become classes 0 and 1; the cut takes its rows out of all row groups."""
    written = [3 if number % 3 else 11 for number in range(600)]
    write_parquet(tmp_path / "birds.parquet", written, image=image, label=label, group=group)
    loaded = load(tmp_path / "birds.parquet")
    assert (loaded.name, loaded.classes, loaded.test) == ("birds", ("3", "11"), None)
    assert loaded.validation.labels.bincount().tolist() == [80, 40]
    seen = []
    for split in splits_of(loaded):
        numbers = number_of(split.images)
        assert split.labels.tolist() == [0 if number % 3 else 1 for number in numbers]
        seen += numbers
    assert sorted(seen) == list(range(600))


def test_rows_are_found_in_every_shard(tmp_path):
    for shard, start in enumerate((0, 30, 90)):
        path = tmp_path / f"train-0000{shard}-of-00003.parquet"
        write_parquet(path, [0, 1] * (15 + 15 * shard), start=start)
    loaded = load(tmp_path, limit=40)
    assert (len(loaded.train), len(loaded.validation)) == (40, 10)
    numbers = [number_of(split.images) for split in (loaded.train, loaded.validation)]
    assert not set(numbers[0]) & set(numbers[1])
    for split, found in zip((loaded.train, loaded.validation), numbers, strict=True):
        assert found == sorted(set(found))
        assert found[0] < 30
        assert found[-1] >= 90
        assert split.labels.tolist() == [number % 2 for number in found]


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], [-1, None]])
def test_unlabelled_parquet_test_is_absent(tmp_path, labels):
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    write_parquet(tmp_path / "val.parquet", [0, 1, 1], start=30)
    write_parquet(tmp_path / "test.parquet", labels)
    loaded = load(tmp_path)
    assert number_of(loaded.test.images) == [30, 31, 32], "the publisher's validation is held out"
    assert len(loaded.validation) == 4


def test_parquet_test_without_label_column_is_absent(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10)
    write_parquet(tmp_path / "test.parquet", [0, 0], label=None)
    assert load(tmp_path).test is None


@pytest.mark.skipif("CHIMERA_CIFAR10" not in os.environ, reason="CHIMERA_CIFAR10 names no folder")
def test_cifar10():
    folder = Path(os.environ["CHIMERA_CIFAR10"])
    loaded = load_data(folder, resolution=32, limit=2000)
    assert loaded.train.labels.bincount().tolist() == [200] * 10
    assert loaded.validation.labels.bincount().tolist() == [50] * 10
    assert loaded.test.labels.bincount().tolist() == [1000] * 10
    row = pq.read_table(folder / "test.parquet").slice(1234, 1).to_pylist()[0]
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    assert loaded.test.labels[1234] == row["label"]
    assert (loaded.test.images[1234].permute(1, 2, 0).numpy() == pixels).all()
    # Krizhevsky's images have mean (0.491, 0.482, 0.447) and deviation (0.247, 0.243, 0.262).
    assert loaded.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.01)
    assert loaded.std == pytest.approx((0.247, 0.243, 0.262), abs=0.01)


# --- a subset ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Training 60, 30, 9, 1 of four classes; validation half of that; test 3."""
    folder = tmp_path_factory.mktemp("uneven")
    end = write_classes(folder / "train", {"a": 60, "b": 30, "c": 9, "d": 1})
    end = write_classes(folder / "val", {"a": 30, "b": 15, "c": 4, "d": 1}, end)
    write_classes(folder / "test", {"a": 1, "b": 1, "c": 1}, end)
    return folder


def test_limit_keeps_the_shares_of_the_classes(uneven):
    loaded = load(uneven, limit=20)
    assert loaded.train.labels.bincount().tolist() == [12, 6, 1, 1]
    assert len(loaded.validation) == 10
    assert loaded.validation.labels.bincount(minlength=4).min() == 1
    assert len(loaded.test) == 3


def test_limit_is_decided_by_the_seed_alone(uneven):
    first, again, other = (load(uneven, limit=20, seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest
    assert first.digest != other.digest
    assert number_of(first.train.images) != number_of(other.train.images)
    assert torch.equal(first.validation.images, other.validation.images)
    assert torch.equal(first.test.images, other.test.images)


def test_limit_of_all_images_changes_nothing(uneven):
    digests = {load(uneven, limit=limit).digest for limit in (None, 100, 1000)}
    assert len(digests) == 1


@pytest.mark.parametrize("limit", [3, 0, -1, True, 2.5])
def test_impossible_limit(uneven, limit):
    with pytest.raises(ValueError, match=r"limit is .*at least 4 .*4 classes"):
        load(uneven, limit=limit)


@pytest.mark.parametrize("resolution", [0, -3, 1.5, True])
def test_impossible_resolution(uneven, resolution):
    with pytest.raises(ValueError, match=r"resolution is .*at least 1"):
        load(uneven, resolution=resolution)


@pytest.mark.parametrize("trial", range(20))
def test_draw_gives_each_class_its_share(trial):
    rng = np.random.default_rng(trial)
    labels = rng.choice(6, size=200, p=rng.dirichlet(np.ones(6)))
    count = int(rng.integers(0, 201))
    rows = draw(labels, count, seed=trial)
    assert len(rows) == len(set(rows.tolist())) == count
    assert (np.diff(rows) > 0).all()
    shares = np.bincount(labels[rows], minlength=6)
    assert np.abs(shares - np.bincount(labels, minlength=6) * count / 200).max() < 1


@pytest.mark.parametrize("trial", range(20))
def test_draw_keeps_its_limits(trial):
    rng = np.random.default_rng(trial)
    labels = rng.choice(6, size=60, p=rng.dirichlet(np.full(6, 0.3)))
    sizes = np.bincount(labels)
    count = int(rng.integers(6, 61))
    drawn = np.bincount(labels[draw(labels, count, seed=0, least=1)], minlength=len(sizes))
    assert drawn.sum() == count
    assert (drawn >= np.minimum(1, sizes)).all()
    left = sizes - np.bincount(labels[draw(labels, count, seed=0, spare=2)], minlength=len(sizes))
    assert (left >= np.minimum(2, sizes)).all()


# --- corrupt images ----------------------------------------------------------------------------


def spoil(folder, numbers):
    """Breaks images in three ways: no image at all, cut in half, empty."""
    ways = (lambda data: b"not an image", lambda data: data[: len(data) // 2], lambda data: b"")
    for i, number in enumerate(numbers):
        path = next(folder.rglob(f"{number:05}.png"))
        path.write_bytes(ways[i % 3](path.read_bytes()))


def test_corrupt_images_are_left_out(tmp_path):
    end = write_classes(tmp_path / "train", {"a": 100, "b": 100})
    end = write_classes(tmp_path / "val", {"a": 30, "b": 30}, end)
    write_classes(tmp_path / "test", {"a": 20, "b": 20}, end)
    spoil(tmp_path, [17, 299])
    before = load(tmp_path)  # 2 of 300
    spoil(tmp_path, [130])
    loaded = load(tmp_path)  # 3 of 300: exactly 1%
    assert (before.skipped, loaded.skipped) == (2, 3)
    left = [number for number in range(200) if number not in (17, 130)]
    assert number_of(loaded.train.images) == left
    assert loaded.train.labels.tolist() == [int(number >= 100) for number in left]
    assert number_of(loaded.test.images) == list(range(260, 299))
    assert loaded.train.images.is_contiguous()
    assert loaded.digest != before.digest


def test_too_many_corrupt_images(tmp_path):
    end = write_classes(tmp_path / "train", {"a": 60, "b": 60})
    write_classes(tmp_path / "test", {"a": 40, "b": 39}, end)
    spoil(tmp_path, [65, 64])
    with pytest.raises(ValueError, match=r"2 of the first \d+ .* at most 1% of all 199 .*00064"):
        load(tmp_path)


def test_corrupt_parquet_rows(tmp_path):
    good = [0, 1] * 50
    write_parquet(tmp_path / "train.parquet", [*good[:70], "bad", *good[71:]])
    write_parquet(tmp_path / "test.parquet", [0, 1], start=200)
    loaded = load(tmp_path)
    assert loaded.skipped == 1
    seen = number_of(loaded.train.images) + number_of(loaded.validation.images)
    assert sorted(seen) == [number for number in range(100) if number != 70]
    write_parquet(tmp_path / "train.parquet", [*good[:70], "bad", "bad", *good[72:]])
    with pytest.raises(ValueError, match=r"row 7[01] of train\.parquet \(not an image"):
        load(tmp_path)


def test_other_formats_are_not_opened(tmp_path):
    """Pillow opens EPS by running Ghostscript, whatever the file is called."""
    write_classes(tmp_path, {"a": 3, "b": 3})
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a" / "00000.png", "EPS")
    with pytest.raises(ValueError, match=r"00000\.png \(not an image of a known format\)"):
        load(tmp_path)


# --- mistakes ----------------------------------------------------------------------------------


def _missing(root):
    return "cifar11"


def _other_file(root):
    (root / "a.zip").write_bytes(b"x")
    return root / "a.zip"


def _no_images(root):
    (root / "a").mkdir()
    return root


def _one_class(root):
    write_classes(root, {"a": 3})
    return root


def _unknown_class(root):
    write_classes(root / "train", {"a": 3, "b": 3})
    write_classes(root / "test", {"c": 1, "a": 1})
    return root


def _no_train(root):
    write_classes(root / "val", {"a": 3, "b": 3})
    return root


def _two_validations(root):
    for name in ("train", "val", "valid"):
        write_classes(root / name, {"a": 3, "b": 3})
    return root


def _heap(root):
    write_classes(root / "train", {"a": 3, "b": 3})
    write_classes(root, {"val": 3})
    return root


def _single_images(root):
    write_classes(root, {"a": 1, "b": 1})
    return root


def _broken_parquet(root):
    write_parquet(root / "train.parquet", [0, 1] * 5)
    whole = (root / "train.parquet").read_bytes()
    (root / "train.parquet").write_bytes(whole[: len(whole) // 2])
    return root


def _broken_pages(root):
    """The file's directory is whole, the pages of its images are not."""
    write_parquet(root / "train.parquet", [0, 1] * 500, group=1000)
    whole = bytearray((root / "train.parquet").read_bytes())
    whole[4 : len(whole) // 3] = bytes(len(whole) // 3 - 4)
    (root / "train.parquet").write_bytes(whole)
    return root


def _missing_shard(root):
    write_parquet(root / "train-00000-of-00003.parquet", [0, 1] * 5)
    write_parquet(root / "train-00002-of-00003.parquet", [0, 1] * 5)
    return root


def _unlabelled_train(root):
    write_parquet(root / "train.parquet", [-1] * 4)
    return root


def _negative_label(root):
    write_parquet(root / "train.parquet", [0, 1, 1, -1, None])
    return root


def _one_label(root):
    write_parquet(root / "train.parquet", [4] * 4)
    return root


def _unknown_label(root):
    write_parquet(root / "train.parquet", [0, 1] * 4)
    write_parquet(root / "test.parquet", [0, 5])
    return root


def _label_beyond_names(root):
    write_parquet(root / "train.parquet", [0, 1, 2] * 4, names=["a", "b"])
    return root


def _other_names(root):
    write_parquet(root / "train.parquet", [0, 1] * 4, names=["a", "b"])
    write_parquet(root / "test.parquet", [0, 1] * 4, names=["b", "a"])
    return root


def _no_image_column(root):
    write_parquet(root / "train.parquet", [0, 1] * 4, image="photo")
    return root


def _text_images(root):
    table = pa.table({"image": ["a.png", "b.png"], "label": [0, 1]})
    pq.write_table(table, root / "train.parquet")
    return root


def _text_labels(root):
    table = pa.table({"image": [b"", b""], "label": ["cat", "dog"]})
    pq.write_table(table, root / "train.parquet")
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, r"'cifar11'.*built in: digits.*path.*cifar10, .*owner/name"),
        (_other_file, r"a\.zip is a file.*\.parquet"),
        (_no_images, r"no images in class folders; expected .*\.jpg.*train\*\.parquet"),
        (_one_class, r"one class only, 'a'"),
        (_unknown_class, r"test has 1 classes without training images, first 'c'"),
        (_no_train, r"class folders in val/ but none in train/"),
        (_two_validations, r"val/ and valid/"),
        (_heap, r"val has images but no class folders"),
        (_single_images, r"no class has two training images"),
        (_broken_parquet, r"train\.parquet is not a readable parquet file"),
        (_broken_pages, r"train\.parquet is not a readable parquet file"),
        (_missing_shard, r"2 of the 3 shards train-\*-of-00003"),
        (_unlabelled_train, r"no labelled images.*label, fine_label or labels"),
        (_negative_label, r"2 of 5 train rows .*row 3 of train\.parquet"),
        (_one_label, r"all training labels are 4; at least two"),
        (_unknown_label, r"test split has 1 classes without training images, first label 5"),
        (_label_beyond_names, r"label 2 is beyond the 2 class names"),
        (_other_names, r"name different classes"),
        (_no_image_column, r"columns photo, label; one of image, img"),
        (_text_images, r"'image' holds string, but must hold encoded images"),
        (_text_labels, r"'label' holds string, but must hold whole numbers"),
    ],
)
def test_mistakes_are_named(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(make(tmp_path))
    assert "\n" not in str(caught.value)


# --- memory, progress, statistics, digest ------------------------------------------------------


def test_memory_is_checked_and_the_advice_fits(uneven, monkeypatch):
    """153 images at resolution 20 are 183,600 bytes; half of 200,000 may be used."""
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 200_000)
    advice = r"at resolution 20 .*resolution of at most 14 or a limit of at most 53 training"
    with pytest.raises(ValueError, match=advice):
        load(uneven, resolution=20)
    assert sum(map(len, splits_of(load(uneven, resolution=14)))) == 153
    fitting = load(uneven, resolution=20, limit=53)
    assert sum(split.images.numel() for split in splits_of(fitting)) <= 100_000
    for settings in ({"resolution": 15}, {"resolution": 20, "limit": 55}):
        with pytest.raises(ValueError, match="half of the free memory"):
            load(uneven, **settings)


def test_memory_advice_leaves_out_what_cannot_help(uneven, monkeypatch):
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 1000)
    with pytest.raises(ValueError, match=r"resolution of at most 1$"):
        load(uneven)
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 10)
    with pytest.raises(ValueError, match="use a machine with more memory"):
        load(uneven)


def test_available_memory_is_plausible():
    available = available_memory_bytes()
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available <= installed


@pytest.mark.parametrize(("bound", "left"), [("1000", 600), ("300", 1), ("max", None)])
def test_container_bounds_the_memory(tmp_path, bound, left):
    (tmp_path / "memory.max").write_text(f"{bound}\n")
    (tmp_path / "memory.stat").write_text("anon 400\nfile 500\n")
    assert data_module._container_memory_bytes(tmp_path) == left


def test_progress_counts_all_images(uneven):
    calls = []
    load(uneven, progress=lambda done, total: calls.append((done, total)))
    assert [total for _, total in calls] == [153] * len(calls)
    done = [done for done, _ in calls]
    assert done == sorted(set(done))
    assert done[-1] == 153
    assert len(done) > 3


def test_statistics_are_those_of_the_training_images(digits, uneven):
    for loaded in (digits, load(uneven)):
        pixels = loaded.train.images.numpy().astype(np.float64) / 255
        assert loaded.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
        floor = np.maximum(pixels.std((0, 2, 3)), 1 / 255)
        assert loaded.std == pytest.approx(floor, abs=1e-9)
    assert loaded.std[2] == pytest.approx(1 / 255), "the third channel never changes"


def test_digest_notices_every_change(tmp_path):
    def digest(labels=(0, 1) * 10, names=("a", "b"), resolution=SIDE, start=0):
        write_parquet(tmp_path / "train.parquet", labels, names=list(names), start=start)
        return load(tmp_path, resolution=resolution).digest

    changed = [
        digest(),
        digest(labels=(1, 0) * 10),
        digest(names=("a", "c")),
        digest(resolution=SIDE + 1),
        digest(start=1),
    ]
    assert len(set(changed)) == len(changed)
    assert digest() == changed[0]
