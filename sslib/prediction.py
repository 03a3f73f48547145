"""What a trained model says of clips: maps and embeddings with each clip's own sound and with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sslib import datasets, features, losses
from sslib.config import Config


class Prediction(NamedTuple):
    """What a model says of N clips."""

    ids: list[str]
    maps: dict[str, np.ndarray]  # name: float32 (N, h, w), raw
    audio: np.ndarray  # float32 (N, C), unit length
    loss: float  # localization loss over the batches
    accuracy: float  # share of pictures whose own sound is the best of the batch
    pairs: np.ndarray | None  # float32 (N, N): cosine of picture (row) and sound (column) where it is highest


# Indices of the clips whose sounds are played, or what makes other sounds of a batch's own (int16) and its ids.
Sound = np.ndarray | Callable[[Tensor, list[str]], Tensor]


@torch.no_grad()
def predict(
    model: Any,
    clips: datasets.AVDataset | datasets.InMemory,
    config: Config,
    device: torch.device | str = "cpu",
    sounds: dict[str, Sound] | None = None,
    pairs: bool = False,
) -> Prediction:
    """Maps and embeddings of every clip, in order. Each picture is encoded once, whatever is played to it.

    Parameters
    ----------
    model : a :class:`SoundLocalizer`, on `device`.
    sounds : other sounds to play, by name. Each name becomes one more kind of map beside ``similarity`` (each clip
        with its own sound), ``visual_only`` and ``visual_only_mean`` (with the reasoning module).
    pairs : also compare every picture with every sound, for retrieval.
    """
    model.eval()
    vectors = _encode_sounds(model, clips, config, device, sounds or {})
    audio = vectors["similarity"]
    maps: dict[str, list[Tensor]] = {}
    best: list[Tensor] = []
    loss = found = place = 0.0
    for batch in _in_order(clips, config.evaluation.batch_size, device):
        rows = slice(int(place), int(place) + len(batch["image"]))
        visual = model.encode_image(features.images(batch["image"], config)).float()
        for name, vector in vectors.items():
            maps.setdefault(name, []).append(model.similarity(visual, vector[rows]).cpu())
        if model.reasoning is not None:
            node_maps, _ = model.reason(visual)
            maps.setdefault("visual_only", []).append(model.visual_only(node_maps).cpu())
            maps.setdefault("visual_only_mean", []).append(model.visual_only(node_maps, every=True).cpu())
        if pairs:  # some sounds at a time: all maps of 64 pictures with 5,000 sounds would be 250 MB
            best.append(torch.cat([losses.pooled_similarity(visual, some) for some in audio.split(512)], dim=1).cpu())
        logits = losses.pooled_similarity(visual, audio[rows], model.scale, config.objective.pool)
        loss += float(losses.localization(logits, config.objective.symmetric)) * len(visual)
        found += int((logits.argmax(dim=1).cpu() == torch.arange(len(logits))).sum())
        place += len(visual)
    arrays = {name: torch.cat(parts).numpy() for name, parts in maps.items()}
    scores = torch.cat(best).numpy() if pairs else None
    return Prediction(list(clips.ids), arrays, audio.cpu().numpy(), loss / place, found / place, scores)


def _encode_sounds(
    model, clips: datasets.AVDataset | datasets.InMemory, config: Config, device, sounds: dict[str, Sound]
) -> dict[str, Tensor]:
    """Vectors (N, C) of what each clip is to hear: its own sound (``similarity``) and each of `sounds`."""
    made = {name: make for name, make in sounds.items() if callable(make)}
    parts: dict[str, list[Tensor]] = {name: [] for name in ("similarity", *made)}
    place = 0
    for batch in _in_order(clips, config.evaluation.batch_size, device):
        own = batch["waveform"]
        ids, place = list(clips.ids[place : place + len(own)]), place + len(own)
        for name, part in parts.items():
            waveform = made[name](own, ids) if name in made else own
            part.append(model.encode_audio(features.sounds(waveform, config)).float())
    vectors = {name: torch.cat(part) for name, part in parts.items()}
    own = vectors["similarity"]
    return vectors | {name: own[torch.as_tensor(index)] for name, index in sounds.items() if name not in made}


def _in_order(clips: datasets.AVDataset | datasets.InMemory, size: int, device) -> Iterator[dict[str, Tensor]]:
    if isinstance(clips, datasets.InMemory):
        for start in range(0, len(clips.ids), size):
            yield {"image": clips.image[start : start + size], "waveform": clips.waveform[start : start + size]}
        return
    for batch in DataLoader(clips, size, collate_fn=datasets.collate):
        yield {key: batch[key].to(device) for key in ("image", "waveform")}
