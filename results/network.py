"""What every exported network is: stem, stages and head, with the interface of timm's models.

An export copies these classes as they are, so they need torch alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Network(nn.Module):
    """Images (N, in_chans, H, W) to logits (N, num_classes), with the methods of timm's models."""

    def __init__(
        self, stem: nn.Module, stages: list, head: nn.Module, num_classes: int, features: list
    ):
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self.head = head
        self.num_classes = num_classes
        self.num_features = features[-1][1]
        self.feature_info = [
            {"module": f"stages.{i}", "num_chs": c, "reduction": r} for i, c, r in features
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
        self, x: Tensor, indices: Any = None, intermediates_only: bool = False, **_: Any
    ) -> Any:
        """The last map, and the maps of `feature_info`: all, the last few, or at `indices`."""
        if indices is None or isinstance(indices, int):
            indices = range(-(indices or len(self.feature_info)), 0)
        wanted = [self.feature_info[i]["module"] for i in indices]
        again = self.grad_checkpointing and torch.is_grad_enabled()
        x, maps = self.stem(x), []
        for i, stage in enumerate(self.stages):
            for block in stage.children():
                x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            if f"stages.{i}" in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the last map, or (N, F), which the classifier reads."""
        return self.head(x, pre_logits or not self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class MixedNetwork(Network):
    """A network where something travels beside the map, such as class tokens."""

    def forward_intermediates(
        self, x: Tensor, indices: Any = None, intermediates_only: bool = False, **_: Any
    ) -> Any:
        """The same, but the maps of `feature_info` without what travels beside them."""
        last, maps = super().forward_intermediates(x, indices)
        maps = [y[0] if isinstance(y, tuple) else y for y in maps]
        return maps if intermediates_only else (last, maps)
