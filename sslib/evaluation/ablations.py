"""Variants of one experiment side by side: measured on the same test clips, compared pair by pair, and put in words.

Two things vary here, and both are accounted for: which recordings the test holds (bootstrap over recordings) and which
seed a variant was trained with (spread of the seeds' differences).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from sslib import metrics
from sslib.config import Evaluation, InputError
from sslib.evaluation import tables
from sslib.evaluation.names import METHODS

PLACE = ["split", "part"]


def collect(runs: dict[tuple[str, int], Path]) -> pd.DataFrame:
    """``clips.csv`` of every run under its variant and seed, with the name of the method as in all tables."""
    collected = []
    for (variant, seed), run in runs.items():
        rows = tables.read(run / "clips.csv")
        methods = [METHODS[key] for key in zip(rows["map"], rows["sound"], strict=True)]
        collected.append(rows.assign(variant=variant, seed=seed, method=methods))
    return pd.concat(collected, ignore_index=True)


def measured(clips: pd.DataFrame, measures: Sequence[str], evaluation: Evaluation) -> pd.DataFrame:
    """Mean of the model over clips and seeds with its interval: one row per split, part, variant and measure."""
    rows = []
    model = clips[clips["method"] == "model"]
    for measure in measures:
        for (*place, variant), group in model.groupby([*PLACE, "variant"], sort=False):
            values = group.groupby(["clip_id", "recording"])[measure].mean()
            interval = _interval(values, evaluation)
            rows.append(dict(zip(PLACE, place, strict=True)) | {"variant": variant, "measure": measure} | interval)
    return pd.DataFrame(rows)


def differences(clips: pd.DataFrame, base: str, measures: Sequence[str], evaluation: Evaluation) -> pd.DataFrame:
    """What each variant gains over `base` on the same clips: mean over seeds, its interval, each seed, a verdict.

    Raises
    ------
    ValueError
        When a variant was tested on other clips than `base`.
    """
    rows = []
    model = clips[clips["method"] == "model"]
    for measure in measures:
        for place, group in model.groupby(PLACE, sort=False):
            if group.groupby(["variant", "seed"])["clip_id"].agg(frozenset).nunique() > 1:
                raise InputError(f"the variants were tested on different clips of {place[0]}, {place[1]}")
            wide = group.pivot(index=["clip_id", "recording"], columns=["variant", "seed"], values=measure)
            for variant in dict.fromkeys(group["variant"]):
                if variant == base:
                    continue
                gain = wide[variant] - wide[base]  # the columns are seeds: each with its own counterpart
                seeds = gain.mean().to_list()
                interval = _interval(gain.mean(axis=1), evaluation)
                said = verdict(interval["low"], interval["high"], seeds, evaluation.confidence)
                about = {"variant": variant, "measure": measure, "seeds": seeds, "verdict": said}
                rows.append(dict(zip(PLACE, place, strict=True)) | about | interval)
    return pd.DataFrame(rows)


def verdict(low: float, high: float, seeds: Sequence[float], confidence: float = 0.95) -> str:
    """What a difference allows to be said.

    Parameters
    ----------
    low, high : its interval over test recordings.
    seeds : the difference that each training seed gave; their t interval must leave out 0 as well.
    """
    if not np.isfinite([low, high]).all():
        return "not measured"
    one = "single seed: " if len(seeds) == 1 else ""
    if low <= 0 <= high:
        return f"{one}not distinguishable at this budget"
    direction = "higher" if low > 0 else "lower"
    if one:
        return f"{one}inconclusive ({direction} on these recordings, but another seed may differ)"
    spread = stats.t.ppf((1 + confidence) / 2, len(seeds) - 1) * np.std(seeds, ddof=1) / np.sqrt(len(seeds))
    if abs(np.mean(seeds)) <= spread:
        return f"inconclusive: {direction} on these recordings, but the {len(seeds)} seeds differ too much"
    return f"{direction} at this budget, in {len(seeds)} seeds"


def _interval(values: pd.Series, evaluation: Evaluation) -> dict[str, float]:
    recordings = values.index.get_level_values("recording").astype(str).to_list()
    return metrics.bootstrap(values.to_numpy(), recordings, evaluation.resamples, evaluation.confidence)._asdict()
