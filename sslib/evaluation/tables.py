"""From ``clips.csv`` to the tables of all protocols: of every list and part, by area and by class; and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sslib.config import Evaluation
from sslib.evaluation import results
from sslib.evaluation.names import LOWER_IS_BETTER, PROTOCOLS
from sslib.evaluation.results import Row


def read(path: Path) -> pd.DataFrame:
    """``clips.csv`` as it was written (a class may be called NA)."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def summarize(clips: pd.DataFrame, evaluation: Evaluation, seed: int = 0) -> dict[str, list[Row]]:
    """``tables``, ``differences`` of the model to each control, and ``verdicts`` of all protocols.

    Single classes get no differences: among so many with so few clips some would stand out by chance.
    """
    rows: list[Row] = []
    for (split, part), group in clips.groupby(["split", "part"], sort=False):
        frames = results.by_method(group)
        for protocol, found in results.of_protocols(frames, evaluation, seed):
            rows += [{"protocol": protocol, "split": split, "part": part} | row for row in found]
    for protocol, column in (("area", "area_group"), ("class", "class")):
        for (split, part), group in _groups(clips, column):
            own = results.hearing(results.by_method(group))
            found = results.means(own, PROTOCOLS[protocol], evaluation, seed, against=protocol == "area")
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
    if gain["clusters"] < 2:  # resampling one recording always gives it back: an interval of no width says nothing
        better = worse = False
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
