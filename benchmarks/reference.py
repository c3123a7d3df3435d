"""AutoDDPM as a straightforward script does it: one slice at a time, with NumPy arrays and noise on the host.

Written from the formulas, with the network and the LPIPS weights of the package; every coefficient is looked up when it
is needed. `run.py` times the package against it and checks that both give the same maps.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import maximum_filter

from autoddpm.perceptual import lpips_distance
from autoddpm.unet import UNet

BETAS = np.linspace(1e-4, 2e-2, 1000)
ALPHA_BAR = np.cumprod(1 - BETAS)


class PlainUpsample(torch.nn.Module):
    "Repeat each pixel, then convolve."

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def plain_network(unet: UNet) -> UNet:
    "A copy of a network in contiguous float32, with the up-sampling spelled out."
    plain = UNet(**unet.config)
    plain.load_state_dict(unet.state_dict())
    for block in plain.up_blocks:
        if block.upsampler is not None:
            block.upsampler = PlainUpsample(block.upsampler.conv)
    return plain.to(next(unet.parameters()).device, memory_format=torch.contiguous_format).eval().requires_grad_(False)


class PlainTraining:
    "The training loop of a tutorial: Adam, gradient clipping and a moving average, parameter by parameter."

    def __init__(self, unet: UNet):
        device = next(unet.parameters()).device
        self.unet, self.average = (plain_network(unet).requires_grad_(True).train() for _ in range(2))
        self.optimizer = torch.optim.Adam(self.unet.parameters(), lr=1e-4, foreach=False, fused=False)
        self.alpha_bar = torch.tensor(ALPHA_BAR, device=device, dtype=torch.float32)

    def step(self, x0):
        t = torch.randint(0, 1000, (len(x0),), device=x0.device)
        eps, signal = torch.randn_like(x0), self.alpha_bar[t].view(-1, 1, 1, 1)
        xt = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
        loss = F.mse_loss(self.unet(xt, t), eps)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.unet.parameters()):
                kept.mul_(0.999).add_(new, alpha=0.001)


def alpha_bar(t: int) -> float:
    return float(ALPHA_BAR[t]) if t >= 0 else 1.0


def q_sample(x: np.ndarray, t: int, eps: np.ndarray) -> np.ndarray:
    return alpha_bar(t) ** 0.5 * x + (1 - alpha_bar(t)) ** 0.5 * eps


def predict_x0(unet, xt: np.ndarray, t: int) -> np.ndarray:
    "The clean image that the network sees in `xt`."
    device = next(unet.parameters()).device
    with torch.no_grad():
        eps = unet(torch.from_numpy(xt)[None, None].to(device), torch.tensor([t], device=device))[0, 0].cpu().numpy()
    return np.clip((xt - (1 - alpha_bar(t)) ** 0.5 * eps) / alpha_bar(t) ** 0.5, 0, 1)


def p_sample(xt: np.ndarray, t: int, s: int, x0: np.ndarray, draw, eta: float) -> np.ndarray:
    "From level `t` to level `s`: ancestral (eta 1) or DDIM (eta 0)."
    a_t, a_s = alpha_bar(t), alpha_bar(s)
    sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)) ** 0.5
    direction = (xt - a_t**0.5 * x0) / (1 - a_t) ** 0.5
    mean = a_s**0.5 * x0 + (1 - a_s - sigma**2) ** 0.5 * direction
    return mean + sigma * draw() if sigma > 0 else mean


def coarse_pass(unet, x: np.ndarray, levels: list, draw, sampler: str) -> np.ndarray:
    "Down the levels; dpm++ extrapolates the guess from the last two, in half the logarithm of signal over noise."

    def half_log(t):
        return 0.5 * math.log(alpha_bar(t) / (1 - alpha_bar(t)))

    xt, before = q_sample(x, levels[0], draw()), None
    for r, t, s in zip([None] + levels, levels, levels[1:] + [-1]):
        x0 = ahead = predict_x0(unet, xt, t)
        if sampler == "dpm++" and before is not None and s >= 0:
            ahead = x0 + (half_log(s) - half_log(t)) / (2 * (half_log(t) - half_log(r))) * (x0 - before)
        xt, before = p_sample(xt, t, s, ahead, draw, 0.0 if sampler == "ddim" else 1.0), x0
    return np.clip(xt, 0, 1)


def likelihood(x: np.ndarray, x_ph: np.ndarray, device) -> np.ndarray:
    residual = np.abs(x - x_ph)
    scaled = np.minimum(residual / max(float(np.percentile(residual, 95)), 1e-6), 1)

    def batch(image):
        return torch.from_numpy(image)[None, None].to(device)

    return scaled * lpips_distance(batch(x), batch(x_ph))[0, 0].cpu().numpy()


def resample(unet, x: np.ndarray, x_ph: np.ndarray, mask: np.ndarray, levels: list, repeats: int, draw) -> np.ndarray:
    xt = q_sample(x_ph, levels[0], draw())
    for t, below in zip(levels, levels[1:] + [0]):
        for repeat in range(repeats):
            s = -1 if below == 0 and repeat == repeats - 1 else below
            inside = p_sample(xt, t, s, predict_x0(unet, xt, t), draw, 1.0)
            outside = q_sample(x, s, draw()) if s >= 0 else x
            xt = np.where(mask, inside, outside)
            if repeat < repeats - 1:
                kept = alpha_bar(t) / alpha_bar(below)
                xt = kept**0.5 * xt + (1 - kept) ** 0.5 * draw()
    return np.clip(xt, 0, 1)


def detect(
    unet,  # as from `plain_network`
    x: np.ndarray,  # one scan [H,W] float32 in [0,1]
    coarse_levels: list,  # falling, to 0
    resample_levels: list,  # falling, all above 0
    repeats: int,  # network calls a re-sampling level
    draw,  # function of a stage, "coarse" or "resample", that gives a function that draws noise [H,W] float32
    sampler: str = "ddpm",  # of the coarse pass: ddpm, ddim or dpm++
) -> tuple:  # coarse image, mask, restored image, anomaly map, each [H,W]
    "The three stages for one slice; the mask is cut at the slice's 95th percentile."
    x_ph = coarse_pass(unet, x, coarse_levels, draw("coarse"), sampler)
    unlikely = likelihood(x, x_ph, next(unet.parameters()).device)
    mask = maximum_filter(unlikely > np.percentile(unlikely, 95), size=3)
    restored = resample(unet, x, x_ph, mask, resample_levels, repeats, draw("resample"))
    return x_ph, mask, restored, np.abs(x - restored) * unlikely
