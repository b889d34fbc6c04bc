"""Better pictures from ordinary JPEG files: iterative decoding of what they hold (`kodim restore`).

The file stays as it is. Its planes and quantisers are read without a detour over RGB, so the coefficients of luma are
exactly those that were stored.
"""

import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import BadRequest, CorruptFile, UnsupportedImage
from .picture import MAX_PIXELS

if TYPE_CHECKING:
    from .systems.ororbia2018 import Ororbia2018

RESTORER = "ororbia2018"


def restore(
    data: bytes, weights: "str | os.PathLike[str] | None" = None, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture in the bytes of a JPEG file, upright and with its colour profile.

    Args:
        weights: a weights file or checkpoint of `ororbia2018`; the shipped ones by default.

    Raises:
        BadRequest: no JPEG file.
        CorruptFile: it is damaged.
        UnsupportedImage: more than `max_pixels`, or colours that are neither grey nor YCbCr.
        MissingWeights: none ship with this version.
    """
    import torch

    codec = _restorer(None if weights is None else Path(weights))
    image = _open(data, max_pixels)
    tables, whole = _quantisers(image)
    planes = np.asarray(image)
    if planes.ndim == 2:
        planes = np.stack([planes, np.full_like(planes, 128), np.full_like(planes, 128)], 2)
    x = torch.from_numpy(planes.copy()).permute(2, 0, 1)[None].float()
    pixels = codec.restore(x, torch.tensor(tables, dtype=torch.float32), whole)
    rgb = (pixels[0].permute(1, 2, 0) * 255).round().byte().numpy()
    restored = Image.fromarray(rgb if image.mode == "YCbCr" else np.ascontiguousarray(rgb[..., 0]))
    restored.info = {k: v for k, v in image.info.items() if k in ("icc_profile", "exif")}
    return ImageOps.exif_transpose(restored)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The file's planes: an image of mode L or YCbCr."""
    try:
        image = Image.open(BytesIO(data), formats=("JPEG",))
        width, height = image.size
        if width * height > max_pixels:
            raise UnsupportedImage(f"{width} x {height} pixels are more than the limit of {max_pixels} pixels")
        image.draft("L" if image.mode == "L" else "YCbCr", None)
        image.load()
    except UnidentifiedImageError:
        raise BadRequest("not a JPEG file") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptFile(f"JPEG file damaged: {error}") from None
    if image.mode not in ("L", "YCbCr"):
        raise UnsupportedImage(f"JPEG file with {image.mode} colours; grey and YCbCr are supported")
    return image


def _quantisers(image: Image.Image) -> tuple[list[list[int]], tuple[bool, bool, bool]]:
    """Each component's table, row by row, and whether it is stored at full resolution."""
    components = image.layer  # type: ignore[attr-defined]  # (id, horizontal, vertical, table) of each
    stored = image.quantization  # type: ignore[attr-defined]
    most = tuple(max(component[i] for component in components) for i in (1, 2))
    tables = [list(stored[component[3]]) for component in components]
    whole = [component[1:3] == most for component in components]
    if len(components) == 1:
        return [tables[0]] * 3, (whole[0], False, False)
    return tables, (whole[0], whole[1], whole[2])


@lru_cache(maxsize=2)
def _restorer(path: Path | None) -> "Ororbia2018":
    from . import weights
    from .registry import create
    from .systems.ororbia2018 import Ororbia2018

    if path is None:
        codec = create(RESTORER)
    else:
        metadata = weights.describe(path)
        if metadata["codec"] != RESTORER:
            raise BadRequest(f"{path}: weights of {metadata['codec']}, not of {RESTORER}")
        codec = create(RESTORER, preset=metadata["preset"], pretrained=False, **weights.arguments(metadata))
        weights.load(codec, path)
    assert isinstance(codec, Ororbia2018)
    return codec
