"""Priors that compete: a dictionary of fixed distributions, and for every place the number of the one that is used.

2111.09172. A place is a position of the latent with all its channels. The encoder counts, for each prior of the
dictionary, what the place would cost in the very tables that the coder has, and sends the number of the cheapest;
the decoder looks up. No network stands between two sites, so there is nothing that could differ between machines.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..transforms.gdn import lower_bound
from .exact import ACTIVATION_BITS, _round
from .exact_blocks import TABLE_BITS, ExactLevels
from .mixtures import CategoricalPrior
from .priors import FLOOR, FactorizedPrior, ScalePrior
from .sites import BoundPrior, Code
from .tables import Indexed
from .wavefront import Window, fronts

Bind = Callable[[Tensor], BoundPrior]
"""Numbers of priors (B, 1, h, w), int64 -> the distribution of a (B, M, h, w) latent."""

SWEEPS = 8  # of the search for the best numbers; it mostly comes to rest after three
PATIENCE = 50  # steps without a place after which a prior is given some
SHARE = 0.1  # of the places, the dearest


class ScaleDictionary(nn.Module):
    """K priors of M Gaussians each: a mean and a scale per prior and channel, both moving with the rate level.

    Args:
        count: K.
        channels: M.
        levels: of the rate; each has a factor for the scales of every channel.
        start: logarithm of the scale in the middle of the dictionary at each level (levels,).
        unit: table positions from a scale to e times it, and the position of scale 1.
    """

    def __init__(self, count: int, channels: int, start: list[float], unit: tuple[float, float]) -> None:
        super().__init__()
        self.count, self.unit = count, unit
        spread = torch.linspace(-3, 3, count)[:, None] + 0.3 * torch.randn(count, channels)
        self.mean = nn.Parameter(torch.zeros(count, channels))
        self.scale = nn.Parameter(spread)
        self.level_scale = ExactLevels(torch.tensor(start)[:, None].expand(-1, channels))
        self.prior = ScalePrior("gaussian")

    def bind(self, level: Tensor, gain: Tensor) -> Bind:
        """For pictures of rate levels (B,), whose latents were multiplied by gain (B, M, 1, 1)."""
        scale = self.scale if self.training else _round(self.scale * 2.0**TABLE_BITS) * 2.0**-TABLE_BITS
        step, one = self.unit

        def prior(number: Tensor) -> BoundPrior:
            at = one + step * (_look_up(scale, number) + self.level_scale(level))
            return self.prior(at, _look_up(self.mean, number) * gain)

        return prior


class CurveDictionary(FactorizedPrior):
    """K priors of M learned densities each, of the kind that :class:`FactorizedPrior` has one of per channel."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__(count * channels)
        self.count, self.each = count, channels

    def bind(self, level: Tensor, gain: Tensor) -> Bind:
        def prior(number: Tensor) -> BoundPrior:
            return _Curves(self, number * self.each + torch.arange(self.each, device=number.device).view(1, -1, 1, 1))

        return prior

    def logits(self, x: Tensor) -> Tensor:
        """As its parent's for all densities, a few at a time."""
        rows = torch.arange(len(x)).split(1024)
        return torch.cat([self.logits_of(part, x[part]) for part in rows])

    def logits_of(self, rows: Tensor, x: Tensor) -> Tensor:
        """Logits of the cumulatives of the densities `rows` (n,) at x (n, 1, m)."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix)[rows] @ x + bias[rows]
            if i < len(self.factors):
                x = x + torch.tanh(self.factors[i])[rows] * torch.tanh(x)
        return x


@dataclass(frozen=True)
class _Curves:
    """:class:`CurveDictionary` bound to a density for every element."""

    module: CurveDictionary
    rows: Tensor  # (B, M, h, w)

    centre = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape)

    def bits(self, r: Tensor) -> Tensor:
        edges = r.reshape(-1, 1, 1) + r.new_tensor([-0.5, 0.5])
        logits = self.module.logits_of(self.rows.flatten(), edges)[:, 0]
        sign = -torch.sign(logits.sum(1, keepdim=True)).detach()  # evaluate in the tail where sigmoids do not saturate
        lower, upper = torch.sigmoid(sign * logits).unbind(1)
        return -torch.log2(lower_bound((upper - lower).abs(), FLOOR)).view(r.shape)

    def distributions(self) -> Indexed:
        return self.module.indexed(self.rows)


class NumberCoder(nn.Module):
    """Codes the numbers of priors (B, 1, h, w), of `count`, each expected from the ones to its left and above it.

    Places of equal x + y are independent of one another and coded together. Without `context`, log2(count) bits each.
    """

    def __init__(self, count: int, *, context: bool) -> None:
        super().__init__()
        self.count, self.context = count, context
        if context:  # row `count` stands for what lies outside
            start = torch.eye(count + 1, count)
            self.left, self.above = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.prior = CategoricalPrior()

    def logits(self, left: Tensor, above: Tensor) -> Tensor:
        """Neighbours, int64 of any shape -> logits (..., count), multiples of 2^-10 outside training."""
        if not self.context:
            return torch.zeros(*left.shape, self.count, device=left.device)
        if self.training:
            return self.left[left] + self.above[above]
        unit = 2.0**ACTIVATION_BITS
        return (_round(self.left * unit)[left] + _round(self.above * unit)[above]) / unit

    def forward(self, code: Code, name: str, size: tuple[int, int], numbers: Callable[[], Tensor]) -> Tensor:
        """Code `numbers()`, int64 (B, 1, h, w), at the site `name`; returns them."""
        if self.training:
            sent = numbers()
            logits = self.logits(*_neighbours(sent, self.count)).permute(0, 4, 1, 2, 3)
            return code(name, self.prior(logits), lambda: sent.float()).round().long()
        (h, w), b = size, len(code.level)
        canvas = torch.full((b, (h + 1) * (w + 1)), self.count, device=code.level.device)
        for front in fronts(h, w, Window(1, 1, 0)) if self.context else [torch.arange(h * w)]:
            front = front.to(canvas.device)
            at = (front // w + 1) * (w + 1) + front % w + 1  # on a canvas with a border above and on the left
            logits = self.logits(canvas[:, at - 1], canvas[:, at - w - 1])[:, None]  # (B, 1, n, K)
            prior = self.prior(logits.permute(0, 3, 1, 2)[..., None])
            code.part = front, (h, w)
            sent = code(name, prior, lambda front=front: numbers().flatten(2)[..., front, None].float())  # type: ignore[misc]
            canvas[:, at] = sent[:, 0, :, 0].round().long()
        return canvas.view(b, 1, h + 1, w + 1)[:, :, 1:, 1:]

    @torch.no_grad()
    def costs(self) -> Tensor:
        """Exact bits (left, above, number) of a number behind its neighbours."""
        places = torch.arange(self.count + 1)
        left, above = torch.meshgrid(places, places, indexing="ij")
        logits = torch.floor(self.logits(left, above).double().cpu() * 2.0**ACTIVATION_BITS + 0.5)
        counts = self.prior.individual(logits.flatten(0, 1).T.to(torch.int64).numpy()).counts[:, : self.count]
        return torch.as_tensor(16 - np.log2(counts)).view(self.count + 1, self.count + 1, self.count)


def place_costs(bind: Bind, count: int, y: Tensor, *, exact: bool) -> Tensor:
    """Bits (B, K, h, w) of each place of latents (B, M, h, w) with each prior: exactly, or as training counts them."""
    found = []
    with torch.no_grad():
        for k in range(count):
            prior = bind(torch.full_like(y[:, :1], k, dtype=torch.int64))
            r = y - prior.centre
            if exact:
                symbols = r.round().reshape(-1).to("cpu", torch.int64).numpy()
                bits = torch.as_tensor(prior.distributions().bits(symbols), device=y.device).view(y.shape)
            else:
                bits = prior.bits(r).clamp_max(50)
            found.append(bits.sum(1))
    return torch.stack(found, 1)


def settle(costs: Tensor, pairs: Tensor) -> Tensor:
    """Numbers (h, w) of which no single one can be changed to save bits.

    Args:
        costs: (K, h, w) bits of each place with each prior.
        pairs: (K + 1, K + 1, K) bits of a number behind those to its left and above it; row K is outside.
    """
    k, h, w = costs.shape
    numbers = F.pad(costs.argmin(0), (1, 1, 1, 1), value=k)  # with a border all around
    y, x = (c.flatten() for c in torch.meshgrid(torch.arange(1, h + 1), torch.arange(1, w + 1), indexing="ij"))
    own = costs.flatten(1).T.to(pairs)
    for _ in range(SWEEPS):
        before = numbers.clone()
        for phase in range(4):  # places of one phase do not touch, not even over a corner
            part = (y % 2 * 2 + x % 2 == phase).nonzero()[:, 0]
            r, c = y[part], x[part]
            total = own[part] + pairs[numbers[r, c - 1], numbers[r - 1, c]]
            right, below = (c < w), (r < h)
            total[right] += pairs[:k, numbers[r - 1, c + 1][right], numbers[r, c + 1][right]].T
            total[below] += pairs[numbers[r + 1, c - 1][below], :k, numbers[r + 1, c][below]]
            numbers[r, c] = total.argmin(1)
        if torch.equal(numbers, before):
            break
    return numbers[1:-1, 1:-1]


class Revival:
    """While training: which priors have won no place for how long, and help for the one that has waited longest."""

    def __init__(self, count: int) -> None:
        self.idle = torch.zeros(count, dtype=torch.int64)

    def __call__(self, costs: Tensor) -> Tensor:
        """Costs (B, K, h, w) -> numbers (B, 1, h, w): the cheapest, but the dearest places may go to an idle prior."""
        cost, numbers = costs.min(1, keepdim=True)
        self.idle += 1
        self.idle[numbers.unique().cpu()] = 0
        waiting = int(self.idle.argmax())
        if self.idle[waiting] > PATIENCE:
            places = cost.flatten().topk(max(int(SHARE * cost.numel()), 1)).indices
            numbers.view(-1)[places] = waiting
            self.idle[waiting] = 0
        return numbers


def _look_up(rows: Tensor, number: Tensor) -> Tensor:
    """Rows of (K, M) by numbers (B, 1, h, w) -> (B, M, h, w)."""
    return F.embedding(number[:, 0], rows).permute(0, 3, 1, 2)


def _neighbours(numbers: Tensor, outside: int) -> tuple[Tensor, Tensor]:
    """Of every place of (..., h, w), the number to its left and the one above it."""
    bordered = F.pad(numbers, (1, 0, 1, 0), value=outside)
    return bordered[..., 1:, :-1], bordered[..., :-1, 1:]
