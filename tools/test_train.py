"""What a training promises, proved on real processes: a kill loses at most one checkpoint interval and no bit of the result; two processes take the steps of one.

Each training runs in processes of its own, a small network on phantoms; under a minute in all.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from promises import keep

from autoddpm.train import read_log

BIN = Path(sys.executable).parent
STEPS, INTERVAL, BATCH = 30, 4, 4
CLOSE = 1e-3  # of the way the weights moved: only the order of sums differs (at ten times the learning rate Adam blows rounding up to a hundredth)


def first_network():
    from autoddpm.unet import UNet

    torch.manual_seed(0)
    return UNet(channels=(16, 16), attention=(False, True), num_head_channels=16, patch_size=4, norm_num_groups=8)


def work(out: Path, told: str):
    "One training, in this process; `told` is a JSON of settings."
    from accelerate import PartialState

    from autoddpm.ddpm import DDPM
    from autoddpm.phantom import head_phantom
    from autoddpm.train import TrainSettings, fit

    torch.set_num_threads(1)
    slices = torch.stack([head_phantom(seed)[0] for seed in range(15)])
    settings = TrainSettings(
        **dict(steps=STEPS, batch_size=BATCH, validate_every=10, checkpoint_every=INTERVAL) | json.loads(told)
    )
    fit(DDPM(first_network(), max_level=299), slices[:12], slices[12:], settings, out, progress=False)
    state = PartialState()
    (out / f"process{state.process_index}.json").write_text(
        json.dumps(dict(processes=state.num_processes)), encoding="utf-8"
    )


def command(out: Path, processes: int = 1, **told) -> list:
    launcher = (
        [sys.executable] if processes == 1 else [BIN / "torchrun", "--standalone", "--nproc_per_node", str(processes)]
    )
    out.mkdir(parents=True, exist_ok=True)
    return [*map(str, launcher), __file__, "--work", str(out), json.dumps(told)]


def environment() -> dict:
    return os.environ | dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def train(out: Path, processes: int = 1, **told) -> subprocess.CompletedProcess:
    return subprocess.run(command(out, processes, **told), env=environment(), capture_output=True, text=True)


def finished(run: subprocess.CompletedProcess):
    assert run.returncode == 0, "a training failed:\n" + run.stderr[-2000:]


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
    run = subprocess.Popen(command(out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while run.poll() is None:
            if (out / "last.pt").is_file() and state(out)["step"] >= step:
                break
            time.sleep(0.003)
        run.send_signal(signal.SIGKILL)
    finally:
        code = run.wait()
    assert code == -signal.SIGKILL, f"it ended by itself (exit code {code}) before it could be killed"
    return state(out)["step"]


def steps(folder: Path):  # pairs (what is promised, test)
    whole, killed, two = folder / "whole", folder / "killed", folder / "two"

    def kill():
        finished(train(whole))
        left = [kill_past(killed, step) for step in (1, 14)]  # within the first validation interval, and in the middle
        assert left[0] % INTERVAL == 0 or left[0] % 10 == 0, f"a checkpoint at step {left[0]}"
        assert left[0] < left[1] < STEPS, f"checkpoints at steps {left}: nothing was left to do, or to go on from"
        finished(train(killed))
        a, b = state(whole), state(killed)
        assert a["step"] == b["step"] == STEPS
        pairs = list(zip(tensors(a), tensors(b), strict=True))
        assert len(pairs) > 100 and all(torch.equal(x, y) for x, y in pairs), (
            "weights, average or optimiser differ from those of the undisturbed run"
        )
        assert read_log(whole) == read_log(killed), f"the logs differ:\n{read_log(whole)}\n{read_log(killed)}"

    yield (
        "killed twice by SIGKILL and resumed: weights, average, optimiser and log are those of an undisturbed run, to the bit",
        kill,
    )

    def interval():
        out = folder / "interval"
        code = (
            f"import os, signal, sys, json\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport test_train, autoddpm.train as t\nstep = t.Run.train_step\n"
            "def killing(self, images):\n    if self.step == 7: os.kill(os.getpid(), signal.SIGKILL)\n    return step(self, images)\n"
            f"t.Run.train_step = killing\ntest_train.work(test_train.Path({str(out)!r}), '{{}}')"
        )
        run = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
        assert run.returncode == -signal.SIGKILL, f"exit code {run.returncode}: {run.stderr[-1000:]}"
        assert state(out)["step"] == 4, (
            f"killed after 7 steps, with a checkpoint every {INTERVAL}, it kept step {state(out)['step']}"
        )

    yield f"killed after 7 steps with a checkpoint every {INTERVAL}: step 4 is kept", interval

    def processes():
        finished(train(two, processes=2))
        told = [json.loads((two / f"process{k}.json").read_text(encoding="utf-8")) for k in range(2)]
        assert told == [dict(processes=2)] * 2, f"the processes say {told}"
        a, b = state(whole), state(two)
        first = first_network().state_dict()
        apart, moved = (
            torch.stack([(a["network"][key] - other[key]).norm() for key in first]).norm().item()
            for other in (b["network"], first)
        )
        assert moved > 0 and apart / moved < CLOSE, f"weights differ by {apart / moved:.1e} of the way they moved"
        off = max(abs(p[key] - q[key]) for p, q in zip(read_log(whole), read_log(two), strict=True) for key in p)
        assert off < 1e-4, f"losses in the log differ by up to {off:.1e}"
        print(
            f"       two processes against one: weights differ by {apart / moved:.1e} of the way they moved, logged losses by at most {off:.1e}"
        )

    yield (
        f"torchrun with two processes: both train, and the weights are those of one process to within {CLOSE:.1%} of the way they moved",
        processes,
    )


def main() -> tuple:  # (passed, failed)
    with tempfile.TemporaryDirectory() as scratch:
        return keep(steps(Path(scratch)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(min(main()[1], 1))
