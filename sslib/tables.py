"""From ``clips.csv`` to the tables of each protocol: means with intervals, controls, paired differences, verdicts.

Everything is computed from the rows of the clips alone. Intervals resample recordings; every method and measure of a
part of a list sees the same draws, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sslib import detection, intervals, metrics, protocols
from sslib.config import Evaluation
from sslib.measures import METHODS, recall_names
from sslib.negatives import NEGATIVES

_KINDS = {"": "all negatives", **{f"_{name}": name for name in NEGATIVES}, "_native": "clips without a source"}
_THRESHOLDS = {"": "median", "_top_half": "top half", "_fixed": "universal", "_adaptive": "adaptive"}
_DIRECTIONS = {"image_to_sound": "image to sound", "sound_to_image": "sound to image"}
_LOCALIZATION = {
    f"{measure}{suffix}": f"{label}, {name} threshold"
    for suffix, name in _THRESHOLDS.items()
    for measure, label in (("success", "success rate at 0.5"), ("auc", "AUC"))
}
_MASKS = {
    "pointing": "pointing accuracy",
    "miou": "mean IoU, adaptive threshold",
    "miou_half": "mean IoU, threshold 0.5 of the scaled map",
    "f": "F (β² = 0.3)",
}
_GROUPED = {
    name: (_LOCALIZATION | _MASKS)[name]
    for name in ("pointing", "miou", "success", "auc", "success_adaptive", "auc_adaptive")
}
PROTOCOLS: dict[str, dict[str, str]] = {
    "localization": _LOCALIZATION,
    "masks": _MASKS,
    "detection": {"ap": "AP", "max_f1": "max-F1", "loc_acc": "LocAcc"},
    "universal": {
        "f_loc": "F_LOC",
        "f_auc": "F_AUC",
        **{f"pia{suffix}": f"pIA, {name}" for suffix, name in _KINDS.items()},
        **{f"aoc{suffix}": f"AOC, {name}" for suffix, name in _KINDS.items()},
    },
    "interaction": {
        "iiou": "IIoU, median threshold",
        "iauc": "IAUC, median threshold",
        "iiou_adaptive": "IIoU, adaptive threshold",
        "iauc_adaptive": "IAUC, adaptive threshold",
    },
    "retrieval": {
        name: f"R@{k}, {_DIRECTIONS[direction]}{', of the class' if of_class else ''}"
        for name, of_class, direction, k in recall_names()
    },
    "area": _GROUPED,
    "class": _GROUPED,
}
MEASURES = {measure: label for measures in PROTOCOLS.values() for measure, label in measures.items()}
LOWER_IS_BETTER = tuple(f"pia{suffix}" for suffix in _KINDS)
MODEL = "model"
# What knows less than the model: a result has to differ from all of them.
CONTROLS = tuple(
    METHODS[key]
    for key in (
        ("similarity", "shuffled"),
        ("visual_only", "none"),
        ("visual_only_mean", "none"),
        ("untrained", "own"),
        ("centre_square", "none"),
        ("whole_image", "none"),
        ("random_order", "none"),
    )
)
Frames = dict[tuple[str, str], pd.DataFrame]  # (map, sound) -> one row a clip, all in the same order
Columns = dict[tuple[str, str], np.ndarray]  # (method, measure) -> values
Row = dict[str, Any]


def read(path: Any) -> pd.DataFrame:
    """``clips.csv`` as it was written (a class may be called NA)."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def summarize(clips: pd.DataFrame, evaluation: Evaluation, seed: int = 0) -> dict[str, list[Row]]:
    """``tables``, ``differences`` of the model to each control, and ``verdicts`` of all protocols."""
    rows: list[Row] = []
    for (split, part), group in clips.groupby(["split", "part"], sort=False):
        frames = _frames(group)
        for protocol, found in _protocols(frames, evaluation, seed):
            rows += [{"protocol": protocol, "split": split, "part": part} | row for row in found]
    for protocol, column in (("area", "area_group"), ("class", "class")):
        for (split, part), group in _groups(clips, column):
            found = _means(_own(_frames(group)), PROTOCOLS[protocol], evaluation, seed)
            rows += [{"protocol": protocol, "split": split, "part": part} | row for row in found]
    tables = [row for row in rows if "method" in row]
    differences = [row for row in rows if "control" in row]
    return {"tables": tables, "differences": differences, "verdicts": list(verdicts(tables, differences))}


