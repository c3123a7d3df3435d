"""Images of any channels and any size: one channel as ever, several by the documented rule, each refusal by name."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from autoddpm import AnoDDPM, AutoDDPM, load_dataset
from autoddpm.adapters import adapt
from autoddpm.calibrate import calibrate
from autoddpm.cli import app
from autoddpm.ddpm import DDPM, load_ddpm
from autoddpm.detect import CHAINS
from autoddpm.exports import to_diffusers, to_monai
from autoddpm.maps import CoarseAutoDDPM
from autoddpm.perceptual import lpips_distance
from autoddpm.schedule import Schedule
from autoddpm.unet import UNet, load_checkpoint

QUICK = dict(noise_level_recon=20, steps=2, noise_level_inpaint=9, inpaint_levels=2, resample_steps=2)
ASKED = dict(masking_threshold="p95", progress=False)


def network(channels: int, patch_size: int = 1) -> UNet:
    "A small U-Net, no branch of which is silent; height and width have to be multiples of 4 times its patches."
    torch.manual_seed(0)
    unet = UNet(
        in_channels=channels,
        out_channels=channels,
        channels=(8, 16, 16),
        attention=(False, False, True),
        num_head_channels=16,
        patch_size=patch_size,
        norm_num_groups=8,
    )
    with torch.no_grad():
        for p in unet.parameters():
            p.copy_(torch.randn(p.shape) * (0.5 * p[0].numel() ** -0.5 if p.dim() > 1 else 0.2))
    return unet.eval().requires_grad_(False)


def pictures(*shape) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def one_channel(x, d) -> dict:
    "Likelihood, mask, map and score of one channel, as they were before there were several."
    residual = (x - d.coarse).abs()
    p95 = residual.flatten(1).quantile(0.95, dim=-1).clamp(min=1e-6)
    likelihood = (residual / p95.view(-1, 1, 1, 1)).clamp(max=1) * lpips_distance(x, d.coarse)
    above = likelihood > likelihood.flatten(1).quantile(0.95, dim=1).view(-1, 1, 1, 1)
    anomaly_map = (x - d.restored).abs() * likelihood
    mask = F.max_pool2d(above.float(), 3, stride=1, padding=1) > 0
    return dict(likelihood=likelihood, mask=mask, anomaly_map=anomaly_map, score=anomaly_map.flatten(1).amax(1))


def summary(d) -> list:
    stages = [d.coarse, d.restored, d.anomaly_map]
    return [d.score.sum().item(), *(stage.double().mean().item() for stage in stages)]


def found(chain: str):
    "One slice of the simulated cohort by the bundled weights."
    x = load_dataset("simulated")[29].image[None]
    if chain == "best":
        return CoarseAutoDDPM.from_pretrained().detect(x, progress=False)
    if chain == "anoddpm":
        return AnoDDPM.from_pretrained("ixi").detect(x, steps=12, progress=False)
    if chain == "paper":  # 451 calls of a small network
        return AutoDDPM(DDPM(network(1))).detect(pictures(1, 1, 32, 32), **ASKED)
    return AutoDDPM.from_pretrained("ixi").detect(x, progress=False, **CHAINS[chain])


# score and means of coarse, restored and final map, made by the code that knew one channel only
BEFORE = dict(
    paper=[0.099597, 0.50667, 0.49791, 0.003499],
    fast=[0.0843, 0.37957, 0.38305, 0.0011493],
    tuned=[0.099377, 0.38155, 0.38596, 0.0018541],
    best=[0.45167, 0.38857, 0.39052, 0.027253],
    anoddpm=[0.049437, 0.37957, 0.37957, 0.049437],
)


@pytest.mark.parametrize("chain", BEFORE)
def test_one_channel_gives_what_it_gave_before_there_were_several(chain):
    assert summary(found(chain)) == pytest.approx(BEFORE[chain], rel=1e-3)


def test_one_channel_is_the_old_formula_to_the_bit():
    x = pictures(2, 1, 32, 32)
    d = AutoDDPM(DDPM(network(1))).detect(x, **QUICK, **ASKED)
    for stage, expected in one_channel(x, d).items():
        assert torch.equal(getattr(d, stage), expected), stage
    a = AnoDDPM(DDPM(network(1))).detect(x, noise_level=20, steps=2, progress=False)
    assert torch.equal(a.anomaly_map, (x - a.coarse).abs())
    assert torch.equal(a.score, (x - a.coarse).abs().flatten(1).mean(1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_any_channels_and_any_size(channels, size):
    x, detector = pictures(2, channels, *size), AutoDDPM(DDPM(network(channels)))
    d = detector.detect(x, **QUICK, **ASKED)
    assert d.coarse.shape == d.stitched.shape == d.restored.shape == x.shape
    assert d.likelihood.shape == d.mask.shape == d.anomaly_map.shape == (2, 1, *size)
    outside = ~d.mask.expand_as(x)
    assert torch.equal(d.restored[outside], x[outside]) and torch.equal(d.stitched[outside], x[outside])
    assert (d.restored != x).any(1, keepdim=True)[d.mask].float().mean() > 0.9
    residual = sum((x - d.coarse).abs().unbind(1)) / channels
    p95 = residual.flatten(1).quantile(0.95, dim=1).view(-1, 1, 1)
    perceptual = sum(lpips_distance(x[:, [c]], d.coarse[:, [c]])[:, 0] for c in range(channels)) / channels
    likelihood = (residual / p95).clamp(max=1) * perceptual
    assert torch.allclose(d.likelihood[:, 0], likelihood, rtol=1e-4, atol=1e-6)
    anomaly_map = sum((x - d.restored).abs().unbind(1)) / channels * d.likelihood[:, 0]
    assert torch.allclose(d.anomaly_map[:, 0], anomaly_map, rtol=1e-4, atol=1e-6)
    alone = detector.detect(x[1:], **QUICK, **ASKED)
    assert torch.allclose(alone.anomaly_map, d.anomaly_map[1:], atol=1e-4)
    assert d.record.get("padded_to") == ([36, 48] if size == (33, 47) else None)


class PadsItself(torch.nn.Module):
    "A network that mirrors its images up to its multiple."

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, xt, t):
        height, width = xt.shape[2:]
        wide = F.pad(xt, (0, -width % 8, 0, -height % 8), mode="reflect")
        return self.unet(wide, t)[..., :height, :width]


@pytest.mark.parametrize("size", [(37, 100), (32, 61)])
def test_padding_is_the_networks_own_affair(size):
    x, unet = pictures(1, 2, *size), network(2, patch_size=2)
    inside, outside = (AutoDDPM(DDPM(n)).detect(x, **QUICK, **ASKED) for n in (unet, PadsItself(unet)))
    for stage in ("coarse", "likelihood", "mask", "restored", "anomaly_map", "score"):
        assert torch.equal(getattr(inside, stage), getattr(outside, stage)), stage
    assert "padded_to" in inside.record and "padded_to" not in outside.record


def test_512_pixels():
    d = AutoDDPM(DDPM(network(3, patch_size=8))).detect(pictures(1, 3, 500, 512), **QUICK, **ASKED)
    assert d.anomaly_map.shape == (1, 1, 500, 512) and d.anomaly_map.isfinite().all() and d.score > 0


@pytest.mark.parametrize("export", [to_monai, to_diffusers])
def test_networks_of_other_libraries_say_their_channels_and_multiple(export):
    needs = "einops" if export is to_monai else "diffusers"
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    for patch in (1, 2):
        model = DDPM(network(3, patch), max_level=299)
        model.unet.config["project_attention"] = False
        back, x = adapt(*export(model), max_level=299), pictures(1, 3, 33, 46)
        assert back.seen_size(x) == model.seen_size(x) == ((36, 48) if patch == 1 else (40, 48))
        with torch.inference_mode():
            t = torch.tensor([7])
            assert torch.allclose(back.predict(x, t), model.predict(x, t), atol=1e-4)
        with pytest.raises(ValueError, match="images of 1 channels: the network .* takes 3"):
            AutoDDPM.from_model(*export(model)).detect(x[:, :1], **QUICK, **ASKED)


def test_what_cannot_work_is_refused_before_anything_runs():
    class Unreachable(UNet):
        def forward(self, xt, t):
            raise AssertionError("it ran")

    heads = dict(norm_num_groups=8, num_head_channels=8)
    one = AutoDDPM(DDPM(Unreachable(channels=(8, 8), attention=(False, False), **heads), name="grey"))
    deep = AutoDDPM(DDPM(Unreachable(channels=(8,) * 8, attention=(False,) * 8, **heads), name="deep"))
    x = pictures(20, 1, 64, 64)
    nan = x.clone()
    nan[3, 0, 5, 5] = float("nan")
    for detector, images, reason in (
        (one, x.expand(-1, 3, -1, -1), "images of 3 channels: the network grey takes 1; choose other weights"),
        (one, x[..., :31], r"images of \(64, 31\) pixels: at least 32 x 32"),
        (deep, x, "images of 64 x 64 pixels: the network deep takes multiples of 128"),
        (one, nan, "NaN or infinite values"),
        (one, x + 1, r"values in \[1, 2\]"),
        (one, x[0], r"not \[B,C,H,W\]"),
    ):
        for run, options in ((detector.detect, ASKED), (partial(calibrate, detector), {})):
            with pytest.raises(ValueError, match=reason) as refusal:
                run(images, **QUICK, **options)
            assert "\n" not in str(refusal.value)
    for valid in (x[:, :, :32] > 0, x.expand(-1, 2, -1, -1) > 0, x, "skin"):
        with pytest.raises(ValueError, match="valid: .*give a tensor bool .20, 1, 64, 64., None for the whole frame"):
            calibrate(one, x, valid=valid, **QUICK)
    colours = dict(in_channels=3, out_channels=3, channels=(8, 8), attention=(False, False), **heads)
    three = AutoDDPM(DDPM(Unreachable(**colours)))
    with pytest.raises(ValueError, match="a head is looked for in slices of one; say which pixels count"):
        calibrate(three, x.expand(-1, 3, -1, -1), **QUICK)


def test_thresholds_in_valid_pixels_only():
    x, detector = pictures(20, 3, 33, 46), AutoDDPM(DDPM(network(3)))
    left = torch.zeros(20, 1, 33, 46, dtype=torch.bool)
    left[..., :10] = True
    both = [calibrate(detector, x, progress=False, valid=valid, **QUICK) for valid in (left, None)]
    for entries, valid in zip(both, (left, torch.ones_like(left))):
        threshold = entries[0]["targets"]["0.05"]["threshold"]
        detector.calibration = entries
        d = detector.detect(x, progress=False, **QUICK)
        assert d.record["settings"]["masking_threshold"] == threshold
        assert ((d.likelihood > threshold) & valid).sum() / valid.sum() < 0.05
    assert both[0][0]["targets"] != both[1][0]["targets"]


def write_textures(folder, count: int, spots: int = 0):
    "Colour pictures of 36 x 50 pixels; the first few with a spot, all with its outline."
    folder.mkdir()
    rng, rows, columns = np.random.default_rng(count), *np.indices((36, 50))
    for k in range(count):
        waves = [np.sin((rows * a + columns * b) / 3 + rng.random()) for a, b in ((1, 0), (0, 1), (1, 1))]
        picture = np.uint8(127 + 60 * np.stack(waves, -1) + rng.integers(0, 20, (36, 50, 3)))
        outline = ((rows - 18) ** 2 + (columns - 20) ** 2 < 30) & (k < spots)
        picture[outline] = (250, 30, 30)
        Image.fromarray(picture).save(folder / f"t{k:02}.png")
        Image.fromarray(np.uint8(255) * outline).save(folder / f"t{k:02}_mask.png")
    return str(folder)


def autoddpm(*command) -> str:
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    return done.output


def test_colour_pictures_from_training_to_the_table(tmp_path, monkeypatch):
    healthy, cases = write_textures(tmp_path / "healthy", 24), write_textures(tmp_path / "cases", 22, spots=2)
    monkeypatch.chdir(tmp_path)
    options = ("--steps", 2, "--batch-size", 2, "--max-level", 399, "--schedule", "cosine", "--quiet")
    autoddpm("train", "images", "--root", healthy, "--out", "run", *options)
    meta = load_checkpoint("run/best.safetensors")[1]
    assert (meta["unet"]["in_channels"], meta["size"], meta["dataset"]) == (3, [36, 50], "images")
    model = load_ddpm("run/best.safetensors")[0]
    assert torch.equal(model.schedule.alpha_bar, Schedule(kind="cosine").alpha_bar)

    weights = ("run/best.safetensors", "--chain", "fast")
    assert "thresholds of the map" in autoddpm("calibrate", weights[0], "--healthy", cases, *weights[1:])
    entries = json.loads((tmp_path / "run" / "best.calibration.json").read_text())["entries"]
    assert [entry["slices"] for entry in entries] == [20, 20]  # without those that have a spot
    detector = AutoDDPM.from_pretrained(weights[0])
    images = load_dataset("images", root=cases).images()
    d = detector.detect(images[2:], progress=False, speed="fast")
    assert d.record["padded_to"] == [40, 56] and detector.model.schedule.facts["kind"] == "cosine"
    threshold = entries[1]["targets"]["0.05"]["threshold"]
    assert (d.anomaly_map > threshold).float().mean() <= 0.05  # of the whole frame
    scores = json.loads((tmp_path / "run" / "best.scores.json").read_text())["entries"][0]["scores"]
    assert scores == pytest.approx(sorted(d.score.tolist()), abs=1e-5)

    said = autoddpm(
        "evaluate", "images", "--root", cases, "--weights", weights[0], "--out", "found", "-p", "n_bootstrap", 10
    )
    assert "| autoddpm |" in said and "| anoddpm |" in said
    rows = pd.read_csv(tmp_path / "found" / "scores.csv")
    assert set(rows.method) == {"autoddpm", "anoddpm"} and (rows.group == "lesioned").sum() == 4
    strip = np.asarray(Image.open(tmp_path / "found" / "strips.png").convert("RGB")).astype(int)
    assert (strip[..., 0] - strip[..., 1] > 150).any()  # the red spot, in its colour
    facts = json.loads((tmp_path / "found" / "provenance.json").read_text())
    assert facts["methods"]["autoddpm"]["settings"]["masking_threshold"] == entries[0]["targets"]["0.05"]["threshold"]


def test_weights_of_other_channels_are_refused_by_each_command(tmp_path, monkeypatch):
    textures = write_textures(tmp_path / "textures", 20, spots=1)
    monkeypatch.chdir(tmp_path)
    autoddpm("train", "images", "--root", textures, "--out", "run", "--steps", 1, "--batch-size", 2, "--quiet")
    np.save(tmp_path / "slice.npy", np.tri(40))
    weights = "run/best.safetensors"
    for command, reason in (
        (("detect", "slice.npy", "--weights", weights), "images of 1 channels: the network best.safetensors takes 3"),
        (("train", "images", "--root", textures, "--start", "ixi"), "images of 3 channels: the network in use takes 1"),
        (("train", "folder", "--root", textures), "PNG of mode RGB, not grey"),
        (("train", "images"), "no folder given; give root="),
    ):
        done = CliRunner().invoke(app, [*command, "--out", "made"])
        assert done.exit_code == 2 and reason in done.stderr.replace("\n", " "), (command, done.output)
