"""Streamed images against what was written: every image has a colour of its own, which says its
number, and a label that follows from it."""

import io
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evaluator import data as data_module
from evaluator import data_stream
from evaluator.data import Split, _listing, load_data
from evaluator.data_decode import attempt, pixels
from evaluator.data_rows import Rows
from evaluator.data_stream import Crop, StreamedImages, StreamedSplit, epoch_order, sample_rows

HOME = Path(data_module.__file__).parents[1]
SIDE, CLASSES = 4, 5


def colour(number):
    return (number // 256, number % 256, 77)


def numbers_of(images):
    assert images.dtype == torch.uint8
    assert (images == images[:, :, :1, :1]).all()
    assert (images[:, 2] == 77).all()
    return (256 * images[:, 0, 0, 0].int() + images[:, 1, 0, 0].int()).tolist()


def encoded(number):
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE + number % 3, SIDE + 1), colour(number)).save(buffer, "PNG")
    return buffer.getvalue()


class Pictures:
    """Rows in memory that count how often each is read; `bad` ones are broken."""

    def __init__(self, count, bad=(), block=None):
        self.encoded = [b"broken" if i in bad else encoded(i) for i in range(count)]
        self.read = np.zeros(count, dtype=int)
        blocks = None if block is None else np.arange(count) // block
        self.rows = Rows(np.arange(count) % CLASSES, self.pictures, self.describe, blocks)

    def pictures(self, rows):
        assert (np.diff(rows) > 0).all()
        for row in rows:
            self.read[row] += 1
            yield self.encoded[row]

    def describe(self, row):
        return f"picture {row}"


def stream(rows, batch_size=6, seed=3, workers=0, **settings):
    return StreamedImages(rows, SIDE, batch_size=batch_size, seed=seed, workers=workers, **settings)


def seen(images, steps):
    """The numbers in each batch, which also must carry their labels."""
    found = []
    for step in steps:
        pictures, labels = images.batch(step)
        assert labels.dtype == torch.int64
        found.append(numbers_of(pictures))
        assert labels.tolist() == [number % CLASSES for number in found[-1]]
    return found


def flat(lists):
    return [number for part in lists for number in part]


def digits():
    return load_data("digits", resolution=8, stream=True).train


