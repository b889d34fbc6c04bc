"""How long do serial contexts take? `python benchmarks/serial.py [PRESET] [CODECS...]`

Codes a 768 x 512 picture with each system that decodes position after position, at the size of its `paper` preset (or
another), and prints seconds on as many threads as PyTorch takes. Weights are those that ship, or random ones: what is
counted is the work, which does not depend on them (escapes apart).
"""

import sys
import time

import torch

from kodim import registry

SYSTEMS = ("minnen2018", "minnen2018-ar", "lee2019", "klopp2018", "fu2021", "koyuncu2022", "kamisli2022", "mentzer2018")
SYSTEMS += ("minnen2018local", "ma2020")
QUALITY = 100.0  # of a progressive codec all passes


def picture() -> torch.Tensor:
    """(1, 3, 512, 768) in [0, 1]."""
    from skimage import data

    left, right = data.astronaut(), data.coffee()[:, :256]
    both = torch.zeros(512, 768, 3, dtype=torch.uint8)
    both[:, :512] = torch.from_numpy(left)
    both[:400, 512:] = torch.from_numpy(right.copy())
    return both.permute(2, 0, 1)[None] / 255


def main() -> None:
    preset = sys.argv[1] if len(sys.argv) > 1 else "paper"
    x = picture()
    print(f"| {preset} | encode s | decode s | bpp |\n|---|---|---|---|")
    for slug in sys.argv[2:] or SYSTEMS:
        entry = registry.find(slug)
        torch.manual_seed(0)
        codec = registry.create(slug, preset=preset, pretrained=preset in entry.weights).eval()
        codec.freeze()
        codec.compress(x[..., :64, :64], QUALITY)
        start = time.perf_counter()
        stream, shown = codec.compress(x, QUALITY)
        middle = time.perf_counter()
        assert torch.equal(codec.decompress(stream, (512, 768), QUALITY), shown)
        end = time.perf_counter()
        bpp = 8 * len(stream.data) / 512 / 768
        print(f"| `{slug}` | {middle - start:.2f} | {end - middle:.2f} | {bpp:.2f} |", flush=True)


if __name__ == "__main__":
    main()
