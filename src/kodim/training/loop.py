"""The training loop: readable top to bottom, and all that a bare GPU machine needs.

A run is bounded by wall-clock minutes, not steps: `--minutes 45` means 45 minutes wherever it runs, and
the learning rate follows the share of the budget that is spent. Checkpoints are safetensors (weights,
their moving average, the optimiser's moments) with JSON metadata, written every few minutes and renamed
into place, so a killed run resumes from the last one. Several GPUs: start it under `torchrun`; gradients
are averaged by `torch.distributed` directly. That, rather than a framework, because this path must run
on a machine that has nothing but torch, numpy, pillow and safetensors.
"""

import csv
import math
import os
import signal
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..codec import Codec
from ..errors import BadRequest, KodimError
from ..registry import create
from . import checkpoint
from .data import Pictures
from .muon import Muon

LEAP = 100.0  # times the loss of the step before
CLIP, FAMILIAR = 2.0, 50  # gradients are cut at twice their usual norm, as soon as that is known


class Diverged(KodimError):
    """A term of the loss stayed NaN or infinite."""


@dataclass
class TrainConfig:
    """One leg of training. `stages` are (share of the budget, crop side, batch per process); `drawn` is the share of
    crops that are drawn by program (:mod:`.drawn`); parameters whose names begin with one of `freeze` stay as they
    are."""

    codec: str
    data: list[str]
    output: str
    preset: str = "compact"
    minutes: float = 45.0
    resume: str | None = None
    init: str | None = None
    device: str = "auto"
    seed: int = 0
    optimiser: str = "muon"
    lr: float = 1e-3
    final_lr: float = 1e-5
    warmup: float = 0.01
    anneal: bool = True
    ema: float = 0.999
    clip: float = 1.0
    bf16_until: float = 0.7
    compile: bool = False
    threads: int = 0
    lambdas: tuple[float, float] | None = None
    drawn: float = 0.0
    freeze: list[str] = field(default_factory=list)
    checkpoint_minutes: float = 3.0
    cache: str | None = None
    max_steps: int | None = None
    stages: list[tuple[float, int, int]] = field(default_factory=lambda: [(0.0, 128, 16), (0.5, 256, 4)])


@dataclass
class State:
    """What a run carries from leg to leg, besides tensors."""

    step: int = 0
    pixels: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    legs: list[dict[str, Any]] = field(default_factory=list)


def train(config: TrainConfig) -> State:
    """Run one leg and leave a checkpoint at `config.output`. Ctrl-C stops early and keeps what was learned."""
    rank, world = _join_group()
    device = _device(config.device, rank)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed + rank)
    output = checkpoint.check_output(config.output)
    codec = create(config.codec, preset=config.preset, pretrained=False)
    if config.lambdas:
        codec.lambdas = config.lambdas
    _freeze(codec, config.freeze)
    state = State()
    if config.init:
        taken, state.legs = checkpoint.load_shared(config.init, codec)
        _say(f"started from {config.init}: {taken} tensors taken over")
    pictures = Pictures(config.data, config.cache)  # takes its time: after all that can be refused
    codec = codec.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = make_optimiser(codec, config)
    ema = {k: v.detach().clone() for k, v in codec.named_parameters()}
    if config.resume:
        state = State(**checkpoint.load(config.resume, codec, ema, optimiser))
        with torch.no_grad():
            for name, p in codec.named_parameters():
                if not p.requires_grad:
                    p.copy_(ema[name])  # what is frozen is what is used: the average
        _say(f"resumed {config.resume} at step {state.step}, {state.pixels / 1e6:.0f} Mpx")
    _say(f"{config.codec} {config.preset}: {sum(p.numel() for p in codec.parameters()) / 1e6:.2f} M weights, "
         f"{len(pictures.shapes)} pictures, {pictures.pixels / 1e6:.0f} Mpx, on {device} x {world}")  # fmt: skip
    _broadcast(codec, world)
    Leg(config, codec, optimiser, ema, state, pictures, device, rank, world, output).run()
    return state


