"""Tables of every protocol from the rows of ``clips.csv`` alone: values, and the model's differences to its controls.

Intervals resample recordings; every method and measure sees the same draws, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sslib import metrics
from sslib.config import Evaluation
from sslib.evaluation import protocols
from sslib.evaluation.bootstrap import Interval, Statistic, bootstrap_means, bootstrap_statistic, means
from sslib.evaluation.measures import CLIP_MEASURES, METHODS, MODEL, NEGATIVES, Measure

CONTROLS = (  # what knows less than the model: a result has to differ from all of them
    "model, shuffled sounds", "visual-only (foreground nodes)", "visual-only (all nodes)", "untrained weights",
    "centre square", "whole image", "random order",
)  # fmt: skip

# What a measure of negatives is over, by the end of its key.
SILENT = {"": "all negatives", **{f"_{kind}": kind for kind in NEGATIVES}, "_native": "clips without a source"}
MEASURES = {
    measure.key: measure
    for measure in (
        *CLIP_MEASURES,
        Measure("ap", "AP", "detection"),
        Measure("max_f1", "max-F1", "detection"),
        Measure("loc_acc", "LocAcc", "detection"),
        Measure("f_loc", "F-LOC", "universal"),
        Measure("f_auc", "F-AUC", "universal"),
        *(Measure(f"pia{end}", f"pIA, {of}", "universal", higher_is_better=False) for end, of in SILENT.items()),
        *(Measure(f"aoc{end}", f"AOC, {of}", "universal") for end, of in SILENT.items()),
        Measure("iiou", "IIoU, median threshold", "interaction"),
        Measure("iauc", "IAUC, median threshold", "interaction"),
        Measure("iiou_adaptive", "IIoU, adaptive threshold", "interaction"),
        Measure("iauc_adaptive", "IAUC, adaptive threshold", "interaction"),
        *(
            Measure(f"{start}r{k}_{direction}", f"R@{k}, {direction.replace('_', ' ')}{right}", "retrieval")
            for start, right in (("", ""), ("class_", ", of the class"))
            for direction in ("image_to_audio", "audio_to_image")
            for k in (1, 5, 10)
        ),
    )
}
GROUPED = ("pointing", "miou", "success", "auc", "success_adaptive", "auc_adaptive")  # measures by area and by class
PROTOCOLS: dict[str, dict[str, str]] = {  # protocol -> key of a measure -> label
    **{name: {m.key: m.label for m in MEASURES.values() if m.protocol == name}
       for name in ("localization", "masks", "detection", "universal", "interaction", "retrieval")},
    **{name: {key: MEASURES[key].label for key in GROUPED} for name in ("area", "class")},
}  # fmt: skip


Row = dict[str, Any]
Frames = dict[tuple[str, str], pd.DataFrame]  # (map_kind, condition) -> one row a clip, all in the same order
Tables = dict[str, pd.DataFrame]  # method -> one row a clip
Columns = dict[tuple[str, str], np.ndarray]  # (method, measure) -> values
Settings = tuple[int, float, int]  # resamples, confidence, seed


def summarize(clips: pd.DataFrame, evaluation: Evaluation, seed: int = 0) -> dict[str, list[Row]]:
    """Compute ``tables`` and ``differences`` of the model to each control, of all protocols.

    Single classes get no differences: among so many with so few clips some would stand out by chance.
    """
    settings: Settings = (evaluation.resamples, evaluation.confidence, seed)
    rows: list[Row] = []
    for (split, subset), group in clips.groupby(["split", "subset"], sort=False):
        for protocol, found in Subset.of(group, settings).protocols():
            rows += [{"protocol": protocol, "split": split, "subset": subset} | row for row in found]
    for protocol, column in (("area", "area_group"), ("class", "class")):
        for (split, subset), group in _groups(clips, column):
            found = Subset.of(group, settings).means(GROUPED, differences=protocol == "area")
            rows += [{"protocol": protocol, "split": split, "subset": subset} | row for row in found]
    return {"tables": [r for r in rows if "method" in r], "differences": [r for r in rows if "control" in r]}


def _groups(clips: pd.DataFrame, column: str) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Divide each list by area (in order of size) or class; where there is only one there is nothing to compare."""
    order = {"small": "1", "medium": "2", "large": "3", "huge": "4"}
    for split, rows in clips.groupby("split", sort=False):
        names = sorted(set(rows[column].dropna()) - {"", "empty"}, key=lambda name: order.get(name, name))
        for name in names if len(names) > 1 else ():
            yield (split, name), rows[rows[column] == name]


