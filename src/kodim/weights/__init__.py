"""Trained weights: `<codec>.<preset>.safetensors` beside this file, each with a TOML card of the same name.

A weights file holds parameters and the frozen integer tables. Large convolutions are stored in 8 bits
with one scale per kernel (`<name>` and `<name>.peak`), other convolutions in half precision, the rest
in full; what is loaded is what was measured. The fingerprint, the first 8 bytes of the SHA-256 of the whole
file, is written into every .kdm file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadRequest, MissingWeights
from ..registry import get, weights_file

if TYPE_CHECKING:
    from torch import Tensor

    from ..codec import Codec

MAX_SIZE = 1 << 10  # channels; no file makes us build anything larger
SMALL = 50_000  # convolutions of fewer weights are not worth eight bits


@cache
def fingerprint(path: Path) -> bytes:
    """First 8 bytes of the SHA-256 of a weights file."""
    return hashlib.sha256(path.read_bytes()).digest()[:8]


def load_shipped(codec: "Codec") -> None:
    """Load the weights that ship with the package; MissingWeights where there are none."""
    slug, path = codec.info["slug"], weights_file(codec.info["slug"], codec.preset)
    if not path.exists():
        raise MissingWeights(f"no trained weights ship for {slug} {codec.preset}; `kodim train {slug}` makes some")
    load(codec, path)


def describe(path: str | Path) -> dict[str, str]:
    """Metadata of a weights file or checkpoint: `codec`, `preset` and more; BadRequest when it is neither."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as f:
            metadata = f.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadRequest(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from None
    if metadata.get("kodim") not in ("weights", "checkpoint"):
        raise BadRequest(f"{path}: not a weights file or checkpoint of kodim")
    return metadata


def load(codec: "Codec", path: str | Path) -> None:
    """Load a weights file, or the averaged weights of a training checkpoint, into a codec in eval mode."""
    from ..coding.priors import PriorModule
    from ..training.checkpoint import read

    metadata = describe(path)
    if (metadata["codec"], metadata["preset"]) != (codec.info["slug"], codec.preset):
        raise BadRequest(f"{path}: weights of {metadata['codec']} {metadata['preset']}, "
                         f"not of {codec.info['slug']} {codec.preset}")  # fmt: skip
    tensors, _ = read(path)
    is_checkpoint = metadata["kodim"] == "checkpoint"
    if is_checkpoint:
        tensors = {k[4:]: v for k, v in tensors.items() if k.startswith("ema/")}
        tensors |= {k: v for k, v in codec.state_dict().items() if ".tables." in k}
    try:
        codec.load_state_dict(tensors if is_checkpoint else unpack(tensors))
    except (RuntimeError, KeyError) as error:
        raise BadRequest(f"{path}: does not fit {codec.info['slug']} ({str(error).splitlines()[-1].strip()})") from None
    if is_checkpoint:
        codec.freeze()
    for module in codec.modules():
        if isinstance(module, PriorModule) and not module.tables.check():
            raise BadRequest(f"{path}: its probability tables are damaged")
    if "lambdas" in metadata:
        codec.lambdas = tuple(json.loads(metadata["lambdas"]))
    codec.weights_hash = fingerprint(Path(path))


def arguments(metadata: Mapping[str, str]) -> dict[str, int]:
    """What of a codec's sizes differs from its preset, of the metadata that `describe` gives."""
    found = json.loads(metadata.get("arguments", "{}"))
    if not isinstance(found, dict) or not all(type(v) is int and 0 < v <= MAX_SIZE for v in found.values()):
        raise BadRequest(f"not sizes of a codec: {metadata['arguments']}")
    return found


def save(codec: "Codec", path: str | Path, *, packed: bool = True) -> bytes:
    """Write a codec's weights and freshly frozen tables; returns their fingerprint.

    The codec is left with the rounded weights that a reader of the file will get. With `packed=False` nothing is
    rounded; the file is three to four times as large.
    """
    from safetensors.torch import save_file

    path = Path(path)
    stored = {k: v.detach().cpu() for k, v in codec.state_dict().items() if ".tables." not in k}
    if packed:
        stored = _pack(stored)
        codec.load_state_dict(unpack(stored), strict=False)
    codec.freeze()
    stored |= _pack({k: v.cpu() for k, v in codec.state_dict().items() if ".tables." in k})
    metadata = {
        "kodim": "weights",
        "codec": codec.info["slug"],
        "preset": codec.preset,
        "lambdas": json.dumps(codec.lambdas),
    }
    if codec.arguments:
        metadata["arguments"] = json.dumps(dict(codec.arguments))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.contiguous() for k, v in stored.items()}, part, metadata=metadata)
        part.chmod(0o644)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    fingerprint.cache_clear()
    codec.weights_hash = fingerprint(path)
    return codec.weights_hash


