"""Predict maps and embeddings of clips, with each clip's own sound and with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sslib import baselines, datasets, features, losses
from sslib.config import Config
from sslib.model import SoundLocalizer, load_imagenet, resnet_encoder


class Prediction(NamedTuple):
    """The output of a model for N clips."""

    ids: list[str]
    maps: dict[str, np.ndarray]  # name: float32 (N, h, w), raw
    audio_embeddings: np.ndarray  # float32 (N, C), unit length
    loss: float  # localization loss over the batches
    accuracy: float  # fraction of images whose own sound is the best of the batch
    pair_scores: np.ndarray | None  # float32 (N, N): cosine of image (row) and sound (column) where it is highest


# Indices of the clips whose sounds are played, or what makes other sounds of a batch's own (int16) and its ids.
OtherAudio = np.ndarray | Callable[[Tensor, list[str]], Tensor]


def encode_images(model: nn.Module, image: UInt8[Tensor, "B 3 S S"], config: Config) -> Float[Tensor, "B C h w"]:
    """Encode images as ``evaluation`` says: the mean of their visual maps at every size, mirrored ones turned back.

    `model` is a :class:`SoundLocalizer`, or an image encoder alone. Small images show whole objects to an encoder,
    large ones give fine maps; the mean has the cells of the largest.
    """
    encode, normalized, maps = getattr(model, "encode_image", model), features.images(image, config), []
    for size in sorted(config.evaluation.image_sizes, reverse=True) or (image.shape[-1],):
        scaled = normalized
        if size != image.shape[-1]:
            scaled = F.interpolate(normalized, (size, size), mode="bilinear", antialias=True)
        visual = encode(scaled).float()
        if config.evaluation.mirror:
            visual = (visual + encode(scaled.flip(3)).float().flip(3)) / 2
        maps.append(visual if not maps else F.interpolate(visual, maps[0].shape[2:], mode="bilinear"))
    return torch.stack(maps).mean(dim=0)


def sound_maps(visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"], config: Config) -> Float[Tensor, "B h w"]:
    """Localize each sound in its image: the cosine and, by ``evaluation.saliency``, what stands out whatever sounds.

    A cell stands out by the norm of its features, which the cosine leaves out: stretched to [0, 1] in each image, less
    its mean there. In an average-pooled image the norm is a cell's weight, so losses of that image
    (``objective.global_contrast``, ``ssl_align``) reach it, those of cosines alone do not. Like EZ-VSL's object
    guidance, but without another network and on the cosine's scale.
    """
    salient = baselines.stretched(visual.norm(dim=1))
    salient = salient - salient.mean(dim=(1, 2), keepdim=True)
    return SoundLocalizer.similarity(visual, audio) + config.evaluation.saliency * salient


@torch.no_grad()
def predict(
    model: SoundLocalizer,
    clips: datasets.AVDataset | datasets.InMemory,
    config: Config,
    device: torch.device | str = "cpu",
    other_audio: dict[str, OtherAudio] | None = None,
    all_pairs: bool = False,
) -> Prediction:
    """Predict maps and embeddings of every clip, in order. Each file is decoded and each image encoded once.

    Parameters
    ----------
    clips : images of a dataset stay in memory as bytes (at 224 pixels 150 kB each) until all sounds are known.
    other_audio : other sounds to play, by name. Each name becomes one more kind of map beside ``similarity`` (each clip
        with its own sound), ``visual_only`` and ``visual_only_mean`` (with the reasoning module).
    all_pairs : also score every image with every sound, for retrieval.
    """
    model.eval()
    images, vectors = _encode_audio(model, clips, config, device, other_audio or {})
    audio = vectors["similarity"]
    maps: dict[str, list[Tensor]] = {}
    scores: list[Tensor] = []
    loss = found = start = 0
    for image in images:
        rows = slice(start, start + len(image))
        visual = encode_images(model, image.to(device), config)
        for name, vector in vectors.items():
            maps.setdefault(name, []).append(sound_maps(visual, vector[rows], config).cpu())
        if model.reasoning is not None:
            node_maps, _ = model.visual_reasoning(visual)
            maps.setdefault("visual_only", []).append(model.visual_only(node_maps).cpu())
            maps.setdefault("visual_only_mean", []).append(model.visual_only(node_maps, all_nodes=True).cpu())
        if all_pairs:  # some sounds at a time: all maps of 64 images with 5,000 sounds would be 250 MB
            parts = [losses.pooled_similarity(visual, some) for some in audio.split(512)]
            scores.append(torch.cat(parts, dim=1).cpu())
        logits = losses.pooled_similarity(visual, audio[rows], model.scale, config.objective.pool)
        loss += float(losses.localization(logits, config.objective.symmetric)) * len(visual)
        found += int((logits.argmax(dim=1).cpu() == torch.arange(len(logits))).sum())
        start = rows.stop
    arrays = {name: torch.cat(parts).numpy() for name, parts in maps.items()}
    pair_scores = torch.cat(scores).numpy() if all_pairs else None
    return Prediction(list(clips.ids), arrays, audio.cpu().numpy(), loss / start, found / start, pair_scores)


@torch.no_grad()
def object_prior(
    clips: datasets.AVDataset | datasets.InMemory, config: Config, device: torch.device | str = "cpu"
) -> Float[np.ndarray, "N h w"]:
    """Find where there is anything at all in each image: mean |features| of an ImageNet classifier (EZ-VSL, sec. 3.3).

    Its weights, of ResNet-18, are ``evaluation.object_prior``. Differs: layer4 with stride 1, so cells as fine as ours.
    """
    network = resnet_encoder(3).eval()
    load_imagenet(network, config.evaluation.object_prior)
    network.to(device)
    maps = [encode_images(network, image.to(device), config).abs().mean(dim=1) for image, _ in _batches(clips, config)]
    return torch.cat(maps).cpu().numpy()


def _encode_audio(
    model, clips: datasets.AVDataset | datasets.InMemory, config: Config, device, other_audio: dict[str, OtherAudio]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The images in batches, and vectors (N, C) of each clip's own sound (``similarity``) and of `other_audio`."""
    made = {name: make for name, make in other_audio.items() if callable(make)}
    parts: dict[str, list[Tensor]] = {name: [] for name in ("similarity", *made)}
    images: list[Tensor] = []
    for image, waveform in _batches(clips, config):
        start = sum(map(len, images))
        images.append(image)
        own, ids = waveform.to(device), list(clips.ids[start : start + len(image)])
        for name, part in parts.items():
            played = made[name](own, ids) if name in made else own
            part.append(model.encode_audio(features.spectrograms(played, config)).float())
    vectors = {name: torch.cat(part) for name, part in parts.items()}
    own = vectors["similarity"]
    return images, vectors | {name: own[torch.as_tensor(i)] for name, i in other_audio.items() if name not in made}


def _batches(clips: datasets.AVDataset | datasets.InMemory, config: Config) -> Iterator[tuple[Tensor, Tensor]]:
    size = config.evaluation.batch_size
    if isinstance(clips, datasets.InMemory):
        yield from zip(clips.image.split(size), clips.waveform.split(size), strict=True)
        return
    # Its own generator: prediction draws no number that training would have drawn.
    how = {"collate_fn": datasets.collate, "num_workers": config.training.workers, "generator": torch.Generator()}
    for batch in DataLoader(clips, size, **how):
        yield batch["image"].clone(), batch["waveform"]  # a copy: what workers send lies in shared memory, often small
