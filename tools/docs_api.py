"""Reference pages of the site: each exported module with the signatures, comments and errors of its public names."""

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

from fastcore.docments import docments

import autoddpm

EMPTY = inspect.Parameter.empty


SOURCE_LINE = re.compile(r"File to edit: (?:\.\./)+nbs/(\S+\.ipynb)")
GROUPS = {  # subpackage -> its heading; "" is the method and what both halves reach
    "": "The method, and what all parts use",
    "evaluation": "Evaluation",
    "scans": "Scans",
    "reproduce": "Reproduction",
    "widgets": "Widgets",
}


def modules() -> list:
    "The modules that notebooks export, also those in subpackages, in the order of their notebooks."
    infos = pkgutil.walk_packages(autoddpm.__path__, f"{autoddpm.__name__}.")
    names = [info.name for info in infos if not info.ispkg and not info.name.rpartition(".")[2].startswith("_")]
    return sorted(
        (importlib.import_module(name) for name in names), key=lambda module: (group(module), notebook(module))
    )


def word(module) -> str:
    "The module's name within the package, which is also the name of its page: evaluation.compare."
    return module.__name__.split(".", 1)[1]


def group(module) -> str:
    return word(module).rpartition(".")[0]


def notebook(module) -> str:
    "The notebook that exports the module, seen from nbs/."
    found = SOURCE_LINE.search(Path(module.__file__).read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{module.__name__}: no line names its notebook; a module is exported, never written by hand")
    return found[1]


def cell_text(text) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def type_text(annotation) -> str:
    if annotation in (EMPTY, None):
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation).replace("typing.", "")


def table(found: dict) -> list:  # lines; none for a function without parameters
    rows = [
        (
            name,
            type_text(p["anno"]),
            "" if p["default"] is EMPTY else f"`{cell_text(short(p['default']))}`",
            p["docment"] or "",
        )
        for name, p in found.items()
        if name not in ("self", "cls", "return")
    ]
    if not rows:
        return []

    def row(name, kind, default, meaning):
        return f"| `{name}` | {f'`{cell_text(kind)}`' if kind else ''} | {default} | {cell_text(meaning)} |"

    return ["", "| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *(row(*r) for r in rows), ""]


def short(value, longest: int = 60) -> str:
    text = value.__qualname__ if inspect.isclass(value) or inspect.isroutine(value) else repr(value)
    return text if len(text) <= longest else "..."


def template(node) -> str:
    "A message as it is written, with the expressions in braces."
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(v) for v in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    return ast.unparse(node)


def errors(
    function, seen: set
) -> dict:  # (type, message) -> None, in order; its own and those of the module's private helpers
    if function in seen:
        return {}
    seen.add(function)
    found, tree = {}, ast.parse(source(function))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found[ast.unparse(node.exc.func), template(node.exc.args[0]) if node.exc.args else ""] = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("_"):
            helper = inspect.unwrap(function).__globals__.get(node.func.id)
            if inspect.isfunction(helper):
                found |= errors(helper, seen)
    return found


def source(thing) -> str:
    return textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))


def entry(name: str, thing, level: str) -> list:
    "One function or method: signature, docstring, parameters, what it returns and refuses, source."
    found = docments(thing, full=True, returns=True)
    kinds = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(thing).parameters.values()
    call = ", ".join(
        kinds.get(p.kind, "") + p.name + ("" if p.default is EMPTY else f"={short(p.default, 30)}")
        for p in parameters
        if p.name not in ("self", "cls")
    )
    lines = [
        "",
        f"{level} {name}",
        "",
        "```python",
        f"{name}({call})",
        "```",
        "",
        inspect.getdoc(thing) or "",
        *table(found),
    ]
    back = found.get("return")
    if back and (back["docment"] or type_text(back["anno"])):
        lines += [
            "",
            "**Returns** "
            + ": ".join(
                part
                for part in (f"`{type_text(back['anno'])}`" if type_text(back["anno"]) else "", back["docment"] or "")
                if part
            ),
        ]
    if refused := errors(thing, set()):
        lines += [
            "",
            "**Refuses**",
            "",
            *(f"- `{kind}`: `{' '.join(message.replace('`', chr(39)).split())}`" for kind, message in refused),
        ]
    return [
        *lines,
        "",
        "<details><summary>Source</summary>",
        "",
        "```python",
        source(thing).rstrip(),
        "```",
        "",
        "</details>",
        "",
    ]


def members(cls) -> list:  # (name, function) of what the class itself defines for others, patched methods among them
    found = []
    for name, member in vars(cls).items():
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if isinstance(member, property):
            member = member.fget
        if isinstance(member, functools.partial) or not inspect.isfunction(member):
            continue
        if name == "__init__" and dataclasses.is_dataclass(cls):
            continue
        if not name.startswith("_") or name in ("__init__", "__call__"):
            found.append((name, member))
    return found


def class_entry(name: str, cls) -> list:
    lines = ["", f"## {name}", "", inspect.getdoc(cls) or ""]
    if dataclasses.is_dataclass(cls):
        lines += table(docments(cls, full=True))
    for method, function in members(cls):
        lines += entry(name if method == "__init__" else f"{name}.{method}", function, "###")
    return lines


def page(module) -> str:
    "The reference page of one module, in MyST Markdown."
    path = notebook(module)
    lines = [
        f"# {module.__name__}",
        "",
        module.__doc__ or "",
        "",
        f"Explained, shown and tested in [{path.removesuffix('.ipynb')}](../nbs/{path}).",
        "",
    ]
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isclass(thing):
            lines += class_entry(name, thing)
        elif inspect.isroutine(thing):
            lines += entry(name, thing, "##")
        else:
            lines += [
                "",
                f"## {name}",
                "",
                f"`{short(thing, 300)}`"
                if short(thing, 300) != "..."
                else f"A {type(thing).__name__}; the notebook shows it.",
                "",
            ]
    return "\n".join(lines) + "\n"


def index() -> str:
    "The list of modules, by subpackage."
    found = modules()
    lines = [
        "# Reference",
        "",
        "Each module is exported from the notebook of the same name. The comments of the signatures give shapes, units "
        "and ranges. Imports run one way: `cli` imports `scans`, `reproduce` and `widgets`, these import `evaluation`, "
        "and `evaluation` imports the method.",
        "",
    ]
    for name in sorted({group(m) for m in found}):
        rows = [f"| [{word(m)}]({word(m)}.md) | {cell_text(m.__doc__)} |" for m in found if group(m) == name]
        lines += [f"## {GROUPS.get(name, name)}", "", "| module | what it does |", "| --- | --- |", *rows, ""]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *map(word, found), "```", ""])
