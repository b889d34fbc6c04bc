"""Fitting latents, and gently the networks, to one picture.

Starts from the analysis network's guess and the shared networks of the wanted rate. Each step prices the whole
picture: values are rounded softly, with noise, as in C3 (Kim et al., CVPR 2024, arXiv 2312.02753, section 3.2), ever
more decidedly; what counts is the rounded picture, which is measured now and then, and the best one is kept. The loss
is bits per pixel + lambda * 255^2 * MSE, as everywhere in kodim.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..goal import Goal
from ..progress import report, stop_wanted
from ..threads import Workers
from . import changes, pieces
from .exact import MAX_LATENT, WEIGHT
from .network import Net, Sizes
from .pyramid import FEATURES, GRIDS

HOT, COLD = 0.35, 0.08  # temperatures of the soft rounding
LOUD, QUIET = 0.22, 0.15  # standard deviations of the noise, in quantiser steps
LATENT_RATE, NETWORK_RATE = 0.1, 5e-3  # of Adam at the start: quantiser steps; weights
CHECK = 40  # steps between two measurements
CORRECTIONS, SOONEST = 16, 8  # with a goal: how many measurements it wants, unless values had no time to follow
GAIN = 1.5  # with a goal: how strongly lambda answers
MOVING, PACE = 0.85, 0.6  # with a goal: this share of the steps goes that far in all schedules
LAST = 0.08  # share of the steps, at the end, in which values stay rounded and only the networks move
NETWORKS_FROM, NETWORKS_WORTH = 60, 1500  # steps, and expected bytes, from which fitting the networks pays
FINEST = 2.0**-8  # mean change of a group's weights below which it is not priced higher
TRIED_STEPS, USUAL_STEP = (6, 8, 9, 10, 11, 12), 9  # of changed weights: 2^n units
HEADERS = 8 * 70.0  # bits of a file


@dataclass
class State:
    """Latents and networks, as a step leaves them, and what was measured of them when rounded."""

    latents: Tensor
    net: dict[str, Tensor]
    bpp: float = math.inf
    mse: float = math.inf
    loss: float = math.inf

    @property
    def psnr(self) -> float:
        return -10 * math.log10(max(self.mse, 1e-10))


@dataclass
class Task:
    """A picture to fit.

    Attributes:
        target: (1, 3, h, w) in [0, 1], without padding.
        size: (H, W) with padding, multiples of 64.
        sizes: of the networks.
        base: shared networks, integers as :func:`kodim.overfit.exact.fixed`, (1, ...).
        weight: lambda, of 255^2 MSE against bits per pixel.
        goal: what to change lambda for, if anything.
    """

    target: Tensor
    size: tuple[int, int]
    sizes: Sizes
    base: Net
    weight: float
    goal: Goal | None = None
    filters: list[tuple[float, ...]] = field(init=False)
    start: Net = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = self.target.shape[2] * self.target.shape[3]
        self.start = {n: (v[0] / WEIGHT).float() for n, v in self.base.items()}
        self.filters = [tuple(row) for row in (self.base["up_w"][0] / WEIGHT).tolist()]

    @property
    def steers(self) -> bool:
        """Whether lambda is changed on the way."""
        return self.goal is not None and (self.goal.bpp or self.goal.psnr) is not None

    def split(self, flat: Tensor) -> list[Tensor]:
        """The latents in one row -> the grids (1, 1, h, w)."""
        shapes = [(self.size[0] >> g.level, self.size[1] >> g.level) for g in GRIDS]
        parts = flat.split([h * w for h, w in shapes])
        return [p.view(1, 1, *shape) for p, shape in zip(parts, shapes, strict=True)]

    def bits(self, net: Net, grids: Sequence[Tensor]) -> Tensor:
        total = grids[0].new_zeros(())
        for i, grid in enumerate(grids):
            side = pieces.features(net, grids, i) if i in FEATURES else None
            total = total + pieces.bits(net, grid[0, 0], side, self.sizes.context)
        return total

    def mse(self, net: Net, grids: Sequence[Tensor]) -> Tensor:
        return pieces.error(net, pieces.upsample(self.filters, grids), self.target) / (3 * self.pixels)

    def loss(self, bits: Tensor, mse: Tensor) -> Tensor:
        return bits / self.pixels + self.weight * 255**2 * mse

    def gradient(self, net: Net, values: Tensor, workers: Workers) -> Tensor:
        """Of the loss by the latents (n,); what moves in the networks gets its `grad`. Rate beside distortion."""
        zero = values.new_zeros(())
        terms = (
            lambda grids: self.loss(zero, self.mse(net, grids)),  # the longer one first
            lambda grids: self.loss(self.bits(net, grids), zero),
        )

        def by_latents(term: Callable[[list[Tensor]], Tensor]) -> Tensor:
            own = values.detach().requires_grad_()
            term(self.split(own)).backward()
            assert own.grad is not None
            return own.grad

        first, second = workers.map(by_latents, terms)
        return first.add_(second)

    @torch.no_grad()
    def measure(self, state: State) -> State:
        """The state with its figures, as rounded."""
        grids = self.split(state.latents.round())
        bits, mse = self.bits(state.net, grids), self.mse(state.net, grids)
        bpp = (float(bits) + HEADERS + _cost_of_changes(self, state.net)) / self.pixels
        return replace(state, bpp=bpp, mse=float(mse), loss=float(self.loss(bits, mse)))


def fit(
    task: Task, guess: Sequence[Tensor], steps: int, start: tuple[Net, Sequence[Tensor]] | None = None
) -> list[Tensor]:
    """Nudges for the sites of the program (see :mod:`kodim.overfit.changes`): changed networks, then the grids.

    Args:
        guess: real latents (1, 1, h, w), as the analysis network gives them.
        start: networks and grids, integers, to start from instead of the shared ones and the guess.
        steps: of gradient descent. A wish to stop (:func:`kodim.progress.stop_wanted`) ends them early.
    """
    integers, grids = start if start is not None else (task.base, guess)
    first = torch.cat([g.detach().float().flatten() for g in grids]).clamp(-MAX_LATENT, MAX_LATENT)
    net = {n: (v[0] / WEIGHT).float() for n, v in integers.items()}
    with Workers() as workers:
        torch.set_num_threads(1)  # the second thread of a sum would wait, busily, where a worker could work
        best = _descend(task, task.measure(State(first, net)), steps, workers)
    differences = _differences(task, best)
    final = task.split(best.latents.round())
    # In the order of coding, the coarsest first.
    return changes.nudges(differences) + [(f - g) for f, g in reversed(list(zip(final, guess, strict=True)))]


def _descend(task: Task, state: State, steps: int, workers: Workers) -> State:
    """The best state on the way."""
    tuned = steps >= NETWORKS_FROM and state.bpp * task.pixels > 8 * NETWORKS_WORTH
    latents = state.latents.clone().requires_grad_()
    moving = [n for n in state.net if tuned and not n.startswith("up")]
    net = {n: v.clone().requires_grad_(n in moving) for n, v in state.net.items()}
    adam = mover(latents)
    others = torch.optim.Adam([net[n] for n in moving], lr=NETWORK_RATE, betas=(0.9, 0.98)) if tuned else None
    noise = torch.randn(latents.numel() + 4096)
    best, every = state, min(CHECK, max(steps // CORRECTIONS, SOONEST)) if task.steers else CHECK
    pace = _linger if task.steers else lambda share: share
    soft = steps - round(LAST * steps) if tuned else steps
    for step in range(steps):
        if stop_wanted():
            break
        share = step / max(steps - 1, 1)
        if step and step % every == 0:
            best = _checked(task, best, latents, net, share)
            report(share, _words(best))
        else:
            report(share)
        if step < soft:
            offset = int(torch.randint(4096, ()))
            values = softened(latents, noise[offset : offset + latents.numel()], pace(step / max(soft - 1, 1)))
        else:
            values = latents.detach().round()
        gradient = task.gradient(net, values, workers)
        if step < soft:
            values.backward(gradient)
        if tuned:
            _price_changes(task, net)
        for optimiser, rate in ((adam if step < soft else None, LATENT_RATE), (others, NETWORK_RATE)):
            if optimiser is not None:
                optimiser.param_groups[0]["lr"] = rate * annealed(pace(share))
                optimiser.step()
                optimiser.zero_grad()
    best = _checked(task, best, latents, net, 1.0)
    report(1.0, _words(best))
    return best


def mover(latents: Tensor) -> torch.optim.Optimizer:
    """The optimiser of latents."""
    return torch.optim.Adam([latents], lr=LATENT_RATE, betas=(0.9, 0.99), fused=True)


def annealed(share: float) -> float:
    """The learning rates at a share of all steps, from 1 down to 0.03."""
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _price_changes(task: Task, net: Mapping[str, Tensor]) -> None:
    """Add to the gradients what changing weights costs: |change| / (b ln 2) bits, b the group's mean change so far."""
    for group in changes.GROUPS:
        names = changes.names(task.sizes, group)
        moved = [net[n] - task.start[n] for n in names]
        mean = sum(float(m.abs().sum()) for m in moved) / sum(m.numel() for m in moved)
        price = 1 / (max(mean, FINEST) * math.log(2) * task.pixels)
        for name, change in zip(names, moved, strict=True):
            gradient = net[name].grad
            assert gradient is not None
            gradient.add_(change.sign(), alpha=price)