@dataclass(frozen=True)
class Subset:
    """The rows of some clips under every method, and how their intervals are drawn."""

    frames: Frames
    settings: Settings

    @classmethod
    def of(cls, clips: pd.DataFrame, settings: Settings) -> Subset:
        """Divide rows of ``clips.csv`` by kind of map and condition, the clips of each in the same order."""
        frames = {key: rows.set_index("clip_id") for key, rows in clips.groupby(["map_kind", "condition"], sort=False)}
        order = next(iter(frames.values())).index
        return cls({k: rows if rows.index.equals(order) else rows.loc[order] for k, rows in frames.items()}, settings)

    @property
    def methods(self) -> Tables:
        """The methods of a table, without the rows of negative sounds."""
        return {METHODS[key]: rows for key, rows in self.frames.items() if key[1] not in NEGATIVES}

    @property
    def clips(self) -> pd.DataFrame:
        """What does not depend on the method, for each clip: recording, scene, objects, source."""
        return next(rows for key, rows in self.frames.items() if key[1] not in NEGATIVES)

    @property
    def recordings(self) -> np.ndarray:
        """What is independent, for each clip."""
        return self.clips["recording"].astype(str).to_numpy()

    def protocols(self) -> Iterator[tuple[str, list[Row]]]:
        """Compute the rows of every protocol that these clips allow."""
        for protocol in ("localization", "masks", "retrieval"):
            yield protocol, self.means(PROTOCOLS[protocol])
        yield "detection", self.detection()
        yield "universal", self.universal()
        yield "interaction", self.interaction()

    def means(self, measures: Iterable[str], differences: bool = True, methods: Tables | None = None) -> list[Row]:
        """Average columns that the rows of the methods (of all, or these) have over clips."""
        columns = {(method, measure): rows[measure].to_numpy(dtype=np.float64)
                   for method, rows in (methods or self.methods).items()
                   for measure in measures if measure in rows}  # fmt: skip
        return mean_rows(columns, lambda values: bootstrap_means(values, self.recordings, *self.settings), differences)

    def detection(self) -> list[Row]:
        """Compute AP, max-F1, LocAcc; negatives are clips without a source, in lists without any off-screen sounds."""
        found = {METHODS[key]: one for key in self.frames if (one := self._detection(key))}
        if MODEL not in found:
            return []
        with ThreadPoolExecutor(metrics.WORKERS) as pool:

            def statistic(weights: np.ndarray) -> np.ndarray:
                return np.stack([*pool.map(lambda one: one[0](weights), found.values())], axis=1)

            return _statistic_rows(statistic, [*found], PROTOCOLS["detection"], found[MODEL][1], self.settings)

    def _detection(self, key: tuple[str, str]) -> tuple[Statistic, np.ndarray] | None:
        """Make the statistic of clips with a source and of negatives under one method, with their recordings."""
        rows, own = self.frames[key], self.frames.get(("similarity", "own"))
        if key[1] in NEGATIVES or own is None or rows["confidence"].isna().all():
            return None
        negatives = self.frames.get((key[0], "offscreen"))
        if not rows["source"].all():  # annotated negatives
            negatives = rows[~rows["source"]]
        elif key[1] == "none" and ("similarity", "offscreen") in self.frames:
            # What does not hear says of an off-screen sound what it says of any.
            negatives = rows.assign(confidence=0.0) if key[0] == "oracle" else rows
        if negatives is None:
            return None
        positives = rows[rows["source"] & own["ciou"].notna()]
        both = pd.concat([positives, negatives])
        positive = np.arange(len(both)) < len(positives)
        ciou = np.where(positive, both["ciou"].to_numpy(float), np.nan)
        statistic = protocols.detection_statistic(both["confidence"].to_numpy(float), positive, ciou)
        return statistic, both["recording"].astype(str).to_numpy()

    def universal(self) -> list[Row]:
        """Compute pIA and AOC of each kind of negative, F_LOC and F_AUC of all with the positives at one threshold."""
        shares = {METHODS[key]: rows.assign(**self._negative_shares(key))
                  for key, rows in self.frames.items() if key[1] not in NEGATIVES and "pia" in rows}  # fmt: skip
        if MODEL not in shares:
            return []
        success, pia, auc, aoc = (
            means(np.stack([rows[column].to_numpy(float) for rows in shares.values()], axis=1))
            for column in ("success_fixed", "pia", "auc_fixed", "aoc")
        )

        def harmonic(weights: np.ndarray) -> np.ndarray:
            both = protocols.f_loc(success(weights), pia(weights)), protocols.f_auc(auc(weights), aoc(weights))
            return np.stack(both, axis=2)

        found = _statistic_rows(harmonic, [*shares], ("f_loc", "f_auc"), self.recordings, self.settings)
        # Shuffling the sounds of positives leaves the negatives as they are: only F is another one.
        shares.pop("model, shuffled sounds", None)
        return found + self.means(PROTOCOLS["universal"], methods=shares)

    def _negative_shares(self, key: tuple[str, str]) -> dict[str, np.ndarray]:
        """Make the columns ``pia…`` and ``aoc…``: of each kind of negative, and their mean."""
        rows, pia = self.frames[key], {}
        for kind in NEGATIVES:
            if ("similarity", kind) in self.frames:
                negative = rows if key[1] == "none" else self.frames.get((key[0], kind))
                pia[f"_{kind}"] = np.full(len(rows), np.nan) if negative is None else negative["pia"].to_numpy(float)
        pia["_native"] = np.where(rows["source"], np.nan, rows["pia"].to_numpy(float))
        aoc = {suffix: protocols.aoc_per_clip(values) for suffix, values in pia.items()}
        pia[""], aoc[""] = (pd.DataFrame(found).mean(axis=1).to_numpy() for found in (pia, aoc))  # of what there is
        return {f"pia{name}": found for name, found in pia.items()} | {f"aoc{k}": found for k, found in aoc.items()}

    def interaction(self) -> list[Row]:
        """Compute IIoU and IAUC over the scenes all of whose objects sound in turn."""
        columns = {(method, measure): values
                   for method, rows in self.methods.items()
                   for measure, values in interaction_columns(rows, self.clips).items()}  # fmt: skip
        units = self.clips[["scene", "recording"]].astype(str)
        return mean_rows(columns, lambda values: over_scenes(values, units, self.settings))


