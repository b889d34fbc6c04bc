"""A picture's own colour axes: a turn of colour space that leaves three planes with as little as possible in common.

Networks learn what luma and chroma of most photographs are like. Where one colour rules (leaves, sunsets, water, sepia)
the fixed planes say the same thing three times, and a codec without prediction across planes pays for it. So the
encoder finds the principal axes of a picture's details (the Karhunen-Loeve transform of its differences; Clarke 1985,
section 3) and turns colour space until they lie where luma and chroma usually lie. A turn keeps distances, so squared
errors are those in RGB, and networks need not know. It costs eight bytes, and is left out where it promises little.
"""

import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

APART = (
    2  # pixels between what is compared: nearer, noise rules, which high rates alone code; further, what they do not
)
SAMPLES = 1 << 17  # differences that are enough
TYPICAL = (1.0, 0.03, 0.015)  # usual share of luma, orange-blue, green-magenta
TRUST = 0.2  # weight of the usual shares against what is seen: axes that hardly matter stay where they are
NOISE = 2 / 255  # details below are never coded
WORTH = 0.1  # bits for each pixel's three values that a turn must promise at high rate
STRANGE = 0.5  # cosine between strongest axis and luma; below, it takes the place of luma whatever that promises
LAYOUT = struct.Struct(">3h2b")
ANGLE, SHIFT = 32767.0, 64.0  # steps of a packed quaternion, and of a shift


@dataclass(frozen=True)
class Axes:
    """A turn of colour space, x -> turn x + shift, of each picture of a batch.

    Attributes:
        turn: (B, 3, 3) rotations, float32.
        shift: (B, 3, 1).
    """

    turn: Tensor
    shift: Tensor

    def there(self, x: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> turned, which may reach beyond."""
        with torch.autocast(x.device.type, enabled=False):
            return (self.turn.to(x.dtype) @ x.flatten(2) + self.shift.to(x.dtype)).view(x.shape)

    def back(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`there`; not clamped."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return (self.turn.mT.to(x.dtype) @ (x.flatten(2) - self.shift.to(x.dtype))).view(x.shape)


def find(x: Tensor) -> list[bytes]:
    """The packed axes of each picture of a batch (B, 3, H, W), uint8 or float in [0, 1]; b"" where RGB is as good."""
    if x.shape[2] <= APART or x.shape[3] <= APART:
        return [b""] * len(x)
    few = max(1, x.shape[2] * x.shape[3] // SAMPLES)
    across = _values(x[:, :, ::few, APART:]) - _values(x[:, :, ::few, :-APART])
    down = _values(x[:, :, APART::few]) - _values(x[:, :, :-APART:few])
    details = torch.cat([across.flatten(2), down.flatten(2)], 2)
    seen = (details @ details.mT / details.shape[2]).double().cpu()  # (B, 3, 3)
    planes = colour_matrix().double()
    typical = planes.T @ torch.diag(torch.tensor(TYPICAL, dtype=torch.float64)) @ planes
    power = seen.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    seen = seen + TRUST * power * typical + NOISE**2 * torch.eye(3, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(seen)
    axes = axes.flip(2).mT  # rows, the strongest first
    axes = axes * torch.where((axes * planes).sum(2, keepdim=True) < 0, -1.0, 1.0)
    axes[:, 2] *= torch.sign(torch.linalg.det(axes))[:, None]  # a rotation of `planes`, whose determinant is 1
    usual = (planes @ seen @ planes.T).diagonal(dim1=1, dim2=2)
    worth = 0.5 * (usual.log2().sum(1) - variances.log2().sum(1))
    strange = (axes[:, 0] * planes[0]).sum(1) < STRANGE
    middle = (axes @ _values(x[:, :, ::few]).flatten(2).double().cpu()).median(2).values
    turns = planes.T @ axes
    pays = ((worth > WORTH) | strange).tolist()
    return [_pack(turn, -shift[1:]) if p else b"" for turn, shift, p in zip(turns, middle, pays, strict=True)]


def unpack(packed: list[bytes], device: torch.device | str = "cpu") -> Axes | None:
    """The axes of a batch; None where none of its pictures has any.

    Raises:
        ValueError: no axes.
    """
    if not any(packed):
        return None
    pairs = [_unpack(one) for one in packed]
    return Axes(*(torch.stack(part).float().to(device) for part in zip(*pairs, strict=True)))


def colour_matrix() -> Tensor:
    """(3, 3) orthonormal rows: luma, orange-blue, green-magenta."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    return rows / rows.norm(dim=1, keepdim=True)


def _values(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _pack(turn: Tensor, shift: Tensor) -> bytes:
    """A rotation (3, 3) as a quaternion without its real part, and the shift of the second and third axis (2,)."""
    (a, b, c), (d, e, f), (g, h, i) = turn.tolist()
    # The quaternion is the strongest eigenvector of this matrix (Bar-Itzhack 2000), whatever the angle.
    form = torch.tensor(
        [
            [a - e - i, d + b, g + c, h - f],
            [d + b, e - a - i, h + f, c - g],
            [g + c, h + f, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ],
        dtype=torch.float64,
    )
    *vector, real = torch.linalg.eigh(form)[1][:, 3].tolist()
    sign = -1 if real < 0 else 1
    return LAYOUT.pack(
        *(round(sign * v * ANGLE) for v in vector),
        *(max(-127, min(127, round(s * SHIFT))) for s in shift.tolist()),
    )


def _unpack(packed: bytes) -> tuple[Tensor, Tensor]:
    """(3, 3) rotation and (3, 1) shift."""
    if not packed:
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    if len(packed) != LAYOUT.size:
        raise ValueError(f"axes take {LAYOUT.size} bytes, not {len(packed)}")
    *vector, second, third = LAYOUT.unpack(packed)
    x, y, z = (v / ANGLE for v in vector)
    square = x * x + y * y + z * z
    if square > 1.001:
        raise ValueError("no quaternion")
    w = math.sqrt(max(0.0, 1 - square))
    n = math.sqrt(w * w + square)
    w, x, y, z = w / n, x / n, y / n, z / n
    turn = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    planes = colour_matrix().double()
    first = (planes @ turn)[0]  # black stays at 0 of the first axis, and its reach is below that of luma
    shift = planes.T @ torch.tensor([-float(first.clamp_max(0).sum()), second / SHIFT, third / SHIFT]).double()
    return turn, shift[:, None]
