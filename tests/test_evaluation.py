"""The evaluation of a run, of maps from elsewhere and of runs side by side, against plain loops over what is stored."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from sslib import checkpoint, config, datasets, engine, features, metrics
from sslib.__main__ import app
from sslib.config import Evaluation
from sslib.data.layout import Layout
from sslib.evaluation import comparison, measures, protocols, tables
from sslib.evaluation import run as evaluation
from sslib.evaluation.measures import METHODS, NEGATIVES, AnnotatedClips
from sslib.evaluation.tables import CONTROLS, MEASURES, PROTOCOLS
from sslib.prediction import predict
from sslib.report import galleries

GRID = 224


@pytest.fixture(scope="module")
def settings(configure):
    return configure(training={"epochs": 2})


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory) -> Path:
    """A trained and evaluated run."""
    folder = engine.fit(settings, tmp_path_factory.mktemp("evaluated"))
    evaluation.evaluate(folder, settings)
    return folder


@pytest.fixture(scope="module")
def clips(run) -> pd.DataFrame:
    return comparison.read_clips(run)


@pytest.fixture(scope="module")
def maps(run) -> dict[str, np.ndarray]:
    return dict(np.load(run / "maps.npz"))


@pytest.fixture(scope="module")
def summary(run) -> dict:
    return json.loads((run / "summary.json").read_text())


def value(summary, protocol, split, subset, method, measure) -> float:
    rows = [row for row in summary["tables"] if (row["protocol"], row["split"], row["subset"], row["method"],
            row["measure"]) == (protocol, split, subset, method, measure)]  # fmt: skip
    (row,) = rows
    return row["value"]


def annotations(settings, split) -> dict:
    return json.loads((settings.data.root / "annotations" / f"{split}.json").read_text())


def enlarge(heatmap) -> np.ndarray:
    heatmap = torch.as_tensor(np.asarray(heatmap, dtype=np.float64))[None, None]
    return F.interpolate(heatmap, (GRID, GRID), mode="bilinear", align_corners=False)[0, 0].numpy()


def boxes_of(row) -> np.ndarray:
    truth = np.zeros((GRID, GRID))
    for box in row["boxes"]:
        left, top, right, bottom = (int(GRID * max(v, 0)) for v in box)
        truth[top:bottom, left:right] = 1
    return truth


def mask_of(settings, clip_id) -> np.ndarray:
    from PIL import Image

    with Image.open(settings.data.root / "masks" / f"{clip_id}.png") as image:
        return np.asarray(image.convert("L").resize((GRID, GRID), Image.Resampling.NEAREST)) > 127


def overlap(claimed, truth) -> float:
    return (claimed * truth).sum() / (truth.sum() + (claimed & (truth == 0)).sum())


def highest(large, count) -> np.ndarray:
    claimed = np.zeros(large.size, dtype=bool)
    claimed[np.argsort(-large.ravel(), kind="stable")[:count]] = True
    return claimed.reshape(large.shape)


def auc(values) -> float:
    shares = [np.mean([v >= t for v in values]) for t in np.linspace(0, 1, 21)]
    return sum((a + b) / 2 * 0.05 for a, b in itertools.pairwise(shares))


# What is written


def test_files_hold_what_the_contract_says(run, settings, clips, maps, summary):
    columns = {"split", "subset", "clip_id", "class", "recording", "scene", "area", "area_group", "map_kind",
               "condition", "ciou", "success", "auc", "pointing", "miou", "f", "confidence", "pia"}  # fmt: skip
    columns |= {f"{m}_{t}" for m in ("ciou", "success", "auc") for t in ("top_half", "fixed", "adaptive")}
    assert columns <= set(clips.columns)
    sounds = {*(("similarity", s) for s in ("own", "shuffled", *NEGATIVES)), *(("untrained", s) for s in NEGATIVES)}
    wanted = sounds | {key for key in METHODS if key[1] == "none"} | {("untrained", "own")}
    wanted.remove(("object_prior", "none"))  # only with ImageNet weights
    for split in settings.data.tests:
        ids = Layout(settings.data.root).ids(split)
        rows = clips[clips["split"] == split]
        assert {
            key: group["clip_id"].tolist() for key, group in rows.groupby(["map_kind", "condition"])
        } == dict.fromkeys(wanted, ids)
        heard = rows["condition"].isin(NEGATIVES)
        assert rows.loc[heard, ["confidence", "pia"]].notna().all(axis=None)
        assert rows.loc[heard, ["ciou", "ciou_fixed", "pointing", "f"]].isna().all(axis=None)
        assert rows.loc[~heard & (rows["map_kind"] != "random_order"), ["ciou", "pointing"]].notna().all(axis=None)
        names = ("similarity", "shuffled", *NEGATIVES, "untrained", "visual_only", "visual_only_mean", "pair_scores")
        assert all(len(maps[f"{split}/{name}"]) == len(ids) for name in (*names, "audio_embeddings"))
        assert maps[f"{split}/ids"].tolist() == ids
        assert summary["lists"][split] == {"present": f"{len(ids)} of {len(ids)} present", "missing": []}
    found = pd.DataFrame(summary["tables"])
    assert set(found["protocol"]) == set(PROTOCOLS)
    assert {"method", "measure", "value", "low", "high", "clips", "clusters"} <= set(found.columns)
    assert all(row["measure"] in PROTOCOLS[row["protocol"]] for row in summary["tables"])
    assert {"control"} <= set(pd.DataFrame(summary["differences"]).columns)
    for protocol in set(PROTOCOLS) - {"retrieval", "class"}:
        methods = set(found.loc[found["protocol"] == protocol, "method"])
        assert methods >= {"model", "whole image", "untrained weights", "oracle ranking", CONTROLS[0], CONTROLS[1]}
    assert (run / "summary.json").stat().st_mtime_ns >= max(
        (run / name).stat().st_mtime_ns for name in ("maps.npz", "clips.csv")
    )


def test_the_thumbnail_shows_the_first_clips(run, settings):
    figure = galleries.save_thumbnail(run, settings, columns=3)
    ids = Layout(settings.data.root).ids("test")[:3]
    annotations = Layout(settings.data.root).annotations("test")
    titles = [axis.get_title() for axis in figure.axes]
    assert (
        titles[:3] == [f"♪ {annotations[clip_id]['class']}".replace("_", " ") for clip_id in ids] and len(titles) == 6
    )
    assert Image.open(run / "thumbnail.png").size[0] > 100


def test_a_pause_is_no_training(run, settings, tmp_path, monkeypatch):
    load = checkpoint.load_checkpoint
    rows = [{"epoch": number, "seconds": seconds} for number, seconds in enumerate((10.0, 12.0, 3600.0))]
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda *given: load(*given) | {"history": rows})
    summary = json.loads(evaluation.evaluate(run, settings, tmp_path).read_text())
    assert summary["training"]["seconds"] == 36.0  # three epochs of the median's length


def test_interrupted_evaluation_leaves_no_summary(run, settings, clips, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    for module, name, begin in (
        (evaluation, "calibrate", lambda: evaluation.evaluate(tmp_path, settings)),
        (tables, "summarize", lambda: evaluation.write(tmp_path, clips, settings, {})),
    ):
        shutil.copy(run / "checkpoint.pt", tmp_path)
        shutil.copy(run / "summary.json", tmp_path)
        monkeypatch.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert not list(tmp_path.glob("summary*"))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"front_end": {"kind": "spectrogram"}}, r"front_end.kind: mel, not spectrogram"),
        ({"front_end": {"hop": 64}}, r"front_end.hop: 128, not 64"),
        ({"model": {"width": 16}}, r"model.width: 8, not 16"),
        ({"data": {"sample_rate": 16000}}, r"data.sample_rate: 8000, not 16000"),
        ({"data": {"seconds": 2.0}}, r"data.seconds: 1.0, not 2.0"),
        ({"data": {"image_size": 96}}, r"data.image_size: 64, not 96"),
        ({"data": {"frame": 1, "time": 0.5, "frame_rate": 2.0}}, r"data.frame: None, not 1; data.frame_rate: 1.0, "),
    ],
)
def test_other_inputs_than_in_training_are_refused(run, configure, tmp_path, change, says):
    """Else the tables would be of sounds and pictures that the model never learned from, and say nothing of it."""
    for name in ("checkpoint.pt", "summary.json"):
        shutil.copy(run / name, tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=f"{tmp_path} was trained with another .*{says}"):
        evaluation.evaluate(tmp_path, configure(**change))
    assert (tmp_path / "summary.json").is_file()  # nothing was touched


@pytest.mark.parametrize("accelerator, device", [("cpu", "cpu"), ("auto", "cuda"), ("gpu", "cuda")])
def test_a_graphics_card_is_used_unless_the_configuration_says_cpu(
    run, configure, tmp_path, monkeypatch, accelerator, device
):
    """No card is needed: the evaluation is stopped once it has said where it would compute."""
    shutil.copy(run / "checkpoint.pt", tmp_path)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(evaluation.SoundLocalizer, "to", lambda self, where: asked.append(str(where)) or self)
    monkeypatch.setattr(evaluation, "calibrate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(tmp_path, configure(training={"accelerator": accelerator}))
    assert asked[-2:] == [device, device]  # the model and the untrained one


# Every value by a plain loop


@pytest.mark.parametrize("method", ["model", "model, shuffled sounds", "untrained weights"])
def test_localization_and_masks_by_a_loop(settings, maps, summary, method):
    name = {"model": "similarity", "model, shuffled sounds": "shuffled", "untrained weights": "untrained"}[method]
    split, subset = "test", "2 objects"
    known = annotations(settings, split)
    level = summary["threshold"]["levels"]["untrained" if name == "untrained" else "similarity"]
    values = {key: [] for key in ("", "_top_half", "_fixed", "_adaptive", "pointing", "miou", "miou_half")}
    curves = []
    for clip_id, raw in zip(maps[f"{split}/ids"], maps[f"{split}/{name}"], strict=True):
        if len(known[clip_id]["objects"]) != 2:
            continue
        large, truth, mask = enlarge(raw), boxes_of(known[clip_id]), mask_of(settings, clip_id)
        values[""].append(overlap(large >= np.median(large), truth))
        values["_top_half"].append(overlap(highest(large, GRID * GRID // 2), truth))
        values["_fixed"].append(overlap(large > level, truth))
        values["_adaptive"].append(overlap(highest(large, round(truth.sum())), truth))
        values["miou"].append(overlap(highest(large, mask.sum()), mask))
        values["pointing"].append(mask[np.isclose(large, large.max(), rtol=0, atol=1e-12)].mean())  # corners tie
        scaled = (large - large.min()) / (large.max() - large.min())
        values["miou_half"].append(overlap(scaled >= 127 / 254, mask))
        curve = []
        for k in range(255):
            claimed = 254 * scaled >= k
            right = (claimed & mask).sum()
            p, r = right / max(claimed.sum(), 1), right / mask.sum()
            curve.append(1.3 * p * r / (0.3 * p + r) if right else 0)
        curves.append(curve)
    for suffix in ("", "_top_half", "_fixed", "_adaptive"):
        found = value(summary, "localization", split, subset, method, f"success{suffix}")
        assert found == pytest.approx(np.mean([v >= 0.5 for v in values[suffix]])), suffix
        assert value(summary, "localization", split, subset, method, f"auc{suffix}") == pytest.approx(
            auc(values[suffix])
        )
    for measure in ("pointing", "miou", "miou_half"):
        assert value(summary, "masks", split, subset, method, measure) == pytest.approx(np.mean(values[measure])), (
            measure
        )
    assert value(summary, "masks", split, subset, method, "f") == pytest.approx(np.mean(curves, axis=0).max(), abs=1e-6)


def top_quarter(raw) -> float:
    cells = sorted(raw.ravel().tolist())
    return float(np.mean(cells[len(cells) - -(-len(cells) // 4) :]))


def test_detection_and_universal_by_a_loop(settings, maps, summary):
    split, subset, known = "test", "2 objects", annotations(settings, "test")
    rows = [i for i, clip_id in enumerate(maps["test/ids"]) if len(known[clip_id]["objects"]) == 2]
    level = summary["threshold"]["value"]
    scored, success, shares = [], [], {name: [] for name in NEGATIVES}
    fixed = []
    for i in rows:
        truth, large = boxes_of(known[maps["test/ids"][i]]), enlarge(maps["test/similarity"][i])
        success.append(overlap(large >= np.median(large), truth) >= 0.5)
        fixed.append(overlap(large > level, truth))
        scored.append((top_quarter(maps["test/similarity"][i]), True, success[-1]))
        scored.append((top_quarter(maps["test/offscreen"][i]), False, False))
        for name in NEGATIVES:
            shares[name].append(np.mean(enlarge(maps[f"test/{name}"][i]) > level))
    ap = before = best = 0.0
    for threshold in sorted({s for s, _, _ in scored}, reverse=True):
        tp = sum(s >= threshold and good for s, _, good in scored)
        fp = sum(s >= threshold and not good for s, _, good in scored)
        fn = sum(s < threshold and positive for s, positive, _ in scored)
        recall = tp / (tp + fn) if tp else 0.0
        ap += (recall - before) * tp / (tp + fp)
        before, best = recall, max(best, 2 * tp / (2 * tp + fp + fn))
    for measure, want in (("ap", ap), ("max_f1", best), ("loc_acc", np.mean(success))):
        assert value(summary, "detection", split, subset, "model", measure) == pytest.approx(want), measure
    everything = [np.mean([shares[name][i] for name in NEGATIVES]) for i in range(len(rows))]
    for name, values in shares.items():
        assert value(summary, "universal", split, subset, "model", f"pia_{name}") == pytest.approx(np.mean(values))
        passed = [np.mean([v <= t for v in values]) for t in np.linspace(0, 1, 21)]
        want = sum((a + b) / 2 * 0.05 for a, b in itertools.pairwise(passed))
        assert value(summary, "universal", split, subset, "model", f"aoc_{name}") == pytest.approx(want)
    pia, good = np.mean(everything), np.mean([v >= 0.5 for v in fixed])
    assert value(summary, "universal", split, subset, "model", "pia") == pytest.approx(pia)
    want = 2 * good * (1 - pia) / (good + 1 - pia)
    assert value(summary, "universal", split, subset, "model", "f_loc") == pytest.approx(want)
    aoc = np.mean([value(summary, "universal", split, subset, "model", f"aoc_{name}") for name in NEGATIVES])
    want = 2 * auc(fixed) * aoc / (auc(fixed) + aoc)
    assert value(summary, "universal", split, subset, "model", "f_auc") == pytest.approx(want)


def test_interaction_by_a_loop(clips, summary):
    rows = clips[(clips["split"] == "test") & (clips["map_kind"] == "similarity") & (clips["condition"] == "own")]
    for suffix in ("", "_adaptive"):
        least = [group[f"ciou{suffix}"].min() for _, group in rows.groupby("scene") if len(group) == 2]
        assert len(least) == 6
        found = value(summary, "interaction", "test", "2 objects", "model", f"iiou{suffix}")
        assert found == pytest.approx(np.mean([v >= 0.5 for v in least]))
        found = value(summary, "interaction", "test", "2 objects", "model", f"iauc{suffix}")
        assert found == pytest.approx(auc(least))
    assert not [row for row in summary["tables"] if row["protocol"] == "interaction" and row["subset"] == "1 object"]


def test_scenes_count_as_often_as_all_their_recordings_are_drawn():
    units = pd.DataFrame({"scene": list("aabbcc"), "recording": list("xyyzxx")})
    values = np.array([[0.2], [0.9], [0.4]])
    (found,) = tables.over_scenes(values, units, (4000, 0.95, 0))
    rng, drawn = np.random.default_rng(5), []
    for _ in range(4000):
        count = {name: 0 for name in "xyz"} | dict(
            zip(*np.unique(rng.choice(list("xyz"), 3), return_counts=True), strict=True)
        )
        weights = np.array([count["x"] * count["y"], count["y"] * count["z"], count["x"]])
        if weights.sum():
            drawn.append((weights * values[:, 0]).sum() / weights.sum())
    assert found.value == pytest.approx(0.5) and (found.clips, found.clusters) == (3, 3)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_retrieval_by_a_loop(settings, maps, summary):
    known, ids, score = annotations(settings, "test"), maps["test/ids"], maps["test/pair_scores"]
    part = [i for i, clip_id in enumerate(ids) if len(known[clip_id]["objects"]) == 2]
    for k in (1, 5, 10):
        for prefix, right in (
            ("", lambda i, j: known[ids[i]]["scene"] == known[ids[j]]["scene"]),
            ("class_", lambda i, j: known[ids[j]]["class"] in known[ids[i]]["objects"]),
        ):
            hits, back = [], []
            for i in part:
                answers = sorted(range(len(ids)), key=lambda j: (-score[i, j], right(i, j)))
                hits.append(any(right(i, j) for j in answers[:k]))
                answers = sorted(range(len(ids)), key=lambda j: (-score[j, i], right(j, i)))
                back.append(any(right(j, i) for j in answers[:k]))
            for direction, want in (("image_to_audio", hits), ("audio_to_image", back)):
                found = value(summary, "retrieval", "test", "2 objects", "model", f"{prefix}r{k}_{direction}")
                assert found == pytest.approx(np.mean(want)), (k, prefix, direction)


def test_scores_of_all_pairs_are_the_highest_cosines(settings, maps):
    np.testing.assert_allclose(np.diag(maps["test/pair_scores"]), maps["test/similarity"].max(axis=(1, 2)), atol=1e-5)
    other = maps["test/shuffled_with"]
    rows = np.arange(len(other))
    np.testing.assert_allclose(maps["test/pair_scores"][rows, other], maps["test/shuffled"].max(axis=(1, 2)), atol=1e-5)


def test_chance_of_a_random_order():
    rng = np.random.default_rng(0)
    found = protocols.chance_at(np.array([1, 3, 8]), 8, 2)
    for right, want in zip((1, 3, 8), found, strict=True):
        tries = [rng.permutation(8)[:2].min() < right for _ in range(4000)]
        assert want == pytest.approx(np.mean(tries), abs=0.03)
    assert found[0] == pytest.approx(2 / 8) and found[2] == 1 and protocols.chance_at(np.array([2]), 3, 10) == [1]


def test_area_and_class_groups_are_means_of_their_clips(clips, summary):
    rows = clips[(clips["map_kind"] == "similarity") & (clips["condition"] == "own")]
    for protocol, column in (("area", "area_group"), ("class", "class")):
        found = [r for r in summary["tables"] if r["protocol"] == protocol and r["method"] == "model"]
        for row in found:
            here = rows[(rows["split"] == row["split"]) & (rows[column] == row["subset"])]
            assert row["value"] == pytest.approx(here[row["measure"]].mean()) and row["clips"] == len(here)
        assert {r["subset"] for r in found if r["split"] == "test"} == set(rows.loc[rows["split"] == "test", column])


def test_groups_are_in_order_of_size_or_of_name():
    """A class may be called as a size is."""
    columns = {"area_group": ["huge", "small", "large", "empty"], "class": ["z", "a", "b", ""]}
    clips = pd.DataFrame({"split": "test"} | columns)
    assert [name for (_, name), _ in tables._groups(clips, "area_group")] == ["small", "large", "huge"]
    assert [name for (_, name), _ in tables._groups(clips, "class")] == ["a", "b", "z"]
    assert {name for (_, name), _ in tables._groups(clips.replace({"a": "large"}), "class")} == {"b", "large", "z"}


def test_differences_are_those_of_the_same_clips(clips, summary):
    rows = clips[(clips["split"] == "test") & (clips["subset"] == "2 objects")]
    own, other = (rows[(rows["map_kind"] == "similarity") & (rows["condition"] == s)] for s in ("own", "shuffled"))
    gain = own["auc_adaptive"].to_numpy() - other["auc_adaptive"].to_numpy()
    from sslib.evaluation.bootstrap import bootstrap

    want = bootstrap(gain, own["recording"].tolist(), 200)
    (row,) = [r for r in summary["differences"] if (r["protocol"], r["split"], r["subset"], r["control"], r["measure"])
              == ("localization", "test", "2 objects", "model, shuffled sounds", "auc_adaptive")]  # fmt: skip
    assert (row["value"], row["low"], row["high"]) == pytest.approx(want[:3])


# Thresholds and sounds


def test_threshold_is_of_the_negatives_of_val_alone(run, settings, maps, summary, tmp_path):
    tops = [np.quantile([m.max() for m in maps[f"val/{name}"]], 0.75) for name in NEGATIVES]
    assert summary["threshold"]["value"] == pytest.approx(max(tops))
    assert summary["threshold"]["clips"] == len(maps["val/ids"]) and summary["threshold"]["list"] == "val"
    # the data elsewhere, with other test clips: pictures have changed places, and one clip is gone
    root = tmp_path / "data"
    shutil.copytree(settings.data.root, root, ignore=shutil.ignore_patterns("clips.lmdb"))
    layout = Layout(root)
    for one, other in zip(layout.ids("test"), reversed(layout.ids("test")), strict=True):
        shutil.copy(settings.data.root / f"video_frames/{other}/001.jpg", root / f"video_frames/{one}/001.jpg")
    gone = layout.ids("test")[0]
    shutil.rmtree(layout.root / "video_frames" / gone)
    shutil.copy(run / "checkpoint.pt", tmp_path)
    asked = ["evaluate", str(tmp_path / "checkpoint.pt"), "--set", f"data.root={root}", "--set", "data.tests=[test]"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and "folder of their own (--out FOLDER)" in refused.stderr
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.warns(UserWarning, match="14 of 15 present"):
        done = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "other")])
    assert done.exit_code == 0, done.output
    assert "| model" in done.output and str(tmp_path / "other" / "summary.json") in done.output
    assert {path.name for path in tmp_path.iterdir()} == before | {"other"}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary  # untouched
    assert {path.name for path in (tmp_path / "other").iterdir()} == {*checkpoint.RESULTS}
    found = json.loads((tmp_path / "other" / "summary.json").read_text())
    assert found["lists"] == {"test": {"present": "14 of 15 present", "missing": [gone]}}
    assert found["threshold"] == summary["threshold"]
    with np.load(tmp_path / "other" / "maps.npz") as again:
        assert not np.allclose(again["test/similarity"], maps["test/similarity"][1:])


def test_no_threshold_without_validation_clips(settings, maps):
    alone = settings.model_copy(update={"data": settings.data.model_copy(update={"val": "test"})})
    with pytest.warns(UserWarning, match="no universal threshold: all clips of 'test' are test clips"):
        _, levels, said = evaluation.calibrate(None, None, alone, "cpu")
    assert levels == {} and said["value"] is None and "test clips" in said["reason"]
    none = settings.model_copy(update={"data": settings.data.model_copy(update={"val": "nowhere"})})
    with pytest.warns(UserWarning, match=r"no universal threshold: no list .*nowhere"):
        assert evaluation.calibrate(None, None, none, "cpu")[1] == {}
    clips = AnnotatedClips.of(datasets.AVDataset(settings, "test", annotated=True))
    rows = tables.summarize(measures.measure(clips, arrays_of(maps, "test"), levels), Evaluation(resamples=20))
    measured = {(row["method"], row["measure"]) for row in rows["tables"]}
    assert ("model", "success_fixed") not in measured and ("model", "f_loc") not in measured
    assert ("model", "ap") in measured and ("whole image", "success_fixed") in measured


def test_counterfactual_sounds(settings):
    clips = AnnotatedClips.of(datasets.AVDataset(settings, "test", annotated=True))
    sounds = evaluation.counterfactual_sounds(clips, 0)
    rows = clips.annotations
    for clip_id, shuffled, outside in zip(clips.ids, sounds["shuffled"], sounds["offscreen"], strict=True):
        assert rows[clips.ids[shuffled]]["class"] != rows[clip_id]["class"]
        assert rows[clips.ids[outside]]["class"] not in rows[clip_id]["objects"]
    waveform = (torch.randn(3, 8000) * torch.tensor([[20.0], [900.0], [0.0]])).to(torch.int16)
    found = protocols.noise(waveform, ["a", "b", "c"]).double()
    level = waveform.double().square().mean(dim=1).sqrt()
    assert found.square().mean(dim=1).sqrt().tolist() == pytest.approx(level.tolist(), rel=0.05)
    assert torch.equal(protocols.noise(waveform[1:2], ["b"])[0], protocols.noise(waveform, ["a", "b", "c"])[1])
    assert abs(np.corrcoef(found[0], found[1])[0, 1]) < 0.05
    assert not protocols.silence(waveform, ["a", "b", "c"]).any()
    alike = clips._replace(annotations={i: row | {"class": "cat", "objects": ["cat"]} for i, row in rows.items()})
    with pytest.warns(UserWarning, match="too few classes: no"):
        assert set(evaluation.counterfactual_sounds(alike)) == {"silence", "noise"}


def test_a_made_sound_is_heard_as_if_it_were_stored(run, settings):
    model, _ = checkpoint.load_model(run / "checkpoint.pt")
    stored = datasets.load_in_memory(datasets.AVDataset(settings, "val"))
    made = predict(model, stored, settings, other_audio={"noise": protocols.noise, "silence": protocols.silence})
    for name in ("noise", "silence"):
        other = stored._replace(waveform=getattr(protocols, name)(stored.waveform, stored.ids))
        np.testing.assert_array_equal(made.maps[name], predict(model, other, settings).maps["similarity"])
    assert made.pair_scores is None


def test_training_says_how_many_clips_are_there(settings, tmp_path, capsys):
    engine.fit(settings, tmp_path, stop_after=1)
    assert {"train: 24 of 24 present", "val: 20 of 20 present"} <= set(capsys.readouterr().out.splitlines())


def test_validation_uses_consensus_and_leaves_out_clips_without_a_source(run, settings, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(settings.data.root, root)
    layout, (silent, several, *_) = Layout(root), Layout(root).ids("val")
    rows = layout.annotations("val")
    rows[silent]["boxes"] = []
    rows[several]["annotators"] = [rows[several]["boxes"], [[0.0, 0.0, 0.9, 0.3]]]
    layout.write_annotations("val", rows)
    moved = settings.model_copy(update={"data": settings.data.model_copy(update={"root": root})})
    model, _ = checkpoint.load_model(run / "checkpoint.pt")
    found = engine._validation(engine.start_fabric(moved), moved)(model)
    maps = predict(model, datasets.AVDataset(moved, "val"), moved).maps["similarity"]
    hits, passed = [], []
    for clip_id, raw in zip(layout.ids("val"), maps, strict=True):
        if clip_id == silent:
            continue
        truth, large = boxes_of(rows[clip_id]), enlarge(raw)
        if clip_id == several:
            truth = (truth + boxes_of({"boxes": [[0.0, 0.0, 0.9, 0.3]]})) / 2
        hits.append((truth > 0)[np.isclose(large, large.max(), rtol=0, atol=1e-12)].mean())
        passed.append(overlap(large >= np.median(large), truth) >= 0.5)
    assert found["val_pointing"] == pytest.approx(np.mean(hits))
    assert found["val_success"] == pytest.approx(np.mean(passed))


def test_batch_size_changes_nothing(run, settings, maps, clips, tmp_path):
    shutil.copy(run / "checkpoint.pt", tmp_path)
    smaller = config.merge(settings.model_dump(), {"evaluation": {"batch_size": 3}, "data": {"tests": ("test",)}})
    evaluation.evaluate(tmp_path, config.Config.model_validate(smaller))
    with np.load(tmp_path / "maps.npz") as again:
        assert set(again.files) == {name for name in maps if not name.startswith("test_new")}
        for name in again.files:
            if again[name].dtype.kind == "f":
                np.testing.assert_allclose(again[name], maps[name], atol=1e-5)
            else:
                assert (again[name] == maps[name]).all()
    found, clips = comparison.read_clips(tmp_path), clips[clips["split"] == "test"]
    assert (found[["clip_id", "map_kind", "condition"]] == clips[["clip_id", "map_kind", "condition"]]).all(axis=None)
    np.testing.assert_allclose(found["auc_adaptive"], clips["auc_adaptive"], atol=0.051)  # a pixel at a tie may move
    assert found["ciou"].mean() == pytest.approx(clips["ciou"].mean(), abs=1e-3)


# Clips without a source, several annotators


def arrays_of(maps, split) -> dict[str, np.ndarray]:
    return {name.split("/")[1]: array for name, array in maps.items() if name.startswith(f"{split}/")}


def test_clips_without_a_box_are_negatives(settings, maps, summary):
    known = AnnotatedClips.of(datasets.AVDataset(settings, "test", annotated=True))
    silent = known.ids[::4]
    rows = {i: row | ({"boxes": []} if i in silent else {}) for i, row in known.annotations.items()}
    table = measures.measure(known._replace(annotations=rows), arrays_of(maps, "test"), summary["threshold"]["levels"])
    own = table[(table["map_kind"] == "similarity") & (table["condition"] == "own")].set_index("clip_id")
    assert own.loc[silent, ["ciou", "success", "pointing", "f", "miou"]].isna().all(axis=None)
    assert own.loc[silent, "pia"].notna().all() and own.drop(silent)["pia"].isna().all()
    assert own.drop(silent)["miou"].notna().all() and (own.loc[silent, "area_group"] == "empty").all()
    here = own[own["subset"] == "2 objects"]
    found = {(r["method"], r["measure"]): r for r in tables.summarize(table, Evaluation(resamples=50))["tables"]
             if r["subset"] == "2 objects" and r["split"] == "test"}  # fmt: skip
    values = (here[name].to_numpy() for name in ("confidence", "source", "ciou"))
    (want,) = protocols.detection_statistic(*values)(np.ones((1, len(here))))
    assert [found["model", m]["value"] for m in ("ap", "max_f1", "loc_acc")] == pytest.approx(list(want))
    assert found["model", "ap"]["clips"] == len(here)
    assert found["model", "pia_native"]["value"] == pytest.approx(here["pia"].mean())
    assert found["oracle ranking", "pia_native"]["value"] == 0 and found["whole image", "pia_native"]["value"] == 1
    bound = [found[name, "ap"]["value"] for name in ("oracle ranking", "model", "whole image")]
    assert bound[0] == max(bound)


def test_several_annotators_make_a_consensus(settings, maps):
    known = AnnotatedClips.of(datasets.AVDataset(settings, "test", annotated=True))
    ids = known.ids[:3]
    two = [[[0.0, 0.0, 0.5, 0.5]], [[0.25, 0.0, 0.75, 0.5]]]
    rows = {i: known.annotations[i] | {"annotators": two, "boxes": [box for one in two for box in one]} for i in ids}
    few = {name: array[:3] for name, array in arrays_of(maps, "test").items() if name in ("similarity", "shuffled")}
    table = measures.measure(known._replace(ids=ids, annotations=rows), few, {})
    truth = np.zeros((GRID, GRID))
    truth[:112, :56] = truth[:112, 112:168] = 0.5
    truth[:112, 56:112] = 1
    own = table[(table["map_kind"] == "similarity") & (table["condition"] == "own")]
    for raw, found in zip(maps["test/similarity"], own["ciou"], strict=False):
        large = enlarge(raw)
        assert found == pytest.approx(overlap(large >= np.median(large), truth))
    assert own["area"].tolist() == pytest.approx([truth.mean()] * 3)


# Maps from elsewhere


def export(maps, folder: Path, archive: bool, split="test") -> Path:
    """Our own stored maps as another group would hand theirs over."""
    kinds = {split: ("similarity", "shuffled", *NEGATIVES, "visual_only"), "val": NEGATIVES}
    if archive:
        names = [f"{name}/{kind}" for name, found in kinds.items() for kind in ("ids", *found)]
        np.savez(folder.with_suffix(".npz"), **{name: maps[name] for name in names})
        return folder.with_suffix(".npz")
    for name, found in kinds.items():
        for kind in found:
            place = (folder if name == split else folder / name) / ("" if kind == "similarity" else kind)
            place.mkdir(parents=True, exist_ok=True)
            for clip_id, one in zip(maps[f"{name}/ids"], maps[f"{name}/{kind}"], strict=True):
                np.save(place / f"{clip_id}.npy", one)
    return folder


@pytest.mark.parametrize("archive", [False, True])
def test_our_own_maps_from_elsewhere_give_our_own_tables(settings, maps, summary, tmp_path, archive):
    path, present = evaluation.evaluate_maps(
        export(maps, tmp_path / "maps", archive), settings, "test", tmp_path / "out"
    )
    found = json.loads(path.read_text())
    assert str(present) == "15 of 15 present" and found["threshold"]["value"] == summary["threshold"]["value"]
    ours = [row for row in summary["tables"] if row["split"] == "test"]
    methods = {row["method"] for row in found["tables"]}
    kept = ("model", "model, shuffled sounds", "whole image", "centre square", "oracle ranking")
    assert methods == {*kept, "visual-only (foreground nodes)"}
    same = [row for row in ours if row["method"] in kept and row["protocol"] != "retrieval"]
    assert [row for row in found["tables"] if row["method"] in kept] == same and len(same) > 400
    gains = [r for r in summary["differences"] if r["split"] == "test" and r["control"] in kept]
    gains = [r for r in gains if r["protocol"] != "retrieval"]
    assert [r for r in found["differences"] if r["control"] in kept] == gains


def test_maps_of_a_run_are_maps_from_elsewhere(run, settings, summary, tmp_path):
    """The file that an evaluation writes goes through the same tables, retrieval included.

    It holds no validation maps of other methods than the model: those have no universal threshold then.
    """
    path, _ = evaluation.evaluate_maps(run / "maps.npz", settings, "test", tmp_path)
    found, ours = json.loads(path.read_text())["tables"], summary["tables"]
    assert {row["method"] for row in found} == {row["method"] for row in ours}
    kept = ("model", "model, shuffled sounds", "whole image", "centre square", "oracle ranking", "random order")
    same = [row for row in ours if row["split"] == "test" and row["method"] in kept]
    assert [row for row in found if row["method"] in kept] == same


def test_missing_and_extra_maps_are_listed(settings, maps, tmp_path):
    ids = maps["test/ids"].tolist()
    for clip_id, one in zip(ids, maps["test/similarity"], strict=True):
        np.save(tmp_path / f"{clip_id}.npy", one)
    (tmp_path / f"{ids[4]}.npy").unlink()
    np.save(tmp_path / "stranger.npy", maps["test/similarity"][0])
    (tmp_path / "config.yaml").write_text(config.dump(settings))
    asked = ["evaluate", str(tmp_path), "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out"),
             "--set", "evaluation.resamples=20", "--set", f"data.root={settings.data.root}"]  # fmt: skip
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "14 of 15 present" in done.output and f"no map of (1): {ids[4]}" in done.output
    assert "not in the list (1): stranger" in done.output and "| model" in done.output
    found = json.loads((tmp_path / "out/summary.json").read_text())
    assert found["lists"]["test"]["missing"] == [ids[4]] and found["lists"]["test"]["extra"] == ["stranger"]
    assert ids[4] not in set(comparison.read_clips(tmp_path / "out")["clip_id"])
    measured = {row["protocol"] for row in found["tables"]}
    assert {"detection", "retrieval"}.isdisjoint(measured) and {"localization", "masks", "interaction"} <= measured
    assert CliRunner().invoke(app, ["evaluate", str(tmp_path)]).exit_code == 2  # which data?


@pytest.mark.parametrize(
    "array, says",
    [
        (np.full((4, 4), np.nan), "16 values are NaN"),
        (np.zeros((1, 4, 4)), r"shape \(1, 4, 4\); a map has two dimensions"),
        (np.zeros((0, 4)), "two dimensions"),
        (np.array([[{}]]), "not an array of numbers"),
        (np.array([["a"]]), "real numbers"),
        (np.zeros((5, 4)), r"shape \(5, 4\), but that of .* is \(4, 4\)"),
    ],
)
def test_faulty_maps_name_their_file(settings, tmp_path, array, says):
    ids = Layout(settings.data.root).ids("test")
    for clip_id in ids:
        np.save(tmp_path / f"{clip_id}.npy", np.zeros((4, 4)))
    np.save(tmp_path / f"{ids[3]}.npy", array, allow_pickle=True)
    with pytest.raises(evaluation.MapError, match=f"{ids[3]}.npy: .*{says}"):
        evaluation.evaluate_maps(tmp_path, settings, "test", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / f"{ids[3]}.npy").write_bytes(b"\x93NUMPY half")
    with pytest.raises(evaluation.MapError, match=f"{ids[3]}.npy: not an array"):
        evaluation.evaluate_maps(tmp_path, settings, "test", tmp_path / "out")


def test_faulty_folders_of_maps(settings, tmp_path):
    ids = Layout(settings.data.root).ids("test")
    with pytest.raises(evaluation.MapError, match="no map of a clip of the list"):
        evaluation.evaluate_maps(tmp_path, settings, "test", tmp_path / "out")
    for clip_id in ids:
        np.save(tmp_path / f"{clip_id}.npy", np.zeros((4, 4)))
    (tmp_path / "noise").mkdir()
    np.save(tmp_path / "noise" / f"{ids[0]}.npy", np.zeros((4, 4)))
    with pytest.raises(evaluation.MapError, match=rf"noise/: 1 of 15 present, no map of {ids[1]}"):
        evaluation.evaluate_maps(tmp_path, settings, "test", tmp_path / "out")
    (tmp_path / "noise").rename(tmp_path / "elsewhere")
    for name, arrays, says in (
        ("one.npy", None, "one array"),
        ("a.npz", {"val/ids": ids}, "no map of a clip of the list 'test'"),
        ("b.npz", {"test/ids": ids, "test/silence": np.zeros((15, 4, 4))}, "no map .* with its own sound"),
        ("c.npz", {"test/ids": ids, "test/similarity": np.zeros((14, 4, 4))}, "14 values of .*, but 15 of test/ids"),
        ("d.npz", {"test/ids": ids, "test/similarity": np.full((15, 4, 4), np.nan)}, f"of '{ids[0]}': 16 values are"),
        ("e.npz", {"test/ids": ["x"], "test/similarity": np.zeros((1, 4, 4))}, r"no map .*\(15\)|not in the list"),
    ):
        path = tmp_path / name
        np.save(path, np.zeros((4, 4))) if arrays is None else np.savez(path, **arrays)
        with pytest.raises(evaluation.MapError, match=says):
            evaluation.evaluate_maps(path, settings, "test", tmp_path / "out")
        path.unlink()
    assert not (tmp_path / "out").exists()


def test_a_map_belongs_to_the_clip_that_its_file_names(tmp_path):
    """Also where a clip's id begins another's: as names of files, ``a-b.npy`` stands before ``a.npy``."""
    for number, clip_id in enumerate(("a", "a-b", "a b")):
        np.save(tmp_path / f"{clip_id}.npy", np.full((2, 2), number))
    found = evaluation.read_folder(tmp_path, "test", "val")
    means = found["test/similarity"].mean(axis=(1, 2))
    assert dict(zip(found["test/ids"].tolist(), means.tolist(), strict=True)) == {"a": 0, "a-b": 1, "a b": 2}


# Runs side by side


def made_run(folder: Path, values: np.ndarray, recipe: dict | None, ids=None) -> Path:
    """A run that holds nothing but what a comparison reads."""
    folder.mkdir()
    names = [f"clip{i}" for i in range(len(values))] if ids is None else ids
    rows = pd.DataFrame(
        {"split": "test", "subset": "all", "clip_id": names, "map_kind": "similarity", "condition": "own"}
    )
    rows["recording"] = [f"r{int(name[4:]) // 2}" for name in names]
    rows = rows.assign(success=(values >= 0.5) * 1.0, auc=values, pointing=np.nan)
    rows.sample(frac=1, random_state=len(folder.name)).to_csv(folder / "clips.csv", index=False)
    about = {"format": comparison.FORMAT, "maps": "maps.npz"}
    if recipe is not None:
        del about["maps"]
        about |= {"config": {"exp_prefix": "p", "exp_name": folder.name, "model": {"width": 8}} | recipe}
    (folder / "summary.json").write_text(json.dumps(about))
    return folder


def test_comparison_is_the_paired_bootstrap(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.random(30), rng.random(32)
    a = made_run(tmp_path / "a", first, {"seed": 0})
    b = made_run(tmp_path / "b", second, {"seed": 0, "model": {"width": 16}})
    table = comparison.compare(comparison.group_runs([a, b]), Evaluation(resamples=3000)).set_index(["measure", "run"])
    row = table.loc["auc", "p/b"]
    gain = second[:30] - first
    assert row["gain"] == pytest.approx(gain.mean()) and row["value"] == pytest.approx(second[:30].mean())
    assert (row["clips"], row["clusters"], row["all_clips"], row["seeds"]) == (30, 15, 32, 1)
    plain = []
    for _ in range(3000):
        drawn = rng.integers(0, 15, 15)
        plain.append(np.mean([gain[[2 * g, 2 * g + 1]].mean() for g in drawn]))
    limits = np.quantile(plain, [0.025, 0.975])
    assert [row["gain_low"], row["gain_high"]] == pytest.approx(limits, abs=0.15 * np.std(plain))
    assert "pointing" not in table.index.get_level_values("measure")  # nobody measured it
    assert np.isnan(table.loc["auc", "p/a"]["gain"])


def test_seeds_of_one_configuration_are_combined(tmp_path):
    rng = np.random.default_rng(1)
    clips = rng.random(20)
    runs = [made_run(tmp_path / f"a{s}", clips + shift, {"seed": s}) for s, shift in ((0, 0.0), (1, 0.4))]
    runs += [made_run(tmp_path / f"b{s}", clips + 0.5, {"seed": s, "model": {"width": 4}}) for s in (0, 1)]
    runs.append(made_run(tmp_path / "elsewhere", clips, None))
    found = comparison.group_runs(runs)
    assert [(g.seeds, len(g.runs)) for g in found] == [([0, 1], 2), ([0, 1], 2), ([0], 1)]
    table = comparison.compare(found, Evaluation(resamples=1000))
    rows = table[table["measure"] == "auc"].to_dict("records")
    assert [row["seeds"] for row in rows] == [2, 2, 1]
    assert rows[0]["value"] == pytest.approx(clips.mean() + 0.2)
    # gains 0.5 and 0.1 of the two pairs, whatever the clips: drawn both, one, or the other
    assert (rows[1]["gain"], rows[1]["gain_low"], rows[1]["gain_high"]) == pytest.approx((0.3, 0.1, 0.5))
    assert rows[1]["gain_seeds"] == 2 and rows[1]["outcome"] == "better"
    assert rows[2]["gain_seeds"] == 1 and rows[2]["outcome"] == "inconclusive"


@pytest.mark.parametrize("key, others", [("image_sizes", [96]), ("saliency", 0.3)])
def test_maps_made_in_another_way_are_another_configuration(run, settings, tmp_path, key, others):
    """Evaluated at 64 and at 96 pixels, one network gives two sets of maps; they must not pass for two seeds."""
    for number, how in enumerate(({}, {key: others})):
        shutil.copytree(run, tmp_path / str(number))
        values = {"seed": number, "evaluation": how | {"resamples": 10 + number}}
        used = config.resolve(config.merge(settings.model_dump(), values), Path())
        (tmp_path / str(number) / "config.yaml").write_text(config.dump(used))
        evaluation.evaluate(tmp_path / str(number), used)
    assert [group.seeds for group in comparison.group_runs([tmp_path / "0", tmp_path / "1"])] == [[0], [1]]
    found = json.loads((tmp_path / "1/summary.json").read_text())["config"]
    assert found["evaluation"][key] == others and found["seed"] == 1
    found = json.loads((run / "summary.json").read_text())
    del found["format"]
    (tmp_path / "1/summary.json").write_text(json.dumps(found))
    with pytest.raises(comparison.ResultsError, match=f"{tmp_path / '1'} holds results of format 1, this sslib reads"):
        comparison.group_runs([tmp_path / "0", tmp_path / "1"])


def test_variants_are_paired_by_clip_and_by_seed(tmp_path):
    """A variant that adds 0.1 to every clip under both seeds, however much clips and seeds differ."""
    hard = np.linspace(0, 0.4, 40)
    runs = {(n, s): made_run(tmp_path / f"{n}{s}", hard + g + 0.5 * s, {}) for n, g in (("base", 0), ("more", 0.1))
            for s in (0, 1)}  # fmt: skip
    groups = [comparison.Group(name, [runs[name, 0], runs[name, 1]], [0, 1]) for name in ("base", "more")]
    table = comparison.compare(groups, Evaluation(resamples=500))
    (row,) = comparison.gains(table[table["measure"] == "auc"]).to_dict("records")
    np.testing.assert_allclose([row["value"], row["low"], row["high"]], 0.1)
    assert (row["run"], row["clips"], row["clusters"], row["seeds"]) == ("more", 40, 20, 2)
    assert row["outcome"] == "better"
    mean = table[(table["measure"] == "auc") & (table["run"] == "base")].to_dict("records")[0]
    assert mean["value"] == pytest.approx(hard.mean() + 0.25) and mean["low"] < hard.mean() + 0.01


def test_what_the_own_sound_adds_is_what_the_summary_says(run, settings):
    """Of one run its row of the differences; of the same run twice, the same mean."""
    summary = pd.DataFrame(json.loads((run / "summary.json").read_text())["differences"])
    want = summary.query("protocol == 'masks' and measure == 'pointing' and control == 'model, shuffled sounds'")
    want = want.set_index(["split", "subset"])
    once, twice = (comparison.heard([comparison.Group("a", [run] * n, [*range(n)])], settings.evaluation)
                   .set_index(["split", "subset"]) for n in (1, 2))  # fmt: skip
    assert len(want) and set(once.index) == set(want.index)
    for column in ("value", "low", "high", "clips", "clusters"):
        np.testing.assert_allclose(once[column], want[column].reindex(once.index), err_msg=column)
    np.testing.assert_allclose(twice["value"], once["value"])
    assert [*twice["seeds"].unique()] == [2]


def test_interaction_is_compared_over_scenes_recordings_and_seeds(tmp_path):
    """Two clips a scene: a scene succeeds where both do, and is drawn as often as its two recordings times its seed."""
    rng, table = np.random.default_rng(5), {}
    pairs = [rng.choice(12, 2, replace=False) for _ in range(40)]
    recordings = [f"r{number}" for pair in pairs for number in pair]
    scenes = [f"s{number:02d}" for number in range(40) for _ in range(2)]
    for name, low in (("base", 0.2), ("more", 0.4)):
        for seed in range(3):
            run = made_run(tmp_path / f"{name}{seed}", np.zeros(80), {})
            values = rng.uniform(low, 1, 80)
            order = pd.read_csv(run / "clips.csv")["clip_id"].str[4:].astype(int)
            rows = pd.read_csv(run / "clips.csv").assign(objects=2, ciou=values[order], ciou_adaptive=values[order])
            rows["recording"], rows["scene"] = np.array(recordings)[order], np.array(scenes)[order]
            rows.to_csv(run / "clips.csv", index=False)
            table[name, seed] = values.reshape(40, 2).min(axis=1) >= 0.5
    groups = [comparison.Group(n, [tmp_path / f"{n}{s}" for s in range(3)], [0, 1, 2]) for n in ("base", "more")]
    found = comparison.compare(groups, Evaluation(resamples=3000)).set_index(["measure", "run"])
    row = found.loc["iiou_adaptive", "more"]
    means, gains = [], []
    for _ in range(3000):
        counts = np.bincount(rng.integers(0, 12, 12), minlength=12)
        weight = np.array([counts[a] * counts[b] for a, b in pairs])
        if weight.sum():
            drawn = rng.integers(0, 3, 3)
            values = np.mean([table["more", seed] for seed in drawn], axis=0)
            means.append(np.average(values, weights=weight))
            values = values - np.mean([table["base", seed] for seed in drawn], axis=0)
            gains.append(np.average(values, weights=weight))
    of_seeds = [table["more", seed].mean() for seed in range(3)]
    assert row["protocol"] == "interaction" and (row["clips"], row["clusters"], row["seeds"]) == (40, 12, 3)
    assert row["value"] == pytest.approx(np.mean(of_seeds))
    assert (row["least"], row["most"]) == pytest.approx((min(of_seeds), max(of_seeds)))
    for keys, drawn in ((["low", "high"], means), (["gain_low", "gain_high"], gains)):
        limits = np.quantile(drawn, [0.025, 0.975])
        assert [row[key] for key in keys] == pytest.approx(limits, abs=0.2 * np.std(drawn))


@torch.no_grad()
def test_object_guidance(run, settings, tmp_path):
    """EZ-VSL's: four tenths of the map, six of what torchvision's classifier sees, each from 0 to 1; both measured."""
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    network.layer4[0].conv1.stride = network.layer4[0].downsample[0].stride = (1, 1)  # cells as fine as ours
    how = settings.evaluation.model_copy(update={"object_prior": tmp_path / "resnet18.pth", "resamples": 50})
    asked = settings.model_copy(update={"evaluation": how})
    split = settings.data.tests[0]
    summary = json.loads(evaluation.evaluate(run, asked, tmp_path / "out").read_text())
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        own, prior, guided = (maps[f"{split}/{n}"] for n in ("similarity", "object_prior", "object_guided"))
    image = torch.stack([clip["image"] for clip in datasets.AVDataset(asked, split)])
    x = features.images(image, asked)
    for name, layer in network.named_children():
        x = layer(x) if name not in ("avgpool", "fc") else x
    np.testing.assert_allclose(prior, x.abs().mean(dim=1), rtol=1e-4)
    for one, other, found in zip(own, prior, guided, strict=True):
        want = 0.4 * (one - one.min()) / np.ptp(one) + 0.6 * (other - other.min()) / np.ptp(other)
        np.testing.assert_allclose(found, want, atol=1e-5)
    assert {"model, object-guided", "object prior"} <= {row["method"] for row in summary["tables"]}


def test_objectives_have_their_roles_in_a_comparison(configure, tmp_path):
    """The paper's, its base model, those of others, and ours, the first that has what is no part of the paper."""
    kinds = {
        "plain": ({"reasoning": False}, {"pool": "max"}, 0.1),
        "paper": ({"reasoning": True}, {"pool": "max"}, 0.2),
        "ours": ({"reasoning": True}, {"silent": 1}, 0.5),
        "more": ({"reasoning": True}, {"pool": "soft"}, 0.6),
        "less": ({"reasoning": False}, {"global_contrast": 0.1}, 0.4),
        "theirs": ({"reasoning": False}, {"kind": "lvs"}, 0.3),
        "worst": ({"reasoning": False}, {"kind": "fnac"}, 0.0),
    }
    groups, configs = [], {}
    for name, (model, objective, value) in kinds.items():
        run = made_run(tmp_path / name, np.arange(40) / 40, {})
        rows = pd.read_csv(run / "clips.csv")
        rows.assign(pointing=(rows["auc"] < value) * 1.0).to_csv(run / "clips.csv", index=False)
        groups.append(comparison.Group(name, [run], [0]))
        configs[name] = configure(model=model, objective=objective)
    how = Evaluation(resamples=50)
    found = comparison.against(groups, configs, comparison.compare(groups, how), how)
    roles = {key: found[key] for key in ("base", "context", "best", "own", "published")}
    assert roles == {"base": "plain", "context": "paper", "best": "theirs", "own": "ours",
                     "published": ["theirs", "worst"]}  # fmt: skip
    (gain,) = [row for row in found["own_over_best"] if row["measure"] == "pointing"]
    assert gain["value"] == pytest.approx(0.2)


