"""Which ideas for frugal training pay? `python benchmarks/ideas.py DATA.. [-o ideas.csv] [--minutes 6] [--only 0,3]`

Trains the default codec from its start again and again, for the same minutes of one thread, one idea changed at a
time, and prints BD-rates (PSNR) against the first run. What is measured are exact bits of 256 x 256 crops: 32 from the
pictures of DATA, which six minutes see a fifth of, or 32 from `--held`. Runs in the CSV are not repeated; on a machine
of several cores start one process for each of them, each with numbers of its own after `--only` (`--list` shows them),
and nothing beside.

SOAP and the schedule-free optimiser come from `pip install pytorch-optimizer`, and are left out without it.
"""

import argparse
import csv
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kodim.codec import Codec
from kodim.metrics import bd_rate
from kodim.registry import create
from kodim.systems.kodim import Kodim
from kodim.training.data import Pictures
from kodim.training.loop import Leg, State, TrainConfig, make_optimiser
from kodim.training.muon import Muon
from kodim.transforms import light
from kodim.transforms.colours import colour_matrix

QUALITIES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
FIRST = "as `kodim` is trained, but in RGB"

Points = list[tuple[float, float]]


def colours(matrix: Tensor) -> Callable[[Kodim], None]:
    """Another colour space (3, 3): the DCT of its planes, and back by the inverse."""

    def change(codec: Kodim) -> None:
        own = colour_matrix()
        swap = torch.kron((matrix @ own.T).contiguous(), torch.eye(64))  # planes of ours -> planes of the other
        stem, back = codec.analysis.stem.weight, codec.synthesis.stem.weight
        stem.copy_((swap @ stem.flatten(1)).view_as(stem))
        back.copy_((back.flatten(1) @ torch.linalg.inv(swap)).view_as(back))
        # Deviations of the new planes from those of ours, which are nearly uncorrelated.
        variance = light.spread(16).view(3, 256).square()
        new = ((matrix @ own.T).square() @ variance).sqrt().flatten()
        codec._start_levels(new[light.kept(len(new))])
        fine = ((matrix @ own.T).square() @ light.spread(8).view(3, 64).square()).sqrt().flatten()
        for part in (codec.analysis, codec.synthesis):
            part.gain.log_gain.copy_(-fine.log().expand_as(part.gain.log_gain))

    return change


def any_basis(codec: Kodim) -> None:
    """A random orthonormal basis in the place of each DCT, all coefficients alike."""
    n = light.FEATURES
    first, second = (nn.init.orthogonal_(torch.empty(m, m)) for m in (n, 4 * n))
    for layer, matrix in ((codec.analysis.stem, first), (codec.synthesis.stem, first.T),
                          (codec.analysis.head, second), (codec.synthesis.head, second.T)):  # fmt: skip
        layer.weight.copy_(matrix[:, :, None, None] / light.SLOW)
    usual = light.spread(16).square().mean().sqrt()
    codec._start_levels(usual.expand(4 * n))
    for part in (codec.analysis, codec.synthesis):
        part.gain.log_gain.copy_(-usual.log().expand_as(part.gain.log_gain))


def open_branches(codec: Kodim) -> None:
    """Residual branches that start as anything, not at zero."""
    for block in (*codec.analysis.blocks, *codec.synthesis.blocks):
        for layer in (block.project, block.narrow):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)


def own_axes(codec: Kodim) -> None:
    """Pictures along their own colour axes."""
    codec.turned = True


class Probe(Leg):
    """A leg that leaves nothing behind."""

    def save(self) -> None:
        pass


class OneLevel(Probe):
    """One quality for all crops of a batch."""

    def levels(self, batch: int) -> Tensor:
        return super().levels(1).expand(batch)


def library(name: str, **settings: Any) -> Callable[[Codec, TrainConfig], torch.optim.Optimizer]:
    """An optimiser of pytorch-optimizer."""

    def make(codec: Codec, config: TrainConfig) -> torch.optim.Optimizer:
        import pytorch_optimizer

        made: torch.optim.Optimizer = getattr(pytorch_optimizer, name)(
            [p for p in codec.parameters() if p.requires_grad], lr=config.lr, **settings
        )
        return made

    return make


@dataclass
class Idea:
    """What a run changes: settings of the leg, the codec's start, the optimiser, the loop."""

    settings: dict[str, Any] = field(default_factory=dict)
    start: Callable[[Kodim], None] | None = None
    optimiser: Callable[[Codec, TrainConfig], torch.optim.Optimizer] = make_optimiser
    leg: type[Probe] = Probe
    needs: str = ""


