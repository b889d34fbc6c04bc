"""Checkpoints: one safetensors file, never a pickle.

Tensors are `model/<name>` (the weights), `ema/<name>` (their moving average, what is evaluated and
shipped) and `opt/<name>/<moment>`; the metadata holds codec, preset, progress and the leg's settings.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import weights
from ..codec import Codec
from ..errors import BadRequest, KodimError
from ..registry import card_of, create


def save(
    path: Path,
    codec: Codec,
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    progress: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Write a checkpoint under a temporary name and rename it into place."""
    names = {id(p): k for k, p in codec.named_parameters()}
    tensors = {f"model/{k}": p.detach() for k, p in codec.named_parameters()}
    tensors |= {f"ema/{k}": v for k, v in ema.items()}
    for p, moments in optimiser.state.items():
        tensors |= {f"opt/{names[id(p)]}/{m}": torch.as_tensor(v) for m, v in moments.items()}
    metadata = {
        "kodim": "checkpoint",
        "codec": codec.info["slug"],
        "preset": codec.preset,
        "lambdas": json.dumps(codec.lambdas),
        "progress": json.dumps(progress),
        "config": json.dumps(config),
    }
    _write(path, tensors, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.to("cpu").contiguous() for k, v in tensors.items()}, part, metadata=metadata)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_output(name: str | Path) -> Path:
    """Find out before the training, not after it, that the result cannot be written."""
    output = Path(name)
    if output.is_dir():
        raise BadRequest(f"{output} is a directory; the output is a file, the checkpoint")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe = output.with_name(f".{output.name}.{os.getpid()}.part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadRequest(f"{output}: cannot be written ({error.strerror})") from None
    return output


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; BadRequest when it is none."""
    try:
        with safe_open(path, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise BadRequest(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise BadRequest(f"{path}: not a safetensors file ({str(error).splitlines()[0]})") from None


def load(path: str | Path, codec: Codec, ema: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights, average and optimiser in place; returns the progress dictionary."""
    tensors, metadata = read(path)
    if (metadata.get("codec"), metadata.get("preset")) != (codec.info["slug"], codec.preset):
        raise BadRequest(
            f"{path}: a checkpoint of {metadata.get('codec', 'another program')} {metadata.get('preset', '')}, "
            f"not of {codec.info['slug']} {codec.preset}"
        )
    with torch.no_grad():
        for name, p in codec.named_parameters():
            _copy(tensors, f"model/{name}", p, path)
            _copy(tensors, f"ema/{name}", ema[name], path)
            moments = {k.rsplit("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"opt/{name}/")}
            if moments:
                optimiser.state[p] = {m: v if v.ndim == 0 else v.to(p.device) for m, v in moments.items()}
    return json.loads(metadata["progress"])


def _copy(tensors: dict[str, Tensor], key: str, target: Tensor, path: str | Path) -> None:
    if key not in tensors or tensors[key].shape != target.shape:
        raise BadRequest(f"{path}: {key} is missing or has another shape")
    target.copy_(tensors[key])


def load_shared(source: str | Path, codec: nn.Module) -> tuple[int, list[dict[str, Any]]]:
    """Start from another system, or another leg: take over its tensors of equal name and shape.

    Args:
        source: a checkpoint, of which the averaged weights count; exported weights; or a system whose weights ship, as
            `minnen2018` or `ma2020:lossless`.

    Returns how many tensors they were, and the legs of training that made them.

    Raises:
        BadRequest: nothing fits.
    """
    path = weights.locate(source)
    tensors, metadata = read(path)
    if metadata.get("kodim") == "weights":
        tensors = {f"ema/{k}": v for k, v in weights.unpack(tensors).items()}
        legs = card_of(path).get("legs", [])
    else:
        legs = json.loads(metadata.get("progress", "{}")).get("legs", [])
    taken = _take(tensors, codec)
    if not taken:
        raise BadRequest(f"{source}: none of its tensors has name and shape of one that is to be trained")
    return taken, legs


def _take(tensors: dict[str, Tensor], codec: nn.Module) -> int:
    """Take over averaged tensors of equal name and shape; returns how many they were."""
    taken = 0
    with torch.no_grad():
        for name, p in codec.named_parameters():
            value = tensors.get(f"ema/{name}")
            if value is not None and value.shape == p.shape:
                p.copy_(value)
                taken += 1
    return taken


def averaged(path: str | Path) -> tuple[Codec, dict[str, str]]:
    """The codec that a checkpoint is of, with its averaged weights, and the metadata; BadRequest when it is none."""
    tensors, metadata = read(path)
    if metadata.get("kodim") != "checkpoint":
        raise BadRequest(f"{path}: not a checkpoint of kodim (weights that were exported are none)")
    codec = create(metadata["codec"], preset=metadata["preset"], pretrained=False)
    _take(tensors, codec)
    return codec, metadata


def save_averaged(path: str | Path, codec: Codec, metadata: dict[str, str]) -> None:
    """Write back what :func:`averaged` gave: a checkpoint to start from and to export, without moments to resume."""
    _write(Path(path), {f"ema/{n}": p.detach() for n, p in codec.named_parameters()}, metadata)


def lesson(main: Callable[..., None], usage: str | None) -> None:
    """`python -m MODULE CHECKPOINT OUTPUT PICTURES [MINUTES]`: calls `main` with the arguments, MINUTES as seconds."""

    def run(source: str, output: str, pictures: str, *minutes: str) -> None:
        check_output(output)
        main(source, output, pictures, *map(_seconds, minutes))

    command(run, range(3, 5), usage)


def command(main: Callable[..., None], count: range, usage: str | None) -> None:
    """`python -m MODULE ...`: calls `main` with the arguments; what is wrong with them is told, exit code 2."""
    arguments = sys.argv[1:]
    if len(arguments) not in count:
        print(usage, file=sys.stderr)
        sys.exit(2)
    try:
        main(*arguments)
    except (KodimError, OSError) as error:
        print(f"kodim: {error}", file=sys.stderr)
        sys.exit(2)


def _seconds(minutes: str) -> float:
    try:
        seconds = 60 * float(minutes)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise BadRequest(f"MINUTES must be a number above 0, not {minutes!r}")
    return seconds
