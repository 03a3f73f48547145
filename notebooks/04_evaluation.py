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
# # 04 · Evaluation
#
# *Where does the model say that a sound comes from, how often is it right, and how much of that does it owe to the
# sound?*
#
# **Reads** the run of [02 · Training](02_training.html) and the test lists. **Writes** `run/maps.npz` (raw maps),
# `run/clips.csv` (one row per clip, sound and kind of map), `run/summary.json` (the tables). **Before**:
# [03 · Ablations](03_ablations.html). **After**: [all experiments](../../index.html).

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
import json

import ipywidgets
import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display

from sslib import config as configuration
from sslib import datasets, evaluation, viz

settings = configuration.load(config, overrides)
run = configuration.experiment_folder(settings) / "run"
evaluation.evaluate(run, settings)
summary = json.loads((run / "summary.json").read_text())
clips = pd.read_csv(run / "clips.csv", keep_default_na=False, na_values=[""])
maps = np.load(run / "maps.npz")
if summary["data"]["generated"]:
    display(
        Markdown(
            "> **Generated clips.** Drawn shapes and synthesized sounds stand in for real media here."
        )
    )

# %% [markdown]
# ## The test sets
#
# Nothing was chosen on these clips. A *recording* is what is independent: clips that share one are not, so every
# interval below resamples recordings.

# %%
own = clips[(clips["map"] == "similarity") & (clips["sound"] == "own")]
sets = own.groupby(["split", "part"], sort=False).agg(
    clips=("clip_id", "size"),
    scenes=("scene", "nunique"),
    recordings=("recording", "nunique"),
    classes=("class", "nunique"),
    median_area=("area", "median"),
)
sets.style.format({"median_area": "{:.1%}"})

# %%
first = settings.data.tests[0]
part = sets.loc[first]["clips"].idxmax()
tables, differences = pd.DataFrame(summary["tables"]), pd.DataFrame(summary["differences"])
percent = f"{settings.evaluation.confidence:.0%}"
display(
    Markdown(
        f"The figures below that show a single set show **{first}, {part}**, the largest part of the first list. "
        f"Brackets are {percent} bootstrap intervals of {settings.evaluation.resamples:,} resamples."
    )
)

# %% [markdown]
# ## Results, with every control
#
# *Pointing accuracy*: the map's highest point lies on the object that sounds. *Mean IoU*: overlap with its pixels
# when as many pixels are claimed as it has. *cIoU* compares with boxes,
#
# $$ \mathrm{cIoU} = \frac{\sum_x p_x g_x}{\sum_x g_x + \sum_x p_x [g_x = 0]}, $$
#
# where $p$ claims every pixel at or above the map's median (half of the picture) or, *adaptive*, as many pixels as
# the boxes cover. The *success rate* is the share of clips with cIoU of at least one half; papers often print it
# under the name cIoU. The *AUC* averages the success rate over all thresholds.


# %%
def cell(row):
    """A value in percent above its interval."""
    return f"{100 * row.value:.1f}<br><small>{100 * row.low:.1f} – {100 * row.high:.1f}</small>"


text = tables.assign(text=[cell(row) for row in tables.itertuples()])
text["measure"] = text["measure"].map(evaluation.MEASURES)
for key, rows in text.groupby(["split", "part"], sort=False):
    wide = rows.pivot(index="method", columns="measure", values="text")
    wide = wide.reindex(rows["method"].unique())[rows["measure"].unique()]
    wide = wide.rename_axis(index=None, columns=None)
    caption = f"**{key[0]}, {key[1]}**: percent, with its {percent} interval below"
    display(Markdown(caption), HTML(wide.to_html(escape=False, border=0)))

# %%
model = tables[tables["method"] == "model"].set_index(["split", "part", "measure"])
controls = tables[~tables["method"].isin(["model", "oracle ranking"])]
lines = []
for place in sets.index:
    rows = controls[(controls["split"] == place[0]) & (controls["part"] == place[1])]
    for measure in ("pointing", "success"):
        mine = model.loc[(*place, measure)]
        best = rows[rows["measure"] == measure].sort_values("value").iloc[-1]
        verdict = "is above" if mine["low"] > best["value"] else "does not clear"
        lines.append(
            f"- {place[0]}, {place[1]}: {evaluation.MEASURES[measure]} {mine['value']:.1%}; its interval {verdict} "
            f"the best control ({best['method']}, {best['value']:.1%})."
        )
display(Markdown("\n".join(lines)))

# %% [markdown]
# Pointing accuracy of the model and of what knows less: other weights, another sound, no sound, no picture.

# %%
pointing = tables[(tables["measure"] == "pointing") & (tables["method"] != "oracle ranking")]
pointing = pointing.assign(set=pointing["split"] + ", " + pointing["part"])
viz.intervals(pointing, "method", "set", "pointing accuracy")

# %% [markdown]
# ## What the sound contributes
#
# The same clips under two conditions, clip by clip: the difference is paired, and its interval says whether the
# sound matters. A model that only finds salient things loses nothing when it hears something else.

# %%
paired = differences.assign(
    set=differences["split"] + ", " + differences["part"],
    against=differences["control"].str.replace("model, ", ""),
)
viz.intervals(
    paired[paired["measure"] == "pointing"],
    "against",
    "set",
    "pointing: model minus control",
    zero=True,
)

