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
# *Does visual context help, by how much, at what cost, and compared with whom?*

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
from sslib.report import evaluation_figures, figures, text, workbook
from sslib.report.text import format_interval, show

import pandas as pd
import yaml

settings = configuration.load(config, overrides)
folder, sweep = configuration.experiment_folder(settings), settings.ablations
show(text.generated_note(Layout(settings.data.root).info().get("generated")))
none = "The configuration names no variants under `ablations`: there is nothing to compare."
show("" if sweep.variants else none)

# %%
# A variant is a run of notebooks 02 and 04 with a few values changed. What is finished is skipped, what was
# interrupted goes on; retrain = True starts over.
changes = workbook.variants(config, overrides)
folders = workbook.run_variants(
    config, ("02", "04"), changes, sweep.jobs, retrain, sweep.scheduler
)

# %%
runs = {key: folder / "run" for key, folder in folders.items()}
trained = {key: configuration.load(config, change) for key, change in changes.items()}
variants = list(dict.fromkeys(name for name, _ in runs))
base, others = next(iter(variants), None), variants[1:]
groups = [
    comparison.Group(
        variant,
        [run for (name, _), run in runs.items() if name == variant],
        [seed for name, seed in runs if name == variant],
    )
    for variant in variants
]
configs = {name: own for (name, _), own in trained.items()}
if groups:
    results = comparison.compare(groups, settings.evaluation)
    results = results.join(comparison.costs(groups), on="run")
    results.to_csv(folder / "comparison.csv", index=False)
    found = comparison.against(groups, configs, results, settings.evaluation)
    show(text.compared(found, results))

# %% [markdown] tags=["optional"]
# All of them saw the same clips as often and have the same encoders, unless the table further below says otherwise.
# In percent: the mean over test clips and seeds, its interval over recordings and seeds, and the lowest to the highest
# seed:

# %%
show(text.methods_table(comparison.leading(results)) if groups else "")

# %% [markdown] tags=["optional"]
# The same clips under every method, of the first seed; not chosen by result: of evenly spaced classes in the order of
# their names the first clip. Outlined: what sounds; bright: where the method hears it.

# %%
if groups:
    of_one_seed = {group.name: group.runs[0] for group in groups}
    figure = evaluation_figures.same_clips(of_one_seed, trained[next(iter(runs))])
    figure.savefig(folder / "methods.png", dpi=100)
    show(figure)

# %% [markdown]
# **Reads** the data folder and `ablations` of the configuration. **Writes** one experiment for each variant and seed
# into `variants/`, with its own pages, and `comparison.csv`, every result on this page.

# %% [markdown] tags=["optional"]
# ## The variants
#
# The paper's method adds two losses to the base model's, which tells pictures and sounds apart:
#
# $$ \mathcal{L} = \mathcal{L}_{\mathrm{loc}} + \lambda_1 \mathcal{L}_{\mathrm{dis}}
# + \lambda_2 \mathcal{L}_{\mathrm{div}} $$
#
# Our own changes are another `pool` of the maps, a `global_contrast` of whole pictures, `silent` sounds that go with none,
# and maps that also show what stands out whatever sounds (`saliency`, of the maps and not the objective). Another `kind`
# of objective replaces the first three. What sets the variants apart:

# %%
rows = {}
for group in groups:
    own, loss = configs[group.name], configs[group.name].objective
    pages = [f"variants/{group.name}-seed{seed}/04_evaluation.html" for seed in group.seeds]
    rows[group.name] = {
        "pages, by seed": ", ".join(map("[{}]({})".format, group.seeds, pages)),
        "objective": f"{loss.kind}, {loss.pool}"
        if loss.kind == "context"
        else loss.kind + f", {loss.boxes:.0%} of the boxes" * bool(loss.boxes),
        "silent sounds": loss.silent * (loss.kind == "context"),
        "localization": loss.localization * (loss.kind == "context"),
        "global contrast": loss.global_contrast * (loss.kind == "context"),
        "saliency": own.evaluation.saliency,
        "discrimination": loss.discrimination * own.model.reasoning,
        "divergence": loss.divergence * own.model.reasoning,
        "epochs": own.training.epochs,
    }
show(text.markdown_table(pd.DataFrame(rows).T) if rows else "")