SOAP = library("SOAP", weight_decay=0.0)
FREE = library("ScheduleFreeAdamW", betas=(0.9, 0.99))
IDEAS = {
    FIRST: Idea(),
    "another seed": Idea({"seed": 1}),
    "start: a random basis, no DCT": Idea(start=any_basis),
    "start: branches not at zero": Idea(start=open_branches),
    "colours: RGB": Idea(start=colours(torch.eye(3))),
    "colours: YCbCr": Idea(start=colours(YCBCR)),
    "crops: 256 pixels, 2 at a time": Idea({"stages": [(0.0, 256, 2)]}),
    "crops: 128 pixels to the end": Idea({"stages": [(0.0, 128, 8)]}),
    "crops: 64, then 128 and 256": Idea({"stages": [(0.0, 64, 32), (0.35, 128, 8), (0.65, 256, 2)]}),
    "one quality a batch": Idea(leg=OneLevel),
    "AdamW 2e-3": Idea({"optimiser": "adamw", "lr": 2e-3}),
    "AdamW 5e-3": Idea({"optimiser": "adamw", "lr": 5e-3}),
    "SOAP 3e-3": Idea({"lr": 3e-3}, optimiser=SOAP, needs="pytorch_optimizer"),
    "SOAP 1e-3": Idea({"lr": 1e-3}, optimiser=SOAP, needs="pytorch_optimizer"),
    "schedule-free AdamW 2.5e-3": Idea({"lr": 2.5e-3, "anneal": False}, optimiser=FREE, needs="pytorch_optimizer"),
    "schedule-free AdamW 5e-3": Idea({"lr": 5e-3, "anneal": False}, optimiser=FREE, needs="pytorch_optimizer"),
    "no annealing": Idea({"anneal": False}),
    "colours: each picture's own axes": Idea(start=own_axes),
}
DISTILLED = {
    "decoder alone: learns from pictures": 0.0,
    "decoder alone: learns from the shipped decoder": 1.0,
    "decoder alone: from both, half and half": 0.5,
}


def probe(idea: Idea, pictures: Pictures, minutes: float, out: Path) -> tuple[Kodim, Probe]:
    """Train from the start with an idea; returns the codec with its last weights, and the leg."""
    config = TrainConfig(codec="kodim", data=[], output=str(out), **{
        "minutes": minutes, "lr": 6e-3, "bf16_until": 0.85, "checkpoint_minutes": 1e9,
        "stages": [(0.0, 128, 8), (0.65, 256, 2)], **idea.settings,
    })  # fmt: skip
    torch.manual_seed(config.seed)
    codec = create("kodim", pretrained=False)
    assert isinstance(codec, Kodim)
    codec.turned = False
    if idea.start:
        with torch.no_grad():
            idea.start(codec)
    codec = codec.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    ema = {k: v.detach().clone() for k, v in codec.named_parameters()}
    optimiser = idea.optimiser(codec, config)
    leg = idea.leg(config, codec, optimiser, ema, State(), pictures, torch.device("cpu"), 0, 1, out)
    leg.run()
    if hasattr(optimiser, "eval"):
        optimiser.eval()  # schedule-free: from here on the weights are their average
    return codec, leg


def measure(codec: Codec, crops: Tensor) -> Points:
    """(bits per pixel, PSNR) at each quality, means over crops (N, 3, H, W); exact bits."""
    codec.eval()
    points = []
    with torch.no_grad():
        for quality in QUALITIES:
            outs = [codec(x, quality) for x in crops.split(8)]
            mse = torch.cat([(o.x_hat - x).square().mean((1, 2, 3)) for o, x in zip(outs, crops.split(8), strict=True)])
            bpp = torch.cat([o.bpp for o in outs])
            points.append((float(bpp.mean()), float((-10 * mse.log10()).mean())))
    return points


class _Tap(nn.Module):
    """Stands in for the shipped synthesis: keeps its input, and its output where a student wants that."""

    def __init__(self, synthesis: nn.Module, wanted: bool) -> None:
        super().__init__()
        self.synthesis, self.wanted = synthesis, wanted

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        self.y = y
        self.shown = self.synthesis(y, level) if self.wanted else y.new_zeros(len(y), 3, *(16 * n for n in y.shape[2:]))
        return self.shown


