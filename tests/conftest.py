"""Options of the tests. Those in JupyterLab try a few notebooks; `--all-notebooks` tries every part of the library."""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("autoddpm")
    group.addoption("--all-notebooks", action="store_true", help="in JupyterLab, also those marked `slow`")
    group.addoption("--volumes", type=int, default=12, help="scans of the killed batch, the bad ones included")
    group.addoption("--bad", type=int, default=5, help="of them, so many that cannot be used")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all-notebooks"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="only with --all-notebooks"))
