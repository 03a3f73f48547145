"""Is there a visible source at all? The protocol with negative clips: AP, max-F1, LocAcc (Mo & Morgado 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from sslib.evaluation.bootstrap import Interval, Names, bootstrap_statistic
from sslib.heatmaps import Ids, check_finite

ROWS = 16  # resamples at a time: 16 x 10,000 doubles stay in the cache


def confidence(maps: Shaped[np.ndarray, "N h w"], ids: Ids = None) -> Float[np.ndarray, " N"]:
    """How sure a map is that something in the picture sounds: the mean of its top quarter (Mo & Morgado 2022).

    Over the raw cells, of which a quarter (rounded up) counts; their script takes the same of the map enlarged to 224
    pixels, which differs by the smoothing at the border of the quarter only.
    """
    check_finite(maps, ids)
    flat = np.sort(np.asarray(maps, dtype=np.float64).reshape(len(maps), -1), axis=1)
    return flat[:, flat.shape[1] - -(-flat.shape[1] // 4) :].mean(axis=1)


class Detection(NamedTuple):
    """Results of the protocol with negatives."""

    ap: float
    max_f1: float
    loc_acc: float


class Curve(NamedTuple):
    """Precision, recall and F1 of all clips at or above each threshold, from the highest confidence down."""

    threshold: Float[np.ndarray, " T"]
    precision: Float[np.ndarray, " T"]
    recall: Float[np.ndarray, " T"]
    f1: Float[np.ndarray, " T"]


def detection(
    score: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"], ciou: Float[np.ndarray, " N"], at: float = 0.5
) -> Detection:
    """AP, max-F1 and LocAcc of clips with and without a visible source (Mo & Morgado 2022).

    A clip at or above the confidence threshold is a true positive when it has a source and cIoU >= `at`, otherwise a
    false positive (nothing sounds there, or it sounds elsewhere); a clip with a source below is a false negative.
    Precision = TP / (TP + FP); recall = TP / (TP + FN), 0 without any TP. ``AP = sum of (R_n - R_(n-1)) P_n`` over the
    distinct confidences from the highest down, without interpolation: scikit-learn's ``average_precision_score`` when
    every positive is localized. A positive that is mislocalized leaves the recall's denominator once it is detected,
    so that the recall ends at 1 (the protocol's own rule; its script interpolates P and takes every N/200th
    threshold). LocAcc = share of positives with cIoU >= `at`, without any threshold on the confidence.

    Parameters
    ----------
    score : confidence of each clip, such as :func:`confidence`.
    positive : whether the clip has a visible source.
    ciou : NaN allowed for clips without one. NaN for a positive (an empty ground truth) is an error: leave it out.

    Returns
    -------
    All NaN when no clip is positive.
    """
    return Detection(
        *detection_statistic(score, positive, ciou, at)(np.ones((1, len(score)), dtype=np.uint8))[0].tolist()
    )


def detection_curve(
    score: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"], ciou: Float[np.ndarray, " N"], at: float = 0.5
) -> Curve:
    """The curve below which :func:`detection` takes the area, for a figure."""
    order, ends, tags = _by_confidence(score, positive, ciou, at)
    values = _precision_recall(_once(score), ends, tags)
    return Curve(np.asarray(score)[order][ends], *(rows[0] for rows in values))


def detection_statistic(
    score: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"], ciou: Float[np.ndarray, " N"], at: float = 0.5
) -> Callable[[np.ndarray], Float[np.ndarray, "R 3"]]:
    """:func:`detection` as a function of weights (R, N) of the clips, sorted once for all resamples."""
    order, ends, tags = _by_confidence(score, positive, ciou, at)

    def statistic(weights: np.ndarray) -> Float[np.ndarray, "R 3"]:
        values = np.empty((len(weights), 3))
        for start in range(0, len(weights), ROWS):
            part = weights[start : start + ROWS][:, order]
            precision, recall, f1 = _precision_recall(part, ends, tags)
            steps = np.diff(recall, axis=1, prepend=0)
            positives, localized = (part @ tag.astype(np.float64) for tag in tags)
            rows = np.stack(
                [(steps * precision).sum(axis=1), f1.max(axis=1, initial=0), localized / np.maximum(positives, 1)], 1
            )
            rows[positives == 0] = np.nan
            values[start : start + ROWS] = rows
        return values

    return statistic


def detection_intervals(
    score: Float[np.ndarray, " N"],
    positive: Bool[np.ndarray, " N"],
    ciou: Float[np.ndarray, " N"],
    clusters: Names,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """:func:`detection` with intervals that resample clusters (recordings): keys ``ap``, ``max_f1``, ``loc_acc``."""
    statistic = detection_statistic(score, positive, ciou)
    return dict(zip(Detection._fields, bootstrap_statistic(statistic, clusters, resamples, level, seed), strict=True))


def _by_confidence(
    score: np.ndarray, positive: np.ndarray, ciou: np.ndarray, at: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Order of falling confidence, the last clip of each distinct one, and (positive, localized) in that order."""
    score, positive, ciou = np.asarray(score), np.asarray(positive, dtype=bool), np.asarray(ciou)
    if not len(score) == len(positive) == len(ciou):
        raise ValueError(f"{len(score)} confidences, {len(positive)} marks of positives and {len(ciou)} cIoU")
    if bad := np.flatnonzero(~np.isfinite(score) | (positive & np.isnan(ciou))).tolist():
        raise ValueError(f"clips without a finite confidence, or positives without a cIoU, at rows {bad[:10]}")
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, len(score) > 0))
    localized = positive & (np.nan_to_num(ciou) >= at)
    return order, ends, (positive[order], localized[order])


def _precision_recall(
    weights: np.ndarray, ends: np.ndarray, tags: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "R T"], Float[np.ndarray, "R T"], Float[np.ndarray, "R T"]]:
    """Precision, recall, F1 (R, T) of weighted clips that are sorted by confidence."""
    positive, localized = tags
    detected = weights.cumsum(axis=1, dtype=np.int32)[:, ends]
    right = (weights * localized).cumsum(axis=1, dtype=np.int32)[:, ends]
    sources = (weights * positive).cumsum(axis=1, dtype=np.int32)
    missed = sources[:, -1:] - sources[:, ends]
    precision = right / np.maximum(detected, 1)
    recall = right / np.maximum(right + missed, 1)
    return precision, recall, 2 * right / np.maximum(detected + right + missed, 1)


def _once(score: np.ndarray) -> np.ndarray:
    """Weights with which every clip counts once."""
    return np.ones((1, len(score)), dtype=np.uint8)
