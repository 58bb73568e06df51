"""Curricula: the published schedules at 224 pixels, and what holds at every size."""

from itertools import pairwise

import pytest

from supernet.curriculum import Phase, make_curriculum

NAMES = ("none", "efficienttrain", "efficienttrain++")


def curriculum(name, **changes):
    settings = {"side": 224, "multiple": 32, "steps": 300, "magnitude": 9.0} | changes
    return make_curriculum(name, **settings)


def steps_of(found):
    return [found.at(step) for step in range(found.total_steps)]


def compute(found):
    """What it costs, in steps at full resolution."""
    phases = steps_of(found)
    return sum(phase.side**2 for phase in phases) / phases[-1].side ** 2


def test_none_is_one_phase():
    assert steps_of(curriculum("none")) == [Phase(224, 9.0)] * 300


def test_efficienttrain_is_the_published_schedule():
    published = zip((160, 160, 160, 192, 224), (1, 3, 5, 7, 9), strict=True)
    expected = [Phase(side, magnitude) for side, magnitude in published for _ in range(60)]
    assert steps_of(curriculum("efficienttrain")) == expected


def test_efficienttrain_has_the_published_compute():
    found = curriculum("efficienttrain")
    relative = [(phase.side / 224) ** 2 for phase in found.phases]
    assert relative == pytest.approx([0.5102, 0.5102, 0.5102, 0.7347, 1.0], abs=5e-5)
    assert 300 / compute(found) == pytest.approx(1.531, abs=5e-4)


@pytest.mark.parametrize("steps", [5, 7, 299, 430])
def test_efficienttrain_phases_end_where_published(steps):
    """After int(E / 5 * (i + 1)) of E steps."""
    found = curriculum("efficienttrain", steps=steps)
    assert found.ends == tuple(int(steps * (i + 1) / 5) for i in range(5))


def test_plus_is_the_published_schedule():
    """Each phase lasts a tenth of T_B = E (224 / B)^2."""
    found = curriculum("efficienttrain++", steps=3000)
    sides = (96, 96, 160, 160, 160, 160, 224, 224, 224, 224)
    seen = steps_of(found)
    for phase, side in zip(found.phases, sides, strict=True):
        assert abs(seen.count(phase) - 300 * (224 / side) ** 2) <= 1  # ends are whole steps
    expected = [Phase(side, float(i)) for i, side in enumerate(sides)]
    assert [seen[0], *(b for a, b in pairwise(seen) if a != b)] == expected


@pytest.mark.parametrize("side", [32, 64, 160, 224])
@pytest.mark.parametrize("steps", [40, 431, 3000])
def test_plus_costs_its_budget_in_ten_equal_parts(side, steps):
    found = curriculum("efficienttrain++", side=side, multiple=8, steps=steps)
    assert steps <= compute(found) < steps + 1
    seen = steps_of(found)
    for phase in found.phases:
        cost = seen.count(phase) * phase.side**2 / side**2
        assert abs(cost - steps / 10) <= 1
    assert found.total_steps > 1.3 * steps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30])
def test_small_budgets_end_at_full_resolution(name, steps):
    found = curriculum(name, steps=steps)
    assert found.at(found.total_steps - 1) == Phase(224, 9.0)
    assert found.total_steps == steps or name == "efficienttrain++"
    assert compute(found) < steps + 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 37, 300])
def test_progress_is_the_share_that_is_done(name, steps):
    found = curriculum(name, steps=steps)
    costs = [phase.side**2 if "++" in name else 1 for phase in steps_of(found)]
    shares = [sum(costs[:step]) / sum(costs) for step in range(len(costs) + 1)]
    assert [found.progress(step) for step in range(len(costs) + 1)] == pytest.approx(shares)
    assert (found.progress(0), found.progress(found.total_steps)) == (0, 1)


def test_plus_phases_are_tenths_of_the_progress():
    found = curriculum("efficienttrain++", steps=8820)
    expected = [(i + 1) / 10 for i in range(10)]
    assert [found.progress(end) for end in found.ends] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("side", "multiple", "expected"),
    [
        (448, 32, (320, 320, 320, 384, 448)),  # the papers' proportions
        (64, 16, (48, 48, 48, 48, 64)),  # 45.7 and 54.9
        (32, 8, (24, 24, 24, 24, 32)),  # 22.9 and 27.4
        (8, 4, (4, 4, 4, 8, 8)),  # 5.7 and 6.9
        (56, 7, (42, 42, 42, 42, 56)),  # 40 and 48; 49 is odd
        (20, 1, (14, 14, 14, 18, 20)),  # 14.3 and 17.1; 17 is odd
        (21, 7, (14, 14, 14, 14, 21)),  # 15 and 18; the last is never rounded
        (7, 7, (7, 7, 7, 7, 7)),  # nothing else there
        (100, 32, (64, 64, 64, 96, 100)),  # 71.4 and 85.7
        (15, 8, (8, 8, 8, 8, 15)),  # 12.9 would be 16
    ],
)
def test_sides_are_scaled_and_rounded(side, multiple, expected):
    found = curriculum("efficienttrain", side=side, multiple=multiple)
    assert tuple(phase.side for phase in found.phases) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [5, 8, 28, 32, 63, 64, 96, 128, 224, 225])
@pytest.mark.parametrize("multiple", [1, 2, 4, 5])
def test_sides_grow_and_stay_in_range(name, side, multiple):
    sides = [phase.side for phase in curriculum(name, side=side, multiple=multiple).phases]
    assert sides == sorted(sides)
    assert sides[-1] == side
    assert all(multiple <= each <= side for each in sides)
    assert all(each % multiple == 0 for each in sides if each != side)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0, 0.1, 5, 10])
def test_magnitudes_grow_to_the_one_asked_for(name, magnitude):
    found = [phase.magnitude for phase in curriculum(name, magnitude=magnitude).phases]
    assert found[-1] == magnitude
    published = {"none": [9], "efficienttrain": [1, 3, 5, 7, 9], "efficienttrain++": range(10)}
    assert found == pytest.approx([magnitude * level / 9 for level in published[name]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"multiple": 0}, "multiple must be from 1 to the side of 224, not 0"),
        ({"multiple": 225}, "multiple must be from 1 to the side of 224, not 225"),
        ({"magnitude": -1}, "magnitude must be from 0 to 10, not -1"),
        ({"magnitude": 11}, "magnitude must be from 0 to 10, not 11"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_out_of_range_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        curriculum(name, **changes)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^unknown curriculum 'fast'; known: none, efficienttrain, efficienttrain\+\+$",
    ):
        curriculum("fast")


def test_there_are_no_steps_outside():
    found = curriculum("efficienttrain")
    for step in (-1, 300):
        with pytest.raises(ValueError, match=f"step must be from 0 to 299, not {step}"):
            found.at(step)
    for step in (-1, 301):
        with pytest.raises(ValueError, match=f"step must be from 0 to 300, not {step}"):
            found.progress(step)
