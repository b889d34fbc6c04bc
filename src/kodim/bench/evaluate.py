"""Rate and distortion of one codec over pictures, from real files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodim.errors import BadRequest, UnsupportedImage
from kodim.metrics import ms_ssim, psnr
from kodim.metrics.fidelity import require_ms_ssim
from kodim.picture import Picture, load, register_plugins

if TYPE_CHECKING:
    from kodim.registry import ImageCodec

_FIGURES = ("bpp", "psnr", "ms_ssim", "encode_s", "decode_s")


def evaluate(
    paths: Iterable[str | os.PathLike[str]],
    codec: str | ImageCodec,
    qualities: Sequence[float] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    skip_bad: bool = True,
    effort: int | None = None,
) -> dict[str, Any]:
    """Measure a codec on pictures: each is encoded to a real file and decoded from it.

    Pictures are measured as bare pixels: profile, EXIF, XMP and alpha are left out, so that all codecs carry
    the same. Seconds are of the call alone, without file access, after one encoding and decoding to warm up.

    Parameters
    ----------
    paths:
        files and folders; of a folder, the files in it whose ending is a picture's.
    codec:
        a name that the registry knows, or a codec.
    qualities:
        0..100; the codec's own grid when None.
    progress:
        called with a few words before each of the pictures x qualities measurements.
    skip_bad:
        leave out pictures that cannot be read or that the codec cannot carry, and say why; raise otherwise.
    effort:
        1..9, given on to the encoder.

    Returns
    -------
    A JSON-friendly dict: ``{"codec", "points": [{"quality", "bpp", "psnr", "ms_ssim", "encode_s", "decode_s",
    "images": [{"input", "bytes", and the same five}]}], "skipped": [{"input", "reason"}]}``. bpp counts the
    whole file. A point's figures are means over its pictures, of the dB for PSNR. `psnr` is None for an
    exact copy, which the mean leaves out; `ms_ssim` is None for sides below 161. Without a readable picture,
    `points` is empty.

    Raises
    ------
    BadRequest:
        no such file, no picture at all in `paths`, a quality out of range, a missing package.
    """
    chosen = _codec(codec)
    grid = list(chosen.qualities if qualities is None else qualities)
    files = picture_files(paths)
    if not files or not grid:
        raise BadRequest("nothing to evaluate: give at least one picture and one quality")
    for quality in grid:
        chosen.arguments(quality)  # refuses a bad quality before the first slow encoding
    require_ms_ssim()
    rows: list[list[dict[str, Any]]] = []  # per picture, a row per quality
    skipped: list[dict[str, str]] = []
    warm = False
    for path in files:
        try:
            picture = bare(load(path))
            if not warm:
                chosen.decode(chosen.encode(picture, grid[0], effort=effort))
                warm = True
            rows.append([_measure(path, picture, chosen, quality, effort, progress) for quality in grid])
        except UnsupportedImage as error:
            if not skip_bad:
                raise
            text = str(error)
            skipped.append({"input": path, "reason": text if text.startswith(path) else f"{path}: {text}"})
    points = [_point(quality, [row[i] for row in rows]) for i, quality in enumerate(grid)] if rows else []
    return {"codec": chosen.slug, "points": points, "skipped": skipped}


@dataclass(frozen=True)
class Coded:
    """One picture through a codec: the complete file, what it decodes to, and the seconds of either call."""

    data: bytes
    decoded: Picture
    encode_s: float
    decode_s: float


def code(picture: Picture, codec: ImageCodec, quality: float, effort: int | None = None) -> Coded:
    """Encode a picture to a real file, decode it from there, and take the time of both."""
    start = time.perf_counter()
    data = codec.encode(picture, quality, effort=effort)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    return Coded(data, decoded, encoded - start, time.perf_counter() - encoded)


def bare(picture: Picture) -> Picture:
    """The picture without profile, EXIF, XMP and alpha: what every codec is measured on."""
    mode = picture.mode.removesuffix("A")
    return replace(picture, mode=mode, alpha=None, icc=None, exif=None, xmp=None)


def _codec(codec: str | ImageCodec) -> ImageCodec:
    if isinstance(codec, str):
        from kodim import registry

        codec = registry.get(codec)
    require = getattr(codec, "require", None)  # classical codecs: is the package there?
    if require is not None:
        require()
    return codec


def picture_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files meant: each as given, and of a folder those in it whose ending is a picture's, by name."""
    files: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            files += [str(p) for p in found if _is_picture(p)]
        else:
            files.append(str(path))
    return list(dict.fromkeys(files))


def _is_picture(path: Path) -> bool:
    from PIL import Image

    register_plugins()
    return path.suffix.lower() in Image.registered_extensions()


def _measure(
    path: str,
    picture: Picture,
    codec: ImageCodec,
    quality: float,
    effort: int | None,
    progress: Callable[[str], None] | None,
) -> dict[str, Any]:
    if progress is not None:
        progress(f"{os.path.basename(path)} at quality {quality:g}")
    coded = code(picture, codec, quality, effort)
    distortion = psnr(picture.pixels, coded.decoded.pixels)
    return {
        "input": path,
        "bytes": len(coded.data),
        "bpp": 8 * len(coded.data) / (picture.width * picture.height),
        "psnr": distortion if math.isfinite(distortion) else None,
        "ms_ssim": ms_ssim(picture.pixels, coded.decoded.pixels),
        "encode_s": coded.encode_s,
        "decode_s": coded.decode_s,
    }


def _point(quality: float, images: list[dict[str, Any]]) -> dict[str, Any]:
    means = {figure: mean([image[figure] for image in images]) for figure in _FIGURES}
    return {"quality": quality, **means, "images": images}


def mean(values: list[float | None]) -> float | None:
    """The mean of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
