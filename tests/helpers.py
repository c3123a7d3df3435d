"""What several tests need: where things are, an environment of one thread, and copies of the clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from check_notebooks import ROOT

BIN = Path(sys.executable).parent
AUTODDPM = [sys.executable, "-c", "from autoddpm.start import main; main()"]


def environment(clone: Path = ROOT, **more: str) -> dict:
    "Variables of a process that uses the package of a clone, on one thread, and the data in it."
    own = dict(
        PYTHONPATH=str(clone),
        PYTHONUTF8="1",
        OMP_NUM_THREADS="1",
        MPLBACKEND="agg",
        WANDB_SILENT="true",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
    )
    return {k: v for k, v in os.environ.items() if k != "AUTODDPM_DATA"} | own | more


def run(command: list, clone: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
    "A command in a clone; what it says is text."
    return subprocess.run(
        command, cwd=clone, env=environment(clone, **more), capture_output=True, text=True, encoding="utf-8"
    )


def copy_parts(to: Path, *folders: str) -> Path:
    "Some folders of the clone, without what runs left in them; weights, which are large, as a link."
    for folder in folders:
        left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "weights")
        shutil.copytree(ROOT / folder, to / folder, ignore=left_out, dirs_exist_ok=True)
    if "autoddpm" in folders:
        (to / "autoddpm" / "weights").symlink_to(ROOT / "autoddpm" / "weights")
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, to)
    return to
