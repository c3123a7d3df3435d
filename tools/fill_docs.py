"""Fill the generated parts of the documents: numbers in prose come from files, never from a keyboard.

A block ends with `<!-- end -->` and begins with one of
- `<!-- tables: PATH -->`: the first two tables of that file and the sentences in it that say who loses to whom;
- `<!-- file: PATH -->`: all tables of a page made by `runs.table_text`, with its banner and these sentences;
- `<!-- weights: NAME -->`: what the header and the calibration of bundled weights say.
`python tools/fill_docs.py` fills them, `python tools/fill_docs.py --check` only says whether they are up to date.
"""
import re
import sys
from pathlib import Path

from autoddpm.config import sha256
from autoddpm.detect import read_calibration
from autoddpm.unet import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "autoddpm/weights/README.md")
BLOCK = re.compile(r"(<!-- (tables|file|weights): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def weights_table(name: str) -> str:
    path = ROOT / "autoddpm" / "weights" / f"{name}.safetensors"
    unet, meta = load_checkpoint(path)
    settings = meta["settings"]
    rows = [
        ("file", f"`{path.name}`, {path.stat().st_size / 2**20:.1f} MiB, sha256 `{sha256(path)}`..."),
        ("network", f"channels {unet.config['channels']}, attention {unet.config['attention']}, `patch_size` {unet.config['patch_size']}, "
                    f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} million parameters"),
        ("noise", f"{meta['noise_type']}, levels 0 to {meta['max_level']}, predicts {meta['prediction']}"),
        ("started from", meta["start"]), ("phases", meta["phases"]), ("machine", meta["machine"]),
        ("settings of the last phase", ", ".join(f"{k} {v}" for k, v in settings.items())),
        ("validation loss by level", ", ".join(f"{level}: {loss:.4f}" for level, loss in meta["validation_loss"].items())),
    ]
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows)]
    return "\n".join(lines + calibration_lines(name)) + "\n"


def calibration_lines(name: str) -> list:
    lines = ["", "| calibrated map | settings | slices | 5 % | 2 % | 1 % |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in read_calibration(name):
        coarse, again = entry["settings"]["coarse"], entry["settings"].get("resample")
        how = f"level {coarse['level']}, {coarse['steps'] or 'all'} steps"
        if again: how += f"; re-sampled from {again['level']}, {again['count'] or 'all'} levels"
        cells = [f"{'inf' if t['threshold'] is None else format(t['threshold'], '.4f')} ({t['uncorrected']:.4f})" for t in entry["targets"].values()]
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


def content(kind: str, name: str) -> str:
    if kind == "weights": return weights_table(name)
    if not (ROOT / name).is_file(): sys.exit(f"{name}: named in a document, but not there; make it first (`autoddpm reproduce {Path(name).stem}`)")
    if kind == "file": return page(ROOT / name)
    tables, said = tables_and_losses((ROOT / name).read_text(encoding="utf-8"))
    return f"\n{tables[0]}\n{tables[1]}\n{said}\n"


def main(check: bool) -> int:
    stale = []
    for document in DOCUMENTS:
        path = ROOT / document
        old = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda m: m[1] + content(m[2], m[3]) + m[4], old)
        if new == old: continue
        stale.append(document)
        if not check: path.write_text(new, encoding="utf-8")
    if stale: print(("out of date: " if check else "filled: ") + ", ".join(stale))
    if stale and check: print("remedy: python tools/fill_docs.py")
    return int(bool(stale) and check)


if __name__ == "__main__": sys.exit(main("--check" in sys.argv))
