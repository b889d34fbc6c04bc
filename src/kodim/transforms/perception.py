"""Differentiable distances that follow the eye: what a codec may be trained for besides the squared error."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadRequest
from ..metrics.perceptual import _FAR_LEFT, _LUMA, _NORMALISATION

Distance = Callable[[Tensor, Tensor], Tensor]
"""Pictures (B, 3, H, W) in [0, 1], the original first -> (B,), 0 for equal ones."""

VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: pooling
VGG_MEAN, VGG_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_FILE = "KODIM_VGG16"


def pyramid_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Squared differences of normalised Laplacian pyramids, averaged over places and bands: NLPD before its roots.

    The pyramid is that of :func:`kodim.metrics.perceptual.nlpd`, on luma; see there. Bands of less than two rows
    or columns are left out.
    """
    with torch.autocast(x.device.type, enabled=False):
        pairs = zip(_bands(x.float()), _bands(x_hat.float()), strict=True)
        return torch.stack([(a - b).square().mean((1, 2, 3)) for a, b in pairs]).mean(0)


def _bands(x: Tensor) -> Iterator[Tensor]:
    """The normalised bands of the luma of (B, 3, H, W), finest first, the low-pass rest last."""
    plane = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    for level, (sigma, weights) in enumerate(_NORMALISATION):
        if level < len(_NORMALISATION) - 1:
            if min(plane.shape[2:]) < 4:
                return
            low = _reduce(_reduce(plane).mT).mT
            high = _expand(_expand(low, plane.shape[2]).mT, plane.shape[3]).mT
            band, plane = plane - high, low
        else:
            band = plane
        above, left, right, below = weights
        taps = band.new_tensor([[0, 0, above, 0, 0], [0, left, 0, right, 0], [0, 0, below, 0, 0]])
        taps[1, 0] = _FAR_LEFT if level == 0 else 0.0
        yield band / (sigma + F.conv2d(band.abs(), taps[None, None], padding=(1, 2)))


def _reduce(x: Tensor) -> Tensor:
    """Low-pass and keep every second row, edges mirrored."""
    p = torch.cat((x[:, :, :2].flip(2), x, x[:, :, -2:].flip(2)), 2)
    smooth = 0.05 * (p[:, :, :-4] + p[:, :, 4:]) + 0.25 * (p[:, :, 1:-3] + p[:, :, 3:-1]) + 0.4 * p[:, :, 2:-2]
    return smooth[:, :, ::2]


def _expand(x: Tensor, rows: int) -> Tensor:
    """Interpolate to `rows` rows (twice as many or one fewer), edges repeated."""
    p = torch.cat((x[:, :, :1], x, x[:, :, -1:]), 2)
    even, odd = 0.1 * (p[:, :, :-2] + p[:, :, 2:]) + 0.8 * p[:, :, 1:-1], 0.5 * (p[:, :, 1:-1] + p[:, :, 2:])
    return torch.stack((even, odd), 3).flatten(2, 3)[:, :, :rows]


def vgg_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Squared differences of VGG-16 features at five depths, each place of unit length: means over places, summed.

    The features are those before each pooling, which averages instead of taking the maximum: maxima leave a
    checkerboard in what is trained with them. The weights are the file that the environment variable KODIM_VGG16
    names, a state dict with torchvision's keys (`features.0.weight`, ...), as .safetensors or .pth.
    """
    net = _vgg(os.environ.get(VGG_FILE, "")).to(x.device)
    with torch.autocast(x.device.type, enabled=False):
        pairs = zip(net(x.float()), net(x_hat.float()), strict=True)
        return torch.stack([(F.normalize(a) - F.normalize(b)).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


class VGGFeatures(nn.Module):
    """The convolutions of VGG-16 (1409.1556), `widths` as in `VGG_WIDTHS`; parameters bear torchvision's names."""

    def __init__(self, widths: tuple[int, ...] = VGG_WIDTHS) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for width in widths:
            if width:
                self.features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()])
                channels = width
            else:
                self.features.append(nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the features before each pooling and the last ones."""
        x = (x - x.new_tensor(VGG_MEAN)[:, None, None]) / x.new_tensor(VGG_SPREAD)[:, None, None]
        found = []
        for layer in self.features:
            if isinstance(layer, nn.AvgPool2d):
                found.append(x)
            x = layer(x)
        return [*found, x]


@cache
def _vgg(path: str) -> VGGFeatures:
    net = VGGFeatures().requires_grad_(False)
    if not path:
        raise BadRequest(f"{VGG_FILE} must name the weights of VGG-16, a state dict with torchvision's keys")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict({k: v for k, v in state.items() if k.startswith("features.")})
    except Exception as error:
        raise BadRequest(f"{path}: not weights of VGG-16 ({str(error).splitlines()[0]})") from None
    return net


DISTANCES: dict[str, Distance] = {"pyramid": pyramid_distance, "vgg": vgg_distance}
