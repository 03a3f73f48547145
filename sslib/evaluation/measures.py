"""From maps to ``clips.csv``: one row per clip x sound x kind of map, with every measure that a single clip can have.

The maps come as a dictionary of arrays over the clips of one list, named as in ``maps.npz``; where they come from, a
model of ours or anybody's, is not known here. Controls that need no model are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from sslib import metrics
from sslib.evaluation import detection, protocols, truth
from sslib.evaluation.tables import METHODS, NEGATIVES
from sslib.evaluation.truth import TestList, Truth

FREE = ("whole_image", "centre_square", "oracle")  # controls that no model is needed for
SUFFIXES: dict[metrics.Threshold, str] = {
    "median": "", "top_half": "_top_half", "fixed": "_fixed", "adaptive": "_adaptive",
}  # fmt: skip
BLOCK = 64  # clips at a time: their enlarged maps are 26 MB
RANKS = (1, 5, 10)
AVSBENCH_LEVEL = 127  # of 0 … 254: the threshold 0.5


def array_name(kind: str, sound: str) -> str:
    """Name the array of a kind of map under a sound in ``maps.npz``."""
    if sound in ("own", "none"):
        return kind
    return sound if kind == "similarity" else f"{kind}_{sound}"


def measure(clips: TestList, arrays: Mapping[str, np.ndarray], levels: Mapping[str, float]) -> pd.DataFrame:
    """Every row of one list.

    Parameters
    ----------
    arrays : maps (N, h, w) by :func:`array_name`; with ``image`` (and ``untrained_image``), scores
        (N, N) of every picture with every sound, there is retrieval.
    levels : kind of map -> universal threshold; without one, what needs it is NaN.

    Raises
    ------
    ValueError
        For maps that are not finite, naming the clips.
    """
    known = truth.about(clips)
    keys = [key for key in METHODS if key[0] in FREE or array_name(*key) in arrays]
    columns: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {key: [] for key in keys}
    areas, masked = [], clips.masked
    for start in range(0, len(clips.ids), BLOCK):
        rows = slice(start, start + BLOCK)
        there = truth.read(clips, rows)
        areas.append(there.boxes.mean(axis=(1, 2)))
        for key in keys:
            maps = None if key[0] in FREE else arrays[array_name(*key)][rows]
            columns[key].append(_values(*key, maps, there, levels.get(key[0]), known["source"][rows], clips.ids[rows]))
    area = np.concatenate(areas)
    known = known.assign(area=area, area_group=metrics.area_group(area))
    tables = []
    for key in keys:
        values = {name: np.concatenate([part[name] for part in columns[key]]) for name in columns[key][0]}
        if "curve" in values:
            values |= _mask_columns(values.pop("curve"), values.pop("iou"), known["part"], masked)
            values["miou"] = values["miou"] if masked else np.full(len(known), np.nan)
        tables.append(known.assign(map=key[0], sound=key[1], **values))
    tables = _with_retrieval(tables, clips, arrays, known)
    return pd.concat(tables, ignore_index=True)


def _values(
    kind: str, sound: str, maps: np.ndarray | None, there: Truth, level: float | None, source: pd.Series, ids: list[str]
) -> dict[str, np.ndarray]:
    """Columns of some clips under one method."""
    nothing = np.full(len(ids), np.nan)
    large, pixels, level = _enlarged(kind, maps, there, level)
    share = nothing if level is None else protocols.pia(large, level, ids)
    sure = nothing if maps is None else detection.confidence(maps, ids)
    if sound in NEGATIVES:
        return {"confidence": sure, "pia": share, "source": np.zeros(len(ids), dtype=bool)}
    if maps is None:  # constant maps are equally sure of all; the oracle knows when nothing sounds
        sure = source.to_numpy(float) if kind == "oracle" else np.zeros(len(ids))
        share = np.zeros(len(ids)) if kind == "oracle" else share
    values: dict[str, np.ndarray] = {}
    for threshold, ciou in _cious(kind, large, there, level, ids).items():
        suffix = SUFFIXES[threshold]
        values[f"ciou{suffix}"] = ciou
        values[f"success{suffix}"] = np.where(np.isnan(ciou), np.nan, ciou >= 0.5)
        values[f"auc{suffix}"] = metrics.auc_share(ciou)
    square = kind == "centre_square"
    adaptive = metrics.centre_square_ciou if square else lambda masks, how: metrics.ciou(pixels, masks, how, ids=ids)
    curves = metrics.mask_curves(pixels, there.masks, ids)
    found = np.where(there.masks.any(axis=(1, 2)), metrics.pointing(pixels, there.masks, ids), np.nan)
    values |= {"pointing": found, "miou": adaptive(there.masks, "adaptive")}
    values |= {"curve": curves.f, "iou": curves.iou[:, AVSBENCH_LEVEL]}
    # A map that a sound in the picture went into is no negative.
    return values | {"confidence": sure, "pia": share if sound == "none" else np.where(source, np.nan, share)}


def _enlarged(
    kind: str, maps: np.ndarray | None, there: Truth, level: float | None
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Maps at the size of the ground truth (once for all measures), those to compare with masks, and the level."""
    count = len(there.boxes)
    if maps is not None:
        large = metrics.resize(maps)
        return large, large, level
    if kind == "oracle":  # the bound for pixels knows the pixels, the bound for boxes the boxes
        return metrics.oracle(there.boxes), metrics.oracle(there.masks), 0.0
    if kind == "whole_image":
        large = metrics.resize(metrics.whole_image(count))
        return large, large, -1.0
    large = metrics.centre_square(count)
    return large, large, None  # a square has no scale


