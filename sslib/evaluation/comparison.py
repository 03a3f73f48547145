"""Finished runs side by side, from their ``clips.csv`` alone: paired on the clips that all of them have.

Runs that differ in nothing but the seed are one configuration; its seeds are a second level beside the recordings
(:func:`sslib.evaluation.bootstrap.bootstrap_seeds`). The first configuration is what the others are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sslib.config import Evaluation, InputError
from sslib.evaluation import bootstrap as intervals
from sslib.evaluation import tables
from sslib.evaluation.names import METHODS, MODEL, PROTOCOLS

# What names an experiment makes no other configuration, nor how sure its intervals are.
NAMES = ("exp_prefix", "exp_name", "seed", "ablations", "evaluation")
COMPARED = {measure: protocol for protocol in ("localization", "masks", "retrieval") for measure in PROTOCOLS[protocol]}
KEYS = ["split", "part", "clip_id"]


class Group(NamedTuple):
    """The runs of one configuration, by seed."""

    name: str
    runs: list[Path]
    seeds: list[int]


def compare(runs: Sequence[Path], evaluation: Evaluation, seed: int = 0) -> pd.DataFrame:
    """One row per list, part, measure and configuration: its value, and what it gains over the first configuration.

    Parameters
    ----------
    runs : folders with ``clips.csv``: ``run`` of an experiment, or what foreign maps were evaluated into.

    Returns
    -------
    Columns protocol, split, part, measure, run, seeds, value, low, high, clips, clusters, all_clips (of the union of
    the runs), and for all but the first run gain, gain_low, gain_high, gain_seeds (pairs of seeds) and said.

    Raises
    ------
    ValueError
        For fewer than two runs, a folder without ``clips.csv``, and runs without common clips.
    """
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    found = groups(runs)
    values = {run: _values(run) for group in found for run in group.runs}
    common, union = _common(list(values.values()))
    rows = []
    for (split, part), ids in common.groupby(["split", "part"], sort=False):
        index = pd.MultiIndex.from_frame(ids[KEYS])
        stacks = {group.name: [values[run].loc[index] for run in group.runs] for group in found}
        first = next(iter(stacks.values()))[0]
        recordings = first["recording"].astype(str).to_numpy()
        total = int(((union["split"] == split) & (union["part"] == part)).sum())
        for measure, protocol in COMPARED.items():
            for group in found:
                columns = _columns(stacks, group, measure)
                if columns is None:
                    continue
                place = {"protocol": protocol, "split": split, "part": part, "measure": measure, "run": group.name}
                interval = _interval(columns, recordings, evaluation, seed)
                row = place | {"seeds": len(columns)} | interval._asdict() | {"all_clips": total}
                base = _columns(stacks, found[0], measure)
                if group is not found[0] and base is not None:
                    row |= _gain(columns, base, recordings, evaluation, seed)
                rows.append(row)
    return pd.DataFrame(rows)


def groups(runs: Sequence[Path]) -> list[Group]:
    """Runs by configuration, in the order of the first of each; seeds in rising order."""
    sets: dict[str, list[tuple[int, str, Path]]] = {}
    for run in dict.fromkeys(Path(run) for run in runs):
        if not (run / "clips.csv").is_file():
            raise InputError(f"{run} holds no clips.csv: evaluate it first")
        config = _config(run)
        recipe = {key: value for key, value in config.items() if key not in NAMES} or {"run": str(run.resolve())}
        recipe["pixels"] = config.get("evaluation", {}).get("image_size")  # other maps of the same weights
        name = f"{config['exp_prefix']}/{config['exp_name']}" if config else str(run)
        sets.setdefault(json.dumps(recipe, sort_keys=True), []).append((int(config.get("seed", 0)), name, run))
    found: list[Group] = []
    for members in sets.values():
        seeds, names, folders = zip(*sorted(members), strict=True)
        if len(set(seeds)) < len(seeds):  # the same training twice is no second seed
            found += [Group(name, [folder], [number]) for number, name, folder in sorted(members)]
        else:
            found.append(Group(min(names, key=len), list(folders), list(seeds)))
    first = {Path(run): place for place, run in reversed(list(enumerate(runs)))}
    found.sort(key=lambda group: min(first[run] for run in group.runs))
    taken = [group.name for group in found]
    return [g._replace(name=str(g.runs[0])) if taken.count(g.name) > 1 else g for g in found]


def _config(run: Path) -> dict[str, Any]:
    """The configuration a run was evaluated with, as plain values; empty for maps from elsewhere."""
    path = run / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "maps" in summary:
        return {}
    if "config" not in summary:
        raise ValueError(f"{run} was evaluated by an older sslib, which did not say how: evaluate it again")
    return summary["config"]


def _values(run: Path) -> pd.DataFrame:
    rows = tables.read(run / "clips.csv")
    methods = pd.Series([METHODS.get(key) for key in zip(rows["map"], rows["sound"], strict=True)], index=rows.index)
    return rows[methods == MODEL].set_index(KEYS)


def _common(values: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips that all runs have, in the order of the first, and those that any has."""
    common, union = values[0].index, values[0].index
    for other in values[1:]:
        common, union = common[common.isin(other.index)], union.union(other.index)
    if not len(common):
        raise InputError("these runs have no test clip in common")
    return common.to_frame(index=False), union.to_frame(index=False)


def _columns(stacks: dict[str, list[pd.DataFrame]], group: Group, measure: str) -> np.ndarray | None:
    """Values (seeds, clips) of a measure, or None where a run does not have it."""
    if not all(measure in rows and rows[measure].notna().any() for rows in stacks[group.name]):
        return None
    return np.stack([rows[measure].to_numpy(float) for rows in stacks[group.name]])


def _interval(columns: np.ndarray, recordings: np.ndarray, evaluation: Evaluation, seed: int) -> intervals.Interval:
    settings = (evaluation.resamples, evaluation.confidence, seed)
    if len(columns) == 1:
        return intervals.bootstrap(columns[0], recordings, *settings)
    return intervals.bootstrap_seeds(columns, recordings, *settings)


def _gain(
    columns: np.ndarray, base: np.ndarray, recordings: np.ndarray, evaluation: Evaluation, seed: int
) -> dict[str, Any]:
    """The paired difference to the base, each seed with one of the base in rising order: as many pairs as both have.

    A seed is no more like its namesake of another configuration than like any other, so any pairing is as good; one
    that has no partner is left out.
    """
    pairs = min(len(columns), len(base))
    gain = _interval(columns[:pairs] - base[:pairs], recordings, evaluation, seed)
    said = "higher" if gain.low > 0 else "lower" if gain.high < 0 else "not distinguishable"
    if pairs == 1:
        said += " (single seed)"
    return {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "gain_seeds": pairs, "said": said}
