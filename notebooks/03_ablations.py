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
# # 03 · Ablations
#
# *What does each loss add?*
#
# The method adds two losses to the base model's, which tells pictures and sounds apart:
#
# $$ \mathcal{L} = \mathcal{L}_{\mathrm{loc}} + \lambda_1 \mathcal{L}_{\mathrm{dis}}
# + \lambda_2 \mathcal{L}_{\mathrm{div}} $$
#
# Here the same network is trained with none, one or both of them, everything else alike, and tested on the same
# clips.
#
# **Reads** the data folder and `ablations` of the configuration. **Writes** one experiment for each variant and seed
# into `variants/`, with its own pages. **Before**: [02 · Training](02_training.html). **Next**:
# [04 · Evaluation](04_evaluation.html).

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}
retrain = False

# %%
import json

from sslib import config as configuration
from sslib.data.layout import Layout
from sslib.evaluation import comparison
from sslib.evaluation.tables import MEASURES
from sslib.report import figures as viz
from sslib.report import workbook
from sslib.report.text import format_interval, settled

import pandas as pd
import yaml
from IPython.display import Markdown, display

settings = configuration.load(config, overrides)
variants, seeds = settings.ablations.variants, settings.ablations.seeds
base = "base" if "base" in variants else next(iter(variants), None)
info = Layout(settings.data.root).info()
if info.get("generated"):
    display(
        Markdown(
            "> **Generated clips.** Drawn shapes and synthesized sounds stand in for real media here."
        )
    )
if not variants:
    display(
        Markdown(
            "The configuration names no variants under `ablations`: there is nothing to compare."
        )
    )

# %% [markdown]
# ## The variants
#
# This notebook trains nothing itself. A variant is a run of notebooks 02 and 04 with a few values changed, as many at
# a time as `ablations.jobs` says; what is finished is skipped, or trained again with `retrain = True`.

# %%
changes = {}
for name, change in variants.items():
    for seed in seeds:
        exp_name = f"{settings.exp_name}/variants/{name}-seed{seed}"
        own = {"exp_name": exp_name, "seed": seed}
        own["ablations"] = {"variants": {}, "seeds": [], "jobs": 1}
        changes[name, seed] = configuration.merge(configuration.merge(overrides, change), own)
folders = workbook.run_variants(config, ("02", "04"), changes, settings.ablations.jobs, retrain)
runs = {key: folder / "run" for key, folder in folders.items()}
trained = {key: configuration.load(config, change) for key, change in changes.items()}

# %% [markdown]
# What sets the variants apart, and what they cost:

# %%
if runs:
    rows = []
    for (name, seed), own in trained.items():
        loss, summary = own.objective, comparison.read_summary(runs[name, seed])
        weights = [
            loss.localization,
            *(w * own.model.reasoning for w in (loss.discrimination, loss.divergence)),
        ]
        link = f"[{name}, seed {seed}](variants/{name}-seed{seed}/04_evaluation.html)"
        rows.append(
            [link, *weights, own.training.epochs, f"{summary['training']['seconds']:.0f}"]
        )
    columns = [
        "variant",
        "localization",
        "discrimination",
        "divergence",
        "epochs",
        "seconds of training",
    ]
    lines = [columns, ["---"] * len(columns), *rows]
    display(Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)))

