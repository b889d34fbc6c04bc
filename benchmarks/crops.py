"""Crops side by side at equal size, for the eye: `python benchmarks/crops.py [OUT_FOLDER]`, default docs/images.

Photographs of scikit-image at 0.15, 0.3 and 0.6 bits per pixel, one sheet each: kodim (one pass) beside HEIC, AVIF,
WebP and JPEG, every codec asked for the same size. Writes crops-<name>.webp. With `--overfit EFFORT` the sheets show
that codec, fitted for minutes, beside kodim, HEIC and AVIF: overfit-<name>.webp.
"""

import argparse
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw, ImageFont

from kodim import rate, registry
from kodim.metrics import psnr
from kodim.picture import Picture, load

RATES = (0.15, 0.3, 0.6)
COLUMNS = ("kodim", "heic", "avif", "webp", "jpeg-420")
BESIDE_OVERFIT = ("overfit", "kodim", "heic", "avif")
DETAILS = {  # name -> left and top of the detail
    "astronaut": (150, 60),
    "coffee": (210, 120),
    "chelsea": (130, 70),
}
WIDTH, HEIGHT, ZOOM = 160, 128, 2
MARGIN, CAPTION = 8, 40


def sheet(photo: Picture, corner: tuple[int, int], columns: tuple[str, ...], effort: int | None) -> Image.Image:
    """Original and `columns`; `effort` is that of overfit."""
    box = (*corner, corner[0] + WIDTH, corner[1] + HEIGHT)
    step = (WIDTH * ZOOM + MARGIN, HEIGHT * ZOOM + CAPTION + MARGIN)
    page = Image.new("RGB", (MARGIN + step[0] * (len(columns) + 1), MARGIN + step[1] * len(RATES)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for row, wanted in enumerate(RATES):
        cells = [(photo.image(), f"original\n{8 * 3} bpp")]
        for slug in columns:
            codec = registry.get(slug)
            found = rate.compress_to(codec, photo, bpp=wanted, effort=effort if slug == "overfit" else None)
            decoded = codec.decode(found.data)
            note = " (its least)" if found.status == "lowest" else ""
            label = f"{slug}\n{found.bpp:.3f} bpp{note}  {psnr(photo.pixels, decoded.pixels):.2f} dB"
            cells.append((decoded.image(), label))
        for column, (image, label) in enumerate(cells):
            at = (MARGIN + column * step[0], MARGIN + row * step[1])
            page.paste(image.crop(box).resize((WIDTH * ZOOM, HEIGHT * ZOOM), Image.Resampling.NEAREST), at)
            pen.multiline_text((at[0], at[1] + HEIGHT * ZOOM + 2), label, fill="black", font=font, spacing=1)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "docs" / "images")
    parser.add_argument("--overfit", type=int, metavar="EFFORT")
    args = parser.parse_args()
    kind, columns = ("overfit", BESIDE_OVERFIT) if args.overfit else ("crops", COLUMNS)
    for name, corner in DETAILS.items():
        path = args.folder / f"{kind}-{name}.webp"
        sheet(load(getattr(skimage.data, name)()), corner, columns, args.overfit).save(path, quality=92, method=6)
        print(path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