def noise(seed, height, width):
    """Smooth noise, which JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# --- order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [None, 7])
def test_an_epoch_is_a_permutation(block):
    rows = Pictures(60, block=block).rows
    with stream(rows) as images:
        assert (len(images), images.steps_per_epoch) == (60, 10)
        epochs = [flat(seen(images, range(10 * i, 10 * i + 10))) for i in range(3)]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    with stream(rows, seed=4) as images:
        assert flat(seen(images, range(10))) not in epochs


def test_what_fills_no_batch_is_left_out_of_that_epoch_only():
    with stream(Pictures(20).rows, batch_size=8) as images:
        assert images.steps_per_epoch == 2
        left = set()
        for epoch in range(12):
            numbers = flat(seen(images, (2 * epoch, 2 * epoch + 1)))
            assert len(set(numbers)) == 16
            left |= set(range(20)) - set(numbers)
    assert len(left) > 10


@pytest.mark.parametrize(("block", "count"), [(50, 100), (1000, 9), (10, 300)])
def test_windows_of_blocks(block, count):
    """Blocks come in shuffled windows: of about 2,048 images, of 4 blocks at least."""
    blocks = np.repeat(np.arange(count), block)
    rows = Rows(np.zeros(len(blocks), np.int64), lambda wanted: iter(()), str, blocks)
    order = epoch_order(rows, 0, 0)
    assert sorted(order) == list(range(len(blocks)))
    window = min(max(math.ceil(2048 / block), 4), 64)
    parts = [order[i : i + window * block] for i in range(0, len(order), window * block)]
    in_window = [np.unique(part // block) for part in parts]
    assert [len(found) for found in in_window[:-1]] == [window] * (len(parts) - 1)
    assert sum(map(len, in_window)) == count
    assert all((np.diff(found) > 1).any() for found in in_window[:-1]), "blocks must be shuffled"
    adjacent = (np.diff(order) == 1).mean()
    assert adjacent < 0.01, "images must be shuffled within a window"
    assert not np.array_equal(order, epoch_order(rows, 0, 1))


def test_blocks_are_read_once_per_window_and_a_batch_reads_few():
    pictures = Pictures(1200, block=10)
    with stream(pictures.rows, batch_size=40) as images:
        images.batch(0)
        assert 0 < pictures.read.sum() <= 40 * 10
        seen(images, range(1, 30))
    # There are two windows, of 64 and 56 blocks.
    assert pictures.read.max() == 1


def test_a_far_step_reads_its_own_images_only():
    pictures = Pictures(600)
    with stream(pictures.rows) as images:
        images.batch(10**6)
    assert pictures.read.sum() == 6


# --- the same whoever works ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_or_what_was_asked_before(workers):
    rows = Pictures(40, block=3).rows
    crop = Crop(scale=(0.5, 1))
    with stream(rows, crop=crop) as images:
        truth = seen(images, range(20))
    for steps in (range(12), range(7, 15), [4, 4, 9, 10, 11, 0, 12, 3]):
        with stream(rows, workers=workers, crop=crop) as images:
            assert seen(images, steps) == [truth[step] for step in steps]


def test_crops_do_not_depend_on_workers_either():
    split = digits()
    with split.batches(batch_size=30, seed=1, workers=0) as alone:
        truth = [alone.batch(step) for step in range(5)]
    with split.batches(batch_size=30, seed=1, workers=2) as images:
        for step, (pictures, labels) in enumerate(truth):
            found = images.batch(step)
            assert torch.equal(found[0], pictures)
            assert torch.equal(found[1], labels)
    other = split.batches(batch_size=30, seed=1, workers=0, crop=None).batch(0)
    assert torch.equal(other[1], truth[0][1]), "the order is the same without a crop"
    assert not torch.equal(other[0], truth[0][0])


@pytest.mark.slow
def test_workers_may_be_spawned():
    split = digits()
    with split.batches(batch_size=30, seed=1, workers=0) as alone:
        truth = alone.batch(2)
    settings = {"batch_size": 30, "seed": 1, "workers": 1, "start_method": "spawn"}
    with split.batches(**settings) as images:
        assert torch.equal(images.batch(2)[0], truth[0])


def test_a_step_out_of_order_leaves_the_workers_where_they_are():
    with stream(Pictures(40).rows, workers=1) as images:
        seen(images, range(2))
        before = multiprocessing.active_children()
        seen(images, [17, 2, 3, 30, 4])
        assert multiprocessing.active_children() == before
        seen(images, [30, 31])
        assert not set(multiprocessing.active_children()) & set(before)


@pytest.mark.parametrize("ranks", [2, 3, 6])
@pytest.mark.parametrize("block", [None, 4])
def test_ranks_share_a_batch(ranks, block):
    rows = Pictures(200, block=block, bad=[17]).rows
    with stream(rows, batch_size=12) as whole:
        truth = seen(whole, range(20))
    for rank in range(ranks):
        with stream(rows, batch_size=12, rank=rank, ranks=ranks) as images:
            assert seen(images, range(20)) == [numbers[rank::ranks] for numbers in truth]


def test_global_generators_stay_as_they_are():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with stream(Pictures(40).rows, workers=1) as images:
        seen(images, range(3))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_sources_can_be_pickled(tmp_path):
    for source in ("digits", folder(tmp_path / "f", 20), shards(tmp_path / "p", 20)):
        rows = _listing(source).train
        part = rows.take(np.arange(1, 10, 2))
        copy = pickle.loads(pickle.dumps(part))
        pairs = zip(part.pictures(np.array([0, 2])), copy.pictures(np.array([0, 2])), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        assert copy.describe(3) == part.describe(3) == rows.describe(7)


# --- corrupt images ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block", [None, 9])
def test_a_corrupt_image_is_replaced_by_the_next_of_the_epoch(workers, block):
    rows = Pictures(300, bad=[13, 130, 131], block=block).rows
    with stream(rows, workers=workers, crop=None) as images:
        found = flat(seen(images, range(100)))
        skipped = images.skipped
    expected = []
    for epoch in range(2):
        order = epoch_order(rows, 3, epoch).tolist()
        for place in range(300):
            while order[place % 300] in (13, 130, 131):
                place += 1
            expected.append(order[place % 300])
    assert found == expected
    assert skipped == 3, "each counts once, whatever the epochs"


def test_too_many_corrupt_images():
    rows = Pictures(300, bad=[13, 130, 131, 299]).rows
    for workers in (0, 1):
        with (
            stream(rows, workers=workers) as images,
            pytest.raises(
                ValueError, match=r"4 training images .*1% of all 300 .*picture 13 \(not"
            ),
        ):
            seen(images, range(50))
    with (
        stream(Pictures(50, bad=range(50)).rows, batch_size=50) as images,
        pytest.raises(ValueError, match="50 training images cannot be decoded"),
    ):
        images.batch(0)


def test_a_broken_file_is_one_line(tmp_path):
    home = shards(tmp_path, 400, group=1000)
    whole = bytearray((home / "train.parquet").read_bytes())
    whole[4 : len(whole) // 3] = bytes(len(whole) // 3 - 4)
    (home / "train.parquet").write_bytes(whole)
    rows = _listing(home).train
    for workers in (0, 1):
        with (
            stream(rows, workers=workers) as images,
            pytest.raises(ValueError, match=r"train\.parquet is not a readable") as caught,
        ):
            seen(images, range(60))
        assert "\n" not in str(caught.value)


def test_an_image_that_vanishes_is_a_corrupt_one(tmp_path):
    rows = _listing(folder(tmp_path, 120)).train
    Path(next(rows.pictures(np.array([7])))).unlink()
    with stream(rows, workers=1) as images:
        seen(images, range(images.steps_per_epoch))
        assert images.skipped == 1


# --- pixels --------------------------------------------------------------------------------------


def test_without_a_crop_pixels_are_those_of_resident_data(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            noise(i, 30 + i, 40).save(tmp_path / name / f"{i}.jpg", quality=95)
    resident = load_data(tmp_path, resolution=12, stream=False).train
    split = load_data(tmp_path, resolution=12, stream=True).train
    order = epoch_order(split.rows, 5, 0)
    with split.batches(batch_size=len(split), seed=5, crop=None, workers=1) as images:
        pictures, labels = images.batch(0)
    assert torch.equal(pictures, resident.images[order])
    assert torch.equal(labels, resident.labels[order])
    assert torch.equal(split.first(3), resident.first(3))
    assert torch.equal(split.sample(6), resident.sample(6))


def triangle(pixels_, start, stop, count):
    """Bilinear resampling with antialiasing along the first axis: each output is the mean of the
    input, weighted by a triangle as wide as an output pixel (or an input one) on each side."""
    scale = (stop - start) / count
    width = max(scale, 1)
    places = np.arange(len(pixels_)) + 0.5
    centres = start + (np.arange(count) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(places - centres[:, None]) / width)
    return np.tensordot(weights / weights.sum(1, keepdims=True), pixels_, 1)


@pytest.mark.parametrize(
    "box", [(3, 5, 40, 29), (0, 0, 50, 40), (10, 10, 14, 16), (49, 39, 50, 40)]
)
def test_a_region_is_resampled_bilinearly(box):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    found = pixels(buffer.getvalue(), 12, lambda width, height: box)
    left, top, right, bottom = box
    rows = triangle(picture.astype(float), top, bottom, 12)
    expected = triangle(rows.transpose(1, 0, 2), left, right, 12).transpose(2, 1, 0)
    assert np.abs(found - expected).max() <= 1.01  # Pillow rounds after each direction


@pytest.mark.parametrize("box", [(0, 0, 333, 277), (20, 31, 320, 270), (100, 100, 150, 149)])
def test_a_draft_shows_the_same_region(box):
    """Levels rise evenly across, down and along the diagonal, so they say where a pixel lies,
    whatever symmetric filter it went through."""
    x, y = np.meshgrid((np.arange(333) + 0.5) / 333, (np.arange(277) + 0.5) / 277)
    buffer = io.BytesIO()
    picture = Image.fromarray((255 * np.stack((x, y, (x + y) / 2), 2)).round().astype(np.uint8))
    picture.save(buffer, "JPEG", quality=100, subsampling=0)
    found = pixels(buffer.getvalue(), 24, lambda width, height: box)
    left, top, right, bottom = box
    places = (np.arange(24) + 0.5) / 24
    x, y = np.meshgrid(
        (left + places * (right - left)) / 333, (top + places * (bottom - top)) / 277
    )
    expected = 255 * np.stack((x, y, (x + y) / 2))
    inner = slice(1, -1)  # at the picture's edge there is nothing on the other side to average with
    assert np.abs(found - expected)[:, inner, inner].max() < 2.5  # 2.5 levels are 3 pixels


def test_a_draft_decodes_fewer_pixels(monkeypatch):
    buffer, sizes = io.BytesIO(), []
    noise(1, 400, 400).save(buffer, "JPEG")
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *a: sizes.append(self.size) or resize(self, *a)
    )
    for side in (400, 200, 99, 49):
        pixels(buffer.getvalue(), 50, lambda w, h, side=side: (0, 0, side, side))
    assert sizes == [(50, 50), (100, 100), (400, 400), (400, 400)]


@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 600), (64, 64)])
def test_crops_have_the_area_and_ratio_asked_for(width, height):
    """Area uniform in 8% to 100%, ratio uniform in its logarithm, places uniform: where a crop of
    10% to 20% always fits, nothing is rejected."""
    rng = np.random.default_rng(0)
    crop = Crop(scale=(0.1, 0.2))
    boxes = np.array([crop.box(width, height, rng) for _ in range(4000)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    areas, ratios = across * down / (width * height), np.log(across / down)
    slack = 1.2 / min(across.min(), down.min())  # whole pixels
    assert areas.min() > 0.1 * (1 - slack)
    assert areas.max() < 0.2 * (1 + slack)
    assert np.abs(ratios).max() < math.log(4 / 3) + slack
    assert areas.mean() == pytest.approx(0.15, abs=0.002)
    assert areas.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.05)
    assert ratios.std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.05)
    places = boxes[:, 0] / (width - across)
    assert places.mean() == pytest.approx(0.5, abs=0.02)
    assert np.quantile(places, [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.04)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 10), (494, 0, 507, 10)),
        ((10, 1000), (0, 494, 10, 507)),
        ((1, 1), (0, 0, 1, 1)),
        ((100, 1), (49, 0, 50, 1)),
    ],
)
def test_where_no_crop_fits_it_is_the_centre(size, expected):
    box = Crop(scale=(1, 1)).box(*size, np.random.default_rng(0))
    assert np.abs(np.subtract(box, expected)).max() <= 1
    assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(
        (expected[2] - expected[0], expected[3] - expected[1])
    )


def test_each_image_has_a_crop_of_its_own_each_epoch():
    picture = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
    rows = Rows(np.zeros(8, np.int64), lambda wanted: (picture for _ in wanted), str)
    with StreamedImages(rows, 8, batch_size=8, seed=0, workers=0) as images:
        found = [image.numpy().tobytes() for step in range(3) for image in images.batch(step)[0]]
    assert len(set(found)) == 24


def test_attempt_says_why():
    assert "not an image" in attempt(b"x", 4)
    assert isinstance(attempt(encoded(3), 4, lambda w, h: (0, 0, w, h)), np.ndarray)


# --- mistakes and ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"batch_size is 0.*from 1 to 40 \(there are 40 images\)"),
        ({"batch_size": 41}, r"batch_size is 41.*from 1 to 40"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"ranks": 4}, r"batch_size is 6, but must be a multiple of ranks \(4\)"),
        ({"rank": 2, "ranks": 2}, r"rank is 2.*from 0 to 1 \(of 2 ranks\)"),
        ({"start_method": "thread"}, "start_method is 'thread', but must be one of .*spawn"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        stream(Pictures(40).rows, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0, 1)}, r"scale is \(0, 1\).*0 < low <= high <= 1"),
        ({"scale": (0.5, 1.5)}, "scale is"),
        ({"scale": (0.9, 0.1)}, "scale is"),
        ({"ratio": (-1, 1)}, r"ratio is \(-1, 1\).*0 < low <= high must"),
        ({"ratio": (1, math.inf)}, "ratio is"),
        ({"ratio": (math.nan, 2)}, "ratio is"),
    ],
)
def test_impossible_crops(settings, message):
    with pytest.raises(ValueError, match=message):
        Crop(**settings)


@pytest.mark.parametrize("step", [-1, 1.5, True])
def test_impossible_steps(step):
    with (
        stream(Pictures(40).rows) as images,
        pytest.raises(ValueError, match=r"step is .*at least 0"),
    ):
        images.batch(step)


def test_closing_ends_the_workers():
    images = stream(Pictures(40).rows, workers=2)
    images.batch(0)
    assert len(multiprocessing.active_children()) == 2
    images.close()
    assert not multiprocessing.active_children()
    images.close()
    with pytest.raises(ValueError, match="closed"):
        images.batch(1)


def test_an_exception_in_batch_ends_the_workers(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with stream(Pictures(40).rows, workers=1) as images:
        truth = seen(images, range(3))
        with monkeypatch.context() as patched:
            patched.setattr(type(images._ahead), "__next__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                images.batch(3)
        assert not multiprocessing.active_children()
        assert seen(images, range(3)) == truth, "they start again where they are needed"


PROGRAM = """
import multiprocessing, time
from evaluator.data import load_data
images = load_data("digits", resolution=8, stream=True).train.batches(
    batch_size=8, seed=0, workers=2)
