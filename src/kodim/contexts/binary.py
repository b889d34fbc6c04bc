"""Entropy coders of binary codes: bit planes (B, C, h, w), one for each pass of a progressive codec.

Three of them, behind one interface, so that each can be measured on the same codes:

- :class:`RawBits`: a bit costs a bit, as in the first papers.
- :class:`AdaptiveBits`: counts per context, which go on from what training found and follow the picture.
- :class:`BinaryRNN`: a network on the bits around a position and on all earlier planes (1608.05148, section 4).

They are called as `coder(code, k, plane, memory)`: `plane` is a callable that gives +-1/2 and that the decoder never
calls; `memory` is what they gave back with the last pass, None before the first. A coder has no say in the codes: no
gradient flows to the plane. All of them are exact: what they compute with are integers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..coding.exact import ExactSequential
from ..coding.mixtures import BernoulliPrior, Categories
from ..coding.sites import Code
from ..coding.tables import PRECISION, TOTAL, Individual
from .raster import RasterContext

Plane = Callable[[], Tensor]

STRENGTH = 64  # how many observed bits the trained start of a context counts for
STEP = 1 << 8  # of the counters: one observed bit
LEAST = 48  # of 2^16: no bit is held to be less likely
NONE = 2  # in the place of a neighbouring bit that does not exist
STATE_LIMIT = 8.0


@dataclass(frozen=True)
class Bits:
    """Bits with given probabilities: `ones` (n,) is that of a one, in units of 2^-16; 0 stands for no bit at all."""

    ones: np.ndarray
    shape: tuple[int, ...]

    centre = -0.5

    @classmethod
    def fair(cls, shape: tuple[int, ...]) -> "Bits":
        """Bits that cost one bit each."""
        return cls(np.full(int(np.prod(shape)), TOTAL // 2), shape)

    def bits(self, r: Tensor) -> Tensor:
        """Of residuals 0 and 1; noise is rounded away."""
        ones = torch.as_tensor(self.ones, device=r.device).view(self.shape) / TOTAL
        return -torch.log2(torch.where(torch.floor(r + 0.5) > 0, ones, 1 - ones))

    def distributions(self) -> Individual:
        counts = np.stack([TOTAL - self.ones, self.ones, np.zeros_like(self.ones)], 1)
        return Individual(counts, np.zeros(len(counts), dtype=np.int64))


@dataclass(frozen=True)
class Logits(Categories):
    """Bits +-1/2 with the logits of a network; see :class:`~kodim.coding.mixtures.BernoulliPrior`."""

    centre = -0.5


class _Bernoulli(BernoulliPrior):
    def forward(self, logit: Tensor) -> Logits:
        return Logits(self, super().forward(logit).logits)


class CountedBits(nn.Module):
    """Bits whose probabilities are counted, per context and picture, while they are coded.

    Within one call probabilities stand still, behind it they follow what was seen, on top of STRENGTH imagined
    observations that training has left: `start`, the logit of a one in each context.
    """

    def __init__(self, contexts: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(contexts))
        self.prior = _Bernoulli()

    def counters(self, batch: int) -> "Counters":
        """Fresh counters, for the pictures of a batch."""
        chances = self.prior(self.start.detach().view(1, -1, 1, 1)).distributions().counts[:, 1].astype(np.int64)
        return Counters(chances, batch)

    def forward(
        self,
        code: Code,
        name: str,
        context: Tensor,
        bits: Plane,
        counters: "Counters | None",
        active: Tensor | None = None,
    ) -> Tensor:
        """Code bits +-1/2 at the site `name`.

        Args:
            context: (B, C, h, w) int64.
            bits: gives them, in the shape of `context`; never called by the decoder.
            counters: of these pictures, changed in place; None while training.
            active: boolean, of a shape that expands to that of `context`: where there is a bit at all. Elsewhere
                `bits` must be -1/2.
        """
        if self.training:
            logit = self.start[context]
            return code(name, self.prior(logit if active is None else torch.where(active, logit, -32.0)), bits)
        assert counters is not None
        at = context.cpu().numpy()
        on = None if active is None else active.expand_as(context).cpu().numpy().astype(np.int64)
        ones = counters.ones(at) if on is None else counters.ones(at) * on
        value = code(name, Bits(ones.reshape(-1), tuple(at.shape)), bits)
        counters.count(at, (value > 0).cpu().numpy(), on)
        return value


class Counters:
    """How often each context has seen a one, per picture; integers only.

    Args:
        chances: (contexts,) probability of a one to start from, in units of 2^-16.
        batch: pictures.
    """

    def __init__(self, chances: np.ndarray, batch: int) -> None:
        self.first = (np.arange(batch) * len(chances))[:, None, None, None]
        self.one = np.tile(chances * (STRENGTH * STEP) >> PRECISION, batch)
        self.all = np.full(batch * len(chances), STRENGTH * STEP)

    def ones(self, context: np.ndarray) -> np.ndarray:
        """Probability of a one, in units of 2^-16, in each context (B, C, h, w)."""
        at = context + self.first
        return ((self.one[at] << PRECISION) // self.all[at]).clip(LEAST, TOTAL - LEAST)

    def count(self, context: np.ndarray, bits: np.ndarray, active: np.ndarray | None = None) -> None:
        """Remember bits (B, C, h, w) of 0 and 1, but those that are not `active`."""
        at = (context + self.first).reshape(-1)
        weight = np.full(at.shape, STEP) if active is None else active.reshape(-1) * STEP
        self.all += np.bincount(at, weight, len(self.all)).astype(np.int64)
        self.one += np.bincount(at, weight * bits.reshape(-1), len(self.one)).astype(np.int64)


class BitCoder(nn.Module):
    """Base of the coders of whole planes.

    Args:
        passes: planes at most.
        channels: C of a plane.
        stride: pixels to a position of it.
        name: of the coding site.
    """

    def __init__(self, passes: int, channels: int, stride: int, name: str = "y") -> None:
        super().__init__()
        self.passes, self.channels, self.stride, self.name = passes, channels, stride, name

    def forward(
        self, code: Code, k: int, plane: Plane, memory: Any, active: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Code the plane of pass k; gives it as +-1/2, and the memory for the next.

        `active` (B, 1, h, w), boolean: where there is a code at all. Elsewhere the plane must hold -1/2.
        """
        raise NotImplementedError

    def shape(self, code: Code) -> tuple[int, int, int, int]:
        return len(code.level), self.channels, *code.grid(self.stride)


