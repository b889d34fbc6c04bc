"""What a codec that fits itself to a picture is to reach."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .codec import Stream


@dataclass(frozen=True)
class Goal:
    """What a fit is to reach, and where it starts.

    Attributes:
        bpp: of the file; lambda is changed on the way. At most one of `bpp` and `psnr`.
        psnr: likewise, in dB.
        streams: of an earlier file of the same picture and quality, tile by tile, to go on from.
    """

    bpp: float | None = None
    psnr: float | None = None
    streams: tuple[Stream, ...] = ()

    @property
    def start(self) -> Stream | None:
        return self.streams[0] if self.streams else None

    def tile(self, index: int) -> Goal:
        """The goal of one tile."""
        return replace(self, streams=self.streams[index : index + 1])

    def correction(self, bpp: float, psnr: float) -> float:
        """By what to change log(lambda), given what was measured; rates move about as its square root."""
        if self.bpp is not None:
            return 3.0 * math.log(self.bpp / bpp)
        return 0.0 if self.psnr is None else (self.psnr - psnr) / 2.5
