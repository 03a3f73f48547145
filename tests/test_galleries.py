"""Galleries: the pictures, maps and sounds that they show are those of the clips."""

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch
from bs4 import BeautifulSoup
from PIL import Image

from sslib.config import Config
from sslib.data import media
from sslib.report import figures, galleries
from sslib.report.galleries import Cell, Gallery


def decoded(uri):
    """The bytes of a data URI."""
    return base64.b64decode(uri.partition("base64,")[2])


def shown(gallery):
    """Caption, picture and sound of each cell; None where there is none."""
    soup = BeautifulSoup(gallery.data, "html.parser")
    return [(figure.find("figcaption").text, figure.find("img"), figure.find("audio"), figure.find_all("path"))
            for figure in soup.find_all("figure")]  # fmt: skip


def test_players(tmp_path):
    Image.new("RGB", (4, 2), "red").save(tmp_path / "a.jpg")
    sounds = [np.zeros(8000), np.full(8000, 1.01)]
    first, second = shown(galleries.players(["<x>", "y"], sounds, 8000, [tmp_path / "a.jpg"]))
    assert (first[0], second[0]) == ("<x>", "y") and second[1] is None
    assert first[1]["alt"] == "<x>" and Image.open(io.BytesIO(decoded(first[1]["src"]))).size == (4, 2)
    assert [audio["aria-label"] for _, _, audio, _ in (first, second)] == ["<x>", "y"]


@pytest.mark.parametrize(("rate", "played"), [(8000, 8000), (24000, 24000), (10000, 11025), (96000, 48000)])
def test_sounds_are_small_and_keep_their_pitch(rate, played):
    time = np.arange(rate) / rate
    sound = np.sin(2 * np.pi * 440 * time)
    encoded = media.encode_mp3((sound * 32767).astype(np.int16) / 32768, rate)
    heard, found = soundfile.read(io.BytesIO(encoded))
    assert found == played and abs(len(heard) / played - 1) < 0.15 and len(encoded) < 0.7 * 2 * rate
    spectrum = np.abs(np.fft.rfft(heard[: played // 2]))
    assert 2 * spectrum.argmax() == pytest.approx(440, abs=5)


def test_outlines_follow_boxes_and_masks():
    mask = np.zeros((20, 40), bool)
    mask[5:10, 10:] = True  # touches the right rim
    paths = galleries.outlines(np.array([[0.25, 0.25, 1.0, 0.5]]), mask)
    assert paths["box"] == "M25.0 25.0H100.0V50.0H25.0Z"
    points = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", paths["mask"]), float)
    assert paths["mask"].count("M") == paths["mask"].count("Z") == 1
    assert np.abs(points.min(axis=0) - [25, 25]).max() <= 5 and np.abs(points.max(axis=0) - [100, 50]).max() <= 5
    assert galleries.outlines(np.zeros((0, 4)), None) == {"box": ""}


class Data:
    """Clips whose picture and sound have the value of their row."""

    split, ids = "test", ("s0_a", "s0_b", "alone")
    config = Config(exp_prefix="a", exp_name="b")

    def __init__(self):
        self.annotations = dict(zip(self.ids, [{"class": "sea_lion"}, {"class": "bell"}, {}], strict=True))

    def __getitem__(self, row):
        image = torch.full((3, 8, 8), 100 * row, dtype=torch.uint8)
        sound = torch.full((2400,), 1000 * row, dtype=torch.int16)
        boxes = torch.tensor([[0, 0, 0.5, 1]])
        return {"clip_id": self.ids[row], "image": image, "waveform": sound, "boxes": boxes, "mask": None}


MAPS = {
    "test/similarity": np.arange(12.0).reshape(3, 2, 2),
    "test/shuffled": np.ones((3, 2, 2)),
    "test/shuffled_with": np.array([1, 2, 0]),
    "test/visual_only": np.ones((3, 2, 2)),
}
KINDS = {"similarity": "own sound", "silence": "silence", "shuffled": "another sound", "visual_only": "no sound"}


def test_a_clip_is_shown_with_the_sound_of_each_of_its_maps():
    gallery = Gallery(Data(), MAPS)
    np.testing.assert_array_equal(
        gallery.maps_of(["alone", "s0_a"], KINDS)["own sound"], MAPS["test/similarity"][[2, 0]]
    )
    cells = gallery.clip("s0_b", "title", KINDS)
    assert [cell.caption for cell in cells] == ["title", "own sound: ♪ bell", "another sound: ♪ alone", "no sound"]
    assert [None if cell.waveform is None else cell.waveform[0] for cell in cells] == [None, 1000, 2000, None]
    image = Data()[1]["image"].numpy()
    np.testing.assert_array_equal(cells[0].image, image)
    np.testing.assert_array_equal(cells[1].image, figures.overlay(image, MAPS["test/similarity"][1]))
    page = shown(gallery.show([cells]))
    assert [bool(audio) for _, _, audio, _ in page] == [False, True, True, False]
    assert all(image["alt"] and len(paths) == 1 for _, image, _, paths in page)


def test_a_scene_is_one_picture_with_each_of_its_sounds():
    cells = Gallery(Data(), MAPS).scene(["s0_a", "s0_b"], {"visual_only": "no sound"})
    assert [cell.caption for cell in cells] == ["sea lion and bell", "♪ sea lion", "♪ bell", "no sound"]
    assert [bool(cell.outline) for cell in cells] == [False, True, True, False]


def test_a_gallery_of_maps_says_what_its_colours_mean():
    cells = [Cell("a", np.zeros((3, 2, 2), np.uint8))]
    said = BeautifulSoup(galleries.gallery(cells, 8000, bright="heard here").data, "html.parser")
    assert said.find("p").text == "elsewhere  heard here. A click enlarges a picture."
    assert said.find("p").find("span")["style"].count("#") >= len(galleries.SCALE)
    assert not BeautifulSoup(galleries.gallery(cells, 8000).data, "html.parser").find("p")
    outlined = galleries.gallery([cells[0]._replace(outline={"box": "M0 0H1Z"})], 8000, bright="heard here")
    assert "Outlined: what sounds" in outlined.data


def test_nodes_come_by_how_often_they_were_foreground():
    image, maps = np.zeros((3, 8, 8), np.uint8), np.stack([np.eye(2), np.ones((2, 2)), np.eye(2)[::-1]])
    cells = shown(galleries.nodes(image, maps, np.array([0.1, 0.0, 0.9])))
    assert [caption for caption, *_ in cells] == ["picture", "node 2 · 90%", "node 0 · 10%", "node 1 · 0%"]
