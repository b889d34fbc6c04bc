"""The two windows of 1809.10452: decoded latents before a position, and side information all around it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, WEIGHT_BITS, _exact_layer, _fixed
from ..coding.sites import BoundPrior, Code
from ..coding.wavefront import Window, to_grid, wavefront
from .raster import SLOPE, ExactContext, Matrix, _chain, _matrix, _rectify

SIDE = 4  # of the windows: three rows above, two columns to the left, one to the right
WINDOW = Window(up=3, left=2, right=1)
CHUNK = 256  # windows worked on at once


class WindowContext(ExactContext):
    """A small network on 4x4 windows around each position, one of decoded values and one of side information.

    Of the decoded values the window holds the 14 places before the position in raster order, of the side
    information all 16. Both are zero outside the latent.

    Args:
        channels: C of the latent.
        side: channels of the side information.
        width: of the three 3x3 layers (strides 1, 2, 1), before the fully connected one.
        outputs: channels of the parameters that it emits.
        residual: it corrects the side information (side = outputs), and starts by leaving it alone.
    """

    seen: Tensor

    def __init__(self, channels: int, side: int, width: int, outputs: int, *, residual: bool = False) -> None:
        super().__init__()
        self.channels, self.residual = channels, residual
        self.hyper = nn.Conv2d(side, width, 3, padding=1)  # with `causal`: one layer on the joined windows
        self.causal = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.rest = nn.Sequential(
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, 2, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, outputs, 2),
        )
        if residual:
            for p in self.rest[-1].parameters():
                nn.init.zeros_(p)
        seen = (torch.arange(SIDE**2) < WINDOW.taps).view(SIDE, SIDE).float()
        self.register_buffer("seen", seen, persistent=False)

    def forward(
        self,
        code: Code,
        name: str,
        side: Tensor,
        bind: Callable[[Tensor], BoundPrior],
        latent: Callable[[], Tensor],
    ) -> Tensor:
        """Code the latent (B, C, h, w) at the site `name`, given side information (B, S, h, w)."""
        if self.training:
            y = code.preview(latent())
            features = self.hyper(_windows(side)) + self.causal(_windows(y) * self.seen)
            parameters = self.rest(features).view(len(y), y.shape[2] * y.shape[3], -1).transpose(1, 2)
            parameters = parameters.reshape(len(y), -1, *y.shape[2:])
            return code(name, bind(side + parameters if self.residual else parameters), latent)
        with torch.no_grad(), torch.autocast(side.device.type, enabled=False):
            known = torch.cat((self._side_features(side), to_grid(side)), 1) * 2.0**-ACTIVATION_BITS
            known = known.to(side.dtype)  # 21 bits: exact in float32 too
            return wavefront(code, name, known, self.channels, self._predict, bind, latent, WINDOW)

    def _side_features(self, side: Tensor) -> Tensor:
        """What the first layer makes of the side windows, as integers: (B, S, h, w) -> (B, 16 width, h, w)."""
        b, _, h, w = side.shape
        chunks = _windows(to_grid(side)).split(CHUNK)
        features = torch.cat([_exact_layer(self.hyper, chunk).flatten(1) for chunk in chunks])
        return features.view(b, h, w, -1).permute(0, 3, 1, 2)

    def _predict(self, neighbours: Tensor, known: Tensor) -> Tensor:
        """In integers, for n positions: (B, n, 14 C), (B, n, 16 width + S) -> (B, n, outputs)."""
        (first, bias), *layers = self._integers()
        features = known[:, :, : first.shape[1]]
        a = torch.floor((neighbours @ first + bias) * 2.0**-WEIGHT_BITS + 0.5) + features
        a = _chain(_rectify(a), layers)
        return known[:, :, first.shape[1] :] + a if self.residual else a

    def _matrices(self) -> list[Matrix]:
        layers = [m for m in self.rest if isinstance(m, nn.Conv2d)]
        whole, bias = _window_matrix(self.causal, SIDE)
        seen = whole.view(self.channels, SIDE**2, -1)[:, : WINDOW.taps]
        sides = (SIDE, SIDE // 2, SIDE // 2)
        first = seen.transpose(0, 1).flatten(0, 1).contiguous()
        return [(first, bias), *(_window_matrix(m, n) for m, n in zip(layers, sides, strict=True))]


def _windows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C, 4, 4): rows h - 3 .. h and columns w - 2 .. w + 1 of each position."""
    padded = F.pad(x, (WINDOW.left, WINDOW.right, WINDOW.up, 0))
    return padded.unfold(2, SIDE, 1).unfold(3, SIDE, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _window_matrix(layer: nn.Conv2d, side: int) -> Matrix:
    """A convolution of (C, side, side) windows as one integer matrix, (C side^2, out side'^2)."""
    unit = torch.eye(layer.in_channels * side**2, dtype=torch.float64, device=layer.weight.device)
    weight = _fixed(layer.weight, WEIGHT_BITS) * 2.0**-WEIGHT_BITS
    rows = F.conv2d(unit.view(-1, layer.in_channels, side, side), weight, None, layer.stride, layer.padding)
    bias = torch.zeros(layer.out_channels, device=unit.device) if layer.bias is None else layer.bias
    return _matrix(rows.flatten(1).T, bias.repeat_interleave(rows[0, 0].numel()))
