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
# A card for each folder under `reports/`, the latest first. *Pointing accuracy* is the share of test clips in which the
# map's highest point lies on what sounds, with its 95 % interval (or what the configuration says), beside the best
# control; of a sweep, mean and interval over recordings and seeds, and the lowest and highest seed. Every number is read
# from the experiment's own `run/summary.json` and `comparison.csv`. To remove an experiment, delete its folder,
# `reports/NAME`; the next run takes it off this list.

# %% tags=["parameters"]
reports = "../reports"

# %%
from pathlib import Path

from sslib.report.pages import experiments

experiments(Path(reports).resolve())
