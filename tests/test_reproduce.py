"""The runner's promises, on a copy of the clone with tiny notebooks in place of the paper's: what is out of date is
made again, and nothing else. Where `make figures-smoke` has made the smoke figures, one of those is made again too."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import AUTODDPM, ROOT, copy_parts, environment, run

SMOKE = ("reproduce", "--profile", "smoke", "--source", "simulated")
REAL = "fig_lesion_sizes"  # a notebook of the paper that draws in seconds
RESULT = re.compile(r"^(\w+): (made|failed|not run)\b")
RECORD = "parameters seed code weights data dataset simulated packages seconds profile".split()
MODULE = "evaluation/metrics.py"  # one on which `evaluation.tables` depends


def write_notebook(clone: Path, stem: str, reads: str, writes: str, parameters: str, code: str):
    "A paper notebook of four cells."

    def cell(kind, source, **metadata):
        own = dict(outputs=[], execution_count=None) if kind == "code" else {}
        return dict(cell_type=kind, metadata=metadata, source=source) | own

    rows = f"| reads | {reads} |\n| writes | {writes} |\n| time | seconds |"
    cells = [
        cell("markdown", f"# About {stem}\n\n> A claim.\n\n| | |\n| --- | --- |\n{rows}"),
        cell("code", parameters, tags=["parameters"]),
        cell("code", "from pathlib import Path\nimport random\nfolder = Path('../..')"),
        cell("code", code),
    ]
    kernel = dict(display_name="python3", language="python", name="python3")
    text = json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=4))
    (clone / "nbs" / "paper" / f"{stem}.ipynb").write_text(text, encoding="utf-8")


def write_run(clone: Path, stem: str, scale: str = "1.0", first: str = ""):
    code = (
        f"{first}\nrandom.seed(seed)\nout = folder / f'data/runs/{{profile}}/simulated/{stem}'\n"
        "out.mkdir(parents=True, exist_ok=True)\nrows = [f'{random.random() * scale:.6g}\\n' for _ in range(9)]\n"
        "_ = (out / 'rows.csv').write_text('value\\n' + ''.join(rows))"
    )
    parameters = f"profile = 'smoke'\nsource = 'auto'\nseed = 0\nscale = {scale}"
    write_notebook(clone, stem, "simulated slices", "`rows.csv`", parameters, code)


def write_figure(clone: Path, stem: str, runs: list, first: str = ""):
    code = (
        f"{first}\nruns = folder / f'data/runs/{{profile}}/simulated'\n"
        f"rows = [(runs / run / 'rows.csv').read_text(encoding='utf-8') for run in {runs}]\n"
        f"out = folder / 'figures/smoke'\nout.mkdir(parents=True, exist_ok=True)\n"
        f"_ = (out / '{stem}.csv').write_text(''.join(rows))"
    )
    write_notebook(clone, stem, ", ".join(f"`{run}`" for run in runs), f"`{stem}.csv`", "profile = 'smoke'", code)


def reproduce(clone: Path, *words: str) -> tuple:  # exit code, what became of each that was out of date, what was said
    "`autoddpm reproduce` in the copy."
    done = run([*AUTODDPM, *SMOKE, *words], clone)
    said = done.stdout + done.stderr
    return done.returncode, dict(m.groups() for line in said.splitlines() if (m := RESULT.match(line))), said


def expect(found: tuple, code: int, **became: str):
    assert found[:2] == (code, became), f"exit code {found[0]}, {found[1]}. It said:\n{found[2]}"


def csvs(clone: Path) -> dict:
    return {p.name: p.read_bytes() for p in sorted((clone / "figures" / "smoke").glob("*.csv"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    "A copy in which everything is made."
    clone = copy_parts(tmp_path_factory.mktemp("made") / "clone", "autoddpm", "data/simulated", "data/splits")
    (clone / "nbs" / "paper").mkdir(parents=True)
    for stem in ("run_a", "run_b"):
        write_run(clone, stem)
    write_figure(clone, "fig_a", ["run_a"])
    write_figure(clone, "fig_b", ["run_b"])
    write_figure(clone, "tab_both", ["run_a", "run_b"])
    shutil.copy(clone / "nbs" / "paper" / "fig_a.ipynb", clone / "nbs" / "paper" / "cohort.ipynb")  # not the runner's
    expect(reproduce(clone), 0, run_a="made", run_b="made", fig_a="made", fig_b="made", tab_both="made")
    return clone


@pytest.fixture
def clone(made, tmp_path) -> Path:
    "A copy of its own for each test; what was made is up to date at another place too."
    return shutil.copytree(made, tmp_path / "clone", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


def test_what_is_made_has_a_record(made):
    manifest = json.loads((made / "figures" / "smoke" / "manifest.json").read_text(encoding="utf-8"))
    lacking = [key for key in RECORD if key not in manifest["notebooks"]["fig_a"]]
    assert not lacking, f"manifest.json says nothing about {lacking}"
    assert "cohort" not in manifest["notebooks"]


def test_nothing_runs_where_nothing_changed(clone):
    expect(reproduce(clone), 0)


def test_one_figure_deleted_runs_its_notebook_only(clone):
    (clone / "figures" / "smoke" / "fig_a.csv").unlink()
    expect(reproduce(clone), 0, fig_a="made")


def test_a_lost_run_comes_back_when_a_figure_needs_it(clone):
    shutil.rmtree(clone / "data" / "runs")
    expect(reproduce(clone), 0)
    (clone / "figures" / "smoke" / "fig_b.csv").unlink()
    expect(reproduce(clone), 0, run_b="made", fig_b="made")


def test_a_changed_parameter_runs_only_what_depends_on_it(clone):
    before = csvs(clone)
    write_run(clone, "run_b", scale="2.0")
    expect(reproduce(clone, "fig_a", "fig_b"), 0, run_b="made", fig_b="made")
    assert [name for name, text in csvs(clone).items() if text != before[name]] == ["fig_b.csv"]


def test_a_change_in_a_subpackage_reaches_the_figures_that_import_it(clone):
    write_figure(clone, "fig_c", ["run_b"], first="from autoddpm.evaluation import tables")
    expect(reproduce(clone, "fig_c"), 0, fig_c="made")
    path = clone / "autoddpm" / MODULE
    source = path.read_text(encoding="utf-8")
    moved = re.sub(r"(?m)^# (%%|AUTOGENERATED!.*:) \S*\.ipynb", r"# \1 ../nbs/elsewhere.ipynb", source)
    assert moved != source
    path.write_text(moved, encoding="utf-8")
    assert "out of date" not in (listed := reproduce(clone, "--list")[2]), listed
    path.write_text(moved + "\nMORE = 1\n", encoding="utf-8")
    listed = reproduce(clone, "--list")[2]
    assert re.findall(r"(\w+) .* out of date: (.*\S)", listed) == [("fig_c", "code: evaluation.metrics")], listed


def test_an_unknown_parameter_is_refused_before_anything_runs(clone):
    code, became, said = reproduce(clone, "--force", "-p", "sede", "1")
    assert (code, became) == (2, {}), said
    assert "did you mean 'seed'" in said and "Traceback" not in said, said


def test_one_broken_notebook_stops_only_what_reads_it(clone):
    write_run(clone, "run_a", first="rows = []\nrows[seed]")
    found = reproduce(clone, "--force", "--workers", "2")
    expect(found, 1, run_a="failed", fig_a="not run", fig_b="made", tab_both="not run")
    cell = r"FAILED run_a, code cell 3: rows = \[\]: IndexError: list index out of range.*run_a\.ipynb"
    assert re.search(cell, found[2]), f"it does not name the cell:\n{found[2]}"


def test_a_dead_kernel_is_named(clone):
    write_figure(clone, "fig_a", ["run_a"], first="import os\nos._exit(1)")
    found = reproduce(clone, "fig_a")
    expect(found, 1, fig_a="failed")
    assert re.search(r"FAILED fig_a, code cell 3: import os: DeadKernelError: ", found[2]), found[2]


def test_a_killed_process_fails_what_it_ran_and_nothing_else(clone):
    write_run(clone, "run_a", first="import os\nimport time\nos.kill(os.getppid(), 9)\ntime.sleep(60)")
    found = reproduce(clone, "--force", "--workers", "1", "fig_a", "fig_b")
    expect(found, 1, run_a="failed", fig_a="not run", fig_b="made")
    assert "FAILED run_a, code cell 3: import os: its process was killed" in found[2], found[2]


@pytest.mark.parametrize("by, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_stopped_in_the_middle_it_leaves_nothing_running(clone, by, code):
    pid = clone / "pid"
    slow = "import os\nimport time\n_ = (folder / 'pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    write_run(clone, "run_a", first=slow)
    how = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background hands down that it ignores Ctrl-C
    process = subprocess.Popen([*AUTODDPM, *SMOKE, "fig_a"], cwd=clone, env=environment(clone), **how)
    signal.signal(signal.SIGINT, before)
    try:
        while not (pid.is_file() and pid.read_text(encoding="utf-8")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert int(pid.read_text(encoding="utf-8")) in {p.pid for p in family}
        if by == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, to the whole group
        else:
            process.send_signal(signal.Signals[by])
        assert process.wait(60) == code
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, f"still running: {alive}"
    finally:
        process.kill()
    assert "Traceback" not in (said := process.stderr.read()), said


def test_killed_and_started_again_at_once(clone):
    "The kernel of the killed run counts in a file; no number comes after the next run has begun."
    pid, ticks = clone / "pid", clone / "ticks"
    slow = (
        "import os\nimport time\n_ = (folder / 'pid').write_text(str(os.getpid()))\n"
        "while True:\n    time.sleep(0.05)\n    _ = (folder / 'ticks').write_text(str(time.time()))"
    )
    write_run(clone, "run_a", first=slow)
    words = dict(cwd=clone, env=environment(clone), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = subprocess.Popen([*AUTODDPM, *SMOKE, "fig_a"], **words)
    while not ticks.is_file():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.1)
    code, _, said = reproduce(clone, "fig_b")
    assert code == 2 and "another run works there" in said and "Traceback" not in said, said
    first.kill()
    write_run(clone, "run_a", scale="3.0")
    begun = time.time()
    expect(reproduce(clone, "fig_a"), 0, run_a="made", fig_a="made")
    assert float(ticks.read_text(encoding="utf-8")) < begun + 2 and pid.exists()
    first.communicate()


def test_a_run_without_jupyter_counts(clone, tmp_path):
    for name in ("papermill", "nbformat", "IPython", "ipykernel", "jupyter_client"):
        (tmp_path / "lacking" / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / "lacking" / f"{name}.py").write_text("raise ModuleNotFoundError(__name__)", encoding="utf-8")
    (clone / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "plain_run.py", clone / "tools")
    command = [sys.executable, "tools/plain_run.py", "run_a", "--source", "simulated", "-p", "seed=5"]
    done = run(command, clone, PYTHONPATH=f"{tmp_path / 'lacking'}{os.pathsep}{clone}")
    assert done.returncode == 0 and "run_a: made" in done.stdout, done.stdout + done.stderr
    expect(reproduce(clone, "fig_a", "-p", "seed", "5"), 0, fig_a="made")  # run_a is up to date
    expect(reproduce(clone, "fig_a"), 0, run_a="made", fig_a="made")  # it was another seed's


def test_two_runs_give_the_same_bytes(clone):
    before = csvs(clone)
    everything = ("run_a", "run_b", "fig_a", "fig_b", "tab_both")
    expect(reproduce(clone, "--force", *everything), 0, **dict.fromkeys(everything, "made"))
    assert csvs(clone) == before


def test_a_figure_of_the_paper_comes_back_as_it_was(tmp_path):
    manifest = ROOT / "figures" / "smoke" / "manifest.json"  # there only if the runner made the figures
    runs = ROOT / "data" / "runs" / "smoke" / "simulated"
    if not (manifest.is_file() and f'"{REAL}"' in manifest.read_text(encoding="utf-8") and runs.is_dir()):
        pytest.skip("`make figures-smoke` has not been run here")
    folders = "autoddpm data/simulated data/splits nbs/paper figures/smoke data/runs/smoke/simulated".split()
    clone = copy_parts(tmp_path / "clone", *folders)
    shutil.copy(ROOT / "data" / "paper_values.csv", clone / "data")
    before = csvs(clone)
    listed = reproduce(clone, "--list")[2]
    assert "out of date" not in listed, f"bring the smoke figures up to date first, by `make figures-smoke`:\n{listed}"
    (clone / "figures" / "smoke" / f"{REAL}.png").unlink()
    expect(reproduce(clone), 0, **{REAL: "made"})
    assert csvs(clone) == before
