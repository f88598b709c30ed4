"""Which alphaflow this is, and which versions a result may depend on."""

from __future__ import annotations

import platform
import sys

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    import numpy as np  # slow: `alphaflow --version` needs neither
    import torch

    return {
        "alphaflow": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": sys.platform,
    }
