"""What sets hu2021, brummer2021, bao2022, liu2022 and sun2021 apart; what they share is in test_codec.py."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kodim
from kodim.bench.exactness import settings
from kodim.codec import Codec
from kodim.coding import competition, rangecoder
from kodim.coding.competition import NumberCoder, Revival, ScaleDictionary, place_costs, settle
from kodim.errors import BadRequest
from kodim.learned import to_pixels, to_tensor
from kodim.metrics.perceptual import nlpd
from kodim.systems.brummer2021 import Brummer2021
from kodim.transforms import integer, perception
from kodim.transforms.attention import HybridAttention
from kodim.transforms.integer import Activations, IntegerSequential, codebook

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    from skimage import data

    return to_tensor(np.ascontiguousarray(data.coffee()[100:196, 150:278]))


@pytest.fixture(scope="module")
def trunk() -> Codec:
    return kodim.create_codec("minnen2018")


def build(slug: str, trunk: Codec | None = None, preset: str = "compact") -> Codec:
    """A codec with the weights of another one, where names and shapes are equal."""
    torch.manual_seed(3)
    codec = kodim.create_codec(slug, preset=preset, pretrained=False)
    if trunk is not None:
        own = codec.state_dict()
        theirs = {k: v for k, v in trunk.state_dict().items() if k in own and own[k].shape == v.shape}
        codec.load_state_dict({k: v for k, v in theirs.items() if ".tables." not in k}, strict=False)
    return codec


def kmac(pixels: int, module: nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() / 2 / 1000 / pixels


def psnr(a: Tensor, b: Tensor) -> float:
    difference = to_pixels(a).astype(float) - to_pixels(b)
    return float(10 * np.log10(255**2 / np.square(difference).mean()))


@pytest.mark.parametrize("slug", ["hu2021", "brummer2021", "bao2022", "liu2022", "sun2021"])
def test_training_may_start_from_the_mean_scale_system(slug: str, trunk: Codec) -> None:
    own = dict(build(slug).named_parameters())
    wanted = [n for n, _ in trunk.named_parameters() if n.split(".")[0] in ("analysis", "synthesis", "gain")]
    assert all(own[n].shape == trunk.get_parameter(n).shape for n in wanted)
    if slug in ("bao2022", "liu2022", "sun2021"):
        assert all(n in own and own[n].shape == p.shape for n, p in trunk.named_parameters())


# hu2021


def test_hu2021_costs_what_its_layers_add_up_to() -> None:
    """Figures counted from the authors' program, at N = 192."""
    codec = build("hu2021", preset="paper")
    h1, h2 = torch.zeros(1, 256, 2, 2), torch.zeros(1, 192, 4, 4)
    prediction = kmac(64 * 64, codec.predict_y, h2) + kmac(64 * 64, codec.predict_z2, h1)
    assert prediction == pytest.approx(84, abs=0.5)
    side = torch.zeros(1, 256, 4, 4)
    assert kmac(64 * 64, codec.aggregation, torch.zeros(1, 192, 32, 32), side) == pytest.approx(654, abs=1)


def test_hu2021_decodes_in_three_passes(picture, trunk, monkeypatch) -> None:
    codec = build("hu2021", trunk)
    stream, seen = codec.compress(picture, 40)
    counts = []
    read = rangecoder.Reader.read
    monkeypatch.setattr(rangecoder.Reader, "read", lambda self, d: counts.append(len(d.rows)) or read(self, d))
    assert torch.equal(codec.decompress(stream, (96, 128), 40), seen)
    assert counts == [32 * 2 * 2, 64 * 4 * 4, 192 * 8 * 8]  # z1, z2, y of the padded picture


def test_hu2021_aggregation_changes_the_picture_and_not_the_file(picture, trunk) -> None:
    codec = build("hu2021", trunk)
    stream, seen = codec.compress(picture, 40)
    codec.aggregate = False
    torch.testing.assert_close(codec.decompress(stream, (96, 128), 40), seen)  # it starts as a correction of zero
    codec.aggregate = True
    nn.init.normal_(codec.aggregation.tail[-1].weight, std=0.1)
    again, other = codec.compress(picture, 40)
    assert again == stream
    assert float((other - seen).abs().max()) > 1e-3


