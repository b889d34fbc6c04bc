"""`kodim import-compressai`: weights that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kodim.cli.output import check_writable, kilobytes, say
from kodim.errors import BadRequest

EXAMPLES = """[bold]Examples[/bold]

kodim import-compressai mbt2018-3.pth.tar mbt.safetensors

kodim compress photo.png --codec mbt.safetensors

kodim decompress photo.kdm --weights mbt.safetensors"""


def import_compressai(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A checkpoint: .pth.tar or .safetensors.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT.safetensors", help="Where the weights go.", show_default=False)
    ],
) -> None:
    """Make a weights file of kodim of a CompressAI checkpoint.

    bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, cheng2020-anchor and cheng2020-attn are
    recognised by their tensors. PyTorch files are read without running code in them.
    """
    if output.suffix != ".safetensors":
        raise BadRequest(f"{output}: the name of a weights file ends in .safetensors")
    check_writable(output)
    if not output.parent.is_dir():
        raise BadRequest(f"{output}: there is no folder {output.parent}")
    if output.exists() and source.exists() and output.samefile(source):
        raise BadRequest(f"{source}: the output would overwrite the input")
    import kodim
    from kodim import weights

    codec = kodim.load_compressai(source)
    fingerprint = weights.save(codec, output, packed=False)
    sizes = ", ".join(f"{name.upper()} = {value}" for name, value in codec.arguments.items())
    size = kilobytes(output.stat().st_size)
    say(f"{source} -> {output}  {codec.preset} ({sizes})  {size}  fingerprint {fingerprint.hex()}")
