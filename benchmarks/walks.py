"""Where our walks end and how long they take, against MONAI and diffusers: the same network, calls and noise.

Writes `walks.md` beside this script; `python tools/fill_docs.py` puts it into docs/own_model.md. Both libraries have to
be installed (`pip install 'autoddpm[monai,diffusers]'`).
"""

import argparse
import itertools
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from denoiser import Denoiser
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from diffusers import DDIMScheduler as DiffusersDDIM
from diffusers import DDPMScheduler as DiffusersDDPM
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler as MonaiDDIM
from monai.networks.schedulers import DDPMScheduler as MonaiDDPM
from run import facts, seconds
from threadpoolctl import threadpool_limits

from autoddpm.adapters import adapt, read_scheduler
from autoddpm.schedule import Schedule, p_mean_variance, q_sample

SCHEDULERS = dict(monai=dict(ddpm=MonaiDDPM, ddim=MonaiDDIM), diffusers=dict(ddpm=DiffusersDDPM, ddim=DiffusersDDIM))
SCHEDULES = dict(  # our name -> theirs
    linear=dict(monai="linear_beta", diffusers="linear"),
    scaled_linear=dict(monai="scaled_linear_beta", diffusers="scaled_linear"),
    cosine=dict(monai="cosine", diffusers="squaredcos_cap_v2"),
)
KINDS = ("epsilon", "sample", "v_prediction")
RANGES = ((0, 1), (-1, 1))
BETAS = {25: dict(beta_start=3e-3, beta_end=0.6), 1000: dict(beta_start=1e-4, beta_end=0.02)}  # by number of levels
ETA = dict(ddpm=1.0, ddim=0.0)
SIZE = 32  # pixels a side of the images that are timed


class Setting(NamedTuple):
    "What a walk is made of; nothing is clipped."

    library: str
    sampler: str
    schedule: str
    kind: str  # of prediction
    value_range: tuple
    levels: int  # all of them are visited


# -- where walks end


def scheduler_of(s: Setting, exact: bool = False):
    "A scheduler of the library; `exact` computes its tables in float64 from the `alphas_cumprod` that it has."
    betas = {} if s.schedule == "cosine" else BETAS[s.levels]
    key = "schedule" if s.library == "monai" else "beta_schedule"
    names = {key: SCHEDULES[s.schedule][s.library]} | dict(prediction_type=s.kind, clip_sample=False)
    scheduler = SCHEDULERS[s.library][s.sampler](s.levels, **names, **betas)
    if exact:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.betas = Schedule.from_alpha_bar(scheduler.alphas_cumprod).betas
        scheduler.alphas = 1 - scheduler.betas
        scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(s.levels)
    return scheduler


def start(schedule, value_range: tuple, level: int, dtype: torch.dtype) -> torch.Tensor:
    "A noisy image of a range, the same for all schedules of it but for the share of noise."
    eps = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    x0, (low, high) = torch.rand(eps.shape, generator=torch.Generator().manual_seed(2)).to(dtype), value_range
    return q_sample(schedule, low + (high - low) * x0, level, eps)


@torch.inference_mode()
def their_walk(s: Setting, net, scheduler, dtype: torch.dtype) -> torch.Tensor:
    "The library's steps, in the network's range."
    generator = torch.Generator().manual_seed(1)
    y = start(read_scheduler(scheduler, s.value_range).schedule, s.value_range, s.levels - 1, dtype)
    for t in range(s.levels - 1, -1, -1):
        stepped = scheduler.step(net(y, torch.full((1,), t)), t, y, generator=generator)
        y = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
    return y


def in_range(x: torch.Tensor, value_range: tuple) -> torch.Tensor:
    low, high = value_range
    return low + (high - low) * x


def our_walk(s: Setting, net, scheduler) -> torch.Tensor:
    "`DDPM.denoise` of the adapted network, its result in the network's range."
    model, generators = adapt(net, scheduler, value_range=s.value_range), [torch.Generator().manual_seed(1)]
    xt, clip = start(model.schedule, (0, 1), s.levels - 1, torch.float32), read_scheduler(scheduler, s.value_range).clip
    return in_range(model.denoise(xt, s.levels - 1, generators, s.sampler, clip=clip), s.value_range)


@torch.inference_mode()
def our_exact_walk(s: Setting, net, scheduler, noise: torch.dtype) -> torch.Tensor:
    "The same steps in float64, with noise drawn in a type of its own."
    model, generator = adapt(net, scheduler, value_range=s.value_range), torch.Generator().manual_seed(1)
    xt = start(model.schedule, (0, 1), s.levels - 1, torch.float64)
    for t in range(s.levels - 1, -1, -1):
        x0 = model.x0_from_output(xt, t, model.unet(xt, torch.full((1,), t)))
        xt, sigma = p_mean_variance(model.schedule, xt, t, t - 1, x0, ETA[s.sampler])
        if sigma > 0:
            xt = xt + sigma * torch.randn(xt.shape, generator=generator, dtype=noise)
    return in_range(xt, s.value_range)