def test_hu2021_z2_is_expected_from_z1(picture, trunk) -> None:
    """Another z1 layer, another rate of z2; without z1 there is none of it to pay for."""
    codec = build("hu2021", trunk)
    before = codec(picture, 60).bits
    nn.init.constant_(codec.predict_z2[-1].bias, 1.0)
    after = codec(picture, 60).bits
    assert torch.equal(before["z1"], after["z1"])
    assert float((before["z2"] - after["z2"]).abs()) > 1
    assert set(build("hu2021", preset="stage1")(picture, 60).bits) == {"z2", "y"}


def test_hu2021_stages_build_on_each_other(picture) -> None:
    known: set[str] = set()
    for preset, terms in (("stage1", 1), ("stage2", 2), ("stage3", 2), ("compact", 0)):
        codec = build("hu2021", preset=preset).train()
        out = codec(picture, 60)
        losses = codec.objective(picture, out, torch.tensor([4.2]))
        assert len(codec.likeness) == terms
        assert ("likeness" in losses) == (terms > 0)
        names = {n for n, _ in codec.named_parameters() if not n.startswith("resemble")}
        assert known < names or preset == "compact"
        known = names


def test_hu2021_help_trains_the_hyper_networks(picture) -> None:
    codec = build("hu2021", preset="stage2").train()
    codec(picture, 60)
    torch.stack(codec.likeness).sum().backward()
    for helped in (codec.hyper_synthesis1, codec.hyper_synthesis2, codec.hyper_analysis1, codec.hyper_analysis2):
        assert helped[0].weight.grad.abs().sum() > 0
    for untouched in (codec.predict_y, codec.predict_z2):
        assert untouched[0].weight.grad is None or not untouched[0].weight.grad.any()


# brummer2021


def test_brummer2021_no_other_number_is_cheaper() -> None:
    rng = torch.Generator().manual_seed(0)
    count, h, w = 4, 5, 6
    costs = 6 * torch.rand(count, h, w, generator=rng, dtype=torch.float64)
    pairs = 4 * torch.rand(count + 1, count + 1, count, generator=rng, dtype=torch.float64)

    def total(numbers: Tensor) -> float:
        bordered = F.pad(numbers, (1, 0, 1, 0), value=count)
        own = costs.gather(0, numbers[None]).sum()
        return float(own + pairs[bordered[1:, :-1], bordered[:-1, 1:], numbers].sum())

    best = settle(costs, pairs)
    assert total(best) <= total(costs.argmin(0))
    for y in range(h):
        for x in range(w):
            for k in range(count):
                other = best.clone()
                other[y, x] = k
                assert total(other) >= total(best) - 1e-9


def test_brummer2021_numbers_cost_what_the_encoder_reckons(picture, trunk) -> None:
    codec = build("brummer2021", trunk)
    assert isinstance(codec, Brummer2021)
    with torch.no_grad():  # neighbours that matter
        codec.numbers.left.add_(torch.randn_like(codec.numbers.left))
    seen = []
    choose = codec.choose
    codec.choose = lambda bind, y: seen.append((bind, y, choose(bind, y))) or seen[-1][2]  # type: ignore[method-assign]
    out = codec(picture, 30)
    bind, y, number = seen[0]
    assert len(number.unique()) > 3
    costs = place_costs(bind, 64, y, exact=True)
    assert float(costs.gather(1, number).sum()) == pytest.approx(float(out.bits["y"]), rel=1e-6)
    left, above = competition._neighbours(number, 64)
    pairs = codec.numbers.costs()
    assert float(pairs[left, above, number].sum()) == pytest.approx(float(out.bits["k"]), rel=1e-6)
    plain = costs.argmin(1, keepdim=True)
    left, above = competition._neighbours(plain, 64)
    assert float(costs.min(1).values.sum() + pairs[left, above, plain].sum()) >= float(out.bits["k"] + out.bits["y"])


