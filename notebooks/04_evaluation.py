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

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
from sslib import config as configuration
from sslib import datasets
from sslib.evaluation import comparison, measures, protocols
from sslib.evaluation import run as evaluation
from sslib.evaluation.bootstrap import bootstrap
from sslib.report import evaluation_figures, figures, galleries, text
from sslib.report.evaluation_figures import confidence_by_sound, values_by_method
from sslib.report.text import Results, format_interval, show

import numpy as np
import pandas as pd

# %%
settings = configuration.load(config, overrides)
run, sure = configuration.experiment_folder(settings) / "run", settings.evaluation
evaluation.evaluate(run, settings)
galleries.save_thumbnail(run, settings)
summary, clips = comparison.read_summary(run), comparison.read_clips(run)
results = Results(summary)
maps = evaluation.as_measured(np.load(run / "maps.npz"), settings)
first = settings.data.tests[0]
data = datasets.AVDataset(settings, first, annotated=True)
pairs = measures.sound_swap(measures.AnnotatedClips.of(data))
gallery = galleries.Gallery(data, maps)
show(text.generated_note(summary["data"]["generated"]), text.answer(summary))

# %% [markdown]
# The first scene of the list, not chosen, with each of its sounds and without any:

# %%
KINDS = {"similarity": "own sound", "shuffled": "another sound", "visual_only": "no sound"}
STILL = {"visual_only": "no sound"}
if pairs is None:
    show(gallery.show([gallery.clip(data.ids[0], gallery.class_of(data.ids[0]), KINDS)]))
else:
    show(gallery.show([gallery.scene(pairs.ids[:2], STILL)]))

# %% [markdown]
# **Reads** the run of notebook 02 and the test lists. **Writes** `run/maps.npz` (raw maps), `run/clips.csv` (one row
# per clip, sound and kind of map), `run/summary.json` (the tables).

# %% [markdown]
# ## The test sets
#
# This run chose nothing on these clips: no checkpoint, and no threshold. What is independent is a *recording*; clips
# that share one are not, so every interval below resamples recordings.

# %%
own = clips[(clips["map_kind"] == "similarity") & (clips["condition"] == "own")]
sets = own.groupby(["split", "subset"], sort=False).agg(
    clips=("clip_id", "size"),
    scenes=("scene", "nunique"),
    recordings=("recording", "nunique"),
    classes=("class", "nunique"),
    area=("area", "median"),
)
subset = sets.loc[first]["clips"].idxmax()
shown = sets.assign(area=sets["area"].map("{:.1%}".format)).reset_index()
shown.index = [text.subset_title(*place) for place in sets.index]
shown.drop(columns=["split", "subset"]).rename(
    columns={"area": "median share of the picture in boxes"}
)

# %% [markdown]
# ## How to read the tables
#
# Beside the model stand methods that know less: its weights before training, the sound of a clip of another class, no
# sound at all, a square in the centre, the whole picture. A number means something by its distance from the best of
# these, on the same clips.

# %%
present = [f"{split}: {row['present']}" for split, row in summary["lists"].items()]
partial = any(row["missing"] for row in summary["lists"].values())
show(
    text.say("legend", sure),
    f"{'; '.join(present)}. "
    + "Results on a part of a list do not compare with others. " * partial
    + f"Figures of a single set show **{text.subset_title(first, subset)}**, the largest part of the first list.",
)

# %% [markdown]
# ## Localization
#
# For each clip
#
# $$ \mathrm{cIoU} = \frac{\sum_x p_x g_x}{\sum_x g_x + \sum_x p_x [g_x = 0]}, $$
#
# where $g$ is the ground truth from boxes and $p$ the pixels that the map claims: those at or above its median (at
# least half of the picture), its top half, those above one universal threshold, or (*adaptive*) as many as the boxes
# cover. The *success rate* is the share of clips with cIoU of at least one half; papers often print it as "cIoU". The
# *AUC* averages it over all thresholds.

# %%
show(
    results.report(
        "localization",
        ("success_adaptive", "auc_adaptive", "success", "auc"),
        "No clip of these lists has a box.",
    )
)

# %% [markdown]
# ### Pointing and pixels
#
# *Pointing accuracy*: the map's highest point lies on the object that sounds. With masks, overlap is counted in
# pixels: mean IoU, and F with β² = 0.3 at the threshold that is best for the whole set (AVSBench).

# %%
show(
    results.report(
        "masks", ("pointing", "miou", "f"), "No clip of these lists has a box or a mask."
    )
)
if "miou" not in set(results.of("masks")["measure"]):
    show("These lists have boxes but no masks: mean IoU and F do not apply.")

# %% [markdown]
# ## What the sound contributes
#
# The model's pointing accuracy minus that of each control on the same clips. A model that only finds salient things
# loses nothing when it hears something else.

