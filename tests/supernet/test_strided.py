"""Strided 1x1 convolutions on a CPU: the same results, from maps that are stored by channel."""

import torch
from torch import nn

from supernet.strided import stored_by_channel


def test_maps_are_stored_by_channel_where_it_matters():
    """The backward pass itself may not be run otherwise: it corrupts the heap."""
    torch.manual_seed(0)
    plain, strided, wide = (
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 1, stride=2),
        nn.Conv2d(4, 8, 3, stride=2),
    )
    seen = []
    for layer in (plain, strided, wide):
        stored_by_channel(layer)
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    for layer in (plain, strided, wide):
        layer(x)
    assert [y.is_contiguous() for y in seen] == [False, True, False]
    expected = torch.einsum("dc,nchw->ndhw", strided.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(strided(x), expected + strided.bias[:, None, None])
