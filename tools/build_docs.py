"""Build the site in `_docs/html`: the notebooks as they are stored, the documents, a reference, and a page per figure.

Nothing is executed, and nothing is fetched. A broken link inside the site, a warning of Sphinx, or something that a
page would load from elsewhere fails the build.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docs_api
import docs_figures
from check_notebooks import ROOT, notebooks

SITE = ROOT / "_docs"
SOURCE, HTML = SITE / "source", SITE / "html"
DOCUMENTS = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "data/README.md",
    "autoddpm/weights/README.md",
    "autoddpm/weights/LPIPS_LICENSES.md",
)
LINK = re.compile(r"(\]\()([^)\s#]+)")  # of Markdown: [text](target#part)
HIDDEN = re.compile(r"^#\| *(hide|default_exp)\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def git_url() -> str:
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return f"{settings['DEFAULT']['git_url']}/blob/{settings['DEFAULT']['branch']}"


def relinked(text: str, here: Path, page: Path, staged: dict) -> str:
    "Links of a file at `here` as they have to be at `page`: to a page of the site if there is one, else to the clone."

    def link(match):
        target = match[2]
        if urlsplit(target).scheme:
            return match[0]
        path = Path(os.path.normpath(here.parent / target))
        if not (ROOT / path).exists():
            return match[0]  # Sphinx will say so, with the page
        return match[1] + (
            os.path.relpath(staged[path], page.parent) if path in staged else f"{git_url()}/{path.as_posix()}"
        )

    return LINK.sub(link, text)


def shown_cells(notebook: dict) -> list:
    "Cells for a reader: without those that only nbdev needs, and without its marks."
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if (
            cell["cell_type"] == "raw"
            or cell["cell_type"] == "code"
            and (HIDDEN.search(text) or not DIRECTIVE.sub("", text).strip())
        ):
            continue
        if cell.get("outputs"):
            cell["outputs"] = [
                o for o in cell["outputs"] if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
            ]
        if "#| code-fold: true" in text:
            cell["metadata"] = dict(tags=["hide-input"])  # the solution of an exercise
        cells.append(cell | dict(source=DIRECTIVE.sub("", text) if cell["cell_type"] == "code" else text))
    return cells


def stage_notebook(path: Path, page: Path, staged: dict):
    notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
    notebook["cells"] = shown_cells(notebook)
    notebook["metadata"].pop("widgets", None)  # they need a kernel
    notebook["metadata"]["language_info"] = dict(name="python", pygments_lexer="python")
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(cell["source"], path, page, staged)
    if page.stem == "index":
        notebook["cells"].append(
            dict(
                cell_type="markdown",
                metadata={},
                id="contents",
                source=(ROOT / "docs" / "contents.md").read_text(encoding="utf-8"),
            )
        )
    write(page, json.dumps(notebook, ensure_ascii=False))


def write(page: Path, text: str):
    (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / page).write_text(text, encoding="utf-8")


def sources() -> dict:  # file in the clone -> page or file of the site, both relative
    "Everything that links may lead to."
    staged = {p.relative_to(ROOT): p.relative_to(ROOT) for p in notebooks()} | {
        Path(name): Path(name) for name in DOCUMENTS
    }
    staged |= {p.relative_to(ROOT): p.relative_to(ROOT) for p in (ROOT / "docs").glob("*.md") if p.stem != "contents"}
    listed = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "figures",
    ]  # without what may not be published
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    staged |= {p.relative_to(ROOT): p.relative_to(ROOT) for p in (ROOT / "docs" / "static").glob("*.png")}
    staged |= {Path(name): Path(name) for name in files if not name.endswith(".md")}
    staged |= {
        Path("figures") / f"{stem}.md": Path("results") / f"{stem}.md" for stem in docs_figures.pages(ROOT / "figures")
    }
    return staged | {Path("nbs/index.ipynb"): Path("index.ipynb"), Path("README.md"): Path("index.ipynb")}


SHELVES = {  # folder of nbs/ -> heading of the workshop page and what the folder is for
    "": ("What all parts use", "Files, drawing, dependencies and the command line."),
    "evaluation": ("Evaluation", "Methods compared on a data set: baselines, metrics, runs, tables, ablations."),
    "scans": ("Scans", "From a raw volume to a slice, and from a scan to a map, a table and a report."),
    "reproduce": ("Reproduction", "Figures and tables made again when something they depend on has changed."),
    "widgets": ("Widgets", "The explorer: what it computes, what can be looked at, what is taken away, and its page."),
}
TAGLINE = re.compile(r"^> (.+)$", re.MULTILINE)


def title_and_tagline(path: Path) -> tuple:
    "The heading of a notebook, and the sentence below it."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = TAGLINE.search(text)
    return text.splitlines()[0].lstrip("# "), found[1] if found else ""


def workshop() -> str:
    "The library notebooks outside the course, by folder."
    listed = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("course.md", "contents.md"))
    rest = [
        p.relative_to(ROOT / "nbs")
        for p in notebooks()
        if p.relative_to(ROOT).with_suffix("").as_posix() not in listed and p.parent.name != "paper"
    ]
    lines = ["# Workshop", "", "The notebooks behind the course: each exports the module of the same name.", ""]
    for folder in sorted({p.parent.as_posix().removeprefix(".") for p in rest}):
        heading, purpose = SHELVES.get(folder, (folder, ""))
        shelf = [p for p in rest if p.parent.as_posix().removeprefix(".") == folder and p.stem != "index"]
        lines += [f"## {heading}", "", purpose, ""]
        for p in shelf:
            title, tagline = title_and_tagline(ROOT / "nbs" / p)
            lines.append(f"- [{title}](nbs/{p.as_posix()}): {tagline}")
        lines += [
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *(f"nbs/{p.with_suffix('').as_posix()}" for p in shelf),
            "```",
            "",
        ]
    return "\n".join(lines)


def stage():
    "Gather the pages in `_docs/source`."
    shutil.rmtree(SITE, ignore_errors=True)
    staged = sources()
    for path, page in staged.items():
        if path.suffix == ".ipynb":
            stage_notebook(path, page, staged)
        elif page.suffix == ".md" and page.parts[0] != "results":
            write(page, relinked((ROOT / path).read_text(encoding="utf-8"), path, page, staged))
        elif page.suffix not in (".md", ".ipynb"):
            (SOURCE / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, SOURCE / page)
    write(Path("workshop.md"), workshop())
    for stem, text in docs_figures.pages(ROOT / "figures").items():
        write(Path("results") / f"{stem}.md", text)
    for module in docs_api.modules():
        write(Path("api") / f"{docs_api.word(module)}.md", docs_api.page(module))
    write(Path("api/index.md"), docs_api.index())


class Page(HTMLParser):
    "Links, anchors and loaded files of one page."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif found.get("src"):
            self.loads.append(found["src"])
        elif tag == "link" and found.get("href") and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])


def broken_links() -> list:
    "What leads nowhere inside the site, and what a page would load from elsewhere."
    pages = {p: Page(p) for p in HTML.rglob("*.html") if "mathjax" not in p.parts}
    said = []
    for path, page in pages.items():
        name = path.relative_to(HTML).as_posix()
        said += [f"{name}: loads {target} from elsewhere" for target in page.loads if urlsplit(target).netloc]
        for target in page.links + page.loads:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = Path(os.path.normpath(path.parent / unquote(url.path))) if url.path else path
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                said.append(f"{name}: {target} leads nowhere")
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].anchors:
                said.append(f"{name}: no part {target}")
    return said


def main(sphinx: str) -> int:  # 0 if the site is whole
    stage()
    done = subprocess.run(
        [sphinx, "-W", "--keep-going", "-q", "-j", "auto", "-c", ROOT / "docs", "-d", SITE / "doctrees", SOURCE, HTML]
    )
    if done.returncode:
        return done.returncode
    problems = broken_links()
    pages, front = len(list(HTML.rglob("*.html"))), (HTML / "index.html").relative_to(ROOT)
    print(*problems, f"{pages} pages, {len(problems)} broken links: {front}", sep="\n")
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
