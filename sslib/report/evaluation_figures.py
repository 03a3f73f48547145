"""Draw why an evaluation comes out as it does: thresholds, sizes, confidence, maps that move, misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslib.config import Config
from sslib.datasets import AVDataset
from sslib.evaluation import comparison
from sslib.evaluation.measures import METHODS
from sslib.evaluation.run import as_measured
from sslib.metrics import VGGSS_QUARTILES
from sslib.report.figures import COLOURS, DASHES, grid, legend_below, localization, printable

GREY = "0.55"
UNSEEN = "no source by annotation"
LINES = [{"color": colour, "ls": dash} for colour, dash in zip([*COLOURS[:6], "0.45", "black"], cycle(DASHES))]


def same_clips(runs: Mapping[str, Path], config: Config, count: int = 5) -> Figure:
    """Draw the maps of several runs for the same clips, a row a clip, on the largest part of the first test list.

    They are not chosen by result: of all classes in the order of their names, evenly spaced ones; of each its first
    clip.
    """
    data = AVDataset(config, config.data.tests[0], annotated=True)
    clips = comparison.read_clips(next(iter(runs.values()))).query("split == @data.split")
    clips = clips.query("map_kind == 'similarity' and condition == 'own'")
    largest = clips[clips["subset"] == clips["subset"].mode()[0]]
    first = largest.assign(sound=largest["class"].fillna(largest["clip_id"])).drop_duplicates("sound")
    first = first.sort_values("sound")
    chosen = first.iloc[np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)]
    shown, maps = [data[data.ids.index(clip_id)] for clip_id in chosen["clip_id"]], {}
    for name, run in runs.items():
        with np.load(run / "maps.npz") as stored:
            ids, raw = stored[f"{data.split}/ids"].tolist(), stored[f"{data.split}/similarity"]
        mine = raw[[ids.index(clip_id) for clip_id in chosen["clip_id"]]]
        maps[name] = as_measured({"similarity": mine}, config)["similarity"]
    titles = [printable(f"♪ {name.replace('_', ' ')}", 14) for name in chosen["sound"]]
    images, boxes = ([clip[key].numpy() for clip in shown] for key in ("image", "boxes"))
    return localization(images, maps, boxes, [clip["mask"] for clip in shown], titles, rows=True)


def values_by_method(clips: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """Return the values of a column of ``clips.csv`` for each method that has any; negative sounds are methods too."""
    methods = [METHODS[key] for key in zip(clips["map_kind"], clips["condition"], strict=True)]
    groups = clips[column].dropna().groupby(pd.Series(methods, clips.index), sort=False)
    return {method: values.to_numpy() for method, values in groups}


def confidence_by_sound(clips: pd.DataFrame, sounds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the confidence of the model's maps for each of `sounds` (name in ``clips.csv`` -> label) that was played.

    Clips without a source by annotation have a label of their own, ``UNSEEN``.
    """
    model = clips[clips["map_kind"] == "similarity"]
    labels = model["condition"].map(sounds).where((model["condition"] != "own") | model["source"], UNSEEN)
    rows = {label: model.loc[labels == label, "confidence"].dropna() for label in (*sounds.values(), UNSEEN)}
    return {label: values.to_numpy() for label, values in rows.items() if len(values)}


def threshold_curves(panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str) -> Figure:
    """Draw the share of clips whose value is at least t, over t in [0, 1]; the area under a curve is its AUC.

    `panels` has for each title one value per clip of each method, which keeps its colour in all panels.
    """
    figure, [axes] = grid(1, len(panels), 2.75 if len(panels) > 1 else 4.2, 3.3)
    names = dict.fromkeys(name for methods in panels.values() for name in methods)
    lines = dict(zip(names, cycle(LINES)))  # of a table's methods, in its order: the bound is black
    for axis, (title, methods) in zip(axes, panels.items(), strict=True):
        shares_above(axis, methods, lines, start=0)
        axis.axvline(0.5, color=GREY, lw=0.8, ls=":")  # what a success rate asks for
        axis.set(title=title, xlabel=xlabel, xlim=(0, 1))
    axes[0].set_ylabel("share of clips at or above")
    legend_below(figure, columns=3)
    return figure


def area_above_threshold(maps: Mapping[str, np.ndarray], threshold: float) -> Figure:
    """Draw the share of the cells of raw maps that lie above a threshold, over that threshold; mark `threshold`.

    `maps` has raw maps (N, h, w) for each kind of sound; the first one is that of a source in the picture.
    """
    figure, [[axis]] = grid(1, 1, 5.6, 2.9)
    lowest = min(np.nanmin(values) for values in maps.values())
    shares_above(axis, maps, dict(zip(maps, LINES, strict=False)), start=lowest)
    axis.axvline(threshold, color=GREY, lw=1, ls="--", label="universal threshold")
    axis.set(xlabel="threshold on the raw map", ylabel="share of the picture claimed")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(maps) + 1)
    return figure


def shares_above(axis: Axes, samples: Mapping[str, np.ndarray], lines: Mapping[str, Any], start: float) -> None:
    """Draw for each sample the share of its values that are at least as high, from `start` on; the first is thicker."""
    for number, (name, values) in enumerate(samples.items()):
        steps = np.r_[start, np.sort(values[~np.isnan(values)])]  # a clip may have no sound of this kind
        style = lines[name] | {"lw": 1.4 if number else 2.2, "label": name}
        axis.plot(steps, np.linspace(1, 0, len(steps)), drawstyle="steps-post", **style)
    axis.set_ylim(0, 1.02)


