"""Laws of the priors: what is written is read, estimates are sizes, integer counts follow the densities."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kodim import weights
from kodim.codec import Codec
from kodim.coding.exact import ExactSequential
from kodim.coding.mixtures import BernoulliPrior, CategoricalPrior, LookupTables, MixturePrior
from kodim.coding.priors import FactorizedPrior, PriorModule, ScalePrior
from kodim.coding.rangecoder import Reader, Writer
from kodim.coding.sites import MAX_SYMBOL, BoundPrior, Code
from kodim.coding.tables import TOTAL, Distributions, Indexed, Individual, IntegerTables, quantise
from kodim.errors import BadRequest

CHANNELS = 6
CATEGORIES = 5
FAMILIES = ("gaussian", "laplace", "logistic")
MIXTURES = {
    "one": ("gaussian",),
    "gaussians": ("gaussian",) * 3,
    "families": FAMILIES,
    "logistics": ("logistic",) * 10,
}


@dataclass(frozen=True)
class Kind:
    """A kind of prior, and how to bind it to parameters (B, n, h, w) of about unit variance."""

    module: Callable[[], PriorModule]
    parameters: int  # per channel
    bind: Callable[[Any, Tensor], BoundPrior]
    symbols: int | None = None  # a categorical's


def _factorized(module: FactorizedPrior, p: Tensor) -> BoundPrior:
    level = (2 * p[:, 0, 0, 0].detach().abs()).floor().clamp_max(4) / 2  # half steps of 0 .. 2
    return module(level.float(), tuple(p.shape[2:]))


def _scale(module: ScalePrior, p: Tensor) -> BoundPrior:
    index, mean = p.chunk(2, 1)
    return module(18 + 8 * index, mean)


def _mixture(module: MixturePrior, p: Tensor) -> BoundPrior:
    logits, mean, index = p.unflatten(1, (3, len(module.families), -1)).unbind(1)
    return module(logits, 4 * mean, 18 + 8 * index)


KINDS: dict[str, Kind] = {"factorized": Kind(lambda: FactorizedPrior(CHANNELS, 3, spread=1.0), 1, _factorized)}
KINDS |= {f: Kind(lambda f=f: ScalePrior(f), 2, _scale) for f in FAMILIES}  # type: ignore[misc]
KINDS |= {
    f"mixture of {name}": Kind(lambda fs=fs: MixturePrior(fs), 3 * len(fs), _mixture)  # type: ignore[misc]
    for name, fs in MIXTURES.items()
}
KINDS["categorical"] = Kind(
    CategoricalPrior, CATEGORIES, lambda module, p: module(p.unflatten(1, (CATEGORIES, -1))), CATEGORIES
)
KINDS["bernoulli"] = Kind(BernoulliPrior, 1, lambda module, p: module(p), 2)

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
escaping = pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.symbols is None])


def parameters(kind: Kind, seed: int, size: tuple[int, int, int] = (1, 3, 4), spread: float = 1.0) -> Tensor:
    """(B, n, h, w) multiples of 2^-10, as exact networks give them; size is (B, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    p = spread * torch.randn(size[0], kind.parameters * CHANNELS, *size[1:], generator=generator)
    return torch.round(p * 1024).clamp(-(2**20), 2**20) / 1024


def bound(kind: Kind, seed: int, size: tuple[int, int, int] = (1, 3, 4), spread: float = 1.0) -> BoundPrior:
    return kind.bind(frozen(kind), parameters(kind, seed, size, spread))


@cache
def frozen(kind: Kind) -> PriorModule:
    torch.manual_seed(0)
    module = kind.module()
    module.freeze()
    return module


def sample(distributions: Distributions, seed: int) -> np.ndarray:
    """Symbols (n,) drawn from integer tables; escapes become symbols up to a thousand beyond."""
    rng = np.random.default_rng(seed)
    if isinstance(distributions, Individual):
        u = rng.integers(TOTAL, size=len(distributions.low))
        symbols = distributions.low + (np.cumsum(distributions.counts, 1) <= u[:, None]).sum(1)
    else:
        symbols = np.empty(len(distributions.rows), dtype=np.int64)
        for row in np.unique(distributions.rows):
            where = distributions.rows == row
            probabilities = distributions.tables.probabilities(row)
            symbols[where] = rng.choice(len(probabilities), where.sum(), p=probabilities)
        symbols += distributions.low_and_length(np.arange(len(symbols)))[0]
    return symbols + distributions.split(symbols)[1] * rng.integers(1000, size=len(symbols))


def residuals(prior: BoundPrior, symbols: np.ndarray) -> Tensor:
    return torch.as_tensor(symbols, dtype=torch.float32).view(prior.shape)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of a few hundred numbers: a second thread would only wait in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the coder -------------------------------------------------------------------------------------------------------


@every_kind
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16), spread=st.sampled_from([0.0, 1.0, 4.0, 60.0]))
def test_what_is_written_is_read(kind: Kind, data: st.DataObject, seed: int, spread: float) -> None:
    prior = bound(kind, seed, spread=spread)
    d = prior.distributions()
    symbols = sample(d, seed)
    limit = int(MAX_SYMBOL)
    value = st.integers(-limit, limit) if kind.symbols is None else st.integers(0, kind.symbols - 1)
    for i, v in data.draw(st.dictionaries(st.integers(0, len(symbols) - 1), value, max_size=9)).items():
        symbols[i] = v
    writer = Writer()
    writer.write(symbols, d)
    assert np.array_equal(Reader(writer.bytes()).read(prior.distributions()), symbols)
    bits = d.bits(symbols)
    assert (bits >= 0).all()
    assert 8 * len(writer.bytes()) <= 1.001 * bits.sum() + 64  # may be less: trailing zeros are left out


