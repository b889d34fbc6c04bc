"""Reading pictures: what is kept and what is converted; `test_picture_refused` has the rest."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from kodim.picture import Picture, load, register_plugins

H, W = 24, 36
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:Orientation="%d"/></x:xmpmeta>'
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


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


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x010F] = "Kamera"
    block[0x0112] = orientation
    block[0x8769] = {0x927C: b"maker's note"}
    return block.tobytes()


def read_exif(block: bytes | None) -> Image.Exif:
    assert block is not None
    assert block.startswith(b"Exif\0\0")
    found = Image.Exif()
    found.load(block)
    return found


# What goes in comes out


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("shape", [(H, W, 3), (H, W, 4)])
def test_colour_pictures_are_kept(kind: str, shape: tuple[int, ...]) -> None:
    data = pixels(*shape)
    picture = load(saved(Image.fromarray(data), kind, **LOSSLESS[kind]))
    assert picture.mode == "RGBA"[: shape[2]]
    assert (picture.width, picture.height) == (W, H)
    np.testing.assert_array_equal(np.asarray(picture.image()), data)
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_has_three_equal_channels_and_comes_back_grey(mode: str) -> None:
    data = pixels(H, W, len(mode)).squeeze()
    picture = load(saved(Image.fromarray(data)))
    grey = data if mode == "L" else data[..., 0]
    np.testing.assert_array_equal(picture.pixels, np.stack([grey] * 3, 2))
    assert (picture.alpha is None) == (mode == "L")
    back = picture.image()
    assert back.mode == mode
    np.testing.assert_array_equal(np.asarray(back), data)


def test_one_bit_becomes_grey() -> None:
    image = rgb().convert("1")
    picture = load(saved(image))
    assert picture.mode == "L"
    np.testing.assert_array_equal(picture.pixels[..., 1], np.asarray(image.convert("L")))


def test_palette_becomes_rgb() -> None:
    image = rgb().quantize(17)
    for kind in ("PNG", "GIF"):
        picture = load(saved(image, kind))
        assert picture.mode == "RGB"
        assert picture.alpha is None
        np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 170, 10))])
def test_transparent_palette_becomes_rgba(transparency: int | bytes) -> None:
    image = rgb().quantize(17)
    picture = load(saved(image, transparency=transparency))
    table = np.frombuffer(transparency, np.uint8) if isinstance(transparency, bytes) else np.full(17, 255)
    if isinstance(transparency, int):
        table[transparency] = 0
    assert picture.mode == "RGBA"
    np.testing.assert_array_equal(picture.alpha, table[np.asarray(image)])
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("image", "key", "mode"), [(rgb().convert("L"), 40, "LA"), (rgb(), (0, 9, 18), "RGBA")])
def test_transparent_colour_becomes_alpha(image: Image.Image, key: object, mode: str) -> None:
    picture = load(saved(image, transparency=key))
    assert picture.mode == mode
    hidden = (np.asarray(image).reshape(H, W, -1) == key).all(axis=2)
    assert hidden.any()
    np.testing.assert_array_equal(picture.alpha, np.where(hidden, 0, 255))


@given(st.sampled_from([(), (1,), (2,), (3,), (4,)]), st.integers(1, 9), st.integers(1, 9), st.randoms())
def test_arrays(channels: tuple[int, ...], height: int, width: int, rng: random.Random) -> None:
    shape = (height, width, *channels)
    data = np.frombuffer(rng.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    picture = load(data)
    assert picture.mode == {(): "L", (1,): "L", (2,): "LA", (3,): "RGB", (4,): "RGBA"}[channels]
    back = np.asarray(picture.image())
    np.testing.assert_array_equal(back.reshape(shape), data)
    np.testing.assert_array_equal(load(saved(picture.image())).pixels, picture.pixels)


def test_an_array_is_copied() -> None:
    data = pixels(H, W, 3)
    picture = load(data)
    data[:] = 0
    assert picture.pixels.any()


def test_every_kind_of_source_is_the_same_picture(tmp_path: Path) -> None:
    data = saved(rgb())
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, rgb(), Image.open(io.BytesIO(data)), pixels(H, W, 3)):
        np.testing.assert_array_equal(load(source).pixels, pixels(H, W, 3))


def test_with_pixels_keeps_all_but_the_pixels() -> None:
    picture = Picture(pixels(H, W, 3), "RGBA", pixels(H, W), b"icc", b"Exif\0\0", b"xmp")
    other = picture.with_pixels(255 - picture.pixels)
    np.testing.assert_array_equal(other.pixels, 255 - picture.pixels)
    np.testing.assert_array_equal(other.alpha, picture.alpha)
    assert (other.mode, other.icc, other.exif, other.xmp) == ("RGBA", b"icc", b"Exif\0\0", b"xmp")
    assert other.image().info == {"icc_profile": b"icc", "exif": b"Exif\0\0", "xmp": b"xmp"}
    for wrong in (picture.pixels[1:], picture.pixels / 255, picture.pixels[..., 0]):
        with pytest.raises(ValueError, match="pixels are"):
            picture.with_pixels(wrong)


def test_with_pixels_averages_grey() -> None:
    grey = load(pixels(H, W))
    decoded = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    expected = np.rint(decoded.astype(float).mean(axis=2)).astype(np.uint8)
    picture = grey.with_pixels(decoded)
    for channel in range(3):
        np.testing.assert_array_equal(picture.pixels[..., channel], expected)
    np.testing.assert_array_equal(np.asarray(picture.image()), expected)


# Metadata


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", LOSSLESS)
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    data = saved(rgb(), kind, exif=exif(orientation), **LOSSLESS[kind])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (upright.shape == (W, H, 3)) == (orientation > 4)
    picture = load(data)
    np.testing.assert_array_equal(picture.pixels, upright)
    found = read_exif(picture.exif)
    assert found.get(0x0112, 1) == 1
    assert found[0x010F] == "Kamera"
    assert found.get_ifd(0x8769)[0x927C] == b"maker's note"
    again = load(saved(picture.image(), exif=picture.exif))
    np.testing.assert_array_equal(again.pixels, upright)
    assert again.exif == picture.exif


def test_alpha_is_turned_too() -> None:
    picture = load(saved(Image.fromarray(pixels(H, W, 4)), exif=exif(6)))
    np.testing.assert_array_equal(picture.alpha, np.rot90(pixels(H, W, 4)[..., 3], -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_changes_in_its_orientation_only(orientation: int) -> None:
    for order in "<>":
        mark = b"II*\0" if order == "<" else b"MM\0*"
        entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
        block = b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 1) + entry + b"\0\0\0\0thumbnail"
        picture = load(saved(rgb(), "JPEG", exif=block))
        assert (picture.width, picture.height) == ((H, W) if orientation > 4 else (W, H))
        assert picture.exif == block.replace(entry, struct.pack(order + "HHIHH", 0x0112, 3, 1, 1, 0))


def test_orientation_from_xmp_alone() -> None:
    picture = load(saved(rgb(), "JPEG", xmp=XMP % 6, quality=95))
    assert (picture.width, picture.height) == (H, W)
    assert picture.xmp == XMP % 1
    again = load(saved(picture.image(), xmp=picture.xmp))
    assert (again.width, again.height) == (H, W)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_broken_exif_is_no_reason_to_refuse_a_photo(block: bytes) -> None:
    picture = load(saved(rgb(), "JPEG", exif=block))
    assert picture.exif == block
    assert picture.width == W


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_profile_and_xmp_survive(kind: str, mode: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = {"tiffinfo": {700: XMP % 1}} if kind == "TIFF" else {"xmp": XMP % 1}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", (XMP % 1).decode())
        xmp = {"pnginfo": info}
    picture = load(saved(rgb().convert(mode), kind, icc_profile=profile, **xmp))
    assert picture.icc == profile
    assert picture.xmp == XMP % 1
    assert picture.image().info == {"icc_profile": profile, "xmp": XMP % 1}
    bare = load(saved(rgb().convert(mode), kind))
    assert (bare.icc, bare.exif, bare.xmp) == (None, None, None)


def test_a_stereo_photo_counts_as_its_first_frame() -> None:
    data = saved(rgb(), "MPO", save_all=True, append_images=[rgb().rotate(180)], quality=95)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(load(data).pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_heif_is_turned_by_its_own_reader() -> None:
    pytest.importorskip("pillow_heif")
    register_plugins()
    picture = load(saved(rgb(), "HEIF", quality=95, exif=exif(6)))
    assert (picture.width, picture.height) == (H, W)
    assert read_exif(picture.exif)[0x0112] == 1


def test_jpeg_xl_is_turned_by_its_decoder_but_not_as_a_transcoded_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    register_plugins()
    upright = load(saved(rgb(), "JXL", lossless=True, exif=exif(6)))
    np.testing.assert_array_equal(upright.pixels, pixels(H, W, 3))
    assert read_exif(upright.exif)[0x0112] == 1
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(saved(rgb(), "JPEG", exif=exif(6)))
    with Image.open(photo) as image:
        image.save(tmp_path / "photo.jxl", lossless_jpeg=True)
    np.testing.assert_array_equal(load(tmp_path / "photo.jxl").pixels, load(photo).pixels)