# %%
against = paired[
    (paired["measure"] == "pointing") & (paired["control"] == "model, shuffled sounds")
]
lines = [
    f"- {row.set}: the right sound adds {100 * row.value:+.1f} points of pointing "
    f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}] over {row.clusters} recordings: "
    + ("the map follows the sound." if row.low > 0 else "no effect of the sound is shown.")
    for row in against.itertuples()
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## How success depends on the threshold and on the size of the object
#
# The share of clips that pass, over the cIoU that is asked for; the area under a curve is its AUC.

# %%
here = clips[(clips["split"] == first) & (clips["part"] == part)]
here = here.assign(
    method=[evaluation.METHODS[key] for key in zip(here["map"], here["sound"], strict=True)]
)
viz.success_curves(
    {name: rows["ciou"].dropna().to_numpy() for name, rows in here.groupby("method", sort=False)}
)

# %% [markdown]
# Why the median threshold caps every method: it always claims half of the picture, so small objects cannot pass.

# %%
mine = here[here["method"] == "model"].set_index("clip_id")
viz.area_scatter(mine["area"].to_numpy(), mine["ciou"].to_numpy())

# %%
small = mine["area"] < 0.25
display(
    Markdown(
        f"{small.mean():.0%} of these clips have boxes of less than a quarter of the picture and can never reach a "
        f"cIoU of one half at the median; of the others {mine.loc[~small, 'success'].mean():.0%} do."
    )
)

# %% [markdown]
# ## What it looks like
#
# Pictures, ground truth (dashed box, outlined pixels) and maps. The first scenes of the list, not chosen:

# %%
data = datasets.open_dataset(settings, first, annotated=True)
place = {clip_id: index for index, clip_id in enumerate(data.ids)}
KINDS = {"similarity": "own sound", "shuffled": "another sound", "visual_only": "no sound"}


def show(chosen, titles):
    """The clips `chosen` with every kind of map there is; used for each gallery below."""
    shown = [data[place[clip_id]] for clip_id in chosen]
    rows = {
        name: maps[f"{first}/{kind}"] for kind, name in KINDS.items() if f"{first}/{kind}" in maps
    }
    return viz.localization(
        [clip["image"].numpy() for clip in shown],
        {name: [values[place[clip_id]] for clip_id in chosen] for name, values in rows.items()},
        [clip["boxes"].numpy() for clip in shown],
        [clip["mask"] for clip in shown],
        titles,
    )


chosen = mine.index[:8]
show(chosen, mine.loc[chosen, "class"].tolist())

# %% [markdown]
# ### The same picture with each of its sounds
#
# Neighbouring columns are one picture; only the sound differs. The upper row of maps has to move.

# %%
scenes = mine.reset_index().groupby("scene", sort=False).filter(lambda rows: len(rows) > 1)
pairs = list(scenes.groupby("scene", sort=False)["clip_id"].apply(list))[4:8]
chosen = [clip_id for pair in pairs for clip_id in pair[:2]]
if chosen:
    display(show(chosen, [f"♪ {mine.loc[clip_id, 'class']}" for clip_id in chosen]))

# %%
both = scenes.groupby("scene")["pointing"].min() == 1
display(
    Markdown(
        f"In {both.mean():.0%} of the {len(both)} scenes the map points at each of the objects when its own sound is "
        "played."
        if len(both)
        else "These clips have one sound each: the map cannot be asked to move."
    )
)

# %% [markdown]
# ### Best, median, worst
#
# Sorted by the overlap with the object at the adaptive threshold: the extremes and the middle.

# %%
ranked = mine.sort_values("ciou_adaptive", ascending=False).index
middle = len(ranked) // 2
chosen = [*ranked[:3], *ranked[middle - 1 : middle + 2], *ranked[-3:]]
names = ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
show(
    chosen[:9],
    [f"{name}: {mine.loc[c, 'class']}" for name, c in zip(names, chosen, strict=False)],
)

# %% [markdown]
# ## By class
#
# Pointing accuracy of each class; the line is what a random point would reach on average. In parentheses: clips.

# %%
classes = (
    mine.groupby("class")
    .agg(value=("pointing", "mean"), clips=("pointing", "size"))
    .reset_index()
)
chance = here.loc[here["method"] == "whole image", "pointing"].mean()
viz.per_class(classes, chance, "pointing accuracy")

# %%
ordered = classes.sort_values("value")
display(
    Markdown(
        f"Strongest: {', '.join(ordered['class'].iloc[::-1][:5])}. Weakest: {', '.join(ordered['class'][:5])}. "
        f"{(ordered['value'] > chance).mean():.0%} of the {len(ordered)} classes lie above chance ({chance:.1%}); "
        "single classes rest on few clips."
    )
)

# %% [markdown]
# ## Look for yourself
#
# In JupyterLab: any clip, with any sound of this list. (A page shows the figures above instead.)

# %%
menu = ipywidgets.Dropdown(options=list(mine.index), description="clip")
view = ipywidgets.Output()


def look(change):
    """Show the clip that the menu names."""
    view.clear_output(wait=True)
    with view:
        display(show([change["new"]], [mine.loc[change["new"], "class"]]))


menu.observe(look, names="value")
display(menu, view)

# %% [markdown]
# ## What this does and does not say

# %%
display(
    Markdown(
        f"One training with seed {summary['training']['seed']}, {summary['training']['epochs']} epochs, "
        f"{summary['training']['seconds'] / 60:.1f} minutes, on *{summary['data']['name']}*. Intervals cover the "
        "choice of test recordings, not the luck of the training: another seed gives other numbers. "
        + (
            f"{len(summary['data']['missing'])} media files were missing: the numbers do not compare with others."
            if summary["data"]["missing"]
            else "No media file was missing."
        )
    )
)
