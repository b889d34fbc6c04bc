"""Many codecs on the same pictures: what `kodim compare` measures, so that curves can be laid over each other.

Every figure comes from a real file, decoded again, on one thread. What is finished is kept in a journal on disk,
so a run that was interrupted goes on, and adding a codec to a comparison measures that codec alone.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodim.bench import curves, published
from kodim.bench.entrants import Entrant, entrants
from kodim.bench.evaluate import bare, code, mean, picture_files
from kodim.bench.journal import Journal, key_of
from kodim.bench.work import run
from kodim.classical.base import package_version
from kodim.errors import BadRequest, KodimError, UnsupportedImage
from kodim.metrics import METRICS, Metric, get
from kodim.picture import Picture, load

if TYPE_CHECKING:
    from kodim.registry import ImageCodec

JOURNAL = "measurements.jsonl"
THREADS = 1
SECONDS = ("encode_s", "decode_s")
_warm: set[str] = set()
COMPLEXITY_CROP = 768, 512  # width, height at most: the size of a Kodak picture


@dataclass(frozen=True)
class Subject:
    """A picture that takes part; `digest` is of its bare pixels."""

    path: str
    name: str
    width: int
    height: int
    mode: str
    digest: str


@dataclass(frozen=True)
class Task:
    """One measurement: picture x codec x quality. `key` is made of everything the file depends on."""

    key: str
    codec: str
    label: str
    path: str
    digest: str
    quality: float
    metrics: tuple[str, ...]

    def __str__(self) -> str:
        return f"{os.path.basename(self.path)}, {self.label} at quality {self.quality:g}"


class Study:
    """A comparison: made ready, then measured, then told as one JSON-friendly dict.

    Parameters
    ----------
    paths:
        pictures and folders of pictures. Unreadable ones are left out, with the reason in `left_out`.
    codecs:
        names that the registry knows, or weights files.
    folder:
        where the journal lives; made when the first measurement is done.
    anchor:
        the codec (or published curve) that BD figures are shown against; jpeg, or else the first codec.
    qualities:
        0..100, for all codecs; each one's own grid when None.
    metrics:
        names in `kodim.metrics.METRICS`; all whose package is installed when None.
    with_published:
        lay published curves beside; None does so when the pictures are the 24 of Kodak.

    Raises
    ------
    BadRequest, UnknownCodec, MissingWeights:
        before anything is measured: no picture, an unknown codec, a missing package, a bad quality.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        codecs: Sequence[str],
        *,
        folder: str | os.PathLike[str],
        anchor: str | None = None,
        qualities: Sequence[float] | None = None,
        metrics: Sequence[str] | None = None,
        with_published: bool | None = None,
    ) -> None:
        self.metrics, self.notes = _metrics(metrics)
        self.entrants = entrants(codecs, qualities)
        self.left_out: list[dict[str, str]] = []
        self.subjects = self._subjects(picture_files(paths))
        if with_published is None:
            with_published = is_kodak(self.subjects)
        self.published = published.load() if with_published else None
        self.anchor = self._anchor(anchor)
        self.journal = Journal(Path(folder) / JOURNAL)

    @cached_property
    def tasks(self) -> list[Task]:
        """All measurements, codec by codec: pictures load faster than networks."""
        return [
            self._task(subject, entrant, quality)
            for entrant in self.entrants
            for subject in self.subjects
            for quality in entrant.qualities
        ]

    @property
    def todo(self) -> list[Task]:
        """The measurements that no earlier run has made."""
        wanted = _metric_versions(self.metrics).items()
        return [task for task in self.tasks if not wanted <= self._found(task).get("computed_by", {}).items()]

    def measure(self, jobs: int = 1, progress: Callable[[str], None] | None = None) -> None:
        """Make the measurements that are missing, `jobs` at once.

        A picture that one codec cannot carry, or decodes wrongly, is left out for all: means over different
        pictures do not compare.
        """
        failed: dict[str, str] = {}
        for task, row in run(measure_one, self.todo, jobs, progress):
            if "error" in row:
                failed.setdefault(task.path, row["error"])
            else:
                computed = {**self._found(task).get("computed_by", {}), **_metric_versions(self.metrics)}
                self.journal.add(task.key, {**self._found(task), **row, "jobs": jobs, "computed_by": computed})
        self._leave_out(failed)

    def rows(self, entrant: Entrant, quality: float) -> list[dict[str, Any]]:
        """What was measured of a codec at a quality, a row per picture."""
        return [
            {"picture": s.name, "input": s.path, **self._row(self._task(s, entrant, quality))} for s in self.subjects
        ]

    def _found(self, task: Task) -> dict[str, Any]:
        """What the journal has of a task: perhaps nothing, or other metrics than are wanted now."""
        return dict(self.journal[task.key]) if task.key in self.journal else {}

    def _row(self, task: Task) -> dict[str, Any]:
        """What was measured, without metrics that an earlier run wanted."""
        found = self._found(task)
        unwanted = {"computed_by", *found["computed_by"]} - {metric.name for metric in self.metrics}
        return {key: value for key, value in found.items() if key not in unwanted}

    def rates(self, subject: Subject, entrant: Entrant) -> list[tuple[float, float]]:
        """What was measured of a codec on one picture: (bits per pixel, quality), by rate."""
        return sorted((self.journal[self._task(subject, entrant, q).key]["bpp"], q) for q in entrant.qualities)

    def cards(self) -> list[dict[str, Any]]:
        """A description of each codec that takes part, with its complexity where it is a learned one."""
        return [self._card(entrant) for entrant in self.entrants]

    def result(self) -> dict[str, Any]:
        """Everything that tables, plots and report show; see docs/comparing.md for its fields."""
        points = [self._point(entrant, quality) for entrant in self.entrants for quality in entrant.qualities]
        measured = curves.measured(points, self.metrics)
        theirs = curves.published(self.published, self.metrics) if self.published else []
        return {
            "kodim": package_version("kodim"),
            "method": curves.METHOD,
            "interpolation": curves.INTERPOLATION,
            "threads": THREADS,
            "pictures": [asdict(subject) for subject in self.subjects],
            "left_out": self.left_out,
            "notes": self.notes + self._notes(),
            "metrics": [curves.describe(metric) for metric in self.metrics],
            "codecs": self.cards(),
            "anchor": self.anchor,
            "points": points,
            "published": self._published(theirs),
            "bd": curves.bd_table(measured, [*measured, *theirs], self.metrics),
        }

    def _published(self, lines: list[curves.Line]) -> dict[str, Any] | None:
        if self.published is None:
            return None
        return {"source": self.published.source, "curves": [curves.as_points(line, self.metrics) for line in lines]}

    def _subjects(self, files: list[str]) -> list[Subject]:
        if not files:
            raise BadRequest("nothing to compare on: give at least one picture")
        found = []
        for path in files:
            try:
                picture = bare(load(path))
            except UnsupportedImage as error:
                reason = str(error).removeprefix(f"{path}: ")
                self.left_out.append({"input": path, "reason": reason})
                continue
            found.append(Subject(path, Path(path).name, picture.width, picture.height, picture.mode, _digest(picture)))
        if not found:
            first = self.left_out[0]
            raise BadRequest(f"no picture can be read; the first: {first['input']}: {first['reason']}")
        names = [subject.name for subject in found]
        twice = {name for name in names if names.count(name) > 1}
        return [Subject(**{**asdict(s), "name": s.path}) if s.name in twice else s for s in found]

    def _task(self, subject: Subject, entrant: Entrant, quality: float) -> Task:
        facts = {
            "codec": entrant.codec.slug,
            "versions": entrant.versions,
            "arguments": entrant.arguments[quality],
            "quality": quality,
            "threads": THREADS,
            "picture": subject.digest,
        }
        names = tuple(metric.name for metric in self.metrics)
        return Task(key_of(facts), entrant.name, entrant.label, subject.path, subject.digest, quality, names)

    def _leave_out(self, failed: dict[str, str]) -> None:
        self.left_out += [{"input": path, "reason": reason} for path, reason in sorted(failed.items())]
        self.subjects = [subject for subject in self.subjects if subject.path not in failed]
        if not self.subjects:
            first = self.left_out[0]
            raise BadRequest(f"no picture is left to compare on; the first: {first['input']}: {first['reason']}")
        if self.published is not None and failed:
            self.notes.append("published curves are means over all 24 Kodak pictures, of which some were left out here")

    def _point(self, entrant: Entrant, quality: float) -> dict[str, Any]:
        images = self.rows(entrant, quality)
        point: dict[str, Any] = {
            "codec": entrant.label,
            "quality": quality,
            "arguments": entrant.arguments[quality],
            "bpp": mean([image["bpp"] for image in images]),
        }
        for metric in self.metrics:
            values = [image[metric.name] for image in images]
            point[metric.name] = finite(metric.mean(values))
            if metric.decibels is not None:
                point[f"{metric.name}_db"] = finite(metric.mean_db(values))
        return {**point, **{name: mean([image[name] for image in images]) for name in SECONDS}, "images": images}

    def _card(self, entrant: Entrant) -> dict[str, Any]:
        card = {
            "codec": entrant.label,
            "slug": entrant.codec.slug,
            "kind": entrant.codec.kind,
            "title": entrant.title,
            "versions": entrant.versions,
            "weights": entrant.weights,
            "chroma": entrant.chroma,
            "threads": THREADS,
            "encode_kmac": None,
            "decode_kmac": None,
            "parameters": None,
        }
        network = getattr(entrant.codec, "codec", None)
        return {**card, **self._complexity(entrant, network)} if network is not None else card

    def _complexity(self, entrant: Entrant, network: Any) -> dict[str, Any]:
        subject = self.subjects[0]
        key = key_of({"complexity": entrant.versions, "weights": entrant.weights, "picture": subject.digest})
        if key not in self.journal:
            from kodim.bench.complexity import complexity
            from kodim.learned import to_tensor

            width, height = COMPLEXITY_CROP
            self.journal.add(key, asdict(complexity(network, to_tensor(load(subject.path).pixels[:height, :width]))))
        return dict(self.journal[key])

    def _notes(self) -> list[str]:
        """What a reader of the means must know about single metrics."""
        notes = []
        for metric in self.metrics:
            small = sum(min(s.width, s.height) < metric.min_side for s in self.subjects)
            if small:
                notes.append(
                    f"{metric.title}: {small} of {len(self.subjects)} pictures have a side below {metric.min_side} "
                    "pixels and no figure"
                )
        if self.published is not None and not is_kodak(self.subjects):
            notes.append("published curves are means over the 24 Kodak pictures; the pictures here are others")
        return notes

    def _anchor(self, wanted: str | None) -> str:
        labels = [entrant.label for entrant in self.entrants]
        if wanted is None:
            return "jpeg" if "jpeg" in labels else labels[0]
        by_alias = {entrant.name: entrant.label for entrant in self.entrants} | {label: label for label in labels}
        if wanted not in by_alias and self.published is not None:
            name = wanted.removeprefix(curves.PUBLISHED.strip()).strip()
            if name in self.published.curves:
                return curves.PUBLISHED + name
        if wanted not in by_alias:
            from kodim import registry

            slug = registry.find(wanted).slug  # an alias, or UnknownCodec
            if slug not in labels:
                raise BadRequest(f"the anchor {wanted} is not among the codecs compared ({', '.join(labels)})")
            return slug
        return by_alias[wanted]


