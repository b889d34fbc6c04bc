"""The command line: what it writes, what it prints, and one clear line for everything that can go wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

from kodim import container, registry
from kodim.cli import main
from kodim.metrics import psnr

COMMANDS = (
    *("compress", "decompress", "info", "codecs", "evaluate", "compare", "leaderboard", "datasets", "train"),
    *("restore", "import-compressai"),
)
HAS_WEIGHTS = "compact" in registry.find(registry.DEFAULT_CODEC).weights
needs_weights = pytest.mark.skipif(
    not HAS_WEIGHTS, reason=f"the registry says that {registry.DEFAULT_CODEC} has no trained weights"
)


@dataclass
class Run:
    """What one run gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the command line in this process."""

    def call(*argv: object) -> Run:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut()[:192, 128:384])


@pytest.fixture
def photo(tmp_path: Path, astronaut: Image.Image) -> Path:
    path = tmp_path / "photo.png"
    astronaut.save(path, compress_level=1)
    return path


@pytest.fixture
def folder(tmp_path: Path, astronaut: Image.Image) -> Path:
    """Two pictures, a note, a hidden file, and a folder with a third picture."""
    path = tmp_path / "photos"
    (path / "deeper").mkdir(parents=True)
    small = astronaut.resize((64, 48))
    small.save(path / "a.jpg")
    small.convert("L").save(path / "b.png")
    small.save(path / "deeper" / "c.png")
    (path / "notes.txt").write_text("not a picture")
    (path / ".hidden.jpg").write_bytes(b"thumbnail rubbish")
    return path


def kdm_bytes() -> bytes:
    """A well-formed file whose payload means nothing."""
    header = container.Header("minnen2018", b"\1" * 8, 64, 48, "RGB", 60.0)
    return container.pack(container.KdmFile(header, (container.Payload(b"payload" * 20, 123),)))


def files_under(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def assert_one_line(result: Run, *words: str, code: int = 2) -> None:
    assert result.code == code
    assert result.err.startswith("kodim: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.err


# compress


@pytest.mark.parametrize(("codec", "extension"), [("jpeg", ".jpg"), ("webp", ".webp")])
def test_compress_writes_next_to_the_input_and_says_one_line(
    run: Callable[..., Run], photo: Path, codec: str, extension: str
) -> None:
    result = run("compress", photo, "--codec", codec)
    goal = photo.with_suffix(extension)
    assert result.code == 0
    assert result.err == ""
    assert result.out.count("\n") == 1
    bpp = 8 * goal.stat().st_size / (256 * 192)
    assert f"{photo} -> {goal}" in result.out
    assert f"{bpp:.3f} bpp" in result.out
    assert f"{photo.stat().st_size / goal.stat().st_size:.1f}:1" in result.out
    with Image.open(goal) as image:
        assert image.size == (256, 192)


def test_compress_json_is_one_object_with_the_promised_fields(run: Callable[..., Run], photo: Path) -> None:
    goal = photo.with_name("x.jpg")
    result = run("compress", photo, "--codec", "jpeg", "-o", goal, "--json")
    assert result.code == 0
    assert result.err == ""
    assert set(result.json) == {"files"}
    (row,) = result.json["files"]
    assert row["input"] == str(photo)
    assert row["output"] == str(goal)
    assert row["bytes"] == goal.stat().st_size
    assert row["bpp"] == 8 * row["bytes"] / (256 * 192)
    assert (row["width"], row["height"]) == (256, 192)


def test_higher_quality_is_larger(run: Callable[..., Run], photo: Path) -> None:
    sizes = [
        run("compress", photo, "--codec", "jpeg", "--quality", quality, "--json").json["files"][0]["bytes"]
        for quality in (0, 20, 60, 100)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
    default = run("compress", photo, "--codec", "jpeg", "--json").json["files"][0]["bytes"]
    assert default == sizes[2]


def test_a_wanted_size_is_met(run: Callable[..., Run], photo: Path) -> None:
    (row,) = run("compress", photo, "--codec", "webp", "--bpp", 1.2, "--json").json["files"]
    assert row["bpp"] == pytest.approx(1.2, rel=0.06)  # webp has 101 steps, a wanted size may lie between two


def test_a_wanted_psnr_is_met(run: Callable[..., Run], photo: Path) -> None:
    result = run("compress", photo, "--codec", "jpeg", "--psnr", 34)
    assert result.code == 0
    assert " dB" in result.out
    (row,) = run("compress", photo, "--codec", "jpeg", "--psnr", 34, "--json").json["files"]
    assert row["psnr"] == pytest.approx(34, abs=0.4)


def test_a_wanted_ms_ssim_is_met(run: Callable[..., Run], photo: Path) -> None:
    pytest.importorskip("pytorch_msssim")
    (row,) = run("compress", photo, "--codec", "jpeg", "--ms-ssim", 0.97, "--json").json["files"]
    assert row["ms_ssim"] == pytest.approx(0.97, abs=0.01)


@pytest.mark.parametrize(("wish", "end"), [(0.001, "lowest"), (30, "highest")])
def test_an_unreachable_wish_names_the_end_reached(run: Callable[..., Run], photo: Path, wish: float, end: str) -> None:
    result = run("compress", photo, "--codec", "jpeg", "--bpp", wish)
    assert result.code == 0
    assert f"{end} end of jpeg" in result.out
    assert result.out.count("\n") == 1


def test_two_wishes_are_refused(run: Callable[..., Run], photo: Path) -> None:
    for pair in (
        ["--quality", "3", "--bpp", "1"],
        ["--psnr", "30", "--ms-ssim", ".9"],
        ["--lossless", "--bpp", "1"],
    ):
        assert_one_line(run("compress", photo, "--codec", "jpeg", *pair), pair[0], "exclude")


@pytest.mark.parametrize(
    "options",
    [
        ["--quality", "101"],
        ["--quality", "-1"],
        ["--quality", "nan"],
        ["--quality", "fine"],
        ["--bpp", "0"],
        ["--bpp", "inf"],
        ["--psnr", "-3"],
        ["--ms-ssim", "1.5"],
        ["--effort", "0"],
        ["--effort", "10"],
        ["--lossless"],
        ["--max-error", "2"],
        ["--codec", "jpge"],
    ],
    ids=" ".join,
)
def test_bad_requests(run: Callable[..., Run], photo: Path, options: list[str]) -> None:
    before = files_under(photo.parent)
    result = run("compress", photo, "--codec", "jpeg", *options)
    assert_one_line(result)
    assert result.out == ""
    assert files_under(photo.parent) == before


def test_effort_is_passed_on(run: Callable[..., Run], photo: Path) -> None:
    sizes = [
        run("compress", photo, "--codec", "webp", "--effort", effort, "--json").json["files"][0]["bytes"]
        for effort in (1, 9)
    ]
    assert sizes[1] < sizes[0]


# inputs: files, folders, globs


def test_a_folder_gives_its_pictures_and_notes_the_rest(run: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = run("compress", folder, "--codec", "webp", "-o", out, "--json")
    assert result.code == 0
    assert files_under(out) == {"a.webp", "b.webp"}
    assert len(result.json["files"]) == 2
    assert result.json["skipped"] == [str(folder / "notes.txt")]
    assert result.err == f"kodim: note: skipped {folder / 'notes.txt'}: not a picture\n"


def test_many_strangers_in_a_folder_are_one_note(run: Callable[..., Run], folder: Path) -> None:
    for i in range(9):
        (folder / f"{i}.txt").write_text("no")
    result = run("compress", folder, "--codec", "webp")
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "10 files" in result.err


def test_globs(run: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("compress", folder / "*.*", "--codec", "webp", "-o", out).code == 0
    assert files_under(out) == {"a.webp", "b.webp"}
    assert run("compress", folder / "**" / "*.png", "--codec", "jpeg", "-o", out).code == 0
    assert files_under(out) == {"a.webp", "b.webp", "b.jpg", "c.jpg"}
    assert_one_line(run("compress", folder / "*.nef", "--codec", "jpeg"), "nothing matches")


def test_a_file_whose_name_is_a_glob(run: Callable[..., Run], photo: Path) -> None:
    odd = photo.rename(photo.with_name("photo[1]*?.png"))
    assert run("compress", odd, "--codec", "jpeg").code == 0
    assert odd.with_suffix(".jpg").exists()


def test_a_picture_without_an_ending_is_found_in_a_folder(run: Callable[..., Run], photo: Path) -> None:
    photo.rename(photo.with_name("photo"))
    assert run("compress", photo.parent, "--codec", "jpeg").code == 0
    assert photo.with_name("photo.jpg").exists()


def test_a_folder_without_pictures_is_an_error(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    for command in ("compress", "evaluate"):
        assert_one_line(run(command, tmp_path, "--codec", "jpeg"), str(tmp_path), "no picture")


def test_a_bad_file_does_not_stop_a_batch(run: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    (folder / "aa.jpg").write_bytes((folder / "a.jpg").read_bytes()[:600])
    out = tmp_path / "out"
    result = run("compress", folder / "aa.jpg", tmp_path / "none.png", folder, "--codec", "webp", "-o", out, "--json")
    assert result.code == 2
    assert files_under(out) == {"a.webp", "b.webp"}
    assert [Path(row["output"]).name for row in result.json["files"]] == ["a.webp", "b.webp"]
    assert {Path(one["input"]).name for one in result.json["failed"]} == {"aa.jpg", "none.png"}
    errors = [line for line in result.err.splitlines() if "note:" not in line]
    assert len(errors) == 2


def not_an_image(path: Path) -> None:
    path.write_text("Dear diary, today I was renamed to .png")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[:9000])


def enormous(path: Path) -> None:
    """A PNG of a few bytes that claims 10^9 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)))


