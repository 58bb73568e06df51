"""Augmentation: against PIL, the papers' formulas, and loops over single images."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import stats

from supernet import augmentation
from supernet.augmentation import (
    OPERATIONS,
    affine,
    amounts,
    erased,
    flipped,
    low_frequency,
    mixed,
    normalise,
    randaugment,
    shifted,
    soft_targets,
    transformed,
)


def pictures(count=12, height=32, width=24, seed=0):
    """Slopes with noise over a different range of grey levels each; also flat and binary ones."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 1, width) + rng.random((count, 3, height, 1))
    low, high = rng.uniform(0, 120, (count, 3, 1, 1)), rng.uniform(130, 255, (count, 3, 1, 1))
    noise = rng.normal(0, 0.1, (count, 3, height, width))
    images = (low + (high - low) * (slope / 2 + noise)).clip(0, 255)
    images[0, 1], images[1] = 77, 200  # a flat channel, a flat image
    images[2] = np.where(rng.random((3, height, width)) < 0.5, 10, 250)
    images[3] = rng.integers(0, 256, (3, height, width))
    return torch.from_numpy(images.astype(np.uint8))


def by_pil(images, change):
    """Each image through a function of PIL images."""
    changed = [change(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in changed])).permute(0, 3, 1, 2)


def furthest(ours, other):
    return (ours.int() - other.int()).abs().max().item()


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- moving, mirroring, scaling


def test_shifted_moves_each_image_and_repeats_its_border():
    images = pictures(6, 16, 16)
    moved = shifted(images, 0.2, rng())
    offsets = rng().integers(-3, 4, (2, 6, 1))[:, :, 0]
    for image, result, down, right in zip(images, moved, *offsets, strict=True):
        for y in range(16):
            for x in range(16):
                source = min(max(y + down, 0), 15), min(max(x + right, 0), 15)
                assert torch.equal(result[:, y, x], image[:, source[0], source[1]])
    assert len({tuple(pair) for pair in offsets.T}) > 1
    assert shifted(images, 0.05, rng()) is images  # less than a pixel


def test_flipped_mirrors_half_of_the_images():
    images = pictures(4).repeat(100, 1, 1, 1)
    images[:, :, :, 0] = 0  # no image is its own mirror image
    images[:, :, :, -1] = 255
    result = flipped(images, rng())
    mirrored = (result == images.flip(3)).all((1, 2, 3))
    assert torch.equal(result[~mirrored], images[~mirrored])
    assert 160 < mirrored.sum() < 240  # 4 deviations
    assert np.array_equal(mirrored.numpy(), rng().random(400) < 0.5)


def test_normalise():
    images, mean, std = pictures(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    result = normalise(images, mean, std)
    expected = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


# ---- operations of RandAugment


@pytest.mark.parametrize("size", [(32, 24), (64, 64), (5, 7), (15, 17), (16, 16), (1, 2)], ids=str)
def test_equalize_is_that_of_pil(size):
    """Sizes around 255 pixels, where steps between levels are 0, 1 and more."""
    images = pictures(12, *size)
    assert torch.equal(augmentation.equalize(images), by_pil(images, ImageOps.equalize))


def test_autocontrast_is_that_of_pil():
    images = pictures()
    result = augmentation.autocontrast(images)
    assert furthest(result, by_pil(images, ImageOps.autocontrast)) <= 1  # which rounds down
    spread = result[5:].flatten(2)
    assert (spread.amin(2) == 0).all()
    assert (spread.amax(2) == 255).all()
    assert torch.equal(result[1], images[1])  # flat


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_that_of_pil(bits):
    images = pictures()
    expected = by_pil(images, lambda image: ImageOps.posterize(image, bits))
    assert torch.equal(augmentation.posterize(images, torch.full((12,), float(bits))), expected)


@pytest.mark.parametrize("threshold", [0, 1, 77, 128, 255, 256])
def test_solarize_is_that_of_pil(threshold):
    images = pictures()
    expected = by_pil(images, lambda image: ImageOps.solarize(image, threshold))
    assert torch.equal(augmentation.solarize(images, torch.full((12,), float(threshold))), expected)


ENHANCERS = {
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.73, 1.0, 1.4, 1.9])
@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("size", [(32, 24), (3, 3), (2, 5)], ids=str)
def test_enhancements_are_those_of_pil(name, factor, size):
    images = pictures(12, *size)
    result = getattr(augmentation, name)(images, torch.full((12,), factor))
    expected = by_pil(images, lambda image: ENHANCERS[name](image).enhance(factor))
    whole = factor in (0.0, 1.0)  # nothing to round
    assert furthest(result, expected) <= (0 if whole else 1)  # PIL rounds down


