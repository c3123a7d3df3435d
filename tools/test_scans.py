"""The promise of `autoddpm detect`, proved on made-up scans: a bad scan never stops the batch, and a run that is killed ends in what an undisturbed one gives.

Each run is the command itself; one of them is killed without a warning (SIGKILL) half-way, and started again. A minute with the default numbers.

    python tools/test_scans.py                          # few scans
    python tools/test_scans.py --volumes 200 --bad 20   # as many as in a study
"""

import argparse
import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from autoddpm.scans.corpus import make_head, save_head

ROOT = Path(__file__).resolve().parent.parent
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


def copy_package(to: Path) -> Path:
    "The package as it is now: results name their code, and this tree may change meanwhile."
    shutil.copytree(ROOT / "autoddpm", to / "autoddpm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", to)
    return to


def start(scans: Path, out: Path) -> subprocess.Popen:
    "`autoddpm detect` of the copy, one thread, with a chain of a few steps besides its own."
    words = [sys.executable, "-c", COMMAND, "detect", scans, "--out", out, "--chain", "short"]
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(scans.parent / "clone"))
    return subprocess.Popen(
        words, env=env, cwd=scans.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def finish(scans: Path, out: Path) -> tuple:  # exit code, what was said, stderr, seconds
    begun, process = time.time(), start(scans, out)
    said, errors = process.communicate()
    return process.returncode, said, errors, time.time() - begun


def finished(out: Path) -> int:
    return len(list(out.glob("*/provenance.json"))) + len(list(out.glob("*/skipped.json")))


def kill_half_way(scans: Path, out: Path, after: int) -> int:  # scans that were finished by then
    process = start(scans, out)
    while finished(out) < after:
        if process.poll() is not None:
            raise AssertionError(f"it ended before it could be killed: {process.stderr.read()}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return finished(out)


def contents(out: Path) -> dict:
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


def rows(out: Path) -> list:
    with open(out / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(volumes: int, bad: int, folder: Path):
    scans, calm, killed = folder / "scans", folder / "calm", folder / "killed"
    copy_package(folder / "clone")
    write_scans(scans, volumes, bad)
    code, said, errors, seconds = finish(scans, calm)
    table = rows(calm)
    done = sum(row["status"] == "done" for row in table)
    print(f"undisturbed: {done} done, {len(table) - done} skipped, exit code {code}, {seconds:.0f} s")
    assert (done, len(table)) == (volumes - bad, volumes), "not every good scan is done:\n" + said
    assert all(row["reason"] for row in table if row["status"] != "done"), "a scan was skipped without a reason"
    assert code == (1 if bad else 0), f"exit code {code}\n{errors}"
    assert "Traceback" not in errors, errors

    before = kill_half_way(scans, killed, volumes // 2)
    assert volumes // 2 <= before < volumes, (
        f"{before} of {volumes} scans finished when it was killed: too late to show anything"
    )
    times = {p: p.stat().st_mtime_ns for p in killed.glob("*/provenance.json")}
    code, said, errors, again = finish(scans, killed)
    print(f"killed after {before} scans, then started again: exit code {code}, {again:.0f} s")
    assert code == (1 if bad else 0) and "Traceback" not in errors, errors
    assert all(p.stat().st_mtime_ns == when for p, when in times.items()), "a finished scan was made again"
    left = contents(calm)
    assert contents(killed) == left, (
        f"other files: {sorted(k for k, v in (contents(killed).items() ^ left.items()))[:5]}"
    )
    print(f"{len(left)} files, the same in both")


def main(volumes: int = 12, bad: int = 5) -> tuple:  # (passed, failed)
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(volumes, bad, Path(folder))
        except AssertionError as error:
            print(f"FAILED autoddpm detect on {volumes} scans, {bad} of them bad: {error}")
            return 0, 1
    print(
        f"ok     autoddpm detect on {volumes} scans, {bad} of them bad: killed, started again, the same results ({time.time() - begun:.0f} s)"
    )
    return 1, 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=12, help="scans, the bad ones included")
    parser.add_argument("--bad", type=int, default=5, help="of them, so many that cannot be used")
    sys.exit(main(**vars(parser.parse_args()))[1])
