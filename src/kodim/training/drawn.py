"""Drawn pictures for training: text, charts, patterns, noise, screens.

A codec that has seen photographs alone knows nothing of black beside white, and may do anything there. A tenth of the
crops drawn by a program is enough to teach it otherwise. Every crop is another one; nothing is read but fonts:
Pillow's own and, where Matplotlib is installed, those that come with it.
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]  # (n, n, 3)
Colour = tuple[int, int, int]

LETTERS = "eeeettttaaaooonnniiissrrhhdlucmfwygpbvkxqjzETAOINSHRDL0123456789.,;:!?()[]+-=/%&@#"


def draw(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """A picture of the size of `photo` (n, n, 3), which some are drawn on and some show in few colours."""
    if rng.random() < WINDOWS:
        return _windows(rng, photo)
    return _one(rng, photo)


def _one(rng: np.random.Generator, photo: Pixels) -> Pixels:
    paint, _ = KINDS[int(rng.choice(len(KINDS), p=[share for _, share in KINDS]))]
    return paint(rng, photo)


def _windows(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """A screen: parts of different kinds, some of them framed."""
    out, side = _flat(rng, photo), len(photo)
    for _ in range(int(rng.integers(2, 6))):
        height, width = (int(v) for v in rng.integers(side // 8, side, 2))
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        part = (slice(top, top + height), slice(left, left + width))
        out[part] = _one(rng, photo)[part]
        if rng.random() < 0.5:
            framed = Image.fromarray(out)
            box = (left, top, left + width - 1, top + height - 1)
            ImageDraw.Draw(framed).rectangle(box, outline=_colour(rng))
            out = np.array(framed)
    return out


def _colour(rng: np.random.Generator) -> Colour:
    """Black, white, a grey, a pure colour or any."""
    kind = rng.random()
    if kind < 0.45:
        return ((0, 0, 0), (255, 255, 255))[int(rng.integers(2))]
    if kind < 0.52:
        return (int(rng.integers(256)),) * 3
    r, g, b = (rng.integers(2, size=3) * 255) if kind < 0.75 else rng.integers(256, size=3)
    return int(r), int(g), int(b)


def _two(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Two colours (2, 3), unlike each other; often opposite ones, which photographs show least of all."""
    first = np.array(_colour(rng))
    second = np.array(_colour(rng))
    opposite = rng.random() < 0.3 or np.abs(first - second).max() <= 16
    return np.stack([first, 255 - first if opposite else second])


def _flat(rng: np.random.Generator, photo: Pixels) -> Pixels:
    return np.full_like(photo, _colour(rng))


