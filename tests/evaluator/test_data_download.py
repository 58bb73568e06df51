"""Data sets by name, with a module in the place of `datasets` that behaves as it does: a builder
whose `download_and_prepare` writes <name>-<split>-00000-of-00002.parquet into a folder that it
renames at the end, and errors of its names."""

import io
import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluator import data_download
from evaluator.data import data_classes, load_data

NAMES = ["cat", "dog", "emu"]
SPLITS = {"train": 30, "validation": 6, "test": 9}


class ClassLabel:
    def __init__(self, names):
        self.names = names


class DatasetNotFoundError(FileNotFoundError):
    pass


class Builder:
    """The part of datasets.DatasetBuilder that is used."""

    def __init__(self, hub, repository):
        self.hub, self.dataset_name = hub, repository.partition("/")[2]
        self.info = types.SimpleNamespace(
            features={"image": object(), "label": ClassLabel(NAMES)}, splits=hub.described
        )

    def download_and_prepare(self, output_dir, file_format="arrow"):
        self.hub.downloads += 1
        home = Path(output_dir)
        self.info.splits = dict.fromkeys(self.hub.splits)
        if home.exists():
            return
        assert file_format == "parquet"
        unfinished = Path(f"{output_dir}.incomplete")
        unfinished.mkdir(parents=True)
        for split, count in self.hub.splits.items():
            for shard in range(self.hub.shards):
                number = f"-{shard:05}-of-{self.hub.shards:05}" if self.hub.shards > 1 else ""
                path = unfinished / f"{self.dataset_name}-{split}{number}.parquet"
                write(path, count // self.hub.shards, unlabelled=split == self.hub.unlabelled)
        (unfinished / "dataset_info.json").write_text("{}")
        if self.hub.fails:
            raise self.hub.fails
        unfinished.rename(home)


class Hub(types.ModuleType):
    """`datasets`, as far as it is used."""

    def __init__(self):
        super().__init__("datasets")
        self.splits, self.shards, self.unlabelled = SPLITS, 1, None
        self.described, self.refuses, self.fails = SPLITS, None, None
        self.asked, self.downloads = [], 0

    def load_dataset_builder(self, path):
        self.asked.append(path)
        if self.refuses:
            raise self.refuses
        return Builder(self, path)


def write(path, count, unlabelled=False):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(buffer, "PNG")
    label = [-1 if unlabelled else i % len(NAMES) for i in range(count)]
    image = [{"bytes": buffer.getvalue(), "path": None}] * count
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    table = pa.table({"image": image, "label": label})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and an empty working directory."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch):
    made = Hub()
    monkeypatch.setitem(sys.modules, "datasets", made)
    return made


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what makes an import fail


def load(name):
    return load_data(name, resolution=4)


def refusal(name):
    """The message with which `name` is refused, which must be one line."""
    with pytest.raises(ValueError, match="Hugging Face Hub") as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert "folder of class folders or of parquet files" in message
    assert "`digits`" in message
    return message


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("cifar10", "uoft-cs/cifar10"),
        ("cifar100", "uoft-cs/cifar100"),
        ("imagenet-1k", "ILSVRC/imagenet-1k"),
        ("some-one/birds.v2", "some-one/birds.v2"),
    ],
)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_name_is_downloaded_once(hub, cache, name, repository, shards):
    hub.shards = shards
    loaded = load(name)
    assert loaded.name == name.rpartition("/")[2]
    assert loaded.classes == tuple(NAMES)
    sizes = {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}
    assert {split: len(found) for split, found in sizes.items()} == SPLITS
    assert loaded.train.labels.tolist() == [0, 1, 2] * 10 if shards == 1 else True
    assert (hub.asked, hub.downloads) == ([repository], 1)
    home = cache / "chimera" / repository.replace("/", "--")
    assert len(list(home.glob("train*.parquet"))) == shards
    assert [path.name for path in home.parent.iterdir()] == [home.name]
    assert load(name).digest == loaded.digest
    assert hub.downloads == 1


def test_what_was_downloaded_needs_no_library(hub, monkeypatch):
    digest = load("cifar10").digest
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert load("cifar10").digest == digest
    assert data_classes("cifar10") == tuple(NAMES)


def test_unlabelled_test_images_are_none(hub):
    """As ImageNet is published: then its validation images are held out."""
    hub.unlabelled = "test"
    loaded = load("imagenet-1k")
    assert len(loaded.test) == 6
    assert len(loaded.train) + len(loaded.validation) == 30


