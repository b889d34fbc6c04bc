"""Crops side by side at equal size, for the eye: `python benchmarks/crops.py [OUT_FOLDER]`, default docs/images.

Photographs of scikit-image at 0.15, 0.3 and 0.6 bits per pixel, one sheet each: kodim (one pass) beside HEIC, AVIF,
WebP and JPEG, every codec asked for the same size. Writes crops-<name>.webp.
"""

import sys
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw, ImageFont

from kodim import rate, registry
from kodim.metrics import psnr
from kodim.picture import Picture, load

RATES = (0.15, 0.3, 0.6)
COLUMNS = ("kodim", "heic", "avif", "webp", "jpeg-420")
DETAILS = {  # name -> left and top of the detail
    "astronaut": (150, 60),
    "coffee": (210, 120),
    "chelsea": (130, 70),
}
WIDTH, HEIGHT, ZOOM = 160, 128, 2
MARGIN, CAPTION = 8, 40


def sheet(photo: Picture, corner: tuple[int, int]) -> Image.Image:
    box = (*corner, corner[0] + WIDTH, corner[1] + HEIGHT)
    step = (WIDTH * ZOOM + MARGIN, HEIGHT * ZOOM + CAPTION + MARGIN)
    page = Image.new("RGB", (MARGIN + step[0] * (len(COLUMNS) + 1), MARGIN + step[1] * len(RATES)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for row, wanted in enumerate(RATES):
        cells = [(photo.image(), f"original\n{8 * 3} bpp")]
        for slug in COLUMNS:
            codec = registry.get(slug)
            found = rate.compress_to(codec, photo, bpp=wanted)
            decoded = codec.decode(found.data)
            note = "" if found.status == "met" else " (its least)"
            label = f"{slug}\n{found.bpp:.3f} bpp{note}  {psnr(photo.pixels, decoded.pixels):.2f} dB"
            cells.append((decoded.image(), label))
        for column, (image, label) in enumerate(cells):
            at = (MARGIN + column * step[0], MARGIN + row * step[1])
            page.paste(image.crop(box).resize((WIDTH * ZOOM, HEIGHT * ZOOM), Image.Resampling.NEAREST), at)
            pen.multiline_text((at[0], at[1] + HEIGHT * ZOOM + 2), label, fill="black", font=font, spacing=1)
    return page


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "images")
    for name, corner in DETAILS.items():
        path = folder / f"crops-{name}.webp"
        sheet(load(getattr(skimage.data, name)()), corner).save(path, quality=92, method=6)
        print(path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
