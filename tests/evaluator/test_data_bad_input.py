"""Bad and unusual input, given to resident and to streamed data alike."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluator.data import load_data
from evaluator.data_stream import Crop

SIDE = 8
FIRST, SECOND = (10, 20, 30), (200, 150, 100)  # colours of the left and the right half
KINDS = pytest.mark.parametrize("stream", [False, True], ids=["resident", "streamed"])


def halves(mode, colours):
    """A picture whose left and right halves differ, so that a crop shows."""
    picture = Image.new(mode, (SIDE, SIDE), colours[0])
    picture.paste(colours[1], (SIDE // 2, 0, SIDE, SIDE))
    return picture


def palette():
    return halves("RGB", (FIRST, SECOND)).quantize(4)


def png_bytes(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(*levels):
    return tuple((level,) * 3 for level in levels)


def cmyk(*levels):
    """RGB of CMYK without profiles: (255 - colour) (255 - black) / 255."""
    return tuple((255 - level) * (255 - levels[3]) // 255 for level in levels[:3])


RGB = (FIRST, SECOND)
INKS = ((40, 80, 120, 0), (10, 0, 200, 60))
DEEP = np.tile(np.repeat([0x8040, 0x10FF], SIDE // 2).astype(np.uint16), (SIDE, 1))
PICTURES = {  # name: encoded, colours of the halves
    "palette": (png_bytes(palette()), RGB),
    "palette, one transparent colour": (png_bytes(palette(), transparency=0), RGB),
    "palette, many transparent colours": (png_bytes(palette(), transparency=b"\0\x80"), RGB),
    "gif": (png_bytes(palette(), "GIF", transparency=0), RGB),
    "grey": (png_bytes(halves("L", (90, 7))), grey(90, 7)),
    "grey, a transparent level": (png_bytes(halves("L", (90, 7)), transparency=7), grey(90, 7)),
    "grey and alpha": (png_bytes(halves("LA", ((90, 0), (7, 200)))), grey(90, 7)),
    "rgba": (png_bytes(halves("RGBA", ((*FIRST, 0), (*SECOND, 128)))), RGB),
    "rgb, a transparent colour": (png_bytes(halves("RGB", RGB), transparency=FIRST), RGB),
    "cmyk": (png_bytes(halves("CMYK", INKS), "TIFF"), tuple(cmyk(*ink) for ink in INKS)),
    "cmyk jpeg": (
        png_bytes(halves("CMYK", INKS), "JPEG", quality=100, subsampling=0),
        tuple(cmyk(*ink) for ink in INKS),
    ),
    "1-bit": (png_bytes(halves("1", (0, 1))), grey(0, 255)),
    "16-bit png": (png_bytes(Image.fromarray(DEEP)), grey(0x80, 0x10)),
    "16-bit tiff": (png_bytes(Image.fromarray(DEEP), "TIFF"), grey(0x80, 0x10)),
}


def table(path, pictures, labels, names=None, group=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    found = pa.table({"image": pa.array(pictures, pa.binary()), "label": pa.array(labels)})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        found = found.replace_schema_metadata(metadata)
    pq.write_table(found, path, row_group_size=group)


def folders(root, pictures, suffix="png"):
    for i, picture in enumerate(pictures):
        place = root / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:04}.{suffix}").write_bytes(picture)
    return root


def batch_of(split, crop, **settings):
    """One batch of all images of a streamed split, made by a worker."""
    with split.batches(batch_size=len(split), seed=0, crop=crop, workers=1, **settings) as images:
        pictures, _ = images.batch(0)
        return pictures, images.skipped


def load(source, stream):
    return load_data(source, resolution=SIDE, stream=stream)


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_rgb(tmp_path, name):
    """Transparency is ignored, 16 bits are scaled, whichever way an image is read."""
    encoded, colours = PICTURES[name]
    folders(tmp_path, [encoded] * 6)
    tolerance = 3 if "jpeg" in name else 1 if "cmyk" in name else 0
    expected = np.repeat(np.array(colours).T[:, None], SIDE // 2, 2).repeat(SIDE, 1)
    resident, streamed = load(tmp_path, False), load(tmp_path, True)
    train = streamed.train
    found = [resident.train.images, resident.validation.images, train.first(9)]
    for crop in (None, Crop(scale=(1, 1), ratio=(1, 1))):
        pictures, skipped = batch_of(train, crop)
        found.append(pictures)
        assert resident.skipped == streamed.skipped == skipped == 0
    for images in found:
        assert np.abs(images.numpy().astype(int) - expected).max() <= tolerance
    cropped = batch_of(train, Crop(scale=(0.1, 0.3)))[0].numpy().astype(int)
    assert (cropped >= np.min(colours, 0)[:, None, None] - tolerance).all()
    assert (cropped <= np.max(colours, 0)[:, None, None] + tolerance).all()


@KINDS
def test_sizes_may_differ(tmp_path, stream):
    """From one pixel to a strip; each is of one colour, which every transform keeps."""
    sizes = [(1, 1), (3, 50), (50, 3), (8, 8), (7, 9), (200, 100), (1, 30), (640, 480)]
    made = [Image.new("RGB", size, (20 * i, 7, 3)) for i, size in enumerate(sizes)]
    folders(tmp_path, [png_bytes(picture) for picture in made for _ in range(2)])
    train = load(tmp_path, stream).train
    batches = [train.first(99)]
    if stream:
        batches += [batch_of(train, crop)[0] for crop in (None, Crop(), Crop(scale=(1, 1)))]
    for images in batches:
        assert images.shape == (len(train), 3, SIDE, SIDE)
        assert (images == images[:, :, :1, :1]).all()
        assert set((images[:, 0, 0, 0] // 20).tolist()) <= set(range(8))
        assert (images[:, 0] % 20 == 0).all()


@pytest.mark.parametrize(
    ("kind", "keep"),
    [
        *(("JPEG", 0), ("JPEG", 0.03), ("JPEG", 0.5), ("JPEG", 0.9), ("PNG", 0.9), ("GIF", 0.5)),
        *(("TIFF", 0.9), ("WEBP", 0.5), ("BMP", 0.9)),
    ],
)
def test_truncated_files_are_corrupt(tmp_path, kind, keep):
    """Where a file ends early nothing is made up for what is missing."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = png_bytes(Image.fromarray(noise), kind)
    part = whole[: int(keep * len(whole))]
    folders(tmp_path / "train", [part if i == 40 else whole for i in range(150)])
    folders(tmp_path / "val", [whole] * 4)
    folders(tmp_path / "test", [whole] * 4)
    assert load(tmp_path, False).skipped == 1
    streamed = load(tmp_path, True)
    assert streamed.skipped == 1
    for crop in (None, Crop()):
        assert batch_of(streamed.train, crop)[1] == 1
    assert len(streamed.train.first(150)) == 149


