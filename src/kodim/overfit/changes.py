"""What a file says about the networks: how they differ from the shared ones.

Weights and biases of entropy model, features and synthesis are a group each, six in all. A group is unchanged, or
every parameter of it is changed by a multiple of the group's step, coded with a Laplace distribution of its own.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..coding.sites import Code
from .exact import WEIGHT, WEIGHT_LIMIT
from .laplace import LOWEST, PER_UNIT, PHASES, SCALES, Laplace, Uniform
from .network import Net, Sizes

GROUPS = tuple((module, kind) for module in ("arm", "ifce", "syn") for kind in ("_w", "_b"))
STEPS = 16  # 0: unchanged; n: changed in steps of 2^n units


def names(sizes: Sizes, group: tuple[str, str]) -> list[str]:
    """The tensors of a group, in file order."""
    return [n for n in sizes.shapes() if n.startswith(group[0]) and n.endswith(group[1])]


def coded_changes(code: Code, net: Net, sizes: Sizes) -> dict[str, Tensor]:
    """Networks (B, ...) as :func:`kodim.overfit.exact.fixed`, with the changes that come through the channel."""
    batch, device = len(code.level), code.level.device

    def zeros(count: int) -> Tensor:
        return torch.zeros(batch, 1, count, 1, device=device)

    steps = code("net", Uniform(batch, len(GROUPS), STEPS), lambda: zeros(len(GROUPS)))[0, 0, :, 0].long().tolist()
    changed = [(group, step) for group, step in zip(GROUPS, steps, strict=True) if step]
    found = dict(net)
    if not changed:
        return found
    scales = code("net", Uniform(batch, len(changed), SCALES), lambda: zeros(len(changed)))[0, 0, :, 0].long()
    for (group, step), scale in zip(changed, scales.tolist(), strict=True):
        count = sum(net[n][0].numel() for n in names(sizes, group))
        prior = spread(scale, batch, count, device)
        values = code("net", prior, lambda count=count: zeros(count))[0, 0, :, 0].double()  # type: ignore[misc]
        found |= {n: v[None] for n, v in applied(net, sizes, group, step, values).items()}
    return found


def applied(net: Net, sizes: Sizes, group: tuple[str, str], step: int, multiples: Tensor) -> dict[str, Tensor]:
    """A group of `net` (1, ...) with multiples (n,) of a step added, without the first dimension."""
    tensors = [net[n][0] for n in names(sizes, group)]
    parts = multiples.split([t.numel() for t in tensors])
    return {
        name: (t + (part * 2.0**step).view_as(t)).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        for name, t, part in zip(names(sizes, group), tensors, parts, strict=True)
    }


def spread(scale: int, batch: int, count: int, device: torch.device) -> Laplace:
    """`count` Laplace distributions around 0."""
    row = torch.full((batch, count), scale * PHASES + PHASES // 2, device=device)
    return Laplace(torch.zeros_like(row), row)


def best_scale(values: Tensor) -> int:
    """The scale that codes integers (n,) in the fewest bits, near enough."""
    mean = max(float(values.abs().mean()), math.exp(LOWEST))
    return min(max(round((math.log(mean) - LOWEST) * PER_UNIT), 0), SCALES - 1)


def nudges(differences: Mapping[tuple[str, str], tuple[int, Tensor]]) -> list[Tensor]:
    """What makes :func:`coded_changes` send changes: group -> (step 1 .. 15, multiples of it (n,)); one picture."""
    steps = torch.tensor([float(differences[g][0]) if g in differences else 0.0 for g in GROUPS])
    found = [steps.view(1, 1, -1, 1)]
    present = [differences[g][1] for g in GROUPS if g in differences]
    if present:
        found.append(torch.tensor([float(best_scale(v)) for v in present]).view(1, 1, -1, 1))
        found += [v.float().view(1, 1, -1, 1) for v in present]
    return found


def quantised(now: Net, base: Net, sizes: Sizes, group: tuple[str, str], step: int) -> Tensor:
    """Multiples of a step (n,) that bring a group nearest to the floats of `now`; `base` (1, ...) are integers."""
    difference = [(now[n].detach().double() * WEIGHT - base[n][0]).flatten() for n in names(sizes, group)]
    return torch.round(torch.cat(difference) * 2.0**-step)
