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

CORRELATION = 0.95
# Orthonormal luma and two chroma differences, and the variance of each in photographs (relative).
COLOURS = torch.tensor([[3**-0.5] * 3, [2**-0.5, 0.0, -(2**-0.5)], [-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)]])
COLOUR_VARIANCE = torch.tensor([1.0, 0.1, 0.03])
# Pixels are scaled down on the way in, so that divisive normalisation starts out nearly linear.
SCALE = 1 / 8


@torch.no_grad()
def dct_start(analysis: nn.Module, synthesis: nn.Module) -> None:
    """Set the convolutions of a pyramid and its mirror (see :mod:`kodim.transforms.pyramid`) to block DCTs."""
    downs = [m for m in analysis.modules() if isinstance(m, nn.Conv2d)]
    ups = [m for m in synthesis.modules() if isinstance(m, nn.ConvTranspose2d)][::-1]
    shapes = COLOURS[:, :, None, None]  # (channels, 3, n, n): what each channel looks like in the picture
    for i, (down, up) in enumerate(zip(downs, ups, strict=True)):
        size = int(down.stride[0])
        block = _dct(size)
        patterns = torch.einsum("ui,vj->uvij", block, block).flatten(0, 1)  # (size^2, size, size)
        candidates = _compose(shapes, patterns)
        kept = torch.argsort(_variance(candidates), descending=True)[: down.out_channels]
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
