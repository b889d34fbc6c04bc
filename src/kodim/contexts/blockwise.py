"""Networks of 1x1 layers on blocks of pixels, which see the blocks decoded before them (2203.11686)."""

import torch
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, WEIGHT_BITS, _fixed, _round
from ..transforms.gdn import GDN
from .masked import Canvas, Masked
from .raster import SLOPE, ExactContext, Matrix, _dense, _matrix, _rectify

NORM_CLAMP = 2.0**17  # inputs count as +-128 at most in a norm, so that sums of squares stay exact


class BlockNet(ExactContext):
    """A layer on the block (if any) and on the blocks left, up left, up and up right; then 1x1 layers.

    Args:
        inside: channels of the block; 0 for a network that sees the neighbours only.
        around: channels of a neighbouring block.
        widths: of the hidden layers; then `outputs`.
        norm: GDN between the layers, of that direction ("gdn", "igdn"); else LeakyReLU.
        wide: the second layer sees the features of the neighbours too.
    """

    def __init__(
        self, inside: int, around: int, widths: tuple[int, ...], outputs: int, norm: str = "", *, wide: bool = False
    ) -> None:
        super().__init__()
        self.inside = nn.Conv2d(inside, widths[0], 1) if inside else None
        self.around = Masked(around, widths[0], own=False, deep=False)
        self.norms = nn.ModuleList(GDN(w, inverse=norm == "igdn") if norm else nn.LeakyReLU(SLOPE) for w in widths)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, (*widths[1:], outputs), strict=True))
        if wide:
            self.layers[0] = Masked(widths[0], widths[1], own=True, deep=False)

    def forward(self, x: Tensor | None, reference: Tensor) -> Tensor:
        """All blocks at once: x (B, inside, h, w), reference (B, around, h, w) -> (B, outputs, h, w)."""
        a = self.around(reference.unsqueeze(1))[:, 0]
        if self.inside is not None:
            a = a + self.inside(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            a = norm(a)
            a = layer(a.unsqueeze(1))[:, 0] if isinstance(layer, Masked) else layer(a)
        return a

    def some(self, x: Tensor, near: Tensor) -> Tensor:
        """In floats, for n blocks: x (B, inside, n, 1), their neighbours (B, n, 4 around) -> (B, outputs, n, 1)."""
        assert self.inside is not None
        matrix = self.around.weight[:, :, 0].transpose(1, 2).flatten(1)
        a = self.inside(x) + (near @ matrix.T + self.around.bias).transpose(1, 2).unsqueeze(3)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            a = layer(norm(a))
        return a

    def exact(self, x: Tensor | None, near: Tensor, features: Canvas | None, at: Tensor) -> Tensor:
        """In integers, for n blocks: (B, n, C) -> (B, n, outputs); `wide` keeps their features at `at` of a canvas."""
        around, *layers = self._integers()
        a = _dense(near, around)
        if self.inside is not None:
            a = a + _dense(x, layers.pop(0))  # type: ignore[arg-type]
        for i, (norm, layer) in enumerate(zip(self.norms, layers[: len(self.layers)], strict=True)):
            a = _normalise(a, layers[len(self.layers) + i], norm.inverse) if isinstance(norm, GDN) else _rectify(a)
            if isinstance(own := self.layers[i], Masked):
                assert features is not None
                features.values.index_copy_(1, at, a)
                a = features.near(at, own)
            a = _dense(a, layer)
        return a

    def _matrices(self) -> list[Matrix]:
        inside = [] if self.inside is None else [_matrix(self.inside.weight.flatten(1), self.inside.bias)]  # type: ignore[arg-type]
        layers = [
            m.matrix() if isinstance(m, Masked) else _matrix(m.weight.flatten(1), m.bias)  # type: ignore[operator, arg-type]
            for m in self.layers
        ]
        return [self.around.matrix(), *inside, *layers, *(_norm(m) for m in self.norms if isinstance(m, GDN))]


def _norm(layer: GDN) -> Matrix:
    """gamma in units of 2^-14 and beta in units of 2^-34, such that no sum of squares can reach 2^53."""
    bound, pedestal = GDN.PEDESTAL**0.5, GDN.PEDESTAL
    gamma = layer.gamma.detach().float().clamp_min(bound).square() - pedestal
    beta = layer.beta.detach().float().clamp_min(bound).square() - pedestal
    matrix, offset = _fixed(gamma, WEIGHT_BITS), _fixed(beta, WEIGHT_BITS + 2 * ACTIVATION_BITS).clamp_min(1)
    if float(matrix.sum(1).max()) * NORM_CLAMP**2 + float(offset.max()) >= 2.0**53:
        raise ValueError("a normalisation cannot be made exact: its sums may reach 2^53")
    return matrix.T.contiguous(), offset


def _normalise(a: Tensor, norm: Matrix, inverse: bool) -> Tensor:
    """GDN of integers. IEEE 754 rounds square roots and quotients correctly, so they are the same everywhere."""
    gamma, beta = norm
    root = _round(torch.sqrt(a.clamp(-NORM_CLAMP, NORM_CLAMP).square() @ gamma + beta))  # in units of 2^-17
    unit = 2.0 ** (WEIGHT_BITS // 2 + ACTIVATION_BITS)
    return (_round(a * root / unit) if inverse else _round(a * unit / root.clamp_min(1))).clamp(-(2.0**20), 2.0**20)
