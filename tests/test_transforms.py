"""Transforms: divisive normalisation inverts nearly, and the DCT start is a transform code before any training."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import kodim
from kodim.learned import to_tensor
from kodim.transforms import light
from kodim.transforms.gdn import GDN, lower_bound
from kodim.transforms.pointwise import one_by_one
from kodim.transforms.pyramid import analysis, synthesis
from kodim.transforms.start import dct_start


@pytest.mark.parametrize("slug", ["balle2017", "balle2018", "minnen2018"])
def test_dct_start_codes_photographs_before_training(slug: str, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    net = kodim.create_codec(slug, pretrained=False)
    x = to_tensor(photo)
    with torch.no_grad():
        x_hat = net.synthesis(net.analysis(x))
    assert float(-10 * torch.log10((x_hat - x).square().mean())) > 26
    low, high = net(x, 0), net(x, 100)
    assert float(low.bpp) < 0.6 * float(high.bpp)


def test_dct_start_is_orthonormal_where_nothing_is_left_out(photo: np.ndarray) -> None:
    """With room for every channel and no divisive normalisation, analysis and synthesis invert each other."""
    shape = ((12, 48), (5, 5), (2, 2))
    g_a, g_s = analysis(*shape, gdn_last=False), synthesis(*shape, gdn_first=False)
    dct_start(g_a, g_s)
    for part in (g_a, g_s):
        for module in part.modules():
            if isinstance(module, GDN):
                torch.nn.init.zeros_(module.gamma)
    x = to_tensor(photo[:64, :64])
    with torch.no_grad():
        torch.testing.assert_close(g_s(g_a(x)), x, atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_gdn_is_what_the_paper_says(seed: int, channels: int) -> None:
    torch.manual_seed(seed)
    gdn, inverse = GDN(channels), GDN(channels, inverse=True)
    x = torch.randn(2, channels, 3, 4)
    expected = x / torch.sqrt(1 + 0.1 * x.square())  # beta = 1, gamma = 0.1 I at the start
    torch.testing.assert_close(gdn(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(inverse(x), x * torch.sqrt(1 + 0.1 * x.square()), atol=1e-5, rtol=1e-4)


def test_lower_bound_lets_values_climb() -> None:
    x = torch.tensor([-1.0, -1.0, 2.0], requires_grad=True)
    (lower_bound(x, 0.0) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0]


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    blocks=st.integers(1, 3),
    patch=st.sampled_from([64, 96]),
    share=st.floats(0.01, 0.2) | st.floats(0.9, 0.998),
)
def test_light_transforms_say_the_same_in_patches(
    height: int, width: int, blocks: int, patch: int, share: float
) -> None:
    """Height and width in latents; every block is made to do something; few places run wild, or nearly all."""
    torch.manual_seed(height * width)
    x = torch.rand(1, 3, 16 * height, 16 * width)
    level = torch.tensor([0.5])
    analysis, synthesis = light.LightAnalysis(64, blocks, 2), light.LightSynthesis(64, blocks, 2)
    for p in [*analysis.blocks.parameters(), *synthesis.blocks.parameters()]:
        torch.nn.init.normal_(p, std=0.2)
    y = analysis(x, level).detach()  # with gradients wanted, the whole at once
    x_hat = synthesis(y, level).detach()
    untouched = x.clone(), y.clone()
    with pytest.MonkeyPatch.context() as m, torch.no_grad():
        plain, gain = light._full(analysis.stem, F.pixel_unshuffle(x - 0.5, 8)), analysis.gain(level)
        largest = (light._run(analysis.blocks, plain, gain) * gain).abs().amax(1).flatten().sort().values
        place = round(share * (len(largest) - 1))
        m.setattr(light, "WILD", float(largest[place : place + 2].mean()))  # some places run wild, no place just so
        tamed = analysis(x, level)
        m.setattr(light, "PATCH", patch)
        pairs = [(analysis(x, level), tamed), (synthesis(y, level), x_hat)]
        m.setattr(light, "WILD", math.inf)
        pairs.append((analysis(x, level), y))
        for again, whole in pairs:
            assert float((again - whole).abs().max()) < 1e-4 * float(whole.abs().max())
    assert torch.equal(x, untouched[0])  # without gradients layers work in place, but on memory of their own
    assert torch.equal(y, untouched[1])


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    size=st.tuples(*[st.integers(1, 9)] * 2),
    last=st.booleans(),
)
def test_one_by_one_is_a_convolution(batch: int, groups: int, size: tuple[int, int], last: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(batch, 8, *size), torch.randn(12, 8 // groups, 1, 1), torch.randn(12)
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    expected = torch.nn.functional.conv2d(x, weight, bias, groups=groups)
    with pytest.MonkeyPatch.context() as m:
        for threads in (1, 2):
            m.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            torch.testing.assert_close(one_by_one(given, weight, bias, groups), expected, atol=1e-5, rtol=1e-5)
