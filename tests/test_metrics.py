"""The measures against double loops over their definitions, cases worked by hand and library functions."""

import inspect
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from sslib import metrics
from sslib.evaluation import bootstrap as intervals
from sslib.evaluation import protocols

RULES = ("median", "top_half", "adaptive", "fixed")
LEVEL = 0.25


def loop_prediction(heatmap: np.ndarray, truth: np.ndarray, rule: str) -> list[list[bool]]:
    height, width = heatmap.shape
    if rule == "median":
        ordered = sorted(float(v) for v in heatmap.ravel())
        half = len(ordered) // 2
        middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return [[heatmap[y, x] >= middle for x in range(width)] for y in range(height)]
    if rule == "fixed":
        return [[heatmap[y, x] > LEVEL for x in range(width)] for y in range(height)]
    places = [(y, x) for y in range(height) for x in range(width)]
    count = round(float(truth.sum())) if rule == "adaptive" else height * width // 2
    first = sorted(places, key=lambda place: (-heatmap[place], place))[:count]
    return [[(y, x) in first for x in range(width)] for y in range(height)]


def loop_ciou(heatmap: np.ndarray, truth: np.ndarray, rule: str) -> float:
    predicted = loop_prediction(heatmap, truth, rule)
    both = wanted = beside = 0.0
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            p, g = float(predicted[y][x]), float(truth[y, x])
            both += p * g
            wanted += g
            beside += p * (g == 0)
    return both / (wanted + beside) if wanted else float("nan")


def binarized(heatmaps: np.ndarray, truth: np.ndarray, rule: str) -> np.ndarray:
    """The pixels that each map claims."""
    chosen = [
        metrics.binarize(heatmap.reshape(-1).astype(float), round(float(ground_truth.sum())), (rule,), LEVEL)[0]
        for heatmap, ground_truth in zip(heatmaps, truth, strict=True)
    ]
    return np.array(chosen).reshape(heatmaps.shape)


def random_clips(seed: int, levels: int | None, count: int = 5, size: tuple[int, int] = (6, 9)):
    """Heatmaps (with `levels` different values: many ties) and consensus maps of 0, 0.5 and 1."""
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(size=(count, *size)) if levels is None else rng.integers(0, levels, (count, *size)) / 7.0
    return heatmaps, rng.choice([0.0, 0.0, 0.5, 1.0], (count, *size))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 5]), st.sampled_from(RULES), st.booleans())
def test_ciou_is_its_definition(seed, levels, rule, odd):
    heatmaps, truth = random_clips(seed, levels, size=(5, 7) if odd else (6, 9))
    if seed % 2:
        truth[0] = 0
    want = [loop_ciou(h, g, rule) for h, g in zip(heatmaps, truth, strict=True)]
    assert metrics.ciou(heatmaps, truth, rule, LEVEL) == pytest.approx(want, nan_ok=True)
    together = metrics.ciou_by_rule(heatmaps, truth, RULES, LEVEL)
    assert together[rule] == pytest.approx(want, nan_ok=True)
    predicted = binarized(heatmaps, truth, rule)
    assert predicted.tolist() == [loop_prediction(h, g, rule) for h, g in zip(heatmaps, truth, strict=True)]


@pytest.mark.parametrize("rule", ["median", "adaptive"])
def test_ciou_of_masks_is_the_iou_of_sklearn(rule):
    rng = np.random.default_rng(1)
    heatmaps, masks = rng.normal(size=(4, 7, 7)), rng.random((4, 7, 7)) < 0.4
    found = metrics.ciou(heatmaps, masks.astype(float), rule)
    predicted = binarized(heatmaps, masks.astype(float), rule)
    want = [jaccard_score(m.ravel(), p.ravel()) for m, p in zip(masks, predicted, strict=True)]
    assert found == pytest.approx(want)
    assert metrics.ciou(heatmaps, masks, rule) == pytest.approx(want)  # a mask is a ground truth too
    if rule == "adaptive":
        assert (predicted.sum(axis=(1, 2)) == masks.sum(axis=(1, 2))).all()


def corner(height: int, width: int, size: int = 4) -> np.ndarray:
    truth = np.zeros((1, size, size))
    truth[0, :height, :width] = 1
    return truth


