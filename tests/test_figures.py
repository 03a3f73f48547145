"""Figures: what is drawn is what the numbers are."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from sslib.data.layout import Layout
from sslib.evaluation import comparison, measures, protocols
from sslib.evaluation.measures import AnnotatedClips
from sslib.report import evaluation_figures, figures


def share(drawn, threshold):
    """Read a share off a line that starts at its first point and goes down a step at each further one."""
    x, y = drawn
    return y[np.searchsorted(x[1:], threshold)]


def lines(axis):
    """What an axis draws, by label."""
    return {line.get_label(): np.array(line.get_data()) for line in axis.lines}


def test_threshold_curves_are_shares_of_clips():
    own, other = np.array([0.1, 0.5, 0.9]), np.array([0.2])
    figure = evaluation_figures.threshold_curves({"a": {"model": own}, "b": {"other": other}}, "cIoU")
    drawn = lines(figure.axes[0])["model"]
    for t, expected in ((0.0, 1.0), (0.3, 2 / 3), (0.5, 2 / 3), (0.505, 1 / 3), (1.0, 0.0)):
        assert share(drawn, t) == pytest.approx(expected), t
    assert drawn[0][0] == 0 and drawn[1][0] == 1  # also where every value is high
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["model", "other"]
    assert figure.axes[0].lines[0].get_color() != figure.axes[1].lines[0].get_color()


def test_the_same_clips_under_every_method(configure, tmp_path):
    """Rows are the first clips of evenly spaced classes, columns the picture and each run's map of that clip."""
    settings = configure()
    layout = Layout(settings.data.root)
    ids, known, runs = layout.ids("test"), layout.annotations("test"), {}
    rows = pd.DataFrame(
        {"split": "test", "subset": "all", "clip_id": ids, "map_kind": "similarity", "condition": "own"}
    )
    rows["class"] = [known[clip_id]["class"] for clip_id in ids]
    for number, (name, order) in enumerate({"a": ids, "b": ids[::-1]}.items()):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        rows.to_csv(runs[name] / "clips.csv", index=False)
        (runs[name] / "summary.json").write_text(json.dumps({"format": comparison.FORMAT}))
        maps = np.zeros((len(ids), 2, 2))
        for place, clip_id in enumerate(order):  # bright in the corner that the clip and the run say
            maps[place].flat[(ids.index(clip_id) + number) % 4] = 1
        np.savez(runs[name] / "maps.npz", **{"test/ids": np.array(order), "test/similarity": maps})
    figure = evaluation_figures.same_clips(runs, settings, count=3)
    classes = sorted(set(rows["class"]))
    chosen = [classes[i] for i in np.linspace(0, len(classes) - 1, 3).round().astype(int)]
    first = [rows.loc[rows["class"] == name, "clip_id"].iloc[0] for name in chosen]
    axes = np.array(figure.axes).reshape(3, 3)
    assert [axis.get_title() for axis in axes[0]] == ["picture", "a", "b"]
    assert [axis.get_ylabel()[2:9] for axis in axes[:, 0]] == [name.replace("_", " ")[:7] for name in chosen]
    for row, clip_id in zip(axes, first, strict=True):
        for number, axis in enumerate(row[1:]):
            drawn = axis.images[0].get_array().astype(float).sum(axis=2)
            quarters = [part.mean() for half in np.split(drawn, 2) for part in np.split(half, 2, axis=1)]
            assert int(np.argmax(quarters)) == (ids.index(clip_id) + number) % 4


def test_area_scatter_shows_every_clip_under_its_bound():
    area, ciou = np.array([0.1, 0.25, 0.5, 0.8]), np.array([0.2, 0.5, 1.0, 0.625])
    axis = evaluation_figures.area_scatter(area, ciou).axes[0]
    np.testing.assert_allclose(axis.collections[0].get_offsets(), np.stack([area, ciou], 1))
    bound = lines(axis)["best possible at the median"]
    np.testing.assert_allclose(np.interp(area, *bound), ciou, atol=2e-3)  # these four reach it
    centres, means = lines(axis)["their mean"]
    assert means.mean() == pytest.approx(ciou.mean()) and centres.mean() == pytest.approx(area.mean())


def test_confidences_and_claimed_shares():
    axis = evaluation_figures.confidences({"own": np.array([0.2, 0.9]), "noise": np.array([0.1, 0.1, 0.3])}).axes[0]
    heights = [sorted(set(np.round(area.get_paths()[0].vertices[:, 1], 6))) for area in axis.collections]
    assert sorted(heights) == [[0, 0.333333, 0.666667], [0, 0.5]]  # of each kind's own clips
    maps = {"own": np.array([[[0.0, 1.0], [2.0, 3.0]]]), "noise": np.full((3, 2, 2), 1.5)}
    maps["noise"][2] = np.nan  # a clip without this sound
    drawn = lines(evaluation_figures.area_above_threshold(maps, 2.5).axes[0])
    for t, expected in ((0.1, 0.75), (1.1, 0.5), (2.5, 0.25), (3.1, 0.0)):
        assert share(drawn["own"], t) == pytest.approx(expected, abs=1e-9), t
    assert [share(drawn["noise"], t) for t in (1.4, 1.6)] == pytest.approx([1, 0])
    assert drawn["universal threshold"][0].tolist() == [2.5, 2.5]


