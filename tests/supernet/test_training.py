"""Training: a step is what its formulas say, and a stop changes nothing."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import trainings
from torch import nn
from trainings import layered, make_alone, make_batches, make_trainer, noise, same, settings

from supernet.augmentation import normalise
from supernet.checkpoints import Checkpoints
from supernet.losses import adaptive_divergence
from supernet.network import Supernet
from supernet.training import Diverged

PLACE = "stages.0.blocks"
SWITCHES = {
    "plain": {},
    "augmented": {
        "shift": 0.2,
        "flip": True,
        "randaugment": 5,
        "erasing": 0.5,
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    },
    "without sandwich": {"sandwich": False},
    "without the smallest": {"smallest": False},
    "fair": {"sampling": "fair", "sampled": 3},
    "adaptive": {"distillation": "adaptive"},
    "labels": {"distillation": "none"},
    "conflict": {"conflict": True, "accumulate": 2},
    "average": {"ema": 0.9},
    "split": {"split_at": (PLACE,), "ema": 0.9, "split_after": 0.5},
    "split, sgd": {"split_at": (PLACE, "stem"), "optimiser": "sgd", "split_after": 0.3},
    "efficienttrain": {"curriculum": "efficienttrain", "randaugment": 9, "steps": 5},
    "efficienttrain++": {"curriculum": "efficienttrain++", "steps": 2},
    "sgd": {"optimiser": "sgd", "learning_rate": 0.05, "clip": 0.0},
    "accumulate": {"accumulate": 2},
    "not pooled": {"pooled": False},
    "bfloat16": {"bfloat16": True},
    "checkpointing": {"checkpointing": True},
}
ALONE = {
    "plain": {},
    "average": {"ema": 0.9, "optimiser": "sgd"},
    "augmented": SWITCHES["augmented"],
}


def colours(count=60):
    """Three classes that the mean of one channel tells apart."""
    images, labels = noise(count)
    images = images // 4
    images[torch.arange(count), labels] += 150
    return images, labels


def splittable(chosen):
    """A space whose stem can be split at, too."""
    if "stem" not in chosen.split_at:
        return layered()
    stem = {"one": {"kind": "convolution"}, "two": {"kind": "convolution", "norm": ["layer"]}}
    for genes in stem.values():
        genes["channels"] = [4]
    stem["one"]["norm"] = ["none"]
    return trainings.make_space({**trainings.LAYERED, "stem": stem})


def with_batch_norm():
    """A network that has running statistics."""
    genome = layered().sample(np.random.default_rng(0))
    return dataclasses.replace(genome, stem=dataclasses.replace(genome.stem, norm="batch"))


# ---- stop and go on


def check_resumes(make, tmp_path):
    """A training that stops after any of its steps ends as one that does not, to the last bit."""
    whole = make()
    whole.save(Checkpoints(tmp_path / "0"))
    for step in range(1, whole.steps + 1):
        whole.train_step()
        whole.save(Checkpoints(tmp_path / str(step)))
    assert whole.step == whole.steps == len(whole.losses)
    for step in range(whole.steps + 1):
        resumed = make()
        with torch.no_grad():
            next(iter(resumed._parameters.values())).add_(1)  # whatever was there is replaced
        assert resumed.load(Checkpoints(tmp_path / str(step)))
        assert resumed.step == step
        resumed.run()
        assert same(trainings.weights(resumed), trainings.weights(whole))
        assert same(resumed._average, whole._average)
        assert same(resumed._statistics(), whole._statistics())
        assert resumed.losses == whole.losses


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_a_supernet_that_was_stopped_ends_the_same(tmp_path, changes):
    chosen = settings(**changes)
    space = splittable(chosen)
    check_resumes(lambda: make_trainer(chosen, space=space), tmp_path)


@pytest.mark.parametrize("changes", ALONE.values(), ids=ALONE)
def test_a_network_alone_that_was_stopped_ends_the_same(tmp_path, changes):
    genome = with_batch_norm()
    check_resumes(lambda: make_alone(settings(**changes), genome=genome), tmp_path)


def test_what_is_checked_above_is_at_work():
    """Each switch changes the training; the network alone has statistics that move."""
    plain = make_trainer(settings(steps=2))
    plain.run()
    for name, changes in SWITCHES.items():
        chosen = settings(**{**changes, "steps": 2})
        other = make_trainer(chosen, space=splittable(chosen))
        other.run()
        equal = same(trainings.weights(other), trainings.weights(plain))
        assert equal == (name in ("plain", "checkpointing")), name
    alone = make_alone(settings(steps=1), genome=with_batch_norm())
    before = {name: value.clone() for name, value in alone._statistics().items()}
    alone.run()
    assert before
    assert not same(before, alone._statistics())


def test_run_leaves_a_checkpoint_and_says_what_happens(tmp_path):
    heard, checkpoints = [], Checkpoints(tmp_path)
    trained = make_trainer()
    trained.run(checkpoints, progress=lambda *now: heard.append(now))
    assert [(done, total) for done, total, _ in heard] == [(i + 1, 4) for i in range(4)]
    assert [loss for *_, loss in heard] == trained.losses
    again = make_trainer()
    assert again.load(checkpoints)
    assert again.step == 4
    assert same(trainings.weights(again), trainings.weights(trained))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004.safetensors"]


def test_nothing_to_go_on_from(tmp_path):
    assert not make_trainer().load(Checkpoints(tmp_path / "none"))


def test_an_interrupt_leaves_the_last_checkpoint(tmp_path):
    def stop(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    stopped = make_trainer()
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Checkpoints(tmp_path), every_seconds=0.0, progress=stop)
    resumed, whole = make_trainer(), make_trainer()
    resumed.load(Checkpoints(tmp_path))
    assert resumed.step == 2
    resumed.run()
    whole.run()
    assert same(trainings.weights(resumed), trainings.weights(whole))


def test_who_looks_at_the_drawn_networks_changes_nothing(tmp_path):
    """Between two steps, with a sampler that keeps count of what it deals."""
    chosen = settings(sampling="fair")
    whole, stopped, resumed = (make_trainer(chosen) for _ in range(3))
    whole.run()
    stopped.train_step()
    drawn = stopped.drawn()
    stopped.save(Checkpoints(tmp_path))
    resumed.load(Checkpoints(tmp_path))
    assert resumed.drawn() == drawn == stopped.drawn()
    for training in (stopped, resumed):
        training.run()
        assert same(trainings.weights(training), trainings.weights(whole))


def test_the_seed_decides_the_training():
    runs = [make_trainer(seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        torch.manual_seed(torch.seed())  # the global generator decides nothing
        run.run()
    assert runs[0].losses == runs[1].losses != runs[2].losses
    assert same(trainings.weights(runs[0]), trainings.weights(runs[1]))


# ---- checkpoints of something else

OTHERS = {
    "steps": (settings(steps=5), 0, "steps is 4 there, and 5 here"),
    "rate": (settings(learning_rate=1e-4), 0, "learning_rate is 0.008 there, and 0.0001 here"),
    "slots": (settings(split_at=(PLACE,)), 0, r"split_at is \[\] there, and \['stages.0.blocks'\]"),
    "seed": (settings(), 1, "seed is 0 there, and 1 here"),
}


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path)
    trained = make_trainer()
    trained.train_step()
    trained.save(made)
    return made


@pytest.mark.parametrize(("chosen", "seed", "message"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_another_training(checkpoints, chosen, seed, message):
    with pytest.raises(ValueError, match=f"was trained with other settings: {message}"):
        make_trainer(chosen, seed=seed).load(checkpoints)


def test_a_checkpoint_of_another_space(checkpoints, small_space):
    other = make_trainer(space=small_space, data=noise(side=8))
    before = trainings.weights(other)
    with pytest.raises(ValueError, match="space is 'layered' there, and 'small' here"):
        other.load(checkpoints)
    named = dataclasses.replace(small_space, name="layered")
    with pytest.raises(ValueError, match=r"not of this network: '.*' (differs|has shape)"):
        make_trainer(space=named, data=noise(side=8)).load(checkpoints)
    assert other.step == 0
    assert same(trainings.weights(other), before)


def test_a_checkpoint_of_another_network(tmp_path):
    rng = np.random.default_rng(5)
    one, two = layered().sample(rng), layered().sample(rng)
    trained = make_alone(genome=one)
    trained.train_step()
    trained.save(Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=f"network is '{one.digest}' there, and '{two.digest}'"):
        make_alone(genome=two).load(Checkpoints(tmp_path))


class Two:
    """Two processes, as far as a checkpoint knows."""

    rank, ranks = 0, 2

    def average(self, tensors):
        pass


def test_a_checkpoint_of_more_processes(tmp_path):
    """Which matters while there is something to train."""
    trained = make_trainer(group=Two())
    trained.train_step()
    trained.save(Checkpoints(tmp_path / "begun"))
    with pytest.raises(ValueError, match="ranks is 2 there, and 1 here"):
        make_trainer().load(Checkpoints(tmp_path / "begun"))
    trained.run(Checkpoints(tmp_path / "done"))
    other = make_trainer()
    assert other.load(Checkpoints(tmp_path / "done"))
    assert same(trainings.weights(other), trainings.weights(trained))


def test_processes_that_see_different_checkpoints(checkpoints):
    """Another process, which is at step 0, is added to this one's mean."""

    class Apart(Two):
        def average(self, tensors):
            for tensor in tensors:
                tensor /= 2

    training = make_trainer(group=Two())
    training._identity = make_trainer()._identity  # of one process, so that it can be taken up
    training.group = Apart()
    with pytest.raises(ValueError, match="file system that all of them see"):
        training.load(checkpoints)