def distil(share: float, pictures: Pictures, minutes: float) -> tuple[Codec, float]:
    """A new synthesis for the shipped codec: it learns from pictures, or by `share` from the shipped synthesis."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codec = create("kodim")
    assert isinstance(codec, Kodim)
    codec.turned = False
    codec.eval().requires_grad_(False)
    tap = _Tap(codec.synthesis, wanted=share > 0)
    codec.synthesis = tap  # type: ignore[assignment]
    fresh = create("kodim", pretrained=False)
    assert isinstance(fresh, Kodim)
    student = fresh.synthesis.train()
    matrices = [p for p in student.parameters() if p.ndim == 4]
    optimiser = Muon(matrices, [p for p in student.parameters() if p.ndim != 4], lr=6e-3)
    start, pixels = time.monotonic(), 0
    while (spent := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * 0.5 * (1 + np.cos(np.pi * spent)) + 1e-6
        x = pictures.crops(rng, 8, 128)
        level = torch.rand(len(x)) * (codec.levels - 1)
        codec(x, level * (100 / (codec.levels - 1)))
        target = x if share == 0 else torch.lerp(x, tap.shown, share)
        mse = (student(tap.y, level) - target).square().mean((1, 2, 3)) * 255**2
        optimiser.zero_grad()
        (codec.balance(level) * codec.distortion_weight(level) * mse).mean().backward()
        optimiser.step()
        pixels += x.numel() // 3
    codec.synthesis = student
    return codec, pixels / 1e6


def run(name: str, pictures: Pictures, minutes: float, scratch: Path) -> dict[str, tuple[float, Codec]]:
    """Name of what comes of a run -> megapixels seen, codec."""
    if name in DISTILLED:
        codec, seen = distil(DISTILLED[name], pictures, minutes)
        return {name: (seen, codec)}
    codec, leg = probe(IDEAS[name], pictures, minutes, scratch)
    seen = leg.state.pixels / 1e6
    last = {k: v.detach().clone() for k, v in codec.named_parameters()}
    averaged = IDEAS[name].optimiser is not FREE
    if averaged:
        codec.load_state_dict(leg.ema, strict=False)
    results: dict[str, tuple[float, Codec]] = {name: (seen, codec)}
    if name in (FIRST, "no annealing"):
        other = create("kodim", pretrained=False)
        other.turned = codec.turned
        other.load_state_dict(last, strict=False)
        results[f"{name}, last weights, not averaged"] = (seen, other)
    return results


def table(rows: Sequence[dict[str, str]]) -> None:
    curves = {r["idea"]: np.array([p.split("/") for p in r["points"].split()], dtype=float).T.tolist() for r in rows}
    print("| idea | Mpx seen | BD-rate |\n|---|---|---|")
    for r in rows:
        first = next(iter(DISTILLED)) if r["idea"] in DISTILLED else FIRST
        value = bd_rate(*curves[first], *curves[r["idea"]]) if first in curves else float("nan")
        print(f"| {r['idea']} | {float(r['mpx']):.0f} | {value:+.1f}% |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="folders of training pictures")
    parser.add_argument("--held", type=Path, help="a folder of other pictures to measure on")
    parser.add_argument("-o", "--output", type=Path, default=Path("ideas.csv"))
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--only", help="runs by number, as 0,3,4 (--list shows them)")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [*IDEAS, *DISTILLED]
    if args.list:
        print(*(f"{i:2} {name}" for i, name in enumerate(names)), sep="\n")
        return
    if not args.data:
        parser.error("name a folder of training pictures")
    pictures = Pictures(args.data)
    crops = Pictures([args.held] if args.held else args.data).crops(np.random.default_rng(7), 32, 256)
    for name in [names[int(i)] for i in args.only.split(",")] if args.only else names:
        done = list(csv.DictReader(args.output.open())) if args.output.exists() else []
        if name in {r["idea"] for r in done}:
            continue
        if name in IDEAS and IDEAS[name].needs and importlib.util.find_spec(IDEAS[name].needs) is None:
            print(f"{name}: left out, {IDEAS[name].needs} is not installed")
            continue
        scratch = args.output.with_name(f".{args.output.stem}-{names.index(name)}.ckpt")
        found = run(name, pictures, args.minutes, scratch)
        lines = [
            [what, args.minutes, f"{seen:.1f}", " ".join(f"{b:.4f}/{p:.3f}" for b, p in measure(codec, crops))]
            for what, (seen, codec) in found.items()
        ]
        with args.output.open("a", newline="") as f:  # in one go: others may write too
            csv.writer(f).writerows([["idea", "minutes", "mpx", "points"]] * (not f.tell()) + lines)
        scratch.with_suffix(".csv").unlink(missing_ok=True)
    table(list(csv.DictReader(args.output.open())))


if __name__ == "__main__":
    main()
