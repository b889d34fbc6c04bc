"""The .kdm file: PNG's habit, readable in a hex dump.

    89 4B 44 4D 0D 0A 1A 0A                  signature; a transfer in text mode cannot leave it whole
    type (4)  length (4)  payload  CRC-32    the first chunk, HEAD; integers are big-endian
    ...                                      as many more as HEAD says, and nothing behind them

    HEAD   version (1)  codec (length 1 + ascii)  preset (length 1 + ascii, empty for "compact")
           weights (8)  width, height (LEB128)  depth and colour type (4 bits each)
           quality in hundredths (2)  colour axes (8, with colour types 4 to 7: 0 to 3 along own axes)
           number of chunks that follow (LEB128)
    icCP   ICC profile, zlib
    DATA   CRC-32 of the decoded symbols (4), then range-coder bytes: one per layer or tile, in order
    ALPH   alpha plane as a grey PNG; with colour types LA and RGBA
    exIF   EXIF block, zlib
    xmPP   XMP packet, zlib

As in PNG an upper-case first letter marks a chunk that a reader must understand; others it may skip. The CRC
covers type and payload, so any damaged byte is found, and the count in HEAD makes any cut known.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kodim.errors import BadRequest, CorruptFile, UnsupportedImage
from kodim.picture import MAX_PIXELS

SIGNATURE = b"\x89KDM\r\n\x1a\n"
VERSION = 1
MAX_METADATA = 64 << 20
"""Limit on each of ICC profile, EXIF block and XMP packet, in bytes before compression."""

_COLORS = ("L", "LA", "RGB", "RGBA")
_OWN_AXES, _AXES = 4, 8  # flag beside the colour type, and bytes
_METADATA = {b"icCP": "icc", b"exIF": "exif", b"xmPP": "xmp"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DEFAULT_PRESET = "compact"


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first payload.

    Attributes:
        codec: slug of the system.
        weights: fingerprint of its weights, the first 8 bytes of their SHA-256.
        width: columns.
        height: rows.
        color: "L", "LA", "RGB" or "RGBA".
        quality: 0 to 100, kept in hundredths.
        preset: size of the system.
        bit_depth: bits per sample, 8.
        version: of the file format.
        axes: the picture's own colour axes, packed (`kodim.transforms.colours`), or b"" where it is coded as RGB.
    """

    codec: str
    weights: bytes
    width: int
    height: int
    color: str
    quality: float
    preset: str = _DEFAULT_PRESET
    bit_depth: int = 8
    version: int = VERSION
    axes: bytes = b""


@dataclass(frozen=True)
class Payload:
    """The range-coder bytes of one layer or tile, and the CRC-32 of the symbols they decode to."""

    data: bytes
    symbols_crc: int


@dataclass(frozen=True)
class KdmFile:
    """What a .kdm file holds.

    Attributes:
        header: see `Header`.
        payloads: those that arrived whole, in order.
        alpha: the alpha plane as a grey PNG, see `kodim.picture.unpack_alpha`.
        icc, exif, xmp: metadata as in the source.
        missing: chunks that a cut took away; only `parse(partial=True)` gives other than 0.
        tail: the first part, unverified, of the payload that the cut went through.
    """

    header: Header
    payloads: tuple[Payload, ...]
    alpha: bytes | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    missing: int = 0
    tail: Payload | None = None


def is_kdm(data: bytes) -> bool:
    """Whether the bytes start as a .kdm file does."""
    return data[: len(SIGNATURE)] == SIGNATURE


def pack(file: KdmFile) -> bytes:
    """The bytes of a .kdm file; `missing` and `tail` are not written.

    Raises:
        BadRequest: a header field out of range, or metadata above `MAX_METADATA`.
    """
    # What colours need comes first and what pixels do not need last: a file cut short shows the most.
    chunks = [(b"icCP", _deflate(file.icc))] if file.icc is not None else []
    chunks += [(b"DATA", struct.pack(">I", p.symbols_crc) + p.data) for p in file.payloads]
    if file.alpha is not None:
        chunks.append((b"ALPH", file.alpha))
    chunks += [(b"exIF", _deflate(file.exif))] if file.exif is not None else []
    chunks += [(b"xmPP", _deflate(file.xmp))] if file.xmp is not None else []
    chunks.insert(0, (b"HEAD", _pack_header(file.header, len(chunks))))
    _check_complete(file, BadRequest)
    return SIGNATURE + b"".join(_pack_chunk(kind, body) for kind, body in chunks)