def test_brummer2021_paper_sends_six_bits_for_each_position(picture) -> None:
    numbers = NumberCoder(64, context=False)
    assert torch.all(numbers.costs() == 6)
    alone = NumberCoder(1, context=False)
    assert torch.all(alone.costs() == 0)


@pytest.fixture(scope="module")
def mixed() -> Tensor:
    """Latents of eight kinds of places."""
    rng = torch.Generator().manual_seed(1)
    kinds = torch.randint(0, 8, (1, 1, 12, 12), generator=rng)
    return torch.randn(1, 4, 12, 12, generator=rng) * 2.0**kinds / 2


def learn(count: int, y: Tensor, *, revival: bool, monkeypatch) -> tuple[float, int]:
    """Bits of y with a dictionary learned on it, all but one of whose priors start far off, and how many are used."""
    monkeypatch.setattr(competition, "PATIENCE", 10 if revival else 10**9)
    torch.manual_seed(0)
    dictionary = ScaleDictionary(count, 4, [0.0], (8.0, 18.0))
    with torch.no_grad():
        dictionary.scale.copy_(torch.tensor([2.0] + [12.0] * (count - 1))[:, None].expand(-1, 4))
    level, gain, win = torch.zeros(1), torch.ones(1, 4, 1, 1), Revival(count)
    optimiser = torch.optim.Adam([dictionary.scale], lr=0.1)
    for _ in range(160):
        bind = dictionary.bind(level, gain)
        bits = bind(win(place_costs(bind, count, y, exact=False))).bits(y).sum()
        optimiser.zero_grad()
        bits.backward()
        optimiser.step()
    bind = dictionary.eval().bind(level, gain)
    best = place_costs(bind, count, y, exact=True).min(1)
    return float(best.values.sum()), len(best.indices.unique())


def test_brummer2021_idle_priors_come_back_and_save_bits(mixed, monkeypatch) -> None:
    one, _ = learn(1, mixed, revival=False, monkeypatch=monkeypatch)
    idle, few = learn(6, mixed, revival=False, monkeypatch=monkeypatch)
    alive, many = learn(6, mixed, revival=True, monkeypatch=monkeypatch)
    assert few < many
    assert many >= 4
    assert max(alive, idle) + 144 * math.log2(6) < 0.9 * one


# bao2022


def test_bao2022_starts_with_the_picture_it_builds_on(picture, trunk) -> None:
    codec = build("bao2022", trunk)
    before, after = trunk(picture, 50), codec(picture, 50)
    torch.testing.assert_close(after.x_hat, before.x_hat)
    assert float(after.bpp) == pytest.approx(float(before.bpp), rel=1e-3)


@pytest.fixture
def attentive(trunk: Codec) -> Codec:
    codec = build("bao2022", trunk)
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, HybridAttention):
                module.strength.uniform_(0.1, 0.5)
                for block in module.blocks:
                    nn.init.normal_(block.layers[-1].weight, std=0.1)
    nn.init.normal_(codec.dequantise[-1].weight, std=5.0)
    nn.init.normal_(codec.enhancer[-2].weight, std=0.01)
    return codec


def test_bao2022_repairs_cost_no_bits(attentive, picture) -> None:
    pictures, streams = [], []
    for inverse, enhance in ((True, True), (False, True), (True, False)):
        attentive.inverse, attentive.enhance = inverse, enhance
        stream, seen = attentive.compress(picture, 50)
        assert torch.equal(attentive.decompress(stream, (96, 128), 50), seen)
        pictures.append(seen)
        streams.append(stream)
    assert streams[0] == streams[1] == streams[2]
    assert not any(torch.allclose(pictures[0], other) for other in pictures[1:])


def test_bao2022_latents_stay_in_their_step(attentive) -> None:
    y, scale, mean = 50 * torch.randn(3, 1, 192, 4, 4)
    shift = attentive.shift(y, scale, mean).detach()
    assert 0.3 < float(shift.abs().max()) <= 0.5