images.batch(0)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
step = 0
while True:
    step += 1
    images.batch(step)
"""


def gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # ended; it waits for whoever adopted it


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_no_worker_outlives_the_process(how):
    """Ctrl-C reaches the whole group, SIGKILL the parent alone."""
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=HOME,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    (os.killpg if how == signal.SIGINT else os.kill)(run.pid, how)
    if how == signal.SIGINT:
        error = run.communicate(timeout=60)[1]
        assert error.count("KeyboardInterrupt") == 1, "the workers keep quiet"
    run.wait(60)
    end = time.monotonic() + 60
    while not all(map(gone, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(map(gone, workers))


# --- load_data -----------------------------------------------------------------------------------


def folder(home, count, start=0):
    """`count` images in class folders c0 to c4."""
    for number in range(start, start + count):
        place = home / f"c{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05}.png").write_bytes(encoded(number))
    return home


def shards(home, count, start=0, split="train", group=10):
    home.mkdir(parents=True, exist_ok=True)
    numbers = range(start, start + count)
    table = pa.table(
        {"image": [encoded(n) for n in numbers], "label": [n % CLASSES for n in numbers]}
    )
    pq.write_table(table, home / f"{split}.parquet", row_group_size=group)
    return home


@pytest.mark.parametrize("write", [folder, shards])
@pytest.mark.parametrize("limit", [None, 60])
def test_streamed_data_are_the_resident_data(tmp_path, write, limit):
    home = write(tmp_path, 300)
    resident = load_data(home, resolution=SIDE, limit=limit, seed=2, stream=False)
    loaded = load_data(home, resolution=SIDE, limit=limit, seed=2, stream=True)
    assert (resident.streamed, loaded.streamed) == (False, True)
    assert isinstance(loaded.train, StreamedSplit)
    assert len(loaded.train) == len(resident.train)
    assert loaded.train.resolution == loaded.resolution == SIDE
    assert torch.equal(loaded.train.labels, resident.train.labels)
    assert torch.equal(loaded.train.first(10**6), resident.train.images)
    assert torch.equal(loaded.validation.images, resident.validation.images)
    # The sample is all of so few images.
    assert (loaded.mean, loaded.std) == (resident.mean, resident.std)
    assert loaded.digest != resident.digest
    with loaded.train.batches(batch_size=len(loaded.train), seed=0, workers=0) as images:
        assert sorted(flat(seen(images, [0]))) == sorted(numbers_of(resident.train.images))
        assert torch.equal(images.plain(5), resident.train.images[:5])


def test_what_does_not_fit_is_streamed(tmp_path, monkeypatch):
    """150 training images do not fit into 50 images' memory; 20 held-out ones and a sample do."""
    home = tmp_path
    folder(home / "train", 150)
    folder(home / "val", 10, start=150)
    folder(home / "test", 10, start=160)
    monkeypatch.setattr(data_module, "STREAMED_SAMPLE", 20)
    image = 3 * SIDE**2
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 2 * 170 * image)
    assert isinstance(load_data(home, resolution=SIDE).train, Split)
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 2 * 169 * image)
    assert isinstance(load_data(home, resolution=SIDE).train, StreamedSplit)
    assert isinstance(load_data(home, resolution=SIDE, limit=100).train, Split)
    with pytest.raises(ValueError, match="170 images at resolution"):
        load_data(home, resolution=SIDE, stream=False)
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 2 * 40 * image)
    assert load_data(home, resolution=SIDE).streamed
    monkeypatch.setattr(data_module, "available_memory_bytes", lambda: 2 * 39 * image)
    with pytest.raises(ValueError, match=r"40 images at resolution 4 .*resolution of at most 3"):
        load_data(home, resolution=SIDE)


