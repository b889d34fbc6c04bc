"""Pictures inside files: folders, lists, tar and zip archives, as named members that are fetched when wanted.

Nothing is ever unpacked to disk, and a member's name is never used as a path, so an archive cannot write anywhere.
What a member claims to need is checked before it is read.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from kodim.errors import UnsupportedImage

MAX_BYTES = 2**28
"""A member with more bytes than this is passed over: 256 MB is far above any photograph."""

PICTURE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".jxl", ".avif", ".heic", ".heif"),
        *(".jp2", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".nef", ".dng"),
    )
)
_RAW = {".nef", ".dng"}
_TAR = (".tar", ".tar.gz", ".tgz")
_BATCH = re.compile(r"(data_batch_\d|test_batch)(\.bin)?|(train_data_batch_\d+|val_data)\.npz|data\.mdb")
_DAMAGE = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError)

Data = bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Member:
    """One picture of a source, not read yet.

    Attributes:
        name: relative to the set's folder; members of archives are 'shard.tar/a/b.png'.
        fetch: gives the bytes of the file, or pixels, uint8 (H, W, 3); raises what reading raises.
        streamed: `fetch` works only until the next member is asked for.
    """

    name: str
    fetch: Callable[[], Data]
    streamed: bool = True

    def read(self) -> Data:
        """The bytes of the file, or pixels; UnsupportedImage, naming the member, when they cannot be had."""
        try:
            return self.fetch()
        except UnsupportedImage as error:
            raise UnsupportedImage(f"{self.name}: {error}") from error
        except _DAMAGE as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnsupportedImage(f"{self.name}: {' '.join(reason.split()).lower()}") from error

    def now(self) -> Member:
        """The same member, its bytes (or its failure to have any) taken before the stream goes on."""
        if not self.streamed:
            return self
        try:
            data = self.read()
        except UnsupportedImage as error:
            return broken(self.name, str(error).removeprefix(f"{self.name}: "))
        return Member(self.name, lambda: data, streamed=False)


def broken(name: str, reason: str) -> Member:
    """A member that can only be reported."""

    def fetch() -> Data:
        raise UnsupportedImage(reason)

    return Member(name, fetch, streamed=False)


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a set's folder is litter: thumbnails, the resource forks of a Mac."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts if part not in (".", ".."))


def is_picture(name: str) -> bool:
    """Whether a name ends as a picture's does."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def is_packed(path: PurePath) -> bool:
    """Whether a file holds many pictures."""
    return path.name.lower().endswith((*_TAR, ".zip", ".csv")) or _BATCH.fullmatch(path.name) is not None


def members(path: Path, name: str, pattern: str = "*") -> Iterator[Member]:
    """The pictures in one file, whatever it is.

    Args:
        path: a picture, an archive, a list or a batch.
        name: how to call it.
        pattern: a glob for the members of an archive; `*` also matches slashes.
    """
    try:
        yield from _members(path, name, pattern)
    except OSError as error:
        yield broken(name, (error.strerror or str(error)).lower())


def _members(path: Path, name: str, pattern: str) -> Iterator[Member]:
    lower = path.name.lower()
    if is_picture(lower):
        yield Member(name, partial(_read_file, path), streamed=False)
    elif lower.endswith((".csv", ".txt")):
        yield from _listed(path, name)
    elif _BATCH.fullmatch(path.name):
        from kodim.datasets import batches

        yield from batches.members(path, name)
    else:
        with path.open("rb") as file:
            yield from archived(file, name, pattern)


def archived(file: IO[bytes], name: str, pattern: str = "*") -> Iterator[Member]:
    """The pictures in an open tar, tar.gz or zip file; one that is damaged ends with a broken member."""
    lower = name.lower()
    try:
        if lower.endswith(".zip"):
            yield from _zip(file, name, pattern)
        elif lower.endswith((".gz", ".tgz")):
            with gzip.GzipFile(fileobj=file) as plain:
                yield from _tar(cast(IO[bytes], plain), name, pattern)
        else:
            yield from _tar(file, name, pattern)
    except _DAMAGE as error:
        yield broken(name, f"damaged or cut short ({' '.join(str(error).split())[:80]})")


def _wanted(name: str, pattern: str) -> bool:
    return is_picture(name) and fnmatch.fnmatchcase(name, pattern) and not is_hidden(PurePosixPath(name))


def _read_file(path: Path) -> bytes:
    if path.suffix.lower() in _RAW:
        raise UnsupportedImage("a raw file; develop it to TIFF or PNG first")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedImage(f"{size} bytes, more than the limit of {MAX_BYTES}")
    return path.read_bytes()


class _Guarded:
    """A file that refuses to read more than a member's limit at once, whatever a header asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self.seek, self.seekable, self._read = file.tell, file.seek, file.seekable, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_BYTES:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        return self._read(size)


def _tar(file: IO[bytes], name: str, pattern: str, depth: int = 0) -> Iterator[Member]:
    """Regular files of a tar, in one pass; of tars inside it (ImageNet's classes) too, but no deeper."""
    with tarfile.open(fileobj=cast(IO[bytes], _Guarded(file)), mode="r:") as tar:
        for info in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # or a long archive fills the memory with headers
            if not info.isreg():
                continue
            inner = f"{name}/{info.name}"
            if info.name.lower().endswith(".tar") and depth == 0:
                if (nested := tar.extractfile(info)) is not None:
                    yield from _tar(nested, inner, pattern, depth + 1)
            elif _wanted(info.name, pattern):
                yield Member(inner, partial(_take, tar, info))


def _take(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    _check_size(info.size)
    file = tar.extractfile(info)
    data = file.read() if file is not None else b""
    if len(data) != info.size:
        raise UnsupportedImage("cut short")
    return data


def _zip(file: IO[bytes], name: str, pattern: str) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.is_dir() and _wanted(info.filename, pattern):
                yield Member(f"{name}/{info.filename}", partial(_unzip, archive, info))


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_size(info.file_size)
    return archive.read(info)  # stops at the size that was just checked


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise UnsupportedImage(f"claims {size} bytes, more than the limit of {MAX_BYTES}")


def _listed(path: Path, name: str) -> Iterator[Member]:
    """Pictures that a list names: a path per line, or a CSV with a column `File` of names without ending (RAISE)."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(io.StringIO(text))
        if "File" not in (rows.fieldnames or ()):
            yield broken(name, "a CSV without a column 'File' is no list of pictures")
            return
        found = {p.stem: p for p in sorted(path.parent.rglob("*"), reverse=True) if _is_developed(p)}
        for row in rows:
            entry = (row["File"] or "").strip()
            if entry in found:
                yield Member(entry, partial(_read_file, found[entry]), streamed=False)
            elif entry:
                yield broken(entry, f"named in {name}, but its TIFF is not here")
        return
    for line in filter(None, map(str.strip, text.splitlines())):
        if os.path.isabs(line) or ".." in Path(line).parts:
            yield broken(line, f"{name} may only name files below its own folder")
        else:
            yield Member(line, partial(_read_file, path.parent / line), streamed=False)


def _is_developed(path: Path) -> bool:
    return is_picture(path.name) and path.suffix.lower() not in _RAW
