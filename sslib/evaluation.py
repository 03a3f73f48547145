"""From a trained run to its results: maps under every sound condition, controls, measures, intervals; written once.

``run/maps.npz`` holds the raw maps, ``run/clips.csv`` one row per test clip x sound x kind of map, and
``run/summary.json`` the tables. Every number and figure of a report derives from these files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from sslib import checkpoint, datasets, engine, metrics, viz
from sslib.config import Config
from sslib.model import SoundLocalizer

# What a row of the tables is: kind of map and sound, and how a table calls it.
METHODS = {
    ("similarity", "own"): "model",
    ("similarity", "shuffled"): "model, shuffled sounds",
    ("untrained", "own"): "untrained weights",
    ("visual_only", "none"): "visual-only (foreground nodes)",
    ("visual_only_mean", "none"): "visual-only (all nodes)",
    ("whole_image", "none"): "whole image",
    ("centre_square", "none"): "centre square",
    ("oracle", "none"): "oracle ranking",
}
MEASURES = {
    "pointing": "pointing accuracy",
    "miou": "mean IoU, adaptive threshold",
    "success": "success rate at 0.5, median threshold",
    "auc": "AUC, median threshold",
    "success_adaptive": "success rate at 0.5, adaptive threshold",
    "auc_adaptive": "AUC, adaptive threshold",
}
CONTROLS = ("model, shuffled sounds", "visual-only (foreground nodes)", "untrained weights", "centre square")


def evaluate(run: Path, config: Config | None = None) -> Path:
    """Measure a run on its test lists and write ``maps.npz``, ``clips.csv`` and ``summary.json`` into it.

    Parameters
    ----------
    run : the folder with ``checkpoint.pt``.
    config : where the test data lie and how sure results shall be; by default the checkpoint's own configuration.

    Returns
    -------
    Path of ``summary.json``; it is written last, so a folder that has one is evaluated.

    Raises
    ------
    CheckpointError
        When the checkpoint cannot be used.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, trained_config = checkpoint.load_model(run / checkpoint.NAME, device)
    config = trained_config if config is None else config
    (run / "summary.json").unlink(missing_ok=True)
    torch.manual_seed(config.seed)
    untrained = SoundLocalizer(config.model.model_copy(update={"imagenet": False})).to(device)
    maps, tables = {}, []
    for split in config.data.tests:
        dataset = datasets.open_dataset(config, split, annotated=True)
        arrays = predict_all(model, untrained, dataset, config, device)
        tables.append(measure(dataset, arrays))
        maps |= {f"{split}/{name}": array for name, array in arrays.items()} | {f"{split}/ids": np.array(dataset.ids)}
    clips = pd.concat(tables, ignore_index=True)
    np.savez_compressed(run / "maps.npz", **maps)
    clips.to_csv(run / "clips.csv", index=False)
    history = checkpoint.load_checkpoint(run / checkpoint.NAME)["history"]
    thumbnail(config, maps).savefig(run / "thumbnail.png", dpi=100)
    summary = summarize(clips, config) | describe(config, history)
    partial = run / "summary.json.tmp"
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return partial.replace(run / "summary.json")


def predict_all(
    model: SoundLocalizer, untrained: SoundLocalizer, dataset: datasets.AVDataset, config: Config, device: str
) -> dict[str, np.ndarray]:
    """Raw maps of every clip with its own and with another sound, without sound, and by untrained weights."""
    classes = [dataset.annotations[clip_id].get("class", clip_id) for clip_id in dataset.ids]
    other = shuffled(classes, config.seed)
    trained = engine.predict(model, dataset, config, device, {"shuffled": other})
    blank = engine.predict(untrained, dataset, config, device)
    return trained.maps | {"untrained": blank.maps["similarity"], "audio": trained.audio, "shuffled_with": other}


def thumbnail(config: Config, maps: dict[str, np.ndarray], columns: int = 6) -> Figure:
    """The first clips of the first test list and their maps: the picture of an experiment, not chosen by result."""
    split = config.data.tests[0]
    dataset = datasets.open_dataset(config, split, annotated=True)
    rows = range(min(columns, len(dataset)))
    clips = [dataset[row] for row in rows]
    return viz.localization(
        [clip["image"].numpy() for clip in clips],
        {"map": [maps[f"{split}/similarity"][row] for row in rows]},
        [clip["boxes"].numpy() for clip in clips],
        [clip["mask"] for clip in clips],
        [f"♪ {clip['annotation'].get('class', '')}".replace("_", " ") for clip in clips],
    )


def shuffled(classes: list[str], seed: int = 0) -> np.ndarray:
    """For each clip the index of a random other clip whose sound is of another class (int (N,)).

    Raises
    ------
    ValueError
        When all clips are of one class.
    """
    labels, rng = np.asarray(classes), np.random.default_rng(seed)
    if len(np.unique(labels)) < 2:
        raise ValueError("sounds can only be shuffled between at least two classes")
    return np.array([rng.choice(np.flatnonzero(labels != label)) for label in labels])


def truth(dataset: datasets.AVDataset) -> tuple[np.ndarray, np.ndarray, bool]:
    """Ground truth of a test list at 224 x 224: box maps, masks, and whether all clips have a mask.

    Where masks are not known the boxes stand in for them (pointing), and no mean IoU is computed.
    """
    boxes = np.stack([metrics.box_map(dataset.annotations[i]["boxes"]) for i in dataset.ids]).astype(np.float32)
    masks, complete = boxes > 0, True
    for row, clip_id in enumerate(dataset.ids):
        path = dataset.layout.mask(clip_id)
        if not path.is_file():
            complete = False
            continue
        with Image.open(path) as image:
            mask = image.convert("L").resize((metrics.GRID, metrics.GRID), Image.Resampling.NEAREST)
        masks[row] = np.asarray(mask) > 127
    return boxes, masks, complete