@every_kind
def test_estimate_is_the_size(kind: Kind) -> None:
    d = bound(kind, 7, (2, 24, 32)).distributions()
    symbols = sample(d, 7)
    if kind.symbols is None:
        symbols[::500] += np.arange(0, len(symbols), 500) % 7919 - 4000  # some escapes
    writer = Writer()
    writer.write(symbols, d)
    bits = d.bits(symbols).sum()
    assert bits > 1000
    assert abs(8 * len(writer.bytes()) - bits) <= 0.001 * bits + 64


@escaping
@pytest.mark.parametrize("symbol", [-(2**24), -70_000, -513, 400, 2**24])
def test_an_escape_costs_its_class_and_its_digits(name: str, symbol: int) -> None:
    d = bound(KINDS[name], 1).distributions()
    symbols = sample(d, 1)
    inside = d.bits(symbols)
    symbols[5] = symbol
    cost = d.bits(symbols)
    assert cost[5] <= 16 + 5 + 25
    assert np.array_equal(np.delete(cost, 5), np.delete(inside, 5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 5, 20]), st.integers(1, 150)), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 2000), st.sampled_from([-70_000, -2, -1, 1, 2, 400]), max_size=6),
    st.integers(0, 2**16),
)
def test_symbols_in_runs_are_read_as_written(
    stretches: list[tuple[int, int]], surprises: dict[int, int], seed: int
) -> None:
    rows = np.concatenate([np.full(length, row) for row, length in stretches])
    d = Indexed(_with_runs().tables.rows, rows)
    symbols = sample(d, seed)
    for i, symbol in surprises.items():
        symbols[i % len(symbols)] = symbol
    writer = Writer()
    writer.write(symbols, d)
    assert np.array_equal(Reader(writer.bytes()).read(d), symbols)
    assert abs(8 * len(writer.bytes()) - d.bits(symbols).sum()) <= 64


def test_runs_cost_what_their_symbols_cost() -> None:
    """Silent ones within a hundredth of a bit a run, those with a surprise nine bits more."""
    rows = np.zeros(64 * 200, dtype=np.int64)
    tables = _with_runs().tables.rows
    plain = replace(tables, spare=0)
    symbols = np.zeros_like(rows)
    silent = Indexed(tables, rows).bits(symbols).sum()
    assert abs(silent - Indexed(plain, rows).bits(symbols).sum()) < 0.01 * 200
    symbols[1000] = 1
    surprise = Indexed(plain, rows).bits(symbols).sum()
    assert surprise < Indexed(tables, rows).bits(symbols).sum() < surprise + 10


@cache
def _with_runs() -> ScalePrior:
    prior = ScalePrior(runs=True)
    prior.freeze()
    return prior


# --- counts and densities --------------------------------------------------------------------------------------------


