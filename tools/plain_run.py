"""Run notebooks of nbs/paper as plain Python where Jupyter is missing, such as on a GPU node (docs/reproduce.md).

    python tools/plain_run.py run_detect run_speed --profile full --dataset ixi-strokes

What they write below data/runs gets the record that `autoddpm reproduce` writes, and counts as up to date in every
clone of the same code.
"""

import argparse
import json
import os
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def stand_in_for_ipython():
    "The names that the notebooks import from IPython, as plain printing."
    shown = types.ModuleType("IPython.display")
    shown.Image = shown.Markdown = lambda content=None, **_: content
    shown.display = print
    sys.modules["IPython.display"] = shown


def run(path: Path, given: dict):
    "Every code cell in turn, in the notebook's folder; parameters are set behind their cell."
    os.chdir(path.parent)
    variables = dict(__name__="__main__")
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.stem}[{number}]", "exec"), variables)
        if "parameters" in cell["metadata"].get("tags", []):
            variables |= given


def make(stem: str, options, pairs: list):
    "Run one notebook if it is out of date, and write its record."
    from autoddpm.evaluation.runs import find_place
    from autoddpm.reproduce import runner

    place = find_place(options.profile, options.dataset, options.source)
    choice = place, [stem], options.dataset, options.source, pairs
    _, states = runner.survey_needed(runner.paper_folder(), *choice)
    state, start = states[stem], time.time()
    if not state.stale:
        return print(f"{stem}: up to date")
    run(state.notebook.path, state.given)
    record = runner.make_record(state, states, place, time.time() - start, os.environ.get("OMP_NUM_THREADS", ""))
    runner.write_manifest(state.notebook, place, record)
    print(f"{stem}: made ({time.time() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stems", nargs="+", help="names of notebooks, for example run_detect")
    for name, value in (("profile", "smoke"), ("dataset", "atlas"), ("source", "auto")):
        parser.add_argument(f"--{name}", default=value)
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the notebooks")
    options = parser.parse_args()
    stand_in_for_ipython()
    for stem in options.stems:
        make(stem, options, [pair.split("=", 1) for pair in options.p])
