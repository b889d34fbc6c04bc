"""Recurrent codec whose memory spreads before bits are spent, and which spends them where they are needed.

N. Johnston, D. Vincent, D. Minnen, M. Covell, S. Singh, T. Chinen, S. J. Hwang, J. Shor, G. Toderici, "Improved Lossy
Image Compression with Priming and Spatially Adaptive Bit Rates for Recurrent Networks", CVPR 2018, arXiv 1703.10114.

Three additions to the loop of `toderici2017`, here with GRU cells whose memory has 3x3 kernels everywhere:

- priming: before the first code the encoder looks at the picture `prime` times in silence, and the decoder at that
  first code, so that their memories know more than one pass can see; diffusion does the same at every pass;
- each 16x16 pixels send as many passes as they are worth (:class:`..progressive.Adaptive`; `even`: until good enough);
- the training error of a pixel counts for more where structure is lost: by 1 - SSIM around it::

    x, x, x, x - x_hat --[conv/2, GRU/2, GRU/2, GRU/2, 1x1]--> u --sign--> b | flags, bits |
    x_hat <-- [1x1, (GRU, depth-to-space x2) x 4, 1x1] <-- b, b, b, b <-----------'

The paper sends a map of heights before all bits; here a flag of every position still active goes with each pass. That
is the same information, but a file cut short stays decodable and the encoder needs to run only once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..progressive import GREY, Adaptive
from ..transforms.recurrent import Memory, decoder, encoder

MOMENTUM = 0.99  # of the running mean of 1 - SSIM


class Johnston2018(Adaptive):
    """Recurrent codec of 1703.10114; at most `passes` planes of bits (B, bits, H/16, W/16)."""

    info = {
        "slug": "johnston2018",
        "title": "Priming and spatially adaptive bit rates for recurrent networks",
        "authors": "Johnston, Vincent, Minnen, Covell, Singh, Chinen, Hwang, Shor, Toderici",
        "year": 2018,
        "arxiv": "1703.10114",
        "aliases": ["priming-rnn"],
        "improves": "toderici2017",
        "place": "19 minutes from a coder of DCT signs. Blocks stop where further passes gain less than they cost.",
        "taxonomy": {
            "network": "RNN (convolutional GRU)",
            "unit": "full image, bits per 16x16 tile",
            "spatial": "primed memory, causal context on bits",
            "rate": "target quality; passes per tile",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"sizes": ((64, 256, 512, 512), (512, 512, 512, 256, 128)), "bits": 32, "passes": 16, "prime": 3},
        "compact": {
            "sizes": ((16, 40, 80, 112), (96, 112, 80, 40, 20)),
            "bits": 32,
            "passes": 8,
            "prime": 3,
            "dct": True,
        },
        "compact-unprimed": {
            "sizes": ((16, 40, 80, 112), (96, 112, 80, 40, 20)),
            "bits": 32,
            "passes": 8,
            "prime": 0,
            "dct": True,
        },
        "compact-diffusion": {
            "sizes": ((16, 40, 80, 112), (96, 112, 80, 40, 20)),
            "bits": 32,
            "passes": 8,
            "prime": 3,
            "diffuse": 1,
            "dct": True,
        },
        "test": {"sizes": ((8, 8, 8, 8), (8, 16, 16, 16, 16)), "bits": 8, "passes": 3, "prime": 1},
    }
    grid = (0.0, 25.0, 50.0, 75.0, 100.0)

    average: Tensor

    def __init__(
        self,
        sizes: tuple[tuple[int, ...], tuple[int, ...]],
        bits: int,
        passes: int,
        prime: int,
        diffuse: int = 0,
        dct: bool = False,
    ) -> None:
        """`dct`: begin as a coder of DCT signs, passes adding up, with a learned zoom of each (not in the paper)."""
        super().__init__(passes, bits, "adaptive", "one-shot")
        self.prime, self.diffuse = prime, diffuse
        self.encoder = encoder(sizes[0], "gru", (3, 3, 3), bits)
        self.decoder = decoder(sizes[1], "gru", (3, 3, 3, 3), bits)
        if dct:
            self.start()
        self.register_buffer("average", torch.tensor(0.0), persistent=False)

    def analyse(self, k: int, residual: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        for _ in range(self.silent(k)):
            _, memory = self.encoder(residual, memory)
        return self.encoder(residual, memory)

    def synthesise(self, k: int, b: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        for _ in range(self.silent(k)):
            _, memory = self.decoder(b, memory)
        return self.decoder(b, memory)

    def silent(self, k: int) -> int:
        """Steps at pass k whose outputs are thrown away."""
        return self.diffuse if k else self.prime

    def error(self, x: Tensor, picture: Tensor) -> Tensor:
        loss = (1 - local_ssim(x, picture.detach().float())) / 2  # (B, 1, H, W)
        with torch.no_grad():
            mean = loss.mean()
            self.average = mean if float(self.average) == 0 else MOMENTUM * self.average + (1 - MOMENTUM) * mean
        return GREY * (loss / self.average.clamp_min(1e-4) * (x - picture).abs()).mean()


@torch.no_grad()
def local_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM around each pixel, of the mean of the channels: (B, 3, H, W) in [0, 1] -> (B, 1, H, W), 11x11 Gaussian."""
    x, y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    taps = torch.exp(-torch.arange(-5.0, 6.0, device=x.device).square() / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2)[None, None]

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(F.pad(z, (5, 5, 5, 5), mode="replicate"), window.to(z.dtype))

    a, b = blur(x), blur(y)
    ab, aa, bb = blur(x * y) - a * b, blur(x * x) - a * a, blur(y * y) - b * b
    c1, c2 = 0.01**2, 0.03**2
    return (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