@every_kind
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16), spread=st.sampled_from([0.0, 0.3, 1.0, 10.0, 1000.0]))
def test_counts_are_proper(kind: Kind, seed: int, spread: float) -> None:
    d = bound(kind, seed, spread=spread).distributions()
    if isinstance(d, Indexed):
        rows = [d.tables.probabilities(row) for row in np.unique(d.rows)]
        assert all(p.sum() == 1 and p.min() >= 1 / TOTAL for p in rows)
        return
    assert (d.counts.sum(1) == TOTAL).all()
    assert (d.counts[:, :-1] >= 1).all()
    assert (d.counts[:, -1] == 0).all() if kind.symbols else (d.counts[:, -1] >= 1).all()


@every_kind
def test_training_bits_are_those_of_the_tables(kind: Kind) -> None:
    prior = bound(kind, 3, (5, 16, 16))
    d = prior.distributions()
    symbols = sample(d, 3)
    exact = d.bits(symbols)
    inside = ~d.split(symbols)[1]
    smooth = prior.bits(residuals(prior, symbols)).detach().double().numpy().reshape(-1)
    assert inside.mean() > 0.99
    assert abs(smooth[inside].sum() / exact[inside].sum() - 1) < 0.01


@every_kind
def test_training_densities_sum_to_one(kind: Kind) -> None:
    values = torch.arange(kind.symbols).float() if kind.symbols else torch.arange(-400.0, 401.0)
    p = parameters(kind, 5, (3, 1, 1), spread=0.7).expand(-1, -1, -1, len(values))
    prior = kind.bind(frozen(kind), p)
    total = torch.exp2(-prior.bits(values.expand(prior.shape)).double()).sum(-1)
    floors = 0.0 if kind.symbols else 801e-9
    torch.testing.assert_close(total, torch.ones_like(total), atol=floors + 2e-5, rtol=0)


@every_kind
def test_bits_reach_values_and_parameters(kind: Kind) -> None:
    torch.manual_seed(2)
    module = kind.module().train()
    p = parameters(kind, 2).requires_grad_()
    prior = kind.bind(module, p)
    r = torch.rand(prior.shape, requires_grad=True)
    prior.bits(r).sum().backward()
    learned = [q for q in module.parameters() if q.requires_grad]
    reached = [r, *learned] if learned else [r, p]
    for tensor in reached:
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


@every_kind
def test_far_values_keep_a_gradient(kind: Kind) -> None:
    """No likelihood underflows to a dead one: a mean far off is still drawn to its value."""
    torch.manual_seed(2)
    module = kind.module().train()
    p = parameters(kind, 2, spread=0.5).requires_grad_()
    prior = kind.bind(module, p)
    bits = prior.bits(torch.full(prior.shape, 1e4))
    assert torch.isfinite(bits).all()
    bits.sum().backward()
    assert all(torch.isfinite(q.grad).all() for q in [p, *module.parameters()] if q.grad is not None)


def normal_masses(low: int, n: int, mean: float, scale: float) -> np.ndarray:
    edges = (torch.arange(low, low + n + 1, dtype=torch.float64) - 0.5 - mean) / scale
    left, right = edges[:-1], edges[1:]
    upper = torch.special.ndtr(-left) - torch.special.ndtr(-right)  # each side from its own tail
    return torch.where(left > 0, upper, torch.special.ndtr(right) - torch.special.ndtr(left)).numpy()


@pytest.mark.parametrize("row", [0, 7, 18, 35, 50, 63])
def test_gaussian_table_is_the_normal_distribution(row: int) -> None:
    module = ScalePrior("gaussian")
    module.freeze()
    rows = module.tables.rows
    n = int(rows.lengths[row])
    wanted = normal_masses(int(rows.low[row]), n, 0.0, 0.11 * (256 / 0.11) ** (row / 63))
    counts = rows.probabilities(row)[:-1] * TOTAL
    others = np.arange(n) != counts.argmax()  # that one takes what rounding leaves
    np.testing.assert_allclose((counts - 1)[others], np.floor(wanted * (TOTAL - n - 1))[others], atol=1)
    assert 0 <= counts.max() - wanted.max() * (TOTAL - n - 1) <= n + 2


