"""Which module may import which, which notebook makes which module, and how code is laid out."""

import ast
import re
from pathlib import Path

import pytest
from check_notebooks import ROOT, exported_module, label, notebooks

from autoddpm.dependencies import imported_modules

PACKAGE = ROOT / "autoddpm"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
# folder of the importing module ("": the method) -> what it may not import
NEVER = {
    "": {"evaluation", "scans", "reproduce", "widgets", "cli"},
    "evaluation": {"scans", "reproduce", "widgets", "cli"},
    "scans": {"cli"},
    "reproduce": {"cli"},
    "widgets": {"cli"},
}
BLOCKS = ("body", "orelse", "finalbody")


def inside(path: Path, package: Path) -> tuple:  # subpackages around a module
    return path.relative_to(package).parent.parts


def wrong_way(path: Path, package: Path) -> set:
    "Modules that a module imports against the direction of the arrows."
    folder = inside(path, package)
    if path.name in ("cli.py", "start.py") and not folder:
        return set()  # the command line
    names = imported_modules(path.read_text(encoding="utf-8"), package, folder)
    return {name for name in names if name.split(".")[0] in NEVER["".join(folder[:1])]}


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_run_one_way(path):
    assert not (wrong := wrong_way(path, PACKAGE)), f"{label(path)} imports {', '.join(sorted(wrong))}"


def test_a_wrong_import_is_found(tmp_path):
    package = tmp_path / "autoddpm"
    for name, source in {
        "mask.py": "def f():\n    from autoddpm import cli",
        "evaluation/metrics.py": "from ..scans.batch import x",
        "evaluation/tables.py": "from .metrics import x",
        "scans/batch.py": "import autoddpm.cli\nfrom ..evaluation import metrics",
        "cli.py": "from .scans import batch",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source, encoding="utf-8")
        (package / name).with_name("__init__.py").write_text("", encoding="utf-8")
    found = {p.relative_to(package).as_posix(): wrong_way(p, package) for p in sorted(package.rglob("*.py"))}
    assert {name: names for name, names in found.items() if names} == {
        "evaluation/metrics.py": {"scans.batch"},
        "mask.py": {"cli"},
        "scans/batch.py": {"cli"},
    }


def test_each_notebook_of_the_library_makes_the_module_of_its_name():
    made = {exported_module(p): p.relative_to(ROOT / "nbs").with_suffix("") for p in notebooks() if exported_module(p)}
    for module, notebook in made.items():
        name = re.sub(r"^\d\d_", "", notebook.as_posix())
        assert module == name.replace("/", "."), f"nbs/{notebook}.ipynb exports {module}"
    there = {".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in MODULES if not p.name.startswith("__")}
    assert set(made) == there, f"a notebook without its module, or the other way round: {set(made) ^ there}"


def test_only_the_course_is_numbered_and_without_gaps():
    numbered = [p for p in notebooks() if re.match(r"\d", p.stem)]
    elsewhere = [label(p) for p in numbered if p.parent != ROOT / "nbs"]
    assert not elsewhere, f"numbers outside the course: {elsewhere}"
    assert [int(p.stem[:2]) for p in numbered] == list(range(len(numbered))), [p.stem for p in numbered]
    assert all(exported_module(p) for p in numbered), "a chapter of the course without a module"


def one_liners(source: str) -> list:  # numbers of lines
    "Lines on which a block follows its `for`, `while`, `with`, `try` or `if`."
    lines, found = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.For, ast.While, ast.With, ast.Try, ast.ExceptHandler, ast.If)):
            for first in (block[0] for name in BLOCKS if (block := getattr(node, name, []))):
                before = lines[first.lineno - 1].encode()[: first.col_offset].decode()
                if before.strip() not in ("", "el"):  # `elif` is an `if` in the block of the `if` before it
                    found.add(first.lineno)
    return sorted(found)


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_no_block_on_the_line_that_opens_it(path):
    assert not (lines := one_liners(path.read_text(encoding="utf-8"))), f"{label(path)}, lines {lines}"


def test_a_block_on_the_line_that_opens_it_is_found():
    assert one_liners("for x in y: f(x)\nwith (\n    a,\n    b\n): g()\nif a:\n    f()\nelif b:\n    g()") == [1, 5]
    assert one_liners("try: f()\nexcept E: g()\nelse: h()\nfinally: k()\nwhile 1:\n    f()") == [1, 2, 3, 4]
