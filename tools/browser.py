"""What the tests in JupyterLab need beyond the environment: Playwright, by pip, and the system's Chromium, by apt-get.

`python tools/browser.py` gets what is missing; exit code 1 and a line say what could not be had.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("browser-requirements.txt")
LIMIT = 300  # seconds for each step


def chromium() -> str | None:
    "The system's Chromium, or the program that CHROMIUM names."
    named = os.environ.get("CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


def missing() -> list:  # of sentences
    "What a test in JupyterLab lacks here."
    lacks = []
    if not importlib.util.find_spec("playwright"):
        lacks.append("Playwright is not installed (`pip install -r tools/browser-requirements.txt`)")
    if not chromium():
        lacks.append("there is no Chromium (`apt-get install chromium` on Debian, or name one by CHROMIUM=/path)")
    return lacks


def commands() -> list:
    "Those that get what is missing, as far as that is possible here."
    found = []
    if not importlib.util.find_spec("playwright"):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        found.append([*pip, "-r", str(REQUIREMENTS)])
    if not chromium() and shutil.which("apt-get"):
        apt = [*([] if os.geteuid() == 0 else ["sudo", "-n"]), "apt-get"]
        found.append([*apt, "update", "-qq"])
        found.append([*apt, "install", "-y", "-qq", "--no-install-recommends", "chromium"])
    return found


def install():
    "Get what is missing."
    env = os.environ | dict(DEBIAN_FRONTEND="noninteractive")
    for command in commands():
        print("installing:", *command, flush=True)
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=env, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)).strip()
            return print(f"       that failed: {said[-300:]}", flush=True)
    importlib.invalidate_caches()


if __name__ == "__main__":
    install()
    sys.exit("; ".join(missing()) or 0)