def test_seeds_that_disagree_settle_nothing(tmp_path):
    clips = np.random.default_rng(3).random(30) / 2
    runs = [made_run(tmp_path / f"base{s}", clips, {}) for s in range(3)]
    more = [made_run(tmp_path / f"more{s}", clips + gain, {}) for s, gain in enumerate((0.4, 0.06, 0.0))]
    groups = [comparison.Group("base", runs, [0, 1, 2]), comparison.Group("more", more, [0, 1, 2])]
    table = comparison.gains(comparison.compare(groups, Evaluation(resamples=2000)))
    assert table.set_index("measure").loc["auc", "outcome"] == "inconclusive"
    alone = [group._replace(runs=group.runs[:1], seeds=[0]) for group in groups]
    row = comparison.gains(comparison.compare(alone, Evaluation(resamples=2000))).set_index("measure").loc["auc"]
    assert (row["outcome"], row["seeds"]) == ("better", 1)  # on these recordings: another training may differ


def test_comparison_on_the_command_line(tmp_path):
    values = np.random.default_rng(2).random(12)
    a = made_run(tmp_path / "a", values, {"seed": 0})
    b = made_run(tmp_path / "b", values + 0.3, {"seed": 0, "model": {"width": 16}})
    asked = ["evaluate", "--compare", str(a), str(b), "--set", "evaluation.resamples=50", "--out", str(tmp_path / "c")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "gain of p/b" in done.output and "+30.0 [+30.0, +30.0] better (single seed)" in done.output
    assert "12 of 12 clips are in all runs" in done.output
    assert len(pd.read_csv(tmp_path / "c/comparison.csv")) == 4
    for bad, code in (([str(a)], 1), ([str(a), str(tmp_path)], 1), ([str(a), str(b), "--set", "seed=3"], 2)):
        assert CliRunner().invoke(app, ["evaluate", "--compare", *bad]).exit_code == code
    other = made_run(tmp_path / "d", values, {}, ids=[f"clip{i}" for i in range(50, 62)])
    with pytest.raises(ValueError, match="no test clip in common"):
        comparison.compare(comparison.group_runs([a, other]), Evaluation())


# Verdicts


def test_verdicts_take_the_best_control():
    place = {"protocol": "masks", "split": "test", "subset": "all", "measure": "pointing"}
    values = {"model": 0.5, "centre square": 0.3, "untrained weights": 0.4, "oracle ranking": 1.0}
    rows = [place | {"method": name, "value": one} for name, one in values.items()]
    gains = [place | {"control": name, "value": 0.5 - values[name], "low": low, "high": 0.3, "clusters": 10}
             for name, low in (("centre square", 0.1), ("untrained weights", -0.1))]  # fmt: skip
    said = comparison.verdict(rows, gains)
    found = {"control": "untrained weights", "control_value": 0.4, "value": 0.5 - 0.4, "low": -0.1, "high": 0.3}
    assert said == place | found | {"outcome": "inconclusive"}
    gains[1]["low"] = 0.05
    assert comparison.verdict(rows, gains)["outcome"] == "better"
    for few in (1, 2, 9):  # a clear difference, but of too few
        said = comparison.verdict(rows, [gain | {"clusters": few} for gain in gains])
        assert said["outcome"] == comparison.TOO_FEW
    gains[1] |= {"low": -0.3, "high": -0.1}
    assert comparison.verdict(rows, gains)["outcome"] == "worse"
    assert comparison.verdict(rows, []) is None
    low = {**place, "protocol": "universal", "measure": "pia"}  # the less of it the better
    rows, gains = [r | low for r in rows], [r | low for r in gains]
    said = comparison.verdict(rows, gains)
    assert said == low | said and said["control"] == "centre square" and said["outcome"] == "worse"
    assert comparison.verdicts(rows, gains) == [said]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(-0.1, 0.2, "inconclusive"), (0.0, 0.2, "inconclusive"), (0.1, 0.2, "better"), (-0.2, -0.1, "worse"),
     (np.nan, np.nan, "inconclusive")],
)  # fmt: skip
def test_outcomes(low, high, found):
    assert comparison.outcome(low, high) == found
    turned = {"better": "worse", "worse": "better"}.get(found, found)
    assert comparison.outcome(low, high, higher_is_better=False) == turned


