"""Results held against each other: a model against its controls, and finished runs side by side, clip by clip.

Runs that differ in nothing but the seed are one configuration; its seeds are a second level beside the recordings
(:func:`sslib.evaluation.bootstrap.bootstrap_statistic`). The first configuration is what the others are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sslib import checkpoint
from sslib.config import Config, Evaluation, InputError, Objective, resolve, root_for
from sslib.evaluation.bootstrap import Interval, bootstrap_means
from sslib.evaluation.tables import MEASURES, PROTOCOLS, Row, interaction_columns, over_scenes
from sslib.model import SoundLocalizer

FEWEST_RECORDINGS = 10  # that a verdict may rest on; with fewer it is
TOO_FEW = "too few recordings for a verdict"
FORMAT = 3  # of summary.json and clips.csv: other columns and keys make another number
COMPARED = [measure for protocol in ("localization", "masks", "retrieval") for measure in PROTOCOLS[protocol]]
HEADLINES = ("success_adaptive", "pointing", "iiou_adaptive")  # chosen before any result; verdicts are on pointing
PUBLISHED = ("attention", "lvs", "ez_vsl", "slavc", "fnac", "ssl_align")  # objectives of other papers
TABLE_KEY = ("protocol", "split", "subset", "measure")
GAIN = {"gain": "value", "gain_low": "low", "gain_high": "high", "gain_seeds": "seeds"}  # columns of their own


class ResultsError(InputError):
    """Results that cannot be used; the message names the folder and says what to do."""


def read_summary(run: Path) -> dict[str, Any]:
    """Read ``summary.json`` of a run; ``ResultsError`` when there is none, or one of another version of sslib."""
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


def outcome(low: float, high: float, higher_is_better: bool = True) -> str:
    """Say what the interval of a difference allows: ``better``, ``worse``, or ``inconclusive`` where 0 is in it."""
    if low > 0 or high < 0:
        return "better" if (low > 0) == higher_is_better else "worse"
    return "inconclusive"


def verdict(tables: list[Row], differences: list[Row]) -> Row | None:
    """Compare the model with its best control, the one with the best mean; None where there is no control.

    Takes rows of one measure on the same clips, see :func:`sslib.evaluation.tables.summarize`. Returns where they
    stand, control, control_value, and of the paired difference (model minus control) value, low, high and outcome.
    """
    gains = {row["control"]: row for row in differences}
    values = {row["method"]: row["value"] for row in tables if row["method"] in gains}
    if not values:
        return None
    higher = MEASURES[tables[0]["measure"]].higher_is_better
    control = (max if higher else min)(values, key=values.__getitem__)
    gain = gains[control]
    found = outcome(gain["low"], gain["high"], higher) if gain["clusters"] >= FEWEST_RECORDINGS else TOO_FEW
    best = {"control": control, "control_value": values[control]}
    return {k: gain[k] for k in TABLE_KEY} | best | {k: gain[k] for k in ("value", "low", "high")} | {"outcome": found}


def verdicts(tables: list[Row], differences: list[Row]) -> list[Row]:
    """Compare every result of the model with its best control."""
    groups: dict[tuple, tuple[list[Row], list[Row]]] = {}
    for row in tables + differences:
        groups.setdefault(tuple(row[key] for key in TABLE_KEY), ([], []))["control" in row].append(row)
    return [found for group in groups.values() if (found := verdict(*group))]


class Group(NamedTuple):
    """The runs of one configuration, by seed."""

    name: str
    runs: list[Path]
    seeds: list[int]


def compare(groups: Sequence[Group], evaluation: Evaluation, seed: int = 0) -> pd.DataFrame:
    """Compare configurations on the clips that all of their runs have.

    A gain is the difference to the first configuration, clip by clip, each seed with one of the first in rising order:
    a seed is no more like its namesake than like any other, so any pairing is as good. Seeds without a partner are left
    out of gains. Intervals resample recordings and seeds. ``ResultsError`` names runs that cannot be compared.

    Returns one row per list, subset, measure and configuration: protocol, split, subset, measure, run, seeds, value,
    low, high, clips (of interaction: scenes), clusters, all_clips (of the union of the runs), least and most (means of
    single seeds), and for all but the first configuration gain, gain_low, gain_high, gain_seeds (pairs of seeds) and
    outcome.
    """
    clips = pd.concat({run: _model_rows(run) for group in groups for run in group.runs}, axis=1)
    totals, first = clips.groupby(["split", "subset"]).size(), groups[0].runs[0]
    clips = clips[clips.xs("recording", axis=1, level=1).notna().all(axis=1)]
    if clips.empty:
        raise ResultsError("these runs have no test clip in common")
    rows, how = [], (evaluation.resamples, evaluation.confidence, seed)
    for (split, subset), part in clips.groupby(["split", "subset"], sort=False):
        common, runs = part[first], {run: part[run] for group in groups for run in group.runs}
        units = common[["scene", "recording"]].astype(str)
        means = {run: table[COMPARED].astype(float) for run, table in runs.items()}
        least = {run: pd.DataFrame(interaction_columns(table, common)) for run, table in runs.items()}
        found = _side_by_side(groups, means, lambda values, of=units: bootstrap_means(values, of["recording"], *how))
        found += _side_by_side(groups, least, lambda values, of=units: over_scenes(values, of, how))
        place = {"split": split, "subset": subset}
        total = {"all_clips": int(totals[split, subset])}
        rows += [{"protocol": MEASURES[row["measure"]].protocol} | place | row | total for row in found]
    return pd.DataFrame(rows)


def _side_by_side(
    groups: Sequence[Group], values: dict[Path, pd.DataFrame], bootstrap: Callable[[np.ndarray], list[Interval]]
) -> list[Row]:
    """Compare configurations by `values`: of each run the same clips or scenes (rows) and measures (columns).

    What not all of them have is left out.
    """
    arrays = [np.stack([values[run].to_numpy() for run in group.runs]) for group in groups]
    known = [np.isfinite(array).all(axis=0) for array in arrays]
    used = np.flatnonzero(np.all([one.any(axis=0) for one in known], axis=0))
    rows, names, first = [], values[groups[0].runs[0]].columns[used], arrays[0][:, :, used]
    for group, array, there in zip(groups, arrays, known, strict=True) if len(used) else ():
        array, there = array[:, :, used], there[:, used]
        pairs, gains = min(len(array), len(first)), [None] * len(used)
        if group is not groups[0]:
            gains = bootstrap(array[:pairs] - first[:pairs])
        for column, (interval, gain) in enumerate(zip(bootstrap(array), gains, strict=True)):
            of_seeds = array[:, there[:, column], column].mean(axis=1)
            row = {"measure": names[column], "run": group.name, "seeds": len(array)} | interval._asdict()
            row |= {"least": float(of_seeds.min()), "most": float(of_seeds.max())}
            if gain and gain.clips:
                row |= dict(zip(GAIN, (*gain[:3], pairs), strict=True)) | {"outcome": outcome(*gain[1:3])}
            rows.append(row)
    return rows


def _model_rows(run: Path) -> pd.DataFrame:
    """Read what the model has of every clip, with its own sound; measures that nobody took are NaN."""
    rows = read_clips(run).query("map_kind == 'similarity' and condition == 'own'").astype({"recording": str})
    columns = ["recording", "scene", "objects", "ciou", "ciou_adaptive", *COMPARED]
    rows = rows.set_index(["split", "subset", "clip_id"], drop=False).reindex(columns=[*columns, "clip_id"])
    return rows.assign(scene=rows["scene"].astype(object).fillna(rows.pop("clip_id")))


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Take the gains of a comparison as a table of its own: value, low, high, seeds, outcome."""
    if "gain" not in table:
        return table[:0]
    return table[table["gain"].notna()].drop(columns=[*GAIN.values()]).rename(columns=GAIN).astype({"seeds": int})


