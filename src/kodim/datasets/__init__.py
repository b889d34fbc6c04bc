"""The picture sets of the literature, and one's own folders, archives and addresses, behind one interface.

>>> import kodim.datasets
>>> for picture in kodim.datasets.open("kodak", root="pictures/kodak"):     # doctest: +SKIP
...     print(picture.name, picture.width, picture.height)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kodim.datasets import catalogue, remote
from kodim.datasets import members as local
from kodim.datasets.catalogue import CATALOGUE, Known, Split
from kodim.datasets.members import Member
from kodim.datasets.reading import Dataset, Item, Place, decode
from kodim.errors import BadRequest

__all__ = ["CATALOGUE", "Dataset", "Item", "Known", "Member", "Place", "Split", "decode", "home", "locate", "open"]


def open(name_or_path: str | os.PathLike[str], split: str | None = None, root: str | None = None) -> Dataset:
    """A set of pictures, to be read one at a time.

    Args:
        name_or_path: a known set ("div2k", or "div2k:val" with its split), a folder (with all below it), a picture,
            a .tar, .tar.gz or .zip, a list (.txt, or a RAISE .csv), an LSUN folder, or an address ("s3://...").
        split: of a known set; its first one when None.
        root: the folder of a known set; `home()` and the working directory are searched when None.

    Raises:
        BadRequest: unknown name, no such split, nothing there (saying what to download and where to put it).
    """
    text = os.fspath(name_or_path)
    if remote.is_url(text):
        return _require(Dataset(text, [Place(url, url) for url in remote.find(text)]))
    known, part = _known(text, split)
    if known is not None:
        found = locate(known, part, root)
        if found is not None:
            return found
        if not Path(text).exists():
            raise BadRequest(_missing(known, known.split(part)[0], root))
    if split is not None:
        raise BadRequest(f"{text}: only known sets have splits; `kodim datasets` lists them")
    return _open_path(Path(text))


def home() -> Path:
    """The folder that holds the known sets, one folder each: $KODIM_DATA, or `datasets` here."""
    return Path(os.environ.get("KODIM_DATA") or "datasets")


def locate(known: Known, split: str | None = None, root: str | os.PathLike[str] | None = None) -> Dataset | None:
    """The split of a known set below `root` (or where sets are looked for), or None when nothing of it is there."""
    chosen, part = known.split(split)
    for base in _bases(known, root):
        for place in part.places:
            pattern, _, inner = place.partition("::")
            if found := _sources(base.glob(pattern), base):
                places = [Place(path, path.relative_to(base).as_posix(), inner or "*") for path in found]
                return Dataset(known.name, places, chosen, known)
    return None


def _known(text: str, split: str | None) -> tuple[Known | None, str | None]:
    """The set that a word names, and the split: from the argument, or from behind a colon."""
    name, _, part = text.partition(":")
    if os.sep in text or (part and split):
        return None, split
    return catalogue.find(name), split or part or None


def _bases(known: Known, root: str | os.PathLike[str] | None) -> list[Path]:
    """Folders that may be the set's own, each with those inside it that carry the set's name."""
    if root is not None:
        return [Path(root), *_named(Path(root), known)]
    own = [*_named(home(), known), *_named(Path(), known)]
    return [folder for outer in own for folder in (outer, *_named(outer, known))]


def _named(folder: Path, known: Known) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and catalogue.plain(p.name) == known.name)
    except OSError:
        return []


def _sources(paths: Iterable[Path], base: Path) -> list[Path]:
    """Of the files that a glob below `base` gives, the pictures; if there are none, archives and batches. Sorted."""
    seen = [path for path in paths if not local.is_hidden(path.relative_to(base)) and path.is_file()]
    pictures = [path for path in seen if local.is_picture(path.name)]
    return sorted(pictures or [path for path in seen if local.is_packed(path)])


def _open_path(path: Path) -> Dataset:
    if path.is_dir():
        found = _sources(path.rglob("*"), path)
        return _require(Dataset(str(path), [Place(p, p.relative_to(path).as_posix()) for p in found]))
    if path.is_file():
        if not (local.is_picture(path.name) or local.is_packed(path) or path.suffix.lower() == ".txt"):
            raise BadRequest(f"{path}: neither a picture nor a .tar, .tar.gz, .zip, .csv or .txt of pictures")
        return Dataset(str(path), [Place(path, path.name)])
    raise BadRequest(f"{path}: no such folder or file, and no known set; `kodim datasets` lists them")


def _require(dataset: Dataset) -> Dataset:
    if not dataset.places:
        raise BadRequest(f"{dataset.name}: no pictures there")
    return dataset


def _missing(known: Known, split: str, root: str | os.PathLike[str] | None) -> str:
    place = os.fspath(root) if root is not None else home() / known.name
    return f"{known.name}: no {split} pictures in {place}; put there {known.download}, from {known.home}"
