"""Everything that `make test` checks: static checks first, since they take seconds; then every notebook by nbdev_test;
every figure and table of the paper on the smoke profile; and the tests that run commands, notebooks and a browser. Two
processes at a time, one thread each. The last line counts all of it: `N passed, M failed`."""

import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from check_notebooks import BIN, ROOT

sys.path.insert(0, str(ROOT / "tests"))
from helpers import AUTODDPM, environment

FIRST = ("tests/test_static.py", "tests/test_layout.py")
OTHERS = sorted({p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").glob("test_*.py")} - set(FIRST))


def run_pytest(*words: str) -> tuple:  # (passed, failed)
    "Tests; those that could not be set up have failed, those passed over count for nothing."
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "--no-header", "--tb=short", "-rs", f"--junitxml={report}"]
        command += ["--durations=15", *words]
        code = subprocess.run(command, cwd=ROOT, env=environment()).returncode
        if not report.is_file():
            return 0, 1
        suites = ElementTree.parse(report).getroot().iter("testsuite")
        counts = [{k: int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped")} for suite in suites]
    failed = sum(c["failures"] + c["errors"] for c in counts)
    passed = sum(c["tests"] - c["skipped"] for c in counts) - failed
    return passed, failed or int(code != 0)


def run_library() -> tuple:  # notebooks passed and failed
    "nbdev_test over all notebooks, its lines shown as they come."
    command = [BIN / "nbdev_test", "--n_workers", "2", "--do_print", "--timing"]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command, cwd=ROOT, env=environment(PYTHONUNBUFFERED="1"), **streams)
    lines = []
    for line in process.stdout:
        lines.append(line)
        print(line.replace(f"{ROOT}/", ""), end="", flush=True)
    code, text = process.wait(), "".join(lines)
    finished = len(re.findall(r"^- Completed ", text, re.MULTILINE))
    failed = len(re.findall(r"^\t\S+\.ipynb$", text, re.MULTILINE))  # the list at its end
    if code and not failed:
        failed, finished = 1, finished + 1  # it broke off without naming a notebook
    return finished - failed, failed


def run_figures() -> tuple:  # (1, 0) if every figure and table came out, else (0, 1)
    "`autoddpm reproduce` on the smoke profile, its lines shown as they come."
    command = [*AUTODDPM, "reproduce", "--profile", "smoke", "--source", "simulated", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment()).returncode == 0
    return int(done), int(not done)


PARTS = {
    "static checks and the layout": lambda: run_pytest("-q", *FIRST),
    "nbdev_test: every notebook, two at a time": run_library,
    "autoddpm reproduce: every figure and table on the smoke profile": run_figures,
    "commands, notebooks and the browser, two files of tests at a time": lambda: run_pytest(
        "-v", "--numprocesses=2", "--dist=loadfile", *OTHERS
    ),
}


def main() -> int:  # 0 if all passed
    counts, times = [], []
    for title, part in PARTS.items():
        print(f"\n== {title}", flush=True)
        start = time.monotonic()
        counts.append(part())
        times.append(time.monotonic() - start)
    print()
    for title, (passed, failed), seconds in zip(PARTS, counts, times):
        print(f"{passed:4d} passed {failed:3d} failed {seconds:5.0f} s  {title}")
    good, bad = (sum(c) for c in zip(*counts))
    print(f"\n{good} passed, {bad} failed", flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
