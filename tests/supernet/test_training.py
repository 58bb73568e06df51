"""Training: what is random follows from the seed and the step, so a stop changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from supernet.network import Supernet
from supernet.training import Batches, Trainer, TrainingSettings, normalise

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PLAIN = TrainingSettings(steps=6, batch=8, shift=0.0, flip=False)


def settings(**changes):
    return dataclasses.replace(PLAIN, **changes)


def noise(count=30, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 3


def colours(count=60):
    """Three classes that the mean of one channel tells apart."""
    images, labels = noise(count)
    images = images // 4
    images[torch.arange(count), labels] += 150
    return images, labels


def trainer(space, chosen=PLAIN, *, data=None, seed=0):
    images, labels = noise() if data is None else data
    batches = Batches(images, labels, MEAN, STD, chosen, seed)
    return Trainer(Supernet(space, seed=seed), batches, chosen, seed=seed)


def weights(trained):
    return {name: weight.detach().clone() for name, weight in trained.supernet.weights.items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# ---- stop and go on


@pytest.mark.parametrize("step", range(PLAIN.steps + 1))
def test_a_training_that_was_stopped_ends_the_same(small_space, tmp_path, step):
    """To the last bit, wherever it stopped, in weights and losses."""
    chosen = settings(shift=0.2, flip=True)
    whole = trainer(small_space, chosen)
    whole.run()
    stopped = trainer(small_space, chosen)
    for _ in range(step):
        stopped.train_step()
    stopped.save(tmp_path / "c.safetensors")
    resumed = trainer(small_space, chosen)
    for name in list(resumed.supernet.weights)[:3]:  # whatever was there is replaced
        with torch.no_grad():
            resumed.supernet.weights[name].add_(1)
    resumed.load(tmp_path / "c.safetensors")
    assert resumed.step == step
    resumed.run()
    assert same(weights(resumed), weights(whole))
    assert resumed.losses == whole.losses
    assert len(whole.losses) == chosen.steps


def test_run_leaves_a_checkpoint_and_says_what_happens(small_space, tmp_path):
    heard, path = [], tmp_path / "c.safetensors"
    trained = trainer(small_space)
    trained.run(path, progress=lambda *now: heard.append(now))
    assert [(done, total) for done, total, _ in heard] == [(i + 1, 6) for i in range(6)]
    assert [loss for *_, loss in heard] == trained.losses
    again = trainer(small_space)
    again.load(path)
    assert again.step == 6
    assert same(weights(again), weights(trained))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_interrupt_leaves_the_last_checkpoint(small_space, tmp_path):
    path = tmp_path / "c.safetensors"

    def stop(done, *_):
        if done == 4:
            raise KeyboardInterrupt

    stopped = trainer(small_space)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(path, every_seconds=0.0, progress=stop)
    resumed, whole = trainer(small_space), trainer(small_space)
    resumed.load(path)
    assert resumed.step == 3
    resumed.run()
    whole.run()
    assert same(weights(resumed), weights(whole))


def test_the_seed_decides_the_training(small_space):
    runs = [trainer(small_space, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        torch.manual_seed(torch.seed())  # the global generator decides nothing
        run.run()
    assert runs[0].losses == runs[1].losses != runs[2].losses
    assert same(weights(runs[0]), weights(runs[1]))


# ---- checkpoints


@pytest.fixture
def checkpoint(small_space, tmp_path):
    path = tmp_path / "c.safetensors"
    trained = trainer(small_space)
    trained.train_step()
    trained.save(path)
    return path


@pytest.mark.parametrize("changes", [{"steps": 7}, {"learning_rate": 1e-4}, {"flip": True}])
def test_a_checkpoint_of_other_settings(small_space, checkpoint, changes):
    with pytest.raises(ValueError, match="was trained with other settings"):
        trainer(small_space, settings(**changes)).load(checkpoint)


def test_a_checkpoint_of_another_seed(small_space, checkpoint):
    with pytest.raises(ValueError, match="was trained with other settings"):
        trainer(small_space, seed=1).load(checkpoint)


def test_a_checkpoint_of_another_supernet(small_space, checkpoint, host_space, hosts):
    other = trainer(host_space(hosts()[0]), data=noise(side=16))
    before = weights(other)
    with pytest.raises(ValueError, match="not of this supernet"):
        other.load(checkpoint)
    assert other.step == 0
    assert same(weights(other), before)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_checkpoint_that_is_cut_short(small_space, checkpoint, keep):
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is not a checkpoint of a supernet"):
        trainer(small_space).load(checkpoint)


def test_a_file_of_something_else(small_space, tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of a supernet"):
        trainer(small_space).load(path)


def test_a_checkpoint_holds_no_code(checkpoint):
    """It opens as safetensors: nothing is unpickled."""
    with safe_open(checkpoint, framework="pt") as file:
        assert "training" in file.metadata()


def test_a_failed_save_leaves_the_old_checkpoint(small_space, checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr("supernet.training.save_file", half)
    with pytest.raises(OSError, match="no space"):
        trainer(small_space).save(checkpoint)
    assert checkpoint.read_bytes() == before
    assert [file.name for file in checkpoint.parent.iterdir()] == [checkpoint.name]


# ---- what is trained


def test_the_loss_falls_and_small_networks_learn_too(small_space):
    data = colours()
    trained = trainer(small_space, settings(steps=80, batch=20, learning_rate=0.01), data=data)
    trained.run()
    assert np.mean(trained.losses[-10:]) < 0.3 * np.mean(trained.losses[:3])
    images, labels = normalise(data[0], MEAN, STD), data[1]
    for genome in (trained.largest, trained.smallest):
        buffers = trained.supernet.calibrate(genome, [images])
        with torch.no_grad():
            right = trained.supernet(genome, images, buffers=buffers).argmax(1) == labels
        assert right.float().mean() > 0.9


def test_each_step_trains_the_ends_and_sampled_networks(small_space, monkeypatch):
    trained, seen = trainer(small_space), []
    forward = Supernet.__call__

    def record(self, genome, *arguments, **options):
        assert options["training"]
        seen.append(genome)
        return forward(self, genome, *arguments, **options)

    monkeypatch.setattr(Supernet, "__call__", record)
    for step in range(PLAIN.steps):
        seen.clear()
        expected = trained.sampled(step)
        assert len(expected) == PLAIN.random
        trained.train_step()
        assert seen[0] == trained.largest  # it teaches the others
        assert trained.smallest in seen
        assert all(genome in seen for genome in expected)
    rows = small_space.sample_codes(np.random.default_rng(0), 300)
    macs = [small_space.decode(row).cost().macs for row in rows]
    assert trained.smallest.cost().macs <= min(macs)
    assert trained.largest.cost().macs >= max(macs)
    assert len({genome for step in range(50) for genome in trained.sampled(step)}) > 50


def test_weights_that_no_network_of_a_step_uses_stay(small_space, monkeypatch):
    """Neither a gradient nor weight decay moves them."""
    trained = trainer(small_space)
    monkeypatch.setattr(trained, "sampled", lambda step: [])
    used = trained.supernet.used_by(trained.largest) | trained.supernet.used_by(trained.smallest)
    unused = set(trained.supernet.weights) - used
    assert unused
    before = weights(trained)
    trained.train_step()
    after = weights(trained)
    assert all(torch.equal(after[name], before[name]) for name in unused)
    assert any(not torch.equal(after[name], before[name]) for name in used)


def test_the_learning_rate_rises_and_falls(small_space):
    trained = trainer(small_space, settings(steps=100, learning_rate=0.01, warmup=0.1))
    rates = [trained.learning_rate(step) for step in range(100)]
    assert max(rates) == rates[10] == 0.01
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.005)  # half-way down
    assert 0 < rates[99] < 1e-4


# ---- batches


def batches(images, labels, chosen, seed=0):
    return Batches(images, labels, MEAN, STD, chosen, seed)


def pixels(images):
    """Back to whole grey levels."""
    shape = (1, 3, 1, 1)
    levels = images * torch.tensor(STD).view(shape) + torch.tensor(MEAN).view(shape)
    return (levels * 255).round().to(torch.uint8)


def test_normalised_images():
    images, _ = noise(4)
    found = normalise(images, MEAN, STD)
    expected = np.empty((4, 3, 8, 8))
    for channel in range(3):
        grey = images[:, channel].numpy() / 255
        expected[:, channel] = (grey - MEAN[channel]) / STD[channel]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_an_epoch_shows_every_image_once():
    images, labels = noise(30)
    known = {bytes(image.numpy()): int(label) for image, label in zip(images, labels, strict=True)}
    made = batches(images, labels, settings(batch=10))
    orders = []
    for epoch in range(3):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            shown, found = made(step)
            seen += [bytes(image.numpy()) for image in pixels(shown)]
            assert [known[image] for image in seen[-10:]] == found.tolist()
        assert set(seen) == set(known)
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_a_batch_follows_from_its_step():
    images, labels = noise(30)
    chosen = settings(batch=10, shift=0.2, flip=True)
    made, again = (batches(images, labels, chosen) for _ in range(2))
    kept = [made(step) for step in range(5)]
    for step in reversed(range(5)):  # in any order
        for one, other in zip(kept[step], again(step), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(batches(images, labels, chosen, seed=1)(0)[0], kept[0][0])


def test_a_batch_is_at_most_the_data():
    images, labels = noise(5)
    assert len(batches(images, labels, settings(batch=64))(3)[1]) == 5


def moved(image, down, right):
    """The image with each pixel taken from `down` and `right` of it; beyond the border, the
    nearest pixel."""
    side = image.shape[-1]
    out = np.empty_like(image)
    for y in range(side):
        for x in range(side):
            source = min(max(y + down, 0), side - 1), min(max(x + right, 0), side - 1)
            out[:, y, x] = image[:, source[0], source[1]]
    return out


def test_shifted_images_against_a_loop():
    images, labels = noise(30)
    reach = 2  # 0.3 of 8 pixels, rounded down
    made = batches(images, labels, settings(batch=30, shift=0.3))
    ways = {
        bytes(moved(image, down, right)): (down, right)
        for image in images.numpy()
        for down in range(-reach, reach + 1)
        for right in range(-reach, reach + 1)
    }
    found = [ways[bytes(image.numpy())] for step in range(10) for image in pixels(made(step)[0])]
    assert len(set(found)) == (2 * reach + 1) ** 2
    assert abs(np.mean(found)) < 0.3


def test_mirrored_images():
    images, labels = noise(30)
    made = batches(images, labels, settings(batch=30, flip=True))
    plain = {bytes(image) for image in images.numpy()}
    mirrored = {bytes(np.ascontiguousarray(image[:, :, ::-1])) for image in images.numpy()}
    counts = [0, 0]
    for step in range(10):
        for image in pixels(made(step)[0]):
            key = bytes(image.contiguous().numpy())
            assert (key in plain) != (key in mirrored)
            counts[key in mirrored] += 1
    assert min(counts) > 100


def test_plain_images_are_those_of_the_source():
    images, labels = noise(30)
    made = batches(images, labels, settings(shift=0.3, flip=True))
    assert torch.equal(pixels(made.plain(12)), images[:12])
    assert len(made.plain(500)) == 30