def is_kodak(subjects: Sequence[Subject]) -> bool:
    """Whether the pictures are called kodim01 .. kodim24, all of them."""
    return {Path(s.path).stem.lower() for s in subjects} == {f"kodim{i:02}" for i in range(1, 25)}


def measure_one(task: Task) -> dict[str, Any]:
    """One measurement; `{"error": why}` where the codec cannot carry the picture."""
    codec, picture = codec_of(task.codec), _picture(task.path, task.digest)
    try:
        _warm_up(task)
        coded = code(picture, codec, task.quality)
    except KodimError as error:
        return {"error": f"{task.label}: {str(error).removeprefix(f'{task.label}: ')}"}
    return {
        "bytes": len(coded.data),
        "bpp": 8 * len(coded.data) / (picture.width * picture.height),
        **figures(task.metrics, picture, coded.decoded),
        "encode_s": coded.encode_s,
        "decode_s": coded.decode_s,
    }


def figures(names: Iterable[str], original: Picture, decoded: Picture) -> dict[str, float | None]:
    """Metric -> figure; None for a picture that is too small, and for the PSNR of an exact copy."""
    return {name: finite(METRICS[name](original.pixels, decoded.pixels)) for name in names}


def finite(value: float) -> float | None:
    """JSON knows neither nan nor infinity."""
    return value if math.isfinite(value) else None