# %%
gains = results.differences.assign(set=lambda rows: rows["split"] + ", " + rows["subset"])
gains = gains[(gains["protocol"] == "masks") & (gains["measure"] == "pointing")]
show(
    figures.intervals(
        gains, "control", "set", "pointing: model minus control, points", zero=True
    ),
    text.sound_gains(gains[gains["control"] == text.SHUFFLED]),
)

# %% [markdown]
# ## Success over thresholds
#
# The share of clips that pass, over the cIoU that is asked for; the area under a curve is its AUC.

# %%
here = clips[(clips["split"] == first) & (clips["subset"] == subset)]
mine = here[(here["map_kind"] == "similarity") & (here["condition"] == "own") & here["source"]]
mine = mine.set_index("clip_id", drop=False).astype({"class": object}).fillna({"class": ""})
cuts = {"median": "ciou", "universal": "ciou_fixed", "adaptive": "ciou_adaptive"}
curves = {f"{cut} threshold": values_by_method(here, column) for cut, column in cuts.items()}
curves = {cut: values for cut, values in curves.items() if "model" in values}
lines = [
    f"- {cut}: {np.mean(of['model'] >= 0.5):.0%} of the clips reach one half, of the "
    f"{np.mean(of['oracle ranking'] >= 0.5):.0%} that could; the median clip has a cIoU of "
    f"{np.median(of['model']):.2f} (whole image: {np.median(of['whole image']):.2f})."
    for cut, of in curves.items()
]
show(evaluation_figures.threshold_curves(curves, "cIoU"), "\n".join(lines))

# %% [markdown]
# ## Area against cIoU
#
# The median threshold always claims half of the picture, so small objects cannot pass, whatever the map. Dotted lines
# are the quartiles of the areas of VGG-SS, which divide objects into small, medium, large and huge.

# %%
small = mine["area"] < 0.25
passed = mine.loc[~small, "success"].sum()
ranks = [mine["area"].corr(mine[column], "spearman") for column in ("ciou", "ciou_adaptive")]
show(
    evaluation_figures.area_scatter(mine["area"], mine["ciou"]),
    (
        f"{small.mean():.0%} of these clips have boxes of less than a quarter of the picture and "
        f"can never reach a cIoU of one half at the median; of the other {(~small).sum()}, "
        f"{passed:.0f} do. The rank correlation of area and cIoU is {ranks[0]:.2f} at the median "
        f"and {ranks[1]:.2f} at the adaptive threshold."
    ),
)

# %% [markdown]
# The adaptive threshold takes the area out of the bound; what then depends on size is the map. Clips in parentheses.

# %%
area = results.of("area")
area = area[(area["split"] == first) & (area["measure"] == "success_adaptive")]
area = area[area["method"].isin(["model", "model, shuffled sounds", "centre square"])]
area = area.assign(group=area["subset"] + " (" + area["clips"].astype(str) + ")")
found = area[area["method"] == "model"].to_dict("records")
if found:
    sizes = [f"{row['subset']} {format_interval(row, percent=True)} %" for row in found]
    show(
        figures.intervals(area, "group", "method", "success rate at 0.5, adaptive threshold, %"),
        (f"The model's success by size of the object: {'; '.join(sizes)}."),
    )
else:
    show("The objects of this list are all of one group of sizes.")

# %% [markdown]
# ## Is there a source at all?
#
# A clip counts as found when its confidence, the mean of the map's top quarter, exceeds a threshold. Sounds without a
# visible source (clips whose annotation has no box; where a list has none, the same pictures with off-screen sounds)
# are false positives there. AP and max-F1 run over all thresholds, LocAcc leaves the confidence out (Mo & Morgado).

# %%
show(
    results.report(
        "detection",
        ("ap", "max_f1", "loc_acc"),
        "These lists have no sounds without a visible source.",
    )
)

# %% [markdown]
# Confidence of the maps for sounds with a visible source and without; where the distributions overlap, no threshold
# tells them apart.

# %%
SOUNDS = {"own": "own sound", "offscreen": "off-screen", "silence": "silence", "noise": "noise"}
sure_of = confidence_by_sound(here, SOUNDS)
right = sure_of.pop("own sound")
wins = [f"{label} {np.mean(right[:, None] > values):.0%}" for label, values in sure_of.items()]
if wins:
    show(
        evaluation_figures.confidences({"own sound": right} | sure_of),
        (
            "Of a clip with its own sound and one without a visible source, the former has the "
            f"higher confidence in this share of pairs: {', '.join(wins)}. Half is chance."
        ),
    )
else:
    show("There are no negative sounds for these clips.")

