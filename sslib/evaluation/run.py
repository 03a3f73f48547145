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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sslib import baselines, checkpoint, datasets, metrics, prediction
from sslib.config import Config, InputError, portable
from sslib.data.layout import Layout, write_atomic
from sslib.evaluation import comparison, measures, protocols, tables
from sslib.evaluation.measures import METHODS, NEGATIVES, AnnotatedClips, array_name, measure
from sslib.model import SoundLocalizer
from sslib.prediction import OtherAudio, predict

# What a model sees and hears, and what it is. No keys: all of the section.
INPUTS = {"data": ("sample_rate", "seconds", "time", "frame", "frame_rate", "image_size"), "front_end": (), "model": ()}
Arrays = dict[str, np.ndarray]
ARRAYS = [*dict.fromkeys(array_name(*key) for key in METHODS)]  # names that maps may have
PAIRS = ("pair_scores", "untrained_pair_scores")  # (N, N) of all images (rows) with all sounds


class MapError(InputError):
    """Maps that cannot be used; the message names the file and says what is wrong."""


def evaluate(run: Path, config: Config | None = None, out: Path | None = None) -> Path:
    """Measure a run on its test lists and write ``maps.npz``, ``clips.csv`` and ``summary.json`` into `out`, or `run`.

    `config` says where the test data lie and how sure results shall be; by default it is the checkpoint's own. Returns
    the path of ``summary.json``; it is written last, so a folder that has one is evaluated. Raises ``CheckpointError``
    when the checkpoint cannot be used, or was trained on other images and sounds than `config` would make.
    """
    model, trained = checkpoint.load_model(run / checkpoint.NAME)
    config = trained if config is None else config
    _check_inputs(trained, config, run)
    device = "cuda" if torch.cuda.is_available() and config.training.accelerator != "cpu" else "cpu"
    out = run if out is None else out
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    torch.manual_seed(config.seed)
    untrained = SoundLocalizer(trained.model.model_copy(update={"imagenet": False})).to(device)
    model = model.to(device)
    maps, thresholds, threshold = calibrate(model, untrained, config, device)
    clips, present = [], {}
    for split in config.data.tests:
        dataset = datasets.AVDataset(config, split, annotated=True)
        arrays = predict_all(model, untrained, dataset, config, device, pairs=True)
        clips.append(measure(AnnotatedClips.of(dataset), as_measured(arrays, config), thresholds))
        del arrays["untrained_pair_scores"]  # (N, N): only the ranks that it gave are kept
        maps |= {f"{split}/{name}": array for name, array in arrays.items()} | {f"{split}/ids": np.array(dataset.ids)}
        present[split] = {"present": dataset.present, "missing": dataset.missing}
    np.savez_compressed(out / "maps.npz", **maps)
    history = checkpoint.load_checkpoint(run / checkpoint.NAME)["history"]
    seconds = round(len(history) * float(np.median([row["seconds"] for row in history])), 1)  # sleep is no training
    training = {"seed": trained.seed, "epochs": len(history), "seconds": seconds, "last": history[-1]}
    about = {"training": training, "lists": present, "threshold": threshold}
    return write(out, pd.concat(clips, ignore_index=True), config, about)


def as_measured(arrays: Mapping[str, np.ndarray], config: Config) -> Arrays:
    """Smooth the raw maps among arrays of ``maps.npz`` as ``evaluation`` says: whosever they are, all alike."""
    names = [name for name in arrays if name.rpartition("/")[2] in ARRAYS]
    return dict(arrays) | {name: metrics.smooth(arrays[name], config.evaluation.smoothing) for name in names}


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
    model: SoundLocalizer, untrained: SoundLocalizer, dataset: datasets.AVDataset, config: Config, device, pairs=False
) -> Arrays:
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
    if config.evaluation.object_prior:
        prior, own = prediction.object_prior(clips, config, device), torch.from_numpy(arrays["similarity"])
        guided = baselines.object_guided(own, torch.from_numpy(prior)).numpy()
        arrays |= {"object_prior": prior, "object_guided": guided}
    arrays |= {"untrained": blank.maps["similarity"]} | {array_name("untrained", n): blank.maps[n] for n in unheard}
    return arrays | {f"{name}_with": index for name, index in sounds.items() if isinstance(index, np.ndarray)}


