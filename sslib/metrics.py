"""Per-clip measures of localization, their aggregates, controls and intervals. Plain NumPy; nothing here knows a model.

Heatmaps are ``(N, h, w)`` of any scale, brought to the size of the ground truth by bilinear interpolation; the ground
truth is ``(N, H, W)``: a consensus map in [0, 1] from boxes (cIoU) or a mask of pixels (IoU, pointing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Threshold = Literal["median", "adaptive"]
Truth = Float[np.ndarray, "N H W"] | Bool[np.ndarray, "N H W"]  # a consensus map or a mask
GRID = 224  # pixels: side of the square on which heatmap and ground truth meet
AUC_THRESHOLDS = np.linspace(0.0, 1.0, 21)
CHUNK = 256  # clips at a time: 256 x 224 x 224 doubles are 100 MB


def resize(maps: Float[np.ndarray, "N h w"], size: tuple[int, int] = (GRID, GRID)) -> Float[np.ndarray, "N H W"]:
    """Bilinear interpolation with half-pixel centres (torch's ``align_corners=False``)."""
    if maps.shape[1:] == tuple(size):
        return np.asarray(maps)
    rows, columns = (_weights(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    return rows @ np.asarray(maps, dtype=np.float64) @ columns.T


def _weights(old: int, new: int) -> np.ndarray:
    """(new, old) matrix of the linear interpolation along one axis."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - (place - low)
    if old > 1:
        matrix[np.arange(new), low + 1] = place - low
    return matrix


def box_map(boxes: Sequence[Sequence[float | int]], size: int = GRID) -> Float[np.ndarray, "H W"]:
    """Union of boxes (xmin, ymin, xmax, ymax in [0, 1]) as a map of 0 and 1, by VGG-SS's pixel rule.

    A box covers pixels ``int(size * max(xmin, 0))`` up to but not including ``int(size * xmax)``, likewise in y
    (Chen et al. 2021, the evaluation script of VGG-SS).
    """
    truth = np.zeros((size, size))
    for box in boxes:
        left, top, right, bottom = (int(size * max(float(value), 0.0)) for value in box)
        truth[top:bottom, left:right] = 1
    return truth


def predict(heatmaps: Float[np.ndarray, "N H W"], truth: Truth, threshold: Threshold) -> Bool[np.ndarray, "N H W"]:
    """The pixels that a heatmap claims.

    ``median``: those at or above its own median, at least half of the picture (the paper, LVS, EZ-VSL). ``adaptive``:
    the highest ones, as many as the ground truth has; it measures the ranking (ties go to the first pixels in
    reading order).
    """
    flat = heatmaps.reshape(len(heatmaps), -1)
    if threshold == "median":
        chosen = flat >= np.median(flat, axis=1, keepdims=True)
    else:
        counts = np.round(truth.reshape(len(truth), -1).sum(axis=1)).astype(int).tolist()
        chosen = np.stack([_highest(row, count) for row, count in zip(flat, counts, strict=True)])
    return chosen.reshape(heatmaps.shape)


def _highest(values: Float[np.ndarray, " n"], count: int) -> Bool[np.ndarray, " n"]:
    """The `count` highest of `values`; where the last ones tie, the first of them."""
    if count == 0:
        return np.zeros(len(values), dtype=bool)
    last = np.partition(values, len(values) - count)[len(values) - count]
    chosen = values > last
    ties = np.flatnonzero(values == last)
    chosen[ties[: count - chosen.sum()]] = True
    return chosen


def ciou(
    heatmaps: Float[np.ndarray, "N h w"], truth: Truth, threshold: Threshold = "median"
) -> Float[np.ndarray, " N"]:
    """Consensus intersection over union of each clip (Senocak et al. 2018).

    ``sum(p * g) / (sum(g) + sum(p * [g = 0]))`` for the binary prediction p of :func:`predict` and the consensus map
    g. With a mask as ground truth it is the plain IoU. NaN where the ground truth is empty.

    Raises
    ------
    ValueError
        For heatmaps that are not finite, or another number of them than of ground truths.
    """
    heatmaps, truth = _check(heatmaps, truth)
    values = np.empty(len(heatmaps))
    for part in _chunks(len(heatmaps)):
        wanted = truth[part]
        claimed = predict(resize(heatmaps[part], truth.shape[1:]), wanted, threshold)
        both = (claimed * wanted).sum(axis=(1, 2))
        union = wanted.sum(axis=(1, 2)) + (claimed & (wanted == 0)).sum(axis=(1, 2))
        empty = wanted.sum(axis=(1, 2)) == 0
        values[part] = np.where(empty, np.nan, both / np.maximum(union, 1e-12))
    return values


def pointing(heatmaps: Float[np.ndarray, "N h w"], mask: Bool[np.ndarray, "N H W"]) -> Float[np.ndarray, " N"]:
    """Pointing game: does the highest pixel lie on the sounding object (Zhang et al. 2018, without tolerance)?

    Where several pixels are highest, the share of them that do: a constant map scores the object's area.
    """
    heatmaps, mask = _check(heatmaps, mask)
    values = np.empty(len(heatmaps))
    for part in _chunks(len(heatmaps)):
        flat = resize(heatmaps[part], mask.shape[1:]).reshape(len(heatmaps[part]), -1)
        highest = flat >= flat.max(axis=1, keepdims=True)
        on = (highest & mask[part].reshape(len(flat), -1)).sum(axis=1)
        values[part] = on / highest.sum(axis=1)
    return values


def success_rate(values: Float[np.ndarray, " N"], at: float = 0.5) -> float:
    """Share of clips whose cIoU is at least `at`; papers print it as "cIoU". NaN (no truth) is left out."""
    values = values[~np.isnan(values)]
    return float((values >= at).mean())


def auc_share(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """What each clip adds to the AUC: the AUC of a set of clips is the mean of these."""
    passed = np.where(np.isnan(values)[:, None], np.nan, values[:, None] >= AUC_THRESHOLDS)
    return np.trapezoid(passed, AUC_THRESHOLDS, axis=1)


def auc(values: Float[np.ndarray, " N"]) -> float:
    """Area under the success rate over thresholds 0, 0.05, … 1 (trapezoid rule)."""
    return float(np.nanmean(auc_share(values)))


def whole_image(count: int) -> Float[np.ndarray, "N 1 1"]:
    """Control: every pixel alike."""
    return np.zeros((count, 1, 1))


def centre_square(count: int, size: int = GRID) -> Float[np.ndarray, "N H W"]:
    """Control: a ranking that falls off from the centre in squares, so any threshold cuts a centre square.

    Under ``median`` it covers half of the picture, under ``adaptive`` as much as the ground truth; the last, incomplete
    rim is filled in reading order.
    """
    offset = np.abs(np.arange(size) - (size - 1) / 2)
    rim = np.maximum(offset[:, None], offset[None, :])
    reading = np.arange(size * size).reshape(size, size) / size**2
    return np.broadcast_to(-(rim + reading / 2), (count, size, size))


def oracle(truth: Truth) -> Float[np.ndarray, "N H W"]:
    """Bound: a ranking that puts every pixel of the ground truth before all others (rest: reading order)."""
    ramp = np.arange(truth[0].size).reshape(truth.shape[1:]) / truth[0].size
    return np.asarray(truth, dtype=np.float64) * 2 - ramp


class Interval(NamedTuple):
    """A mean over clips and its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    clips: int
    clusters: int


def bootstrap(
    values: Float[np.ndarray, " N"],
    clusters: Sequence[str] | np.ndarray,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of `values` over clips, with an interval that resamples clusters (recordings), not clips.

    Scenes that share a recording are not independent; resampling scenes would shrink the interval just by composing
    more of them. Give differences of two methods on the same clips for a paired interval. NaN values are left out.

    Parameters
    ----------
    clusters : for each clip the name of what is independent.
    """
    values = np.asarray(values, dtype=np.float64)
    used = ~np.isnan(values)
    names, index = np.unique(np.asarray(clusters)[used], return_inverse=True)
    if not len(names):
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    total, size = np.bincount(index, values[used]), np.bincount(index)
    # Drawing n of n clusters with replacement is a multinomial count of each: one matrix product for all resamples.
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    means = (draws @ total) / (draws @ size)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values[used].mean()), float(low), float(high), int(used.sum()), len(names))


def _check(heatmaps: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    heatmaps, truth = np.asarray(heatmaps), np.asarray(truth)
    if len(heatmaps) != len(truth):
        raise ValueError(f"{len(heatmaps)} heatmaps for {len(truth)} ground truths")
    bad = [i for i, heatmap in enumerate(heatmaps) if not np.isfinite(heatmap).all()]
    if bad:
        raise ValueError(f"heatmaps with values that are not finite, at rows {bad[:10]}")
    return heatmaps, truth


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
