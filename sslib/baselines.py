"""Objectives of other papers over the same two encoders, to compare with: one function each, named as in the YAML.

``objective: {kind: lvs}`` with ``model: {reasoning: false}`` trains with :func:`lvs` instead of the paper's losses; all
else stays equal: encoders, data, augmentation, optimizer, schedule. The map is the cosine of every cell with the sound;
``baselines.yaml`` adds saliency (:func:`sslib.prediction.sound_maps`) for :func:`ssl_align`. So this compares
*objectives*, not published systems: none has its own backbone, heads, ImageNet weights or schedule here. Written from
the papers' equations in our own words; each function says what differs.

A baseline takes the visual map and the sound vectors of a batch (those of all processes) and returns its terms as they
count in the sum, by the names that ``metrics.csv`` and the pages show. All compute in float32. None sees a box but
:func:`attention`, where ``objective.boxes`` shows it some.

To add one: a function here, its name in ``config.Objective.kind``, and a line in a YAML file (README.md shows them).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def cosines(visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "N C"]) -> Float[Tensor, "B N x"]:
    """Compute the cosine of every cell (x of them, row by row) of every image with every sound."""
    return torch.einsum("bcx,nc->bnx", _cells(visual), F.normalize(audio.float(), dim=1))


def attention(
    visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"], boxes: Float[Tensor, "B H W"] | None = None
) -> dict[str, Tensor]:
    """Bring what a sound attends to closer to it than to another sound (Senocak et al., CVPR 2018).

    Attention is the softmax over the cells of the rectified cosine. The attended visual vector has distance d+ to its
    own sound and d- to another; the loss is the square of exp d+ / (exp d+ + exp d-), the paper's triplet loss (both of
    its components are equal). With `boxes` (1 inside of them; 0 outside, and for clips of which none is shown) this is
    the semi-supervised model: ``supervised`` is minus the sum of the log attention that they cover.

    Differs: no fully connected layers around the attention, so directions are compared (unit vectors); frozen VGG-16 is
    our encoder, and an encoder that learns has a way out: cells that hold every sound, whatever the picture, let each
    sound attend to its like. The other sound is that of the row before. The supervised model has no triplet loss; here
    it stays with all boxes, small beside theirs. A cell counts by the share of it that is covered.
    """
    audio = F.normalize(audio.float(), dim=1)
    likely = torch.einsum("bcx,bc->bx", _cells(visual), audio).relu()
    weights = likely.softmax(dim=1)
    attended = F.normalize(torch.einsum("bcx,bx->bc", visual.float().flatten(2), weights), dim=1)
    own, other = ((attended - sound).norm(dim=1) for sound in (audio, audio.roll(1, 0)))
    terms = {"triplet": torch.sigmoid(own - other).square().mean()}
    if boxes is not None:
        covered = F.adaptive_avg_pool2d(boxes, visual.shape[2:]).flatten(1)
        terms["supervised"] = -(covered * likely.log_softmax(dim=1)).sum(dim=1).mean()
    return terms


def lvs(
    visual: Float[Tensor, "B C h w"],
    audio: Float[Tensor, "B C"],
    positive_above: float = 0.65,
    negative_below: float = 0.4,
    softness: float = 0.03,
    temperature: float = 0.07,
) -> dict[str, Tensor]:
    """Tell the likely from the unlikely cells of the own image, and from other sounds (Chen et al., CVPR 2021).

    The tri-map leaves cells between both thresholds (eps_p, eps_n; softness is tau) out: m_p and 1 - m_n are sigmoids,
    through which gradients flow. The positive is the mean cosine under m_p, the hard negative that under 1 - m_n; easy
    negatives are the means of the maps with every other sound, under their own m_p.

    As in the release. In the paper's equation easy negatives are plain means over all cells (from random weights a way
    out that needs no picture: all sounds alike, and one cell like them), summed outside of the exponential.
    """
    maps = cosines(visual, audio)
    own = maps.diagonal().T  # (B, x)
    likely = _mean_under(maps, F.logsigmoid((maps - positive_above) / softness))
    hard = _mean_under(own, F.logsigmoid((negative_below - own) / softness))
    return {"trimap": _own_of_row(torch.cat([likely, hard[:, None]], dim=1) / temperature)}


def ez_vsl(
    visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"], temperature: float = 0.03
) -> dict[str, Tensor]:
    """Match images and sounds at their best cell, in both directions (EZ-VSL, Mo and Morgado, ECCV 2022).

    Multiple-instance InfoNCE: the sum of both directions over cosines at the maximum of the map. Object guidance comes
    at test: :func:`object_guided`. Differs: no projection heads.
    """
    return {"multiple_instance": _both_ways(cosines(visual, audio).amax(dim=2) / temperature)}


def object_guided(
    similarity: Float[Tensor, "B h w"], prior: Float[Tensor, "B h w"], share: float = 0.4
) -> Float[Tensor, "B h w"]:
    """Blend a similarity map with a map of objects, each stretched to [0, 1] (EZ-VSL's object guidance, at test).

    Parameters
    ----------
    prior : where things are, without sound; the release takes the mean of |features| of an ImageNet classifier.
    share : of the similarity map (alpha, 0.4 in the paper).
    """
    return share * stretched(similarity) + (1 - share) * stretched(prior)


def stretched(maps: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
    """Stretch each map to [0, 1]; a flat one becomes 0."""
    low, high = (end(maps.float(), dim=(1, 2), keepdim=True) for end in (torch.amin, torch.amax))
    return (maps.float() - low) / (high - low).clamp_min(1e-12)


def slavc(
    visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"], kept: int = 51, temperature: float = 0.03
) -> dict[str, Tensor]:
    """Say where and which at once, under extreme dropout of the image (SLAVC, Mo and Morgado, NeurIPS 2022).

    The localization stream gives each sound a distribution over the cells, the identification stream each cell one over
    the sounds of the batch; summed over the cells, their product scores a pair, and each image is asked for its sound.
    Each side learns against targets of the other that take no gradient: ``pictures`` trains the image encoder,
    ``sounds`` the audio encoder.

    Differs: the streams are the first and the second half of the channels, in place of two heads (the map at test
    has both, as the paper's). There is **no momentum encoder**, which would be a second copy of the network: targets
    come from the current weights (momentum 0, the paper's 0.999), also at test. Dropout (of the image only, as in the
    release) acts right before the cosine, no head comes after it; of 512 channels the paper's 0.9 keeps 51, and so
    many are kept here of fewer: a narrow encoder learns nothing from a tenth of its channels.
    """
    dropout = max(0.0, 1.0 - kept / visual.shape[1])

    def joint(visual: Tensor, audio: Tensor) -> Tensor:
        halves = zip(F.dropout(visual.float(), dropout).chunk(2, dim=1), audio.chunk(2, dim=1), strict=True)
        where, which = (cosines(v, a) / temperature for v, a in halves)
        return (where.log_softmax(dim=2) + which.log_softmax(dim=1)).logsumexp(dim=2)

    pairs = {"pictures": joint(visual, audio.detach()), "sounds": joint(visual.detach(), audio)}
    return {name: _own_of_row(scores) for name, scores in pairs.items()}


def fnac(
    visual: Float[Tensor, "B C h w"],
    audio: Float[Tensor, "B C"],
    temperature: float = 0.03,
    foreground_above: float = 0.6,
    weight: float = 10 / 128,
) -> dict[str, Tensor]:
    """Let what is alike within one modality be alike across both (FNAC, Sun et al., CVPR 2023).

    Adjacency is the softmax over rows of products at the temperature. To EZ-VSL's loss come L1 distances of matrices:
    ``false_negatives``, image-to-sound scores against the adjacency of sounds and against that of images (cells'
    mean); ``true_negatives``, the adjacency of foregrounds (mean of the cells of which the own map, stretched to
    [0, 1], is above 0.6) against that of sounds. Means are not normalized again, as in the release.

    Differs: no heads, no dropout of the image (0.9 in the release). The release adds the L1 terms after three epochs of
    warm-up, with a weight of 100 at 128 clips; here they count from the start with 10, since from random weights all
    features become alike under 100, and the weight grows with the batch: an L1 mean of rows of sum 1 is at most 2/B.
    """

    def adjacency(features: Tensor) -> Tensor:
        return (features @ features.T / temperature).softmax(dim=1)

    maps, cells = cosines(visual, audio), _cells(visual)
    scores = maps.amax(dim=2) / temperature
    own = maps.diagonal().T.detach()
    own = own - own.amin(dim=1, keepdim=True)
    foreground = own > foreground_above * own.amax(dim=1, keepdim=True)  # (B, x)
    sounds, across = adjacency(F.normalize(audio.float(), dim=1)), scores.softmax(dim=1)
    suppressed = F.l1_loss(across, sounds) + F.l1_loss(across, adjacency(cells.mean(dim=2)))
    enhanced = F.l1_loss(adjacency((cells * foreground[:, None]).mean(dim=2)), sounds)
    return {
        "multiple_instance": _both_ways(scores),
        "false_negatives": weight * len(scores) * suppressed,
        "true_negatives": weight * len(scores) * enhanced,
    }


def ssl_align(
    visual: Float[Tensor, "B C h w"], audio: Float[Tensor, "B C"], temperature: float = 0.07
) -> dict[str, Tensor]:
    """Localize and align meanings, with neighbours as further positives (Senocak et al., ICCV 2023).

    Two contrasts, both in both directions: ``localization`` over the map's scores, ``alignment`` over cosines of the
    average-pooled visual map with the sound. Positives of a clip are itself, the clip of the most similar image and
    that of the most similar sound; they share the probability equally.

    Differs: the paper finds neighbours in the whole training set with pretrained encoders, and adds augmented views;
    here they are those of the batch by the current features, without gradient, and a clip has one view. In a small
    batch the nearest clip need not be alike, and of two clips both are positive. The paper averages the map over a
    mask that it does not have; here the mask is the best cell (else the two contrasts are nearly one). The release has
    no training code: the equations and the temperature are from memory of the paper.
    """
    pooled, sounds = (F.normalize(x.float(), dim=1) for x in (visual.float().mean(dim=(2, 3)), audio))
    same = _same(len(pooled), pooled.device)
    positives = same.clone()
    for features in (pooled.detach(), sounds.detach()):
        nearest = (features @ features.T).masked_fill(same, -math.inf).argmax(dim=1, keepdim=True)
        positives.scatter_(1, nearest, True)
    shares = positives / positives.sum(dim=1, keepdim=True)

    def contrast(scores: Tensor) -> Tensor:
        ways = (scores / temperature, scores.T / temperature)
        return sum(F.cross_entropy(logits, shares) for logits in ways)

    return {"localization": contrast(cosines(visual, audio).amax(dim=2)), "alignment": contrast(pooled @ sounds.T)}


def _cells(visual: Tensor) -> Tensor:
    return F.normalize(visual.float(), dim=1).flatten(2)  # (B, C, x)


def _same(count: int, device: torch.device) -> Bool[Tensor, "B B"]:
    return torch.eye(count, dtype=torch.bool, device=device)


def _mean_under(values: Float[Tensor, "*B x"], log_weights: Float[Tensor, "*B x"]) -> Float[Tensor, "*B"]:
    """Weighted mean of each map; in log space weights too small for float32 still have a ratio."""
    return (log_weights.softmax(dim=-1) * values).sum(dim=-1)


def _own_of_row(scores: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def _both_ways(scores: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    return _own_of_row(scores) + _own_of_row(scores.T)
