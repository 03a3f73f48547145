"""Protocols and intervals against loops over their definitions, scikit-learn and cases worked by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from sslib import metrics
from sslib.evaluation import bootstrap as intervals
from sslib.evaluation import protocols

SEEDS = st.integers(0, 2**32 - 1)


def loop_detection(score, positive, ciou):
    """(AP, max-F1, LocAcc) by counting at every distinct threshold."""
    ap = best = before = 0.0
    for threshold in sorted(set(score), reverse=True):
        tp = fp = fn = 0
        for s, p, c in zip(score, positive, ciou, strict=True):
            if s >= threshold and p and c >= 0.5:
                tp += 1
            elif s >= threshold:
                fp += 1
            elif p:
                fn += 1
        precision, recall = tp / (tp + fp), tp / (tp + fn) if tp else 0.0
        ap += (recall - before) * precision
        best, before = max(best, 2 * tp / (2 * tp + fp + fn)), recall
    accuracy = [c >= 0.5 for p, c in zip(positive, ciou, strict=True) if p]
    return ap, best, sum(accuracy) / len(accuracy)


def detected(score, positive, ciou):
    """AP, max-F1, LocAcc of clips that count once."""
    return tuple(protocols.detection_statistic(score, positive, ciou)(np.ones((1, len(score)), np.uint8))[0])


def random_detection(seed, levels=None, count=30):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count) if levels is None else rng.integers(0, levels, count) / 3
    positive = rng.random(count) < 0.6
    positive[0] = True
    return score, positive, np.where(positive, rng.random(count), np.nan)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([None, 1, 2, 6]))
def test_detection_is_its_definition(seed, levels):
    score, positive, ciou = random_detection(seed, levels)
    want = loop_detection(score, positive, ciou)
    assert detected(score, positive, ciou) == pytest.approx(want)
    turned = np.random.default_rng(seed).permutation(len(score))
    assert detected(score[turned], positive[turned], ciou[turned]) == pytest.approx(want)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([None, 2, 6]))
def test_average_precision_is_that_of_sklearn_when_all_is_localized(seed, levels):
    score, positive, _ = random_detection(seed, levels)
    ciou = np.where(positive, 0.8, np.nan)
    found = detected(score, positive, ciou)
    assert found[0] == pytest.approx(average_precision_score(positive, score))
    assert found[2] == 1


def test_detection_by_hand():
    score = np.array([4.0, 3.0, 2.0, 1.0])
    positive = np.array([True, False, True, True])
    ciou = np.array([0.5, np.nan, 0.4, 0.9])
    # thresholds 4: TP 1, FN 2; 3: FP 1, FN 2; 2: FP 2, FN 1; 1: TP 2, FP 2, FN 0
    found = detected(score, positive, ciou)
    assert found[0] == pytest.approx(1 / 3 * 1 + 0 + (1 / 2 - 1 / 3) * 1 / 3 + (1 - 1 / 2) * 2 / 4)
    assert found[1] == pytest.approx(4 / 6) and found[2] == pytest.approx(2 / 3)
    assert detected(np.ones(1), np.ones(1, bool), np.ones(1)) == (1, 1, 1)
    assert detected(np.ones(1), np.ones(1, bool), np.zeros(1)) == (0, 0, 0)
    assert np.isnan(detected(score, np.zeros(4, bool), ciou)).all()  # all negatives
    tied = detected(np.zeros(4), positive, ciou)
    assert tied == pytest.approx((2 / 4, 4 / 6, 2 / 3))


def test_faulty_detection_is_an_error():
    score, positive, ciou = random_detection(0)
    with pytest.raises(ValueError, match=r"positives without a cIoU, at rows \[0\]"):
        detected(score, positive, np.where(np.arange(30) == 0, np.nan, ciou))
    score[7] = np.nan
    with pytest.raises(ValueError, match=r"finite confidence.* \[7\]"):
        detected(score, positive, ciou)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([None, 3]))
def test_weights_count_clips_several_times(seed, levels):
    score, positive, ciou = random_detection(seed, levels, count=12)
    weights = np.random.default_rng(seed).integers(0, 4, (37, 12)).astype(np.uint8)
    found = protocols.detection_statistic(score, positive, ciou)(weights)
    for row, weight in zip(found, weights, strict=True):
        if not weight[positive].sum():
            assert np.isnan(row).all()
            continue
        again = np.repeat(np.arange(12), weight)
        assert row == pytest.approx(loop_detection(score[again], positive[again], ciou[again]))


def test_detection_intervals_resample_recordings():
    score, positive, ciou = random_detection(1, count=40)
    recordings = np.array([f"r{i // 4}" for i in range(40)])
    found = intervals.bootstrap_statistic(protocols.detection_statistic(score, positive, ciou), recordings, 300)
    assert [one.value for one in found] == pytest.approx(loop_detection(score, positive, ciou))
    rng, values = np.random.default_rng(9), []
    for _ in range(300):  # another stream of chance, the plain way
        rows = np.concatenate([np.flatnonzero(recordings == f"r{g}") for g in rng.integers(0, 10, 10)])
        values.append(loop_detection(score[rows], positive[rows], ciou[rows]))
    spread = np.std(values, axis=0)
    for one, low, high, s in zip(found, *np.quantile(values, [0.025, 0.975], axis=0), spread, strict=True):
        assert abs(one.low - low) < 0.6 * s and abs(one.high - high) < 0.6 * s
        assert (one.clips, one.clusters) == (40, 10)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_confidence_is_the_mean_of_the_top_quarter(seed, height, width):
    maps = np.random.default_rng(seed).normal(size=(3, height, width))
    want = [np.mean(sorted(m.ravel().tolist())[m.size - math.ceil(m.size / 4) :]) for m in maps]
    assert protocols.confidence(maps) == pytest.approx(want)


def test_confidence_by_hand():
    assert protocols.confidence(np.arange(8.0).reshape(1, 2, 4)) == [6.5]
    assert protocols.confidence(np.full((1, 14, 14), 0.25)) == [0.25]
    with pytest.raises(ValueError, match=r"at clips \['b'\]"):
        protocols.confidence(np.array([[[0.0]], [[np.nan]]]), ids=["a", "b"])


def test_universal_threshold_by_hand():
    silence = np.zeros((5, 2, 2))
    silence[:, 0, 1] = [1, 2, 3, 4, 5]  # maxima of the maps
    noise = np.full((2, 3, 3), 2.0)
    assert protocols.universal_threshold({"silence": silence, "noise": noise}) == 4
    assert protocols.universal_threshold({"noise": noise}) == 2
    highest = protocols.universal_threshold({"silence": silence, "noise": noise}, 1)
    assert highest == 5 and protocols.pia(silence, highest).max() == 0
    with pytest.raises(ValueError, match="at least one kind"):
        protocols.universal_threshold({})


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([None, 2]))
def test_pia_and_aoc_are_their_definitions(seed, levels):
    rng = np.random.default_rng(seed)
    maps = rng.random((4, 5, 5)) if levels is None else rng.integers(0, levels, (4, 5, 5)) * 1.0
    found = protocols.pia(maps, 0.5, size=5)
    want = [sum(m[y, x] > 0.5 for y in range(5) for x in range(5)) / 25 for m in maps]
    assert found == pytest.approx(want)
    steps = [sum(v <= 0.05 * i + 1e-12 for v in want) / 4 for i in range(21)]
    aoc = sum((a + b) / 2 * 0.05 for a, b in itertools.pairwise(steps))
    assert protocols.aoc_per_clip(found).mean() == pytest.approx(aoc)


def test_pia_of_the_enlarged_map_and_its_extremes():
    assert protocols.pia(np.full((1, 14, 14), 0.3), 0.3) == [0]  # strictly above
    assert protocols.pia(np.full((1, 14, 14), 0.3), 0.29) == [1]
    half = np.zeros((1, 2, 2))
    half[0, 0] = 1  # rises from 0 to 1 between the rows' centres: above 0.5 in the upper half
    assert protocols.pia(half, 0.5) == [0.5]
    assert protocols.aoc_per_clip(np.array([0.0, 1.0, np.nan])) == pytest.approx([1, 0.025, np.nan], nan_ok=True)


def test_harmonic_means():
    assert protocols.f_loc(0.6, 0.2) == pytest.approx(2 * 0.6 * 0.8 / 1.4)
    assert protocols.f_loc(0.0, 1.0) == 0 and protocols.f_auc(1.0, 1.0) == 1
    np.testing.assert_allclose(protocols.f_auc(np.array([0.2, 0.0]), np.array([0.6, 0.0])), [0.3, 0])


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_interaction_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    values, scenes = rng.random(12), rng.choice(["a", "b", "c", "d"], 12)
    found = protocols.iiou(values, scenes)
    names = sorted(set(scenes))
    assert len(found) == len(names)
    passing = {name: [v for v, s in zip(values, scenes, strict=True) if s == name] for name in names}
    several = [group for group in passing.values() if len(group) > 1]
    for threshold in (0.25, 0.5):
        want = sum(all(v >= threshold for v in group) for group in several) / len(several)
        assert metrics.success_rate(found, threshold) == pytest.approx(want)
    turned = rng.permutation(12)
    np.testing.assert_array_equal(protocols.iiou(values[turned], scenes[turned]), found)


def test_interaction_by_hand():
    found = protocols.iiou(np.array([0.9, 0.4, 0.6, 0.5, 0.9, np.nan, 1.0]), list("aabbcdd"))
    assert found == pytest.approx([0.4, 0.5, np.nan, np.nan], nan_ok=True)  # c is alone, d has no value
    assert metrics.success_rate(found) == 0.5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([None, 2, 5]), st.booleans())
def test_retrieval_is_its_definition(seed, levels, of_class):
    rng = np.random.default_rng(seed)
    count = 9
    similarity = rng.normal(size=(count, count)) if levels is None else rng.integers(0, levels, (count, count)) * 0.1
    names = rng.choice(list("xyz"), count) if of_class else np.arange(count).astype(str)
    right = names[:, None] == names
    for matrix in (similarity, similarity.T):
        found = protocols.best_ranks(matrix, right)
        for query in range(count):
            answers = sorted(range(count), key=lambda j: (-matrix[query, j], names[j] == names[query]))  # wrong first
            first = next(place for place, j in enumerate(answers, 1) if names[j] == names[query])
            assert found[query] == first
        recall = protocols.recalls(matrix, {"": right})["r5_image_to_audio"]
        assert recall.mean() == sum(rank <= 5 for rank in found) / count


def test_retrieval_by_hand():
    own = np.eye(4, dtype=bool)
    assert protocols.best_ranks(np.eye(4), own).tolist() == [1] * 4
    assert protocols.best_ranks(np.zeros((4, 4)), own).tolist() == [4] * 4  # ties count against
    assert protocols.best_ranks(np.zeros((2, 2)), np.ones((2, 2), bool)).tolist() == [1, 1]
    assert protocols.best_ranks(np.array([[3.0, 1.0], [2.0, 0.0]]), own[:2, :2]).tolist() == [1, 2]


def test_sounds_heard_in_an_image_by_hand():
    found = protocols.heard_in(["dog", "cat", "cow"], [["dog", "cat"], None, ["bell"]])
    assert found.tolist() == [[True, True, False], [False, True, False], [False, False, True]]


def test_many_columns_have_the_intervals_of_each():
    rng = np.random.default_rng(2)
    values, recordings = rng.random((30, 4)), rng.choice(list("abcdefgh"), 30)
    values[3:6, 2] = np.nan
    values[:, 3] = np.nan
    together = intervals.bootstrap_means(values, recordings, 400)
    for number in (0, 1, 3):
        assert together[number] == pytest.approx(intervals.bootstrap(values[:, number], recordings, 400), nan_ok=True)
    gaps = intervals.bootstrap(values[:, 2], recordings, 20_000)  # alone it draws only the recordings that it has
    assert together[2].value == pytest.approx(gaps.value) and together[2][3:] == gaps[3:]
    turned = rng.permutation(30)
    again = intervals.bootstrap_means(values[turned], recordings[turned], 400)
    assert np.ravel(again) == pytest.approx(np.ravel(together), nan_ok=True)


def of_means(function, columns, recordings, resamples):
    """The interval of a function of the means of several columns."""
    mean = intervals.means(np.stack(columns, axis=1))
    (found,) = intervals.bootstrap_statistic(lambda weights: function(*mean(weights).T)[:, None], recordings, resamples)
    return found


def test_interval_of_a_function_of_means():
    rng = np.random.default_rng(3)
    first, second, recordings = rng.random(40), rng.random(40), np.repeat(np.arange(10), 4).astype(str)
    mean = of_means(lambda one: one, [first], recordings, 500)
    assert mean == pytest.approx(intervals.bootstrap(first, recordings, 500))
    found = of_means(protocols.harmonic_mean, [first, second], recordings, 4000)
    assert found.value == pytest.approx(protocols.harmonic_mean(first.mean(), second.mean()))
    plain = []
    for _ in range(4000):
        rows = np.concatenate([np.arange(4) + 4 * g for g in rng.integers(0, 10, 10)])
        plain.append(protocols.harmonic_mean(first[rows].mean(), second[rows].mean()))
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.15 * np.std(plain))
    # positives and negatives are other clips of the same recordings
    apart = [np.append(first, np.full(40, np.nan)), np.append(np.full(40, np.nan), second)]
    twice = of_means(protocols.harmonic_mean, apart, np.tile(recordings, 2), 4000)
    assert twice[:3] == pytest.approx(found[:3]) and twice.clips == 80
    none = of_means(protocols.harmonic_mean, [first, np.full(40, np.nan)], recordings, 50)
    assert np.isnan(none[:3]).all()


def test_intervals_of_columns_with_gaps_by_a_loop():
    """A resample draws all recordings; a column's mean is over those of its clips that were drawn."""
    rng = np.random.default_rng(8)
    values, recordings = rng.random((24, 2)), np.repeat(list("abcdef"), 4)
    values[:7, 0] = np.nan  # all of recording a, most of b
    found = intervals.bootstrap_means(values, recordings, 4000)
    plain = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(recordings == name) for name in rng.choice(list("abcdef"), 6)])
        plain.append(np.nanmean(values[rows], axis=0) if (rows > 6).any() else [np.nan, values[rows, 1].mean()])
    for one, column, counts in zip(found, np.transpose(plain), ((17, 5), (24, 6)), strict=True):
        limits = np.nanquantile(column, [0.025, 0.975])
        assert [one.low, one.high] == pytest.approx(limits, abs=0.15 * np.nanstd(column)) and one[3:] == counts
    assert found[0].value == pytest.approx(np.nanmean(values[:, 0]))