def differences(s: Setting) -> dict:
    "Largest differences of the ends of both walks, of each from its exact end, and of both in float64."
    plain, exact = scheduler_of(s), scheduler_of(s, exact=True)
    net, exact_net = Denoiser(plain, s.kind), Denoiser(plain, s.kind).double()
    ours, theirs = our_walk(s, net, plain), their_walk(s, net, plain, torch.float32)
    end = our_exact_walk(s, exact_net, exact, torch.float32)
    both = [
        our_exact_walk(s, exact_net, exact, torch.float64),
        their_walk(s, exact_net, exact, torch.float64),
    ]
    pairs = dict(apart=(ours, theirs), ours=(ours, end), theirs=(theirs, end), in_float64=both)
    return {name: (a - b).abs().max().item() for name, (a, b) in pairs.items()}


# -- how long they take


def network(library: str):
    "An untrained U-Net of a library, no branch of which is silent."
    torch.manual_seed(0)
    if library == "monai":
        shape = dict(channels=(16, 32), attention_levels=(False, True), num_head_channels=16, num_res_blocks=1)
        net = DiffusionModelUNet(spatial_dims=2, in_channels=1, out_channels=1, norm_num_groups=8, **shape)
    else:
        down, up = ["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D"]
        shape = dict(block_out_channels=(16, 32), down_block_types=down, up_block_types=up, attention_head_dim=16)
        net = UNet2DModel(
            sample_size=SIZE, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8, **shape
        )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape) * (1.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2))
    return net.eval()


def monai_sampler(net, scheduler):
    "MONAI's inferer; it draws from the global generator."
    inferer = DiffusionInferer(scheduler)

    def sample(y, seed):
        torch.manual_seed(seed)
        y = inferer.sample(input_noise=y, diffusion_model=net, scheduler=scheduler, verbose=False)
        return y.clamp(-1, 1) / 2 + 0.5

    return sample


