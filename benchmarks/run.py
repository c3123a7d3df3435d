"""How fast the package is: every figure against a plain way to do the same, measured in turns in one process.

Writes a JSON with the machine's facts and a row for each comparison;
`python tools/fill_docs.py` puts it into benchmarks/README.md.
"""

import argparse
import copy
import functools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import reference
import torch
from accelerate import Accelerator
from opensimplex import OpenSimplex
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from autoddpm.config import code_version, image_generators
from autoddpm.ddpm import DDPM, walk_levels
from autoddpm.detect import CHAINS, AutoDDPM, autoddpm_settings, network_calls
from autoddpm.evaluation.metrics import Sweep, auprc, best_dice, bootstrap
from autoddpm.noise import simplex_noise
from autoddpm.perceptual import lpips_distance
from autoddpm.phantom import head_phantom
from autoddpm.resample import resample_levels
from autoddpm.train import NETWORKS, Training, TrainSettings
from autoddpm.unet import UNet

HERE = Path(__file__).resolve().parent
WEIGHTS = "ixi"
# largest mean difference of the anomaly map, and share of mask pixels, between the plain loop and the package on the
# same noise: only rounding differs
SAME_MAP, SAME_MASK = 1e-4, 1e-3


# -- measuring


class Spent(NamedTuple):
    "Seconds by the clock, and those that this process worked; on a machine shared with others the second say more."

    clock: float
    work: float

    def over(self, number: float):
        return Spent(self.clock / number, self.work / number)


def seconds(task, device: str) -> Spent:
    "Time of one call; on a GPU by its own events."
    if device == "cpu":
        start, worked = time.perf_counter(), time.process_time()
        task()
        return Spent(time.perf_counter() - start, time.process_time() - worked)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    task()
    end.record()
    torch.cuda.synchronize()
    return Spent(*[start.elapsed_time(end) / 1e3] * 2)


def in_turns(tasks: dict, rounds: int, device: str, long: float = 3.0) -> dict:  # median `Spent` by name
    "Time tasks in turns, so that other load meets all of them; a call longer than `long` seconds is its own warm-up."
    spent = {name: [seconds(task, device)] for name, task in tasks.items()}
    if max(s[0].clock for s in spent.values()) < long:
        spent = {name: [] for name in tasks}
        for _ in range(rounds):
            for name, task in tasks.items():
                spent[name].append(seconds(task, device))
    return {name: Spent(*np.median(s, axis=0).tolist()) for name, s in spent.items()}


def row(what: str, package: Spent, plain: Spent | None = None, against: str = "", **more) -> dict:
    faster = (
        dict(
            plain=plain.clock, against=against, ratio=plain.clock / package.clock, work_ratio=plain.work / package.work
        )
        if plain
        else {}
    )
    return dict(what=what, unit="s", package=package.clock) | faster | more


def figure(what: str, value: float, unit: str) -> dict:
    return dict(what=what, unit=unit, package=value)


def matmul_rate(device: str, kind: torch.dtype) -> float:  # floating-point operations a second
    "What the device reaches on large products of matrices."
    n = 8192 if device == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=kind)
    return 2 * n**3 / in_turns(dict(product=lambda: a @ a), 5, device)["product"].work


