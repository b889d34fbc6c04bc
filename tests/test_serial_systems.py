"""Systems with serial contexts: what their papers say of them that shows without training."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kodim
from kodim import registry
from kodim.codec import Codec
from kodim.coding.offsets import OffsetPrior
from kodim.coding.sites import Decode, Encode, Estimate
from kodim.coding.wavefront import Window, fronts, to_grid
from kodim.contexts.masked import Masked, MaskedStack, Walk
from kodim.contexts.spatiochannel import SpatioChannelContext
from kodim.contexts.window import WindowContext
from kodim.systems.klopp2018 import SparseGDN
from kodim.transforms.gdn import GDN
from kodim.transforms.lifting import Lifting, to_pixels, to_planes

UNIT = 2.0**-10
TRUNK_SHARED = ["lee2019", "klopp2018", "fu2021", "koyuncu2022", "minnen2018local"]


pytestmark = pytest.mark.usefixtures("one_thread")


def make(slug: str, preset: str = "compact", seed: int = 1, **sizes: int) -> Codec:
    torch.manual_seed(seed)
    return registry.create(slug, preset=preset, pretrained=False, **sizes)


def picture(height: int, width: int, seed: int = 2) -> Tensor:
    torch.manual_seed(seed)
    return nn.functional.avg_pool2d(torch.rand(1, 3, height + 2, width + 2), 3, 1)


def bits_of(codec: Codec, x: Tensor, quality: float) -> float:
    return float(sum(codec(x, quality).bits.values()))


@pytest.mark.parametrize("slug", TRUNK_SHARED)
def test_compact_presets_start_on_the_trunk(slug: str) -> None:
    """Every tensor of the trunk that the system has a use for has the same name and shape there."""
    trunk = dict(make("minnen2018").named_parameters())
    own = dict(make(slug).named_parameters())
    missing = [k for k in trunk if k not in own or own[k].shape != trunk[k].shape]
    assert all(slug == "minnen2018local" and k.startswith(("hyper_", "z_prior")) for k in missing)
    assert sum(p.numel() for p in own.values()) < 4e6


@pytest.mark.parametrize("slug", ["lee2019", "klopp2018", "fu2021", "koyuncu2022"])
def test_a_trained_trunk_is_a_working_start(slug: str) -> None:
    """With a context of zero the cost is that of the trunk, but for the family and the grid of the values."""
    from skimage import data

    x = torch.from_numpy(np.ascontiguousarray(data.astronaut()[:128, 100:292])).permute(2, 0, 1)[None].float() / 255
    trunk, codec = kodim.create_codec("minnen2018"), make(slug)
    own = codec.state_dict()
    taken = {k: v for k, v in trunk.state_dict().items() if k in own and v.shape == own[k].shape and "tables" not in k}
    codec.load_state_dict(taken, strict=False)
    codec.freeze()
    for quality in (20.0, 80.0):
        before, after = trunk(x, quality), codec(x, quality)
        ratio = {"koyuncu2022": 1.0001, "lee2019": 1.06, "klopp2018": 1.06, "fu2021": 1.15}[slug]
        assert float(before.bpp) / ratio < float(after.bpp) < float(before.bpp) * ratio
        mse = [float((o.x_hat - x).square().mean()) for o in (before, after)]
        assert mse[1] < 1.15 * mse[0]


# Rounding to plain integers.


def test_integer_grid_prior_prices_what_it_should() -> None:
    """The tables' cost of an integer is that of the density moved by the mean, and decoding finds it again."""
    prior = OffsetPrior("gaussian")
    mean = torch.round((torch.rand(1, 4, 5, 6) * 9 - 4.5) / UNIT) * UNIT
    index = torch.full_like(mean, 22.0)  # a scale of 1.6
    bound = prior(index, mean)
    y = torch.round(mean + torch.randn_like(mean))
    code = Encode(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    assert torch.equal(code("y", bound, lambda: y + 0.3 * torch.rand_like(y)), y)
    exact = bound.bits(y - bound.centre)
    tables = torch.as_tensor(bound.distributions().bits((y - bound.centre).long().flatten().numpy()))
    assert float(tables.sum()) == pytest.approx(float(exact.sum()), rel=0.01)
    assert torch.equal(Decode(code.writer.bytes(), (8, 8), torch.zeros(1), torch.float32)("y", bound, lambda: y), y)


# lee2019


def test_lee2019_window() -> None:
    """Three rows above, two columns to the left, one to the right: w + 2 h, 110 steps for 48x32."""
    assert len(fronts(32, 48, Window(3, 2, 1))) == 48 + 2 * 31 == 110
    net = WindowContext(2, 3, 4, 2)
    side, y = torch.zeros(1, 3, 9, 9), torch.randn(1, 2, 9, 9)

    class Collect(Estimate):
        def preview(self, value: Tensor) -> Tensor:
            return value

        def __call__(self, name, prior, latent):  # type: ignore[no-untyped-def]
            return prior

    def predicted(y: Tensor) -> Tensor:
        return net.train()(Collect(torch.zeros(1, 3, 9, 9), torch.zeros(1)), "y", side, lambda p: p, lambda: y)  # type: ignore[arg-type, return-value]

    before = predicted(y)
    y[0, :, 4, 4] += 1
    changed = {(int(a), int(b)) for a, b in (predicted(y) != before).any(1)[0].nonzero()}
    assert changed == {(4 + dy, 4 + dx) for dy in range(4) for dx in range(-1, 3) if dy or dx > 0}


@pytest.mark.parametrize("size", [(1, 1), (5, 4)])
def test_lee2019_integers_follow_the_floats(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = WindowContext(2, 6, 5, 4).eval()
    y, side = torch.randint(-9, 9, (1, 2, *size)).float(), torch.randint(-900, 900, (1, 6, *size)) * UNIT
    seen: list[Tensor] = []
    prior = OffsetPrior("gaussian")

    def bind(p: Tensor):  # type: ignore[no-untyped-def]
        seen.append(p)
        return prior(*p.chunk(2, 1))

    code = Estimate(torch.zeros(1, 3, *size), torch.zeros(1))
    assert torch.equal(net(code, "y", side, bind, lambda: y), y)
    net.train()
    code.preview = lambda value: value  # type: ignore[method-assign]
    net(code, "y", side, bind, lambda: y)
    whole = seen.pop().flatten(2)
    order = torch.cat(fronts(*size, Window(3, 2, 1)))
    torch.testing.assert_close(torch.cat(seen, 2)[..., 0], whole[:, :, order], atol=0.01, rtol=0.01)


def test_lee2019_hybrid_codes_the_second_part_at_once() -> None:
    codec = make("lee2019", "paper-high")
    out = codec.train()(picture(64, 64))
    assert set(out.bits) == {"z", "y", "y2"}
    assert codec.context.hyper.weight.shape[:2] == (192, 192)  # type: ignore[union-attr]


# minnen2018local


def test_local_flat_tiles_name_the_zero_model_and_cost_nothing() -> None:
    codec = make("minnen2018local")
    x = torch.full((1, 3, 256, 256), 0.5)
    x[:, :, :128, :128] = torch.rand(1, 3, 128, 128)
    entries: list[Tensor] = []
    codec.dictionary.register_forward_pre_hook(lambda _, inputs: entries.append(inputs[0]))  # type: ignore[union-attr, operator]
    out = codec(x, 50)
    used = entries[0][0].float()
    textured, flat = used[:, :8, :8], used[:, 9:, 9:]
    assert float((flat == 0).float().mean()) > 0.95
    assert float((textured == 0).float().mean()) < 0.3
    assert 0 < float(out.bits["names"]) <= 4 * 192 * 6 * 1.01  # untrained: no more than saying each outright


def test_local_one_entry_sends_no_names() -> None:
    codec = make("minnen2018local", entries=1)
    assert set(codec(picture(128, 128)).bits) == {"y"}


def test_local_names_are_the_best_for_their_tile() -> None:
    """No other entry, for one tile and channel, makes the file smaller by more than it saves in saying so."""
    codec = make("minnen2018local", entries=8, tile=4)
    x = picture(64, 64)  # one tile: nothing hangs on what is left of it
    entries: list[Tensor] = []
    hook = codec.dictionary.register_forward_pre_hook(lambda _, inputs: entries.append(inputs[0]))  # type: ignore[union-attr, operator]
    codec(x, 60)
    hook.remove()
    y = torch.round(codec.analysis(x) * codec.gain(torch.tensor([0.6 * 7])))  # type: ignore[operator]
    prices = []
    for d in range(8):
        bits = codec.dictionary(torch.full_like(entries[0], d)).distributions().bits(y.flatten().long().numpy())  # type: ignore[operator]
        prices.append(bits.reshape(192, 16).sum(1))  # saying so costs 3 bits, whichever it is
    assert (np.argmin(prices, 0) == entries[0][0, :, 0, 0].numpy()).mean() > 0.97


def test_local_smaller_tiles_trade_names_for_values() -> None:
    x = picture(128, 128)
    parts = [make("minnen2018local", tile=tile)(x, 60).bits for tile in (2, 4, 8)]
    names, values = ([float(p[k]) for p in parts] for k in ("names", "y"))
    assert names == sorted(names, reverse=True)
    assert values == sorted(values)


# klopp2018


def test_klopp2018_sparse_normalisation_gives_zeros() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 5)
    sparse = SparseGDN(16)(x)
    assert float((sparse == 0).float().mean()) > 0.4 > 0.01 > float((GDN(16)(x) == 0).float().mean())
    expected = x.clamp_min(0) / (1 + 0.1 * x.clamp_min(0))  # how it starts
    torch.testing.assert_close(sparse, expected, atol=1e-4, rtol=1e-4)
    assert float(SparseGDN(16, inverse=True)(x).detach().min()) >= 0
    counts = [sum(isinstance(m, SparseGDN) for m in make("klopp2018", p).modules()) for p in ("sparse", "compact")]
    assert counts == [6, 0]


def test_klopp2018_needs_no_side_information() -> None:
    assert set(make("klopp2018", "predictor")(picture(64, 64)).bits) == {"y"}


# fu2021


def test_fu2021_with_its_switches_off_is_minnen2018() -> None:
    reference, plain = make("minnen2018-ar"), make("fu2021", "plain")
    nn.init.normal_(reference.context.join[-1].weight, std=0.02)  # type: ignore[union-attr, index]
    plain.load_state_dict(reference.state_dict())
    x = picture(96, 128)
    one, other = reference.compress(x, 60), plain.compress(x, 60)
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])


