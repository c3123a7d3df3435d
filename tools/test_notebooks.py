"""Everything that `make test` checks, with a count as the last line: the static checks, nbdev_test, small papermill runs, the paper's figures on the smoke profile, killed runs of
training and detection, and, where there is a browser, notebooks in JupyterLab."""

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import check_notebooks
import fill_docs
import pandas as pd
import test_browser
import test_reproduce
import test_scans
import test_train

from autoddpm.unet import load_checkpoint

ROOT, BIN = check_notebooks.ROOT, check_notebooks.BIN
# one thread a process: two notebooks run side by side
ENV = os.environ | dict(
    PYTHONUTF8="1",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
    PYTHONUNBUFFERED="1",
    WANDB_SILENT="true",
    PYDEVD_DISABLE_FILE_VALIDATION="1",
)


def test_library() -> tuple:  # notebooks passed and failed
    "nbdev_test over all notebooks, its lines shown as they come."
    run = subprocess.Popen(
        [BIN / "nbdev_test", "--n_workers", "2", "--do_print", "--timing"],
        cwd=ROOT,
        env=ENV,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = []
    for line in run.stdout:
        lines.append(line)
        print(line.replace(f"{ROOT}{os.sep}", ""), end="", flush=True)
    code, text = run.wait(), "".join(lines)
    finished = len(re.findall(r"^- Completed ", text, re.MULTILINE))
    failed = len(re.findall(r"^\t\S+\.ipynb$", text, re.MULTILINE))  # the list at its end
    if code and not failed:
        failed, finished = 1, finished + 1  # it broke off without naming a notebook
    return finished - failed, failed


def papermill(name: str, out: Path, **parameters) -> subprocess.CompletedProcess:
    "Run one notebook with parameters, as a user would."
    chosen = [text for key, value in parameters.items() for text in ("-p", key, str(value))]
    command = [BIN / "papermill", ROOT / "nbs" / f"{name}.ipynb", out / f"{name}.ipynb", *chosen, "--no-progress-bar"]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)


def passed(run: subprocess.CompletedProcess):
    if run.returncode:
        raise AssertionError("papermill failed:\n" + "\n".join(run.stderr.strip().splitlines()[-15:]))


def test_eval_notebook(out: Path):
    "eval.ipynb: the parameters asked for are those in the table."
    small = dict(limit=3, steps=2, inpaint_levels=1, resample_steps=1, masking_threshold="p95", n_bootstrap=20)
    passed(papermill("eval", out, dataset="simulated", seed=7, out_dir=out, **small))
    table = pd.read_csv(out / "results.csv")
    overall = table[(table["metric"] == "auprc") & (table["size"] == "all")]
    found = {name: set(overall[name]) for name in ("dataset", "seed", "n")}
    assert found == dict(dataset={"simulated"}, seed={7}, n={3}), f"results.csv has {found}"
    missing = [name for name in ("results.md", "provenance.json", "precision_recall.png") if not (out / name).is_file()]
    assert not missing, f"not written: {missing}"


def test_train_notebook(out: Path):
    "train.ipynb: the parameters asked for are those in the weights, and Weights & Biases writes offline."
    passed(
        papermill(
            "train",
            out,
            dataset="simulated",
            steps=3,
            batch_size=2,
            validate_every=2,
            wandb_mode="offline",
            out_dir=out,
        )
    )
    _, meta = load_checkpoint(out / "best.safetensors")
    assert meta["settings"]["steps"] == 3, f"trained for {meta['settings']['steps']} steps, not the 3 asked for"
    assert list(out.glob("wandb/offline-run-*")), "no offline run of Weights & Biases"


def refuses_unknown(name: str):
    def test(out: Path):
        run = papermill(name, out, dataste="atlas", out_dir=out)
        assert run.returncode, "it ran with the parameter `dataste`"
        assert "ValueError" in run.stderr and "dataste" in run.stderr, (
            "it failed for another reason:\n" + run.stderr[-800:]
        )

    test.__doc__ = f"{name}.ipynb: a parameter it does not have is refused."
    return test


def test_figures() -> tuple:  # (1, 0) if every figure and table of the smoke profile came out, else (0, 1)
    "`autoddpm reproduce` on the smoke profile, its lines shown as they come."
    env = {k: v for k, v in os.environ.items() if k != "AUTODDPM_DATA"}
    done = (
        subprocess.run(
            [BIN / "autoddpm", "reproduce", "--profile", "smoke", "--source", "simulated"], cwd=ROOT, env=env
        ).returncode
        == 0
    )
    return (1, 0) if done else (0, 1)


def attempt(test) -> tuple:  # whether it passed, and what to say about it
    start = time.time()
    with tempfile.TemporaryDirectory() as out:
        try:
            test(Path(out))
        except Exception as error:
            return False, f"FAILED {test.__doc__} ({time.time() - start:.0f} s)\n       {error}"
    return True, f"ok     {test.__doc__} ({time.time() - start:.0f} s)"


def main() -> int:  # 0 if all passed
    counts = []

    def step(title):
        print(f"\n== {title}", flush=True)

    step("are the notebooks exported, clean, parameterised, small and portable?")
    failed = check_notebooks.main()
    counts.append((len(check_notebooks.CHECKS) - failed, failed))

    step("are the numbers in the documents those of the result files?")
    stale = fill_docs.main(check=True)
    counts.append((1 - stale, stale))

    step("nbdev_test: every notebook, two at a time")
    counts.append(test_library())

    step("papermill: evaluate and train with small parameters, two at a time")
    with ThreadPoolExecutor(2) as pool:
        for ok, said in pool.map(
            attempt, (test_eval_notebook, test_train_notebook, refuses_unknown("eval"), refuses_unknown("train"))
        ):
            print(said, flush=True)
            counts.append((ok, not ok))

    step("autoddpm reproduce: every figure and table on the smoke profile, two notebooks at a time")
    counts.append(test_figures())

    step("the runner's promises, on a copy")
    counts.append(test_reproduce.main())

    step("training that is killed, and training by two processes")
    counts.append(test_train.main())

    step("autoddpm detect: bad scans, and a run that is killed")
    counts.append(test_scans.main())

    step("JupyterLab in a real browser: open, run, look")
    counts.append(test_browser.main())

    good, bad = (sum(c) for c in zip(*counts))
    print(f"\n{good} passed, {bad} failed", flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
