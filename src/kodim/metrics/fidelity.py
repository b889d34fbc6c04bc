"""PSNR, SSIM and MS-SSIM on 8-bit pictures, as the tables of learned compression count them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kodim.errors import BadRequest

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.uint8]

MS_SSIM_MIN_SIDE = 161
"""Four halvings of a smaller picture leave less than the 11x11 window."""

SSIM_MIN_SIDE = 11
"""The side of the window."""


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 arrays of one shape, say (H, W, 3).

    10 log10(255^2 / MSE): channels pooled, peak always 255. Equal arrays give inf. For a set of pictures, the
    field averages these dB, not the errors.
    """
    check_pair(a, b)
    # Integers all the way: exact, and no float copy of a large picture.
    difference = np.subtract(a, b, dtype=np.int32)
    total = int(np.square(difference, out=difference).sum(dtype=np.int64))
    return math.inf if total == 0 else 10 * math.log10(255**2 * difference.size / total)


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity (Wang et al. 2004), uint8 (H, W, 3): mean over the channels, -1..1.

    Gaussian window of 11x11 (sigma 1.5), valid region only. Raises BadRequest for sides below 11.
    """
    check_pair(a, b)
    if min(a.shape[:2]) < SSIM_MIN_SIDE:
        raise BadRequest(f"SSIM needs sides of {SSIM_MIN_SIDE} pixels or more, not {a.shape[1]}x{a.shape[0]}")
    return _score("ssim", a, b)


def ms_ssim(a: Pixels, b: Pixels) -> float | None:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik 2003), uint8 (H, W, 3): 0..1, on five scales.

    None when the smaller side is below 161, where the fifth scale has no room for its window.
    """
    check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return None
    return _score("ms_ssim", a, b)


def ms_ssim_db(value: float) -> float:
    """MS-SSIM in decibels, -10 log10(1 - value); for a set, convert the mean of the values. 1 gives inf."""
    if not value <= 1:
        raise BadRequest(f"MS-SSIM is at most 1, not {value:g}")
    return math.inf if value == 1 else -10 * math.log10(1 - value)


def require_ms_ssim() -> None:
    """Raise BadRequest, naming the pip extra, when pytorch-msssim is not installed."""
    _msssim()


def _msssim() -> Any:
    try:
        import pytorch_msssim
    except ImportError as error:
        raise BadRequest('MS-SSIM needs pytorch-msssim: pip install "kodim[bench]"') from error
    return pytorch_msssim


def _score(name: str, a: Pixels, b: Pixels) -> float:
    library = _msssim()
    import torch

    threads = torch.get_num_threads()
    # Many small depthwise convolutions: on a busy machine a second thread makes them ten times slower.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return float(getattr(library, name)(_planes(a), _planes(b), data_range=255))
    finally:
        torch.set_num_threads(threads)


def _planes(pixels: Pixels) -> Tensor:
    """uint8 (H, W, C) -> float32 (1, C, H, W)."""
    import torch

    array = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))[None]


def check_pair(a: Pixels, b: Pixels) -> None:
    """Raise BadRequest unless both are uint8 pictures of one size."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise BadRequest(f"metrics compare uint8 pixels, not {a.dtype} with {b.dtype}: clip and round first")
    if a.shape != b.shape or a.ndim not in (2, 3) or a.size == 0:
        raise BadRequest(f"metrics compare pictures of one size, not {a.shape} with {b.shape}")
