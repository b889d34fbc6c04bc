"""The autoregressive system: sizes of the paper, a start on the mean-scale trunk, a file in few steps."""

import pytest
import torch
from torch import nn

import kodim
from kodim.coding import rangecoder
from kodim.systems.minnen2018 import Minnen2018
from kodim.systems.minnen2018ar import Minnen2018Autoregressive

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trunk() -> Minnen2018:
    """Networks that say something, though they have learned nothing."""
    torch.manual_seed(0)
    return kodim.create_codec("minnen2018", pretrained=False)  # type: ignore[return-value]


@pytest.fixture
def serial(trunk: Minnen2018) -> Minnen2018Autoregressive:
    torch.manual_seed(1)
    codec = kodim.create_codec("minnen2018-ar", pretrained=False)
    missing, unexpected = codec.load_state_dict(trunk.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("context.") for name in missing)
    return codec  # type: ignore[return-value]


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    torch.manual_seed(2)
    return nn.functional.avg_pool2d(torch.rand(1, 3, 130, 194), 3, 1)


@pytest.mark.parametrize("name", ["mbt2018", "joint-autoregressive", "minnen2018-ar"])
def test_names(name: str) -> None:
    assert kodim.create_codec(name, pretrained=False).info["slug"] == "minnen2018-ar"


def test_paper_sizes() -> None:
    """Table 1 of the paper's appendix, at M = 192."""
    codec = kodim.create_codec("minnen2018-ar", preset="paper", pretrained=False)
    assert isinstance(codec, Minnen2018Autoregressive)
    shapes = [tuple(m.weight.shape[:2]) for m in codec.context.join if isinstance(m, nn.Conv2d)]
    assert shapes == [(640, 768), (512, 640), (384, 512)]
    assert codec.context.weight.shape == (384, 192, 1, 12)
    outs = [m.weight.shape for m in codec.hyper_synthesis if not isinstance(m, nn.LeakyReLU)]
    assert [max(s[:2]) for s in outs] == [192, 288, 384]


def test_starts_where_the_mean_scale_system_stands(trunk, serial, picture) -> None:
    for quality in (10.0, 90.0):
        before, after = trunk(picture, quality), serial(picture, quality)
        assert torch.equal(before.x_hat, after.x_hat)
        for name, bits in before.bits.items():
            torch.testing.assert_close(after.bits[name], bits, rtol=1e-5, atol=0)


def test_the_context_changes_what_is_expected(serial, picture) -> None:
    """Noise in the context costs bits, and the file still decodes to the encoder's picture."""
    quiet = float(serial(picture, 80).bpp)
    torch.manual_seed(3)
    nn.init.normal_(serial.context.join[-1].weight, std=0.02)
    out = serial(picture, 80)
    assert abs(float(out.bpp) - quiet) > 1e-3
    stream, seen = serial.compress(picture, 80)
    assert torch.equal(out.x_hat, seen)
    assert abs(8 * len(stream.data) - float(out.bpp) * out.pixels) < 1e-3 * float(out.bpp) * out.pixels + 64
    for threads in (2, 1):
        torch.set_num_threads(threads)
        assert torch.allclose(serial.decompress(stream, (128, 192), 80), seen, atol=1e-5)


def test_decoding_takes_as_many_steps_as_there_are_fronts(serial, picture, monkeypatch) -> None:
    stream, _ = serial.compress(picture)
    calls = []
    read = rangecoder.Reader.read
    monkeypatch.setattr(rangecoder.Reader, "read", lambda self, d: calls.append(len(d.rows)) or read(self, d))
    serial.decompress(stream, (128, 192))
    h, w = 8, 12
    assert len(calls) == 1 + w + 3 * (h - 1)  # z, then the fronts of y
    assert sum(calls[1:]) == 192 * h * w


def test_training_reaches_the_context(serial, picture) -> None:
    serial.train()
    x = picture[:, :, :64, :64]
    optimiser = torch.optim.Adam(serial.context.parameters(), 1e-3)
    start = [p.detach().clone() for p in serial.context.parameters()]
    for _ in range(2):  # the last layer starts at zero, so the others wait a step
        optimiser.zero_grad()
        serial(x, 50).bpp.mean().backward()
        optimiser.step()
    assert all((p != q).any() for p, q in zip(serial.context.parameters(), start, strict=True))


def test_effort_searches_a_serial_latent_too(serial, picture) -> None:
    nn.init.normal_(serial.context.join[-1].weight, std=0.01)
    x = picture[:, :, :64, :64]
    stream, seen = serial.compress(x, 60, steps=3)
    assert torch.equal(serial.decompress(stream, (64, 64), 60), seen)
