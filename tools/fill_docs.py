"""Fill the generated parts of the documents, so that their numbers come from result files.

A block stands in a document or in a markdown cell of `nbs/index.ipynb`. It ends with `<!-- end -->` and begins
with one of
- `<!-- table: PATH -->`: the first table of that file, and its sentences that say which method loses to which;
- `<!-- tables: PATH -->`: the first two tables of that file, and the same sentences;
- `<!-- file: PATH -->`: all tables of a page made by `runs.table_text`, with its banner and these sentences;
- `<!-- index: PART -->`: a part of `nbs/index.ipynb`, named by its heading, so that both documents agree;
- `<!-- weights: NAME -->`: what the header and the calibration of bundled weights say;
- `<!-- benchmark: PATH -->`: the machine and the comparisons in a result of `benchmarks/run.py`;
- `<!-- text: PATH -->`: that file as it is;
- `<!-- chains: NAME,NAME -->`: network calls and noise levels of chains in `autoddpm.detect.CHAINS`.
`table` and `tables` may name the columns of the first table: `<!-- table: PATH columns: method, AUPRC -->`.
The sentences are then cut to the metrics among them, and with `losers: NAME,NAME` behind it to these methods.

`python tools/fill_docs.py` fills the blocks and writes the badges from `settings.ini`; `--check` only says whether
they are up to date.
"""

import json
import os
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from autoddpm.config import sha256
from autoddpm.detect import CHAINS, autoddpm_settings, network_calls, read_calibration
from autoddpm.unet import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
INDEX = "nbs/index.ipynb"
LICENCES = dict(apache2="Apache-2.0")  # as nbdev names it -> as SPDX does
DOCUMENTS = (
    INDEX,  # first, because README takes parts of it
    "README.md",
    "docs/results.md",
    "docs/own_model.md",
    "docs/volumes.md",
    "docs/speed.md",
    "autoddpm/weights/README.md",
    "benchmarks/README.md",
)
BLOCK = re.compile(
    r"(<!-- (tables?|file|text|index|weights|benchmark|chains): (\S+)"
    r"(?: columns: ([^\n]+?))?(?: losers: (\S+))? -->\n).*?(<!-- end -->)",
    re.DOTALL,
)
# a sentence of `report`: - **NAME loses to a method without a network** in METRIC ...; METRIC ...
LOSS = re.compile(r"(?=.*?\*\*(\S+) loses to )(- .*? in )(.*)\.$")