def kdm(path: Path) -> None:
    path.write_bytes(kdm_bytes())


def deep(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(path)


def inks(path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(path, "JPEG")


def missing(path: Path) -> None:
    pass


BAD_PICTURES = [missing, not_an_image, empty, truncated, enormous, kdm, deep, inks]


@pytest.mark.parametrize("make", BAD_PICTURES, ids=lambda make: make.__name__)
def test_bad_pictures(run: Callable[..., Run], tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "bad.png"
    make(path)
    before = files_under(tmp_path)
    assert_one_line(run("compress", path, "--codec", "jpeg"), "bad.png")
    assert_one_line(run("evaluate", path, "--codec", "jpeg", "--quality", 50), "bad.png")
    assert files_under(tmp_path) == before


def test_names_with_control_characters_stay_on_one_line(run: Callable[..., Run], photo: Path) -> None:
    odd = photo.rename(photo.with_name("a\nb\x1b[31m.png"))
    result = run("compress", odd, "--codec", "jpeg")
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert "\x1b" not in result.out
    assert_one_line(run("compress", photo.with_name("no\nne.png")), "no such file")


# outputs


def test_a_folder_as_output_of_one_input(run: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert run("compress", photo, "--codec", "jpeg", "-o", tmp_path / "there").code == 0
    assert run("compress", photo, "--codec", "jpeg", "-o", f"{tmp_path}/new/").code == 0
    assert (tmp_path / "there" / "photo.jpg").exists()
    assert (tmp_path / "new" / "photo.jpg").exists()


def test_bad_outputs(run: Callable[..., Run], photo: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dir" / "photo.jpg").mkdir(parents=True)
    plain = tmp_path / "plain.txt"
    plain.write_text("a file")
    before = files_under(tmp_path)
    jpeg = ["--codec", "jpeg"]
    assert_one_line(run("compress", photo, *jpeg, "-o", photo), "overwrite the input")
    assert_one_line(run("compress", photo, *jpeg, "-o", tmp_path / "none" / "x.jpg"), "no folder")
    assert_one_line(run("compress", photo, *jpeg, "-o", tmp_path / "dir"), "is a folder")
    assert_one_line(run("compress", photo, *jpeg, "-o", plain / "x.jpg"), "plain.txt")
    assert_one_line(run("compress", folder, *jpeg, "-o", plain), "plain.txt")
    assert_one_line(run("compress", photo, *jpeg, "-o", ""), "-o")
    assert files_under(tmp_path) == before
    assert plain.read_text() == "a file"


def test_the_input_is_safe_behind_a_link(run: Callable[..., Run], photo: Path) -> None:
    data = photo.read_bytes()
    link = photo.with_name("link.png")
    link.symlink_to(photo)
    assert_one_line(run("compress", photo, "--codec", "jpeg", "-o", link), "overwrite the input")
    assert photo.read_bytes() == data


def test_a_link_is_written_through(run: Callable[..., Run], photo: Path) -> None:
    real, link = photo.with_name("real.jpg"), photo.with_name("link.jpg")
    link.symlink_to(real)
    assert run("compress", photo, "--codec", "jpeg", "-o", link).code == 0
    assert link.is_symlink()
    assert real.exists()


def test_two_inputs_never_share_an_output(run: Callable[..., Run], photo: Path, astronaut: Image.Image) -> None:
    twin = photo.with_suffix(".bmp")
    astronaut.save(twin)
    result = run("compress", photo, twin, "--codec", "jpeg")
    assert_one_line(result, "photo.bmp", "photo.jpg")
    assert photo.with_suffix(".jpg").exists()


def test_an_output_never_replaces_another_input(run: Callable[..., Run], photo: Path, astronaut: Image.Image) -> None:
    other = photo.with_suffix(".jpg")
    astronaut.save(other)
    data = other.read_bytes()
    assert run("compress", photo, other, "--codec", "jpeg").code == 2
    assert other.read_bytes() == data


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_the_old_file(
    run: Callable[..., Run], photo: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    goal = photo.with_name("x.jpg")
    goal.write_bytes(b"older")
    real = getattr(os, step)

    def full(first: Any, *rest: Any) -> Any:
        if step == "open" and ".kodim-" not in str(first):
            return real(first, *rest)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(first))

    before = files_under(photo.parent)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        result = run("compress", photo, "--codec", "jpeg", "-o", goal)
    assert_one_line(result, "x.jpg", "no space left")
    assert ".kodim-" not in result.err
    assert files_under(photo.parent) == before
    assert goal.read_bytes() == b"older"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_device(run: Callable[..., Run], photo: Path) -> None:
    assert_one_line(run("compress", photo, "--codec", "jpeg", "-o", "/dev/full"), "no space left")
    assert not Path("/dev/full").is_file()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(run: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert_one_line(run("compress", photo, "--codec", "jpeg", "-o", locked), "permission")


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX systems")
def test_files_have_the_usual_mode(run: Callable[..., Run], photo: Path) -> None:
    goal = photo.with_suffix(".jpg")
    before = os.umask(0o027)
    try:
        run("compress", photo, "--codec", "jpeg")
        assert goal.stat().st_mode & 0o777 == 0o640
        goal.chmod(0o600)
        run("compress", photo, "--codec", "jpeg")
        assert goal.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


# decompress


def test_decompress_keeps_pixels_and_profile(run: Callable[..., Run], photo: Path, astronaut: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    astronaut.save(photo, icc_profile=profile)
    run("compress", photo, "--codec", "webp")
    small, back = photo.with_suffix(".webp"), photo.with_name("back.png")
    result = run("decompress", small, "-o", back, "--json")
    assert result.code == 0
    (row,) = result.json["files"]
    assert row["output"] == str(back)
    assert (row["width"], row["height"]) == (256, 192)
    with Image.open(small) as coded, Image.open(back) as image:
        assert np.array_equal(np.asarray(coded), np.asarray(image))
        assert image.info["icc_profile"] == profile


def test_decompress_to_other_formats(run: Callable[..., Run], photo: Path, astronaut: Image.Image) -> None:
    for ending in ("tif", "jpg", "bmp", "webp"):
        back = photo.with_name(f"back.{ending}")
        assert run("decompress", photo, "-o", back).code == 0
        with Image.open(back) as image:
            assert image.size == astronaut.size
    assert_one_line(run("decompress", photo, "-o", photo.with_name("back.xyz")), ".xyz")
    seen_through = astronaut.copy()
    seen_through.putalpha(128)
    seen_through.save(photo)
    assert_one_line(run("decompress", photo, "-o", photo.with_name("alpha.jpg")), "alpha.jpg")
    assert not photo.with_name("alpha.jpg").exists()


def cut(data: bytes) -> bytes:
    return data[:-40]


def cut_in_header(data: bytes) -> bytes:
    return data[:20]


def flipped(data: bytes) -> bytes:
    return data[:-30] + bytes([data[-30] ^ 4]) + data[-29:]


def flipped_in_header(data: bytes) -> bytes:
    return data[:25] + bytes([data[25] ^ 128]) + data[26:]


def text(data: bytes) -> bytes:
    return b"just some text, renamed"


def nothing(data: bytes) -> bytes:
    return b""


def text_mode(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    "damage",
    [cut, cut_in_header, flipped, flipped_in_header, text, nothing, text_mode],
    ids=lambda f: f.__name__,
)
def test_damaged_kdm_files(run: Callable[..., Run], tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "photo.kdm"
    path.write_bytes(damage(kdm_bytes()))
    for command in ("decompress", "info"):
        result = run(command, path)
        assert_one_line(result, "photo.kdm")
    assert files_under(tmp_path) == {"photo.kdm"}


def test_decompress_of_a_folder_takes_kdm_files_only(run: Callable[..., Run], folder: Path) -> None:
    assert_one_line(run("decompress", folder / "deeper", "-o", folder / "out"), "deeper", "no .kdm file")
    (folder / "x.kdm").write_bytes(kdm_bytes()[:-1])
    result = run("decompress", folder)
    assert result.code == 2
    assert "skipped" in result.err
    assert f"{folder / 'x.kdm'}: " in result.err


def test_restore_is_nearer_to_the_original_than_jpeg(run: Callable[..., Run], tmp_path: Path) -> None:
    original = skimage.data.astronaut()[:256, :256]
    file = tmp_path / "photo.jpg"
    Image.fromarray(original).save(file, quality=40)
    before = file.read_bytes()
    assert run("restore", file).code == 0
    assert file.read_bytes() == before
    plain, restored = (psnr(original, np.asarray(Image.open(file.with_suffix(s)))) for s in (".jpg", ".png"))
    assert restored > plain + 0.1
    Image.fromarray(original).save(tmp_path / "other.png")
    assert_one_line(run("restore", tmp_path / "other.png"), "other.png: not a JPEG file")
    (tmp_path / "cut.jpg").write_bytes(before[: len(before) // 2])
    assert run("restore", tmp_path / "cut.jpg").code == 2
    assert not (tmp_path / "cut.png").exists()


# info and codecs


def test_info(run: Callable[..., Run], tmp_path: Path) -> None:
    path = tmp_path / "photo.kdm"
    path.write_bytes(kdm_bytes())
    result = run("info", path, "--json")
    assert result.code == 0
    expected = container.describe(kdm_bytes())
    assert {key: result.json[key] for key in expected} == expected
    assert result.json["codec"] == "minnen2018"
    shown = run("info", path)
    assert shown.code == 0
    assert "minnen2018" in shown.out
    assert "DATA" in shown.out


def test_info_draws_where_the_bits_go(run: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    file, drawn = tmp_path / "photo.kdm", tmp_path / "bits.png"
    assert run("compress", photo, "-o", file).code == 0
    assert run("info", file, "--map", drawn, "--json").json["map"] == str(drawn)
    with Image.open(photo) as original, Image.open(drawn) as found:
        assert found.size == original.size
        assert len(found.convert("RGB").getcolors(1 << 20)) > 2
    assert_one_line(run("info", file, "--map", tmp_path / "bits.gif"), "--map", ".png file")
    file.write_bytes(kdm_bytes())  # its symbols are none
    assert run("info", file, "--map", tmp_path / "none.png").code == 2
    assert not (tmp_path / "none.png").exists()


def test_info_of_what_is_no_kdm_file(run: Callable[..., Run], photo: Path) -> None:
    assert_one_line(run("info", photo), "photo.png", "not a .kdm file")
    assert_one_line(run("info", photo.parent), "is a folder")
    assert_one_line(run("info", photo.with_name("none.kdm")), "no such file")


def test_codecs_json(run: Callable[..., Run]) -> None:
    rows = run("codecs", "--json").json["codecs"]
    by_slug = {row["slug"]: row for row in rows}
    assert {"jpeg", "webp", registry.DEFAULT_CODEC} <= set(by_slug)
    for row in rows:
        assert row["kind"] in ("learned", "classical")
        assert set(row["taxonomy"]) == set(registry.TAXONOMY)
        assert all(isinstance(row[key], list) for key in ("aliases", "presets", "weights"))
    assert by_slug[registry.DEFAULT_CODEC]["kind"] == "learned"


def test_codecs_table_and_filters(run: Callable[..., Run]) -> None:
    everything = run("codecs").out
    for entry in registry.entries():
        assert sum(line.split()[0] == entry.slug for line in everything.splitlines() if line.strip()) == 1
    learned = run("codecs", "--network", "vae", "--json").json["codecs"]
    assert learned
    assert all("VAE" in row["taxonomy"]["network"] for row in learned)
    assert_one_line(run("codecs", "--range", "nowhere near"), "nowhere near", "low to high")


# evaluate and train


def test_evaluate_json(run: Callable[..., Run], photo: Path) -> None:
    result = run("evaluate", photo, "--codec", "jpeg", "--quality", 30, "--quality", 80, "--json")
    assert result.code == 0
    assert result.json["codec"] == "jpeg"
    points = result.json["points"]
    assert [point["quality"] for point in points] == [30, 80]
    assert points[0]["bpp"] < points[1]["bpp"]
    assert points[0]["psnr"] < points[1]["psnr"]
    for point in points:
        (image,) = point["images"]
        assert image["input"] == str(photo)
        assert image["bpp"] == pytest.approx(8 * image["bytes"] / (256 * 192))
        assert point["bpp"] == pytest.approx(image["bpp"])
        assert {"psnr", "ms_ssim", "encode_s", "decode_s"} <= set(image) & set(point)


def test_evaluate_table_has_a_mean_for_each_quality(run: Callable[..., Run], folder: Path) -> None:
    result = run("evaluate", folder, "--codec", "webp", "--quality", 20, "--quality", 60)
    assert result.code == 0
    lines = result.out.splitlines()
    assert sum("mean" in line for line in lines) == 2
    assert sum("a.jpg" in line for line in lines) == 2


def test_evaluate_errors(run: Callable[..., Run], photo: Path) -> None:
    assert_one_line(run("evaluate", photo), "--codec")
    assert_one_line(run("evaluate", photo, "--codec", "nosuch"), "nosuch")
    assert_one_line(run("evaluate", photo, "--codec", "jpeg", "--quality", 101), "101")
    assert_one_line(run("evaluate", photo.with_name("none.png"), "--codec", "jpeg"), "none.png")


def test_train_errors(run: Callable[..., Run], tmp_path: Path) -> None:
    goal = ["-o", tmp_path / "x.ckpt"]
    assert_one_line(run("train", "minnen2018", "--data", tmp_path / "none", *goal), "no such folder")
    assert_one_line(run("train", "nosuch", "--data", tmp_path, *goal), "nosuch")
    assert_one_line(run("train", "jpeg", "--data", tmp_path, *goal), "classical")
    assert_one_line(run("train", "minnen2018", "--data", tmp_path, "--minutes", 0, *goal), "--minutes")
    assert_one_line(run("train", "minnen2018", "--data", tmp_path, "--device", "abacus", *goal), "abacus")
    assert_one_line(run("train", "minnen2018", "--data", tmp_path, "--drawn", 2, *goal), "--drawn")
    assert_one_line(run("train", "minnen2018", "--data", tmp_path, "--resume", tmp_path / "n", *goal), "no such file")
    assert_one_line(run("train", "minnen2018", "--data", tmp_path), "--output")


# the program


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(run: Callable[..., Run], command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "Examples" in result.out
    assert f"kodim {command} " in result.out


def test_the_front_page_names_every_command(run: Callable[..., Run]) -> None:
    for argv in ([], ["--help"], ["-h"]):
        result = run(*argv)
        assert result.code == 0
        assert all(command in result.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--foo"], "--foo"),
        (["compress", "--foo", "x.png"], "try kodim compress --help"),
        (["compress"], "IN"),
        (["compress", "x.png", "--quality"], "--quality"),
        (["info", "a", "b"], "b"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_usage_errors_are_one_line(run: Callable[..., Run], argv: list[str], word: str) -> None:
    result = run(*argv)
    assert_one_line(result, word)
    assert result.out == ""


def test_our_own_faults_are_one_line_too(run: Callable[..., Run], photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kodim.classical

    def broken(*args: object, **kwargs: object) -> bytes:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(kodim.classical.Jpeg, "encode", broken)
    monkeypatch.delenv("KODIM_TRACEBACK", raising=False)
    assert_one_line(run("compress", photo, "--codec", "jpeg"), "ZeroDivisionError", "KODIM_TRACEBACK", code=1)
    monkeypatch.setenv("KODIM_TRACEBACK", "1")
    result = run("compress", photo, "--codec", "jpeg")
    assert result.code == 1
    assert "Traceback" in result.err


def console_script() -> list[str]:
    script = Path(sys.executable).with_name("kodim")
    return [str(script)] if script.exists() else [sys.executable, "-m", "kodim"]


def test_the_installed_program(photo: Path) -> None:
    done = subprocess.run(
        [*console_script(), "compress", photo.name, "--codec", "jpeg", "--json"],
        cwd=photo.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["files"][0]["output"] == "photo.jpg"
    done = subprocess.run(
        [sys.executable, "-m", "kodim", "compress", "none.png"],
        cwd=photo.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "kodim: none.png: no such file or folder\n"


def test_light_commands_do_not_import_torch(photo: Path) -> None:
    kdm(photo.with_name("x.kdm"))
    lines = [
        ["--help"],
        ["codecs"],
        ["info", "x.kdm"],
        ["compress", "photo.png", "--codec", "jpeg", "--bpp", "1"],
    ]
    code = f"import sys; from kodim.cli import main; print([main(a) for a in {lines}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=photo.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] False"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX systems")
@pytest.mark.parametrize("argv", [["codecs"], ["codecs", "--json"], ["--help"]])
def test_a_closed_pipe_is_quiet(argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([*console_script(), *argv], stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="shells of POSIX systems")
def test_streams_closed_by_the_shell(photo: Path) -> None:
    for streams in (">&-", "2>&-", ">&- 2>&-"):
        command = f"{sys.executable} -m kodim compress {photo} --codec jpeg -o {photo.parent}/x.jpg {streams}"
        assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 0
        photo.with_name("x.jpg").unlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_results_that_cannot_be_printed() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*console_script(), "codecs"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "kodim: no space left on device\n"


# with the default, learned codec


@needs_weights
def test_there_and_back_with_the_default_codec(run: Callable[..., Run], photo: Path) -> None:
    assert run("compress", photo).code == 0
    small = photo.with_suffix(".kdm")
    assert container.is_kdm(small.read_bytes())
    back = photo.with_name("back")
    shutil.copy(small, photo.with_name("copy.kdm"))
    result = run("decompress", photo.parent / "*.kdm", "-o", back)
    assert result.code == 0
    assert files_under(back) == {"photo.png", "copy.png"}
    with Image.open(photo) as original, Image.open(back / "photo.png") as image:
        assert image.size == original.size
        error = np.asarray(original, float) - np.asarray(image, float)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 25
    assert (back / "photo.png").read_bytes() == (back / "copy.png").read_bytes()


@needs_weights
def test_a_wanted_size_with_the_default_codec(run: Callable[..., Run], photo: Path) -> None:
    (row,) = run("compress", photo, "--bpp", 0.5, "--json").json["files"]
    assert row["bpp"] == pytest.approx(0.5, rel=0.02)


@needs_weights
def test_damage_to_a_real_file_is_found(run: Callable[..., Run], photo: Path) -> None:
    run("compress", photo)
    small = photo.with_suffix(".kdm")
    data = small.read_bytes()
    before = files_under(photo.parent)
    for where in (9, 40, len(data) // 2, len(data) - 2):
        small.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :])
        assert_one_line(run("decompress", small, "-o", photo.with_name("back.png")), "photo.kdm")
    assert files_under(photo.parent) == before
