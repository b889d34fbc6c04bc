"""The report of `kodim compare`: one file that needs nothing else, and works in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from browser import Page, browser, chromium
from kodim.bench import report
from kodim.bench.compare import Study
from kodim.bench.gallery import gallery

HOSTILE = "a<b></script><script>window.stolen=1<!--.png"
needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on the PATH (KODIM_CHROMIUM may name one) to look at the page with"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    """A comparison on two pictures, one with a hostile name, with published curves; its page on disk."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(skimage.data.astronaut()[:170, 100:280]).save(folder / "astronaut.png")
    (folder / HOSTILE.replace("/", "_")).write_bytes((folder / "astronaut.png").read_bytes())
    study = Study(
        [folder], ["jpeg", "webp"], folder=folder, qualities=[10, 30, 50, 70], metrics=["psnr", "ms_ssim", "nlpd"],
        with_published=True,
    )  # fmt: skip
    study.measure()
    result, pictures = study.result(), gallery(study, 2)
    # a learned codec's bit map, without the minute that a codec takes
    for picture in pictures:
        for rate in picture["rates"]:
            rate["shots"]["webp"]["bits"] = rate["shots"]["webp"]["error"]
    result["left_out"].append({"input": HOSTILE, "reason": "a test"})
    path = folder / "report.html"
    path.write_text(report.page(result, pictures), encoding="utf-8")
    return result, pictures, path


class Everything(HTMLParser):
    """Tags that are open at the end, and every address in the page."""

    void = frozenset(("meta", "link", "img", "input", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def parsed(path: Path) -> Everything:
    page = Everything()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def test_the_page_is_whole_and_needs_nothing_else(made: Any) -> None:
    page = parsed(made[2])
    assert page.open == []
    assert len(page.scripts) == 2  # the hostile name has opened no third one
    assert all(address.startswith("data:") for address in page.addresses)
    assert "default-src 'none'" in made[2].read_text(encoding="utf-8")
    assert not re.search(r"{{\w+}}", made[2].read_text(encoding="utf-8"))
    assert made[2].stat().st_size < 2_000_000


def test_the_page_holds_the_figures(made: Any) -> None:
    result, pictures, path = made
    data = json.loads(parsed(path).scripts[0])
    assert data["bd"] == json.loads(json.dumps(result["bd"]))
    assert data["left_out"][0]["input"] == HOSTILE
    own = [curve for curve in data["curves"] if not curve["published"]]
    assert [curve["name"] for curve in own] == ["jpeg", "webp"]
    assert [p["psnr"] for p in own[0]["points"]] == [p["psnr"] for p in result["points"] if p["codec"] == "jpeg"]
    shown = [curve["name"] for curve in data["curves"] if curve["published"] and curve["shown"]]
    assert "published: webp" in shown
    assert len(data["gallery"]) == len(pictures) == 2


def test_pictures_have_about_the_same_rate(made: Any) -> None:
    for picture in made[1]:
        for rate in picture["rates"]:
            for shot in rate["shots"].values():
                assert shot["bpp"] == pytest.approx(rate["bpp"], rel=0.15)
                assert shot["image"].startswith("data:image/")
                assert shot["psnr"] > 20


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH to read the script with")
def test_the_script_can_be_read(made: Any, tmp_path: Path) -> None:
    script = tmp_path / "report.js"
    script.write_text(parsed(made[2]).scripts[1], encoding="utf-8")
    done = subprocess.run(["node", "--check", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with browser(tmp_path_factory.mktemp("profile", numbered=True)) as page:
        yield page


@pytest.fixture
def page(tab: Page, made: Any) -> Page:
    tab.errors.clear()
    tab.requests.clear()
    tab.open(made[2], 1280, 900)
    return tab


def choose(page: Page, name: str, value: str) -> None:
    select = f"document.getElementById({json.dumps(name)})"
    page.run(f"{select}.value = {json.dumps(value)}; {select}.dispatchEvent(new Event('change'))")
    assert page.run(f"{select}.value") == value


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    return found


@needs_chromium
@pytest.mark.parametrize(("width", "height", "dark"), [(1280, 900, False), (1280, 900, True), (390, 844, True)])
def test_it_fits_the_screen(page: Page, made: Any, width: int, height: int, dark: bool) -> None:
    page.open(made[2], width, height, dark=dark)
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("data:", "file:"))] == []
    assert page.run("window.stolen") is None
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelector('#chart svg').clientWidth") > 0.7 * width
    red, *_ = re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))
    assert (int(red) < 128) == dark
    assert page.run("document.getElementById('image-left').naturalWidth") == 180