def test_test_images_are_limited_where_streamed(tmp_path, monkeypatch):
    folder(tmp_path / "train", 50)
    folder(tmp_path / "val", 10, start=50)
    folder(tmp_path / "test", 100, start=60)
    monkeypatch.setattr(data_module, "STREAMED_TEST_MOST", 20)
    loaded = load_data(tmp_path, resolution=SIDE, stream=True)
    assert loaded.test.labels.bincount().tolist() == [4] * 5
    assert set(numbers_of(loaded.test.images)) <= set(range(60, 160))
    assert len(loaded.validation) == 10
    assert len(load_data(tmp_path, resolution=SIDE, stream=False).test) == 100


def test_streamed_digest_notices_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "STREAMED_SAMPLE", 60)

    def digest(at=None, name="c0", **settings):
        home = folder(tmp_path / str(len(list(tmp_path.iterdir()))) / "x" / "train", 100)
        folder(home.parent / "val", 10, start=100)
        folder(home.parent / "test", 10, start=110)
        if at is not None:
            next(home.parent.rglob(f"{at:05}.png")).write_bytes(encoded(500))
        for split in ("train", "val", "test"):
            (home.parent / split / "c0").rename(home.parent / split / name)
        if "moved" in settings:
            path = next(home.rglob(f"{settings['moved']:05}.png"))
            path.rename(home / "c4" / path.name)
        return load_data(home.parent, resolution=SIDE, stream=True).digest

    assert digest() == digest()
    rows = _listing(folder(tmp_path / "z" / "train", 100)).train
    chosen = rows.take(sample_rows(rows, 60))
    sampled = int(Path(next(chosen.pictures(np.array([0])))).stem)
    changed = [digest(), digest(name="b0"), digest(sampled), digest(105), digest(115)]
    changed.append(digest(moved=90))
    assert len(set(changed)) == len(changed)


