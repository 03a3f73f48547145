"""Figures that show why an evaluation comes out as it does: thresholds, sizes, confidence, maps that move, misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslib.datasets import AVDataset
from sslib.viz import COLOURS, grid, localization

GREY = "0.55"
LINES = [*COLOURS[:6], "0.45", "black"]  # the colours of a table's methods, in its order: the bound is black


class Gallery:
    """Clips of a test list with their maps, as pictures.

    Parameters
    ----------
    data : the annotated list.
    maps : what ``maps.npz`` holds: ``LIST/KIND`` -> raw maps (N, h, w).
    """

    def __init__(self, data: AVDataset, maps: Mapping[str, np.ndarray]):
        self.data, self.maps = data, maps
        self.place = {clip_id: row for row, clip_id in enumerate(data.ids)}

    def of(self, ids: Sequence[str], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
        """The raw maps of some clips: of `kinds` (name in the file -> what a figure calls it) those that there are."""
        rows = [self.place[clip_id] for clip_id in ids]
        names = {kind: f"{self.data.split}/{kind}" for kind in kinds}
        return {kinds[kind]: self.maps[name][rows] for kind, name in names.items() if name in self.maps}

    def show(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        kinds: Mapping[str, str],
        limits: tuple[float, float] | None = None,
    ) -> Figure:
        """One column a clip; see :func:`sslib.viz.localization`."""
        shown = [self.data[self.place[clip_id]] for clip_id in ids]
        return localization(
            [clip["image"].numpy() for clip in shown],
            self.of(ids, kinds),
            [clip["boxes"].numpy() for clip in shown],
            [clip["mask"] for clip in shown],
            [title.replace("_", " ") for title in titles],
            limits,
        )


def threshold_curves(
    panels: dict[str, dict[str, np.ndarray]], xlabel: str, below: bool = False, at: float | None = None
) -> Figure:
    """Share of clips whose value is at least t (with `below`: at most t), over t; the area is an AUC (an AOC).

    Parameters
    ----------
    panels : title -> method -> one value in [0, 1] for each clip; NaN is left out. A method keeps its colour.
    at : the threshold that a success rate asks for, as a dotted line.
    """
    figure, axes = grid(1, len(panels), 2.75 if len(panels) > 1 else 4.2, 3.3)
    names = list(dict.fromkeys(name for methods in panels.values() for name in methods))
    thresholds = np.linspace(0, 1, 201)
    for axis, (title, methods) in zip(axes[0], panels.items(), strict=True):
        for name, values in methods.items():
            known = np.asarray(values, dtype=np.float64)
            known = known[~np.isnan(known)][:, None]
            passed = known <= thresholds if below else known >= thresholds
            place = names.index(name) % len(LINES)
            if len(known):
                axis.plot(thresholds, passed.mean(axis=0), color=LINES[place], lw=2 if place == 0 else 1.2, label=name)
        if at is not None:
            axis.axvline(at, color=GREY, lw=0.8, ls=":")
        axis.set(title=title, xlabel=xlabel, xlim=(0, 1), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of clips at or below" if below else "share of clips at or above")
    _shared_legend(figure, axes[0])
    return figure


def area_scatter(area: np.ndarray, ciou: np.ndarray, edges: Sequence[float] = ()) -> Figure:
    """cIoU under the median threshold against the area of the ground truth, with the bound that this threshold sets.

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


def confidences(values: dict[str, np.ndarray], bins: int = 40) -> Figure:
    """How sure the maps are with a visible source and without.

    Parameters
    ----------
    values : kind of sound -> confidence of each clip; the first kind is the one with a source.
    """
    figure, axes = grid(1, 1, 5.6, 2.9)
    known = {name: np.asarray(found)[~np.isnan(found)] for name, found in values.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), bins)
    for number, (name, found) in enumerate(known.items()):
        weights = np.full(len(found), 1 / max(len(found), 1))
        style = {"histtype": "step", "lw": 1.4} if number else {"alpha": 0.45}
        axes[0, 0].hist(found, edges, weights=weights, color=LINES[number], label=name, **style)
    axes[0, 0].set(xlabel="confidence: mean of the map's top quarter", ylabel="share of clips")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(known))
    return figure


def claimed(maps: dict[str, np.ndarray], level: float) -> Figure:
    """Share of the cells of raw maps that lie above a threshold, over that threshold; and the universal one, `level`.

    Parameters
    ----------
    maps : kind of sound -> raw maps (N, h, w); the first kind is the one with a source.
    """
    figure, axes = grid(1, 1, 5.6, 2.9)
    cells_of = {name: np.sort(values, axis=None) for name, values in maps.items()}
    low, high = min(cells[0] for cells in cells_of.values()), max(cells[-1] for cells in cells_of.values())
    thresholds = np.linspace(low, max(high, level), 300)
    for number, (name, cells) in enumerate(cells_of.items()):
        above = 1 - np.searchsorted(cells, thresholds, side="right") / len(cells)
        axes[0, 0].plot(thresholds, above, color=LINES[number], lw=1.2 if number else 2, label=name)
    axes[0, 0].axvline(level, color=GREY, lw=1, ls="--", label="universal threshold")
    axes[0, 0].set(xlabel="threshold on the raw map", ylabel="share of the picture claimed", ylim=(0, 1.02))
    figure.legend(frameon=False, loc="outside upper center", ncols=len(cells_of) + 1)
    return figure


def movement(own: np.ndarray, other: np.ndarray) -> Figure:
    """cIoU with the same object of the map for its own sound, over that of the map for another object's sound.

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


def shares(table: pd.DataFrame, xlabel: str) -> Figure:
    """Stacked bars: one bar for each row of `table` (named by its index), one piece for each column."""
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


def per_class(table: pd.DataFrame, chance: float, xlabel: str, most: int = 60) -> Figure:
    """One line a class, sorted, from the best at the top left: its mean (column value) with low and high, and chance.

    Hollow are classes of a single recording, which have no interval. Of more than `most` classes the best and the
    worst half of that many are shown, one panel each.
    """
    table = table.sort_values("value", ascending=False)
    half = -(-min(len(table), most) // 2)
    figure, axes = grid(1, 2, 3.8, 0.6 + 0.16 * half)
    for axis, rows in zip(axes[0], (table[:half], table[max(half, len(table) - half) :]), strict=True):
        y = np.arange(len(rows))
        several = rows["clusters"].to_numpy() > 1
        axis.hlines(y[several], rows["low"][several], rows["high"][several], color="0.75", lw=1.6)
        fill = [COLOURS[0] if known else "white" for known in several]
        axis.scatter(rows["value"], y, s=14, c=fill, edgecolors=[COLOURS[0]], zorder=3)
        axis.axvline(chance, color=COLOURS[1], lw=1)
        axis.set(yticks=y, xlim=(-0.03, 1.03), ylim=(half - 0.5, -0.7), xlabel=xlabel)
        names = [f"{name} ({n})".replace("_", " ") for name, n in zip(rows["part"], rows["clips"], strict=True)]
        axis.set_yticklabels(names, fontsize=7)
    return figure


def _running_mean(x: np.ndarray, y: np.ndarray, parts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y over parts of about equally many clips, in the order of x; NaN is left out."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    pieces = [piece for piece in np.array_split(known[np.argsort(x[known], kind="stable")], parts) if len(piece)]
    return np.array([x[piece].mean() for piece in pieces]), np.array([y[piece].mean() for piece in pieces])


def _shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below for all panels; a method that only a later panel has is in it too."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries, frameon=False, loc="outside lower center", ncols=3)
