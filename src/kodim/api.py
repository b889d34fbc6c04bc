"""The public functions of :mod:`kodim`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from . import container, registry
from .errors import BadRequest
from .picture import Box, check_box, load
from .registry import DEFAULT_CODEC, Entry

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from .codec import Codec

ImageLike = Union[str, "os.PathLike[str]", bytes, "PIL.Image.Image", "np.ndarray"]


def compress(
    image: ImageLike,
    quality: float = 60.0,
    codec: str = DEFAULT_CODEC,
    *,
    bpp: float | None = None,
    psnr: float | None = None,
    ms_ssim: float | None = None,
    effort: int | None = None,
) -> bytes:
    """Compress a picture; returns the bytes of a complete file (.kdm, or a classical codec's own format).

    Args:
        image: path, encoded bytes, PIL image, or uint8 array (H, W), (H, W, 3) or (H, W, 4).
        quality: 0..100, higher is better and larger.
        codec: slug or alias of any codec, or the path of a weights file.
        bpp, psnr, ms_ssim: at most one; searches the quality that gives this many bits per pixel (whole
            file), dB of RGB PSNR, or MS-SSIM in (0, 1), and takes the nearest that the codec reaches.
        effort: encoder effort, where the codec has a choice.

    Raises:
        KodimError: a subclass says what is wrong, in one line.
    """
    picture, coder = load(image), registry.get(codec)
    targets = {k: v for k, v in {"bpp": bpp, "psnr": psnr, "ms_ssim": ms_ssim}.items() if v is not None}
    if len(targets) > 1:
        raise BadRequest(f"choose one of {', '.join(targets)}")
    if targets:
        from .rate import compress_to

        return compress_to(coder, picture, effort=effort, **targets).data
    return coder.encode(picture, quality, effort=effort)


def decompress(
    data: bytes,
    *,
    partial: bool = False,
    weights: "str | os.PathLike[str] | None" = None,
    box: Box | None = None,
) -> "PIL.Image.Image":
    """The picture in the bytes of a .kdm file, or of any format Pillow reads, upright and with its metadata.

    Args:
        partial: accept a file that is cut short.
        weights: the weights file it was written with, if neither shipped nor named by KODIM_WEIGHTS.
        box: only this part of the picture, (left, upper, right, lower) in pixels, as Pillow crops. Of a picture above
            8 megapixels only the tiles are decoded that it takes.

    Raises:
        CorruptFile, DriftError, MissingWeights, UnsupportedImage: see :mod:`kodim.errors`.
        BadRequest: a box that does not lie within the picture.
    """
    if container.is_kdm(data):
        from .learned import decode_kdm

        return decode_kdm(data, partial=partial, given=None if weights is None else Path(weights), box=box).image()
    image = load(data).image()
    return image if box is None else image.crop(check_box(box, *image.size))


def open(path: str | os.PathLike[str]) -> "PIL.Image.Image":
    """:func:`decompress` for a file on disk; BadRequest when there is none."""
    try:
        return decompress(Path(path).read_bytes())
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from None


def create_codec(name: str, preset: str = "compact", pretrained: bool = True, weights: str | None = None) -> "Codec":
    """A learned codec as an `nn.Module` in eval mode: `out = codec(x); out.x_hat, out.bits, out.bpp`.

    Args:
        name: slug or alias.
        preset: `compact` (trained weights ship) or `paper` (the publication's sizes).
        pretrained: load the shipped weights.
        weights: a weights file or training checkpoint to load instead.

    Raises:
        UnknownCodec, BadRequest, MissingWeights: see :mod:`kodim.errors`.
    """
    codec = registry.create(name, preset=preset, pretrained=pretrained and weights is None)
    if weights is not None:
        from .weights import load as load_weights

        load_weights(codec, weights)
    return codec


def load_compressai(source: "str | os.PathLike[str] | Mapping[str, Any]") -> "Codec":
    """A CompressAI checkpoint (a file or a state dict) as a codec in eval mode; see docs/compressai.md.

    Raises:
        BadRequest: no such checkpoint, or not of an architecture that kodim knows.
    """
    from .compat.checkpoints import load_compressai as load_checkpoint

    return load_checkpoint(source)


def list_codecs(*, trained: bool = False, **taxonomy: str) -> list[Entry]:
    """All codecs, or those whose taxonomy contains the given texts, in any case: `list_codecs(network="VAE")`.

    Args:
        trained: only learned codecs whose weights ship.
        taxonomy: network, unit, spatial, rate, range; kind ("learned" or "classical").

    Raises:
        BadRequest: there is no such dimension.
    """
    return registry.entries(trained=trained, **taxonomy)
