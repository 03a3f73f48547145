"""Draw why an evaluation comes out as it does: thresholds, sizes, confidence, maps that move, misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslib.config import Config
from sslib.datasets import AVDataset
from sslib.evaluation.measures import METHODS
from sslib.report.figures import COLOURS, grid, legend_below, localization

GREY = "0.55"
UNSEEN = "no source by annotation"
LINES = [*COLOURS[:6], "0.45", "black"]  # the colours of a table's methods, in its order: the bound is black


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


class Gallery:
    """Draw clips of a test list with their maps.

    Parameters
    ----------
    data : the annotated list.
    maps : what ``maps.npz`` holds: ``LIST/KIND`` -> raw maps (N, h, w).
    """

    def __init__(self, data: AVDataset, maps: Mapping[str, np.ndarray]):
        self.data, self.maps = data, maps
        self.rows = {clip_id: row for row, clip_id in enumerate(data.ids)}

    def maps_of(self, ids: Sequence[str], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return raw maps of some clips, of those `kinds` (name in the file -> what a figure calls it) that exist."""
        rows = [self.rows[clip_id] for clip_id in ids]
        names = {kind: f"{self.data.split}/{kind}" for kind in kinds}
        return {kinds[kind]: self.maps[name][rows] for kind, name in names.items() if name in self.maps}

    def show(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        kinds: Mapping[str, str],
        limits: tuple[float, float] | None = None,
    ) -> Figure:
        """Draw one column per clip; see :func:`sslib.report.figures.localization`."""
        shown = [self.data[self.rows[clip_id]] for clip_id in ids]
        return localization(
            [clip["image"].numpy() for clip in shown],
            self.maps_of(ids, kinds),
            [clip["boxes"].numpy() for clip in shown],
            [clip["mask"] for clip in shown],
            [title.replace("_", " ") for title in titles],
            limits,
        )


def save_thumbnail(run: Path, config: Config, columns: int = 6) -> Figure:
    """Draw the first clips of the first test list and their maps into ``thumbnail.png``, the picture of an experiment.

    They are not chosen by result. `run` holds ``maps.npz``; `config` says where the test data lie.
    """
    data = AVDataset(config, config.data.tests[0], annotated=True)
    ids = data.ids[:columns]
    titles = [f"♪ {data.annotations[clip_id].get('class', '')}" for clip_id in ids]
    with np.load(run / "maps.npz") as maps:
        figure = Gallery(data, maps).show(ids, titles, {"similarity": "map"})
    figure.savefig(run / "thumbnail.png", dpi=100)
    return figure


def threshold_curves(panels: Mapping[str, Mapping[str, np.ndarray]], xlabel: str, at: float | None = None) -> Figure:
    """Draw the share of clips whose value is at least t, over t in [0, 1]; the area under a curve is its AUC.

    Parameters
    ----------
    panels : title -> method -> one value in [0, 1] per clip; NaN is left out. A method keeps its colour.
    at : the threshold that a success rate asks for, as a dotted line.
    """
    figure, axes = grid(1, len(panels), 2.75 if len(panels) > 1 else 4.2, 3.3)
    names = list(dict.fromkeys(name for methods in panels.values() for name in methods))
    for axis, (title, methods) in zip(axes[0], panels.items(), strict=True):
        _shares_over_thresholds(axis, methods, names, np.linspace(0, 1, 201), side="left")
        if at is not None:
            axis.axvline(at, color=GREY, lw=0.8, ls=":")
        axis.set(title=title, xlabel=xlabel, xlim=(0, 1))
    axes[0, 0].set_ylabel("share of clips at or above")
    legend_below(figure, axes[0], columns=3)
    return figure


def area_above_threshold(maps: Mapping[str, np.ndarray], threshold: float) -> Figure:
    """Draw the share of the cells of raw maps that lie above a threshold, over that threshold; mark `threshold`.

    Parameters
    ----------
    maps : kind of sound -> raw maps (N, h, w); the first kind is the one with a source.
    threshold : the universal one.
    """
    figure, axes = grid(1, 1, 5.6, 2.9)
    low, high = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
    _shares_over_thresholds(axes[0, 0], maps, list(maps), np.linspace(low, max(high, threshold), 300), side="right")
    axes[0, 0].axvline(threshold, color=GREY, lw=1, ls="--", label="universal threshold")
    axes[0, 0].set(xlabel="threshold on the raw map", ylabel="share of the picture claimed")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(maps) + 1)
    return figure


def _shares_over_thresholds(
    axis: Axes, samples: Mapping[str, np.ndarray], names: Sequence[str], thresholds: np.ndarray, side: str
) -> None:
    """Draw the share of values at or above (`side` left) or above (right) each threshold; `names` give the colours."""
    for name, values in samples.items():
        known = np.sort(values[~np.isnan(values)], axis=None)
        number = names.index(name)
        if len(known):
            share = 1 - np.searchsorted(known, thresholds, side=side) / len(known)
            axis.plot(thresholds, share, color=LINES[number % len(LINES)], lw=1.2 if number else 2, label=name)
    axis.set_ylim(0, 1.02)