def test_hand_worked_cases():
    truth = corner(2, 2)  # a quarter of 16 pixels
    constant = np.full((1, 4, 4), 0.3)
    assert metrics.ciou(constant, truth) == [4 / 16]  # ties at the median: all of it is claimed
    assert metrics.ciou(constant, truth, "adaptive") == [2 / 6]  # the first four in reading order, two of them right
    upper = np.zeros((1, 4, 4))
    upper[0, :2] = 1  # median 0.5: the upper half
    assert metrics.ciou(upper, truth) == [4 / 8]
    assert metrics.ciou(-upper, truth) == [0]
    few = np.zeros((1, 4, 4))
    few[0, 0, 0] = 1  # median 0: everything is at or above it
    assert metrics.ciou(few, truth) == [4 / 16]
    assert metrics.ciou(truth, truth, "adaptive") == [1]
    half = np.where(truth > 0, 0.5, 0.0)  # one annotator of two: both * 0.5 against 4 * 0.5 + 4 pixels beside
    assert metrics.ciou(upper, half) == [pytest.approx(2 / (2 + 4))]


def test_whole_and_empty_ground_truth():
    heatmaps = np.arange(32.0).reshape(2, 4, 4)
    truth = np.concatenate([np.ones((1, 4, 4)), np.zeros((1, 4, 4))])
    assert metrics.ciou(heatmaps, truth) == pytest.approx([0.5, np.nan], nan_ok=True)
    assert metrics.ciou(heatmaps, truth, "adaptive") == pytest.approx([1, np.nan], nan_ok=True)
    values = metrics.ciou(heatmaps, truth)
    assert metrics.success_rate(values) == 1 and metrics.auc(values) == pytest.approx(metrics.auc(values[:1]))
    assert metrics.pointing(heatmaps, truth > 0).tolist() == [1, 0]


@pytest.mark.parametrize("measure", ["median", "adaptive", "pointing"])
def test_faulty_heatmaps_are_errors(measure):
    def call(heatmaps, truth):
        if measure == "pointing":
            return metrics.pointing(heatmaps, truth > 0)
        return metrics.ciou(heatmaps, truth, measure)

    for value in (np.nan, np.inf):
        heatmaps = np.zeros((3, 4, 4))
        heatmaps[1, 2, 2] = value
        with pytest.raises(ValueError, match=r"not finite, at rows \[1\]"):
            call(heatmaps, np.ones((3, 4, 4)))


@pytest.mark.parametrize("measure", ["ciou_by_rule", "pointing", "mask_curves"])
def test_as_many_heatmaps_as_ground_truths(measure):
    """Outside pytest, where no annotation is checked, too."""
    rules = [["median"]] if measure == "ciou_by_rule" else []
    with pytest.raises(ValueError, match="3 heatmaps for 2 ground truths"):
        inspect.unwrap(getattr(metrics, measure))(np.zeros((3, 4, 4)), np.ones((2, 4, 4)) > 0, *rules)


def test_clips_are_named_in_errors():
    heatmaps, truth = np.zeros((2, 3, 3)), np.ones((2, 4, 4))
    with pytest.raises(ValueError, match=r"outside of.*at clips \['b'\]"):
        metrics.ciou(heatmaps, truth * [[[1.0]], [[np.nan]]], ids=["a", "b"])
    with pytest.raises(ValueError, match="outside of"):
        metrics.ciou(heatmaps, truth * 255)
    heatmaps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"not finite, at clips \['b'\]"):
        metrics.ciou(heatmaps, truth, ids=["a", "b"])
    with pytest.raises(ValueError, match="needs a threshold"):
        metrics.ciou(heatmaps[:1], truth[:1], "fixed")


@pytest.mark.parametrize("value", [0.3, -7.1, 1e9 / 3, np.float32(0.1)])
@pytest.mark.parametrize("cells", [14, 7, 5, 20])
def test_a_constant_map_stays_constant(value, cells):
    """Rounded weights would claim some of the pixels and not others."""
    large = metrics.resize(np.full((1, cells, cells), value))
    assert (large == value).all()
    assert binarized(large, np.ones((1, 224, 224)), "median").all()


