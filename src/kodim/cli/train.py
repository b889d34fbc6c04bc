"""`kodim train`: the way to the training loop; the loop itself is in `kodim.training`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from kodim.cli.output import check_writable
from kodim.errors import BadRequest

EXAMPLES = """[bold]Examples[/bold]

kodim train minnen2018 --data photos/ --minutes 60 -o mine.ckpt

kodim train minnen2018 --data div2k --data shards/000.tar -o mine.ckpt  →  sets by name, archives

kodim train kodim --data photos/ --init kodim --lr 0.002 -o mine.ckpt  →  from the weights that ship

kodim train kodim --data photos/ --init kodim --freeze analysis --freeze hyper -o mine.ckpt  →  the rest alone

kodim train minnen2018 --data photos/ --resume mine.ckpt -o mine.ckpt  →  an hour more

python -m kodim.training.export mine.ckpt my-weights/  →  weights for --codec

--minutes is the time of this run. Ctrl-C ends it early and keeps what was learned."""


def train(
    codec: Annotated[str, typer.Argument(metavar="CODEC", help="A learned codec.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DIR",
            help="Folder or archive of pictures, or a set of `kodim datasets`; may be given several times.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="CKPT", help="Where the checkpoint goes.", show_default=False),
    ],
    minutes: Annotated[float, typer.Option(metavar="M", help="Time budget.")] = 60.0,
    resume: Annotated[Path | None, typer.Option(metavar="CKPT", help="Continue from this checkpoint.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    preset: Annotated[str, typer.Option(metavar="NAME", help="Sizes: compact or paper.")] = "compact",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FROM",
            help="Start from a checkpoint, a weights file or a system that ships: what is alike is taken.",
        ),
    ] = None,
    lambda_: Annotated[
        float | None,
        typer.Option("--lambda", metavar="L", help="Weight of 255^2 MSE against bpp, for one fixed rate."),
    ] = None,
    lr: Annotated[float, typer.Option(metavar="R", help="Learning rate at the start.")] = 1e-3,
    seed: Annotated[int, typer.Option(metavar="N", help="Of crops, noise and rates.")] = 0,
    drawn: Annotated[
        float, typer.Option(metavar="S", help="Share of crops, 0 to 1, that are drawn: text, charts, noise.")
    ] = 0.0,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Weights whose names begin so stay as they are (analysis, ..); may be given several times.",
        ),
    ] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Use torch.compile (worth it on a GPU).")] = False,
) -> None:
    """Train a learned codec on folders of pictures, for a given time."""
    from kodim import datasets, registry, weights

    if not (math.isfinite(minutes) and minutes > 0):
        raise BadRequest(f"--minutes must be above 0, not {minutes:g}")
    if resume is not None and not resume.is_file():
        raise BadRequest(f"{resume}: no such file")
    if init is not None:
        weights.locate(init)
    for name, value in (("--lambda", lambda_), ("--lr", lr)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadRequest(f"{name} must be above 0, not {value:g}")
    if not 0 <= drawn <= 1:
        raise BadRequest(f"--drawn must lie in 0..1, not {drawn:g}")
    check_writable(output)
    _check_device(device)
    chosen = registry.get(codec)
    if chosen.kind != "learned":
        raise BadRequest(f"{codec} is a classical codec: there is nothing to train")
    for word in data:
        datasets.open(word)  # says what is missing before PyTorch is imported

    from kodim.training.loop import TrainConfig
    from kodim.training.loop import train as run

    run(
        TrainConfig(
            codec=chosen.slug,
            data=data,
            output=str(output),
            preset=preset,
            minutes=minutes,
            resume=str(resume) if resume is not None else None,
            device=device,
            init=init,
            lambdas=(lambda_, lambda_) if lambda_ is not None else None,
            lr=lr,
            seed=seed,
            drawn=drawn,
            freeze=freeze or [],
            compile=compile_,
        )
    )


def _check_device(name: str) -> None:
    """BadRequest for a device that is none, or that is not here: PyTorch says so late and at length."""
    kind = name.partition(":")[0]
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d+)?", name):
        raise BadRequest(f"--device is auto, cpu, cuda, cuda:1, mps or xpu, not {name!r}")
    if kind in ("cuda", "mps", "xpu"):
        import torch

        if not getattr(torch, kind).is_available():
            raise BadRequest(f"--device {name}: no such device here")
