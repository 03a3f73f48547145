"""Turn values into figures. Every function returns a closed ``matplotlib`` Figure, which a notebook shows once.

Maps come raw; the per-clip scaling to [0, 1] for display happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import PercentFormatter

from sslib.metrics import resize
from sslib.stamps.library import Background, Cutout

TRUTH = "#2bff88"  # outline of the ground truth, on a dark rim: seen on any picture
COLOURS = sns.color_palette("colorblind")
DASHES, MARKERS = ("-", "--", "-.", ":"), "os^Dv"  # with the colours, so that lines differ in print without colour too
HEAT = plt.colormaps["inferno"]  # perceptually uniform, colour-blind safe, brighter for more also in grey
RIM = [Stroke(linewidth=2.4, foreground="black", alpha=0.6), Normal()]
Arrays = Sequence[np.ndarray]
STYLE = {
    **sns.axes_style("whitegrid", {"grid.color": "0.9", "axes.edgecolor": "0.6", "xtick.bottom": True}),
    **{f"axes.{part}size": 10 for part in ("title", "label")},
    **{f"{axis}tick.labelsize": 9 for axis in "xy"},
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    "figure.dpi": 100,
}


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Make rows x columns axes of `width` x `height` inches each, closed so that notebooks show them only once."""
    size = (columns * width, rows * height)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    plt.close(figure)
    return figure, axes


def bare(axes: Axes) -> None:
    """Leave out ticks, grid and frame."""
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def show_image(axes: Axes, image: np.ndarray, title: str = "") -> None:
    """Draw an RGB image, uint8 (3, H, W), without ticks."""
    axes.imshow(np.moveaxis(np.asarray(image), 0, -1))
    axes.set_title(title, fontsize=9)
    bare(axes)


def scale_map(heatmap: np.ndarray, size: tuple[int, int], limits: tuple[float, float] | None = None) -> np.ndarray:
    """Enlarge a raw map (h, w) to `size` and scale it to [0, 1] for display: the only place that does.

    It is scaled to its own range, or to `limits`, with which maps of several sounds can be compared.
    """
    large = resize(np.asarray(heatmap)[None], size)[0]
    low, high = (large.min(), large.max()) if limits is None else limits
    return np.clip((large - low) / max(float(high - low), 1e-12), 0, 1)


