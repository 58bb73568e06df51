"""How alike two trained networks are: linear CKA of their layers, and error consistency.

CKA says whether two layers see the same images as alike; it does not change when the features of a
layer are rotated or scaled together. Sources: Kornblith et al., 2019, arXiv 1905.00414; over
minibatches by the unbiased estimator, Nguyen et al., 2020, arXiv 2010.15327, equation 3, with the
HSIC_1 of Song et al., 2012, "Feature Selection via Dependence Maximization":

    HSIC_1(K, L) = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 (1'KL1) / (n-2)] / (n (n-3))

for Gram matrices K and L whose diagonal is 0. The number is the same, and loses fewer digits, where
each Gram matrix is centred by itself first (the U-centring of Szekely and Rizzo, 2014, "Partial
Distance Correlation with Methods for Dissimilarities"): HSIC_1 is then their mean product off the
diagonal. So all pairs of M layers are one (M, n n) matrix times itself, and a layer's features are
let go as soon as its Gram matrix is there.

A Gram matrix is summed in float64 over chunks of features, so that large maps take no more memory
than small ones. Pooling would bound it, too, but compares other representations than those that the
network has.

Error consistency is Cohen's kappa of being right and wrong on the same images: Geirhos et al.,
2020, arXiv 2006.16736.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from space.network import Network

LEAST_IMAGES = 4  # of a minibatch, for the unbiased estimator
_CHUNK = 1 << 20  # numbers of float64 in hand at a time: 8 MiB


# ---- CKA


def centred_gram(features: Tensor, *, chunk: int = _CHUNK) -> Tensor:
    """Products of the images of a minibatch, U-centred: (N, ...) to (N, N) float64, with a diagonal
    of 0 and rows that sum to 0. `chunk` numbers are in hand at a time. ValueError for too few
    images."""
    flat = features.detach().flatten(1)
    count = len(flat)
    if count < LEAST_IMAGES:
        raise ValueError(f"a minibatch has {count} images, but must have at least {LEAST_IMAGES}")
    gram = torch.zeros(count, count, dtype=torch.float64, device=flat.device)
    for part in flat.split(max(1, chunk // count), 1):
        part = part.double()
        # The same for every image, so that it changes nothing below; without it, products of large
        # means would leave few digits for what differs.
        part = part - part.mean(0)
        gram += part @ part.T
    gram.fill_diagonal_(0.0)
    rows = gram.sum(1) / (count - 2)
    gram += rows.sum() / (count - 1) - rows[:, None] - rows
    return gram.fill_diagonal_(0.0)


class MinibatchCKA:
    """Linear CKA between all pairs of layers, of one network or of several, over minibatches.

    HSIC_1 of each pair is a mean over minibatches, and the ratio is taken of the means: so what
    stands above and below the line does not depend on the size of a minibatch, in expectation.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._batches = 0

    def add(self, grams: Sequence[Tensor]) -> None:
        """One minibatch: for each layer its `centred_gram` of the same images, (N, N)."""
        flat = torch.stack([gram.flatten() for gram in grams])
        count = len(grams[0])
        hsic = (flat @ flat.T / (count * (count - 3))).cpu()
        self._sums = hsic if self._sums is None else self._sums + hsic
        self._batches += 1

    def hsic(self) -> Tensor:
        """The estimates of HSIC, (M, M) float64."""
        if self._sums is None:
            raise ValueError("no minibatch was added")
        return self._sums / self._batches

    def value(self) -> Tensor:
        """CKA, (M, M) float64, 1 where both layers are alike and about 0 where they have nothing to
        do with each other; noise may take it a little outside of [0, 1]. NaN where a layer is the
        same for all images."""
        hsic = self.hsic()
        own = hsic.diagonal()
        varies = own > 0
        scale = torch.where(varies, own, math.nan).sqrt()
        return hsic / scale[:, None] / scale


def batch_sizes(images: int, most: int) -> list[int]:
    """Sizes of minibatches of up to `most` images, as equal as can be: each HSIC has one weight.
    ValueError where there are too few images."""
    count = math.ceil(images / max(most, LEAST_IMAGES))
    if images < LEAST_IMAGES:
        raise ValueError(f"there are {images} images, but must be at least {LEAST_IMAGES}")
    return [images // count + (i < images % count) for i in range(count)]


# ---- the layers of a network


def layer_names(network: Network) -> list[str]:
    """The layers that are compared, in the order in which an image meets them; the last is what the
    classifier reads."""
    stages = [f"stage {i + 1}" for i in range(len(network.stages))]
    return ["stem", *stages, "head input"]


@contextmanager
def watched(network: Network, see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Meanwhile, `see` gets the place in `layer_names` and the features (N, ...) of each layer as
    the network comes to it. Of what travels beside a map, such as class tokens, nothing is seen
    before the head, whose classifier may read it."""
    places: list[tuple[int, nn.Module]] = [(0, network.stem)]
    places += [(i + 1, stage) for i, stage in enumerate(network.stages)]
    hooks = [
        module.register_forward_hook(lambda _m, _in, out, place=place: see(place, _map(out)))
        for place, module in places
    ]
    last = len(places)
    classifier = _classifier(network.head)
    hooks.append(
        classifier.register_forward_pre_hook(lambda _module, given: see(last, _map(given)))
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _classifier(head: nn.Module) -> nn.Module:
    """The last linear layer; the head itself where it has none. Where several average their
    logits, it is that of the last."""
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else head


def _map(value: Any) -> Tensor:
    """The first of what a module takes or gives."""
    while not isinstance(value, Tensor):
        value = value[0]
    return value


# ---- error consistency


def kappa(right: Tensor) -> Tensor:
    """Error consistency of all pairs of M deciders, (M, N) bool to (M, M) float64: whether each was
    right on each of the same N images. 1 where they err on the same images, 0 where they do so as
    often as independent errors would, below 0 where less often. Where both are right on all images,
    or wrong on all, it is 1.
    """
    observed, expected = _agreement(right)
    same = observed == 1
    return torch.where(same, 1.0, (observed - expected) / torch.where(same, 1.0, 1 - expected))


def chance_kappa(right: Tensor) -> Tensor:
    """Standard deviation of `kappa` where errors are independent, (M, M): Fleiss, Cohen and
    Everitt, 1969, for two kinds of decision. NaN where a decider is always right or
    always wrong."""
    _, expected = _agreement(right)
    p = right.double().mean(1)
    pairs = [(q[:, None] * q, q[:, None] + q) for q in (p, 1 - p)]
    spread = expected + expected**2 - sum(product * total for product, total in pairs)
    varies = (p > 0) & (p < 1)
    known = varies[:, None] & varies
    found = spread.clamp(min=0).sqrt() / ((1 - expected) * math.sqrt(right.shape[1]))
    return torch.where(known, found, math.nan)


def _agreement(right: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of images on which two are both right or both wrong, (M, M): as observed, and as
    expected of independent errors."""
    r = right.double()
    wrong = 1 - r
    count = r.shape[1]
    p = r.mean(1)
    observed = (r @ r.T + wrong @ wrong.T) / count
    return observed, p[:, None] * p + (1 - p)[:, None] * (1 - p)