# ---- a step against its formulas


def naive_losses(trainer, images, targets):
    """The losses of a step, written plainly: of the largest, and of all others."""
    chosen, supernet = trainer.settings, trainer.supernet

    def logits(genome):
        return supernet(genome, images, training=True)

    def cross_entropy(of, wanted):
        return -(wanted * of.log_softmax(1)).sum(1).mean()

    drawn = trainer.drawn()
    if not chosen.sandwich:
        return None, sum(cross_entropy(logits(genome), targets) for genome in drawn)
    teacher = logits(trainer.largest)
    trust, belief = trainer.step / trainer.steps, teacher.detach().softmax(1)
    others = 0.0
    for genome in [trainer.smallest, *drawn] if chosen.smallest else drawn:
        own = logits(genome)
        if chosen.distillation == "soft":
            others = others + cross_entropy(own, trust * belief + (1 - trust) * targets)
        elif chosen.distillation == "none":
            others = others + cross_entropy(own, targets)
        else:
            divergence = adaptive_divergence(own, teacher)
            others = others + trust * divergence + (1 - trust) * cross_entropy(own, targets)
    return cross_entropy(teacher, targets), others


def naive_gradients(trainer):
    """The clipped gradient of a step, by name; and the loss that it reports."""
    chosen, leaves = trainer.settings, trainer.supernet.weights
    sums = [{}, {}]
    for part in range(chosen.accumulate):
        examples = trainer._batches(trainer.step * chosen.accumulate + part)
        for total, loss in zip(
            sums, naive_losses(trainer, examples.images, examples.targets), strict=True
        ):
            if loss is None:
                continue
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for name, grad in zip(leaves, grads, strict=True):
                if grad is not None:
                    total[name] = total.get(name, 0) + grad / chosen.accumulate
    largest, others = sums
    found = {}
    for name in leaves:
        parts = [total[name] for total in sums if name in total]
        if not parts:
            continue
        found[name] = sum(parts)
        if chosen.conflict and len(parts) == 2:
            dot = float((largest[name] * others[name]).sum())
            if dot < 0:
                against = dot / float(others[name].square().sum())
                found[name] = largest[name] - against * others[name] + others[name]
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in found.values()))
    factor = min(1.0, chosen.clip / (norm + 1e-6)) if chosen.clip else 1.0
    return {name: grad * factor for name, grad in found.items()}