def overlay(image: np.ndarray, heatmap: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Lay a raw map (h, w) over the darkened grey of an image, uint8 (3, H, W) as the result: bright is heard here."""
    scaled = scale_map(heatmap, image.shape[1:], limits)
    grey, opacity = np.asarray(image).mean(axis=0) * 0.75, 0.2 + 0.6 * scaled
    return (opacity * 255 * HEAT(scaled)[..., :3].transpose(2, 0, 1) + (1 - opacity) * grey).astype(np.uint8)


def paint(spectrogram: np.ndarray, side: int = 224) -> np.ndarray:
    """Colour a spectrogram (F, T) in its own range, the lowest frequency at the bottom, uint8 (3, side, side)."""
    return (255 * HEAT(scale_map(spectrogram[::-1], (side, side)))[..., :3].transpose(2, 0, 1)).astype(np.uint8)


def show_heatmap(
    axes: Axes, image: np.ndarray, heatmap: np.ndarray, title: str = "", limits: tuple[float, float] | None = None
) -> None:
    """Draw a raw map (h, w) over an image, uint8 (3, H, W); see :func:`overlay`."""
    show_image(axes, overlay(image, heatmap, limits), title)


def outline(axes: Axes, size: int, boxes: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    """Outline boxes (N, 4) in [0, 1] and a mask (H, W) of the ground truth on an image of `size` x `size` pixels."""
    if mask is not None:
        x, y = ((np.arange(-1, cells + 1) + 0.5) * size / cells - 0.5 for cells in (mask.shape[1], mask.shape[0]))
        # a ring of nothing, so that the outline of what touches the rim closes; it is not shown
        drawn = axes.contour(x, y, np.pad(np.asarray(mask, float), 1), levels=[0.5], colors=TRUTH, linewidths=1.2)
        drawn.set(path_effects=RIM)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    for left, top, right, bottom in np.asarray(boxes if boxes is not None else []).reshape(-1, 4) * size:
        style = {"fill": False, "color": TRUTH, "lw": 1.2, "ls": "--", "path_effects": RIM}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, **style))


def contact_sheet(images: Arrays, titles: Sequence[str], columns: int = 8) -> Figure:
    """Draw images, uint8 (3, H, W), in rows of `columns`, each under its title."""
    figure, axes = grid(-(-len(images) // columns), min(columns, len(images)), 1.3, 1.23)
    for axis in axes.flat:
        bare(axis)
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        show_image(axis, image, title)
    return figure


def cutouts(pictures: Sequence[Cutout], most: int = 64) -> Figure:
    """Draw one cut-out of each class on grey; where a class has a new instance, that one comes right after it."""
    first = {(picture.class_name, picture.instance): picture.rgba for picture in reversed(pictures)}
    renewed = {name for name, instance in first if instance == "new"}
    order = sorted(first, key=lambda key: (key[0] not in renewed, key))[:most]
    images = []
    for key in order:
        rgb, opacity = first[key][..., :3], first[key][..., 3:] / 255
        images.append((rgb * opacity + 128 * (1 - opacity)).astype(np.uint8).transpose(2, 0, 1))
    titles = [name.replace("_", " ") if instance == "known" else "… new" for name, instance in order]
    return contact_sheet(images, titles)


def places(backgrounds: Sequence[Background], use: Mapping[str, str], most: int = 24) -> Figure:
    """Draw backgrounds evenly over the splits that show them (`use`: name -> split, in the order of the splits)."""
    splits = list(dict.fromkeys(use.values()))
    ordered = sorted(backgrounds, key=lambda background: splits.index(use[background.name]))
    some = [ordered[i] for i in np.linspace(0, len(ordered) - 1, min(most, len(ordered))).astype(int)]
    titles = [f"{use[one.name]}: {one.name.replace(':', '/').split('/')[-1]:.15}" for one in some]
    return contact_sheet([one.rgb.transpose(2, 0, 1) for one in some], titles, columns=6)


def localization(
    images: Arrays, maps: Mapping[str, Arrays], boxes: Arrays, masks: Sequence, titles: Sequence[str],
    limits: tuple[float, float] | None = None, rows: bool = False,
) -> Figure:  # fmt: skip
    """Draw one column (or row) per clip: its image with the ground truth, then each kind of map (N, h, w)."""
    shape = 1 + len(maps), len(images)
    figure, axes = grid(*(shape[::-1] if rows else shape), 1.5, 1.55)
    axes, above, beside = (axes.T, "set_ylabel", "set_title") if rows else (axes, "set_title", "set_ylabel")
    size = 8 * max(1, shape[0 if rows else 1] / 6)  # points: a page makes wide figures smaller
    for column, image in enumerate(images):
        show_image(axes[0, column], image)
        getattr(axes[0, column], above)(titles[column], fontsize=size)
        for row, name in enumerate(maps, 1):
            show_heatmap(axes[row, column], image, maps[name][column], limits=limits)
        for axis in axes[:, column]:
            outline(axis, image.shape[1], boxes[column], masks[column])
    for axis, name in zip(axes[:, 0], ["picture", *maps], strict=True):
        getattr(axis, beside)(name, fontsize=size)
    return figure


def similarity_matrix(logits: np.ndarray, labels: Sequence[str]) -> Figure:
    """Draw the scaled similarity of each image (row) with each sound (column) of a batch; pairs lie on the diagonal."""
    figure, [[axis]] = grid(1, 1, 4.6, 3.9)
    sns.heatmap(logits, ax=axis, cmap="viridis", square=True, xticklabels=labels, yticklabels=labels)
    axis.set(xlabel="sound", ylabel="picture")
    axis.grid(visible=False)
    return figure


def curves(histories: Mapping[str, pd.DataFrame], panels: Mapping[str, Sequence[str]]) -> Figure:
    """Draw columns of ``metrics.csv`` over epochs: a line for each column of one run, or for each of several runs.

    `histories` has runs by name, `panels` columns by title; a run that lacks a column has no line there.
    """
    several, last = len(histories) > 1, max(history["epoch"].max() for history in histories.values())
    figure, [axes] = grid(1, len(panels), 2.8, 2.5)
    for axis, (title, columns) in zip(axes, panels.items(), strict=True):
        for number, (run, column) in enumerate(product(histories, columns)):
            if column in histories[run]:
                label, colour = run if several else column.replace("_", " "), COLOURS[number % len(COLOURS)]
                line = {"ls": DASHES[number % len(DASHES)], "marker": MARKERS[number % len(MARKERS)], "ms": 4}
                axis.plot(histories[run]["epoch"], histories[run][column], color=colour, label=label, **line)
        axis.set(title=title, xlabel="epoch", xlim=(0.5, last + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if not several:
            axis.legend(frameon=False)
    if several:
        legend_below(figure, columns=6)
    return figure


def legend_below(figure: Figure, columns: int) -> None:
    """Draw one legend for all panels; a line that only a later panel has is in it too."""
    found = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in figure.axes]
    entries = {label: handle for handle, label in chain(*found)}
    columns = min(columns, len(entries))
    figure.legend(entries.values(), entries, frameon=False, loc="outside lower center", ncols=columns)


def intervals(
    table: pd.DataFrame, label: str, hue: str | None = None, xlabel: str = "", zero: bool = False, percent: bool = True
) -> Figure:
    """Draw means with their intervals (columns value, low, high), one for each row of `table`, named by `label`."""
    names = table[label].unique().tolist()
    groups = table.groupby(hue, sort=False) if hue else [(None, table)]
    figure, [[axis]] = grid(1, 1, 6.2, 0.8 + max(0.3, 0.17 * len(groups)) * len(names))
    for number, (group, rows) in enumerate(groups):
        y = rows[label].map(names.index) + (number - (len(groups) - 1) / 2) * min(0.22, 0.8 / len(groups))
        errors = (rows["value"] - rows["low"]).abs(), (rows["high"] - rows["value"]).abs()
        marker = {"fmt": MARKERS[number % len(MARKERS)], "ms": 5, "capsize": 3, "color": COLOURS[number]}
        axis.errorbar(rows["value"], y, xerr=errors, label=group, **marker)
    if zero:
        axis.axvline(0, color="black", lw=0.8)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    if percent:
        axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    if hue:
        figure.legend(frameon=False, ncols=len(groups), loc="outside upper right")
    return figure


def clip_detail(image: np.ndarray, waveform: np.ndarray, spectrogram: np.ndarray, seconds: float, top: str) -> Figure:
    """Draw one clip: its image (3, H, W), and above each other the waveform in [-1, 1] and the spectrogram (F, T)."""
    places = [["picture", "wave"], ["picture", "bands"]]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic(places, figsize=(7.6, 3.2), width_ratios=(1, 1.5), layout="constrained")
    plt.close(figure)
    show_image(axes["picture"], image)
    axes["wave"].plot(np.linspace(0, seconds, len(waveform)), waveform, lw=0.4, color=COLOURS[0])
    axes["wave"].set(xlim=(0, seconds), xticklabels=[], ylabel="waveform")
    place = {"origin": "lower", "aspect": "auto", "extent": (0, seconds, 0, len(spectrogram))}
    drawn = axes["bands"].imshow(spectrogram, cmap=HEAT, **place)
    axes["bands"].set(xlabel="seconds", ylabel=top)
    axes["bands"].grid(visible=False)
    figure.colorbar(drawn, ax=axes["bands"], pad=0.01, label="log power, scaled")
    return figure


def cumulative(values: dict[str, np.ndarray], points: tuple[Sequence[float], Sequence[float]], xlabel: str) -> Figure:
    """Draw the share of clips at or below each value, a line for each entry; known quantiles (x, share) are dots."""
    figure, [[axis]] = grid(1, 1, 5.4, 2.9)
    for number, (name, sample) in enumerate(values.items()):
        axis.ecdf(sample, label=name, color=COLOURS[number], ls=DASHES[number % len(DASHES)], lw=1.6)
    axis.plot(*points, "o", color="black", ms=4, label="VGG-SS")
    axis.set(xlabel=xlabel, ylabel="share of clips", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def histograms(table: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Draw the distribution of columns of `table`, one panel for each entry of `panels` (column -> what it is)."""
    figure, [axes] = grid(1, len(panels), 2.7, 2.1)
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        sns.histplot(table[column].round(6), ax=axis, bins=30, color=COLOURS[0], alpha=1, edgecolor="white", lw=0.3)
        axis.set(xlabel=label, ylabel="clips" if axis is axes[0] else "")
        axis.yaxis.get_major_locator().set_params(integer=True)
    return figure


def printable(name: str, length: int = 20) -> str:
    """Return `name` as a figure can show it: cut, no formula, what the font lacks as a box."""
    short = name if len(name) <= length else name[: length - 1] + "…"
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else "□" for c in short).replace("$", r"\$")