def test_the_table_of_measures_has_the_columns_of_retrieval():
    right = np.ones((2, 2), dtype=bool)
    names = set(protocols.recalls(None, {"": right, "class_": right}))
    assert names == {key for key, measure in MEASURES.items() if measure.protocol == "retrieval"}
    assert all(measure.key == key for key, measure in MEASURES.items())


def test_long_lists_of_missing_maps_are_cut(tmp_path):
    coverage = evaluation.ListCoverage("0 of 5158 present", [f"clip{k}" for k in range(5158)], ["a"])
    assert "no map of (5158): clip0, " in str(coverage) and "clip19, … and 5138 more" in str(coverage)
    assert len(str(coverage)) < 400


def test_a_folder_that_holds_a_checkpoint_is_taken_for_it(tmp_path):
    (tmp_path / "run").mkdir()
    for path in (tmp_path, tmp_path / "run"):
        (tmp_path / "run" / "checkpoint.pt").write_text("hello")
        done = CliRunner().invoke(app, ["evaluate", str(path)])
        assert done.exit_code == 1 and "give run/checkpoint.pt of an experiment" in done.stderr
        assert str(tmp_path / "run" / "checkpoint.pt") in done.stderr and "(101)" not in done.stderr


def test_a_comparison_names_the_folder_to_give(tmp_path):
    values = np.random.default_rng(2).random(12)
    (tmp_path / "a").mkdir()
    run = made_run(tmp_path / "a" / "run", values, {"seed": 0})
    done = CliRunner().invoke(app, ["evaluate", "--compare", str(tmp_path / "a"), str(run)])
    assert done.exit_code == 1 and f"give {run}" in done.stderr


