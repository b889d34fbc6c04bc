"""Coding a grid of latents in slanted fronts, each value predicted from those before it.

Positions with equal x + 2 y do not see one another (:data:`kodim.overfit.pyramid.TAPS`), so they are coded together:
w + 2 (h - 1) fronts. The decoder keeps the grid sheared, row t holding front t and column y the row of the picture,
where the neighbours of a front are plain slices. An encoder knows all values and computes all parameters at once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coding.sites import Code
from ..errors import CorruptFile
from . import exact, network
from .exact import ACTIVATION, MAX_LATENT
from .laplace import LOWEST, PER_UNIT, PHASES, SCALES, Laplace
from .network import Net
from .pyramid import GRIDS, SLANT, TAPS

_TOP = max(-(dx + SLANT * dy) for dy, dx in TAPS)  # fronts, and rows, that neighbours reach back
_LEFT = max(-dy for dy, _ in TAPS)


def coded_grid(code: Code, net: Net, index: int, side: Tensor | None, latent: Tensor | None) -> Tensor:
    """Grid `index` through the channel: integers (B, 1, h, w) in float64.

    Args:
        net: integer networks, see :mod:`kodim.overfit.exact`.
        side: its features (B, F, h, w), activations; None for a level without any.
        latent: (B, 1, h, w) real values; None for the decoder.

    Raises:
        CorruptFile: the stream holds values that no encoder writes.
    """
    h, w = code.grid(1 << GRIDS[index].level)
    with code.serial(lambda: torch.empty(0) if latent is None else latent) as whole:
        if latent is None:
            return _decoded(code, net, (h, w), side)
        grid = whole().double().round().clamp(-MAX_LATENT, MAX_LATENT)
        values, places = grid.flatten(1), laplaces(net, grid, side)
        for y0, y1, t in fronts(h, w):
            at = _along(y0, y1, t, w).to(grid.device)
            prior = Laplace(places[0][:, at], places[1][:, at])
            code.part = at, (h, w)
            code("y", prior, lambda at=at: values[:, None, at, None])  # type: ignore[misc]
        return grid


def fronts(h: int, w: int) -> Iterator[tuple[int, int, int]]:
    """(first row, last row, t) of every front of an (h, w) grid, in coding order."""
    for t in range(w + SLANT * (h - 1)):
        y0, y1 = max(0, -((w - 1 - t) // SLANT)), min(h - 1, t // SLANT)
        if y0 <= y1:
            yield y0, y1, t


def _along(y0: int, y1: int, t: int, w: int) -> Tensor:
    """Indices y w + x of a front."""
    y = torch.arange(y0, y1 + 1)
    return y * (w - SLANT) + t


def laplaces(net: Net, grid: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor]:
    """Integer centre and table row (B, h w) int64 of every position of a known grid (B, 1, h, w)."""
    taps = _taps(net)
    h, w = grid.shape[2:]
    rows = max(exact.BAND // w, 1)
    reach = max(max(-dy, abs(dx)) for dy, dx in TAPS[:taps])
    parts = []
    for top in range(0, h, rows):
        end = min(top + rows, h)
        first = max(top - reach, 0)
        seen = network.neighbours(grid[:, :, first:end], taps)[:, :, (top - first) * w :] * ACTIVATION
        told = None if side is None else side[:, :, top:end].flatten(2)
        parts.append(_tables(exact.entropy(net, _inputs(net, seen, told))))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


def _decoded(code: Code, net: Net, size: tuple[int, int], side: Tensor | None) -> Tensor:
    h, w = size
    taps = TAPS[: _taps(net)]
    batch, device = len(code.level), code.level.device
    plane = torch.zeros(batch, _TOP + w + SLANT * (h - 1), _LEFT + h, dtype=torch.float64, device=device)
    told = None if side is None else side.flatten(2)
    for y0, y1, t in fronts(h, w):
        seen = [plane[:, _TOP + t + dx + SLANT * dy, _LEFT + dy + y0 : _LEFT + dy + y1 + 1] for dy, dx in taps]
        at = _along(y0, y1, t, w).to(device)
        here = None if told is None else told[:, :, at]
        prior = Laplace(*_tables(exact.entropy(net, _inputs(net, torch.stack(seen, 1), here))))
        code.part = at, (h, w)
        found = code("y", prior, lambda: torch.empty(0))
        plane[:, _TOP + t, _LEFT + y0 : _LEFT + y1 + 1] = found[:, 0, :, 0].double() * ACTIVATION
    y = torch.arange(h, device=device)[:, None]
    grid = plane[:, _TOP + torch.arange(w, device=device) + SLANT * y, _LEFT + y][:, None] / ACTIVATION
    if bool((grid.abs() > MAX_LATENT).any()):
        raise CorruptFile("the coded data is not what any encoder writes")
    return grid


def _taps(net: Net) -> int:
    """Spatial neighbours that the entropy model sees; the rest of its inputs are features."""
    return net["arm0_w"].shape[-1] - net["ifce0_w"].shape[-2]


def _inputs(net: Net, seen: Tensor, side: Tensor | None) -> Tensor:
    """Neighbours (B, S, N) and features (B, F, N), zero on levels without any -> (B, S + F, N)."""
    if side is None:
        return F.pad(seen, (0, 0, 0, net["ifce0_w"].shape[-2]))
    return torch.cat((seen, side), 1)


def _tables(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-scale (B, 2, N), activations -> centre and table row (B, N) int64."""
    mean, log_scale = parameters.unbind(1)
    place = torch.floor(mean.clamp(-MAX_LATENT * ACTIVATION, MAX_LATENT * ACTIVATION) * (PHASES / ACTIVATION) + 0.5)
    nearest = torch.floor((place + PHASES // 2) * (1 / PHASES))
    phase = place - PHASES * nearest + PHASES // 2
    scale = torch.floor((log_scale - LOWEST * ACTIVATION) * (PER_UNIT / ACTIVATION) + 0.5).clamp(0, SCALES - 1)
    return nearest.long(), (scale * PHASES + phase).long()