def area_scatter(area: np.ndarray, ciou: np.ndarray, edges: Sequence[float] = ()) -> Figure:
    """Draw cIoU under the median threshold over the area of the ground truth, with the bound that this threshold sets.

    Parameters
    ----------
    edges : areas at which groups of objects begin, as dotted lines.
    """
    figure, axes = grid(1, 1, 5.2, 3.3)
    axis, bound = axes[0, 0], np.linspace(0, 1, 401)[1:]
    axis.scatter(area, ciou, s=7, alpha=0.45, color=COLOURS[0], linewidths=0, label="clips")
    centres, means = _running_mean(area, ciou)
    axis.plot(centres, means, color=COLOURS[1], lw=1.8, label="their mean")
    axis.plot(bound, np.minimum(2 * bound, 0.5 / bound), color="black", lw=1, label="best possible at the median")
    axis.axhline(0.5, color=GREY, lw=0.8, ls="--")
    for edge in edges:
        axis.axvline(edge, color=GREY, lw=0.8, ls=":")
    axis.set(xlabel="share of the picture inside the boxes", ylabel="cIoU, median threshold", xlim=(0, 1), ylim=(0, 1))
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    return figure


def confidences(values: Mapping[str, np.ndarray], bins: int = 40) -> Figure:
    """Draw the distributions of the maps' confidence with a visible source and without.

    Parameters
    ----------
    values : kind of sound -> confidence of each clip; the first kind is the one with a source.
    """
    figure, axes = grid(1, 1, 5.6, 2.9)
    known = {name: sample[~np.isnan(sample)] for name, sample in values.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), bins)
    for number, (name, sample) in enumerate(known.items()):
        weights = np.full(len(sample), 1 / max(len(sample), 1))
        style = {"histtype": "step", "lw": 1.4} if number else {"alpha": 0.45}
        axes[0, 0].hist(sample, edges, weights=weights, color=LINES[number], label=name, **style)
    axes[0, 0].set(xlabel="confidence: mean of the map's top quarter", ylabel="share of clips")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(known))
    return figure


def movement(own: np.ndarray, other: np.ndarray) -> Figure:
    """Draw cIoU with one object of the map for its own sound, over that of the map for another object's sound.

    A map that does not move puts every clip on the diagonal, one that follows the sound lifts them above it.
    """
    figure, axes = grid(1, 1, 3.6, 3.4)
    axis = axes[0, 0]
    axis.fill_between([0, 1], [0, 1], 1, color=COLOURS[2], alpha=0.08, linewidth=0)
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    axis.scatter(other, own, s=8, alpha=0.5, color=COLOURS[0], linewidths=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.set(xlabel="cIoU when the other object sounds", ylabel="cIoU when this object sounds")
    axis.text(0.03, 0.96, "the map moves to the object", color=COLOURS[2], fontsize=8, va="top")
    return figure


def stacked_shares(table: pd.DataFrame, xlabel: str) -> Figure:
    """Draw stacked bars: one for each row of `table` (named by its index), one piece for each column."""
    figure, axes = grid(1, 1, 6.4, 0.75 + 0.32 * len(table))
    axis, left, rows = axes[0, 0], np.zeros(len(table)), np.arange(len(table))
    for column, colour in zip(table, (COLOURS[2], COLOURS[3], "0.8"), strict=False):
        width = table[column].to_numpy()
        axis.barh(rows, width, 0.68, left=left, color=colour, label=column)
        for row in rows[width > 0.06]:
            ink = "black" if colour == "0.8" else "white"
            axis.text(
                left[row] + width[row] / 2, row, f"{width[row]:.0%}", ha="center", va="center", color=ink, fontsize=8
            )
        left = left + width
    axis.set(yticks=rows, yticklabels=table.index, ylim=(len(table) - 0.5, -0.5), xlim=(0, 1), xlabel=xlabel)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(table.columns))
    return figure


def per_class(table: pd.DataFrame, chance: float, xlabel: str, max_classes: int = 60) -> Figure:
    """Draw one line per class, from the best at the top left: its mean (column value) with low and high, and chance.

    Hollow are classes of a single recording, which have no interval. Of more than `max_classes` classes the best and
    the worst half of that many are shown, one panel each.
    """
    table = table.sort_values("value", ascending=False)
    half = -(-min(len(table), max_classes) // 2)
    figure, axes = grid(1, 2, 3.8, 0.6 + 0.16 * half)
    for axis, rows in zip(axes[0], (table[:half], table[max(half, len(table) - half) :]), strict=True):
        y = np.arange(len(rows))
        several = rows["clusters"].to_numpy() > 1
        axis.hlines(y[several], rows["low"][several], rows["high"][several], color="0.75", lw=1.6)
        fill = [COLOURS[0] if known else "white" for known in several]
        axis.scatter(rows["value"], y, s=14, c=fill, edgecolors=[COLOURS[0]], zorder=3)
        axis.axvline(chance, color=COLOURS[1], lw=1)
        axis.set(yticks=y, xlim=(-0.03, 1.03), ylim=(half - 0.5, -0.7), xlabel=xlabel)
        names = [f"{name} ({n})".replace("_", " ") for name, n in zip(rows["subset"], rows["clips"], strict=True)]
        axis.set_yticklabels(names, fontsize=7)
    return figure


def _running_mean(x: np.ndarray, y: np.ndarray, parts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Average x and y over parts of about equally many clips, in the order of x; NaN is left out."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    pieces = [piece for piece in np.array_split(known[np.argsort(x[known], kind="stable")], parts) if len(piece)]
    return np.array([x[piece].mean() for piece in pieces]), np.array([y[piece].mean() for piece in pieces])
