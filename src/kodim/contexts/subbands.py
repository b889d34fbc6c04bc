"""What the subbands decoded so far tell about the next ones: a convolutional LSTM that climbs a wavelet pyramid."""

import torch
from torch import Tensor, nn

from ..coding.exact import ACTIVATION_BITS, _exact_layer
from ..coding.wavefront import to_grid

UNIT = 2.0**-ACTIVATION_BITS
States = list[tuple[Tensor, Tensor]]  # of each layer: output and cell


class BandMemory(nn.Module):
    """ConvLSTM layers, 3x3, whose gates are piecewise linear: float while training, exact otherwise.

    Args:
        inputs: channels of what it is shown.
        widths: of its layers.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        self.cells = nn.ModuleList(
            nn.Conv2d(a + b, 4 * b, 3, padding=1) for a, b in zip((inputs, *widths), widths, strict=False)
        )
        self.grow = nn.ModuleList(nn.ConvTranspose2d(w, w, 3, 2, 1, 1) for w in (*widths, *widths))

    def start(self, like: Tensor) -> States:
        """Empty states for what is shown first, (N, inputs, h, w)."""
        empty = [like.new_zeros(len(like), n, *like.shape[2:], dtype=self._dtype(like)) for n in self.widths]
        return [(e, e) for e in empty]

    def see(self, x: Tensor, states: States) -> States:
        """The states after x (N, inputs, h, w)."""
        after: States = []
        for layer, (h, c) in zip(self.cells, states, strict=True):
            gates = self._run(layer, torch.cat((x.to(h.dtype), h), 1))
            keep, add, show, new = gates.chunk(4, 1)
            c = self._rest(_gate(keep) * c + _gate(add) * new.clamp(-1, 1))
            x = self._rest(_gate(show) * c.clamp(-1, 1))
            after.append((x, c))
        return after

    def climb(self, states: States) -> States:
        """The states at twice the resolution."""
        n = len(states)
        return [(self._run(self.grow[i], h), self._run(self.grow[n + i], c)) for i, (h, c) in enumerate(states)]

    def _run(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) if self.training else _exact_layer(layer, to_grid(x)) * UNIT

    def _rest(self, x: Tensor) -> Tensor:
        return x if self.training else to_grid(x) * UNIT

    def _dtype(self, like: Tensor) -> torch.dtype:
        return like.dtype if self.training else torch.float64


def _gate(x: Tensor) -> Tensor:
    return (x / 4 + 0.5).clamp(0, 1)
