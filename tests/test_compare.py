"""`kodim compare`: the measurements, their means and BD figures, and a run that is interrupted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bjontegaard
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

import kodim
from kodim.bench import curves, published
from kodim.bench.compare import Study
from kodim.bench.complexity import bit_map, complexity, stream_map
from kodim.bench.gallery import quality_for
from kodim.bench.journal import Journal
from kodim.bench.work import run as run_tasks
from kodim.classical import CLASSICAL
from kodim.cli import main
from kodim.errors import BadRequest
from kodim.metrics import METRICS, psnr
from kodim.picture import load

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PATCH = 170, 180  # height, width: MS-SSIM has a figure
QUALITIES = (10, 30, 50, 70)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colour and a grey picture of different size, a damaged one, and a text file."""
    folder = tmp_path_factory.mktemp("pictures")
    height, width = PATCH
    Image.fromarray(skimage.data.astronaut()[:height, 100 : 100 + width]).save(folder / "colour.png")
    Image.fromarray(skimage.data.camera()[:96, 200:320]).save(folder / "grey.png")
    (folder / "damaged.png").write_bytes((folder / "colour.png").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of the command line has written."""
    out = tmp_path_factory.mktemp("out")
    assert main([*command(folder, out), "--pictures", "1"]) == 2  # a picture was left out
    return out


def command(folder: Path, out: Path, codecs: str = "jpeg,webp") -> list[str]:
    grid = ",".join(map(str, QUALITIES))
    metrics = ["--metrics", "psnr,ms_ssim,nlpd"]
    return ["compare", str(folder), "--codecs", codecs, "--qualities", grid, *metrics, "-o", str(out)]


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file without what a clock or the number of processes decided."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if k not in ("encode_s", "decode_s", "jobs")} for row in rows]


def tables(out: Path) -> list[list[dict[str, str]]]:
    return [table(out / name) for name in ("points.csv", "means.csv", "bd_rate.csv")]


def test_files_that_are_no_pictures_are_named_and_the_rest_is_measured(compared: Path) -> None:
    result = json.loads((compared / "points.json").read_text())
    left_out = {Path(one["input"]).name: one["reason"] for one in result["left_out"]}
    assert set(left_out) == {"damaged.png", "notes.txt"}
    assert "damaged" in left_out["damaged.png"]
    assert left_out["notes.txt"] == "not a picture"
    assert [one["name"] for one in result["pictures"]] == ["colour.png", "grey.png"]
    assert [one["mode"] for one in result["pictures"]] == ["RGB", "L"]
    assert any("MS-SSIM: 1 of 2" in note for note in result["notes"])
    assert all(len(point["images"]) == 2 for point in result["points"])
    for view in ("psnr", "ms_ssim", "ms_ssim_db", "nlpd"):
        assert (compared / f"{view}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (compared / f"{view}.svg").read_bytes()


def test_every_row_is_a_real_file_and_says_how_to_repeat_it(compared: Path, folder: Path) -> None:
    rows = [row for row in table(compared / "points.csv") if row["picture"] == "colour.png"]
    assert len(rows) == 2 * len(QUALITIES)
    picture = load(folder / "colour.png")
    for row in rows:
        codec = CLASSICAL[row["codec"]]
        data = codec.encode(picture, float(row["quality"]))
        assert int(row["bytes"]) == len(data)
        assert float(row["bpp"]) == 8 * len(data) / (PATCH[0] * PATCH[1])
        assert float(row["psnr"]) == psnr(picture.pixels, codec.decode(data).pixels)
        assert json.loads(row["arguments"]) == codec.arguments(float(row["quality"]))
        assert json.loads(row["versions"]).items() >= codec.versions().items()
        assert row["chroma"] == {"jpeg": "4:4:4", "webp": "4:2:0"}[row["codec"]]
        assert row["threads"] == "1"


def test_means_come_first_and_bd_figures_agree_with_the_package(compared: Path) -> None:
    means, points = table(compared / "means.csv"), table(compared / "points.csv")
    for mean in means:
        values = [p for p in points if (p["codec"], p["quality"]) == (mean["codec"], mean["quality"])]
        assert float(mean["psnr"]) == pytest.approx(sum(float(p["psnr"]) for p in values) / 2)
        assert float(mean["bpp"]) == pytest.approx(sum(float(p["bpp"]) for p in values) / 2)
        assert float(mean["ms_ssim_db"]) == pytest.approx(-10 * np.log10(1 - float(mean["ms_ssim"])))
    for metric, column, sign in (("psnr", "psnr", 1), ("ms_ssim", "ms_ssim_db", 1), ("nlpd", "nlpd", -1)):
        curve = {
            codec: [[sign * float(m[name]) if name == column else float(m[name]) for m in means if m["codec"] == codec]
                    for name in ("bpp", column)]
            for codec in ("jpeg", "webp")
        }  # fmt: skip
        wanted = bjontegaard.bd_rate(
            *curve["jpeg"], *curve["webp"], method="pchip", require_matching_points=False, min_overlap=0
        )
        rows = {(r["metric"], r["codec"], r["anchor"]): r for r in table(compared / "bd_rate.csv")}
        row = rows[metric, "webp", "jpeg"]
        assert float(row["bd_rate"]) == pytest.approx(wanted, abs=0.01)
        assert 0 < float(row["overlap"]) < 1


KILLED = """
import os, signal, sys
import kodim.classical
from kodim.cli import main

real, calls = kodim.classical.Jpeg.encode, []

def encode(*args, **kwargs):
    calls.append(1)
    if len(calls) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)

