"""Does cost grow with pixels, and memory not? `python benchmarks/scaling.py [CODEC] [MEGAPIXELS...]`

Encodes and decodes a mosaic of scikit-image's photographs at each size, each in a process of its own, on as many
threads as PyTorch takes; prints seconds a megapixel and the largest memory of the process.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

SIZES = (0.1, 0.4, 1.6, 6.4, 25.0, 100.0)


def mosaic(height: int, width: int) -> np.ndarray:
    from skimage import data

    tile = np.concatenate([data.astronaut(), data.astronaut()[:, ::-1]], 1)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 512):
        for left in range(0, width, 1024):
            part = out[top : top + 512, left : left + 1024]
            part[:] = np.roll(tile, 37 * (top // 512) + 101 * (left // 1024), (0, 1))[: part.shape[0], : part.shape[1]]
    return out


def one(slug: str, megapixels: float) -> dict[str, float]:
    from kodim import registry
    from kodim.picture import load

    codec = registry.get(slug)
    codec.decode(codec.encode(load(mosaic(64, 64)), 50))  # loads the weights
    width = round((megapixels * 1.5e6) ** 0.5)
    picture = load(mosaic(round(width / 1.5), width))
    start = time.perf_counter()
    data = codec.encode(picture, 50)
    middle = time.perf_counter()
    pixels = picture.width * picture.height
    del picture
    codec.decode(data)
    end = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"encode": (middle - start) / pixels * 1e6, "decode": (end - middle) / pixels * 1e6, "memory": memory}


def main() -> None:
    slug = sys.argv[1] if len(sys.argv) > 1 else "kodim"
    sizes = [float(v) for v in sys.argv[2:]] or SIZES
    print("| megapixels | encode s/Mpx | decode s/Mpx | memory MB |\n|---|---|---|---|")
    for size in sizes:
        command = [sys.executable, __file__, "--one", slug, str(size)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {size:g} | {found['encode']:.2f} | {found['decode']:.2f} | {found['memory']:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], float(sys.argv[3]))))
    else:
        main()
