"""Training: it learns, it resumes, it survives being killed, and it refuses what it cannot use."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import kodim
from kodim import registry, weights
from kodim.codec import Codec, Output
from kodim.errors import BadRequest, KodimError
from kodim.learned import to_tensor
from kodim.registry import weights_file
from kodim.training import checkpoint, drawn, fitted, loop, side
from kodim.training.data import Pictures
from kodim.training.export import export
from kodim.training.loop import Diverged, TrainConfig, train
from kodim.training.muon import Muon, _owners, orthogonalise

TINY = {"widths": (8, 8, 8, 12), "hyper": (8, 8, 8), "levels": 4}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """minnen2018 with a preset that trains in seconds."""
    from kodim.systems.minnen2018 import Minnen2018

    monkeypatch.setitem(Minnen2018.presets, "test", TINY)
    entry = registry.find("minnen2018")
    entry.presets.append("test")
    yield "test"
    entry.presets.remove("test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from skimage import data

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()).save(pictures / f"{name}.png")
    (pictures / "notes.txt").write_text("not a picture")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return pictures


def config(folder: Path, **changes: object) -> TrainConfig:
    base = {
        "codec": "minnen2018",
        "preset": "test",
        "data": [str(folder)],
        "output": str(folder.parent / "run.safetensors"),
        "cache": str(folder.parent / "cache"),
        "device": "cpu",
        "max_steps": 60,
        "stages": [(0.0, 64, 4)],
        "minutes": 5.0,
        "threads": 1,  # these nets are too small to share among threads
    }
    return TrainConfig(**(base | changes))  # type: ignore[arg-type]


def cost(net: Codec, photo: np.ndarray) -> float:
    """Rate-distortion cost of one photograph, in the integer tables' bits."""
    x = to_tensor(photo)
    out = net(x, 50)
    weight = float(net.distortion_weight(torch.tensor(0.5 * (net.levels - 1))))
    return float(out.bpp[0]) + weight * 255**2 * float((out.x_hat - x).square().mean())


def test_cost_falls_and_the_result_is_a_codec(tiny, folder: Path, monkeypatch) -> None:
    photo = np.asarray(Image.open(folder / "coffee.png"))[:128, :192]
    before = cost(registry.create("minnen2018", preset="test", pretrained=False), photo)
    state = train(config(folder, max_steps=120))
    assert state.step == 120
    after = kodim.create_codec("minnen2018", preset="test", weights=str(folder.parent / "run.safetensors"))
    assert cost(after, photo) < 0.9 * before

    path = export(folder.parent / "run.safetensors", folder.parent, "three pictures")
    assert 'data = "three pictures"' in path.with_suffix(".toml").read_text()
    coder = registry.get(str(path))
    data = coder.encode(kodim.picture.load(photo), 50)
    decoded = coder.decode(data)
    monkeypatch.setenv("KODIM_WEIGHTS", str(folder.parent))
    np.testing.assert_array_equal(np.asarray(kodim.decompress(data)), decoded.pixels)
    monkeypatch.delenv("KODIM_WEIGHTS")
    with pytest.raises(KodimError, match="weights"):
        kodim.decompress(data)


def test_export_fits_the_tables_to_pictures(tiny, folder: Path, monkeypatch) -> None:
    run, counted = str(folder.parent / "run.safetensors"), folder.parent / "counted"
    train(config(folder, max_steps=40))
    counted.mkdir()
    monkeypatch.setattr("kodim.training.export.CROPS", 8)
    files = [export(run, folder.parent, "none"), export(run, counted, "some", str(folder))]
    picture = kodim.picture.load(np.asarray(Image.open(folder / "coffee.png"))[:256, :256])
    plain, better = (registry.get(str(f)).encode(picture, 60) for f in files)
    assert len(better) < len(plain)
    assert registry.get(str(files[1])).decode(better).pixels.shape == (256, 256, 3)


def test_resume_goes_on_where_it_stopped(tiny, folder: Path) -> None:
    out = str(folder.parent / "run.safetensors")
    first = train(config(folder, max_steps=5))
    tensors, _ = checkpoint.read(out)
    second = train(config(folder, max_steps=5, resume=out))
    assert second.step == 10
    assert second.pixels == 2 * first.pixels
    _, metadata = checkpoint.read(out)
    assert len(json.loads(metadata["progress"])["legs"]) == 2
    assert any(k.startswith("opt/") and k.endswith("/momentum") for k in tensors)


