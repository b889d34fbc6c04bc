"""Pictures as kodim sees them: upright 8-bit pixels, and beside them what must survive the trip.

`load` opens anything Pillow opens, applies the EXIF orientation, and refuses with one clear line whatever
would have to be mangled: samples deeper than 8 bits, CMYK, animations. Sizes are checked before decoding.
"""

import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from kodim import headers
from kodim.errors import BadRequest, CorruptFile, KodimError, UnsupportedImage

MAX_PIXELS = 2**28
"""Default limit on width x height (268 million pixels)."""

Pixels: TypeAlias = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[int, int, int, int]
"""A part of a picture: left, upper, right, lower, in pixels, as Pillow crops."""
Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | Pixels

_OPAQUE_MODE = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB"}
_ALPHA_MODE = {"1": "LA", "L": "LA", "LA": "LA", "La": "LA", "P": "RGBA", "PA": "RGBA"}
_ALPHA_MODE |= {"RGB": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_STILLS = {"MPO", "HEIF", "PSD"}  # further pictures, bursts and layers beside the main one: no animations
_PROGRAMS = {"EPS", "WMF", "MPEG"}  # Pillow would hand these to an outside interpreter, or cannot draw them
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright and in 8 bits.

    Attributes:
        pixels: uint8 (H, W, 3), C-contiguous, writable; orientation applied. Grey has three equal channels.
        mode: "L", "LA", "RGB" or "RGBA": what was given, and what `image` returns.
        alpha: uint8 (H, W), 255 is opaque; for "LA" and "RGBA" only.
        icc: the ICC colour profile, as in the file.
        exif: the EXIF block, starting with b"Exif\\0\\0" as in a JPEG, its orientation reset to 1.
        xmp: the XMP packet, its orientation reset to 1.
    """

    pixels: Pixels
    mode: str = "RGB"
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    def image(self) -> Image.Image:
        """The picture for Pillow, with `info["icc_profile"]`, `info["exif"]` and `info["xmp"]` where present.

        Pillow's writers take the profile from there by themselves, `exif=` and `xmp=` only as arguments.
        """
        image = Image.fromarray(self.pixels)
        if self.mode in ("L", "LA"):
            image = image.getchannel(0)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        info = {"icc_profile": self.icc, "exif": self.exif, "xmp": self.xmp}
        image.info.update({key: value for key, value in info.items() if value is not None})
        return image

    def with_pixels(self, pixels: Pixels) -> "Picture":
        """The same picture with other pixels, uint8 (H, W, 3), say a decoded one; grey averages the channels.

        Raises:
            ValueError: the size or the type of `pixels` differs from this picture's.
        """
        if pixels.shape != self.pixels.shape or pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, the picture is uint8 {self.pixels.shape}")
        if self.mode in ("L", "LA"):
            grey = (pixels.sum(axis=2, dtype=np.uint16) + 1) // 3
            pixels = np.repeat(grey[..., None].astype(np.uint8), 3, axis=2)
        return replace(self, pixels=np.ascontiguousarray(pixels))


@cache
def register_plugins() -> None:
    """Teach Pillow HEIF and JPEG XL, where pillow-heif and pillow-jxl-plugin are installed."""
    for name, opener in (("pillow_heif", "register_heif_opener"), ("pillow_jxl", None)):
        try:
            module = import_module(name)
        except ImportError:
            continue
        if opener:
            getattr(module, opener)()


def load(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture.

    Args:
        source: a path, the bytes of a file, a Pillow image, or a uint8 array (H, W) or (H, W, 1 to 4).
        max_pixels: refuse pictures with more pixels than this, before decoding them.

    Raises:
        BadRequest: no such file, a folder, or not allowed to read it.
        UnsupportedImage: not a picture, damaged or cut short, deeper than 8 bits, CMYK, animated, too large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _pillow("picture", max_pixels):
            return _from_image(source, b"", "picture", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(source), "picture", max_pixels)
    name = "".join(c if c.isprintable() else "?" for c in os.fsdecode(source))
    if os.path.isdir(source):
        raise BadRequest(f"{name}: a folder, not a picture")
    try:
        with open(source, "rb") as file:
            return _from_file(file if file.seekable() else io.BytesIO(file.read()), name, max_pixels)
    except FileNotFoundError:
        raise BadRequest(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def check_box(box: Box, width: int, height: int) -> Box:
    """The box, if it is a part of a picture of this size; BadRequest otherwise."""
    left, upper, right, lower = box
    if 0 <= left < right <= width and 0 <= upper < lower <= height:
        return box
    words = ",".join(map(str, box))
    raise BadRequest(f"the picture has {width}x{height} pixels: left, upper, right, lower cannot be {words}")


def pack_alpha(alpha: Pixels) -> bytes:
    """An alpha plane, uint8 (H, W), as a grey PNG."""
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG", optimize=True)
    return file.getvalue()


def unpack_alpha(data: bytes, width: int, height: int) -> Pixels:
    """The alpha plane, uint8 (height, width), that `pack_alpha` wrote.

    Raises:
        CorruptFile: not a grey 8-bit PNG of that size.
    """
    try:
        with _pillow("alpha plane", width * height):
            image = Image.open(io.BytesIO(data), formats=("PNG",))
            if image.size != (width, height) or image.mode != "L":
                raise CorruptFile(f"alpha plane: {image.mode} {image.width} x {image.height} does not fit")
            return np.array(image)
    except UnsupportedImage as error:
        raise CorruptFile(str(error)) from error


_lock = threading.RLock()


@contextmanager
def _pillow(name: str, max_pixels: int) -> Iterator[None]:
    """Pillow with our limit in place of its own, its warnings silenced, and its errors turned into ours.

    Limit and warning filters belong to the whole process, so only one thread at a time may change them.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2  # it refuses above twice this
        try:
            yield
        except KodimError:
            raise
        except UnidentifiedImageError:
            raise UnsupportedImage(f"{name}: not a picture that kodim can read") from None
        except Image.DecompressionBombError:
            raise UnsupportedImage(f"{name}: more than the limit of {max_pixels} pixels") from None
        except MemoryError:
            raise UnsupportedImage(f"{name}: too large for the memory of this machine") from None
        except Exception as error:  # readers let anything through: SyntaxError, struct.error, AssertionError
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise UnsupportedImage(f"{name}: damaged or cut short ({reason})") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _from_file(file: BinaryIO, name: str, max_pixels: int) -> Picture:
    head = headers.head_of(file)
    if not head:
        raise UnsupportedImage(f"{name}: empty file")
    with _pillow(name, max_pixels):
        jxl = headers.read_jxl(file)  # before Pillow: its plugin decodes while opening
        if jxl:
            _check(name, jxl.width, jxl.height, jxl.bits, jxl.animated, max_pixels)
        try:
            image: Image.Image = Image.open(file)
        except UnidentifiedImageError:
            register_plugins()
            file.seek(0)
            image = Image.open(file)
        with image:
            return _from_image(image, head, name, max_pixels)


def _check(name: str, width: int, height: int, bits: int, animated: bool, max_pixels: int) -> None:
    """Refuse what the header alone condemns."""
    if width * height > max_pixels:
        raise UnsupportedImage(f"{name}: {width} x {height} pixels are more than the limit of {max_pixels} pixels")
    if width < 1 or height < 1:
        raise UnsupportedImage(f"{name}: a picture without pixels")
    if animated:
        raise UnsupportedImage(f"{name}: an animation or several pages; kodim takes single pictures")
    if bits > 8:
        raise UnsupportedImage(f"{name}: {bits} bits per sample; kodim takes 8, so convert it first")


def _check_mode(name: str, image: Image.Image) -> str:
    """The mode of the `Picture` that this image becomes."""
    mode = (_ALPHA_MODE if image.has_transparency_data else _OPAQUE_MODE).get(image.mode)
    if mode:
        return mode
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UnsupportedImage(f"{name}: more than 8 bits per sample; kodim takes 8, so convert it first")
    raise UnsupportedImage(f"{name}: {image.mode} colours; kodim takes grey and RGB, so convert it first")


def _from_image(image: Image.Image, head: bytes, name: str, max_pixels: int) -> Picture:
    if image.format in _PROGRAMS:
        raise UnsupportedImage(f"{name}: {image.format} is a drawing or a film, not a picture")
    animated = getattr(image, "is_animated", False) and image.format not in _STILLS
    _check(name, *image.size, headers.sample_bits(image, head), animated, max_pixels)
    _check_mode(name, image)
    image.load()
    mode = _check_mode(name, image)  # some readers learn about transparency only now
    icc, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    metadata = {"icc": icc or None, "exif": _exif(image), "xmp": _upright_xmp(xmp) if xmp else None}
    turn = _TURN.get(_orientation(image))
    image = image.transpose(turn) if turn is not None else image
    planes = np.array(image if image.mode == mode else image.convert(mode))
    return _from_planes(planes, mode, **metadata)


def _from_array(array: Pixels, max_pixels: int) -> Picture:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not 1 <= channels <= 4:
        raise UnsupportedImage(
            f"array: {array.dtype} {array.shape}; kodim takes uint8 of shape (H, W) or (H, W, 1 to 4)"
        )
    _check("array", array.shape[1], array.shape[0], 8, False, max_pixels)
    return _from_planes(array.copy(), ("L", "LA", "RGB", "RGBA")[channels - 1])


def _from_planes(planes: Pixels, mode: str, **metadata: bytes | None) -> Picture:
    planes = planes.reshape(*planes.shape[:2], -1)
    alpha = np.ascontiguousarray(planes[..., -1]) if mode.endswith("A") else None
    colour = np.repeat(planes[..., :1], 3, axis=2) if mode in ("L", "LA") else planes[..., :3]
    return Picture(np.ascontiguousarray(colour), mode, alpha, **metadata)


def _orientation(image: Image.Image) -> int:
    """How the loaded image must be turned, 1 to 8; a broken EXIF block is no reason to refuse a photo."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # the decoder has turned it, whatever EXIF says; not so for a transcoded JPEG
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block, byte for byte but for the orientation, so that maker notes and thumbnails survive."""
    block = image.info.get("exif")
    if block is None and (image.format == "TIFF" or "Raw profile type exif" in image.info):
        try:
            block = _exif_of_tags(image.getexif())
        except Exception:  # as above
            return None
    if not isinstance(block, bytes) or not block:
        return None
    return _upright_exif(block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block)


def _exif_of_tags(tags: Image.Exif) -> bytes | None:
    """A TIFF keeps EXIF among the tags of its layout: take those that describe the photo, not the file."""
    kept = Image.Exif()
    for name in ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "Copyright"):
        tag = ExifTags.Base[name]
        if tag in tags:
            kept[tag] = tags[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := tags.get_ifd(ifd):
            kept[ifd] = values
    return kept.tobytes() if len(kept) else None


def _upright_exif(exif: bytes) -> bytes:
    """Set the orientation in the first directory of an EXIF block (a TIFF behind six bytes) to 1."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[6:10])
    if order is None:
        return exif
    try:
        directory = 6 + struct.unpack_from(order + "I", exif, 10)[0]
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == ExifTags.Base.Orientation and kind in (1, 3, 4):
                value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], 1)
                return exif[: entry + 8] + value + exif[entry + 8 + len(value) :]
    except struct.error:
        pass  # broken, and kept as it was
    return exif


def _upright_xmp(xmp: bytes | str) -> bytes:
    data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", data)
