"""An evaluator for Ray's workers, which import it by name."""

import os
import signal
from pathlib import Path

import torch

from evaluator.interfaces import Score
from evaluator.scoring import Outcomes


class Digest:
    """The score is the digest, as a share of the largest one, and says who gave it.

    Dies of SIGKILL the first time it sees one of `once`, and each time it sees one of `always`;
    fails for each of `fails`.
    """

    def __init__(self, tensors, folder=".", once=(), always=(), fails=()):
        self.tensors, self.folder = tensors, Path(folder)
        self.once, self.always, self.fails = once, always, fails

    def die(self, digest):
        marker = self.folder / digest
        if digest in self.always or (digest in self.once and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def measure(self, genomes, first, last):
        """Outcomes of made-up images, of which image i has the i-th digit for its logit."""
        found = []
        for genome in genomes:
            self.die(genome.digest)
            if genome.digest in self.fails:
                found.append(ValueError(f"no score\n for {genome.digest}"))
                continue
            digits = torch.tensor([int(digit, 16) for digit in genome.digest[first:last]])
            outcomes = Outcomes()
            outcomes.add(torch.stack([digits / 16, torch.zeros(len(digits))], 1), digits * 0)
            found.append(outcomes)
        return found

    def evaluate(self, genome):
        digest = genome.digest
        self.die(digest)
        if digest in self.fails:
            raise ValueError(f"no score\n for {digest}")
        details = {"pid": os.getpid(), "threads": torch.get_num_threads()}
        for name, tensor in self.tensors.items():
            details[name] = float(tensor.double().sum())
            details[f"{name}.size"] = tensor.numel()
        return Score(int(digest, 16) / 16**12, details)


def make(tensors, broken=False, **settings):
    if broken:
        raise OSError("no data\n here")
    return Digest(tensors, **settings)
