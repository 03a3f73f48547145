"""From a trained run, or from anybody's maps, to results: measures of every clip, tables with intervals; written once.

``maps.npz`` holds the raw maps, ``clips.csv`` one row per test clip x sound x kind of map, and ``summary.json`` the
tables. Every number and figure of a report derives from these files. Maps from elsewhere come in the form of
``maps.npz``, keys ``LIST/NAME``: ``LIST/ids`` (N clip ids) and raw maps (N, h, w) of these clips, ``LIST/similarity``
with their own sound; where there are any ``LIST/silence``, ``noise``, ``offscreen``, ``shuffled`` (another clip's
sound), ``visual_only`` (without a sound), ``untrained``, ... A map covers the whole image, whatever its shape; (row,
column) = (0, 0) is the corner at the upper left. Maps of negative sounds of the validation list, whose name is
``data.val``, set the universal threshold.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sslib import checkpoint, datasets
from sslib.config import Config, InputError, portable
from sslib.data.layout import Layout, write_atomic
from sslib.evaluation import comparison, measures, protocols, tables
from sslib.evaluation.measures import METHODS, NEGATIVES, AnnotatedClips, array_name, measure
from sslib.model import SoundLocalizer
from sslib.prediction import OtherAudio, predict

# What a model sees and hears, and what it is. No keys: all of the section.
INPUTS = {
    "data": ("sample_rate", "seconds", "time", "frame", "frame_rate", "image_size"),
    "front_end": (),
    "model": (),
}
ARRAYS = [*dict.fromkeys(array_name(*key) for key in METHODS)]  # names that maps may have
PAIRS = ("pair_scores", "untrained_pair_scores")  # (N, N) of all images (rows) with all sounds


class MapError(InputError):
    """Maps that cannot be used; the message names the file and says what is wrong."""


def evaluate(run: Path, config: Config | None = None) -> Path:
    """Measure a run on its test lists and write ``maps.npz``, ``clips.csv`` and ``summary.json`` into it.

    Parameters
    ----------
    run : the folder with ``checkpoint.pt``.
    config : where the test data lie and how sure results shall be; by default the checkpoint's own configuration.

    Returns path of ``summary.json``; it is written last, so a folder that has one is evaluated.

    Raises ``CheckpointError`` when the checkpoint cannot be used, or was trained on other images and sounds than
    `config` would make.
    """
    model, trained = checkpoint.load_model(run / checkpoint.NAME)
    config = trained if config is None else config
    _check_inputs(trained, config, run)
    device = "cuda" if torch.cuda.is_available() and config.training.accelerator != "cpu" else "cpu"
    (run / "summary.json").unlink(missing_ok=True)
    torch.manual_seed(config.seed)
    untrained = SoundLocalizer(trained.model.model_copy(update={"imagenet": False})).to(device)
    model = model.to(device)
    maps, thresholds, threshold = calibrate(model, untrained, config, device)
    clips, present = [], {}
    for split in config.data.tests:
        dataset = datasets.AVDataset(config, split, annotated=True)
        arrays = predict_all(model, untrained, dataset, config, device, pairs=True)
        clips.append(measure(AnnotatedClips.of(dataset), arrays, thresholds))
        del arrays["untrained_pair_scores"]  # (N, N): only the ranks that it gave are kept
        maps |= {f"{split}/{name}": array for name, array in arrays.items()} | {f"{split}/ids": np.array(dataset.ids)}
        present[split] = {"present": dataset.present, "missing": dataset.missing}
    np.savez_compressed(run / "maps.npz", **maps)
    history = checkpoint.load_checkpoint(run / checkpoint.NAME)["history"]
    seconds = round(sum(row["seconds"] for row in history), 1)
    training = {"seed": trained.seed, "epochs": len(history), "seconds": seconds, "last": history[-1]}
    about = {"training": training, "lists": present, "threshold": threshold}
    return write(run, pd.concat(clips, ignore_index=True), config, about)


def _check_inputs(trained: Config, config: Config, run: Path) -> None:
    """Refuse a configuration under which a trained model would see or hear something else than in training."""
    changed = []
    for section, keys in INPUTS.items():
        old, new = getattr(trained, section).model_dump(mode="json"), getattr(config, section).model_dump(mode="json")
        names = (set(keys) or set(old)) - {"imagenet"}  # where the first weights lay is no matter any more
        changed += [f"{section}.{k}: {old[k]}, not {new[k]}" for k in sorted(names) if old[k] != new[k]]
    if changed:
        fault = f"{run} was trained with another configuration ({'; '.join(changed)})"
        raise checkpoint.CheckpointError(f"{fault}: take these from its config.yaml, or train again")


def predict_all(
    model: SoundLocalizer,
    untrained: SoundLocalizer,
    dataset: datasets.AVDataset,
    config: Config,
    device: str,
    pairs: bool = False,
) -> dict[str, np.ndarray]:
    """Predict raw maps of every clip with its own and with other sounds, without sound, and by untrained weights.

    Names are those of :func:`sslib.evaluation.measures.array_name`; with `pairs`, ``pair_scores`` compares all images
    with all sounds; ``shuffled_with`` and ``offscreen_with`` say whose sound was played.
    """
    sounds = counterfactual_sounds(AnnotatedClips.of(dataset), config.seed)
    clips = datasets.load_in_memory(dataset, device) if config.data.in_memory else dataset
    trained = predict(model, clips, config, device, sounds, pairs)
    unheard = {name: sound for name, sound in sounds.items() if name in NEGATIVES}
    blank = predict(untrained, clips, config, device, unheard, pairs)
    arrays = trained.maps | {"audio_embeddings": trained.audio_embeddings}
    if pairs:
        arrays |= {"pair_scores": trained.pair_scores, "untrained_pair_scores": blank.pair_scores}
    arrays |= {array_name("untrained", "own"): blank.maps["similarity"]}
    arrays |= {array_name("untrained", name): blank.maps[name] for name in unheard}
    return arrays | {f"{name}_with": index for name, index in sounds.items() if isinstance(index, np.ndarray)}


def counterfactual_sounds(clips: AnnotatedClips, seed: int = 0) -> dict[str, OtherAudio]:
    """Choose what :func:`sslib.prediction.predict` shall play beside each clip's own sound.

    ``shuffled``: the sound of a random other clip, of another class. ``offscreen``: that of a clip whose class is not
    among the `objects` of the image (where these are not known: of another class). ``silence`` and ``noise``. Where
    a list has no such sound for one of its clips, that kind is left out, with a warning.
    """
    sounds: dict[str, OtherAudio] = {"silence": protocols.silence, "noise": protocols.noise}
    labels = np.asarray(clips.classes)
    visible = [{own, *(held or ())} for held, own in zip(clips.field("objects"), clips.classes, strict=True)]
    excluded = {"shuffled": [{own} for own in clips.classes], "offscreen": visible}
    for number, (name, classes) in enumerate(excluded.items()):
        choices = [np.flatnonzero(~np.isin(labels, list(unwanted))) for unwanted in classes]
        if all(len(choice) for choice in choices):
            rng = np.random.default_rng([seed, number])
            sounds[name] = np.array([rng.choice(choice) for choice in choices])
        else:
            warnings.warn(f"list {clips.split!r} has too few classes: no {name} sounds", stacklevel=2)
    return sounds


def calibrate(
    model: SoundLocalizer, untrained: SoundLocalizer, config: Config, device: str
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """Find the universal threshold from negative sounds on the validation list, never from a clip of a test list.

    Returns the maps it came from (for ``maps.npz``), the threshold of each kind of map, and where it came from in
    words. Without a validation list there is none, and what needs it stays empty.
    """
    split = config.data.val
    dataset, used, reason = _untested(config)
    if dataset is None or not used.any():
        warnings.warn(f"no universal threshold: {reason}", stacklevel=2)
        return {}, {}, {"value": None, "list": split, "clips": 0, "reason": reason}
    arrays = predict_all(model, untrained, dataset, config, device)
    kept = {name: array[used] for name, array in arrays.items()} | {"ids": np.array(dataset.ids)[used]}
    thresholds, threshold = _threshold(kept, split)
    threshold |= {"present": dataset.present, "missing": dataset.missing}
    return {f"{split}/{name}": kept[name] for name in ("ids", *threshold["kinds"])}, thresholds, threshold


def _threshold(arrays: dict[str, np.ndarray], split: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The threshold of each kind of map from maps of negative sounds, and where it came from in words."""
    thresholds = measures.universal_thresholds(arrays)
    found = {"value": thresholds.get("similarity"), "list": split, "clips": len(arrays["ids"]), "quantile": 0.75}
    return thresholds, found | {"kinds": [name for name in NEGATIVES if name in arrays], "levels": thresholds}


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
    info = Layout(config.data.root).info()
    summary = {
        "format": comparison.FORMAT,
        "experiment": f"{config.exp_prefix}/{config.exp_name}",
        "config": portable(config),
        "data": {
            "name": info.get("name", config.data.root.name),
            "generated": bool(info.get("generated", False)),
            "digest": info.get("digest", ""),
            "missing": info.get("missing", []),
        },
    }
    summary |= about | tables.summarize(clips, config.evaluation, config.seed)
    summary["verdicts"] = comparison.verdicts(summary["tables"], summary["differences"])
    write_atomic(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return folder / "summary.json"


# Maps from elsewhere --------------------------------------------------------------------------------------------------


class ListCoverage(NamedTuple):
    """Which clips of a list have maps."""

    ids: list[str]  # in the order of the list
    missing: list[str]  # listed, but there is no map
    extra: list[str]  # a map, but not listed

    def __str__(self) -> str:
        lines = [f"{len(self.ids)} of {len(self.ids) + len(self.missing)} present"]
        for name, ids in (("no map of", self.missing), ("not in the list", self.extra)):
            lines += [f"{name} ({len(ids)}): {', '.join(ids)}"] if ids else []
        return "\n".join(lines)


def evaluate_maps(maps: Path, config: Config, split: str, out: Path) -> tuple[Path, ListCoverage]:
    """Measure the maps of one test list, whoever made them; write ``clips.csv`` and ``summary.json`` into `out`.

    Parameters
    ----------
    maps : .npz file in the form of ``maps.npz``, see above, or a folder as :func:`read_folder` takes it.
    config : where the list, the annotations and the masks lie (``data.root``); images and sounds are not needed.

    Returns path of ``summary.json``, and which clips had a map.

    Raises ``MapError`` for maps that are no arrays of finite numbers, one map for each of their ids, and when no listed
    clip has one.
    """
    layout = Layout(config.data.root)
    found = read_folder(maps, split, config.data.val) if maps.is_dir() else _load(maps)
    if not isinstance(found, dict):
        raise MapError(
            f"{maps}: one array; maps of many clips are an .npz file in the form of run/maps.npz, or a folder"
        )
    arrays = _of_list(found, split, maps)
    if "similarity" not in arrays:
        raise MapError(
            f"{maps}: no maps with the clips' own sounds ({split}/similarity in an .npz file, ID.npy in a folder)"
        )
    listed, rows = layout.ids(split), {clip_id: row for row, clip_id in enumerate(arrays["ids"].tolist())}
    ids = [clip_id for clip_id in listed if clip_id in rows]
    coverage = ListCoverage(ids, [i for i in listed if i not in rows], sorted(rows.keys() - set(listed)))
    if not ids:
        raise MapError(f"{maps}: no map of a clip of the list {split!r} ({listed[0]}, …)\n{coverage}")
    annotations = layout.annotations(split)
    if unknown := [clip_id for clip_id in ids if "boxes" not in annotations.get(clip_id, {})]:
        raise MapError(f"{len(unknown)} of {len(ids)} clips of {split!r} lack boxes: {unknown[:5]} …")
    order = np.array([rows[clip_id] for clip_id in ids])
    arrays = {name: array[np.ix_(order, order)] if name in PAIRS else array[order] for name, array in arrays.items()}
    reason = f"no maps of clips of {config.data.val!r} with negative sounds ({config.data.val}/silence)"
    thresholds, threshold = {}, {"value": None, "list": config.data.val, "clips": 0, "reason": reason}
    if f"{config.data.val}/ids" in found:
        kept = _of_list(found, config.data.val, maps)
        used = ~np.isin(kept["ids"], listed)
        if used.any() and any(name in kept for name in NEGATIVES):
            thresholds, threshold = _threshold({k: array[used] for k, array in kept.items()}, config.data.val)
    clips = measure(AnnotatedClips(split, layout, ids, annotations), arrays, thresholds)
    present = {"present": str(coverage).splitlines()[0], "missing": coverage.missing, "extra": coverage.extra}
    out.mkdir(parents=True, exist_ok=True)
    return write(out, clips, config, {"maps": str(maps), "lists": {split: present}, "threshold": threshold}), coverage


def read_folder(folder: Path, split: str, val: str) -> dict[str, np.ndarray]:
    """Read a folder of one map a file, as reports/README.md shows it, into the form of ``maps.npz``.

    ``ID.npy`` is a map with the clip's own sound; ``silence/ID.npy``, ... with others; ``VAL/silence/ID.npy``, ... are
    those of the validation list.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, parent in ((split, folder), (val, folder / val)):
        kinds = {kind: sorted((parent / kind.removeprefix("similarity")).glob("*.npy")) for kind in ARRAYS}
        ids = sorted({file.stem for files in kinds.values() for file in files})
        for kind, files in kinds.items():
            if files and (missing := sorted(set(ids) - {file.stem for file in files})):
                says = f"{len(files)} of {len(ids)} present, no map of {', '.join(missing)}"
                raise MapError(f"{files[0].parent}/: {says}: complete it, or leave the kind out")
            if files:
                arrays |= {f"{name}/ids": np.array(ids), f"{name}/{kind}": _stack([_load(f) for f in files], files)}
    return arrays


def _load(file: Path) -> Any:
    """The array of an .npy file, or those of an .npz file by name."""
    try:
        found = np.load(file, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MapError(f"{file}: not an array of numbers ({error})") from None


def _of_list(arrays: dict[str, np.ndarray], name: str, path: Path) -> dict[str, np.ndarray]:
    """What there is of one list, checked: ``ids``, and maps by name."""
    found = {key: arrays[f"{name}/{key}"] for key in ("ids", *ARRAYS, *PAIRS) if f"{name}/{key}" in arrays}
    if "ids" not in found:
        raise MapError(
            f"{path}: no map of a clip of the list {name!r} ({name}/ids in an .npz file, ID.npy in a folder)"
        )
    ids = found["ids"].tolist()
    for key in found.keys() - {"ids"}:
        if len(found[key]) != len(ids):
            raise MapError(f"{path}: {len(found[key])} values of {name}/{key}, but {len(ids)} of {name}/ids")
        if key not in PAIRS:
            found[key] = _stack(found[key], [f"{path}, {name}/{key} of {clip_id!r}" for clip_id in ids])
    return found


def _stack(maps: Sequence[np.ndarray], names: Sequence[Any]) -> np.ndarray:
    """Maps (N, h, w), checked one by one; `names` are for messages."""
    for one, name in zip(maps, names, strict=True):
        if np.ndim(one) != 2 or not one.size:
            raise MapError(f"{name}: shape {np.shape(one)}; a map has two dimensions (rows, columns)")
        if one.dtype.kind not in "fiub":
            raise MapError(f"{name}: values of type {one.dtype}; a map holds real numbers")
        if not np.isfinite(one).all():
            raise MapError(f"{name}: {np.count_nonzero(~np.isfinite(one))} values are NaN or infinite")
        if one.shape != maps[0].shape:
            raise MapError(f"{name}: shape {one.shape}, but that of {names[0]} is {maps[0].shape}; give one shape")
    stacked = np.stack(maps)
    return stacked if stacked.dtype.kind == "f" else stacked.astype(np.float64)
