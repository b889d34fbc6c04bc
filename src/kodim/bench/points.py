"""Measured points on disk, one file a codec: what changed is measured again, the rest is read.

`<set>-<codec>.json` holds a codec's means over a set of pictures, and a stamp of codec, weights, qualities and picture
names. `benchmarks/figures.py` and `kodim leaderboard` share these files.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodim import registry
from kodim.bench.compare import SECONDS, Study
from kodim.bench.published import METRICS
from kodim.errors import BadRequest, KodimError
from kodim.learned import LearnedCodec, to_tensor
from kodim.picture import load
from kodim.registry import Entry

if TYPE_CHECKING:
    from kodim.registry import ImageCodec

PRESET = "compact"  # the sizes that are trained under the equal-budget rule
CORNER = 512  # pixels on a side that arithmetic is counted on


@dataclass(frozen=True)
class Points:
    """The measured points of one set of pictures.

    Args:
        folder: where the files are kept.
        name: of the set, in the names of the files.
        pictures: the files to measure on.
        write: how a file is written, whole or not at all.
    """

    folder: Path
    name: str
    pictures: Sequence[str]
    write: Callable[[Path, bytes], None]

    def path(self, slug: str) -> Path:
        return self.folder / f"{self.name}-{slug}.json"

    def kept(self, codec: ImageCodec) -> dict[str, Any] | None:
        """The points on disk, if they are of this codec as it is now; BadRequest when the file cannot be read."""
        path = self.path(codec.slug)
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found if found["stamp"] == self.stamp(codec) else None
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest(f"{path}: not a file of measured points") from error

    def measure(self, codec: ImageCodec, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Measure a codec over its own grid of qualities, on one thread, and keep what was found.

        Each picture and quality is kept as it is done, in the journal that `kodim compare` goes on from too.

        Raises:
            KodimError: a package or weights are missing, or the codec cannot carry one of the pictures.
        """
        study = Study(self.pictures, [codec.slug], folder=self.folder, metrics=METRICS, with_published=False)
        study.measure(progress=progress)
        if study.left_out:
            raise BadRequest(study.left_out[0]["reason"])
        (entrant,) = study.entrants
        found = {
            "codec": codec.slug,
            "points": [{"quality": q, **_means(study.rows(entrant, q))} for q in entrant.qualities],
            "stamp": self.stamp(codec),
            "arguments": codec.arguments(50.0),
            "pictures": len(self.pictures),
            "measured": datetime.date.today().isoformat(),
        }
        self.keep(found)
        return found

    def keep(self, found: dict[str, Any]) -> None:
        """Write a codec's points."""
        data = json.dumps(found, indent=1, default=str) + "\n"
        self.write(self.path(found["codec"]), data.encode())

    def stamp(self, codec: ImageCodec) -> str:
        """What the points depend on, as 16 hexadecimal digits."""
        names = sorted(Path(picture).name for picture in self.pictures)
        key = json.dumps([codec.slug, codec.arguments(50.0), list(codec.qualities), names], default=str)
        return hashlib.sha256(key.encode()).hexdigest()[:16]


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over pictures, of figures that all of them have."""
    columns = {name: [row[name] for row in rows] for name in ("bpp", *METRICS, *SECONDS)}
    return {name: None if None in values else math.fsum(values) / len(values) for name, values in columns.items()}


def collect(
    entries: Sequence[Entry],
    points: Points,
    *,
    measure: bool = True,
    progress: Callable[[str], AbstractContextManager[Callable[[str], None]]] = lambda slug: nullcontext(lambda _: None),
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The points of every codec that has some, measured where need be, and the reason why for the others.

    Learned codecs also get `complexity`: `encode_kmac` and `decode_kmac` for a pixel, counted on a piece of the first
    picture. What is finished is on disk, so a run that was stopped goes on where it was.

    Args:
        entries: codecs; learned ones without trained weights are passed over.
        points: where to look, and what to measure on.
        measure: when false, a codec whose points are not on disk is left out.
        progress: slug -> a context around its measurement that yields a callable for each picture and quality.
    """
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "learned" and PRESET not in entry.weights:
            continue
        try:
            codec = registry.get(entry.slug)
            kept = points.kept(codec)
            if kept is None and not measure:
                absent[entry.slug] = "not measured yet, or not since its weights or the pictures changed"
                continue
            if kept is None:
                with progress(entry.slug) as tell:
                    kept = points.measure(codec, tell)
            if isinstance(codec, LearnedCodec) and "complexity" not in kept:
                kept["complexity"] = _count(codec, points.pictures[0])
                points.keep(kept)
            found[entry.slug] = kept
        except KodimError as error:
            absent[entry.slug] = str(error)
    return found, absent


def _count(codec: LearnedCodec, picture: str) -> dict[str, float]:
    """Multiply-accumulates for a pixel of the picture's upper left corner, cut so that no padding is counted."""
    from kodim.bench.complexity import complexity

    pixels, stride = load(picture).pixels, codec.codec.stride
    height, width = (min(side, CORNER) // stride * stride or side for side in pixels.shape[:2])
    cost = complexity(codec.codec, to_tensor(pixels[:height, :width]))
    return {"encode_kmac": cost.encode_kmac, "decode_kmac": cost.decode_kmac}
