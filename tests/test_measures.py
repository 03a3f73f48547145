"""What is known of test clips: one rule for masks, drawn or measured, and what counts as one recording."""

import numpy as np
import pytest
import torch
from folders import Folder
from PIL import Image

from sslib import metrics
from sslib.data.media import MediaError
from sslib.datasets import AVDataset
from sslib.evaluation import measures
from sslib.evaluation.measures import AnnotatedClips

BOX = [0.0, 0.0, 1.0, 1.0]


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Four clips; the first has a box."""
    folder = Folder(tmp_path)
    for name in ("one", "abcdefghijk_000010", "abcdefghijk_000020", "lmnopqrstuv_000000"):
        folder.add(name)
    return folder


PALETTE = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
PALETTE.putpalette([0, 0, 0, 0, 0, 128])
WANTED = np.array([[False, True], [True, False]])
MASKS = {
    "green": Image.fromarray(np.where(WANTED[..., None], [0, 255, 0], 0).astype(np.uint8)),
    "red": Image.fromarray(np.where(WANTED[..., None], [255, 0, 0], 0).astype(np.uint8)),
    "blue": Image.fromarray(np.where(WANTED[..., None], [0, 0, 255], 0).astype(np.uint8)),
    "grey of 0 and 1": Image.fromarray(WANTED.astype(np.uint8)),
    "16 bits": Image.fromarray(WANTED.astype(np.uint16)),
    "1 bit": Image.fromarray(WANTED),
    "palette": PALETTE,
}


@pytest.mark.parametrize("kind", list(MASKS))
def test_a_mask_is_drawn_and_measured_where_it_is_not_black(folder, kind):
    path = folder.layout.mask("one")
    path.parent.mkdir()
    MASKS[kind].save(path)
    folder.layout.write_split("test", ["one"])
    folder.layout.write_annotations("test", {"one": {"boxes": [BOX]}})
    dataset = AVDataset(folder.config(), "test", annotated=True)
    assert dataset[0]["mask"].equal(torch.from_numpy(WANTED))
    (measured,) = measures.load_ground_truth(AnnotatedClips.of(dataset)).masks
    assert (measured == np.kron(WANTED, np.ones((metrics.GRID // 2, metrics.GRID // 2), bool))).all()


def test_a_mask_that_cannot_be_read_names_its_file(folder):
    path = folder.layout.mask("one")
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    clips = AnnotatedClips("test", folder.layout, ["one"], {"one": {"boxes": [BOX]}})
    with pytest.raises(MediaError, match=r"one\.png"):
        measures.load_ground_truth(clips)


def test_clips_of_one_video_are_one_recording_where_no_annotation_says_otherwise(folder):
    ids = ["one", "abcdefghijk_000010", "abcdefghijk_000020", "lmnopqrstuv_000000"]
    annotations = {"lmnopqrstuv_000000": {"boxes": [BOX], "recording": "a violin", "scene": "a hall"}}
    found = measures.clip_table(AnnotatedClips("test", folder.layout, ids, annotations))
    assert found["recording"].tolist() == ["one", "abcdefghijk", "abcdefghijk", "a violin"]
    assert found["scene"].tolist() == ["one", "abcdefghijk_000010", "abcdefghijk_000020", "a hall"]
