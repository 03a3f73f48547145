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
from sslib.evaluation import ablations
from sslib.evaluation.names import MEASURES
from sslib.report import figures as viz
from sslib.report import workbook
from sslib.report.text import format_interval

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
        loss, summary = own.objective, json.loads((runs[name, seed] / "summary.json").read_text())
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
# All measures are means over test clips, in percent, with bootstrap intervals that resample recordings. With several
# seeds a clip counts with its mean over them. The success rate at one half is what papers often print as cIoU.

# %%
measures = ["pointing", "miou", "success", "auc"]
if runs:
    clips = ablations.collect(runs)
    results = ablations.measured(clips, measures, settings.evaluation)
    results = results.assign(set=results["split"] + ", " + results["part"])
    cells = results.assign(
        text=results.apply(format_interval, axis=1, percent=True),
        measure=results["measure"].map(MEASURES),
    )
    for name, rows in cells.groupby("set", sort=False):
        wide = rows.pivot(index="variant", columns="measure", values="text").loc[
            list(variants), rows["measure"].unique()
        ]
        display(
            Markdown(
                f"**{name}**, {rows['clips'].iloc[0]} clips of {rows['clusters'].iloc[0]} recordings"
            )
        )
        display(wide.rename_axis(index=None, columns=None))

# %% [markdown]
# ### Pointing accuracy by variant
#
# Pointing accuracy of each variant with its interval, on every part of the test lists.

# %%
if runs:
    pointing = results[results["measure"] == "pointing"]
    display(viz.intervals(pointing, "variant", "set", MEASURES["pointing"]))
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
    shown = clips[clips["method"].isin(methods)]
    shown = shown.assign(
        set=shown["split"] + ", " + shown["part"], percent=100 * shown["pointing"]
    )
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
# $$ d_i = \frac{1}{S} \sum_{s} (m_{i,s}^{(v)} - m_{i,s}^{(\mathrm{base})}) $$
#
# and the interval of the mean of $d_i$ resamples recordings. It tells how the result would vary with other test
# recordings; only further seeds tell how it would vary with another training.
#
# Paired differences of pointing accuracy to the base model, with their intervals:

# %%
differences = pd.DataFrame()
if len(variants) > 1:
    differences = ablations.differences(clips, base, measures, settings.evaluation)
    differences = differences.assign(set=differences["split"] + ", " + differences["part"])
    pointing = differences[differences["measure"] == "pointing"]
    display(
        viz.intervals(pointing, "variant", "set", f"pointing: variant minus {base}", zero=True)
    )

# %% [markdown]
# The same for every measure, in points:

# %%
if len(differences):
    cells = differences.assign(
        text=differences.apply(format_interval, axis=1, sign=True, percent=True),
        measure=differences["measure"].map(MEASURES),
    )
    wide = cells.pivot(index=["set", "variant"], columns="measure", values="text")
    others = [name for name in variants if name != base]
    order = pd.MultiIndex.from_product([cells["set"].unique(), others], names=[None, None])
    wide = wide.reindex(order)[cells["measure"].unique()].rename_axis(columns=None)
    display(wide.style.set_properties(**{"white-space": "nowrap"}))

# %% [markdown]
# ## What may be said
#
# A verdict needs two things: an interval over recordings that leaves out 0, and seeds that agree. The first without the
# second is a property of one training run. The verdict is on pointing accuracy, the measure chosen beforehand.

# %%
if len(differences):
    lines = [
        f"- **{row.variant}** against {base}, {row.set}: {row.verdict}."
        for row in pointing.itertuples()
    ]
    display(Markdown("\n".join(lines)))
    confidence = settings.evaluation.confidence
    text = f"These are {len(pointing)} intervals read at once: at {confidence:.0%} each, "
    text += f"{len(pointing) * (1 - confidence):.1f} of them would leave out 0 by chance where no loss adds anything. "
    text += f"Seeds of each variant: {len(seeds)}."
    display(Markdown(text))

# %%
if len(differences):
    clear = pointing[pointing["verdict"].str.startswith(("higher", "lower"))]
    text = f"**None of the {len(pointing)} comparisons settles what a loss adds.** More seeds and epochs could; ask for "
    text += "them in `ablations.seeds` and in `training.epochs` of the variants."
    if len(clear):
        text = f"**{len(clear)} of {len(pointing)} comparisons are settled at this budget**; the list says what the "
        text += "others lack."
    display(Markdown(text))
