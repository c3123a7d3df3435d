"""Checks that need no run of a notebook: exported, clean, parameterised, small, and free of the author's paths.

Nothing in the working tree is changed: export and cleaning run on a copy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LARGEST = 300 * 1024  # bytes of a notebook
# an absolute path of some machine: not the end of a longer word or of an address
MACHINE_PATH = re.compile(
    r"(?<![\w./:~])/(?:home|Users|root|tmp|private|work|mnt|opt|var|usr|data)/[\w.-]+|\b[A-Z]:\\\\?Users\b"
)


def notebooks() -> list:
    "Every notebook but the executed copies, which lie in folders that start with `_` or `.`"
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [p for p in found if not any(part.startswith(("_", ".")) for part in p.relative_to(ROOT).parts)]


def parameterised() -> list:
    "The notebooks that papermill runs: all but the landing page and the library's."
    return [p for p in notebooks() if p.stem != "index" and not re.match(r"\d\d_", p.stem)]


def cells(notebook: Path) -> list:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def changed_by(command: str, folder: str, pattern: str, fresh: bool = False) -> list:
    "Files of `folder` that an nbdev command changes, removes or adds on a copy of the tree; `fresh` deletes them before."
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / ROOT.name
        for name in ("nbs", "autoddpm"):
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "weights")
            )
        for name in ("settings.ini", "pyproject.toml"):
            shutil.copy(ROOT / name, copy / name)

        def contents():
            return {p.relative_to(copy).as_posix(): p.read_bytes() for p in (copy / folder).rglob(pattern)}

        before = contents()
        for name in before:
            if fresh and not name.endswith("__init__.py"):
                (copy / name).unlink()
        env = os.environ | dict(JUPYTER_DATA_DIR=scratch)  # nbdev_clean signs notebooks; not in the user's own folder
        done = subprocess.run([BIN / command], cwd=copy, env=env, capture_output=True, text=True)
        if done.returncode:
            return [f"{command} stopped: {(done.stderr or done.stdout).strip().splitlines()[-1]}"]
        after = contents()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def exported() -> list:
    return [
        f"{name}: not what the notebooks export; run `make export` and never edit it by hand (no notebook exports it any more: delete it)"
        for name in changed_by("nbdev_export", "autoddpm", "*.py", fresh=True)
    ]


def clean() -> list:
    return [
        f"{name}: holds execution counts or metadata of a run; run `make clean-notebooks`"
        for name in changed_by("nbdev_clean", "nbs", "*.ipynb")
    ]


def parameters() -> list:
    counts = {p: sum("parameters" in c["metadata"].get("tags", []) for c in cells(p)) for p in parameterised()}
    return [
        f"{label(p)}: {n} cells tagged `parameters`, and papermill needs exactly one; tag it in JupyterLab's property inspector"
        for p, n in counts.items()
        if n != 1
    ]


def kernels() -> list:
    named = {
        p: json.loads(p.read_text(encoding="utf-8"))["metadata"].get("kernelspec", {}).get("name") for p in notebooks()
    }
    return [
        f"{label(p)}: kernel {name}, and papermill and JupyterLab need `python3`; open it in JupyterLab, choose Python 3 and save"
        for p, name in named.items()
        if name != "python3"
    ]


def small() -> list:
    sizes = {p: p.stat().st_size for p in notebooks()}
    return [
        f"{label(p)}: {size // 1024} KB; keep at most three small pictures in it, 300 KB in all"
        for p, size in sizes.items()
        if size > LARGEST
    ]


def output_text(cell: dict) -> str:
    "Everything a cell printed or showed that is text; pictures are left out."
    shown = []
    for output in cell.get("outputs", []):
        shown += [output.get("text", ""), output.get("traceback", "")]
        shown += [
            value for kind, value in output.get("data", {}).items() if kind.startswith("text/") or kind.endswith("json")
        ]
    return "\n".join("".join(s) if isinstance(s, list) else str(s) for s in shown)


def portable() -> list:
    found = {p: MACHINE_PATH.search("\n".join(output_text(c) for c in cells(p))) for p in notebooks()}
    return [
        f"{label(p)}: an output shows the path {m[0]} of your machine; print a relative one, or clear that output"
        for p, m in found.items()
        if m
    ]


CHECKS = {
    "autoddpm/ is what the notebooks export": exported,
    "the notebooks are clean": clean,
    "each papermill notebook has its parameters cell": parameters,
    "each notebook names its kernel": kernels,
    "no notebook is over 300 KB": small,
    "no output shows a path of some machine": portable,
}


def main() -> int:  # failed checks
    failed = 0
    for title, check in CHECKS.items():
        problems = check()
        print(f"{'FAILED' if problems else 'ok    '} {title}", *problems, sep="\n       ", flush=True)
        failed += bool(problems)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
