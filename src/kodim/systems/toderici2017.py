"""Full-resolution recurrent codec: four cells, three ways to add up, and an entropy coder for its bits.

G. Toderici, D. Vincent, N. Johnston, S. J. Hwang, D. Minnen, J. Shor, M. Covell, "Full Resolution Image Compression
with Recurrent Neural Networks", CVPR 2017, arXiv 1608.05148.

The loop of `toderici2016` on pictures of any size, 32 bits for each 16x16 pixels and pass (0.125 bits per pixel
before entropy coding)::

    x - x_hat --[conv/2, cell/2, cell/2, cell/2, 1x1]--> u --sign--> b | BinaryRNN |
    x_hat <--(+)-- [1x1, (cell, depth-to-space x2) x 4, 1x1] <-------------'

`cell` is "lstm", "gru", "residual-gru" or, in the decoder, "associative". `frame` says what the decoder paints at each
pass: the picture ("one-shot"), what is to be added to it ("additive"), or that times a gain which a small network
reads off the picture so far, one for each 32x32 pixels ("scaled"). Presets other than the additive LSTM exist in
compact sizes; `Toderici2017(**Toderici2017.presets["paper"] | {"cell": "gru", "frame": "one-shot"})` is as large as
the paper's.
"""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..progressive import Progressive
from ..transforms.recurrent import decoder, encoder


class Toderici2017(Progressive):
    """Recurrent codec of 1608.05148; a plane of bits (B, bits, H/16, W/16) at each pass."""

    info = {
        "slug": "toderici2017",
        "title": "Full resolution image compression with recurrent neural networks",
        "authors": "Toderici, Vincent, Johnston, Hwang, Minnen, Shor, Covell",
        "year": 2017,
        "arxiv": "1608.05148",
        "aliases": ["full-resolution-rnn"],
        "improves": "toderici2016",
        "place": "10 minutes from a coder of DCT signs, and 6 for the network on its bits; the published model saw a "
        "million steps.",
        "taxonomy": {
            "network": "RNN (convolutional LSTM, GRU, associative LSTM)",
            "unit": "full image",
            "spatial": "causal context on bits",
            "rate": "number of passes, one model",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {"sizes": ((64, 256, 512, 512), (512, 512, 512, 256, 128)), "bits": 32, "passes": 16},
        "compact": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "bits": 32,
            "passes": 8,
            "radius": 2,
            "dct": True,
        },
        "compact-gru": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "bits": 32,
            "passes": 8,
            "radius": 2,
            "cell": "gru",
            "frame": "one-shot",
        },
        "compact-residual-gru": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "bits": 32,
            "passes": 8,
            "radius": 2,
            "cell": "residual-gru",
            "frame": "scaled",
        },
        "compact-associative": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "bits": 32,
            "passes": 8,
            "radius": 2,
            "cell": "associative",
            "frame": "one-shot",
        },
        "test": {"sizes": ((8, 8, 8, 8), (8, 16, 16, 16, 16)), "bits": 8, "passes": 3, "radius": 1, "frame": "scaled"},
    }

    def __init__(
        self,
        sizes: tuple[tuple[int, ...], tuple[int, ...]],
        bits: int,
        passes: int,
        cell: str = "lstm",
        frame: str = "additive",
        radius: int = 3,
        dct: bool = False,
    ) -> None:
        """`dct`: begin as a coder of DCT signs, with a learned zoom of each pass (not in the paper)."""
        super().__init__(passes, bits, f"rnn-{radius}", "one-shot" if frame == "one-shot" else "additive")
        self.encoder = encoder(sizes[0], "lstm" if cell == "associative" else cell, (1, 1, 1), bits)
        self.decoder = decoder(sizes[1], cell, (1, 1, 3, 3), bits)
        self.gain = _gain() if frame == "scaled" else None
        if dct:
            self.start()

    def scale(self, k: int, picture: Tensor) -> Any:
        if self.gain is None or k == 0:
            return super().scale(k, picture)
        return F.interpolate(2 + self.gain(picture), scale_factor=32.0, mode="nearest")


def _gain() -> nn.Sequential:
    """Picture (B, 3, H, W) -> (B, 1, H/32, W/32) above -1, small at the start."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise((3, 32, 32, 32, 32)):
        layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.ELU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 1, 2, 2), nn.ELU())
