"""A picture's own colour axes: are they a turn, are they found where they pay, and do files carry them?"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

import kodim
from kodim import container, registry, tiles
from kodim.errors import CorruptFile
from kodim.learned import to_tensor
from kodim.metrics import psnr
from kodim.picture import load
from kodim.transforms import colours

pytestmark = pytest.mark.usefixtures("one_thread")


def leaves(side: int = 256) -> np.ndarray:
    """A photograph in which green rules: red and green say the same, and blue next to nothing."""
    photo = data.astronaut()[:side, 100 : 100 + side].astype(float)
    grey = photo.mean(2)
    return np.stack([0.7 * grey + 0.1 * photo[..., 0], 0.85 * grey + 30, 0.08 * grey + 3], 2).round().astype(np.uint8)


def test_axes_take_the_bytes_that_the_header_has() -> None:
    assert colours.LAYOUT.size == container._AXES


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(v * v for v in q) > 0.01))
def test_any_rotation_survives_packing(quaternion: list[float]) -> None:
    w, *v = (torch.tensor(quaternion, dtype=torch.float64) / np.linalg.norm(quaternion)).tolist()
    x = torch.tensor([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64) + 2 * w * x + 2 * x @ x
    axes = colours.unpack([colours._pack(turn, torch.tensor([0.3, -1.2])), b""])
    assert axes is not None
    assert torch.allclose(axes.turn[0].double(), turn, atol=0.02 if abs(w) < 0.01 else 3e-3)
    assert torch.allclose(axes.turn @ axes.turn.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6)
    assert torch.equal(axes.turn[1], torch.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype: torch.dtype) -> None:
    x = to_tensor(leaves()).to(dtype)
    axes = colours.unpack(colours.find(x))
    assert axes is not None
    turned = axes.there(x)
    assert turned.dtype == dtype
    assert torch.allclose(axes.back(turned), x, atol=1e-5)
    lengths = [(y[..., 1:] - y[..., :-1]).square().sum(1) for y in (x, turned)]
    assert torch.allclose(*lengths, atol=1e-5)
    black = axes.there(torch.zeros(1, 3, 1, 1, dtype=dtype))
    assert torch.allclose(
        colours.colour_matrix()[0].to(dtype) @ black.flatten(), torch.zeros((), dtype=dtype), atol=1e-5
    )


def test_own_axes_leave_less_in_the_second_and_third_plane() -> None:
    x = to_tensor(leaves())
    axes = colours.unpack(colours.find(x))
    assert axes is not None

    def detail(x: torch.Tensor) -> torch.Tensor:
        planes = torch.einsum("jc,bchw->bjhw", colours.colour_matrix(), x)
        return (planes[..., 2:] - planes[..., :-2]).square().mean((0, 2, 3))

    before, after = detail(x), detail(axes.there(x))
    assert after[0] > before[0]
    assert after[1:].sum() < 0.05 * before[1:].sum()


@pytest.mark.parametrize("side", [1, 2, 3, 64])
def test_grey_and_tiny_pictures_keep_rgb(side: int) -> None:
    grey = torch.rand(1, 1, 64, side).expand(1, 3, 64, side)
    assert colours.find(grey) == [b""]


def test_bytes_and_floats_have_the_same_axes() -> None:
    pixels = leaves(512)
    assert colours.find(torch.from_numpy(pixels).permute(2, 0, 1)[None]) == colours.find(to_tensor(pixels)) != [b""]


@pytest.mark.parametrize("quality", [15.0, 50.0, 90.0])
def test_files_of_one_colour_are_smaller_and_no_worse(quality: float, monkeypatch) -> None:
    codec = registry.get("kodim")
    picture = load(leaves())
    own = codec.encode(picture, quality)
    assert container.describe(own)["axes"] == "own"
    estimate = codec.codec(to_tensor(picture.pixels), quality)
    assert abs(float(estimate.bpp[0]) * 256 * 256 / 8 + container.header_bytes(own) - len(own)) < 8
    shown = codec.decode(own).pixels
    assert np.abs(np.round(estimate.x_hat[0].permute(1, 2, 0).numpy() * 255) - shown).max() <= 1
    monkeypatch.setattr(type(codec.codec), "turned", False)
    plain = codec.encode(picture, quality)
    assert container.describe(plain)["axes"] == "RGB"
    assert len(own) < 0.95 * len(plain)
    assert psnr(picture.pixels, shown) > psnr(picture.pixels, codec.decode(plain).pixels) - 0.1


@pytest.mark.parametrize("other", [(0, 0, 255), (0, 255, 255), (255, 255, 0)])
def test_saturated_colours_side_by_side(other: tuple[int, int, int]) -> None:
    rows, columns = np.mgrid[:128, :128] // 2
    board = np.where(((rows + columns) % 2)[..., None], (255, 0, 0), other).astype(np.uint8)
    codec = registry.get("kodim")
    assert psnr(board, codec.decode(codec.encode(load(board), 60.0)).pixels) > 28


def test_effort_searches_along_the_axes() -> None:
    codec, picture = registry.get("kodim"), load(leaves(128))

    def cost(data: bytes) -> float:
        mse = np.square(codec.decode(data).pixels.astype(float) - picture.pixels).mean()
        weight = codec.codec.distortion_weight(torch.tensor(0.4 * (codec.codec.levels - 1)))
        return 8 * len(data) / 128**2 + float(weight) * mse

    assert cost(codec.encode(picture, 40, effort=4)) < cost(codec.encode(picture, 40))


def test_tiles_share_the_axes_of_their_picture(monkeypatch) -> None:
    pixels = leaves(384)
    pixels[:, 192:] = data.astronaut()[:384, 100:484][:, 192:]  # of its own, the right half would have others
    whole = np.asarray(kodim.decompress(kodim.compress(pixels, quality=50)), float)
    for name, value in (("WHOLE", 1 << 14), ("CORE", 192)):
        monkeypatch.setattr(tiles, name, value)
    file = kodim.compress(pixels, quality=50)
    assert len(container.parse(file).payloads) == 4
    assert container.describe(file)["axes"] == "own"
    tiled = np.asarray(kodim.decompress(file), float)
    assert psnr(pixels, tiled.astype(np.uint8)) > psnr(pixels, whole.astype(np.uint8)) - 0.05
    part = np.asarray(kodim.decompress(file, box=(100, 150, 300, 250)), float)
    np.testing.assert_array_equal(part, tiled[150:250, 100:300])


@pytest.mark.parametrize("axes", [b"\x7f\xff\x7f\xff\x7f\xff\0\0", b"\x80\x00\x80\x00\x00\x00\0\0"])
def test_what_is_no_rotation_is_refused(axes: bytes) -> None:
    file = container.parse(kodim.compress(leaves(64), quality=30))
    bad = dataclasses.replace(file, header=dataclasses.replace(file.header, axes=axes))
    with pytest.raises(CorruptFile, match="colour axes"):
        kodim.decompress(container.pack(bad))


def test_info_says_so() -> None:
    assert json.loads(json.dumps(container.describe(kodim.compress(leaves(64)))))["axes"] == "own"
