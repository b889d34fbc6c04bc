"""Pictures packed by the thousand: CIFAR-10 (binary and Python), downsampled ImageNet (npz), LSUN (LMDB)."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kodim.datasets.members import MAX_BYTES, Member, broken
from kodim.errors import BadRequest, UnsupportedImage

_CIFAR_VALUES = 3 * 32 * 32
_MAX_ROWS_BYTES = 2**32  # a batch of 64 x 64 thumbnails has 1.6 GB

Rows = npt.NDArray[np.uint8]


def members(path: Path, name: str) -> Iterator[Member]:
    """The pictures of one batch; a damaged batch is one broken member."""
    if path.name == "data.mdb":
        yield from _lmdb(path.parent, str(Path(name).parent))
        return
    try:
        if path.suffix == ".bin":
            rows = _binary(path)
        elif path.suffix == ".npz":
            rows = _npz(path)
        else:
            rows = _pickled(path)
    except UnsupportedImage as error:
        yield broken(name, str(error))
        return
    side = {_CIFAR_VALUES: 32, 3 * 64 * 64: 64}[rows.shape[1]]
    for number, row in enumerate(rows):
        pixels = row.reshape(3, side, side).transpose(1, 2, 0)  # rows hold the red plane, the green, the blue
        yield Member(f"{name}/{number:05d}", partial(np.ascontiguousarray, pixels), streamed=False)


def _binary(path: Path) -> Rows:
    """CIFAR-10's binary version: a label byte, then 3072 values, again and again."""
    data = _bytes(path)
    if not data or len(data) % (_CIFAR_VALUES + 1):
        raise UnsupportedImage("not a batch of CIFAR-10: its size is no multiple of 3073 bytes")
    return np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_VALUES + 1)[:, 1:]


def _npz(path: Path) -> Rows:
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = archive.getinfo("data.npy").file_size
            if claimed > _MAX_ROWS_BYTES:
                raise UnsupportedImage(f"claims {claimed} bytes, more than the limit of {_MAX_ROWS_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["data"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise UnsupportedImage(f"not a batch of thumbnails ({type(error).__name__})") from error
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] not in (_CIFAR_VALUES, 3 * 64 * 64):
        raise UnsupportedImage(f"not a batch of thumbnails: {rows.dtype} {rows.shape}")
    return np.asarray(rows)


class _Bare:
    """Stands for numpy's classes while unpickling: keeps what it is given, runs nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Reader(pickle._Unpickler):  # the C one can be made to allocate gigabytes
    """Reads the pickles of CIFAR-10 and no others: a pickle may name any function and have it called."""

    allowed = frozenset(
        (module, name)
        for package in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
        for module, name in ((package, "_reconstruct"), (package, "ndarray"), (package, "dtype"))
    )

    def find_class(self, module: str, name: str) -> type[_Bare]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Bare


def _pickled(path: Path) -> Rows:
    """CIFAR-10's Python version: a pickled dictionary whose b'data' is an array (N, 3072)."""
    data = _bytes(path)
    try:
        batch = _Reader(io.BytesIO(data), encoding="bytes").load()
        _, shape, _, by_columns, raw = batch[b"data"].state
        if by_columns or not isinstance(raw, bytes) or shape[1] != _CIFAR_VALUES:
            raise ValueError
        return np.frombuffer(raw, np.uint8).reshape(shape)
    except pickle.UnpicklingError as error:
        raise UnsupportedImage(f"refused: not a plain batch of CIFAR-10 ({error})") from error
    except Exception as error:  # a pickle is a program: anything can come out of it
        raise UnsupportedImage("not a batch of CIFAR-10") from error


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedImage(f"{size} bytes, more than the limit of {MAX_BYTES}")
    return path.read_bytes()


def _lmdb(folder: Path, name: str) -> Iterator[Member]:
    """LSUN: a database of one category, its values the bytes of picture files."""
    try:
        import lmdb
    except ImportError as error:
        raise BadRequest('LSUN needs lmdb: pip install "kodim[lsun]"') from error
    try:
        with (
            lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False) as database,
            database.begin(buffers=True) as view,
        ):
            for key, value in view.cursor():
                label = bytes(key).decode("ascii", "backslashreplace")
                yield Member(f"{name}/{label}", partial(_value, value))
    except lmdb.Error as error:
        yield broken(name, f"not an LMDB database that can be read ({error})")


def _value(value: memoryview) -> bytes:
    if len(value) > MAX_BYTES:
        raise UnsupportedImage(f"{len(value)} bytes, more than the limit of {MAX_BYTES}")
    return bytes(value)
