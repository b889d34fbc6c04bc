"""Seconds to encode and decode, and the range coder's share: `python benchmarks/speed.py PICTURE...`

Everything in one run on an idle machine, so that the ratios mean something: kodim's learned codecs (model
loaded, process start apart) beside JPEG, WebP, AVIF and JPEG XL. Medians over repeats and pictures.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from kodim import registry
from kodim.bench.evaluate import bare
from kodim.coding.rangecoder import Reader, Writer
from kodim.picture import load

CODECS = ("kodim", "minnen2018", "balle2018", "balle2017", "jpeg", "webp", "avif", "jxl")
REPEATS = 5
clock = {"seconds": 0.0}


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its time added to the clock."""

    def wrapped(*args: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args)
        finally:
            clock["seconds"] += time.perf_counter() - start

    return wrapped


def measure(action: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds of the whole and of the range coder in it."""
    action()
    rows = []
    for _ in range(REPEATS):
        clock["seconds"] = 0.0
        start = time.perf_counter()
        action()
        rows.append((time.perf_counter() - start, clock["seconds"]))
    return statistics.median(r[0] for r in rows), statistics.median(r[1] for r in rows)


def main(paths: list[str]) -> None:
    Writer.write = timed(Writer.write)  # type: ignore[method-assign]
    Reader.read = timed(Reader.read)  # type: ignore[method-assign]
    pictures = [bare(load(path)) for path in paths]
    print("| codec | quality | encode (s) | of it coder | decode (s) | of it coder |\n|---|---|---|---|---|---|")
    for slug in CODECS:
        codec = registry.get(slug)
        for quality in (30.0, 70.0) if codec.kind == "learned" else (60.0,):
            rows = []
            for picture in pictures:
                data = codec.encode(picture, quality)
                encode = measure(lambda p=picture, q=quality, c=codec: c.encode(p, q))  # type: ignore[misc]
                decode = measure(lambda d=data, c=codec: c.decode(d))  # type: ignore[misc]
                rows.append((*encode, *decode))
            e, ec, d, dc = (statistics.mean(column) for column in zip(*rows, strict=True))
            print(f"| {slug} | {quality:g} | {e:.3f} | {ec / e:.0%} | {d:.3f} | {dc / d:.0%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
