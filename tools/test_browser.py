"""Notebooks in JupyterLab in a real Chromium: each is opened, run from top to bottom, saved, looked at and photographed; the explorer's sliders are moved.

`python tools/test_browser.py` tries a quick selection, `--all` everything, names only those; `--install` gets what is missing first. All of it happens on a copy of the clone, with a home of
its own, on 127.0.0.1. Screenshots lie in runs/browser.
"""

import argparse
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "runs" / "browser"
WIDTH = 1280  # pixels of the window
CELL_TIME = 240  # seconds that a notebook may take

# the first notebook of each part of the library (data, diffusion, the three stages, all of them in one call, measuring, drawing, the command line), and those that people work in
CHAPTERS = ("01_phantom", "03_schedule", "09_mask", "12_detect", "evaluation/metrics", "figures", "cli")
QUICK = ("index", "09_mask", "explore")
ALL = ("index", *CHAPTERS, "train", "eval", "explore")
NO_PICTURE = ("cli",)  # all others show one at least
# with their defaults these take minutes
SMALLER = {
    "eval": dict(
        dataset="simulated",
        limit=3,
        steps=2,
        inpaint_levels=1,
        resample_steps=1,
        masking_threshold="p95",
        n_bootstrap=20,
    ),
    "train": dict(steps=6, batch_size=2, validate_every=3),
}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SETTINGS = {  # every cell in the page, not only those in sight; no news from the network
    "notebook-extension/tracker": dict(windowingMode="none", scrollPastEnd=False),
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
}


def chromium() -> str | None:
    "The system's Chromium, or the program that CHROMIUM names."
    names = (
        [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else ["chromium", "chromium-browser", "google-chrome"]
    )
    return next((found for name in names if (found := shutil.which(name))), None)


def missing() -> list:  # of sentences
    "What a browser test lacks here."
    lacks = (
        []
        if importlib.util.find_spec("playwright")
        else ["Playwright is not installed (`pip install -r tools/browser-requirements.txt`)"]
    )
    return (
        lacks
        if chromium()
        else [
            *lacks,
            "no Chromium (install it with the system's package manager, on Debian `apt-get install chromium`, or name one by CHROMIUM=/path)",
        ]
    )


def install(limit: int = 300):  # seconds for each step
    "Get Playwright by pip and Chromium by apt-get, as far as that is possible here."
    steps = []
    if not importlib.util.find_spec("playwright"):
        steps.append(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                ROOT / "tools" / "browser-requirements.txt",
            ]
        )
    if not chromium() and shutil.which("apt-get"):
        rights = [] if os.geteuid() == 0 else ["sudo", "-n"]
        steps += [
            [*rights, "apt-get", "update", "-qq"],
            [*rights, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
        ]
    for command in steps:
        print("installing:", *(str(word) for word in command), flush=True)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                env=os.environ | dict(DEBIAN_FRONTEND="noninteractive"),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return print(f"       that failed: {error}", flush=True)
        if done.returncode:
            return print("       that failed: " + (done.stderr or done.stdout).strip()[-300:], flush=True)
    importlib.invalidate_caches()


def copy_clone(to: Path) -> Path:
    "What notebooks read, and the notebooks; the originals stay as they are."
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "smoke")
    for folder in ("nbs", "autoddpm", "data/simulated", "data/splits", "figures"):
        shutil.copytree(ROOT / folder, to / folder, ignore=left_out)
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, to)
    return to


