"""The guides by papermill, with small settings: each runs to its table and its strip."""

import json

import pytest
from helpers import BIN, ROOT, run

SMALL = dict(steps=4, limit=3, detect_steps=2, n_bootstrap=20)
GUIDES = {
    "monai": dict(SMALL, channels="8,16"),
    "diffusers": dict(SMALL, channels="8,16"),
    "textures": dict(SMALL, calibrate_on=20),
}


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs(name, tmp_path):
    for needed in {"monai": ("monai", "einops"), "diffusers": ("diffusers",)}.get(name, ()):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    chosen = [text for key, value in GUIDES[name].items() for text in ("-p", key, str(value))]
    done = run(
        [BIN / "papermill", ROOT / "nbs" / "guides" / f"{name}.ipynb", tmp_path / "out.ipynb", *chosen]
        + ["--no-progress-bar"]
    )
    assert not done.returncode, done.stderr[-2000:]
    cells = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    tables = ["".join(output["data"]["text/plain"]) for output in outputs if "text/html" in output.get("data", {})]
    assert all("AUPRC" in table and "[" in table for table in tables) and tables, tables
    assert any("image/png" in output.get("data", {}) for output in outputs), "no strip"


@pytest.mark.parametrize("name, library", [("monai", "monai"), ("diffusers", "diffusers")])
def test_a_missing_library_is_named_with_the_remedy(name, library, tmp_path):
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('no', name='{library}')", encoding="utf-8")
    notebook = ROOT / "nbs" / "guides" / f"{name}.ipynb"
    command = [BIN / "papermill", notebook, tmp_path / "out.ipynb", "--no-progress-bar"]
    done = run(command, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode and f"{library} is missing; run: pip install 'autoddpm[{library}]'" in done.stderr
