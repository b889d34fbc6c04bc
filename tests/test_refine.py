"""Encoder effort: a search for better symbols must pay, and the decoder must not notice."""

import math

import numpy as np
import pytest
import torch
from skimage import data

import kodim
from kodim import refine
from kodim.codec import Codec
from kodim.picture import load
from kodim.progress import listening
from kodim.quantizers.rounding import rate_aware
from kodim.registry import get
from kodim.systems.kodim import Kodim


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.from_numpy(np.array(data.astronaut()[:100, 100:220])).permute(2, 0, 1)[None].float() / 255


def loss_of(codec: Codec, x: torch.Tensor, quality: float, steps: int) -> float:
    """What the search minimises, from the real stream and the decoder's picture."""
    stream, x_hat = codec.compress(x, quality, steps=steps)
    decoded = codec.decompress(stream, (x.shape[2], x.shape[3]), quality)
    assert torch.equal(decoded, x_hat)
    level = torch.tensor([quality / 100 * (codec.levels - 1)])
    mse = float((decoded - x).square().mean()) * 255**2
    return 8 * len(stream.data) / x.shape[2] / x.shape[3] + float(codec.distortion_weight(level)) * mse


@pytest.mark.parametrize("slug", ["balle2018", "minnen2018"])
@pytest.mark.parametrize("quality", [10, 70])
def test_the_search_pays(slug: str, quality: float, picture: torch.Tensor) -> None:
    codec = kodim.create_codec(slug)
    plain, searched = (loss_of(codec, picture, quality, steps) for steps in (0, 12))
    assert searched < 0.99 * plain


def test_rate_aware_rounding() -> None:
    x = torch.tensor([0.4, 0.55, -0.55, 0.9, 1.6, -7.8])
    bits = torch.Tensor.abs  # a bit for each step away from 0
    assert rate_aware(x, bits, 1e9).tolist() == x.round().tolist()
    # The smaller value is taken where 4 ((x - s)^2 - (x - n)^2) < 1: up to 5/8 beyond it.
    assert rate_aware(x, bits, 4.0).tolist() == [0, 0, 0, 1, 1, -8]
    assert rate_aware(x, bits, 0.0).tolist() == [0, 0, 0, 0, 1, -7]


def test_an_untrained_codec_is_never_made_worse(picture: torch.Tensor) -> None:
    torch.manual_seed(0)
    codec = Kodim(**Kodim.presets["test"]).eval()
    codec.freeze()
    plain, searched = (loss_of(codec, picture, 50, steps) for steps in (0, 4))
    assert searched <= plain + 0.02


def test_weights_and_tables_are_left_alone(picture: torch.Tensor) -> None:
    codec = kodim.create_codec("minnen2018")
    before = codec.fingerprint(), codec.compress(picture, 40)[0]
    codec.compress(picture, 40, steps=3)
    assert (codec.fingerprint(), codec.compress(picture, 40)[0]) == before
    assert not any(m.training for m in codec.modules())
    assert all(p.requires_grad for p in codec.parameters())


def test_effort_of_the_file_interface(picture: torch.Tensor) -> None:
    shown = load((picture[0].permute(1, 2, 0) * 255).byte().numpy())
    codec = get("minnen2018")
    plain, one, two, four = (codec.encode(shown, 30, effort=e) for e in (None, 1, 2, 4))
    assert plain == one
    assert len(two) < len(one)
    assert len(four) < len(one)
    assert math.isclose(codec.decode(four).pixels.mean(), shown.pixels.mean(), abs_tol=3)


def test_large_pictures_are_searched_window_by_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows give nearly what one search of the whole gives."""
    codec = kodim.create_codec("minnen2018")
    wide = torch.from_numpy(np.array(data.astronaut()[:100, :400])).permute(2, 0, 1)[None].float() / 255
    plain, whole = (loss_of(codec, wide, 40, steps) for steps in (0, 6))
    monkeypatch.setattr(refine, "WINDOW", 128)
    shares: list[float] = []
    with listening(shares.append):
        windows = loss_of(codec, wide, 40, 6)
    assert windows - whole < 0.1 * (plain - whole)
    assert shares == sorted(shares)
    assert len(shares) == 4 * 6
