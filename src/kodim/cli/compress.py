"""`kodim compress`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli import signals
from kodim.cli.batch import Row, about, work_through
from kodim.cli.inputs import Outputs, expand, is_kdm_file, is_picture, read_bytes
from kodim.cli.options import Files, Json, Output
from kodim.cli.output import check_writable, kilobytes, write_file
from kodim.errors import BadRequest, KodimError, UnsupportedImage
from kodim.registry import DEFAULT_CODEC, FITTED_CODEC, FITTED_EFFORT

if TYPE_CHECKING:
    from kodim.picture import Picture
    from kodim.rate import Result
    from kodim.registry import ImageCodec

DEFAULT_QUALITY = 60.0
FIT_EFFORT = 5  # where none is given

EXAMPLES = """[bold]Examples[/bold]

kodim compress photo.jpg  →  photo.kdm next to it, at quality 60

kodim compress photo.jpg -o small.kdm --quality 35

kodim compress photo.jpg --bpp 0.25  →  as good as fits into a quarter of a bit per pixel

kodim compress a.png b.png holidays/ -o out/ --psnr 34  →  as small as 34 dB allows

kodim compress photo.png --codec avif --effort 9  →  photo.avif"""


@dataclass(frozen=True)
class Target:
    """What the person asked the size or the quality to be: exactly one of four."""

    kind: str  # "quality", "bpp", "psnr" or "ms_ssim"
    value: float


def compress(
    files: Files,
    output: Output = None,
    codec: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Any codec that `kodim codecs` lists; SLUG:PRESET for another of its presets that ships.",
        ),
    ] = DEFAULT_CODEC,
    quality: Annotated[
        float | None,
        typer.Option(
            metavar="0..100",
            help="One scale for every codec: higher is better and larger. Default: 60.",
            show_default=False,
        ),
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(metavar="B", help="Wanted size, in bits per pixel of the whole file.")
    ] = None,
    psnr: Annotated[float | None, typer.Option(metavar="DB", help="Wanted PSNR, in dB.")] = None,
    ms_ssim: Annotated[
        float | None, typer.Option("--ms-ssim", metavar="V", help="Wanted MS-SSIM, between 0 and 1.")
    ] = None,
    max_error: Annotated[
        int | None,
        typer.Option("--max-error", metavar="N", help="Largest error of any pixel (not available yet)."),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep every pixel (not available yet; ma2020:lossless does).")
    ] = False,
    effort: Annotated[
        int | None,
        typer.Option(
            metavar="1..10",
            help="Time spent for smaller files. Default: the codec's own. 10 fits a decoder to the picture: minutes.",
        ),
    ] = None,
    smallest: Annotated[
        bool,
        typer.Option(
            "--smallest",
            help="Also fit a decoder to each picture (overfit, effort 10), and keep the smaller file. Takes minutes; "
            "Ctrl-C once ends the fit early.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.kdm", help="With overfit: go on from this earlier result.", show_default=False, dir_okay=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress pictures: photo.jpg becomes photo.kdm.

    At most one of --quality, --bpp, --psnr and --ms-ssim may be given.
    Of a folder, the pictures directly in it are taken and other files skipped.
    Classical codecs write their own format (.jpg, .avif, ...).
    """
    from kodim import registry

    both = smallest and codec == DEFAULT_CODEC and resume is None
    codec, effort = _fitting(codec, effort, smallest, resume)
    target = _target(quality=quality, bpp=bpp, psnr=psnr, ms_ssim=ms_ssim, max_error=max_error, lossless=lossless)
    chosen = registry.get(codec)
    inputs = expand(files, is_picture, "picture")
    if resume is not None and (quality is not None or len(inputs.files) > 1):
        raise BadRequest("--resume goes on with one picture, at the quality of the earlier file")
    outputs = Outputs(output, chosen.extension, inputs)
    fits = getattr(chosen, "fits", False)

    def make(picture: Picture) -> tuple[bytes, Row]:
        if both:
            return _smallest(picture, target)
        spent = effort or (FIT_EFFORT if fits else None)
        if resume is not None:
            return _resumed(resume, picture, chosen, target, spent)
        return _made(picture, chosen, target, spent)

    def job(path: Path) -> Row:
        goal = outputs.path_for(path)
        check_writable(goal)
        with signals.patient() if fits else nullcontext():
            return _compress_one(path, goal, make)

    work_through(inputs, "compressing", job, lambda row: _compress_line(row, target), as_json=as_json)


def _fitting(codec: str, effort: int | None, smallest: bool, resume: Path | None) -> tuple[str, int | None]:
    """Codec and effort, once the words for a fit to one picture are spelled out."""
    if smallest:
        if codec not in (DEFAULT_CODEC, FITTED_CODEC) or effort not in (None, FITTED_EFFORT):
            raise BadRequest("--smallest chooses codec and effort itself: leave --codec and --effort out")
        effort = FITTED_EFFORT
    if effort is not None and not 1 <= effort <= FITTED_EFFORT:
        raise BadRequest(f"--effort goes from 1 to {FITTED_EFFORT}, not {effort}")
    fits = effort == FITTED_EFFORT or resume is not None
    return (FITTED_CODEC if fits and codec == DEFAULT_CODEC else codec), effort


