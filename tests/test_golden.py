"""Files written in the past decode to the pictures they always were (to one step of 255: synthesis is in floats)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kodim
from kodim.registry import entries

FILES = sorted((Path(__file__).parent / "golden").glob("*.kdm"))


def test_every_shipped_codec_has_golden_files() -> None:
    assert {f.name.rsplit("-", 2)[0] for f in FILES} >= {e.slug for e in entries(kind="learned", trained=True)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_golden_file_decodes_as_ever(file: Path) -> None:
    decoded = kodim.decompress(file.read_bytes())
    with Image.open(file.with_suffix(".png")) as expected:
        assert decoded.mode == expected.mode
        assert decoded.size == expected.size
        difference = np.asarray(decoded).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