class Leg:
    """The loop proper."""

    def __init__(
        self,
        config: TrainConfig,
        codec: Codec,
        optimiser: torch.optim.Optimizer,
        ema: dict[str, Tensor],
        state: State,
        pictures: Pictures,
        device: torch.device,
        rank: int,
        world: int,
        output: Path,
    ) -> None:
        self.config, self.codec, self.optimiser, self.ema, self.state = config, codec, optimiser, ema, state
        self.pictures, self.device, self.rank, self.world, self.output = pictures, device, rank, world, output
        self.rng = np.random.default_rng([config.seed, rank, state.step])
        self.net: nn.Module = torch.compile(codec) if config.compile else codec  # type: ignore[assignment]
        self.bad_steps = 0
        self.usual = 0.0  # loss of the step before
        self.norms: deque[float] = deque(maxlen=200)  # of gradients, before clipping
        self.stop = False
        self.leg: dict[str, Any] = {}

    def run(self) -> None:
        config, state = self.config, self.state
        budget = config.minutes * 60
        start, cpu = time.monotonic(), time.process_time()
        saved = shown = start
        before = {"seconds": state.seconds, "cpu_seconds": state.cpu_seconds, "pixels": state.pixels}
        first_step = state.step
        previous = signal.signal(signal.SIGINT, self._interrupt)
        average: dict[str, float] = {}
        try:
            while not self.stop:
                now = time.monotonic()
                share = (now - start) / budget
                if config.max_steps is not None:
                    share = max(share, (state.step - first_step) / config.max_steps)
                if self._agree(share >= 1):
                    break
                terms = self.step(min(share, 1.0))
                for key, value in terms.items():
                    average[key] = 0.98 * average.get(key, value) + 0.02 * value
                state.seconds = before["seconds"] + now - start
                state.cpu_seconds = before["cpu_seconds"] + time.process_time() - cpu
                self.leg = {
                    "codec": config.codec,
                    "minutes": round((state.seconds - before["seconds"]) / 60, 1),
                    "core_minutes": round((state.cpu_seconds - before["cpu_seconds"]) * self.world / 60, 1),
                    "megapixels": round((state.pixels - before["pixels"]) / 1e6),
                    "device": str(self.device),
                }
                if now - shown > (1 if sys.stderr.isatty() else 30):
                    shown = now
                    self.show(share, average)
                if now - saved > config.checkpoint_minutes * 60:
                    saved = now
                    self.save()
        finally:
            signal.signal(signal.SIGINT, previous)
        self.show(1.0, average, last=True)
        self.save()

    def step(self, share: float) -> dict[str, float]:
        """One optimiser step; returns the terms of the loss, for the log."""
        config, codec = self.config, self.codec
        crop, batch = next((c, b) for s, c, b in reversed(config.stages) if share >= s)
        x = self.pictures.crops(self.rng, batch, crop, config.drawn).to(self.device, non_blocking=True)
        x = x.contiguous(memory_format=torch.channels_last)
        level = self.levels(batch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(share)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=share < config.bf16_until):
            out = self.net(x, level * (100 / max(codec.levels - 1, 1)))
        terms = codec.objective(x, out, level)
        loss = terms["loss"]
        terms |= {f"bpp_{k}": (v / out.pixels).mean() for k, v in out.bits.items()}
        values = {k: float(v.detach()) for k, v in terms.items()}
        if not self._finite(values) or self._leaps(values["loss"]):
            return {}
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        values["grad"] = float(nn.utils.clip_grad_norm_(codec.parameters(), self._limit()))
        if not math.isfinite(values["grad"]):
            self._finite({"gradient": math.nan})
            return {}
        self.norms.append(values["grad"])
        self.optimiser.step()
        self._average_weights()
        self.state.step += 1
        self.state.pixels += batch * crop * crop * self.world
        return values

    def levels(self, batch: int) -> Tensor:
        """Rate level of each crop of a batch (batch,), each its own."""
        return torch.rand(batch, device=self.device) * (self.codec.levels - 1)

    def _limit(self) -> float:
        """Largest norm of a gradient: `clip`, or a little more than usual. Muon's steps are equally long whatever the
        norm, so one gradient ten times the others would be the direction of twenty steps."""
        usual = statistics.median(self.norms) if len(self.norms) >= FAMILIAR else math.inf
        return min(self.config.clip, CLIP * usual)

    def rate(self, share: float) -> float:
        """Learning rate: short linear warm-up, then a cosine over the budget (or constant)."""
        config = self.config
        warm = min(1.0, share / config.warmup) if config.warmup and not config.resume else 1.0
        if not config.anneal:
            return config.lr * max(warm, 0.01)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        final = min(config.final_lr, config.lr)
        return max(warm, 0.01) * (final + (config.lr - final) * cosine)

    def _finite(self, values: dict[str, float]) -> bool:
        """Skip a step whose loss is not finite; give up, naming the term, when that keeps happening."""
        bad = [k for k, v in values.items() if not math.isfinite(v)]
        if self._agree(bool(bad)):
            self.bad_steps += 1
            _say(f"step {self.state.step}: {', '.join(bad) or 'another rank'} not finite, step skipped")
            if self.bad_steps >= 20:
                raise Diverged(f"training diverged: {', '.join(bad)} not finite 20 times in a row; lower --lr")
            return False
        self.bad_steps = 0
        return True

    def _leaps(self, loss: float) -> bool:
        """Skip a step whose loss is far from all before: one picture in a hundred thousand can make it so."""
        leaps = self._agree(self.usual > 0 and loss > LEAP * self.usual)
        if leaps:
            _say(f"step {self.state.step}: a loss of {loss:.4g} where {self.usual:.4g} is usual, step skipped")
        self.usual = min(loss, 2 * self.usual) if leaps else loss
        return leaps

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(self.config.ema, (1 + self.state.step) / (10 + self.state.step))
        live = dict(self.codec.named_parameters())
        torch._foreach_lerp_(list(self.ema.values()), [live[k] for k in self.ema], 1 - decay)

    def _average_gradients(self) -> None:
        if self.world > 1:  # all in one message: latency, not volume, is what costs
            grads = [p.grad for p in self.codec.parameters() if p.grad is not None]
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            for g, mean in zip(grads, (flat / self.world).split([g.numel() for g in grads]), strict=True):
                g.copy_(mean.view_as(g))

    def _agree(self, mine: bool) -> bool:
        """True on all ranks as soon as it is true on one."""
        if self.world == 1:
            return mine
        flag = torch.tensor(float(mine), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag > 0)

    def _interrupt(self, *_: Any) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        _say("stopping after this step; once more to quit without saving")

    def save(self) -> None:
        if self.rank == 0:
            progress = asdict(self.state) | {"legs": [*self.state.legs, self.leg]}
            checkpoint.save(self.output, self.codec, self.ema, self.optimiser, progress, asdict(self.config))

    def show(self, share: float, average: dict[str, float], last: bool = False) -> None:
        if self.rank or not average:
            return
        state, done = self.state, min(share, 1.0)
        bpp = sum(v for k, v in average.items() if k.startswith("bpp_"))
        bar = "#" * int(20 * done) + "." * (20 - int(20 * done))
        line = (
            f"[{bar}] {state.seconds / 60:5.1f} min  step {state.step}  {state.pixels / 1e6:.0f} Mpx  "
            f"loss {average['loss']:.4f}  bpp {bpp:.3f}  mse {average['mse']:.1f}  lr {self.rate(done):.1e}"
        )
        end = "\r" if sys.stderr.isatty() and not last else "\n"
        print(line, end=end, file=sys.stderr, flush=True)
        log = self.output.with_suffix(".csv")
        fresh = not log.exists()
        with log.open("a", newline="") as f:
            writer = csv.writer(f)
            if fresh:
                writer.writerow(["minutes", "step", "mpx", "lr", *average])
            writer.writerow([f"{state.seconds / 60:.2f}", state.step, f"{state.pixels / 1e6:.1f}",
                             f"{self.rate(done):.2e}", *(f"{v:.5g}" for v in average.values())])  # fmt: skip


def _freeze(codec: Codec, prefixes: list[str]) -> None:
    """Hold parameters still, by how their names begin; BadRequest for a beginning that none has, or all."""
    parameters = dict(codec.named_parameters())
    for prefix in prefixes:
        found = [p for name, p in parameters.items() if name.startswith(prefix)]
        if not found:
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameters))
            raise BadRequest(f"no parameter of {codec.info['slug']} begins with {prefix!r}; its parts are {parts}")
        for p in found:
            p.requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise BadRequest("every parameter is frozen: there is nothing to train")


def make_optimiser(codec: Codec, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that a configuration names, over all that wants a gradient."""
    wanted = [p for p in codec.parameters() if p.requires_grad]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(wanted, lr=config.lr, weight_decay=0.0)
    return Muon([p for p in wanted if p.ndim == 4], [p for p in wanted if p.ndim != 4], lr=config.lr)


def _device(name: str, rank: int) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")


def _join_group() -> tuple[int, int]:
    """(rank, world size); joins the group that torchrun describes in the environment, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _broadcast(codec: Codec, world: int) -> None:
    if world > 1:
        for p in codec.parameters():
            dist.broadcast(p.data, 0)


def _say(text: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)
