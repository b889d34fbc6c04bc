"""How good a decoded picture is, and how two codecs compare.

All fidelity metrics take 8-bit RGB, as decoded and rounded, never floats or padded borders.
"""

from kodim.metrics.bd import bd_psnr, bd_rate, frontier, overlap
from kodim.metrics.fidelity import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_db, psnr, ssim
from kodim.metrics.perceptual import nlpd, ssimulacra2
from kodim.metrics.registry import METRICS, Metric, get

__all__ = [
    "METRICS",
    "MS_SSIM_MIN_SIDE",
    "Metric",
    "bd_psnr",
    "bd_rate",
    "frontier",
    "get",
    "ms_ssim",
    "ms_ssim_db",
    "nlpd",
    "overlap",
    "psnr",
    "ssim",
    "ssimulacra2",
]
