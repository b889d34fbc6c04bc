"""Muon: momentum whose matrices are orthogonalised, for convolution weights (Jordan et al. 2024).

A step moves every direction of a weight matrix by the same amount, which is what makes few samples go
far. The orthogonal factor of the momentum M (rows <= columns) is (M M^T)^-1/2 M; the inverse root comes
from Newton-Schulz steps on the small Gram matrix alone, so a 192 x 3200 convolution costs two products
with M instead of ten. Everything that is not a convolution (biases, GDN, densities, gains) takes AdamW.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BLOCK = 256


class Muon(torch.optim.Optimizer):
    """Muon for convolution weights, AdamW for the rest, under one learning rate.

    In a process group the matrices are shared out: each process orthogonalises its part of them, and one
    message brings the updates together.

    Args:
        matrices: weights of four dimensions; a convolution is seen as the matrix (out, in * kh * kw).
        others: every other parameter.
        lr: of both; the orthogonal update is scaled to the root mean square of an AdamW step (0.2).
        momentum: of Muon (Nesterov); AdamW uses (0.9, 0.99).
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, momentum: float = 0.95
    ):
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                for p, update in zip(moving, self._updates(moving, group["momentum"]), strict=True):
                    p.add_(update, alpha=-group["lr"])
            else:
                for p in moving:
                    _adam(p, p.grad, self.state[p], group)

    def _updates(self, params: list[nn.Parameter], momentum: float) -> list[Tensor]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        updates = []
        for p, owner in zip(params, _owners([p.shape for p in params], world), strict=True):
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].mul_(momentum).add_(p.grad)
            if owner == rank:
                m = (p.grad + momentum * state["momentum"]).flatten(1)
                updates.append(orthogonalise(m).view_as(p) * (0.2 * max(m.shape) ** 0.5))
            else:
                updates.append(torch.zeros_like(p))
        if world > 1 and updates:
            flat = torch.cat([u.reshape(-1) for u in updates])
            dist.all_reduce(flat)
            updates = [u.view_as(p) for u, p in zip(flat.split([p.numel() for p in params]), params, strict=True)]
        return updates


def _owners(shapes: list[torch.Size], world: int) -> list[int]:
    """Which process takes which matrix: the dearest first, each to the one with least to do."""
    load, owners = [0.0] * world, [0] * len(shapes)
    costs = [float(min(s[0], s[1:].numel())) ** 2 * max(s[0], s[1:].numel()) for s in shapes]
    for i in sorted(range(len(shapes)), key=lambda i: -costs[i]):
        owners[i] = load.index(min(load))
        load[owners[i]] += costs[i]
    return owners


def _adam(p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if "step" not in state:
        state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
    state["step"] += 1
    t = float(state["step"])
    state["exp_avg"].lerp_(grad, 0.1)
    state["exp_avg_sq"].lerp_(grad.square(), 0.01)
    denominator = (state["exp_avg_sq"] / (1 - 0.99**t)).sqrt_().add_(1e-10)
    p.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] / (1 - 0.9**t))


# Two steps that lift small singular values fast (Jordan's coefficients), two that settle all of them at 1.
QUINTICS = ((3.4445, -4.7750, 2.0315),) * 2 + ((1.875, -1.25, 0.375),) * 2


def orthogonalise(m: Tensor) -> Tensor:
    """The orthogonal factor of m (rows, columns), by coupled Newton-Schulz iterations on its Gram matrix.

    More than `BLOCK` rows are taken in blocks, each orthogonal for itself: the cost grows with their cube.
    """
    if m.shape[0] > m.shape[1]:
        return orthogonalise(m.T).T
    if len(m) > BLOCK:
        return torch.cat([orthogonalise(block) for block in m.chunk(-(-len(m) // BLOCK))])
    m = m.float()
    m = m / m.abs().amax().clamp_min(torch.finfo().tiny)  # the fourth power of a gradient of 1e-12 is no number
    gram = m @ m.T
    # Frobenius norm bounds the spectrum; the small ridge keeps dead directions from being blown up to noise.
    norm = gram.norm() + 1e-30
    eye = torch.eye(len(m), device=m.device)
    y, root = gram / norm + 1e-4 * eye, eye
    for i, (a, b, c) in enumerate(QUINTICS):
        # A polynomial of y towards its inverse root: y -> 1, root -> (gram / norm)^-1/2.
        p = a * eye + b * y + c * (y @ y)
        root = root @ p if i else p
        if i + 1 < len(QUINTICS):
            y = p @ p @ y
    return (root @ m) * norm**-0.5
