"""Recurrent cells on feature maps, for codecs that look at a picture again and again.

One set for all systems of the family; gates are convolutions, without biases as in the published code. Names and
equations are those of G. Toderici et al., "Full Resolution Image Compression with Recurrent Neural Networks" (CVPR
2017, arXiv 1608.05148, section 3). In what follows W is the input's convolution, U that of the state, * a product
per element, and the state starts at 0.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
Memory = list[State | None]

QUIET = 0.1  # what is left of random weights that a start is to drown out
RESIDUAL = 0.1  # weight of the residual GRU's shortcuts


class Cell(nn.Module):
    """Base of the cells: (B, c_in, H, W) and a state -> (B, c_out, h, w) and the next state.

    Args:
        c_in, c_out: channels; an associative LSTM needs an even `c_out`.
        kernel: side of the input's kernels.
        hidden: side of the state's kernels.
        stride: divides height and width; with `up` it multiplies them.
    """

    gates: ClassVar[float]  # outputs of W, in units of c_out
    candidate: ClassVar[int]  # which of them are no gates
    lift: ClassVar[float] = 0.0  # what the candidate's weights make up for, where gates stand half open (`straighten`)
    keeps: ClassVar[float] = 0.5  # how much of the state such gates keep

    def __init__(
        self, c_in: int, c_out: int, *, kernel: int = 3, hidden: int = 1, stride: int = 1, up: bool = False
    ) -> None:
        super().__init__()
        self.c_out, self.place = c_out, (kernel, stride, up)
        self.input = convolution(c_in, round(self.gates * c_out), *self.place)
        self.hidden = convolution(c_out, round(self.gates * c_out), hidden)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        raise NotImplementedError

    @torch.no_grad()
    def straighten(self) -> tuple[Tensor, float]:
        """Make small inputs pass as through their convolution alone, whatever the state.

        Gates are nearly shut off from what they see, and the state's convolution takes back what the gates keep of it.
        Returns the weights of that convolution (out, in, k, k), for the caller to set, and the factor they must carry.
        """
        if not self.lift:
            raise NotImplementedError(f"{type(self).__name__} has no linear start")
        for weight in self.parameters():
            weight.mul_(QUIET)
        rows = slice(self.candidate * self.c_out, (self.candidate + 1) * self.c_out)
        side = self.hidden.weight.shape[-1] // 2
        self.hidden.weight[rows] = 0
        self.hidden.weight[rows, :, side, side] = -self.lift * self.keeps * torch.eye(self.c_out)
        transposed = isinstance(self.input, nn.ConvTranspose2d)
        return (self.input.weight.transpose(0, 1) if transposed else self.input.weight)[rows], self.lift


class ConvLSTM(Cell):
    """c = sig(f + forget) * c + sig(i) * tanh(j); h = sig(o) * tanh(c), with (i, f, j, o) = W x + U h."""

    gates = 4
    candidate = 2
    lift = 4.0  # sig(0) tanh(sig(0) tanh(x)) is x / 4
    forget = 0.0  # bias of the forget gate; 1 in the paper of 2016

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        gates = self.input(x)
        if state is not None:
            gates = gates + self.hidden(state[0])
        i, f, j, o = gates.chunk(4, 1)
        c = torch.sigmoid(i) * torch.tanh(j)
        if state is not None:
            c = c + torch.sigmoid(f + self.forget) * state[1]
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class ForgetfulLSTM(ConvLSTM):
    """A :class:`ConvLSTM` that starts out remembering, as in arXiv 1511.06085."""

    forget = 1.0
    keeps = 0.731  # sig(1)


class ConvGRU(Cell):
    """h = (1 - z) * h + z * tanh(W x + U (r * h)), with z = sig(W_z x + U_z h) and r = sig(W_r x + U_r h)."""

    gates = 3
    candidate = 2
    lift = 2.0
    keeps = 1.0  # half of it in h, through half of it in r * h

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        h = self._next(x, state)
        return h, (h,)

    def _next(self, x: Tensor, state: State | None) -> Tensor:
        x_z, x_r, x_h = self.input(x).chunk(3, 1)
        if state is None:
            return torch.sigmoid(x_z) * torch.tanh(x_h)
        (h,) = state
        gates, candidate = self.hidden.weight.split((2 * self.c_out, self.c_out))
        side = self.hidden.padding[0]
        h_z, h_r = nn.functional.conv2d(h, gates, padding=side).chunk(2, 1)
        z, r = torch.sigmoid(x_z + h_z), torch.sigmoid(x_r + h_r)
        return torch.lerp(h, torch.tanh(x_h + nn.functional.conv2d(r * h, candidate, padding=side)), z)


class ResidualGRU(ConvGRU):
    """A GRU with shortcuts: h = GRU(x, h) + 0.1 U' h, and h + 0.1 W' x is handed on."""

    def __init__(self, c_in: int, c_out: int, *, hidden: int = 1, **place: int) -> None:
        super().__init__(c_in, c_out, hidden=hidden, **place)  # type: ignore[arg-type]
        self.skip_input = convolution(c_in, c_out, *self.place)
        self.skip_hidden = convolution(c_out, c_out, hidden)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        h = self._next(x, state)
        if state is not None:
            h = h + RESIDUAL * self.skip_hidden(state[0])
        return h + RESIDUAL * self.skip_input(x), (h,)


class AssociativeLSTM(Cell):
    """An LSTM on complex numbers: c = f * c + r_i * i * j; h = o * bound(r_o * c), products complex.

    Gates f, i, o are real, j and the keys r_i, r_o complex and bounded: divided by their absolute value where it
    exceeds 1. Channels of h are real parts, then imaginary ones.
    """

    gates = 4.5

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        values = self.input(x)
        if state is not None:
            values = values + self.hidden(state[0])
        half = self.c_out // 2
        f, i, o = torch.sigmoid(values[:, : 3 * half]).chunk(3, 1)
        j, key_in, key_out = (bound(v) for v in values[:, 3 * half :].chunk(3, 1))
        c = product(key_in, torch.cat((i, i), 1) * j)
        if state is not None:
            c = c + torch.cat((f, f), 1) * state[1]
        h = torch.cat((o, o), 1) * bound(product(key_out, c))
        return h, (h, c)


CELLS: dict[str, type[Cell]] = {
    "lstm": ConvLSTM,
    "forgetful": ForgetfulLSTM,
    "gru": ConvGRU,
    "residual-gru": ResidualGRU,
    "associative": AssociativeLSTM,
}


class Recurrent(nn.Sequential):
    """A `nn.Sequential` whose cells remember: (x, memory) -> (y, memory), with None for no memory yet."""

    def forward(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        before, after = iter(memory or []), list[State | None]()
        for layer in self:
            if isinstance(layer, Cell):
                x, state = layer(x, next(before, None))
                after.append(state)
            else:
                x = layer(x)
        return x, after


def convolution(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, up: bool = False) -> nn.Conv2d:
    """A convolution without bias that starts out preserving the variance; transposed with `up`."""
    side = kernel // 2
    if up:
        layer = nn.ConvTranspose2d(c_in, c_out, kernel, stride, side, output_padding=stride - 1, bias=False)
    else:
        layer = nn.Conv2d(c_in, c_out, kernel, stride, side, bias=False)  # type: ignore[assignment]
    fan_in = c_in * kernel**2 / (stride**2 if up else 1)
    nn.init.normal_(layer.weight, std=fan_in**-0.5)
    return layer  # type: ignore[return-value]


def bound(z: Tensor) -> Tensor:
    """Complex numbers (B, 2C, h, w), divided by their absolute value where that exceeds 1."""
    re, im = z.chunk(2, 1)
    size = (re.square() + im.square()).clamp_min(1).sqrt()
    return torch.cat((re / size, im / size), 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Of complex numbers (B, 2C, h, w): real parts first, then imaginary ones."""
    (re, im), (u, v) = a.chunk(2, 1), b.chunk(2, 1)
    return torch.cat((re * u - im * v, re * v + im * u), 1)