def measure(dataset: datasets.AVDataset, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per clip x sound x kind of map, with every measure that one clip can have."""
    boxes, masks, complete = truth(dataset)
    about = pd.DataFrame([_about(dataset, clip_id) for clip_id in dataset.ids])
    about["area"] = boxes.mean(axis=(1, 2))
    tables = []
    for (kind, sound), heatmaps in _methods(arrays, boxes):
        # The bound for pixels knows the pixels, the bound for boxes the boxes.
        pixels = metrics.oracle(masks) if kind == "oracle" else heatmaps
        median = metrics.ciou(heatmaps, boxes)
        adaptive = metrics.ciou(heatmaps, boxes, "adaptive")
        values = {
            "map": kind,
            "sound": sound,
            "ciou": median,
            "success": np.where(np.isnan(median), np.nan, median >= 0.5),
            "auc": metrics.auc_share(median),
            "ciou_adaptive": adaptive,
            "success_adaptive": np.where(np.isnan(adaptive), np.nan, adaptive >= 0.5),
            "auc_adaptive": metrics.auc_share(adaptive),
            "pointing": metrics.pointing(pixels, masks),
            "miou": metrics.ciou(pixels, masks, "adaptive") if complete else np.nan,
        }
        tables.append(about.assign(**values))
    return pd.concat(tables, ignore_index=True)


def _about(dataset: datasets.AVDataset, clip_id: str) -> dict[str, Any]:
    annotation = dataset.annotations[clip_id]
    objects = annotation.get("objects")
    return {
        "split": dataset.split,
        "part": "all" if objects is None else f"{len(objects)} object{'s' if len(objects) > 1 else ''}",
        "clip_id": clip_id,
        "class": annotation.get("class", ""),
        "recording": annotation.get("recording", clip_id),
        "scene": annotation.get("scene", clip_id),
    }


def _methods(arrays: dict[str, np.ndarray], boxes: np.ndarray) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Every kind of map, the controls included, that there is for these clips."""
    names = {("similarity", "own"): "similarity", ("similarity", "shuffled"): "shuffled"}
    controls = {"whole_image": metrics.whole_image, "centre_square": metrics.centre_square}
    for kind, sound in METHODS:
        if kind in controls:
            yield (kind, sound), controls[kind](len(boxes))
        elif kind == "oracle":
            yield (kind, sound), metrics.oracle(boxes)
        elif (name := names.get((kind, sound), kind)) in arrays:
            yield (kind, sound), arrays[name]


def summarize(clips: pd.DataFrame, config: Config) -> dict[str, Any]:
    """Means with intervals of every part and method, and paired differences of the model to its controls."""
    tables, differences = [], []
    clips = clips.assign(method=[METHODS[key] for key in zip(clips["map"], clips["sound"], strict=True)])
    for (split, part), group in clips.groupby(["split", "part"], sort=False):
        where = {"split": split, "part": part}
        by_method = {method: rows.set_index("clip_id") for method, rows in group.groupby("method", sort=False)}
        for method, rows in by_method.items():
            for measure_name in MEASURES:
                interval = _interval(rows[measure_name], rows["recording"], config)
                if interval["clips"]:
                    tables.append(where | {"method": method, "measure": measure_name} | interval)
        model = by_method["model"]
        for control in CONTROLS:
            if control not in by_method:
                continue
            for measure_name in MEASURES:
                gain = model[measure_name] - by_method[control].loc[model.index, measure_name]
                interval = _interval(gain, model["recording"], config)
                if interval["clips"]:
                    differences.append(where | {"control": control, "measure": measure_name} | interval)
    return {"tables": tables, "differences": differences, "headline": _headline(tables, differences)}


def _interval(values: pd.Series, recordings: pd.Series, config: Config) -> dict[str, Any]:
    evaluation = config.evaluation
    interval = metrics.bootstrap(values, recordings.to_list(), evaluation.resamples, evaluation.confidence, config.seed)
    return interval._asdict()


def _headline(tables: list[dict], differences: list[dict]) -> list[dict[str, Any]]:
    """The few numbers that stand for a run in the list of experiments."""
    lines = []
    for row in tables:
        if row["method"] == "model" and row["measure"] in ("pointing", "success"):
            lines.append({"label": f"{MEASURES[row['measure']]}: {row['split']}, {row['part']}"} | row)
    for row in differences:
        if row["control"] == "model, shuffled sounds" and row["measure"] == "pointing":
            lines.append({"label": f"pointing gained by the right sound: {row['split']}, {row['part']}"} | row)
    return [
        {key: line[key] for key in ("label", "value", "low", "high", "clips")} | {"unit": "share"} for line in lines
    ]


def describe(config: Config, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What the results are of: experiment, data, training."""
    info = datasets.Layout(config.data.root).info()
    return {
        "exp": f"{config.exp_prefix}/{config.exp_name}",
        "data": {
            "name": info.get("name", config.data.root.name),
            "generated": bool(info.get("generated", False)),
            "digest": info.get("digest", ""),
            "missing": info.get("missing", []),
        },
        "training": {
            "seed": config.seed,
            "epochs": len(history),
            "seconds": round(sum(row["seconds"] for row in history), 1),
            "last": history[-1],
        },
    }