def measured_child(what: str, threads: int, *words) -> dict:
    "A measurement in a process of its own, so that its peak memory is only its own."
    command = [sys.executable, str(HERE / "run.py"), "--child", what, "--threads", str(threads), *map(str, words)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_mib() -> float:
    "Peak memory of this process, from /proc on Linux, where `getrusage` also counts the process that started this one."
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


# -- what is measured


def phantoms(n: int) -> torch.Tensor:
    return torch.stack([head_phantom(seed)[0] for seed in range(n)])


@torch.inference_mode()
def network_rows(device: str, rounds: int, quick: bool) -> list:
    "The network's forward pass, and how much of the device's rate it reaches."
    rows, kinds = [], [torch.float32] + [torch.bfloat16] * (device == "cuda")
    rates = {kind: matmul_rate(device, kind) for kind in kinds}
    for name, batch in [("small", 1), ("small", 16)] + [("paper", 1), ("paper", 16)] * (not quick):
        unet = UNet(**NETWORKS[name]).to(device).eval().requires_grad_(False)
        plain = reference.plain_network(unet)
        x, t = torch.rand(batch, 1, 128, 128, device=device), torch.full((batch,), 100, device=device)
        with FlopCounterMode(display=False) as counter:
            plain(x[:1], t[:1])
        flops = batch * counter.get_total_flops()
        for kind in kinds:
            model = DDPM(unet, precision=str(kind).removeprefix("torch."))
            spent = in_turns(dict(package=partial(model.predict, x, t), plain=partial(plain, x, t)), rounds, device)
            rows.append(
                row(
                    f"network {name}, {batch} slice{'s' * (batch > 1)}, {model.precision}",
                    spent["package"],
                    spent["plain"],
                    "contiguous float32, plain up-sampling",
                    flops=flops,
                    share_of_matmul_rate=flops / spent["package"].work / rates[kind],
                )
            )
    return rows


def host_noise(x: torch.Tensor, seed: int):
    "Noise of one slice on the host; on a CPU the very noise that the package draws."

    def stage(stream):
        generator = image_generators(x[None].cpu(), seed, stream)[0]
        return lambda: torch.randn(x.shape, generator=generator)[0].numpy()

    return stage


@functools.cache
def same(name: str) -> dict:
    "Differences of package and plain loop on the same noise, on the host; refused if larger than rounding explains."
    detector, x = AutoDDPM.from_pretrained(WEIGHTS), phantoms(1)
    found = detector.detect(x, masking_threshold="p95", progress=False, **CHAINS[name])
    _, mask, _, anomaly_map = plain_chain(reference.plain_network(detector.model.unet), CHAINS[name])(x[0])
    apart = dict(
        map_mean_difference=float(np.abs(anomaly_map - found.anomaly_map[0, 0].numpy()).mean()),
        mask_share_that_differs=float((mask != found.mask[0, 0].numpy()).mean()),
    )
    if apart["map_mean_difference"] > SAME_MAP or apart["mask_share_that_differs"] > SAME_MASK:
        raise SystemExit(
            f"chain {name}: the package and the plain loop differ by {apart}; allowed are {SAME_MAP} and {SAME_MASK}"
        )
    return apart


def plain_chain(unet, chain: dict, seed: int = 0):
    s = autoddpm_settings(**chain)
    coarse, again = s["coarse"], s["resample"]
    levels = (
        walk_levels(coarse["level"], coarse["steps"]),
        resample_levels(again["level"], again["count"]),
        again["repeats"],
    )
    return lambda x: reference.detect(unet, x[0].cpu().numpy(), *levels, host_noise(x, seed), coarse["sampler"])


def chain_rows(device: str, rounds: int, quick: bool) -> list:
    "Seconds per slice, all stages. The mask is cut at the slice's 95th percentile, so that every slice is re-sampled."
    names = sorted(CHAINS, key=lambda name: network_calls(autoddpm_settings(**CHAINS[name])))
    detector, rows, paper = AutoDDPM.from_pretrained(WEIGHTS, device), [], {}
    network = reference.plain_network(detector.model.unet)
    x, batch = phantoms(16 if device == "cuda" else 4).to(device), 16 if device == "cuda" else 4
    for name in names[:1] if quick else names:
        chain, apart = CHAINS[name], same(name)

        detect = partial(detector.detect, masking_threshold="p95", progress=False, batch_size=batch, **chain)
        plain = partial(plain_chain(network, chain), x[0])
        tasks = dict(one=partial(detect, x[:1]), batch=partial(detect, x), plain=plain)
        spent = in_turns(tasks, rounds, device)
        calls, each = network_calls(autoddpm_settings(**chain)), spent["batch"].over(len(x))
        rows += [
            row(
                f"chain {name}, {calls} calls, one slice",
                spent["one"],
                spent["plain"],
                "the plain loop",
                calls=calls,
                **apart,
            ),
            row(
                f"chain {name}, {calls} calls, per slice of {len(x)}",
                each,
                spent["plain"],
                "the plain loop",
                calls=calls,
            ),
        ]
        paper[name] = calls, each
    if "paper" in paper:
        for name in (name for name in names if name != "paper"):
            rows.append(
                row(
                    f"chain {name} against chain paper, per slice of {len(x)}",
                    paper[name][1],
                    paper["paper"][1],
                    f"{paper['paper'][0] / paper[name][0]:.1f} times the calls, same package",
                )
            )
    return rows


def parts_rows(device: str, rounds: int, quick: bool) -> list:
    "Simplex noise, and the perceptual distance."

    def generators():
        return [torch.Generator(device).manual_seed(seed) for seed in range(16)]

    side, one_by_one = 32, OpenSimplex(0)

    def per_pixel():
        return [
            sum(0.8**k * one_by_one.noise2(c / 64 * 2**k, r / 64 * 2**k) for k in range(6))
            for r in range(side)
            for c in range(side)
        ]

    x, y = phantoms(16).to(device), phantoms(17)[1:].to(device)
    with torch.inference_mode():
        noise = in_turns(
            dict(package=lambda: simplex_noise((128, 128), generators()), plain=per_pixel), 5 * rounds, device
        )
        distance = in_turns(
            dict(
                package=lambda: lpips_distance(x, y),
                plain=lambda: [lpips_distance(a[None], b[None]) for a, b in zip(x, y)],
            ),
            rounds,
            device,
        )
    scale = 16 * 128**2 / side**2
    return [
        row(
            "simplex noise, 16 fields of 128x128",
            noise["package"],
            noise["plain"].over(1 / scale),
            f"opensimplex pixel by pixel ({side}x{side} measured, scaled to the same pixels)",
        ),
        row("LPIPS map, 16 slices", distance["package"], distance["plain"], "slice by slice"),
    ]


def cohort(n: int) -> tuple:  # maps and masks of n slices of 128x128
    "Maps with discs for lesions, from a few pixels to some thousands."
    rng, (v, u) = np.random.default_rng(0), np.mgrid[:128, :128]
    area, centre = rng.lognormal(5, 1.5, n).clip(4, 3000)[:, None, None], rng.uniform(35, 93, (n, 2))
    masks = ((v - centre[:, :1, None]) ** 2 + (u - centre[:, 1:, None]) ** 2 < area / np.pi)[:, None]
    maps = rng.random(masks.shape, dtype=np.float32) ** 4 + 0.2 * masks * rng.random(masks.shape, dtype=np.float32)
    return maps.astype(np.float32), masks


def child_metrics(n: int) -> dict:
    maps, masks = cohort(n)
    tasks = dict(
        auprc=lambda: auprc(maps, masks),
        dice=lambda: best_dice(maps, masks),
        bootstrap=lambda: bootstrap(Sweep(maps, masks), np.arange(n), 1000),
    )
    spent = {name: seconds(task, "cpu").clock for name, task in tasks.items()}
    return spent | dict(lesion_pixels=int(masks.sum()), peak=peak_mib())


def child_chain(n: int) -> dict:
    AutoDDPM.from_pretrained(WEIGHTS).detect(
        phantoms(n), speed="fast", masking_threshold="p95", progress=False, batch_size=n
    )
    return dict(peak=peak_mib())


CHILDREN = dict(metrics=child_metrics, chain=child_chain)


def cohort_rows(threads: int, quick: bool) -> list:
    "Metrics at cohort size, on the host: no plain way beside them."
    n = 65 if quick else 655
    found = measured_child("metrics", threads, "--slices", n)
    what = dict(
        auprc="exact AUPRC",
        dice="Dice at every distinct score",
        bootstrap="AUPRC and Dice, 1000-fold bootstrap by subject",
    )
    rows = [
        figure(f"{text}, {n} slices with {found['lesion_pixels']} lesion pixels", found[name], "s")
        for name, text in what.items()
    ]
    return rows + [figure(f"metrics of {n} slices, peak memory of the process", found["peak"], "MiB")]


def memory_rows(device: str, threads: int) -> list:
    rows = [
        figure(
            "chain fast, 16 slices at a time, peak memory of the process",
            measured_child("chain", threads, "--slices", 16)["peak"],
            "MiB",
        )
    ]
    if device == "cuda":
        detector = AutoDDPM.from_pretrained(WEIGHTS, device)
        torch.cuda.reset_peak_memory_stats()
        detector.detect(phantoms(16), speed="fast", masking_threshold="p95", progress=False)
        rows.append(
            figure(
                "chain fast, 16 slices at a time, peak memory of the GPU",
                torch.cuda.max_memory_allocated() / 2**20,
                "MiB",
            )
        )
    return rows


def evaluation_rows(threads: int) -> list:
    "The evaluation notebook on the bundled cohort, with its defaults, from the command to the last picture."
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "papermill",
            HERE.parent / "nbs" / "eval.ipynb",
            Path(folder) / "out.ipynb",
            "-p",
            "dataset",
            "simulated",
            "-p",
            "out_dir",
            folder,
            "--no-progress-bar",
        ]
        spent = seconds(
            lambda: subprocess.run(
                command, check=True, capture_output=True, env=os.environ | dict(OMP_NUM_THREADS=str(threads))
            ),
            "cpu",
        )
    return [figure("nbs/eval.ipynb on the bundled cohort, from nothing", spent.clock, "s")]