@needs_chromium
def test_curves_zoom_hide_and_tell_their_values(page: Page) -> None:
    before = texts(page, "#chart .tick")
    box = page.run("(() => { const b = document.querySelector('#chart svg').getBoundingClientRect();"
                   "return [b.x, b.y, b.width, b.height] })()")  # fmt: skip
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
    zoomed = texts(page, "#chart .tick")
    assert zoomed != before
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 90, y + 60, button="left", buttons=1)
    page.mouse("mouseReleased", x + 90, y + 60, button="left", clickCount=1)
    assert texts(page, "#chart .tick") != zoomed
    page.run("document.getElementById('zoom-reset').click()")
    assert texts(page, "#chart .tick") == before
    place = page.run("(() => { const p = chart.drawn.find(p => p.curve.name === 'webp');"
                     "const b = document.querySelector('#chart svg').getBoundingClientRect();"
                     "return [b.x + p.x, b.y + p.y] })()")  # fmt: skip
    page.mouse("mouseMoved", place[0] + 2, place[1] + 1)
    assert page.run("document.getElementById('tip').textContent").startswith("webp")
    assert page.run("document.querySelectorAll('#chart [data-curve=webp]').length") == 1
    page.run("[...document.querySelectorAll('#legend button')].find(b => b.textContent === 'webp').click()")
    assert page.run("document.querySelectorAll('#chart [data-curve=webp]').length") == 0
    dashed = page.run(
        "document.querySelector('#chart [data-curve=\"published: webp\"]').getAttribute('stroke-dasharray')"
    )
    assert dashed
    choose(page, "view", "nlpd")
    assert "NLPD (luma), lower is better" in texts(page, "#chart text")
    assert page.errors == []


@needs_chromium
def test_the_table_sorts_and_changes_its_anchor(page: Page, made: Any) -> None:
    def column(number: int) -> list[str]:
        return texts(page, f"#table tbody td:nth-child({number})")

    row = next(
        r for r in made[0]["bd"] if (r["metric"], r["codec"], r["anchor"]) == ("psnr", "webp", "published: webp")
    )
    assert column(1) == ["webp", "jpeg"]
    assert column(2)[1] == "anchor"
    page.run("document.querySelector('#table th button').click()")
    assert column(1) == ["jpeg", "webp"]
    page.run("document.querySelector('#table th button').click()")
    assert column(1) == ["webp", "jpeg"]
    choose(page, "anchor", "published: webp")
    assert column(2)[0].startswith(f"{row['bd_rate']:+.1f}".replace("-", "−"))
    assert page.errors == []


@needs_chromium
def test_pictures_lie_under_a_slider(page: Page) -> None:
    page.run("{ const s = document.getElementById('slider'); s.value = 20; s.dispatchEvent(new Event('input')) }")
    assert page.run("document.getElementById('image-right').style.clipPath") == "inset(0px 0px 0px 20%)"
    source = "document.getElementById('image-{}').src"
    pictures = [page.run(source.format(side)) for side in ("left", "right")]
    assert pictures[0] != pictures[1]
    choose(page, "layer", "error")
    assert page.run(source.format("left")) != pictures[0]
    choose(page, "layer", "bits")
    assert page.run(source.format("left")) == pictures[0]  # JPEG has no bit map
    assert "no bit map" in page.run("document.getElementById('caption-left').textContent")
    assert page.run(source.format("right")) != pictures[1]
    choose(page, "left", "original")
    choose(page, "picture", "1")
    choose(page, "rate", "1")
    assert page.run("document.getElementById('caption-left').textContent") == "original"
    assert page.errors == []