kodim.classical.Jpeg.encode = encode
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_and_gives_the_same_tables(
    folder: Path, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = command(folder, tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, *argv], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["measurements.jsonl"]
    before = len((tmp_path / "measurements.jsonl").read_bytes().splitlines())
    assert 0 < before < 16
    calls = counted(monkeypatch)
    assert main([*argv, "--pictures", "0"]) == 2
    # the seventh call was the second of the second picture (one had warmed up): three are left, and one may warm up
    assert len(calls) in (3, 4)
    assert tables(tmp_path) == tables(compared)
    calls.clear()
    assert main([*argv, "--pictures", "0"]) == 2
    assert calls == []


def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The qualities at which JPEG is asked to encode from here on."""
    calls: list[float] = []
    real = kodim.classical.Jpeg.encode

    def encode(self: Any, picture: Any, quality: float, **options: Any) -> bytes:
        calls.append(quality)
        return real(self, picture, quality, **options)

    monkeypatch.setattr(kodim.classical.Jpeg, "encode", encode)
    return calls


def test_only_what_is_new_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(skimage.data.astronaut()[:40, :40]).save(path)

    def study(*qualities: float, metrics: Sequence[str] = ("psnr",)) -> Study:
        return Study([path], ["jpeg"], folder=tmp_path / "out", qualities=qualities, metrics=metrics)

    study(20, 40).measure()
    assert [task.quality for task in study(20, 40, 60).todo] == [60]
    assert len(study(20, 40, metrics=("psnr", "nlpd")).todo) == 2
    Image.fromarray(skimage.data.astronaut()[:40, 1:41]).save(path)
    assert len(study(20, 40).todo) == 2  # another picture under the same name


def test_jobs_change_nothing_but_the_seconds(folder: Path, compared: Path, tmp_path: Path) -> None:
    assert main([*command(folder, tmp_path), "--pictures", "0", "--jobs", "2"]) == 2
    assert tables(tmp_path) == tables(compared)
    assert '"jobs": 2' in (tmp_path / "points.json").read_text()


def test_half_a_line_in_the_journal_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "journal"
    journal = Journal(path)
    journal.add("a", 1)
    with open(path, "ab") as stream:
        stream.write(b'{"key": "b", "val')
    journal = Journal(path)
    assert "a" in journal
    assert "b" not in journal
    journal.add("c", {"x": [2]})
    assert Journal(path)["c"] == {"x": [2]}


def test_a_picture_that_one_codec_cannot_carry_is_left_out_for_all(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 16500, 3), np.uint8)).save(tmp_path / "wide.png")
    files = [tmp_path / "wide.png", folder / "colour.png"]
    study = Study(files, ["jpeg", "webp"], folder=tmp_path, qualities=[30], metrics=["psnr"])
    study.measure()
    result = study.result()
    assert [Path(one["input"]).name for one in result["left_out"]] == ["wide.png"]
    assert result["left_out"][0]["reason"].startswith("webp: ")
    assert all([i["picture"] for i in p["images"]] == ["colour.png"] for p in result["points"])
    assert {row["note"] for row in result["bd"]} == {"a BD figure needs 4 points per curve; the anchor has 1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--codecs", "jpeg,jpge2"], "unknown codec 'jpge2'"),
        (["--codecs", "jpeg,heic"], 'pip install "kodim[bench]"'),
        (["--codecs", "jpeg", "--qualities", "10,101"], "0 to 100"),
        (["--codecs", "jpeg", "--qualities", "10,high"], "not 'high'"),
        (["--codecs", "jpeg", "--anchor", "webp"], "not among the codecs"),
        (["--codecs", "jpeg", "--anchor", "published:vtm2", "--published"], "unknown codec"),
        (["--codecs", "jpeg", "--metrics", "beauty"], "beauty"),
        (["--codecs", ","], "at least one codec"),
    ],
)
def test_requests_at_fault_are_refused_before_any_work(
    folder: Path,
    tmp_path: Path,
    change: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(kodim.classical.Heic, "available", lambda self: False)
    assert main(["compare", str(folder), "-o", str(tmp_path / "out"), *change]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty"), "--codecs", "jpeg", "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"kodim: {tmp_path / 'empty'}: no picture in there\n"
    assert not (tmp_path / "out").exists()


def test_a_learned_codec_takes_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(skimage.data.astronaut()[:64, 200:264]).save(tmp_path / "a.png")
    argv = ["compare", str(tmp_path / "a.png"), "--codecs", "balle2017,jpeg", "--qualities", "20,60"]
    assert main([*argv, "--metrics", "psnr", "--json", "-o", str(tmp_path / "out")]) == 0
    card, jpeg = json.loads(capsys.readouterr().out)["codecs"]
    assert card["weights"] == kodim.create_codec("balle2017").fingerprint().hex()
    assert card["kind"] == "learned"
    assert card["encode_kmac"] > 1
    assert jpeg["parameters"] is None
    shots = json.loads((tmp_path / "out" / "pictures.jsonl").read_text().splitlines()[0])["value"]
    assert shots["bits"].startswith("data:image/png;base64,")


class Convolutions:
    """Multiply-accumulates of a codec's strided layers and GDNs by hand, on a picture of 64 x 64."""

    @staticmethod
    def of(pyramid: nn.Module, side: int) -> int:
        total = 0
        for layer in pyramid.modules():
            if isinstance(layer, nn.Conv2d):
                side //= layer.stride[0]
                total += layer.weight.numel() * side**2
            elif isinstance(layer, nn.ConvTranspose2d):
                total += layer.weight.numel() * side**2
                side *= layer.stride[0]
            elif type(layer).__name__ == "GDN":
                total += layer.gamma.numel() * side**2
        return total


def test_arithmetic_is_counted_as_by_hand() -> None:
    codec = kodim.create_codec("balle2017", pretrained=False)
    codec.freeze()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = complexity(codec, x)
    assert found.encode_kmac == pytest.approx(Convolutions.of(codec.analysis, 64) / 64**2 / 1000)
    latent = 64 // 2 ** sum(isinstance(m, nn.Conv2d) and m.stride[0] == 2 for m in codec.analysis.modules())
    if any(isinstance(m, nn.Conv2d) and m.stride[0] == 4 for m in codec.analysis.modules()):
        latent //= 4
    assert found.decode_kmac == pytest.approx(Convolutions.of(codec.synthesis, latent) / 64**2 / 1000)
    assert found.parameters == sum(p.numel() for p in codec.parameters())


@pytest.mark.parametrize("slug", ["balle2017", "minnen2018"])
def test_the_bit_map_holds_the_bits_of_the_estimate(slug: str) -> None:
    codec = kodim.create_codec(slug)
    x = torch.from_numpy(skimage.data.astronaut()[:64, :128].copy()).permute(2, 0, 1)[None] / 255
    found = bit_map(codec, x, 50.0)
    bits = codec(x, 50.0).bits
    assert found.shape == (64, 128)
    assert found.sum() == pytest.approx(sum(float(b) for b in bits.values()), rel=1e-4)
    assert found.std() > 0
    assert "program" not in vars(codec)  # nobody listens any more


@pytest.mark.parametrize(
    "slug", ["kodim", "lee2019", "koyuncu2022", "brummer2021", "johnston2018", "minnen2017", "overfit"]
)
def test_the_map_of_a_stream_needs_no_original(slug: str) -> None:
    codec = kodim.create_codec(slug, pretrained=False).eval()
    codec.freeze()
    # On the left there is nothing to tell.
    x = torch.from_numpy(skimage.data.astronaut()[64:192, 64:192].copy()).permute(2, 0, 1)[None] / 255
    x[..., :64] = 0.5
    stream, _ = codec.compress(x, 70.0)
    found = stream_map(codec, stream, (128, 128), 70.0)
    assert found.shape == (128, 128)
    assert np.allclose(found, bit_map(codec, x, 70.0), rtol=0.01, atol=1e-3)
    assert found.sum() == pytest.approx(8 * len(stream.data), rel=0.02, abs=96 * max(codec.passes, 1))
    assert found[:, 64:].std() > 0.01 * found.mean()


def test_quality_for_a_rate_lies_on_the_codecs_own_curve() -> None:
    points = [(0.1, 10.0), (0.2, 30.0), (0.4, 50.0)]
    assert quality_for(0.2, points, continuous=True) == 30
    assert quality_for(0.1 * 2**0.5, points, continuous=True) == pytest.approx(20)
    assert quality_for(0.15, points, continuous=False) == round(quality_for(0.15, points, continuous=True))
    assert quality_for(9, points, continuous=True) == 50


def test_kodak_is_known_by_its_names(tmp_path: Path) -> None:
    for i in range(1, 25):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f"kodim{i:02}.png")

    def study(files: list[Path], wanted: bool | None = None, anchor: str | None = None) -> Study:
        return Study(files, ["jpeg"], folder=tmp_path, anchor=anchor, metrics=["psnr"], with_published=wanted)

    files = sorted(tmp_path.iterdir())
    assert study([tmp_path]).published is not None
    assert study([tmp_path], wanted=False).published is None
    assert study(files[:23]).published is None
    assert study(files[:2], wanted=True, anchor="published:vtm").anchor == curves.PUBLISHED + "vtm"