def test_tables_follow_what_was_seen() -> None:
    """Laplacian residuals, a Gaussian family: fitted tables lose less than a percent, the family's lose more."""
    rng = np.random.default_rng(3)
    module = ScalePrior("gaussian")
    rows = torch.full((200_000,), 30)
    symbols = torch.as_tensor(np.round(rng.laplace(0, 2.0, len(rows))))
    before = module.indexed(rows).bits(symbols.long().numpy()).sum()
    module.watch(module.indexed(rows), symbols)
    module.freeze()
    assert module.tables.check()
    fresh = np.round(rng.laplace(0, 2.0, len(rows))).astype(np.int64)
    _, counts = np.unique(fresh, return_counts=True)
    entropy = -(counts * np.log2(counts / len(fresh))).sum()
    after = module.indexed(rows).bits(fresh).sum()
    assert entropy < after < 1.01 * entropy < before
    other = module.tables.rows.probabilities(31)
    module.forget()
    np.testing.assert_array_equal(module.indexed(rows + 1).tables.probabilities(31), other)


@settings(max_examples=60, deadline=None)
@given(
    weight=st.floats(0.01, 0.99),
    means=st.tuples(st.integers(-(2**14), 2**14), st.integers(-(2**14), 2**14)),
    rows=st.tuples(st.integers(0, 63 * 8), st.integers(0, 63 * 8)),
)
def test_mixture_counts_are_the_mixture(weight: float, means: tuple[int, int], rows: tuple[int, int]) -> None:
    module = MixturePrior(("gaussian", "gaussian"))
    logit = round(1024 * math.log(weight / (1 - weight)))
    d = module.individual(np.array([[logit], [0]]), np.array(means)[:, None], np.array(rows)[:, None])
    weight = 1 / (1 + math.exp(-logit / 1024))
    wanted = sum(
        w * normal_masses(int(d.low[0]), module.window, m / 1024, 0.11 * (256 / 0.11) ** (row / 504))
        for w, m, row in zip((weight, 1 - weight), means, rows, strict=True)
    )
    slack = (TOTAL - module.window - 1) / TOTAL  # the rest are the ones
    np.testing.assert_allclose(d.counts[0, :-1] - 1, wanted * TOTAL * slack, atol=2.5, rtol=2e-3)


def test_mixture_window_holds_what_it_can() -> None:
    """Far components: the window goes to the heavier; near ones share it."""
    module = MixturePrior(("gaussian", "laplace"))
    index = np.full((2, 3), 18 * 8)
    mean = 1024 * np.array([[-300, -300, -12], [300, 300, 12]])
    logits = 1024 * np.array([[2, -2, 0], [0, 0, 0]])
    d = module.individual(logits, mean, index)
    assert d.low.tolist() == [-332, 268, -32]
    assert d.counts[2, -1] <= 4
    assert d.counts[:2, -1] == pytest.approx(TOTAL / (1 + math.exp(2)), abs=60)


def test_mixture_survives_parameters_beyond_every_range() -> None:
    module = MixturePrior(FAMILIES)
    huge = torch.full((1, 3, 2, 1, 2), 1e30)
    for sign in (-1, 1):
        d = module(sign * huge, sign * huge, sign * huge).distributions()
        assert (d.counts >= 1).all()
        assert (d.counts.sum(1) == TOTAL).all()


def test_mixture_refuses_windows_it_cannot_sum() -> None:
    with pytest.raises(ValueError, match="does not go with"):
        MixturePrior(low=0.001)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-(2**20), 2**20), min_size=2, max_size=300))
def test_categories_follow_their_softmax(logits: list[int]) -> None:
    d = CategoricalPrior().individual(np.array(logits)[:, None])
    wanted = torch.softmax(torch.tensor(logits, dtype=torch.float64) / 1024, 0).numpy()
    np.testing.assert_allclose(d.counts[0, :-1] / TOTAL, wanted, atol=(len(logits) + 2) / TOTAL)
    assert d.counts[0].sum() == TOTAL


def test_bernoulli_is_a_sigmoid() -> None:
    logit = torch.arange(-8, 8.5, 0.5).view(1, 1, 1, -1)
    prior = BernoulliPrior()(logit)
    wanted = torch.sigmoid(logit).flatten().numpy()
    np.testing.assert_allclose(prior.distributions().counts[:, 1] / TOTAL, wanted, atol=3 / TOTAL)
    torch.testing.assert_close(torch.exp2(-prior.bits(torch.ones(prior.shape))), torch.sigmoid(logit))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=200).filter(lambda m: sum(m) > 1e-3))
