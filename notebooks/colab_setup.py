"""Sets the kit up in Colab: `%load_ext anytoany.notebooks.colab_setup`, beside the clone `anytoany` of the repository.

The kernel enters the checkout, and pip installs the package from it. What the kernel holds already stays as it is: pip fails
rather than change it, Colab's torch above all.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
HELD = ("torch", "numpy", "ipykernel", "ipywidgets")


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext`. CalledProcessError if pip cannot install the package beside what the kernel holds."""
    os.chdir(CHECKOUT)
    kept = Path(tempfile.gettempdir(), "anytoany-kept.txt")
    kept.write_text("\n".join(f"{name}=={metadata.version(name)}" for name in HELD))
    pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(kept), "-e", "."]
    done = subprocess.run(pip, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    done.check_returncode()
    sys.path.insert(0, str(CHECKOUT))  # what pip has added there, only the next kernel reads
    importlib.invalidate_caches()
    print("torch", metadata.version("torch"), "in", CHECKOUT)
