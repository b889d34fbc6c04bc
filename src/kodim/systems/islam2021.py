"""Recurrent codec with divisive normalisation around the code.

K. Islam, L. M. Dang, S. Lee, H. Moon, "Image Compression with Recurrent Neural Network and Generalized Divisive
Normalization", CVPR Workshops (CLIC) 2021, pp. 1875-1879.

The LSTM codec of `toderici2017`, additive, with GDN behind the encoder's first convolution and its inverse behind
the decoder's. As in the authors' published network, and nowhere else::

    x - x_hat --[conv/2, GDN, LSTM/2, LSTM/2, LSTM/2, 1x1]--> u --sign--> b
    x_hat <--(+)-- [1x1, IGDN, (LSTM, depth-to-space x2) x 4, 1x1] <------'

The paper packs bits and leaves the rest to zip; `compact` has the entropy coder of `toderici2017`, and sizes equal to
that codec's, so that the two differ by the normalisation alone.
"""

from ..progressive import Progressive
from ..transforms.gdn import GDN
from ..transforms.recurrent import decoder, encoder


class Islam2021(Progressive):
    """Recurrent codec with GDN; a plane of bits (B, bits, H/16, W/16) at each pass."""

    info = {
        "slug": "islam2021",
        "title": "Image compression with recurrent neural network and generalized divisive normalization",
        "authors": "Islam, Dang, Lee, Moon",
        "year": 2021,
        "arxiv": None,
        "aliases": ["rnn-gdn"],
        "improves": "toderici2017",
        "place": "`toderici2017` with divisive normalisation, 4 minutes from its weights.",
        "taxonomy": {
            "network": "RNN (convolutional LSTM with GDN)",
            "unit": "full image",
            "spatial": "none; compact: causal context on bits",
            "rate": "number of passes, one model",
            "range": "low to high",
        },
    }
    presets = {
        "paper": {
            "sizes": ((64, 256, 512, 512), (512, 512, 512, 256, 128)),
            "bits": 32,
            "passes": 16,
            "coder": "raw",
        },
        "compact": {
            "sizes": ((16, 48, 96, 128), (96, 128, 96, 48, 24)),
            "bits": 32,
            "passes": 8,
            "coder": "rnn-2",
            "dct": True,
        },
        "test": {"sizes": ((8, 8, 8, 8), (8, 16, 16, 16, 16)), "bits": 8, "passes": 3, "coder": "adaptive"},
    }

    def __init__(
        self, sizes: tuple[tuple[int, ...], tuple[int, ...]], bits: int, passes: int, coder: str, dct: bool = False
    ) -> None:
        """`dct`: begin as a coder of DCT signs, with a learned zoom of each pass (not in the paper)."""
        super().__init__(passes, bits, coder, "additive")
        self.encoder = encoder(sizes[0], "lstm", (1, 1, 1), bits, GDN(sizes[0][0]))
        self.decoder = decoder(sizes[1], "lstm", (1, 1, 3, 3), bits, GDN(sizes[1][0], inverse=True))
        if dct:
            self.start()
