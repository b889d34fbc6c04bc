import io
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data

from kodim.classical import CLASSICAL, Avif, Heic, JpegXL
from kodim.classical.base import ClassicalCodec
from kodim.errors import BadRequest, CorruptFile, UnsupportedImage
from kodim.metrics import psnr
from kodim.picture import Picture, load

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def codecs(*, without: str = "") -> list:
    """All codecs as parameters; those whose package is missing are skipped."""
    marks = {
        slug: pytest.mark.skipif(not codec.available(), reason=f"{codec.package} is not installed")
        for slug, codec in CLASSICAL.items()
    }
    return [
        pytest.param(codec, id=slug, marks=marks[slug])
        for slug, codec in CLASSICAL.items()
        if slug not in without.split()
    ]


@pytest.fixture(scope="module")
def picture() -> Picture:
    return load(np.ascontiguousarray(data.astronaut()[:128, 150:300]))


def encode(codec: ClassicalCodec, picture: Picture, quality: float) -> bytes:
    # vvenc at its default takes a second for this picture
    return codec.encode(picture, quality, effort=1 if codec.slug == "vvc" else None)


def refusal(codec: ClassicalCodec, file: bytes) -> str:
    """What the decoder says about a damaged file; any exception but these two is a fault."""
    try:
        codec.decode(file)
    except (CorruptFile, UnsupportedImage) as error:
        return str(error)
    return "decoded all the same"


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_table_and_instances_agree():
    wanted = "jpeg jpeg-420 jpeg2000 webp heic heic-420 avif avif-420 jxl vvc"
    assert list(CLASSICAL) == wanted.split()
    names = [name for codec in CLASSICAL.values() for name in (codec.slug, *codec.aliases)]
    assert len(names) == len(set(names))
    for slug, codec in CLASSICAL.items():
        assert (codec.slug, codec.kind) == (slug, "classical")
        assert codec.title
        assert codec.extension.startswith(".")
        assert list(codec.qualities) == sorted(set(codec.qualities))
        assert len(codec.qualities) >= 4  # BD-rate needs as many


def test_import_is_light():
    code = "import sys, kodim.classical; print({'torch', 'pillow_heif', 'pillow_jxl'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("codec", codecs())
def test_more_quality_is_more_bytes_and_a_nearer_picture(codec, picture):
    sizes, distances = [], []
    for quality in (0, 20, 40, 60, 80, 100):
        file = encode(codec, picture, quality)
        decoded = codec.decode(file)
        assert decoded.pixels.shape == picture.pixels.shape
        sizes.append(len(file))
        distances.append(psnr(picture.pixels, decoded.pixels))
    assert all(a < b for a, b in pairwise(sizes))
    assert all(a < b for a, b in pairwise(distances))
    assert distances[-1] > 41
    assert distances[0] < 28


@pytest.mark.parametrize("codec", codecs(without="vvc"))
def test_size_does_not_fall_on_the_way_up(codec, picture):
    slack = 1.1 if codec.slug == "jxl" else 1.02  # encoders change tools on the way, libjxl most of all
    small = replace(picture, pixels=np.ascontiguousarray(picture.pixels[:64, :64]))
    sizes = [len(codec.encode(small, quality, effort=4)) for quality in range(0, 101, 4)]
    assert all(a <= slack * b for a, b in pairwise(sizes))


@pytest.mark.parametrize("codec", codecs())
def test_encoding_repeats_and_needs_only_its_own_file(codec, picture):
    file = encode(codec, picture, 50)
    assert file == encode(codec, picture, 50)
    assert np.array_equal(codec.decode(file).pixels, codec.decode(file).pixels)


@pytest.mark.parametrize("codec", codecs(without="vvc"))
def test_files_open_elsewhere(codec, picture):
    file = codec.encode(picture, 60)
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), codec.decode(file).pixels)


@pytest.mark.parametrize("codec", codecs())
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 17)])
def test_odd_sizes(codec, size):
    pixels = np.ascontiguousarray(data.astronaut()[100 : 100 + size[0], 200 : 200 + size[1]])
    decoded = codec.decode(codec.encode(load(pixels), 80, effort=1))
    assert decoded.pixels.shape == pixels.shape
    assert psnr(pixels, decoded.pixels) > 20


@pytest.mark.parametrize("codec", codecs())
def test_grey_stays_grey(codec, picture):
    grey = load(Image.fromarray(picture.pixels).convert("L"))
    decoded = codec.decode(encode(codec, grey, 70))
    assert psnr(grey.pixels, decoded.pixels) > 30
    assert np.ptp(decoded.pixels.astype(int), axis=2).max() <= 2


@pytest.mark.parametrize("codec", codecs())
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_survives_or_is_refused(codec, mode, picture):
    image = Image.fromarray(picture.pixels).convert(mode[:-1])
    ramp = np.broadcast_to(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, image.width))
    image.putalpha(Image.fromarray(np.ascontiguousarray(ramp)))
    given = load(image)
    if codec.slug in ("jpeg", "jpeg-420", "jpeg2000", "vvc"):
        with pytest.raises(UnsupportedImage, match="transparency"):
            codec.encode(given, 50)
        return
    decoded = codec.decode(codec.encode(given, 60))
    assert decoded.alpha is not None
    assert np.abs(decoded.alpha.astype(int) - ramp).max() <= 8


