"""What changes a batch of training images that already lies on its device.

Pure functions without a Python loop over images. All random numbers come from the
`np.random.Generator` handed in and are drawn on the CPU, so every device gets the same ones.
Shapes: N images, C channels, H x W pixels, R pixels a side of a square image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

# ---- moving, mirroring, scaling


def shifted(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Each image (N, C, R, R) moved by up to `share` of its side; what comes in repeats the
    border."""
    side = images.shape[-1]
    reach = int(share * side)
    if reach == 0:
        return images
    offsets = torch.from_numpy(rng.integers(-reach, reach + 1, (2, len(images), 1)))
    rows, columns = (torch.arange(side) + offsets).clamp(0, side - 1).to(images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flipped(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image (N, C, H, W) mirrored left to right with probability 1/2."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, C, H, W) to float32 of zero mean and unit deviation, stored channels last."""
    shape = (1, -1, 1, 1)
    scaled = images.to(memory_format=torch.channels_last).float() / 255
    middle = torch.tensor(mean, device=images.device).view(shape)
    return (scaled - middle) / torch.tensor(std, device=images.device).view(shape)


# ---- RandAugment

FILL = 128  # grey level of what a geometric operation brings in
JITTER = 0.5  # standard deviation of one image's magnitude


def randaugment(
    images: Tensor, rng: np.random.Generator, *, magnitude: float, layers: int = 2
) -> Tensor:
    """RandAugment of uint8 images (N, 3, H, W), `magnitude` 0 (weak, not off) to 10.

    Source: Cubuk et al., 2019, arXiv 1909.13719, section 3: in each layer, each image goes through
    one of 14 operations, all equally likely. As in timm's "rand-m{M}-mstd0.5-inc1", an image's
    magnitude is normal around `magnitude` with deviation 0.5, cut to 0..10, and everything gets
    stronger with it; `amounts` has the scales. Differs from timm, which skips an operation half of
    the time, has 15 others, and may keep no bit at all: here posterize keeps at least one.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}"
        )
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must be from 0 to 10, not {magnitude}")
    if layers < 0:
        raise ValueError(f"layers must be at least 0, not {layers}")
    for _ in range(layers):
        drawn = rng.integers(len(OPERATIONS), size=len(images))
        levels = rng.normal(magnitude, JITTER, len(images)).clip(0, 10) / 10
        signs = np.where(rng.random(len(images)) < 0.5, -1.0, 1.0)
        order = np.argsort(drawn, kind="stable")  # images of one operation side by side
        counts = np.bincount(drawn, minlength=len(OPERATIONS))
        place = torch.from_numpy(order).to(images.device)
        parts = _by_operation(images[place], counts, levels[order], signs[order])
        images = torch.empty_like(images).index_copy_(0, place, torch.cat(parts))
    return images


def _by_operation(
    images: Tensor, counts: NDArray[np.int64], levels: Floats, signs: Floats
) -> list[Tensor]:
    """The first `counts[0]` images through the first operation, the next through the second, ..."""
    ends = counts.cumsum()
    strengths = [
        amounts(name, some_levels, some_signs)
        for name, some_levels, some_signs in zip(
            OPERATIONS, np.split(levels, ends[:-1]), np.split(signs, ends[:-1]), strict=True
        )
    ]
    device, sizes, first = images.device, counts.tolist(), len(_COLOURS)
    parameters = torch.from_numpy(np.concatenate(strengths)).float().to(device).split(sizes)
    pieces = zip(_COLOURS.values(), images.split(sizes), parameters, strict=False)
    parts = [run(piece, values) for run, piece, values in pieces if len(piece)]
    size = (images.shape[2], images.shape[3])
    geometric = zip(_GEOMETRIC, strengths[first:], strict=True)
    matrices = np.concatenate([affine(name, values, size) for name, values in geometric])
    if len(matrices):
        moved = images[len(images) - len(matrices) :]
        parts.append(transformed(moved, torch.from_numpy(matrices).float().to(device)))
    return parts


def amounts(name: str, levels: Floats, signs: Floats) -> Floats:
    """How much operation `name` does at `levels`, shares of the greatest magnitude in 0..1.

    In units of the operation: degrees (to 30), slope (to 0.3), share of the side (to 0.45), factor
    (1 -+ 0.9), bits kept (4 to 1), first grey level inverted (256 to 0); `signs` are -1 or 1.
    """
    if name == "posterize":
        return np.maximum(4 - np.floor(4 * levels), 1)
    if name == "solarize":
        return 256 - np.floor(256 * levels)
    if name in ("colour", "contrast", "brightness", "sharpness"):
        return 1 + 0.9 * signs * levels
    return _REACH.get(name, 0.0) * signs * levels


def autocontrast(images: Tensor) -> Tensor:
    """Each channel's grey levels spread over 0..255; one that has a single level stays."""
    low, high = images.amin((2, 3), True).float(), images.amax((2, 3), True).float()
    spread = (images - low) * (255 / (high - low).clamp(min=1))
    return torch.where(high > low, spread.round(), images).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Each channel through its cumulative histogram, in PIL's integer arithmetic.

    A channel with fewer than 255 pixels below its brightest level stays as it is.
    """
    values = images.flatten(2).long()
    ones = torch.ones_like(values)
    counts = values.new_zeros(*images.shape[:2], 256).scatter_add_(2, values, ones)
    below = counts.cumsum(2) - counts  # pixels that are darker than each level
    step = below.gather(2, values.amax(2, True)) // 255
    table = (below + step // 2) // step.clamp(min=1)
    mapped = table.clamp(max=255).gather(2, values)
    return torch.where(step > 0, mapped, values).to(torch.uint8).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The leading `bits` (N,), 1 to 8, of each grey level; the others are 0."""
    masks = (256 - 2 ** (8 - bits)).to(torch.uint8)
    return images & masks[:, None, None, None]


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Grey levels from `thresholds` (N,), 0 to 256, upwards inverted."""
    return torch.where(images < thresholds[:, None, None, None], images, 255 - images)


def colour(images: Tensor, factors: Tensor) -> Tensor:
    """Away from the grey image by `factors` (N,): 0 is grey, 1 changes nothing."""
    return _blended(_luma(images), images, factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Away from the mean grey by `factors` (N,): 0 is one grey, 1 changes nothing."""
    mean = _luma(images).sum((2, 3), True) / images[0, 0].numel()  # of integers, so exact
    return _blended((mean + 0.5).floor(), images, factors)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Grey levels times `factors` (N,)."""
    return _blended(0.0, images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Away from the smoothed image by `factors` (N,): 0 is smooth, 1 changes nothing.

    Smooth is the mean of 3 x 3 pixels, the middle one counted 5 times; the border stays.
    """
    original = images.float()
    total = 9 * F.avg_pool2d(original, 3, 1, 1)  # a convolution would be bfloat16 under autocast
    inside = (..., slice(1, -1), slice(1, -1))
    smooth = original.clone()
    smooth[inside] = ((total + 4 * original) / 13).round()[inside]
    return _blended(smooth, images, factors)


def _luma(images: Tensor) -> Tensor:
    """Grey level (N, 1, H, W) by ITU-R 601, in PIL's 16-bit fixed point."""
    red, green, blue = images.int().split(1, 1)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def _blended(base: Tensor | float, images: Tensor, factors: Tensor) -> Tensor:
    mix = base + factors[:, None, None, None] * (images - base)
    return mix.round().clamp(0, 255).to(torch.uint8)


def affine(name: str, amount: Floats, size: tuple[int, int]) -> Floats:
    """(N, 2, 3): for each `amount` (N,), where operation `name` takes its pixels from.

    A matrix maps a point (x, y, 1) of the result to a point of the source, in pixels from the upper
    left corner of an image of `size` (height, width). Shears hold that corner, rotations hold the
    centre.
    """
    height, width = size
    matrices = np.tile(np.eye(2, 3), (len(amount), 1, 1))
    if name == "rotate":
        turn = np.radians(amount)
        matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(turn)
        matrices[:, 0, 1], matrices[:, 1, 0] = -np.sin(turn), np.sin(turn)
        centre = np.array([width / 2, height / 2])
        matrices[:, :, 2] = centre - matrices[:, :, :2] @ centre
    elif name == "shear_x":
        matrices[:, 0, 1] = amount
    elif name == "shear_y":
        matrices[:, 1, 0] = amount
    elif name == "translate_x":
        matrices[:, 0, 2] = amount * width
    else:
        matrices[:, 1, 2] = amount * height
    return matrices


def transformed(images: Tensor, matrices: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) through `matrices` (N, 2, 3) of `affine`, bilinearly.

    As in PIL, a pixel whose centre comes from outside the image gets the level `FILL`.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    # Not by affine_grid: its matrix product would be bfloat16 under autocast.
    a, b, c, d, e, f = matrices.flatten(1).T[:, :, None, None]
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    grid = torch.stack((2 * source_x / width - 1, 2 * source_y / height - 1), 3)
    sampled = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    return torch.where(inside[:, None], sampled.round(), FILL).to(torch.uint8)


_COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, _: images,
    "autocontrast": lambda images, _: autocontrast(images),
    "equalize": lambda images, _: equalize(images),
    "posterize": posterize,
    "solarize": solarize,
    "colour": colour,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}
_REACH = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45, "translate_y": 0.45}
_GEOMETRIC = tuple(_REACH)
OPERATIONS = (*_COLOURS, *_GEOMETRIC)  # the geometric ones last: they run as one batch

