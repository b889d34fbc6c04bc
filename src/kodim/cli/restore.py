"""`kodim restore`: better pictures from ordinary JPEG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kodim.cli.batch import Row, work_through
from kodim.cli.decompress import decompress_line, pillow_format, written
from kodim.cli.inputs import Outputs, expand, read_bytes
from kodim.cli.options import Json, Output
from kodim.cli.output import check_writable
from kodim.errors import BadRequest

EXAMPLES = """[bold]Examples[/bold]

kodim restore photo.jpg  →  photo.png next to it

kodim restore scans/ -o better/

kodim restore photo.jpg --weights mine.safetensors  →  with weights of your own"""

JPEG_START = b"\xff\xd8\xff"


def restore(
    files: Annotated[list[str], typer.Argument(metavar="IN.jpg", help="Files, folders or globs.", show_default=False)],
    output: Output = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights of ororbia2018, where none ship.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode JPEG files better than a JPEG decoder does; the files stay as they are.

    Without -o nothing is overwritten: where photo.png exists, the result is photo.restored.png.
    """
    inputs = expand(files, _is_jpeg, "JPEG file")
    outputs = Outputs(output, ".png", inputs)
    if outputs.file is not None:
        pillow_format(outputs.file)

    def job(path: Path) -> Row:
        if path.is_file() and not _is_jpeg(path):
            raise BadRequest(f"{path}: not a JPEG file")
        goal = outputs.path_for(path)
        if output is None and goal.exists():
            goal = goal.with_name(f"{goal.stem}.restored{goal.suffix}")
        check_writable(goal)
        return _restore_one(path, goal, weights)

    work_through(inputs, "restoring", job, decompress_line, as_json=as_json)


def _restore_one(path: Path, goal: Path, weights: Path | None) -> Row:
    """Restore one file; the row of the JSON output."""
    from kodim.restore import restore as restored

    image = restored(read_bytes(path), weights)
    return written(image, path, goal)


def _is_jpeg(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(JPEG_START)) == JPEG_START
    except OSError:
        return False