@cache
def codec_of(name: str) -> ImageCodec:
    """The codec of a name; a worker process builds it once."""
    from kodim import registry

    return registry.get(name)


@lru_cache(maxsize=2)
def _picture(path: str, digest: str) -> Picture:
    picture = bare(load(path))
    if _digest(picture) != digest:
        raise BadRequest(f"{path}: was changed while it was being measured")
    return picture


def _warm_up(task: Task) -> None:
    """Code once without a clock: the first time loads libraries and weights."""
    if task.codec not in _warm:
        code(_picture(task.path, task.digest), codec_of(task.codec), task.quality)
        _warm.add(task.codec)


def _digest(picture: Picture) -> str:
    head = f"{picture.mode} {picture.width}x{picture.height} ".encode()
    return hashlib.sha256(head + picture.pixels.tobytes()).hexdigest()[:24]


def _metrics(names: Sequence[str] | None) -> tuple[list[Metric], list[str]]:
    """The metrics to measure, and notes on those that cannot be for want of a package."""
    if names is not None:
        chosen = [get(name) for name in dict.fromkeys(names)]
        for metric in chosen:
            metric.require()
        return chosen, []
    found, notes = [], []
    for metric in METRICS.values():
        try:
            metric.require()
            found.append(metric)
        except BadRequest as error:
            notes.append(f"not measured: {error}")
    return found, notes


def _metric_versions(metrics: Iterable[Metric]) -> dict[str, str]:
    """Metric -> what computes it: another version may give other figures."""
    packages = {"ssim": "pytorch-msssim", "ms_ssim": "pytorch-msssim", "ssimulacra2": "ssimulacra2"}
    return {metric.name: package_version(packages.get(metric.name, "kodim")) for metric in metrics}