def _pack(tensors: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Parameters and tables -> what a weights file stores."""
    import torch

    packed = {}
    for name, value in tensors.items():
        if value.ndim == 4 and value.numel() > SMALL and value[0, 0].numel() > 1:  # one weight needs no scale
            peak = value.abs().amax((2, 3)).half()
            scale = peak.float().clamp_min(1e-12)[:, :, None, None] / 127
            packed[name] = torch.round(value / scale).clamp(-127, 127).to(torch.int8)
            packed[f"{name}.peak"] = peak
        elif value.ndim == 4 and value.is_floating_point():
            packed[name] = value.half()
        elif name.endswith(".counts"):
            packed[name] = value.to(torch.uint16)
        else:
            packed[name] = value
    return packed


def unpack(packed: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Inverse of :func:`_pack`, up to its rounding."""
    import torch

    tensors = {}
    for name, value in packed.items():
        if name.endswith(".peak") and name.removesuffix(".peak") in packed:
            continue
        if value.dtype == torch.int8:
            tensors[name] = value.float() * (packed[f"{name}.peak"].float()[:, :, None, None] / 127)
        elif value.dtype in (torch.float16, torch.uint16):
            tensors[name] = value.to(torch.float32 if value.dtype == torch.float16 else torch.int32)
        else:
            tensors[name] = value
    return tensors


def search_path() -> Iterator[Path]:
    """Weights files besides the shipped ones: the files, and those in the folders, that KODIM_WEIGHTS names."""
    for name in filter(None, os.environ.get("KODIM_WEIGHTS", "").split(os.pathsep)):
        path = Path(name)
        if path.is_dir():
            yield from sorted(path.glob("*.safetensors"))
        elif path.is_file():
            yield path


def locate(source: str | Path) -> Path:
    """The file of weights that `source` means: a path, or a system whose weights ship, as `ma2020:lossless`.

    Raises:
        BadRequest: no such file, or no weights of that system ship.
        UnknownCodec: no such system.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) != 1:
        raise BadRequest(f"{source}: no such file")
    from ..learned import LearnedCodec

    system = get(str(source))
    if not isinstance(system, LearnedCodec):
        raise BadRequest(f"{source}: no such file, and a classical codec has no weights")
    shipped = weights_file(system.slug, system.preset)
    if not shipped.exists():
        raise BadRequest(f"{source}: no such file, and no weights of it ship")
    return shipped


def find(slug: str, preset: str, wanted: bytes, given: Path | None = None) -> Path:
    """The weights file of a fingerprint; MissingWeights, saying what is here instead, where there is none.

    Besides the shipped files and those that KODIM_WEIGHTS names, `given` is looked at.
    """
    if given is not None:
        describe(given)
    shipped = weights_file(slug, preset)
    here = [shipped] if shipped.exists() else []
    for path in [*([given] if given is not None else []), *here, *search_path()]:
        if fingerprint(path) == wanted:
            return path
    have = f"{fingerprint(shipped).hex()} here" if here else "none here"
    if given is not None:
        have = f"{given} has {fingerprint(given).hex()}"
    raise MissingWeights(
        f"written with weights {wanted.hex()} of {slug} {preset} ({have}); "
        "name that weights file with --weights or KODIM_WEIGHTS, or install the version of kodim that wrote it"
    )
