"""Every codec by name, learned or classical; nothing here imports torch until a network is wanted.

A learned system is one file in `kodim/systems`. Its card is the literal dictionary `info` of its class,
which is read from the source without running it, so listing sixty systems costs milliseconds.
"""

import ast
import difflib
import importlib
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .errors import BadRequest, UnknownCodec

if TYPE_CHECKING:
    from .codec import Codec
    from .picture import Picture

DEFAULT_CODEC = "kodim"
FITTED_CODEC, FITTED_EFFORT = "overfit", 10  # what is fitted to one picture, and how hard at most
TAXONOMY = ("network", "unit", "spatial", "rate", "range")


class ImageCodec(Protocol):
    """What a learned and a classical codec have in common: a picture in, the bytes of a complete file out."""

    @property
    def slug(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def extension(self) -> str: ...
    @property
    def qualities(self) -> tuple[float, ...]: ...
    @property
    def continuous(self) -> bool: ...
    def arguments(self, quality: float) -> dict[str, Any]: ...
    def encode(self, picture: "Picture", quality: float, *, effort: int | None = None) -> bytes: ...
    def decode(self, data: bytes) -> "Picture": ...


@dataclass(frozen=True)
class Entry:
    """One line of the registry.

    Attributes:
        presets: names of the sizes a learned system comes in; `sizes` holds each one's arguments.
        weights: those presets whose trained weights ship.
        improves: slug of the system that this one says it is better than, if any.
        place: one sentence that explains the place a system takes on the leaderboard.
        doc: docstring of the system's file (of the class, for one from outside and for a classical codec).
    """

    slug: str
    kind: str
    title: str
    authors: str = ""
    year: int | None = None
    arxiv: str | None = None
    aliases: list[str] = field(default_factory=list)
    presets: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    taxonomy: dict[str, str] = field(default_factory=dict)
    extension: str = ".kdm"
    module: str = ""
    cls: str = ""
    improves: str | None = None
    place: str = ""
    doc: str = ""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)


_FIELDS = ("slug", "title", "authors", "year", "arxiv", "aliases", "taxonomy", "improves", "place")
_registered: dict[str, type["Codec"]] = {}


def register(cls: type["Codec"]) -> type["Codec"]:
    """Add a codec class from outside the package (a decorator); its `info` needs at least a slug and a title."""
    entry_of(cls.info, cls.presets)
    _registered[cls.info["slug"]] = cls
    _learned.cache_clear()
    return cls


def weights_folder() -> Path:
    """Where the shipped weights live: `<slug>.<preset>.safetensors`, each with a TOML card."""
    return Path(str(resources.files("kodim"))) / "weights"


def weights_file(slug: str, preset: str) -> Path:
    return weights_folder() / f"{slug}.{preset}.safetensors"


def weights_card(slug: str, preset: str) -> dict[str, Any]:
    """What the TOML card beside the shipped weights says (data, legs of training, parameters); {} without a card."""
    return card_of(weights_file(slug, preset))


def card_of(path: Path) -> dict[str, Any]:
    """What the TOML card beside a weights file says; {} without a card."""
    card = path.with_suffix(".toml")
    return tomllib.loads(card.read_text(encoding="utf-8")) if card.exists() else {}


def training_spent(card: Mapping[str, Any]) -> dict[str, float]:
    """`minutes`, `core_minutes` and `megapixels` of training behind weights, over all legs that their card lists."""
    return {k: sum(leg[k] for leg in card.get("legs", ())) for k in ("minutes", "core_minutes", "megapixels")}


def entry_of(
    info: Mapping[str, Any], presets: Mapping[str, Any], module: str = "", cls: str = "", doc: str = ""
) -> Entry:
    """A registry line from a class's `info` and `presets`, and the docstring of its file."""
    fields = {k: info[k] for k in _FIELDS if k in info}
    shipped = [p for p in presets if weights_file(info["slug"], p).exists()]
    sizes = {name: dict(arguments) for name, arguments in presets.items()}
    return Entry(
        kind="learned", presets=list(presets), weights=shipped, module=module, cls=cls, doc=doc, sizes=sizes, **fields
    )


