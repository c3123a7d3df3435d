"""What `autoddpm prepare` says beforehand, meanwhile, and when it is pointed at other scans."""

import re
import shutil
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from autoddpm.cli import app
from autoddpm.phantom import head_phantom
from autoddpm.scans import preprocess
from autoddpm.scans.corpus import make_head, save_head


def prepare(*words, code=0) -> str:  # what it prints
    done = CliRunner().invoke(app, ["prepare", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def save_slice(path: Path, seed: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, 40 * head_phantom(seed)[0][0].numpy())


@pytest.fixture
def raw(tmp_path) -> Path:
    "A good volume, a slice, and what cannot be read: one cut short, one whose mask lies elsewhere, colours."
    root = tmp_path / "raw"
    good = save_head(root / "a_T1w.nii.gz", (3000 * make_head(1)).astype(np.int16))
    save_slice(root / "b.npy", 2)
    (root / "c_T1w.nii.gz").write_bytes(good.read_bytes()[:5000])
    shutil.copy(good, root / "d_T1w.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), root / "d_T1w_mask.nii.gz")
    np.save(root / "e.npy", np.zeros((32, 32, 3)))
    (root / "a_T2w.nii.gz").write_bytes(b"")
    return root


def test_a_survey_ends_as_the_run_would(raw, tmp_path):
    words = ["folder", raw, "--out", tmp_path / "out"]
    survey = prepare(*words, "--dry-run", code=1)
    assert not (tmp_path / "out").exists()
    prepare(*words, code=1)
    rows = pd.read_csv(tmp_path / "out" / "index.csv", keep_default_na=False)
    skipped = rows[rows.status == "skipped"]
    assert sorted(skipped.id) == ["c_T1w", "d_T1w", "e"]
    assert all(reason in survey for reason in skipped.reason), (survey, list(skipped.reason))
    assert "2 to do, 3 skipped" in survey and "passed over" in survey and "1 T2w" in survey
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert "2 done before, 3 skipped" in prepare(*words, "--dry-run", code=1)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    planes = ["--planes", "10:23:13", "--overwrite", "--dry-run"]
    assert "1 to do, 4 skipped" in prepare(*words, *planes, code=1)  # a slice has no planes
    assert "other planes" in prepare(*words, *planes[:2], "--dry-run", code=2)


def test_a_survey_reads_tar_files(raw, tmp_path):
    with tarfile.open(tmp_path / "IXI-T1.tar", "w") as tar:
        tar.add(raw / "a_T1w.nii.gz", "IXI001-Guys-0001-T1.nii.gz")
        tar.add(raw / "c_T1w.nii.gz", "IXI002-Guys-0002-T1.nii.gz")
    words = ["ixi", tmp_path / "IXI-T1.tar", "--out", tmp_path / "out"]
    survey = prepare(*words, "--dry-run", code=1)
    assert "1 to do, 1 skipped" in survey and "IXI-T1.tar: IXI002-Guys-0002-T1.nii.gz" in survey
    assert not (tmp_path / "out").exists()


def test_a_survey_without_faults_ends_with_0(tmp_path):
    save_slice(tmp_path / "raw" / "a.npy", 0)
    assert "1 to do" in prepare("folder", tmp_path / "raw", "--out", tmp_path / "out", "--dry-run")


def test_one_folder_serves_one_root(tmp_path):
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    save_slice(first / "a.npy", 0)
    save_slice(first / "b.npy", 1)
    prepare("folder", first, "--out", out, "--quiet")
    (tmp_path / "link").symlink_to(first)
    prepare("folder", tmp_path / "link", "--out", out, "--quiet")  # the same, by another name
    shutil.copytree(first, second)
    (second / "b.npy").unlink()
    save_slice(second / "c.npy", 2)
    said = prepare("folder", second, "--out", out, code=2)
    assert said.count("\n") == 1 and f"({first} there, {second} now); choose another folder" in said
    kept = (out / "records" / "a.json").stat().st_mtime_ns
    prepare("folder", second, "--out", out, "--quiet", "--overwrite")
    assert sorted(p.name for p in (out / "slices").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    assert (out / "records" / "a.json").stat().st_mtime_ns == kept
    said = prepare("folder", first, "--out", out, code=2)
    assert f"({second} there, {first} now)" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_the_line_names_stage_and_scan(workers, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "register", lambda volume: preprocess.Registration.identity())  # takes its time
    monkeypatch.setenv("AUTODDPM_PROGRESS", str(tmp_path / "line"))
    words = ["folder", raw, "--out", tmp_path / "out", "--workers", workers]
    prepare(*words, code=1)
    text = (tmp_path / "line").read_text(encoding="utf-8")
    said = [*dict.fromkeys(re.findall(r"left, (?:\d skipped, )?(\w+ \w+)", text))]
    one = ["reading", "N4", "writing"] if not workers else ["preparing"]
    assert said[: len(one)] == [f"{stage} a_T1w" for stage in one]
    assert "5/5 scans" in text and "2 skipped, " in text and "? left" not in text.splitlines()[-1]