def test_movement_and_shares():
    axis = evaluation_figures.movement(np.array([0.7, 0.1]), np.array([0.2, 0.1])).axes[0]
    np.testing.assert_allclose(axis.collections[-1].get_offsets(), [[0.2, 0.7], [0.1, 0.1]])
    table = pd.DataFrame({"this": [0.5, 1.0], "other": [0.2, 0.0], "else": [0.3, 0.0]}, index=["own", "none"])
    axis = evaluation_figures.stacked_shares(table, "share").axes[0]
    assert [patch.get_width() for patch in axis.patches] == pytest.approx([0.5, 1.0, 0.2, 0.0, 0.3, 0.0])
    assert sorted(filter(None, (text.get_text() for text in axis.texts))) == ["100%", "20%", "30%", "50%"]


def test_per_class_sorts_and_leaves_single_recordings_hollow():
    rows = [(f"c_{n}", n / 10, n / 10 - 0.05, n / 10 + 0.05, 4, 1 + n % 2) for n in range(7)]
    table = pd.DataFrame(rows, columns=["subset", "value", "low", "high", "clips", "clusters"])
    left, right = evaluation_figures.per_class(table, 0.2, "pointing").axes
    names = [[label.get_text() for label in axis.get_yticklabels()] for axis in (left, right)]
    assert names == [["c 6 (4)", "c 5 (4)", "c 4 (4)", "c 3 (4)"], ["c 2 (4)", "c 1 (4)", "c 0 (4)"]]
    dots = left.collections[-1]
    assert [to_hex(colour) == "#ffffff" for colour in dots.get_facecolors()] == [True, False, True, False]
    assert len(left.collections[0].get_segments()) == 2
    left, right = evaluation_figures.per_class(table, 0.2, "pointing", max_classes=4).axes
    assert [label.get_text()[:3] for axis in (left, right) for label in axis.get_yticklabels()] == [
        "c 6", "c 5", "c 1", "c 0",
    ]  # fmt: skip


def test_overlay_on_a_common_scale():
    weak = np.array([[0.0, 0.1], [0.2, 0.3]])
    own, common = (figures.scale_map(weak, (8, 8), limits) for limits in (None, (0.0, 0.6)))
    assert own.max() == pytest.approx(1) and common.max() == pytest.approx(0.5) and common.min() == 0
    assert figures.scale_map(np.ones((2, 2)), (8, 8)).max() == 0  # a map that says nothing


@pytest.mark.parametrize("brightness", [0, 255])
def test_an_overlay_is_brighter_where_it_is_heard_on_any_picture(brightness):
    image = np.full((3, 8, 8), brightness, np.uint8)
    shown = figures.overlay(image, np.linspace(0, 1, 64).reshape(8, 8))
    grey = (np.array([0.299, 0.587, 0.114]) @ shown.reshape(3, -1)).reshape(-1)
    assert shown.dtype == np.uint8 and grey[-1] > grey[0] + 40
    axes = figures.grid(1, 1, 1, 1)[1][0, 0]
    figures.show_heatmap(axes, image, np.eye(2))
    np.testing.assert_array_equal(axes.images[0].get_array().transpose(2, 0, 1), figures.overlay(image, np.eye(2)))


def test_the_outline_of_an_object_at_the_rim_is_closed():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # the upper left corner
    _, axes = figures.grid(1, 1, 1, 1)
    figures.show_image(axes[0, 0], np.zeros((3, 8, 8), np.uint8))
    figures.outline(axes[0, 0], 8, mask=mask)
    (outline,) = axes[0, 0].collections[-1].get_paths()
    points = outline.vertices
    np.testing.assert_array_equal(points[0], points[-1])
    assert points.min(axis=0).tolist() == [-0.5, -0.5] and points.max(axis=0).tolist() == [1.5, 3.5]
    assert axes[0, 0].get_xlim() == (-0.5, 7.5) and axes[0, 0].get_ylim() == (7.5, -0.5)


# Two pictures with two sounds each, one with one ---------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path) -> AnnotatedClips:
    left, right = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]
    boxes = {"s0_a": left, "alone": left, "s0_b": right, "s1_a": right, "s1_b": left}
    annotations = {
        clip_id: {"boxes": [box], "scene": clip_id[:2], "recording": f"r_{clip_id}"} for clip_id, box in boxes.items()
    }
    return AnnotatedClips("test", Layout(tmp_path), list(boxes), annotations)


