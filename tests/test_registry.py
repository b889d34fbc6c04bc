"""The registry: names, aliases, taxonomy, codecs from outside; and that looking things up stays light."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

import kodim
from kodim import registry
from kodim.bench.entrants import entrants
from kodim.errors import BadRequest, MissingWeights, UnknownCodec

DOCS = Path(__file__).parent.parent / "docs"


def test_every_system_is_listed_with_its_taxonomy() -> None:
    entries = {e.slug: e for e in kodim.list_codecs()}
    assert {"balle2017", "balle2018", "minnen2018", "jpeg", "webp", "jpeg2000", "heic", "avif", "jxl"} <= set(entries)
    for entry in entries.values():
        assert set(entry.taxonomy) == set(registry.TAXONOMY), entry.slug
        if entry.kind == "learned":
            assert {"compact", *(["paper"] if entry.slug != "kodim" else [])} <= set(entry.presets)
            assert entry.title
            assert entry.year
            assert entry.authors


def test_aliases_of_the_field() -> None:
    assert registry.find("mbt2018-mean").slug == "minnen2018"
    assert registry.find("BMSHJ2018-hyperprior").slug == "balle2018"
    assert registry.get("jpeg").kind == "classical"


def test_other_presets_have_names_too() -> None:
    """`slug:preset`, where its weights ship; files say which it was."""
    assert registry.get("kodim:compact").preset == "compact"  # type: ignore[attr-defined]
    with pytest.raises(UnknownCodec, match="'paper' of ma2020 ship"):
        registry.get("ma2020:paper")
    with pytest.raises(UnknownCodec, match="'fast' of jpeg"):
        registry.get("jpeg:fast")
    photo = data.astronaut()[100:140, 200:250]
    file = kodim.compress(photo, codec="ma2020:lossless")
    np.testing.assert_array_equal(np.asarray(kodim.decompress(file)), photo)
    assert len(file) < 0.9 * photo.size


def test_presets_of_one_codec_can_be_compared() -> None:
    labels = [e.label for e in entrants(["ma2020", "ma2020:lossless", "kodim:compact", "kodim"], [50])]
    assert labels == ["ma2020", "ma2020:lossless", "kodim"]


def test_taxonomy_filters() -> None:
    assert {e.slug for e in kodim.list_codecs(network="vae", spatial="hierarch")} >= {"balle2018", "minnen2018"}
    assert all(e.kind == "classical" for e in kodim.list_codecs(kind="classical"))
    with pytest.raises(BadRequest, match="colour"):
        kodim.list_codecs(colour="blue")


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(UnknownCodec, match="minnen2018"):
        registry.find("minen2018")
    with pytest.raises(UnknownCodec, match="classical"):
        kodim.create_codec("jpeg")
    with pytest.raises(BadRequest, match="compact"):
        kodim.create_codec("minnen2018", preset="huge")
    with pytest.raises(MissingWeights, match="paper"):
        kodim.create_codec("minnen2018", preset="paper")


def test_listing_needs_no_torch() -> None:
    program = "import sys, kodim; kodim.list_codecs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Every Python block of docs/writing-a-codec.md, in order, as one program."""
    text = (DOCS / "writing-a-codec.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(blocks) >= 2
    program = tmp_path / "tutorial.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