@pytest.mark.parametrize("codec", codecs(without="vvc"))
def test_metadata_survives(codec, picture):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    icc = None if codec.slug == "jxl" else srgb_profile()
    given = replace(picture, icc=icc, exif=exif.tobytes(), xmp=XMP)
    decoded = codec.decode(codec.encode(given, 50))
    assert decoded.icc == icc
    assert decoded.xmp == XMP
    read = Image.Exif()
    read.load(decoded.exif)
    assert read[0x010E] == "a description"


@pytest.mark.parametrize("slug", ["jxl", "vvc"])
def test_a_foreign_profile_is_refused_where_it_cannot_be_stored(slug, picture):
    codec = CLASSICAL[slug]
    if not codec.available():
        pytest.skip(f"{codec.package} is not installed")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(BadRequest, match="colour profile"):
        codec.encode(replace(picture, icc=lab), 50)
    assert codec.encode(replace(picture, icc=srgb_profile()), 50, effort=1)


@pytest.mark.parametrize("codec", codecs(without="vvc"))
def test_info_of_the_source_changes_nothing(codec, picture):
    """pillow-jxl-plugin would transcode what was opened from a JPEG; AVIF and HEIF would copy metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "JPEG", quality=90)
    from_file = load(buffer.getvalue())
    from_array = load(from_file.pixels)
    assert codec.encode(from_file, 40) == codec.encode(from_array, 40)


@pytest.mark.parametrize("codec", codecs())
def test_hostile_bytes_raise_one_line(codec, picture):
    small = replace(picture, pixels=np.ascontiguousarray(picture.pixels[:40, :48]))
    file = codec.encode(small, 40, effort=1)
    chance = random.Random(0)
    trials = 12 if codec.slug == "vvc" else 150
    for trial in range(trials):
        damaged = bytearray(file)
        for _ in range(chance.choice((1, 3, 10))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if trial % 3 == 0:
            damaged = damaged[: chance.randrange(len(damaged))]
        complaint = refusal(codec, bytes(damaged))
        assert "\n" not in complaint
        assert complaint.startswith((codec.slug, "decoded"))


@pytest.mark.parametrize("codec", codecs())
@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_other_files_are_refused(codec, junk):
    with pytest.raises(CorruptFile):
        codec.decode(junk)


@pytest.mark.parametrize("codec", codecs())
@pytest.mark.parametrize("quality", [-0.1, 100.1, float("nan"), "50", None, True])
def test_bad_qualities_are_refused(codec, quality, picture):
    with pytest.raises(BadRequest, match="quality is a number from 0 to 100"):
        codec.encode(picture, quality)


@pytest.mark.parametrize("codec", codecs())
@pytest.mark.parametrize("effort", [0, 10, 2.5, True])
def test_bad_efforts_are_refused(codec, effort, picture):
    with pytest.raises(BadRequest, match="effort is a whole number from 1 to 9"):
        codec.encode(picture, 50, effort=effort)


@pytest.mark.parametrize("codec", codecs())
def test_versions_and_arguments_are_named(codec):
    import json

    assert all(isinstance(text, str) and text != "missing" for text in codec.versions().values())
    assert json.loads(json.dumps(codec.arguments(50))) == codec.arguments(50)
    assert codec.arguments(0) != codec.arguments(100)


def test_fair_settings():
    assert CLASSICAL["avif"].arguments(50)["advanced"] == {"tune": "psnr"}
    assert CLASSICAL["avif"].arguments(50)["speed"] == 6
    parameters = CLASSICAL["heic"].arguments(40)["enc_params"]
    assert (parameters["tune"], parameters["x265:aq-mode"], parameters["x265:psy-rd"]) == ("psnr", "0", "0")
    jpeg2000 = CLASSICAL["jpeg2000"].arguments(25)
    assert (jpeg2000["mct"], jpeg2000["irreversible"], jpeg2000["quality_layers"]) == (1, True, [30.0])
    assert CLASSICAL["vvc"].arguments(52)["qp"] == 37


def test_perceptual_tuning_is_another_file(picture):
    with pytest.raises(BadRequest, match="tune"):
        Avif(tune="ssim")
    tuned = Avif(tune="perceptual")
    if tuned.available():
        assert tuned.encode(picture, 50) != CLASSICAL["avif"].encode(picture, 50)
    if CLASSICAL["heic"].available():
        assert Heic(tune="perceptual").encode(picture, 50) != CLASSICAL["heic"].encode(picture, 50)


def test_effort_changes_the_work_not_the_quality(picture):
    fast, slow = (CLASSICAL["webp"].encode(picture, 60, effort=effort) for effort in (1, 9))
    assert len(slow) < len(fast)


def test_a_missing_package_is_named(monkeypatch, picture):
    monkeypatch.setattr(JpegXL, "module", "no_such_module_anywhere")
    codec = JpegXL()
    assert not codec.available()
    with pytest.raises(BadRequest, match=r'pillow-jxl-plugin is missing: pip install "kodim\[bench\]"'):
        codec.encode(picture, 50)
    with pytest.raises(BadRequest, match="pip install"):
        codec.decode(b"\xff\x0a")


def test_a_picture_too_large_for_a_format_is_refused():
    wide = load(np.zeros((1, 16500, 3), np.uint8))
    with pytest.raises(UnsupportedImage, match="webp: cannot write a 16500x1 picture"):
        CLASSICAL["webp"].encode(wide, 50)
