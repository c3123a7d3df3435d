"""The runner's promises, proved on a copy of the clone: what is out of date is made again, and nothing else.

Tiny notebooks take the place of the paper's; where `make figures-smoke` has made the smoke figures, one of those is deleted and made again too. One or two minutes in all.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from promises import keep

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ("--profile", "smoke", "--source", "simulated")
REAL = "fig_lesion_sizes"  # a notebook of the paper that draws in seconds
RESULT = re.compile(r"^(\w+): (made|failed|not run)\b")


def copy_clone(to: Path, notebooks: bool) -> Path:
    "The parts of the clone that the runner needs; without `notebooks` the folder of the paper's is left empty."
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("autoddpm", "data/simulated", "data/splits"):
        shutil.copytree(ROOT / folder, to / folder, ignore=left_out)
    shutil.copy(ROOT / "settings.ini", to)
    (to / "nbs" / "paper").mkdir(parents=True)
    if notebooks:
        for folder in ("nbs/paper", "figures/smoke", "data/runs/smoke/simulated"):
            shutil.copytree(ROOT / folder, to / folder, ignore=left_out, dirs_exist_ok=True)
    return to


def write_notebook(clone: Path, stem: str, reads: str, writes: str, parameters: str, code: str):
    "A paper notebook of four cells."

    def cell(kind, source, **metadata):
        return dict(cell_type=kind, metadata=metadata, source=source) | (
            dict(outputs=[], execution_count=None) if kind == "code" else {}
        )

    title = f"# About {stem}\n\n> A claim.\n\n| | |\n| --- | --- |\n| reads | {reads} |\n| writes | {writes} |\n| time | seconds |"
    cells = [
        cell("markdown", title),
        cell("code", parameters, tags=["parameters"]),
        cell("code", "from pathlib import Path\nimport random\nfolder = Path('../..')"),
        cell("code", code),
    ]
    kernel = dict(display_name="python3", language="python", name="python3")
    text = json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=4))
    (clone / "nbs" / "paper" / f"{stem}.ipynb").write_text(text, encoding="utf-8")


def write_run(clone: Path, stem: str, scale: str = "1.0"):
    code = (
        "random.seed(seed)\nout = folder / f'data/runs/{profile}/simulated' / '"
        + stem
        + "'\nout.mkdir(parents=True, exist_ok=True)\n"
        "_ = (out / 'rows.csv').write_text('value\\n' + ''.join(f'{random.random() * scale:.6g}\\n' for _ in range(9)))"
    )
    write_notebook(
        clone,
        stem,
        "simulated slices",
        "`rows.csv`",
        f"profile = 'smoke'\nsource = 'auto'\nseed = 0\nscale = {scale}",
        code,
    )


def write_figure(clone: Path, stem: str, runs: list, broken: str = ""):
    code = (
        f"rows = [(folder / f'data/runs/{{profile}}/simulated/{{run}}/rows.csv').read_text(encoding='utf-8') for run in {runs}]\n{broken}\n"
        f"out = folder / 'figures/smoke'\nout.mkdir(parents=True, exist_ok=True)\n_ = (out / '{stem}.csv').write_text(''.join(rows))"
    )
    write_notebook(clone, stem, ", ".join(f"`{run}`" for run in runs), f"`{stem}.csv`", "profile = 'smoke'", code)


def reproduce(
    clone: Path, *words: str
) -> tuple:  # exit code, what became of the notebooks that were not up to date, all that was said
    "`autoddpm reproduce` in the copy."
    env = os.environ | dict(PYTHONPATH=str(clone))
    env.pop("AUTODDPM_DATA", None)
    command = [sys.executable, "-c", "from autoddpm.cli import app; app()", "reproduce", *SMOKE, *words]
    run = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    said = run.stdout + run.stderr
    return run.returncode, dict(m.groups() for line in said.splitlines() if (m := RESULT.match(line))), said


def expect(found: tuple, code: int, **became: str):
    assert found[:2] == (code, became), (
        f"exit code {found[0]}, {found[1]}; should be {code}, {became}. It said:\n{found[2]}"
    )


def csvs(clone: Path) -> dict:
    return {p.name: p.read_bytes() for p in sorted((clone / "figures" / "smoke").glob("*.csv"))}


def steps(clone: Path, real: bool):  # pairs (what is promised, test); each starts where the one before it ended
    first = {}

    def clean_clone():
        for run in ("run_a", "run_b"):
            write_run(clone, run)
        for figure, runs in (("fig_a", ["run_a"]), ("fig_b", ["run_b"]), ("tab_both", ["run_a", "run_b"])):
            write_figure(clone, figure, runs)
        expect(reproduce(clone), 0, run_a="made", run_b="made", fig_a="made", fig_b="made", tab_both="made")
        first.update(csvs(clone))
        record = json.loads((clone / "figures" / "smoke" / "manifest.json").read_text(encoding="utf-8"))["notebooks"][
            "fig_a"
        ]
        lacking = [
            k
            for k in (
                "parameters",
                "seed",
                "code",
                "weights",
                "data",
                "dataset",
                "simulated",
                "packages",
                "seconds",
                "profile",
            )
            if k not in record
        ]
        assert not lacking, f"manifest.json says nothing about {lacking}"

    yield "a clean clone: everything is made, with a record", clean_clone

    def again():
        expect(reproduce(clone), 0)

    yield "nothing changed: nothing runs", again

    def one_deleted():
        (clone / "figures" / "smoke" / "fig_a.csv").unlink()
        expect(reproduce(clone), 0, fig_a="made")

    yield "one figure deleted: only its own notebook runs", one_deleted

    def runs_lost():
        shutil.rmtree(clone / "data" / "runs")
        expect(reproduce(clone), 0)
        (clone / "figures" / "smoke" / "fig_b.csv").unlink()
        expect(reproduce(clone), 0, run_b="made", fig_b="made")

    yield "runs are lost: figures stay up to date, and a run comes back when a figure needs it", runs_lost

    def parameter():
        write_run(clone, "run_b", scale="2.0")
        expect(reproduce(clone, "fig_a", "fig_b"), 0, run_b="made", fig_b="made")
        changed = [name for name, text in csvs(clone).items() if text != first[name]]
        assert changed == ["fig_b.csv"], f"changed are {changed}"
        write_run(clone, "run_b")

    yield "one parameter changed: only what depends on it runs", parameter

    def unknown():
        code, became, said = reproduce(clone, "-p", "sede", "1")
        assert (code, became) == (2, {}) and "did you mean 'seed'" in said and "Traceback" not in said, (
            f"exit code {code}:\n{said}"
        )

    yield "an unknown parameter is refused before anything runs", unknown

    def broken():
        write_figure(clone, "fig_a", ["run_a"], broken="rows[len(rows)]")
        found = reproduce(clone, "--jobs", "2")
        expect(found, 1, run_a="made", run_b="made", fig_a="failed", fig_b="made")
        assert re.search(r"FAILED fig_a, code cell 3: .*IndexError: list index out of range.*fig_a\.ipynb", found[2]), (
            f"it does not name the cell:\n{found[2]}"
        )
        write_figure(clone, "fig_a", ["run_a"])

    yield "one notebook broken: the rest is made, the exit code is 1, and its cell is named", broken

    def identical():
        expect(
            reproduce(clone, "--force", "run_a", "run_b", "fig_a", "fig_b", "tab_both"),
            0,
            **{p.stem: "made" for p in (clone / "nbs" / "paper").glob("*.ipynb")},
        )
        assert csvs(clone) == first, "the second run's CSVs differ from the first's"

    yield "two runs: the CSVs are the same to the byte", identical

    def real_figure():
        copy = copy_clone(clone / "real", notebooks=True)
        before = csvs(copy)
        assert "out of date" not in (said := reproduce(copy, "--list")[2]), (
            f"bring the smoke figures up to date first, by `make figures-smoke`:\n{said}"
        )
        (copy / "figures" / "smoke" / f"{REAL}.png").unlink()
        expect(reproduce(copy), 0, **{REAL: "made"})
        assert csvs(copy) == before, f"{REAL}.csv is not what it was"

    if real:
        yield f"the paper's own {REAL}.png deleted: only that notebook runs, and its CSV is the same", real_figure


def main() -> tuple:  # (passed, failed)
    manifest = ROOT / "figures" / "smoke" / "manifest.json"  # there only if the runner made the figures
    real = (
        manifest.is_file()
        and f'"{REAL}"' in manifest.read_text(encoding="utf-8")
        and (ROOT / "data" / "runs" / "smoke" / "simulated").is_dir()
    )
    with tempfile.TemporaryDirectory() as scratch:
        clone = copy_clone(Path(scratch).resolve() / "clone", notebooks=False)
        counts = keep(steps(clone, real))
    if not real:
        print(f"       not tried: the paper's own {REAL}, since `make figures-smoke` has not been run here", flush=True)
    return counts


if __name__ == "__main__":
    sys.exit(min(main()[1], 1))
