"""Results held against each other: a model against its controls, and finished runs side by side, clip by clip.

Runs that differ in nothing but the seed are one configuration; its seeds are a second level beside the recordings
(:func:`sslib.evaluation.bootstrap.bootstrap_statistic`). The first configuration is what the others are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sslib import checkpoint
from sslib.config import Config, Evaluation, InputError, resolve, root_for
from sslib.evaluation.bootstrap import Interval, bootstrap_means
from sslib.evaluation.tables import MEASURES, PROTOCOLS, Row

FEWEST_RECORDINGS = 10  # that a verdict may rest on; with fewer it is
TOO_FEW = "too few recordings for a verdict"
FORMAT = 2  # of summary.json and clips.csv: other columns and keys make another number
COMPARED = [measure for protocol in ("localization", "masks", "retrieval") for measure in PROTOCOLS[protocol]]
KEYS = ["split", "subset", "clip_id"]
TABLE_KEY = ("protocol", "split", "subset", "measure")


class ResultsError(InputError):
    """Results that cannot be used; the message names the folder and says what to do."""


def read_summary(run: Path) -> dict[str, Any]:
    """Read ``summary.json`` of an evaluated run.

    Raises ``ResultsError`` when there is none, and when another version of sslib wrote it.
    """
    path = run / "summary.json"
    if not path.is_file():
        inside = f"give {run / 'run'}" if (run / "run" / "summary.json").is_file() else "evaluate it first"
        raise ResultsError(f"{run} holds no summary.json: {inside}")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if (number := summary.get("format", 1)) != FORMAT:
        advice = "evaluate its checkpoint again (sslib evaluate), or train again where that is refused too"
        raise ResultsError(f"{run} holds results of format {number}, this sslib reads format {FORMAT}: {advice}")
    return summary


def read_clips(run: Path) -> pd.DataFrame:
    """Read ``clips.csv`` of an evaluated run as it was written (a class may be called NA)."""
    read_summary(run)
    return pd.read_csv(run / "clips.csv", keep_default_na=False, na_values=[""])


# A model and its controls ---------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """The model against the control that does best."""

    control: str
    control_value: float
    value: float  # model minus control
    low: float
    high: float
    outcome: str


def outcome(low: float, high: float, higher_is_better: bool = True) -> str:
    """Say what the interval of a difference allows: ``better``, ``worse``, or ``inconclusive`` where 0 is in it."""
    if low > 0 or high < 0:
        return "better" if (low > 0) == higher_is_better else "worse"
    return "inconclusive"


def verdict(tables: list[Row], differences: list[Row]) -> Verdict | None:
    """Compare the model with its best control, the one with the best mean.

    Parameters
    ----------
    tables, differences : rows of one measure on the same clips, see :func:`sslib.evaluation.tables.summarize`.

    Returns None where there is no control. The interval is that of the paired difference.
    """
    gains = {row["control"]: row for row in differences}
    values = {row["method"]: row["value"] for row in tables if row["method"] in gains}
    if not values:
        return None
    higher = MEASURES[tables[0]["measure"]].higher_is_better
    control = (max if higher else min)(values, key=values.__getitem__)
    value, low, high, clusters = (gains[control][key] for key in ("value", "low", "high", "clusters"))
    found = outcome(low, high, higher) if clusters >= FEWEST_RECORDINGS else TOO_FEW
    return Verdict(control, values[control], value, low, high, found)


def verdicts(tables: list[Row], differences: list[Row]) -> Iterator[Row]:
    """Compare every result of the model with its best control."""
    groups: dict[tuple, tuple[list[Row], list[Row]]] = {}
    for index, rows in enumerate((tables, differences)):
        for row in rows:
            groups.setdefault(tuple(row[key] for key in TABLE_KEY), ([], []))[index].append(row)
    for key, group in groups.items():
        if found := verdict(*group):
            yield dict(zip(TABLE_KEY, key, strict=True)) | found._asdict()


# Runs side by side ----------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """The runs of one configuration, by seed."""

    name: str
    runs: list[Path]
    seeds: list[int]


def compare(groups: Sequence[Group], evaluation: Evaluation, seed: int = 0) -> pd.DataFrame:
    """Compare configurations on the clips that all of their runs have.

    A gain is the difference to the first configuration, clip by clip, each seed with one of the first in rising order:
    a seed is no more like its namesake than like any other, so any pairing is as good. Seeds without a partner are left
    out of gains. Intervals resample recordings and seeds.

    Returns one row per list, subset, measure and configuration: protocol, split, subset, measure, run, seeds, value,
    low, high, clips, clusters, all_clips (of the union of the runs), and for all but the first configuration gain,
    gain_low, gain_high, gain_seeds (pairs of seeds) and outcome.

    Raises ``ResultsError`` for a run that is not evaluated, and runs without common clips.
    """
    values = {run: _model_rows(run) for group in groups for run in group.runs}
    common, union = _common([*values.values()])
    settings, rows = (evaluation.resamples, evaluation.confidence, seed), []
    totals = union.groupby(["split", "subset"]).size()
    for subset, ids in common.groupby(["split", "subset"], sort=False):
        index = pd.MultiIndex.from_frame(ids[KEYS])
        recordings = values[groups[0].runs[0]].loc[index, "recording"].astype(str).to_numpy()
        about = dict(zip(("split", "subset"), subset, strict=True))
        total = {"all_clips": int(totals[subset])}
        base = None
        for group in groups:
            found = np.stack([values[run].loc[index, COMPARED].to_numpy(float) for run in group.runs])
            gains = [None] * len(COMPARED)
            if base is None:
                base = found
            else:
                pairs = min(len(found), len(base))
                gains = bootstrap_means(found[:pairs] - base[:pairs], recordings, *settings)
            for measure, interval, gain in zip(
                COMPARED, bootstrap_means(found, recordings, *settings), gains, strict=True
            ):
                if interval.clips:
                    row = {"protocol": MEASURES[measure].protocol} | about | {"measure": measure, "run": group.name}
                    row |= {"seeds": len(found)} | interval._asdict() | total
                    rows.append(row | (_gain(gain, pairs) if gain and gain.clips else {}))
    return pd.DataFrame(rows)


def _gain(gain: Interval, pairs: int) -> Row:
    names = {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "gain_seeds": pairs}
    return names | {"outcome": outcome(gain.low, gain.high)}


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Take the gains of a comparison as a table of its own: value, low, high, seeds, outcome."""
    columns = {"gain": "value", "gain_low": "low", "gain_high": "high", "gain_seeds": "seeds"}
    if "gain" not in table:
        return table[:0]
    return table[table["gain"].notna()].drop(columns=[*columns.values()]).rename(columns=columns).astype({"seeds": int})