def test_quantise_keeps_all_and_sums(masses: list[float]) -> None:
    counts = quantise(np.array(masses))
    assert counts.sum() == TOTAL
    assert counts.min() >= 1
    assert np.array_equal(counts, quantise(4 * np.array(masses)))  # any scale
    exact = np.array(masses) / sum(masses) * TOTAL
    assert (np.delete(counts - exact, counts.argmax()) <= 1 + 1e-6).all()
    assert np.abs(counts - exact).max() <= len(masses) + 1


# --- independence ----------------------------------------------------------------------------------------------------


def same(a: Distributions, b: Distributions, part: slice = slice(None)) -> bool:
    """Whether b equals a's elements `part`."""
    if isinstance(a, Indexed):
        return isinstance(b, Indexed) and np.array_equal(a.rows[part], b.rows)
    return isinstance(b, Individual) and np.array_equal(a.counts[part], b.counts) and np.array_equal(a.low[part], b.low)


@every_kind
def test_counts_depend_on_nothing_else(kind: Kind) -> None:
    module = kind.module()
    p = parameters(kind, 11, (3, 9, 11), 2.0)
    reference = kind.bind(module, p).distributions()
    torch.set_num_threads(2)
    assert same(reference, kind.bind(module, p).distributions())
    assert same(reference, kind.bind(module, p.to(memory_format=torch.channels_last)).distributions())
    assert same(reference, kind.bind(module, p.double()).distributions())
    n = math.prod(kind.bind(module, p).shape[1:])
    for i in range(3):
        assert same(reference, kind.bind(module, p[i : i + 1]).distributions(), slice(i * n, (i + 1) * n))


def test_chunks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mixture of families", "categorical"):
        reference = bound(KINDS[name], 4).distributions()
        with monkeypatch.context() as m:
            m.setattr("kodim.coding.mixtures.CHUNK", 700)
            assert same(reference, bound(KINDS[name], 4).distributions())


# --- stored tables ---------------------------------------------------------------------------------------------------


@every_kind
def test_tables_are_stored_checked_and_dropped(kind: Kind) -> None:
    module, other = kind.module(), kind.module()
    assert not module.tables.ready
    module.freeze()
    assert module.tables.ready
    assert module.tables.check()
    p = parameters(kind, 1)
    kind.bind(other, p).distributions()  # leaves cached arrays of its own behind
    other.load_state_dict(module.state_dict())
    assert other.tables.check()
    assert same(kind.bind(module, p).distributions(), kind.bind(other, p).distributions())
    module.tables.clear()
    assert not module.tables.ready
    assert not module.tables.check()


@every_kind
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_check_catches_damage(kind: Kind, data: st.DataObject) -> None:
    tables = copy.deepcopy(frozen(kind).tables)
    assert tables.check()
    name = data.draw(st.sampled_from(sorted(n for n, _ in tables.named_buffers())))
    buffer = getattr(tables, name)
    how = data.draw(st.sampled_from(["cut", "grown", "empty", "value"]))
    if how == "value" and name != "low":  # a row may begin with any symbol
        i = data.draw(st.integers(0, len(buffer) - 1))
        buffer[i] = data.draw(st.sampled_from([-1, -(2**31), 2**31 - 1, 2**26]))
    else:
        changed = {"cut": buffer[:-1], "grown": torch.cat([buffer, buffer[-1:]])}
        setattr(tables, name, changed.get(how, buffer[:0]))
    assert not tables.check()


def test_lookup_check_wants_monotone_curves() -> None:
    tables = LookupTables([(3, 100)], [3])

    def holds(falling: list[float], rising: list[float]) -> bool:
        tables.fill([np.array(falling), np.array(rising)])
        return tables.check()

    one, near = 2**24, 2**24 - 2**17
    rise = [0, 2**17, 2**18]
    assert not holds([100, 50, 1], [*rise])  # does not end at one
    assert not holds([100, 50, 1], [0, near, one])  # too steep to interpolate
    tables.rising = [129]
    steady = np.linspace(0, one, 129)
    assert holds([100, 50, 1], [*steady])
    assert holds([100, 100, 0], [*steady])
    assert not holds([99, 50, 1], [*steady])
    assert not holds([100, 50, 51], [*steady])
    assert not holds([100, 50, -1], [*steady])
    assert not holds([100, 50, 1], [*steady[:5], steady[3], *steady[6:]])