def counterfactual_sounds(clips: AnnotatedClips, seed: int = 0) -> dict[str, OtherAudio]:
    """Choose what :func:`sslib.prediction.predict` shall play beside each clip's own sound.

    ``shuffled``: the sound of a random other clip, of another class. ``offscreen``: that of a clip whose class is not
    among the `objects` of the image (where these are not known: of another class). ``silence`` and ``noise``. Where
    a list has no such sound for one of its clips, that kind is left out, with a warning.
    """
    sounds: dict[str, OtherAudio] = {"silence": protocols.silence, "noise": protocols.noise}
    labels, visible = np.asarray(clips.classes), protocols.heard_in(clips.classes, clips.field("objects"))
    for number, (name, unwanted) in enumerate({"shuffled": labels[:, None] == labels, "offscreen": visible}.items()):
        choices = [np.flatnonzero(row) for row in ~unwanted]
        if all(len(choice) for choice in choices):
            rng = np.random.default_rng([seed, number])
            sounds[name] = np.array([rng.choice(choice) for choice in choices])
        else:
            warnings.warn(f"list {clips.split!r} has too few classes: no {name} sounds", stacklevel=2)
    return sounds


def calibrate(
    model: SoundLocalizer, untrained: SoundLocalizer, config: Config, device: str
) -> tuple[Arrays, dict[str, float], dict[str, Any]]:
    """Find the universal threshold from negative sounds on the validation list, never from a clip of a test list.

    Returns the maps it came from (for ``maps.npz``), the threshold of each kind of map, and where it came from in
    words. Without a validation list there is none, and what needs it stays empty.
    """
    split, used, reason = config.data.val, np.zeros(0, dtype=bool), f"all clips of {config.data.val!r} are test clips"
    try:
        dataset = datasets.AVDataset(config, split)
        used = ~np.isin(dataset.ids, [clip_id for name in config.data.tests for clip_id in dataset.layout.ids(name)])
    except (FileNotFoundError, ValueError) as error:
        if config.data.require_all:
            raise
        reason = str(error).replace(f"{config.data.root}/", "")
    if not used.any():
        warnings.warn(f"no universal threshold: {reason}", stacklevel=2)
        return {}, *_threshold({}, split, reason)
    arrays = predict_all(model, untrained, dataset, config, device) | {"ids": np.array(dataset.ids)}
    kept = {name: array[used] for name, array in arrays.items()}
    thresholds, threshold = _threshold(as_measured(kept, config), split)
    threshold |= {"present": dataset.present, "missing": dataset.missing}
    return {f"{split}/{name}": kept[name] for name in ("ids", *threshold["kinds"])}, thresholds, threshold


def _threshold(arrays: Arrays, split: str, reason: str = "") -> tuple[dict[str, float], dict[str, Any]]:
    """The threshold of each kind of map from maps of negative sounds, and whence; without maps the `reason`."""
    kinds = [name for name in NEGATIVES if name in arrays]
    if not kinds or not len(arrays["ids"]):
        return {}, {"value": None, "list": split, "clips": 0, "reason": reason}
    levels = measures.universal_thresholds(arrays)
    found = {"value": levels["similarity"], "list": split, "clips": len(arrays["ids"]), "quantile": 0.75}
    return levels, found | {"kinds": kinds, "levels": levels}


