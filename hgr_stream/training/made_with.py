"""What a model was made with."""

from __future__ import annotations

import platform

import numpy as np
import torch

from .. import __version__


def versions() -> dict[str, str]:
    """By name, for runs and metadata."""
    return {
        "hgr-stream": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
