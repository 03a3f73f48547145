"""The workbook for visual sound source localization: model, losses, loaders and what the notebooks need around them."""

import os

# Threads that wait for each other spin; beside another busy process they wait for one that does not run. GCC's OpenMP
# reads this when torch is loaded, so import sslib first; `python benchmarks/contention.py` measures what it does.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
