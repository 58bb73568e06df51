"""The kernel that prepares images, against its definition and the functions of a training."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from supernet import augmentation
from supernet.kernels.pixels import pixels, pixels_reference

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def arguments(count=5, height=6, width=7, stored=9, dtype=torch.float32, channels=3):
    generator = torch.Generator().manual_seed(0)

    def whole(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    return (
        whole(0, 256, stored, channels, height, width).to(torch.uint8),
        whole(0, stored, count),
        whole(-3, 4, count),
        whole(-3, 4, count),
        whole(0, 2, count).bool(),
        torch.tensor(MEAN[:channels]),
        torch.tensor(STD[:channels]),
        dtype,
    )


@pytest.mark.parametrize("size", [(5, 6, 7), (1, 1, 1), (2, 17, 16), (0, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_its_definition(size, dtype):
    given = arguments(*size, dtype=dtype)
    found, expected = pixels(*given), pixels_reference(*given)
    assert found.dtype == dtype
    assert found.stride() == expected.stride()
    # The interpreter truncates where a GPU rounds to bfloat16.
    bound = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


def test_images_stored_otherwise():
    images, *rest = arguments()
    strided = images.repeat(1, 1, 1, 2)[..., ::2].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixels(strided, *rest), pixels_reference(strided, *rest))


def test_equals_what_a_training_does():
    """The definition is what `supernet.batches` does one after the other."""
    images, rows, *_ = arguments(height=8, width=8)
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    expected = augmentation.shifted(images[rows], 0.25, rng)
    expected = augmentation.normalise(augmentation.flipped(expected, rng), MEAN, STD)
    down, right = (torch.from_numpy(again.integers(-2, 3, (2, len(rows), 1)))).squeeze(2)
    mirrored = torch.from_numpy(again.random(len(rows)) < 0.5)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    found = pixels(images, rows, down, right, mirrored, mean, std, torch.float32)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_pytorch_asks_of_an_operator():
    torch.library.opcheck(pixels, arguments())