def _linger(share: float) -> float:
    """A schedule that stays nimble for longer, so that values can follow where lambda goes."""
    return share * PACE / MOVING if share < MOVING else PACE + (share - MOVING) * (1 - PACE) / (1 - MOVING)


def _words(state: State) -> str:
    return f"{state.bpp:.3f} bpp  {state.psnr:.2f} dB"


def _checked(task: Task, best: State, latents: Tensor, net: Mapping[str, Tensor], share: float) -> State:
    """The better of the best state so far and the present one; what is aimed at moves lambda."""
    now = task.measure(State(latents.detach().clone(), {n: v.detach().clone() for n, v in net.items()}))
    if task.steers:
        if share < 0.15:  # the noise has just set in, and figures say little yet
            return now
        assert task.goal is not None
        task.weight *= math.exp(GAIN * min(max(task.goal.correction(now.bpp, now.psnr), -0.5), 0.5))
        return now  # with another lambda, older losses say nothing
    return now if now.loss < best.loss else best


def _differences(task: Task, state: State) -> dict[tuple[str, str], tuple[int, Tensor]]:
    """Group by group, the coarsest changes that do not cost more than they save; leaves `state` to the chosen ones."""
    chosen: dict[tuple[str, str], tuple[int, Tensor]] = {}
    for group in changes.GROUPS:
        names = changes.names(task.sizes, group)
        if _unchanged(task, state.net, names):
            continue
        options: list[tuple[float, int, Tensor]] = []
        for step in (0, *TRIED_STEPS):
            multiples = changes.quantised(state.net, task.base, task.sizes, group, step or 15)
            multiples = multiples if step else torch.zeros_like(multiples)
            moved = changes.applied(task.base, task.sizes, group, step, multiples)
            tried = task.measure(replace(state, net=state.net | {n: (v / WEIGHT).float() for n, v in moved.items()}))
            options.append((tried.loss + _bits(multiples) * bool(step) / task.pixels, step, multiples))
        _, step, multiples = min(options, key=lambda o: o[0])
        if step:
            chosen[group] = (step, multiples)
        moved = changes.applied(task.base, task.sizes, group, step, multiples)
        state.net = state.net | {n: (v / WEIGHT).float() for n, v in moved.items()}
    return chosen


