"""VVC (H.266) through the ffmpeg that imageio-ffmpeg brings: libvvenc in, ffmpeg's own decoder out."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

from kodim.classical.base import ClassicalCodec, package_version
from kodim.errors import BadRequest, CorruptFile, UnsupportedImage

if TYPE_CHECKING:
    from kodim.picture import Picture

_MIN_SIDE = 32  # below 16 vvenc refuses; below 32 its headers may not fit ffmpeg's buffer of 8 bits per pixel
# A NAL unit of an unspecified type (28), which decoders skip: start code, two bytes of header.
_CROP = b"\x00\x00\x01\x00\xe1"
# Full-range BT.709 both ways, rounding and chroma filters at their most accurate.
_SCALE = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


class Vvc(ClassicalCodec):
    """VVC intra (H.266, ISO 23090-3), vvenc, one 10-bit 4:2:0 frame as a raw byte stream.

    Knob: the quantisation parameter, 63 - quality / 2, so 13 at the least: 4:2:0 gains nothing below, and
    files of more than 8 bits per pixel overflow ffmpeg's buffer. Qualities 2n-1 and 2n give the same file.
    Effort is vvenc's preset, faster to slower (default medium, tens of seconds per megapixel). Tuned for PSNR
    switches vvenc's perceptual quantisation off. Colour is 4:2:0 whatever one asks of the encoder, so PSNR in
    RGB saturates. Frames have even sides of 32 or more: others are padded, and the padding is told to this
    decoder in a NAL unit that every other one skips. Profile, EXIF and XMP have no place in the stream.
    """

    slug = "vvc"
    title = "VVC (H.266)"
    authors = "JVET; Fraunhofer HHI"
    year = 2020
    aliases = ("h266", "vvenc")
    extension = ".vvc"
    qualities = (32, 42, 52, 62, 72, 82)  # QP 47, 42, 37, 32, 27, 22
    module = "imageio_ffmpeg"
    package = "imageio-ffmpeg"
    extra = "vvc"

    def arguments(self, quality: float, *, effort: int | None = None) -> dict[str, Any]:
        presets = ("faster", "faster", "fast", "fast", "medium", "medium", "slow", "slow", "slower")
        return {
            "qp": 63 - (int(self.knob(quality)) + 1) // 2,
            "preset": self.scaled_effort(effort, presets, "medium"),
            "qpa": 0 if self.tune == "psnr" else 1,
            "threads": 1,
        }

    def encode(self, picture: Picture, quality: float, *, effort: int | None = None) -> bytes:
        arguments = self.arguments(quality, effort=effort)
        self.require()
        self.refuse_alpha(picture)
        self.refuse_profile(picture)
        height, width = picture.pixels.shape[:2]
        right, bottom = _padding(width), _padding(height)
        pixels = np.pad(picture.pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
        source = f"-f rawvideo -pix_fmt rgb24 -s {width + right}x{height + bottom} -i -"
        scale = f"scale=in_range=full:out_range=full:out_color_matrix=bt709:flags={_SCALE}"
        options = " ".join(f"-{key} {value}" for key, value in arguments.items())
        target = f"-pix_fmt yuv420p10le -frames:v 1 -c:v libvvenc {options} -f vvc -"
        data, error = _ffmpeg(f"{source} -vf {scale} {target}", pixels.tobytes())
        if not data:
            raise UnsupportedImage(f"vvc: vvenc cannot code a {width}x{height} picture: {error}")
        # Both bytes are non-zero, so the unit cannot look like another start code.
        return data + _CROP + bytes((right + 1, bottom + 1)) if right or bottom else data

    def decode(self, data: bytes) -> Picture:
        from kodim.picture import Picture

        self.require()
        right = bottom = 0
        if data[-7:-2] == _CROP:
            right, bottom = data[-2] - 1, data[-1] - 1
        scale = f"scale=in_range=full:out_range=full:in_color_matrix=bt709:flags={_SCALE}"
        # A PPM says its own size, so nothing is believed about the stream but what the decoder made of it.
        frame, error = _ffmpeg(f"-f vvc -i - -vf {scale} -pix_fmt rgb24 -frames:v 1 -f image2pipe -c:v ppm -", data)
        head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", frame)
        if head is None:
            raise CorruptFile(f"vvc: not a VVC stream, or a damaged one: {error}")
        width, height = int(head[1]), int(head[2])
        if len(frame) - head.end() != 3 * width * height or right >= width or bottom >= height:
            raise CorruptFile("vvc: damaged stream: its frame is not of the size it says")
        pixels = np.frombuffer(frame, np.uint8, offset=head.end()).reshape(height, width, 3)
        pixels = np.array(pixels[: height - bottom, : width - right], order="C")
        return Picture(pixels=pixels, mode="RGB", alpha=None, icc=None, exif=None, xmp=None)

    def versions(self) -> dict[str, str]:
        found = {"imageio-ffmpeg": package_version("imageio-ffmpeg")}
        if self.available():
            from imageio_ffmpeg import get_ffmpeg_version

            found["ffmpeg"] = str(get_ffmpeg_version())
        return found


def _padding(side: int) -> int:
    return max(_MIN_SIDE - side, side % 2)


def _ffmpeg(arguments: str, data: bytes) -> tuple[bytes, str]:
    """Run ffmpeg on one thread; give its output and the first line of its complaint."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        program = get_ffmpeg_exe()
    except RuntimeError as error:
        raise BadRequest("vvc: imageio-ffmpeg found no ffmpeg program for this machine") from error
    quiet = "-v error -nostdin -threads 1 -filter_threads 1"
    command = [program, *quiet.split(), *arguments.split()]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    lines = done.stderr.decode("utf-8", "replace").splitlines() or ["no picture came out"]
    reason = lines[0].rpartition("] ")[2].strip()[:200]  # behind "[vvc @ 0x55d0c6] "
    return done.stdout if done.returncode == 0 else b"", reason
