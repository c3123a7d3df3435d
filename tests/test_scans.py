"""The promise of `autoddpm detect`, on made-up scans: a bad scan never stops the batch, and a run that is killed
without warning half-way and started again ends in what an undisturbed one gives.

    pytest tests/test_scans.py                          # few scans
    pytest tests/test_scans.py --volumes 200 --bad 20   # as many as in a study
"""

import csv
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import copy_parts, environment

from autoddpm.scans.corpus import make_head, save_head

COMMAND = """
from autoddpm.detect import CHAINS
CHAINS["short"] = dict(noise_level_recon=300, noise_level_inpaint=150, steps=2, inpaint_levels=1, resample_steps=1)
from autoddpm.cli import app
app(prog_name="autoddpm")
"""
BAD = ("cut short", "empty", "no place", "constant", "holes")


def write_bad(path: Path, kind: str):
    "A scan that cannot be used."
    voxels = (3000 * make_head()).astype(np.int16)
    if kind == "constant":
        voxels[:] = 7
    if kind == "holes":
        voxels = np.where(voxels > 2000, np.nan, voxels.astype(np.float32))
    whole = save_head(path, voxels, code=0 if kind == "no place" else 4).read_bytes()
    if kind in ("cut short", "empty"):
        path.write_bytes(whole[: len(whole) // 2 if kind == "cut short" else 0])


def write_scans(folder: Path, volumes: int, bad: int):
    "Scans of one head in many variants, the bad ones spread among them."
    step = volumes / bad if bad else volumes + 1
    spoiled = {int(k * step + step / 2): BAD[k % len(BAD)] for k in range(bad)}
    for k in range(volumes):
        path = folder / f"site-{k % 3}" / f"sub-{k:04d}_T1w.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k in spoiled:
            write_bad(path, spoiled[k])
        else:
            save_head(path, (3000 * make_head(k + 1)).astype(np.int16))


def start(study: Path, out: Path) -> subprocess.Popen:
    "`autoddpm detect` of the study's package, with a chain of a few steps."
    command = [sys.executable, "-c", COMMAND, "detect", study / "scans", "--out", out, "--chain", "short"]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    return subprocess.Popen(command, env=environment(study / "clone"), cwd=study, **streams)


def finish(study: Path, out: Path) -> tuple:  # exit code, what was said, stderr
    process = start(study, out)
    said, errors = process.communicate()
    return process.returncode, said, errors


def finished(out: Path) -> int:
    return len(list(out.glob("*/provenance.json"))) + len(list(out.glob("*/skipped.json")))


def kill_half_way(study: Path, out: Path, after: int) -> int:  # scans that were finished by then
    process = start(study, out)
    while finished(out) < after:
        assert process.poll() is None, f"it ended before it could be killed: {process.stderr.read()}"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return finished(out)


def contents(out: Path) -> dict:
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock")  # it holds a process number
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def numbers(request) -> tuple:  # scans, and how many of them are bad
    return request.config.getoption("--volumes"), request.config.getoption("--bad")


@pytest.fixture(scope="module")
def study(tmp_path_factory, numbers) -> Path:
    "Scans, and the package as it is now: results name their code, and this tree may change meanwhile."
    folder = tmp_path_factory.mktemp("study")
    copy_parts(folder / "clone", "autoddpm")
    write_scans(folder / "scans", *numbers)
    return folder


@pytest.fixture(scope="module")
def undisturbed(study) -> tuple:  # folder of results, exit code, what was said, stderr
    return study / "undisturbed", *finish(study, study / "undisturbed")


def test_bad_scans_are_skipped_with_a_reason(undisturbed, numbers):
    (out, code, said, errors), (volumes, bad) = undisturbed, numbers
    with open(out / "scores.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    done = [row for row in table if row["status"] == "done"]
    assert (len(done), len(table)) == (volumes - bad, volumes), f"not every good scan is done:\n{said}"
    assert all(row["reason"] for row in table if row not in done), "a scan was skipped without a reason"
    assert code == (1 if bad else 0) and "Traceback" not in errors, f"exit code {code}\n{errors}"


def test_killed_and_started_again_gives_the_same_files(study, undisturbed, numbers):
    volumes, bad = numbers
    out = study / "killed"
    before = kill_half_way(study, out, volumes // 2)
    assert volumes // 2 <= before < volumes, f"{before} of {volumes} scans finished when it was killed"
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/provenance.json")}
    code, _, errors = finish(study, out)
    assert code == (1 if bad else 0) and "Traceback" not in errors, errors
    assert all(p.stat().st_mtime_ns == when for p, when in times.items()), "a finished scan was made again"
    assert contents(out) == contents(undisturbed[0])
