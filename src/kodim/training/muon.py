"""Muon: momentum whose matrices are orthogonalised, for convolution weights (Jordan et al. 2024).

A step moves every direction of a weight matrix by the same amount, which is what makes few samples go
far. The orthogonal factor of the momentum M (rows <= columns) is (M M^T)^-1/2 M; the inverse root comes
from Newton-Schulz steps on the small Gram matrix alone, so a 192 x 3200 convolution costs two products
with M instead of ten. Everything that is not a convolution (biases, GDN, densities, gains) takes AdamW.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 256


class Muon(torch.optim.Optimizer):
    """Muon for convolution weights, AdamW for the rest, under one learning rate.

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
            update = _muon if group["muon"] else _adam
            for p in group["params"]:
                if p.grad is not None:
                    update(p, p.grad, self.state[p], group)


def _muon(p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if "momentum" not in state:
        state["momentum"] = torch.zeros_like(p)
    state["momentum"].mul_(group["momentum"]).add_(grad)
    m = (grad + group["momentum"] * state["momentum"]).flatten(1)
    scale = 0.2 * max(m.shape) ** 0.5
    p.add_(orthogonalise(m).view_as(p), alpha=-group["lr"] * scale)


def _adam(p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if "step" not in state:
        state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
    state["step"] += 1
    t = float(state["step"])
    state["exp_avg"].lerp_(grad, 0.1)
    state["exp_avg_sq"].lerp_(grad.square(), 0.01)
    denominator = (state["exp_avg_sq"] / (1 - 0.99**t)).sqrt_().add_(1e-10)
    p.addcdiv_(state["exp_avg"], denominator, value=-group["lr"] / (1 - 0.9**t))


def orthogonalise(m: Tensor, steps: int = 6) -> Tensor:
    """The orthogonal factor of m (rows, columns), by coupled Newton-Schulz iterations on its Gram matrix.

    More than `BLOCK` rows are taken in blocks, each orthogonal for itself: the cost grows with their cube.
    """
    if m.shape[0] > m.shape[1]:
        return orthogonalise(m.T, steps).T
    if len(m) > BLOCK:
        return torch.cat([orthogonalise(block, steps) for block in m.chunk(-(-len(m) // BLOCK))])
    m = m.float()
    gram = m @ m.T
    # Frobenius norm bounds the spectrum; the small ridge keeps dead directions from being blown up to noise.
    norm = gram.norm() + 1e-30
    eye = torch.eye(len(m), device=m.device)
    y, root = gram / norm + 1e-4 * eye, eye
    for _ in range(steps):
        # Quintic Newton-Schulz for the inverse square root: y -> 1, root -> (gram / norm)^-1/2.
        p = 1.875 * eye - 1.25 * y + 0.375 * (y @ y)
        root, y = root @ p, p @ p @ y
    return (root @ m) * norm**-0.5
