"""Protocols beyond one map and its ground truth: silence, noise and off-screen sounds, interaction, retrieval.

Each gives a value for every clip (or scene, or query) where one exists, so that means get their intervals from
:mod:`sslib.evaluation.bootstrap`. Thresholds are of raw maps; shares are in [0, 1] (papers print percent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from sslib.heatmaps import GRID, Ids, check_finite, per_clip
from sslib.metrics import AUC_THRESHOLDS

# Silence, noise, sounds from outside the picture ---------------------------------------------------------------------


def universal_threshold(negatives: Mapping[str, Shaped[np.ndarray, "N h w"]], quantile: float = 0.75) -> float:
    """One threshold for all clips, from maps of sounds that have no source in the picture (Juanola et al. 2024).

    The largest over the kinds of negatives of the `quantile` of their maps' maxima, over the raw cells: their
    "max Q3". With ``quantile=1`` no pixel of any of these maps lies above it. Take the maps from validation clips: a
    threshold from the test clips would know the answer.

    Parameters
    ----------
    negatives : kind (``silence``, ``noise``, ``offscreen``) -> raw maps.
    """
    if not negatives or any(not len(maps) for maps in negatives.values()):
        raise ValueError("the universal threshold needs maps of at least one kind of negative sound, and none empty")
    for maps in negatives.values():
        check_finite(maps)
    return max(float(np.quantile(maps.reshape(len(maps), -1).max(axis=1), quantile)) for maps in negatives.values())


def pia(
    maps: Shaped[np.ndarray, "N h w"], threshold: float, ids: Ids = None, size: int = GRID
) -> Float[np.ndarray, " N"]:
    """Share of the image above `threshold` when nothing in it sounds: the best is 0 (Juanola et al. 2024).

    Of the raw map enlarged to 224 pixels, the rule of the ``fixed`` threshold: strictly above.
    """

    def share(_row: int, flat: np.ndarray) -> list[float]:
        return [np.count_nonzero(flat > threshold) / len(flat)]

    return per_clip(share, maps, (size, size), 1, ids)[:, 0]


def aoc_share(shares: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """What each negative clip adds to the AOC: the AOC of a set of clips is the mean of these. NaN stays."""
    passed = np.where(np.isnan(shares)[:, None], np.nan, shares[:, None] <= AUC_THRESHOLDS)
    return np.trapezoid(passed, AUC_THRESHOLDS, axis=1)


def aoc(shares: Float[np.ndarray, " N"]) -> float:
    """Area under share(pIA <= t) over t = 0, 0.05, … 1 (trapezoid rule; Juanola et al. 2024). NaN is left out."""
    shares = shares[~np.isnan(shares)]
    return float(aoc_share(shares).mean()) if len(shares) else np.nan


def harmonic_mean(first: float | np.ndarray, second: float | np.ndarray) -> float | np.ndarray:
    """``2 a b / (a + b)``, 0 where both are 0."""
    total = np.asarray(first, dtype=np.float64) + second
    return np.divide(2 * np.multiply(first, second), total, out=np.zeros_like(total), where=total != 0)[()]


def f_loc(success: float | np.ndarray, share: float | np.ndarray) -> float | np.ndarray:
    """F_LOC (Juanola et al. 2024): harmonic mean of the success rate on positives and 1 - pIA on negatives.

    Both at the same universal threshold: ``success`` is the mean of cIoU >= 0.5 under ``fixed``, ``share`` the mean
    of :func:`pia`. Takes arrays too, for :func:`sslib.evaluation.bootstrap.bootstrap_means`.
    """
    return harmonic_mean(success, 1 - np.asarray(share))


def f_auc(auc: float | np.ndarray, aoc: float | np.ndarray) -> float | np.ndarray:
    """F_AUC (Juanola et al. 2024): harmonic mean of the AUC on positives and the AOC on negatives, as F_LOC."""
    return harmonic_mean(auc, aoc)


# Interaction ---------------------------------------------------------------------------------------------------------


class Scenes(NamedTuple):
    """Scenes, sorted by name: the least cIoU of their sounding objects, and how many objects they have."""

    scene: np.ndarray
    value: Float[np.ndarray, " M"]
    objects: Int[np.ndarray, " M"]


def iiou(ciou: Float[np.ndarray, " N"], scenes: Sequence[str] | np.ndarray) -> Scenes:
    """Least cIoU of each scene's clips, in which one object after the other sounds (Senocak et al. 2024).

    A scene counts only when every one of its sounding objects passes, so IIoU is ``metrics.success_rate`` of
    these values and IAUC ``metrics.auc``; with cIoU under ``adaptive`` they are the adaptive variants. NaN for scenes
    with fewer than two clips (nothing to tell apart) and where a clip has no value.
    """
    if len(ciou) != len(scenes):
        raise ValueError(f"{len(ciou)} values, but scenes of {len(scenes)} clips")
    names, index = np.unique(np.asarray(scenes), return_inverse=True)
    value, objects = np.full(len(names), np.inf), np.bincount(index, minlength=len(names))
    with np.errstate(invalid="ignore"):
        np.minimum.at(value, index, ciou)  # carries NaN on
    return Scenes(names, np.where(objects > 1, value, np.nan), objects)


# Retrieval -----------------------------------------------------------------------------------------------------------


class Ranks(NamedTuple):
    """For each query the rank (from 1) of its best right answer."""

    image_to_sound: Int[np.ndarray, " N"]
    sound_to_image: Int[np.ndarray, " N"]


def retrieval(
    similarity: Float[np.ndarray, "N N"], labels: Sequence[str] | np.ndarray | None = None, ids: Ids = None
) -> Ranks:
    """Ranks of the right answers in both directions; image i and sound i (row and column i) are a pair.

    Without `labels` only the own partner is right. With them (class-aware) every clip of the same label is, so a hit
    at k means that one of the k best answers is of the class. Ties are counted against the method: a wrong answer with
    the same similarity stands before the right one, so a constant matrix finds nothing unless all answers are right.
    """
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"as many images as sounds are needed, not {similarity.shape}")
    if labels is not None and len(labels) != len(similarity):
        raise ValueError(f"{len(similarity)} clips, but {len(labels)} labels")
    check_finite(similarity, ids)
    labels = np.arange(len(similarity)) if labels is None else np.unique(np.asarray(labels), return_inverse=True)[1]
    return ranks(similarity, labels[:, None] == labels[None, :])


def ranks(similarity: Float[np.ndarray, "N M"], right: Bool[np.ndarray, "N M"]) -> Ranks:
    """:func:`retrieval` where `right` says which sounds (columns) are right for which images (rows).

    A picture of two things is a right answer for the sounds of both, which no single label of it could say.
    """
    return Ranks(_ranks(similarity, right), _ranks(similarity.T, right.T))


def _ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    found = np.empty(len(similarity), dtype=np.int64)
    for query, (row, answers) in enumerate(zip(similarity, right, strict=True)):
        found[query] = 1 + np.count_nonzero(row[~answers] >= row[answers].max())
    return found


def chance_at(right: Int[np.ndarray, " N"], count: int, k: int) -> Float[np.ndarray, " N"]:
    """R@k of a random order, with `right` right answers among `count`: ``1 - C(count - right, k) / C(count, k)``."""
    drawn = np.arange(min(k, count))
    wrong = np.clip(count - np.asarray(right)[:, None] - drawn, 0, None) / (count - drawn)
    return 1 - wrong.prod(axis=1)


def recall_at(ranks: Int[np.ndarray, " N"], k: int) -> Float[np.ndarray, " N"]:
    """Whether each query has a right answer among its `k` best (1 or 0): R@k is the mean."""
    return (ranks <= k).astype(np.float64)
