"""Imported CompressAI checkpoints: equal to a second reading of that library's mathematics, and to the library itself.

The restatement below works on a state dict alone. Where KODIM_COMPAT names a folder of reference tensors (one
safetensors file an architecture: `input`, `x_hat`, `likelihoods.*`, `state_dict.*`, made by CompressAI), they are
compared too.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import kodim
from kodim import weights
from kodim.cli import main
from kodim.errors import BadRequest, MissingWeights

State = dict[str, Tensor]
SMALL = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018")
RESIDUAL = ("cheng2020-anchor", "cheng2020-attn")
ALL = SMALL + RESIDUAL
N, M = 6, 8


pytestmark = pytest.mark.usefixtures("one_thread")


# A state dict is a dictionary from keys to shapes, filled with noise.


def conv(key: str, c_in: int, c_out: int, k: int, transposed: bool = False) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (c_in, c_out, k, k) if transposed else (c_out, c_in, k, k), f"{key}.bias": (c_out,)}


def gdn(key: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.beta": (n,), f"{key}.gamma": (n, n)}


def residual_shapes(attention: bool) -> dict[str, tuple[int, ...]]:
    """Transforms and hyper-prior of cheng2020; a list of the kinds of blocks gives the numbers in the keys."""
    a = "down rb down attn rb down rb conv attn" if attention else "down rb down rb down rb conv"
    s = "attn rb up rb up attn rb up rb last" if attention else "rb up rb up rb up rb last"
    shapes: dict[str, tuple[int, ...]] = {}
    for net, kinds in (("g_a", a), ("g_s", s)):
        for i, kind in enumerate(kinds.split()):
            key, c = f"{net}.{i}", 3 if (net, i) == ("g_a", 0) else N
            if kind in ("down", "rb"):
                shapes |= conv(f"{key}.conv1", c, N, 3) | conv(f"{key}.conv2", N, N, 3)
            if kind == "down":
                shapes |= gdn(f"{key}.gdn", N) | conv(f"{key}.skip", c, N, 1)
            if kind == "up":
                shapes |= conv(f"{key}.subpel_conv.0", N, 4 * N, 3) | conv(f"{key}.conv", N, N, 3)
                shapes |= gdn(f"{key}.igdn", N) | conv(f"{key}.upsample.0", N, 4 * N, 3)
            if kind == "attn":
                for unit in [f"{key}.conv_{b}.{j}.conv" for b in "ab" for j in range(3)]:
                    shapes |= conv(f"{unit}.0", N, N // 2, 1) | conv(f"{unit}.2", N // 2, N // 2, 3)
                    shapes |= conv(f"{unit}.4", N // 2, N, 1)
                shapes |= conv(f"{key}.conv_b.3", N, N, 1)
            if kind == "conv":
                shapes |= conv(key, N, N, 3)
            if kind == "last":
                shapes |= conv(f"{key}.0", N, 12, 3)
    for i in range(0, 9, 2):
        shapes |= conv(f"h_a.{i}", N, N, 3)
    shapes |= conv("h_s.0", N, N, 3) | conv("h_s.2.0", N, 4 * N, 3) | conv("h_s.4", N, N * 3 // 2, 3)
    return shapes | conv("h_s.6.0", N * 3 // 2, N * 6, 3) | conv("h_s.8", N * 3 // 2, 2 * N, 3)


def pyramid_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (c_in, c_out) in enumerate([(3, N), (N, N), (N, N), (N, M)]):
        shapes |= conv(f"g_a.{2 * i}", c_in, c_out, 5) | conv(f"g_s.{6 - 2 * i}", c_out, c_in, 5, True)
    for net in ("g_a", "g_s"):
        shapes |= {k: v for i in (1, 3, 5) for k, v in gdn(f"{net}.{i}", N).items()}
    if architecture == SMALL[0]:
        return shapes
    w1, w2, out = (N, N, M) if architecture == SMALL[1] else (M, M * 3 // 2, 2 * M)
    shapes |= conv("h_a.0", M, N, 3) | conv("h_a.2", N, N, 5) | conv("h_a.4", N, N, 5)
    return shapes | conv("h_s.0", N, w1, 5, True) | conv("h_s.2", w1, w2, 5, True) | conv("h_s.4", w2, out, 3)


def make_state(architecture: str, seed: int = 0) -> State:
    """Noise that keeps every part alive: latents of several steps, scales on both sides of the bound."""
    shapes = residual_shapes(architecture == RESIDUAL[1]) if architecture in RESIDUAL else pyramid_shapes(architecture)
    m = N if architecture in RESIDUAL else M
    if architecture in ("mbt2018", *RESIDUAL):
        shapes |= conv("context_prediction", m, 2 * m, 5) | conv("entropy_parameters.0", 4 * m, m * 10 // 3, 1)
        shapes |= conv("entropy_parameters.2", m * 10 // 3, m * 8 // 3, 1)
        shapes |= conv("entropy_parameters.4", m * 8 // 3, 2 * m, 1)
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=rng)
        if key.endswith("beta"):
            state[key] = 1 + 0.2 * noise
            state[key][0] *= key.startswith("g_a")  # in the synthesis below the bound of the parametrisation
        elif key.endswith("gamma"):  # half of them below theirs
            state[key] = (0.3 if key.startswith("g_a") else 0.03) * noise + 0.2 * torch.eye(N) * key.startswith("g_a")
        else:
            loud = 4 if key in ("g_a.6.weight", "g_a.7.weight") else 1
            state[key] = noise * (loud * np.prod(shape[1:]) ** -0.5 if len(shape) == 4 else 0.1)
    c = M if architecture == SMALL[0] else N
    for i, (rows, columns) in enumerate([(3, 1), (3, 3), (3, 3), (3, 3), (1, 3)]):
        state[f"entropy_bottleneck.matrices.{i}"] = 0.3 * torch.randn(c, rows, columns, generator=rng) - 1
        state[f"entropy_bottleneck.biases.{i}"] = 0.5 * torch.randn(c, rows, 1, generator=rng)
        if i < 4:
            state[f"entropy_bottleneck.factors.{i}"] = 0.5 * torch.randn(c, rows, 1, generator=rng)
    state["entropy_bottleneck.quantiles"] = torch.randn(c, 1, 3, generator=rng)
    return state


class Reference:
    """CompressAI's forward pass in eval mode, written from its papers and its key names: x -> x_hat, likelihoods."""

    def __init__(self, state: State, architecture: str) -> None:
        self.s, self.name = {k: v.double() for k, v in state.items()}, architecture

    def conv(self, x: Tensor, key: str, stride: int = 1) -> Tensor:
        w = self.s[f"{key}.weight"]
        return F.conv2d(x, w, self.s[f"{key}.bias"], stride, w.shape[2] // 2)

    def deconv(self, x: Tensor, key: str) -> Tensor:
        return F.conv_transpose2d(x, self.s[f"{key}.weight"], self.s[f"{key}.bias"], 2, 2, 1)

    def gdn(self, x: Tensor, key: str, inverse: bool) -> Tensor:
        beta = self.s[f"{key}.beta"].clamp_min((1e-6 + 2.0**-36) ** 0.5) ** 2 - 2.0**-36
        gamma = self.s[f"{key}.gamma"].clamp_min(2.0**-18) ** 2 - 2.0**-36
        norm = (beta + torch.einsum("ij,bjhw->bihw", gamma, x**2).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).sqrt()
        return x * norm if inverse else x / norm

    def unit(self, x: Tensor, key: str) -> Tensor:
        y = F.relu(self.conv(x, f"{key}.0"))
        return F.relu(x + self.conv(F.relu(self.conv(y, f"{key}.2")), f"{key}.4"))

    def block(self, x: Tensor, key: str) -> Tensor:
        """One block of cheng2020, of the kind that its keys show."""
        leaky, shuffle = F.leaky_relu, F.pixel_shuffle
        if f"{key}.gdn.beta" in self.s:
            y = self.conv(leaky(self.conv(x, f"{key}.conv1", 2)), f"{key}.conv2")
            return self.gdn(y, f"{key}.gdn", False) + self.conv(x, f"{key}.skip", 2)
        if f"{key}.igdn.beta" in self.s:
            y = self.conv(leaky(shuffle(self.conv(x, f"{key}.subpel_conv.0"), 2)), f"{key}.conv")
            return self.gdn(y, f"{key}.igdn", True) + shuffle(self.conv(x, f"{key}.upsample.0"), 2)
        if f"{key}.conv_b.3.weight" in self.s:
            a = b = x
            for i in range(3):
                a, b = self.unit(a, f"{key}.conv_a.{i}.conv"), self.unit(b, f"{key}.conv_b.{i}.conv")
            return x + a * torch.sigmoid(self.conv(b, f"{key}.conv_b.3"))
        if f"{key}.conv1.weight" in self.s:
            return x + leaky(self.conv(leaky(self.conv(x, f"{key}.conv1")), f"{key}.conv2"))
        if f"{key}.0.weight" in self.s:
            return shuffle(self.conv(x, f"{key}.0"), 2)
        return self.conv(x, key, 2)

    def transform(self, x: Tensor, net: str) -> Tensor:
        if self.name in RESIDUAL:
            for i in sorted({int(k.split(".")[1]) for k in self.s if k.startswith(net)}):
                x = self.block(x, f"{net}.{i}")
            return x
        for i in range(7):
            if i % 2:
                x = self.gdn(x, f"{net}.{i}", net == "g_s")
            else:
                x = self.conv(x, f"{net}.{i}", 2) if net == "g_a" else self.deconv(x, f"{net}.{i}")
        return x

    def hyper_analysis(self, y: Tensor) -> Tensor:
        if self.name in RESIDUAL:
            for i, stride in enumerate((1, 1, 2, 1, 2)):
                y = self.conv(F.leaky_relu(y) if i else y, f"h_a.{2 * i}", stride)
            return y
        scale_only = self.name == SMALL[1]
        rectify = F.relu if scale_only else F.leaky_relu
        y = rectify(self.conv(y.abs() if scale_only else y, "h_a.0"))
        return self.conv(rectify(self.conv(y, "h_a.2", 2)), "h_a.4", 2)

    def hyper_synthesis(self, z: Tensor) -> Tensor:
        leaky = F.leaky_relu
        if self.name in RESIDUAL:
            z = leaky(F.pixel_shuffle(self.conv(leaky(self.conv(z, "h_s.0")), "h_s.2.0"), 2))
            return self.conv(leaky(F.pixel_shuffle(self.conv(leaky(self.conv(z, "h_s.4")), "h_s.6.0"), 2)), "h_s.8")
        rectify = F.relu if self.name == SMALL[1] else leaky
        z = self.conv(rectify(self.deconv(rectify(self.deconv(z, "h_s.0")), "h_s.2")), "h_s.4")
        return F.relu(z) if self.name == SMALL[1] else z

    def factorized(self, v: Tensor) -> tuple[Tensor, Tensor]:
        key, b = "entropy_bottleneck", v.shape
        median = self.s[f"{key}.quantiles"][:, 0, 1][None, :, None, None]
        v = torch.round(v - median) + median
        flat = v.transpose(0, 1).reshape(b[1], 1, -1)

        def cumulative(x: Tensor) -> Tensor:
            for i in range(5):
                x = F.softplus(self.s[f"{key}.matrices.{i}"]) @ x + self.s[f"{key}.biases.{i}"]
                if i < 4:
                    x = x + torch.tanh(self.s[f"{key}.factors.{i}"]) * torch.tanh(x)
            return torch.sigmoid(x)

        p = (cumulative(flat + 0.5) - cumulative(flat - 0.5)).clamp_min(1e-9)
        return v, p.reshape(b[1], b[0], *b[2:]).transpose(0, 1)

    def __call__(self, x: Tensor) -> tuple[Tensor, State]:
        y = self.transform(x.double(), "g_a")
        if self.name == SMALL[0]:
            y_hat, p = self.factorized(y)
            return self.transform(y_hat, "g_s"), {"y": p}
        z_hat, p_z = self.factorized(self.hyper_analysis(y))
        params = self.hyper_synthesis(z_hat)
        seen = torch.round(y)
        if "context_prediction.weight" in self.s:
            mask = torch.ones(5, 5, dtype=torch.float64)
            mask[2, 2:], mask[3:] = 0, 0
            w = self.s["context_prediction.weight"] * mask
            context = F.conv2d(seen, w, self.s["context_prediction.bias"], padding=2)
            params = torch.cat((params, context), 1)
            for i in (0, 2, 4):
                params = self.conv(F.leaky_relu(params) if i else params, f"entropy_parameters.{i}")
        scale, mean = (params, torch.zeros_like(y)) if self.name == SMALL[1] else params.chunk(2, 1)
        r = torch.round(y - mean)
        normal = torch.distributions.Normal(0.0, scale.clamp_min(0.11))
        p_y = (normal.cdf(0.5 - r.abs()) - normal.cdf(-0.5 - r.abs())).clamp_min(1e-9)
        y_hat = seen if "context_prediction.weight" in self.s else r + mean
        return self.transform(y_hat, "g_s"), {"y": p_y, "z": p_z}


def bits(likelihoods: State) -> dict[str, float]:
    return {k: float(-v.double().log2().sum()) for k, v in likelihoods.items()}


@pytest.fixture(scope="module")
def picture() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(1, 3, 64, 128)


@pytest.mark.parametrize("architecture", ALL)
def test_equals_a_second_reading(architecture: str, picture: Tensor) -> None:
    state = make_state(architecture)
    codec = kodim.load_compressai(state)
    assert codec.preset == architecture
    assert codec.arguments == {"n": N, "m": N if architecture in RESIDUAL else M}
    x_hat, likelihoods = codec.likelihoods(picture)
    expected, wanted = Reference(state, architecture)(picture)
    assert expected.std() > 0.01
    torch.testing.assert_close(x_hat.double(), expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)
    assert bits(likelihoods) == pytest.approx(bits(wanted), rel=1e-4)


@pytest.mark.parametrize("architecture", ALL)
def test_equals_compressai(architecture: str) -> None:
    folder = os.environ.get("KODIM_COMPAT")
    if not folder:
        pytest.skip("KODIM_COMPAT names no folder of reference tensors")
    tensors = load_file(Path(folder) / f"{architecture}.safetensors")
    codec = kodim.load_compressai({k[11:]: v for k, v in tensors.items() if k.startswith("state_dict.")})
    x_hat, likelihoods = codec.likelihoods(tensors["input"])
    wanted = {k: tensors[f"likelihoods.{k}"] for k in likelihoods}
    error = float((x_hat - tensors["x_hat"]).abs().max())
    off = {k: abs(v / bits(wanted)[k] - 1) for k, v in bits(likelihoods).items()}
    print(f"{architecture}: x_hat within {error:.1e}, bits within {max(off.values()):.1e}")
    assert error < 1e-5
    assert max(off.values()) < 1e-4


@pytest.mark.parametrize("architecture", ALL)
def test_estimate_file_and_decoder_agree(architecture: str, picture: Tensor) -> None:
    codec = kodim.load_compressai(make_state(architecture, seed=1))
    out = codec(picture[:, :, :50, :70])
    stream, seen = codec.compress(picture[:, :, :50, :70])
    assert torch.equal(codec.decompress(stream, (50, 70)), seen)
    assert torch.equal(out.x_hat, seen)
    spent = float(out.bpp) * out.pixels
    assert abs(8 * len(stream.data) - spent) < 1e-3 * spent + 64


def test_tables_cost_what_likelihoods_say(picture: Tensor) -> None:
    """Of symbols inside the tables; the library's floor of 1e-9 makes others dearer than an escape."""
    codec = kodim.load_compressai(make_state("bmshj2018-factorized"))
    _, likelihoods = codec.likelihoods(picture)
    assert float(codec(picture).bits["y"]) == pytest.approx(bits(likelihoods)["y"], rel=0.02)


@pytest.mark.parametrize("form", ["new", "wrapped", "module", "old", "older", "skip", "file", "safetensors"])
def test_forms_of_a_checkpoint(form: str, picture: Tensor, tmp_path: Path) -> None:
    architecture = "cheng2020-anchor" if form == "skip" else "mbt2018"
    state = make_state(architecture)
    expected = kodim.load_compressai(state).likelihoods(picture)[0]
    parts = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    source: object = state
    if form in ("old", "older"):
        for new, old in parts.items():
            old = old if form == "old" else f"_{new}"
            state = {k.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}"): v for k, v in state.items()}
        source = state
    elif form == "skip":
        source = {k.replace(".skip.", ".downsample."): v for k, v in state.items()}
    elif form == "module":
        source = {f"module.{k}": v for k, v in state.items()}
    elif form == "wrapped":
        source = {"epoch": 3, "state_dict": state, "loss": torch.zeros(())}
    elif form == "file":
        source = tmp_path / "model.pth.tar"
        torch.save({"state_dict": state}, source)
    elif form == "safetensors":
        source = tmp_path / "model.safetensors"
        save_file(state, source)
    assert torch.equal(kodim.load_compressai(source).likelihoods(picture)[0], expected)  # type: ignore[arg-type]


def refused(source: object) -> str:
    with pytest.raises(BadRequest) as caught:
        kodim.load_compressai(source)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_state_dicts_that_are_refused() -> None:
    state = make_state("mbt2018")
    assert "known architecture" in refused({"layer1.weight": torch.zeros(3)})
    assert "known architecture" in refused({})
    assert "no state dict" in refused({"state_dict": {"a": 3}})
    assert "context_prediction.bias is missing" in refused(
        {k: v for k, v in state.items() if k != "context_prediction.bias"}
    )
    assert "entropy_bottleneck.quantiles is missing" in refused({k: v for k, v in state.items() if "quant" not in k})
    assert "surprise is no part" in refused(state | {"surprise": torch.zeros(1)})
    assert "h_s.2.weight has the shape 8x13x5x5" in refused(state | {"h_s.2.weight": torch.zeros(8, 13, 5, 5)})
    assert "which no convolution has" in refused(state | {"g_a.6.weight": torch.zeros(8)})
    assert "not finite" in refused(state | {"g_a.0.bias": torch.full((N,), torch.nan)})
    assert "N = 5000" in refused(state | {"g_a.0.weight": torch.zeros(5000, 3, 1, 1)})
    bound = torch.tensor([0.5])
    assert "bounded by 0.11" in refused(state | {"gaussian_conditional.lower_bound_scale.bound": bound})


class Hostile:
    """Runs something when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hostile-was-here",)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": make_state("mbt2018")}, "whole.pth.tar")
    whole = Path("whole.pth.tar").read_bytes()
    Path("cut.pth.tar").write_bytes(whole[: len(whole) // 2])
    Path("noise.pth").write_bytes(np.random.default_rng(0).bytes(2000))
    Path("empty.pth").write_bytes(b"")
    torch.save({"state_dict": {"a": Hostile()}}, "code.pth")
    torch.save({"a": Hostile()}, "legacy.pth", _use_new_zipfile_serialization=False)
    assert "no such file" in refused("nowhere.pth")
    assert "directory" in refused(tmp_path)
    assert "cut short" in refused("cut.pth.tar")
    assert "no PyTorch file" in refused("noise.pth")
    assert "no PyTorch file" in refused("empty.pth")
    assert "code" in refused("code.pth")
    assert "code" in refused("legacy.pth")
    assert not Path("hostile-was-here").exists()


def test_from_checkpoint_to_picture(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """Import, compress, and decompress in a fresh process that is given the weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KODIM_WEIGHTS", raising=False)
    torch.save(make_state("mbt2018"), "in.pth.tar")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save("a.png")
    assert main(["import-compressai", "in.pth.tar", "out.safetensors"]) == 0
    assert "mbt2018 (N = 6, M = 8)" in capsys.readouterr().out
    fingerprint = weights.fingerprint(Path("out.safetensors")).hex()
    assert main(["compress", "a.png", "--codec", "./out.safetensors", "-o", "a.kdm"]) == 0
    with pytest.raises(MissingWeights, match=fingerprint):
        kodim.decompress(Path("a.kdm").read_bytes())
    assert main(["decompress", "a.kdm", "-o", "never.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("never.png").exists()

    command = [sys.executable, "-m", "kodim", "decompress", "a.kdm", "-o", "b.png", "--weights", "out.safetensors"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    here = kodim.decompress(Path("a.kdm").read_bytes(), weights="out.safetensors")
    with Image.open("b.png") as there:
        np.testing.assert_array_equal(np.asarray(there), np.asarray(here))

    torch.save(make_state("mbt2018", seed=2), "other.pth.tar")
    assert main(["import-compressai", "other.pth.tar", "other.safetensors"]) == 0
    with pytest.raises(MissingWeights, match=f"{fingerprint}.*other.safetensors has"):
        kodim.decompress(Path("a.kdm").read_bytes(), weights="other.safetensors")
    monkeypatch.setenv("KODIM_WEIGHTS", str(tmp_path))
    assert kodim.decompress(Path("a.kdm").read_bytes()).size == (90, 70)


def test_imported_weights_are_kept_unrounded(picture: Tensor, tmp_path: Path) -> None:
    codec = kodim.load_compressai(make_state("cheng2020-attn"))
    weights.save(codec, tmp_path / "out.safetensors", packed=False)
    from kodim.learned import from_weights

    again = from_weights(tmp_path / "out.safetensors").codec
    assert again.fingerprint() == codec.fingerprint()
    assert torch.equal(again.likelihoods(picture)[0], codec.likelihoods(picture)[0])  # type: ignore[operator]


def test_sizes_in_a_weights_file_are_checked(tmp_path: Path) -> None:
    codec = kodim.load_compressai(make_state("bmshj2018-factorized"))
    from kodim.learned import from_weights

    for bad in ({"n": 10**9, "m": 8}, {"n": "8"}, {"width": 8}, {"n": 5, "m": 8}):
        codec.arguments = bad  # type: ignore[assignment]
        weights.save(codec, tmp_path / "bad.safetensors", packed=False)
        with pytest.raises(BadRequest):
            _ = from_weights(tmp_path / "bad.safetensors").codec


def test_import_refuses_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("noise.pth").write_bytes(b"noise")
    for arguments in (
        ["noise.pth", "out.safetensors"],
        ["noise.pth", "out.pth"],
        ["nowhere.pth", "out.safetensors"],
        ["noise.pth", "nowhere/out.safetensors"],
    ):
        assert main(["import-compressai", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["noise.pth"]
