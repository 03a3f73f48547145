"""From a trained run to its results: maps under every sound condition, measures, tables with intervals; written once.

``run/maps.npz`` holds the raw maps, ``run/clips.csv`` one row per test clip x sound x kind of map, and
``run/summary.json`` the tables. Every number and figure of a report derives from these files.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sslib import checkpoint, datasets
from sslib.config import Config, portable
from sslib.evaluation import names, negatives, tables
from sslib.evaluation.measures import measure
from sslib.evaluation.names import CONTROLS, MEASURES, METHODS, PROTOCOLS
from sslib.evaluation.tables import verdict
from sslib.evaluation.truth import TestList
from sslib.model import SoundLocalizer
from sslib.prediction import predict

# What a model sees and hears, and what it is. No keys: all of the section.
INPUTS = {
    "data": ("sample_rate", "seconds", "time", "frame", "frame_rate", "image_size"),
    "front_end": (),
    "model": (),
}

__all__ = ["CONTROLS", "MEASURES", "METHODS", "PROTOCOLS", "describe", "evaluate", "predict_all", "verdict", "write"]


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
        When the checkpoint cannot be used, or was trained on other pictures and sounds than `config` would make.
    """
    model, trained_config = checkpoint.load_model(run / checkpoint.NAME)
    config = trained_config if config is None else config
    _check_inputs(trained_config, config, run)
    device = "cuda" if torch.cuda.is_available() and config.training.accelerator != "cpu" else "cpu"
    model = model.to(device)
    (run / "summary.json").unlink(missing_ok=True)
    torch.manual_seed(config.seed)
    untrained = SoundLocalizer(trained_config.model.model_copy(update={"imagenet": False})).to(device)
    maps, levels, threshold = calibrate(model, untrained, config, device)
    clips, present = [], {}
    for split in config.data.tests:
        dataset = datasets.AVDataset(config, split, annotated=True)
        arrays = predict_all(model, untrained, dataset, config, device, pairs=True)
        clips.append(measure(TestList.of(dataset), arrays, levels))
        del arrays["untrained_image"]  # (N, N): only the ranks that it gave are kept
        maps |= {f"{split}/{name}": array for name, array in arrays.items()} | {f"{split}/ids": np.array(dataset.ids)}
        present[split] = {"present": dataset.present, "missing": dataset.missing}
    np.savez_compressed(run / "maps.npz", **maps)
    history = checkpoint.load_checkpoint(run / checkpoint.NAME)["history"]
    about = describe(config) | {"training": training(config, history), "present": present, "threshold": threshold}
    return write(run, pd.concat(clips, ignore_index=True), config, about)


def _check_inputs(trained: Config, config: Config, run: Path) -> None:
    """Refuse a configuration under which a trained model would see or hear something else than in training."""
    changed = []
    for section, keys in INPUTS.items():
        old, new = getattr(trained, section).model_dump(mode="json"), getattr(config, section).model_dump(mode="json")
        names = (set(keys) or set(old)) - {"imagenet"}  # where the first weights lay is no matter any more
        changed += [f"{section}.{k}: {old[k]}, not {new[k]}" for k in sorted(names) if old[k] != new[k]]
    if changed:
        advice = "take these from its config.yaml, or train again"
        raise checkpoint.CheckpointError(
            f"{run} was trained with another configuration ({'; '.join(changed)}): {advice}"
        )


