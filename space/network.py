"""A genome as a PyTorch network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from space.genome import Genome


class Stage(nn.Module):
    """Blocks of one width and resolution, behind an optional downsampling module."""

    def __init__(self, downsample: nn.Module | None, blocks: list[nn.Module]):
        super().__init__()
        self.downsample = downsample or nn.Identity()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Network(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Module):
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.head = head

    def forward_features(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the head reads: the last map, (N, channels, H / stride, W / stride), as the first
        of a tuple where something travels beside it, such as class tokens."""
        return self.stages(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def build(genome: Genome) -> Network:
    """The network with fresh weights; under `torch.device("meta")` it takes no memory."""
    built = {placed.path: placed.build() for placed in genome.parts()}
    stages = [
        Stage(
            built.get(f"stages.{i}.downsample"),
            [built[f"stages.{i}.blocks.{j}"] for j in range(len(stage.blocks))],
        )
        for i, stage in enumerate(genome.stages)
    ]
    return Network(built["stem"], stages, built["head"])