def test_maps_are_made_and_measured_as_the_configuration_says(run, settings, tmp_path):
    """Means over sizes and mirrored images lie in ``maps.npz``; what is measured is smoothed, the threshold too."""
    shutil.copy(run / "checkpoint.pt", tmp_path)
    how = {"evaluation": {"image_sizes": [48, 64], "mirror": True, "saliency": 0.3, "smoothing": 0.2}}
    used = config.resolve(config.merge(settings.model_dump(), how), Path())
    evaluation.evaluate(tmp_path, used)
    stored, model = dict(np.load(tmp_path / "maps.npz")), checkpoint.load_model(tmp_path / "checkpoint.pt")[0]
    clip = datasets.AVDataset(used, "test")[0]
    images, want = features.images(clip["image"][None], used), torch.zeros(1, 64, 4, 4)
    with torch.inference_mode():
        for size in (48, 64):
            small = F.interpolate(images, (size, size), mode="bilinear", antialias=True) if size < 64 else images
            for image, turn in ((small, False), (small.flip(3), True)):
                visual = model.encode_image(image).flip(3) if turn else model.encode_image(image)
                want += F.interpolate(visual, (4, 4), mode="bilinear") / 4
        sound = model.encode_audio(features.spectrograms(clip["waveform"][None], used))
        norm = want.norm(dim=1)
        salient = (norm - norm.min()) / (norm.max() - norm.min())
        similarity = (model.similarity(want, sound) + 0.3 * (salient - salient.mean()))[0].numpy()
    np.testing.assert_allclose(stored["test/similarity"][0], similarity, atol=1e-5)
    table = comparison.read_clips(tmp_path).query("split == 'test' and map_kind == 'similarity' and condition == 'own'")
    data = datasets.AVDataset(used, "test", annotated=True)
    truth = np.stack([metrics.ground_truth_map(data.annotations[i]) for i in data.ids])
    smooth = metrics.smooth(stored["test/similarity"], 0.2)
    np.testing.assert_allclose(table["ciou_adaptive"], metrics.ciou(smooth, truth, "adaptive"), atol=1e-9)
    silent = [np.quantile(metrics.smooth(stored[f"val/{n}"], 0.2).max(axis=(1, 2)), 0.75) for n in NEGATIVES]
    level = json.loads((tmp_path / "summary.json").read_text())["threshold"]["value"]
    assert level == pytest.approx(max(silent))