@cache
def _fonts() -> list[str]:
    """Files of Matplotlib's text fonts; empty without it."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return []
    files = (Path(found.origin).parent / "mpl-data" / "fonts" / "ttf").glob("*.ttf")
    return sorted(str(f) for f in files if f.name.startswith(("DejaVuS", "STIXGeneral")) and "Display" not in f.name)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _text(rng: np.random.Generator, ground: Pixels) -> Pixels:
    """Lines of random words, in one size and font, with or without grey edges."""
    side, image = len(ground), Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.3:
        pen.fontmode = "1"
    ink = tuple(int(v) for v in 255 - ground[side // 2, side // 2]) if rng.random() < 0.6 else _colour(rng)
    size = int(2 ** rng.uniform(3, 6 if rng.random() < 0.3 else 4.6))
    names = ["", *_fonts()]
    font = _font(names[int(rng.integers(len(names)))], size)
    y, gap = float(rng.integers(-size, size)), size * rng.uniform(1, 1.8)
    while y < side:
        letters = rng.choice(list(LETTERS), 3 * side // size + 8)
        words, at = [], 0
        while at < len(letters):
            length = int(rng.integers(1, 10))
            words.append("".join(letters[at : at + length]))
            at += length
        pen.text((float(rng.integers(-size, size)), y), " ".join(words), fill=ink, font=font)
        y += gap
    return np.array(image)


def _shapes(rng: np.random.Generator, ground: Pixels) -> Pixels:
    """Rectangles, ellipses, polygons and lines, with or without grey edges."""
    side, scale = len(ground), int(rng.choice((1, 2)))
    image = Image.fromarray(ground).resize((side * scale, side * scale))
    pen = ImageDraw.Draw(image)
    reach = scale * side * 2 ** rng.uniform(-3, 0)
    for _ in range(int(rng.integers(2, 24))):
        ink, kind = _colour(rng), rng.integers(5)
        outline = int(rng.integers(1, 6)) if rng.random() < 0.4 else 0
        x, y = rng.uniform(-0.1, 1, 2) * side * scale
        w, h = rng.uniform(1, reach, 2)
        box = (x, y, x + w, y + h)
        if kind == 0:
            pen.rectangle(box, fill=None if outline else ink, outline=ink, width=outline or 1)
        elif kind == 1:
            pen.ellipse(box, fill=None if outline else ink, outline=ink, width=outline or 1)
        elif kind == 2:
            corners = [(x + float(a), y + float(b)) for a, b in rng.uniform(0, reach, (int(rng.integers(3, 7)), 2))]
            pen.polygon(corners, fill=None if outline else ink, outline=ink)
        elif kind == 3:
            pen.line((x, y, x + float(rng.normal()) * w, y + float(rng.normal()) * h), fill=ink, width=outline or 1)
        else:
            steps = np.cumsum(rng.normal(0, reach / 16, 40))
            across = np.linspace(x, x + 2 * w, 40)
            pen.line([(float(a), y + float(b)) for a, b in zip(across, steps, strict=True)], ink, outline or 1)
    return np.array(image.resize((side, side), Image.Resampling.BOX) if scale > 1 else image)


def _pattern(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """Stripes, chessboards, grids and dots of a period of 1 to 16 pixels, upright or aslant, in two colours."""
    side = len(photo)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    if rng.random() < 0.25:
        angle = rng.uniform(0, np.pi)
        x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    period = float(rng.choice((1, 1, 2, 2, 3, 4, 5, 6, 8, 12, 16)))
    x, y = np.floor((x + rng.integers(16)) / period), np.floor((y + rng.integers(16)) / period)
    kind = rng.integers(5)
    if kind == 0:
        mask = x % 2
    elif kind == 1:
        mask = (x + y) % 2
    elif kind == 2:
        every = int(rng.integers(3, 9))
        mask = np.maximum(x % every == 0, y % every == 0)
    elif kind == 3:
        every = int(rng.integers(2, 6))
        mask = np.minimum(x % every == 0, y % every == 0)
    else:
        mask = y % 2
    return _two(rng)[mask.astype(np.int64)].astype(np.uint8)


def _noise(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """White noise: two values or many, grey or coloured, on every pixel or on few, fine or in squares."""
    side = len(photo)
    size = int(rng.choice((1, 1, 1, 2, 4)))
    n, planes = -(-side // size), int(rng.choice((1, 3)))
    kind = rng.integers(4)
    if kind == 0:
        values = rng.integers(0, 2, (n, n, planes)) * 255.0
    elif kind == 1:
        values = rng.uniform(0, 255, (n, n, planes))
    elif kind == 2:
        values = rng.normal(rng.uniform(0, 255), 2 ** rng.uniform(2, 6), (n, n, planes))
    else:
        low, high = _two(rng)
        values = np.where(rng.random((n, n, 1)) < 2 ** rng.uniform(-9, -1), high, low).astype(np.float64)
    values = np.broadcast_to(values.clip(0, 255), (n, n, 3))
    return values.repeat(size, 0).repeat(size, 1)[:side, :side].astype(np.uint8)


def _blocks(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """Squares in the colours of a small palette."""
    side = len(photo)
    size = int(rng.choice((2, 3, 4, 6, 8, 16)))
    palette = np.array([_colour(rng) for _ in range(int(rng.integers(2, 9)))], np.uint8)
    n = -(-side // size)
    return palette[rng.integers(len(palette), size=(n, n))].repeat(size, 0).repeat(size, 1)[:side, :side]


def _ramp(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """From one colour to another, smoothly or in steps."""
    side = len(photo)
    y, x = np.mgrid[:side, :side] / side
    angle = rng.choice((0.0, np.pi / 2, rng.uniform(0, 2 * np.pi)))
    share = np.cos(angle) * x + np.sin(angle) * y
    share = (share - share.min()) / np.ptp(share)
    if rng.random() < 0.4:
        steps = int(rng.integers(2, 17))
        share = np.floor(share * steps) / steps
    low, high = _two(rng)
    return np.rint(low + share[..., None] * (high - low)).astype(np.uint8)


def _few_colours(rng: np.random.Generator, photo: Pixels) -> Pixels:
    """A photograph in black and white dots, in a palette, or with few values."""
    image, kind = Image.fromarray(photo), rng.integers(3)
    if kind == 0:
        return np.array(image.convert("1").convert("RGB"))
    if kind == 1:
        return np.array(image.quantize(int(rng.choice((4, 16, 64)))).convert("RGB"))
    step = 255 / int(rng.integers(1, 6))
    return np.rint(np.rint(photo / step) * step).astype(np.uint8)


def _page(rng: np.random.Generator, photo: Pixels) -> Pixels:
    return _text(rng, _flat(rng, photo))


def _chart(rng: np.random.Generator, photo: Pixels) -> Pixels:
    return _shapes(rng, _flat(rng, photo))


WINDOWS = 0.25  # share of pictures that are put together
KINDS = (
    (_page, 0.25),
    (_chart, 0.15),
    (_pattern, 0.15),
    (_noise, 0.1),
    (_few_colours, 0.1),
    (_text, 0.1),
    (_shapes, 0.05),
    (_blocks, 0.05),
    (_ramp, 0.05),
)
