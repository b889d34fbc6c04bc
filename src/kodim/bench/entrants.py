"""The codecs that take part in a comparison, and what one must know to repeat their figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodim.classical.base import package_version
from kodim.errors import BadRequest

if TYPE_CHECKING:
    from kodim.registry import ImageCodec

USUAL = "compact"  # preset
_CHROMA = {"webp": "4:2:0", "vvc": "4:2:0", "jxl": "4:4:4 (XYB)"}


@dataclass(frozen=True)
class Entrant:
    """A codec that takes part.

    Attributes:
        label: its name in tables: the slug, with the preset unless it is compact, or for a weights file the stem of its
            name.
        name: what the registry takes.
        title: as in the registry.
        codec: the codec itself.
        arguments: quality -> what the encoder is told, for every quality at which it is measured.
        versions: name -> version of the software that does the work.
        chroma: how it stores colour, "4:4:4" or "4:2:0"; learned codecs take RGB as it is.
        weights: fingerprint of a learned codec's weights.
    """

    label: str
    name: str
    title: str
    codec: ImageCodec
    arguments: dict[float, dict[str, Any]]
    versions: dict[str, str]
    chroma: str
    weights: str | None

    @property
    def qualities(self) -> tuple[float, ...]:
        return tuple(self.arguments)


def entrants(names: Sequence[str], qualities: Sequence[float] | None = None) -> list[Entrant]:
    """The codecs of these names, each once, ready to work.

    Raises
    ------
    BadRequest, UnknownCodec, MissingWeights:
        no codec, an unknown one, one whose package or weights are missing, a bad quality.
    """
    for quality in qualities or ():
        if not 0 <= quality <= 100:
            raise BadRequest(f"a quality goes from 0 to 100, not {quality:g}")
    found: dict[str, Entrant] = {}
    for name in names:
        one = _entrant(name, qualities)
        if one.label in found and found[one.label].name != name and _is_file(name):
            one = _entrant(name, qualities, label=name)  # two files of one name
        found.setdefault(one.label, one)
    if not found:
        raise BadRequest("nothing to compare: give at least one codec")
    return list(found.values())


def _entrant(name: str, qualities: Sequence[float] | None, label: str | None = None) -> Entrant:
    from kodim import registry

    codec = registry.get(name)
    require = getattr(codec, "require", None)  # classical codecs: is the package there?
    if require is not None:
        require()
    grid = tuple(dict.fromkeys(codec.qualities if qualities is None else map(float, qualities)))
    if not grid:
        raise BadRequest("nothing to compare: give at least one quality")
    arguments = {quality: codec.arguments(quality) for quality in grid}  # refuses what it cannot do, loads weights
    return Entrant(
        label=label or _label(name, codec),
        name=name,
        title=registry.find(codec.slug).title,
        codec=codec,
        arguments=arguments,
        versions=_versions(codec),
        chroma=_chroma(codec),
        weights=arguments[grid[0]].get("weights"),
    )


def _label(name: str, codec: ImageCodec) -> str:
    if _is_file(name):
        return Path(name).stem
    preset = getattr(codec, "preset", USUAL)
    return codec.slug if preset == USUAL else f"{codec.slug}:{preset}"


def _is_file(name: str) -> bool:
    return "/" in name or name.endswith((".safetensors", ".ckpt"))


def _versions(codec: ImageCodec) -> dict[str, str]:
    own = {"kodim": package_version("kodim")}
    if codec.kind == "learned":
        return own | {package: package_version(package) for package in ("torch", "constriction")}
    versions: dict[str, str] = getattr(codec, "versions", dict)()
    return own | versions


def _chroma(codec: ImageCodec) -> str:
    if codec.kind == "learned":
        return "RGB"
    return str(getattr(codec, "subsampling", _CHROMA.get(codec.slug, "4:4:4")))
