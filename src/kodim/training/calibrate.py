"""Fit the integer tables of a trained codec to what it really codes.

A :class:`.ScalePrior` takes residuals for Gaussian (or Laplacian). What a trained network leaves is nearly that, and
the table rows are the only place where the difference shows: a row is a list of counts, so it can as well hold how
often each symbol was seen. Nothing else changes, neither the network nor the time to decode.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..codec import Codec
from ..coding.priors import LocationScale
from ..coding.sites import BoundPrior, Estimate

LEVELS = 9  # qualities, evenly spaced, that are looked at


class _Watch(Estimate):
    """Counts the symbols of every row on the way."""

    def __call__(self, name: str, prior: BoundPrior, latent: Callable[[], Tensor]) -> Tensor:
        value = super().__call__(name, prior, latent)
        if isinstance(prior, LocationScale):
            prior.module.watch(prior.distributions(), torch.round(value - prior.centre))
        return value


@torch.no_grad()
def calibrate(codec: Codec, crops: Sequence[Tensor] | Iterator[Tensor]) -> None:
    """Count what `codec` (in eval mode) codes of `crops`, (B, 3, H, W) in [0, 1], and make its tables of that.

    Wherever tables are frozen later they keep what was seen here; training forgets it.
    """
    for x in crops:
        for quality in np.linspace(0, 100, LEVELS):
            padded = codec._pad(codec._turned(x)[0])
            codec.program(_Watch(padded, codec._levels(float(quality), len(x), x.device)))
    codec.freeze()
