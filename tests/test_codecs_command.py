"""`kodim codecs`: filters by the taxonomy, the table as text, Markdown and JSON, and what `--explain` tells."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kodim
from kodim import registry
from kodim.cli import main
from kodim.cli.inspect import read_doc
from kodim.errors import BadRequest

SYSTEM = '''"""A codec of loops.

A. Author, "Loops", ICML 2031, arXiv 3101.00001.

Every loop sends what the last one missed,
so a prefix is a picture::

    x --> loop --> b

    b --> loop --> x_hat

What it shows: the second loop halves the error.
"""

class Loops(Codec):
    info = {
        "slug": "loops",
        "title": "A codec | of loops",
        "authors": "Author",
        "year": 2031,
        "arxiv": "3101.00001",
        "aliases": ["loopy"],
        "improves": "jpeg",
        "place": "It is young.",
        "taxonomy": {
            "network": "RNN (ConvGRU)",
            "unit": "full image",
            "spatial": "none",
            "rate": "number of loops",
            "range": "low to medium",
        },
    }
    presets = {"paper": {"width": 512, "loops": 16}, "compact": {"width": 32, "loops": 8}}
'''
CARD = """
data = "a hundred photographs"
bytes = 1234567
parameters = 2500000
licence = "MIT"

[figures]
bpp = 0.5

[[legs]]
codec = "trunk"
minutes = 3.5
core_minutes = 7.0
megapixels = 250

[[legs]]
codec = "loops"
minutes = 11.0
core_minutes = 20.0
megapixels = 750
device = "cuda"
"""


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's only system is one with trained weights that is made up here."""
    for name in ("systems", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "systems" / "loops.py").write_text(SYSTEM)
    (tmp_path / "weights" / "loops.compact.safetensors").write_bytes(b"")
    (tmp_path / "weights" / "loops.compact.toml").write_text(CARD)
    monkeypatch.setattr(registry.resources, "files", lambda package: tmp_path)
    registry._learned.cache_clear()
    yield
    registry._learned.cache_clear()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `kodim codecs ...`: its output, or its one line of complaint."""

    def call(*argv: str) -> str:
        code = main(["codecs", *argv])
        out, err = capsys.readouterr()
        if code:
            assert (code, out, err.count("\n")) == (2, "", 1)
            return err
        assert err == ""
        return out

    return call


def slugs(out: str) -> set[str]:
    return {row["slug"] for row in json.loads(out)["codecs"]}


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    "argv",
    [
        ("--network", "rnn"),
        ("--network", "convgru", "--unit", "FULL"),
        ("--rate", "Loops"),
        ("--range", "medium"),
        ("--kind", "learned", "--spatial", "none"),
        ("--trained",),
    ],
)
def test_filters_keep_what_contains_the_text(run: Callable[..., str], argv: tuple[str, ...]) -> None:
    assert slugs(run(*argv, "--json")) == {"loops"}


@pytest.mark.usefixtures("loops")
def test_filters_in_python_are_the_same() -> None:
    assert [e.slug for e in kodim.list_codecs(network="rnn", trained=True)] == ["loops"]
    assert kodim.list_codecs(network="none", trained=True) == []
    assert {e.kind for e in kodim.list_codecs(kind="classical", unit="block")} == {"classical"}
    with pytest.raises(BadRequest, match="colour"):
        kodim.list_codecs(colour="blue")


@pytest.mark.usefixtures("loops")
def test_a_filter_that_matches_nothing_lists_what_there_is(run: Callable[..., str]) -> None:
    assert run("--network", "GAN") == "kodim: no codec has network 'GAN'; there are 'RNN (ConvGRU)', 'none'\n"
    narrowed = run("--rate", "knob", "--network", "rnn")  # each matches something, together nothing
    assert "no codec with network 'rnn' has rate 'knob'; there are 'number of loops'\n" in narrowed
    assert "--trained" in run("--kind", "classical", "--trained", "--json")


@pytest.mark.usefixtures("loops")
def test_markdown_is_a_table(run: Callable[..., str]) -> None:
    head, rule, *rows = run("--markdown").splitlines()
    assert head == "| codec | title | year | network | unit | spatial | rate | range | weights |"
    assert rule.count("---") == 9
    assert len(rows) == len(registry.entries())
    assert rows[0] == (
        r"| `loops` | [A codec \| of loops](https://arxiv.org/abs/3101.00001) | 2031 | RNN (ConvGRU) | full image "
        "| none | number of loops | low to medium | compact |"
    )


@pytest.mark.usefixtures("loops")
def test_explain(run: Callable[..., str]) -> None:
    out = run("--explain", "loopy")
    for text in (
        "loops: A codec | of loops",
        "Author, 2031, https://arxiv.org/abs/3101.00001",
        "so a prefix is a picture:\n\n    x --> loop --> b\n\n    b --> loop --> x_hat\n\n",
        "What it shows: the second loop halves the error.",
        "  rate     number of loops",
        "  paper    width 512, loops 16\n",
        "  compact  width 32, loops 8, 2.50 M parameters\n",
        "  data      a hundred photographs",
        "  training  14.5 minutes (27 core-minutes), 1.00 Gpx of crops",
        "  legs      trunk 3.5 min on cpu, then loops 11 min on cuda",
        "  file      1.2 MB, MIT",
        "  figures   bpp 0.5",
        "place\n  improves jpeg\n  It is young.",
    ):
        assert text in out
    found = json.loads(run("--explain", "loops", "--json"))
    assert found["doc"]["paper"] == 'A. Author, "Loops", ICML 2031, arXiv 3101.00001.'
    assert found["cards"]["compact"]["parameters"] == 2_500_000


def test_explain_works_for_every_codec(run: Callable[..., str]) -> None:
    for entry in registry.entries():
        out = run("--explain", entry.slug)
        assert out.startswith(f"{entry.slug}: {entry.title}")
        assert all(f"  {value}\n" in out for value in entry.taxonomy.values())
        if entry.kind == "learned":
            assert read_doc(entry.doc)["diagram"], f"{entry.slug}: no diagram in its docstring"
        if entry.improves is not None:
            assert registry.find(entry.improves).slug != entry.slug
        for preset in entry.weights:
            assert registry.training_spent(registry.weights_card(entry.slug, preset))["minutes"] > 0


@pytest.mark.usefixtures("loops")
def test_what_cannot_be_asked(run: Callable[..., str]) -> None:
    assert "did you mean loops" in run("--explain", "lops")
    assert "--explain" in run("--explain", "loops", "--network", "RNN")
    assert "--markdown" in run("--markdown", "--json")


def test_the_parts_of_a_docstring() -> None:
    assert read_doc("") == {"summary": "", "paper": "", "idea": "", "diagram": "", "shows": ""}
    assert read_doc("One line.")["summary"] == "One line."
    ours = read_doc("Ours.\n\nAfter Jia et al., 2025::\n\n    x --> y\n")  # cites, but is no citation
    assert (ours["paper"], ours["idea"], ours["diagram"]) == ("", "After Jia et al., 2025:", "    x --> y")


def test_explaining_needs_no_torch() -> None:
    program = (
        "import sys; from kodim.cli import main; code = main(['codecs', '--explain', 'balle2018']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
