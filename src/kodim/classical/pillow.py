"""The codecs that Pillow and its plugins bring: JPEG, JPEG 2000, WebP, HEIC, AVIF, JPEG XL."""

from __future__ import annotations

import importlib
import io
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from kodim.classical import boxes
from kodim.classical.base import ClassicalCodec, first_line, is_srgb, package_version, profile_name
from kodim.errors import BadRequest, CorruptFile, UnsupportedImage

if TYPE_CHECKING:
    from kodim.picture import Picture

SUBSAMPLINGS = ("4:4:4", "4:2:0")
_NATIVE = {"jpeg": "libjpeg_turbo", "jpeg2000": "jpg_2000", "webp": "webp", "avif": "avif"}


class PillowCodec(ClassicalCodec):
    """A codec that is one `Image.save` and one `Image.open`."""

    format: ClassVar[str]  # Pillow's name for it
    decoder_threads: ClassVar[tuple[str, str, int] | None] = None  # module, global, value for one thread

    def encode(self, picture: Picture, quality: float, *, effort: int | None = None) -> bytes:
        arguments = self.arguments(quality, effort=effort)
        self.require()
        self.check(picture)
        register()
        image = picture.image()
        # Some writers copy metadata from here and some do not; what is to be written is passed by name below.
        image.info.clear()
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.save(buffer, self.format, **self.saving(arguments, picture), **self.metadata(picture))
        except (OSError, ValueError, RuntimeError) as error:
            size = f"{picture.width}x{picture.height}"
            raise UnsupportedImage(f"{self.slug}: cannot write a {size} picture: {first_line(error)}") from error
        return self.finish(buffer.getvalue(), picture)

    def decode(self, data: bytes) -> Picture:
        from kodim.picture import load

        self.require()
        if not self.recognises(bytes(data[:16])):
            raise CorruptFile(f"{self.slug}: the file is not of this format")
        register()
        try:
            with self._one_thread():
                picture = load(bytes(data))
        except UnsupportedImage as error:
            raise UnsupportedImage(f"{self.slug}: {str(error).removeprefix('picture: ')}") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of a Rust plugin; no Exception to Python
                raise
            raise CorruptFile(f"{self.slug}: damaged file: {first_line(error)}") from error
        return self.restore(picture, data)

    @abstractmethod
    def recognises(self, head: bytes) -> bool:
        """Whether a file of this format can begin with these 16 bytes."""

    def check(self, picture: Picture) -> None:
        """Refuse what this format cannot carry."""

    def saving(self, arguments: dict[str, Any], picture: Picture) -> dict[str, Any]:
        """The keywords of `Image.save` for this picture."""
        return arguments

    def metadata(self, picture: Picture) -> dict[str, Any]:
        """The keywords of `Image.save` that carry profile, EXIF and XMP."""
        found = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
        return {key: value for key, value in found.items() if value is not None}

    def finish(self, data: bytes, picture: Picture) -> bytes:
        """Add to the file what Pillow's writer leaves out."""
        return data

    def restore(self, picture: Picture, data: bytes) -> Picture:
        """Add to the picture what Pillow's reader leaves out."""
        return picture

    def versions(self) -> dict[str, str]:
        from PIL import features

        found = {"pillow": package_version("pillow")}
        if self.module is not None:
            found[self.package] = package_version(self.package)
        name = _NATIVE.get(self.slug.partition("-")[0])
        if name is not None:
            native = features.version(name)
            found[{"jpg_2000": "openjpeg", "webp": "libwebp", "avif": "libavif"}.get(name, name)] = str(native)
        return found

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Readers take their number of threads from a global of their module: set it, and put it back."""
        if self.decoder_threads is None:
            yield
            return
        name, variable, value = self.decoder_threads
        module = importlib.import_module(name)
        before = getattr(module, variable)
        setattr(module, variable, value)
        try:
            yield
        finally:
            setattr(module, variable, before)


class _Subsampled(PillowCodec):
    """A codec that can store colour at full (4:4:4) or half (4:2:0) resolution."""

    base: ClassVar[str]

    def __init__(self, subsampling: str = "4:4:4", *, tune: str = "psnr") -> None:
        self.slug = self.base if subsampling == "4:4:4" else f"{self.base}-420"
        if subsampling not in SUBSAMPLINGS:
            raise BadRequest(f"{self.base}: subsampling is one of {', '.join(SUBSAMPLINGS)}")
        super().__init__(tune=tune)
        self.subsampling = subsampling
        if subsampling != "4:4:4":
            self.title = f"{self.title} {subsampling}"


class Jpeg(_Subsampled):
    """JPEG (ITU-T T.81), libjpeg-turbo, optimised Huffman tables, progressive.

    Knob: libjpeg's quality, which is this quality (libjpeg takes 0 for 1). Effort changes nothing.
    """

    base = "jpeg"
    title = "JPEG"
    authors = "Joint Photographic Experts Group"
    year = 1992
    extension = ".jpg"
    format = "JPEG"
    qualities = (5, 10, 20, 30, 40, 50, 60, 70, 80)

    def __init__(self, subsampling: str = "4:4:4", *, tune: str = "psnr") -> None:
        super().__init__(subsampling, tune=tune)
        self.aliases = ("jpg", "jpeg-444") if subsampling == "4:4:4" else ("jpg-420",)

    def recognises(self, head: bytes) -> bool:
        return head.startswith(b"\xff\xd8\xff")

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        self.scaled_effort(effort, (None,) * 9, None)
        subsampling = 0 if self.subsampling == "4:4:4" else 2
        knob = max(1, int(self.knob(quality)))
        return {"quality": knob, "subsampling": subsampling, "optimize": True, "progressive": True}

    def check(self, picture: Picture) -> None:
        self.refuse_alpha(picture)


class Jpeg2000(PillowCodec):
    """JPEG 2000 (ISO 15444-1), OpenJPEG, 9/7 wavelet and colour transform, as a .jp2 file.

    Knob: the PSNR that the encoder aims for, 20 + 0.4 * quality in dB. Effort changes nothing.
    Pillow's own defaults (5/3 wavelet, no colour transform) cost 4 dB.
    """

    slug = "jpeg2000"
    title = "JPEG 2000"
    authors = "Joint Photographic Experts Group"
    year = 2000
    aliases = ("jp2", "j2k")
    extension = ".jp2"
    format = "JPEG2000"
    qualities = (10, 15, 20, 25, 30, 35, 40, 45, 50, 55)
    continuous = True

    def recognises(self, head: bytes) -> bool:
        return head.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"))

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        self.scaled_effort(effort, (None,) * 9, None)
        return {
            "quality_mode": "dB",
            "quality_layers": [round(20 + 0.4 * self.knob(quality), 4)],
            "irreversible": True,
            "mct": 1,
        }

    def check(self, picture: Picture) -> None:
        # Pillow hands alpha to the wavelet like a fourth colour: edges of a cut-out would ring.
        self.refuse_alpha(picture)

    def saving(self, arguments: dict[str, Any], picture: Picture) -> dict[str, Any]:
        # OpenJPEG allows no more resolutions than the smaller side can be halved.
        levels = min(6, min(picture.width, picture.height).bit_length())
        colour = 1 if picture.mode == "RGB" else 0
        return {**arguments, "mct": colour, "num_resolutions": levels}

    def metadata(self, picture: Picture) -> dict[str, Any]:
        return {}

    def finish(self, data: bytes, picture: Picture) -> bytes:
        if picture.icc is None and picture.exif is None and picture.xmp is None:
            return data
        return boxes.add_jp2_metadata(data, icc=picture.icc, exif=picture.exif, xmp=picture.xmp)

    def restore(self, picture: Picture, data: bytes) -> Picture:
        found = boxes.jp2_metadata(data)
        return replace(picture, icc=found.get("icc"), exif=found.get("exif"), xmp=found.get("xmp"))


class WebP(PillowCodec):
    """WebP, lossy (VP8 key frame), libwebp. Colour is always 4:2:0, so PSNR in RGB saturates near 43 dB.

    Knob: libwebp's quality, which is this quality. Effort is the encoder's method 0..6 (default 4).
    Alpha is stored without loss; grey pictures come back as RGB.
    """

    slug = "webp"
    title = "WebP"
    authors = "Google"
    year = 2010
    extension = ".webp"
    format = "WEBP"
    qualities = (0, 5, 15, 30, 45, 60, 75, 85, 92)

    def recognises(self, head: bytes) -> bool:
        return head.startswith(b"RIFF") and head[8:12] == b"WEBP"

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        method = self.scaled_effort(effort, (0, 1, 2, 3, 4, 4, 5, 5, 6), 4)
        return {"quality": int(self.knob(quality)), "method": method, "alpha_quality": 100}


class Heic(_Subsampled):
    """HEIC (HEVC intra), x265 through libheif; the stand-in for BPG.

    Knob: x265's crf, (100 - quality) // 2, so qualities 2n-1 and 2n give the same file. Effort is x265's
    preset, ultrafast to veryslow (default slow). Tuned for PSNR: no adaptive quantisation, no psycho-visual
    rate-distortion; "perceptual" is libheif's default (tune ssim).
    """

    base = "heic"
    title = "HEIC (HEVC)"
    authors = "JCT-VC; Nokia"
    year = 2015
    extension = ".heic"
    format = "HEIF"
    qualities = (10, 16, 22, 28, 34, 40, 46, 52)
    module = "pillow_heif"
    package = "pillow-heif"
    decoder_threads = ("pillow_heif.options", "DECODE_THREADS", 1)

    def __init__(self, subsampling: str = "4:4:4", *, tune: str = "psnr") -> None:
        super().__init__(subsampling, tune=tune)
        self.aliases = ("heif", "hevc", "heic-444") if subsampling == "4:4:4" else ("heif-420", "hevc-420")

    def recognises(self, head: bytes) -> bool:
        return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        presets = (
            "ultrafast",
            "superfast",
            "veryfast",
            "faster",
            "fast",
            "medium",
            "slow",
            "slower",
            "veryslow",
        )
        preset = self.scaled_effort(effort, presets, "slow")
        parameters = {"preset": preset, "x265:pools": "1"}
        if self.tune == "psnr":
            parameters |= {"tune": "psnr", "x265:aq-mode": "0", "x265:psy-rd": "0"}
        return {
            "quality": int(self.knob(quality)),
            "chroma": self.subsampling.replace(":", ""),
            "enc_params": parameters,
        }

    def versions(self) -> dict[str, str]:
        found = super().versions()
        if self.available():
            found["libheif"] = importlib.import_module("pillow_heif").libheif_version()
        return found


class Avif(_Subsampled):
    """AVIF (AV1 intra), libaom through libavif, which Pillow brings.

    Knob: libavif's quality, which is this quality; some neighbours share one of AV1's quantisers. Effort e is
    the encoder's speed 10 - e (default 6). Tuned for PSNR saves about 5 % at equal PSNR.
    """

    base = "avif"
    title = "AVIF (AV1)"
    authors = "Alliance for Open Media"
    year = 2019
    extension = ".avif"
    format = "AVIF"
    qualities = (10, 20, 30, 37, 44, 51, 58, 65, 72)
    decoder_threads = ("PIL.AvifImagePlugin", "DEFAULT_MAX_THREADS", 1)

    def __init__(self, subsampling: str = "4:4:4", *, tune: str = "psnr") -> None:
        super().__init__(subsampling, tune=tune)
        self.aliases = ("av1", "avif-444") if subsampling == "4:4:4" else ("av1-420",)

    def available(self) -> bool:
        from PIL import features

        return bool(features.check("avif"))

    def require(self) -> None:
        if not self.available():
            raise BadRequest(f'{self.slug}: this Pillow was built without AVIF: pip install -U "pillow>=11.3"')

    def recognises(self, head: bytes) -> bool:
        return head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1", b"msf1")

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        found = {
            "quality": int(self.knob(quality)),
            "subsampling": self.subsampling,
            "speed": self.scaled_effort(effort, (9, 8, 7, 6, 5, 4, 3, 2, 1), 6),
            "max_threads": 1,  # two threads write another file than one
        }
        return found | {"advanced": {"tune": "psnr"}} if self.tune == "psnr" else found

    def saving(self, arguments: dict[str, Any], picture: Picture) -> dict[str, Any]:
        return {**arguments, "subsampling": "4:0:0"} if picture.mode == "L" else arguments


class JpegXL(PillowCodec):
    """JPEG XL (ISO 18181), libjxl, lossy (VarDCT).

    Knob: libjxl's quality, which is this quality up to 99.9 (distance 0.109); its 100 means lossless, which
    this writer cannot mix with lossy settings. Effort is libjxl's (default 7). libjxl aims at the eye and has
    no tuning for PSNR: judge it by a perceptual metric too. Near quality 18 it changes to coding at half
    resolution, where size dips by a few percent. This writer cannot store a colour profile, so
    pictures that are not sRGB are refused.
    """

    slug = "jxl"
    title = "JPEG XL"
    authors = "Joint Photographic Experts Group"
    year = 2021
    aliases = ("jpegxl", "jpeg-xl")
    extension = ".jxl"
    format = "JXL"
    qualities = (5, 12, 20, 30, 45, 60, 75, 84, 90)
    continuous = True
    module = "pillow_jxl"
    package = "pillow-jxl-plugin"
    decoder_threads = ("pillow_jxl.JpegXLImagePlugin", "DECODE_THREADS", 0)  # 0 is its "no thread pool"

    def recognises(self, head: bytes) -> bool:
        return head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"))

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        return {
            "quality": min(float(self.knob(quality)), 99.9),
            "effort": self.scaled_effort(effort, (1, 2, 3, 4, 5, 6, 7, 8, 9), 7),
            "num_threads": 1,
        }

    def check(self, picture: Picture) -> None:
        self.refuse_profile(picture)

    def metadata(self, picture: Picture) -> dict[str, Any]:
        found = super().metadata(picture)
        found.pop("icc_profile", None)
        return found

    def restore(self, picture: Picture, data: bytes) -> Picture:
        # The reader makes up a profile for files that have none; sRGB is what no profile means.
        made_up = picture.icc is not None and is_srgb(profile_name(picture.icc))
        return replace(picture, icc=None if made_up else picture.icc, xmp=boxes.jxl_xmp(data) or picture.xmp)


def register() -> None:
    """Teach Pillow the formats of the installed plugins."""
    from kodim.picture import register_plugins

    register_plugins()
