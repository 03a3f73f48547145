"""Values to figures. Every function returns a closed ``matplotlib`` Figure, which a notebook shows once; none shows it.

Maps come raw; the per-clip scaling to [0, 1] for display happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sslib.metrics import resize

TRUTH = "#2bff88"  # outline of the ground truth
COLOURS = sns.color_palette("colorblind")
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
}


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns axes, `width` x `height` inches each, closed so that notebooks show it only once."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(columns * width, rows * height), squeeze=False, layout="constrained"
        )
    plt.close(figure)
    return figure, axes


def picture(axes: Axes, image: np.ndarray, title: str = "", border: str | None = None) -> None:
    """Show an RGB picture, uint8 (3, H, W), without ticks; `border` colours its frame."""
    axes.imshow(np.moveaxis(np.asarray(image), 0, -1))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(border is not None)
        spine.set(color=border or "black", linewidth=2.5)


def overlay(
    axes: Axes, image: np.ndarray, heatmap: np.ndarray, title: str = "", limits: tuple[float, float] | None = None
) -> None:
    """Lay a raw map (h, w) over a picture, uint8 (3, H, W), the low part transparent.

    Scaled to its own range, or to `limits`, with which maps of several sounds can be compared.
    """
    grey = np.asarray(image).mean(axis=0) * 0.8 + 30
    size = image.shape[1:]
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    large = resize(np.asarray(heatmap)[None], size)[0]
    low, high = (large.min(), large.max()) if limits is None else limits
    scaled = np.clip((large - low) / max(float(high - low), 1e-12), 0, 1)
    axes.imshow(scaled, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(0.15 + 0.75 * scaled, 0, 0.9))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def ground_truth(axes: Axes, size: int, boxes: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    """Outline boxes (in [0, 1]) and a mask on a picture of `size` x `size` pixels."""
    if mask is not None:
        rows = (np.arange(size) + 0.5) * mask.shape[0] / size
        columns = (np.arange(size) + 0.5) * mask.shape[1] / size
        small = np.asarray(mask)[np.ix_(rows.astype(int), columns.astype(int))]
        around = np.arange(-1, size + 1)  # a ring of nothing, so that the outline of what touches the rim closes
        axes.contour(around, around, np.pad(small, 1).astype(float), levels=[0.5], colors=TRUTH, linewidths=1)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))  # the ring is not shown
    for left, top, right, bottom in np.asarray(boxes if boxes is not None else []).reshape(-1, 4) * size:
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color=TRUTH, lw=1, ls="--")
        )


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 8) -> Figure:
    """Pictures, uint8 (3, H, W), in rows of `columns`, each under its title."""
    figure, axes = grid(-(-len(images) // columns), columns, 1.3, 1.25)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        picture(axis, image, title)
        axis.set_title(title, fontsize=7)
    return figure


def clips(images: Sequence[np.ndarray], spectrograms: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Pictures, uint8 (3, H, W), above the spectrogram (F, T) of their sound."""
    figure, axes = grid(2, len(images), 1.6, 1.5)
    for column, (image, spectrogram, title) in enumerate(zip(images, spectrograms, titles, strict=True)):
        picture(axes[0, column], image, title)
        axes[1, column].imshow(spectrogram, origin="lower", aspect="auto", cmap="magma")
        axes[1, column].set(xticks=[], yticks=[])
    axes[1, 0].set(xlabel="time →", ylabel="frequency →")
    return figure


