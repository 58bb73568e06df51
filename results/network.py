"""What every exported network is: stem, stages and head, with the interface of timm's models.

An export copies these classes as they are, so they need torch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Network(nn.Module):
    """Images (N, in_chans, H, W) to logits (N, num_classes), with the methods of timm's models."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[nn.Module]],
        head: nn.Module,
        num_classes: int,
        features: Sequence[tuple[int, int, int]],
    ):
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self.head = head
        self.num_classes, self.num_features = num_classes, features[-1][1]
        self.feature_info = [
            {"module": f"stages.{stage}", "num_chs": channels, "reduction": reduction}
            for stage, channels, reduction in features
        ]
        self.grad_checkpointing = False

    def no_weight_decay(self) -> set[str]:
        return {name for name, value in self.named_parameters() if value.ndim <= 1}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("classifier")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, none for 0 classes; all else stays."""
        head = type(self.head)(num_classes or 1).to(next(self.parameters()).device)
        self.head.classifier = head.classifier if num_classes else nn.Identity()
        self.num_classes = num_classes
        self.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        intermediates_only: bool = False,
        **_: Any,
    ) -> Any:
        """Maps (N, num_chs, H / reduction, W / reduction) of those in `feature_info`: all, the
        last few, or at `indices`; behind what `forward_features` gives, unless they alone."""
        taken = self.feature_info
        if indices is not None:
            taken = taken[-indices:] if isinstance(indices, int) else [taken[i] for i in indices]
        wanted = [info["module"] for info in taken]
        x, maps = self.stem(x), []
        for i, stage in enumerate(self.stages):
            for block in stage.children():
                again = self.grad_checkpointing and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            if f"stages.{i}" in wanted:
                maps.append(self.map_of(x))
        return maps if intermediates_only else (x, maps)

    def map_of(self, x: Any) -> Tensor:
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, num_features, H / reduction, W / reduction)."""
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the last map, or (N, F), which the classifier reads."""
        return self.head(x, pre_logits or not self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class MixedNetwork(Network):
    """A network where something travels beside the map, such as class tokens."""

    def map_of(self, x: Any) -> Tensor:
        return x[0] if isinstance(x, tuple) else x