# %% [markdown]
# ## One threshold for all clips
#
# The universal threshold comes from negative sounds of the validation list: the third quartile of their maps' maxima,
# of the worst kind (Juanola et al.). *pIA* is the share of the picture claimed above it when nothing in it sounds: 0
# is best. *AOC* is the area under the share of clips with pIA ≤ t. $F_\mathrm{LOC}$ and $F_\mathrm{AUC}$ are harmonic
# means with the success rate and the AUC on the clips' own sounds, at the same threshold.

# %%
level = summary["threshold"]
if level["value"] is None:
    show(f"There is no universal threshold: {level['reason']}.")
else:
    show(
        f"The threshold is {level['value']:.3f} on the raw map, from {level['clips']} clips "
        f"of the list *{level['list']}* with {', '.join(map(SOUNDS.get, level['kinds']))}."
    )
show(
    results.report(
        "universal",
        ("f_loc", "f_auc", "pia", "aoc"),
        "Without a threshold this protocol has no rows.",
    )
)

# %% [markdown]
# Why one threshold is hard: the share of the picture above it, for every threshold, with the clips' own sounds and with
# negative ones. A good threshold lies where the own sounds still claim what the objects cover and the others nothing.

# %%
PLAYED = {"similarity": "own sound"} | {k: v for k, v in SOUNDS.items() if k != "own"}
raw = gallery.maps_of(mine.index, PLAYED)
if level["value"] is not None:
    above = [f"{label} {np.mean(values > level['value']):.1%}" for label, values in raw.items()]
    show(
        evaluation_figures.area_above_threshold(raw, level["value"]),
        (
            f"Share of the picture above the universal threshold: {', '.join(above)}; the boxes "
            f"cover {mine['area'].mean():.1%}."
        ),
    )

# %% [markdown]
# The first clips of the list, not chosen, their maps on one scale: where those of other sounds are as bright as that of
# the own sound, no threshold can tell them apart.

# %%
chosen = mine.index[:3]
limits = tuple(np.quantile(raw["own sound"], [0.05, 0.995]))
highest = {label: values.max(axis=(1, 2)) for label, values in raw.items()}
right = highest.pop("own sound")
louder = [f"{label} {np.mean(values > right):.0%}" for label, values in highest.items()]
show(
    gallery.show([gallery.clip(c, gallery.class_of(c), PLAYED, limits) for c in chosen]),
    (
        "Share of all clips in which the map's highest point is higher for the negative than for "
        f"the clip's own sound: {', '.join(louder)}."
    ),
)

# %% [markdown]
# ## Does the map move when the sound changes?
#
# In a scene with several things that can be heard, each sounds in turn. *IIoU* is the share of scenes in which every
# one of them passes a cIoU of one half with its own sound, *IAUC* the area over thresholds (Senocak et al.).

# %%
show(
    results.report(
        "interaction",
        ("iiou_adaptive", "iauc_adaptive"),
        "These clips have one sound each: no map can move.",
    )
)

# %% [markdown]
# One dot for each object: the overlap of its boxes with the map for its own sound, over that with the map for the
# other object's sound, both at the adaptive threshold. Without any effect of the sound all dots lie on the diagonal.

# %%
if pairs is None:
    show("No scene of this list has two sounds.")
else:
    this, other = protocols.ciou_by_sound(
        maps[f"{first}/similarity"][pairs.rows], pairs.ground_truth.boxes
    )
    gain = bootstrap(this - other, pairs.recordings, sure.resamples, sure.confidence)
    show(
        evaluation_figures.movement(this, other),
        (
            f"In {len(pairs.ids)} clips the right one of two sounds raises the overlap with its "
            f"object by {format_interval(gain._asdict(), sign=True)}; it is higher in "
            f"{np.mean(this > other):.0%} of the clips and lower in {np.mean(this < other):.0%}."
        ),
    )

# %% [markdown]
# Each row is one picture; only the sound differs. The map has to move with it; without any sound it cannot.
# The first scenes with two sounds, not chosen:

# %%
if pairs is None:
    show("No scene of this list has two sounds.")
else:
    ids = pairs.ids[:8]
    show(gallery.show([gallery.scene(ids[i : i + 2], STILL) for i in range(0, len(ids), 2)]))

# %% [markdown]
# ## Retrieval across the senses
#
# The highest value of the map of picture $i$ and sound $j$ is the score of the pair. *R@k*: among the k best answers
# to a query is a right one, the clip's own partner or, *of the class*, any of its class.

# %%
RECALLS = [
    f"{of}r1_{way}" for of in ("", "class_") for way in ("image_to_audio", "audio_to_image")
]
show(results.report("retrieval", RECALLS, "There are no scores of all pairs."))

# %% [markdown]
# ## What it looks like
#
# Pictures, ground truth (dashed box, outlined pixels) and maps, each scaled to its own range. Sorted by overlap with
# the object at the adaptive threshold: the best, the middle and the worst.

