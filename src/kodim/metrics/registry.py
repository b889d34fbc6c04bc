"""The measures of quality by name: what `kodim compare` plots, and how a set's figure comes from its pictures'."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from kodim.errors import BadRequest
from kodim.metrics import fidelity, perceptual
from kodim.metrics.fidelity import Pixels


@dataclass(frozen=True)
class Metric:
    """A full-reference measure of quality, called as `metric(original, decoded)`.

    Attributes:
        name: as in JSON and on the command line.
        title: as on the axis of a plot, without the unit.
        better: "higher" or "lower".
        function: from two uint8 (H, W, 3) arrays, the original first.
        min_side: smaller pictures have no figure.
        unit: "dB" or nothing.
        decibels: for measures that saturate, the conversion of a *mean* to dB; see `mean_db`.
        require: raises BadRequest, naming the pip extra, when a package is missing.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    function: Callable[[Pixels, Pixels], float | None]
    min_side: int = 1
    unit: str = ""
    decibels: Callable[[float], float] | None = None
    require: Callable[[], None] = lambda: None

    def __call__(self, original: Pixels, decoded: Pixels) -> float:
        """The figure of one picture; nan when its smaller side is below `min_side`, inf for PSNR of equals.

        Raises BadRequest for arrays that are not uint8 or differ in size.
        """
        fidelity.check_pair(original, decoded)
        if min(original.shape[:2]) < self.min_side:
            return math.nan
        value = self.function(original, decoded)
        return math.nan if value is None else value

    def mean(self, values: Iterable[float | None]) -> float:
        """The figure of a set: the mean of its pictures' figures, in dB for PSNR as the field does.

        None, nan (too small) and inf (exact copies) are left out; nan when nothing is left.
        """
        known = [value for value in values if value is not None and math.isfinite(value)]
        return math.fsum(known) / len(known) if known else math.nan

    def mean_db(self, values: Iterable[float | None]) -> float:
        """The figure of a set in dB: the mean first, then converted where there is a conversion."""
        mean = self.mean(values)
        return mean if self.decibels is None or math.isnan(mean) else self.decibels(mean)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR (RGB)", "higher", fidelity.psnr, unit="dB"),
        Metric("ssim", "SSIM", "higher", fidelity.ssim, fidelity.SSIM_MIN_SIDE, require=fidelity.require_ms_ssim),
        Metric(
            "ms_ssim",
            "MS-SSIM",
            "higher",
            fidelity.ms_ssim,
            fidelity.MS_SSIM_MIN_SIDE,
            decibels=fidelity.ms_ssim_db,
            require=fidelity.require_ms_ssim,
        ),
        Metric("nlpd", "NLPD (luma)", "lower", perceptual.nlpd, perceptual.NLPD_MIN_SIDE),
        Metric(
            "ssimulacra2",
            "SSIMULACRA2",
            "higher",
            perceptual.ssimulacra2,
            perceptual.SSIMULACRA2_MIN_SIDE,
            require=perceptual.require_ssimulacra2,
        ),
    )
}
"""Every measure by its name, in the order in which tables show them."""


def get(name: str) -> Metric:
    """The measure of that name, dashes and capitals forgiven; BadRequest lists the known ones."""
    metric = METRICS.get(name.lower().replace("-", "_"))
    if metric is None:
        raise BadRequest(f"no measure is called {name!r}; there are {', '.join(METRICS)}")
    return metric
