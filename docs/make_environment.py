"""Writes environment.yml from the dependencies in pyproject.toml, which alone names versions.

python docs/make_environment.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / "environment.yml"
_HEAD = """\
# conda env create -f environment.yml && conda activate anytoany   (for a machine with a CUDA card)
# Written by docs/make_environment.py from pyproject.toml: versions are changed there.
#
# The package `imagebind` is missing on purpose. No distribution of it imports today: they need pkg_resources and, through
# pytorchvideo, torchvision.transforms.functional_tensor, which are gone. The model is a module here,
# anytoany_lib/encoders/imagebind.py, and reads the official checkpoint; tests/encoders/test_imagebind.py compares it with
# the reference modules in PyPI's imagebind-unofficial 0.1.1.
name: anytoany
channels:
  - conda-forge
dependencies:
  - python=3.12
  - pip
  - pip:
"""


def text() -> str:
    """environment.yml as pyproject.toml wants it today."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = "".join(f'      - "{package}"\n' for package in project["dependencies"])
    return f"{_HEAD}{packages}      - -e .\n"


if __name__ == "__main__":
    ENVIRONMENT.write_text(text(), encoding="utf-8")