def test_sharpness_leaves_the_border_and_smooths_the_rest():
    images = pictures()
    smooth = augmentation.sharpness(images, torch.zeros(12))
    assert torch.equal(smooth, by_pil(images, lambda image: image.filter(ImageFilter.SMOOTH)))
    for edge in ((..., 0), (..., -1), (..., 0, slice(None)), (..., -1, slice(None))):
        assert torch.equal(smooth[edge], images[edge])
    assert furthest(smooth, images) > 50


AFFINE = {  # as coefficients of PIL, for an image of 32 x 24 pixels
    "shear_x": (0.23, (1, 0.23, 0, 0, 1, 0)),
    "shear_y": (-0.3, (1, 0, 0, -0.3, 1, 0)),
    "translate_x": (0.31, (1, 0, 0.31 * 24, 0, 1, 0)),
    "translate_y": (-0.45, (1, 0, 0, 0, 1, -0.45 * 32)),
}


def in_pil(coefficients):
    def change(image):
        size, fill = image.size, (128, 128, 128)
        kind, how = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return image.transform(size, kind, coefficients, how, fillcolor=fill)

    return change


def through(name, amount, images):
    matrices = affine(name, np.full(len(images), amount), tuple(images.shape[2:]))
    return transformed(images, torch.from_numpy(matrices).float())


@pytest.mark.parametrize("name", AFFINE)
def test_geometric_operations_are_those_of_pil(name):
    images = pictures()
    amount, coefficients = AFFINE[name]
    result = through(name, amount, images)
    assert furthest(result, by_pil(images, in_pil(coefficients))) <= 1  # PIL rounds down
    assert furthest(result, images) > 50


@pytest.mark.parametrize("degrees", [0.0, 7.0, -30.0, 90.0])
@pytest.mark.parametrize("size", [(32, 24), (24, 24), (17, 17)], ids=str)
def test_rotation_is_that_of_pil(degrees, size):
    images = pictures(12, *size)
    result = through("rotate", degrees, images)
    how, fill = Image.Resampling.BILINEAR, (128, 128, 128)
    expected = by_pil(images, lambda image: image.rotate(degrees, how, fillcolor=fill))
    assert furthest(result, expected) <= 1  # PIL rounds down


@pytest.mark.parametrize(("name", "dim"), [("translate_x", 3), ("translate_y", 2)])
@pytest.mark.parametrize("pixels", [-4, 3])
def test_translation_by_whole_pixels_is_exact(name, dim, pixels):
    images = pictures(12, 16, 16)
    expected = images.roll(-pixels, dim)
    edge = torch.arange(-pixels) if pixels < 0 else torch.arange(16 - pixels, 16)
    expected.index_fill_(dim, edge, augmentation.FILL)
    assert torch.equal(through(name, pixels / 16, images), expected)


