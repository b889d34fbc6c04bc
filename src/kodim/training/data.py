"""Training pictures: decoded once into one memory-mapped array, then cropped at random from it."""

import hashlib
import io
import json
import os
import random
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .. import datasets
from ..datasets import Member, Place
from ..errors import BadRequest, UnsupportedImage
from .drawn import draw

_UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, UnsupportedImage, Image.DecompressionBombError)
_AHEAD = 64  # members that are read before they are written
_EXPANSION = 10  # a photograph's pixels take about ten times the bytes of its file


def _read(member: Member) -> np.ndarray | str:
    """The picture in RGB, uint8 (H, W, 3), or why there is none."""
    if member.name.lower().endswith(".jxl"):
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            raise BadRequest(f"{member.name}: reading JPEG XL needs `pip install pillow-jxl-plugin`") from None
    try:
        data = member.read()
        if isinstance(data, np.ndarray):
            return data
        with Image.open(io.BytesIO(data)) as image:
            if image.mode[0] in "IF":
                return f"{member.name}: more than 8 bits per sample"  # which convert() would saturate
            return np.asarray(image.convert("RGB"))
    except _UNREADABLE as error:
        return f"{member.name}: {error}".replace(f"{member.name}: {member.name}: ", f"{member.name}: ")


def _all(places: Iterable[Place]) -> Iterator[np.ndarray | str]:
    """What `_read` makes of every picture, in order, by all cores, never more than a few pictures ahead."""
    waiting: deque[Future[np.ndarray | str]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for place in places:
            for member in place.members():
                waiting.append(pool.submit(_read, member.now()))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Pictures:
    """Every picture of some folders or data sets (see `kodim.datasets.open`) as uint8, in one memory-mapped file.

    The array is a cache: it is made on first use in `cache` and found again by the names, sizes and
    times of the files. A folder without write access is no obstacle, since the cache lives elsewhere. Of more
    pictures than fit into half of the free space there, a random part is taken.
    """

    def __init__(self, folders: Sequence[str | Path], cache: str | Path | None = None, min_side: int = 64) -> None:
        sets = [datasets.open(folder) for folder in folders]
        min_side = min([min_side, *(s.known.side for s in sets if s.known)])
        places = sorted((place for s in sets for place in s.places), key=lambda place: Path(place.where).parts)
        stamp = [place.stamp() for place in places]
        key = hashlib.sha256(json.dumps([stamp, min_side]).encode()).hexdigest()[:16]
        root = Path(cache or os.environ.get("KODIM_CACHE") or Path.home() / ".cache" / "kodim")
        self.file = root / f"pictures-{key}.u8"
        index = self.file.with_suffix(".json")
        if not index.exists():
            root.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(root).free // 2
            if sum(size for _, size, _ in stamp) * _EXPANSION > room:
                random.Random(0).shuffle(places)
            self._decode(places, index, min_side, room)
        self.shapes = [tuple(s) for s in json.loads(index.read_text())]  # (offset, height, width)
        if not self.shapes:
            raise BadRequest(f"no picture of at least {min_side} pixels a side in {', '.join(map(str, folders))}")
        self.data = np.memmap(self.file, dtype=np.uint8, mode="r")
        areas = np.array([h * w for _, h, w in self.shapes], dtype=np.float64)
        self.weight = areas / areas.sum()
        self.pixels = int(areas.sum())

    def _decode(self, places: list[Place], index: Path, min_side: int, room: int) -> None:
        shapes: list[tuple[int, ...]] = []
        refused: list[str] = []
        offset = 0
        part = self.file.with_suffix(f".part{os.getpid()}")
        with part.open("wb") as out:
            for array in _all(places):
                if isinstance(array, str):
                    refused.append(array)
                elif min(array.shape[:2]) >= min_side:
                    if offset + array.size > room:
                        _say(f"{part.parent}: room for {len(shapes)} pictures; the rest is left out")
                        break
                    out.write(array.tobytes())
                    shapes.append((offset, *array.shape[:2]))
                    offset += array.size
        if refused:
            _say(f"{len(refused)} pictures cannot be read; the first is {refused[0]}")
        os.replace(part, self.file)
        part_index = index.with_suffix(f".part{os.getpid()}")
        part_index.write_text(json.dumps(shapes))
        os.replace(part_index, index)

    def whole(self, number: int) -> Tensor:
        """One picture, (1, 3, H, W) in [0, 1]."""
        return torch.from_numpy(np.array(self._at(number))).permute(2, 0, 1)[None].float() / 255

    def _at(self, number: int) -> np.ndarray:
        offset, h, w = self.shapes[number]
        picture: np.ndarray = self.data[offset : offset + h * w * 3].reshape(h, w, 3)
        return picture

    def crops(self, rng: np.random.Generator, batch: int, size: int, drawn: float = 0.0) -> Tensor:
        """A random batch (batch, 3, size, size) in [0, 1]: places uniform over all pixels, flipped and transposed.

        Pictures smaller than `size` are extended by reflection. A share of about `drawn` is drawn by program instead
        (:mod:`.drawn`).
        """
        out = np.empty((batch, size, size, 3), dtype=np.uint8)
        for i, k in enumerate(rng.choice(len(self.shapes), batch, p=self.weight)):
            picture = self._at(int(k))
            top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in picture.shape[:2])
            crop = picture[top : top + size, left : left + size]
            if crop.shape[:2] != (size, size):
                crop = np.pad(crop, ((0, size - crop.shape[0]), (0, size - crop.shape[1]), (0, 0)), mode="symmetric")
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
            out[i] = crop.transpose(1, 0, 2) if rng.random() < 0.5 else crop
            if drawn and rng.random() < drawn:
                out[i] = draw(rng, out[i])
        return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255


def _say(text: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)