def test_bao2022_attention_of_the_hyper_synthesis_is_exact(attentive) -> None:
    attention = attentive.recall_hyper
    torch.manual_seed(5)
    x = torch.round(torch.randn(2, 64, 5, 7) * 3000) / 1024
    out = attention(x)
    assert not torch.allclose(out, x, atol=0.01)
    assert torch.equal(out * 1024, (out * 1024).round())
    assert torch.equal(attention(x.double()).float(), out)
    assert torch.equal(attention(x.to(memory_format=torch.channels_last)), out)
    assert torch.equal(attention(x[1:]), out[1:])
    u = attention.blocks(x.double())
    (channel, spatial), (turned, _) = attention.gates(u), attention.gates(u.flip(2, 3))
    assert channel.unique().numel() > 10
    assert spatial.unique().numel() > 10
    torch.testing.assert_close(turned, channel, atol=0.1, rtol=0)
    attention.train()
    torch.testing.assert_close(attention(x), out, atol=0.02, rtol=0)
    attention.eval()


# liu2022


def test_liu2022_without_its_term_is_minnen2018(picture, trunk) -> None:
    codec = build("liu2022", trunk)
    level = torch.tensor([3.0])
    torch.manual_seed(0)
    plain = trunk.objective(picture, trunk(picture, 60), level)["loss"]
    out = codec(picture, 60)
    terms = codec.objective(picture, out, level)
    assert terms["perception"] > 0
    weight = float(codec.distortion_weight(level)) ** 0.5 * math.prod(codec.lambdas) ** 0.25
    assert float(terms["loss"] - plain) == pytest.approx(weight * 600 * float(terms["perception"]), rel=1e-4)
    codec.beta = 0.0
    assert torch.equal(codec.objective(picture, out, level)["loss"], plain)


@pytest.mark.parametrize("quality", [0.0, 60.0])
def test_liu2022_term_weighs_about_as_much_as_the_squared_error(picture, trunk, quality) -> None:
    x_hat = trunk(picture, quality).x_hat
    mse = float((picture - x_hat).square().mean()) * 255**2
    assert 0.3 < 600 * float(perception.pyramid_distance(picture, x_hat)) / mse < 1.5


def test_pyramid_distance_is_nlpd(picture) -> None:
    torch.manual_seed(0)
    other = to_tensor(to_pixels((picture + 0.05 * torch.randn_like(picture)).clamp(0, 1)))
    bands = zip(perception._bands(picture), perception._bands(other), strict=True)
    mine = np.mean([float((a - b).square().mean().sqrt()) for a, b in bands])
    assert mine == pytest.approx(nlpd(to_pixels(picture), to_pixels(other)), rel=1e-4)
    other.requires_grad_()
    perception.pyramid_distance(picture, other).sum().backward()
    assert torch.isfinite(other.grad).all()