def leading(table: pd.DataFrame) -> pd.DataFrame:
    """Take the headline measures of a comparison on the largest part of each list."""
    sizes = table[table["protocol"] != "interaction"].groupby(["split", "subset"], sort=False)["clips"].max()
    largest = sizes.groupby("split", sort=False).idxmax()
    places = pd.MultiIndex.from_frame(table[["split", "subset"]])
    return table[places.isin(largest) & table["measure"].isin(HEADLINES)]


def costs(groups: Sequence[Group]) -> pd.DataFrame:
    """Tell the seconds of training (of the quickest seed) and the number of parameters of each configuration."""
    rows = {}
    for group in groups:
        summaries = [read_summary(run) for run in group.runs]
        config = resolve(summaries[0]["config"], root_for(group.runs[0]))
        with torch.device("meta"):  # sizes without numbers
            model = SoundLocalizer(config.model.model_copy(update={"imagenet": False}))
        seconds = min(summary["training"]["seconds"] for summary in summaries)  # others shared the machine
        rows[group.name] = {"seconds": seconds, "parameters": sum(weight.numel() for weight in model.parameters())}
    return pd.DataFrame.from_dict(rows, orient="index")


def against(
    groups: Sequence[Group], configs: dict[str, Config], table: pd.DataFrame, how: Evaluation
) -> dict[str, Any]:
    """Hold the paper's method against its base model and other papers' objectives, by the configuration of each group.

    `table` is the comparison of all `groups`. Returns names: base, context (the paper's, all of its losses), published
    (of others'), best (of these, by pointing on the first list), own (the first of any other), none of which was shown
    boxes; None or nothing where there is none. And on the :func:`leading` results the gains ``context_over_base``, ...
    """
    points = leading(table).query("measure == 'pointing'").drop_duplicates("run").set_index("run")["value"]
    configs = {name: config for name, config in configs.items() if name in points and not config.objective.boxes}
    published = [name for name, config in configs.items() if config.objective.kind in PUBLISHED]
    paper = {name: config for name, config in configs.items() if _is_the_papers(config.objective)}
    others = [name for name in configs if name not in paper and name not in published]
    full = [name for name, one in paper.items()
            if one.model.reasoning and one.objective.discrimination and one.objective.divergence]  # fmt: skip
    found = {
        "base": next((name for name, one in paper.items() if not one.model.reasoning), None),
        "context": next(iter(full), None),
        "best": points[published].idxmax() if published else None,
        "own": next(iter(others), None),
    }
    of = {group.name: group for group in groups}
    for name, over in (("context", "base"), ("context", "best"), ("own", "best"), ("own", "context")):
        pair = found[over], found[name]
        rows = leading(gains(compare([of[one] for one in pair], how))) if all(pair) else pd.DataFrame()
        found |= {f"{name}_over_{over}": rows.to_dict("records")}
    return found | {"published": published}