def set_parameters(notebook: Path, values: dict):
    "Change literals in the cell tagged `parameters`."
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cell = next(c for c in content["cells"] if "parameters" in c["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for name, value in values.items():
        text, found = re.subn(rf"^{name} = .*?(?=  #|$)", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert found == 1, f"{notebook.name} has no parameter {name}"
    cell["source"] = text.splitlines(keepends=True)
    notebook.write_text(json.dumps(content), encoding="utf-8")


def leave_out_flagged(notebook: Path) -> int:  # cells left out
    "Take out the cells that need real data, a GPU or many minutes, as nbdev_test does by their flag."
    flags = re.search(r"^tst_flags = (.*)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.MULTILINE)[
        1
    ].split()
    content = json.loads(notebook.read_text(encoding="utf-8"))
    kept = [
        c
        for c in content["cells"]
        if not re.match(rf"#\|\s*({'|'.join(flags)})\s*$", "".join(c["source"]).split("\n")[0])
    ]
    left_out = len(content["cells"]) - len(kept)
    if left_out:
        notebook.write_text(json.dumps(content | dict(cells=kept)), encoding="utf-8")
    return left_out


@contextmanager
def jupyterlab(clone: Path, home: Path):
    "A server on this machine alone, with its own home, settings and token; gives a function that makes its addresses."
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port, token = s.getsockname()[1], secrets.token_hex(16)
    own = dict(
        HOME=home,
        JUPYTERLAB_SETTINGS_DIR=home / "settings",
        JUPYTERLAB_WORKSPACES_DIR=home / "workspaces",
        JUPYTER_CONFIG_DIR=home / "config",
        JUPYTER_DATA_DIR=home / "data",
        JUPYTER_RUNTIME_DIR=home / "runtime",
        IPYTHONDIR=home / "ipython",
        PYTHONPATH=clone,
        OMP_NUM_THREADS="1",
        WANDB_SILENT="true",
    )
    env = {k: v for k, v in os.environ.items() if k not in ("AUTODDPM_DATA", "MPLBACKEND")} | {
        k: str(v) for k, v in own.items()
    }
    command = [
        Path(sys.executable).parent / "jupyter",
        "lab",
        "--no-browser",
        "--ip",
        "127.0.0.1",
        "--port",
        str(port),
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]

    def address(path):
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    with open(home / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=clone, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(
                lambda: answers(address("api/status")),
                60,
                f"JupyterLab did not start; its log ends with\n{(home / 'server.log').read_text(encoding='utf-8')[-500:]}",
            )
            yield address
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, otherwise: str, pause: float = 0.2):
    "Poll until it is so."
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(otherwise)
        time.sleep(pause)
    return found


def shut_down(address):
    "End the kernels, so that one notebook at a time is in memory."
    for session in json.load(urllib.request.urlopen(address("api/sessions"))):
        urllib.request.urlopen(urllib.request.Request(address(f"api/sessions/{session['id']}"), method="DELETE"))


def run_all(page, address, notebook: Path) -> dict:  # the notebook as JupyterLab saved it
    "Open a notebook, run all cells by the menu, wait until the last has run, save."
    page.goto(address(f"lab/tree/nbs/{notebook.name}") + "&reset")  # without the tabs of the one before
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(timeout=90_000)
    page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\| Idle$")).wait_for(
        timeout=90_000
    )  # before that, "Run" would ask which kernel to start
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()

    def saved():
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
        try:
            content = json.loads(notebook.read_text(encoding="utf-8"))
        except ValueError:
            return None  # caught while being written
        code = [c for c in content["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        failed = any(o["output_type"] == "error" for c in code for o in c["outputs"])
        return content if failed or all(c["execution_count"] for c in code) else None

    wait_for(
        lambda: (
            page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').count()
            and page.locator(".jp-InputPrompt", has_text="[*]").count() == 0
        ),
        CELL_TIME,
        f"still running after {CELL_TIME} s",
    )
    return wait_for(saved, 60, "not every cell has run")


def count_pictures(content: dict) -> int:
    return sum("image/png" in output.get("data", {}) for cell in content["cells"] for output in cell.get("outputs", []))


def check_outputs(content: dict) -> int:  # code cells
    "No error, no warning, no flood of lines."
    cells = [c for c in content["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        shown = 0
        for output in cell["outputs"]:
            assert output["output_type"] != "error", f"code cell {number} failed: {output['ename']}: {output['evalue']}"
            text = "".join(output.get("text", ""))
            assert "Warning" not in text and "WARNING" not in text, f"code cell {number} warns: {text.strip()[:300]}"
            shown += len(text.splitlines())
        assert shown <= 60, f"code cell {number} floods the page with {shown} lines"
    return len(cells)


IMAGES = "() => [...document.querySelectorAll('.jp-Notebook img')].map(i => [i.complete && i.naturalWidth, i.getBoundingClientRect().right])"


def check_page(page, least: int) -> int:  # images that show
    "Every image is loaded, there are enough of them, and none sticks out of the page."
    wait_for(lambda: all(width for width, _ in page.evaluate(IMAGES)), 20, "an image does not load")
    images = page.evaluate(IMAGES)
    assert len(images) >= least, f"{len(images)} pictures in the page, where at least {least} should be"
    assert all(right <= WIDTH for _, right in images), "a picture is wider than the page"
    assert (
        page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg"
        ).count()
        == 0
    ), "the page shows an error"
    return len(images)


def photograph(page, name: str):
    "The whole notebook, however long."
    page.set_viewport_size(dict(width=WIDTH, height=1000))
    long = page.evaluate(
        "() => Math.max(0, ...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
    )
    page.set_viewport_size(dict(width=WIDTH, height=min(max(int(long) + 120, 600), 14_000)))
    page.wait_for_timeout(500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
    page.set_viewport_size(dict(width=WIDTH, height=1000))


PIXELS = """image => { const c = document.createElement('canvas'); c.width = image.naturalWidth; c.height = image.naturalHeight; c.getContext('2d').drawImage(image, 0, 0); return c.toDataURL(); }"""


def use_explorer(page) -> str:  # what was seen
    "A slider moves and the picture follows, while what does not depend on it stays; a lesion is drawn; a file that is no slice is refused in a line."

    def picture(name):
        image = page.locator(".widget-vbox", has=page.locator(f".widget-html b:text-is('{name}')")).last.locator("img")
        wait_for(lambda: image.evaluate("i => i.complete && i.naturalWidth"), 20, f"no picture over {name!r}")
        return image.evaluate(PIXELS)

    def says(pattern):
        wait_for(
            lambda: any(re.search(pattern, text) for text in page.locator(".widget-html").all_inner_texts()),
            60,
            f"nothing in the explorer says {pattern!r}",
        )

    def changes(name, act, what):  # seconds until the picture is another one
        before, start = picture(name), time.monotonic()
        act()
        wait_for(lambda: picture(name) != before, 60, f"{what}, and {name!r} looks as before", pause=0.01)
        return time.monotonic() - start

    def press(slider, key, name):
        def act():
            page.locator(".widget-hslider", has=page.locator(f".widget-label:text-is('{slider}')")).locator(
                ".noUi-handle"
            ).focus()
            page.keyboard.press(key)

        return changes(name, act, f"{slider} moved")

    done = r"network calls?, [\d.]+ m?s"
    says(done)
    coarse = picture("1. coarse")
    cut = [press("threshold", "ArrowLeft", "1. mask") for _ in range(3)][0]  # the later ones may wait for re-sampling
    assert picture("1. coarse") == coarse, "moving the threshold denoised again"
    says(r"\(by hand\)")
    step = press("step of the walk", "ArrowRight", "guess of the clean image")
    level = press("noise level", "ArrowRight", "1. coarse")
    says(r"noise level \d01, .*" + done)
    photograph(page, "explore")
    changes("scan", page.locator("button", has_text="a drawn lesion").click, "a lesion was asked for")
    says(r"lesion drawn in: .*" + done)
    final = picture("3. final map")
    drawn = press("darkness", "ArrowRight", "scan")
    wait_for(
        lambda: picture("3. final map") != final, 60, "the lesion became darker, and the final map looks as before"
    )
    photograph(page, "explore-lesion")
    page.locator("button", has_text="a file of mine").click()
    with page.expect_file_chooser() as chooser:
        page.locator("button.widget-upload").click()
    chooser.value.set_files(dict(name="notes.txt", mimeType="text/plain", buffer=b"no picture"))
    says(r"^notes\.txt: unknown kind of file; ")
    photograph(page, "explore-file")
    times = {
        "threshold to mask": cut,
        "step of the walk": step,
        "noise level to coarse image": level,
        "darkness to scan": drawn,
    }
    return ", ".join(f"{what} {1000 * seconds:.0f} ms" for what, seconds in times.items())


def try_notebook(page, address, clone: Path, name: str) -> str:  # what was seen
    notebook = clone / "nbs" / f"{name}.ipynb"
    if name in SMALLER:
        set_parameters(notebook, SMALLER[name])
    left_out = leave_out_flagged(notebook)
    committed = count_pictures(json.loads(notebook.read_text(encoding="utf-8")))
    try:
        content = run_all(page, address, notebook)
    finally:
        photograph(page, name)
    cells, pictures = check_outputs(content), count_pictures(content)
    assert pictures >= committed, (
        f"{pictures} pictures among the outputs, {committed} in the committed notebook: a figure shows as text (matplotlib's inline backend is not on before it)"
    )
    images = check_page(page, max(pictures, name not in NO_PICTURE))
    seen = f"{cells} cells ran, {images} images show{f', {left_out} flagged cells left out' if left_out else ''}"
    return f"{seen}; {use_explorer(page)}" if name == "explore" else seen


def try_twice(page, address, clone: Path, name: str) -> str:
    "A browser on a busy machine can miss a click; what fails twice is wrong."
    from playwright.sync_api import Error

    try:
        return try_notebook(page, address, clone, name)
    except (AssertionError, Error) as error:
        print(f"       {name}: once more, since {str(error).splitlines()[0][:200]}", flush=True)
        shut_down(address)
        return try_notebook(page, address, clone, name)


def main(names=QUICK) -> tuple:  # (passed, failed)
    if lacks := missing():
        print(f"       not tried, since {' and '.join(lacks)}; `make test-browser` installs what it can", flush=True)
        return 0, 0
    from playwright.sync_api import Error, sync_playwright

    passed = failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch).resolve()
        clone, home = copy_clone(scratch / "clone"), scratch / "home"
        with jupyterlab(clone, home) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch_persistent_context(
                scratch / "profile",
                executable_path=chromium(),
                args=list(FLAGS),
                viewport=dict(width=WIDTH, height=1000),
            )
            page = browser.pages[0]
            for name in names:
                start = time.time()
                try:
                    seen = try_twice(page, address, clone, name)
                except (AssertionError, Error) as error:
                    failed += 1
                    print(
                        f"FAILED {name} in JupyterLab ({time.time() - start:.0f} s; runs/browser/{name}.png)\n       {error}",
                        flush=True,
                    )
                else:
                    passed += 1
                    print(f"ok     {name} in JupyterLab: {seen} ({time.time() - start:.0f} s)", flush=True)
                shut_down(address)
            browser.close()
    return passed, failed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server and the copy go with it
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"notebooks; none: {', '.join(QUICK)}")
    parser.add_argument("--all", action="store_true", help=", ".join(ALL))
    parser.add_argument("--install", action="store_true", help="get Playwright and Chromium first")
    parser.add_argument("--only-install", action="store_true", help="and do no more")
    args = parser.parse_args()
    if args.install or args.only_install:
        install()
    if args.only_install:
        sys.exit("; ".join(missing()) or 0)
    good, bad = main(args.names or (ALL if args.all else QUICK))
    print(f"{good} passed, {bad} failed")
    sys.exit(1 if bad or not good else 0)