def test_fu2021_kernels_reach_as_far_as_they_say() -> None:
    context = make("fu2021").context
    taps = context.taps()  # type: ignore[union-attr, operator]
    assert taps.shape == (96, 192, 1, 24)
    reached = [int((part.abs().sum((0, 1, 2)) > 0).sum()) for part in taps.split(32)]
    assert reached == [4, 12, 24]


def test_fu2021_components_start_apart_and_alive() -> None:
    codec = make("fu2021")
    bound: list = []
    bind = codec._bind  # type: ignore[operator]
    codec._bind = lambda p: bound.append(bind(p)) or bound[-1]  # type: ignore[assignment, func-returns-value]
    codec(picture(64, 64), 50)
    assert float(torch.softmax(bound[0].logits, 1).min()) > 0.3
    ratio = codec.y_prior.scale(bound[0].scale_index).log().diff(dim=1)  # type: ignore[union-attr, operator]
    inside = (bound[0].scale_index[:, 0] > 1) & (bound[0].scale_index[:, 2] < 60)
    assert float((ratio.transpose(0, 1)[:, inside] - math.log(2)).abs().max()) < 0.02


# mentzer2018 and the masked stacks


def restated(net: MaskedStack, x: Tensor, outside: float) -> Tensor:
    """What a stack makes of one volume (D, h, w) of numbers, position by position, in plain sums of floats."""
    depth, h, w = x.shape

    def layer(masked: Masked, features: dict, at: tuple[int, int, int], border: Tensor) -> Tensor:
        d, y, c = at
        places = [(d - 1, y + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)] if masked.behind else []
        places += [(d, y + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        places = places[: masked.weight.shape[3]]
        return masked.bias + sum(masked.weight[:, :, 0, t] @ features.get(p, border) for t, p in enumerate(places))

    symbols = {p: x[p].view(1) for p in np.ndindex(depth, h, w)}
    zero = torch.zeros(net.width)
    stages: list[dict] = [{} for _ in range(len(net.blocks) + 1)]
    out = torch.zeros(depth, h, w, net.last.weight.shape[0])
    for at in np.ndindex(depth, h, w):
        first = layer(net.first, symbols, at, torch.full((1,), outside)).clamp_min(0)
        stages[0][at] = first
        for i in range(0, len(net.blocks), 2):
            stages[i + 1][at] = layer(net.blocks[i], stages[i], at, zero).clamp_min(0)  # type: ignore[arg-type]
            stages[i + 2][at] = stages[i][at] + layer(net.blocks[i + 1], stages[i + 1], at, zero)  # type: ignore[arg-type]
        out[at] = layer(net.last, stages[-1], at, zero)
    return out


@pytest.mark.parametrize(("deep", "shape"), [(True, (3, 4, 5)), (True, (1, 1, 1)), (False, (1, 5, 4))])
@torch.no_grad()
def test_masked_stack_position_by_position_at_once_and_in_fronts(deep: bool, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    net = MaskedStack(6, 1, 3, deep=deep)
    x = torch.randint(-40, 40, shape) / 16
    slow = restated(net, x, 0.5)
    side = torch.zeros(1, 1, 6, 1, 1)
    fast = net(x[None], side, 0.5)[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    walk = Walk(net, shape, to_grid(side[:, :, :, 0, 0]), to_grid(torch.tensor(0.5)))
    found = torch.zeros(slow[..., 0].numel(), 3)
    steps = 0
    for front in walk.fronts():
        found[front] = (walk.parameters(front)[0] * UNIT).float()
        walk.put(front, to_grid(x.flatten()[front]).view(1, -1, 1))
        steps += 1
    torch.testing.assert_close(found.view(slow.shape), slow, atol=0.01, rtol=0.01)
    assert steps <= shape[2] + 2 * (shape[1] - 1) + 4 * (shape[0] - 1)


def test_mentzer2018_takes_346_steps_for_a_kodak_picture() -> None:
    net = MaskedStack(1, 1, 6, deep=True)
    assert len(list(Walk(net, (32, 64, 96), torch.zeros(1, 1, 1), torch.zeros(())).fronts())) == 346


def test_mentzer2018_importance_map_rules_which_channels_speak() -> None:
    codec = make("mentzer2018")
    x = picture(64, 64)
    with torch.no_grad():
        both = codec._encode(x, torch.tensor([3.0]))  # type: ignore[operator]
        values, m = both[0]
        assert torch.equal(values[m == 0], torch.zeros_like(values[m == 0]))
        assert (m.diff(dim=0) <= 0).all()  # channels drop out from the last
        symbols = codec.centres.nearest(values)  # type: ignore[union-attr, operator]
        zero = int(codec.centres.values.abs().argmin())  # type: ignore[union-attr, operator]
        assert (symbols[m == 0] == zero).all()
        live = [float((codec._encode(x, torch.tensor([level]))[0, 1] > 0).float().mean()) for level in (0.0, 3.5, 7.0)]  # type: ignore[operator]
    assert live[0] < live[1] < live[2]


def test_mentzer2018_bits_pull_at_the_mask_and_the_soft_value_at_the_centres() -> None:
    codec = make("mentzer2018").train()
    out = codec(picture(64, 64), 50)
    codec.zero_grad()
    out.bpp.sum().backward(retain_graph=True)
    assert float(codec.importance.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]
    assert codec.gain.log_gain.grad is None or float(codec.gain.log_gain.grad.abs().sum()) == 0  # type: ignore[union-attr]
    codec.zero_grad()
    out.x_hat.square().mean().backward()
    assert float(codec.centres.values.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]


def test_mentzer2018_bits_below_the_target_are_free() -> None:
    codec = make("mentzer2018").train()
    x, level = picture(64, 64), torch.tensor([7.0])
    with torch.no_grad():
        out = codec(x, 100)
        above = codec.objective(x, out, level)
        codec.targets = (9.0, 9.0)
        below = codec.objective(x, out, level)
    assert float(above["excess"]) > 0 == float(below["excess"])
    assert float(above["loss"]) > float(below["loss"])


# kamisli2022


def closed(codec: Codec, x: Tensor) -> Tensor:
    with torch.no_grad():
        return codec(x, 50).x_hat


@pytest.fixture(scope="module")
def blocks() -> Codec:
    """A system whose neighbours say something, though it has learned nothing."""
    codec = make("kamisli2022", width=64, latents=48)
    for net in (codec.analysis, codec.synthesis):
        nn.init.normal_(net.around.weight, std=0.002)  # type: ignore[union-attr, arg-type]
    return codec


def test_kamisli2022_a_block_changes_nothing_before_it(blocks: Codec) -> None:
    x = picture(64, 64)
    before = closed(blocks, x)
    x[:, :, 24:32, 32:40] = 0
    changed = (closed(blocks, x) != before).any(1)[0].unfold(0, 8, 8).unfold(1, 8, 8).flatten(2).any(2)
    reached = {(int(a), int(b)) for a, b in changed.nonzero()}
    assert (3, 4) in reached
    assert all(y > 3 or (y == 3 and c >= 4) for y, c in reached)
    assert all(c >= 4 - (y - 3) for y, c in reached)


def test_kamisli2022_open_loop_comes_to_the_closed_one(blocks: Codec) -> None:
    """Each time a picture is coded with the last result as neighbours, one more front of blocks is as in the loop."""
    x = picture(48, 48)
    level = torch.tensor([3.5])
    unshuffled = nn.functional.pixel_unshuffle(x - 0.5, 8)
    target = closed(blocks, x)
    step = torch.arange(6) + 2 * torch.arange(6)[:, None]  # when a block's turn is
    for times in (2, 4, 8):
        reference = blocks._passed(unshuffled, level, times).clamp(-0.5, 0.5)  # type: ignore[operator]
        error = (nn.functional.pixel_shuffle(reference, 8) + 0.5 - target).abs()[0].mean(0)
        error = error.unfold(0, 8, 8).unfold(1, 8, 8).mean((2, 3))
        done, later = error[step < times], error[step > times + 1]
        assert float(done.median()) < 0.003 < 0.005 < float(later.median())


def test_kamisli2022_takes_222_steps_and_no_side_information(blocks: Codec) -> None:
    assert len(fronts(64, 96, 1)) == 222
    assert set(blocks(picture(32, 32)).bits) == {"y"}


# koyuncu2022


@pytest.fixture(scope="module")
def transformer() -> SpatioChannelContext:
    torch.manual_seed(0)
    return SpatioChannelContext(8, 16, 4, 16, 2, 2, (12,), 4, 2, residual=False).eval()


@torch.no_grad()
def test_koyuncu2022_no_token_sees_itself_or_what_comes_later(transformer: SpatioChannelContext) -> None:
    h, w, s = 4, 5, 4
    side, y = torch.randn(1, 16, h, w), torch.randn(1, 8, h, w)
    before = transformer.predict(y, side)
    for token in (0, 7, 30, 55):
        place, segment = token // s, token % s
        other = y.clone()
        other[0, 2 * segment : 2 * segment + 2, place // w, place % w] += 3
        changed = (transformer.predict(other, side) != before).any(2)[0]
        assert not changed[: token + 1].any()
        assert changed[token + 1 :].any() or place % w == w - 1


@torch.no_grad()
def test_koyuncu2022_incremental_decoding_is_the_single_pass(transformer: SpatioChannelContext) -> None:
    h, w = 4, 6
    y, side = torch.randint(-3, 4, (1, 8, h, w)).float(), torch.randint(-999, 999, (1, 16, h, w)) * UNIT
    seen: list[Tensor] = []
    prior = OffsetPrior("gaussian")

    def bind(p: Tensor):  # type: ignore[no-untyped-def]
        seen.append(p[0, :, :, 0].T)
        return prior(*p.chunk(2, 1))

    code = Estimate(torch.zeros(1, 3, h, w), torch.zeros(1))
    assert torch.equal(transformer(code, "y", side, bind, lambda: y), y)
    whole = transformer.predict(y, side)[0].view(h * w, 4, -1)
    expected = [whole[front, s] for front in fronts(h, w, 2) for s in range(4)]
    torch.testing.assert_close(torch.cat(seen), torch.cat(expected), atol=0.02, rtol=0.02)


def test_koyuncu2022_paper_sizes() -> None:
    codec = make("koyuncu2022", "paper")
    assert [tuple(m.weight.shape[:2]) for m in codec.context.join] == [(656, 768), (544, 656), (432, 544)]  # type: ignore[union-attr]
    assert len(codec.context.blocks) == 8  # type: ignore[union-attr, arg-type]


# ma2020


def disturb(net: nn.Module, std: float) -> None:
    torch.manual_seed(5)
    for p in net.parameters():
        p.data.add_(std * torch.randn_like(p))


@torch.no_grad()
def test_lifting_is_inverted_whatever_it_has_learned() -> None:
    lifting = Lifting(4, 16).eval()
    disturb(lifting, 0.05)
    x = 255 * torch.rand(2, 1, 32, 48)
    bands = lifting(x)
    assert float((bands - x).abs().max()) > 10
    assert float((lifting.inverse(bands) - x).abs().max()) < 1e-3 * 255


@torch.no_grad()
def test_lifting_starts_as_the_9_7_wavelet() -> None:
    """Against the wavelet's analysis filters, as JPEG 2000 tabulates them, up to the gain of each half."""
    low = [0.6029490182363579, 0.2668641184428723, -0.07822326652898785, -0.01686411844287495, 0.02674875741080976]
    high = [1.115087052456994, -0.5912717631142470, -0.05754352622849957, 0.09127176311424948]
    x = torch.rand(16, 16)
    bands = Lifting(1, 4).eval()(x[None, None])[0, 0]

    def filtered(rows: Tensor, taps: list[float], first: int) -> Tensor:
        n = len(rows)
        index = torch.arange(first, n, 2)
        total = torch.zeros(len(index), rows.shape[1])
        for k in range(1 - len(taps), len(taps)):
            i = index + k
            i = torch.where(i < 0, -i, i)
            i = torch.where(i >= n, 2 * n - 2 - i, i)  # whole-sample symmetric
            total += taps[abs(k)] * rows[i]
        return total

    rows = torch.cat((filtered(x, low, 0), filtered(x, high, 1)))
    expected = torch.cat((filtered(rows.T, low, 0), filtered(rows.T, high, 1))).T
    for part in ((slice(0, 8), slice(0, 8)), (slice(0, 8), slice(8, 16)), (slice(8, 16), slice(8, 16))):
        ratio = bands[part] / expected[part]
        assert float(ratio.std() / ratio.mean().abs()) < 1e-2


def test_reversible_colours() -> None:
    x = torch.randint(0, 256, (1, 3, 9, 9)) / 255
    assert torch.equal(torch.round(to_pixels(to_planes(x, True), True) * 255), torch.round(x.double() * 255))
    assert float((to_pixels(to_planes(x, False), False) - x).abs().max()) < 1 / 255


def test_ma2020_lossless_is_lossless_with_networks_that_speak() -> None:
    codec = make("ma2020", "lossless")
    disturb(codec.lifting, 0.05)  # type: ignore[arg-type]
    x = torch.randint(0, 256, (1, 3, 35, 50)) / 255
    stream, seen = codec.compress(x)
    back = codec.decompress(stream, (35, 50))
    assert torch.equal(torch.round(back * 255), torch.round(x * 255))
    assert torch.equal(seen, back)


def test_ma2020_finer_steps_leave_less_error() -> None:
    codec = make("ma2020")
    x = picture(32, 32)
    errors = [float((codec(x, quality).x_hat - x).square().mean()) for quality in (0.0, 100.0)]
    assert errors[0] > 8 * errors[1]


@torch.no_grad()
def test_ma2020_coarse_subbands_tell_about_fine_ones() -> None:
    """Another low subband changes what is expected of the next level."""
    codec = make("ma2020").train()
    memory = codec.memory
    states = [memory.see(x, memory.start(x)) for x in (torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))]  # type: ignore[union-attr, operator]
    told = [codec.recall[0](s[-1][0]) for s in states]  # type: ignore[index, operator]
    assert float((told[0] - told[1]).abs().max()) > 1e-3
