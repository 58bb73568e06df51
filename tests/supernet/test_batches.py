"""Batches: every image once an epoch, shares of processes that add up, augmentation by seed."""

import dataclasses

import pytest
import torch
from trainings import MEAN, STD, make_batches, noise, settings

from supernet.augmentation import normalise
from supernet.batches import Batches, Moved, ResidentImages
from supernet.curriculum import Phase

AUGMENTED = settings(
    batch=10,
    shift=0.2,
    flip=True,
    randaugment=9,
    erasing=0.5,
    mixup=0.5,
    cutmix=1.0,
    label_smoothing=0.1,
)


def pixels(images):
    """Back to whole grey levels."""
    shape = (1, 3, 1, 1)
    levels = images * torch.tensor(STD).view(shape) + torch.tensor(MEAN).view(shape)
    return (levels * 255).round().to(torch.uint8)


def keys(images):
    return [bytes(image.contiguous().numpy()) for image in images]


def resident(count=30, **options):
    images, labels = noise(count, side=8)
    return ResidentImages(images, labels, seed=0, **options)


# ---- the source


def test_an_epoch_shows_every_image_once():
    images, labels = noise(30, side=8)
    known = dict(zip(keys(images), labels.tolist(), strict=True))
    source, orders = resident(batch=10), []
    for epoch in range(3):
        seen = []
        for j in range(3 * epoch, 3 * epoch + 3):
            shown, found = source.batch(j)
            seen += keys(shown)
            assert [known[image] for image in seen[-10:]] == found.tolist()
        assert set(seen) == set(known)
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_what_does_not_fill_a_batch_waits_for_another_epoch():
    source = resident(32, batch=10)
    for epoch in range(3):
        seen = [key for j in range(3) for key in keys(source.batch(3 * epoch + j)[0])]
        assert len(set(seen)) == 30


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_batches_of_one(ranks):
    whole = resident(batch=4 * ranks)
    parts = [resident(batch=4, rank=rank, ranks=ranks) for rank in range(ranks)]
    for j in (0, 1, 5):
        images, labels = whole.batch(j)
        for rank, part in enumerate(parts):
            shown, found = part.batch(j)
            assert torch.equal(shown, images[rank::ranks])
            assert torch.equal(found, labels[rank::ranks])


@pytest.mark.parametrize(("count", "ranks", "expected"), [(5, 1, 5), (7, 2, 3), (3, 3, 1)])
def test_a_batch_is_at_most_the_data(count, ranks, expected):
    """And as large for each process as for the others."""
    parts = [resident(count, batch=64, rank=rank, ranks=ranks) for rank in range(ranks)]
    for j in (0, 3):
        seen = [keys(part.batch(j)[0]) for part in parts]
        assert [len(part) for part in seen] == [expected] * ranks
        assert len({key for part in seen for key in part}) == expected * ranks


def test_more_processes_than_images():
    with pytest.raises(ValueError, match="2 training images are too few for 3 processes"):
        resident(2, batch=1, ranks=3)


def test_images_that_lie_elsewhere():
    source = resident(batch=10)
    moved = Moved(source, torch.device("meta"))
    images, labels = moved.batch(2)
    assert images.device == labels.device == torch.device("meta")
    assert (images.shape, images.dtype) == ((10, 3, 8, 8), torch.uint8)
    here = Moved(source, torch.device("cpu"))
    assert torch.equal(here.batch(2)[0], source.batch(2)[0])
    closed = []
    source.close = lambda: closed.append(True)
    here.close()
    assert closed


# ---- examples


def test_plain_examples_are_the_images():
    chosen = settings(batch=10)
    images, labels = resident(30, batch=10).batch(1)
    found = make_batches(chosen, noise(30, side=8))(1)
    assert torch.equal(found.images, normalise(images, MEAN, STD))
    assert torch.equal(found.targets, torch.nn.functional.one_hot(labels, 3).float())


def test_a_batch_follows_from_its_number():
    made, again = (make_batches(AUGMENTED, noise(30)) for _ in range(2))
    kept = [made(j) for j in range(5)]
    for j in reversed(range(5)):  # in any order
        found = again(j)
        assert torch.equal(kept[j].images, found.images)
        assert torch.equal(kept[j].targets, found.targets)
    other = make_batches(AUGMENTED, noise(30), seed=1)(0)
    assert not torch.equal(other.images, kept[0].images)


def test_processes_augment_their_shares_differently():
    source = resident(batch=10)
    made = [
        Batches(source, MEAN, STD, settings(flip=True), classes=3, seed=0, rank=rank)(0).images
        for rank in (0, 1)
    ]
    assert not torch.equal(*made)


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 0.3},
        {"flip": True},
        {"randaugment": 9},
        {"erasing": 1.0},
        {"mixup": 0.5},
        {"cutmix": 1.0},
        {"label_smoothing": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_setting_does_something(changes):
    plain = make_batches(settings(batch=10), noise(30))(0)
    other = make_batches(settings(batch=10, **changes), noise(30))(0)
    (name,) = changes
    assert torch.equal(other.images, plain.images) == (name == "label_smoothing")
    assert torch.equal(other.targets, plain.targets) == (
        name not in ("mixup", "cutmix", "label_smoothing")
    )
    assert other.images.shape == plain.images.shape
    torch.testing.assert_close(other.targets.sum(1), torch.ones(10))


def test_mirrored_images():
    images, _ = noise(30)
    made = make_batches(settings(batch=30, flip=True), noise(30))
    plain, mirrored = set(keys(images)), set(keys(images.flip(3)))
    counts = [0, 0]
    for j in range(10):
        for key in keys(pixels(made(j).images)):
            assert (key in plain) != (key in mirrored)
            counts[key in mirrored] += 1
    assert min(counts) > 100


def test_a_phase_says_side_and_magnitude():
    """The strength of RandAugment comes from the phase where there is one."""
    chosen = dataclasses.replace(AUGMENTED, mixup=0.0, cutmix=0.0, erasing=0.0)
    made = make_batches(chosen, noise(30))
    assert made(0, Phase(8, 9.0)).images.shape == (10, 3, 8, 8)
    assert torch.equal(made(0, Phase(16, 9.0)).images, made(0).images)
    assert not torch.equal(made(0, Phase(16, 1.0)).images, made(0).images)
    means = [made(0, Phase(side, 9.0)).images.mean((2, 3)) for side in (8, 16)]
    torch.testing.assert_close(*means, atol=1e-4, rtol=1e-4)  # the lowest frequency stays