# ---- random erasing

SMALLEST, LARGEST = 0.02, 0.4  # shares of an image that a rectangle covers
FLATTEST = 0.3  # height over width; the tallest is its inverse
TRIES = 20  # a rectangle lies inside in about a quarter of them


def erased(images: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """Float images (N, C, H, W), each with `probability` of a rectangle of standard normal noise.

    Source: random erasing (Zhong et al., 2017, arXiv 1708.04896), algorithm 1, with the
    paper's bounds. Differs from it: noise is normal, for images of unit deviation, and an image for
    which none of 20 rectangles lies inside stays whole.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be from 0 to 1, not {probability}")
    if probability == 0:
        return images
    count, channels, height, width = images.shape
    wanted = rng.random(count) < probability
    area = rng.uniform(SMALLEST, LARGEST, (TRIES, count)) * height * width
    ratio = rng.uniform(FLATTEST, 1 / FLATTEST, (TRIES, count))
    tall = np.sqrt(area * ratio).round().clip(1).astype(np.int64)
    wide = np.sqrt(area / ratio).round().clip(1).astype(np.int64)
    top = rng.integers(height, size=(TRIES, count))
    left = rng.integers(width, size=(TRIES, count))
    fits = (top + tall <= height) & (left + wide <= width)
    index = np.flatnonzero(wanted & fits.any(0))
    first = fits.argmax(0)[index]
    top, left, tall, wide = (drawn[first, index] for drawn in (top, left, tall, wide))
    noise = rng.standard_normal(channels * int((tall * wide).sum()), dtype=np.float32)

    bounds = np.stack((top, top + tall, left, left + wide))[:, :, None]
    first_row, last_row, first_column, last_column = torch.from_numpy(bounds).to(images.device)
    row, column = (
        torch.arange(height, device=images.device),
        torch.arange(width, device=images.device),
    )
    rows = (row >= first_row) & (row < last_row)
    columns = (column >= first_column) & (column < last_column)
    mask = rows[:, None, :, None] & columns[:, None, None, :]
    chosen = torch.from_numpy(index).to(images.device)
    filled = images[chosen].masked_scatter(mask, torch.from_numpy(noise).to(images))
    return images.clone().index_copy_(0, chosen, filled)  # a clone keeps the memory layout


# ---- mixing images and targets


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels (N,) as distributions (N, K): `smoothing` of each spread over all K classes.

    Source: label smoothing (Szegedy et al., 2015, arXiv 1512.00567), section 7.
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be from 0 to 1, not {smoothing}")
    return (1 - smoothing) * F.one_hot(labels, classes).float() + smoothing / classes


def mixed(
    images: Tensor, targets: Tensor, rng: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Each image (N, C, H, W) and target (N, K) mixed with the one before it in the batch.

    Sources: mixup (Zhang et al., 2017, arXiv 1710.09412, section 2), the share of the image itself
    from Beta(mixup, mixup); CutMix (Yun et al., 2019, arXiv 1905.04899, section 3.1), the same from
    Beta(cutmix, cutmix), corrected to the pixels that the rectangle covers inside the image. 0
    leaves one of them out; of two, each batch gets one, with equal chances. Differs from the
    papers: one share for a whole batch, as in timm.
    """
    for name, value in (("mixup", mixup), ("cutmix", cutmix)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, not {value}")
    if mixup == cutmix == 0:
        return images, targets
    cut = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    share = float(rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup))
    if cut:
        box, share = _box(images.shape[2], images.shape[3], share, rng)
        images = images.clone()
        images[box] = images[box].roll(1, 0)
    else:
        images = share * images + (1 - share) * images.roll(1, 0)
    return images, share * targets + (1 - share) * targets.roll(1, 0)


def _box(
    height: int, width: int, share: float, rng: np.random.Generator
) -> tuple[tuple[slice, ...], float]:
    """A rectangle of 1 - `share` of the image around a random pixel, cut off at the border, and
    the share of the image that is outside it."""
    scale = (1 - share) ** 0.5
    tall, wide = int(scale * height), int(scale * width)
    top, left = int(rng.integers(height)) - tall // 2, int(rng.integers(width)) - wide // 2
    rows = slice(max(top, 0), min(top + tall, height))
    columns = slice(max(left, 0), min(left + wide, width))
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (slice(None), slice(None), rows, columns), 1 - covered / (height * width)


# ---- lower resolution


def low_frequency(images: Tensor, side: int) -> Tensor:
    """Float images (N, C, R, R) with only their lowest frequencies, as (N, C, side, side).

    Source: low-frequency cropping of EfficientTrain (Wang et al., 2022, arXiv 2211.09703), section
    4.1: the centred side x side block of the Fourier transform, times (side / R)^2 so that grey
    levels stay, back at that size, of which the real part. Computed in float32 or wider.
    """
    full = images.shape[-1]
    if images.shape[-2] != full:
        raise ValueError(f"images must be square, not {tuple(images.shape[-2:])}")
    if not 1 <= side <= full:
        raise ValueError(f"side must be from 1 to {full}, not {side}")
    if side == full:
        return images
    # Frequency 0 is entry 0; the negative ones are at the end, one more of them where side is even.
    kept = torch.cat((torch.arange((side + 1) // 2), torch.arange(full - side // 2, full)))
    kept = kept.to(images.device)
    spectrum = torch.fft.fft2(images.to(torch.promote_types(images.dtype, torch.float32)))
    cropped = spectrum.index_select(2, kept).index_select(3, kept)
    small = (torch.fft.ifft2(cropped).real * (side / full) ** 2).to(images.dtype)
    last = images.is_contiguous(memory_format=torch.channels_last)
    return small.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