def test_ties_of_cells_stay_ties_of_pixels():
    """float32 maps of 14 x 14 are interpolated exactly: every row is the same, so only whole columns are claimed."""
    maps = np.random.default_rng(0).choice([0.1, 0.3, 0.7], (3, 1, 14)).astype(np.float32).repeat(14, axis=1)
    claimed = binarized(metrics.resize(maps), np.ones((3, 224, 224)), "median")
    assert (claimed == claimed[:, :1]).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3]))
def test_mask_curves_are_their_definition(seed, levels):
    heatmaps, truth = random_clips(seed, levels, count=2, size=(4, 5))
    masks = truth > 0
    masks[1] &= seed % 2 == 0
    found = metrics.mask_curves(heatmaps, masks)
    for heatmap, mask, f, iou in zip(heatmaps, masks, found.f, found.iou, strict=True):
        span = heatmap.max() - heatmap.min()
        scaled = 254 * ((heatmap - heatmap.min()) / (span or 1))
        for k in range(255):
            claimed = scaled >= k
            right, total = (claimed & mask).sum(), mask.sum()
            if not total:
                assert np.isnan(f[k]) and np.isnan(iou[k])
                continue
            precision, recall = right / max(claimed.sum(), 1), right / total
            want = 1.3 * precision * recall / (0.3 * precision + recall) if right else 0
            assert f[k] == pytest.approx(want)
            assert iou[k] == pytest.approx(jaccard_score(mask.ravel(), claimed.ravel()) if k % 50 == 0 else iou[k])


def test_consensus_of_annotators_by_hand():
    one, two, three = [[0, 0, 0.5, 1]], [[0, 0, 1, 0.5], [0, 0, 0.2, 0.2]], [[0.9, 0.9, 1, 1]]
    found = metrics.consensus_map([one, two, three], 10)
    want = np.zeros((10, 10))
    want[:, :5] += 0.5
    want[:5] += 0.5
    want[9:, 9:] += 0.5  # two boxes of one annotator are one vote, three annotators at most 1
    np.testing.assert_array_equal(found, np.minimum(want, 1))
    assert metrics.consensus_map([one, one, one], 10).max() == 1 and metrics.consensus_map([], 10).sum() == 0
    pixels = metrics.consensus_map([[[37 / 256, 0, 1, 1]]])
    assert pixels[0, int(37 * 224 / 256) - 1] == 0 and pixels[0, int(37 * 224 / 256)] == 0.5


def test_area_groups_begin_at_their_edges():
    found = metrics.area_group(np.array([0, 0.01, 0.121, 0.2, 0.253, 0.463, 1]))
    assert found.tolist() == ["empty", "small", "medium", "medium", "large", "huge", "huge"]


def test_centre_square_as_a_plain_square():
    truth = np.zeros((3, 20, 20))
    truth[0, 8:12, 8:12] = 1  # area 16: the same square
    truth[1, :5, :10] = 1  # area 50: 7 x 7 at 6..12, of which rows none, columns four
    found = protocols.centre_square_ciou(truth, "adaptive")
    assert found == pytest.approx([1, 0, np.nan], nan_ok=True)
    truth[1, :7, :10] = 1  # area 70: 8 x 8 at 6..13; row 6, columns 6..9
    assert protocols.centre_square_ciou(truth, "adaptive")[1] == pytest.approx(4 / (70 + 64 - 4))
    assert np.isnan(protocols.centre_square_ciou(truth, "fixed")).all()
    for rule in ("median", "top_half"):
        want = metrics.ciou(protocols.centre_square(3, 20), truth, rule)
        np.testing.assert_array_equal(protocols.centre_square_ciou(truth, rule), want)


def test_nothing_measured_has_no_value():
    nothing = np.array([np.nan])
    assert np.isnan([metrics.success_rate(nothing), metrics.auc(nothing)]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 2, 4]))
def test_pointing_is_its_definition(seed, levels):
    heatmaps, truth = random_clips(seed, levels)
    want = []
    for heatmap, mask in zip(heatmaps, truth > 0, strict=True):
        places = [(y, x) for y in range(6) for x in range(9) if heatmap[y, x] == heatmap.max()]
        want.append(sum(bool(mask[place]) for place in places) / len(places))
    assert metrics.pointing(heatmaps, truth > 0) == pytest.approx(want)


