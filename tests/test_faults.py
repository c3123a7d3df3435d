"""What may go wrong around a run, and what is then promised: other settings, damaged and foreign files, strange names,
a full disk, two runs at once, partners that never come. Slices of made-up heads and a short chain keep it quick."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import AUTODDPM, environment
from PIL import Image
from train_worker import first_network

from autoddpm.ddpm import DDPM
from autoddpm.output import OutputError, alone
from autoddpm.phantom import head_phantom
from autoddpm.scans import batch, prepare, writing
from autoddpm.train import TrainSettings, fit
from autoddpm.unet import load_checkpoint

SHORT = dict(noise_level_recon=300, noise_level_inpaint=150, steps=2, inpaint_levels=1, resample_steps=1)
SETTINGS = TrainSettings(steps=2, batch_size=2, validate_every=2, checkpoint_every=1)
HEADS = torch.stack([head_phantom(seed)[0] for seed in range(6)])


@pytest.fixture(autouse=True)
def one_code(monkeypatch):
    "Results name their code, and a clone may change while this runs."
    monkeypatch.setattr("autoddpm.config.code_version", lambda: "as tested")


def train(out: Path, model=None, images=HEADS[:4], held_out=HEADS[4:], settings=SETTINGS, start="scratch", **more):
    model = model or DDPM(first_network(), max_level=299)
    return fit(model, images, held_out, settings, out, progress=False, start=start, **more)


def save_heads(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        np.save(folder / name, 40 * HEADS[seed, 0].numpy())
    return folder


def detect(scans: Path, out: Path, **more) -> pd.DataFrame:
    return batch.detect_scans([scans], out, progress=False, **dict(chain=SHORT) | more)


def make_slices(scans: Path, out: Path, **more) -> pd.DataFrame:
    return prepare.prepare("folder", scans, out, progress=False, **more)


def when(out: Path, pattern: str) -> dict:
    "Times of files by path, to see which are made anew."
    return {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in out.glob(pattern)}


def spoil(path: Path, how: str):
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes(dict(short=content[:middle], empty=b"", other=b"no such file\n" * 99, flipped=flipped)[how])


# --- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("trained") / "a").parent


@pytest.fixture
def training(trained, tmp_path) -> Path:
    "A training of two steps that is done."
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


OTHER = {
    "train": dict(images=HEADS[1:5]),
    "validation": dict(held_out=HEADS[3:5]),
    "noise_type": dict(model=DDPM(first_network(), "simplex", max_level=299)),
    "prediction": dict(model=DDPM(first_network(), prediction="v", max_level=299)),
    "max_level": dict(model=DDPM(first_network(), max_level=199)),
    "precision": dict(model=DDPM(first_network(), max_level=299, precision="bfloat16")),
    "network": dict(
        model=DDPM(type(first_network())(**first_network().config | dict(channels=(16, 32))), max_level=299)
    ),
    "start": dict(start="ixi"),
    "learning_rate": dict(settings=replace(SETTINGS, learning_rate=1e-3)),
}


@pytest.mark.parametrize("name", OTHER)
def test_training_does_not_go_on_with_another(name, training):
    with pytest.raises(ValueError, match=rf"started with other settings \({name}\).*--overwrite"):
        train(training, **OTHER[name])


def test_training_starts_anew_if_told_to(training):
    best = train(training, images=HEADS[1:5], overwrite=True, settings=replace(SETTINGS, steps=1))
    assert load_checkpoint(best)[1]["step"] == 1


@pytest.mark.parametrize("how", ["short", "empty", "other", "flipped"])
def test_a_damaged_checkpoint_is_one_line(how, training):
    spoil(training / "last.pt", how)
    with pytest.raises(ValueError, match=r"last\.pt: damaged, or no checkpoint; .*--overwrite"):
        train(training)


@pytest.mark.parametrize("how", ["short", "empty", "other", "flipped", "missing"])
def test_damaged_weights_are_not_announced(how, training):
    if how == "missing":
        (training / "best.safetensors").unlink()
    else:
        spoil(training / "best.safetensors", how)
    with pytest.raises(ValueError, match=r"best\.safetensors: missing, or changed since"):
        train(training)


def test_a_training_that_diverges_ends_with_a_line(training):
    with pytest.raises(ValueError, match="has diverged by step"):
        train(training / "wild", settings=replace(SETTINGS, learning_rate=1e30, steps=50, grad_clip=1e30))
    assert not (training / "wild" / "best.safetensors").exists()


def test_a_full_disk_ends_training_with_a_line(tmp_path):
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, Path(__file__).with_name("train_worker.py"), tmp_path, json.dumps(dict(steps=1))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, preexec_fn=little_room)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "OutputError" in last and "cannot be written (File too large)" in last, done.stderr
    assert not [p.name for p in tmp_path.iterdir() if p.name != ".lock"]


# --- two runs at once


@pytest.mark.parametrize(
    "work", [train, lambda out: detect(out / "raw", out), lambda out: make_slices(out / "raw", out)]
)
def test_a_second_run_in_a_folder_is_refused(work, tmp_path):
    save_heads(tmp_path / "raw", "a.npy")
    with alone(tmp_path), pytest.raises(OutputError, match=rf"another run works there \(process {os.getpid()} on"):
        work(tmp_path)


# --- detection and preprocessing


def test_results_of_two_chains_do_not_mix(tmp_path):
    raw, out = save_heads(tmp_path / "raw", "a.npy", "b.npy"), tmp_path / "out"
    first = detect(raw, out)
    other = SHORT | dict(steps=1)
    with pytest.raises(ValueError, match=r"other settings \(settings.*steps.*2 there, 1 now.*--overwrite"):
        detect(raw / "b.npy", out, chain=other)
    assert detect(raw, out).equals(first)
    (raw / "a.npy").unlink()
    detect(raw, out, chain=other, overwrite=True)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["b"]


def test_slices_of_two_kinds_do_not_mix(tmp_path):
    raw, out = save_heads(tmp_path / "raw", "a.npy"), tmp_path / "out"
    make_slices(raw, out)
    (raw / "sub-1_T1w.nii").touch()
    with pytest.raises(ValueError, match=r"\(folder there, atlas now\)"):
        prepare.prepare("atlas", raw, out)
    prepare.prepare("atlas", raw, out, progress=False, overwrite=True)
    assert not list((out / "slices").iterdir())


@pytest.mark.parametrize("how", ["short", "empty", "other", "flipped", "missing"])
@pytest.mark.parametrize(
    "run, records, record, result",
    [
        (detect, "*/provenance.json", "a/provenance.json", "a/anomaly_map.nii.gz"),
        (make_slices, "records/*.json", "records/a.json", "slices/a.nii.gz"),
    ],
)
def test_what_is_damaged_is_made_again(run, records, record, result, how, tmp_path, results):
    raw, made = results[run.__name__]
    out = tmp_path / "out"
    subprocess.run(["cp", "-a", made, out], check=True)
    whole = (out / result).read_bytes()
    for path in (out / result, out / record):
        before = when(out, records)
        if how == "missing":
            path.unlink()
        else:
            spoil(path, how)
        table = run(raw, out)
        assert list(table.status) == ["done", "done"]
        assert (out / result).read_bytes() == whole
        again = {name for name, time in when(out, records).items() if time != before.get(name)}
        assert again == {record}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("results")
    raw = save_heads(folder / "raw", "a.npy", "b.npy")
    for run in (detect, make_slices):
        run(raw, folder / run.__name__)
    return {run.__name__: (raw, folder / run.__name__) for run in (detect, make_slices)}


@pytest.mark.parametrize("found", [{}, {"status": "done"}, {"path": 1, "series": [], "status": "skipped"}, [1], None])
def test_records_of_others_block_nothing(found, tmp_path):
    raw, out = save_heads(tmp_path / "raw", "a.npy"), tmp_path / "out"
    for name in ("a/provenance.json", "a/skipped.json", "records/a.json", "run.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(found), encoding="utf-8")
    assert list(detect(raw, out).status) == ["done"]
    assert list(make_slices(raw, out).status) == ["done"]


def test_a_scan_changed_behind_the_back_is_seen_when_asked(tmp_path):
    raw, out = save_heads(tmp_path / "raw", "a.npy"), tmp_path / "out"
    score, about = detect(raw, out).score[0], (raw / "a.npy").stat()
    np.save(raw / "a.npy", 40 * HEADS[3, 0].numpy())
    os.utime(raw / "a.npy", ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (raw / "a.npy").stat().st_size == about.st_size
    assert detect(raw, out).score[0] == score
    assert detect(raw, out, check=True).score[0] != score


NAMES = ["=1+1.npy", "-2.npy", "+3.npy", "@x.npy", "a,b.npy", "a\rb.npy", 'a"b.npy', "a\nb.npy", "\udcff\udcfe.npy"]


def test_strange_names_end_in_tables_that_can_be_read(tmp_path):
    raw = save_heads(tmp_path / "raw")
    for name in NAMES:
        save_heads(raw, name)
    for out, table, run in ((tmp_path / "d", "scores.csv", detect), (tmp_path / "p", "index.csv", make_slices)):
        run(raw, out)
        read = pd.read_csv(out / table)
        bad = read[read.status == "skipped"]
        assert len(read) == len(NAMES) and all("name again" in reason for reason in bad.reason)
        with open(out / table, newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        numbers = {cell for cell in cells if cell.lstrip("-").replace(".", "").replace("e-", "").isdecimal()}
        assert not [c for c in cells if c.startswith(tuple("=+-@\t\r\n")) and c not in numbers]


def test_one_bad_item_ends_nothing(tmp_path, monkeypatch):
    raw, out = save_heads(tmp_path / "raw", "a.npy", "b.npy", "c.npy", "d.npy"), tmp_path / "out"
    wide = np.zeros((1, 5000), np.uint8)
    wide[0, 1000:4000] = 200
    Image.fromarray(wide).save(raw / "wide.png")
    np.save(raw / "wide.npy", wide)
    draw, find = writing.draw_overlay, batch.find_anomalies
    calls = []

    def fail_once(*words):
        calls.append(1)
        if len(calls) == 2:
            raise IndexError("no place for an overlay")
        return draw(*words)

    alone_in = []

    def no_memory(plan, images, batch_size, heights):
        if len(images) == 1:
            alone_in.append(1)
        if len(images) == 4 or len(alone_in) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return find(plan, images, batch_size, heights)

    monkeypatch.setattr(writing, "draw_overlay", fail_once)
    monkeypatch.setattr(batch, "find_anomalies", no_memory)
    out.mkdir()
    (out / "d").write_text("a file where a folder should be")
    table = detect(raw, out, batch_size=4).set_index("id")
    assert len(table) == 6 and list(table.loc[["a", "b", "c", "d"]].status) == ["done"] + ["skipped"] * 3
    assert "no place for an overlay" in table.reason["b"] and "allocate memory" in table.reason["c"]
    assert "cannot be written" in table.reason["d"]
    monkeypatch.undo()
    monkeypatch.setattr("autoddpm.config.code_version", lambda: "as tested")
    (out / "d").unlink()
    assert list(detect(raw, out).set_index("id").loc[["a", "b", "c", "d"]].status) == ["done"] * 4
    prepared = make_slices(raw, tmp_path / "made").set_index("id")
    assert list(prepared.loc[["a", "b", "c", "d"]].status) == ["done"] * 4


def test_links_in_the_folder_of_results_are_not_followed(tmp_path):
    raw, out, precious = save_heads(tmp_path / "raw", "a.npy"), tmp_path / "out", tmp_path / "precious"
    (precious / "a").mkdir(parents=True)
    kept = [precious / "a" / name for name in ("provenance.json", "mask.nii.gz", "own.txt")]
    for path in kept:
        path.write_text("precious")
    out.mkdir()
    (out / ".aside").symlink_to(precious)
    (out / "a").symlink_to(precious / "a")
    assert list(detect(raw, out).status) == ["done"]
    assert sorted(precious.rglob("*")) == sorted([precious / "a", *kept])
    assert {p.read_text() for p in kept} == {"precious"}
    made = tmp_path / "made"
    made.mkdir()
    (made / ".aside").symlink_to(precious)
    assert list(make_slices(raw, made).status) == ["done"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "slices").symlink_to(precious)
    with pytest.raises(OutputError, match="slices: a link"):
        make_slices(raw, tmp_path / "other")
    assert sorted(precious.rglob("*")) == sorted([precious / "a", *kept])


# --- the command line


def command(*words, before: str = "", **variables) -> subprocess.Popen:
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    program = [*AUTODDPM, *words] if not before else ["sh", "-c", f'exec "$@" {before}', "sh", *AUTODDPM, *words]
    return subprocess.Popen(program, env=environment(**variables), **streams)


def outcome(process: subprocess.Popen) -> tuple:  # exit code, lines on stderr
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.strip().splitlines()


LEFT_OVER = dict(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")


def test_left_over_variables_of_a_launch_end_it_with_a_line(tmp_path):
    raw = save_heads(tmp_path / "raw", "a.npy")
    code, lines = outcome(command("detect", raw, "--out", tmp_path / "out", WORLD_SIZE="2"))
    assert code == 2 and len(lines) == 1 and "unset WORLD_SIZE" in lines[0], lines


def test_waiting_for_partners_ends_by_sigterm(tmp_path):
    words = "from autoddpm.processes import start_together; print('now', flush=True); start_together(True, 60)"
    program = [sys.executable, "-c", words]
    process = subprocess.Popen(
        program,
        env=environment(**LEFT_OVER, MASTER_PORT="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(8)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM and time.monotonic() - start < 10


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&-"])
def test_closed_streams_change_no_exit_code(closed, tmp_path):
    code, lines = outcome(command("detect", tmp_path, "--out", tmp_path / "out", before=closed, WORLD_SIZE="2"))
    assert code == 2 and len(lines) == (closed != "2>&-"), lines


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has it")
def test_a_device_that_is_not_there_is_one_line(tmp_path):
    raw = save_heads(tmp_path / "raw", "a.npy")
    code, lines = outcome(command("detect", raw, "--out", tmp_path / "out", "--device", "mps"))
    assert code == 2 and len(lines) == 1 and "device 'mps' is not available" in lines[0], lines


def test_a_foreign_folder_is_not_asked_for_its_commit(tmp_path):
    "The package lies in a folder without a clone, inside a repository of somebody else."
    foreign, package = tmp_path / "foreign", tmp_path / "foreign" / "lib"
    package.mkdir(parents=True)
    for name in ("__init__.py", "config.py", "output.py"):
        (package / "autoddpm").mkdir(exist_ok=True)
        (package / "autoddpm" / name).write_bytes((Path(writing.__file__).parents[1] / name).read_bytes())
    git = ["git", "-C", str(foreign), "-c", "user.name=x", "-c", "user.email=x@x"]
    spy = tmp_path / "spy"
    (tmp_path / "monitor").write_text(f"#!/bin/sh\ntouch {spy}\n")
    (tmp_path / "monitor").chmod(0o755)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "config", "core.fsmonitor", str(tmp_path / "monitor")], check=True)
    script = "from autoddpm.config import code_version; print(code_version())"
    for path in (package, Path(writing.__file__).parents[2]):  # in a library; in a clone, called from elsewhere
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=foreign,
            env=environment(path),
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = subprocess.run(
            [*git[:3], "-c", "core.fsmonitor=", "rev-parse", "HEAD"], capture_output=True, text=True
        )
        assert theirs.stdout[:12] not in done.stdout
        assert not spy.exists()
