"""Lists made for videos that have none: complete, disjoint, the same everywhere, clips of one video together."""

import hashlib
import itertools

import pytest

from sslib.config import Config
from sslib.data import layout as layouts
from sslib.data import splits
from sslib.data.layout import Layout, part_id, source_of, video_of
from sslib.data.splits import split_by_video


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


def test_lists_of_a_person_are_left_alone(tmp_path):
    layout = Layout(tmp_path)
    layout.write_split("all", ["a", "b", "c", "d"])
    assert splits.renew(layout, ["train", "val", "test", "test"]) == (True, 4, 0)
    assert sorted(layout.ids("train") + layout.ids("val") + layout.ids("test")) == ["a", "b", "c", "d"]
    layout.write_split("train", ["d"])
    (tmp_path / "splits" / "val.txt").unlink()
    assert not splits.renew(layout, ["train", "val", "test"]).ours and layout.ids("train") == ["d"]
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        layout.ids("val")
    for path in (tmp_path / "splits").glob("t*.txt"):
        path.unlink()
    assert splits.renew(layout, ["train", "val", "test"]).ours and len(layout.ids("train")) == 2


def prepared(root, ids, contents=None, removed=()) -> Layout:
    """A folder that holds clips of these ids, of files with these contents, some of which are gone."""
    layout = Layout(root)
    layout.write_split("all", sorted(ids))
    lines = [f"{i},ok,{(contents or {}).get(i, i)},{layouts.REMOVED * (i in removed)}\n" for i in ids]
    (root / "manifest.csv").write_text("id,outcome,sha256,notes\n" + "".join(lines))
    return layout


def lists(layout):
    return [layout.ids(name) for name in ("train", "val", "test")]


def test_our_lists_grow_and_nothing_in_them_moves(tmp_path):
    ids = [f"IMG_{k:06d}" for k in range(100)]
    layout = prepared(tmp_path, ids[:40])
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 40, 0)
    before = lists(layout)
    assert [len(part) for part in before] == [36, 2, 2]
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 0, 0) and lists(layout) == before
    prepared(tmp_path, ids)
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 60, 0)
    assert [len(part) for part in lists(layout)] == [90, 5, 5]
    assert all(set(old) <= set(new) for old, new in zip(before, lists(layout), strict=True))
    new = sorted(set(ids[40:]), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(lists(layout)[1]) == {*before[1], *new[:3]} and set(lists(layout)[2]) == {*before[2], *new[3:6]}


def test_clips_of_removed_files_leave_our_lists(tmp_path):
    ids = [f"clip {k}" for k in range(30)]
    layout = prepared(tmp_path, ids)
    splits.renew(layout, ["train", "val", "test"])
    train, [val, *_], _ = before = lists(layout)
    prepared(tmp_path, ids, removed=[train[0], *before[1]])
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 0, 1)
    assert lists(layout) == [train[1:], *before[1:]] and val in before[1]  # a list does not become empty
    assert layout.ids("all") == sorted(ids)
    prepared(tmp_path, ids, removed=ids)
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 0, 0)  # the videos were deleted to make room
    prepared(tmp_path, ids)
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 1, 0)  # the file is back
    assert sorted(itertools.chain(*lists(layout))) == sorted(ids)


def test_clips_that_others_took_the_place_of_leave_our_lists(tmp_path):
    """A video that is cut otherwise now: its clips are in the list that those before were in."""
    ids = [f"clip {k}" for k in range(30)]
    layout = prepared(tmp_path, [*(f"{i}@{start}" for i in ids for start in ("000000", "000010"))])
    splits.renew(layout, ["train", "val", "test"])
    before = lists(layout)
    prepared(tmp_path, ids)
    assert splits.renew(layout, ["train", "val", "test"]) == (True, 30, 60)
    assert lists(layout) == [sorted({i.partition("@")[0] for i in part}) for part in before]


def test_a_renamed_file_takes_the_place_of_the_old_one(tmp_path):
    """Whatever its new name: here one of each list gets one, several times; two lists have no other clip."""
    ids, contents, old = [f"clip {k}" for k in range(20)], {}, []
    layout = prepared(tmp_path, ids)
    splits.renew(layout, ["train", "val", "test"])
    for turn in range(5):
        before, renamed = lists(layout), {}
        for part in before:
            renamed[part[0]] = f"renamed {turn} {part[0]}"
            contents[renamed[part[0]]] = contents.get(part[0], part[0])
        old += renamed
        prepared(tmp_path, [*ids, *contents], contents, removed=old)
        assert splits.renew(layout, ["train", "val", "test"]) == (True, 3, 3)
        assert lists(layout) == [sorted(renamed.get(i, i) for i in part) for part in before]
        assert splits.renew(layout, ["train", "val", "test"]) == (True, 0, 0)


def test_files_of_the_same_bytes_and_parts_of_one_video_are_never_divided(tmp_path):
    parts = [part_id(f"long {k}", start) for k in range(20) for start in (0, 10, 20)]
    copies = {f"copy {k} {n}": f"bytes {k}" for k in range(20) for n in "abc"}
    chain = {"one@000000": "x", "one@000010": "x", "two": "x", "AAAAAAAAAAA_000010": "y", "AAAAAAAAAAA_000030": "x"}
    layout = prepared(tmp_path, [*parts, *copies, *chain], copies | chain)
    splits.renew(layout, ["train", "val", "test"])
    assert sorted(itertools.chain(*lists(layout))) == sorted([*parts, *copies, *chain])
    videos = splits.videos_of(layout, layout.ids("all"))
    assert len(set(videos.values())) == 41
    assert len({videos[clip_id] for clip_id in chain}) == 1
    groups = [{videos[i] for i in ids} for ids in lists(layout)]
    assert [len(group) for group in groups] == [37, 2, 2] and not groups[0] & (groups[1] | groups[2])


def test_the_ids_of_parts():
    assert part_id("my video", 10.5) == "my video@000010" and source_of("my video@000010") == "my video"
    assert video_of("my video@000010") == "my video" and video_of("-dZ_x9aBcD0_000030@000010") == "-dZ_x9aBcD0"
    assert source_of("IMG_000123") == "IMG_000123" and source_of("a@b") == "a@b"
    assert source_of(part_id("a@b@000001", 3600)) == "a@b@000001"


@pytest.mark.parametrize("clips, fits", [(31, 8), (32, 0), (29, 8), (16, 8), (15, 4), (3, 2), (2, 2)])
def test_too_few_clips_for_a_batch(clips, fits):
    config = Config(exp_prefix="a", exp_name="b", training={"batch_size": 32})
    says = splits.too_few(config, clips)
    assert says.endswith(f"--set training.batch_size={fits}") if fits else says == ""
    assert splits.too_few(config, 1).endswith("more clips are needed")
