"""`kodim train`: the way to the training loop; the loop itself is in `kodim.training`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from kodim.cli.output import check_writable
from kodim.errors import BadRequest

EXAMPLES = """[bold]Examples[/bold]

kodim train minnen2018 --data photos/ --minutes 60 -o mine.ckpt

kodim train minnen2018 --data photos/ --minutes 60 --resume mine.ckpt -o mine.ckpt  →  an hour more

--minutes counts time spent training, over all the runs that a checkpoint went through."""


def train(
    codec: Annotated[str, typer.Argument(metavar="CODEC", help="A learned codec.", show_default=False)],
    data: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Folder of pictures; may be given several times.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="CKPT", help="Where the checkpoint goes.", show_default=False),
    ],
    minutes: Annotated[float, typer.Option(metavar="M", help="Time budget.")] = 60.0,
    resume: Annotated[Path | None, typer.Option(metavar="CKPT", help="Continue from this checkpoint.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    preset: Annotated[str, typer.Option(metavar="NAME", help="Sizes: compact or paper.")] = "compact",
) -> None:
    """Train a learned codec on folders of pictures, for a given time."""
    from kodim import registry

    if not (math.isfinite(minutes) and minutes > 0):
        raise BadRequest(f"--minutes must be above 0, not {minutes:g}")
    for folder in data:
        if not folder.is_dir():
            raise BadRequest(f"{folder}: no such folder")
    if resume is not None and not resume.is_file():
        raise BadRequest(f"{resume}: no such file")
    check_writable(output)
    chosen = registry.get(codec)
    if chosen.kind != "learned":
        raise BadRequest(f"{codec} is a classical codec: there is nothing to train")

    from kodim.training.cli_bridge import TrainConfig
    from kodim.training.cli_bridge import train as run

    run(
        TrainConfig(
            codec=chosen.slug,
            data=list(data),
            minutes=minutes,
            resume=resume,
            device=device,
            preset=preset,
            output=output,
        )
    )