def test_pointing_by_hand():
    mask = corner(2, 2) > 0
    heatmap = np.zeros((1, 4, 4))
    assert metrics.pointing(heatmap, mask) == [0.25]  # constant: the object's area
    heatmap[0, 1, 1] = 1
    assert metrics.pointing(heatmap, mask) == [1]
    heatmap[0, 3, 3] = 1
    assert metrics.pointing(heatmap, mask) == [0.5]
    heatmap[0, 3, 3] = 2
    assert metrics.pointing(heatmap, mask) == [0]


def test_success_rate_and_auc_are_their_definitions():
    values = np.array([0.0, 0.05, 0.3, 0.5, 0.499, 0.77, 1.0])
    assert metrics.success_rate(values) == 3 / 7
    assert metrics.success_rate(values, threshold=0.3) == 5 / 7
    thresholds = [0.05 * i for i in range(21)]  # as the field's script writes them, rounding included
    share = [sum(v >= t for v in values) / 7 for t in thresholds]
    area = sum((share[i] + share[i + 1]) / 2 * 0.05 for i in range(20))
    assert metrics.auc(values) == pytest.approx(area)
    assert metrics.auc_per_clip(values).mean() == pytest.approx(area)
    assert metrics.auc(np.array([1.0])) == pytest.approx(1) and metrics.auc(np.array([0.0])) == pytest.approx(0.025)


@pytest.mark.parametrize("old", [(14, 14), (1, 1), (3, 5), (20, 30), (2, 1), (8, 224)])
@pytest.mark.parametrize("new", [(224, 224), (10, 7), (3, 5)])
def test_resize_is_that_of_torch(old, new):
    maps = np.random.default_rng(0).normal(size=(3, *old))
    want = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size=new, mode="bilinear")[:, 0]
    np.testing.assert_allclose(metrics.resize(maps, new), want, atol=1e-12)


def test_heatmaps_are_resized_to_the_ground_truth():
    rng = np.random.default_rng(2)
    maps, truth = rng.normal(size=(4, 3, 3)), (rng.random((4, 12, 20)) < 0.3).astype(float)
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size=(12, 20), mode="bilinear")[:, 0]
    for rule in ("median", "adaptive"):
        want = [loop_ciou(h, g, rule) for h, g in zip(large.numpy(), truth, strict=True)]
        assert metrics.ciou(maps, truth, rule) == pytest.approx(want)


