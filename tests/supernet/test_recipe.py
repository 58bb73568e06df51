"""Settings of a training: plain data both ways, and one line for what is wrong."""

import dataclasses
import json
import math
import re

import pytest
import yaml

from supernet.recipe import TrainingSettings

OTHER = TrainingSettings(
    steps=7,
    optimiser="sgd",
    learning_rate=0.1,
    sandwich=False,
    sampling="fair",
    split_at=("stem", "stages.0.blocks"),
    curriculum="efficienttrain",
    bfloat16=True,
)


@pytest.mark.parametrize("settings", [TrainingSettings(), OTHER])
def test_settings_come_back_from_plain_data(settings):
    plain = settings.to_plain()
    assert set(plain) == {field.name for field in dataclasses.fields(settings)}
    for read in (plain, json.loads(json.dumps(plain)), yaml.safe_load(yaml.safe_dump(plain))):
        assert TrainingSettings.from_plain(read) == settings


def test_settings_left_out_take_their_default():
    assert TrainingSettings.from_plain({}) == TrainingSettings()
    assert TrainingSettings.from_plain({"steps": 7}) == TrainingSettings(steps=7)


def test_every_setting_says_what_it_is():
    for setting in dataclasses.fields(TrainingSettings):
        assert setting.metadata["about"], setting.name
        allowed = setting.metadata["allowed"]
        assert not allowed or setting.default in allowed


WRONG = {
    "steps": ({"steps": 0}, "steps is 0, but must be a whole number of at least 1"),
    "batch": ({"batch": 2.0}, "batch is 2.0, but must be a whole number of at least 1"),
    "accumulate": ({"accumulate": True}, "accumulate is True, but must be a whole number"),
    "sampled": ({"sampled": -1}, "sampled is -1, but must be a whole number of at least 0"),
    "text": ({"steps": "many"}, "steps is 'many', but must be a whole number of at least 1"),
    "rate": ({"learning_rate": 0}, "learning_rate is 0, but must be above 0 and finite"),
    "no rate": ({"learning_rate": math.inf}, "learning_rate is inf, but must be above 0"),
    "rate nan": ({"learning_rate": math.nan}, "learning_rate is nan, but must be above 0"),
    "rate bool": ({"learning_rate": True}, "learning_rate is True, but must be above 0"),
    "rate text": ({"learning_rate": "1e-3"}, "learning_rate is '1e-3', but must be above 0"),
    "warmup": ({"warmup": 1.5}, "warmup is 1.5, but must be a number from 0 to 1"),
    "decay": ({"weight_decay": -1}, "weight_decay is -1, but must be a number of at least 0"),
    "clip": ({"clip": math.nan}, "clip is nan, but must be a number of at least 0"),
    "ema": ({"ema": 2}, "ema is 2, but must be a number from 0 to 1"),
    "randaugment": ({"randaugment": 11}, "randaugment is 11, but must be a number from 0 to 10"),
    "mixup": ({"mixup": None}, "mixup is None, but must be a number of at least 0"),
    "flip": ({"flip": 1}, "flip is 1, but must be true or false"),
    "sampling": ({"sampling": "odd"}, "sampling is 'odd', but must be one of uniform, even, fair"),
    "curriculum": ({"curriculum": "x"}, "curriculum is 'x', but must be one of none, effic"),
    "optimiser": ({"optimiser": ["sgd"]}, "optimiser is ['sgd'], but must be one of adamw, sgd"),
    "slots": ({"split_at": "stem"}, "split_at is 'stem', but must be a list of slots' names"),
    "slot": ({"split_at": [3]}, "split_at is [3], but must be a list of slots' names"),
    "after": ({"split_after": -0.1}, "split_after is -0.1, but must be a number from 0 to 1"),
    "nothing": ({"sandwich": False, "sampled": 0}, "sampled is 0, but must be at least 1 without"),
    "unknown": ({"lr": 1}, "unknown training setting 'lr'; there are accumulate, batch,"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        TrainingSettings.from_plain(changes)
    assert "\n" not in str(raised.value)
