"""Pages of the site for every figure and table, each with its provenance from `figures/manifest.json`."""

import json
import re
import subprocess
from pathlib import Path


def manifests(figures: Path) -> list:
    "Folders with results to show: the simulated cohort's, and those of real sets; smoke runs are left out."
    found = [path.parent for path in figures.rglob("manifest.json") if "smoke" not in path.parts]
    return sorted(found, key=lambda folder: (len(folder.parts), folder))


def stem_page(folder: Path, figures: Path, stem: str) -> str:  # name of the page, without suffix
    part = folder.relative_to(figures).as_posix()
    return stem if part == "." else f"{part}-{stem}".replace("/", "-")


def listed(values: dict) -> str:
    return ", ".join(f"{k} `{v}`" for k, v in values.items()) or "–"


def provenance(record: dict, stem: str) -> list:
    about = (
        f"{record['dataset']} ({'**simulated**' if record['simulated'] else 'real scans'}), {listed(record['data'])}"
    )
    rows = {
        "notebook": f"[paper/{stem}](../nbs/paper/{stem}.ipynb)",
        "data": about,
        "profile": record["profile"],
        "seed": record["seed"],
        "parameters": listed(record["parameters"]),
        "weights": listed(record["weights"]),
        "code": f"`{record['code']}`",
        "made from": ", ".join(f"`{name}`" for name in record["parts"]["inputs"]) or "–",
        "time": f"{record['seconds']} s, {record['threads']} thread(s)",
        "versions": f"Python `{record['python']}`, {listed(record['packages'])}",
    }
    return [
        "## Where it comes from",
        "",
        "The codes behind files and data sets are shortened SHA-256 hashes.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
    ]


def unbroken(text: str) -> str:
    "No line break between a number and its interval."
    return re.sub(r"(\d) \[(-?[\d.]+), (-?[\d.]+)\]", "\\1\u00a0[\\2,\u00a0\\3]", text)


def may_be_shown(file: Path) -> bool:
    "Whether .gitignore lets a file in: of real sets numbers and plots named there, but no picture of a person."
    asked = ["git", "check-ignore", "--quiet", "--no-index", file.name]
    answer = subprocess.run(asked, cwd=file.parent).returncode  # 0: ignored, 1: not
    if answer > 1:
        raise SystemExit(f"{file}: git cannot say whether it may be published; build the site in a clone")
    return answer == 1


def published(file: Path) -> bool:
    return file.is_file() and may_be_shown(file)


def absence(folder: Path, stem: str, record: dict) -> str:
    "Why a figure's page has no picture."
    if not all(may_be_shown(folder / name) for name in record["outputs"]):
        return (
            f"This page shows no picture: it would contain scans of people in `{record['dataset']}`, "
            "and this repository publishes none. Its numbers are in the files below."
        )
    data = f" --dataset {record['dataset']} --source real" if not record["simulated"] else ""
    return (
        "This plot contains no scan of a person, but it is not in the repository yet. "
        f"`autoddpm reproduce {stem} --profile {record['profile']}{data}` makes it; its numbers are in the files below."
    )


def shown(folder: Path, figures: Path, stem: str, record: dict) -> list:
    "The picture if it may be shown, else why not; and the table."
    where = Path("..") / "figures" / folder.relative_to(figures)
    pictures = [name for name in record["outputs"] if name.endswith(".png")]
    lines = [f"![{record['title']}]({(where / name).as_posix()})\n" for name in pictures if published(folder / name)]
    if pictures and not lines:
        lines = [absence(folder, stem, record), ""]
    for name in record["outputs"]:
        if name.endswith(".md"):
            lines += [
                unbroken("\n".join((folder / name).read_text(encoding="utf-8").splitlines()[1:])),
                "",
            ]  # but for its title
    return lines


def downloads(folder: Path, figures: Path, record: dict) -> list:
    where = Path("..") / "figures" / folder.relative_to(figures)
    files = [
        f"{{download}}`{name} <{(where / name).as_posix()}>` (`{sha}`)"
        for name, sha in record["outputs"].items()
        if published(folder / name) and not name.endswith(".md")
    ]
    return ["## Files", "", *(f"- {file}" for file in files), ""] if files else []


def page(folder: Path, figures: Path, stem: str, record: dict) -> str:
    "One figure or table."
    title = record["title"] if record["simulated"] else f"{record['title']} ({record['dataset']})"
    return "\n".join(
        [
            f"# {title}",
            "",
            *shown(folder, figures, stem, record),
            *provenance(record, stem),
            *downloads(folder, figures, record),
        ]
    )


def pages(figures: Path) -> dict:  # name of the page -> text; `index` among them
    "All pages, and the list of them."
    made, rows = {}, []
    for folder in manifests(figures):
        record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for stem, entry in record["notebooks"].items():
            if not any((folder / name).is_file() for name in entry["outputs"]):
                continue
            name = stem_page(folder, figures, stem)
            made[name] = page(folder, figures, stem, entry)
            data = "simulated" if entry["simulated"] else "real scans"
            rows.append(f"| [{name}]({name}.md) | {entry['title']} | {data} | `{entry['code']}` |")
    index = [
        "# Figures and tables",
        "",
        "One notebook writes each of them, and `autoddpm reproduce` remakes it. Each page ends with its provenance.",
        "",
        "| page | what | data | code |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *made,
        "```",
        "",
        "```{toctree}",
        ":hidden:",
        ":glob:",
        ":caption: Their notebooks",
        "",
        "../nbs/paper/*",
        "```",
        "",
    ]
    return made | dict(index="\n".join(index))