def naive_rate(chosen, step):
    """Of a training without a curriculum."""
    warm = max(1, round(chosen.warmup * chosen.steps))
    if step < warm:
        return chosen.learning_rate * (step + 1) / warm
    return (
        chosen.learning_rate * (1 + math.cos(math.pi * (step - warm) / (chosen.steps - warm))) / 2
    )


class NaiveOptimiser:
    """AdamW (arXiv 1711.05101, algorithm 2) and SGD with Nesterov's momentum, of one weight."""

    def __init__(self, chosen):
        self.chosen, self.t, self.m, self.v = chosen, 0, None, None

    def step(self, weight, grad, rate):
        decay = self.chosen.weight_decay if weight.ndim > 1 else 0.0
        self.t += 1
        if self.chosen.optimiser == "sgd":
            grad = grad + decay * weight
            self.m = grad if self.m is None else 0.9 * self.m + grad
            return weight - rate * (grad + 0.9 * self.m)
        self.m = 0.1 * grad if self.m is None else 0.9 * self.m + 0.1 * grad
        self.v = 0.001 * grad**2 if self.v is None else 0.999 * self.v + 0.001 * grad**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return weight * (1 - rate * decay) - rate * m / (v.sqrt() + 1e-8)


STEPS = {
    "soft": {},
    "adaptive": {"distillation": "adaptive"},
    "labels": {"distillation": "none", "sampled": 1},
    "without sandwich": {"sandwich": False, "sampled": 3},
    "without the smallest": {"smallest": False},
    "accumulate": {"accumulate": 2, "clip": 0.1},
    "conflict": {"conflict": True, "accumulate": 2},
    "unclipped": {"clip": 0.0, "optimiser": "sgd", "learning_rate": 0.05},
    "smoothed": {"label_smoothing": 0.2, "sampling": "fair"},
}


