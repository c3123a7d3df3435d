"""Package metadata, read from settings.ini so that every version number has one home."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    license="Apache-2.0",
    packages=find_packages(include=["autoddpm", "autoddpm.*"]),
    package_data={"autoddpm": ["weights/*"], "autoddpm.scans": ["templates/*"], "autoddpm.widgets": ["static/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        "dev": shlex.split(cfg["dev_requirements"]),
        "lpips": shlex.split(cfg["lpips_requirements"]),
        "monai": shlex.split(cfg["monai_requirements"]),
        "diffusers": shlex.split(cfg["diffusers_requirements"]),
    },
    entry_points={
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
        "console_scripts": cfg["console_scripts"].split(),
    },
)
