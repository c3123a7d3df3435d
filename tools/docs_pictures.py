"""Pictures of the report and of the explorer for the site, in `docs/static`, from slices of the simulated cohort.

`python tools/docs_pictures.py` makes both, `report` or `explorer` behind it one of them. It needs what `make browser`
gets: Chromium, and Playwright.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STATIC = ROOT / "docs" / "static"
WIDTH = 900  # pixels of a picture
SUBJECTS = ("sub-sim046", "sub-sim043", "sub-sim044", "sub-sim040")  # large, large, small, none
BANNER = "SIMULATED DATA: no evidence about patients"


def chromium() -> str:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return found or sys.exit("no Chromium; `make browser` gets it")


@contextmanager
def browser(width: int, height: int):
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield opened.new_page(viewport=dict(width=width, height=height))
        opened.close()


def save(shot: Path, name: str):
    "A small PNG under a banner that says what the data are."
    picture = Image.open(shot).convert("RGB")
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (WIDTH, picture.height + 28), "#f0e442")
    whole.paste(picture, (0, 28))
    ImageDraw.Draw(whole).text((WIDTH / 2, 14), BANNER, "black", ImageFont.load_default(15), "mm")
    whole.quantize(128).save(STATIC / name, optimize=True)
    print(f"docs/static/{name}: {whole.width} x {whole.height}, {(STATIC / name).stat().st_size // 1024} KiB")


def report(scratch: Path):
    "The page that `autoddpm detect` writes, on some slices of the simulated cohort."
    scans = [next((ROOT / "data" / "simulated" / name).rglob("*_T1w.nii.gz")) for name in SUBJECTS]
    command = [BIN / "autoddpm", "detect", *scans, "--out", scratch / "found"]
    subprocess.run(command, check=True, cwd=scratch)
    with browser(1000, 1500) as page:
        page.goto((scratch / "found" / "report.html").as_uri())
        page.screenshot(path=scratch / "report.png")
    save(scratch / "report.png", "report.png")


def explorer(scratch: Path):
    "The page of `autoddpm explore`, as it opens."
    command, env = [BIN / "autoddpm", "explore", "--no-browser"], os.environ | dict(PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, cwd=scratch, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[1]
            with browser(1280, 900) as page:
                page.goto(address)
                page.locator(".autoddpm[data-state=idle]").wait_for(timeout=240_000)
                page.locator("#explorer").screenshot(path=scratch / "explorer.png")
        finally:
            server.terminate()
    save(scratch / "explorer.png", "explorer.png")


if __name__ == "__main__":
    for make in [globals()[name] for name in sys.argv[1:]] or (report, explorer):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
