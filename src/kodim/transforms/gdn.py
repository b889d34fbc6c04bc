"""Generalised divisive normalisation, the non-linearity of Balle's codecs (arXiv 1511.06281; 1611.01704, section 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient passes where x is above the bound or would be pushed up to it."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """`max(x, bound)`, but a value below the bound still feels a gradient that would raise it."""
    return _LowerBound.apply(x, bound)


class GDN(nn.Module):
    """`y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)` over the channels of one position.

    Args:
        channels: C of the (B, C, H, W) input.
        inverse: multiply instead of divide (IGDN, for synthesis).

    beta and gamma stay non-negative by the usual square parametrisation: `max(p, bound)^2 - 2^-36`.
    """

    PEDESTAL = 2.0**-36

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + self.PEDESTAL))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + self.PEDESTAL))

    def forward(self, x: Tensor) -> Tensor:
        beta = lower_bound(self.beta, (1e-6 + self.PEDESTAL) ** 0.5).square() - self.PEDESTAL
        gamma = lower_bound(self.gamma, self.PEDESTAL**0.5).square() - self.PEDESTAL
        norm = F.conv2d(x.square(), gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())