def _cious(
    kind: str, large: np.ndarray, there: Truth, level: float | None, ids: list[str]
) -> dict[metrics.Threshold, np.ndarray]:
    if kind == "centre_square":
        return {threshold: metrics.centre_square_ciou(there.boxes, threshold) for threshold in SUFFIXES}
    usable = [threshold for threshold in SUFFIXES if threshold != "fixed" or level is not None]
    found = metrics.cious(large, there.boxes, usable, level, ids)
    return {threshold: found.get(threshold, np.full(len(ids), np.nan)) for threshold in SUFFIXES}


def _mask_columns(curves: np.ndarray, iou: np.ndarray, parts: pd.Series, masked: bool) -> dict[str, np.ndarray]:
    """AVSBench's measures of each clip: F at the threshold that is best for its part of the list, IoU at 0.5."""
    value = np.full(len(curves), np.nan)
    if not masked:
        return {"f": value, "miou_half": value}
    used = ~np.isnan(curves).any(axis=1)
    for part in dict.fromkeys(parts):
        rows = np.flatnonzero(used & (parts == part).to_numpy())
        if len(rows):
            value[rows] = curves[rows, curves[rows].mean(axis=0).argmax()]
    return {"f": value, "miou_half": iou}


def _with_retrieval(
    tables: list[pd.DataFrame], clips: TestList, arrays: Mapping[str, np.ndarray], known: pd.DataFrame
) -> list[pd.DataFrame]:
    """Tables with R@k of each clip as a query where the scores of all pairs are known, and chance as a control."""
    scores = {key: arrays[name] for key, name in (("similarity", "image"), ("untrained", "untrained_image"))
              if name in arrays}  # fmt: skip
    if not scores:
        return tables
    right = {of_class: relevant(clips, of_class) for of_class in (False, True)}
    for number, table in enumerate(tables):
        kind, sound = table["map"].iloc[0], table["sound"].iloc[0]
        if sound == "own" and kind in scores:
            ranks = {of_class: protocols.ranks(scores[kind], answers) for of_class, answers in right.items()}
            hits = {name: protocols.recall_at(getattr(ranks[of_class], direction), k)
                    for name, of_class, direction, k in recall_names()}  # fmt: skip
            tables[number] = table.assign(**hits)
    chance = {}
    for name, of_class, direction, k in recall_names():
        answers = right[of_class] if direction == "image_to_sound" else right[of_class].T
        chance[name] = protocols.chance_at(answers.sum(axis=1), len(answers), k)
    return [*tables, known.assign(map="random_order", sound="none", **chance)]


def recall_names() -> Iterator[tuple[str, bool, str, int]]:
    """Name each measure of retrieval, with whether it is class-aware, its direction and its k."""
    for of_class in (False, True):
        for direction in protocols.Ranks._fields:
            for k in RANKS:
                yield f"{'class_' if of_class else ''}r{k}_{direction}", of_class, direction, k


def relevant(clips: TestList, of_class: bool) -> np.ndarray:
    """Which sounds (columns) are right answers for which pictures (rows), bool (N, N).

    A picture's own sounds: those of all clips of its scene, which is one and the same picture. With `of_class` every
    sound whose class is among the picture's `objects` (where these are not known: of the clip's class).
    """
    if not of_class:
        scenes = np.unique([scene or i for scene, i in zip(clips.known("scene"), clips.ids, strict=True)],
                           return_inverse=True)[1]  # fmt: skip
        return scenes[:, None] == scenes[None, :]
    names = np.asarray(clips.classes)
    held = clips.known("objects")
    return np.stack([np.isin(names, list({own, *(objects or ())})) for own, objects in zip(names, held, strict=True)])
