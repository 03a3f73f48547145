"""The workbook for visual sound source localization: model, losses, loaders and what the notebooks need around them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sslib.localizer import Localizer

# Threads that wait for each other spin; beside another busy process they wait for one that does not run. GCC's OpenMP
# reads this when torch is loaded, so import sslib first; `python benchmarks/contention.py` measures what it does.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def load(path: str | Path | None = None) -> Localizer:
    """Load a trained model: see :func:`sslib.localizer.load`."""
    from sslib import localizer

    return localizer.load(path)