def write(folder: Path, clips: pd.DataFrame, config: Config, about: dict[str, Any]) -> Path:
    """Write ``clips.csv`` and, in one step and last, ``summary.json`` with its tables; the path of the latter."""
    (folder / "summary.json").unlink(missing_ok=True)
    clips.to_csv(folder / "clips.csv", index=False)
    data = {"name": config.data.root.name, "generated": False, "digest": "", "missing": []}
    data |= {key: value for key, value in Layout(config.data.root).info().items() if key in data}
    summary = {
        "format": comparison.FORMAT,
        "experiment": f"{config.exp_prefix}/{config.exp_name}",
        "config": portable(config),
        "data": data,
    }
    summary |= about | tables.summarize(clips, config.evaluation, config.seed)
    summary["verdicts"] = comparison.verdicts(summary["tables"], summary["differences"])
    write_atomic(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return folder / "summary.json"


class ListCoverage(NamedTuple):
    """Which clips of a list have maps."""

    present: str  # n of N present
    missing: list[str]  # listed, but there is no map
    extra: list[str]  # a map, but not listed

    def __str__(self) -> str:
        lines = [self.present]
        for name, ids in {"no map of": self.missing, "not in the list": self.extra}.items():
            more = f", … and {len(ids) - 20} more" if len(ids) > 20 else ""
            lines += [f"{name} ({len(ids)}): {', '.join(ids[:20])}{more}"] if ids else []
        return "\n".join(lines)


def evaluate_maps(maps: Path, config: Config, split: str, out: Path) -> tuple[Path, ListCoverage]:
    """Measure the maps of one test list, whoever made them; write ``clips.csv`` and ``summary.json`` into `out`.

    `maps` is an .npz file in the form of ``maps.npz``, see above, or a folder as :func:`read_folder` takes it; `config`
    says where the list, the annotations and the masks lie (``data.root``): images and sounds are not needed. Returns
    the path of ``summary.json``, and which clips had a map. Raises ``MapError`` for maps that are no arrays of finite
    numbers, one for each of their ids, and when no listed clip has one.
    """
    layout, val = Layout(config.data.root), config.data.val
    found = read_folder(maps, split, val) if maps.is_dir() else _load(maps)
    if not isinstance(found, dict):
        raise MapError(f"{maps}: one array; maps of many clips are an .npz file like run/maps.npz, or a folder")
    arrays, known = _of_list(found, split, maps), _of_list(found, val, maps)
    if "similarity" not in arrays:
        wanted = f"{split}/ids and {split}/similarity in an .npz file, ID.npy in a folder"
        raise MapError(f"{maps}: no map of a clip of the list {split!r} with its own sound ({wanted})")
    listed, rows = layout.ids(split), {clip_id: row for row, clip_id in enumerate(arrays["ids"].tolist())}
    ids = [clip_id for clip_id in listed if clip_id in rows]
    missing, extra = [i for i in listed if i not in rows], sorted(rows.keys() - set(listed))
    coverage = ListCoverage(f"{len(ids)} of {len(listed)} present", missing, extra)
    if not ids:
        raise MapError(f"{maps}: no map of a clip of the list {split!r} ({listed[0]}, …)\n{coverage}")
    annotations = layout.annotations(split)
    if unknown := [clip_id for clip_id in ids if "boxes" not in annotations.get(clip_id, {})]:
        raise MapError(f"{len(unknown)} of {len(ids)} clips of {split!r} lack boxes: {unknown[:5]} …")
    order = np.array([rows[clip_id] for clip_id in ids])
    arrays = {name: array[np.ix_(order, order)] if name in PAIRS else array[order] for name, array in arrays.items()}
    unseen = {name: array[~np.isin(known["ids"], listed)] for name, array in known.items()}
    reason = f"no maps of clips of {val!r} with negative sounds ({val}/silence)"
    thresholds, threshold = _threshold(as_measured(unseen, config), val, reason)
    clips = measure(AnnotatedClips(split, layout, ids, annotations), as_measured(arrays, config), thresholds)
    about = {"maps": str(maps), "lists": {split: coverage._asdict()}, "threshold": threshold}
    out.mkdir(parents=True, exist_ok=True)
    return write(out, clips, config, about), coverage


def read_folder(folder: Path, split: str, val: str) -> Arrays:
    """Read a folder of one map a file, as reports/README.md shows it, into the form of ``maps.npz``.

    ``ID.npy`` is a map with the clip's own sound; ``silence/ID.npy``, ... with others; ``VAL/silence/ID.npy``, ... are
    those of the validation list.
    """
    arrays: Arrays = {}
    for name, parent in ((split, folder), (val, folder / val)):
        places = {kind: parent / kind.removeprefix("similarity") for kind in ARRAYS}
        kinds = {kind: held for kind, place in places.items() if (held := {f.stem: f for f in place.glob("*.npy")})}
        ids = sorted(set().union(*kinds.values()))
        for kind, held in kinds.items():
            if missing := [clip_id for clip_id in ids if clip_id not in held]:
                says = f"{len(held)} of {len(ids)} present, no map of {', '.join(missing)}"
                raise MapError(f"{places[kind]}/: {says}: complete it, or leave the kind out")
            files = [held[clip_id] for clip_id in ids]
            arrays |= {f"{name}/ids": np.array(ids), f"{name}/{kind}": _stack([_load(f) for f in files], files)}
    return arrays


def _load(file: Path) -> Any:
    """The array of an .npy file, or those of an .npz file by name."""
    try:
        found = np.load(file, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MapError(f"{file}: not an array of numbers ({error})") from None


def _of_list(arrays: Arrays, name: str, path: Path) -> Arrays:
    """What there is of one list, checked: ``ids``, and maps by name; nothing without ids."""
    found = {key: arrays[f"{name}/{key}"] for key in ("ids", *ARRAYS, *PAIRS) if f"{name}/{key}" in arrays}
    if "ids" not in found:
        return {}
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