class RawBits(BitCoder):
    """Every bit costs one bit."""

    def forward(
        self, code: Code, k: int, plane: Plane, memory: Any, active: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        shape = self.shape(code)
        prior = Bits.fair(shape)
        if active is not None:
            prior = Bits(prior.ones * active.expand(shape).reshape(-1).cpu().numpy(), shape)
        return code(self.name, prior, plane), None


class AdaptiveBits(BitCoder):
    """Counted bits, row by row; context: pass, channel, the bit above and that of the last pass (0, 1 or none)."""

    def __init__(self, passes: int, channels: int, stride: int, name: str = "y") -> None:
        super().__init__(passes, channels, stride, name)
        self.counted = CountedBits(passes * channels * 3 * 3)

    def forward(
        self, code: Code, k: int, plane: Plane, memory: Any, active: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        shape = self.shape(code)
        if memory is None:
            nothing = torch.full(shape, NONE, device=code.level.device)
            memory = (None if self.training else self.counted.counters(shape[0]), nothing)
        counters, before = memory
        if self.training:  # all rows at once
            bits = plane()
            seen = _ternary(bits, active)
            above = torch.cat((torch.full_like(seen[:, :, :1], NONE), seen[:, :, :-1]), 2)
            context = self._context(k, above, before)
            return self.counted(code, self.name, context, lambda: bits, None, active), (None, seen)
        rows, kinds = [], [torch.full_like(before[:, :, :1], NONE)]
        for y in range(shape[2]):
            row = slice(y, y + 1)
            on = None if active is None else active[:, :, row]
            context = self._context(k, kinds[-1], before[:, :, row])
            code.part = torch.arange(y * shape[3], (y + 1) * shape[3]), (shape[2], shape[3])
            rows.append(self.counted(code, self.name, context, lambda row=row: plane()[:, :, row], counters, on))
            kinds.append(_ternary(rows[-1], on))
        return torch.cat(rows, 2), (counters, torch.cat(kinds[1:], 2))

    def _context(self, k: int, above: Tensor, before: Tensor) -> Tensor:
        channel = torch.arange(self.channels, device=above.device)[:, None, None]
        return ((k * self.channels + channel) * 3 + above) * 3 + before


def _ternary(bits: Tensor, active: Tensor | None) -> Tensor:
    """0 or 1 for bits +-1/2, NONE where there is no bit."""
    seen = (bits > 0).long()
    return seen if active is None else torch.where(active, seen, NONE)


class BinaryRNN(BitCoder):
    """A network for each plane: bits before a position in raster order, and a state that follows the planes.

    The published one steps a row LSTM; here the bits around a position meet in a masked convolution
    (:class:`~kodim.contexts.raster.RasterContext`), which wavefronts decode, and the state is a recurrence of
    rectifiers, which is exact in integers::

        plane k --[masked conv]--.
                                 +--> [1x1, 1x1] --> P(bit = 1), for all bits of a position at once
        state k-1 ---------------'
        state k = clamp(state k-1 + [1x1, 1x1](state k-1, [3x3, 3x3](plane k)))

    Args:
        width: channels of the masked convolution, the joining layers and the state.
        radius: of the mask; 3 for the paper's 7x7.
    """

    def __init__(
        self, passes: int, channels: int, stride: int, name: str = "y", *, width: int = 64, radius: int = 2
    ) -> None:
        super().__init__(passes, channels, stride, name)
        self.width, self.prior = width, _Bernoulli()
        self.contexts = nn.ModuleList(
            _BitContext(channels, width, width, (width,), channels, radius=radius) for _ in range(passes)
        )
        self.look = ExactSequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.step = ExactSequential(nn.Conv2d(2 * width, width, 1), nn.LeakyReLU(), nn.Conv2d(width, width, 1))

    def forward(
        self, code: Code, k: int, plane: Plane, memory: Any, active: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        b, _, h, w = self.shape(code)
        state = memory if memory is not None else next(self.parameters()).new_zeros(b, self.width, h, w)
        if active is not None:
            raise NotImplementedError("a BinaryRNN codes whole planes")
        bits = self.contexts[k](code, self.name, state, self.prior, plane)
        if k + 1 == self.passes:
            return bits, None
        seen = 2 * bits.detach().to(state.dtype)
        after = state + self.step(torch.cat((state, self.look(seen)), 1))
        return bits, after.clamp(-STATE_LIMIT, STATE_LIMIT)


class _BitContext(RasterContext):
    """A raster context that trains on the bits themselves: noise on a bit would teach it nothing."""

    def forward(self, code, name, side, bind, latent):  # type: ignore[no-untyped-def]
        if not self.training:
            return super().forward(code, name, side, bind, latent)
        bits = latent()
        return code(name, bind(self.join(torch.cat((side, self._convolve(bits)), 1))), lambda: bits)


CODERS: dict[str, type[BitCoder]] = {"raw": RawBits, "adaptive": AdaptiveBits, "rnn": BinaryRNN}
