"""Diffusion models of MONAI and diffusers: what they predict and where their walks end, against the libraries' own."""

import importlib
import math

import pytest
import torch
from typer.testing import CliRunner

from autoddpm import AnoDDPM, AutoDDPM
from autoddpm.adapters import adapt, read_scheduler
from autoddpm.calibrate import calibrate
from autoddpm.cli import app
from autoddpm.ddpm import DDPM, load_ddpm
from autoddpm.detect import Detection
from autoddpm.exports import AnomalibResult, to_anomalib, to_diffusers, to_monai
from autoddpm.schedule import Schedule, p_mean_variance, q_sample
from autoddpm.train import TrainSettings, fit, new_ddpm
from autoddpm.unet import UNet
from benchmarks.denoiser import Denoiser

RANGES = ((0, 1), (-1, 1))
KINDS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}
MONAI = {"linear": "linear_beta", "scaled_linear": "scaled_linear_beta", "cosine": "cosine"}
DIFFUSERS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
LEVELS, BETAS = 25, dict(beta_start=3e-3, beta_end=0.6)
ALL = ("monai", "generative", "diffusers")


def scheduler_of(library: str, sampler: str, schedule: str, levels: int = LEVELS, **more):
    "A scheduler of a library, by our names."
    if library == "generative":
        config = pytest.importorskip("monai.config", reason="monai is not installed")
        config.IgniteInfo = importlib.import_module("monai.utils").IgniteInfo  # where monai-generative 0.2.3 seeks it
    made = pytest.importorskip(
        "diffusers" if library == "diffusers" else f"{library}.networks.schedulers",
        reason=f"{library} is not installed",
    )
    betas = {} if schedule == "cosine" else BETAS
    names = dict(beta_schedule=DIFFUSERS[schedule]) if library == "diffusers" else dict(schedule=MONAI[schedule])
    return getattr(made, f"{sampler.upper()}Scheduler")(levels, **names, **betas | more)


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
        print(f"{value:.1e}", library, *setting)
    assert max(differences.values()) < 1e-4, max(differences.items(), key=lambda item: item[1])


