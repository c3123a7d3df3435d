"""What a training promises: a kill loses at most one checkpoint interval and no bit of the result, and two processes
take the steps of one. Each training runs in processes of its own, a small network on phantoms."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import BIN, environment
from train_worker import first_network

from autoddpm.train import read_log

WORKER = Path(__file__).with_name("train_worker.py")
STEPS, INTERVAL = 30, 4
SETTINGS = dict(steps=STEPS, batch_size=4, validate_every=10, checkpoint_every=INTERVAL)
# of the way the weights moved: only the order of sums differs; at ten times the learning rate Adam blows rounding up
# to a hundredth
CLOSE = 1e-3


def start(out: Path, *more: str, processes: int = 1) -> subprocess.Popen:
    launcher = [sys.executable]
    if processes > 1:
        launcher = [BIN / "torchrun", "--standalone", "--nproc_per_node", str(processes)]
    out.mkdir(parents=True, exist_ok=True)
    command = [*launcher, WORKER, out, json.dumps(SETTINGS), *more]
    return subprocess.Popen(command, env=environment(CUDA_VISIBLE_DEVICES=""), stderr=subprocess.PIPE, text=True)


def train(out: Path, **how) -> Path:
    "A training to its end."
    process = start(out, **how)
    _, errors = process.communicate()
    assert process.returncode == 0, f"a training failed:\n{errors[-2000:]}"
    return out


def state(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def tensors(value) -> list:
    "Every tensor in a checkpoint, in order."
    if torch.is_tensor(value):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [t for v in inside for t in tensors(v)]


def kill_past(out: Path, step: int) -> int:  # step of the checkpoint that is left
    "Start a training and kill it once its checkpoint is past a step."
    process = start(out)
    try:
        while process.poll() is None:
            if (out / "last.pt").is_file() and state(out)["step"] >= step:
                break
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
    finally:
        process.communicate()
    code = process.returncode
    assert code == -signal.SIGKILL, f"it ended by itself (exit code {code}) before it could be killed"
    return state(out)["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    "A training that nothing disturbed."
    return train(tmp_path_factory.mktemp("train") / "whole")


def test_killed_twice_and_resumed_is_the_same_to_the_bit(whole, tmp_path):
    left = [kill_past(tmp_path, step) for step in (1, 14)]  # within the first validation interval, and in the middle
    assert left[0] % INTERVAL == 0 or left[0] % 10 == 0, f"a checkpoint at step {left[0]}"
    assert left[0] < left[1] < STEPS, f"checkpoints at steps {left}: nothing was left to do, or to go on from"
    a, b = state(whole), state(train(tmp_path))
    assert a["step"] == b["step"] == STEPS
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    assert len(pairs) > 100 and all(torch.equal(x, y) for x, y in pairs), "weights, average or optimiser differ"
    assert read_log(whole) == read_log(tmp_path)


def test_a_kill_loses_at_most_one_checkpoint_interval(tmp_path):
    process = start(tmp_path, "7")
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"exit code {process.returncode}: {errors[-1000:]}"
    assert state(tmp_path)["step"] == 4, f"killed after 7 steps, with a checkpoint every {INTERVAL}"


def test_two_processes_take_the_steps_of_one(whole, tmp_path):
    two = train(tmp_path, processes=2)
    told = [json.loads((two / f"process{k}.json").read_text(encoding="utf-8")) for k in range(2)]
    assert told == [dict(processes=2)] * 2, f"the processes say {told}"
    a, b, first = state(whole)["network"], state(two)["network"], first_network().state_dict()

    def distance(other):
        return torch.stack([(a[key] - other[key]).norm() for key in first]).norm().item()

    apart, moved = distance(b), distance(first)
    assert moved > 0 and apart / moved < CLOSE, f"weights differ by {apart / moved:.1e} of the way they moved"
    off = max(abs(p[key] - q[key]) for p, q in zip(read_log(whole), read_log(two), strict=True) for key in p)
    assert off < 1e-4, f"losses in the log differ by up to {off:.1e}"