def group_runs(runs: Sequence[Path]) -> list[Group]:
    """Group two or more runs by configuration, in the order of the first of each; seeds in rising order."""
    if len(runs) < 2:
        raise ResultsError("a comparison needs at least two runs")
    sets: dict[str, list[tuple[int, str, Path]]] = {}
    for run in dict.fromkeys(Path(run) for run in runs):
        summary = read_summary(run)
        if "maps" in summary:  # from elsewhere: each is a configuration of its own
            recipe, seed, name = {"run": str(run.resolve())}, 0, str(run)
        else:
            config = resolve(summary["config"], root_for(run), str(run))
            recipe, seed, name = _recipe(config), config.seed, f"{config.exp_prefix}/{config.exp_name}"
        sets.setdefault(json.dumps(recipe, sort_keys=True), []).append((seed, name, run))
    found: list[Group] = []
    for members in sets.values():
        seeds, names, folders = zip(*sorted(members), strict=True)
        if len(set(seeds)) < len(seeds):  # the same training twice is no second seed
            found += [Group(name, [folder], [number]) for number, name, folder in sorted(members)]
        else:
            found.append(Group(min(names, key=len), list(folders), list(seeds)))
    first = {Path(run): number for number, run in reversed(list(enumerate(runs)))}
    found.sort(key=lambda group: min(first[run] for run in group.runs))
    taken = [group.name for group in found]
    return [g._replace(name=str(g.runs[0])) if taken.count(g.name) > 1 else g for g in found]


def _recipe(config: Config) -> dict[str, Any]:
    """What decides the maps of a run but for its seed: all that decides the weights, and the size of its images."""
    recipe = checkpoint.recipe(config) | {"pixels": config.evaluation.image_size or config.data.image_size}
    return {key: value for key, value in recipe.items() if key != "seed"}


def _model_rows(run: Path) -> pd.DataFrame:
    """Read what the model has of every clip, with its own sound; measures that nobody took are NaN."""
    rows = read_clips(run).query("map_kind == 'similarity' and condition == 'own'")
    return rows.set_index(KEYS).reindex(columns=["recording", *COMPARED])


def _common(values: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips that all runs have, in the order of the first, and those that any has."""
    common, union = values[0].index, values[0].index
    for other in values[1:]:
        common, union = common[common.isin(other.index)], union.union(other.index)
    if not len(common):
        raise ResultsError("these runs have no test clip in common")
    return common.to_frame(index=False), union.to_frame(index=False)
