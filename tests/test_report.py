"""The pages of `autoddpm detect` in a real Chromium: nothing is refused by their own policy, sliders, blinking and
enlarging do what they say, the table sorts and filters, and nothing is wider than a telephone. `make browser` gets
what is missing.
"""

import browser
import numpy as np
import pytest
from PIL import Image

from autoddpm.phantom import head_phantom
from autoddpm.scans.batch import detect_scans
from autoddpm.scans.page import write_page

if lacks := browser.missing():
    pytest.skip(f"{' and '.join(lacks)}; `make browser` installs what it can", allow_module_level=True)
from playwright.sync_api import sync_playwright

CHAIN = dict(noise_level_recon=300, noise_level_inpaint=150, steps=2, inpaint_levels=1, resample_steps=1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    "Results of three slices, one of them unlike a head."
    folder = tmp_path_factory.mktemp("found")
    for k, name in enumerate(("b_1", "a_10", "a_9")):
        head = head_phantom(k)[0][0].numpy()
        Image.fromarray((255 * (head if k else head.T)).astype(np.uint8)).save(folder / f"{name}.png")
    detect_scans(folder, folder / "out", chain=CHAIN, threshold=0.01, progress=False)
    write_page(folder / "out", pictures=2)
    return folder / "out"


@pytest.fixture(scope="module")
def window():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser.chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def show(window):
    "A function that opens a page; whatever the page complains of ends the test."
    said, page = [], window.new_page(viewport=dict(width=1280, height=900))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)

    def opened(path):
        page.goto(path.as_uri())
        return page

    yield opened
    page.close()
    assert said == []


def opacity(page, kind: str) -> float:
    return page.evaluate(f"Number(getComputedStyle(document.querySelector('.viewer .{kind}')).opacity)")


def test_sliders_blink_and_enlarge(found, show):
    page = show(next(found.glob("*/report.html")))
    assert page.locator(".viewer .scan").bounding_box()["width"] >= 390
    assert (opacity(page, "pseudo"), opacity(page, "map")) == (0, 1)
    page.locator(".map-opacity").fill("30")
    page.locator(".pseudo-opacity").fill("60")
    assert (opacity(page, "pseudo"), opacity(page, "map")) == (0.6, 0.3)
    blink = page.locator(".blink")
    blink.click()
    assert (opacity(page, "pseudo"), opacity(page, "map")) == (1, 0)
    page.wait_for_timeout(1000)  # its policy keeps Playwright from waiting for a condition
    assert (opacity(page, "pseudo"), opacity(page, "map")) == (0, 0)
    blink.click()
    assert (opacity(page, "pseudo"), opacity(page, "map")) == (0.6, 0.3)


@pytest.mark.parametrize("name", ["", "own"])
def test_a_click_enlarges_to_the_whole_window(found, show, name):
    page = show(next(found.glob("*/report.html")) if name else found / "report.html")
    picture, large = page.locator(".viewer .scan").first, page.locator(".large")
    before = picture.bounding_box()["width"]
    page.locator(".viewer .stack").first.click()
    frame = large.bounding_box()
    assert (frame["x"], frame["y"], frame["width"], frame["height"]) == (0, 0, 1280, 900)
    assert picture.bounding_box()["width"] > 1.4 * before and picture.bounding_box()["height"] <= 900
    page.keyboard.press("Escape")
    assert large.count() == 0 and picture.bounding_box()["width"] == before
    page.locator(".stage .stack").first.click()
    assert large.count() == 1
    page.locator(".large .stack").click()
    assert large.count() == 0


def test_the_table_sorts_and_filters(found, show):
    page = show(found / "report.html")

    def names():
        return page.locator("table.scans tbody tr:visible td:first-child").all_inner_texts()

    def scores():
        return [float(cell) for cell in page.locator("table.scans tbody td:nth-child(2)").all_inner_texts()]

    heads = page.locator("table.scans th button")
    assert scores() == sorted(scores(), reverse=True)
    heads.nth(1).click()
    assert scores() == sorted(scores())
    heads.nth(0).click()
    assert names() == ["a_9", "a_10", "b_1"]
    heads.nth(0).click()
    assert names() == ["b_1", "a_10", "a_9"]
    page.locator(".words").fill("A_1")
    assert names() == ["a_10"] and page.locator(".shown").inner_text() == "1 of 3 shown"
    assert all("a_10" in text for text in page.locator("article:visible h3").all_inner_texts())
    page.locator(".words").fill("")
    page.locator(".doubtful").check()
    assert names() == ["b_1"]


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(found, show, width, media):
    for path in (found / "report.html", next(found.glob("*/report.html"))):
        page = show(path)
        page.emulate_media(media=media)
        page.set_viewport_size(dict(width=width, height=844))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".viewer .controls").first.is_visible() == (media == "screen")
