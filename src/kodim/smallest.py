"""The smallest file that kodim can make of a picture: two ways to it, both tried.

The default codec knows photographs; a decoder fitted to the picture (:mod:`kodim.overfit`) knows nothing but the
picture. Which of them needs fewer bits depends on the picture and shows only when both are there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from kodim.metrics import psnr as measure_psnr
from kodim.rate import BPP_TOLERANCE, PSNR_TOLERANCE, Result, compress_to
from kodim.registry import DEFAULT_CODEC, FITTED_CODEC, FITTED_EFFORT, get

if TYPE_CHECKING:
    from kodim.picture import Picture

DEFAULT_EFFORT = 5  # of the default codec: what more gives does not show (docs/decisions.md)


def smallest(picture: Picture, *, quality: float | None = None, **wish: float | None) -> tuple[dict[str, Result], str]:
    """Compress with both codecs; gives what each made, and the name of the better one.

    Parameters
    ----------
    quality:
        of the default codec; the fit then aims at the PSNR that this gives.
    wish:
        bpp, psnr or ms_ssim instead, as for :func:`kodim.rate.compress_to`.

    A fit is better where it met the wish and its file is smaller or, for a wanted rate, its PSNR higher.
    """
    plain = _at(picture, quality) if quality is not None else _wished(DEFAULT_CODEC, DEFAULT_EFFORT, picture, **wish)
    if quality is not None:
        wish = {"psnr": plain.psnr}
        if plain.psnr == math.inf:  # plain colours: there is nothing to fit
            return {DEFAULT_CODEC: plain}, DEFAULT_CODEC
    fitted = _wished(FITTED_CODEC, FITTED_EFFORT, picture, **wish)
    results = {DEFAULT_CODEC: plain, FITTED_CODEC: fitted}
    return results, FITTED_CODEC if _better(fitted, plain, wish) else DEFAULT_CODEC


def _better(fitted: Result, plain: Result, wish: dict[str, float | None]) -> bool:
    assert fitted.psnr is not None
    assert plain.psnr is not None
    rate = wish.get("bpp")
    if rate is not None:
        return fitted.psnr > plain.psnr and fitted.bpp <= max(rate * (1 + BPP_TOLERANCE), plain.bpp)
    as_good = fitted.status == "met" or fitted.psnr >= plain.psnr - PSNR_TOLERANCE
    return as_good and len(fitted.data) < len(plain.data)


def _at(picture: Picture, quality: float) -> Result:
    codec = get(DEFAULT_CODEC)
    data = codec.encode(picture, quality, effort=DEFAULT_EFFORT)
    psnr = measure_psnr(picture.pixels, codec.decode(data).pixels)
    return Result(data, quality, 8 * len(data) / (picture.width * picture.height), psnr, None, "met")


def _wished(slug: str, effort: int, picture: Picture, **wish: float | None) -> Result:
    """A file that meets the wish, with its PSNR whatever the wish was."""
    codec = get(slug)
    result = compress_to(codec, picture, effort=effort, **wish)
    if result.psnr is not None:
        return result
    return replace(result, psnr=measure_psnr(picture.pixels, codec.decode(result.data).pixels))
