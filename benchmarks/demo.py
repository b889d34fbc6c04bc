"""What `make demo` runs: one photograph through kodim, and through JPEG and WebP at the same size.

Writes into demo-output/: every compressed file, every decoded picture, and comparison.png, which shows an
enlarged detail of each, one row for each size. Prints the figures of every file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from kodim import picture, rate, registry
from kodim.errors import KodimError
from kodim.metrics import ms_ssim, psnr

OUTPUT = Path("demo-output")
QUALITIES = (15, 40, 70)  # of the learned codec; the others are asked for the same size
RIVALS = ("jpeg-420", "webp")
DETAIL = (144, 64, 144 + 128, 64 + 128)  # left, top, right, bottom in the photograph: the face
ZOOM = 3


@dataclass(frozen=True)
class Shot:
    """One compressed and decoded version of the photograph."""

    codec: str
    file: Path
    size: int
    bpp: float
    psnr: float
    ms_ssim: float | None
    decoded: picture.Picture


def shoot(codec: registry.ImageCodec, photo: picture.Picture, data: bytes, name: str) -> Shot:
    """Write the file and the decoded picture, measure them."""
    file = OUTPUT / f"{name}{codec.extension}"
    file.write_bytes(data)
    decoded = codec.decode(data)
    decoded.image().save(OUTPUT / f"{name}.decoded.png")
    return Shot(
        codec=codec.slug,
        file=file,
        size=len(data),
        bpp=8 * len(data) / (photo.width * photo.height),
        psnr=psnr(photo.pixels, decoded.pixels),
        ms_ssim=ms_ssim(photo.pixels, decoded.pixels),
        decoded=decoded,
    )


def compare(photo: picture.Picture) -> list[list[Shot]]:
    """One row for each quality of the learned codec: its shot, then its rivals' at the same size."""
    learned = registry.get(registry.DEFAULT_CODEC)
    rows = []
    for quality in QUALITIES:
        row = [shoot(learned, photo, learned.encode(photo, quality), f"{learned.slug}-q{quality}")]
        for slug in RIVALS:
            rival = registry.get(slug)
            found = rate.compress_to(rival, photo, bpp=row[0].bpp)
            row.append(shoot(rival, photo, found.data, f"{slug}-at-{learned.slug}-q{quality}"))
        rows.append(row)
    return rows


def print_table(rows: list[list[Shot]]) -> None:
    """The figures, best PSNR of each row in bold."""
    table = Table(title=f"One photograph, {len(rows)} sizes", header_style="bold")
    for heading in ("codec", "bytes", "bpp", "PSNR dB", "MS-SSIM"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for row in rows:
        best = max(shot.psnr for shot in row)
        for shot in row:
            table.add_row(
                shot.codec,
                f"{shot.size:,}",
                f"{shot.bpp:.3f}",
                f"{shot.psnr:.2f}",
                "n/a" if shot.ms_ssim is None else f"{shot.ms_ssim:.4f}",
                style="bold" if shot.psnr == best else None,
                end_section=shot is row[-1],
            )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def draw(photo: picture.Picture, rows: list[list[Shot]]) -> Image.Image:
    """The sheet: the original's detail at the left, each row's three at its right, every one labelled."""
    width, height = (DETAIL[2] - DETAIL[0]) * ZOOM, (DETAIL[3] - DETAIL[1]) * ZOOM
    margin, caption = 12, 44
    sheet = Image.new(
        "RGB",
        (margin + (width + margin) * (1 + len(RIVALS) + 1), margin + (height + caption + margin) * len(rows)),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for y, row in enumerate(rows):
        top = margin + y * (height + caption + margin)
        cells = [(photo.pixels, "original\n24 bpp")]
        cells += [(s.decoded.pixels, f"{s.codec}\n{s.size:,} bytes  {s.bpp:.2f} bpp  {s.psnr:.1f} dB") for s in row]
        for x, (pixels, label) in enumerate(cells):
            left = margin + x * (width + margin)
            # whole factors and no smoothing: what one sees are the codec's pixels, not the resampler's
            detail = Image.fromarray(np.ascontiguousarray(pixels)).crop(DETAIL)
            sheet.paste(detail.resize((width, height), Image.Resampling.NEAREST), (left, top))
            pen.multiline_text((left, top + height + 4), label, fill="black", font=font, spacing=2)
    return sheet


def main() -> int:
    """Run the demonstration; returns the exit code."""
    photo = picture.load(skimage.data.astronaut())
    OUTPUT.mkdir(exist_ok=True)
    photo.image().save(OUTPUT / "original.png")
    try:
        rows = compare(photo)
    except KodimError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    print_table(rows)
    sheet = draw(photo, rows)
    sheet.save(OUTPUT / "comparison.png", optimize=True)
    print(f"The files are in {OUTPUT}/, the pictures side by side in {OUTPUT / 'comparison.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