def diffusers_sampler(net, scheduler):
    "The pipeline of diffusers, which draws its first image by the generator of the noise."
    ddim = isinstance(scheduler, DiffusersDDIM)
    pipeline = (DDIMPipeline if ddim else DDPMPipeline)(net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    settings = dict(output_type="np", return_dict=False, num_inference_steps=len(scheduler.timesteps))

    def sample(y, seed):
        generator = torch.Generator().manual_seed(seed)
        images = pipeline(len(y), generator, **settings | (dict(eta=0.0) if ddim else {}))[0]
        return torch.from_numpy(images).movedim(-1, 1)

    return sample


def our_sampler(net, scheduler, sampler: str, drawn: bool):
    "`DDPM.denoise` from pure noise in the network's range; `drawn`: by the generator of the noise."
    model, clip = adapt(net, scheduler, value_range=(-1, 1)), read_scheduler(scheduler, (-1, 1)).clip
    level, calls = int(scheduler.timesteps[0]), len(scheduler.timesteps)
    s, n = (table(level, torch.empty(0)) for table in (model.unet.own.signal, model.unet.own.noise))

    def sample(y, seed):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(y.shape, generator=generator) if drawn else y
        xt = (y + s) / (4 * s**2 + n**2) ** 0.5
        return model.denoise(xt, level, [generator] * len(y), sampler, calls, clip).clamp(0, 1)

    return sample


def in_pairs(ours, theirs, rounds: int) -> dict:
    "Medians of both and quartiles of their ratio, turn by turn, each first in every other turn; the first warms up."
    spent = []
    for k in range(rounds + 1):
        pair = [seconds(task, "cpu") for task in ((ours, theirs) if k % 2 else (theirs, ours))]
        spent.append(pair if k % 2 else pair[::-1])
    spent = np.array(spent[1:])  # [rounds, ours and theirs, clock and CPU time]
    clock, work = np.moveaxis(spent[:, 0] / spent[:, 1], -1, 0)
    low, ratio, high = np.quantile(clock, (0.25, 0.5, 0.75))
    (mine, other), by_work = np.median(spent[..., 0], axis=0), np.median(work)
    return dict(ours=mine, theirs=other, ratio=ratio, low=low, high=high, work=by_work)


def timed(library: str, sampler: str, rounds: int, calls: int) -> dict:
    "Seconds of both for the same image, and how far apart it is."
    key = "schedule" if library == "monai" else "beta_schedule"
    strided = (library, sampler) == ("diffusers", "ddim")  # MONAI steps to levels other than those it goes on from
    levels = 1000 if strided else calls
    names = {key: SCHEDULES["scaled_linear"][library], "prediction_type": "sample", "clip_sample": False}
    scheduler = SCHEDULERS[library][sampler](levels, beta_start=3e-3, beta_end=0.02, **names)
    scheduler.set_timesteps(calls)
    net, y = network(library), torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    theirs = (monai_sampler if library == "monai" else diffusers_sampler)(net, scheduler)
    ours = our_sampler(net, scheduler, sampler, drawn=library == "diffusers")
    apart = (ours(y, 0) - theirs(y, 0)).abs().max().item()
    return in_pairs(partial(ours, y, 0), partial(theirs, y, 0), rounds) | dict(apart=apart)


# -- the page

ENDS = """\
**Where walks end.** Largest difference of a pixel between our walk and the library's own loop, from the same noisy
image with the same noise, in the network's range, nothing clipped.
"""
EXACT = """\
**What the differences are.** The largest of the above; how far each of the two is from the same walk in float64; and
how far the two are apart when both run in float64.
"""
TIME = """\
**How long they take.** MONAI's `DiffusionInferer` and the pipelines of diffusers against `DDPM.denoise`, one image
in [0,1], from the same noise, {rounds} turns of both in one process. Seconds are medians; a ratio is the median of the
turns' ratios, below 1 where ours is the faster, with quartiles, since what else the machine does meets both."""


def table(head: list, rows: list) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def parity_tables(found: dict) -> list:
    "Every walk, and what the largest differences come from."
    columns = list(itertools.product(BETAS, RANGES))
    names = [f"{levels} levels, [{low},{high}]" for levels, (low, high) in columns]
    rows = [
        [*walk, *(f"{found[Setting(*walk, value_range, levels)]['apart']:.1e}" for levels, value_range in columns)]
        for walk in dict.fromkeys(s[:4] for s in found)
    ]
    head = ["library", "sampler", "schedule", "prediction"]
    largest = []
    for library, sampler, levels in itertools.product(SCHEDULERS, ETA, BETAS):
        those = [d for s, d in found.items() if (s.library, s.sampler, s.levels) == (library, sampler, levels)]
        most = [f"{max(d[name] for d in those):.1e}" for name in ("apart", "ours", "theirs", "in_float64")]
        largest.append([library, sampler, levels, *most])
    why = ["library", "sampler", "levels", "apart", "ours from exact", "theirs from exact", "apart in float64"]
    return [table([*head, *names], rows), table(why, largest)]


def speed_table(found: dict) -> str:
    head = ["threads", "sampler", "calls", "ours", "theirs", "time ratio", "by CPU time", "apart"]
    rows = [
        [threads, f"{library}, {sampler}", calls, f"{t['ours']:.3f} s", f"{t['theirs']:.3f} s"]
        + [f"{t['ratio']:.2f} ({t['low']:.2f} to {t['high']:.2f})", f"{t['work']:.2f}", f"{t['apart']:.1e}"]
        for (threads, library, sampler, calls), t in found.items()
    ]
    return table(head, rows)


def measure_speed(threads: list, rounds: int, calls: int) -> dict:
    found = {}
    for n, library, sampler in itertools.product(threads, SCHEDULERS, ETA):
        torch.set_num_threads(n)
        with threadpool_limits(n):
            found[n, library, sampler, calls] = timed(library, sampler, rounds, calls)
        print(n, library, sampler, found[n, library, sampler, calls], flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only walks of 25 levels, one round of timing")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="turns of each timing (default: 60)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: walks.md beside this script")
    asked = parser.parse_args()
    settings = itertools.starmap(
        Setting,
        itertools.product(SCHEDULERS, ETA, SCHEDULES, KINDS, RANGES, [25] if asked.quick else BETAS),
    )
    parity = {s: differences(s) for s in settings}
    print(max((d["apart"], s) for s, d in parity.items()), flush=True)
    speed = measure_speed(asked.threads, 1 if asked.quick else asked.rounds, 5 if asked.quick else 25)
    if asked.quick and not asked.out:
        return
    machine = facts()
    where = f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, autoddpm {machine['code']}"
    ends, exact = parity_tables(parity)
    parts = [
        ENDS,
        ends,
        EXACT,
        exact,
        f"{TIME.format(rounds=asked.rounds)} Measured on: {where}, load {os.getloadavg()[0]:.1f}.\n",
        speed_table(speed),
    ]
    (asked.out or Path(__file__).with_suffix(".md")).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
