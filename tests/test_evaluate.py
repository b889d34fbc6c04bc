import json
import math

import numpy as np
import pytest
from PIL import Image
from skimage import data

from kodim.bench.evaluate import bare, evaluate
from kodim.classical import CLASSICAL, Jpeg
from kodim.errors import BadRequest, UnsupportedImage
from kodim.metrics import ms_ssim, psnr
from kodim.picture import load

POINT = {"quality", "bpp", "psnr", "ms_ssim", "encode_s", "decode_s", "images"}
IMAGE = {"input", "bytes", "bpp", "psnr", "ms_ssim", "encode_s", "decode_s"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    astronaut = data.astronaut()
    Image.fromarray(astronaut[:170, :200]).save(folder / "a.png")
    Image.fromarray(astronaut[100:170, 100:221]).save(folder / "b.png")
    return folder


class Exact(Jpeg):
    """A codec without loss: what it decodes is what it was given."""

    def encode(self, picture, quality, *, effort=None):
        self.given = picture
        return b"12345678"

    def decode(self, data):
        return self.given


def test_shape_of_the_result(folder):
    result = evaluate([folder / "a.png", folder / "b.png"], "jpeg", [30, 70])
    assert set(result) == {"codec", "points", "skipped"}
    assert result["codec"] == "jpeg"
    assert result["skipped"] == []
    assert [point["quality"] for point in result["points"]] == [30, 70]
    for point in result["points"]:
        assert set(point) == POINT
        assert [image["input"] for image in point["images"]] == [str(folder / "a.png"), str(folder / "b.png")]
        assert all(set(image) == IMAGE for image in point["images"])
    json.dumps(result, allow_nan=False)


def test_figures_are_those_of_the_real_file(folder):
    codec, picture = CLASSICAL["webp"], load(folder / "a.png")
    ((point,),) = [evaluate([folder / "a.png"], codec, [40])["points"]]
    (image,) = point["images"]
    file = codec.encode(picture, 40)
    decoded = codec.decode(file).pixels
    assert image["bytes"] == len(file)
    assert image["bpp"] == 8 * len(file) / (200 * 170)
    assert image["psnr"] == psnr(picture.pixels, decoded)
    assert image["ms_ssim"] == ms_ssim(picture.pixels, decoded)
    assert 0 < image["encode_s"] < 10
    assert 0 < image["decode_s"] < 10


def test_means_are_of_the_figures_per_picture(folder):
    (point,) = evaluate([folder], "jpeg", [50])["points"]
    a, b = point["images"]
    for figure in ("bpp", "psnr", "encode_s", "decode_s"):
        assert point[figure] == pytest.approx((a[figure] + b[figure]) / 2)
    assert b["ms_ssim"] is None  # 70 pixels high
    assert point["ms_ssim"] == a["ms_ssim"]


def test_default_grid_is_the_codecs_own(folder):
    result = evaluate([folder / "b.png"], "jpeg")
    assert [point["quality"] for point in result["points"]] == list(CLASSICAL["jpeg"].qualities)


def test_an_exact_copy_has_no_psnr_and_stays_out_of_the_mean(folder):
    (point,) = evaluate([folder], Exact(), [50])["points"]
    assert point["psnr"] is None
    assert all(image["psnr"] is None for image in point["images"])
    assert point["ms_ssim"] == pytest.approx(1)
    assert point["images"][0]["bytes"] == 8


def test_a_folder_skips_what_is_no_picture_and_says_why(folder, tmp_path):
    Image.fromarray(data.astronaut()[:64, :64]).save(tmp_path / "good.png")
    whole = (folder / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture, and no pretence of one")
    (tmp_path / ".hidden.png").write_bytes(b"")
    result = evaluate([tmp_path], "jpeg", [50])
    (point,) = result["points"]
    assert [image["input"] for image in point["images"]] == [str(tmp_path / "good.png")]
    assert [one["input"] for one in result["skipped"]] == [
        str(tmp_path / "cut.png"),
        str(tmp_path / "empty.jpg"),
    ]
    for one in result["skipped"]:
        assert one["input"] in one["reason"]
        assert "\n" not in one["reason"]
    with pytest.raises(UnsupportedImage, match=r"cut\.png"):
        evaluate([tmp_path], "jpeg", [50], skip_bad=False)


def test_only_bad_pictures_give_no_points(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    result = evaluate([tmp_path / "bad.png"], "jpeg", [50])
    assert result["points"] == []
    assert len(result["skipped"]) == 1


def test_a_picture_the_format_cannot_carry_is_skipped_whole(tmp_path):
    Image.fromarray(np.zeros((1, 16500, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "b.png")
    result = evaluate([tmp_path], "webp", [20, 40])
    assert [len(point["images"]) for point in result["points"]] == [1, 1]
    assert result["skipped"][0]["reason"].startswith(str(tmp_path / "a.png"))


def test_metadata_and_alpha_do_not_count(folder, tmp_path):
    pixels = load(folder / "b.png").pixels
    plain = Image.fromarray(pixels)
    plain.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x010E] = "x" * 3000
    rich = plain.copy()
    rich.putalpha(200)
    rich.save(tmp_path / "rich.png", exif=exif)
    for codec in ("jpeg", "webp"):
        (point,) = evaluate([tmp_path], codec, [50])["points"]
        a, b = point["images"]
        assert a["bytes"] == b["bytes"]
        assert a["psnr"] == b["psnr"]
    stripped = bare(load(tmp_path / "rich.png"))
    assert (stripped.mode, stripped.alpha, stripped.exif) == ("RGB", None, None)


def test_progress_is_told_before_each_measurement(folder):
    seen = []
    evaluate([folder], "jpeg", [20, 40, 60], progress=seen.append)
    assert len(seen) == 6
    assert seen[0] == "a.png at quality 20"


def test_one_warm_up_only(folder):
    class Counting(Exact):
        calls = 0

        def encode(self, picture, quality, *, effort=None):
            Counting.calls += 1
            return super().encode(picture, quality)

    evaluate([folder], Counting(), [20, 40])
    assert Counting.calls == 2 * 2 + 1


@pytest.mark.parametrize("quality", [-1, 101, math.nan])
def test_bad_requests(folder, quality):
    with pytest.raises(BadRequest, match="quality"):
        evaluate([folder], "jpeg", [quality])


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(BadRequest, match=r"none\.png"):
        evaluate([tmp_path / "none.png"], "jpeg", [50])
    with pytest.raises(BadRequest, match="nothing to evaluate"):
        evaluate([tmp_path], "jpeg", [50])
