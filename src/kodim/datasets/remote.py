"""Pictures and archives behind a URL (s3://, gs://, https://, memory://, ...), through fsspec."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from typing import Any

from kodim.datasets import members as local
from kodim.datasets.members import MAX_BYTES, Member
from kodim.errors import BadRequest, UnsupportedImage

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


def is_url(text: str) -> bool:
    """Whether this is the address of something remote rather than a path."""
    return "://" in text


def find(url: str) -> list[str]:
    """The addresses that a URL stands for: itself, what a glob matches, or the pictures or archives below it.

    Raises BadRequest when fsspec or its driver is missing, or the place cannot be reached.
    """
    filesystem, path = _connect(url)
    try:
        if glob.has_magic(path):
            found = filesystem.glob(path)
        elif _ends_as_file(path):
            found = [path] if filesystem.exists(path) else []
        else:
            found = filesystem.find(path)
        found = [file for file in found if not file.rsplit("/", 1)[-1].startswith(".")]
        pictures = [file for file in found if local.is_picture(file)]
        packed = [file for file in found if file.lower().endswith(_ARCHIVES)]
        return [filesystem.unstrip_protocol(file) for file in sorted(pictures or packed)]
    except Exception as error:  # every driver has its own
        raise BadRequest(f"{url}: cannot be reached ({_line(error)})") from error


def members(url: str, name: str) -> Iterator[Member]:
    """The pictures of one address that `find` gave."""
    filesystem, path = _connect(url)
    if local.is_picture(path):
        yield Member(name, lambda: _fetch(filesystem, path), streamed=False)
        return
    try:
        with filesystem.open(path, "rb") as file:
            yield from local.archived(file, name)
    except Exception as error:
        yield local.broken(name, f"cannot be read ({_line(error)})")


def stamp(url: str) -> tuple[str, int, str]:
    """What tells one version of a remote file from another: its address, its size and the driver's checksum."""
    filesystem, path = _connect(url)
    try:
        return url, int(filesystem.size(path) or 0), str(filesystem.ukey(path))
    except Exception as error:
        raise BadRequest(f"{url}: cannot be reached ({_line(error)})") from error


def _fetch(filesystem: Any, path: str) -> bytes:
    try:
        with filesystem.open(path, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except Exception as error:
        raise UnsupportedImage(f"cannot be read ({_line(error)})") from error
    if len(data) > MAX_BYTES:
        raise UnsupportedImage(f"more than the limit of {MAX_BYTES} bytes")
    return data


def _connect(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise BadRequest('an address needs fsspec: pip install "kodim[remote]"') from error
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise BadRequest(f"{url}: {_line(error)}") from error
    return filesystem, str(path)


def _ends_as_file(path: str) -> bool:
    return local.is_picture(path) or path.lower().endswith(_ARCHIVES)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
