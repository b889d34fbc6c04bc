"""Variable-rate recurrent autoencoder: the first learned codec with one model for every rate.

G. Toderici, S. M. O'Malley, S. J. Hwang, D. Vincent, D. Minnen, S. Baluja, M. Covell, R. Sukthankar, "Variable Rate
Image Compression with Recurrent Neural Networks", ICLR 2016, arXiv 1511.06085.

At each pass a network codes what is still missing into a few bits, so the file may end after any pass. With memory
(LSTM) the decoder paints the whole picture at every pass; without, it paints the residual and outputs are summed::

    x - x_hat --[conv/2, LSTM/2, LSTM, 1x1]--> u --sign--> b --[1x1, LSTM, LSTM x2, deconv x2, 1x1]--> x_hat

Four networks: units of `conv` (two bits for each 4x4 pixels) or independent 8x8 `block`s (four bits each), with
`lstm` cells or as a chain of `plain` networks, each with weights of its own. 0.125 and 0.0625 bits per pixel and pass
before entropy coding, whatever the picture shows.

The paper has no entropy coder and was made for thumbnails of 32x32; `compact` adds adaptive contexts.
"""

from torch import Tensor, nn

from ..progressive import Progressive
from ..transforms.recurrent import CELLS, HalfTanh, Memory, Recurrent, convolution
from ..transforms.start import strided_recurrent_start

BLOCK = 8


class Toderici2016(Progressive):
    """Recurrent codec of 1511.06085; a plane of bits (B, 2, H/4, W/4), or (B, 4, H/8, W/8), at each pass."""

    info = {
        "slug": "toderici2016",
        "title": "Variable rate image compression with recurrent neural networks",
        "authors": "Toderici, O'Malley, Hwang, Vincent, Minnen, Baluja, Covell, Sukthankar",
        "year": 2016,
        "arxiv": "1511.06085",
        "aliases": ["variable-rate-rnn"],
        "place": "Two bits for 4x4 pixels a pass, 6 minutes from a coder of DCT signs: recurrent codecs need the most "
        "training of all, and had the least.",
        "taxonomy": {
            "network": "RNN (convolutional LSTM)",
            "unit": "full image; variant: 8x8 block",
            "spatial": "none",
            "rate": "number of passes, one model",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"widths": (64, 256, 512), "passes": 16, "coder": "raw"},
        "paper-block": {"widths": (512, 512, 512), "passes": 16, "coder": "raw", "unit": "block"},
        "compact": {"widths": (16, 32, 48), "passes": 8, "coder": "adaptive", "dct": True},
        "compact-plain": {"widths": (16, 32, 48), "passes": 8, "coder": "adaptive", "cell": "plain"},
        "compact-block": {"widths": (128, 128, 128), "passes": 8, "coder": "adaptive", "unit": "block"},
        "test": {"widths": (8, 8, 8), "passes": 3, "coder": "adaptive"},
    }

    def __init__(
        self,
        widths: tuple[int, int, int],
        passes: int,
        coder: str,
        unit: str = "conv",
        cell: str = "forgetful",
        dct: bool = False,
    ) -> None:
        """`dct`: begin as a coder of DCT signs, passes adding up, with a learned zoom of each (not in the paper)."""
        bits, stride = (2, 4) if unit == "conv" else (4, BLOCK)
        super().__init__(passes, bits, coder, "additive" if cell == "plain" else "one-shot", code_stride=stride)
        build = _convolutional if unit == "conv" else _blockwise
        pairs = [build(widths, bits, cell) for _ in range(passes if cell == "plain" else 1)]
        self.encoders = nn.ModuleList(pair[0] for pair in pairs)
        self.decoders = nn.ModuleList(pair[1] for pair in pairs)
        if dct:
            strided_recurrent_start(*pairs[0])
            self.add_up()

    def analyse(self, k: int, residual: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        return self.encoders[min(k, len(self.encoders) - 1)](residual, memory)

    def synthesise(self, k: int, b: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        return self.decoders[min(k, len(self.decoders) - 1)](b, memory)

    def error(self, x: Tensor, picture: Tensor) -> Tensor:
        return 1000 * (x - picture).square().mean()


def _convolutional(widths: tuple[int, int, int], bits: int, cell: str) -> tuple[Recurrent, Recurrent]:
    first, second, third = widths
    encoder = Recurrent(
        convolution(3, first, stride=2),
        nn.Tanh(),
        _layer(cell, first, second, stride=2),
        _layer(cell, second, third),
        convolution(third, bits, 1),
        nn.Tanh(),
    )
    decoder = Recurrent(
        convolution(bits, third, 1),
        _layer(cell, third, second),
        _layer(cell, second, first, stride=2, up=True),
        convolution(first, first, stride=2, up=True),
        nn.Tanh(),
        convolution(first, 3, 1),
        HalfTanh(),
    )
    return encoder, decoder


def _blockwise(widths: tuple[int, int, int], bits: int, cell: str) -> tuple[Recurrent, Recurrent]:
    """Fully connected layers on blocks: kernels as large as a block, and 1x1 ones."""
    first, second, third = widths
    encoder = Recurrent(
        nn.Conv2d(3, first, BLOCK, BLOCK, bias=False),
        nn.Tanh(),
        _layer(cell, first, second, kernel=1),
        _layer(cell, second, third, kernel=1),
        convolution(third, bits, 1),
        nn.Tanh(),
    )
    decoder = Recurrent(
        _layer(cell, bits, third, kernel=1),
        _layer(cell, third, second, kernel=1),
        convolution(second, first, 1),
        nn.Tanh(),
        nn.ConvTranspose2d(first, 3, BLOCK, BLOCK, bias=False),
        HalfTanh(),
    )
    return encoder, decoder


def _layer(cell: str, c_in: int, c_out: int, *, kernel: int = 3, stride: int = 1, up: bool = False) -> nn.Module:
    if cell == "plain":
        return nn.Sequential(convolution(c_in, c_out, kernel, stride, up), nn.Tanh())
    return CELLS[cell](c_in, c_out, kernel=kernel, stride=stride, up=up)