def training_rows(device: str, rounds: int, quick: bool) -> list:
    "A step of training, with augmentation, moving average and clipping, against the loop of a tutorial."
    rows, images = [], phantoms(16).to(device)
    for name in ["small"] + ["paper"] * (device == "cuda"):
        unet = UNet(**NETWORKS[name]).to(device)
        plain = reference.PlainTraining(unet)
        for precision in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                run = Training(
                    DDPM(copy.deepcopy(unet), precision=precision),
                    TrainSettings(),
                    folder,
                    Accelerator(cpu=device == "cpu"),
                )
                tasks = dict(package=partial(run.train_step, images), plain=partial(plain.step, images))
                spent = in_turns(tasks, 1 if quick else 2 * rounds, device)
            against = "float32, one parameter at a time, no augmentation"
            what = f"training, network {name}, a step of 16 slices, {precision}"
            rows.append(row(what, spent["package"], spent["plain"], against))
            rows.append(figure(f"training, network {name}, {precision}", 16 / spent["package"].clock, "slices/s"))
    return rows


# -- the command


def facts() -> dict:
    "The machine, without its name."
    info = Path("/proc/cpuinfo")
    models = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        if info.is_file()
        else []
    )
    gpu = dict(gpu=torch.cuda.get_device_name()) if torch.cuda.is_available() else {}
    return (
        dict(
            cpu=models[0] if models else platform.machine(),
            cores=os.cpu_count(),
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
            code=code_version(),
            weights=WEIGHTS,
        )
        | gpu
    )


