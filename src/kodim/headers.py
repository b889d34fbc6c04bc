"""What a picture's own header says and Pillow does not.

Pillow and its plugins cut samples deeper than 8 bits to 8 without a word, and the JPEG XL plugin decodes the
whole picture before it tells the size. These readers look at the first bytes only and allocate nothing large.
"""

import re
from typing import BinaryIO, NamedTuple

from PIL import Image

_HEAD = 1 << 16
_JXL_HEAD = 128
_DEEP_RAWMODE = re.compile(r"(?!BGR)\w+;16[A-Z]*")  # "RGB;16B" is 16 bits a sample; "BGR;16" is 5-6-5


class JxlHeader(NamedTuple):
    """The first fields of a JPEG XL codestream (ISO/IEC 18181-1, section 9)."""

    width: int
    height: int
    bits: int
    animated: bool


def sample_bits(image: Image.Image, head: bytes) -> int:
    """Bits per sample of an opened but not yet loaded picture, 8 when nothing says otherwise.

    `head` holds the first bytes of its file; it may be empty.
    """
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and _DEEP_RAWMODE.fullmatch(arg) for arg in args):
            return 16
        if tile[0] in ("ppm", "ppm_plain") and isinstance(args[-1], int) and args[-1] > 255:
            return args[-1].bit_length()
    if image.format == "JPEG2000":
        siz = head.partition(b"\xff\x4f\xff\x51")[2][36:]  # count of components, then three bytes for each
        depths = siz[2 : 2 + 3 * int.from_bytes(siz[:2], "big") : 3]
        return 1 + max((depth & 0x7F for depth in depths), default=7)
    if image.format == "AVIF":
        config = head.partition(b"av1C")[2]
        return 10 if len(config) > 2 and config[2] & 0x40 else 8  # high_bitdepth: 10, or 12
    return int(image.info.get("bit_depth") or 8)  # pillow-heif


def head_of(file: BinaryIO) -> bytes:
    """The first 64 KiB of an open file, which is left at its start."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    return head


def read_jxl(file: BinaryIO) -> JxlHeader | None:
    """Size and depth of a JPEG XL file, bare or in its container; None when it is none.

    Raises:
        ValueError: a container without a codestream.
    """
    file.seek(0)
    code = file.read(12)
    code = _first_codestream(file) if code[4:7] == b"JXL" else code + file.read(_JXL_HEAD)
    file.seek(0)
    return _parse_jxl(code[2:]) if code[:2] == b"\xff\x0a" else None


def _first_codestream(file: BinaryIO) -> bytes:
    """The first bytes of the codestream in a row of boxes (ISO BMFF); `file` stands behind the signature."""
    code = b""
    while len(code) < _JXL_HEAD:
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        left = size - 8
        if size == 1:
            left = int.from_bytes(file.read(8), "big") - 16
        if kind in (b"jxlc", b"jxlp"):
            if kind == b"jxlp":  # a part, which starts with its number
                left -= len(file.read(4))
            piece = file.read(_JXL_HEAD if size == 0 else max(0, min(left, _JXL_HEAD)))
            code, left = code + piece, left - len(piece)
        if len(kind) < 4 or not 0 <= left < 1 << 40:
            break
        file.seek(left, 1)
    if not code:
        raise ValueError("JPEG XL without a codestream")
    return code


class _Bits:
    """Fields of a bit stream, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def choice(self, *options: tuple[int, int]) -> int:
        """Two bits choose among (offset, width); the value is the offset plus a field of that width."""
        offset, width = options[self.take(2)]
        return offset + self.take(width)

    def size(self) -> tuple[int, int]:
        """The SizeHeader: (width, height)."""
        small = self.take(1)

        def side() -> int:
            return 8 * (self.take(5) + 1) if small else self.choice((1, 9), (1, 13), (1, 18), (1, 30))

        height = side()
        ratio = self.take(3)
        if not ratio:
            return side(), height
        over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * over // under, height


def _parse_jxl(code: bytes) -> JxlHeader:
    bits = _Bits(code)
    width, height = bits.size()
    if bits.take(1):  # all metadata as by default
        return JxlHeader(width, height, 8, False)
    if bits.take(1):  # extra fields: orientation, intrinsic size, preview, animation
        bits.take(3)
        if bits.take(1):
            bits.size()
        if bits.take(1):
            return JxlHeader(width, height, 8, False)  # a preview: rare, and its header hides the rest
        if bits.take(1):
            return JxlHeader(width, height, 8, True)
    if bits.take(1):
        return JxlHeader(width, height, bits.choice((32, 0), (16, 0), (24, 0), (1, 6)), False)
    return JxlHeader(width, height, bits.choice((8, 0), (10, 0), (12, 0), (1, 6)), False)
