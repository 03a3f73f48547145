"""Lists as people have them, and lists that name clips which are not there."""

import warnings

import numpy as np
import pytest
import soundfile
from PIL import Image

from sslib import layout as layouts
from sslib import store
from sslib.annotations import AnnotationError, read_classes, read_ids
from sslib.config import Config
from sslib.datasets import AVDataset, load_in_memory
from sslib.layout import Layout

IDS = ["aaaaaaaaaaa_000030", "-_bbbbbbbbb_000000", "10000130166"]
ONE_A_LINE = "".join(f"{name}\n" for name in IDS)
SHAPES = {
    "one a line": ONE_A_LINE,
    "without last line end": ONE_A_LINE.rstrip(),
    "Windows": ONE_A_LINE.replace("\n", "\r\n"),
    "old Mac": ONE_A_LINE.replace("\n", "\r"),
    "byte order mark": "\ufeff" + ONE_A_LINE,
    "blank lines": "\n\n" + ONE_A_LINE.replace("\n", "\n  \n"),
    "spaces": ONE_A_LINE.replace("\n", " \t\n"),
    "csv": "".join(f"{name},{number}\n" for number, name in enumerate(IDS)),
    "csv with header": "video_id,number\n" + "".join(f"{name},{number}\n" for number, name in enumerate(IDS)),
    "header with mark": "\ufeffFile\r\n" + ONE_A_LINE.replace("\n", "\r\n"),
    "semicolons": "".join(f"{name};x\n" for name in IDS),
    "tabs": "".join(f"{name}\tx\n" for name in IDS),
    "quotes": "".join(f'"{name}",x\n' for name in IDS),
    ".mp4": ONE_A_LINE.replace("\n", ".mp4\n"),
    ".wav": ONE_A_LINE.replace("\n", ".wav\n"),
    ".JPG": ONE_A_LINE.replace("\n", ".JPG\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_list_of_every_shape(tmp_path, shape):
    path = tmp_path / "list.csv"
    path.write_bytes(SHAPES[shape].encode())
    assert read_ids(path) == IDS


def test_id_that_looks_like_a_header_is_one_only_at_the_top(tmp_path):
    (tmp_path / "list.txt").write_text("a\nname\nid\n")
    assert read_ids(tmp_path / "list.txt") == ["a", "name", "id"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("a\n\nb\na\n", r"line 4: 'a' comes twice, first in line 1"),
        ("a.mp4\na.wav\n", r"line 2: 'a' comes twice"),
        ("a\n../b\n", r"line 2: .*not a clip id"),
        ("a\nfolder/b.jpg\n", r"line 2: .*not a clip id"),
        (".mp4\n", r"line 1: .*not a clip id"),
        ("", "is empty"),
        ("\ufeff\n \n", "is empty"),
        ("id\n", "is empty"),
        ('---g-f_I2yQ,1,"people marching",test\n', "line 1: this is VGGSound's csv"),
        ("---g-f_I2yQ,1,female speech, woman speaking,train\n", "line 1: this is VGGSound's csv"),
    ],
)
def test_list_that_cannot_be_used_names_the_line(tmp_path, text, says):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=rf"list\.txt.*{says}"):
        read_ids(tmp_path / "list.txt")


def test_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes("a\nb\n".encode("utf-16"))
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_ids(tmp_path / "list.txt")


def test_classes_keep_their_commas(tmp_path):
    path = tmp_path / "heard.txt"
    path.write_bytes(b'\xef\xbb\xbfplaying cello\r\nfemale speech, woman speaking\r\n\r\n"elk bugling"\r\n')
    assert read_classes(path) == ["playing cello", "female speech, woman speaking", "elk bugling"]
    path.write_text("a\nb\na\n")
    with pytest.raises(AnnotationError, match="line 3: 'a' comes twice"):
        read_classes(path)
    path.write_text("")
    with pytest.raises(AnnotationError, match="at least one class"):
        read_classes(path)


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
    store.write(root)
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
    assert [path.name for path in scanned] == ["audios", "video_frames"]
