"""kodim: a learned image codec, model zoo and benchmark.

>>> import kodim
>>> data = kodim.compress("photo.jpg", quality=60)      # bytes of a .kdm file
>>> kodim.decompress(data).save("photo.png")            # a PIL image
>>> out = kodim.create_codec("minnen2018")(x)           # an nn.Module: out.x_hat, out.bits, out.bpp
"""

from .api import compress, create_codec, decompress, list_codecs, load_compressai, open
from .errors import (
    BadRequest,
    CorruptFile,
    DriftError,
    KodimError,
    MissingWeights,
    UnknownCodec,
    UnsupportedImage,
)

__version__ = "0.1.0"

__all__ = [
    "BadRequest",
    "CorruptFile",
    "DriftError",
    "KodimError",
    "MissingWeights",
    "UnknownCodec",
    "UnsupportedImage",
    "compress",
    "create_codec",
    "decompress",
    "list_codecs",
    "load_compressai",
    "open",
    "register",
]


def register(cls):  # type: ignore[no-untyped-def]
    """Class decorator: add a :class:`kodim.codec.Codec` of your own to the registry (command line, benchmark)."""
    from .registry import register as add

    return add(cls)