LEVELS = {  # strength at magnitudes 0, 9 and 10, for sign +1 and -1: timm's increasing scales
    "identity": ((0, 0, 0), (0, 0, 0)),
    "autocontrast": ((0, 0, 0), (0, 0, 0)),
    "equalize": ((0, 0, 0), (0, 0, 0)),
    "rotate": ((0, 27, 30), (0, -27, -30)),
    "posterize": ((4, 1, 1), (4, 1, 1)),
    "solarize": ((256, 26, 0), (256, 26, 0)),
    "colour": ((1, 1.81, 1.9), (1, 0.19, 0.1)),
    "contrast": ((1, 1.81, 1.9), (1, 0.19, 0.1)),
    "brightness": ((1, 1.81, 1.9), (1, 0.19, 0.1)),
    "sharpness": ((1, 1.81, 1.9), (1, 0.19, 0.1)),
    "shear_x": ((0, 0.27, 0.3), (0, -0.27, -0.3)),
    "shear_y": ((0, 0.27, 0.3), (0, -0.27, -0.3)),
    "translate_x": ((0, 0.405, 0.45), (0, -0.405, -0.45)),
    "translate_y": ((0, 0.405, 0.45), (0, -0.405, -0.45)),
}


def test_the_operations_are_the_fourteen_of_the_paper():
    assert sorted(OPERATIONS) == sorted(LEVELS)


@pytest.mark.parametrize("name", LEVELS)
def test_amounts(name):
    levels = np.array([0, 0.9, 1])
    for sign, expected in zip((1.0, -1.0), LEVELS[name], strict=True):
        np.testing.assert_allclose(amounts(name, levels, np.full(3, sign)), expected, atol=1e-12)


# ---- RandAugment as a whole


def every_result(image, level):
    """What one layer can make of an image at one magnitude, with each result's probability."""
    for name in OPERATIONS:
        ends = [amounts(name, np.array([level]), np.array([sign]))[0] for sign in (1.0, -1.0)]
        for amount in sorted(set(ends)):
            if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
                result = through(name, amount, image)
            elif name == "identity":
                result = image
            elif name in ("autocontrast", "equalize"):
                result = getattr(augmentation, name)(image)
            else:
                result = getattr(augmentation, name)(image, torch.tensor([amount]).float())
            yield name, result, 1 / 14 / len(set(ends))


def test_each_operation_and_direction_is_equally_likely(monkeypatch):
    monkeypatch.setattr(augmentation, "JITTER", 0.0)
    image, count = pictures(5, 20, 20)[4:], 5600
    results = randaugment(image.expand(count, -1, -1, -1), rng(), magnitude=6, layers=1)
    explained = torch.zeros(count, dtype=torch.bool)
    possible = list(every_result(image, 0.6))
    assert len(possible) == 5 + 2 * 9
    for name, result, probability in possible:
        same = (results == result).all((1, 2, 3))
        expected = probability * count
        assert abs(same.sum() - expected) < 4 * expected**0.5, name
        explained |= same
    assert explained.all()


def test_magnitudes_are_normal_around_the_one_asked_for():
    """Read off even images of level 192, which only brightness makes darker, to 106 or so, and
    solarize, to 63."""
    images = torch.full((14000, 3, 3, 3), 192, dtype=torch.uint8)
    result = randaugment(images, rng(), magnitude=5, layers=1).flatten(1)
    even = result[(result == result[:, :1]).all(1), 0]
    darker = even[(even < 192) & (even != 63)].double()
    magnitudes = (1 - darker / 192) / 0.09
    assert 400 < len(magnitudes) < 600  # half of a fourteenth
    assert magnitudes.mean() == pytest.approx(5, abs=0.07)
    assert magnitudes.std() == pytest.approx(0.5, abs=0.05)


def test_layers_follow_one_another():
    images, generator = pictures(), rng(3)
    once = randaugment(images, generator, magnitude=7, layers=1)
    twice = randaugment(once, generator, magnitude=7, layers=1)
    assert torch.equal(randaugment(images, rng(3), magnitude=7), twice)
    assert torch.equal(randaugment(images, rng(3), magnitude=7, layers=0), images)