def weights_table(name: str) -> str:
    path = ROOT / "autoddpm" / "weights" / f"{name}.safetensors"
    unet, meta = load_checkpoint(path)
    settings = meta["settings"]
    millions = sum(p.numel() for p in unet.parameters()) / 1e6
    told = dict(history=meta.get("history") or meta.get("phases"), machine=meta.get("machine"), start=meta["start"])
    rows = [
        ("file", f"`{path.name}`, {path.stat().st_size / 2**20:.1f} MiB, sha256 `{sha256(path)}`..."),
        (
            "network",
            f"channels {unet.config['channels']}, attention {unet.config['attention']}, "
            f"`patch_size` {unet.config['patch_size']}, {millions:.2f} million parameters",
        ),
        (
            "noise",
            f"{meta['noise_type']}, levels {settings.get('min_level', 0)} to {meta['max_level']}, "
            f"predicts {meta['prediction']}",
        ),
        *((name, text) for name, text in told.items() if text),
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
        if "levels" in coarse:
            how = f"looks without noise at levels {', '.join(map(str, coarse['levels']))}"
        else:
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
    return tables, [line for line in text.splitlines() if " loses to " in line]


def narrowed(table: str, columns: list, path: str) -> str:
    "The table with the named columns only, in their order."
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    if unknown := [name for name in columns if name not in rows[0]]:
        sys.exit(f"{path}: no column {', '.join(unknown)}, which a document asks for; it has {', '.join(rows[0])}")
    where = [rows[0].index(name) for name in columns]
    return "".join(f"| {' | '.join(row[i] for i in where)} |\n" for row in rows)


def cut_to(columns: list, losers: list, sentences: list) -> list:
    "The sentences on these methods' losses, all if none is named, with the metrics that are among the columns."
    kept = []
    for sentence in sentences:
        match = LOSS.match(sentence)
        if not match:
            raise SystemExit(f"not a sentence on a loss as `evaluation.report` writes it: {sentence}")
        name, before, metrics = match.groups()
        metrics = [part for part in metrics.split("; ") if part.startswith(tuple(columns))]
        if metrics and (not losers or name in losers):
            kept.append(f"{before}{'; '.join(metrics)}.")
    return kept


def tables_of(path: str, count: int, columns: list, losers: list) -> str:
    tables, said = tables_and_losses((ROOT / path).read_text(encoding="utf-8"))
    if columns:
        tables[0], said = narrowed(tables[0], columns, path), cut_to(columns, losers, said)
    return "\n" + "\n".join([*tables[:count], "\n".join([*said, ""])]) + "\n"


def page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    tables, said = tables_and_losses(text)
    banner = re.findall(r"^\*\*(?:SIMULATED DATA|SMOKE PROFILE).*\*\*\n", text, re.MULTILINE)
    parts = (*banner, *tables, "".join(f"{line}\n" for line in said))
    return "\n" + "\n".join(part for part in parts if part) + "\n"


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
        threads = f"{run['threads']} thread{'s' * (run['threads'] > 1)}"
        lines += [
            "",
            f"**{run['device'].upper()}, {threads}**, medians of {run['rounds']} rounds",
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


def chains_table(names: list) -> str:
    rows = []
    for name in names:
        settings = autoddpm_settings(**CHAINS[name])
        coarse, again = settings["coarse"], settings["resample"]
        walk = f"from level {coarse['level']}, {coarse['steps'] or 'all'} steps, {coarse['sampler']}"
        harmonise = f"from level {again['level']}, {again['count'] or 'all'} levels, {again['repeats']} repeats"
        rows.append(f"| `{name}` | {network_calls(settings)} | {walk} | {harmonise} |\n")
    head = "| chain | network calls per slice | coarse pass | re-sampling |\n| --- | --- | --- | --- |\n"
    return f"\n{head}{''.join(rows)}\n"


def content(kind: str, name: str, columns: list, losers: list) -> str:
    if kind == "chains":
        return chains_table(name.split(","))
    if kind == "weights":
        return weights_table(name)
    if kind == "index":
        return part_of_index(name)
    if not (ROOT / name).is_file():
        makers = dict(benchmark="`python benchmarks/run.py`", text="see the command above it")
        maker = makers.get(kind, f"`autoddpm reproduce {Path(name).stem}`")
        sys.exit(f"{name}: named in a document, but not there; make it first ({maker})")
    if kind == "file":
        return page(ROOT / name)
    if kind == "text":
        return f"\n{(ROOT / name).read_text(encoding='utf-8')}\n"
    if kind == "benchmark":
        return benchmark_tables(json.loads((ROOT / name).read_text(encoding="utf-8")))
    return tables_of(name, 1 if kind == "table" else 2, columns, losers)


def listed(names: str | None) -> list:
    return [name.strip() for name in names.split(",")] if names else []


def fill(text: str) -> str:
    return BLOCK.sub(lambda m: m[1] + content(m[2], m[3], listed(m[4]), listed(m[5])) + m[6], text)


def filled(path: Path, old: str) -> str:
    "The document with its blocks filled; of a notebook, those in markdown cells."
    if path.suffix != ".ipynb":
        return fill(old)
    notebook = json.loads(old)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = fill("".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{name}: {value}">
  <rect width="{width}" height="20" rx="3" fill="#555"/>
  <path d="M{left} 0h{right}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right}z" fill="#1a7f9c"/>
  <g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
    <text x="{name_middle}" y="14">{name}</text>
    <text x="{value_middle}" y="14">{value}</text>
  </g>
</svg>
"""


def badge(name: str, value: str) -> str:
    "A badge as SVG; 7 pixels per character, and 5 on either side."
    left, right = 7 * len(name) + 10, 7 * len(value) + 10
    return BADGE.format(
        name=name,
        value=value,
        width=left + right,
        left=left,
        right=right - 3,
        name_middle=left // 2,
        value_middle=left + right // 2,
    )


def badges() -> dict:  # path -> content
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    said = dict(license=LICENCES[settings["license"]], python=f"{settings['min_python']} or later")
    return {f"docs/static/badge-{name}.svg": badge(name, value) for name, value in said.items()}


def main(check: bool) -> int:
    made = badges()
    for document in DOCUMENTS:
        made[document] = None  # in this order: README reads the index as it was just written
    stale = []
    for name, new in made.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        new = filled(path, old) if new is None else new
        if new == old:
            continue
        stale.append(name)
        if not check:
            path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "filled: ") + ", ".join(stale))
    if stale and check:
        print("remedy: python tools/fill_docs.py")
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
