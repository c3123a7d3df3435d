"""Where the notebooks are, and checks that run none: exported, clean, parameterised, small, free of machine paths.

Each check gives a list of problems, a line each. Nothing in the working tree is changed: export and cleaning run on a
copy. The tests in `tests/test_static.py` call them.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from papermill import inspect_notebook

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LARGEST = 300 * 1024  # bytes of a notebook
WIDGET = "application/vnd.jupyter.widget-view+json"
# an absolute path of some machine: not the end of a longer word or of an address
MACHINE_PATH = re.compile(
    r"(?<![\w./:~])/(?:home|Users|root|tmp|private|work|mnt|opt|var|usr|data)/[\w.-]+|\b[A-Z]:\\\\?Users\b"
)


def notebooks() -> list:
    "Every notebook but the executed copies, which lie in folders that start with `_` or `.`"
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [p for p in found if not any(part.startswith(("_", ".")) for part in p.relative_to(ROOT).parts)]


def cells(notebook: Path) -> list:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def exported_module(notebook: Path) -> str:  # "" if it exports none
    "The module that a notebook of the library exports, as in `evaluation.compare`."
    code = "\n".join("".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "code")
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", code, re.MULTILINE)
    return found[1] if found else ""


def parameterised() -> list:
    "The notebooks that papermill runs: all but the landing page and the library's."
    return [p for p in notebooks() if p.stem != "index" and not exported_module(p)]


def changed_by(command: str, folder: str, pattern: str, fresh: bool = False) -> list:
    "Files of `folder` that an nbdev command changes, removes or adds on a copy; `fresh` deletes them before."
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
            if fresh and not name.endswith("__.py"):  # `__init__` and `__main__` are written by hand
                (copy / name).unlink()
        env = os.environ | dict(JUPYTER_DATA_DIR=scratch)  # nbdev_clean signs notebooks; not in the user's own folder
        done = subprocess.run([BIN / command], cwd=copy, env=env, capture_output=True, text=True)
        if done.returncode:
            return [f"{command} stopped: {(done.stderr or done.stdout).strip().splitlines()[-1]}"]
        after = contents()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def exported() -> list:
    remedy = "run `make export` and never edit it by hand (if no notebook exports it any more: delete it)"
    return [
        f"{name}: not what the notebooks export; {remedy}"
        for name in changed_by("nbdev_export", "autoddpm", "*.py", fresh=True)
    ]


def clean() -> list:
    return [
        f"{name}: holds execution counts or metadata of a run; run `make clean-notebooks`"
        for name in changed_by("nbdev_clean", "nbs", "*.ipynb")
    ]


def parameters() -> list:
    found = []
    for path in parameterised():
        tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
        if len(tagged) != 1:
            found.append(
                f"{label(path)}: {len(tagged)} cells tagged `parameters`, and papermill needs exactly one; "
                "tag it in JupyterLab's property inspector"
            )
            continue
        assigned = ast.parse("".join(tagged[0]["source"])).body
        names = {line.targets[0].id for line in assigned if isinstance(line, ast.Assign)}
        if missed := names - set(inspect_notebook(path)):
            found.append(
                f"{label(path)}: papermill cannot read {', '.join(sorted(missed))}; one parameter a line, and no `=` "
                "in its comment"
            )
    return found


def kernels() -> list:
    named = {
        p: json.loads(p.read_text(encoding="utf-8"))["metadata"].get("kernelspec", {}).get("name") for p in notebooks()
    }
    remedy = "and papermill and JupyterLab need `python3`; open it in JupyterLab, choose Python 3 and save"
    return [f"{label(p)}: kernel {name}, {remedy}" for p, name in named.items() if name != "python3"]


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


def plain() -> list:
    "Progress bars and widgets are of one run; a page without a kernel cannot show them."
    found = []
    for path in notebooks():
        about_widgets = path.stem == "explore" or path.parent.name == "widgets"
        for number, cell in enumerate(c for c in cells(path) if c["cell_type"] == "code"):
            if re.search(r"%\|| ?it/s\]", output_text(cell)):
                found.append(f"{label(path)}: code cell {number + 1} stores a progress bar; clear that output")
            kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
            if WIDGET in kinds and not about_widgets:
                found.append(f"{label(path)}: code cell {number + 1} stores a widget; clear that output")
    return found


def reading_only() -> list:
    "Running all cells of a notebook must not rewrite the package."
    return [
        f"{label(p)}: a cell calls nbdev_export; take it out, `make export` does that"
        for p in notebooks()
        if any("nbdev_export" in "".join(c["source"]) for c in cells(p) if c["cell_type"] == "code")
    ]


CHECKS = {
    "exported": exported,
    "clean": clean,
    "parameters": parameters,
    "kernels": kernels,
    "small": small,
    "portable": portable,
    "plain": plain,
    "reading only": reading_only,
}
