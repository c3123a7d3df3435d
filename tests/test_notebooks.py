"""`eval.ipynb` and `train.ipynb` by papermill, as a user runs them, with small parameters."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
from helpers import BIN, ROOT, run

from autoddpm.unet import load_checkpoint


def papermill(name: str, out: Path, **parameters) -> subprocess.CompletedProcess:
    "Run one notebook with parameters; it writes into a folder."
    chosen = [text for key, value in (parameters | dict(out_dir=out)).items() for text in ("-p", key, str(value))]
    notebook = ROOT / "nbs" / f"{name}.ipynb"
    return run([BIN / "papermill", notebook, out / f"{name}.ipynb", *chosen, "--no-progress-bar"])


def test_evaluation_takes_its_parameters(tmp_path):
    small = dict(limit=3, steps=2, inpaint_levels=1, resample_steps=1, masking_threshold="p95", n_bootstrap=20)
    done = papermill("eval", tmp_path, dataset="simulated", seed=7, **small)
    assert not done.returncode, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "results.csv")
    overall = table[(table["metric"] == "auprc") & (table["size"] == "all")]
    found = {name: set(overall[name]) for name in ("dataset", "seed", "n")}
    assert found == dict(dataset={"simulated"}, seed={7}, n={3}), f"results.csv has {found}"
    written = ("results.md", "provenance.json", "precision_recall.png")
    missing = [name for name in written if not (tmp_path / name).is_file()]
    assert not missing, f"not written: {missing}"


def test_training_takes_its_parameters_and_logs_offline(tmp_path):
    small = dict(dataset="simulated", steps=3, batch_size=2, validate_every=2)
    done = papermill("train", tmp_path, wandb_mode="offline", **small)
    assert not done.returncode, done.stderr[-2000:]
    _, meta = load_checkpoint(tmp_path / "best.safetensors")
    assert meta["settings"]["steps"] == 3, f"trained for {meta['settings']['steps']} steps, not the 3 asked for"
    assert list(tmp_path.glob("wandb/offline-run-*")), "no offline run of Weights & Biases"


@pytest.mark.parametrize("name", ["eval", "train"])
def test_an_unknown_parameter_is_refused(name, tmp_path):
    done = papermill(name, tmp_path, dataste="atlas")
    assert done.returncode, "it ran with the parameter `dataste`"
    assert "ValueError" in done.stderr and "dataste" in done.stderr, f"it failed otherwise:\n{done.stderr[-800:]}"
