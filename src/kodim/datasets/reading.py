"""A set of pictures, read one at a time: whole for measuring, in crops for training."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from kodim.datasets import members as local
from kodim.datasets import remote
from kodim.datasets.catalogue import Known
from kodim.datasets.members import Data, Member
from kodim.errors import BadRequest, UnsupportedImage
from kodim.picture import MAX_PIXELS, Picture, Pixels, load


@dataclass(frozen=True, eq=False)
class Item(Picture):
    """A picture of a set: bare 8-bit pixels, upright, without profile, metadata and transparency, and its name."""

    name: str = ""


@dataclass(frozen=True)
class Place:
    """A file of a set, or a remote one: a picture, an archive, a list or a batch.

    Attributes:
        where: path or URL.
        name: relative to the set's folder, with slashes.
        pattern: glob for the members of an archive.
    """

    where: Path | str
    name: str
    pattern: str = "*"

    def members(self) -> Iterator[Member]:
        """The pictures in it."""
        if isinstance(self.where, Path):
            return local.members(self.where, self.name, self.pattern)
        return remote.members(self.where, self.name)

    def stamp(self) -> tuple[str, int, int | str]:
        """What changes when the file does: its address, its size, its time or checksum."""
        if not isinstance(self.where, Path):
            return remote.stamp(self.where)
        status = self.where.stat()
        inner = "" if self.pattern == "*" else f"::{self.pattern}"
        return f"{self.where.resolve()}{inner}", status.st_size, status.st_mtime_ns


@dataclass
class Dataset:
    """Pictures in a fixed order (by path), none read before it is asked for.

    Attributes:
        name: of the set, or the path or address it was opened with.
        places: the files it is made of.
        split: of a known set.
        known: the catalogue's entry of a known set.
        skipped: what the last pass over the pictures could not read: (name, reason).
    """

    name: str
    places: Sequence[Place]
    split: str | None = None
    known: Known | None = None
    max_pixels: int = MAX_PIXELS
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def members(self) -> Iterator[Member]:
        """The pictures as they lie there, undecoded."""
        for place in self.places:
            yield from place.members()

    def names(self) -> list[str]:
        """The names of all pictures, without decoding any; archives are leafed through."""
        return [member.name for member in self.members()]

    def __iter__(self) -> Iterator[Item]:
        return self.pictures()

    def pictures(self) -> Iterator[Item]:
        """Every picture that can be read, at its own size; the others are in `skipped` afterwards."""
        self.skipped = []
        for member in self.members():
            try:
                yield decode(member.read(), member.name, self.max_pixels)
            except UnsupportedImage as error:
                self.skipped.append((member.name, str(error).removeprefix(f"{member.name}: ")))

    def crops(
        self,
        size: int,
        rng: np.random.Generator,
        per_picture: int = 1,
        small: Literal["reflect", "skip"] = "reflect",
    ) -> Iterator[Pixels]:
        """Random crops, uint8 (size, size, 3), half of them mirrored: one pass over the set, in its order.

        Pictures smaller than `size` are extended by reflection, or left out; never enlarged.
        """
        if size < 1 or per_picture < 1:
            raise BadRequest(f"crops need a size and a number of at least 1, not {size} and {per_picture}")
        for item in self.pictures():
            if small == "skip" and min(item.pixels.shape[:2]) < size:
                continue
            for _ in range(per_picture):
                yield _crop(item.pixels, size, rng)


def decode(data: Data, name: str, max_pixels: int = MAX_PIXELS) -> Item:
    """The bytes of a picture file, or pixels, as an item; UnsupportedImage, naming it, when that is impossible.

    By `kodim.picture.load`, but sets hold what it refuses: CMYK is converted, 16-bit grey becomes round(v / 257).
    Transparency is dropped. 16 bits of colour are refused here too: Pillow would cut them to 8.
    """
    try:
        picture = load(data, max_pixels=max_pixels)
    except UnsupportedImage as error:
        pixels = _converted(data, max_pixels) if isinstance(data, bytes) else None
        if pixels is None:
            raise UnsupportedImage(f"{name}: {str(error).removeprefix('picture: ')}") from error
        picture = load(pixels)
    return Item(picture.pixels, picture.mode.removesuffix("A"), name=name)


def _converted(data: bytes, max_pixels: int) -> Pixels | None:
    """CMYK and 16-bit grey in 8 bits, upright; None for anything else."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:  # `load` has said what is wrong
        if image.width * image.height > max_pixels or getattr(image, "is_animated", False):
            return None
        if image.mode == "CMYK":
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        if image.mode.startswith("I;16"):
            values = np.asarray(ImageOps.exif_transpose(image), dtype=np.float64)
            return np.rint(values / 257).astype(np.uint8)
    return None


def _crop(pixels: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = (int(rng.integers(max(side - size, 0) + 1)) for side in (height, width))
    crop = pixels[top : top + size, left : left + size]
    if crop.shape[:2] != (size, size):
        crop = np.pad(crop, ((0, size - crop.shape[0]), (0, size - crop.shape[1]), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)