def area_scatter(area: Sequence[float], ciou: Sequence[float]) -> Figure:
    """Draw cIoU under the median threshold over the area of the ground truth, with the bound that this threshold sets.

    The line of means has a point for each twelfth of the clips; dotted are the quartiles of VGG-SS.
    """
    figure, [[axis]] = grid(1, 1, 5.2, 3.3)
    bound = np.linspace(0, 1, 401)[1:]
    clips = pd.DataFrame({"area": np.asarray(area), "ciou": np.asarray(ciou)}).dropna()
    means = clips.groupby(np.ceil(12 * clips["area"].rank(method="first", pct=True))).mean()
    axis.scatter(*clips.to_numpy().T, s=7, alpha=0.45, color=COLOURS[0], linewidths=0, label="clips")
    axis.plot(*means.to_numpy().T, color=COLOURS[1], lw=1.8, label="their mean")
    axis.plot(bound, np.minimum(2 * bound, 0.5 / bound), color="black", lw=1, label="best possible at the median")
    axis.axhline(0.5, color=GREY, lw=0.8, ls="--")
    for edge in VGGSS_QUARTILES:
        axis.axvline(edge, color=GREY, lw=0.8, ls=":")
    axis.set(xlabel="share of the picture inside the boxes", ylabel="cIoU, median threshold", xlim=(0, 1), ylim=(0, 1))
    axis.grid(visible=False)
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    return figure


def confidences(values: Mapping[str, np.ndarray]) -> Figure:
    """Draw the distributions of the confidence of maps, for each kind of sound (name -> confidence of each clip)."""
    figure, [[axis]] = grid(1, 1, 5.6, 2.9)
    style = {"stat": "probability", "common_norm": False, "element": "step", "bins": 30, "alpha": 0.15}
    sns.histplot(dict(values), ax=axis, palette=COLOURS[: len(values)], **style)
    sns.move_legend(axis, "lower center", bbox_to_anchor=(0.5, 1), ncols=len(values), frameon=False)
    for area, dash, patch in zip(axis.collections[::-1], DASHES, axis.get_legend().legend_handles, strict=False):
        area.set(linestyle=dash, linewidth=1.6)
        patch.set(linestyle=dash)
    axis.set(xlabel="confidence: mean of the map's top quarter", ylabel="share of clips")
    return figure


def movement(own: np.ndarray, other: np.ndarray) -> Figure:
    """Draw cIoU with one object of the map for its own sound, over that of the map for another object's sound.

    A map that does not move puts every clip on the diagonal, one that follows the sound lifts them above it.
    """
    figure, [[axis]] = grid(1, 1, 3.6, 3.4)
    axis.fill_between([0, 1], [0, 1], 1, color=COLOURS[2], alpha=0.08, linewidth=0)
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    axis.scatter(other, own, s=8, alpha=0.5, color=COLOURS[0], linewidths=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.set(xlabel="cIoU when the other object sounds", ylabel="cIoU when this object sounds")
    axis.text(0.03, 0.96, "the map moves to the object", color=COLOURS[2], fontsize=8, va="top")
    return figure


def stacked_shares(table: pd.DataFrame, xlabel: str) -> Figure:
    """Draw stacked bars: one for each row of `table` (named by its index), one piece for each column."""
    figure, [[axis]] = grid(1, 1, 6.4, 0.75 + 0.32 * len(table))
    pieces = {"color": [COLOURS[0], COLOURS[1], "0.85"], "width": 0.68, "legend": False}
    table.plot.barh(stacked=True, ax=axis, **pieces)
    for bars, ink in zip(axis.containers, ("white", "black", "black"), strict=True):
        shown = [f"{share:.0%}" if share > 0.06 else "" for share in bars.datavalues]
        axis.bar_label(bars, shown, label_type="center", color=ink, fontsize=8)
    axis.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1), xlabel=xlabel)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(table.columns))
    return figure


def per_class(table: pd.DataFrame, chance: float, xlabel: str, max_classes: int = 60) -> Figure:
    """Draw one line per class, from the best at the top left: its mean (column value) with low and high, and chance.

    Hollow are classes of a single recording, which have no interval. Of more than `max_classes` classes the best and
    the worst half of that many are shown, one panel each.
    """
    table = table.sort_values("value", ascending=False)
    half = -(-min(len(table), max_classes) // 2)
    figure, [axes] = grid(1, 2, 3.8, 0.6 + 0.16 * half)
    for axis, rows in zip(axes, (table[:half], table[max(half, len(table) - half) :]), strict=True):
        y = np.arange(len(rows))
        several = rows["clusters"].to_numpy() > 1
        axis.hlines(y[several], rows["low"][several], rows["high"][several], color="0.75", lw=1.6)
        fill = [COLOURS[0] if known else "white" for known in several]
        axis.scatter(rows["value"], y, s=14, c=fill, edgecolors=[COLOURS[0]], zorder=3)
        axis.axvline(chance, color=COLOURS[1], lw=1)
        names = rows["subset"].str.replace("_", " ") + " (" + rows["clips"].astype(str) + ")"
        axis.set_yticks(y, names, fontsize=7)
        axis.set(xlim=(-0.03, 1.03), ylim=(half - 0.5, -0.7), xlabel=xlabel)
    return figure
