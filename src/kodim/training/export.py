"""From a checkpoint to shipped weights: `python -m kodim.training.export CHECKPOINT FOLDER ["WHAT DATA" [PICTURES]]`.

Writes `<codec>.<preset>.safetensors` (half-precision convolutions, frozen integer tables) and its TOML
card. With PICTURES, a folder or data set to train on, the tables are fitted to what the codec codes of crops from
there (:mod:`.calibrate`).
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from .. import weights
from ..codec import Codec
from ..errors import BadRequest
from ..registry import create
from .calibrate import calibrate
from .checkpoint import command
from .data import Pictures

CROPS, SIDE, BATCH = 64, 256, 8  # for the tables


def export(checkpoint: str | Path, folder: str | Path, data: str, pictures: str | None = None) -> Path:
    """Write weights and card of a checkpoint into `folder`.

    `data` says in words what it was trained on; the tables are fitted to `pictures`, if any are given.
    """
    metadata = weights.describe(checkpoint)
    if "progress" not in metadata:
        raise BadRequest(f"{checkpoint}: not a checkpoint of kodim (these weights are exported already)")
    codec = create(metadata["codec"], preset=metadata["preset"], pretrained=False)
    weights.load(codec, checkpoint)
    if pictures is not None:
        found, rng = Pictures([pictures]), np.random.default_rng(0)
        calibrate(codec.eval(), (found.crops(rng, BATCH, SIDE) for _ in range(CROPS // BATCH)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{metadata['codec']}.{metadata['preset']}.safetensors"
    fingerprint = weights.save(codec, path)
    path.with_suffix(".toml").write_text(_card(metadata, codec, path, fingerprint, data), encoding="utf-8")
    return path


def _card(metadata: dict[str, str], codec: Codec, path: Path, fingerprint: bytes, data: str) -> str:
    progress, config = json.loads(metadata["progress"]), json.loads(metadata["config"])
    kept = ("lr", "final_lr", "ema", "clip", "bf16_until", "stages", "seed", "drawn")
    lines = [
        f'codec = "{metadata["codec"]}"',
        f'preset = "{metadata["preset"]}"',
        f'fingerprint = "{fingerprint.hex()}"',
        f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
        f"bytes = {path.stat().st_size}",
        f"parameters = {sum(p.numel() for p in codec.parameters())}",
        'licence = "MIT"',
        f'data = "{data}"',
        'loss = "bpp + lambda * 255^2 * MSE, weighted by lambda^-1/2, a random rate level per crop"',
        f"lambdas = {list(codec.lambdas)}",
        f"levels = {codec.levels}",
        f"settings = {json.dumps({k: config[k] for k in kept if k in config})!r}",
        "",
        "# Every leg of training behind these weights, in order; core_minutes is CPU time over all cores.",
    ]
    for leg in progress.get("legs") or [_single_leg(metadata, progress)]:
        lines += ["[[legs]]", *(f"{k} = {json.dumps(v)}" for k, v in leg.items()), ""]
    return "\n".join(lines)


def _single_leg(metadata: dict[str, str], progress: dict[str, float]) -> dict[str, object]:
    return {
        "codec": metadata["codec"],
        "minutes": round(progress["seconds"] / 60, 1),
        "core_minutes": round(progress["cpu_seconds"] / 60, 1),
        "megapixels": round(progress["pixels"] / 1e6),
    }


def main(checkpoint: str, folder: str, data: str = "not stated", pictures: str | None = None) -> None:
    print(export(checkpoint, folder, data, pictures))


if __name__ == "__main__":
    command(main, range(2, 5), __doc__)