# %%
ranked = mine.dropna(subset="ciou_adaptive").sort_values("ciou_adaptive", ascending=False)
middle = max(len(ranked) // 2 - 1, 0)
groups = {"best": ranked[:2], "median": ranked[middle : middle + 2], "worst": ranked[-2:]}
chosen = [(rank, row) for rank, rows in groups.items() for row in rows.itertuples()]
found = [f"{rank} {rows['ciou_adaptive'].mean():.2f}" for rank, rows in groups.items()]
show(
    gallery.show(
        [
            gallery.clip(row.clip_id, f"{rank}: cIoU {row.ciou_adaptive:.2f}", KINDS)
            for rank, row in chosen
        ]
    ),
    (f"Their mean cIoU at the adaptive threshold: {', '.join(found)}."),
)

# %% [markdown]
# ### Failures
#
# Clips whose highest point misses the object, the most confident first.

# %%
hit = mine["pointing"] >= 0.5
worst = mine[~hit].sort_values("confidence", ascending=False)[:4]
says = f"{(~hit).sum()} of {len(mine)} clips miss ({np.mean(~hit):.0%}). "
if hit.any() and len(worst):
    typical = mine.groupby(hit)[["area", "confidence"]].median()
    says += (
        f"Their objects cover {typical['area'][False]:.0%} of the picture (median; "
        f"{typical['area'][True]:.0%} where the map hits) at a confidence of "
        f"{typical['confidence'][False]:.2f} ({typical['confidence'][True]:.2f})."
    )
if len(worst):
    show(gallery.show([gallery.clip(c, gallery.class_of(c), KINDS) for c in worst.index]))
show(says)

# %% [markdown]
# Where the highest point lies in scenes with two sounding things, by what is played.

# %%
if pairs is None:
    show("No scene of this list has two sounds.")
else:
    masks = pairs.ground_truth.masks
    played = gallery.maps_of(pairs.ids, KINDS)
    peaks = pd.DataFrame({k: protocols.pointing_by_sound(m, masks) for k, m in played.items()}).T
    missed = peaks.loc["own sound", ["the other object", "elsewhere"]]
    show(
        evaluation_figures.stacked_shares(peaks, "share of clips"),
        (
            f"With its own sound the map points at this object in "
            f"{peaks.loc['own sound', 'this object']:.0%} of the clips, at the other one in "
            f"{missed.iloc[0]:.0%} (a thing is found, but the wrong one), elsewhere in "
            f"{missed.iloc[1]:.0%}."
        ),
    )

# %% [markdown]
# ## By class
#
# Pointing accuracy of each class with its interval (hollow: a single recording, no interval); the line is what a
# random point would reach on average. In parentheses: clips.

# %%
classes = results.of("class").query("method == 'model' and measure == 'pointing'")
classes = classes[classes["split"] == first].sort_values("value")
chance = np.mean(values_by_method(here, "pointing")["whole image"])
several = classes[classes["clusters"] > 1]
if classes.empty:
    show("The clips of this list have no classes, or a single one.")
else:
    order = classes["subset"].str.replace("_", " ").tolist()
    show(
        evaluation_figures.per_class(classes, chance, "pointing accuracy"),
        (
            f"Strongest: {', '.join(order[::-1][:5])}. Weakest: {', '.join(order[:5])}. "
            f"{np.sum(classes['value'] > chance)} of {len(order)} classes lie above chance "
            f"({chance:.2f}); {len(several)} have more than one recording and so an interval; it "
            f"lies above chance for {np.sum(several['low'] > chance)} of them."
        ),
    )

# %% [markdown] tags=["optional"]
# ## Beside published results
#
# Only what was measured on the same list under the same threshold compares, and only with all of its clips.

# %%
if "vggss" in summary["lists"]:
    rows = results.of("localization").query("split == 'vggss' and method == 'model'")
    value = rows.groupby("measure")["value"].mean() * 100
    ours = ("this run", f"{value['success']:.2f}", f"{value['auc']:.2f}")
    ours += (f"{summary['lists']['vggss']['present']}; trained on {settings.data.train}",)
    published = text.published_results()
    published.loc[len(published)] = ours
    show(published.style.hide(axis="index"))

# %% [markdown]
# ## What this does and does not say

# %%
trained, lacking = summary["training"], summary["data"]["missing"]
show(
    f"One training with seed {trained['seed']}, {trained['epochs']} epochs, "
    f"{trained['seconds'] / 60:.1f} minutes, on *{summary['data']['name']}*. Intervals cover "
    "the choice of test recordings, not the luck of the training: another seed gives other "
    f"numbers. Of many results without an effect, {1 - sure.confidence:.0%} look like one by "
    "chance. "
    + f"{len(lacking)} media files were missing: no comparison with others. "
    * bool(lacking)
)