@pytest.mark.parametrize("changes", STEPS.values(), ids=STEPS)
def test_a_step_equals_its_formulas(changes, monkeypatch):
    chosen = settings(**{"warmup": 0.5, "weight_decay": 0.2, **changes})
    trainer, used = make_trainer(chosen), {}
    move = trainer._optimiser.step

    def step_of_optimiser():
        """PyTorch's SGD writes to the gradients."""
        used.clear()
        for name, weight in trainer.supernet.weights.items():
            if weight.grad is not None:
                used[name] = weight.grad.clone()
        move()

    monkeypatch.setattr(trainer._optimiser, "step", step_of_optimiser)
    optimisers = {name: NaiveOptimiser(chosen) for name in trainer.supernet.weights}
    for step in range(chosen.steps):
        before, expected = trainings.weights(trainer), naive_gradients(trainer)
        first = trainer.drawn()[0] if not chosen.sandwich else trainer.largest
        examples = [
            trainer._batches(step * chosen.accumulate + part) for part in range(chosen.accumulate)
        ]
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(
                    trainer.supernet(first, e.images, training=True), e.targets
                )
                for e in examples
            ]
        assert trainer.train_step() == pytest.approx(float(sum(losses)) / len(losses), rel=1e-5)
        size = max(float(grad.abs().max()) for grad in expected.values())
        rate = naive_rate(chosen, step)
        for name, weight in trainer.supernet.weights.items():
            if name not in expected:  # neither a gradient nor weight decay moves it
                assert name not in used
                assert torch.equal(weight, before[name])
                continue
            torch.testing.assert_close(used[name], expected[name], rtol=1e-3, atol=1e-5 * size)
            # From the gradient as it is: AdamW makes much of the rounding of those near zero.
            wanted = optimisers[name].step(before[name], used[name], rate)
            torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_two_passes_equal_one_of_twice_as_many_images():
    """To rounding; 24 images are four batches of 6 and two of 12."""
    plain = settings(optimiser="sgd", learning_rate=0.05)
    one = make_trainer(dataclasses.replace(plain, batch=12))
    two = make_trainer(dataclasses.replace(plain, accumulate=2))
    one.run()
    two.run()
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
    for name, weight in one.supernet.weights.items():
        torch.testing.assert_close(weight, two.supernet.weights[name], atol=1e-6, rtol=1e-5)


def test_gradients_that_agree_are_added(monkeypatch):
    """And of those that do not, what points against the others is left out."""
    trainer = make_trainer(settings(conflict=True))
    names = list(trainer.supernet.weights)[:3]
    generator = torch.Generator().manual_seed(0)
    largest, others = {}, {}
    for name, way in zip(names, (1, -1, 0), strict=True):
        weight = trainer.supernet.weights[name]
        others[name] = torch.randn(weight.shape, generator=generator)
        across = torch.randn(weight.shape, generator=generator)
        across -= (across * others[name]).sum() / others[name].square().sum() * others[name]
        largest[name] = way * 2 * others[name] + across
        weight.grad = others[name].clone()
    lonely = list(trainer.supernet.weights)[3]
    largest[lonely] = torch.ones_like(trainer.supernet.weights[lonely])
    trainer._of_largest = {name: grad.clone() for name, grad in largest.items()}
    trainer._join()
    for name, way in zip(names, (1, -1, 0), strict=True):
        joined = trainer.supernet.weights[name].grad
        part = joined - others[name]  # what of the largest's is left
        if way < 0:
            assert float((part * others[name]).sum()) == pytest.approx(0, abs=1e-3)
            across = largest[name] + 2 * others[name]
            torch.testing.assert_close(part, across, atol=1e-5, rtol=1e-4)
        else:
            torch.testing.assert_close(joined, largest[name] + others[name])
    assert torch.equal(trainer.supernet.weights[lonely].grad, largest[lonely])
    assert not trainer._of_largest