@KINDS
def test_bytes_that_are_missing_are_corrupt(tmp_path, stream):
    good = png_bytes(halves("RGB", RGB))
    pictures = [None if i == 7 else b"" if i == 90 else good for i in range(300)]
    table(tmp_path / "train.parquet", pictures, [0, 1] * 150)
    loaded = load(tmp_path, stream)
    assert loaded.skipped == 2
    if stream:
        train = loaded.train
        rows = [int(train.rows.describe(i).split()[1]) for i in range(len(train))]
        assert batch_of(train, Crop())[1] == len({7, 90} & set(rows))


@KINDS
def test_too_many_corrupt_images_are_an_error(tmp_path, stream):
    good = png_bytes(halves("RGB", RGB))
    folders(tmp_path, [b"x" if i % 20 == 0 else good for i in range(200)])
    with pytest.raises(
        ValueError, match=r"cannot be decoded; at most 1%.*\(not an image"
    ) as caught:
        load(tmp_path, stream)
    assert "\n" not in str(caught.value)


# --- folders and tables --------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("split", [".", "train", "val", "test"])
def test_an_empty_class_folder_is_named(tmp_path, stream, split):
    good = png_bytes(halves("RGB", RGB))
    for name in ("train", "val", "test") if split != "." else ["."]:
        folders(tmp_path / name, [good] * 10)
    (tmp_path / split / "rose").mkdir()
    (tmp_path / split / "rose" / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"1 class folders without images, first 'rose'; .*remove"):
        load(tmp_path, stream)
    (tmp_path / split / "rose").rename(tmp_path / split / ".rose")
    assert load(tmp_path, stream).classes == ("a", "b")


@KINDS
@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        ("train", [0, 1, 2], r"train\.parquet: label 2 is beyond the 2 class names"),
        ("train", [0, 1, -1], r"20 of 60 train rows have a negative or missing label, first row 2"),
        ("train", [0, 1, None], r"20 of 60 train rows have a negative or missing label"),
        (
            "val",
            [0, 1, 2],
            r"validation split has 1 classes without training images, first label 2",
        ),
        ("test", [0, 1, 7], r"test split has 1 classes without training images, first label 7"),
        (
            "test",
            [0, 1, -1],
            r"20 of 60 test rows have a negative or missing label, first row 2 of",
        ),
        ("val", [0, -7, 1], r"20 of 60 validation rows have a negative"),
    ],
)
def test_labels_out_of_range(tmp_path, stream, split, labels, message):
    good = png_bytes(halves("RGB", RGB))
    for name in ("train", "val", "test"):
        values = labels if name == split else [0, 1, 1]
        table(tmp_path / f"{name}.parquet", [good] * 60, values * 20, names=["a", "b"])
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, stream)
    assert "\n" not in str(caught.value)


def half_written(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def empty(path):
    path.write_bytes(b"")


def broken_pages(path):
    """The directory at the end is whole, the images are not."""
    whole = bytearray(path.read_bytes())
    whole[4 : len(whole) // 3] = bytes(len(whole) // 3 - 4)
    path.write_bytes(whole)


@KINDS
@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"has 2 of the 3 shards .*-00003\.parquet; download the rest"),
        (half_written, r"-00001-of-00003\.parquet is not a readable parquet file"),
        (empty, r"-00001-of-00003\.parquet is not a readable parquet file"),
        (broken_pages, r"-00001-of-00003\.parquet is not a readable parquet file"),
    ],
    ids=["missing", "half written", "empty", "broken pages"],
)
def test_shards_that_are_missing_or_broken(tmp_path, stream, split, spoil, message):
    good = png_bytes(halves("RGB", RGB))
    for name in ("train", "validation", "test"):
        for shard in range(3):
            path = tmp_path / f"{name}-{shard:05}-of-00003.parquet"
            table(path, [good] * 200, [0, 1] * 100, group=200)
    spoil(tmp_path / f"{split}-00001-of-00003.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, stream)
    assert "\n" not in str(caught.value)


def test_a_shard_that_breaks_after_loading_is_named(tmp_path):
    good = png_bytes(halves("RGB", RGB))
    for shard in range(3):
        path = tmp_path / f"train-{shard:05}-of-00003.parquet"
        table(path, [good] * 200, [0, 1] * 100, group=200)
    streamed = load(tmp_path, True)
    half_written(tmp_path / "train-00002-of-00003.parquet")
    with streamed.train.batches(batch_size=len(streamed.train), seed=0, workers=1) as images:
        with pytest.raises(ValueError, match=r"00002-of-00003\.parquet is not a") as caught:
            images.batch(0)
        assert "\n" not in str(caught.value)
