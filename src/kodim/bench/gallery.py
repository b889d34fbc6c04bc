"""A few pictures as every codec leaves them at about the same rate, for the eye: crops, error maps, bit maps."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from kodim.bench.compare import Study, Subject, codec_of, figures
from kodim.bench.entrants import Entrant
from kodim.bench.evaluate import bare, code
from kodim.bench.journal import Journal, key_of
from kodim.bench.work import run
from kodim.errors import KodimError
from kodim.picture import Pixels, load

JOURNAL = "pictures.jsonl"
CROP = 512, 384  # width, height at most, from the middle: what keeps the page small
RATES = (0.25, 0.65)  # places on the logarithm of the rates that all codecs reach
ERROR_PEAK = 32  # levels of mean absolute error that are drawn in full colour
BITS_PEAK = 4  # times the picture's rate
WEBP_QUALITY = 90


@dataclass(frozen=True)
class Shot:
    """One codec's picture to make."""

    key: str
    codec: str
    label: str
    path: str
    quality: float
    metrics: tuple[str, ...]

    def __str__(self) -> str:
        return f"pictures: {self.label}"


def gallery(
    study: Study, count: int, jobs: int = 1, progress: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """`count` pictures of a measured study, spread over it, coded by every codec at two rates that all reach.

    Rates are met to a few percent, by the quality that the study's own points suggest; each file's true rate is
    told. Returns, for each picture, ``{"picture", "width", "height", "crop", "original", "rates"}`` and for each
    rate ``{"bpp", "shots": {label: {"quality", "bpp", metrics, "image", "error", "bits"}}}``. Images are data URIs
    of the crop, `bits` only of learned codecs.
    """
    journal = Journal(study.journal.path.with_name(JOURNAL))
    plan = [(subject, _rates(study, subject)) for subject in _spread(study.subjects, count)]
    shots = {
        (subject.path, rate, entrant.label): _shot(study, subject, entrant, rate)
        for entrant in study.entrants  # outermost: pictures load faster than networks
        for subject, rates in plan
        for rate in rates
    }
    todo = [shot for shot in shots.values() if shot.key not in journal]
    for shot, made in run(make, todo, jobs, progress):
        journal.add(shot.key, made)
    return [
        {
            "picture": subject.name,
            "width": subject.width,
            "height": subject.height,
            "crop": _crop(subject.width, subject.height),
            "original": _uri(_cut(load(subject.path).pixels)),
            "rates": [
                {
                    "bpp": rate,
                    "shots": {e.label: journal[shots[subject.path, rate, e.label].key] for e in study.entrants},
                }
                for rate in rates
            ],
        }
        for subject, rates in plan
    ]


def make(shot: Shot) -> dict[str, Any]:
    """Code a picture and draw what came of it; `{"failed": why}` where the codec cannot."""
    codec, picture = codec_of(shot.codec), bare(load(shot.path))
    try:
        coded = code(picture, codec, shot.quality)
    except KodimError as error:
        return {"failed": str(error)}
    bpp = 8 * len(coded.data) / (picture.width * picture.height)
    deviation = np.abs(picture.pixels.astype(np.int16) - coded.decoded.pixels).mean(2)
    network = getattr(codec, "codec", None)
    return {
        "quality": shot.quality,
        "bpp": bpp,
        **figures(shot.metrics, picture, coded.decoded),
        "image": _uri(_cut(coded.decoded.pixels)),
        "error": _uri(colours(_cut(deviation)[::2, ::2] / ERROR_PEAK)),
        "bits": None if network is None else _bits(network, picture.pixels, shot.quality, bpp),
    }


def _shot(study: Study, subject: Subject, entrant: Entrant, rate: float) -> Shot:
    quality = quality_for(rate, study.rates(subject, entrant), continuous=entrant.codec.continuous)
    names = tuple(metric.name for metric in study.metrics)
    facts = {
        "codec": entrant.codec.slug,
        "versions": entrant.versions,
        "arguments": entrant.weights or entrant.codec.arguments(quality),
        "quality": quality,
        "picture": subject.digest,
        "crop": CROP,
        "drawing": [ERROR_PEAK, BITS_PEAK, WEBP_QUALITY],
        "metrics": names,
    }
    return Shot(key_of(facts), entrant.name, entrant.label, subject.path, quality, names)


def quality_for(rate: float, points: Sequence[tuple[float, float]], *, continuous: bool) -> float:
    """The quality at which a codec should reach a rate, given (rate, quality) points by rate: linear in log-rate."""
    log_rates = [math.log(bpp) for bpp, _ in points]
    quality = float(np.interp(math.log(rate), log_rates, [quality for _, quality in points]))
    return round(quality, 2) if continuous else float(round(quality))


def _rates(study: Study, subject: Subject) -> list[float]:
    """The rates to show a picture at, inside what every codec reached on it."""
    reached = [study.rates(subject, entrant) for entrant in study.entrants]
    low, high = max(points[0][0] for points in reached), min(points[-1][0] for points in reached)
    if low >= high:  # no rate in common: the nearest thing to one
        return [math.sqrt(low * high)]
    return [low * (high / low) ** place for place in RATES]


def _spread(subjects: Sequence[Subject], count: int) -> list[Subject]:
    """`count` of them, evenly from first to last."""
    if count <= 1 or len(subjects) <= count:
        return list(subjects[:count])
    return [subjects[round(i * (len(subjects) - 1) / (count - 1))] for i in range(count)]


def _crop(width: int, height: int) -> list[int]:
    """x, y, width, height of the middle that is shown."""
    wide, tall = min(width, CROP[0]), min(height, CROP[1])
    return [(width - wide) // 2, (height - tall) // 2, wide, tall]


def _cut(pixels: np.ndarray) -> np.ndarray:
    x, y, wide, tall = _crop(pixels.shape[1], pixels.shape[0])
    return pixels[y : y + tall, x : x + wide]


def _bits(network: Any, pixels: Pixels, quality: float, bpp: float) -> str | None:
    """The bit-allocation map; None for a picture that is coded in tiles."""
    from kodim.bench.complexity import bit_map
    from kodim.learned import to_tensor
    from kodim.tiles import layout

    if len(layout(*pixels.shape[:2])) > 1:
        return None
    return _uri(colours(_cut(bit_map(network, to_tensor(pixels), quality)) / (BITS_PEAK * bpp)), exact=True)


def colours(values: np.ndarray) -> Pixels:
    """0..1 -> black, violet, orange, pale yellow, clipped at both ends."""
    from matplotlib import colormaps

    drawn: Pixels = colormaps["inferno"](values.clip(0, 1), bytes=True)[..., :3]
    return drawn


def _uri(pixels: Pixels, *, exact: bool = False) -> str:
    """An image as a data URI: WebP at high quality (JPEG where Pillow has none), PNG if `exact`."""
    kind = "PNG" if exact else "WEBP" if features.check("webp") else "JPEG"
    options: dict[str, Any] = {"optimize": True} if exact else {"quality": WEBP_QUALITY}
    image = Image.fromarray(np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    (image.quantize(64) if exact else image).save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
