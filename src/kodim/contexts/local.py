"""A dictionary of probability models, one of which is named for every tile of every channel (1805.12295)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.priors import FLOOR, TAIL, PriorModule, _gaussian, _laplace
from ..coding.tables import Indexed
from ..transforms.gdn import lower_bound

REACH = 255  # symbols whose costs are tabulated for the encoder's choice; larger ones count as this one
NARROWEST, WIDEST = 0.05, 256.0  # scales that the entries start with
NOTHING = 0.04  # scale of entry 0, which holds nothing but zeros


@dataclass(frozen=True)
class Chosen:
    """:class:`Dictionary` bound to an entry for every element, (B, C, h, w)."""

    module: "Dictionary"
    entry: Tensor

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.entry.shape)

    def bits(self, r: Tensor) -> Tensor:
        return self.module.bits(r, self.entry)

    def distributions(self) -> Indexed:
        return self.module.indexed(self.entry)


class Dictionary(PriorModule):
    """D densities around zero, each a blend of a Laplacian and a Gaussian; entry 0 is "all zeros"."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries = entries
        scales = torch.linspace(math.log(NARROWEST), math.log(WIDEST), entries) if entries > 1 else torch.zeros(1)
        self.log_scale = nn.Parameter(torch.stack((scales, scales)))  # (2, D): Laplacian, Gaussian
        self.blend = nn.Parameter(torch.zeros(entries))

    def forward(self, entry: Tensor) -> Chosen:
        """Entries (B, C, h, w) -> a distribution for a latent of that shape."""
        return Chosen(self, entry)

    def bits(self, r: Tensor, entry: Tensor) -> Tensor:
        """-log2 of the unit bin around r, of the entries of the same shape."""
        log_scale: Tensor = self.log_scale
        if self.entries > 1:
            log_scale = torch.cat((torch.full_like(log_scale[:, :1], math.log(NOTHING)), log_scale[:, 1:]), 1)
        scale = log_scale.clamp(math.log(0.02), math.log(2 * WIDEST)).exp()
        r = -r.abs()
        masses = []
        for cumulative, s in zip((_laplace, _gaussian), (scale[0][entry], scale[1][entry]), strict=True):
            masses.append(cumulative((r + 0.5) / s) - cumulative((r - 0.5) / s))
        share = torch.sigmoid(self.blend)[entry]
        return -torch.log2(lower_bound(share * masses[0] + (1 - share) * masses[1], FLOOR))

    @torch.no_grad()
    def costs(self) -> Tensor:
        """Bits (2 REACH + 1, D) of the symbols -REACH .. REACH in every entry: of the tables, where there are some."""
        symbols = torch.arange(-REACH, REACH + 1, device=self.blend.device)
        entries = torch.arange(self.entries, device=self.blend.device)
        shape = (len(symbols), self.entries)
        if self.training:
            return self.bits(symbols[:, None].float().expand(shape), entries.expand(shape))
        flat = symbols[:, None].expand(shape).reshape(-1).cpu().numpy().astype(np.int64)
        bits = self.indexed(entries.expand(shape)).bits(flat).reshape(shape)
        return torch.as_tensor(bits, dtype=torch.float32, device=self.blend.device)

    def masses(self) -> tuple[list[np.ndarray], list[int]]:
        masses, low = [], []
        reach = 8 * int(WIDEST)
        symbols = torch.arange(-reach, reach + 1, device=self.blend.device)
        for d in range(self.entries):
            mass = 2.0 ** -self.bits(symbols.double(), torch.full_like(symbols, d)).cpu().numpy()
            outside = 2 * np.cumsum(mass[::-1][:reach])[::-1]  # mass from each distance on, reach .. 1
            keep = max(int((outside > TAIL).sum()), 0 if d == 0 and self.entries > 1 else 1)
            inside = mass[reach - keep : reach + keep + 1]
            masses.append(np.append(inside, max(1 - inside.sum(), 1e-12)))
            low.append(-keep)
        return masses, low


def tile_costs(y: Tensor, tile: int, costs: Tensor) -> Tensor:
    """What each tile of each channel costs in each entry: (B, C, h, w) -> (B, C, ceil(h/T), ceil(w/T), D) bits.

    Tiles at the right and lower edges may be partial.
    """
    h, w = y.shape[2:]
    symbols = (y.detach().round().clamp(-REACH, REACH) + REACH).long()
    symbols = F.pad(symbols + 1, (0, -w % tile, 0, -h % tile))  # 0: no symbol
    costs = torch.cat((torch.zeros_like(costs[:1]), costs))
    columns = []
    for column in symbols.split(tile, 3):  # a column of tiles at a time, to bound memory
        cells = column.unflatten(2, (-1, tile)).flatten(3)  # (B, C, th, T T)
        columns.append(sum(costs[cells[..., k]] for k in range(cells.shape[3])))
    return torch.stack(columns, 3)  # type: ignore[arg-type]
