"""The three learning objectives as pure functions of tensors, and their weighted sum (paper section 3.3).

Everything here computes in float32 whatever the autocast, and in log space. To add a loss, write a function and name
its term in :func:`objective` (README.md shows one): training, ``metrics.csv`` and the pages know it then. It counts in
full, until ``config.Objective`` has a weight of its name (``smoothness: float = Field(0.1, ge=0.0)``), which ``--set
objective.smoothness=0.5`` and the variants of an ablation can change.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sslib import baselines
from sslib.config import Objective
from sslib.model import Output, SoundLocalizer


def pooled_similarity(
    visual: Float[Tensor, "B C h w"],
    audio: Float[Tensor, "N C"],
    scale: Float[Tensor, ""] | float = 1.0,
    pool: Literal["max", "avg", "soft"] = "max",
    temperature: float = 0.1,
) -> Float[Tensor, "B N"]:
    """Score how well every image goes with every sound: scaled cosine map of the pair, pooled over the image.

    Row b holds image b with all sounds, the matching pairs lie on the diagonal. ``soft`` (ours) is the mean of the map
    under its own softmax at the `temperature`, in cosines: ``sum_x softmax_x(cos / t) cos``. It lies between the mean
    and the maximum. The maximum teaches one cell of a map, which is chance at first; here every cell learns by its
    share, so learning starts sooner (reports/README.md compares both).
    """
    maps = baselines.cosines(visual, audio)  # (B, N, h*w)
    if pool == "soft":
        return scale * ((maps / temperature).softmax(dim=2) * maps).sum(dim=2)
    return scale * (maps.amax(dim=2) if pool == "max" else maps.mean(dim=2))


def localization(logits: Float[Tensor, "B N"], symmetric: bool = False) -> Float[Tensor, ""]:
    """Compute InfoNCE: each image finds its own sound among those of the batch (the release's direction).

    Parameters
    ----------
    logits : row b is image b with every sound; sounds after the first B are of no image, so wrong for all.
    symmetric : add the other direction (each sound finds its image) and take the mean of both.
    """
    target = torch.arange(len(logits), device=logits.device)
    loss = F.cross_entropy(logits.float(), target)
    return (loss + F.cross_entropy(logits.float().T[: len(logits)], target)) / 2 if symmetric else loss


def rank_nodes(node_features: Float[Tensor, "B C K"], audio: Float[Tensor, "B C"]) -> Int[Tensor, "B K"]:
    """Rank the nodes by descending cosine of their feature with the sound: the first ones are foreground."""
    return _node_cosines(node_features, audio).argsort(dim=1, descending=True, stable=True)


def discrimination(
    node_features: Float[Tensor, "B C K"],
    audio: Float[Tensor, "B C"],
    node_ranking: Int[Tensor, "B K"],
    foreground: int = 8,
    background: int = 8,
) -> Float[Tensor, ""]:
    """Tell the foreground nodes' mean cosine from the background nodes' by two-way cross-entropy (no temperature)."""
    cosines = _node_cosines(node_features, audio).gather(1, node_ranking)  # (B, K), descending
    pair = torch.stack([cosines[:, :foreground].mean(dim=1), cosines[:, -background:].mean(dim=1)], dim=1)
    return F.cross_entropy(pair, torch.zeros(len(pair), dtype=torch.long, device=pair.device))


def divergence(
    node_maps: Float[Tensor, "B K h w"],
    node_ranking: Int[Tensor, "B K"],
    foreground: int,
    scaled_similarity: Float[Tensor, "B h w"],
    mode: Literal["js", "kl"] = "js",
) -> Float[Tensor, ""]:
    """Compare the mean foreground node map with the similarity map, each a softmax over the cells.

    ``js`` is the Jensen-Shannon divergence in nats; ``kl`` is KL(similarity || nodes), the release's direction.
    """
    chosen = node_ranking[:, :foreground, None].expand(-1, -1, node_maps[0, 0].numel())
    nodes = node_maps.float().flatten(2).gather(1, chosen).mean(dim=1).log_softmax(dim=1)  # (B, h*w)
    sound = scaled_similarity.float().flatten(1).log_softmax(dim=1)  # (B, h*w)
    if mode == "kl":
        return F.kl_div(nodes, sound, reduction="batchmean", log_target=True)
    middle = torch.logaddexp(nodes, sound) - math.log(2.0)
    halves = [F.kl_div(middle, side, reduction="batchmean", log_target=True) for side in (nodes, sound)]
    return (halves[0] + halves[1]) / 2


def _node_cosines(node_features: Tensor, audio: Tensor) -> Tensor:
    node_features = F.normalize(node_features.float(), dim=1)
    return torch.einsum("bck,bc->bk", node_features, F.normalize(audio.float(), dim=1))


class Losses(NamedTuple):
    """The weighted sum, its unweighted terms by name, and the ranking of the nodes (None without the reasoning)."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    node_ranking: Int[Tensor, "B K"] | None
    logits: Float[Tensor, "B N"]


def objective(
    output: Output, scale: Tensor, config: Objective, boxes: Float[Tensor, "B n H W"] | None = None
) -> Losses:
    """Compute all losses of one batch, weighed as `config` says (the paper: 1, 0.1 and 0.1), or those of a baseline.

    Parameters
    ----------
    output : what the model gave for B images and their sounds; without node maps only the localization loss counts.
    scale : the model's learned factor of cosines; baselines have temperatures of their own.
    boxes : 1 in the boxes that ``config.boxes`` shows to training, else 0 (n = 1; 0 where it shows none).
    """
    sounds = output.audio if output.silent is None else torch.cat([output.audio, output.silent])
    logits = pooled_similarity(output.visual, sounds, scale, config.pool)
    similarity = SoundLocalizer.similarity(output.visual.float(), output.audio.float()) * scale
    node_ranking = None
    if config.kind == "context":
        terms = {"localization": localization(logits, config.symmetric)}
        if config.global_contrast:
            whole = output.visual.float().mean(dim=(2, 3), keepdim=True)  # one cell: the average-pooled image
            pooled = pooled_similarity(whole, sounds.detach(), scale)  # else sounds are learned by heart
            terms["global_contrast"] = localization(pooled, config.symmetric)
    else:  # by its name: config.Objective knows which there are
        given = {"boxes": boxes[:, 0]} if config.boxes else {}
        given |= {"temperature": config.temperature} if config.temperature else {}
        terms = getattr(baselines, config.kind)(output.visual, output.audio, **given)
    if output.node_maps is not None:
        node_ranking = rank_nodes(output.node_features, output.audio)
        terms["discrimination"] = discrimination(
            output.node_features, output.audio, node_ranking, config.foreground, config.background
        )
        terms["divergence"] = divergence(
            output.node_maps, node_ranking, config.foreground, similarity, config.divergence_mode
        )
    # A new term comes here.
    total = sum(getattr(config, name, 1.0) * term for name, term in terms.items())
    return Losses(total, terms, node_ranking, logits)
