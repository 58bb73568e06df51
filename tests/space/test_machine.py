"""Names of machines, as Linux says them."""

import pytest

from space.machine import named, processor


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9B45: 128\n", "AMD EPYC 9B45: 128"),
        ("processor\t: 0\nBogoMIPS\t: 38\n\nHardware\t: Qualcomm SM8250\n", "Qualcomm SM8250"),
        ("CPU part\t: 0xd08\n\nModel\t\t: Raspberry Pi 4 Model B\n", "Raspberry Pi 4 Model B"),
        ("processor\t: 0\nmodel name\t:\n", ""),
        ("", ""),
    ],
)
def test_a_machine_is_called_what_it_says(text, name):
    assert named(text) == name


def test_this_machine_has_a_name():
    assert processor()
