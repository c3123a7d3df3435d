"""Pictures of the report and of the explorer for the site, in `docs/static`, from slices of the simulated cohort.

`python tools/docs_pictures.py` makes both, `report` or `explorer` behind it one of them. It needs what `make browser`
gets: Chromium, and Playwright. The notebook runs in a copy of the clone, in JupyterLab on 127.0.0.1.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def jupyterlab(clone: Path, home: Path):
    "A server with a home and a token of its own; gives a function that makes its addresses."
    port, token = free_port(), secrets.token_hex(16)
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    own = dict(HOME=home, IPYTHONDIR=home / "ipython", PYTHONPATH=clone)
    own |= {f"JUPYTER{'' if name.startswith('LAB') else '_'}{name}": home / name.lower() for name in folders}
    env = {k: v for k, v in os.environ.items() if k not in ("AUTODDPM_DATA", "MPLBACKEND")}
    command = [BIN / "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--LabApp.news_url=None", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with open(home / "server.log", "w", encoding="utf-8") as log:
        ours = env | {k: str(v) for k, v in own.items()}
        server = subprocess.Popen(command, cwd=clone, env=ours, stdout=log, stderr=log)
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/api/status?token={token}")
            yield lambda path: f"http://127.0.0.1:{port}/{path}?token={token}"
        finally:
            server.terminate()
            server.wait(30)


def wait_until_it_answers(address: str, seconds: float = 90):
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def explorer(scratch: Path):
    "The controls and pictures of `nbs/explore.ipynb`, as JupyterLab shows them."
    clone, home = scratch / "clone", scratch / "home"
    home.mkdir()
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("nbs", "autoddpm", "data/simulated", "data/splits", "figures"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=left_out)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    with jupyterlab(clone, home) as address, browser(1280, 1100) as page:
        page.goto(address("doc/tree/nbs/explore.ipynb"))
        # before the kernel answers, "Run" would ask which one to start
        page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\| Idle$")).wait_for(timeout=90_000)
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        panel = page.locator(".jp-Cell-outputArea", has=page.locator(".widget-image"))
        page.locator(".widget-html", has_text=re.compile(r"network calls?, [\d.]+ m?s")).wait_for(timeout=240_000)
        page.wait_for_timeout(3_000)  # the last pictures
        page.set_viewport_size(dict(width=1280, height=2400))
        page.wait_for_timeout(1_000)
        panel.screenshot(path=scratch / "explorer.png")
    save(scratch / "explorer.png", "explorer.png")


if __name__ == "__main__":
    for make in [globals()[name] for name in sys.argv[1:]] or (report, explorer):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