def _target(*, max_error: int | None, lossless: bool, **wishes: float | None) -> Target:
    """The one wish of the command line, checked before any file is opened."""
    given = {name: value for name, value in wishes.items() if value is not None}
    names = [f"--{name.replace('_', '-')}" for name in given]
    names += ["--max-error"] * (max_error is not None) + ["--lossless"] * lossless
    if len(names) > 1:
        raise BadRequest(f"{' and '.join(names)} exclude each other: give one of them")
    if lossless:
        raise BadRequest("--lossless is not available yet; `--codec ma2020:lossless` keeps every pixel, slowly")
    if max_error is not None:
        raise BadRequest("--max-error is not available yet; --quality, --bpp, --psnr and --ms-ssim are")
    if not given:
        return Target("quality", DEFAULT_QUALITY)
    ((kind, value),) = given.items()
    if not math.isfinite(value):
        raise BadRequest(f"{names[0]} needs a number, not {value:g}")
    if kind == "quality" and not 0 <= value <= 100:
        raise BadRequest(f"--quality goes from 0 to 100, not {value:g}")
    if kind in ("bpp", "psnr") and value <= 0:
        raise BadRequest(f"{names[0]} must be above 0, not {value:g}")
    if kind == "ms_ssim" and not 0 < value < 1:
        raise BadRequest(f"--ms-ssim lies between 0 and 1, not {value:g}")
    return Target(kind, value)


def _compress_one(path: Path, goal: Path, make: Callable[[Picture], tuple[bytes, Row]]) -> Row:
    """Compress one file; the row of the JSON output."""
    from kodim.picture import load

    try:
        picture = load(path)
    except UnsupportedImage:
        if is_kdm_file(path):
            raise UnsupportedImage(f"{path}: is compressed already; `kodim decompress` opens it") from None
        raise
    data, reached = make(picture)
    original = path.stat().st_size
    write_file(goal, data)
    return {
        "input": str(path),
        "output": str(goal),
        "bytes": len(data),
        "bpp": 8 * len(data) / (picture.width * picture.height),
        "width": picture.width,
        "height": picture.height,
        "input_bytes": original,
        **reached,
    }


def _made(picture: Picture, codec: ImageCodec, target: Target, effort: int | None) -> tuple[bytes, Row]:
    """A file of one codec, and what it reached."""
    from kodim.rate import compress_to

    if target.kind == "quality":
        return codec.encode(picture, target.value, effort=effort), {"codec": codec.slug, "quality": target.value}
    wish: dict[str, Any] = {target.kind: target.value}
    result = compress_to(codec, picture, effort=effort, **wish)
    return result.data, {"codec": codec.slug, **_reached(result)}


def _smallest(picture: Picture, target: Target) -> tuple[bytes, Row]:
    """The better of the default codec and a fit, and what both reached."""
    from kodim.smallest import smallest

    wish: dict[str, Any] = {target.kind: target.value}
    results, best = smallest(picture, **wish)
    tried = {slug: {"bytes": len(r.data), "psnr": _finite(r.psnr)} for slug, r in results.items()}
    return results[best].data, {"codec": best, **_reached(results[best]), "tried": tried}


def _reached(result: Result) -> Row:
    values = {name: _finite(v) for name in ("psnr", "ms_ssim") if (v := getattr(result, name)) is not None}
    return {"quality": round(result.quality, 4), "status": result.status, **values}


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _resumed(
    earlier: Path, picture: Picture, codec: ImageCodec, target: Target, effort: int | None
) -> tuple[bytes, Row]:
    """A fit that goes on from an earlier file; its bytes, and what was reached."""
    if not getattr(codec, "fits", False):
        raise BadRequest(f"--resume is for codecs that fit themselves to a picture ({FITTED_CODEC})")
    if target.kind == "ms_ssim":
        raise BadRequest("--resume goes together with --bpp or --psnr, not with --ms-ssim")
    from kodim.goal import Goal
    from kodim.learned import LearnedCodec
    from kodim.rate import judged

    assert isinstance(codec, LearnedCodec)
    try:
        quality, streams = codec.sent(read_bytes(earlier), picture)
    except KodimError as error:
        raise BadRequest(about(earlier, error)) from None
    wish = {} if target.kind == "quality" else {target.kind: target.value}
    data = codec.encode(picture, quality, effort=effort, goal=Goal(**wish, streams=streams))
    if not wish:
        return data, {"codec": codec.slug, "quality": quality}
    result = judged(codec, picture, data, quality, **wish)
    return data, {"codec": codec.slug, "quality": quality, "status": result.status, "psnr": result.psnr}


def _compress_line(row: Row, target: Target) -> str:
    """'photo.jpg -> photo.kdm  34.2 kB  0.412 bpp  12.3:1', and how near the wish was met."""
    parts = [
        f"{row['input']} -> {row['output']}",
        kilobytes(row["bytes"]),
        f"{row['bpp']:.3f} bpp",
        f"{row['input_bytes'] / row['bytes']:.1f}:1",
    ]
    if target.kind != "quality":
        parts.append(f"quality {row['quality']:.4g}")
        if row.get("psnr") is not None:
            parts.append(f"{row['psnr']:.2f} dB")
        if row.get("ms_ssim") is not None:
            parts.append(f"MS-SSIM {row['ms_ssim']:.4f}")
    if "tried" in row:
        others = [f"{slug} {kilobytes(t['bytes'])} at {t['psnr']:.2f} dB" for slug, t in row["tried"].items()
                  if slug != row["codec"] and t["psnr"] is not None]  # fmt: skip
        parts.append(f"by {row['codec']}; {', '.join(others)}" if others else f"by {row['codec']}")
    wish = {
        "bpp": f"{target.value:g} bpp",
        "psnr": f"{target.value:g} dB",
        "ms_ssim": f"MS-SSIM {target.value:g}",
    }
    name = row["codec"]
    between = f"lies between two steps: this is the nearest of {name}"
    ends = {
        "lowest": f"is below the range: this is the lowest end of {name}",
        "highest": f"is above the range: this is the highest end of {name}",
        "nearest": "was not met by this short fit" if name == FITTED_CODEC else between,
    }
    if row.get("status") in ends:
        parts.append(f"({wish[target.kind]} {ends[row['status']]})")
    return "  ".join(parts)
