"""Reading pictures: what is refused, each with one clear line, before memory and without a crash."""

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from kodim.errors import BadRequest, CorruptFile, KodimError, UnsupportedImage
from kodim.picture import MAX_PIXELS, load, pack_alpha, register_plugins, unpack_alpha

H, W = 24, 36


def pixels(*shape: int) -> np.ndarray:
    """A ramp along both axes, so that any turn shows; the channels differ too."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = 5 * y + 3 * x
    planes = plane if len(shape) == 2 else np.stack([plane + 9 * c for c in range(shape[2])], 2)
    return planes.astype(np.uint8)


def rgb() -> Image.Image:
    return Image.fromarray(pixels(H, W, 3))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x010F] = "Kamera"
    block[0x0112] = orientation
    block[0x8769] = {0x927C: b"maker's note"}
    return block.tobytes()


# What is refused


def apng() -> bytes:
    return saved(rgb(), save_all=True, append_images=[rgb().rotate(180)])


def jpeg_2000_deep() -> bytes:
    return saved(Image.fromarray(np.arange(H * W, dtype=np.uint16).reshape(H, W) * 70), "JPEG2000")


def tiff_deep() -> bytes:
    """A minimal TIFF of one pixel with three samples of 16 bits."""
    tags = [(256, 1), (257, 1), (259, 1), (262, 2), (273, 8), (277, 3), (278, 1), (279, 6)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, 14))
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 20) + b"pixels" + struct.pack("<3H", 16, 16, 16) + body


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "text": (lambda: b"not a picture\n", "not a picture"),
    "16-bit grey PNG": (lambda: png(1, 1, 16, 0, b"\0\1\2"), "bits per sample"),
    "16-bit grey and alpha PNG": (lambda: png(1, 1, 16, 4, b"\0\1\2\3\4"), "16 bits per sample"),
    "16-bit RGB PNG": (lambda: png(1, 1, 16, 2, b"\0\1\2\3\4\5\6"), "16 bits per sample"),
    "16-bit RGBA PNG": (lambda: png(1, 1, 16, 6, b"\0" + bytes(8)), "16 bits per sample"),
    "16-bit RGB TIFF": (tiff_deep, "16 bits per sample"),
    "16-bit RGB PPM": (lambda: b"P6 1 1 65535\n" + bytes(6), "16 bits per sample"),
    "16-bit JPEG 2000": (jpeg_2000_deep, "bits per sample"),
    "32-bit TIFF": (lambda: saved(rgb().convert("I"), "TIFF"), "more than 8 bits"),
    "float TIFF": (lambda: saved(rgb().convert("F"), "TIFF"), "more than 8 bits"),
    "CMYK JPEG": (lambda: saved(rgb().convert("CMYK"), "JPEG"), "CMYK"),
    "CMYK TIFF": (lambda: saved(rgb().convert("CMYK"), "TIFF"), "CMYK"),
    "animated GIF": (
        lambda: saved(rgb(), "GIF", save_all=True, append_images=[rgb().rotate(180)]),
        "animation",
    ),
    "animated PNG": (apng, "animation"),
    "animated WebP": (
        lambda: saved(rgb(), "WEBP", save_all=True, append_images=[rgb().rotate(180)]),
        "animation",
    ),
    "TIFF of two pages": (lambda: saved(rgb(), "TIFF", save_all=True, append_images=[rgb()]), "pages"),
    "drawing": (lambda: saved(rgb(), "EPS"), "drawing"),
    "truncated JPEG": (lambda: saved(rgb(), "JPEG")[:-60], "damaged or cut short"),
    "truncated PNG": (lambda: saved(rgb(), compress_level=0)[:-60], "damaged or cut short"),
    "truncated GIF": (lambda: saved(rgb(), "GIF")[:-60], "damaged or cut short"),
    "truncated BMP": (lambda: saved(rgb(), "BMP")[:-60], "damaged or cut short"),
    "truncated TIFF": (lambda: saved(rgb(), "TIFF")[:60], "photo: "),
    "truncated WebP": (lambda: saved(rgb(), "WEBP")[:-60], "photo: "),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_one_line_that_names_the_file(kind: str, tmp_path: Path) -> None:
    make, says = REFUSED[kind]
    path = tmp_path / "photo"
    path.write_bytes(make())
    with pytest.raises(UnsupportedImage, match=says) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedImage):
        load(make())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "QOI"])
def test_a_cut_file_is_refused_or_shows_every_pixel(kind: str) -> None:
    data = saved(rgb(), kind)
    whole = load(data).pixels
    for size in range(len(data) // 8, len(data), 1 + len(data) // 90):
        with contextlib.suppress(UnsupportedImage):
            np.testing.assert_array_equal(load(data[:size]).pixels, whole)
            assert size > len(data) - 40, "no more than an end mark may be missing"


def test_deep_or_animated_pillow_images_are_refused() -> None:
    for data in (png(1, 1, 16, 2, bytes(7)), apng()):
        with pytest.raises(UnsupportedImage, match=r"^picture: "):
            load(Image.open(io.BytesIO(data)))
    for mode in ("I", "F", "I;16", "CMYK", "HSV", "LAB"):
        with pytest.raises(UnsupportedImage, match=r"^picture: "):
            load(Image.new(mode, (2, 2)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UnsupportedImage, match="array"):
        load(array)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no such file"):
        load(tmp_path / "missing.png")
    with pytest.raises(BadRequest, match="folder"):
        load(tmp_path)
    with pytest.raises(BadRequest, match="null"):
        load("a\0b.png")
    with pytest.raises(BadRequest) as caught:
        load("two\nlines\x1b[31m")
    assert str(caught.value).isprintable()


def test_a_pipe_can_be_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, saved(rgb()))
    os.close(writer)
    try:
        np.testing.assert_array_equal(load(f"/dev/fd/{reader}").pixels, pixels(H, W, 3))
    finally:
        os.close(reader)


# Hostile sizes and damage


HUGE = {
    "PNG of 1600 Mpx": png(40_000, 40_000, 8, 2, b""),
    "PNG of 400 Mpx": png(20_000, 20_000, 8, 2, b""),
    "PPM": b"P6 40000 40000 255\n",
    "BMP": saved(rgb(), "BMP").replace(struct.pack("<ii", W, H), struct.pack("<ii", 40_000, 40_000)),
    "GIF": saved(rgb(), "GIF").replace(struct.pack("<HH", W, H), struct.pack("<HH", 40_000, 40_000)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_too_many_pixels_are_refused(kind: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnsupportedImage, match=f"more than the limit of {MAX_PIXELS} pixels"):
        load(HUGE[kind])
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is the kernel's")
def test_too_many_pixels_are_refused_before_memory(tmp_path: Path) -> None:
    for kind, data in HUGE.items():
        (tmp_path / kind).write_bytes(data)
    code = """if True:
        import resource, sys
        from kodim.errors import UnsupportedImage
        from kodim.picture import load
        load(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_DATA, (256 << 20,) * 2)
        for path in sys.argv[2:]:
            try:
                load(path)
            except UnsupportedImage as error:
                assert "more than the limit" in str(error), error
            else:
                raise AssertionError(path)
    """
    small = tmp_path / "small.png"
    small.write_bytes(saved(rgb()))
    command = [sys.executable, "-c", code, small, *(tmp_path / kind for kind in HUGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_limit_is_ours_and_exact() -> None:
    """Pillow warns above 89 Mpx and refuses above 179; here only `max_pixels` counts."""
    with pytest.raises(UnsupportedImage, match="cut short"):
        load(png(16_000, 12_000, 8, 0, b""))
    for source in (saved(rgb()), rgb(), pixels(H, W, 3)):
        assert load(source, max_pixels=W * H).width == W
        with pytest.raises(UnsupportedImage, match=f"limit of {W * H - 1}"):
            load(source, max_pixels=W * H - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO"])
def test_damage_raises_only_kodim_errors(kind: str) -> None:
    rng, messages = random.Random(kind), set()
    seed = saved(rgb(), kind, exif=exif(6)) if kind in ("PNG", "JPEG", "TIFF") else saved(rgb(), kind)
    for _ in range(120):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(min(len(data), rng.choice((64, len(data)))))
            data[at] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            assert load(bytes(data), max_pixels=10**6).pixels.dtype == np.uint8
        except KodimError as error:
            messages.add(str(error))
    assert messages
    assert all(message.isprintable() for message in messages)


# Formats that plugins bring


def test_jpeg_xl() -> None:
    pytest.importorskip("pillow_jxl")
    register_plugins()
    for options in ({}, {"use_container": True}):
        data = saved(rgb(), "JXL", lossless=True, **options)
        np.testing.assert_array_equal(load(data).pixels, pixels(H, W, 3))
        with pytest.raises(UnsupportedImage, match=f"{W} x {H} pixels"):
            load(data, max_pixels=99)
        with pytest.raises(UnsupportedImage):
            load(data[: len(data) // 2])
    deep = Image.fromarray(np.arange(H * W, dtype=np.uint16).reshape(H, W))
    with pytest.raises(UnsupportedImage, match="16 bits per sample"):
        load(saved(deep, "JXL"))


def test_jpeg_xl_size_is_read_before_decoding() -> None:
    """A bare codestream of a few bytes that claims 2^30 x 2^30 pixels; the plugin would believe it."""
    pytest.importorskip("pillow_jxl")
    side = 0b11 | (2**30 - 1) << 2  # the widest of four forms, then 30 bits
    bits = side << 1 | 0 << 33 | side << 36
    code = b"\xff\x0a" + bits.to_bytes(12, "little")
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n" + b"".join(
        struct.pack(">I", 12 + len(part)) + b"jxlp" + struct.pack(">I", i) + part
        for i, part in enumerate((code[:1], code[1:5], code[5:]))
    )
    for data in (code, boxes):
        with pytest.raises(UnsupportedImage, match=f"{2**30} x {2**30} pixels"):
            load(data)


def test_heif() -> None:
    pytest.importorskip("pillow_heif")
    register_plugins()
    picture = load(saved(rgb(), "HEIF", quality=95, exif=exif(6)))
    assert (picture.width, picture.height, picture.mode) == (H, W, "RGB")
    deep = Image.fromarray(np.arange(H * W, dtype=np.uint16).reshape(H, W) * 70)
    with pytest.raises(UnsupportedImage, match="bits per sample"):
        load(saved(deep, "HEIF"))


# The alpha plane's own file


@given(st.integers(1, 20), st.integers(1, 20), st.randoms())
def test_alpha_round_trip(height: int, width: int, rng: random.Random) -> None:
    alpha = np.frombuffer(rng.randbytes(height * width), np.uint8).reshape(height, width)
    np.testing.assert_array_equal(unpack_alpha(pack_alpha(alpha), width, height), alpha)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise",
        pack_alpha(pixels(H, W))[:-30],
        pack_alpha(pixels(H, W + 1)),
        png(40_000, 40_000, 8, 0, b""),
        png(W, H, 16, 0, b""),
        saved(rgb()),
        saved(rgb().convert("L"), "BMP"),
    ],
)
def test_alpha_that_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFile, match="alpha plane"):
        unpack_alpha(data, W, H)


def test_settings_of_pillow_are_left_alone() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnsupportedImage):
        load(b"noise")
    assert before == Image.MAX_IMAGE_PIXELS
