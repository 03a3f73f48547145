# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Experiments
#
# One entry for each folder under `reports/`, the latest first. Every number below is read from the
# experiment's own `run/summary.json`: shares of clips, with 95 % intervals
# (or what the configuration says) in brackets.

# %% tags=["parameters"]
reports = "../reports"

# %%
from pathlib import Path

from sslib.report.pages import experiments

experiments(Path(reports).resolve())