def test_the_learning_rate_rises_and_falls():
    trained = make_trainer(settings(steps=100, learning_rate=0.01, warmup=0.1))
    rates = [trained.learning_rate(step) for step in range(100)]
    assert max(rates) == rates[10] == 0.01
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.005)  # half-way down
    assert 0 < rates[99] < 1e-4


# ---- the average


def test_the_average_equals_its_recursion():
    """Probes see it, and in the end it is what is there; it does not touch the training."""
    plain, averaged = make_trainer(settings(steps=6)), make_trainer(settings(steps=6, ema=0.3))
    expected, seen = trainings.weights(plain), []

    def probe():
        seen.append(trainings.weights(averaged))
        return {"found": len(seen)}

    averages = []
    for step in range(1, 7):
        plain.train_step()
        decay = min(0.3, (1 + step) / (10 + step))
        for name, weight in plain.supernet.weights.items():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
        averages.append({name: value.clone() for name, value in expected.items()})
    averaged.run(probe=probe)
    assert averaged.losses == plain.losses
    assert averaged.probes == [{"step": step, "found": step} for step in range(1, 7)]
    for found, wanted in zip(
        [*seen, trainings.weights(averaged)], [*averages, expected], strict=True
    ):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    raw, average = trainings.weights(plain), trainings.weights(averaged)
    assert any((raw[name] - average[name]).abs().max() > 1e-4 for name in raw)


def test_a_probe_that_fails_leaves_the_weights():
    def probe():
        raise RuntimeError("nothing to see")

    trained, other = make_trainer(settings(ema=0.5)), make_trainer(settings(ema=0.5))
    with pytest.raises(RuntimeError):
        trained.run(probe=probe)
    other.train_step()
    assert trained.step == 1
    assert same(trainings.weights(trained), trainings.weights(other))


# ---- what is trained


def test_the_loss_falls_and_small_networks_learn_too(small_space):
    images, labels = colours()
    data = nn.functional.avg_pool2d(images.float(), 2).to(torch.uint8), labels
    chosen = settings(steps=80, batch=20, learning_rate=0.01)
    trained = make_trainer(chosen, space=small_space, data=data)
    trained.run()
    assert np.mean(trained.losses[-10:]) < 0.3 * np.mean(trained.losses[:3])
    pixels = normalise(data[0], trainings.MEAN, trainings.STD)
    for genome in (trained.largest, trained.smallest):
        buffers = trained.supernet.calibrate(genome, [pixels])
        with torch.no_grad():
            right = trained.supernet(genome, pixels, buffers=buffers).argmax(1) == labels
        assert right.float().mean() > 0.9


def test_a_network_alone_learns(small_space):
    images, labels = colours()
    trained = make_alone(settings(steps=40, batch=20, learning_rate=0.01))
    trained._batches = make_batches(trained.settings, (images, labels))
    trained.run()
    assert np.mean(trained.losses[-10:]) < 0.3 * np.mean(trained.losses[:3])
    pixels = normalise(images, trainings.MEAN, trainings.STD)
    with torch.no_grad():
        right = trained.network.eval()(pixels).argmax(1) == labels
    assert right.float().mean() > 0.9


def test_each_step_trains_the_ends_and_drawn_networks(monkeypatch):
    trained, seen = make_trainer(), []
    forward = Supernet.__call__

    def record(self, genome, *arguments, **options):
        assert options["training"]
        seen.append(genome)
        return forward(self, genome, *arguments, **options)

    monkeypatch.setattr(Supernet, "__call__", record)
    for _ in range(trained.steps):
        seen.clear()
        drawn = trained.drawn()
        trained.train_step()
        assert seen == [trained.largest, trained.smallest, *drawn]  # the largest teaches
    rows = layered().sample_codes(np.random.default_rng(0), 300)
    macs = [layered().decode(row).cost().macs for row in rows]
    assert trained.smallest.cost().macs <= min(macs)
    assert trained.largest.cost().macs >= max(macs)


