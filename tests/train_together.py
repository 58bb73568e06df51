"""A process of a group: `python train_together.py JOBS OUT`, with what torchrun sets.

JOBS is a JSON list of changes to the plain settings; the weights and losses of each training are
left in the folder OUT, by job and rank.
"""

import json
import sys
from pathlib import Path

import torch
import trainings
from safetensors.torch import save_file

from supernet.distributed import launched_group


def main(jobs: str, out: str) -> None:
    torch.set_num_threads(1)
    with launched_group(torch.device("cpu")) as group:
        for i, changes in enumerate(json.loads(jobs)):
            trainer = trainings.make_trainer(trainings.settings(**changes), group=group)
            trainer.run()
            weights = trainings.weights(trainer)
            tensors = {name: weight.contiguous() for name, weight in weights.items()}
            place = Path(out) / f"{i}-{group.rank}"
            save_file(tensors, place.with_suffix(".safetensors"))
            place.with_suffix(".json").write_text(json.dumps(trainer.losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