def predict_all(
    model: SoundLocalizer,
    untrained: SoundLocalizer,
    dataset: datasets.AVDataset,
    config: Config,
    device: str,
    pairs: bool = False,
) -> dict[str, np.ndarray]:
    """Raw maps of every clip with its own and with other sounds, without sound, and by untrained weights.

    Names are those of :func:`sslib.evaluation.names.array_name`; with `pairs`, ``image`` compares all pictures with all
    sounds; ``shuffled_with`` and ``offscreen_with`` say whose sound was played.
    """
    sounds = negatives.other_sounds(TestList.of(dataset), config.seed)
    clips = datasets.load_in_memory(dataset, device) if config.data.in_memory else dataset
    trained = predict(model, clips, config, device, sounds, pairs)
    unheard = {name: sound for name, sound in sounds.items() if name in names.NEGATIVES}
    blank = predict(untrained, clips, config, device, unheard, pairs)
    arrays = trained.maps | {"audio": trained.audio}
    if pairs:
        arrays |= {"image": trained.pairs, "untrained_image": blank.pairs}
    arrays |= {names.array_name("untrained", "own"): blank.maps["similarity"]}
    arrays |= {names.array_name("untrained", name): blank.maps[name] for name in unheard}
    return arrays | {f"{name}_with": index for name, index in sounds.items() if isinstance(index, np.ndarray)}


def calibrate(
    model: SoundLocalizer, untrained: SoundLocalizer, config: Config, device: str
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """The universal threshold from negative sounds on the validation list, never from a clip of a test list.

    Returns
    -------
    The maps it came from (for ``maps.npz``), the threshold of each kind of map, and where it came from in words.
    Without a validation list there is none, and what needs it stays empty.
    """
    split = config.data.val
    dataset, used, reason = _untested(config)
    if dataset is None or not used.any():
        warnings.warn(f"no universal threshold: {reason}", stacklevel=2)
        return {}, {}, {"value": None, "list": split, "clips": 0, "reason": reason}
    arrays = predict_all(model, untrained, dataset, config, device)
    ids = np.array(dataset.ids)[used]
    kept = {name: array[used] for name, array in arrays.items()}
    levels = negatives.thresholds(kept)
    kinds = [name for name in names.NEGATIVES if name in kept]
    said = {"value": levels["similarity"], "list": split, "clips": len(ids), "kinds": kinds, "quantile": 0.75}
    said |= {"levels": levels, "present": dataset.present, "missing": dataset.missing}
    return {f"{split}/{name}": kept[name] for name in kinds} | {f"{split}/ids": ids}, levels, said


def _untested(config: Config) -> tuple[datasets.AVDataset | None, np.ndarray, str]:
    """The validation list, which of its clips are in no test list, and why there may be none."""
    try:
        dataset = datasets.AVDataset(config, config.data.val)
    except (FileNotFoundError, ValueError) as error:
        if config.data.require_all:
            raise
        return None, np.zeros(0, dtype=bool), str(error).replace(f"{config.data.root}/", "")
    tested = {clip_id for name in config.data.tests for clip_id in dataset.layout.ids(name)}
    used = np.array([clip_id not in tested for clip_id in dataset.ids])
    return dataset, used, f"all clips of {config.data.val!r} are test clips"


def write(folder: Path, clips: pd.DataFrame, config: Config, about: dict[str, Any]) -> Path:
    """Write ``clips.csv`` and, in one step and last, ``summary.json`` with its tables; the path of the latter."""
    (folder / "summary.json").unlink(missing_ok=True)
    clips.to_csv(folder / "clips.csv", index=False)
    summary = tables.summarize(clips, config.evaluation, config.seed) | about | {"config": portable(config)}
    partial = folder / "summary.json.tmp"
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return partial.replace(folder / "summary.json")


def describe(config: Config) -> dict[str, Any]:
    """What the results are of: experiment and data."""
    info = datasets.Layout(config.data.root).info()
    return {
        "exp": f"{config.exp_prefix}/{config.exp_name}",
        "data": {
            "name": info.get("name", config.data.root.name),
            "generated": bool(info.get("generated", False)),
            "digest": info.get("digest", ""),
            "missing": info.get("missing", []),
        },
    }


def training(config: Config, history: list[dict[str, Any]]) -> dict[str, Any]:
    """How the model was trained."""
    seconds = round(sum(row["seconds"] for row in history), 1)
    return {"seed": config.seed, "epochs": len(history), "seconds": seconds, "last": history[-1]}
