"""Weights as people save them and as they get damaged: they load as the same function, or one line says why not."""

import json
import math
import re
import warnings
import zipfile
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from autoddpm import AnoDDPM, AutoDDPM
from autoddpm.calibrate import calibrate, write_calibration
from autoddpm.cli import app
from autoddpm.ddpm import DDPM, load_ddpm
from autoddpm.detect import read_calibration
from autoddpm.maps import CoarseAutoDDPM
from autoddpm.unet import UNet, load_checkpoint, save_checkpoint

SHAPE = dict(channels=(16, 32), attention=(False, True), norm_num_groups=8)
GIVEN = dict(norm_num_groups=8, noise_type="gaussian", prediction="epsilon", max_level=399)
X, T = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([100])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def network(**more) -> UNet:
    "A network no branch of which is silent."
    generator = torch.Generator().manual_seed(1)
    net = UNet(**SHAPE | dict(num_head_channels=32) | more).requires_grad_(False)
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.dim() > 1 else 0.5))
    return net.eval()


NET = network()
STATE = {key: value.contiguous() for key, value in NET.state_dict().items()}


def under(*prefixes: str, state: dict = STATE) -> dict:
    return {prefix + key: value for prefix in prefixes for key, value in state.items()}


SAVED = {
    "authors": dict(model_weights=under("unet.") | {"l_pips_sq.lin0.weight": torch.zeros(1)}),
    "bare": STATE,
    "data parallel": dict(model_weights=under("module.unet.")),
    "data parallel, inside": dict(model_weights=under("unet.module.")),
    "compiled": dict(model_weights=under("unet._orig_mod.")),
    "compiled and parallel": dict(state_dict=under("module._orig_mod.unet.")),
    "blocks compiled": {key.replace("block.", "block._orig_mod."): value for key, value in STATE.items()},
    "trainer": dict(epoch=3, state_dict=STATE, optimizer=dict(state={0: dict(exp_avg=torch.zeros(1))})),
    "lightning": {"state_dict": under("model."), "pytorch-lightning_version": "2.0"},
    "deep": dict(checkpoint=dict(model=dict(net=STATE))),
    "average beside it": dict(model_state_dict={k: v + 1 for k, v in STATE.items()}, ema=STATE),
    "average in one dict": under("online_model.", state={k: v + 1 for k, v in STATE.items()}) | under("ema_model."),
    "half the bits": dict(model_weights={k: v.half().float().half() for k, v in under("unet.").items()}),
    "double": {k: v.double() for k, v in STATE.items()},
}


@pytest.mark.parametrize("kind", SAVED)
def test_the_same_function_however_it_was_saved(kind, tmp_path):
    torch.save(SAVED[kind], tmp_path / "w.pt")
    loaded, _ = load_checkpoint(tmp_path / "w.pt", **GIVEN)
    assert torch.allclose(loaded(X, T), NET(X, T), atol=0.02 if kind.startswith("half") else 0)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_safetensors_of_another_program(tmp_path):
    save_file(under("unet."), tmp_path / "w.safetensors", metadata=dict(format="pt"))
    assert torch.equal(load_checkpoint(tmp_path / "w.safetensors", **GIVEN)[0](X, T), NET(X, T))


def test_monai_1_4_applies_its_projection(tmp_path):
    def theirs(key):
        key = key.replace(".upsampler.conv.", ".upsampler.postconv.").replace(".proj_attn.", ".attn.out_proj.")
        return re.sub(r"\.(to_[qkv]\.)", r".attn.\1", key)

    torch.save({theirs(key): value for key, value in STATE.items()}, tmp_path / "w.pt")
    loaded, _ = load_checkpoint(tmp_path / "w.pt", **GIVEN)
    assert torch.equal(loaded(X, T), network(project_attention=True)(X, T))
    assert not torch.allclose(loaded(X, T), NET(X, T))