# %%
if runs:
    clips = len(Layout(settings.data.root).ids(settings.data.train))
    epochs = sorted({own.training.epochs for own in trained.values()})
    steps = sum(
        own.training.epochs * (clips // own.training.batch_size) for own in trained.values()
    ) // len(trained)
    length = " or ".join(map(str, epochs))
    text = f"Each variant trains on {clips:,} clips, epochs: {length}, about {steps:,} steps; the experiment itself "
    text += f"has {settings.training.epochs} epochs. **This is a comparison at a small budget**: it shows what a loss "
    text += (
        "does early in training. An order of variants found here need not hold at full length."
    )
    display(Markdown(text))
    plain = json.loads(
        json.dumps(variants)
    )  # the YAML of equal parts is written out, not referred to
    display(
        Markdown(
            "```yaml\n" + yaml.safe_dump(plain, sort_keys=False, default_flow_style=None) + "```"
        )
    )

# %% [markdown]
# ### Learning curves
#
# Curves of what all variants have in common: the localization loss on training and validation clips, and on the
# validation clips the share of pictures that find their own sound in a batch and of maps that point into the box.

# %%
if runs:
    histories = {
        f"{name}, seed {seed}": pd.read_csv(run / "metrics.csv")
        for (name, seed), run in runs.items()
    }
    panels = {
        "localization loss, training": ["localization"],
        "localization loss, validation": ["val_loss"],
    }
    panels |= {
        "own sound found, validation": ["val_accuracy"],
        "pointing, validation": ["val_pointing"],
    }
    display(viz.curves(histories, panels))
    last = pd.DataFrame({name: history.iloc[-1] for name, history in histories.items()}).T
    best = last["val_loss"].astype(float).idxmin()
    display(
        Markdown(
            f"The lowest validation loss at the end is {last.loc[best, 'val_loss']:.3f}, of {best}."
        )
    )

# %% [markdown]
# ## Results
#
# All measures are means over test clips and seeds, in percent, with bootstrap intervals that resample recordings and
# seeds. The success rate at one half is what papers often print as cIoU.

# %%
measures = ["pointing", "miou", "success", "auc"]
others = [name for name in variants if name != base]
if runs:
    groups = [
        comparison.Group(name, [runs[name, seed] for seed in seeds], list(seeds))
        for name in (base, *others)
    ]
    results = comparison.compare(groups, settings.evaluation)
    results = results[results["measure"].isin(measures)].rename(columns={"run": "variant"})
    results["set"] = results["split"] + ", " + results["part"]
    results["label"] = [MEASURES[measure].label for measure in results["measure"]]

# %%
if runs:
    cells = results.assign(text=results.apply(format_interval, axis=1, percent=True))
    for name, rows in cells.groupby("set", sort=False):
        wide = rows.pivot(index="variant", columns="label", values="text")
        wide = wide.loc[list(variants), rows["label"].unique()].rename_axis(
            index=None, columns=None
        )
        size, clusters, union = rows[["clips", "clusters", "all_clips"]].max()
        title = f"**{name}**, {size} of {union} clips, which all variants have, of {clusters} recordings"
        display(Markdown(title), wide)

# %% [markdown]
# ### Pointing accuracy by variant
#
# Pointing accuracy of each variant with its interval, on every part of the test lists.

# %%
if runs:
    pointing = results[results["measure"] == "pointing"]
    display(viz.intervals(pointing, "variant", "set", MEASURES["pointing"].label))
    lines = []
    for name, rows in pointing.groupby("set", sort=False):
        order = rows.sort_values("value", ascending=False)
        top, low = order.iloc[0], order.iloc[-1]
        overlap = "overlap" if low["high"] >= top["low"] else "do not overlap"
        lines.append(
            f"- {name}: from {low['value']:.1%} ({low['variant']}) to {top['value']:.1%} ({top['variant']}); "
            f"the intervals of these two {overlap}."
        )
    display(Markdown("\n".join(lines)))

# %% [markdown]
# ### Beside the controls
#
# A variant is only worth comparing where it beats what does not learn or does not listen. Pointing accuracy in percent:

# %%
if runs:
    methods = [
        "model",
        "model, shuffled sounds",
        "visual-only (foreground nodes)",
        "untrained weights",
        "centre square",
    ]
    shown = pd.concat(
        pd.DataFrame(comparison.read_summary(run)["tables"]).assign(variant=name)
        for (name, _), run in runs.items()
    )
    shown = shown[(shown["measure"] == "pointing") & (shown["protocol"] == "masks")]
    shown = shown.assign(set=shown["split"] + ", " + shown["part"], percent=100 * shown["value"])
    order = pd.MultiIndex.from_product([shown["set"].unique(), variants], names=[None, None])
    table = shown.pivot_table(
        index=["set", "variant"], columns="method", values="percent", sort=False
    ).reindex(order)
    table = table[[name for name in methods if name in table]].rename_axis(columns=None)
    display(
        table.rename(columns=lambda name: name.replace("model, ", "")).style.format(
            "{:.1f}", na_rep="–"
        )
    )

# %%
if runs:
    gain = table["model"] - table["model, shuffled sounds"]
    place, name = gain.idxmax()
    text = f"The right sound is worth {gain.min():+.1f} to {gain.max():+.1f} points of pointing over another clip's, "
    text += f"most of all {name} on {place}. A dash stands for a variant without nodes, which has no map without a sound."
    display(Markdown(text.replace("-", "−")))

# %% [markdown]
# ## What each loss adds
#
# The difference of two variants is taken clip by clip: a clip that is hard for both says nothing about either, so the
# paired interval is usually narrower than those above. For variant $v$, clip $i$ and seeds $s = 1, \ldots, S$,
#
# $$ d_{i,s} = m_{i,s}^{(v)} - m_{i,s}^{(\mathrm{base})} $$
#
# and the interval of their mean resamples recordings and seeds, so it tells how the result would vary with other test
# recordings and with another training. Of a single seed it tells nothing about the latter.
#
# Paired differences of pointing accuracy to the base model, with their intervals:

# %%
differences = comparison.gains(results) if len(variants) > 1 else pd.DataFrame()
if len(differences):
    pointing = differences[differences["measure"] == "pointing"]
    display(
        viz.intervals(pointing, "variant", "set", f"pointing: variant minus {base}", zero=True)
    )

# %% [markdown]
# The same for every measure, in points:

# %%
if len(differences):
    cells = differences.assign(
        text=differences.apply(format_interval, axis=1, sign=True, percent=True)
    )
    wide = cells.pivot(index=["set", "variant"], columns="label", values="text")
    order = pd.MultiIndex.from_product([cells["set"].unique(), others], names=[None, None])
    wide = wide.reindex(order)[cells["label"].unique()].rename_axis(columns=None)
    display(wide.style.set_properties(**{"white-space": "nowrap"}))

# %% [markdown]
# ## What may be said
#
# *Better* and *worse* are said of an interval over recordings and seeds that leaves out 0. Of a single seed it is a
# property of one training run. The verdict is on pointing accuracy, the measure chosen beforehand.

# %%
if len(differences):
    display(Markdown(settled(pointing, settings.evaluation.confidence)))
