"""One small training on phantoms, a process of its own: `python train_worker.py FOLDER '{"steps": 30}' [KILLED_AT]`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from autoddpm import train
from autoddpm.ddpm import DDPM
from autoddpm.phantom import head_phantom
from autoddpm.unet import UNet


def first_network() -> UNet:
    torch.manual_seed(0)
    return UNet(channels=(16, 16), attention=(False, True), num_head_channels=16, patch_size=4, norm_num_groups=8)


def be_killed_at(step: int):
    "Without a warning, before a step."
    take_step = train.Training.train_step

    def train_step(self, images, heights):
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(self, images, heights)

    train.Training.train_step = train_step


def main(out: Path, settings: dict):
    torch.set_num_threads(1)
    slices = torch.stack([head_phantom(seed)[0] for seed in range(15)])
    ddpm = DDPM(first_network(), max_level=299)
    train.fit(ddpm, slices[:12], slices[12:], train.TrainSettings(**settings), out, progress=False)
    state = PartialState()
    told = json.dumps(dict(processes=state.num_processes))
    (out / f"process{state.process_index}.json").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[3:]:
        be_killed_at(int(sys.argv[3]))
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