# %%
if groups:
    clips = len(Layout(settings.data.root).ids(settings.data.train))
    steps = [own.training.epochs * (clips // own.training.batch_size) for own in trained.values()]
    epochs = " or ".join(map(str, sorted({own.training.epochs for own in trained.values()})))
    small = (
        "**This is a comparison at a small budget**: it shows what a loss does early in training. An order of "
        "variants found here need not hold at full length."
    )
    show(
        f"Each variant trains on {clips:,} clips, epochs: {epochs}, about {sum(steps) // len(steps):,} steps; the "
        f"experiment itself has {settings.training.epochs} epochs.",
        "" if epochs == str(settings.training.epochs) else small,
    )
    # The YAML of equal parts is written out, not referred to.
    plain = json.loads(json.dumps({name: sweep.variants[name] for name in variants}))
    recipe = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None)
    show(f"```yaml\n{recipe}```")

# %% [markdown] tags=["optional"]
# ### Learning curves
#
# Curves, means over seeds, of what variants have in common: the paper's localization loss, on training clips where it
# was trained and on validation clips always (baselines have temperatures of their own: it tells little of them), and on
# the validation clips the share of pictures that find their own sound in a batch and of maps that point into the box.

# %%
if runs:
    logs = {
        group.name: pd.concat([pd.read_csv(run / "metrics.csv") for run in group.runs])
        for group in groups
    }
    histories = {
        name: log.groupby("epoch", as_index=False).mean(numeric_only=True)
        for name, log in logs.items()
    }
    panels = {
        "localization loss, training": ["localization"],
        "localization loss, validation": ["val_loss"],
        "own sound found, validation": ["val_accuracy"],
        "pointing, validation": ["val_pointing"],
    }
    last = {name: history["val_loss"].iloc[-1] for name, history in histories.items()}
    best = min(last, key=last.get)
    lowest = f"The lowest validation loss at the end is {last[best]:.3f}, of {best}."
    show(figures.curves(histories, panels), lowest)

# %% [markdown] tags=["optional"]
# ## Results
#
# Means over test clips and seeds, as above, on every part of the test lists. The success rate at one half is what
# papers often print as cIoU.

# %%
measures = ["pointing", "miou", "success", "auc"]
labels = [MEASURES[measure].label for measure in measures]
if groups:
    show(text.methods_table(results.drop(columns=["seconds", "parameters"]), measures))
    results = results[results["measure"].isin(measures)].rename(columns={"run": "variant"})
    results["set"] = results["split"] + ", " + results["subset"]
    results["label"] = [MEASURES[measure].label for measure in results["measure"]]

# %% [markdown] tags=["optional"]
# ### Pointing accuracy by variant
#
# Pointing accuracy of each variant with its interval, on every part of the test lists.

# %%
if groups:
    pointing = results[results["measure"] == "pointing"]
    show(
        figures.intervals(pointing, "variant", "set", f"{MEASURES['pointing'].label}, %"),
        text.best_and_worst(pointing),
    )

# %% [markdown] tags=["optional"]
# ### Beside the controls
#
# A variant is only worth comparing where it beats what does not learn or does not listen. Pointing accuracy in percent:

# %%
METHODS = {
    "model": "model",
    "model, shuffled sounds": "shuffled sounds",
    "visual-only (foreground nodes)": "visual-only (foreground nodes)",
    "untrained weights": "untrained weights",
    "centre square": "centre square",
}
if runs:
    tables = {
        key: pd.DataFrame(comparison.read_summary(run)["tables"]) for key, run in runs.items()
    }
    shown = pd.concat(rows.assign(variant=name) for (name, _), rows in tables.items())
    shown = shown.query("measure == 'pointing' and protocol == 'masks' and method in @METHODS")
    shown = shown.assign(percent=100 * shown["value"])
    shown["set"] = shown["split"] + ", " + shown["subset"]
    table = shown.pivot_table("percent", ["set", "variant"], "method", sort=False)
    order = pd.MultiIndex.from_product([shown["set"].unique(), variants], names=[None, None])
    table = table.reindex(order, columns=[name for name in METHODS if name in table])
    table = table.rename(columns=METHODS).rename_axis(columns=None)
    show(table.style.format("{:.1f}", na_rep="–"))

# %% [markdown] tags=["optional"]
# A dash stands for a variant without nodes, which has no map without a sound. The points of pointing that the right
# sound is worth over another clip's:

# %%
if groups:
    show(text.heard(comparison.heard(groups, settings.evaluation), found["published"]))

# %% [markdown] tags=["optional"]
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
    title = f"pointing: variant minus {base}"
    show(figures.intervals(pointing, "variant", "set", f"{title}, points", zero=True))

# %% [markdown] tags=["optional"]
# The same for every measure, in points:

# %%
if len(differences):
    cells = differences.apply(format_interval, axis=1, sign=True, percent=True)
    cells = differences.assign(text=cells)
    wide = cells.pivot(index=["set", "variant"], columns="label", values="text")
    order = pd.MultiIndex.from_product([cells["set"].unique(), others], names=[None, None])
    wide = wide.reindex(order, columns=[label for label in labels if label in wide]).rename_axis(
        columns=None
    )
    show(wide.style.set_properties(**{"white-space": "nowrap"}))

# %% [markdown] tags=["optional"]
# ## What may be said
#
# *Better* and *worse* are said of an interval over recordings and seeds that leaves out 0. Of a single seed it is a
# property of one training run. The verdict is on pointing accuracy, the measure chosen beforehand.

# %%
if len(differences):
    show(text.settled(pointing, base, settings.evaluation.confidence))