def _unchanged(task: Task, net: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    return all(torch.equal(net[n], task.start[n]) for n in names)


def _cost_of_changes(task: Task, net: Mapping[str, Tensor]) -> float:
    """What coding the networks would cost, in bits, without a search for the best steps."""
    moved = [g for g in changes.GROUPS if not _unchanged(task, net, changes.names(task.sizes, g))]
    return sum(_bits(changes.quantised(net, task.base, task.sizes, group, USUAL_STEP)) for group in moved)


def _bits(multiples: Tensor) -> float:
    """What coding a group's changes costs, near enough."""
    prior = changes.spread(changes.best_scale(multiples), 1, len(multiples), multiples.device)
    return float(prior.bits(multiples.float().view(1, 1, -1, 1)).sum()) + 6


def softened(latents: Tensor, noise: Tensor, share: float) -> Tensor:
    """Latents on their way to being rounded, with normal noise; ever more decidedly as `share` goes from 0 to 1."""
    return _Soft.apply(latents, noise * (LOUD + (QUIET - LOUD) * share), HOT + (COLD - HOT) * share)


class _Soft(torch.autograd.Function):
    """Soft rounding, noise, soft rounding again, at one temperature."""

    @staticmethod
    def forward(ctx, x: Tensor, noise: Tensor, temperature: float) -> Tensor:  # type: ignore[no-untyped-def]
        once, slope = _soft_round(x, temperature)
        twice, second = _soft_round(once.add_(noise), temperature)
        ctx.save_for_backward(slope.mul_(second))
        return twice

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return grad * ctx.saved_tensors[0], None, None


def _soft_round(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """floor(x) + 1/2 + tanh(d / T) / (2 tanh(1 / 2T)), d = x - floor(x) - 1/2, and its slope."""
    scale = 0.5 / math.tanh(0.5 / temperature)
    whole = torch.floor(x)
    bent = (x - whole).sub_(0.5).mul_(1 / temperature).tanh_()
    slope = bent.square().neg_().add_(1).mul_(scale / temperature)
    return whole.add_(0.5).add_(bent, alpha=scale), slope
