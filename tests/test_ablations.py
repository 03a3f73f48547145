"""Comparing variants: pairs of the same clips, seeds with their counterparts, and words that do not claim too much."""

import numpy as np
import pandas as pd
import pytest

from sslib.config import Evaluation
from sslib.evaluation import ablations
from sslib.evaluation.run import MEASURES

EVALUATION = Evaluation(resamples=500)


def clips(values: dict[tuple[str, int], np.ndarray], method: str = "model") -> pd.DataFrame:
    """Rows of one test list as `ablations.collect` gives them, every measure the same."""
    tables = []
    for (variant, seed), numbers in values.items():
        table = pd.DataFrame({"clip_id": [f"clip{i}" for i in range(len(numbers))]})
        table["recording"] = [f"recording{i // 2}" for i in range(len(numbers))]
        about = {"split": "test", "part": "2 objects", "variant": variant, "seed": seed, "method": method}
        tables.append(table.assign(**about, **dict.fromkeys(MEASURES, numbers)))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize(
    ("low", "high", "seeds", "words"),
    [
        (-0.1, 0.2, [0.05], "single seed: not distinguishable"),
        (0.1, 0.2, [0.15], "single seed: inconclusive (higher"),
        (-0.2, -0.1, [-0.15], "single seed: inconclusive (lower"),
        (0.0, 0.2, [0.1, 0.1, 0.1], "not distinguishable"),
        (0.1, 0.2, [0.4, 0.06, 0.0], "inconclusive: higher"),
        (0.1, 0.2, [0.14, 0.16, 0.15], "higher at this budget, in 3 seeds"),
        (-0.2, -0.1, [-0.14, -0.16, -0.15], "lower at this budget, in 3 seeds"),
        (0.1, 0.2, [0.15, 0.15], "higher at this budget, in 2 seeds"),
        (np.nan, np.nan, [np.nan], "not measured"),
    ],
)
def test_verdict(low, high, seeds, words):
    assert ablations.verdict(low, high, seeds).startswith(words)


def test_differences_are_paired_by_clip_and_by_seed():
    hard = np.linspace(0, 1, 40)
    values = {("base", 0): hard, ("base", 1): hard + 0.5, ("more", 0): hard + 0.1, ("more", 1): hard + 0.6}
    shuffled = clips({key: hard * 0 for key in values}, method="model, shuffled sounds")
    table = pd.concat([clips(values).sample(frac=1, random_state=0), shuffled])
    (row,) = ablations.differences(table, "base", ["pointing"], EVALUATION).to_dict("records")
    np.testing.assert_allclose([row["value"], row["low"], row["high"], *row["seeds"]], 0.1)
    assert (row["variant"], row["clips"], row["clusters"]) == ("more", 40, 20)
    assert row["verdict"] == "higher at this budget, in 2 seeds"


def test_measured_averages_seeds_before_clips():
    table = clips({("base", 0): np.zeros(10), ("base", 1): np.ones(10)})
    (row,) = ablations.measured(table, ["auc"], EVALUATION).to_dict("records")
    assert (row["value"], row["low"], row["high"], row["clips"], row["clusters"]) == (0.5, 0.5, 0.5, 10, 5)


def test_other_clips_are_refused():
    with pytest.raises(ValueError, match="different clips of test, 2 objects"):
        ablations.differences(clips({("base", 0): np.zeros(4), ("more", 0): np.zeros(6)}), "base", ["auc"], EVALUATION)


def test_a_measure_that_was_not_taken():
    values = clips({("base", 0): np.zeros(4), ("more", 0): np.ones(4)}).assign(miou=np.nan)
    (row,) = ablations.differences(values, "base", ["miou"], EVALUATION).to_dict("records")
    assert row["verdict"] == "not measured" and np.isnan(row["value"])
