"""Sphinx settings of the site; `tools/build_docs.py` gathers the pages and runs it."""

import importlib.util
import os
import shutil
from pathlib import Path

project = "autoddpm"
author = "The AutoDDPM companion authors"
copyright = f"2026 onwards, {author}"  # the name that Sphinx asks for
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.mathjax"]

nb_execution_mode = "off"  # outputs are shown as they are stored
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets need a kernel, and their scripts a network
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False

html_theme = "furo"
html_title = "autoddpm"
html_static_path = [os.path.join(os.path.dirname(__file__), "static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

# MathJax 2 from the pages' own folder; only pages with formulas load it
mathjax_path = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full"
mathjax2_config = {
    "tex2jax": {
        "inlineMath": [["\\(", "\\)"]],
        "displayMath": [["\\[", "\\]"]],
        "processClass": "math",
        "ignoreClass": ".*",
    },
    "HTML-CSS": {"availableFonts": [], "webFont": "STIX-Web"},
    "showMathMenu": False,
    "messageStyle": "none",
}


def copy_mathjax(app, error):
    if error is None:
        package = importlib.util.find_spec("jupyter_server_mathjax")  # found, not imported: only its files are wanted
        files = Path(package.submodule_search_locations[0]) / "static"
        shutil.copytree(files, Path(app.outdir) / "_static" / "mathjax", dirs_exist_ok=True)


def setup(app):
    app.connect("build-finished", copy_mathjax)
