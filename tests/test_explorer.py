"""The explorer: other sounds, mixtures, nodes, choices by result; and its widgets, moved without a browser."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import videos
from PIL import Image

import sslib
from sslib import checkpoint, datasets
from sslib.localizer import Localizer
from sslib.model import SoundLocalizer
from sslib.report import explorer
from sslib.report.explorer import SOUNDS, Explorer
from sslib.report.rooms import ExplorerRoom, VideoRoom


def untrained(config, path: Path, seed: int) -> Localizer:
    torch.manual_seed(seed)
    weights = SoundLocalizer(config.model)
    checkpoint.save(path, config, {"clips": "", "files": ""}, weights, torch.optim.SGD(weights.parameters()), [])
    return sslib.load(path)


@pytest.fixture(scope="module")
def room(configure, tmp_path_factory) -> ExplorerRoom:
    folder, config = tmp_path_factory.mktemp("models"), configure()
    untrained(config, folder / "second.pt", 2)
    data = datasets.AVDataset(config, "test")
    scores = [0.3, 0.9, 0.1, *np.linspace(0.2, 0.8, len(data.ids) - 3)]
    rows = {"split": "test", "clip_id": data.ids, "map_kind": "similarity", "condition": "own", "ciou_adaptive": scores}
    others = {"second": folder / "second.pt", "broken": folder / "none.pt"}
    model = untrained(config, folder / "first.pt", 1)
    return ExplorerRoom(Explorer(data, {"first": model}, pd.DataFrame(rows), others))


def panels(room: ExplorerRoom) -> dict[str, bytes]:
    return {box.children[0].value: box.children[1].value for box in room.panels.children}


def test_sounds_are_what_they_are_called(room):
    explore = room.explorer
    one, other = explore.data.ids[:2]
    own, theirs = explore.sound(one, "its own"), explore.sound(other, "its own")
    assert np.array_equal(own, explore.data[0]["waveform"]) and np.array_equal(theirs, explore.data[1]["waveform"])
    assert np.array_equal(explore.sound(one, "another clip's", other), theirs)
    assert not explore.sound(one, "silence").any()
    mixed = explore.sound(one, "a mixture", other, 0.25)
    assert np.abs(mixed - (0.75 * own + 0.25 * theirs)).max() <= 0.5
    loud = np.sqrt(np.mean(explore.sound(one, "noise").astype(float) ** 2))
    assert loud == pytest.approx(np.sqrt(np.mean(own.astype(float) ** 2)), rel=0.05)


def test_map_is_that_of_localize(room):
    explore, clip_id = room.explorer, room.explorer.data.ids[0]
    sound = explore.sound(clip_id, "its own")
    model = explore.models["first"]
    found = model.localize(explore.picture(clip_id), sound, model.sample_rate)
    assert explore.map("first", clip_id, sound).max() == pytest.approx(found.confidence, abs=1e-6)
    assert f"{found.confidence:.2f}" in explore.confidence(clip_id, sound)
    nodes = explore.node_maps("first", clip_id)
    assert nodes.shape == (8, 4, 4)  # none was foreground more often than another: all of them
    np.testing.assert_allclose(explore.visual_only("first", clip_id), nodes.mean(axis=0), atol=1e-5)


def test_room_shows_a_clip_when_it_opens_and_answers_to_every_widget(room):
    room.clip.value, room.sound.value = room.explorer.data.ids[0], SOUNDS[0]
    before = panels(room)
    assert list(before) == ["picture", "what it hears", "where it is", "without sound"]
    assert all(Image.open(io.BytesIO(value)).size[0] > 0 for value in before.values())
    assert room.audio.value[:4] == b"RIFF" and "confidence" in room.says.value
    played = room.audio.value
    room.sound.value = "another clip's"
    after = panels(room)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"what it hears", "where it is"} and room.audio.value != played
    room.sound.value = "a mixture"
    half = panels(room)["where it is"]
    room.share.value = 0.9
    assert panels(room)["where it is"] != half
    room.low.value = 0.9
    assert panels(room)["where it is"] != half
    room.low.value, room.opacity.value, room.sound.value = 0, 0, SOUNDS[0]
    assert panels(room)["where it is"] == panels(room)["picture"]  # nothing is laid over it
    room.opacity.value, room.node.value = 0.75, 3
    assert "node 3" in panels(room)
    room.node.value = None
    room.model.value = "second"
    assert "where it is (second)" in panels(room) and "second: confidence" in room.says.value
    room.model.value = "none"
    assert "where it is (second)" not in panels(room)


def test_buttons_go_to_other_clips(room):
    ids = room.explorer.data.ids
    room.kind_of_clip.value, room.clip.value = "all classes", ids[0]
    for name, want in (
        ("next", ids[1]),
        ("previous", ids[0]),
        ("previous", ids[-1]),
        ("best", ids[1]),
        ("worst", ids[2]),
    ):
        room.steps[name].click()
        assert room.clip.value == want, name
    room.steps["random"].click()
    assert room.clip.value in ids
    room.kind_of_clip.value = room.explorer.class_of(ids[3])
    offered = [clip_id for _, clip_id in room.clip.options]
    assert offered == [i for i in ids if room.explorer.class_of(i) == room.explorer.class_of(ids[3])]
    room.kind_of_clip.value = "all classes"


def test_bad_files_and_models_are_said_in_the_room(room, tmp_path):
    room.sound.value = SOUNDS[-1]
    assert "choose a sound file" in room.says.value
    upload = {"name": "x.wav", "type": "", "size": 5, "last_modified": pd.Timestamp.now("UTC").to_pydatetime()}
    room.file.value = ({**upload, "content": memoryview(b"words")},)
    assert 'role="alert"' in room.says.value and "not a readable sound" in room.says.value
    soundfile.write(tmp_path / "x.wav", videos.tone(1.0)[0], videos.RATE)
    room.file.value = ({**upload, "content": memoryview((tmp_path / "x.wav").read_bytes())},)
    assert "confidence" in room.says.value
    room.sound.value = SOUNDS[0]
    room.model.value = "broken"
    assert "no checkpoint" in room.says.value
    room.model.value = "none"


def test_map_of_sounds_puts_like_ones_together(room):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    vectors = np.repeat(centres, 10, axis=0) + 0.01 * rng.normal(size=(30, 16))
    points = explorer.embed(vectors.astype(np.float32))
    assert points.shape == (30, 2) and points.min() == 0 and points.max() == 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 10 == np.arange(30) // 10).all()
    ids, vectors = room.explorer.embeddings()
    model = room.explorer.models["first"]
    assert ids == room.explorer.data.ids
    np.testing.assert_allclose(
        vectors[1], model.encode_sounds([room.explorer.data[1]["waveform"].numpy()])[0], atol=1e-5
    )
    page = explorer.sound_map(room.explorer, ids, np.zeros((len(ids), 2)))
    assert page.count("<circle") == len(ids) and "<script" not in page


def test_video_room_plays_what_it_made_and_says_what_is_wrong(room, tmp_path):
    place = VideoRoom(room.explorer.models["first"], tmp_path / "videos")
    video = videos.make(tmp_path / "a.mp4", seconds=1.0)
    place.path.value = str(video)
    assert place.shown.children[0].value[4:8] == b"ftyp" and (tmp_path / "videos/a_overlay.html").is_file()
    place.path.value = str(tmp_path / "none.mp4")
    assert "no video" in place.says.value and not place.shown.children