def parse(data: bytes, *, partial: bool = False, max_pixels: int = MAX_PIXELS) -> KdmFile:
    """Read a .kdm file; nothing is allocated on the word of an unchecked length.

    Args:
        data: the whole file, or with `partial` its beginning.
        partial: accept a file cut short behind its header and return what arrived. Damage is still refused.
        max_pixels: refuse files that claim more pixels than this.

    Raises:
        CorruptFile: not a .kdm file, damaged, cut short, or written by a later version.
        UnsupportedImage: more pixels than `max_pixels`.
    """
    header, count, at = _read_head(data)
    if header.width * header.height > max_pixels:
        size = f"{header.width} x {header.height} pixels"
        raise UnsupportedImage(f"{size} are more than the limit of {max_pixels} pixels")
    payloads: list[Payload] = []
    found: dict[str, bytes] = {}
    tail, arrived = None, 0
    try:
        for kind, body in _chunks(data, at, count):
            arrived += 1
            if kind == b"DATA":
                payloads.append(_payload(body))
            elif kind == b"ALPH" or kind in _METADATA:
                name = _METADATA.get(kind, "alpha")
                if name in found:
                    raise CorruptFile(f"damaged: two {kind.decode()} chunks")
                found[name] = body if kind == b"ALPH" else _inflate(body, kind)
            elif kind[:1].isupper():
                raise CorruptFile(f"unknown chunk {kind.decode()}: written by a later version of kodim")
    except _Cut as cut:
        if not partial:
            raise CorruptFile(f"cut short: {arrived} of {count} chunks arrived") from None
        tail = _payload(cut.body) if cut.kind == b"DATA" and len(cut.body) > 4 else None
    file = KdmFile(header, tuple(payloads), missing=count - arrived, tail=tail, **found)
    if not file.missing:
        _check_complete(file, CorruptFile)
    return file


def describe(data: bytes) -> dict[str, Any]:
    """What is inside a complete file, as JSON-friendly values; no pixels are decoded and any size is welcome.

    `bpp` counts the whole file, `header_bytes` all but the range-coder bytes, and each entry of `chunks` its
    12 bytes of framing; the signature's 8 bytes are the rest.

    Raises:
        CorruptFile: as `parse`.
    """
    header = parse(data, max_pixels=1 << 64).header
    _, count, at = _read_head(data)
    sizes = [("HEAD", at - len(SIGNATURE))]
    sizes += [(kind.decode(), 12 + len(body)) for kind, body in _chunks(data, at, count)]
    return {
        "codec": header.codec,
        "preset": header.preset,
        "weights": header.weights.hex(),
        "width": header.width,
        "height": header.height,
        "mode": header.color,
        "axes": "own" if header.axes else "RGB",
        "bit_depth": header.bit_depth,
        "quality": header.quality,
        "version": header.version,
        "file_bytes": len(data),
        "bpp": 8 * len(data) / (header.width * header.height),
        "header_bytes": header_bytes(data),
        "chunks": [{"type": kind, "bytes": size} for kind, size in sizes],
    }


def header_bytes(data: bytes) -> int:
    """How many bytes of a file are overhead: all but the range-coder bytes.

    Raises:
        CorruptFile: as `parse`.
    """
    _, count, at = _read_head(data)
    return len(data) - sum(len(body) - 4 for kind, body in _chunks(data, at, count) if kind == b"DATA")


class _Cut(CorruptFile):
    """The file ends inside a chunk; `body` is what arrived of its payload."""

    def __init__(self, kind: bytes = b"", body: bytes = b"") -> None:
        super().__init__("cut short")
        self.kind, self.body = kind, body


