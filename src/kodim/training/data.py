"""Training pictures: decoded once into one memory-mapped array, then cropped at random from it."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import BadRequest

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".jxl", ".avif", ".bmp", ".tif", ".tiff", ".ppm"}


def find_pictures(folders: Iterable[str | Path]) -> list[Path]:
    """All pictures below the given folders (or the files themselves), sorted; BadRequest when there are none."""
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise BadRequest(f"{folder}: no such file or directory")
        found += [folder] if folder.is_file() else [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES]
    if not found:
        raise BadRequest(f"no pictures in {', '.join(map(str, folders))}")
    return sorted(found)


def _read(path: Path) -> np.ndarray | None:
    if path.suffix.lower() == ".jxl":
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            raise BadRequest(f"{path}: reading JPEG XL needs `pip install pillow-jxl-plugin`") from None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None


class Pictures:
    """Every picture of some folders as uint8, in one memory-mapped file.

    The array is a cache: it is made on first use in `cache` and found again by the names, sizes and
    times of the pictures. A folder without write access is no obstacle, since the cache lives elsewhere.
    """

    def __init__(self, folders: Sequence[str | Path], cache: str | Path | None = None, min_side: int = 64) -> None:
        paths = find_pictures(folders)
        stamp = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        key = hashlib.sha256(json.dumps([stamp, min_side]).encode()).hexdigest()[:16]
        root = Path(cache or os.environ.get("KODIM_CACHE") or Path.home() / ".cache" / "kodim")
        self.file = root / f"pictures-{key}.u8"
        index = self.file.with_suffix(".json")
        if not index.exists():
            root.mkdir(parents=True, exist_ok=True)
            self._decode(paths, index, min_side)
        self.shapes = [tuple(s) for s in json.loads(index.read_text())]  # (offset, height, width)
        if not self.shapes:
            raise BadRequest(f"no picture of at least {min_side} pixels a side in {', '.join(map(str, folders))}")
        self.data = np.memmap(self.file, dtype=np.uint8, mode="r")
        areas = np.array([h * w for _, h, w in self.shapes], dtype=np.float64)
        self.weight = areas / areas.sum()
        self.pixels = int(areas.sum())

    def _decode(self, paths: list[Path], index: Path, min_side: int) -> None:
        shapes, offset = [], 0
        part = self.file.with_suffix(f".part{os.getpid()}")
        with part.open("wb") as out, ThreadPoolExecutor(os.cpu_count()) as pool:
            for array in pool.map(_read, paths):
                if array is None or min(array.shape[:2]) < min_side:
                    continue
                out.write(array.tobytes())
                shapes.append((offset, *array.shape[:2]))
                offset += array.size
        os.replace(part, self.file)
        part_index = index.with_suffix(f".part{os.getpid()}")
        part_index.write_text(json.dumps(shapes))
        os.replace(part_index, index)

    def crops(self, rng: np.random.Generator, batch: int, size: int) -> Tensor:
        """A random batch (batch, 3, size, size) in [0, 1]: places uniform over all pixels, flipped and transposed.

        Pictures smaller than `size` are extended by reflection.
        """
        out = np.empty((batch, size, size, 3), dtype=np.uint8)
        for i, k in enumerate(rng.choice(len(self.shapes), batch, p=self.weight)):
            offset, h, w = self.shapes[k]
            picture = self.data[offset : offset + h * w * 3].reshape(h, w, 3)
            top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in (h, w))
            crop = picture[top : top + size, left : left + size]
            if crop.shape[:2] != (size, size):
                crop = np.pad(crop, ((0, size - crop.shape[0]), (0, size - crop.shape[1]), (0, 0)), mode="symmetric")
            if rng.random() < 0.5:
                crop = crop[:, ::-1]
            out[i] = crop.transpose(1, 0, 2) if rng.random() < 0.5 else crop
        return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255
