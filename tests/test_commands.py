"""What a user does second: paths that are not there, a folder to train on, own weights calibrated and evaluated."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from autoddpm.cli import app
from autoddpm.data import load_dataset
from autoddpm.ddpm import find_weights
from autoddpm.phantom import add_lesion, head_phantom, lesion_outline
from autoddpm.train import training_sets


def autoddpm(*words) -> tuple:  # (exit code, what it says)
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="autoddpm")
    assert "Traceback" not in done.output and not isinstance(done.exception, AttributeError), done.output
    return done.exit_code, done.output


def write_head(path: Path, seed: int, lesion: bool | None = None) -> Path:
    "A phantom's slice; with its mask, empty or not, unless `lesion` is None."
    path.parent.mkdir(parents=True, exist_ok=True)
    image, brain = head_phantom(seed)
    generator = torch.Generator().manual_seed(seed)
    outline = lesion_outline(brain, 300, generator) if lesion else torch.zeros_like(brain)
    np.save(path, add_lesion(image, outline, generator)[0].numpy() if lesion else image[0].numpy())
    if lesion is not None:
        np.save(path.with_name(f"{path.stem}_mask.npy"), outline[0].numpy().astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    "Slices of ten people, two each, as folders; some weights that nobody has calibrated."
    folder = tmp_path_factory.mktemp("second")
    for person in range(10):
        for k in range(2):
            write_head(folder / "people" / f"p{person}" / f"{k}.npy", 2 * person + k)
    shutil.copy(find_weights("ixi"), folder / "mine.safetensors")
    return folder


PATHS = {
    "detect": ["detect", "{}", "--out", "made"],
    "detect, second": ["detect", "{people}", "{}", "--out", "made"],
    "detect, weights": ["detect", "{people}", "--out", "made", "--weights", "{}"],
    "prepare": ["prepare", "folder", "{}", "--out", "made"],
    "train, root": ["train", "folder", "--root", "{}", "--out", "made"],
    "train, val": ["train", "folder", "--root", "{people}", "--val", "{}", "--out", "made"],
    "train, start": ["train", "folder", "--root", "{people}", "--start", "{}", "--out", "made"],
    "calibrate": ["calibrate", "{}", "--healthy", "{people}"],
    "calibrate, healthy": ["calibrate", "{mine}", "--healthy", "{}"],
    "evaluate, root": ["evaluate", "folder", "--root", "{}", "--out", "made"],
    "evaluate, weights": ["evaluate", "simulated", "--weights", "{}", "--out", "made"],
    "evaluate, simplex": ["evaluate", "simulated", "--simplex-weights", "{}", "--out", "made"],
}


def test_help_waits_for_no_heavy_library():
    code = "import sys, autoddpm.cli; print(sorted({'torch', 'scipy', 'pandas', 'matplotlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("where", PATHS)
def test_a_missing_path_is_named_with_what_was_meant(where, box, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = dict(people=box / "people", mine=box / "mine.safetensors")
    for missing, meant in ((box / "peolpe", "people"), (box / "peolpe" / "p1" / "0.npy", "people")):
        code, said = autoddpm(*(word.format(missing, **known) for word in PATHS[where]))
        assert (code, said.count("\n")) == (2, 1), said
        assert str(missing) in said and f"did you mean {box / meant}?" in said
    assert not (tmp_path / "made").exists(), "something was written"


def test_a_folder_is_split_by_subject_and_the_split_is_kept(box, tmp_path):
    out = tmp_path / "run"
    small = ["--out", out, "--steps", 1, "--batch-size", 2]
    before = os.umask(0o027)
    try:
        code, said = autoddpm("train", "folder", "--root", box / "people", *small)
    finally:
        os.umask(before)
    assert code == 0, said
    assert "18 slices of 9 subjects to train on, 2 slices of 1 subject to validate on" in said
    split = pd.read_csv(out / "split.csv")
    whose = split.path.str.split("/").str[0].groupby(split.split).agg(set)
    assert not whose["train"] & whose["val"]
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in out.iterdir()} == {"0o640"}
    assert (
        training_sets("folder", root=box / "people", seed=1)[1].entries
        != training_sets("folder", root=box / "people")[1].entries
    )
    code, said = autoddpm("calibrate", out / "best.safetensors", "--healthy", box / "people", "--chain", "fast")
    assert (code, "2 healthy slices, 18 more were trained on" in said) == (2, True), said


def test_slices_to_validate_on_are_of_others(box, tmp_path):
    write_head(tmp_path / "val" / "9.npy", 99)
    train, val, said = training_sets("folder", root=box / "people", val=tmp_path / "val")
    assert (len(train), len(val)) == (20, 1) and str(tmp_path / "val") in said
    shutil.copy(box / "people" / "p3" / "0.npy", tmp_path / "val" / "copy.npy")
    with pytest.raises(ValueError, match=r"copy.npy is p3/0.npy"):
        training_sets("folder", root=box / "people", val=tmp_path / "val")
    with pytest.raises(ValueError, match="one subject"):
        write_head(tmp_path / "one" / "0.npy", 1)
        training_sets("folder", root=tmp_path / "one")


def test_lesions_are_not_trained_on(tmp_path):
    for seed in range(4):
        write_head(tmp_path / f"{seed}.npy", seed, lesion=seed == 0)
    with pytest.warns(UserWarning, match="1 of 4 slices have a lesion"):
        train, val, _ = training_sets("folder", root=tmp_path)
    assert sorted(e.path for e in [*train.entries, *val.entries]) == ["1.npy", "2.npy", "3.npy"]


def test_what_prepare_made_is_read_without_its_pictures(tmp_path):
    for name in ("records", "slices", "quality"):
        (tmp_path / name).mkdir()
    (tmp_path / "index.csv").touch()
    write_head(tmp_path / "slices" / "a.npy", 0)
    write_head(tmp_path / "quality" / "a.npy", 1)
    assert [e.path for e in load_dataset("folder", root=tmp_path).entries] == ["a.npy"]


def test_uncalibrated_weights_mask_alike_in_detect_and_evaluate(box, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights, scan = box / "mine.safetensors", box / "people" / "p0" / "0.npy"
    code, said = autoddpm("detect", scan, "--weights", weights, "--chain", "fast", "--out", "found", "--quiet")
    assert (code, said.count("\n")) == (0, 1), said
    assert "upper 5 % of each slice" in said and f"autoddpm calibrate {weights} --healthy DIR --chain fast" in said
    assert not Path("found/0/mask.nii.gz").exists()
    by_hand = ["--threshold", "0.05", "--out", "marked"]
    code, said = autoddpm("detect", scan, "--weights", weights, "--chain", "fast", *by_hand)
    assert (code, "no mask" in said, Path("marked/0/mask.nii.gz").exists()) == (0, False, True), said
    assert "given by hand" in Path("marked/report.html").read_text(encoding="utf-8")
    for wrong in ("nan", "0", "-1", "inf"):
        code, said = autoddpm("detect", scan, "--threshold", wrong, "--out", "wrong")
        assert (code, "give a number above 0" in said) == (2, True), said

    for seed in range(2):
        write_head(Path(f"cases/{seed}.npy"), seed, lesion=seed == 0)
    few = ["--limit", 1, "-p", "n_bootstrap", 20, "-p", "strips", 1, "--methods", "autoddpm"]
    code, said = autoddpm("evaluate", "folder", "--root", "cases", "--weights", weights, "--out", "measured", *few)
    assert code == 0, said
    assert "| autoddpm | mine " in said and "takes the upper 5 % of each slice" in said
    assert Path("measured/eval.ipynb").is_file() and Path("measured/results.csv").is_file()
    masking = [
        json.loads(path.read_text())["settings"]["masking_threshold"]
        for path in Path("measured").glob("stages/*/*/provenance.json")
    ]
    assert set(masking) == {"p95"}
    code, said = autoddpm("evaluate", "folder", "--root", "cases", "--out", "wrong", "-p", "stirps", 1)
    assert (code, "did you mean 'strips'" in said) == (2, True), said
