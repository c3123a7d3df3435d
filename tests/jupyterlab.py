"""JupyterLab on this machine alone, and what the tests do in its page."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from helpers import BIN, ROOT, copy_parts, environment

SHOTS = ROOT / "runs" / "browser"
WIDTH = 1280  # pixels of the window
CELL_TIME = 240  # seconds that a notebook may take
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# every cell in the page, not only those in sight; no news from the network; a page that saves by itself does so soon
SETTINGS = {
    "notebook-extension/tracker": dict(windowingMode="none", scrollPastEnd=False),
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
    "docmanager-extension/plugin": dict(autosaveInterval=2),
}
ERRORS = (
    ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], "
    ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']:has(.ansi-red-fg)"
)
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'


def copy_clone(to: Path) -> Path:
    "What notebooks read, and the notebooks, in a git repository of their own; the originals stay as they are."
    copy_parts(to, "nbs", "autoddpm", "data/simulated", "data/splits", "docs")
    shutil.copytree(ROOT / "figures", to / "figures", ignore=shutil.ignore_patterns("smoke"))
    for name in ("README.md", ".gitignore", ".gitattributes"):
        shutil.copy(ROOT / name, to)
    git(to, "init", "--quiet")
    git(to, "add", "--all")
    git(to, "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", "As cloned")
    return to


def git(clone: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=clone, capture_output=True, text=True, check=True)
    return done.stdout


@contextmanager
def jupyterlab(clone: Path, home: Path):
    "A server with its own home, settings and token, set up as by `make`; gives a function that makes its addresses."
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    (home / "config" / "labconfig").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "jupyterlab.json", home / "config" / "labconfig" / "default_setting_overrides.json")
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
    )
    env = environment(clone, **{k: str(v) for k, v in own.items()})
    del env["MPLBACKEND"]  # the notebooks' own, which shows pictures
    command = [BIN / "jupyter", "lab", "--no-browser", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += ["--allow-root"] if os.geteuid() == 0 else []

    def address(path):
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    with open(home / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=clone, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: answers(address("api/status")), 60, f"JupyterLab did not start; see {home}/server.log")
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
        assert time.monotonic() <= end, otherwise
        time.sleep(pause)
    return found


def shut_down(address):
    "End the kernels, so that one notebook at a time is in memory."
    for session in json.load(urllib.request.urlopen(address("api/sessions"))):
        urllib.request.urlopen(urllib.request.Request(address(f"api/sessions/{session['id']}"), method="DELETE"))


def open_notebook(page, address, name: str):
    page.goto(address(f"lab/tree/nbs/{name}.ipynb") + "&reset")  # without the tabs of the one before
    page.locator(IDLE).wait_for(timeout=90_000)
    # before that, "Run" would ask which kernel to start
    page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\| Idle$")).wait_for(timeout=90_000)


CELLS = """() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map(cell => [
    cell.querySelector('.cm-content').innerText.trim().length > 0,
    cell.querySelector('.jp-InputPrompt').innerText])"""


def choose(page, menu: str, item: str):
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{menu}$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()


def run_all(page):
    "Run all cells by the menu, and wait until the last has run or one has failed."

    def prompts():  # of the cells that are not empty
        return [prompt for filled, prompt in page.evaluate(CELLS) if filled]

    def has_run():
        failed = page.locator(ERRORS).count()
        return page.locator(IDLE).count() and "[*]:" not in prompts() and (failed or "[ ]:" not in prompts())

    choose(page, "Edit", "Clear Outputs of All Cells")  # and their numbers
    wait_for(lambda: set(prompts()) <= {"[ ]:"}, 30, "outputs are not cleared")
    choose(page, "Run", "Run All Cells")
    wait_for(has_run, CELL_TIME, f"still running after {CELL_TIME} s", pause=0.5)


def save(page, notebook: Path) -> dict:  # the notebook as JupyterLab saved it
    "Save until every cell has run in what lies on the disk."

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

    return wait_for(saved, 60, "not every cell has run")


def edit_cell(page, number: int, source: str):
    "Replace the text of a cell, as if it were pasted."
    page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    page.keyboard.press("Escape")


def photograph(page, name: str):
    "The whole notebook, however long."
    page.set_viewport_size(dict(width=WIDTH, height=1000))
    heights = "() => [0, ...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight)]"
    height = int(max(page.evaluate(heights))) + 120
    page.set_viewport_size(dict(width=WIDTH, height=min(max(height, 600), 14_000)))
    page.wait_for_timeout(500)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name.replace('/', '-')}.png")
    page.set_viewport_size(dict(width=WIDTH, height=1000))