def test_vgg_distance(picture, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(perception.VGG_FILE, raising=False)
    with pytest.raises(BadRequest, match="KODIM_VGG16 must name"):
        perception.vgg_distance(picture, picture)
    monkeypatch.setattr(perception, "VGG_WIDTHS", (4, 0, 4, 0, 6, 0, 6, 0, 8))
    net = perception.VGGFeatures(perception.VGG_WIDTHS)
    monkeypatch.setattr(perception.VGGFeatures.__init__, "__defaults__", (perception.VGG_WIDTHS,))
    for name in ("small.pth", "bad.pth"):
        torch.save(net.state_dict() if name == "small.pth" else {}, tmp_path / name)
    monkeypatch.setenv(perception.VGG_FILE, str(tmp_path / "bad.pth"))
    with pytest.raises(BadRequest, match=r"bad\.pth: not weights of VGG-16"):
        perception.vgg_distance(picture, picture)
    monkeypatch.setenv(perception.VGG_FILE, str(tmp_path / "small.pth"))
    assert [f.shape[2] for f in net(picture)] == [96, 48, 24, 12, 6]
    assert float(perception.vgg_distance(picture, picture)) == 0
    assert float(perception.vgg_distance(picture, picture.flip(3))) > 0
    perception._vgg.cache_clear()


# sun2021


@pytest.fixture(scope="module")
def whole(trunk: Codec, picture: Tensor) -> Codec:
    """The integer codec on trained weights, calibrated on one picture."""
    codec = build("sun2021", trunk).train()
    with torch.no_grad():
        codec(picture.expand(2, -1, -1, -1), torch.tensor([30.0, 90.0]))
    return codec.eval()


@pytest.mark.filterwarnings("ignore:TF32")
def test_sun2021_pixels_and_bytes_are_the_same_everywhere(whole, picture) -> None:
    x = picture[:, :, :64, :64]
    stream, seen = whole.compress(x, 60)
    for name, setting in settings().items():
        with setting(whole) as changed:
            p = next(changed.parameters())
            again = changed.decompress(stream, (64, 64), 60)
            assert np.array_equal(to_pixels(again), to_pixels(seen)), name
            if p.dtype == torch.float32:
                assert torch.equal(again.cpu(), seen), name
                assert changed.compress(x.to(p.device), 60)[0] == stream, name


def test_sun2021_is_near_its_parent(whole, trunk, picture) -> None:
    x = picture[:, :, :64, :64]
    parent, ours = trunk(x, 40), whole(x, 40)
    assert psnr(ours.x_hat, x) > psnr(parent.x_hat, x) - 1.5  # before any fine-tuning
    assert float(ours.bpp) < 1.1 * float(parent.bpp)


def test_sun2021_weights_have_eight_bits(whole, trunk) -> None:
    weight = trunk.analysis[4].weight
    level, factor, which = codebook(weight.flatten(1))
    assert all(len(row.unique()) <= 255 for row in level)
    assert torch.equal(level, level.round())
    assert set(which.tolist()) <= {0, 1, 2}
    rounded = level * factor[:, None]
    worst = weight.abs().amax((1, 2, 3))[:, None] * 2 / 127
    assert bool(((rounded - weight.flatten(1)).abs() <= worst).all())


def test_sun2021_channels_as_groups_beat_layers(trunk) -> None:
    for layer in (trunk.analysis[2], trunk.analysis[4], trunk.hyper_analysis[0]):
        weight = layer.weight.detach()
        errors = []
        for rows in (weight.flatten(1), weight.reshape(1, -1)):
            level, factor, _ = codebook(rows)
            errors.append(float((level * factor[:, None] - rows).square().sum()))
        assert errors[0] < errors[1]


def test_sun2021_means_are_worth_removing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 16, 16) + 20 * torch.arange(8.0)[:, None, None]
    errors = []
    for shifted in (True, False):
        ranges = Activations(8, shifted=shifted)
        ranges(x)
        errors.append(float((ranges.integers(x.double())[0] - x).square().mean()))
    assert errors[0] < 0.1 * errors[1]


def test_codebooks_are_the_same_everywhere() -> None:
    """No level lies where the last digit of a root could decide."""
    for p in integer.POWERS:
        exact = integer.LEVEL * (np.arange(integer.CODE + 1) / integer.CODE) ** p
        assert np.abs(exact % 1 - 0.5).min() > 1e-6
    assert integer._LEVELS[:, -1].tolist() == [integer.LEVEL] * 3


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 5, 2, 2), nn.ConvTranspose2d(3, 5, 5, 2, 2, 1), nn.Conv2d(3, 5, 3)])
def test_strips_join_without_a_seam(layer, monkeypatch) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    layer.bias.data.zero_()
    weight = torch.randint_like(layer.weight, -9, 9)
    layer.weight.data.copy_(weight)
    a = torch.randint(-9, 9, (2, 3, 11, 8)).double()
    for size in (1, 1 << 23):
        monkeypatch.setattr(integer, "STRIP", size)
        assert torch.equal(integer._strips(layer, weight, a), layer(a))


def test_sums_beyond_float64_are_refused() -> None:
    net = IntegerSequential(nn.Sequential(nn.Conv2d(512, 1, 5)))
    nn.init.ones_(net[0].weight)
    net[0].ranges.step.data[0] = 12.0
    net[0].ranges.step.data[1] = -20.0
    net.eval()
    with pytest.raises(ValueError, match="2\\^53"):
        net(torch.zeros(1, 512, 5, 5))
