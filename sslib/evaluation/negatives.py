"""Other sounds for the same pictures: another clip's, silence, noise, a sound from outside; and what follows from them.

A map should be low everywhere when nothing in the picture sounds. How low is low, one threshold for all clips, is
learned from the validation list (Juanola et al. 2024), so that the test clips are not asked.
"""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor

from sslib.evaluation.measures import array_name
from sslib.evaluation.protocols import universal_threshold
from sslib.evaluation.tables import NEGATIVES
from sslib.evaluation.truth import TestList
from sslib.prediction import OtherAudio


def other_sounds(clips: TestList, seed: int = 0) -> dict[str, OtherAudio]:
    """What :func:`sslib.prediction.predict` shall play beside each clip's own sound.

    ``shuffled``: the sound of a random other clip, of another class. ``offscreen``: that of a clip whose class is not
    among the `objects` of the picture (where these are not known: of another class). ``silence`` and ``noise``. Where
    a list has no such sound for one of its clips, that kind is left out, with a warning.
    """
    sounds: dict[str, OtherAudio] = {"silence": silence, "noise": noise}
    visible = [set(held or ()) | {own} for held, own in zip(clips.known("objects"), clips.classes, strict=True)]
    excluded = {"shuffled": [{own} for own in clips.classes], "offscreen": visible}
    for number, (name, names) in enumerate(excluded.items()):
        chosen = _others(clips.classes, names, np.random.default_rng([seed, number]))
        if chosen is None:
            warnings.warn(f"list {clips.split!r} has too few classes: no {name} sounds", stacklevel=2)
        else:
            sounds[name] = chosen
    return sounds


def _others(classes: list[str], excluded: list[set[str]], rng: np.random.Generator) -> np.ndarray | None:
    """For each clip the index of a random one whose class is not excluded; None where a clip has none."""
    labels = np.asarray(classes)
    choices = [np.flatnonzero(~np.isin(labels, list(names))) for names in excluded]
    if not all(len(choice) for choice in choices):
        return None
    return np.array([rng.choice(choice) for choice in choices])


def silence(waveform: Int16[Tensor, "B samples"], ids: list[str]) -> Int16[Tensor, "B samples"]:
    """Zeros."""
    return torch.zeros_like(waveform)


def noise(waveform: Int16[Tensor, "B samples"], ids: list[str]) -> Int16[Tensor, "B samples"]:
    """White noise as loud (RMS) as each clip's own sound; the clip's id is the seed."""
    values = np.empty(tuple(waveform.shape), dtype=np.int16)
    level = waveform.double().square().mean(dim=1).sqrt().tolist()
    for row, clip_id in enumerate(ids):
        rng = np.random.default_rng(np.frombuffer(hashlib.sha256(clip_id.encode()).digest(), dtype=np.uint32))
        values[row] = np.clip(np.rint(level[row] * rng.standard_normal(values.shape[1])), -32768, 32767)
    return torch.from_numpy(values).to(waveform.device)


def thresholds(maps: dict[str, np.ndarray]) -> dict[str, float]:
    """One universal threshold for each kind of map, from maps of validation clips.

    Parameters
    ----------
    maps : as :func:`sslib.evaluation.run.predict_all` names them. A map that no sound went into (``visual_only``)
        is what it is for silence too.

    Returns
    -------
    kind of map -> threshold on the raw map.
    """
    found = {}
    for kind in ("similarity", "untrained"):
        heard = {name: maps[key] for name in NEGATIVES if (key := array_name(kind, name)) in maps}
        if heard:
            found[kind] = universal_threshold(heard)
    for kind in ("visual_only", "visual_only_mean"):
        if kind in maps:
            found[kind] = universal_threshold({"any": maps[kind]})
    return found
