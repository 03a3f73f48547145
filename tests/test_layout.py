"""Lists made for videos that have none: complete, disjoint, the same everywhere, clips of one video together."""

import hashlib

import pytest

from sslib.data.layout import Layout, split_by_video, video_of


def test_every_clip_is_in_one_list_and_the_shares_hold():
    ids = [f"IMG_{k:06d}" for k in range(200)]
    train, val, test = split_by_video(ids, 3)
    assert sorted(train + val + test) == ids and (len(train), len(val), len(test)) == (180, 10, 10)
    assert split_by_video(ids[::-1], 3) == [train, val, test]
    lowest = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert val == sorted(lowest[:10]) and test == sorted(lowest[10:20])


def test_clips_of_one_video_stay_together():
    ids = [f"{video:011d}_{start:06d}" for video in range(60) for start in (0, 30, 170)]
    lists = split_by_video(ids, 3)
    videos = [{video_of(clip_id) for clip_id in ids} for ids in lists]
    assert [len(names) for names in videos] == [54, 3, 3] and len(set.union(*videos)) == 60
    assert [len(ids) for ids in lists] == [162, 9, 9]


@pytest.mark.parametrize(
    "clip_id, video",
    [("-dZ_x9aBcD0_000030", "-dZ_x9aBcD0"), ("IMG_000123", "IMG_000123"), ("-dZ_x9aBcD0_30", "-dZ_x9aBcD0_30")],
)
def test_what_counts_as_one_video(clip_id, video):
    assert video_of(clip_id) == video


def test_few_videos_still_fill_every_list():
    assert [len(ids) for ids in split_by_video(["a", "b", "c"], 3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="2 videos cannot be divided into 3 lists"):
        split_by_video(["a", "b"], 3)


def test_lists_that_are_there_are_left_alone(tmp_path):
    layout = Layout(tmp_path)
    layout.write_split("all", ["a", "b", "c", "d"])
    assert layout.write_missing_splits(["train", "val", "test", "test"])
    assert sorted(layout.ids("train") + layout.ids("val") + layout.ids("test")) == ["a", "b", "c", "d"]
    layout.write_split("train", ["d"])
    (tmp_path / "splits" / "val.txt").unlink()
    assert not layout.write_missing_splits(["train", "val", "test"]) and layout.ids("train") == ["d"]
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        layout.ids("val")