LEFT, RIGHT = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])


def test_sound_swaps_compare_the_same_object_under_both_sounds(clips):
    found = measures.sound_swap(clips)
    assert found.ids == ["s0_a", "s0_b", "s1_a", "s1_b"] and found.rows.tolist() == [0, 2, 3, 4]
    assert found.recordings == [f"r_{clip_id}" for clip_id in found.ids]
    maps = np.stack([LEFT, RIGHT, RIGHT, LEFT, LEFT])  # the first scene follows the sound, the second stays left
    this, other = protocols.ciou_by_sound(maps[found.rows], found.ground_truth.boxes)
    assert this.tolist() == [1, 1, 0, 1] and other.tolist() == [0, 0, 0, 1]
    shares = protocols.pointing_by_sound(maps[found.rows], found.ground_truth.masks)
    assert shares == {"this object": 3 / 4, "the other object": 1 / 4, "elsewhere": 0}


def test_sound_swaps_with_masks_know_the_background(clips):
    for clip_id in ("s0_a", "s0_b"):
        mask = np.zeros((224, 224), np.uint8)
        mask[112:, :112] = 255 if clip_id == "s0_a" else 0
        mask[112:, 112:] = 255 if clip_id == "s0_b" else 0
        path = clips.layout.mask(clip_id)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    found = measures.sound_swap(clips, max_clips=2)
    assert found.ids == ["s0_a", "s0_b"]
    top = np.zeros((5, 2, 2))
    top[:, 0, 0] = 1
    shares = protocols.pointing_by_sound(top[found.rows], found.ground_truth.masks)
    assert shares == {"this object": 0, "the other object": 0, "elsewhere": 1}


def test_no_pairs_without_scenes(clips):
    assert measures.sound_swap(clips._replace(ids=["s0_a", "alone"])) is None


def test_confidence_by_sound_and_by_method():
    clips = pd.DataFrame(
        [
            ("similarity", "own", True, 0.9, 0.5), ("similarity", "own", False, 0.4, np.nan),
            ("similarity", "noise", False, 0.1, np.nan), ("centre_square", "none", True, 0.0, 0.2),
        ],
        columns=["map_kind", "condition", "source", "confidence", "ciou"],
    )  # fmt: skip
    sounds = {"own": "own sound", "noise": "noise", "silence": "silence"}
    found = evaluation_figures.confidence_by_sound(clips, sounds)
    assert {label: values.tolist() for label, values in found.items()} == {
        "own sound": [0.9], "noise": [0.1], evaluation_figures.UNSEEN: [0.4],
    }  # fmt: skip
    methods = evaluation_figures.values_by_method(clips, "ciou")
    assert {method: values.tolist() for method, values in methods.items()} == {"model": [0.5], "centre square": [0.2]}


def test_intervals_with_and_without_groups():
    rows = [("a", "x", 0.2, 0.1, 0.4), ("b", "x", 0.5, 0.5, 0.6), ("b", "y", 0.7, 0.6, 0.8)]
    table = pd.DataFrame(rows, columns=["name", "set", "value", "low", "high"])
    figure = figures.intervals(table, "name", "set", "here", zero=True)
    (axis,) = figure.axes
    dots = [container.lines[0].get_xydata().round(2).tolist() for container in axis.containers]
    assert dots == [[[0.2, -0.11], [0.5, 0.89]], [[0.7, 1.11]]]
    bars = [container.lines[2][0].get_segments() for container in axis.containers]
    assert [np.round(bar[:, 0], 6).tolist() for some in bars for bar in some] == [[0.1, 0.4], [0.5, 0.6], [0.6, 0.8]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]
    (alone,) = figures.intervals(table[:2], "name").axes[0].containers
    assert alone.lines[0].get_xydata().tolist() == [[0.2, 0.0], [0.5, 1.0]]


def test_curves_share_a_legend_where_runs_are_compared():
    runs = {name: pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0]}) for name in ("base", "both")}
    runs["both"]["div"] = [0.2, 0.1]
    figure = figures.curves(runs, {"loss": ["loss"], "div": ["div"]})
    assert [len(axis.lines) for axis in figure.axes] == [2, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "both"]
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[1].get_color()
    (axis,) = figures.curves({"run": runs["both"]}, {"both": ["loss", "div"]}).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["loss", "div"]


def test_histograms_of_what_hardly_differs():
    table = pd.DataFrame({"rate": 25 + np.array([0, 1e-12, 2e-12]), "length": [1.0, 2.0, 3.0]})
    for axis in figures.histograms(table, {"rate": "pictures a second", "length": "length, s"}).axes:
        assert sum(patch.get_height() for patch in axis.patches) == 3


def test_names_as_the_font_has_them():
    assert figures.printable("a $b$ 犬") == r"a \$b\$ □" and figures.printable("x" * 21) == "x" * 19 + "…"
