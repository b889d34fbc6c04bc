"""The leaderboard: figures and marks from made-up points, and the command on small real pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from kodim import registry
from kodim.bench import leaderboard as lb
from kodim.bench.points import Points, collect
from kodim.cli import main
from kodim.registry import Entry

PICTURES = {"name": "set", "count": 3, "megapixels": 0.5}
CARD = """
data = "{data}"
parameters = 2500000
[[legs]]
codec = "trunk"
minutes = 2
core_minutes = {trunk}
megapixels = 500
[[legs]]
codec = "x"
minutes = 10
core_minutes = 20
megapixels = 1000
"""


def evaluation(scale: float, seconds: float = 0.2, qualities: int = 5, **more: Any) -> dict[str, Any]:
    """Points whose rate is `scale` times that of `evaluation(1)` at equal quality."""
    points = [
        {
            "quality": 20.0 * i,
            "bpp": scale * 0.2 * 1.5**i,
            "psnr": 28.0 + 2 * i,
            "ms_ssim": 1 - 0.1 * 0.6**i,
            "encode_s": seconds,
            "decode_s": seconds / 2,
        }
        for i in range(qualities)
    ]
    return {"codec": "x", "points": points, **more}


def entry(slug: str, network: str = "CNN VAE", kind: str = "learned", **more: Any) -> Entry:
    taxonomy = dict.fromkeys(registry.TAXONOMY, "some | thing") | {"network": network}
    return Entry(slug, kind, f"Title of {slug}", weights=["compact"], taxonomy=taxonomy, **more)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and cards of made-up systems in the place of the shipped ones."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for slug, trunk, data in (("old", 1, "photos"), ("new", 1, "photos"), ("other", 80, "more photos")):
        (folder / f"{slug}.compact.safetensors").write_bytes(b"x" * 123_000)
        (folder / f"{slug}.compact.toml").write_text(CARD.format(trunk=trunk, data=data))
    monkeypatch.setattr(registry, "weights_folder", lambda: folder)
    known = {slug: entry(slug) for slug in ("old", "new", "other")}
    monkeypatch.setattr(lb, "find", lambda name: known[name])


def made(*entries: Entry, **points: dict[str, Any]) -> dict[str, Any]:
    return lb.board(entries, points, pictures=PICTURES, anchors=["old"])


@pytest.mark.parametrize(
    ("network", "family"),
    [
        ("VAE (CNN with GDN)", "VAE"),
        ("CNN VAE with attention", "VAE"),
        ("RNN (ConvLSTM) + GDN", "RNN"),
        ("CNN autoencoder + GAN", "GAN"),
        ("CNN predictor + RNN residual coder", "RNN"),
        ("overfitted coordinate-free INR: latent pyramid + small MLP/CNN", "overfitted"),
        ("fully connected autoencoder (DNN/MLP)", "fully connected"),
        ("convolutional autoencoder", "CNN"),
        ("none", "other"),
    ],
)
def test_families(network: str, family: str) -> None:
    assert lb.family(network) == family


@pytest.mark.usefixtures("zoo")
def test_rows_are_sorted_by_bd_rate_and_carry_their_costs() -> None:
    extra = {"complexity": {"encode_kmac": 40.0, "decode_kmac": 30.0}, "measured": "2031-02-03"}
    board = made(entry("old"), entry("new"), old=evaluation(1), new=evaluation(0.9, **extra))
    new, old = board["rows"]
    assert (new["slug"], old["slug"]) == ("new", "old")
    for metric in ("psnr", "ms_ssim"):
        assert new["bd"]["old"][metric] == {"bd_rate": pytest.approx(-10), "overlap": 1.0}
    assert new["training"] == {"gigapixels": 1.5, "core_minutes": 21, "devices": ["cpu"], "data": "photos"}
    assert (new["parameters"], new["weights_bytes"]) == (2_500_000, 123_000)
    assert (new["encode_ms"], new["decode_ms"]) == (pytest.approx(400), pytest.approx(200))
    assert (new["encode_kmac"], old["encode_kmac"]) == (40.0, None)
    assert new["bpp"] == [pytest.approx(0.18), pytest.approx(0.9 * 0.2 * 1.5**4)]
    assert board["measured"] == []  # of one the date is not known


@pytest.mark.usefixtures("zoo")
def test_a_system_below_the_one_it_improves_is_marked_and_explained() -> None:
    entries = (entry("old"), entry("new", improves="old", place="It had too little time."))
    behind = made(*entries, old=evaluation(1), new=evaluation(1.08))
    assert behind["rows"][1]["claim"]["below"]
    text = lb.markdown(behind, command="kodim leaderboard set/")
    assert "| ▼ new |" in text
    assert (
        "- ▼ `new` is behind `old`, which it says it improves on (PSNR +8.0% (100%), MS-SSIM +8.0% (100%)). It had too"
        in text
    )
    ahead = lb.markdown(made(*entries, old=evaluation(1), new=evaluation(0.9)), command="")
    assert "| new |" in ahead
    assert "- `new` improves on `old`, as it says (PSNR -10.0% (100%)" in ahead


@pytest.mark.usefixtures("zoo")
def test_a_mark_without_a_reason_says_so_and_a_claim_that_cannot_be_checked_too() -> None:
    silent = entry("new", improves="old")
    text = lb.markdown(made(entry("old"), silent, old=evaluation(1), new=evaluation(1.01)), command="")
    assert "Why has not been explained yet." in text
    alone = made(silent, new=evaluation(1))
    assert alone["rows"][0]["claim"]["below"] is False
    assert "the points here cannot tell" in lb.markdown(alone, command="")


@pytest.mark.usefixtures("zoo")
def test_what_cannot_be_compared_is_na_and_last() -> None:
    few, far = evaluation(0.1, qualities=3), evaluation(1)
    for point in far["points"]:
        point["psnr"] += 50
        point["ms_ssim"] = None
    board = lb.board(
        [entry("new"), entry("other"), entry("old")],
        {"new": few, "other": far, "old": evaluation(1)},
        pictures=PICTURES,
        anchors=["old"],
    )
    assert [row["slug"] for row in board["rows"]] == ["old", "new", "other"]
    for row in board["rows"][1:]:
        assert all(figure["bd_rate"] is None for figure in row["bd"]["old"].values())
    assert "| n/a | n/a |" in lb.markdown(board, command="")
    json.dumps(board, allow_nan=False)


@pytest.mark.usefixtures("zoo")
def test_codecs_that_are_not_in_the_table_are_named_with_the_reason() -> None:
    untrained = Entry("seed", "learned", "A seed", taxonomy=dict.fromkeys(registry.TAXONOMY, ""))
    board = lb.board(
        [entry("old"), untrained, entry("new")],
        {"old": evaluation(1)},
        pictures=PICTURES,
        anchors=["old"],
        absent={"new": "the package is missing"},
    )
    assert board["absent"] == [
        {"slug": "seed", "title": "A seed", "reason": "not trained"},
        {"slug": "new", "title": "Title of new", "reason": "the package is missing"},
    ]
    assert "- `seed`, A seed: not trained\n- `new`, Title of new: the package is missing\n" in lb.markdown(
        board, command=""
    )


@pytest.mark.usefixtures("zoo")
def test_the_document_says_whether_the_budgets_are_equal() -> None:
    points = {"old": evaluation(1), "new": evaluation(0.9)}
    assert "It is kept: 21 to 21 core-minutes, 1.50 to 1.50 Gpx, the same data, on cpu." in lb.markdown(
        made(entry("old"), entry("new"), **points), command=""
    )
    points["other"] = evaluation(0.8)
    uneven = lb.markdown(made(*map(entry, points), **points), command="")
    assert "**It is not kept yet**: 21 to 100 core-minutes, 1.50 to 1.50 Gpx, 2 different sets of data" in uneven


@pytest.mark.usefixtures("zoo")
def test_the_table_is_well_formed_and_says_what_it_should() -> None:
    board = made(
        entry("old", arxiv="1234.5"), entry("jpeg", "none", "classical"), old=evaluation(1), jpeg=evaluation(2)
    )
    text = lb.markdown(board, command="kodim leaderboard set/ -o x.md", figures={"VAE": ["x-vae.png"]}, times=False)
    rows = [line.replace(r"\|", "/") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1
    assert rows[0].startswith(
        "| codec | network | spatial | rate | bpp | PSNR / old | MS-SSIM / old | Gpx | core-min |"
    )
    assert rows[2].startswith(
        "| [old](https://arxiv.org/abs/1234.5) | CNN VAE | some / thing | some / thing | 0.20-1.01 | 0 | 0 |"
    )
    assert rows[3].startswith("| jpeg |  |  |  | 0.40-2.02 | +100.0% (100%) | +100.0% (100%) |")
    assert "ms/Mpx" not in text
    assert "$ kodim leaderboard set/ -o x.md" in text
    assert "### VAE\n\n![VAE: quality over rate](x-vae.png)" in text


@pytest.mark.usefixtures("zoo")
def test_csv_has_bare_numbers() -> None:
    board = made(entry("old"), entry("new", improves="old"), old=evaluation(1), new=evaluation(0.9))
    new, old = csv.DictReader(io.StringIO(lb.table(board)))
    assert float(new["bd_rate_psnr_old"]) == pytest.approx(-10)
    assert (new["improves"], new["below"], old["improves"]) == ("old", "False", "")
    assert (new["gigapixels"], new["encode_kmac"], new["network"]) == ("1.5", "", "CNN VAE")


# Points on disk, and the command


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    for i, pixels in enumerate((skimage.data.astronaut(), skimage.data.coffee())):
        Image.fromarray(pixels[100:268, 100:292]).save(folder / f"{i}.png", compress_level=1)
    return folder


@pytest.fixture
def store(tmp_path: Path, pictures: Path) -> Points:
    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    files = [str(path) for path in sorted(pictures.iterdir())]
    (tmp_path / "points").mkdir()
    return Points(tmp_path / "points", "small", files, write)


def test_points_are_measured_once(store: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = registry.find("jpeg")
    first, absent = collect([jpeg], store)
    assert absent == {}
    assert [point["quality"] for point in first["jpeg"]["points"]] == list(registry.get("jpeg").qualities)
    monkeypatch.setattr(Points, "measure", None)
    again, _ = collect([jpeg], store, measure=False)
    assert again == first
    other = Points(store.folder, "small", store.pictures[:1], store.write)  # other pictures: other points
    assert collect([jpeg], other, measure=False)[0] == {}


def test_a_run_that_was_stopped_goes_on(store: Points) -> None:
    class Stop(Exception):
        pass

    told: list[str] = []

    def tell(what: str) -> None:
        told.append(what)
        if len(told) == 4:
            raise Stop

    jpeg = registry.get("jpeg")
    with pytest.raises(Stop):
        store.measure(jpeg, tell)
    assert store.kept(jpeg) is None
    store.measure(jpeg, told.append)
    assert len(told) == 1 + len(jpeg.qualities) * len(store.pictures)  # only what was stopped is done twice


def test_points_equal_those_of_evaluate(store: Points) -> None:
    from kodim.bench.evaluate import evaluate

    kept = collect([registry.find("webp")], store)[0]["webp"]["points"]
    for ours, theirs in zip(kept, evaluate(store.pictures, "webp")["points"], strict=True):
        for figure in ("quality", "bpp", "psnr", "ms_ssim"):
            assert ours[figure] == pytest.approx(theirs[figure])


def test_a_codec_that_fails_leaves_the_others(store: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.get("webp")), "module", "no_such_module")
    found, absent = collect([registry.find("webp"), registry.find("jpeg")], store)
    assert list(found) == ["jpeg"]
    assert "missing" in absent["webp"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: object) -> tuple[int, str, str]:
        code = main(["leaderboard", *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_command_writes_everything_and_repeats_itself(
    run: Callable[..., tuple[int, str, str]], pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "board.md"
    words = (pictures, "-o", output, "--codecs", "balle2017,webp", "--anchors", "jpeg")
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    rows = {row["slug"]: row for row in json.loads(out)["rows"]}
    assert set(rows) == {"balle2017", "jpeg", "webp"}
    layers = 192**2 / 256 + 192 * 128 * 25 / 256 + 128**2 / 64 + 128 * 96 * 25 / 64 + 96**2 / 16 + 96 * 3 * 81 / 16
    assert rows["balle2017"]["decode_kmac"] == pytest.approx(layers / 1000)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    figures = {f"board-vae-{view}.{kind}" for view in ("psnr", "ms_ssim_db") for kind in ("png", "svg")}
    assert set(written) == {"board.md", "board.csv", *figures}
    text = written["board.md"].decode()
    assert "2 pictures of `small`, measured 20" in text
    assert "kodim leaderboard small/ -o board.md --codecs balle2017,webp --anchors jpeg\n" in text
    assert str(tmp_path) not in text
    assert run(*words, "--kept")[0] == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("small", "-o", "board.txt"), "ends in .md"),
        (("small", "--codecs", "jpg2"), "unknown codec"),
        (("none",), "no such file"),
        (("small", "--codecs", "jpeg", "--kept"), "without --kept"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    run: Callable[..., tuple[int, str, str]],
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(pictures.parent)
    before = sorted(pictures.parent.rglob("*"))
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert sorted(pictures.parent.rglob("*")) == before
