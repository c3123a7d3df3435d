"""Fill the generated parts of the documents: numbers in prose come from files, never from a keyboard.

A block stands in a document or in a markdown cell of `nbs/index.ipynb`; it ends with `<!-- end -->` and begins with one of
- `<!-- table: PATH -->`: the first table of that file, and the sentences in it that say who loses to whom;
- `<!-- tables: PATH -->`: the first two tables of that file and the sentences in it that say who loses to whom;
- `<!-- file: PATH -->`: all tables of a page made by `runs.table_text`, with its banner and these sentences;
- `<!-- index: PART -->`: a part of `nbs/index.ipynb`, named by its heading, so that both tell the same;
- `<!-- weights: NAME -->`: what the header and the calibration of bundled weights say;
- `<!-- benchmark: PATH -->`: the machine and the comparisons in a result of `benchmarks/run.py`.
`python tools/fill_docs.py` fills them, `python tools/fill_docs.py --check` only says whether they are up to date.
"""

import json
import os
import re
import sys
from pathlib import Path

from autoddpm.config import sha256
from autoddpm.detect import read_calibration
from autoddpm.unet import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
INDEX = "nbs/index.ipynb"
DOCUMENTS = (
    INDEX,
    "README.md",
    "autoddpm/weights/README.md",
    "benchmarks/README.md",
)  # the index first: the README takes parts of it
BLOCK = re.compile(r"(<!-- (tables?|file|index|weights|benchmark): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def weights_table(name: str) -> str:
    path = ROOT / "autoddpm" / "weights" / f"{name}.safetensors"
    unet, meta = load_checkpoint(path)
    settings = meta["settings"]
    rows = [
        ("file", f"`{path.name}`, {path.stat().st_size / 2**20:.1f} MiB, sha256 `{sha256(path)}`..."),
        (
            "network",
            f"channels {unet.config['channels']}, attention {unet.config['attention']}, `patch_size` {unet.config['patch_size']}, "
            f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} million parameters",
        ),
        ("noise", f"{meta['noise_type']}, levels 0 to {meta['max_level']}, predicts {meta['prediction']}"),
        ("started from", meta["start"]),
        ("phases", meta["phases"]),
        ("machine", meta["machine"]),
        ("settings of the last phase", ", ".join(f"{k} {v}" for k, v in settings.items())),
        (
            "validation loss by level",
            ", ".join(f"{level}: {loss:.4f}" for level, loss in meta["validation_loss"].items()),
        ),
    ]
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows)]
    return "\n".join(lines + calibration_lines(name)) + "\n"


def calibration_lines(name: str) -> list:
    lines = ["", "| calibrated map | settings | slices | 5 % | 2 % | 1 % |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in read_calibration(name):
        coarse, again = entry["settings"]["coarse"], entry["settings"].get("resample")
        how = f"level {coarse['level']}, {coarse['sampler']}, {coarse['steps'] or 'all'} steps"
        if again:
            how += f"; re-sampled from {again['level']}, {again['count'] or 'all'} levels"
        cells = [
            f"{'inf' if t['threshold'] is None else format(t['threshold'], '.4f')} ({t['uncorrected']:.4f})"
            for t in entry["targets"].values()
        ]
        lines.append(f"| {entry['what']} | {how} | {entry['slices']} | " + " | ".join(cells) + " |")
    return lines if len(lines) > 3 else []


def tables_and_losses(text: str) -> tuple:
    tables = [m.group() for m in re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    return tables, "".join(f"{line}\n" for line in text.splitlines() if " loses to " in line)


def page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    tables, said = tables_and_losses(text)
    banner = re.findall(r"^\*\*(?:SIMULATED DATA|SMOKE PROFILE).*\*\*\n", text, re.MULTILINE)
    return "\n" + "\n".join(part for part in (*banner, *tables, said) if part) + "\n"


def benchmark_tables(result: dict) -> str:
    machine = result["machine"]
    where = ", ".join(
        [
            machine["cpu"],
            f"{machine['cores']} cores",
            *([machine["gpu"]] if "gpu" in machine else []),
            f"torch {machine['torch']}",
            f"autoddpm {machine['code']}",
        ]
    )
    lines = ["", f"Measured on: {where}.{' **QUICK RUN: one round, few cases.**' if result['quick'] else ''}"]
    for run in result["runs"]:
        lines += [
            "",
            f"**{run['device'].upper()}, {run['threads']} thread{'s' * (run['threads'] > 1)}**, medians of {run['rounds']} rounds",
            "",
            "| what | package | plain | times faster | by CPU time | plain is |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in run["rows"]:
            plain = (
                [f"{row['plain']:.3g} {row['unit']}", f"{row['ratio']:.2f}", f"{row['work_ratio']:.2f}", row["against"]]
                if "plain" in row
                else [""] * 4
            )
            lines.append("| " + " | ".join([row["what"], f"{row['package']:.3g} {row['unit']}", *plain]) + " |")
    return "\n".join(lines) + "\n\n"


def part_of_index(name: str) -> str:
    "The cell of the landing page under a heading, with links as seen from the README."
    cells = json.loads((ROOT / INDEX).read_text(encoding="utf-8"))["cells"]
    for heading, text in (
        "".join(cell["source"]).split("\n", 1) for cell in cells if "".join(cell["source"]).startswith("## ")
    ):
        if re.sub("[^a-z]+", "-", heading.lower()).strip("-") == name:
            return re.sub(r"\]\((?![a-z]+:)([^)]+)\)", lambda m: f"]({os.path.normpath(f'nbs/{m[1]}')})", text) + "\n\n"
    sys.exit(f"{INDEX}: no part {name}, which a document takes from it")


def content(kind: str, name: str) -> str:
    if kind == "weights":
        return weights_table(name)
    if kind == "index":
        return part_of_index(name)
    if not (ROOT / name).is_file():
        sys.exit(
            f"{name}: named in a document, but not there; make it first (`{'python benchmarks/run.py' if kind == 'benchmark' else f'autoddpm reproduce {Path(name).stem}'}`)"
        )
    if kind == "file":
        return page(ROOT / name)
    if kind == "benchmark":
        return benchmark_tables(json.loads((ROOT / name).read_text(encoding="utf-8")))
    tables, said = tables_and_losses((ROOT / name).read_text(encoding="utf-8"))
    return "\n" + "\n".join([*tables[: 1 if kind == "table" else 2], said]) + "\n"


def fill(text: str) -> str:
    return BLOCK.sub(lambda m: m[1] + content(m[2], m[3]) + m[4], text)


def filled(path: Path, old: str) -> str:
    "The document with its blocks filled; of a notebook, those in markdown cells."
    if path.suffix != ".ipynb":
        return fill(old)
    notebook = json.loads(old)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = fill("".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(check: bool) -> int:
    stale = []
    for document in DOCUMENTS:
        path = ROOT / document
        old = path.read_text(encoding="utf-8")
        new = filled(path, old)
        if new == old:
            continue
        stale.append(document)
        if not check:
            path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "filled: ") + ", ".join(stale))
    if stale and check:
        print("remedy: python tools/fill_docs.py")
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
