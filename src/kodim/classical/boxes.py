"""Metadata in the boxes of JP2 and JPEG XL files, which Pillow's writer and readers leave out.

Both formats wrap their codestream in boxes: 4 bytes of big-endian length, 4 bytes of type, payload
(ISO 15444-1 annex I). A length of 1 announces a 64-bit length, 0 means "to the end of the file".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

EXIF_UUID = b"JpgTiffExif->JP2"  # 16 bytes; the habit of ExifTool, GDAL and Adobe
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def walk(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (type, offset of the box, of its payload, of its end); stop at the first bad length."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            body = start + 16
        stop = end if length == 0 else start + length
        if stop < body or stop > end:
            return
        yield kind, start, body, stop
        start = stop


def box(kind: bytes, payload: bytes) -> bytes:
    """One box with a 32-bit length."""
    return struct.pack(">I4s", len(payload) + 8, kind) + payload


def add_jp2_metadata(data: bytes, *, icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> bytes:
    """A JP2 file with the profile in its colour box, and EXIF and XMP in the customary UUID boxes."""
    out = bytearray()
    for kind, start, body, end in walk(data):
        if kind == b"jp2h" and icc is not None:
            out += box(kind, _with_profile(data[body:end], icc))
        else:
            out += data[start:end]
        if kind == b"jp2h":  # before the codestream, where readers that stop early still see them
            if exif is not None:
                out += box(b"uuid", EXIF_UUID + exif.removeprefix(b"Exif\0\0"))
            if xmp is not None:
                out += box(b"uuid", XMP_UUID + xmp)
    return bytes(out)


def _with_profile(header: bytes, icc: bytes) -> bytes:
    out = bytearray()
    for kind, start, _, end in walk(header):
        # Method 2 is "restricted ICC"; part 1 of the standard knows no other way to hold a profile.
        out += box(kind, b"\x02\x00\x00" + icc) if kind == b"colr" else header[start:end]
    return bytes(out)


def jp2_metadata(data: bytes) -> dict[str, bytes]:
    """icc, exif and xmp of a JP2 file, those that are there; {} for a bare codestream."""
    found: dict[str, bytes] = {}
    for kind, _, body, end in walk(data):
        if kind == b"jp2h":
            for inner, _, at, stop in walk(data, body, end):
                if inner == b"colr" and data[at : at + 1] == b"\x02":
                    found["icc"] = data[at + 3 : stop]
        elif kind == b"uuid" and data[body : body + 16] == EXIF_UUID:
            found["exif"] = b"Exif\0\0" + data[body + 16 : end]
        elif kind == b"uuid" and data[body : body + 16] == XMP_UUID:
            found["xmp"] = data[body + 16 : end]
    return found


def jxl_xmp(data: bytes) -> bytes | None:
    """The XMP packet of a JPEG XL container; None for a bare codestream."""
    return next((data[body:end] for kind, _, body, end in walk(data) if kind == b"xml "), None)
