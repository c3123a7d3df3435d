"""Diffusion models of MONAI and diffusers: what they predict and where their walks end, against the libraries' own."""

import math

import pytest
import torch
from torch import nn

from autoddpm import AnoDDPM, AutoDDPM
from autoddpm.adapters import adapt, read_scheduler
from autoddpm.schedule import Schedule, eps_from_x0, q_sample

RANGES = ((0, 1), (-1, 1))
KINDS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}
MONAI = {"linear": "linear_beta", "scaled_linear": "scaled_linear_beta", "cosine": "cosine"}
DIFFUSERS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
LEVELS, BETAS = 25, dict(beta_start=3e-3, beta_end=0.6)
ALL = ("monai", "generative", "diffusers")


def scheduler_of(library: str, sampler: str, schedule: str, **more):
    "A scheduler of a library, by our names."
    made = pytest.importorskip(
        "diffusers" if library == "diffusers" else f"{library}.networks.schedulers",
        reason=f"{library} is not installed",
    )
    betas = {} if schedule == "cosine" else BETAS
    names = dict(beta_schedule=DIFFUSERS[schedule]) if library == "diffusers" else dict(schedule=MONAI[schedule])
    return getattr(made, f"{sampler.upper()}Scheduler")(LEVELS, **names, **betas | more)


class Denoiser(nn.Module):
    "A network at once, whose guess of the clean image often leaves the range of images."

    def __init__(self, scheduler, prediction):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.prediction, self.schedule = prediction, Schedule.from_alpha_bar(scheduler.alphas_cumprod)

    def forward(self, y, t):
        x0 = 1.5 * torch.tanh(y + self.conv(y))
        eps = eps_from_x0(self.schedule, y, t, x0)
        v = self.schedule.signal(t, y) * eps - self.schedule.noise(t, y) * x0
        return dict(epsilon=eps, sample=x0, v_prediction=v)[self.prediction]


def their_walk(net, scheduler, y, levels, **step):
    "The library's own loop, in the network's range."
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        for t in levels:
            output = net(y, torch.full((len(y),), t))
            output = output if torch.is_tensor(output) else output.sample
            stepped = scheduler.step(output, t, y, generator=generator, **step)
            y = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
    return y


def both_walks(net, scheduler, value_range, levels, sampler, **step) -> tuple:
    "Where ours and theirs end, in the network's range, from the same noisy image and the same noise."
    model, facts = adapt(net, scheduler, value_range=value_range), read_scheduler(scheduler, value_range)
    eps = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    x0 = torch.rand(eps.shape, generator=torch.Generator().manual_seed(2))
    low, high = value_range
    y = q_sample(facts.schedule, low + (high - low) * x0, levels[0], eps)
    xt = q_sample(model.schedule, x0, levels[0], eps)
    calls = None if len(levels) == levels[0] + 1 else len(levels)
    generators = [torch.Generator().manual_seed(1)]
    ours = model.denoise(xt, levels[0], generators, sampler, calls, clip=facts.clip)
    return low + (high - low) * ours, their_walk(net, scheduler, y, levels, **step)


def walks(library: str):
    "Settings of every walk that a library can take."
    for sampler in ("ddpm", "ddim"):
        for schedule in DIFFUSERS:
            if (library, schedule) == ("generative", "cosine"):
                continue  # refused: it has no noise at level 0
            for kind in KINDS:
                for value_range in RANGES:
                    for clip in (True, False):
                        if clip and sampler == "ddim" and library != "diffusers":
                            continue  # MONAI's step keeps the noise of the prediction before it was clipped
                        yield sampler, schedule, kind, value_range, clip


def largest_difference(library, sampler, schedule, kind, value_range, clip) -> float:
    scheduler = scheduler_of(library, sampler, schedule, prediction_type=kind, clip_sample=clip)
    scheduler.set_timesteps(LEVELS)
    again = dict(use_clipped_model_output=True) if (library, sampler) == ("diffusers", "ddim") else {}
    net, levels = Denoiser(scheduler, kind), range(LEVELS - 1, -1, -1)
    ours, theirs = both_walks(net, scheduler, value_range, levels, sampler, **again)
    assert theirs.std() > 0.1
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("library", ALL)
def test_whole_walks_end_where_those_of_the_library_end(library):
    differences = {setting: largest_difference(library, *setting) for setting in walks(library)}
    for setting, value in differences.items():
        print(*setting, f"{value:.1e}")
    assert max(differences.values()) < 1e-4, max(differences.items(), key=lambda item: item[1])
