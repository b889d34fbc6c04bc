"""Reading CompressAI's checkpoints: what a file is, by its tensors alone, and their way into :class:`CompressAI`."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadRequest
from ..registry import create
from ..weights import MAX_SIZE
from .compressai import ANCHOR, ATTENTION, FACTORIZED, JOINT, MEAN, SCALE, CompressAI

# Follows from other entries, or is computed anew: tables, constants of the parametrisation, masks.
_DERIVED = re.compile(
    r"gaussian_conditional\..*|.*\.(beta|gamma)_reparam\..*|context_prediction\.mask"
    r"|entropy_bottleneck\.(_offset|_quantized_cdf|_cdf_length|target|likelihood_lower_bound\.bound)"
)
_DENSITY = re.compile(r"(entropy_bottleneck\.)_?(?:(matri)(?:x|ces)|(bias)(?:es)?|(factor)s?)\.?(\d+)")
_PREFIXES = {
    "g_a.": "analysis.",
    "g_s.": "synthesis.",
    "h_a.": "hyper_analysis.",
    "h_s.": "hyper_synthesis.",
    "entropy_parameters.": "context.join.",
    "context_prediction.": "context.",
    "entropy_bottleneck.": "bottleneck.",
}
SCALE_BOUND = 0.11
TAPS = 12  # of a causal 5x5 mask


def load_compressai(source: str | os.PathLike[str] | Mapping[str, Any]) -> CompressAI:
    """A CompressAI checkpoint as a kodim codec, in eval mode.

    Args:
        source: a file (`.pth.tar` or any other name of a PyTorch file, or safetensors), or a state dict. Wrapped ones
            (`{"state_dict": ...}`) and keys with `module.` in front are understood.

    Architectures: bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, cheng2020-anchor, cheng2020-attn,
    of any size. A PyTorch file is read without running any code that it may hold.

    Raises:
        BadRequest: not a file of tensors, or not of such a model; the line says why.
    """
    if isinstance(source, Mapping):
        where, content = "", source
    else:
        where = f"{os.fspath(source)}: "
        content = _read(Path(source), where)
    tensors = _state_dict(content, where)
    architecture, n, m = recognise(tensors, where)
    if not 0 < min(n, m) <= max(n, m) <= MAX_SIZE:
        raise BadRequest(f"{where}recognised as {architecture}, but with N = {n} and M = {m}")
    codec = create(CompressAI.info["slug"], preset=architecture, pretrained=False, n=n, m=m)
    assert isinstance(codec, CompressAI)
    codec.load_state_dict(_matched(codec, tensors, where), strict=False)
    return codec


def recognise(tensors: Mapping[str, Tensor], where: str = "") -> tuple[str, int, int]:
    """Architecture, N and M of a state dict, from its keys and shapes."""

    def size(key: str, dimension: int) -> int:
        shape = tensors[key].shape
        if len(shape) != 4:
            raise BadRequest(f"{where}{key} has the shape {_shape(shape)}, which no convolution has")
        return shape[dimension]

    if "g_a.0.conv1.weight" in tensors and "context_prediction.weight" in tensors:
        n = size("g_a.0.conv1.weight", 0)
        return (ATTENTION if "g_a.3.conv_a.0.conv.0.weight" in tensors else ANCHOR), n, n
    if "g_a.0.weight" in tensors and "g_a.6.weight" in tensors and "g_a.1.beta" in tensors:
        n, m = size("g_a.0.weight", 0), size("g_a.6.weight", 0)
        if "context_prediction.weight" in tensors:
            return JOINT, n, m
        if "h_s.4.weight" in tensors:
            return (MEAN if size("h_s.4.weight", 0) == 2 * m else SCALE), n, m
        if "h_a.0.weight" not in tensors:
            return FACTORIZED, n, m
    some = ", ".join(sorted(tensors)[:3]) or "none"
    raise BadRequest(f"{where}not a CompressAI model of a known architecture (its tensors: {some}, ...)")


def _read(path: Path, where: str) -> Any:
    """The object in a PyTorch or safetensors file."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise BadRequest(f"{where}{(error.strerror or str(error)).lower()}") from None
    if head[8:9] == b"{":
        from ..training.checkpoint import read

        return read(path)[0]
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise BadRequest(f"{where}cut short or damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling, archives and tensors fail in a dozen ways
        if "unsupported global" in str(error).lower():
            raise BadRequest(f"{where}refused: it holds code, not only tensors; save the state dict alone") from None
        raise BadRequest(f"{where}no PyTorch file, or a damaged one") from None


def _state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """Unwrapped, with the newest names, and without what follows from the rest."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise BadRequest(f"{where}holds no state dict (names with tensors)")
    tensors = {_newest_name(key): value for key, value in content.items()}
    bound = tensors.get("gaussian_conditional.lower_bound_scale.bound")
    if bound is not None and (bound.numel() != 1 or abs(float(bound) - SCALE_BOUND) > 1e-6):
        raise BadRequest(f"{where}its scales are not bounded by {SCALE_BOUND}, as those of the published models are")
    return {key: value for key, value in tensors.items() if not _DERIVED.fullmatch(key)}


def _newest_name(key: str) -> str:
    """Names changed over the library's versions, and data-parallel training puts a prefix in front."""
    key = key.removeprefix("module.").replace(".downsample.", ".skip.")
    if match := _DENSITY.fullmatch(key):
        kind = "matrices" if match[2] else "biases" if match[3] else "factors"
        return f"{match[1]}{kind}.{match[5]}"
    return key


def _matched(codec: CompressAI, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A value for every parameter of the codec; refused if any is missing, left over, or of another shape."""
    wanted = {name: p.shape for name, p in codec.named_parameters()}
    del wanted["bottleneck.log_scale"]  # of kodim's densities: always 0 here
    title = f"{where}recognised as {codec.architecture}, but"
    found = {}
    for key, value in tensors.items():
        name = _our_name(key, wanted)
        if name not in wanted:
            raise BadRequest(f"{title} {key} is no part of it")
        found[name] = _our_form(name, value)
        if found[name].shape != wanted[name]:
            raise BadRequest(f"{title} {key} has the shape {_shape(value.shape)}")
        if not value.isfinite().all():
            raise BadRequest(f"{title} {key} holds numbers that are not finite")
    if missing := [name for name in wanted if name not in found]:
        raise BadRequest(f"{title} {_their_name(missing[0])} is missing")
    return found


def _our_name(key: str, wanted: Mapping[str, torch.Size]) -> str:
    for theirs, ours in _PREFIXES.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
            break
    if key == "bottleneck.quantiles":
        return "bottleneck.medians"
    stem, _, last = key.rpartition(".")
    wrapped = f"{stem}.layer.{last}"  # kodim runs the layers next to pixels and latents in full precision
    return wrapped if wrapped in wanted else key


def _their_name(name: str) -> str:
    name = name.replace("bottleneck.medians", "bottleneck.quantiles").replace(".layer.", ".")
    for theirs, ours in sorted(_PREFIXES.items(), key=lambda pair: -len(pair[1])):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _our_form(name: str, value: Tensor) -> Tensor:
    """Medians are the middle quantiles; of a masked convolution only the causal taps count."""
    if name == "bottleneck.medians" and value.ndim == 3 and value.shape[1:] == (1, 3):
        return value[:, 0, 1]
    if name == "context.weight" and value.ndim == 4 and value.shape[2:] == (5, 5):
        return value.flatten(2)[:, :, None, :TAPS]
    return value


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "()"