def test_other_splits_are_not_taken_for_training(hub):
    hub.splits = hub.described = {"train": 30, "train_extra": 12, "valid": 6, "unsupervised": 3}
    loaded = load("a/b")
    assert len(loaded.train) + len(loaded.validation) == 30
    assert len(loaded.test) == 6


def test_a_path_goes_first(hub, tmp_path):
    home = tmp_path / "here" / "cifar10"
    home.mkdir()
    write(home / "train.parquet", 12)
    loaded = load("cifar10")
    assert len(loaded.train) + len(loaded.validation) == 12
    assert hub.asked == []


@pytest.mark.parametrize("name", ["cifar11", "./a/b", "a/b/c", "/a/b", "~/a", "a b/c", "../a"])
def test_other_names_never_reach_the_hub(hub, name):
    with pytest.raises(ValueError, match=r"no data set .*cifar10, cifar100, imagenet-1k, or owner"):
        load(name)
    assert hub.asked == []


def test_without_the_library(no_library):
    message = refusal("imagenet-1k")
    assert "'imagenet-1k' is no path here" in message
    assert "ILSVRC/imagenet-1k" in message
    assert "`datasets`" in message
    assert "pip install datasets" in message
    with pytest.raises(ValueError, match="pip install datasets"):
        data_classes("imagenet-1k")


@pytest.mark.parametrize(
    ("name", "error", "parts"),
    [
        (
            "imagenet-1k",
            DatasetNotFoundError("Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub."),
            ["gated", "licence", "huggingface.co/datasets/ILSVRC/imagenet-1k", "hf auth login"],
        ),
        (
            "imagenet-1k",
            DatasetNotFoundError("it doesn't exist on the Hub or cannot be accessed."),
            ["licence", "hf auth login"],
        ),
        (
            "a/b",
            DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
            ["DatasetNotFoundError", "check the name"],
        ),
        (
            "cifar10",
            ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub (OfflineModeIsEnabled)"),
            ["Couldn't reach", "OfflineModeIsEnabled", "check the network"],
        ),
        (
            "a/b",
            ValueError("Config name is missing.\nPlease pick one among: ['x', 'y']"),
            ["Config name is missing. Please pick one among: ['x', 'y']"],
        ),
        ("a/b", RuntimeError("x" * 5000), ["RuntimeError: xxx", "..."]),
    ],
)
def test_what_the_hub_refuses(hub, name, error, parts):
    hub.refuses = error
    message = refusal(name)
    assert [part for part in parts if part not in message] == []
    assert len(message) < 1000
    with pytest.raises(ValueError, match="Hugging Face Hub"):
        data_classes(name)


@pytest.mark.parametrize("error", [OSError("Not enough disk space."), ConnectionError("reset")])
def test_a_download_that_breaks_off_leaves_no_data_set(hub, cache, error):
    hub.fails = error
    assert str(error) in refusal("cifar10")
    assert not (cache / "chimera" / "uoft-cs--cifar10").exists()


def test_a_rename_that_breaks_off_is_finished_later(hub, monkeypatch):
    hub.shards = 3
    hub.splits = hub.described = {**SPLITS, "train_extra": 3}
    rename = Path.rename

    def stops(path, target):
        if "train-00002" in path.name:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stops)
        with pytest.raises(KeyboardInterrupt):
            load("cifar10")
    loaded = load("cifar10")
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [30, 6, 9]


@pytest.mark.parametrize("described", [True, False])
def test_without_a_training_split(hub, described):
    hub.splits = {"all": 30, "test": 3}
    hub.described = hub.splits if described else None
    assert "no split named 'train', but all, test" in refusal("a/b")
    assert hub.downloads == (0 if described else 1)


def test_classes_need_no_download(hub):
    assert data_classes("imagenet-1k") == tuple(NAMES)
    assert hub.downloads == 0


def test_classes_without_names_are_read_from_the_data(hub, monkeypatch):
    monkeypatch.setattr(ClassLabel, "names", None, raising=False)
    monkeypatch.setattr(ClassLabel, "__init__", lambda self, names: None)
    assert data_classes("cifar10") == tuple(NAMES)
    assert hub.downloads == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_DATASETS_CACHE": "/d", "HF_HOME": "/h"}, "/d"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/datasets"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/datasets"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/datasets"),
    ],
)
def test_the_cache_is_that_of_the_library(monkeypatch, variables, expected):
    for name in ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert data_download._home("a/b") == Path(expected) / "chimera" / "a--b"