def localization(
    images: Sequence[np.ndarray],
    maps: dict[str, Sequence[np.ndarray]],
    boxes: Sequence[np.ndarray],
    masks: Sequence[np.ndarray | None],
    titles: Sequence[str],
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One column a clip: its picture with the ground truth, below it each kind of map over it (see `overlay`)."""
    figure, axes = grid(1 + len(maps), len(images), 1.5, 1.55)
    size = 8 * max(1, len(images) / 6)  # points: a page makes wide figures smaller
    for column, image in enumerate(images):
        picture(axes[0, column], image)
        axes[0, column].set_title(titles[column], fontsize=size)
        for row, name in enumerate(maps, 1):
            overlay(axes[row, column], image, maps[name][column], limits=limits)
        for axis in axes[:, column]:
            ground_truth(axis, image.shape[1], boxes[column], masks[column])
    for axis, name in zip(axes[:, 0], ["picture", *maps], strict=True):
        axis.set_ylabel(name, fontsize=size)
    return figure


def node_maps(image: np.ndarray, maps: np.ndarray, frequency: np.ndarray, order: Sequence[int], boxes=None) -> Figure:
    """The K node maps (K, h, w) of one picture, in `order`, with how often each was foreground."""
    columns = 6
    figure, axes = grid(-(-(1 + len(maps)) // columns), columns, 1.35, 1.5)
    for axis in axes.flat:
        axis.axis("off")
    picture(axes.flat[0], image, "picture")
    ground_truth(axes.flat[0], image.shape[1], boxes)
    for axis, node in zip(axes.flat[1:], order, strict=False):
        overlay(axis, image, maps[node], f"node {node} · {frequency[node]:.0%}")
    return figure


def similarity_matrix(logits: np.ndarray, labels: Sequence[str]) -> Figure:
    """Scaled similarity of every picture (row) with every sound (column) of a batch; pairs lie on the diagonal."""
    figure, axes = grid(1, 1, 4.6, 3.9)
    sns.heatmap(logits, ax=axes[0, 0], cmap="viridis", square=True, xticklabels=labels, yticklabels=labels)
    axes[0, 0].set(xlabel="sound", ylabel="picture")
    return figure


def curves(history: pd.DataFrame, panels: dict[str, Sequence[str]]) -> Figure:
    """Columns of ``metrics.csv`` over epochs, one panel for each entry of `panels` (title -> columns)."""
    figure, axes = grid(1, len(panels), 2.9, 2.4)
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for name in columns:
            if name in history:
                axis.plot(history["epoch"], history[name], marker="o", markersize=2.5, label=name.replace("_", " "))
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False)
    return figure


def intervals(table: pd.DataFrame, label: str, hue: str | None = None, xlabel: str = "", zero: bool = False) -> Figure:
    """Means with their intervals (columns value, low, high), one line for each row of `table`, named by `label`."""
    names = list(dict.fromkeys(table[label]))
    groups = list(dict.fromkeys(table[hue])) if hue else [None]
    figure, axes = grid(1, 1, 6.2, 0.8 + max(0.3, 0.17 * len(groups)) * len(names))
    axis = axes[0, 0]
    for place, group in enumerate(groups):
        rows = table if group is None else table[table[hue] == group]
        shift = (place - (len(groups) - 1) / 2) * 0.22
        y = np.array([names.index(name) for name in rows[label]]) + shift
        errors = np.abs(np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]]))
        axis.errorbar(rows["value"], y, xerr=errors, fmt="o", ms=4, capsize=2, color=COLOURS[place], label=group)
    if zero:
        axis.axvline(0, color="black", lw=0.8)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    if hue:
        figure.legend(frameon=False, ncols=len(groups), loc="outside upper right")
    return figure


def clip_detail(image: np.ndarray, waveform: np.ndarray, spectrogram: np.ndarray, seconds: float, top: str) -> Figure:
    """One clip: its picture (3, H, W), and above each other the waveform in [-1, 1] and the spectrogram (F, T)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic(
            [["picture", "wave"], ["picture", "bands"]], figsize=(7.6, 3.2), width_ratios=(1, 1.5), layout="constrained"
        )
    plt.close(figure)
    picture(axes["picture"], image)
    axes["wave"].plot(np.linspace(0, seconds, len(waveform)), waveform, lw=0.4, color=COLOURS[0])
    axes["wave"].set(xlim=(0, seconds), xticklabels=[], ylabel="waveform")
    drawn = axes["bands"].imshow(
        spectrogram, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(spectrogram))
    )
    axes["bands"].set(xlabel="seconds", ylabel=top)
    figure.colorbar(drawn, ax=axes["bands"], pad=0.01, label="log power, scaled")
    return figure


def cumulative(values: dict[str, np.ndarray], points: tuple[Sequence[float], Sequence[float]], xlabel: str) -> Figure:
    """Share of clips at or below each value, one line for each entry, beside known quantiles (x, share) as dots."""
    figure, axes = grid(1, 1, 5.4, 2.9)
    for (name, sample), colour in zip(values.items(), COLOURS[: len(values)], strict=False):
        axes[0, 0].ecdf(sample, label=name, color=colour, lw=1.4)
    axes[0, 0].plot(*points, "o", color="black", ms=4, label="VGG-SS")
    axes[0, 0].set(xlabel=xlabel, ylabel="share of clips", xlim=(0, 1), ylim=(0, 1.02))
    axes[0, 0].grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def curves_of_runs(histories: dict[str, pd.DataFrame], panels: dict[str, str]) -> Figure:
    """One column of ``metrics.csv`` a panel (title -> column), one line for each run that has it."""
    figure, axes = grid(1, len(panels), 2.7, 2.5)
    for axis, (title, column) in zip(axes[0], panels.items(), strict=True):
        for number, (name, history) in enumerate(histories.items()):
            if column in history:
                axis.plot(
                    history["epoch"], history[column], "o-", ms=3, color=COLOURS[number % len(COLOURS)], label=name
                )
        last = max(history["epoch"].max() for history in histories.values())
        axis.set(title=title, xlabel="epoch", xlim=(0.5, last + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=min(len(labels), 6))
    return figure