@cache
def _learned(folder: str = "systems") -> dict[str, Entry]:
    found = {}
    for path in sorted((Path(str(resources.files("kodim"))) / folder).glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        doc = ast.get_docstring(tree) or ""
        for node in tree.body:
            if not isinstance(node, ast.ClassDef):
                continue
            literals = {
                target.id: ast.literal_eval(item.value)
                for item in node.body
                if isinstance(item, ast.Assign)
                for target in item.targets
                if isinstance(target, ast.Name) and target.id in ("info", "presets")
            }
            if "info" in literals:
                module = f"kodim.{folder}.{path.stem}"
                entry = entry_of(literals["info"], literals.get("presets", {}), module, node.name, doc)
                found[entry.slug] = entry
    for slug, cls in _registered.items():
        found[slug] = entry_of(cls.info, cls.presets, doc=inspect.cleandoc(cls.__doc__ or ""))
    return found


def entries(*, trained: bool = False, **taxonomy: str) -> list[Entry]:
    """All codecs, learned ones first; `network="VAE"` and the like keep those whose taxonomy contains the text.

    `trained` keeps the learned ones whose weights ship.

    Raises:
        BadRequest: a keyword is none of network, unit, spatial, rate, range (or kind).
    """
    from .classical import CLASSICAL

    unknown = set(taxonomy) - {*TAXONOMY, "kind"}
    if unknown:
        raise BadRequest(f"no such taxonomy field: {', '.join(sorted(unknown))} (there are {', '.join(TAXONOMY)})")
    found = list(_learned().values())
    for slug, codec in CLASSICAL.items():
        card = {
            "network": "none",
            "unit": "block",
            "spatial": "transform and context coding",
            "rate": "quality knob",
            "range": "low to high",
        }
        found.append(
            Entry(
                slug,
                "classical",
                codec.title,
                authors=codec.authors,
                year=codec.year,
                aliases=list(codec.aliases),
                taxonomy=card,
                extension=codec.extension,
                doc=inspect.cleandoc(type(codec).__doc__ or ""),
            )
        )
    for key, wanted in taxonomy.items():
        found = [e for e in found if wanted.lower() in value_of(e, key).lower()]
    return [e for e in found if e.weights] if trained else found


def value_of(entry: Entry, key: str) -> str:
    """What an entry says in one dimension of the taxonomy, or its `kind`."""
    return entry.kind if key == "kind" else entry.taxonomy.get(key, "")


def find(name: str) -> Entry:
    """The entry of a slug or alias; UnknownCodec with the nearest names otherwise."""
    wanted = name.lower()
    names: dict[str, Entry] = {}
    for entry in [*entries(), *_learned("compat").values()]:  # imported models are found, but not listed
        names |= dict.fromkeys([entry.slug, *entry.aliases], entry)
    if wanted in names:
        return names[wanted]
    close = difflib.get_close_matches(wanted, names, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; `kodim codecs` lists them"
    raise UnknownCodec(f"unknown codec {name!r}{hint}")


def get(name: str) -> ImageCodec:
    """The file-level codec of a slug or alias, classical or learned, or of a weights file or checkpoint.

    `slug:preset` names another size of a learned codec whose weights ship, as in `ma2020:lossless`.
    """
    if name.endswith((".safetensors", ".ckpt")) or "/" in name:
        from .learned import from_weights

        return from_weights(name)
    slug, colon, preset = name.partition(":")
    entry = find(slug)
    if colon and preset not in entry.weights:
        shipped = f" (there are {', '.join(entry.weights)})" if entry.weights else ""
        raise UnknownCodec(f"no weights of a preset {preset!r} of {entry.slug} ship{shipped}")
    if entry.kind == "classical":
        from .classical import CLASSICAL

        return CLASSICAL[entry.slug]
    from .learned import LearnedCodec

    return LearnedCodec(entry, preset or "compact")


def create(name: str, *, preset: str = "compact", pretrained: bool = True, **arguments: int) -> "Codec":
    """Build a learned codec (an `nn.Module` in eval mode), with its shipped weights if `pretrained`.

    `arguments` take the place of the preset's.

    Raises:
        UnknownCodec: no such system, or a classical one.
        BadRequest: no such preset.
        MissingWeights: no trained weights of that preset ship with this version.
    """
    entry = find(name)
    if entry.kind == "classical":
        raise UnknownCodec(f"{entry.slug} is a classical codec: it has no network to create")
    if preset not in entry.presets:
        raise BadRequest(f"{entry.slug} has no preset {preset!r} (there are {', '.join(entry.presets)})")
    import torch

    cls = _registered.get(entry.slug) or getattr(importlib.import_module(entry.module), entry.cls)
    unknown = {k for k in arguments if type(cls.presets[preset].get(k)) is not int}
    if unknown:
        raise BadRequest(f"{entry.slug} {preset} has no size called {', '.join(sorted(unknown))}")
    codec: Codec = cls(**{**cls.presets[preset], **arguments})
    codec.preset, codec.arguments = preset, arguments
    codec.eval()
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
    if pretrained:
        from .weights import load_shipped

        load_shipped(codec)
    return codec