def _read_chunk(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """The chunk that starts at `at`: its type, its payload, and where the next one starts."""
    kind = data[at : at + 4]
    if len(data) < at + 8:
        raise _Cut
    if not kind.isalpha():
        raise CorruptFile(f"damaged at byte {at}: no chunk starts there")
    end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    if len(data) < end + 4:
        raise _Cut(kind, data[at + 8 : end])
    body = data[at + 8 : end]
    if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big"):
        raise CorruptFile(f"damaged: checksum of the {kind.decode()} chunk at byte {at} is wrong")
    return kind, body, end + 4


def _chunks(data: bytes, at: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """The `count` chunks behind the header, and then the end of the file."""
    for _ in range(count):
        kind, body, at = _read_chunk(data, at)
        yield kind, body
    if at != len(data):
        raise CorruptFile(f"damaged: {len(data) - at} bytes too many behind the last chunk")


def _read_head(data: bytes) -> tuple[Header, int, int]:
    """The header, the number of chunks behind it, and where they start."""
    if not is_kdm(data):
        if len(data) < len(SIGNATURE) and SIGNATURE.startswith(data):
            raise CorruptFile("cut short: the header has not arrived" if data else "empty file")
        if b"KDM" in data[:8]:
            raise CorruptFile("signature damaged, as by a transfer in text mode; copy it again in binary mode")
        raise CorruptFile("not a .kdm file")
    try:
        kind, body, end = _read_chunk(data, len(SIGNATURE))
    except _Cut:
        raise CorruptFile("cut short: the header has not arrived") from None
    if kind != b"HEAD":
        raise CorruptFile(f"damaged: starts with a {kind.decode()} chunk, not with its header")
    try:
        return *_parse_header(body), end
    except (IndexError, UnicodeDecodeError, struct.error):
        raise CorruptFile("damaged: header malformed") from None


def _parse_header(body: bytes) -> tuple[Header, int]:
    """The header and the number of chunks that follow; IndexError or struct.error where it ends too early."""
    if body[0] != VERSION:
        raise CorruptFile(f"format version {body[0]}: written by a later version of kodim")
    codec, at = _parse_name(body, 1)
    preset, at = _parse_name(body, at)
    weights, at = body[at : at + 8], at + 8
    width, at = _parse_varint(body, at)
    height, at = _parse_varint(body, at)
    layout, quality = struct.unpack_from(">BH", body, at)
    axes = body[at + 3 : at + 3 + _AXES] if layout & _OWN_AXES else b""
    count, at = _parse_varint(body, at + 3 + len(axes))
    if at != len(body) or layout & 8:
        raise CorruptFile("damaged: header malformed")
    color, preset = _COLORS[layout & 3], preset or _DEFAULT_PRESET
    header = Header(codec, weights, width, height, color, quality / 100, preset, layout >> 4, axes=axes)
    _check_header(header, CorruptFile)
    return header, count


def _pack_header(header: Header, count: int) -> bytes:
    _check_header(header, BadRequest)
    preset = "" if header.preset == _DEFAULT_PRESET else header.preset
    names = b"".join(bytes([len(name)]) + name.encode("ascii") for name in (header.codec, preset))
    layout = header.bit_depth << 4 | (_OWN_AXES if header.axes else 0) | _COLORS.index(header.color)
    return b"".join(
        (
            bytes([header.version]) + names + header.weights,
            _pack_varint(header.width) + _pack_varint(header.height),
            struct.pack(">BH", layout, round(100 * header.quality)) + header.axes + _pack_varint(count),
        )
    )


def _check_header(header: Header, error: type[Exception]) -> None:
    faults = {
        "version": header.version != VERSION,
        "codec": not _NAME.fullmatch(header.codec),
        "preset": not _NAME.fullmatch(header.preset),
        "weights": len(header.weights) != 8,
        "width": not 1 <= header.width < 1 << 32,
        "height": not 1 <= header.height < 1 << 32,
        "color": header.color not in _COLORS,
        "bit depth": header.bit_depth != 8,
        "quality": not 0 <= header.quality <= 100,
        "colour axes": len(header.axes) not in (0, _AXES),
    }
    if wrong := [name for name, fault in faults.items() if fault]:
        raise error(f"header: {wrong[0]} out of range")


def _check_complete(file: KdmFile, error: type[Exception]) -> None:
    if not file.payloads:
        raise error("no DATA chunk: nothing to decode")
    if (file.alpha is not None) != file.header.color.endswith("A"):
        raise error(f"{file.header.color} picture {'without' if file.alpha is None else 'with'} an alpha plane")


def _payload(body: bytes) -> Payload:
    if len(body) < 4:
        raise CorruptFile("damaged: a DATA chunk without its checksum of symbols")
    return Payload(body[4:], int.from_bytes(body[:4], "big"))


def _pack_chunk(kind: bytes, body: bytes) -> bytes:
    if len(body) >= 1 << 32:
        raise BadRequest(f"{kind.decode()} chunk above 4 GiB")
    return struct.pack(">4sI", kind, len(body)) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _deflate(body: bytes) -> bytes:
    if len(body) > MAX_METADATA:
        raise BadRequest(f"metadata of {len(body)} bytes: the limit is {MAX_METADATA}")
    return zlib.compress(body, 9)


def _inflate(body: bytes, kind: bytes) -> bytes:
    """Undo `_deflate` without trusting that the result is small."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, MAX_METADATA + 1)
    except zlib.error:
        raise CorruptFile(f"damaged: {kind.decode()} chunk does not inflate") from None
    if len(plain) > MAX_METADATA:
        raise CorruptFile(f"{kind.decode()} chunk inflates beyond {MAX_METADATA} bytes")
    if not stream.eof or stream.unused_data:
        raise CorruptFile(f"damaged: {kind.decode()} chunk does not inflate")
    return plain


def _parse_name(body: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + body[at]
    return body[at + 1 : end].decode("ascii"), end


def _pack_varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _parse_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(5):
        byte = body[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if index and not byte:
                break
            return value, at + index + 1
    raise CorruptFile("damaged: header malformed")