def test_measured_curves_against_published_ones() -> None:
    def gap(codec: str, anchor: str) -> dict[str, Any]:
        return published.agreement(json.loads((RESULTS / f"kodak-{codec}.json").read_text()), anchor)

    webp = gap("webp", "webp")
    assert webp["points"] > 10
    assert abs(webp["worst"]) < 0.1
    curve = published.load().curve("webp")
    better = published.Curve("better", curve.bpp, tuple(q + 1 for q in curve.psnr))
    assert published.agreement(better, curve)["mean"] == pytest.approx(1)
    far = published.Curve("far", (50.0, 60.0), (40.0, 41.0))
    assert published.agreement(far, curve)["worst"] is None


def test_every_metric_of_the_registry_has_an_axis() -> None:
    views = curves.views(map(curves.describe, METRICS.values()))
    names = [view["name"] for view in views]
    assert set(METRICS) <= set(names)
    assert "ms_ssim_db" in names
    line = curves.Line("a", [0.1, 0.2, 0.4, 0.8], {name: [0.4, 0.3, 0.2, 0.1] for name in METRICS})
    less = curves.Line("b", [0.05, 0.1, 0.2, 0.4], line.values)
    (row,) = curves.bd_table([less], [line], [METRICS["nlpd"]])
    assert row["bd_rate"] == pytest.approx(-50)
    assert row["overlap"] == 1


def test_a_process_that_dies_is_one_line() -> None:
    with pytest.raises(BadRequest, match="--jobs"):
        list(run_tasks(os._exit, [1, 2], jobs=2))


def test_progress_tells_what_is_measured(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    study = Study([folder / "grey.png"], ["jpeg"], folder=tmp_path, qualities=[30, 50], metrics=["psnr"])
    tell: Callable[[str], None] = told.append
    study.measure(progress=tell)
    assert told == ["grey.png, jpeg at quality 30", "grey.png, jpeg at quality 50"]
