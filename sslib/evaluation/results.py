"""Rows of the tables of each protocol, for the clips of one part of a list: values, controls, paired differences.

Everything is computed from the rows of ``clips.csv`` alone. Intervals resample recordings; every method and measure
sees the same draws, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from sslib import metrics
from sslib.config import Evaluation
from sslib.evaluation import bootstrap as intervals
from sslib.evaluation import detection, protocols
from sslib.evaluation.names import CONTROLS, METHODS, MODEL, NEGATIVES, PROTOCOLS
from sslib.heatmaps import WORKERS

Frames = dict[tuple[str, str], pd.DataFrame]  # (map, sound) -> one row a clip, all in the same order
Columns = dict[tuple[str, str], np.ndarray]  # (method, measure) -> values
Row = dict[str, Any]


def by_method(group: pd.DataFrame) -> Frames:
    """Rows of ``clips.csv`` by kind of map and sound, one a clip."""
    frames = {key: rows.set_index("clip_id") for key, rows in group.groupby(["map", "sound"], sort=False)}
    order = next(iter(frames.values())).index
    return {key: rows if rows.index.equals(order) else rows.loc[order] for key, rows in frames.items()}


def hearing(frames: Frames) -> dict[str, pd.DataFrame]:
    """The methods of a table, without the rows of negative sounds."""
    return {METHODS[key]: rows for key, rows in frames.items() if key[1] not in NEGATIVES}


def of_protocols(frames: Frames, evaluation: Evaluation, seed: int) -> Iterator[tuple[str, list[Row]]]:
    """Rows of every protocol that these clips allow."""
    own = hearing(frames)
    for protocol in ("localization", "masks", "retrieval"):
        yield protocol, means(own, PROTOCOLS[protocol], evaluation, seed)
    yield "detection", _detection(frames, evaluation, seed)
    yield "universal", _universal(frames, evaluation, seed)
    yield "interaction", _interaction(own, evaluation, seed)


# Means of what single clips have --------------------------------------------------------------------------------------


def means(
    own: dict[str, pd.DataFrame], measures: Iterable[str], evaluation: Evaluation, seed: int, against: bool = True
) -> list[Row]:
    """Means over clips of columns that the methods' rows have, and the model's paired differences to its controls."""
    first = next(iter(own.values()))
    columns = {
        (method, measure): rows[measure].to_numpy(dtype=np.float64)
        for method, rows in own.items()
        for measure in measures
        if measure in rows and not rows[measure].isna().all()
    }
    recordings = first["recording"].astype(str).to_numpy()
    return _with_differences(
        columns,
        lambda values: intervals.bootstrap_table(values, recordings, evaluation.resamples, evaluation.confidence, seed),
        against,
    )


def _with_differences(
    columns: Columns, bootstrap: Callable[[np.ndarray], list[intervals.Interval]], against: bool = True
) -> list[Row]:
    """Rows of a table and of the model's differences to its controls, from columns of values and their intervals."""
    gains = {
        (control, measure): columns[MODEL, measure] - values
        for (control, measure), values in columns.items()
        if against and control in CONTROLS and (MODEL, measure) in columns
    }
    if not columns:
        return []
    found = bootstrap(np.column_stack([*columns.values(), *gains.values()]))
    names = [*(("method", *key) for key in columns), *(("control", *key) for key in gains)]
    return [_row(*name, interval) for name, interval in zip(names, found, strict=True) if interval.clips]


def _row(role: str, method: str, measure: str, interval: intervals.Interval) -> Row:
    """`role` is ``method`` for a value and ``control`` for a difference to that method."""
    return {role: method, "measure": measure} | interval._asdict()


# Clips without a visible source ---------------------------------------------------------------------------------------


def native(frames: Frames) -> bool:
    """Whether some of these clips have no visible source by their annotation: then these are detection's negatives."""
    return bool((~next(rows for key, rows in frames.items() if key[1] in ("own", "none"))["source"]).any())


