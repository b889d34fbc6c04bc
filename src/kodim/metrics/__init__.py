"""How good a decoded picture is, and how two codecs compare.

All fidelity metrics take 8-bit RGB, as decoded and rounded, never floats or padded borders.
"""

from kodim.metrics.bd import bd_psnr, bd_rate, frontier, overlap
from kodim.metrics.fidelity import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_db, psnr, ssim

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "bd_psnr",
    "bd_rate",
    "frontier",
    "ms_ssim",
    "ms_ssim_db",
    "overlap",
    "psnr",
    "ssim",
]