def exact_scheduler(library, sampler, schedule, **more):
    "A scheduler whose tables are computed in float64 from its own `alphas_cumprod`."
    scheduler = scheduler_of(library, sampler, schedule, clip_sample=False, **more)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.betas = Schedule.from_alpha_bar(scheduler.alphas_cumprod).betas
    scheduler.alphas = 1 - scheduler.betas
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(LEVELS)
    return scheduler


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", DIFFUSERS)
@pytest.mark.parametrize("sampler, eta", [("ddpm", 1.0), ("ddim", 0.0)])
@pytest.mark.parametrize("library", ["monai", "diffusers"])
def test_walks_in_float64_are_the_same(library, sampler, eta, schedule, kind, value_range):
    scheduler = exact_scheduler(library, sampler, schedule, prediction_type=kind)
    net = Denoiser(scheduler, kind).double()
    model, generator = adapt(net, scheduler, value_range=value_range), torch.Generator().manual_seed(1)
    x0 = torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps, (low, high) = (
        torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        value_range,
    )
    y = q_sample(read_scheduler(scheduler).schedule, low + (high - low) * x0, LEVELS - 1, eps)
    theirs, xt = their_walk(net, scheduler, y, range(LEVELS - 1, -1, -1)), q_sample(model.schedule, x0, LEVELS - 1, eps)
    with torch.inference_mode():
        for t in range(LEVELS - 1, -1, -1):
            predicted = model.x0_from_output(xt, t, model.unet(xt, torch.full((1,), t)))
            xt, sigma = p_mean_variance(model.schedule, xt, t, t - 1, predicted, eta)
            if sigma > 0:
                xt = xt + sigma * torch.randn(xt.shape, dtype=xt.dtype, generator=generator)
    assert (low + (high - low) * xt - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("library", ["monai", "diffusers"])
def test_a_walk_of_a_thousand_levels(library):
    scheduler = scheduler_of(library, "ddpm", "linear", levels=1000, beta_start=1e-4, beta_end=0.02)
    if library == "monai":  # in float32, 1 - 0.9999 is so coarse that its last step shrinks images by 0.02 %
        scheduler.alphas = 1 - scheduler.betas.double()
        scheduler.betas, scheduler.alphas_cumprod = 1 - scheduler.alphas, scheduler.alphas.cumprod(0)
    ours, theirs = both_walks(Denoiser(scheduler, "epsilon"), scheduler, (-1, 1), range(999, -1, -1), "ddpm")
    assert (ours - theirs).abs().max() < 1e-4


def test_strided_walks_end_where_those_of_diffusers_end():
    ddpm = scheduler_of("diffusers", "ddpm", "linear", timestep_spacing="linspace")
    ddpm.set_timesteps(7)
    ours, theirs = both_walks(Denoiser(ddpm, "epsilon"), ddpm, (-1, 1), ddpm.timesteps.tolist(), "ddpm")
    assert (ours - theirs).abs().max() < 1e-4
    ddim = scheduler_of("diffusers", "ddim", "linear", clip_sample=False)
    ddim.set_timesteps(5)  # strides of 5
    ours, theirs = both_walks(Denoiser(ddim, "epsilon"), ddim, (-1, 1), ddim.timesteps.tolist(), "ddim")
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_a_walk_from_a_level_without_signal(kind):
    scheduler = scheduler_of("diffusers", "ddim", "linear", prediction_type=kind, rescale_betas_zero_snr=True)
    scheduler.set_timesteps(LEVELS)
    assert scheduler.alphas_cumprod[-1] == 0
    levels, again = range(LEVELS - 1, -1, -1), dict(use_clipped_model_output=True)
    for value_range in RANGES:
        ours, theirs = both_walks(Denoiser(scheduler, kind), scheduler, value_range, levels, "ddim", **again)
        assert (ours - theirs).abs().max() < 1e-4


def test_noise_predicted_at_a_level_without_signal_says_nothing():
    scheduler = scheduler_of("diffusers", "ddpm", "linear", rescale_betas_zero_snr=True)
    assert adapt(lambda y, t: y, scheduler).max_level == LEVELS - 2
    with pytest.raises(ValueError, match=f"max_level {LEVELS - 1}"):
        adapt(lambda y, t: y, scheduler, max_level=LEVELS - 1)


def network_of(library: str, dimensions: int = 2, conditional: bool = False):
    "A small U-Net of a library, no branch of which is silent."
    torch.manual_seed(0)
    if library == "diffusers":
        made = pytest.importorskip("diffusers", reason="diffusers is not installed").UNet2DModel(
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=["DownBlock2D", "AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D", "UpBlock2D"],
            norm_num_groups=8,
            num_class_embeds=3 if conditional else None,
        )
    else:
        pytest.importorskip("einops", reason="einops, which attention of MONAI needs, is not installed")
        made = pytest.importorskip(f"{library}.networks.nets", reason=f"{library} is not installed")
        shape = {"channels" if library == "monai" else "num_channels": (16, 32)}
        made = made.DiffusionModelUNet(
            spatial_dims=dimensions,
            in_channels=1,
            out_channels=1,
            attention_levels=(False, True),
            num_head_channels=16,
            num_res_blocks=1,
            norm_num_groups=8,
            num_class_embeds=3 if conditional else None,
            **shape,
        )
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape) * (0.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2))
    return made.eval()


@pytest.mark.parametrize("library", ALL)
def test_networks_answer_and_walk_as_in_their_library(library):
    net, scheduler = network_of(library), scheduler_of(library, "ddpm", "linear")
    x, t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 17])
    with torch.inference_mode():
        output = net(x, t)
        assert torch.equal(adapt(net).predict(x, t), output if torch.is_tensor(output) else output.sample)
    for value_range in RANGES:
        ours, theirs = both_walks(net, scheduler, value_range, range(LEVELS - 1, -1, -1), "ddpm")
        assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("library", ["monai", "diffusers"])
