"""A start that already is a transform code: strided convolutions that compose to block DCTs.

Left to chance, a pyramid of convolutions spends most of a short training on rediscovering that pictures
have a spectrum. Here every strided layer starts as an orthonormal DCT of its stride x stride blocks, applied
to the channels before it; where a layer has fewer outputs than that gives, those of least variance are left
out, for pictures modelled as a first-order Markov process of correlation 0.95 with a strong luma. The
synthesis starts as the transpose. Channels to spare keep their random analysis and enter the synthesis with
weight zero, so the start is a plain transform code and everything else is learned on top.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .recurrent import Cell

CORRELATION = 0.95
# Orthonormal luma and two chroma differences, and the variance of each in photographs (relative).
COLOURS = torch.tensor([[3**-0.5] * 3, [2**-0.5, 0.0, -(2**-0.5)], [-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)]])
COLOUR_VARIANCE = torch.tensor([1.0, 0.1, 0.03])
# Pixels are scaled down on the way in, so that divisive normalisation starts out nearly linear.
SCALE = 1 / 8
# The same for cells, whose tanh must not bend what passes; variance of orthonormal luma; share of a coefficient's
# typical size that the decoder takes its sign for.
SMALL, PIXEL_VARIANCE, TYPICAL = 1 / 24, 0.3, 0.6


@torch.no_grad()
def dct_start(analysis: nn.Module, synthesis: nn.Module) -> None:
    """Set the convolutions of a pyramid and its mirror (see :mod:`kodim.transforms.pyramid`) to block DCTs."""
    downs = [m for m in analysis.modules() if isinstance(m, nn.Conv2d)]
    ups = [m for m in synthesis.modules() if isinstance(m, nn.ConvTranspose2d)][::-1]
    shapes = COLOURS[:, :, None, None]  # (channels, 3, n, n): what each channel looks like in the picture
    for i, (down, up) in enumerate(zip(downs, ups, strict=True)):
        size = int(down.stride[0])
        patterns = _patterns(size)
        candidates = _compose(shapes, patterns)
        kept = _strongest(candidates, down.out_channels)
        source, pattern = kept // len(patterns), kept % len(patterns)
        first = slice(int(down.padding[0]), int(down.padding[0]) + size)
        down.weight[: len(kept)] = 0
        up.weight.zero_()
        if up.bias is not None:
            up.bias.zero_()
        for out, (channel, which) in enumerate(zip(source.tolist(), pattern.tolist(), strict=True)):
            # The colour transform is part of the first layer.
            mix = COLOURS[channel] if i == 0 else None
            _place(down.weight[out], patterns[which], channel, mix, first, SCALE if i == 0 else 1.0)
            _place(up.weight[out], patterns[which], channel, mix, first, 1 / SCALE if i == 0 else 1.0)
        shapes = candidates[kept]


@torch.no_grad()
def recurrent_start(encoder: nn.Sequential, decoder: nn.Sequential, *, pairs: bool = False) -> None:
    """Set a pair of :func:`.recurrent.encoder` and :func:`.recurrent.decoder` to a DCT of which signs are sent.

    Cells start straight (:meth:`.recurrent.Cell.straighten`), so a pass is linear but for the signs: each bit is that
    of one coefficient of a 16x16 block, and the decoder answers with its typical size. With `pairs` a coefficient has
    two bits, for above and below zero, and a code of 0 says nothing.
    """
    (first, code), downs = _convolutions_and_cells(encoder)
    (answer, paint), ups = _convolutions_and_cells(decoder)
    signs = torch.tensor([1.0, -1.0] if pairs else [1.0])
    # Channels that both sides have at 1/2, 1/4, ... of the resolution, the code's last.
    widths = [up.c_out // 4 for up in ups[-2::-1]] + [len(code.weight) // len(signs)]
    carriers = [(first.weight, SMALL), *(cell.straighten() for cell in downs)]
    shapes, patterns = COLOURS[:, :, None, None], _patterns(2)
    for i, ((weight, gain), up, width) in enumerate(zip(carriers, ups[::-1], widths, strict=True)):
        candidates = _compose(shapes, patterns)
        kept = _strongest(candidates, min(width, len(weight)))
        back, lift = up.straighten()
        weight[: len(kept)] = 0
        back[: 4 * len(shapes)] = 0
        middle = back.shape[-1] // 2
        for out, (channel, which) in enumerate(zip((kept // 4).tolist(), (kept % 4).tolist(), strict=True)):
            mix = COLOURS[channel] if i == 0 else None
            _place(weight[out], patterns[which], channel, mix, slice(1, 3), gain)
            back[4 * channel : 4 * channel + 4, out, middle, middle] = lift * patterns[which].flatten()
        shapes = candidates[kept]
    _signs(code, answer, paint, shapes, signs)


@torch.no_grad()
def strided_recurrent_start(encoder: nn.Sequential, decoder: nn.Sequential) -> None:
    """The same for a pair whose layers stride, on both sides: each of stride 2 is a 2x2 DCT, the others pass on."""
    *downs, code = (m for m in encoder if isinstance(m, Layer))
    answer, *ups, paint = (m for m in decoder if isinstance(m, Layer))
    shapes, patterns = COLOURS[:, :, None, None], _patterns(2)
    for i, (down, up) in enumerate(zip(downs, ups[::-1], strict=True)):
        (weight, gain), (back, lift) = _carrier(down, SMALL if i == 0 else 1.0), _carrier(up, 1.0)
        if _stride(down) == 1:
            nn.init.dirac_(weight).mul_(gain)
            nn.init.dirac_(back).mul_(lift)
            continue
        candidates = _compose(shapes, patterns)
        kept = _strongest(candidates, min(len(weight), back.shape[1]))
        weight.zero_()
        back.zero_()
        for out, (channel, which) in enumerate(zip((kept // 4).tolist(), (kept % 4).tolist(), strict=True)):
            _place(weight[out], patterns[which], channel, COLOURS[channel] if i == 0 else None, slice(1, 3), gain)
            back[channel, out, 1:3, 1:3] = lift * patterns[which]
        shapes = candidates[kept]
    _signs(code, answer, paint, shapes, torch.ones(1))


Layer = nn.Conv2d | nn.ConvTranspose2d | Cell


def _carrier(layer: nn.Module, gain: float) -> tuple[Tensor, float]:
    """The weights (out, in, k, k) that a straight layer passes its input through, and what they must be times."""
    if isinstance(layer, Cell):
        weight, lift = layer.straighten()
        return weight, lift * gain
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return (layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight), gain


def _stride(layer: nn.Module) -> int:
    inner = layer.input if isinstance(layer, Cell) else layer
    return int(inner.stride[0])  # type: ignore[index]


def _signs(code: nn.Module, answer: nn.Module, paint: nn.Module, shapes: Tensor, signs: Tensor) -> None:
    """Set the 1x1 layers next to the bits and the pixels: one bit, or two of opposite sign, for each shape."""
    assert isinstance(code, nn.Conv2d)
    assert isinstance(answer, nn.Conv2d)
    assert isinstance(paint, nn.Conv2d)
    count = len(code.weight) // len(signs)
    spread = (PIXEL_VARIANCE * _variance(shapes[:count])).sqrt()
    code.weight.zero_()
    answer.weight.zero_()
    for b, size in enumerate(spread):
        bits = slice(b * len(signs), (b + 1) * len(signs))
        code.weight[bits, b, 0, 0] = signs / (SMALL * size)
        answer.weight[b, bits, 0, 0] = signs * TYPICAL * SMALL * size
    paint.weight.zero_()
    paint.weight[:, : len(COLOURS), 0, 0] = 2 * COLOURS.T / SMALL  # tanh(y) / 2 comes behind


def _convolutions_and_cells(net: nn.Sequential) -> tuple[list[nn.Conv2d], list[Cell]]:
    return [m for m in net if isinstance(m, nn.Conv2d)], [m for m in net if isinstance(m, Cell)]


def _patterns(size: int) -> Tensor:
    """The basis pictures of a block DCT: (size^2, size, size)."""
    block = _dct(size)
    return torch.einsum("ui,vj->uvij", block, block).flatten(0, 1)


def _strongest(shapes: Tensor, count: int) -> Tensor:
    """Indices of the `count` shapes of largest variance."""
    return torch.argsort(_variance(shapes), descending=True)[:count]


def _place(weight: Tensor, pattern: Tensor, channel: int, mix: Tensor | None, taps: slice, scale: float) -> None:
    """Write one pattern into the (channels, k, k) weights that tie a latent channel to those below it."""
    if mix is None:
        weight[channel, taps, taps] = scale * pattern
    else:
        weight[:, taps, taps] = scale * mix[:, None, None] * pattern


def _compose(shapes: Tensor, patterns: Tensor) -> Tensor:
    """What pattern p over channel c looks like in the picture: index c * len(patterns) + p."""
    c, colours, n, _ = shapes.shape
    p, size, _ = patterns.shape
    return torch.einsum("cknm,pij->cpkinjm", shapes, patterns).reshape(c * p, colours, size * n, size * n)


def _variance(shapes: Tensor) -> Tensor:
    n = shapes.shape[-1]
    place = torch.arange(n)
    markov = CORRELATION ** (place[:, None] - place[None]).abs().float()
    planes = torch.einsum("ek,cknm->cenm", COLOURS, shapes)
    spread = torch.einsum("cenm,no,mp,ceop->ce", planes, markov, markov, planes)
    return spread @ COLOUR_VARIANCE


def _dct(n: int) -> Tensor:
    """The orthonormal DCT-II, (frequency, place)."""
    k, x = torch.arange(n)[:, None], torch.arange(n)[None]
    matrix = torch.cos(math.pi / n * (x + 0.5) * k) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def gains(lambdas: Iterable[float]) -> list[float]:
    """Gain that gives each lambda its step: distortion 3 / (2 ln 2 lambda) a coefficient, steps sqrt(12 D)."""
    return [255 / SCALE / math.sqrt(12 * 3 / (2 * math.log(2) * value)) for value in lambdas]


def typical_picture(size: int, seed: int = 0) -> Tensor:
    """(1, 3, size, size) around 0.5: a draw of the process that :func:`dct_start` takes pictures for."""
    place = torch.arange(size)
    root = torch.linalg.cholesky(CORRELATION ** (place[:, None] - place[None]).abs().double())
    noise = torch.randn(3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    planes = (root @ noise @ root.T).float() * COLOUR_VARIANCE.sqrt()[:, None, None]
    return 0.5 + 0.25 * torch.einsum("eij,ek->kij", planes, COLOURS)[None]


def block_basis(size: int) -> Tensor:
    """The DCT of size x size blocks and three colours, (3 size^2, 3 size^2) orthonormal, largest variance first.

    Columns are pixels in the order of `pixel_unshuffle`: colour, row, column.
    """
    block = _dct(size)
    shapes = _compose(COLOURS[:, :, None, None], torch.einsum("ui,vj->uvij", block, block).flatten(0, 1))
    return shapes[torch.argsort(_variance(shapes), descending=True)].flatten(1)
