"""What a map does in one and the same picture when another of its things sounds: does it move to that thing?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from sslib import metrics
from sslib.evaluation import truth
from sslib.evaluation.truth import TestList, Truth

MOST = 1000  # clips at a time: their ground truth is 250 MB


class Pairs(NamedTuple):
    """Clips of scenes with two sounds: rows 2k and 2k + 1 are the same picture."""

    ids: list[str]
    rows: Int[np.ndarray, " N"]  # places of the clips in their list, and so in its maps
    recordings: list[str]
    known: Truth

    @property
    def partner(self) -> Int[np.ndarray, " N"]:
        """For each clip the row of the one with the same picture and the other sound."""
        return np.arange(len(self.ids)) ^ 1


def pairs(clips: TestList, most: int = MOST) -> Pairs | None:
    """The first scenes of a list in which each of two things sounds once; None where it has no such scene."""
    about = truth.about(clips)
    about = about[about["source"]]
    scenes = [list(rows) for rows in about.groupby("scene", sort=False).groups.values() if len(rows) == 2]
    rows = np.array(scenes[: most // 2], dtype=int).reshape(-1)
    if not len(rows):
        return None
    ids = [clips.ids[row] for row in rows]
    return Pairs(ids, rows, about.loc[rows, "recording"].tolist(), truth.read(clips._replace(ids=ids)))


def overlaps(
    found: Pairs, maps: Shaped[np.ndarray, "M h w"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """cIoU (adaptive) with each clip's object of the map for its own sound, and of the map for the other sound.

    Parameters
    ----------
    maps : raw maps of all clips of the list, each with its own sound.
    """
    own = maps[found.rows]
    return tuple(metrics.ciou(played, found.known.boxes, "adaptive") for played in (own, own[found.partner]))


def peaks(found: Pairs, maps: dict[str, Shaped[np.ndarray, "M h w"]]) -> pd.DataFrame:
    """Where the highest point lies: shares of clips, one row for each kind of map, that of `maps`."""
    masks = found.known.masks
    shares = {}
    for name, played in maps.items():
        this, other = (
            float(metrics.pointing(played[found.rows], where).mean())
            for where in (masks, masks[found.partner] & ~masks)
        )
        shares[name] = {"this object": this, "the other object": other, "elsewhere": 1 - this - other}
    return pd.DataFrame(shares).T
