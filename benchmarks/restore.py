"""What does `kodim restore` gain? `python benchmarks/restore.py FOLDER [WEIGHTS]`

Writes each picture as an ordinary JPEG (Pillow, optimised Huffman tables) at three qualities, with chroma at half and
at full resolution, and decodes it twice: as Pillow does and as `kodim restore` does. Prints mean PSNR (RGB) of both,
their difference, and on how many pictures restoring was better. The files are the same.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from kodim.metrics import psnr
from kodim.picture import load
from kodim.restore import restore

QUALITIES = (25, 50, 75)


def main() -> None:
    weights = sys.argv[2] if len(sys.argv) > 2 else None
    pictures = [load(p).pixels for p in sorted(Path(sys.argv[1]).iterdir())]
    print("| JPEG quality | chroma | bpp | JPEG dB | restored dB | gain dB | better on |")
    print("|---|---|---|---|---|---|---|")
    for quality in QUALITIES:
        for name, subsampling in (("4:2:0", 2), ("4:4:4", 0)):
            rows = []
            for pixels in pictures:
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
                data = stream.getvalue()
                plain = psnr(pixels, np.asarray(Image.open(io.BytesIO(data))))
                better = psnr(pixels, np.asarray(restore(data, weights)))
                rows.append((8 * len(data) / pixels[..., 0].size, plain, better))
            found = np.array(rows)
            bpp, plain, better = found.mean(0)
            wins = f"{int((found[:, 2] > found[:, 1]).sum())} of {len(found)}"
            line = f"| {quality} | {name} | {bpp:.3f} | {plain:.2f} | {better:.2f} | {better - plain:+.2f} | {wins} |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
