"""The quality that gives a wanted size or fidelity, in few encodings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kodim.errors import BadRequest
from kodim.goal import Goal
from kodim.metrics import MS_SSIM_MIN_SIDE
from kodim.metrics import ms_ssim as measure_ms_ssim
from kodim.metrics import psnr as measure_psnr

if TYPE_CHECKING:
    from kodim.picture import Picture
    from kodim.registry import ImageCodec

STEP = 0.01
"""The finest difference of quality: a .kdm file stores hundredths."""

BPP_TOLERANCE, BPP_AIM = 0.02, 0.005  # of the target: what counts as met, and what the search tries for
PSNR_TOLERANCE, PSNR_AIM = 0.1, 0.03  # dB
MS_SSIM_TOLERANCE, MS_SSIM_AIM = 0.002, 0.0005
_MAX_MEASUREMENTS = 20


@dataclass(frozen=True)
class Found:
    """What `search` found.

    `status` is "met" (within the tolerance), "lowest" or "highest" (the target lies below or above what the
    scale reaches; `quality` is that end), or "nearest" (the knob's steps are too coarse for the tolerance).
    """

    quality: float
    value: float
    status: str


@dataclass(frozen=True)
class Result:
    """A file made to measure: its bytes, the quality it took, and what of bpp, PSNR and MS-SSIM was computed.

    `bpp` counts the whole file over the picture's pixels. `status` is that of `Found`.
    """

    data: bytes
    quality: float
    bpp: float
    psnr: float | None
    ms_ssim: float | None
    status: str


def search(
    measure: Callable[[float], float],
    target: float,
    *,
    tolerance: float,
    low: float = 0.0,
    high: float = 100.0,
    continuous: bool,
    aim: float | None = None,
    warp: Callable[[float], float] | None = None,
) -> Found:
    """Find the quality in [low, high] at which `measure`, rising in quality, gives `target`.

    Secant steps on the logarithm of the value, for rates are near exponential in quality, kept inside a
    bracket; a step that leaves one end of the bracket alone twice is followed by bisection. No quality is
    measured twice.

    Parameters
    ----------
    tolerance:
        distance from the target, in the unit of `measure`, that counts as met.
    continuous:
        steps of 0.01 in quality when true, of 1 when false.
    aim:
        distance at which the search stops early; the tolerance by default.
    warp:
        makes `measure` nearly linear in quality; the logarithm by default. It never sees a value that is not
        finite, and only sees positive ones unless given.
    """
    hunt = _Hunt(measure, target, STEP if continuous else 1.0, low, high, warp)
    best = hunt.run(tolerance if aim is None else aim)
    if abs(hunt.seen[best] - target) <= tolerance:
        status = "met"
    elif hunt.seen.get(hunt.last, math.inf) < target:
        best, status = hunt.last, "highest"
    elif hunt.seen.get(hunt.first, -math.inf) > target:
        best, status = hunt.first, "lowest"
    else:
        status = "nearest"
    return Found(hunt.quality(best), hunt.seen[best], status)


class _Hunt:
    """A search over whole numbers `i` that stand for the qualities `i * step`."""

    def __init__(
        self,
        measure: Callable[[float], float],
        target: float,
        step: float,
        low: float,
        high: float,
        warp: Callable[[float], float] | None,
    ) -> None:
        self.measure, self.target, self.step, self.warp = measure, target, step, warp
        self.first, self.last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if self.first > self.last:
            raise BadRequest(f"no quality between {low:g} and {high:g} to search")
        self.seen: dict[int, float] = {}
        self.below: int | None = None  # the ends of the bracket: known to give too little, too much
        self.above: int | None = None
        self.streak = 0  # how often in a row the same end moved; positive for `below`

    def quality(self, i: int) -> float:
        return round(i * self.step, 2)

    def run(self, aim: float) -> int:
        """Measure until within `aim` or no quality is left to try; the `i` of the nearest value."""
        i = (self.first + self.last) // 2
        for _ in range(_MAX_MEASUREMENTS):
            value = self.seen[i] = self.measure(self.quality(i))
            if abs(value - self.target) <= aim:
                break
            if value < self.target:
                self.below, self.streak = i, max(self.streak, 0) + 1
            else:
                self.above, self.streak = i, min(self.streak, 0) - 1
            lowest = self.first if self.below is None else self.below + 1
            highest = self.last if self.above is None else self.above - 1
            if lowest > highest:
                break
            i = self._propose(lowest, highest)
        return min(self.seen, key=lambda k: abs(self.seen[k] - self.target))

    def _propose(self, lowest: int, highest: int) -> int:
        bracketed = self.below is not None and self.above is not None
        step = None if bracketed and abs(self.streak) >= 2 else self._secant()
        if step is not None and not bracketed:  # may run past the end that is still unknown, and is cut there
            step = min(step, highest) if self.above is None else max(step, lowest)
        if step is not None and lowest <= step <= highest:
            return step
        self.streak = 0
        return (lowest + highest) // 2

    def _secant(self) -> int | None:
        """Where the line through the two points nearest the target meets it, if there is such a line."""
        if self.below is not None and self.above is not None:
            a, b = self.below, self.above
        elif len(self.seen) >= 2:
            a, b = sorted(self.seen, key=lambda k: abs(self.seen[k] - self.target))[:2]
        else:
            return None
        values = (self.seen[a], self.seen[b], self.target)
        if not all(math.isfinite(v) for v in values):
            return None
        if self.warp is not None:
            at_a, at_b, goal = map(self.warp, values)
        elif min(values) > 0:
            at_a, at_b, goal = map(math.log, values)
        else:
            at_a, at_b, goal = values
        if at_a == at_b or not math.isfinite(at_a + at_b + goal):
            return None
        return round(a + min(max((goal - at_a) / (at_b - at_a), -1e3), 1e3) * (b - a))


def compress_to(
    codec: ImageCodec,
    picture: Picture,
    *,
    bpp: float | None = None,
    psnr: float | None = None,
    ms_ssim: float | None = None,
    effort: int | None = None,
) -> Result:
    """Encode at the quality that gives a wanted rate or fidelity; exactly one of the three.

    Parameters
    ----------
    bpp:
        bits per pixel of the whole file, metadata and all; met within 2 %, tried for 0.5 %.
    psnr:
        dB over RGB; met within 0.1 dB.
    ms_ssim:
        0..1, exclusive; met within 0.002. The picture's sides must be 161 or more.

    The picture is decoded again only when `psnr` or `ms_ssim` asks for it. A target out of reach gives the
    codec's lowest or highest quality, and says so in `status`.

    Raises
    ------
    BadRequest:
        not exactly one target, a target that makes no sense, or what `codec.encode` raises.
    """
    target, tolerance, aim = _goal(picture, bpp, psnr, ms_ssim)
    if getattr(codec, "fits", False) and (effort or 1) > 1:
        return _fitted(codec, picture, effort, tolerance, bpp=bpp, psnr=psnr, ms_ssim=ms_ssim)
    files: dict[float, bytes] = {}

    def rate(data: bytes) -> float:
        return 8 * len(data) / (picture.width * picture.height)

    def measure(quality: float) -> float:
        data = files[quality] = codec.encode(picture, quality, effort=effort)
        if bpp is not None:
            return rate(data)
        decoded = codec.decode(data).pixels
        if psnr is not None:
            return measure_psnr(picture.pixels, decoded)
        value = measure_ms_ssim(picture.pixels, decoded)
        assert value is not None  # _goal has checked the size
        return value

    found = search(
        measure,
        target,
        tolerance=tolerance,
        aim=aim,
        continuous=codec.continuous,
        warp=_decibels if ms_ssim is not None else None,
    )
    data = files[found.quality]
    return Result(
        data=data,
        quality=found.quality,
        bpp=rate(data),
        psnr=found.value if psnr is not None else None,
        ms_ssim=found.value if ms_ssim is not None else None,
        status=found.status,
    )


def _fitted(codec: ImageCodec, picture: Picture, effort: int | None, tolerance: float, **wish: float | None) -> Result:
    """One fit instead of many: it starts at the quality that would do without, and steers as it goes.

    A wanted MS-SSIM is met without effort; the fit then keeps the PSNR that it took.
    """
    (kind,) = (k for k, v in wish.items() if v is not None)
    start = compress_to(codec, picture, effort=1, bpp=wish["bpp"], psnr=wish["psnr"], ms_ssim=wish["ms_ssim"])
    psnr = measure_psnr(picture.pixels, codec.decode(start.data).pixels) if kind == "ms_ssim" else wish["psnr"]
    goal = Goal(bpp=wish["bpp"], psnr=psnr)
    data = codec.encode(picture, start.quality, effort=effort, goal=goal)  # type: ignore[call-arg]
    return judged(codec, picture, data, start.quality, tolerance, **wish)


def judged(
    codec: ImageCodec, picture: Picture, data: bytes, quality: float, tolerance: float = 0.0, **wish: float | None
) -> Result:
    """What a fit has made of its wish: bpp, psnr or ms_ssim. The usual tolerances hold where none is given."""
    ((kind, wanted),) = ((k, v) for k, v in wish.items() if v is not None)
    tolerance = tolerance or _goal(picture, **{k: wish.get(k) for k in ("bpp", "psnr", "ms_ssim")})[1]
    decoded = codec.decode(data).pixels
    values = {"bpp": 8 * len(data) / (picture.width * picture.height), "psnr": measure_psnr(picture.pixels, decoded)}
    if kind == "ms_ssim":
        values[kind] = measure_ms_ssim(picture.pixels, decoded) or 0.0
    status = "met" if abs(values[kind] - wanted) <= tolerance else "nearest"
    return Result(data, quality, values["bpp"], values["psnr"], values.get("ms_ssim"), status)


def _goal(picture: Picture, bpp: float | None, psnr: float | None, ms_ssim: float | None) -> tuple[float, float, float]:
    """The one target, its tolerance, and how near the search tries to come."""
    if sum(wish is not None for wish in (bpp, psnr, ms_ssim)) != 1:
        raise BadRequest("give exactly one of bpp, psnr and ms_ssim")
    if bpp is not None:
        if not 0 < bpp < math.inf:
            raise BadRequest(f"bpp must be above 0, not {bpp:g}")
        return bpp, BPP_TOLERANCE * bpp, BPP_AIM * bpp
    if psnr is not None:
        if not 0 < psnr < math.inf:
            raise BadRequest(f"psnr must be above 0 dB, not {psnr:g}")
        return psnr, PSNR_TOLERANCE, PSNR_AIM
    assert ms_ssim is not None
    if not 0 < ms_ssim < 1:
        raise BadRequest(f"ms_ssim lies between 0 and 1, not {ms_ssim:g}")
    if min(picture.width, picture.height) < MS_SSIM_MIN_SIDE:
        size = f"{picture.width}x{picture.height}"
        raise BadRequest(f"ms_ssim needs sides of {MS_SSIM_MIN_SIDE} pixels or more; the picture has {size}")
    return ms_ssim, MS_SSIM_TOLERANCE, MS_SSIM_AIM


def _decibels(value: float) -> float:
    return -math.log(max(1 - value, 1e-9))
