"""Per-clip measures of localization and their aggregates. Plain arrays; nothing here knows a model.

Heatmaps are ``(N, h, w)`` of any scale, brought to the size of the ground truth by bilinear interpolation. The ground
truth is ``(N, H, W)``: a consensus map in [0, 1] from boxes (cIoU) or a mask of pixels (IoU, F, pointing). A clip
whose ground truth is empty has the value NaN, which every mean leaves out. ``ids`` name the clips in messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from scipy.ndimage import gaussian_filter

from sslib.config import InputError

Rule = Literal["median", "top_half", "fixed", "adaptive"]  # how a heatmap becomes a binary prediction
Heatmaps = Shaped[np.ndarray, "N h w"]  # raw, of any size
PerClip = Float[np.ndarray, " N"]
GroundTruthMaps = Float[np.ndarray, "N H W"] | Bool[np.ndarray, "N H W"]  # a consensus map or a mask
Ids = Sequence[str] | np.ndarray | None  # the clips' ids, for messages
GRID = 224  # pixels: side of the square on which heatmap and ground truth meet
CHUNK = 8  # clips at a time: 8 x 224 x 224 doubles are 3 MB and stay in the cache
WORKERS = min(4, os.cpu_count() or 1)  # NumPy lets go of the interpreter, so threads help
AUC_THRESHOLDS = np.linspace(0.0, 1.0, 21)
LEVELS = 255  # thresholds of AVSBench's F, on a map scaled to [0, 1]
VGGSS_QUARTILES = (0.121, 0.253, 0.463)  # of the ground-truth areas of VGG-SS, as shares of the image


# Ground truth and heatmap on one square of pixels ---------------------------------------------------------------------


def box_map(boxes: Sequence[Sequence[float | int]], size: int = GRID) -> Float[np.ndarray, "H W"]:
    """Draw the union of boxes (xmin, ymin, xmax, ymax in [0, 1]) as a map of 0 and 1, by VGG-SS's pixel rule.

    A box covers pixels ``int(size * max(xmin, 0))`` up to but not including ``int(size * xmax)``, likewise in y
    (Chen et al. 2021, the evaluation script of VGG-SS).
    """
    ground_truth = np.zeros((size, size))
    for box in boxes:
        left, top, right, bottom = (int(size * max(float(value), 0.0)) for value in box)
        ground_truth[top:bottom, left:right] = 1
    return ground_truth


def consensus_map(annotators: Sequence[Sequence[Sequence[float | int]]], size: int = GRID) -> Float[np.ndarray, "H W"]:
    """Draw Flickr-SoundNet's ground truth: ``min(1, sum over annotators of their box map / 2)`` (Senocak et al. 2018).

    A pixel that two of them mark counts in full, one that a single one marks by half. Boxes are in [0, 1] (pixel / 256
    in the XML; 224 * pixel / 256 is cut to a whole number).
    """
    return np.minimum(1, sum((box_map(boxes, size) for boxes in annotators), np.zeros((size, size))) / 2)


def ground_truth_map(annotation: dict[str, Any]) -> Float[np.ndarray, "H W"]:
    """Draw the boxes of an annotation: the consensus where several ``annotators`` are known, else the union."""
    return consensus_map(annotation["annotators"]) if "annotators" in annotation else box_map(annotation["boxes"])


def resize(maps: Shaped[np.ndarray, "N h w"], size: tuple[int, int] = (GRID, GRID)) -> Shaped[np.ndarray, "N H W"]:
    """Interpolate bilinearly with half-pixel centres (torch's ``align_corners=False``), in float64.

    A constant map stays exactly constant. From 14 x 14 (or 7, 28, 56) to 224 all weights are multiples of a power of
    two, so float32 maps are interpolated without rounding and equal values stay ties.
    """
    maps = np.asarray(maps, dtype=np.float64)
    if maps.shape[1:] == tuple(size):
        return maps
    first = maps[:, :1, :1]  # what all cells share needs no weights, whose sum may be rounded
    large = F.interpolate(torch.from_numpy(maps - first)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    large += torch.from_numpy(first.copy())
    return large.numpy()


def smooth(maps: Shaped[np.ndarray, "N h w"], share: float) -> Shaped[np.ndarray, "N h w"]:
    """Average each map with its Gaussian of `share` of the side (sigma): it covers more of the object.

    Maps of cosines peak on a telling part (a face, a mouth); thresholds that mark as many pixels as an object has
    (``adaptive``) or half of the image (``median``) measure all of it. With 0 the maps stay as they are.
    """
    if not share:
        return maps
    blurred = gaussian_filter(maps, [0, *(share * side for side in maps.shape[1:])], mode="nearest")
    return (maps + blurred) / 2


def per_clip(
    function: Callable[[int, np.ndarray], Any], heatmaps: Heatmaps, shape: tuple[int, ...], width: int, ids: Ids = None
) -> Float[np.ndarray, "N width"]:
    """Apply `function` to each row's number and flattened heatmap, resized to `shape` (N, H, W): `width` values."""
    if len(heatmaps) != shape[0]:
        raise InputError(f"{len(heatmaps)} heatmaps for {shape[0]} ground truths")
    check_finite(heatmaps, ids)
    values = np.empty((len(heatmaps), width))

    def work(start: int) -> None:
        for row, large in enumerate(resize(heatmaps[start : start + CHUNK], shape[1:]), start):
            values[row] = function(row, large.reshape(-1))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(0, len(heatmaps), CHUNK)))  # the list raises what a thread raised
    return values


