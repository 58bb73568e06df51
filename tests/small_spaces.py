"""Definitions of small spaces that tests of several folders share."""

from typing import Any

# Three operators, no BatchNorm, two resolutions.
LAYERS: dict[str, Any] = {
    "name": "layers",
    "resolution": [8, 16],
    "classes": 3,
    "stem": {"convolution": {"channels": [4, 8], "norm": ["layer"]}},
    "stages": [
        {
            "channels": [8, 12],
            "depth": [1, 2, 3],
            "stride": 2,
            "downsampling": {"local_dsm": {"norm": ["layer"]}},
            "operators": {
                "inverted_bottleneck": {"expansion": [1, 2], "norm": ["layer"]},
                "modulation": {"expansion": [1, 2], "levels": [2]},
                "attention": {"region": ["window"], "context": [4], "head_dim": [4]},
            },
        }
    ],
    "head": {"pooled": {"features": [0, 16], "norm": ["layer"]}},
}