def of_seeds(values, recordings, *resampling):
    """The interval of the mean over seeds (rows) and clips (columns)."""
    return intervals.bootstrap_means(values[:, :, None], recordings, *resampling)[0]


def test_seeds_are_a_second_level():
    rng = np.random.default_rng(4)
    clips, recordings = rng.random(30), [str(i) for i in range(30)]
    alike = of_seeds(np.stack([clips] * 3), recordings, 2000)
    assert alike == pytest.approx(intervals.bootstrap(clips, recordings, 2000))
    constant = of_seeds(np.repeat([[0.0], [1.0]], 30, axis=1), recordings, 4000, 0.4)
    assert constant == (0.5, 0.5, 0.5, 30, 30)  # (0, 0), (0, 1), (1, 1) with chances 1/4, 1/2, 1/4
    assert of_seeds(np.repeat([[0.0], [1.0]], 30, axis=1), recordings, 4000)[1:3] == (0, 1)
    spread = np.stack([clips, clips + 0.4])
    both, one = of_seeds(spread, recordings, 2000), intervals.bootstrap(clips, recordings, 2000)
    assert both.high - both.low > 1.5 * (one.high - one.low)
    hole = spread.copy()
    hole[1, 5] = np.nan
    assert of_seeds(hole, recordings, 100) == of_seeds(np.delete(spread, 5, 1), np.delete(recordings, 5), 100)


def test_clusters_for_every_clip():
    with pytest.raises(ValueError, match="3 clips with values, but clusters for 2"):
        intervals.bootstrap(np.zeros(3), ["a", "b"])