def test_heads_are_assumed_with_a_warning_and_never_when_given(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="assumed.*num_head_channels 32"):
        load_checkpoint(tmp_path / "w.pt", **GIVEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, _ = load_checkpoint(tmp_path / "w.pt", num_head_channels=16, **GIVEN)
    assert torch.equal(loaded(X, T), network(num_head_channels=16)(X, T))
    assert not torch.allclose(loaded(X, T), NET(X, T))


def changed(**values) -> dict:
    return STATE | {key.replace("__", "."): value for key, value in values.items()}


REFUSED = {
    "nan": (changed(conv_in__conv__bias=torch.full((16,), torch.nan)), "conv_in.conv.bias is not finite"),
    "infinite": (changed(conv_in__conv__bias=torch.full((16,), torch.inf)), "not finite"),
    "whole numbers": (
        changed(conv_in__conv__bias=torch.zeros(16, dtype=torch.int64)),
        "conv_in.conv.bias is no tensor",
    ),
    "text": (changed(conv_in__conv__bias="0"), "conv_in.conv.bias is no tensor"),
    "text for the first": ({"model_weights": {"conv_in.conv.weight": "0", "a": torch.zeros(1)}}, "do not belong"),
    "sparse": (changed(conv_in__conv__bias=torch.zeros(16).to_sparse()), "conv_in.conv.bias is no tensor"),
    "3D": ({k: v[..., None] if v.dim() == 4 else v for k, v in STATE.items()}, "do not belong"),
    "another size": (changed(conv_in__conv__bias=torch.zeros(8)), "conv_in.conv.bias is [8], not [16]"),
    "a missing key": ({k: v for k, v in STATE.items() if k != "out.2.conv.bias"}, "missing out.2.conv.bias"),
    "a foreign key": (changed(class_embedding__weight=torch.zeros(1)), "unexpected class_embedding.weight"),
    "a foreign module": (under("unet.") | {"autoencoder.weight": torch.zeros(1)}, "unexpected autoencoder.weight"),
    "two networks": (dict(a=STATE, b=STATE), "several networks in it (a., b.)"),
    "one key twice": (under("", "module."), "do not belong"),
    "no network": (dict(model_weights={"encoder.weight": torch.zeros(1)}), "no U-Net"),
    "a number": (5, "no U-Net"),
    "a list": ([STATE], "no U-Net"),
    "stretched": (
        {k: torch.zeros(1).expand(v.shape) if v.dim() > 1 else v for k, v in network().state_dict().items()},
        "larger than the file",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_network_is_refused_in_a_line(kind, tmp_path):
    content, reason = REFUSED[kind]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError) as refusal:
        load_checkpoint(tmp_path / "w.pt", **GIVEN)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'w.pt'}: ") and reason in message and "\n" not in message, message


def test_a_file_that_unfolds_is_refused_before_it_is_read(tmp_path):
    torch.save(dict(big=torch.zeros(1_000_000)), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "w.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match="w.pt: not a file of plain weights"):
        load_checkpoint(tmp_path / "w.pt")


HEADERS = {
    "no JSON": "{",
    "a list": "[]",
    "no network": "{}",
    "network no dict": '{"unet": 3}',
    "deep": "[" * 100_000,
    "other channels": json.dumps(dict(unet=NET.config | dict(channels=(16, 64)))),
    "a word": json.dumps(dict(unet=NET.config | dict(channels="many"))),
    "no number": json.dumps(dict(unet=NET.config | dict(num_head_channels="32"))),
    "no heads": json.dumps(dict(unet=NET.config | dict(num_head_channels=0))),
    "wide patches": json.dumps(dict(unet=NET.config | dict(patch_size=10**6))),
    "many blocks": json.dumps(dict(unet=NET.config | dict(num_res_blocks=10**9))),
    "unknown": json.dumps(dict(unet=NET.config | dict(depth=3))),
    "prediction": json.dumps(dict(unet=NET.config, prediction=["epsilon"])),
    "noise": json.dumps(dict(unet=NET.config, noise_type="pink")),
    "level": json.dumps(dict(unet=NET.config, max_level=float("nan"))),
    "level too high": json.dumps(dict(unet=NET.config, max_level=5000)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_broken_header_is_told_in_a_line(kind, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(under("unet."), path, metadata=dict(autoddpm=HEADERS[kind]))
    with pytest.raises(ValueError) as refusal:
        load_ddpm(str(path))
    assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)


def test_a_calibration_holds_for_what_the_file_did_not_say(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    chain = dict(steps=2, inpaint_levels=1, resample_steps=1)

    def detector(**more):
        return AutoDDPM.from_pretrained(str(tmp_path / "w.pt"), **GIVEN | more)

    healthy = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    write_calibration(str(tmp_path / "w.pt"), calibrate(detector(), healthy, progress=False, **chain))
    assert detector().detect(X, progress=False, **chain).mask is not None
    assert detector().detect(X, progress=False, **chain).record["weights"]["not_in_file"]["num_head_channels"] == 32
    with pytest.raises(ValueError, match="no calibrated likelihood threshold"):
        detector(num_head_channels=16).detect(X, progress=False, **chain)
    entries = read_calibration(str(tmp_path / "w.pt"))
    for number in ("NaN", "-1", '"0.1"', "true"):
        damaged = json.dumps(dict(weights="", entries=entries)).replace(
            str(entries[0]["targets"]["0.05"]["threshold"]), number
        )
        (tmp_path / "w.calibration.json").write_text(damaged)
        with pytest.raises(ValueError, match="w.calibration.json: damaged, or no file of thresholds"):
            detector()


MODEL = DDPM(NET, max_level=399)
METHODS = dict(
    autoddpm=partial(AutoDDPM(MODEL).detect, steps=1, inpaint_levels=1, resample_steps=1, masking_threshold="p95"),
    coarse=partial(CoarseAutoDDPM(MODEL, MODEL).detect, levels=(9,), inpaint_levels=1, masking_threshold="p95"),
    anoddpm=partial(AnoDDPM(MODEL).detect, steps=1),
    calibrate=lambda images, **settings: calibrate(
        AutoDDPM(MODEL), images, **dict(steps=1, inpaint_levels=1) | settings
    ),
)
WRONG = dict(
    seed=[-1, 2**63, 0.5, "1", True, None, math.nan],
    batch_size=[0, -1, 2.5, math.nan],
    masking_threshold=[math.nan, math.inf, -0.1, "p99", True, [0.1]],
    noise_level_recon=[0, -1, 0.5, 400, math.nan, "200"],
    noise_level_inpaint=[0, -1, 0.5, 400],
    noise_level=[0, -1, 0.5, 400, math.nan],
    steps=[0, -1, 0.5],
    inpaint_levels=[0, -1, 51, 0.5],
    resample_steps=[0, -1, 0.5],
    levels=[(), (0,), (-1,), (9.5,), (400,), 15],
    mm=[-1, math.nan, math.inf],
    healthy_fpr=[-1, 1, math.nan],
)
TAKES = dict(
    autoddpm=[
        "masking_threshold",
        "noise_level_recon",
        "noise_level_inpaint",
        "steps",
        "inpaint_levels",
        "resample_steps",
    ],
    coarse=[
        "masking_threshold",
        "noise_level_inpaint",
        "inpaint_levels",
        "resample_steps",
        "levels",
        "mm",
        "healthy_fpr",
    ],
    anoddpm=["noise_level", "steps"],
    calibrate=["noise_level_recon", "noise_level_inpaint", "steps", "inpaint_levels", "resample_steps"],
)


@pytest.mark.parametrize("method", METHODS)
def test_wrong_arguments_are_refused_by_name(method):
    for name in ["seed", "batch_size", *TAKES[method]]:
        for value in WRONG[name]:
            with pytest.raises(ValueError) as refusal:
                METHODS[method](X, **{name: value}, progress=False)
            named = name if value != 400 and value != (400,) else "noise level 400"
            assert named in str(refusal.value) and "\n" not in str(refusal.value), (name, value, str(refusal.value))


IMAGES = {
    "8x8": torch.rand(1, 1, 8, 8),
    "empty": torch.rand(0, 1, 32, 32),
    "colour": torch.rand(1, 3, 32, 32),
    "no batch": torch.rand(1, 32, 32),
    "double": torch.rand(1, 1, 32, 32).double(),
    "half": torch.rand(1, 1, 32, 32).half(),
    "bytes": (255 * torch.rand(1, 1, 32, 32)).byte(),
    "0 to 255": 255 * torch.rand(1, 1, 32, 32),
    "negative": torch.rand(1, 1, 32, 32) - 0.5,
    "nan": torch.full((1, 1, 32, 32), torch.nan),
    "numpy": torch.rand(1, 1, 32, 32).numpy(),
}


@pytest.mark.parametrize("method", METHODS)
def test_wrong_images_are_refused(method):
    for name, images in IMAGES.items():
        with pytest.raises(ValueError) as refusal:
            METHODS[method](images, progress=False)
        assert "image" in str(refusal.value) or "slices" in str(refusal.value), (name, str(refusal.value))


def test_the_command_line_says_it_in_a_line(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")

    def said(*options):
        asked = ["detect", tmp_path, "--out", tmp_path / "o", "--weights", tmp_path / "w.pt", *options]
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            done = CliRunner().invoke(app, list(map(str, asked)))
        assert done.exit_code == 2, done.output
        *told, reason = done.stderr.splitlines()
        return len(told), reason

    assert "w.pt: norm_num_groups 32: has to divide the channels (16, 32)" in said()[1]
    given = ["--norm-num-groups", 8, "--noise-type", "gaussian", "--max-level", 399]
    unknown = "w.pt: prediction 'noise': choose epsilon, sample or v"
    told, reason = said(*given, "--prediction", "noise")
    assert told == 1 and unknown in reason  # told that heads are assumed
    told, reason = said(*given, "--prediction", "noise", "--num-head-channels", 16)
    assert told == 0 and unknown in reason
    save_checkpoint(tmp_path / "w.pt", NET, {})  # the content of one kind under the name of another
    assert "w.pt: not a file of plain weights" in said()[1]
