"""Lists that name clips which are not there."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sslib.config import Config
from sslib.data import layout as layouts
from sslib.data import store
from sslib.data.layout import Layout
from sslib.datasets import AVDataset, load_in_memory


def test_list_of_the_layout_made_on_windows(tmp_path):
    path = tmp_path / "splits/all.txt"
    path.parent.mkdir()
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert Layout(tmp_path).ids("all") == ["one", "two"]


# What is there


@pytest.fixture
def root(tmp_path):
    """Five listed clips: two whole, one without sound, one without frames, one without anything; one not listed."""
    for name in ("a", "b", "mute", "unlisted"):
        (tmp_path / "video_frames" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "video_frames" / name / "001.jpg")
    (tmp_path / "audios").mkdir()
    for name in ("a.wav", "b.flac", "blind.wav", "unlisted.wav"):
        soundfile.write(tmp_path / "audios" / name, np.ones(8000) / 4, 8000)
    (tmp_path / "audios/mute.txt").write_text("no sound")
    layout = Layout(tmp_path)
    layout.write_split("some", ["b", "mute", "gone", "a", "blind"])
    layout.write_split("whole", ["b", "a"])
    layout.write_split("none", ["gone", "mute"])
    return tmp_path


def config(root, **data) -> Config:
    values = {"root": root, "sample_rate": 8000, "seconds": 0.5, "image_size": 8}
    return Config(exp_prefix="a", exp_name="b", data=values | data)


def test_run_goes_on_with_what_is_there_and_says_so(root):
    with pytest.warns(UserWarning, match=r"list 'some' of .*: 2 of 5 present; missing .*mute, gone, blind") as said:
        dataset = AVDataset(config(root), "some")
    assert said[0].filename == __file__
    assert dataset.ids == ["b", "a"] and dataset.missing == ["mute", "gone", "blind"]
    assert (dataset.present, len(dataset)) == ("2 of 5 present", 2)
    assert [dataset[i]["clip_id"] for i in range(2)] == ["b", "a"]
    assert load_in_memory(dataset).ids == ["b", "a"]


def test_whole_list_is_present_without_a_word(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = AVDataset(config(root, require_all=True), "whole")
    assert dataset.missing == [] and dataset.present == "2 of 2 present"


def test_require_all_refuses(root):
    with pytest.raises(ValueError, match=r"2 of 5 present, and data\.require_all .*: mute, gone, blind"):
        AVDataset(config(root, require_all=True), "some")


def test_list_of_which_nothing_is_there_is_refused(root):
    with pytest.raises(ValueError, match=r"0 of 2 present.*gone, mute"):
        AVDataset(config(root), "none")
    for folder in ("video_frames", "audios"):
        (root / folder).rename(root / f"{folder}_elsewhere")
        with pytest.raises(ValueError, match="0 of 2 present"):
            AVDataset(config(root), "whole")


def test_long_list_of_missing_clips_is_cut_in_messages_only(root):
    gone = [f"gone{number}" for number in range(500)]
    Layout(root).write_split("long", ["a", *gone])
    with pytest.warns(UserWarning, match=r"1 of 501 present.*gone9, … and 490 more"):
        dataset = AVDataset(config(root), "long")
    assert dataset.missing == gone
    with pytest.raises(ValueError, match=r"gone99, … and 400 more"):
        AVDataset(config(root, require_all=True), "long")


def test_only_present_clips_need_annotations(root):
    Layout(root).write_annotations("some", {name: {"boxes": [[0, 0, 1, 1]]} for name in ("a", "b")})
    with pytest.warns(UserWarning, match="2 of 5"):
        assert len(AVDataset(config(root), "some", annotated=True)[0]["boxes"]) == 1
    Layout(root).write_annotations("some", {"a": {"boxes": []}, "gone": {"boxes": []}})
    with (
        pytest.warns(UserWarning, match="2 of 5"),
        pytest.raises(ValueError, match=r"1 of 2 clips .*lack boxes: \['b'\]"),
    ):
        AVDataset(config(root), "some", annotated=True)


def test_store_has_its_own_idea_of_what_is_there(root):
    """Clips count as present when they are stored, whatever lies in the folder."""
    (root / "splits/some.txt").rename(root / "some.txt"), (root / "splits/none.txt").unlink()
    store.write_store(root)
    (root / "some.txt").rename(root / "splits/some.txt")
    for folder in ("video_frames", "audios"):
        (root / folder).rename(root / f"{folder}_elsewhere")
    with pytest.warns(UserWarning, match="2 of 5 present"):
        dataset = AVDataset(config(root, loader="lmdb"), "some")
    assert dataset.ids == ["b", "a"] and dataset[1]["clip_id"] == "a"
    with pytest.raises(ValueError, match="2 of 5 present"):
        AVDataset(config(root, require_all=True), "some", loader="lmdb")


def test_many_clips_are_listed_by_two_scans(root, monkeypatch):
    scanned = []
    scandir = layouts.os.scandir
    monkeypatch.setattr(layouts.os, "scandir", lambda folder: scanned.append(folder) or scandir(folder))
    assert Layout(root).present() == {"a", "b", "unlisted"}
    assert [Path(folder).name for folder in scanned] == ["audios", "video_frames"]