def test_streamed_data_count_corrupt_images(tmp_path):
    folder(tmp_path / "train", 400)
    folder(tmp_path / "val", 100, start=400)
    folder(tmp_path / "test", 100, start=500)
    for number in (7, 420, 520):
        next(tmp_path.rglob(f"{number:05}.png")).write_bytes(b"")
    loaded = load_data(tmp_path, resolution=SIDE, stream=True)
    assert loaded.skipped == 3
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (400, 99, 99)
    assert len(loaded.train.first(1000)) == 399
    for number in (1, 2, 3, 4, 5):
        next(tmp_path.rglob(f"{number:05}.png")).write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be decoded"):
        load_data(tmp_path, resolution=SIDE, stream=True)


@pytest.mark.parametrize("block", [None, 20])
def test_a_sample_is_spread_and_reads_few_blocks(block):
    pictures = Pictures(4000, block=block)
    chosen = sample_rows(pictures.rows, 320)
    assert len(chosen) == len(set(chosen.tolist())) == 320
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, sample_rows(pictures.rows, 320))
    if block:
        assert len(np.unique(chosen // block)) == 32
    else:
        assert np.bincount(chosen % CLASSES).tolist() == [64] * CLASSES
    assert len(sample_rows(pictures.rows, 5000)) == 4000
    split = data_stream.StreamedSplit(pictures.rows, SIDE)
    assert numbers_of(split.sample(320)) == chosen.tolist()