def measure(device: str, threads: int, rounds: int, quick: bool) -> dict:
    torch.set_num_threads(threads)
    rows = []
    with threadpool_limits(threads):
        for part in (
            lambda: network_rows(device, rounds, quick),
            lambda: chain_rows(device, rounds, quick),
            lambda: parts_rows(device, rounds, quick),
            lambda: training_rows(device, rounds, quick),
            lambda: cohort_rows(threads, quick),
            lambda: [] if quick else memory_rows(device, threads),
            lambda: [] if quick or device == "cuda" else evaluation_rows(threads),
        ):
            for r in part():
                rows.append(r)
                print(
                    f"{r['package']:10.4g} {r['unit']:<8} "
                    + (
                        f"{r['ratio']:6.2f} times faster ({r['work_ratio']:.2f} by CPU time) than {r['against']}"
                        if "ratio" in r
                        else ""
                    ).ljust(75)
                    + f"  {r['what']}",
                    flush=True,
                )
    return dict(threads=threads, device=device, rounds=rounds, rows=rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="under a minute: one round, the shortest chain, a tenth of the cohort; written only where --out says",
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="measure with so many threads, one after the other (default: 1 2)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="turns of each comparison; medians are kept (default: 3)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: the GPU if there is one",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results.json beside this script")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--slices", type=int, default=655, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        torch.set_num_threads(asked.threads[0])
        with threadpool_limits(asked.threads[0]):
            print(json.dumps(CHILDREN[asked.child](asked.slices)))
        return
    runs, out = [], asked.out or (None if asked.quick else HERE / "results.json")
    for threads in asked.threads[:1] if asked.quick else asked.threads:
        print(f"\n{asked.device}, {threads} thread{'s' * (threads > 1)}", flush=True)
        runs.append(measure(asked.device, threads, 1 if asked.quick else asked.rounds, asked.quick))
        if out:
            out.write_text(
                json.dumps(dict(machine=facts(), quick=asked.quick, runs=runs), indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
