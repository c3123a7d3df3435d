"""A network for comparing walks with those of MONAI and diffusers, in `walks.py` and in the tests."""

import torch
from torch import nn

from autoddpm.schedule import Schedule, eps_from_x0


class Denoiser(nn.Module):
    "A network at once, whose guess of the clean image often leaves the range of images."

    def __init__(self, scheduler, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.kind, self.schedule = kind, Schedule.from_alpha_bar(scheduler.alphas_cumprod)

    def forward(self, y, t):
        x0 = 1.5 * torch.tanh(y + self.conv(y))
        eps = eps_from_x0(self.schedule, y, t, x0)
        v = self.schedule.signal(t, y) * eps - self.schedule.noise(t, y) * x0
        return dict(epsilon=eps, sample=x0, v_prediction=v)[self.kind]
