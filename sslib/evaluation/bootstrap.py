"""How sure a mean over clips is: bootstrap over clusters (recordings), for one measure, many, or any function of them.

Drawing G of G clusters with replacement is a count of each cluster, so all resamples of all measures are one product
of a matrix of counts with the sums of the clusters. The counts depend on the number of clusters and the seed only:
measures of the same clips share them, which makes them comparable and quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROWS = 256  # resamples at a time: 256 x 10,000 doubles are 20 MB
Clusters = Sequence[str] | np.ndarray


class Interval(NamedTuple):
    """A value over clips and its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    clips: int
    clusters: int


def bootstrap(
    values: Float[np.ndarray, " N"],
    clusters: Clusters,
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
    return bootstrap_table(np.asarray(values, dtype=np.float64)[:, None], clusters, resamples, confidence, seed)[0]


def bootstrap_table(
    values: Float[np.ndarray, "N K"],
    clusters: Clusters,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """:func:`bootstrap` of K columns at once: the same intervals in a fraction of the time."""
    values, clusters = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    _same_length(values, clusters)
    found = [Interval(np.nan, np.nan, np.nan, 0, 0)] * values.shape[1]
    patterns, column_pattern = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for number, used in enumerate(patterns.T):
        if not used.any():
            continue
        columns = np.flatnonzero(column_pattern.ravel() == number)
        means, counted = _resampled_means(values[np.ix_(used, columns)], clusters[used], resamples, seed)
        for column, resampled in zip(columns, means.T, strict=True):
            low, high = _limits(resampled, confidence)
            found[column] = Interval(float(values[used, column].mean()), low, high, int(used.sum()), counted)
    return found


def bootstrap_means(
    function: Callable[..., np.ndarray],
    columns: Sequence[Float[np.ndarray, " N"]],
    clusters: Clusters,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A function of the means of several columns, such as the harmonic mean of success and 1 - pIA.

    Parameters
    ----------
    function : takes one array of means for each column (all of one length), gives their function elementwise.
    columns : values of the same clips; NaN where a clip has none (a silent clip has no cIoU). Clips without any are
        left out.
    """
    values, clusters = (
        np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1),
        np.asarray(clusters),
    )
    _same_length(values, clusters)
    used = ~np.isnan(values).all(axis=1)
    if np.isnan(values).all(axis=0).any():
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    means, counted = _resampled_means(values[used], clusters[used], resamples, seed)
    low, high = _limits(function(*means.T), confidence)
    value = function(*np.nanmean(values, axis=0)[:, None])
    return Interval(float(value[0]), low, high, int(used.sum()), counted)


def bootstrap_weighted(
    statistic: Callable[[np.ndarray], Float[np.ndarray, "R K"]],
    clusters: Clusters,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Statistics that are no function of means, such as the average precision, computed anew for each resample.

    Parameters
    ----------
    statistic : takes weights (R, N), how often each clip is drawn in each resample, and gives K values of each
        resample; NaN where a resample has none.
    """
    clusters = np.asarray(clusters)
    names, index = np.unique(clusters, return_inverse=True)
    value = statistic(np.ones((1, len(clusters)), dtype=np.uint8))[0]
    draws = _draws(len(names), resamples, seed)
    resampled = np.concatenate([statistic(draws[rows][:, index]) for rows in _rows(resamples)])
    limits = [_limits(column, confidence) for column in resampled.T]
    return [Interval(float(v), *pair, len(clusters), len(names)) for v, pair in zip(value, limits, strict=True)]


def bootstrap_seeds(
    values: Float[np.ndarray, "S N"],
    clusters: Clusters,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over S training seeds and N clips, with an interval that resamples both: seeds and clusters of clips.

    The seeds saw the same clips, so both levels are crossed: each resample draws S of S seeds and G of G clusters
    (Owen 2007, "The pigeonhole bootstrap"). With few seeds the interval is still too short; say how many there were.
    A clip without a value under one seed is left out.
    """
    values, clusters = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    _same_length(values.T, clusters)
    used = ~np.isnan(values).any(axis=0)
    if not used.any():
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    means, counted = _resampled_means(values[:, used].T, clusters[used], resamples, seed)
    of_seeds = _draws(len(values), resamples, seed + 1)
    low, high = _limits((means * of_seeds).sum(axis=1) / len(values), confidence)
    return Interval(float(values[:, used].mean()), low, high, int(used.sum()), counted)


@lru_cache(maxsize=4)
def _draws(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, clusters) of uint8: how often each cluster is drawn. More than 255 times is beyond all chance."""
    rng, counts = np.random.default_rng(seed), np.empty((resamples, clusters), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)
    counts.flags.writeable = False
    return counts


def _resampled_means(
    values: Float[np.ndarray, "N K"], clusters: np.ndarray, resamples: int, seed: int
) -> tuple[Float[np.ndarray, "R K"], int]:
    """Means of every column in every resample (NaN where it drew no value), and the number of clusters."""
    names, index = np.unique(clusters, return_inverse=True)
    known = ~np.isnan(values)
    sums = [np.bincount(index, column, len(names)) for column in np.where(known, values, 0).T]
    sizes = [np.bincount(index, column, len(names)) for column in known.T]
    parts = np.stack(sums + sizes, axis=1)
    draws = _draws(len(names), resamples, seed)
    product = np.concatenate([draws[rows].astype(np.float64) @ parts for rows in _rows(resamples)])
    total, count = np.split(product, 2, axis=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), len(names)


def _limits(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return np.nan, np.nan
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _rows(resamples: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, resamples, ROWS))


def _same_length(values: np.ndarray, clusters: np.ndarray) -> None:
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} clips with values, but clusters for {len(clusters)}")
