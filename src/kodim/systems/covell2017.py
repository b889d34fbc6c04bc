"""Recurrent codec that tolerates stop codes: a target quality for every part of the picture.

M. Covell, N. Johnston, D. Minnen, S. J. Hwang, J. Shor, S. Singh, D. Vincent, G. Toderici, "Target-Quality Image
Compression with Recurrent, Convolutional Neural Networks", 2017, arXiv 1705.06687.

The loop of `toderici2017` with GRU cells, in which every 16x16 pixels stop sending once more is not worth it. Codes
are 0 or 1 and a missing one is 0, the same as outside the picture; training stops half of the pictures of a batch as
a file will, at thresholds of all sizes, and lets the others send everything::

    x - x_hat --[conv/2, GRU/2, GRU/2, GRU/2, 1x1]--> u --sign, 0 where stopped--> b | flags, bits |
    x_hat <-- [1x1, (GRU, depth-to-space x2) x 4, 1x1] <-- b <----------------------------'

The paper's stop code is a word of zeros. Here it is a flag of its own, entropy-coded: a word of zeros that is meant
needs no way around, and the decoder knows what is active from the flags alone, without a map.
"""

from torch import Tensor

from ..progressive import Adaptive
from ..transforms.recurrent import decoder, encoder


class Covell2017(Adaptive):
    """Stop-code-tolerant codec of 1705.06687; at most `passes` planes of bits (B, bits, H/16, W/16)."""

    info = {
        "slug": "covell2017",
        "title": "Target-quality image compression with recurrent, convolutional neural networks",
        "authors": "Covell, Johnston, Minnen, Hwang, Shor, Singh, Vincent, Toderici",
        "year": 2017,
        "arxiv": "1705.06687",
        "aliases": ["stop-code-tolerant"],
        "improves": "toderici2017",
        "place": "7 minutes from a coder of DCT signs; codes of 1 and 0 halve the coefficients that the start can "
        "tell.",
        "taxonomy": {
            "network": "RNN (convolutional GRU)",
            "unit": "full image, bits per 16x16 tile",
            "spatial": "causal context on bits",
            "rate": "target quality; stop codes per tile",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"sizes": ((64, 256, 512, 512), (512, 512, 512, 256, 128)), "bits": 32, "passes": 16},
        "compact": {"sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)), "bits": 32, "passes": 8, "dct": True},
        "test": {"sizes": ((8, 8, 8, 8), (8, 16, 16, 16, 16)), "bits": 8, "passes": 3},
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)
    masked = 0.5

    def __init__(
        self, sizes: tuple[tuple[int, ...], tuple[int, ...]], bits: int, passes: int, dct: bool = False
    ) -> None:
        """`dct`: begin as a coder of DCT signs, passes adding up, with a learned zoom of each (not in the paper)."""
        super().__init__(passes, bits, "adaptive", "one-shot")
        self.encoder = encoder(sizes[0], "gru", (1, 1, 1), bits)
        self.decoder = decoder(sizes[1], "gru", (1, 1, 3, 3), bits)
        if dct:
            self.start(pairs=True)

    def codes(self, b: Tensor) -> Tensor:
        return 0.5 * (b + b.detach().abs())  # +1, -1 and 0 become 1, 0 and 0
