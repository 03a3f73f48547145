"""Heatmaps and boxes on one square of pixels: interpolation, ground truth from boxes, the pixels a heatmap claims.

Heatmaps are ``(N, h, w)`` of any scale; the ground truth is ``(N, H, W)``, a consensus map in [0, 1] or a mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from sslib.config import InputError

Threshold = Literal["median", "top_half", "fixed", "adaptive"]
Truth = Float[np.ndarray, "N H W"] | Bool[np.ndarray, "N H W"]  # a consensus map or a mask
Ids = Sequence[str] | np.ndarray | None  # the clips' names, for messages
GRID = 224  # pixels: side of the square on which heatmap and ground truth meet
CHUNK = 8  # clips at a time: 8 x 224 x 224 doubles are 3 MB and stay in the cache
BLOCK = 56  # rows: products so small that BLAS starts no threads of its own, which would fight with ours
WORKERS = min(4, os.cpu_count() or 1)  # NumPy lets go of the interpreter, so threads help


def resize(maps: Shaped[np.ndarray, "N h w"], size: tuple[int, int] = (GRID, GRID)) -> Shaped[np.ndarray, "N H W"]:
    """Bilinear interpolation with half-pixel centres (torch's ``align_corners=False``), in float64.

    A constant map stays exactly constant. From 14 x 14 (or 7, 28, 56) to 224 all weights are multiples of a power of
    two, so float32 maps are interpolated without rounding and equal values stay ties.
    """
    if maps.shape[1:] == tuple(size):
        return np.asarray(maps, dtype=np.float64)
    rows, columns = (_weights(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    maps = np.asarray(maps, dtype=np.float64)
    start = maps[:, :1, :1]  # what all cells share needs no weights, whose sum may be rounded
    narrow = (maps - start) @ columns.T  # (N, h, W)
    large = np.empty((len(maps), *size))
    for block in range(0, size[0], BLOCK):
        np.matmul(rows[block : block + BLOCK], narrow, out=large[:, block : block + BLOCK])
    large += start
    return large


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


def consensus_map(annotators: Sequence[Sequence[Sequence[float | int]]], size: int = GRID) -> Float[np.ndarray, "H W"]:
    """Flickr-SoundNet's ground truth: ``min(1, sum over annotators of their box map / 2)`` (Senocak et al. 2018).

    Parameters
    ----------
    annotators : the boxes of each, in [0, 1] (pixel / 256 in the XML; 224 * pixel / 256 is cut to a whole number). A
        pixel that two of them mark counts in full, one that a single one marks by half.
    """
    return np.minimum(1, sum((box_map(boxes, size) for boxes in annotators), np.zeros((size, size))) / 2)


def predict(
    heatmaps: Shaped[np.ndarray, "N H W"], truth: Truth, threshold: Threshold, level: float | None = None
) -> Bool[np.ndarray, "N H W"]:
    """The pixels that a heatmap claims.

    ``median``: those at or above its own median, at least half of the picture (the paper, LVS, EZ-VSL).
    ``top_half``: the highest ones, exactly half of the pixels (rounded down). ``adaptive``: the highest ones, as many
    as the ground truth has (its sum, rounded); it measures the ranking. In both, ties go to the first pixels in
    reading order. ``fixed``: those above `level`, a value on the raw map that is the same for all clips.
    """
    rows = zip(heatmaps.reshape(len(heatmaps), -1), truth.reshape(len(truth), -1), strict=True)
    chosen = [claims(flat.astype(np.float64), pixel_count(wanted), (threshold,), level)[0] for flat, wanted in rows]
    return np.array(chosen, dtype=bool).reshape(heatmaps.shape)


def pixel_count(wanted: np.ndarray) -> int:
    """How many pixels the ground truth has: its sum, rounded (half a pixel to the even number)."""
    return round(float(wanted.sum(dtype=np.float64)))


def claims(
    flat: np.ndarray, count: int, thresholds: Sequence[Threshold], level: float | None
) -> list[Bool[np.ndarray, " n"]]:
    """What one map claims under each threshold; `count` is how many pixels ``adaptive`` takes."""
    middle = len(flat) // 2
    places = {"median": (middle, (len(flat) - 1) // 2), "top_half": (len(flat) - max(middle, 1),), "fixed": ()}
    places["adaptive"] = (len(flat) - max(count, 1),)
    value = _order_statistics(flat, [place for name in thresholds for place in places[name]])
    chosen = []
    for name in thresholds:
        if name == "median":
            high, low = (value[place] for place in places[name])
            chosen.append(flat >= (low + high) / 2)
        elif name == "fixed":
            if level is None:
                raise InputError("the fixed threshold needs a level: a value on the raw map")
            chosen.append(flat > level)
        else:
            chosen.append(_highest(flat, middle if name == "top_half" else count, value[places[name][0]]))
    return chosen


def _order_statistics(flat: np.ndarray, places: Sequence[int]) -> dict[int, float]:
    """The values that would stand at `places` if `flat` were sorted."""
    if not places:
        return {}
    split = places[0]
    ordered = np.partition(flat, split)
    found = {split: float(ordered[split])}
    for place in set(places) - {split}:
        if place == split - 1:
            found[place] = float(ordered[:split].max())
        else:  # each place lies on one side of the first: half the work of ordering anew
            side, offset = (ordered[:split], 0) if place < split else (ordered[split:], split)
            side.partition(place - offset)
            found[place] = float(side[place - offset])
    return found


def _highest(flat: np.ndarray, count: int, last: float) -> Bool[np.ndarray, " n"]:
    """The `count` highest pixels, the lowest of which has the value `last`; where that one ties, the first of them."""
    if count == 0:
        return np.zeros(len(flat), dtype=bool)
    chosen = flat >= last
    surplus = np.count_nonzero(chosen) - count
    if surplus:
        chosen[np.flatnonzero(flat == last)[-surplus:]] = False
    return chosen


def per_clip(
    function: Callable[[int, np.ndarray], Sequence[float] | np.ndarray],
    heatmaps: Shaped[np.ndarray, "N h w"],
    size: tuple[int, int],
    width: int,
    ids: Ids = None,
) -> Float[np.ndarray, "N width"]:
    """`function` of each row's number and resized, flattened heatmap: `width` values a clip. In chunks and threads."""
    check_finite(heatmaps, ids)
    values = np.empty((len(heatmaps), width))

    def work(start: int) -> None:
        for row, large in enumerate(resize(heatmaps[start : start + CHUNK], size), start):
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


def check_truth(wanted: np.ndarray, row: int, ids: Ids) -> None:
    """Raise an InputError that names the clip whose ground truth is not in [0, 1]."""
    if wanted.dtype != bool and not (wanted.min() >= 0 and wanted.max() <= 1):  # NaN is not, either
        raise InputError(f"a ground truth with values outside of [0, 1], {_named([row], ids)}")


def _named(rows: list[int], ids: Ids) -> str:
    shown = rows[:10] if ids is None else [str(ids[row]) for row in rows[:10]]
    more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
    return f"at {'rows' if ids is None else 'clips'} {shown}{more}"


def same_number(heatmaps: np.ndarray, truth: np.ndarray) -> None:
    if len(heatmaps) != len(truth):
        raise InputError(f"{len(heatmaps)} heatmaps for {len(truth)} ground truths")