def interaction_columns(rows: pd.DataFrame, clips: pd.DataFrame) -> dict[str, np.ndarray]:
    """Compute IIoU and IAUC of each scene, sorted by name; NaN where not all of its objects sound in turn.

    `rows` has the cIoU of each clip under one method, `clips` its scene and number of objects.
    """
    scenes, objects = clips["scene"].astype(str).to_numpy(), clips["objects"].to_numpy(float)
    _, start, count = np.unique(scenes, return_index=True, return_counts=True)
    complete, columns = (count > 1) & (np.isnan(objects[start]) | (objects[start] == count)), {}
    for suffix in ("", "_adaptive"):
        least = np.where(complete, protocols.iiou(rows[f"ciou{suffix}"].to_numpy(float), scenes), np.nan)
        columns[f"iiou{suffix}"] = np.where(np.isnan(least), np.nan, least >= 0.5)
        columns[f"iauc{suffix}"] = metrics.auc_per_clip(least)
    return columns


def over_scenes(values: np.ndarray, units: pd.DataFrame, settings: Settings) -> list[Interval]:
    """Average K columns of M scenes (sorted by name), `values` (M, K), or (S, M, K) of S training seeds.

    A scene has a recording for each of its sounds: `units` holds both of every clip. A resample of recordings counts it
    as often as the product of how often these were drawn (Owen 2007), since it depends on each of them.
    """
    values = np.reshape(values, (-1, *values.shape[-2:]))
    known = ~np.isnan(values).any(axis=0)
    used = known.any(axis=1)
    units = units[units["scene"].isin(np.unique(units["scene"])[used])]
    units = units.drop_duplicates().sort_values("scene", kind="stable")
    starts = np.unique(units["scene"], return_index=True)[1]
    mean = means(np.where(known, values, np.nan)[:, used].reshape(-1, values.shape[2]))

    def scenes(weights: np.ndarray) -> np.ndarray:
        return np.multiply.reduceat(weights.astype(np.float64), starts, axis=1)

    found = bootstrap_statistic(mean, units["recording"].to_numpy(), *settings, seeds=len(values), units=scenes)
    return [one._replace(clips=int(count)) for one, count in zip(found, known.sum(axis=0), strict=True)]


def mean_rows(columns: Columns, bootstrap: Callable[[np.ndarray], list[Interval]], differences=True) -> list[Row]:
    """Make rows of columns of values, and of the model's differences to its controls, clip by clip."""
    columns = {key: values for key, values in columns.items() if not np.isnan(values).all()}
    gains = {
        (control, measure): columns[MODEL, measure] - values
        for (control, measure), values in columns.items()
        if differences and control in CONTROLS and (MODEL, measure) in columns
    }
    if not columns:
        return []
    names = [*(("method", *key) for key in columns), *(("control", *key) for key in gains)]
    return _rows(names, bootstrap(np.column_stack([*columns.values(), *gains.values()])))


def _statistic_rows(
    statistic: Statistic, methods: list[str], measures: Iterable[str], recordings: np.ndarray, settings: Settings
) -> list[Row]:
    """Make rows of a statistic (R, methods, measures), and of the model's differences to its controls."""
    controls = [method for method in methods if method in CONTROLS]
    others = [methods.index(control) for control in controls]

    def with_differences(weights: np.ndarray) -> np.ndarray:
        found = statistic(weights)
        gains = found[:, [methods.index(MODEL)]] - found[:, others]
        return np.concatenate([found, gains], axis=1).reshape(len(found), -1)

    roles = [*(("method", name) for name in methods), *(("control", name) for name in controls)]
    names = [(*role, measure) for role in roles for measure in measures]
    return _rows(names, bootstrap_statistic(with_differences, recordings, *settings))


def _rows(names: list[tuple[str, str, str]], intervals: list[Interval]) -> list[Row]:
    """Name what has a value by role (``method``, or ``control`` of a difference to it), method and measure."""
    named = zip(names, intervals, strict=True)
    return [{role: name, "measure": key} | one._asdict() for (role, name, key), one in named if np.isfinite(one.value)]