@pytest.mark.parametrize("magnitude", [0, 4.5, 10])
def test_images_are_augmented_apart(magnitude):
    """The same draws give the same images, and no image changes another; the input stays."""
    images = pictures(40)
    before = images.clone()
    result = randaugment(images, rng(1), magnitude=magnitude)
    assert (result.dtype, result.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, before)
    images = images.clone()
    images[::2] = pictures(20, seed=5)
    again = randaugment(images, rng(1), magnitude=magnitude)
    assert torch.equal(again[1::2], result[1::2])
    assert not torch.equal(again[::2], result[::2])
    assert not torch.equal(randaugment(images, rng(2), magnitude=magnitude), again)


def test_stronger_magnitudes_change_images_more():
    images = pictures(400)
    changes = [
        (randaugment(images, rng(), magnitude=magnitude).int() - images).abs().float().mean()
        for magnitude in (0, 3, 6, 9)
    ]
    assert all(low * 1.1 < high for low, high in pairwise(changes))


def test_autocast_changes_nothing():
    images = pictures(40, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        result = randaugment(images, rng(), magnitude=9)
        small = low_frequency(images.float(), 10)
    assert torch.equal(result, randaugment(images, rng(), magnitude=9))
    assert torch.equal(small, low_frequency(images.float(), 10))


def test_global_generators_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    images = pictures()
    randaugment(images, rng(), magnitude=5)
    erased(images.float(), 1.0, rng())
    mixed(images.float(), torch.eye(12), rng(), mixup=1, cutmix=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (pictures(), {"magnitude": 10.5}, r"magnitude must be from 0 to 10, not 10\.5"),
        (pictures(), {"magnitude": -1}, "magnitude must be from 0 to 10, not -1"),
        (pictures(), {"magnitude": 5, "layers": -1}, "layers must be at least 0, not -1"),
        (pictures().float(), {"magnitude": 5}, r"uint8 \(N, 3, H, W\), not torch.float32"),
        (pictures()[:, :1], {"magnitude": 5}, r"not torch.uint8 \(12, 1, 32, 24\)"),
    ],
)
def test_randaugment_says_what_is_wrong(images, changes, message):
    with pytest.raises(ValueError, match=message):
        randaugment(images, rng(), **changes)


# ---- random erasing


def rectangles(result, before):
    """(top, height, left, width) of what changed in each image; all of it must have changed."""
    found = []
    for mask in (result != before).any(1):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            tall, wide = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
            assert mask.sum() == tall * wide
            found.append((top, tall, left, wide))
    return np.array(found)


def by_algorithm_1(draws, side, count):
    """Rectangles of the paper's algorithm, one after the other."""
    found = []
    while len(found) < count:
        area, ratio = draws.uniform(0.02, 0.4) * side**2, draws.uniform(0.3, 1 / 0.3)
        tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
        left, top = draws.uniform(0, side), draws.uniform(0, side)
        if left + wide <= side and top + tall <= side:
            found.append((top, tall, left, wide))
    return np.array(found)


def test_erased_rectangles_are_those_of_the_paper():
    side, count = 64, 1500
    before = torch.full((count, 1, side, side), 9.0)
    ours = rectangles(erased(before, 1.0, rng()), before)
    assert count - 10 < len(ours) <= count  # hardly ever does none of the tries lie inside
    truth = by_algorithm_1(rng(1), side, 1500)
    for value in (
        lambda top, tall, left, wide: tall * wide,
        lambda top, tall, left, wide: np.log(tall / wide),
        lambda top, tall, left, wide: top,
        lambda top, tall, left, wide: left,
    ):
        assert stats.ks_2samp(value(*ours.T), value(*truth.T)).pvalue > 0.01


def test_erased_noise_is_standard_normal_and_new_for_each_pixel():
    before = torch.full((300, 3, 32, 32), 9.0)
    result = erased(before, 1.0, rng())
    noise = result[result != before].numpy()
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert len(np.unique(noise)) > 0.98 * len(noise)  # float32 has some twice