def _groups(clips: pd.DataFrame, column: str) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Parts of each list by area (in order of size) or class; where there is only one there is nothing to compare."""
    order = ["small", "medium", "large", "huge"]
    for split, rows in clips.groupby("split", sort=False):
        names = sorted(set(rows[column].dropna()) - {"", "empty"}, key=lambda n: order.index(n) if n in order else n)
        for name in names if len(names) > 1 else ():
            yield (split, name), rows[rows[column] == name]


def _frames(group: pd.DataFrame) -> Frames:
    frames = {key: rows.set_index("clip_id") for key, rows in group.groupby(["map", "sound"], sort=False)}
    order = next(iter(frames.values())).index
    return {key: rows.loc[order] for key, rows in frames.items()}


def _own(frames: Frames) -> dict[str, pd.DataFrame]:
    """The methods of a table, without the rows of negative sounds."""
    return {METHODS[key]: rows for key, rows in frames.items() if key[1] not in NEGATIVES}


def _protocols(frames: Frames, evaluation: Evaluation, seed: int) -> Iterator[tuple[str, list[Row]]]:
    """Rows of every protocol that these clips allow."""
    own = _own(frames)
    for protocol in ("localization", "masks", "retrieval"):
        yield protocol, _means(own, PROTOCOLS[protocol], evaluation, seed)
    yield "detection", _detection(frames, evaluation, seed)
    yield "universal", _universal(frames, evaluation, seed)
    yield "interaction", _interaction(own, evaluation, seed)


# Means of what single clips have --------------------------------------------------------------------------------------


def _means(own: dict[str, pd.DataFrame], measures: Iterable[str], evaluation: Evaluation, seed: int) -> list[Row]:
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
    )


def _with_differences(columns: Columns, bootstrap: Callable[[np.ndarray], list[intervals.Interval]]) -> list[Row]:
    """Rows of a table and of the model's differences to its controls, from columns of values and their intervals."""
    gains = {
        (control, measure): columns[MODEL, measure] - values
        for (control, measure), values in columns.items()
        if control in CONTROLS and (MODEL, measure) in columns
    }
    if not columns:
        return []
    found = bootstrap(np.column_stack([*columns.values(), *gains.values()]))
    names = [*(("method", *key) for key in columns), *(("control", *key) for key in gains)]
    return [_row(*name, interval) for name, interval in zip(names, found, strict=True) if interval.clips]


def _row(role: str, method: str, measure: str, interval: intervals.Interval) -> Row:
    return {role: method, "measure": measure} | interval._asdict()


# Clips without a visible source ---------------------------------------------------------------------------------------


def native(frames: Frames) -> bool:
    """Whether some of these clips have no visible source by their annotation: then these are detection's negatives."""
    return bool((~next(rows for key, rows in frames.items() if key[1] in ("own", "none"))["source"]).any())


def _detection(frames: Frames, evaluation: Evaluation, seed: int) -> list[Row]:
    """AP, max-F1, LocAcc with the clips without a source as negatives; where a list has none, off-screen sounds."""
    reference = frames.get(("similarity", "own"))
    if reference is None or not (native(frames) or ("similarity", "offscreen") in frames):
        return []
    statistics, names, clusters = [], [], None
    for key, rows in frames.items():
        if key[1] in NEGATIVES or "confidence" not in rows or rows["confidence"].isna().all():
            continue
        sure = _units(frames, key)
        if sure is not None:
            score, positive, ciou, recordings = sure
            statistics.append(detection.detection_statistic(score, positive, ciou))
            names.append(METHODS[key])
            clusters = recordings
    if clusters is None or MODEL not in names:
        return []

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = [one(weights) for one in statistics]
        return np.concatenate([*found, *(found[names.index(MODEL)] - found[at] for at in against)], axis=1)

    against = [at for at, name in enumerate(names) if name in CONTROLS]
    found = iter(intervals.bootstrap_weighted(statistic, clusters, evaluation.resamples, evaluation.confidence, seed))
    roles = [*(("method", name) for name in names), *(("control", names[at]) for at in against)]
    rows = [_row(*role, measure, next(found)) for role in roles for measure in PROTOCOLS["detection"]]
    return [row for row in rows if np.isfinite(row["value"])]


def _units(frames: Frames, key: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Confidence, whether there is a source, cIoU and recording of what detection counts under one method."""
    rows = frames[key]
    positives = rows[rows["source"] & frames["similarity", "own"]["ciou"].notna()]
    if native(frames):
        negatives = rows[~rows["source"]]
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
    found = _means(single, [name for name in PROTOCOLS["universal"] if name[:2] != "f_"], evaluation, seed)
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


# What may be said -----------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """The model against the control that does best."""

    control: str
    control_value: float
    value: float  # model minus control
    low: float
    high: float
    clear: bool  # better than its best control, by an interval that excludes 0
    text: str


def verdict(tables: list[Row], differences: list[Row], **place: str) -> Verdict | None:
    """How the model stands to its best control: the one with the best mean in the same table.

    Parameters
    ----------
    place : ``protocol``, ``split``, ``part`` and ``measure``.

    Returns
    -------
    None where there is no control. The interval is that of the paired difference.
    """
    sign = -1 if place["measure"] in LOWER_IS_BETTER else 1
    gains = {row["control"]: row for row in differences if _matches(row, place)}
    values = {row["method"]: row["value"] for row in tables if _matches(row, place) and row["method"] in gains}
    if not values:
        return None
    control = max(values, key=lambda name: sign * values[name])
    gain = gains[control]
    low, high = gain["low"], gain["high"]
    better, worse = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    said = "better than" if better else "worse than" if worse else "not distinguishable from"
    text = f"{said} its best control ({control})"
    return Verdict(control, values[control], gain["value"], low, high, bool(better), text)


def _matches(row: Row, place: dict[str, str]) -> bool:
    return all(row[key] == value for key, value in place.items())


def verdicts(tables: list[Row], differences: list[Row]) -> Iterator[Row]:
    """A verdict on every result of the model that has a control."""
    groups: dict[tuple, tuple[list[Row], list[Row]]] = {}
    for index, rows in enumerate((tables, differences)):
        for row in rows:
            key = (row["protocol"], row["split"], row["part"], row["measure"])
            groups.setdefault(key, ([], []))[index].append(row)
    for key, group in groups.items():
        place = dict(zip(("protocol", "split", "part", "measure"), key, strict=True))
        if said := verdict(*group, **place):
            yield place | said._asdict()