def test_integer_tables_check_wants_full_rows() -> None:
    tables = IntegerTables()
    tables.fill([np.array([0.2, 0.7, 0.1]), np.array([0.5, 0.5])], [-1, 3])
    assert tables.check()
    counts = tables.counts.clone()
    tables.counts = counts + torch.tensor([1, -1, 0, 0, 0], dtype=torch.int32)
    assert tables.check()  # other probabilities, but well-formed
    tables.counts = counts + torch.tensor([1, 0, 0, -1, 0], dtype=torch.int32)
    assert not tables.check()


# --- codecs ----------------------------------------------------------------------------------------------------------


class Toy(Codec):
    """A hyper-prior codec of single layers whose latent y has any kind of prior."""

    info = {"slug": "toy"}  # noqa: RUF012
    stride = 16

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.analysis = nn.Conv2d(3, CHANNELS, 8, 8)
        self.hyper_analysis = nn.Conv2d(CHANNELS, 4, 2, 2)
        self.hyper_synthesis = ExactSequential(nn.ConvTranspose2d(4, kind.parameters * CHANNELS, 2, 2))
        self.synthesis = nn.ConvTranspose2d(CHANNELS, 3, 8, 8)
        self.z_prior = FactorizedPrior(4)
        self.y_prior = kind.module()
        with torch.no_grad():
            self.analysis.weight.mul_(20)
            self.hyper_analysis.weight.mul_(4)

    def program(self, code: Code) -> Tensor:
        y = code.encoder(lambda x: self.latent(x))
        z_hat = code("z", self.z_prior(code.level, code.grid(16)), lambda: self.hyper_analysis(y))
        return self.synthesis(code("y", self.kind.bind(self.y_prior, self.hyper_synthesis(z_hat)), lambda: y))

    def latent(self, x: Tensor) -> Tensor:
        y = self.analysis(x)
        return y.clamp(0, self.kind.symbols - 1) if self.kind.symbols else y


@every_kind
def test_a_codec_decodes_what_it_encodes(kind: Kind, tmp_path: Path) -> None:
    torch.manual_seed(6)
    codec = Toy(kind).eval()
    x = torch.rand(2, 3, 50, 70)
    out = codec(x)
    for i in range(2):
        stream, x_hat = codec.compress(x[i : i + 1])
        assert torch.equal(codec.decompress(stream, (50, 70)), x_hat)
        torch.testing.assert_close(out.x_hat[i : i + 1], x_hat)
        bits = float(sum(b[i] for b in out.bits.values()))
        assert abs(8 * len(stream.data) - bits) <= 0.001 * bits + 64

    path = tmp_path / "toy.safetensors"
    weights.save(codec, path)
    stream, x_hat = codec.compress(x[:1])
    other = Toy(kind).eval()
    other(x)  # tables of other weights, to be replaced
    weights.load(other, path)
    assert other.fingerprint() == codec.fingerprint()
    assert torch.equal(other.decompress(stream, (50, 70)), x_hat)

    next(codec.y_prior.tables.buffers())[3] = 7  # `counts` or `values`
    state = {k: v.contiguous() for k, v in codec.state_dict().items()}
    from safetensors.torch import save_file

    metadata = {"kodim": "weights", "codec": "toy", "preset": ""}
    save_file(state, path, metadata=metadata)
    with pytest.raises(BadRequest, match="damaged"):
        weights.load(other, path)


@every_kind
def test_a_codec_trains_and_drops_its_tables(kind: Kind) -> None:
    torch.manual_seed(6)
    codec = Toy(kind).eval()
    x = torch.rand(2, 3, 48, 64)
    before = codec.fingerprint()
    assert codec.y_prior.tables.ready
    codec.train()
    assert not codec.y_prior.tables.ready
    optimiser = torch.optim.Adam(codec.parameters(), 1e-2)
    rates = []
    for _ in range(20):
        out = codec(x)
        loss = out.bpp.mean() + 10 * (out.x_hat - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.append(float(loss.detach()))
    assert np.mean(rates[-5:]) < np.mean(rates[:5])
    codec.eval()
    assert codec.fingerprint() != before
    stream, x_hat = codec.compress(x[:1])
    assert torch.equal(codec.decompress(stream, (48, 64)), x_hat)