@pytest.mark.parametrize("curriculum", ["efficienttrain", "efficienttrain++"])
def test_a_curriculum_shows_all_networks_smaller_images(monkeypatch, curriculum):
    trained, seen = make_trainer(settings(steps=10, curriculum=curriculum)), []
    forward = Supernet.__call__

    def record(self, genome, images, **options):
        assert genome.resolution == images.shape[-1]
        seen.append(genome.resolution)
        return forward(self, genome, images, **options)

    monkeypatch.setattr(Supernet, "__call__", record)
    rates = [trained.learning_rate(step) for step in range(trained.steps)]
    trained.run()
    assert seen == sorted(seen)
    assert seen[0] < 16 == seen[-1]
    assert trained.steps > 10 if curriculum.endswith("+") else trained.steps == 10
    warm = round(0.1 * trained.steps) if trained.steps > 10 else 1
    assert rates[warm:] == sorted(rates[warm:], reverse=True)


def test_a_curriculum_that_a_space_does_not_allow():
    """Found out before the first step: its networks cannot work on such small images."""
    stage = {**trainings.LAYERED["stages"][0], "operators": {"regional_mixing": {"region": [2]}}}
    space = trainings.make_space({**trainings.LAYERED, "stages": [stage]})
    make_trainer(space=space)
    with pytest.raises(ValueError, match=r"curriculum is 'efficienttrain\+\+'.* at \d+ pixels"):
        make_trainer(settings(curriculum="efficienttrain++"), space=space)


# ---- memory and precision


def gradients(chosen):
    trainer = make_trainer(chosen)
    loss = trainer.train_step()
    found = {n: w.grad for n, w in trainer.supernet.weights.items() if w.grad is not None}
    return found, loss


def test_activations_that_are_computed_twice_change_nothing():
    """Also where two networks of a step share a part's module."""
    (plain, loss), (again, other) = (
        gradients(settings(clip=0.0, checkpointing=on, sampled=6)) for on in (False, True)
    )
    assert loss == other
    assert set(plain) == set(again)
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, atol=1e-7, rtol=1e-5)


def test_bfloat16_stays_close():
    (plain, loss), (half, other) = (
        gradients(settings(clip=0.0, bfloat16=on)) for on in (False, True)
    )
    assert loss != other == pytest.approx(loss, rel=0.02)
    assert all(grad.dtype == torch.float32 for grad in half.values())
    whole = torch.cat([grad.flatten() for grad in plain.values()])
    rounded = torch.cat([half[name].flatten() for name in plain])
    assert 0 < float((whole - rounded).norm() / whole.norm()) < 0.1
    trained = make_trainer(
        settings(steps=40, batch=20, learning_rate=0.01, bfloat16=True), data=colours()
    )
    trained.run()
    assert np.mean(trained.losses[-5:]) < 0.5 * np.mean(trained.losses[:3])


# ---- what goes wrong


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"conflict": True}, {"clip": 0.0}])
def test_a_gradient_that_is_not_a_number(tmp_path, changes):
    trainer = make_trainer(settings(steps=6, **changes))
    whole = trainer._batches

    class Poisoned:
        def __call__(self, j, phase=None):
            examples = whole(j, phase)
            return (
                dataclasses.replace(examples, images=examples.images * math.nan)
                if j == 3
                else examples
            )

    trainer._batches = Poisoned()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Diverged, match=r"in step 4 .* learning_rate below 0\.008"):
        trainer.run(checkpoints, every_seconds=0.0)
    assert trainer.step == 3
    good = make_trainer(settings(steps=6, **changes))
    good.load(checkpoints)
    assert good.step == 3
    assert same(trainings.weights(good), trainings.weights(trainer))
    assert all(weight.isfinite().all() for weight in good.supernet.weights.values())
    good.run()


def test_an_absurd_learning_rate():
    trainer = make_trainer(settings(learning_rate=1e30, warmup=0.0))
    with pytest.raises(Diverged, match="learning_rate below 1e"):
        trainer.run()
