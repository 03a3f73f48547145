"""Protocols beyond one map and its ground truth: detection, silence and other sounds, interaction, retrieval, controls.

Each gives a value for every clip (or scene, or query) where one exists, so that means get their intervals from
:mod:`sslib.evaluation.bootstrap`. Thresholds are of raw maps; shares are in [0, 1] (papers print percent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor

from sslib import metrics
from sslib.evaluation.bootstrap import Statistic
from sslib.metrics import GRID, GroundTruthMaps, Heatmaps, Ids, PerClip, Rule, check_finite, per_clip

ROWS = 16  # resamples at a time: 16 x 10,000 doubles stay in the cache


# Is there a visible source at all? ------------------------------------------------------------------------------------


def confidence(maps: Heatmaps, ids: Ids = None) -> PerClip:
    """Measure how sure a map is that something in the image sounds: the mean of its top quarter (Mo & Morgado 2022).

    A quarter of the raw cells, rounded up; their script takes that of the map enlarged to 224 pixels, which differs by
    the smoothing at the quarter's border only.
    """
    check_finite(maps, ids)
    flat = np.sort(np.asarray(maps, dtype=np.float64).reshape(len(maps), -1), axis=1)
    return flat[:, flat.shape[1] - -(-flat.shape[1] // 4) :].mean(axis=1)


def detection_statistic(score: PerClip, positive: Bool[np.ndarray, " N"], ciou: PerClip) -> Statistic:
    """Make a function from how often each clip counts, (R, N), to AP, max-F1, LocAcc, (R, 3) (Mo & Morgado 2022).

    It takes the confidence of each clip, whether it has a visible source, and the cIoU of those that have: one without
    (an empty ground truth) is left out before. NaN where no clip that counts is positive.

    A clip at or above the confidence threshold is a true positive when it has a source and cIoU >= 0.5, otherwise a
    false positive (nothing sounds there, or it sounds elsewhere); a clip with a source below is a false negative.
    Precision = TP / (TP + FP); recall = TP / (TP + FN), 0 without any TP. ``AP = sum of (R_n - R_(n-1)) P_n`` over the
    distinct confidences from the highest down, without interpolation: scikit-learn's ``average_precision_score`` when
    every positive is localized. A positive that is mislocalized leaves the recall's denominator once it is detected,
    so that the recall ends at 1 (the protocol's own rule; its script interpolates P and takes every N/200th
    threshold). LocAcc = share of positives with cIoU >= 0.5, without any threshold on the confidence.

    Raises ``ValueError`` for confidences that are not finite and positives without a cIoU, naming their rows.
    """
    if bad := np.flatnonzero(~np.isfinite(score) | (positive & np.isnan(ciou))).tolist():
        raise ValueError(f"clips without a finite confidence, or positives without a cIoU, at rows {bad[:10]}")
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last clip of each distinct confidence
    positive = positive[order]
    localized = positive & (np.nan_to_num(ciou[order]) >= 0.5)

    def statistic(weights: np.ndarray) -> Float[np.ndarray, "R 3"]:
        values = np.empty((len(weights), 3))
        for start in range(0, len(weights), ROWS):
            drawn = weights[start : start + ROWS][:, order]
            values[start : start + ROWS] = _detection_values(drawn, ends, positive, localized)
        return values

    return statistic


def _detection_values(weights: np.ndarray, ends: np.ndarray, positive: np.ndarray, localized: np.ndarray) -> np.ndarray:
    """Compute AP, max-F1, LocAcc (R, 3) of weighted clips that are sorted by falling confidence."""
    drawn = (weights, weights * localized, weights * positive)
    detected, right, sources = (counts.cumsum(axis=1, dtype=np.int32) for counts in drawn)
    positives, total = sources[:, -1], right[:, -1]
    detected, right, missed = detected[:, ends], right[:, ends], positives[:, None] - sources[:, ends]
    precision = right / np.maximum(detected, 1)
    recall = right / np.maximum(right + missed, 1)
    f1 = 2 * right / np.maximum(detected + right + missed, 1)
    ap = (np.diff(recall, axis=1, prepend=0) * precision).sum(axis=1)
    values = np.stack([ap, f1.max(axis=1, initial=0), total / np.maximum(positives, 1)], axis=1)
    values[positives == 0] = np.nan
    return values


# Silence, noise, sounds from outside the image ------------------------------------------------------------------------


def silence(waveform: Int16[Tensor, "B samples"], ids: list[str]) -> Int16[Tensor, "B samples"]:
    """Replace sounds by zeros."""
    return torch.zeros_like(waveform)


def noise(waveform: Int16[Tensor, "B samples"], ids: list[str]) -> Int16[Tensor, "B samples"]:
    """Replace sounds by white noise as loud (RMS) as each clip's own; the clip's id is the seed."""
    values = np.empty(tuple(waveform.shape), dtype=np.int16)
    loudness = waveform.double().square().mean(dim=1).sqrt().tolist()
    for row, clip_id in enumerate(ids):
        rng = np.random.default_rng(np.frombuffer(hashlib.sha256(clip_id.encode()).digest(), dtype=np.uint32))
        values[row] = np.clip(np.rint(loudness[row] * rng.standard_normal(values.shape[1])), -32768, 32767)
    return torch.from_numpy(values).to(waveform.device)


def universal_threshold(negatives: Mapping[str, Heatmaps], quantile: float = 0.75) -> float:
    """Find one threshold for all clips, from maps of sounds that have no source in the image (Juanola et al. 2024).

    The largest over the kinds of `negatives` (``silence``, …) of the `quantile` of their raw maps' maxima: their
    "max Q3". With ``quantile=1`` no pixel of any of these maps lies above it. Take the maps from validation clips: a
    threshold from the test clips would know the answer.
    """
    if not negatives or any(not len(maps) for maps in negatives.values()):
        raise ValueError("the universal threshold needs maps of at least one kind of negative sound, and none empty")
    for maps in negatives.values():
        check_finite(maps)
    return max(float(np.quantile(maps.reshape(len(maps), -1).max(axis=1), quantile)) for maps in negatives.values())


def pia(maps: Heatmaps, threshold: float, ids: Ids = None, size: int = GRID) -> PerClip:
    """Share of the image above `threshold` when nothing in it sounds: the best is 0 (Juanola et al. 2024).

    Of the raw map enlarged to 224 pixels, the rule ``fixed``: strictly above.
    """

    def share(_row: int, heatmap: np.ndarray) -> list[float]:
        return [np.count_nonzero(heatmap > threshold) / len(heatmap)]

    return per_clip(share, maps, (len(maps), size, size), 1, ids)[:, 0]


def aoc_per_clip(shares: PerClip) -> PerClip:
    """Compute what each negative clip's pIA adds to the AOC, the mean of these (Juanola et al. 2024). NaN stays.

    The AOC is the area under share(pIA <= t) over t = 0, 0.05, … 1 (trapezoid rule).
    """
    return metrics.auc_per_clip(shares, passes=np.less_equal)


def harmonic_mean(first: float | np.ndarray, second: float | np.ndarray) -> float | np.ndarray:
    """``2 a b / (a + b)``, 0 where both are 0."""
    total = np.asarray(first, dtype=np.float64) + second
    return np.divide(2 * np.multiply(first, second), total, out=np.zeros_like(total), where=total != 0)[()]


def f_loc(success: float | np.ndarray, share: float | np.ndarray) -> float | np.ndarray:
    """F_LOC (Juanola et al. 2024): harmonic mean of the success rate on positives and 1 - pIA on negatives.

    Both at the same universal threshold: the mean of cIoU >= 0.5 under ``fixed``, the mean of :func:`pia`; or arrays.
    """
    return harmonic_mean(success, 1 - np.asarray(share))


def f_auc(auc: float | np.ndarray, aoc: float | np.ndarray) -> float | np.ndarray:
    """F_AUC (Juanola et al. 2024): harmonic mean of the AUC on positives and the AOC on negatives, as F_LOC."""
    return harmonic_mean(auc, aoc)


# Interaction ----------------------------------------------------------------------------------------------------------


def iiou(ciou: PerClip, scenes: Sequence[str] | np.ndarray) -> Float[np.ndarray, " M"]:
    """Find the least cIoU of each scene's clips, in which one object after the other sounds (Senocak et al. 2024).

    A scene (sorted by name) counts only when every one of its sounding objects passes, so IIoU is
    ``metrics.success_rate`` of these values and IAUC ``metrics.auc``; with cIoU under ``adaptive`` they are the
    adaptive variants. NaN for scenes with fewer than two clips (nothing to tell apart) and where a clip has no value.
    """
    names, index, clips = np.unique(np.asarray(scenes), return_inverse=True, return_counts=True)
    value = np.full(len(names), np.inf)
    with np.errstate(invalid="ignore"):
        np.minimum.at(value, index, ciou)  # carries NaN on
    return np.where(clips > 1, value, np.nan)


def ciou_by_sound(maps: Heatmaps, boxes: Float[np.ndarray, "N H W"]) -> tuple[PerClip, PerClip]:
    """Compute cIoU (adaptive) with each clip's object of the map for its own sound, and of that for the other sound.

    Takes clips with their own sounds; rows 2k and 2k + 1 are the same image.
    """
    swapped = np.arange(len(maps)) ^ 1  # exchanges rows 2k and 2k + 1
    return metrics.ciou(maps, boxes, "adaptive"), metrics.ciou(maps[swapped], boxes, "adaptive")


def pointing_by_sound(maps: Heatmaps, masks: Bool[np.ndarray, "N H W"]) -> dict[str, float]:
    """Count where the highest point lies: shares of clips, rows as in :func:`ciou_by_sound`."""
    others = masks[np.arange(len(masks)) ^ 1] & ~masks
    this, other = (float(metrics.pointing(maps, where).mean()) for where in (masks, others))
    return {"this object": this, "the other object": other, "elsewhere": 1 - this - other}


# Retrieval ------------------------------------------------------------------------------------------------------------


def best_ranks(similarity: Float[np.ndarray, "N M"], right: Bool[np.ndarray, "N M"]) -> Int[np.ndarray, " N"]:
    """Rank the best right answer of each query (row), from 1; `right` says which answers (columns) are right for it.

    An image of two things is a right answer for the sounds of both. Ties are counted against the method: a wrong
    answer with the same similarity stands before the right one, so a constant matrix finds nothing unless all answers
    are right.
    """
    check_finite(similarity)
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    return 1 + np.count_nonzero(~right & (similarity >= best), axis=1)


def heard_in(classes: Sequence[str], objects: Sequence[Sequence[str] | None]) -> Bool[np.ndarray, "N N"]:
    """Whether the class of each clip's sound (columns) is among the `objects` of each clip's image (rows).

    Where the objects of an image are not known, they are the clip's class.
    """
    visible = [[own, *(held or ())] for own, held in zip(classes, objects, strict=True)]
    return np.stack([np.isin(classes, names) for names in visible])


def chance_at(right: Int[np.ndarray, " N"], count: int, k: int) -> PerClip:
    """R@k of a random order, with `right` right answers among `count`: ``1 - C(count - right, k) / C(count, k)``."""
    drawn = np.arange(min(k, count))
    wrong = np.clip(count - np.asarray(right)[:, None] - drawn, 0, None) / (count - drawn)
    return 1 - wrong.prod(axis=1)


def recalls(similarity: Float[np.ndarray, "N N"] | None, answers: Mapping[str, np.ndarray]) -> dict[str, PerClip]:
    """Compute R@1, R@5, R@10 of every clip as a query, in both directions; without `similarity`, of a random order.

    `answers` (N, N) say which sounds (columns) are right for which images (rows); their names begin those of what is
    returned, such as ``class_r5_image_to_audio``.
    """
    columns = {}
    for prefix, right in answers.items():
        for direction, turn in (("image_to_audio", np.asarray), ("audio_to_image", np.transpose)):
            ranks = None if similarity is None else best_ranks(turn(similarity), turn(right))
            for k in (1, 5, 10):
                chance = chance_at(turn(right).sum(axis=1), len(right), k)
                columns[f"{prefix}r{k}_{direction}"] = chance if ranks is None else (ranks <= k).astype(np.float64)
    return columns


# Controls and a bound -------------------------------------------------------------------------------------------------


def whole_image(count: int) -> Float[np.ndarray, "N 1 1"]:
    """Control: every pixel alike."""
    return np.zeros((count, 1, 1))


def centre_square(count: int, size: int = GRID) -> Float[np.ndarray, "N H W"]:
    """Control: a ranking that falls off from the centre in squares, so any rule cuts a centre square.

    Under ``median`` and ``top_half`` it covers half of the image, under ``adaptive`` exactly as many pixels as the
    ground truth; the last, incomplete rim is filled in reading order.
    """
    offset = np.abs(np.arange(size) - (size - 1) / 2)
    rim = np.maximum(offset[:, None], offset[None, :])
    reading = np.arange(size * size).reshape(size, size) / size**2
    return np.broadcast_to(-(rim + reading / 2), (count, size, size))


def centre_square_ciou(ground_truth: GroundTruthMaps, rule: Rule = "median") -> PerClip:
    """Compute the cIoU of the centre square as papers' tables have it.

    Under ``median`` and ``top_half`` it covers half of the image (:func:`centre_square`). Under ``adaptive`` it is a
    plain square with the side ``round(sqrt(area of the ground truth))`` that begins at pixel ``(224 - side) // 2``: on
    VGG-SS 41.35 success and 42.67 AUC, where exactly as many pixels as the ground truth has give 41.43 and 42.67.
    Under ``fixed`` a square without a scale has no meaning: NaN.
    """
    if rule in ("median", "top_half"):
        return metrics.ciou(centre_square(len(ground_truth), ground_truth.shape[1]), ground_truth, rule)
    values = np.full(len(ground_truth), np.nan)
    for row, target in enumerate(ground_truth if rule == "adaptive" else ()):
        side = round(float(np.sqrt(metrics.pixel_count(target))))
        predicted = np.zeros(target.shape, dtype=bool)
        top, left = ((length - side) // 2 for length in target.shape)
        predicted[top : top + side, left : left + side] = True
        values[row] = metrics.overlap(predicted, target)
    return values


def oracle(ground_truth: GroundTruthMaps) -> Float[np.ndarray, "N H W"]:
    """Bound: a ranking that puts every pixel of the ground truth before all others (rest: reading order).

    Four bytes a pixel: 1 GB for VGG-SS; large sets go through in parts.
    """
    ramp = np.arange(ground_truth[0].size).reshape(ground_truth.shape[1:]) / ground_truth[0].size
    ranking = np.multiply(ground_truth, np.float32(2), dtype=np.float32)
    ranking -= ramp.astype(np.float32)
    return ranking
