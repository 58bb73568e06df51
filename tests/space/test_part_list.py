"""Parts of rows, against the walk that genomes do themselves."""

import numpy as np
import pytest

from space.files import load_space, shipped_spaces
from space.part_list import NONE, PartList


@pytest.mark.parametrize("name", shipped_spaces())
def test_rows_have_the_parts_of_their_genomes_in_their_order(name):
    space = load_space(name)
    places = PartList(space)
    rows = space.sample_codes(np.random.default_rng(0), 40)
    found = places.of(rows)
    for row, numbers in zip(rows, found, strict=True):
        expected = [(placed.part, placed.site) for placed in space.decode(row).parts()]
        parts = [places.parts[n] for n in numbers if n != NONE]
        assert [(sited.part, sited.site) for sited in parts] == expected


@pytest.mark.parametrize("name", shipped_spaces())
def test_each_part_is_listed_once(name):
    parts = PartList(load_space(name)).parts
    assert len(set(parts)) == len(parts)
