"""Training of one network at its own size: formulas, smaller images, stop and resume."""

import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trainings import LAYERED, layered, make_batches, noise, same, weights

from space.files import make_space
from space.network import build
from space.presets import preset
from supernet.batches import Batches, Cropped, ResidentImages
from supernet.checkpoints import Checkpoints
from supernet.network import Supernet
from supernet.network_training import (
    NetworkTrainer,
    Teacher,
    check_sides,
    curriculum_of,
    multiple_of,
    smaller,
)
from supernet.recipe import RECIPES, NetworkRecipe

PLAIN = NetworkRecipe(steps=6, batch=6, flip=False)
ALL = dataclasses.replace(
    PLAIN,
    curriculum="efficienttrain",
    drop_path=0.4,
    randaugment=5.0,
    erasing=0.3,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
    ema=0.9,
    crop=0.3,
    accumulate=2,
)


def genome(seed=1):
    return layered().sample(np.random.default_rng(seed))


def teacher(seed=5):
    torch.manual_seed(seed)
    other = genome(seed).at(resolution=32)
    return Teacher(build(other), 32)


def box(width, height, rng):
    left, top = int(rng.integers(width // 2)), int(rng.integers(height // 2))
    return left, top, left + width // 2, top + height // 2


def batches(recipe, side=16):
    images, labels = noise(side=side)
    source = ResidentImages(images, labels, batch=recipe.batch, seed=0)
    if recipe.crop:
        source = Cropped(source, box, seed=0)
    return Batches(source, (0.5,) * 3, (0.25,) * 3, recipe, classes=3, seed=0)


def make(recipe=PLAIN, network=None, **options):
    network = network or genome()
    return NetworkTrainer(network, batches(recipe, network.resolution), recipe, seed=0, **options)


# ---- stop and resume


@pytest.mark.parametrize("teaching", [False, True])
def test_a_training_that_was_stopped_ends_the_same(tmp_path, teaching):
    def fresh():
        return make(ALL, teacher=teacher() if teaching else None)

    whole = fresh()
    whole.run()
    for stop in (1, 4):
        checkpoints = Checkpoints(tmp_path / str(stop))
        first = fresh()
        for _ in range(stop):
            first.train_step()
        first.save(checkpoints)
        second = fresh()
        assert second.load(checkpoints)
        second.run()
        assert same(weights(whole), weights(second))
        assert whole.losses == second.losses


def test_what_is_checked_above_is_at_work():
    """Each of the settings changes what is trained."""
    whole = make(ALL)
    whole.run()
    off = {"curriculum": "none", "drop_path": 0.0, "crop": 0.0, "ema": 0.0, "mixup": 0.0}
    for name, value in off.items():
        other = make(dataclasses.replace(ALL, **{name: value}))
        other.run()
        assert not same(weights(whole), weights(other)), name


def test_another_teacher_is_another_training(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    one = make(of={"teacher": "a"})
    one.train_step()
    one.save(checkpoints)
    with pytest.raises(ValueError, match="teacher is 'a' there, and 'b' here"):
        make(of={"teacher": "b"}).load(checkpoints)


def test_activations_that_are_computed_twice_change_nothing():
    found = []
    for checkpointing in (False, True):
        trainer = make(dataclasses.replace(ALL, checkpointing=checkpointing))
        trainer.run()
        found.append(weights(trainer))
    assert same(*found)


# ---- formulas


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_the_loss_equals_its_formula(how):
    recipe = dataclasses.replace(
        PLAIN, distillation=how, teaching=0.3, temperature=2.0, mixup=0.5, curriculum="none"
    )
    trainer, asked = make(recipe, teacher=teacher()), teacher()
    examples = trainer._batches(0)
    with torch.no_grad():
        student = trainer.network(examples.images)
        large = F.interpolate(
            examples.images, (32, 32), mode="bilinear", antialias=True, align_corners=False
        )
        taught = asked._network(large)
    own = -(examples.targets * student.log_softmax(1)).sum(1).mean()
    if how == "hard":
        lesson = -student.log_softmax(1)[torch.arange(6), taught.argmax(1)].mean()
    else:
        p, log_q = (taught / 2).softmax(1), (student / 2).log_softmax(1)
        lesson = 4 * (p * (p.log() - log_q)).sum(1).mean()
    assert trainer.train_step() == pytest.approx(float(0.7 * own + 0.3 * lesson), rel=1e-5)


def test_the_average_equals_its_recursion():
    trainer = make(dataclasses.replace(PLAIN, ema=0.8))
    average = weights(trainer)
    for step in range(1, 7):
        trainer.train_step()
        decay = min(0.8, (1 + step) / (10 + step))
        now = trainer._average if step == 6 else weights(trainer)  # they change places at the end
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * now[name]
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, average[name])


def test_a_teacher_learns_nothing():
    asked = teacher()
    before = {name: w.clone() for name, w in asked._network.state_dict().items()}
    make(teacher=asked).run()
    after = asked._network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_epochs_are_steps():
    recipe = NetworkRecipe(epochs=10, batch=32)
    assert recipe.over(100, 1).steps == 30  # three whole batches an epoch
    assert recipe.over(100, 2).steps == 10
    assert recipe.over(20, 1).steps == 10  # a batch is all there is
    assert dataclasses.replace(recipe, accumulate=2).over(100, 1).steps == 15
    assert NetworkRecipe(steps=7).over(100, 1).steps == 7


# ---- smaller images


def test_smaller_images_go_through_the_network_of_their_size():
    """No part of this network depends on its resolution."""
    trainer = make(dataclasses.replace(PLAIN, curriculum="efficienttrain"))
    small = build(genome().at(resolution=8))
    small.load_state_dict(trainer.network.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(trainer._logits(images), small(images))


def test_smaller_sides_are_multiples_of_the_total_stride():
    """Of DeiT's patches, 16 pixels, at 224; of the stem's where there would be too few."""
    for side, expected in ((224, 16), (64, 16), (48, 16), (32, 16)):
        assert multiple_of(preset("deit_small_patch16_224").genome.at(resolution=side)) == expected
    network = preset("convnext_t").genome
    assert multiple_of(network) == 32
    assert multiple_of(network.at(resolution=96)) == 4
    recipe = dataclasses.replace(PLAIN, curriculum="efficienttrain", steps=10)
    sides = [phase.side for phase in curriculum_of(network, recipe).phases]
    assert sides == [160, 160, 160, 192, 224]


def test_weights_that_follow_the_resolution_are_cut():
    """As a supernet of both resolutions cuts them."""
    definition = {
        "name": "sides",
        "resolution": [8, 16],
        "classes": 3,
        "stem": {"convolution": {"channels": [4], "norm": ["layer"]}},
        "stages": [
            {
                "channels": [8],
                "depth": [2],
                "stride": 2,
                "downsampling": ["local_dsm"],
                "operators": {"token_mlp": {"token_ratio": [0.5]}},
            }
        ],
        "head": {"pooled": {"norm": ["layer"]}},
    }
    space = make_space(definition)
    network = space.sample(np.random.default_rng(0)).at(resolution=16)
    supernet = Supernet(space, seed=3)
    trainer = make(dataclasses.replace(PLAIN, curriculum="efficienttrain"), network)
    trainer.network.load_state_dict(supernet.state_of(network))
    images = torch.randn(2, 3, 8, 8)
    expected = supernet(network.at(resolution=8), images)
    torch.testing.assert_close(trainer._logits(images), expected)
    shapes = {name: w.shape for name, w in smaller(network, 8).network.named_parameters()}
    assert any(shapes[name] != w.shape for name, w in trainer.network.named_parameters())


def test_statistics_of_smaller_images_are_the_networks_own():
    definition = {
        "name": "batch",
        "resolution": [16],
        "classes": 3,
        "stem": {"convolution": {"channels": [4], "norm": ["batch"]}},
        "stages": [
            {
                "channels": [8],
                "depth": [1],
                "downsampling": ["local_dsm"],
                "operators": {"inverted_bottleneck": {"expansion": [2], "norm": ["batch"]}},
            }
        ],
        "head": {"pooled": {"norm": ["layer"]}},
    }
    network = make_space(definition).sample(np.random.default_rng(0))
    trainer = make(dataclasses.replace(PLAIN, curriculum="efficienttrain"), network)
    before = {name: b.clone() for name, b in trainer.network.named_buffers()}
    trainer.train_step()
    assert all(not torch.equal(b, before[name]) for name, b in trainer.network.named_buffers())


def test_a_curriculum_that_a_network_does_not_allow():
    stage = {**LAYERED["stages"][0], "operators": {"regional_mixing": {"region": [2]}}}
    space = make_space({**LAYERED, "stages": [{**stage, "depth": [1]}]})
    network = space.sample(np.random.default_rng(0))
    check_sides(network, PLAIN)
    message = r"curriculum is 'efficienttrain\+\+'.* of 8 pixels: regional_mixing"
    with pytest.raises(ValueError, match=message) as raised:
        check_sides(network, dataclasses.replace(PLAIN, curriculum="efficienttrain++"))
    assert "\n" not in str(raised.value)


# ---- weights to start from


def test_a_training_starts_from_inherited_weights():
    supernet = Supernet(layered(), seed=4)
    start = supernet.state_of(genome())
    trainer = make(dataclasses.replace(PLAIN, ema=0.9), start=start)
    assert same(weights(trainer), start)
    assert same(trainer._average, start)
    del start[next(iter(start))]
    with pytest.raises(ValueError, match="not of this network"):
        make(start=start)


# ---- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_back_from_plain_data(name):
    recipe = RECIPES[name]
    assert NetworkRecipe.from_plain(recipe.to_plain()) == recipe
    assert recipe.epochs > 0


WRONG = {
    "drop_path": (1.0, "drop_path is 1.0, but must be a number from 0 to 0.99"),
    "crop": (2, "crop is 2, but must be a number from 0 to 1"),
    "epochs": (-1, "epochs is -1, but must be a number from 0"),
    "distillation": ("odd", "distillation is 'odd', but must be one of hard, soft"),
    "temperature": (0, "temperature is 0, but must be above 0"),
    "sampled": (2, "unknown training setting 'sampled'"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(k, *v) for k, v in WRONG.items()])
def test_what_is_wrong(name, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NetworkRecipe.from_plain({name: value})


def test_crops_equal_their_formula():
    """Bilinear between the centres of pixels, written plainly for some of them."""
    images, labels = noise(side=8)
    source = ResidentImages(images, labels, batch=4, seed=0)
    whole, _ = source.batch(2)
    found, kept = Cropped(source, box, seed=7).batch(2)
    assert torch.equal(kept, source.batch(2)[1])
    rng = np.random.default_rng([7, 3, 2])
    for image, crop in zip(whole.double(), found, strict=True):
        left, top, right, bottom = box(8, 8, rng)
        for row, column in ((0, 0), (3, 5), (7, 7), (2, 1)):
            y = top + (row + 0.5) * (bottom - top) / 8 - 0.5
            x = left + (column + 0.5) * (right - left) / 8 - 0.5
            y, x = min(max(y, 0), 7), min(max(x, 0), 7)
            y0, x0 = int(y), int(x)
            y1, x1, fy, fx = min(y0 + 1, 7), min(x0 + 1, 7), y - y0, x - x0
            mixed = (1 - fy) * ((1 - fx) * image[:, y0, x0] + fx * image[:, y0, x1])
            mixed += fy * ((1 - fx) * image[:, y1, x0] + fx * image[:, y1, x1])
            assert (mixed - crop[:, row, column]).abs().max() <= 0.51


def test_batches_of_crops_never_change():
    one, other = batches(ALL), make_batches(PLAIN)
    assert torch.equal(one(5).images, batches(ALL)(5).images)
    assert one(5).number == other(5).number == 5