def heard(groups: Sequence[Group], evaluation: Evaluation, seed: int = 0) -> pd.DataFrame:
    """Tell what a clip's own sound adds to pointing over another clip's, over recordings and seeds.

    Returns one row per list, subset and configuration: split, subset, run, seeds, value, low, high, clips, clusters and
    outcome (as in :func:`verdict`); none where no other sounds were played.
    """
    rows, how = [], (evaluation.resamples, evaluation.confidence, seed)
    for group in groups:
        gains = []
        for run in group.runs:
            clips = read_clips(run).query("map_kind == 'similarity'").astype({"recording": str})
            keys = ["split", "subset", "clip_id", "recording"]
            own, other = (clips[clips["condition"] == name].set_index(keys)["pointing"] for name in ("own", "shuffled"))
            gains.append((own - other.reindex(own.index)).dropna())
        together = pd.concat(gains, axis=1, sort=False)  # a column a seed
        for (split, subset), part in together.groupby(level=["split", "subset"], sort=False):
            values = part.to_numpy(float).T[:, :, None]
            (found,) = bootstrap_means(values, part.index.get_level_values("recording"), *how)
            place = {"split": split, "subset": subset, "run": group.name, "seeds": len(gains)}
            says = outcome(found.low, found.high) if found.clusters >= FEWEST_RECORDINGS else TOO_FEW
            rows.append(place | found._asdict() | {"outcome": says})
    return pd.DataFrame(rows)


def _is_the_papers(how: Objective) -> bool:
    return how.kind == "context" and how.pool != "soft" and not (how.silent or how.global_contrast)


def group_runs(runs: Sequence[Path]) -> list[Group]:
    """Group two or more runs by configuration, in the order of the first of each; seeds in rising order.

    A configuration is what decides the maps but for the seed: the weights, and how maps are made of images.
    """
    runs = [*dict.fromkeys(map(Path, runs))]
    if len(runs) < 2:
        raise ResultsError("a comparison needs at least two runs")
    sets: dict[str, list[tuple[int, str, Path]]] = {}
    for run in runs:
        summary = read_summary(run)
        if "maps" in summary:  # from elsewhere: each is a configuration of its own
            recipe, seed, name = str(run.resolve()), 0, str(run)
        else:
            config = resolve(summary["config"], root_for(run), str(run))
            drawn = config.evaluation.model_dump(include={"image_sizes", "mirror", "saliency", "smoothing"})
            recipe = checkpoint.recipe(config) | drawn | {"seed": None}
            seed, name = config.seed, f"{config.exp_prefix}/{config.exp_name}"
        sets.setdefault(json.dumps(recipe, sort_keys=True), []).append((seed, name, run))
    found: list[Group] = []
    for members in map(sorted, sets.values()):
        seeds, names, folders = map(list, zip(*members, strict=True))
        if len(set(seeds)) < len(seeds):  # the same training twice is no second seed
            found += [Group(name, [folder], [number]) for number, name, folder in members]
        else:
            found.append(Group(min(names, key=len), folders, seeds))
    found.sort(key=lambda group: min(map(runs.index, group.runs)))
    taken = [group.name for group in found]
    return [g._replace(name=str(g.runs[0])) if taken.count(g.name) > 1 else g for g in found]