def test_trained_in_a_library_and_used_for_autoddpm(library):
    net, scheduler = network_of(library), scheduler_of(library, "ddpm", "linear")
    generator = torch.Generator().manual_seed(0)
    healthy = torch.full((4, 1, 32, 32), 0.5) + 0.1 * torch.rand(4, 1, 1, 1, generator=generator)
    optimizer = torch.optim.Adam(net.train().parameters(), lr=5e-3)
    for _ in range(25):  # the library's own training, on flat images in [-1,1]
        t, noise = torch.randint(LEVELS, (4,), generator=generator), torch.randn(healthy.shape, generator=generator)
        output = net(scheduler.add_noise(2 * healthy - 1, noise, t), t)
        output = output if torch.is_tensor(output) else output.sample
        loss = (output - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scan = healthy[:1].clone()
    scan[:, :, 10:18, 10:18] = 1.0
    found = AutoDDPM.from_model(net, scheduler, value_range=(-1, 1)).detect(
        scan,
        noise_level_recon=12,
        noise_level_inpaint=6,
        inpaint_levels=3,
        resample_steps=1,
        masking_threshold="p95",
        progress=False,
    )
    inside = torch.zeros_like(scan, dtype=torch.bool)
    inside[:, :, 10:18, 10:18] = True
    assert not net.training
    assert found.anomaly_map[inside].mean() > 5 * found.anomaly_map[~inside].mean()


REFUSED = {
    "variance": (dict(variance_type="fixed_large"), "variance_type 'fixed_large'"),
    "learned variance": (dict(variance_type="learned_range"), "variance_type 'learned_range'"),
    "thresholding": (dict(thresholding=True), "thresholding"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_change_each_step_are_refused_by_name(kind):
    settings, reason = REFUSED[kind]
    with pytest.raises(ValueError) as refusal:
        read_scheduler(scheduler_of("diffusers", "ddpm", "linear", **settings))
    assert f"scheduler DDPMScheduler: {reason}" in str(refusal.value) and "\n" not in str(refusal.value)


def test_other_schedulers_networks_and_tables_are_refused_by_name():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    ddim, net = scheduler_of("diffusers", "ddim", "linear", set_alpha_to_one=False), network_of("diffusers")
    for scheduler, reason in (
        (diffusers.EulerDiscreteScheduler(), "scheduler EulerDiscreteScheduler: only DDPMScheduler and"),
        (ddim, "scheduler DDIMScheduler: set_alpha_to_one False"),
        (scheduler_of("generative", "ddpm", "cosine"), "scheduler DDPMScheduler: alphas_cumprod: give at least two"),
        (5, "scheduler int: only DDPMScheduler"),
        (Schedule, "scheduler type: only DDPMScheduler"),
    ):
        with pytest.raises(ValueError, match=reason):
            adapt(net, scheduler)
    conditional = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
    )
    for network, reason in (
        (conditional, "network UNet2DConditionModel: only DiffusionModelUNet and UNet2DModel"),
        (diffusers.DDPMPipeline(net, ddim), "network DDPMPipeline: .* give its .unet and its .scheduler"),
        (network_of("diffusers", conditional=True), "network UNet2DModel: it is conditional"),
        (network_of("monai", conditional=True), "network DiffusionModelUNet: it is conditional"),
        (network_of("monai", dimensions=3), "not for images of two dimensions"),
    ):
        with pytest.raises(ValueError, match=reason):
            adapt(network)


def test_a_subclass_and_half_the_bits_are_taken():
    net = network_of("monai")

    class Mine(type(net)):
        pass

    net.__class__ = Mine
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([3])
    full = adapt(net).predict(x, t)
    half = adapt(net.bfloat16()).predict(x, t)
    assert half.dtype == torch.float32
    assert torch.allclose(half, full, atol=0.1 * full.abs().max().item())


def test_a_function_is_enough_and_thresholds_hold_for_what_was_said():
    def net(y, t):
        return torch.zeros_like(y)

    chain = dict(noise_level_recon=20, steps=2, noise_level_inpaint=9, inpaint_levels=1, resample_steps=1)
    healthy = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    entries = calibrate(AutoDDPM.from_model(net), healthy, progress=False, **chain)
    found = AutoDDPM.from_model(net, calibration=entries).detect(healthy[:1], progress=False, **chain)
    assert found.record["weights"]["name"] == "net" and math.isfinite(found.score)
    with pytest.raises(ValueError, match="no calibrated likelihood threshold"):
        AutoDDPM.from_model(net, calibration=entries, value_range=(-1, 1)).detect(healthy[:1], progress=False, **chain)
    assert AnoDDPM.from_model(net).detect(healthy[:1], noise_level=5, progress=False).coarse.shape == (1, 1, 32, 32)


def test_a_training_keeps_its_schedule(tmp_path):
    def trained(start="", **known):
        unet = UNet(channels=(8, 16), attention=(False, False), num_head_channels=16, norm_num_groups=8)
        model = new_ddpm(start=start, max_level=99) if start else DDPM(unet, prediction="v", max_level=99, **known)
        settings = TrainSettings(steps=1, batch_size=2, validate_every=1)
        return fit(model, images, images, settings, tmp_path / (start and "on"), wandb_mode="disabled", progress=False)

    images, cosine = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)), Schedule(500, kind="cosine")
    best = str(trained(schedule=cosine))
    assert torch.equal(load_ddpm(best)[0].schedule.alpha_bar, cosine.alpha_bar)
    assert torch.equal(load_ddpm(str(trained(start=best)))[0].schedule.alpha_bar, cosine.alpha_bar)
    for other in (dict(), dict(schedule=Schedule(500))):
        with pytest.raises(ValueError, match="started with other settings .*schedule"):
            trained(**other)