def check_finite(heatmaps: np.ndarray, ids: Ids = None) -> None:
    """Raise an InputError that names the clips whose heatmap holds NaN or infinity."""
    if ids is not None and len(ids) != len(heatmaps):
        raise InputError(f"{len(heatmaps)} heatmaps, but {len(ids)} clip ids")
    if bad := [row for row, heatmap in enumerate(heatmaps) if not np.isfinite(heatmap).all()]:
        raise InputError(f"heatmaps with values that are not finite, {_named(bad, ids)}; nothing was left out for them")


def _named(rows: list[int], ids: Ids) -> str:
    shown = rows[:10] if ids is None else [str(ids[row]) for row in rows[:10]]
    more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
    return f"at {'rows' if ids is None else 'clips'} {shown}{more}"


# Binary predictions ---------------------------------------------------------------------------------------------------


def binarize(
    heatmap: Float[np.ndarray, " n"], count: int, rules: Sequence[Rule], threshold: float | None = None
) -> list[Bool[np.ndarray, " n"]]:
    """Choose the pixels of one flat heatmap that count as its prediction, under each of `rules`.

    ``median``: those at or above its own median, at least half of the image (the paper, LVS, EZ-VSL). ``top_half``: the
    highest ones, exactly half of the pixels (rounded down). ``adaptive``: the `count` highest ones, as many as the
    ground truth has; it measures the ranking (Senocak et al. 2024). In both, ties go to the first pixels in reading
    order. ``fixed``: those above `threshold` on the raw map, the same for all clips (Mo & Morgado 2022).
    """
    n, half = len(heatmap), len(heatmap) // 2
    ranks = {"median": (half, (n - 1) // 2), "top_half": (n - max(half, 1),), "adaptive": (n - max(count, 1),)}
    value = np.partition(heatmap, sorted({half}.union(*(ranks.get(rule, ()) for rule in rules))))
    predicted = []
    for rule in rules:
        if rule == "median":
            predicted.append(heatmap >= (value[half] + value[(n - 1) // 2]) / 2)
        elif rule == "fixed":
            if threshold is None:
                raise InputError("the rule 'fixed' needs a threshold: a value on the raw map")
            predicted.append(heatmap > threshold)
        else:
            predicted.append(_highest(heatmap, half if rule == "top_half" else count, value[ranks[rule][0]]))
    return predicted


def _highest(heatmap: np.ndarray, count: int, last: float) -> Bool[np.ndarray, " n"]:
    """Mark the `count` highest pixels, the lowest of which has the value `last`; where it ties, the first of them."""
    chosen = heatmap >= last
    if surplus := np.count_nonzero(chosen) - count:
        chosen[np.flatnonzero(heatmap == last)[-surplus:]] = False
    return chosen


def pixel_count(ground_truth: np.ndarray) -> int:
    """How many pixels the ground truth has: its sum, rounded (half a pixel to the even number)."""
    return round(float(ground_truth.sum(dtype=np.float64)))


# Measures of each clip ------------------------------------------------------------------------------------------------


def ciou(
    heatmaps: Heatmaps, ground_truth: GroundTruthMaps, rule: Rule = "median", threshold=None, ids: Ids = None
) -> PerClip:
    """Compute the consensus intersection over union of each clip (Senocak et al. 2018).

    ``sum(p * g) / (sum(g) + sum(p * [g = 0]))`` for the binary prediction p of :func:`binarize` and the consensus map
    g; NaN where g is empty. With a mask as ground truth it is the plain IoU, and its mean AVSBench's mIoU (which gives
    clips without an object a value of their own). ``InputError`` names clips with values that are not finite.
    """
    return ciou_by_rule(heatmaps, ground_truth, (rule,), threshold, ids)[rule]


def ciou_by_rule(
    heatmaps: Heatmaps, ground_truth: GroundTruthMaps, rules: Sequence[Rule], threshold=None, ids: Ids = None
) -> dict[str, PerClip]:
    """Compute :func:`ciou` under several rules, for little more than the price of one."""

    def values(row: int, heatmap: np.ndarray) -> list[float]:
        target = ground_truth[row].reshape(-1)
        if target.dtype != bool and not (target.min() >= 0 and target.max() <= 1):  # NaN is not, either
            raise InputError(f"a ground truth with values outside of [0, 1], {_named([row], ids)}")
        return [overlap(predicted, target) for predicted in binarize(heatmap, pixel_count(target), rules, threshold)]

    columns = per_clip(values, heatmaps, ground_truth.shape, len(rules), ids)
    return dict(zip(rules, columns.T, strict=True))


def overlap(predicted: Bool[np.ndarray, "*pixels"], ground_truth: Shaped[np.ndarray, "*pixels"]) -> float:
    """Compute the cIoU of one clip from its binary prediction and its consensus map or mask; NaN for an empty one."""
    if not (total := float(ground_truth.sum(dtype=np.float64))):
        return np.nan
    marked = ground_truth > 0
    inside = np.count_nonzero(predicted & marked)
    both = inside if np.count_nonzero(marked) == total else (ground_truth * predicted).sum(dtype=np.float64)
    return float(both / (total + np.count_nonzero(predicted) - inside))


def pointing(heatmaps: Heatmaps, mask: Bool[np.ndarray, "N H W"], ids: Ids = None) -> PerClip:
    """Play the pointing game: does the highest pixel lie on the object (Zhang et al. 2018, without tolerance)?

    Where several pixels are highest, the share of them that do: a constant map scores the object's area.
    """

    def value(row: int, heatmap: np.ndarray) -> list[float]:
        highest = heatmap == heatmap.max()
        return [np.count_nonzero(highest & mask[row].reshape(-1)) / np.count_nonzero(highest)]

    return per_clip(value, heatmaps, mask.shape, 1, ids)[:, 0]


class MaskCurves(NamedTuple):
    """F and IoU of each clip over the thresholds 0, 1/254, … 1 of a heatmap scaled to [0, 1]."""

    f: Float[np.ndarray, "N levels"]
    iou: Float[np.ndarray, "N levels"]


def mask_curves(heatmaps: Heatmaps, mask: Bool[np.ndarray, "N H W"], ids: Ids = None) -> MaskCurves:
    """Compute F and IoU of each clip's mask over 255 thresholds (AVSBench, Zhou et al. 2022).

    The resized map x is scaled by its own extremes; pixels with ``254 (x - min) / (max - min) >= k`` are predicted at
    threshold ``k`` = 0 … 254 (a constant map is 0 everywhere). With precision P and recall R of those pixels,
    ``F = (1 + b) P R / (b P + R)``, b = beta² = 0.3, and 0 where nothing is right. NaN for an empty mask.
    AVSBench's F is the maximum over thresholds of the clips' mean curve, its mIoU at 0.5 the mean of ``iou[:, 127]``.
    """

    def values(row: int, heatmap: np.ndarray) -> np.ndarray:
        target = mask[row].reshape(-1)
        if not (total := np.count_nonzero(target)):
            return np.full(2 * LEVELS, np.nan)
        low, high = heatmap.min(), heatmap.max()
        steps = ((LEVELS - 1) * ((heatmap - low) / (high - low if high > low else 1))).astype(np.intp)
        predicted, right = (np.bincount(s, minlength=LEVELS)[::-1].cumsum()[::-1] for s in (steps, steps[target]))
        # (1 + b) P R / (b P + R) with P = right / predicted and R = right / total
        return np.concatenate([1.3 * right / (0.3 * total + predicted), right / (total + predicted - right)])

    both = per_clip(values, heatmaps, mask.shape, 2 * LEVELS, ids)
    return MaskCurves(both[:, :LEVELS], both[:, LEVELS:])


def area_group(areas: PerClip) -> Shaped[np.ndarray, " N"]:
    """Name the ground truths' shares of the image ``small``, ``medium``, ``large``, ``huge``; ``empty`` where it is 0.

    The quartiles of VGG-SS are the edges, which make four groups of about equal size there. A group begins at its edge:
    an area equal to the first of them is medium.
    """
    names = np.array(["small", "medium", "large", "huge"])[np.searchsorted(VGGSS_QUARTILES, areas, side="right")]
    return np.where(areas == 0, "empty", names)


# Aggregates -----------------------------------------------------------------------------------------------------------


def success_rate(values: PerClip, threshold: float = 0.5) -> float:
    """Share of clips whose cIoU is at least `threshold` (Senocak et al. 2018), "cIoU" in papers. NaN is left out."""
    values = values[~np.isnan(values)]
    return float((values >= threshold).mean()) if len(values) else np.nan


def auc_per_clip(values: PerClip, passes: np.ufunc = np.greater_equal) -> PerClip:
    """Compute what each clip's cIoU adds to the AUC: the AUC of a set of clips is the mean of these. NaN stays."""
    passed = np.where(np.isnan(values)[:, None], np.nan, passes(values[:, None], AUC_THRESHOLDS))
    return np.trapezoid(passed, AUC_THRESHOLDS, axis=1)


def auc(values: PerClip) -> float:
    """Area under the success rate over t = 0, 0.05, … 1 (trapezoid rule; Senocak et al. 2018). NaN is left out."""
    return float(np.trapezoid([success_rate(values, t) for t in AUC_THRESHOLDS], AUC_THRESHOLDS))
