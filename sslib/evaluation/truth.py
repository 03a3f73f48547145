"""What is known about the clips of a test list: where the sounding thing is, and whether it is in the picture at all.

Ground truth needs the lists, the annotations and the masks of a data folder, neither pictures nor sounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sslib import metrics
from sslib.data import media
from sslib.data.layout import Layout, video_of
from sslib.datasets import AVDataset


class TestList(NamedTuple):
    """Clips of one list, in order, and all that is known about them."""

    __test__ = False  # pytest: a list of test clips, no test

    split: str
    layout: Layout
    ids: list[str]
    annotations: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, dataset: AVDataset) -> TestList:
        """The list of a dataset; where it was not annotated, what the folder knows (perhaps nothing)."""
        annotations = dataset.annotations or dataset.layout.annotations(dataset.split)
        return cls(dataset.split, dataset.layout, list(dataset.ids), annotations)

    def known(self, key: str) -> list[Any]:
        """A field of each clip's annotation, None where it has none."""
        return [self.annotations.get(clip_id, {}).get(key) for clip_id in self.ids]

    @property
    def classes(self) -> list[str]:
        """Class of each sound; of a clip without one its own id, so that it is alike to no other."""
        return [name or clip_id for name, clip_id in zip(self.known("class"), self.ids, strict=True)]

    @property
    def negative(self) -> Bool[np.ndarray, " N"]:
        """Whether nothing that sounds is in the picture: annotated, with no box at all."""
        return np.array([boxes is not None and len(boxes) == 0 for boxes in self.known("boxes")])

    @property
    def masked(self) -> bool:
        """Whether all clips with a source have a mask of its pixels."""
        clips = zip(self.ids, self.negative, strict=True)
        return all(self.layout.mask(clip_id).is_file() for clip_id, negative in clips if not negative)


class Truth(NamedTuple):
    """Ground truth of some clips on 224 x 224 pixels."""

    boxes: Float[np.ndarray, "N H W"]  # consensus in [0, 1]
    masks: Bool[np.ndarray, "N H W"]  # what the boxes mark where no mask is known


def box_truth(annotation: dict[str, Any]) -> Float[np.ndarray, "H W"]:
    """Ground truth of boxes: Flickr-SoundNet's consensus where several annotators are known, else their union."""
    if "annotators" in annotation:
        return metrics.consensus_map(annotation["annotators"])
    return metrics.box_map(annotation["boxes"])


def read(clips: TestList, rows: slice = slice(None)) -> Truth:
    """Ground truth of the clips `rows`, to be read in parts: that of 5,000 clips is larger than 1 GB."""
    ids = clips.ids[rows]
    boxes = np.stack([box_truth(clips.annotations[clip_id]) for clip_id in ids]).astype(np.float32)
    masks = boxes > 0
    for row, clip_id in enumerate(ids):
        path = clips.layout.mask(clip_id)
        if clips.annotations[clip_id]["boxes"] and path.is_file():  # without a source no pixel is one
            masks[row] = media.read_mask(path, metrics.GRID)
    return Truth(boxes, masks)


def about(clips: TestList) -> pd.DataFrame:
    """One row a clip: what tables group it by, and which clips are not independent of each other.

    Where no annotation names the recording of a clip, it is the video that the clip was cut from.
    """
    objects, classes = clips.known("objects"), clips.known("class")
    ids = np.array(clips.ids, dtype=object)
    recordings, scenes = (zip(clips.known(key), ids, strict=True) for key in ("recording", "scene"))
    return pd.DataFrame(
        {
            "split": clips.split,
            "part": ["all" if held is None else _count(len(held)) for held in objects],
            "clip_id": ids,
            "class": [name or "" for name in classes],
            "recording": [recording or video_of(clip_id) for recording, clip_id in recordings],
            "scene": [scene or clip_id for scene, clip_id in scenes],
            "objects": [np.nan if held is None else len(held) for held in objects],
            "source": ~clips.negative,
        }
    )


def _count(objects: int) -> str:
    return f"{objects} object{'' if objects == 1 else 's'}"
