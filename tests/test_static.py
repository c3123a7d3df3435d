"""Checks of notebooks and documents that run nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from check_notebooks import CHECKS, ROOT
from helpers import run


@pytest.mark.parametrize("name", CHECKS)
def test_notebooks_are(name):
    problems = CHECKS[name]()
    assert not problems, "\n".join(problems)


def test_numbers_in_documents_are_those_of_the_files():
    done = run([sys.executable, ROOT / "tools" / "fill_docs.py", "--check"])
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["nbs", "tools", "tests", "benchmarks", "docs", "setup.py"])
@pytest.mark.parametrize("rule", ["check --output-format=concise", "format --check --output-format=concise"])
def test_code_is_laid_out(rule, folder):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *rule.split(), "--no-cache", folder], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.returncode, f"{done.stdout}{done.stderr}`make format` mends what it can"


def test_jupyterlab_of_make_saves_when_told_to():
    here = Path(sys.prefix) / "etc" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    if not (Path(sys.prefix) / "installed").is_file():
        pytest.skip("this environment was not made by `make`")
    assert here.is_file(), "`make lab` and `make test` write it"
    assert here.read_bytes() == (ROOT / "tools" / "jupyterlab.json").read_bytes()