@pytest.mark.parametrize("rule", ["median", "top_half", "adaptive"])
def test_neither_chunks_nor_order_nor_company_matter(rule, monkeypatch):
    heatmaps, truth = random_clips(3, 5, count=11)
    truth[4] = 0
    whole = metrics.ciou(heatmaps, truth, rule)
    points = metrics.pointing(heatmaps, truth > 0)
    monkeypatch.setattr(metrics, "CHUNK", 3)
    np.testing.assert_array_equal(metrics.ciou(heatmaps, truth, rule), whole)
    np.testing.assert_array_equal(metrics.pointing(heatmaps, truth > 0), points)
    turned = np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(metrics.ciou(heatmaps[turned], truth[turned], rule), whole[turned])
    for i in range(11):
        alone = metrics.ciou(heatmaps[i : i + 1], truth[i : i + 1], rule)
        np.testing.assert_array_equal(alone, whole[i : i + 1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_the_ranking_counts(seed):
    """An odd number of pixels: the median is a value of the map, so any increasing function keeps all of it."""
    heatmaps, truth = random_clips(seed, 7, size=(5, 7))
    for rule in ("median", "adaptive"):
        want = metrics.ciou(heatmaps, truth, rule)
        np.testing.assert_array_equal(metrics.ciou(np.arctan(heatmaps) * 30 - 2, truth, rule), want)


def test_box_map_by_hand():
    def pixels(*boxes, size=10):
        return metrics.box_map(boxes, size)

    want = np.zeros((10, 10))
    want[2:7, 1:4] = 1  # rows from ymin, columns from xmin; int() cuts 10 * 0.79 to 7 and 10 * 0.45 to 4
    np.testing.assert_array_equal(pixels([0.1, 0.2, 0.45, 0.79]), want)
    np.testing.assert_array_equal(pixels([0, 0, 1, 1]), np.ones((10, 10)))
    assert pixels().sum() == 0
    assert pixels([0.31, 0.31, 0.39, 0.9]).sum() == 0  # narrower than a pixel
    np.testing.assert_array_equal(pixels([-0.3, -0.1, 0.2, 0.3]), pixels([0, 0, 0.2, 0.3]))
    np.testing.assert_array_equal(pixels([0.8, 0.8, 1.4, 1.1]), pixels([0.8, 0.8, 1, 1]))
    assert pixels([0, 0, 0.5, 0.5], [0.3, 0.3, 0.8, 0.8]).sum() == 25 + 25 - 4  # a union, not a sum
    assert pixels([0.5, 0.5, 0.2, 0.2]).sum() == 0
    assert metrics.box_map([[0, 0, 0.5, 1]]).shape == (224, 224)
    assert metrics.box_map([[0, 0, 0.5, 1]]).sum() == 112 * 224


def test_whole_image_scores_the_area():
    rng = np.random.default_rng(4)
    truth = np.stack([metrics.box_map([[0, 0, *rng.random(2)]], 20) for _ in range(6)])
    area = truth.mean(axis=(1, 2))
    found = metrics.ciou(protocols.whole_image(6), truth)
    np.testing.assert_allclose(found, np.where(area > 0, area, np.nan))
    np.testing.assert_allclose(metrics.pointing(protocols.whole_image(6), truth > 0), area)


@pytest.mark.parametrize("side", [2, 4, 8, 14])
def test_centre_square_is_cut_as_a_square(side):
    size = 20
    square = np.zeros((1, size, size))
    low = (size - side) // 2
    square[0, low : low + side, low : low + side] = 1
    assert metrics.ciou(protocols.centre_square(1, size), square, "adaptive") == [1]
    half = binarized(protocols.centre_square(1, size), square, "median")[0]
    assert half.sum() == size * size / 2
    assert half[3:17, 3:17].all() and not half[:2].any() and not half[:, -2:].any()  # 14 x 14 = 196 of 200, in 16 x 16


@pytest.mark.parametrize("area, want", [(0.1, 0.2), (0.25, 0.5), (0.5, 1.0), (0.8, 0.5 / 0.8)])
def test_oracle_reaches_what_the_median_allows(area, want):
    truth = np.zeros((1, 20, 20))
    truth.reshape(-1)[: round(400 * area)] = 1
    assert metrics.ciou(protocols.oracle(truth), truth) == [pytest.approx(want)]
    assert metrics.ciou(protocols.oracle(truth), truth, "adaptive") == [1]
    assert metrics.pointing(protocols.oracle(truth), truth > 0) == [1]


def names(*counts: int) -> list[str]:
    return [f"recording {i}" for i, count in enumerate(counts) for _ in range(count)]


def test_bootstrap_of_single_clips_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=40)
    found = intervals.bootstrap(values, names(*[1] * 40), 20_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    spread = values.std() / np.sqrt(40)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * spread)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * spread)
    assert (found.clips, found.clusters) == (40, 40)


def test_bootstrap_of_a_share_has_the_quantiles_of_the_binomial():
    values = np.repeat([0.0, 1.0], [35, 65])
    found = intervals.bootstrap(values, names(*[1] * 100), 20_000, confidence=0.9)
    low, high = scipy.stats.binom.ppf([0.05, 0.95], 100, 0.65) / 100
    assert (found.low, found.high) == (pytest.approx(low, abs=0.0101), pytest.approx(high, abs=0.0101))
    assert found.value == pytest.approx(0.65)


def test_bootstrap_resamples_recordings_not_clips():
    rng = np.random.default_rng(5)
    level = rng.normal(size=12)
    once = intervals.bootstrap(level, names(*[1] * 12), 4000)
    often = intervals.bootstrap(np.repeat(level, 50), names(*[50] * 12), 4000)
    assert (often.low, often.high, often.value) == pytest.approx((once.low, once.high, once.value))
    assert (often.clips, often.clusters) == (600, 12)
    scenes = intervals.bootstrap(np.repeat(level, 50), [str(i) for i in range(600)], 4000)
    assert scenes.high - scenes.low < 0.25 * (often.high - often.low)  # what we do not do: sqrt(50) times too sure