def test_erased_takes_a_share_of_the_images():
    before = torch.full((2000, 1, 16, 16), 9.0)
    share = len(rectangles(erased(before, 0.25, rng()), before)) / 2000
    assert share == pytest.approx(0.25, abs=0.04)  # 4 deviations
    assert erased(before, 0, rng()) is before
    assert (before == 9).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_erased_noise_does_not_depend_on_how_images_are_stored(dtype):
    images = torch.randn(20, 3, 12, 12)
    result = erased(images, 0.5, rng())
    last = images.to(dtype, memory_format=torch.channels_last)
    other = erased(last, 0.5, rng())
    assert other.dtype == dtype
    assert other.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other, result.to(dtype))


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_erased_says_what_is_wrong(probability):
    with pytest.raises(ValueError, match=f"probability must be from 0 to 1, not {probability}"):
        erased(torch.zeros(2, 3, 4, 4), probability, rng())


# ---- mixing


def numbered(count=7, height=32, width=24):
    """Image i has level i everywhere; its target is class i."""
    images = torch.arange(float(count))[:, None, None, None].expand(count, 3, height, width)
    return images.clone(), torch.eye(count)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_targets_are_the_shares_of_pixels(seed):
    images, targets = numbered()
    result, weights = mixed(images, targets, rng(seed), mixup=0, cutmix=1.0)
    for level in range(7):
        share = (result == level).double().mean((1, 2, 3))
        torch.testing.assert_close(weights[:, level].double(), share, atol=1e-6, rtol=0)
    other = result != images  # one rectangle, in the same place of all images and channels
    assert torch.equal(other, other[:1, :1].expand_as(other))
    rectangles(result, images)
    torch.testing.assert_close(images, numbered()[0])  # the input stays


@pytest.mark.parametrize("seed", range(20))
def test_mixup_targets_are_the_weights_of_images(seed):
    images, targets = numbered()
    result, weights = mixed(images, targets, rng(seed), mixup=0.8, cutmix=0)
    level = weights @ torch.arange(7.0)
    torch.testing.assert_close(result, level[:, None, None, None].expand_as(result))
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    assert ((weights > 0).sum(1) == 2).all()  # of two different images


def test_mixup_shares_come_from_its_beta_distribution():
    images, targets = numbered(2, 1, 1)
    shares = [
        mixed(images, targets, rng([9, seed]), mixup=0.3, cutmix=0)[1][0, 0].item()
        for seed in range(1000)
    ]
    assert stats.kstest(shares, stats.beta(0.3, 0.3).cdf).pvalue > 0.01


def test_cutmix_rectangles_are_cut_off_at_the_border():
    """With u = s^2 uniform in 0..1, a side of s around a uniform centre keeps s - s^2 / 4 of it:
    the mean area is E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48."""
    images, targets = numbered(2, 64, 64)
    areas = [
        mixed(images, targets, rng([4, seed]), mixup=0, cutmix=1)[1][0, 1].item()
        for seed in range(2000)
    ]
    error = 4 * np.std(areas) / len(areas) ** 0.5 + 2 / 64  # sides are rounded down
    assert np.mean(areas) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=error)


def test_a_batch_gets_mixup_or_cutmix_with_equal_chances():
    images, targets = numbered(3, 16, 16)
    cut = [
        bool((result == result.round()).all())
        for result, _ in (
            mixed(images, targets, rng([1, i]), mixup=0.8, cutmix=1) for i in range(400)
        )
    ]
    assert 160 < sum(cut) < 240


def test_mixed_without_either_returns_what_came():
    images, targets = numbered()
    result = mixed(images, targets, rng(), mixup=0, cutmix=0)
    assert result[0] is images
    assert result[1] is targets


