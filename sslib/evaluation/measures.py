"""From maps to ``clips.csv``: what is known of the clips of a test list, other sounds for them, and one row per clip.

A row is a clip x sound condition x kind of map, with every measure that a single clip can have. Maps come as a
dictionary of arrays over the clips of one list, named as in ``maps.npz``; where they come from, a model of ours or
anybody's, is not known here. Controls that need no model are added.

To add a metric, compute a column in :func:`_localization`, from the maps at the size of the ground truth, and give it a
line in ``CLIP_MEASURES``: the tables, their intervals, differences and verdicts take it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from sslib import metrics
from sslib.data import media
from sslib.data.layout import Layout, video_of
from sslib.datasets import AVDataset
from sslib.evaluation import protocols

Columns = dict[str, np.ndarray]  # of clips.csv
NEGATIVES = ("silence", "noise", "offscreen")  # sounds that nothing in the image makes
MODEL = "model"
METHODS = {  # kind of map and sound condition, and how tables call what they make together
    ("similarity", "own"): MODEL,
    ("similarity", "shuffled"): "model, shuffled sounds",
    ("untrained", "own"): "untrained weights",
    ("visual_only", "none"): "visual-only (foreground nodes)",
    ("visual_only_mean", "none"): "visual-only (all nodes)",
    ("object_guided", "own"): "model, object-guided",
    ("object_prior", "none"): "object prior",
    ("whole_image", "none"): "whole image",
    ("centre_square", "none"): "centre square",
    ("oracle", "none"): "oracle ranking",
    ("random_order", "none"): "random order",
}
METHODS |= {(kind, n): f"{METHODS[kind, 'own']}, {n}" for kind in ("similarity", "untrained") for n in NEGATIVES}
MODEL_FREE = ("whole_image", "centre_square", "oracle")  # kinds of map that no model is needed for
SUFFIXES: dict[metrics.Rule, str] = {"median": "", "top_half": "_top_half", "fixed": "_fixed", "adaptive": "_adaptive"}
BLOCK = 64  # clips at a time: their enlarged maps are 26 MB
AVSBENCH_LEVEL = 127  # of 0 … 254: the threshold 0.5


class Measure(NamedTuple):
    """One column of a table."""

    key: str
    label: str
    protocol: str
    higher_is_better: bool = True


CLIP_MEASURES = (  # those that `_localization` computes for every clip
    *(
        Measure(key + SUFFIXES[rule], f"{label}, {says} threshold", "localization")
        for rule, says in zip(SUFFIXES, ("median", "top half", "universal", "adaptive"), strict=True)
        for key, label in (("success", "success rate at 0.5"), ("auc", "AUC"))
    ),
    Measure("pointing", "pointing accuracy", "masks"),
    Measure("miou", "mean IoU, adaptive threshold", "masks"),
    Measure("miou_half", "mean IoU, threshold 0.5 of the scaled map", "masks"),
    Measure("f", "F (β² = 0.3)", "masks"),
)


class AnnotatedClips(NamedTuple):
    """Clips of one list, in order, and all that is known about them."""

    split: str
    layout: Layout
    ids: list[str]
    annotations: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, dataset: AVDataset) -> AnnotatedClips:
        """Take the clips of a dataset; where it was not annotated, what the folder knows (perhaps nothing)."""
        annotations = dataset.annotations or dataset.layout.annotations(dataset.split)
        return cls(dataset.split, dataset.layout, list(dataset.ids), annotations)

    def field(self, key: str) -> list[Any]:
        """One field of each clip's annotation, None where it has none."""
        return [self.annotations.get(clip_id, {}).get(key) for clip_id in self.ids]

    @property
    def classes(self) -> list[str]:
        """Class of each sound; of a clip without one its own id, so that it is alike to no other."""
        return [name or clip_id for name, clip_id in zip(self.field("class"), self.ids, strict=True)]

    @property
    def scenes(self) -> list[str]:
        """Scene of each clip, which is one and the same image; of a clip without one its own id."""
        return [name or clip_id for name, clip_id in zip(self.field("scene"), self.ids, strict=True)]


class GroundTruth(NamedTuple):
    """Ground truth of some clips on 224 x 224 pixels."""

    boxes: Float[np.ndarray, "N H W"]  # consensus in [0, 1]
    masks: Bool[np.ndarray, "N H W"]  # what the boxes mark where no mask is known


def load_ground_truth(clips: AnnotatedClips, rows: slice = slice(None)) -> GroundTruth:
    """Load the ground truth of the clips `rows`; all of a list may be 1 GB. ``MediaError`` names an unreadable mask."""
    ids = clips.ids[rows]
    boxes = np.stack([metrics.ground_truth_map(clips.annotations[clip_id]) for clip_id in ids]).astype(np.float32)
    masks = boxes > 0
    for row, clip_id in enumerate(ids):
        path = clips.layout.mask(clip_id)
        if clips.annotations[clip_id]["boxes"] and path.is_file():  # without a source no pixel is one
            masks[row] = media.read_mask(path, metrics.GRID)
    return GroundTruth(boxes, masks)


