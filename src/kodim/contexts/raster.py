"""The masked convolution context of 1809.02736 (after PixelCNN, 1601.06759): each position sees those before it."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, CLAMP, WEIGHT_BITS, _fixed, _round
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import causal_taps, wavefront

SLOPE = 0.01  # of the rectifiers

Matrix = tuple[Tensor, Tensor]  # (in, out) integers in units of 2^-14, and the bias (out,) in units of 2^-24


class ExactContext(nn.Module):
    """Base of networks that are float while training and integer matrices, remembered, when they code."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: tuple[object, list[Matrix]] | None = None

    def _matrices(self) -> list[Matrix]:
        raise NotImplementedError

    def _integers(self) -> list[Matrix]:
        """All layers as integer matrices, made anew when a parameter has changed."""
        key = tuple((p.data_ptr(), p._version, p.device) for p in self.parameters())
        if self._frozen is None or self._frozen[0] != key:
            self._frozen = (key, self._matrices())
        return self._frozen[1]


class RasterContext(ExactContext):
    """A causal convolution over decoded values, joined with side information by a network of 1x1 layers.

    Only the causal taps are parameters: `weight` (context, channels, 1, taps). There is nothing to mask, and
    nothing that a decoder could not know.

    Args:
        channels: C of the latent.
        side: channels of the side information.
        context: outputs of the causal convolution.
        hidden: widths of the joining network.
        outputs: channels of the parameters that it emits.
        radius: 2 for a 5x5 mask.
        residual: the network corrects the side information instead of replacing it (side = outputs), and starts
            by leaving it alone: a trained hyper-prior can be built on.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        context: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        radius: int = 2,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.radius, self.residual = channels, radius, residual
        taps = causal_taps(radius)
        self.weight = nn.Parameter(torch.randn(context, channels, 1, taps) * (channels * taps) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(context))
        self.join = joining(side + context, *hidden, outputs)
        if residual:
            for p in self.join[-1].parameters():
                nn.init.zeros_(p)

    def forward(
        self,
        code: Code,
        name: str,
        side: Tensor,
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
    ) -> Tensor:
        """Code the latent (B, C, h, w) at the site `name`, given side information (B, S, h, w).

        `bind` makes a prior of the parameters (B, outputs, ..). While training, all positions are done at once
        on the handler's stand-in for decoded values; otherwise front by front, in exact integers.
        """
        if self.training:
            context = self._convolve(code.preview(latent()))
            parameters = self.join(torch.cat((side, context), 1))
            return code(name, bind(self.correct(side, parameters, 1) if self.residual else parameters), latent)
        with torch.no_grad(), torch.autocast(side.device.type, enabled=False):
            return wavefront(code, name, side, self.channels, self._predict, bind, latent, self.radius)

    def taps(self) -> Tensor:
        """Weights of the causal convolution, (context, channels, 1, taps)."""
        return self.weight

    def correct(self, side: Tensor, change: Tensor, dim: int, unit: float = 1.0) -> Tensor:
        """What the network makes of the side information, if residual; channels in dimension `dim`, 1 is `unit`."""
        return side + change

    def _convolve(self, x: Tensor) -> Tensor:
        size = 2 * self.radius + 1
        taps = self.taps()
        weight = F.pad(taps.flatten(2), (0, size**2 - taps.shape[3]))
        return F.conv2d(x, weight.unflatten(2, (size, size)), self.bias, padding=self.radius)

    def _predict(self, neighbours: Tensor, side: Tensor) -> Tensor:
        """The same in integers, for n positions: (B, n, taps * C), (B, n, S) -> (B, n, outputs)."""
        first, *layers = self._integers()
        a = _chain(torch.cat((side, _dense(neighbours, first)), 2), layers)
        return self.correct(side, a, 2, 2.0**ACTIVATION_BITS) if self.residual else a

    def _matrices(self) -> list[Matrix]:
        layers = [m for m in self.join if isinstance(m, nn.Conv2d)]
        return [
            _matrix(self.taps()[:, :, 0].transpose(1, 2).flatten(1), self.bias),
            *(_matrix(layer.weight.flatten(1), layer.bias) for layer in layers),  # type: ignore[arg-type]
        ]


def joining(*widths: int) -> nn.Sequential:
    """1x1 layers of these widths, with a LeakyReLU between each two."""
    layers = nn.Sequential()
    for c_in, c_out in pairwise(widths):
        layers.extend([nn.Conv2d(c_in, c_out, 1), nn.LeakyReLU(SLOPE)])
    layers.pop(-1)
    return layers


def _matrix(weight: Tensor, bias: Tensor) -> Matrix:
    """Float weights (out, in) and bias -> integers, such that no sum can reach 2^53, in whatever order."""
    matrix, offset = _fixed(weight, WEIGHT_BITS), _fixed(bias, WEIGHT_BITS + ACTIVATION_BITS)
    if float(matrix.abs().sum(1).max()) * 2 * CLAMP + float(offset.abs().max()) >= 2.0**53:
        raise ValueError("a context cannot be made exact: its sums may reach 2^53")
    return matrix.T.contiguous(), offset


def _dense(a: Tensor, layer: Matrix) -> Tensor:
    matrix, offset = layer
    return _round((a @ matrix + offset) * 2.0**-WEIGHT_BITS).clamp(-CLAMP, CLAMP)


def _chain(a: Tensor, layers: list[Matrix]) -> Tensor:
    """Layers with a LeakyReLU between each two."""
    for i, layer in enumerate(layers):
        a = _dense(_rectify(a) if i else a, layer)
    return a


def _rectify(a: Tensor) -> Tensor:
    return torch.where(a < 0, _round(a * (round(SLOPE * 2**WEIGHT_BITS) * 2.0**-WEIGHT_BITS)), a)