def test_frozen_parts_stay_as_they_are(tiny, folder: Path) -> None:
    out = str(folder.parent / "run.safetensors")
    train(config(folder, max_steps=3))
    before, _ = checkpoint.read(out)
    train(config(folder, max_steps=3, resume=out, freeze=["analysis", "hyper_"]))
    after, _ = checkpoint.read(out)
    names = [k.removeprefix("ema/") for k in before if k.startswith("ema/")]
    still = {n for n in names if torch.equal(before[f"ema/{n}"], after[f"ema/{n}"])}
    assert still == {n for n in names if n.startswith(("analysis", "hyper_"))}
    assert all(torch.equal(after[f"model/{n}"], after[f"ema/{n}"]) for n in still)


@pytest.mark.parametrize(("parts", "said"), [(["anal", "decoder"], "'decoder'; its parts are"), ([""], "every")])
def test_freezing_nothing_or_all_is_refused(tiny, folder: Path, parts: list[str], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        train(config(folder, freeze=parts))
    assert not (folder.parent / "run.safetensors").exists()


def test_small_learning_rates_stay_small(tiny, folder: Path) -> None:
    train(config(folder, max_steps=2, lr=1e-6))
    header, *rows = (folder.parent / "run.csv").read_text().splitlines()
    assert 0 < float(rows[-1].split(",")[header.split(",").index("lr")]) <= 1e-6


def test_export_as_a_program(tiny, folder: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kodim.training.export", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    out = folder.parent / "new" / "weights"
    made = run(weights_file("balle2017", "compact"), out)
    assert made.returncode == 2
    assert made.stderr.count("\n") == 1
    assert not list(out.parent.glob("**/*.safetensors"))
    assert run(out).returncode == 2


def test_init_takes_over_what_fits(tiny, folder: Path) -> None:
    out = str(folder.parent / "run.safetensors")
    train(config(folder, max_steps=3))
    net = registry.create("minnen2018", preset="test", pretrained=False)
    taken, legs = checkpoint.load_shared(out, net)
    assert taken == len(list(net.parameters()))
    assert legs[0]["codec"] == "minnen2018"
    assert checkpoint.load_shared(out, registry.create("balle2018", pretrained=False))[0] < taken


def test_init_from_exported_and_from_shipped_weights(tiny, folder: Path) -> None:
    run = folder.parent / "run.safetensors"
    train(config(folder, max_steps=3))
    exported = export(str(run), folder.parent, "none")
    net = registry.create("minnen2018", preset="test", pretrained=False)
    taken, legs = checkpoint.load_shared(exported, net)
    assert taken == len(list(net.parameters()))
    assert legs[0]["codec"] == "minnen2018"
    for name, value in registry.get(str(exported)).codec.named_parameters():
        assert torch.equal(net.get_parameter(name), value)
    shipped, fresh = (registry.create("kodim", pretrained=p) for p in (True, False))
    taken, legs = checkpoint.load_shared("kodim", fresh)
    assert taken == len(list(fresh.parameters()))
    assert legs == registry.weights_card("kodim", "compact")["legs"]
    for name, value in shipped.named_parameters():
        assert torch.equal(fresh.get_parameter(name), value)


@pytest.mark.parametrize("source", ["nothing.safetensors", "minnen2018:huge", "no-such-system", "folder/kodim", "jpeg"])
def test_init_says_what_it_cannot_find(tiny, source: str, folder: Path) -> None:
    with pytest.raises(kodim.KodimError) as refused:
        train(config(folder, init=source))
    assert all(word in str(refused.value) for word in source.split(":"))


def test_init_from_a_system_that_shares_nothing(tiny, folder: Path) -> None:
    with pytest.raises(kodim.BadRequest, match="none of its tensors"):
        train(config(folder, init="overfit"))


def test_killed_run_leaves_its_last_checkpoint(folder: Path) -> None:
    out = folder.parent / "run.safetensors"
    program = (
        "from kodim.training.loop import *; import sys\n"
        "train(TrainConfig('balle2017', [sys.argv[1]], sys.argv[2], cache=sys.argv[3], device='cpu', minutes=5,\n"
        "      checkpoint_minutes=0.0001, stages=[(0.0, 64, 1)]))"
    )
    args = [sys.executable, "-c", program, str(folder), str(out), str(folder.parent / "cache")]
    process = subprocess.Popen(args, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert weights.describe(out)["codec"] == "balle2017"
    checkpoint.read(out)  # whole


def test_interrupt_saves_and_ends_quietly(folder: Path) -> None:
    out = folder.parent / "run.safetensors"
    args = [
        sys.executable,
        "-m",
        "kodim",
        "train",
        "balle2017",
        "--data",
        str(folder),
        "--minutes",
        "5",
        "-o",
        str(out),
    ]
    env = os.environ | {"KODIM_CACHE": str(folder.parent / "cache")}
    process = subprocess.Popen(args, stderr=subprocess.PIPE, env=env, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "weights" in line:
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert "Traceback" not in rest
    assert out.exists()
    assert not list(out.parent.glob(".*.part"))


def test_diverging_names_the_term(tiny, folder: Path, monkeypatch) -> None:
    from kodim.systems.minnen2018 import Minnen2018

    program = Minnen2018.program
    monkeypatch.setattr(Minnen2018, "program", lambda self, code: program(self, code) * float("nan"))
    with pytest.raises(Diverged, match="mse"):
        train(config(folder))


def test_a_step_of_a_thousand_times_the_loss_is_skipped(tiny, folder: Path, monkeypatch, capsys) -> None:
    from kodim.systems.minnen2018 import Minnen2018

    objective, calls = Minnen2018.objective, iter(range(100))

    def leaping(self, x, out, level):
        factor = 1e4 if next(calls) == 3 else 1.0
        return {k: v * factor for k, v in objective(self, x, out, level).items()}

    monkeypatch.setattr(Minnen2018, "objective", leaping)
    state = train(config(folder, max_steps=6))
    assert state.step == 6
    assert next(calls) == 7  # one of the seven was for nothing
    assert "step 3: a loss of" in capsys.readouterr().err


def test_a_gradient_far_from_the_usual_is_cut(tiny, folder: Path, monkeypatch) -> None:
    from kodim.systems.minnen2018 import Minnen2018

    objective, calls, norms = Minnen2018.objective, iter(range(100)), []

    def steep(self, x, out, level):
        factor = 50.0 if next(calls) == 8 else 1.0
        return {k: v * factor for k, v in objective(self, x, out, level).items()}

    def look(self) -> None:
        norms.append(float(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()))

    monkeypatch.setattr(Minnen2018, "objective", steep)
    monkeypatch.setattr(loop, "FAMILIAR", 5)
    monkeypatch.setattr(Muon, "step", look)
    train(config(folder, max_steps=10, clip=math.inf))
    assert len(norms) == 10
    assert norms[8] == pytest.approx(loop.CLIP * np.median(norms[:8]), rel=1e-3)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_data_is_said(tiny, folder: Path, name: str) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(BadRequest, match=name):
        train(config(folder, data=[str(folder.parent / name)]))


def test_wrong_checkpoints_are_refused(tiny, folder: Path) -> None:
    junk = folder.parent / "junk.safetensors"
    junk.write_bytes(b"junk")
    with pytest.raises(BadRequest, match="junk"):
        train(config(folder, resume=str(junk)))
    with pytest.raises(BadRequest, match="junk"):
        registry.get(str(junk))
    train(config(folder, max_steps=2))
    with pytest.raises(BadRequest, match="minnen2018"):
        train(config(folder, codec="balle2017", preset="compact", resume=str(folder.parent / "run.safetensors")))
    with pytest.raises(BadRequest, match="directory"):
        train(config(folder, output=str(folder)))


def test_crops_are_pixels_of_the_pictures(folder: Path) -> None:
    pictures = Pictures([folder], folder.parent / "cache")
    assert len(pictures.shapes) == 3
    batch = pictures.crops(np.random.default_rng(0), 5, 32)
    assert batch.shape == (5, 3, 32, 32)
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1
    again = Pictures([folder], folder.parent / "cache")
    assert torch.equal(again.crops(np.random.default_rng(0), 5, 32), batch)
    assert pictures.crops(np.random.default_rng(0), 1, 1000).shape == (1, 3, 1000, 1000)


def test_some_crops_are_drawn(folder: Path) -> None:
    """About the share that was asked for, each another one, and the rest as before."""
    pictures = Pictures([folder], folder.parent / "cache")
    few, all_drawn = (pictures.crops(np.random.default_rng(0), 100, 32, share) for share in (0.2, 1.0))
    places = {pictures.crops(np.random.default_rng(0), 1, 32, share).numpy().tobytes() for share in (0.0, 1.0)}
    assert len(places) == 2
    assert all(float(batch.min()) >= 0 and float(batch.max()) <= 1 for batch in (few, all_drawn))
    different = {crop.numpy().tobytes() for crop in all_drawn}
    assert len(different) > 90  # one colour is all that some show

    def hard(batch: torch.Tensor) -> float:
        """Share of crops with many steps between neighbours as large as hardly any photograph has."""
        steps = (batch[..., 1:] - batch[..., :-1]).abs().amax(1)
        return float(((steps > 0.6).float().mean((1, 2)) > 0.02).float().mean())

    assert hard(pictures.crops(np.random.default_rng(0), 100, 32)) < 0.05 < hard(few) < 0.3 < hard(all_drawn)


@pytest.mark.parametrize("n", [16, 50, 192])
def test_drawn_pictures_have_the_side_that_was_asked_for(n: int, monkeypatch) -> None:
    rng, photo = np.random.default_rng(n), np.full((n, n, 3), 90, np.uint8)
    for fonts in (drawn._fonts(), []):
        monkeypatch.setattr(drawn, "_fonts", lambda fonts=fonts: fonts)
        for _ in range(60):
            picture = drawn.draw(rng, photo)
            assert picture.shape == (n, n, 3)
            assert picture.dtype == np.uint8
    assert (photo == 90).all()


def test_a_ruined_picture_is_not_all_of_a_step(tiny) -> None:
    """One picture whose loss is a million times the usual pulls no harder than one of `RUINED`; others are as ever."""
    net = registry.create("minnen2018", preset="test", pretrained=False).train()
    x, level = torch.rand(3, 3, 64, 64), torch.zeros(3)

    def pulls(worst: float) -> tuple[float, torch.Tensor]:
        x_hat = (x + torch.tensor([0.01, 0.02, worst])[:, None, None, None]).requires_grad_()
        loss = net.objective(x, Output(x_hat, {"y": torch.full((3,), 4096.0)}, 64 * 64), level)["loss"]
        loss.backward()
        assert x_hat.grad is not None
        return float(loss.detach()), x_hat.grad.square().sum((1, 2, 3)).sqrt()

    usual, sane = pulls(0.02)
    high, ruined = pulls(1e4)
    assert usual < high < 50 * usual
    assert torch.equal(sane[:2], ruined[:2])
    assert float(ruined[2]) < float(sane[2])


@pytest.mark.parametrize("module", [side, fitted])
def test_lessons_refuse_before_time_is_spent(module: ModuleType, tiny, folder: Path, monkeypatch, capsys) -> None:
    """Not a checkpoint, one of another system, an output that is a folder, minutes that are none: one line each."""
    out, run = str(folder.parent / "out.safetensors"), str(folder.parent / "run.safetensors")
    train(config(folder, max_steps=1))
    for arguments, word in (
        ((str(weights_file("balle2018", "compact")), out, str(folder)), "not a checkpoint"),
        ((run, out, str(folder)), "minnen2018"),
        ((run, str(folder), str(folder)), "directory"),
        ((run, out, str(folder), "soon"), "MINUTES"),
        ((run, out, str(folder), "-1"), "MINUTES"),
        ((str(folder / "none"), out, str(folder)), "no such file"),
        ((run, out), "CHECKPOINT OUTPUT PICTURES"),
    ):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        with pytest.raises(SystemExit) as stop:
            checkpoint.lesson(module.main, module.__doc__)
        assert stop.value.code == 2
        assert word in capsys.readouterr().err
        assert not Path(out).exists()


@pytest.mark.parametrize("shape", [(4, 30), (30, 4)])
def test_orthogonalise(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    m = torch.randn(shape) @ torch.diag(torch.linspace(0.5, 2, shape[1]))
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    torch.testing.assert_close(orthogonalise(m), u @ v, atol=0.05, rtol=0)
    torch.testing.assert_close(orthogonalise(1e-14 * m), orthogonalise(m), atol=0.01, rtol=0)
    assert not orthogonalise(0 * m).any()


def test_muon_shares_its_matrices_out_evenly() -> None:
    shapes = [torch.Size(s) for s in ((8, 8, 1, 1), (16, 16, 1, 1), (8, 8, 1, 1), (16, 4, 3, 3))]
    owners = _owners(shapes, 2)
    assert owners[1] != owners[3]  # the two dear ones
    assert set(owners) == {0, 1}
    assert _owners(shapes, 1) == [0, 0, 0, 0]
