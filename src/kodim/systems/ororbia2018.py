"""Iterative decoding: a recurrent network that decodes ordinary JPEG files better than a JPEG decoder does.

A. G. Ororbia, A. Mali, J. Wu, S. O'Connell, W. Dreese, D. Miller, C. L. Giles, "Learned Neural Iterative Decoding for
Lossy Image Compression Systems", DCC 2019, arXiv 1803.05863.

The encoder is JPEG's and stays as it is. The decoder sees the dequantised coefficients of a block and of its eight
neighbours, causal or not, and refines its estimate of the pixels in K steps, all blocks at once::

    x --YCbCr, DCT 8x8, / table, round--> | coder | --x table--> q --[3x3 blocks]--> e
    s_k = cell(e, s_k-1),   x_hat_k = IDCT(q) + U s_k,   k = 1 .. K

`cell` is the paper's Delta-RNN, a GRU, an LSTM, an Elman cell or none. One network serves Y, one Cb and Cr; both know
the quantiser, whose table is part of their input, so one model serves every quality.

There are two ways to use it. :meth:`Ororbia2018.restore` improves the planes of a .jpg file (`kodim restore`), which
is left as it is. As a codec of its own it writes those coefficients to a .kdm file, with one learned density for each
of the 64 frequencies in the place of Huffman's tables, and chroma at full resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import Codec, Output
from ..coding.priors import FactorizedPrior
from ..coding.sites import Code
from ..transforms.recurrent import CELLS, Cell, State, convolution
from ..transforms.start import CORRELATION, _dct

BLOCK = 8
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
LOWEST, HIGHEST = 10.0, 90.0  # JPEG qualities at 0 and 100
WIDTH = 18.0  # standard deviation of a density of `FactorizedPrior` before training
MAE = 0.3  # weight of the absolute error in the loss


class Ororbia2018(Codec):
    """JPEG's transform with the iterative decoder of 1803.05863; coefficients (B, 192, H/8, W/8)."""

    info = {
        "slug": "ororbia2018",
        "title": "Learned neural iterative decoding for lossy image compression systems",
        "authors": "Ororbia, Mali, Wu, O'Connell, Dreese, Miller, Giles",
        "year": 2018,
        "arxiv": "1803.05863",
        "aliases": ["iterative-decoding"],
        "taxonomy": {
            "network": "RNN (decoder only)",
            "unit": "8x8 block",
            "spatial": "decoder sees all neighbouring blocks",
            "rate": "JPEG quality",
            "range": "low to medium",
        },
    }
    presets = {
        "paper": {"width": 512, "steps": 5, "cell": "delta"},
        "compact": {"width": 192, "steps": 5, "cell": "delta"},
        "compact-gru": {"width": 192, "steps": 5, "cell": "gru"},
        "compact-lstm": {"width": 192, "steps": 5, "cell": "lstm"},
        "compact-elman": {"width": 192, "steps": 5, "cell": "elman"},
        "compact-mlp": {"width": 192, "steps": 1, "cell": "none"},
        "test": {"width": 16, "steps": 2, "cell": "delta"},
    }
    refinable = False
    stride = BLOCK

    def __init__(self, width: int, steps: int, cell: str) -> None:
        super().__init__()
        self.levels = 8
        self.prior = FactorizedPrior(192, self.levels)
        with torch.no_grad():  # a density as wide as coefficients of photographs are, in steps of their tables
            tables = quantisers(self.jpeg_quality(torch.arange(self.levels))).flatten(1).float()
            self.prior.log_scale.copy_((typical_coefficients() / tables / WIDTH).clamp_min(0.01).log())
        self.luma = Refiner(width, steps, cell)
        self.chroma = Refiner(width, steps, cell)

    def program(self, code: Code) -> Tensor:
        tables = quantisers(self.jpeg_quality(code.level))  # (B, 3, 64)
        scale = tables.flatten(1)[:, :, None, None].to(next(self.parameters()).dtype)
        y = code.encoder(lambda x: torch.round(to_coefficients(to_ycbcr(x)) / scale))
        q = code("y", self.prior(code.level, code.grid(BLOCK)), lambda: y) * scale
        pictures = self.refine(q.detach(), tables)
        for picture in pictures:
            code.show(to_rgb(picture))
        return to_rgb(pictures[-1])

    def refine(self, q: Tensor, tables: Tensor) -> list[Tensor]:
        """Coefficients (B, 192, h, w) and tables (B, 3, 64) -> YCbCr pictures (B, 3, 8h, 8w) after step 0, 1, .. K.

        Step 0 is what a JPEG decoder shows. Luma lies in -128 .. 127, as do the others.
        """
        b = len(q)
        start = to_pixels(q)
        luma = self.luma(q[:, :64], tables[:, 0])
        chroma = self.chroma(q[:, 64:].reshape(2 * b, 64, *q.shape[2:]), tables[:, 1:].reshape(2 * b, 64))
        steps = [torch.cat((y, c.reshape(b, 2, *c.shape[2:])), 1) for y, c in zip(luma, chroma, strict=True)]
        return [start, *(start + step.to(start.dtype) for step in steps)]

    @torch.no_grad()
    def restore(self, planes: Tensor, tables: Tensor, whole: tuple[bool, bool, bool]) -> Tensor:
        """The picture (1, 3, H, W) in [0, 1] behind a JPEG file's decoded planes.

        Args:
            planes: (1, 3, H, W) Y, Cb and Cr in 0 .. 255, of the size of the picture.
            tables: (3, 64) quantisers of each, row by row.
            whole: which of them the file holds at full resolution; their coefficients are rounded back to what the
                file says. Upsampled chroma is taken as it is.
        """
        height, width = planes.shape[2:]
        padded = F.pad(planes - 128.0, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
        q = to_coefficients(padded)
        steps = tables.flatten().view(1, -1, 1, 1).to(q)
        exact = torch.tensor(whole, device=q.device).repeat_interleave(64).view(1, -1, 1, 1)
        q = torch.where(exact, torch.round(q / steps) * steps, q)
        return to_rgb(self.refine(q, tables[None].to(q))[-1])[:, :, :height, :width].clamp(0, 1)

    def jpeg_quality(self, level: Tensor) -> Tensor:
        """JPEG's quality factor (B,) of a rate level."""
        return LOWEST + (HIGHEST - LOWEST) * level / (self.levels - 1)

    def objective(self, x: Tensor, out: Output, level: Tensor) -> dict[str, Tensor]:
        first, *refined = (picture.float() - x for picture in out.pictures)
        # Relative to what plain JPEG leaves, so that no quality outweighs the others.
        before = first.square().mean((1, 2, 3)).clamp_min(1e-6)
        before_abs = first.abs().mean((1, 2, 3)).clamp_min(1e-3)
        errors = [e.square().mean((1, 2, 3)) / before + MAE * e.abs().mean((1, 2, 3)) / before_abs for e in refined]
        mse, plain = refined[-1].square().mean() * 255**2, first.square().mean() * 255**2
        return {"loss": torch.stack(errors).mean() + out.bpp.mean(), "mse": mse, "mse_jpeg": plain}


class DeltaRNN(Cell):
    """s' = phi((1 - g) * z + g * s), g = sig(W e + b), z = phi(a * Us * We + b1 * Us + b2 * We + b); phi = tanh."""

    gates = 1

    def __init__(self, c_in: int, c_out: int, **place: int) -> None:
        super().__init__(c_in, c_out, **place)  # type: ignore[arg-type]
        self.mix = nn.Parameter(torch.tensor([2.0, 0.5, 0.5]).repeat(c_out, 1))
        self.bias = nn.Parameter(torch.zeros(2, c_out))

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        seen = self.input(x)
        s = torch.zeros_like(seen) if state is None else state[0]
        own = self.hidden(s)
        alpha, beta1, beta2, bias_z, bias_g = (v[:, None, None] for v in (*self.mix.T, *self.bias))
        z = torch.tanh(alpha * own * seen + beta1 * own + beta2 * seen + bias_z)
        g = torch.sigmoid(seen + bias_g)
        s = torch.tanh((1 - g) * z + g * s)
        return s, (s,)


class Elman(Cell):
    """s = tanh(W e + U s)."""

    gates = 1

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        s = self.input(x)
        s = torch.tanh(s if state is None else s + self.hidden(state[0]))
        return s, (s,)


class Forgetful(Cell):
    """s = tanh(W e): no memory, the control that recurrence is measured against."""

    gates = 1

    def __init__(self, c_in: int, c_out: int, **place: int) -> None:
        super().__init__(c_in, c_out, **place)  # type: ignore[arg-type]
        del self.hidden

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        return torch.tanh(self.input(x)), ()


class Refiner(nn.Module):
    """Coefficients (n, 64, h, w) and tables (n, 64) -> what to add to the pixels (n, 1, 8h, 8w), after each step."""

    def __init__(self, width: int, steps: int, cell: str) -> None:
        super().__init__()
        self.steps = steps
        self.transform = nn.Conv2d(64, width, 3, padding=1)  # one matrix for each of the nine blocks
        self.table = nn.Linear(64, width, bias=False)
        self.cell = ({"delta": DeltaRNN, "elman": Elman, "none": Forgetful} | CELLS)[cell](width, width, kernel=1)
        self.output = convolution(width, 64, 1)
        with torch.no_grad():
            self.output.weight *= 0.01

    def forward(self, q: Tensor, table: Tensor) -> list[Tensor]:
        seen = self.transform(q / 128) + self.table(table.to(q.dtype) / 255)[:, :, None, None]
        seen, state, outputs = F.elu(seen), None, []
        for _ in range(self.steps):
            y, state = self.cell(seen, state)
            outputs.append(F.pixel_shuffle(128 * self.output(y), BLOCK))
        return outputs


def typical_coefficients() -> Tensor:
    """Standard deviations (192,) of the DCT coefficients of Y, Cb and Cr, for pictures as in :mod:`.start`."""
    place = torch.arange(BLOCK)
    basis = _dct(BLOCK)
    spectrum = torch.einsum("ui,ij,uj->u", basis, CORRELATION ** (place[:, None] - place).abs().float(), basis)
    return (torch.tensor([55.0, 14.0, 14.0])[:, None] * torch.outer(spectrum, spectrum).flatten().sqrt()).flatten()


def quantisers(quality: Tensor) -> Tensor:
    """JPEG's tables (B, 3, 64) of quality factors (B,), as the reference software scales them."""
    base = torch.tensor([LUMA, CHROMA, CHROMA], dtype=torch.float64, device=quality.device).flatten(1)
    q = quality.double()[:, None, None]
    scale = torch.where(q < 50, 5000 / q, 200 - 2 * q)
    return torch.floor((base * scale + 50) / 100).clamp(1, 255)


def to_ycbcr(x: Tensor) -> Tensor:
    """RGB in [0, 1] -> Y - 128, Cb - 128 and Cr - 128."""
    return _mixed(x * 255, YCBCR) - torch.tensor([128.0, 0.0, 0.0]).to(x)[:, None, None]


def to_rgb(y: Tensor) -> Tensor:
    """The inverse of :func:`to_ycbcr`, not clipped."""
    return _mixed(y + torch.tensor([128.0, 0.0, 0.0]).to(y)[:, None, None], RGB) / 255


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Channels times a matrix; sums of products, which stay in full precision under autocast."""
    return torch.stack([sum(w * x[:, j] for j, w in enumerate(row)) for row in matrix], 1)  # type: ignore[misc]


def to_coefficients(y: Tensor) -> Tensor:
    """Planes (B, C, H, W) -> 8x8 DCTs (B, 64 C, H/8, W/8), frequencies row by row."""
    b, c, h, w = y.shape
    with torch.autocast(y.device.type, enabled=False):
        out = F.conv2d(y.reshape(b * c, 1, h, w), _patterns(y), stride=BLOCK)
    return out.reshape(b, 64 * c, h // BLOCK, w // BLOCK)


def to_pixels(q: Tensor) -> Tensor:
    """The inverse of :func:`to_coefficients`."""
    b, c, h, w = q.shape
    with torch.autocast(q.device.type, enabled=False):
        out = F.conv_transpose2d(q.reshape(b * c // 64, 64, h, w), _patterns(q), stride=BLOCK)
    return out.reshape(b, c // 64, h * BLOCK, w * BLOCK)


def _patterns(like: Tensor) -> Tensor:
    block = _dct(BLOCK).to(like)
    return torch.einsum("ui,vj->uvij", block, block).reshape(64, 1, BLOCK, BLOCK)
