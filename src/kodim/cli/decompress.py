"""`kodim decompress`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kodim.cli.batch import Row, work_through
from kodim.cli.inputs import Outputs, expand, is_kdm_file, read_bytes
from kodim.cli.options import Json, Output
from kodim.cli.output import check_writable, kilobytes, write_file
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from kodim.picture import Box

EXAMPLES = """[bold]Examples[/bold]

kodim decompress photo.kdm  →  photo.png next to it

kodim decompress photo.kdm -o photo.tif  →  any format that Pillow writes

kodim decompress small/ -o back/

kodim decompress half-downloaded.kdm --partial  →  what has arrived so far

kodim decompress huge.kdm -o face.png --box 4000,3000,4600,3800  →  that part; only the tiles it takes are decoded"""


def decompress(
    files: Annotated[list[str], typer.Argument(metavar="IN.kdm", help="Files, folders or globs.", show_default=False)],
    output: Output = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a file that is cut short and show what arrived.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights it was written with, where they do not ship.", show_default=False),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="L,U,R,B", help="Only this part: left, upper, right, lower, in pixels.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decompress .kdm files: photo.kdm becomes photo.png.

    Without -o nothing is overwritten: where photo.png exists, the result is photo.decoded.png.
    The name after -o chooses the format (.png, .tif, .jpg, ...).
    Colour profile and EXIF data are kept.
    """
    inputs = expand(files, is_kdm_file, ".kdm file")
    outputs = Outputs(output, ".png", inputs)
    if outputs.file is not None:
        pillow_format(outputs.file)  # an unknown ending is refused before anything is decoded
    part = None if box is None else _box(box)

    def job(path: Path) -> Row:
        goal = outputs.path_for(path)
        if output is None and goal.exists():  # most likely the original
            goal = goal.with_name(f"{goal.stem}.decoded{goal.suffix}")
        check_writable(goal)
        return _decompress_one(path, goal, partial=partial, weights=weights, box=part)

    work_through(inputs, "decompressing", job, decompress_line, as_json=as_json)


def _box(words: str) -> Box:
    """'10,20,110,220' -> (10, 20, 110, 220)."""
    try:
        left, upper, right, lower = map(int, words.split(","))
    except ValueError:
        raise BadRequest(f"--box needs four whole numbers, left,upper,right,lower, not {words!r}") from None
    return left, upper, right, lower


def _decompress_one(path: Path, goal: Path, *, partial: bool, weights: Path | None, box: Box | None) -> Row:
    """Decompress one file; the row of the JSON output."""
    import kodim

    image = kodim.decompress(read_bytes(path), partial=partial, weights=weights, box=box)
    return written(image, path, goal)


def written(image: Image, path: Path, goal: Path) -> Row:
    """Write the picture made of `path`; the row of the JSON output."""
    data = _encode_image(image, goal)
    write_file(goal, data)
    return {
        "input": str(path),
        "output": str(goal),
        "bytes": len(data),
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
    }


def decompress_line(row: Row) -> str:
    size = f"{row['width']}x{row['height']}"
    return f"{row['input']} -> {row['output']}  {size} {row['mode']}  {kilobytes(row['bytes'])}"


def pillow_format(goal: Path) -> str:
    from PIL import Image

    from kodim.picture import register_plugins

    register_plugins()
    kind = Image.registered_extensions().get(goal.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise BadRequest(f"{goal}: cannot write a picture with the ending {goal.suffix!r}; .png always works")
    return kind


def _encode_image(image: Image, goal: Path) -> bytes:
    """The picture as a file of the format that `goal`'s ending asks for, metadata included."""
    kind = pillow_format(goal)
    options: dict[str, Any] = {
        name: image.info[name] for name in ("icc_profile", "exif", "xmp") if image.info.get(name)
    }
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    if kind == "PNG" and "xmp" in options:
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode("utf-8", "replace"))
        options["pnginfo"] = text
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **options)
    except (OSError, ValueError) as error:  # "cannot write mode RGBA as JPEG"
        raise BadRequest(f"{goal}: {error}; .png always works") from error
    return stream.getvalue()