@pytest.mark.parametrize("changes", [{"mixup": 0.8, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}])
def test_mixed_repeats_with_its_generator_and_keeps_the_layout(changes):
    images = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    result, weights = mixed(images, torch.eye(4), rng(), **changes)
    again, same = mixed(images.contiguous(), torch.eye(4), rng(), **changes)
    assert torch.equal(result, again)
    assert torch.equal(weights, same)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(mixed(images, torch.eye(4), rng(5), **changes)[0], result)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_says_what_is_wrong(name):
    with pytest.raises(ValueError, match=rf"{name} must be at least 0, not -0\.1"):
        mixed(*numbered(), rng(), **{"mixup": 1, "cutmix": 1, name: -0.1})


def test_soft_targets():
    result = soft_targets(torch.tensor([2, 0]), 4, 0.1)
    expected = torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    torch.testing.assert_close(result, expected)
    assert torch.equal(soft_targets(torch.arange(3), 3, 0), torch.eye(3))
    with pytest.raises(ValueError, match=r"smoothing must be from 0 to 1, not 1\.5"):
        soft_targets(torch.arange(3), 3, 1.5)


# ---- low-frequency crop

SIDES = [(16, 8), (16, 7), (15, 8), (15, 7), (12, 11), (12, 1), (9, 2), (2, 1)]


@pytest.mark.parametrize(("full", "side"), SIDES)
def test_low_frequency_is_its_formula(full, side):
    """Each frequency and each pixel summed as defined, in float64."""
    images = torch.randn(2, 3, full, full, dtype=torch.float64)
    frequencies = torch.arange(full) - full // 2  # centred, as fftshift has them
    middle = full // 2
    kept = frequencies[middle - side // 2 : middle - side // 2 + side].double()
    forward = torch.exp(-2j * math.pi * torch.outer(kept, torch.arange(full)) / full)
    back = torch.exp(2j * math.pi * torch.outer(torch.arange(side), kept) / side) / side
    spectrum = torch.einsum("ky,lx,ncyx->nckl", forward, forward, images.to(torch.complex128))
    expected = torch.einsum("yk,xl,nckl->ncyx", back, back, spectrum * (side / full) ** 2).real
    torch.testing.assert_close(low_frequency(images, side), expected)
    single = low_frequency(images.float(), side)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single.mean((2, 3)), images.float().mean((2, 3)))


@pytest.mark.parametrize(("full", "side"), SIDES[:5])
def test_low_frequency_reproduces_waves_at_lower_resolution(full, side):
    """A wave that the smaller image can show is that wave, seen at fewer points."""

    def wave(points, i, j):
        at = torch.arange(points) / points * 2 * math.pi
        return torch.cos(i * at[:, None] + j * at + 0.7)[None, None]

    most = (side - 1) // 2
    for i in range(-most, most + 1):
        for j in range(most + 1):
            small = low_frequency(wave(full, i, j), side)
            torch.testing.assert_close(small, wave(side, i, j), atol=1e-5, rtol=0)
    if side // 2 + 1 <= full / 2:  # what it cannot show is gone, not folded
        above = low_frequency(wave(full, 0, side // 2 + 1), side)
        torch.testing.assert_close(above, torch.zeros_like(above), atol=1e-5, rtol=0)


def test_low_frequency_keeps_type_and_layout():
    images = torch.randn(2, 3, 16, 16)
    assert low_frequency(images, 16) is images
    small = low_frequency(images.bfloat16(), 8)
    assert small.dtype == torch.bfloat16
    torch.testing.assert_close(small, low_frequency(images.bfloat16().float(), 8).bfloat16())
    last = low_frequency(images.to(memory_format=torch.channels_last), 8)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, low_frequency(images, 8))


@pytest.mark.parametrize("side", [0, -1, 17])
def test_low_frequency_says_what_is_wrong(side):
    with pytest.raises(ValueError, match=f"side must be from 1 to 16, not {side}"):
        low_frequency(torch.zeros(1, 3, 16, 16), side)
    with pytest.raises(ValueError, match=r"images must be square, not \(16, 15\)"):
        low_frequency(torch.zeros(1, 3, 16, 15), 8)
