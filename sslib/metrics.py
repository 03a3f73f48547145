"""Per-clip measures of localization, their aggregates and controls. Plain NumPy; nothing here knows a model.

Heatmaps are ``(N, h, w)`` of any scale, brought to the size of the ground truth by bilinear interpolation; the ground
truth is ``(N, H, W)``: a consensus map in [0, 1] from boxes (cIoU) or a mask of pixels (IoU, F, pointing). A clip
whose ground truth is empty has the value NaN, which every mean leaves out. ``ids`` name the clips in messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from sslib.evaluation.bootstrap import Interval, bootstrap

# Measures, the maps they are of and how sure they are get used together: ``metrics.box_map``, ``metrics.bootstrap``.
from sslib.heatmaps import (
    GRID,
    Ids,
    Threshold,
    Truth,
    box_map,
    check_truth,
    claims,
    consensus_map,
    per_clip,
    pixel_count,
    predict,
    resize,
    same_number,
)

__all__ = [
    "GRID", "Interval", "MaskCurves", "Threshold", "Truth", "area_group", "auc", "auc_share", "bootstrap", "box_map",
    "centre_square", "centre_square_ciou", "ciou", "cious", "consensus_map", "mask_curves", "max_f", "oracle",
    "overlap", "pointing", "predict", "resize", "success_rate", "whole_image",
]  # fmt: skip

AUC_THRESHOLDS = np.linspace(0.0, 1.0, 21)
LEVELS = 255  # thresholds of AVSBench's F, on a map scaled to [0, 1]
VGGSS_QUARTILES = (0.121, 0.253, 0.463)  # of the ground-truth areas of VGG-SS, as shares of the image
SLAVC_EDGES = tuple((side / 224) ** 2 for side in (32, 96, 144))  # Mo & Morgado 2022: 32², 96², 144² of 224² pixels


def ciou(
    heatmaps: Shaped[np.ndarray, "N h w"],
    truth: Truth,
    threshold: Threshold = "median",
    level: float | None = None,
    ids: Ids = None,
) -> Float[np.ndarray, " N"]:
    """Consensus intersection over union of each clip (Senocak et al. 2018).

    ``sum(p * g) / (sum(g) + sum(p * [g = 0]))`` for the binary prediction p of :func:`predict` and the consensus map
    g. With a mask as ground truth it is the plain IoU, and its mean AVSBench's mIoU (which gives clips without an
    object a value of their own). NaN where the ground truth is empty.

    Raises
    ------
    ValueError
        For heatmaps or ground truths that are not finite (naming the clips), or not equally many of both.
    """
    same_number(heatmaps, truth)
    return cious(heatmaps, truth, (threshold,), level, ids)[threshold]


def cious(
    heatmaps: Shaped[np.ndarray, "N h w"],
    truth: Truth,
    thresholds: Sequence[Threshold],
    level: float | None = None,
    ids: Ids = None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """:func:`ciou` under several thresholds, for little more than the price of one."""
    same_number(heatmaps, truth)

    def values(row: int, flat: np.ndarray) -> list[float]:
        wanted = truth[row].reshape(-1)
        check_truth(wanted, row, ids)
        return [overlap(claim, wanted) for claim in claims(flat, pixel_count(wanted), thresholds, level)]

    columns = per_clip(values, heatmaps, truth.shape[1:], len(thresholds), ids)
    return dict(zip(thresholds, columns.T, strict=True))


def overlap(claimed: Bool[np.ndarray, "*pixels"], wanted: Shaped[np.ndarray, "*pixels"]) -> float:
    """cIoU of one clip from its binary prediction and its consensus map or mask; NaN for an empty one."""
    if not (total := float(wanted.sum(dtype=np.float64))):
        return np.nan
    marked = wanted > 0
    inside = np.count_nonzero(claimed & marked)
    binary = np.count_nonzero(marked) == total
    both = inside if binary else (wanted * claimed).sum(dtype=np.float64)
    return float(both / (total + np.count_nonzero(claimed) - inside))


def pointing(
    heatmaps: Shaped[np.ndarray, "N h w"],
    mask: Bool[np.ndarray, "N H W"],
    ids: Ids = None,
) -> Float[np.ndarray, " N"]:
    """Pointing game: does the highest pixel lie on the sounding object (Zhang et al. 2018, without tolerance)?

    Where several pixels are highest, the share of them that do: a constant map scores the object's area.
    """
    same_number(heatmaps, mask)

    def value(row: int, flat: np.ndarray) -> list[float]:
        highest = flat == flat.max()
        return [np.count_nonzero(highest & mask[row].reshape(-1)) / np.count_nonzero(highest)]

    return per_clip(value, heatmaps, mask.shape[1:], 1, ids)[:, 0]


class MaskCurves(NamedTuple):
    """F and IoU of each clip over the thresholds 0, 1/254, … 1 of a heatmap scaled to [0, 1]."""

    f: Float[np.ndarray, "N levels"]
    iou: Float[np.ndarray, "N levels"]


def mask_curves(
    heatmaps: Shaped[np.ndarray, "N h w"],
    mask: Bool[np.ndarray, "N H W"],
    ids: Ids = None,
) -> MaskCurves:
    """F and IoU of each clip's mask over 255 thresholds (AVSBench, Zhou et al. 2022).

    The resized map x is scaled by its own extremes; pixels with ``254 (x - min) / (max - min) >= k`` are claimed at
    threshold ``k`` = 0 … 254 (a constant map is 0 everywhere). With precision P and recall R of those pixels,
    ``F = (1 + b) P R / (b P + R)``, b = beta² = 0.3, and 0 where nothing is right. NaN for an empty mask.
    AVSBench's mIoU at its threshold 0.5 is the mean of ``iou[:, 127]``.
    """
    same_number(heatmaps, mask)

    def values(row: int, flat: np.ndarray) -> np.ndarray:
        wanted = mask[row].reshape(-1)
        low, high = flat.min(), flat.max()
        steps = ((LEVELS - 1) * ((flat - low) / (high - low if high > low else 1))).astype(np.intp)
        claimed, right = (np.bincount(s, minlength=LEVELS)[::-1].cumsum()[::-1] for s in (steps, steps[wanted]))
        total = np.count_nonzero(wanted)
        if not total:
            return np.full(2 * LEVELS, np.nan)
        # (1 + b) P R / (b P + R) with P = right / claimed and R = right / total
        return np.concatenate([1.3 * right / (0.3 * total + claimed), right / (total + claimed - right)])

    both = per_clip(values, heatmaps, mask.shape[1:], 2 * LEVELS, ids)
    return MaskCurves(both[:, :LEVELS], both[:, LEVELS:])


def max_f(f: Float[np.ndarray, "N levels"]) -> float:
    """AVSBench's F: the maximum over thresholds of the mean of all clips' curves. NaN for no clip with a mask."""
    f = f[~np.isnan(f).any(axis=1)]
    return float(f.mean(axis=0).max()) if len(f) else np.nan


def success_rate(values: Float[np.ndarray, " N"], at: float = 0.5) -> float:
    """Share of clips whose cIoU is at least `at`; papers print it as "cIoU". NaN (no truth) is left out."""
    values = values[~np.isnan(values)]
    return float((values >= at).mean()) if len(values) else np.nan


def auc_share(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """What each clip adds to the AUC: the AUC of a set of clips is the mean of these."""
    passed = np.where(np.isnan(values)[:, None], np.nan, values[:, None] >= AUC_THRESHOLDS)
    return np.trapezoid(passed, AUC_THRESHOLDS, axis=1)


def auc(values: Float[np.ndarray, " N"]) -> float:
    """Area under the success rate over thresholds 0, 0.05, … 1 (trapezoid rule). NaN is left out."""
    values = values[~np.isnan(values)]
    return float(auc_share(values).mean()) if len(values) else np.nan


def area_group(areas: Float[np.ndarray, " N"], edges: Sequence[float] = VGGSS_QUARTILES) -> Shaped[np.ndarray, " N"]:
    """``small``, ``medium``, ``large`` or ``huge`` by the ground truth's share of the image; ``empty`` where it is 0.

    A group begins at its edge: an area equal to the first of the `edges` is medium. The quartiles of VGG-SS make four
    groups of about equal size there; ``SLAVC_EDGES`` are those of Mo & Morgado (2022).
    """
    names = np.array(["small", "medium", "large", "huge"])[np.searchsorted(edges, areas, side="right")]
    return np.where(np.asarray(areas) == 0, "empty", names)


def whole_image(count: int) -> Float[np.ndarray, "N 1 1"]:
    """Control: every pixel alike."""
    return np.zeros((count, 1, 1))


def centre_square(count: int, size: int = GRID) -> Float[np.ndarray, "N H W"]:
    """Control: a ranking that falls off from the centre in squares, so any threshold cuts a centre square.

    Under ``median`` and ``top_half`` it covers half of the picture, under ``adaptive`` exactly as many pixels as the
    ground truth; the last, incomplete rim is filled in reading order.
    """
    offset = np.abs(np.arange(size) - (size - 1) / 2)
    rim = np.maximum(offset[:, None], offset[None, :])
    reading = np.arange(size * size).reshape(size, size) / size**2
    return np.broadcast_to(-(rim + reading / 2), (count, size, size))


def centre_square_ciou(truth: Truth, threshold: Threshold = "median") -> Float[np.ndarray, " N"]:
    """cIoU of the centre square as papers' tables have it.

    Under ``median`` and ``top_half`` the square covers half of the image (:func:`centre_square`). Under ``adaptive``
    it is a plain square with the side ``round(sqrt(area of the truth))`` that begins at pixel ``(224 - side) // 2``:
    on VGG-SS 41.35 success and 42.67 AUC, where exactly as many pixels as the truth has give 41.43 and 42.67.
    Under ``fixed`` a square without a scale has no meaning: NaN.
    """
    if threshold in ("median", "top_half"):
        return ciou(centre_square(len(truth), truth.shape[1]), truth, threshold)
    if threshold == "fixed":
        return np.full(len(truth), np.nan)
    values = np.empty(len(truth))
    for row, wanted in enumerate(truth):
        side = round(float(np.sqrt(pixel_count(wanted))))
        claimed = np.zeros(wanted.shape, dtype=bool)
        top, left = ((length - side) // 2 for length in wanted.shape)
        claimed[top : top + side, left : left + side] = True
        values[row] = overlap(claimed, wanted)
    return values


def oracle(truth: Truth) -> Float[np.ndarray, "N H W"]:
    """Bound: a ranking that puts every pixel of the ground truth before all others (rest: reading order).

    Four bytes a pixel: 1 GB for VGG-SS; large sets go through in parts.
    """
    ramp = np.arange(truth[0].size).reshape(truth.shape[1:]) / truth[0].size
    ranking = np.multiply(truth, np.float32(2), dtype=np.float32)
    ranking -= ramp.astype(np.float32)
    return ranking