def _detection(frames: Frames, evaluation: Evaluation, seed: int) -> list[Row]:
    """AP, max-F1, LocAcc with the clips without a source as negatives; where a list has none, off-screen sounds."""
    units = {METHODS[key]: found for key in frames if (found := _units(frames, key)) is not None}
    if MODEL not in units:
        return []
    statistics = {name: detection.detection_statistic(*found[:3]) for name, found in units.items()}
    against = [name for name in units if name in CONTROLS]

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = dict(zip(statistics, pool.map(lambda one: one(weights), statistics.values()), strict=True))
        return np.concatenate([*found.values(), *(found[MODEL] - found[name] for name in against)], axis=1)

    settings = (evaluation.resamples, evaluation.confidence, seed)
    with ThreadPoolExecutor(WORKERS) as pool:
        found = iter(intervals.bootstrap_weighted(statistic, units[MODEL][3], *settings))
    roles = [*(("method", name) for name in units), *(("control", name) for name in against)]
    rows = [_row(*role, measure, next(found)) for role in roles for measure in PROTOCOLS["detection"]]
    return [row for row in rows if np.isfinite(row["value"])]


def _units(frames: Frames, key: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Confidence, whether there is a source, cIoU and recording of what detection counts under one method."""
    rows = frames[key]
    if key[1] in NEGATIVES or ("similarity", "own") not in frames or rows["confidence"].isna().all():
        return None
    positives = rows[rows["source"] & frames["similarity", "own"]["ciou"].notna()]
    if native(frames):
        negatives = rows[~rows["source"]]
    elif ("similarity", "offscreen") not in frames:
        return None
    elif key[1] == "none":  # what does not hear says of an off-screen sound what it says of any
        negatives = rows.assign(confidence=0.0) if key[0] == "oracle" else rows
    elif (key[0], "offscreen") in frames:
        negatives = frames[key[0], "offscreen"]
    else:
        return None
    positive = np.arange(len(positives) + len(negatives)) < len(positives)
    both = pd.concat([positives[["confidence", "ciou", "recording"]], negatives[["confidence", "ciou", "recording"]]])
    ciou = np.where(positive, both["ciou"].to_numpy(float), np.nan)
    return both["confidence"].to_numpy(float), positive, ciou, both["recording"].astype(str).to_numpy()


def _universal(frames: Frames, evaluation: Evaluation, seed: int) -> list[Row]:
    """pIA and AOC of each kind of negative, and F_LOC and F_AUC of all with the positives at the same threshold."""
    kinds = [name for name in NEGATIVES if ("similarity", name) in frames]
    own = {}
    for key, rows in frames.items():
        if key[1] not in NEGATIVES and "pia" in rows:
            own[METHODS[key]] = rows.assign(**_shares(frames, key, kinds))
    if MODEL not in own:
        return []
    # Shuffling the sounds of positives leaves the negatives as they are: only F is another one.
    single = {method: rows for method, rows in own.items() if method != METHODS["similarity", "shuffled"]}
    found = means(single, [name for name in PROTOCOLS["universal"] if name[:2] != "f_"], evaluation, seed)
    return [*_harmonic(own, evaluation, seed), *found]


def _shares(frames: Frames, key: tuple[str, str], kinds: list[str]) -> dict[str, np.ndarray]:
    """Columns ``pia…`` and ``aoc…`` of each clip: of each kind of negative, and their mean."""
    rows, columns = frames[key], {}
    for kind in kinds:
        negative = rows if key[1] == "none" else frames.get((key[0], kind))
        columns[f"_{kind}"] = np.full(len(rows), np.nan) if negative is None else negative["pia"].to_numpy(float)
    columns["_native"] = np.where(rows["source"], np.nan, rows["pia"].to_numpy(float))
    passed = {suffix: protocols.aoc_share(values) for suffix, values in columns.items()}
    columns[""], passed[""] = _mean_of(columns), _mean_of(passed)
    return {f"pia{name}": values for name, values in columns.items()} | {
        f"aoc{name}": values for name, values in passed.items()
    }


def _mean_of(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Mean of what each clip has; NaN where it has nothing."""
    values = np.stack(list(columns.values()))
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _harmonic(own: dict[str, pd.DataFrame], evaluation: Evaluation, seed: int) -> list[Row]:
    rows = []
    settings = (evaluation.resamples, evaluation.confidence, seed)
    recordings = own[MODEL]["recording"].astype(str).to_numpy()
    for measure, function, names in (
        ("f_loc", protocols.f_loc, ("success_fixed", "pia")),
        ("f_auc", protocols.f_auc, ("auc_fixed", "aoc")),
    ):
        columns = {method: [table[name].to_numpy(float) for name in names] for method, table in own.items()}
        usable = {m: c for m, c in columns.items() if not any(np.isnan(column).all() for column in c)}
        for method, pair in usable.items():
            rows.append(
                _row("method", method, measure, intervals.bootstrap_means(function, pair, recordings, *settings))
            )
        for control in CONTROLS:
            if control in usable and MODEL in usable:

                def gain(a, b, c, d, function=function):
                    return function(a, b) - function(c, d)

                four = [*usable[MODEL], *usable[control]]
                rows.append(
                    _row("control", control, measure, intervals.bootstrap_means(gain, four, recordings, *settings))
                )
    return rows


# Scenes in which one object after the other sounds --------------------------------------------------------------------


def _interaction(own: dict[str, pd.DataFrame], evaluation: Evaluation, seed: int) -> list[Row]:
    """IIoU and IAUC over the scenes all of whose objects sound in turn.

    A scene has a recording for each of its sounds. A resample of recordings counts it as often as the product of how
    often these were drawn (Owen 2007), since it depends on each of them.
    """
    first = next(iter(own.values()))
    scenes = first["scene"].astype(str).to_numpy()
    complete = _complete(scenes, first["objects"].to_numpy(float))
    columns: Columns = {}
    for method, rows in own.items():
        for suffix in ("", "_adaptive"):
            if f"ciou{suffix}" not in rows or rows[f"ciou{suffix}"].isna().all():
                continue
            value = np.where(complete, protocols.iiou(rows[f"ciou{suffix}"].to_numpy(float), scenes).value, np.nan)
            columns[method, f"iiou{suffix}"] = np.where(np.isnan(value), np.nan, value >= 0.5)
            columns[method, f"iauc{suffix}"] = metrics.auc_share(value)
    if not columns or not any(np.isfinite(values).any() for values in columns.values()):
        return []
    units = pd.DataFrame({"scene": scenes, "recording": first["recording"].astype(str).to_numpy()})

    def bootstrap(values: np.ndarray) -> list[intervals.Interval]:
        return _over_scenes(values, units, evaluation, seed)

    return _with_differences(columns, bootstrap)


def _complete(scenes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Whether each scene (sorted by name) has more than one clip, and as many as it has objects where that is known."""
    _, start, count = np.unique(scenes, return_index=True, return_counts=True)
    return (count > 1) & (np.isnan(objects[start]) | (objects[start] == count))


def _over_scenes(
    values: np.ndarray, units: pd.DataFrame, evaluation: Evaluation, seed: int
) -> list[intervals.Interval]:
    """Means of the columns of `values`, one row a scene (sorted by name), with intervals over recordings."""
    used = ~np.isnan(values).all(axis=1)
    names = np.unique(units["scene"])[used]
    units = units[units["scene"].isin(names)].drop_duplicates().sort_values("scene", kind="stable")
    starts = np.unique(units["scene"], return_index=True)[1]
    values = values[used]
    known = ~np.isnan(values)
    filled, known = np.where(known, values, 0), known.astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = np.multiply.reduceat(weights.astype(np.float64), starts, axis=1)
        total, count = drawn @ filled, drawn @ known
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    recordings = units["recording"].to_numpy()
    found = intervals.bootstrap_weighted(statistic, recordings, evaluation.resamples, evaluation.confidence, seed)
    return [one._replace(clips=int(count)) for one, count in zip(found, known.sum(axis=0), strict=True)]
