"""Bootstrap confidence intervals over recordings, of means over clips and of any other statistic.

A resample draws G of G clusters (recordings) with replacement: a count of each, the weight of its clips. Counts depend
on G and the seed only: measures of the same clips see the same draws.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROWS = 256  # resamples at a time: 256 x 10,000 doubles are 20 MB
Names = Sequence[str] | np.ndarray
Statistic = Callable[[np.ndarray], Float[np.ndarray, "R K"]]
Units = Callable[[np.ndarray], np.ndarray]  # weights of clips (R, N) to those of what is averaged (R, M)


class Interval(NamedTuple):
    """A value over clips and its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    clips: int
    clusters: int


def bootstrap(values: Float[np.ndarray, " N"], clusters: Names, resamples=10_000, confidence=0.95, seed=0) -> Interval:
    """Estimate one mean over clips as :func:`bootstrap_means` does."""
    return bootstrap_means(np.asarray(values, dtype=np.float64)[:, None], clusters, resamples, confidence, seed)[0]


def bootstrap_means(values: np.ndarray, clusters: Names, resamples=10_000, confidence=0.95, seed=0) -> list[Interval]:
    """Estimate K means over clips, of values (N, K), or (S, N, K) of S training seeds.

    Intervals resample clusters (recordings) and seeds, not clips: scenes that share a recording are not independent;
    resampling them would shrink intervals just by composing more. Differences of two methods on the same clips give
    paired intervals. NaN values are left out, clips without a value under one seed altogether.
    """
    values, clusters = np.reshape(values, (-1, *values.shape[-2:])), np.asarray(clusters)
    known = ~np.isnan(values).any(axis=0)
    if len(known) != len(clusters):
        raise ValueError(f"{len(known)} clips with values, but clusters for {len(clusters)}")
    used = known.any(axis=1)
    mean = means(np.where(known, values, np.nan)[:, used].reshape(-1, values.shape[2]))
    found = bootstrap_statistic(mean, clusters[used], resamples, confidence, seed, len(values))
    sizes = [(int(column.sum()), len(np.unique(clusters[column]))) for column in known.T]
    return [one._replace(clips=clips, clusters=groups) for one, (clips, groups) in zip(found, sizes, strict=True)]


def means(values: Float[np.ndarray, "N K"]) -> Statistic:
    """Make the statistic of the means of K columns; NaN values are left out."""
    patterns, which = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    parts = np.concatenate([np.nan_to_num(values), patterns], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        total, sizes = np.split(weights.astype(np.float64) @ parts, [values.shape[1]], axis=1)
        count = sizes[:, which.ravel()]
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    return statistic


def bootstrap_statistic(
    statistic: Statistic,
    clusters: Names,
    resamples=10_000,
    confidence=0.95,
    seed=0,
    seeds=1,
    units: Units | None = None,
) -> list[Interval]:
    """Estimate K statistics of N clips, each in one of the independent `clusters`, anew for every resample.

    `statistic` takes weights (R, N), how often each clip is drawn, and gives K values; NaN where there is none. With S
    training `seeds` it takes weights (R, S N), seed after seed; both levels are crossed: a resample draws S of S seeds
    and G of G clusters (Owen 2007, "The pigeonhole bootstrap"). With `units` it takes the weights of these instead.
    """
    names, index = np.unique(clusters, return_inverse=True)
    levels = _draws(max(len(names), 1), resamples, seed), _draws(seeds, resamples, seed + 1)
    units = units or (lambda weights: weights)
    every = units(np.ones((1, len(index)), dtype=np.uint8))
    value, found = statistic(np.tile(every, seeds))[0], []
    for drawn, of_seeds in zip(*(np.split(level, range(ROWS, resamples, ROWS)) for level in levels), strict=True):
        found.append(statistic((of_seeds[:, :, None] * units(drawn[:, index])[:, None]).reshape(len(drawn), -1)))
    columns = [column[~np.isnan(column)] for column in np.concatenate(found).T]
    tails = np.array([1 - confidence, 1 + confidence]) / 2
    limits = [np.quantile(column, tails).tolist() if len(column) else [np.nan, np.nan] for column in columns]
    return [Interval(float(v), *pair, len(index), len(names)) for v, pair in zip(value, limits, strict=True)]


@lru_cache(maxsize=8)
def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """Draw `count` of as many (resamples, count): how often each, as uint8; more than 255 is beyond all chance."""
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples))
    return np.fromiter(draws, dtype=(np.uint8, count), count=resamples)
