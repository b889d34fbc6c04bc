"""Conventional codecs behind the interface of the learned ones, as baselines and for everyday use.

`CLASSICAL` maps slug to instance. A codec whose package is not installed is listed all the same: its
`available()` is false, and using it raises BadRequest with the pip command that brings it. Importing this
module loads no plugin.
"""

from kodim.classical.base import ClassicalCodec
from kodim.classical.pillow import Avif, Heic, Jpeg, Jpeg2000, JpegXL, WebP
from kodim.classical.vvc import Vvc

CLASSICAL: dict[str, ClassicalCodec] = {
    codec.slug: codec
    for codec in (
        Jpeg(),
        Jpeg("4:2:0"),
        Jpeg2000(),
        WebP(),
        Heic(),
        Heic("4:2:0"),
        Avif(),
        Avif("4:2:0"),
        JpegXL(),
        Vvc(),
    )
}

__all__ = [
    "CLASSICAL",
    "Avif",
    "ClassicalCodec",
    "Heic",
    "Jpeg",
    "Jpeg2000",
    "JpegXL",
    "Vvc",
    "WebP",
]