def test_bootstrap_draws_whole_clusters_of_unequal_size():
    """Two recordings of 1 and 3 clips: the draws (2, 0), (1, 1), (0, 2) with chances 1/4, 1/2, 1/4, means 8, 2, 0."""
    values = np.array([8.0, 0.0, 0.0, 0.0])
    found = intervals.bootstrap(values, ["a", "b", "b", "b"], 4000, confidence=0.8)
    assert found == (2, 0, 8, 4, 2)
    narrow = intervals.bootstrap(values, ["a", "b", "b", "b"], 4000, confidence=0.4)
    assert (narrow.low, narrow.high) == (2, 2)
    mixed = intervals.bootstrap(values[[1, 0, 2, 3]], ["b", "a", "b", "b"], 4000, confidence=0.8)
    assert mixed == found  # in whatever order the clips come


def test_bootstrap_of_what_never_differs_has_no_width():
    found = intervals.bootstrap(np.full(30, 0.625), names(*[3] * 10), 500)
    assert found == (0.625, 0.625, 0.625, 30, 10)
    one = intervals.bootstrap(np.array([0.1, 0.4]), ["a", "a"], 500)
    assert (one.low, one.high, one.clusters) == (pytest.approx(0.25), pytest.approx(0.25), 1)


def test_bootstrap_of_paired_differences():
    """Two methods that differ by 0.1 on every clip: sure of the difference, however unsure of each."""
    rng = np.random.default_rng(6)
    one = rng.random(50)
    alone = intervals.bootstrap(one, names(*[5] * 10), 2000)
    pair = intervals.bootstrap(one + 0.1 - one, names(*[5] * 10), 2000)
    assert alone.high - alone.low > 0.05
    assert (pair.low, pair.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_bootstrap_leaves_out_what_has_no_value():
    values, clusters = np.array([1.0, np.nan, 0.0, np.nan]), ["a", "a", "b", "c"]
    assert intervals.bootstrap(values, clusters, 500) == intervals.bootstrap(np.array([1.0, 0.0]), ["a", "b"], 500)
    none = intervals.bootstrap(np.array([np.nan]), ["a"], 500)
    assert np.isnan(none[:3]).all() and none[3:] == (0, 0)


def test_bootstrap_repeats_with_its_seed():
    values = np.random.default_rng(7).normal(size=30)
    assert intervals.bootstrap(values, names(*[3] * 10), 300) == intervals.bootstrap(values, names(*[3] * 10), 300)
    assert intervals.bootstrap(values, names(*[3] * 10), 300, seed=1) != intervals.bootstrap(
        values, names(*[3] * 10), 300
    )


def test_bootstrap_takes_columns_of_a_table():
    import pandas as pd

    table = pd.DataFrame({"value": [0.0, 1.0, 1.0], "recording": ["a", "b", "c"]})
    found = intervals.bootstrap(table["value"].to_numpy(), table["recording"].to_numpy(), 300)
    assert found == intervals.bootstrap(np.array([0.0, 1.0, 1.0]), ["a", "b", "c"], 300)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=8), st.integers(0, 1000))
def test_bootstrap_interval_lies_inside_the_cluster_means(counts, seed):
    values = np.random.default_rng(seed).random(sum(counts))
    found = intervals.bootstrap(values, names(*counts), 200)
    means = [values[np.array(names(*counts)) == name].mean() for name in set(names(*counts))]
    assert min(means) - 1e-12 <= found.low <= found.high <= max(means) + 1e-12


def test_smoothing_is_the_mean_with_a_gaussian():
    maps = np.random.default_rng(5).standard_normal((2, 5, 7))
    got, want = metrics.smooth(maps, 0.15), np.zeros_like(maps)
    for n, row, column in np.ndindex(maps.shape):
        total = weights = 0.0
        for y in range(row - 12, row + 13):  # beyond the rim the nearest cell goes on
            for x in range(column - 12, column + 13):
                distance = ((y - row) / (0.15 * 5)) ** 2 + ((x - column) / (0.15 * 7)) ** 2
                total += math.exp(-distance / 2) * maps[n, min(max(y, 0), 4), min(max(x, 0), 6)]
                weights += math.exp(-distance / 2)
        want[n, row, column] = (maps[n, row, column] + total / weights) / 2
    np.testing.assert_allclose(got, want, atol=1e-3)  # scipy cuts the Gaussian at four sigma
    assert metrics.smooth(maps, 0.0) is maps
    np.testing.assert_allclose(metrics.smooth(np.full((1, 3, 3), 0.7), 0.3), 0.7)
