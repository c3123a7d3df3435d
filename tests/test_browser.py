"""Notebooks in JupyterLab in a real Chromium: each is opened, run from top to bottom, saved, looked at and
photographed; the explorer answers; parameters are changed and all cells run again in the same kernel; and
running without saving leaves a clone as it was. All of it happens on copies of the clone, with a home of their own, on
127.0.0.1. Screenshots lie in runs/browser. `--all-notebooks` tries more of them, `make browser` gets what is missing.
"""

import json
import re
from pathlib import Path

import browser
import pandas as pd
import pytest
from check_notebooks import ROOT
from jupyterlab import (
    ERRORS,
    FLAGS,
    WIDTH,
    copy_clone,
    edit_cell,
    git,
    jupyterlab,
    open_notebook,
    photograph,
    run_all,
    save,
    shut_down,
    wait_for,
)

if lacks := browser.missing():
    pytest.skip(f"{' and '.join(lacks)}; `make browser` installs what it can", allow_module_level=True)
from playwright.sync_api import Error, sync_playwright

# one notebook of each part of the library (data, diffusion, the three stages, all of them in one call, measuring,
# drawing, the command line), and those that people work in
QUICK = ("index", "09_mask", "explore")
SLOW = ("01_phantom", "03_schedule", "12_detect", "evaluation/metrics", "figures", "cli", "train", "eval")
NO_PICTURE = ("cli",)  # all others show one at least
WIDGET = ("explore",)  # live in JupyterLab; the stored pictures stand for it where widgets cannot work
MOST_LINES = 80  # that a cell may print: a command's help, but no log
# with their defaults these take minutes
EVAL = dict(limit=3, steps=2, inpaint_levels=1, resample_steps=1, masking_threshold="p95", n_bootstrap=20)
SMALLER = {"eval": EVAL | dict(dataset="simulated"), "train": dict(steps=6, batch_size=2, validate_every=3)}
FLAGGED = re.search(r"^tst_flags = (.*)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.MULTILINE)[1]
IMAGES = """() => [...document.querySelectorAll('.jp-Notebook img')].map(
    i => [i.complete && i.naturalWidth, i.getBoundingClientRect().right])"""
PIXELS = """image => {
    const c = document.createElement('canvas');
    c.width = image.naturalWidth;
    c.height = image.naturalHeight;
    c.getContext('2d').drawImage(image, 0, 0);
    return c.toDataURL();
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> tuple:  # clone, addresses of the server
    folder = tmp_path_factory.mktemp("lab").resolve()
    clone = copy_clone(folder / "clone")
    with jupyterlab(clone, folder / "home") as address:
        yield clone, address


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory):
    with sync_playwright() as playwright:
        window = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=browser.chromium(),
            args=list(FLAGS),
            viewport=dict(width=WIDTH, height=1000),
        )
        yield window.pages[0]
        window.close()


@pytest.fixture(autouse=True)
def one_kernel_at_a_time(lab):
    yield
    shut_down(lab[1])


def twice(address, what):
    "A browser on a busy machine can miss a click; what fails twice is wrong."
    try:
        return what()
    except (AssertionError, Error) as error:
        print(f"once more, since {error}")
        shut_down(address)
        return what()


def with_values(source: str, values: dict) -> str:
    "A cell of parameters with other literals."
    for name, value in values.items():
        source, found = re.subn(rf"^{name} = .*?(?=  #|$)", f"{name} = {value!r}", source, flags=re.MULTILINE)
        assert found == 1, f"no parameter {name}"
    return source


def parameters_cell(content: dict) -> tuple:  # number of the cell tagged `parameters`, its source
    cells = enumerate(content["cells"])
    return next((k, "".join(c["source"])) for k, c in cells if "parameters" in c["metadata"].get("tags", []))


def make_small(notebook: Path, name: str):
    "Set parameters for a short run, and take out the cells that need real data, a GPU or many minutes."
    content = json.loads(notebook.read_text(encoding="utf-8"))
    if name in SMALLER:
        number, source = parameters_cell(content)
        content["cells"][number]["source"] = with_values(source, SMALLER[name])
    flagged = re.compile(rf"#\|\s*({'|'.join(FLAGGED.split())})\s*(\n|$)")
    content["cells"] = [c for c in content["cells"] if not flagged.match("".join(c["source"]))]
    notebook.write_text(json.dumps(content), encoding="utf-8")


def count_pictures(content: dict) -> int:
    return sum("image/png" in output.get("data", {}) for cell in content["cells"] for output in cell.get("outputs", []))


def check_outputs(content: dict):
    "No error, no warning, no flood of lines."
    for number, cell in enumerate((c for c in content["cells"] if c["cell_type"] == "code"), 1):
        shown = 0
        for output in cell["outputs"]:
            assert output["output_type"] != "error", f"code cell {number} failed: {output['ename']}: {output['evalue']}"
            text = "".join(output.get("text", ""))
            assert "Warning" not in text and "WARNING" not in text, f"code cell {number} warns: {text.strip()[:300]}"
            shown += len(text.splitlines())
        assert shown <= MOST_LINES, f"code cell {number} floods the page with {shown} lines"


def check_page(page, least: int):
    "Every image is loaded, there are enough of them, and none sticks out of the page."
    wait_for(lambda: all(width for width, _ in page.evaluate(IMAGES)), 20, "an image does not load")
    images = page.evaluate(IMAGES)
    assert len(images) >= least, f"{len(images)} pictures in the page, where at least {least} should be"
    assert all(right <= WIDTH for _, right in images), "a picture is wider than the page"
    errors = page.locator(ERRORS).all_inner_texts()
    assert not errors, f"the page shows an error: {errors[0][-600:]}"


def use_explorer(page):
    "The widget answers, follows a control without asking Python, and is asked again; test_explorer.py tries the rest."
    explorer = page.locator(".autoddpm[data-state=idle]")
    explorer.wait_for(timeout=60_000)
    assert re.search(r"score \d\.\d{3}", explorer.locator(".score").inner_text())
    scan, move = explorer.locator(".scan canvas"), "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }"
    before, number = scan.evaluate("c => c.toDataURL()"), explorer.get_attribute("data-n")
    explorer.get_by_label("opacity").evaluate(move, "0")
    assert scan.evaluate("c => c.toDataURL()") != before and explorer.get_attribute("data-n") == number
    explorer.locator("summary", has_text="Method").click()
    explorer.get_by_label("seed").evaluate(move, "5")
    page.locator(f".autoddpm[data-state=idle]:not([data-n='{number}'])").wait_for(timeout=60_000)
    assert "seed 5" in explorer.locator(".used").inner_text()
    photograph(page, "explore")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_runs_from_top_to_bottom(lab, page, name):
    clone, address = lab
    notebook = clone / "nbs" / f"{name}.ipynb"
    make_small(notebook, name)
    committed = 0 if name in WIDGET else count_pictures(json.loads(notebook.read_text(encoding="utf-8")))

    def attempt():
        open_notebook(page, address, name)
        try:
            run_all(page)
            content = save(page, notebook)
        finally:
            photograph(page, name)
        check_outputs(content)
        pictures = count_pictures(content)
        assert pictures >= committed, (
            f"{pictures} pictures among the outputs, {committed} in the committed notebook: "
            "a figure shows as text (matplotlib's inline backend is not on before it)"
        )
        check_page(page, max(pictures, name not in NO_PICTURE + WIDGET))
        if name in WIDGET:
            use_explorer(page)

    try:
        twice(address, attempt)
    finally:
        git(clone, "checkout", "--quiet", "--", "nbs")


def test_parameters_changed_and_all_cells_run_again_in_one_kernel_eval(lab, page):
    clone, address = lab
    number, source = parameters_cell(json.loads((clone / "nbs" / "eval.ipynb").read_text(encoding="utf-8")))

    def attempt():
        open_notebook(page, address, "eval")
        for seed in (3, 4):
            small = SMALLER["eval"] | dict(seed=seed, out_dir=f"runs/again/{seed}")
            edit_cell(page, number, with_values(source, small))
            run_all(page)
            check_page(page, 1)
            table = pd.read_csv(clone / "runs" / "again" / str(seed) / "results.csv")
            assert set(table["seed"].dropna()) == {seed}

    twice(address, attempt)


def test_parameters_changed_and_all_cells_run_again_in_one_kernel_explore(lab, page):
    clone, address = lab
    number, source = parameters_cell(json.loads((clone / "nbs" / "explore.ipynb").read_text(encoding="utf-8")))

    def attempt():
        open_notebook(page, address, "explore")
        run_all(page)
        check_page(page, 1)
        edit_cell(page, number, with_values(source, dict(seed=1, chain="balanced")))
        run_all(page)
        check_page(page, 1)
        page.locator(".autoddpm[data-state=idle]").wait_for(timeout=60_000)
        assert "chain balanced" in page.locator(".used").text_content()

    twice(address, attempt)


def test_running_without_saving_leaves_the_clone_as_it_was(lab, page):
    clone, address = lab
    open_notebook(page, address, "09_mask")
    run_all(page)
    page.wait_for_timeout(8000)  # a notebook that saves by itself would have done so (every two seconds in these tests)
    assert git(clone, "status", "--porcelain") == "", "what was run, here and in the tests before, changed the clone"