def encoder(
    widths: Sequence[int], cell: str, hidden: Sequence[int], bits: int, after_first: nn.Module | None = None
) -> Recurrent:
    """Residual (B, 3, H, W) -> (B, bits, H/16, W/16) within +-1; one convolution and three cells, each of stride 2.

    Args:
        widths: of the convolution and the cells.
        cell: a key of `CELLS`.
        hidden: sides of the kernels on the cells' states.
        after_first: follows the first convolution.
    """
    layers: list[nn.Module] = [convolution(3, widths[0], stride=2)]
    layers += [after_first] if after_first is not None else []
    for c_in, c_out, side in zip(widths[:-1], widths[1:], hidden, strict=True):
        layers.append(CELLS[cell](c_in, c_out, hidden=side, stride=2))
    return Recurrent(*layers, convolution(widths[-1], bits, 1), nn.Tanh())


def decoder(
    widths: Sequence[int], cell: str, hidden: Sequence[int], bits: int, after_first: nn.Module | None = None
) -> Recurrent:
    """Code (B, bits, H/16, W/16) of +-1 -> (B, 3, H, W) within +-0.5; each of four cells ends in depth-to-space.

    Args:
        widths: of the first, 1x1 convolution and of the cells.
        cell, hidden, after_first: as of :func:`encoder`.
    """
    layers: list[nn.Module] = [convolution(bits, widths[0], 1)]
    layers += [after_first] if after_first is not None else []
    c_in = widths[0]
    for c_out, side in zip(widths[1:], hidden, strict=True):
        layers += [CELLS[cell](c_in, c_out, hidden=side), nn.PixelShuffle(2)]
        c_in = c_out // 4
    return Recurrent(*layers, convolution(c_in, 3, 1), HalfTanh())


class HalfTanh(nn.Module):
    """tanh(x) / 2: the range of centred pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.tanh(x)