def clip_table(clips: AnnotatedClips) -> pd.DataFrame:
    """List what tables group clips by and which of them are not independent of each other, one row per clip.

    Where no annotation names the recording of a clip, it is the video that the clip was cut from.
    """
    recordings, objects = clips.field("recording"), clips.field("objects")
    counts = [None if held is None else len(held) for held in objects]
    return pd.DataFrame(
        {
            "split": clips.split,
            "subset": ["all" if n is None else f"{n} object{'' if n == 1 else 's'}" for n in counts],
            "clip_id": np.array(clips.ids, dtype=object),
            "class": [name or "" for name in clips.field("class")],
            "recording": [name or video_of(clip_id) for name, clip_id in zip(recordings, clips.ids, strict=True)],
            "scene": clips.scenes,
            "objects": [np.nan if n is None else n for n in counts],
            "source": [boxes is None or len(boxes) > 0 for boxes in clips.field("boxes")],  # else nothing there sounds
        }
    )


def array_name(kind: str, condition: str) -> str:
    """Name the array of a kind of map under a sound condition in ``maps.npz``."""
    if condition in ("own", "none"):
        return kind
    return condition if kind == "similarity" else f"{kind}_{condition}"


def universal_thresholds(maps: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Find the universal threshold of each kind of map, from maps of validation clips by :func:`array_name`.

    A map that no sound went into (``visual_only``) is what it is for silence too. (Juanola et al. 2024.)
    """
    negatives = {kind: [array_name(kind, name) for name in NEGATIVES] for kind in ("similarity", "untrained")}
    negatives |= {kind: [kind] for kind in ("visual_only", "visual_only_mean", "object_prior")}
    found = {kind: {name: maps[name] for name in names if name in maps} for kind, names in negatives.items()}
    return {kind: protocols.universal_threshold(arrays) for kind, arrays in found.items() if arrays}


def measure(clips: AnnotatedClips, arrays: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Measure every clip of one list under every sound and kind of map: the rows of ``clips.csv``.

    `arrays` holds maps (N, h, w) by :func:`array_name`; with ``pair_scores`` (and ``untrained_pair_scores``) (N, N) of
    every image with every sound, there is retrieval. `thresholds` are universal ones by kind of map; what needs one
    that is not there is NaN. Raises ``InputError`` for maps that are not finite, naming the clips.
    """
    known = clip_table(clips)
    keys = [key for key in METHODS if key[0] in MODEL_FREE or array_name(*key) in arrays]
    columns: dict[tuple[str, str], list[Columns]] = {key: [] for key in keys}
    areas = []
    for start in range(0, len(clips.ids), BLOCK):
        rows = slice(start, start + BLOCK)
        ids, source, ground_truth = clips.ids[rows], known["source"][rows].to_numpy(), load_ground_truth(clips, rows)
        areas.append(ground_truth.boxes.mean(axis=(1, 2)))
        for kind, condition in keys:
            if kind in MODEL_FREE:
                found = _of_control(kind, ground_truth, source, ids)
            elif condition in NEGATIVES:
                maps = arrays[array_name(kind, condition)][rows]
                found = _claims(maps, maps, thresholds.get(kind), ids) | {"source": np.zeros(len(ids), dtype=bool)}
            else:
                found = _of_maps(arrays[array_name(kind, condition)][rows], thresholds.get(kind), ground_truth, ids)
                if condition != "none":  # a map that a sound in the image went into is no negative
                    found["pia"] = np.where(source, np.nan, found["pia"])
            columns[kind, condition].append(found)
    area = np.concatenate(areas)
    known = known.assign(area=area, area_group=metrics.area_group(area))
    masked = all(clips.layout.mask(clip_id).is_file() for clip_id in known["clip_id"][known["source"]])
    retrieval, tables = _retrieval(clips, arrays), []
    for kind, condition in dict.fromkeys([*keys, *retrieval]):
        parts = columns.get((kind, condition), [{}])
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        values = _with_mask_measures(values, known["subset"], masked) | retrieval.get((kind, condition), {})
        tables.append(known.assign(map_kind=kind, condition=condition, **values))
    return pd.concat(tables, ignore_index=True)


def _claims(maps: np.ndarray, large: np.ndarray, threshold: float | None, ids: list[str]) -> Columns:
    """Measure what needs no ground truth, from raw maps and the same enlarged (or not): how much they claim."""
    pia = np.full(len(ids), np.nan) if threshold is None else protocols.pia(large, threshold, ids)
    return {"confidence": protocols.confidence(maps, ids), "pia": pia}


def _of_maps(maps: np.ndarray, threshold: float | None, ground_truth: GroundTruth, ids: list[str]) -> Columns:
    """Measure maps of the clips' own or other clips' sounds, or without any."""
    large = metrics.resize(maps)  # once for all measures
    rules = [rule for rule in SUFFIXES if rule != "fixed" or threshold is not None]
    ciou = metrics.ciou_by_rule(large, ground_truth.boxes, rules, threshold, ids)
    miou = metrics.ciou(large, ground_truth.masks, "adaptive", ids=ids)
    columns = _localization(ciou, miou, large, ground_truth.masks, ids)
    return columns | _claims(maps, large, threshold, ids)


def _of_control(kind: str, ground_truth: GroundTruth, source: np.ndarray, ids: list[str]) -> Columns:
    """Measure maps that no model is needed for."""
    boxes, masks, count = *ground_truth, len(ids)
    if kind == "whole_image":
        return _of_maps(protocols.whole_image(count), -1.0, ground_truth, ids)  # all of it is above the threshold
    if kind == "centre_square":  # equally sure of all clips; a square has no scale
        maps, sure, share = protocols.centre_square(count), np.zeros(count), np.full(count, np.nan)
        ciou = {rule: protocols.centre_square_ciou(boxes, rule) for rule in SUFFIXES}
        miou = protocols.centre_square_ciou(masks, "adaptive")
    else:  # the bound for pixels knows the pixels, the bound for boxes the boxes; both know when nothing sounds
        maps, sure, share = protocols.oracle(masks), source.astype(float), np.zeros(count)
        ciou = metrics.ciou_by_rule(protocols.oracle(boxes), boxes, list(SUFFIXES), 0.0)
        miou = metrics.ciou(maps, masks, "adaptive")
    return _localization(ciou, miou, maps, masks, ids) | {"confidence": sure, "pia": share}


def _localization(ciou: Columns, miou: np.ndarray, maps: np.ndarray, masks: np.ndarray, ids: list[str]) -> Columns:
    """Name the columns of boxes (from their `ciou` under each rule) and compute those of masks."""
    columns: Columns = {}
    for rule, suffix in SUFFIXES.items():
        values = ciou.get(rule, np.full(len(miou), np.nan))
        columns[f"ciou{suffix}"] = values
        columns[f"success{suffix}"] = np.where(np.isnan(values), np.nan, values >= 0.5)
        columns[f"auc{suffix}"] = metrics.auc_per_clip(values)
    columns["pointing"] = np.where(masks.any(axis=(1, 2)), metrics.pointing(maps, masks, ids), np.nan)
    curves = metrics.mask_curves(maps, masks, ids)
    return columns | {"miou": miou, "curve": curves.f, "iou": curves.iou[:, AVSBENCH_LEVEL]}


def _with_mask_measures(values: Columns, subsets: pd.Series, masked: bool) -> Columns:
    """Replace the curves by AVSBench's measures: F at the threshold that is best for a clip's subset, IoU at 0.5."""
    if "curve" not in values:
        return values
    curves, iou = values.pop("curve"), values.pop("iou")
    f = np.full(len(curves), np.nan)
    if not masked:
        return values | {"miou": f, "f": f, "miou_half": f}
    known = np.flatnonzero(~np.isnan(curves).any(axis=1))
    for _, rows in pd.Series(known).groupby(subsets.to_numpy()[known]):
        f[rows] = curves[rows, curves[rows].mean(axis=0).argmax()]
    return values | {"f": f, "miou_half": iou}


def _retrieval(clips: AnnotatedClips, arrays: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Columns]:
    """Compute R@k of each clip as a query where the scores of all pairs are known, and chance as a control."""
    names = {"similarity": "pair_scores", "untrained": "untrained_pair_scores"}
    scores = {(kind, "own"): arrays[name] for kind, name in names.items() if name in arrays}
    if not scores:
        return {}
    scenes = np.asarray(clips.scenes)  # all clips of a scene are one and the same image
    answers = {"": scenes[:, None] == scenes, "class_": protocols.heard_in(clips.classes, clips.field("objects"))}
    scores[("random_order", "none")] = None
    return {key: protocols.recalls(of_pairs, answers) for key, of_pairs in scores.items()}


class SoundSwap(NamedTuple):
    """Clips of scenes with two sounds: rows 2k and 2k + 1 are the same image."""

    ids: list[str]
    rows: Int[np.ndarray, " N"]  # of the clips in their list, and so in its maps
    recordings: list[str]
    ground_truth: GroundTruth


def sound_swap(clips: AnnotatedClips, max_clips: int = 1000) -> SoundSwap | None:
    """Find the first scenes in which each of two things sounds once, or None; 1,000 clips have 250 MB ground truth."""
    known = clip_table(clips)
    known = known[known["source"]]
    scenes = [list(rows) for rows in known.groupby("scene", sort=False).groups.values() if len(rows) == 2]
    rows = np.array(scenes[: max_clips // 2], dtype=int).reshape(-1)
    if not len(rows):
        return None
    ids = [clips.ids[row] for row in rows]
    return SoundSwap(ids, rows, known.loc[rows, "recording"].tolist(), load_ground_truth(clips._replace(ids=ids)))