def test_the_command_line_refuses_an_unknown_schedule(tmp_path):
    done = CliRunner().invoke(app, ["train", "simulated", "--out", str(tmp_path), "--schedule", "sqrt"])
    assert done.exit_code == 2 and "schedule 'sqrt': choose one of linear, scaled_linear, cosine" in done.stderr


@pytest.mark.parametrize("shape", [{}, dict(patch_size=2), dict(project_attention=True), dict(num_res_blocks=2)])
@pytest.mark.parametrize("export", [to_monai, to_diffusers])
def test_exported_networks_answer_as_ours(export, shape):
    needs = "einops" if export is to_monai else "diffusers"
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    torch.manual_seed(0)
    unet = UNet(channels=(16, 32), attention=(True, False), num_head_channels=16, norm_num_groups=8, **shape)
    with torch.no_grad():
        for p in unet.parameters():
            p.copy_(torch.randn(p.shape) * (p[0].numel() ** -0.5 if p.dim() > 1 else 0.2))
    model = DDPM(unet, prediction="v", max_level=299, schedule=Schedule(300, kind="cosine"))
    net, scheduler = export(model)
    back = adapt(net, scheduler)
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([7, 250])
    with torch.inference_mode():
        assert torch.allclose(back.predict(x, t), model.predict(x, t), atol=1e-4)
    assert (back.prediction, back.max_level) == ("v", 299)
    assert torch.allclose(back.schedule.alpha_bar, model.schedule.alpha_bar, atol=1e-6)


@pytest.mark.parametrize("threshold", [None, 0.9])
@pytest.mark.parametrize("masked", [True, False])
def test_anomalib_takes_our_results_as_they_are(threshold, masked):
    anomalib = pytest.importorskip("anomalib.data", reason="anomalib is not installed")
    x = torch.rand(2, 1, 40, 48)
    result = to_anomalib(Detection(x, x, x, x.amax((1, 2, 3)), mask=x > 0.5 if masked else None), threshold)
    assert AnomalibResult._fields == anomalib.InferenceBatch._fields
    batch = anomalib.ImageBatch(image=x.expand(-1, 3, -1, -1), **result._asdict())
    for name, ours in result._asdict().items():
        theirs = getattr(batch, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.dtype == theirs.dtype and torch.equal(ours, theirs.as_subclass(torch.Tensor)))
