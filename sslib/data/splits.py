"""Lists for videos that have none: to train on, to validate with, to test with; and how they grow with the videos.

Clips of one video, and files of the same bytes, are never divided.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sslib.config import Config, InputError
from sslib.data.layout import REMOVED, Layout, digest, video_of, write_atomic

SPLIT_FRACTION = 0.05  # of the videos, for each list but the first


class Renewed(NamedTuple):
    """What became of the lists."""

    ours: bool  # or a person wrote them, and they are left alone
    added: int  # clips
    removed: int

    def __str__(self) -> str:
        if not self.ours:
            return "A person wrote or changed them: they stay as they are."
        gone = f", {self.removed:,} taken out, whose files are gone" * bool(self.removed)
        return f"Written here: {self.added:,} clips are new{gone}."


def renew(layout: Layout, names: Sequence[str]) -> Renewed:
    """Divide the list ``all`` into `names` (training first), or add to them what is new, unless a person wrote one.

    What is in a list stays there; only clips whose file was removed leave it, unless none would be left.
    ``splits/automatic.json`` says what was written here: a list that is another one now is a person's. Raises
    ``InputError`` when there are no clips, or fewer videos than lists.
    """
    if (layout.root / "manifest.csv").is_file() and not layout.manifest():
        raise InputError(f"{layout.root}: no video became a clip; its manifest.csv says why, for each file")
    names, record = list(dict.fromkeys(names)), layout.root / "splits" / "automatic.json"
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    there = {name: layout.ids(name) for name in names if layout.split(name).exists()}
    if there and {name: digest(ids) for name, ids in there.items()} != {name: made.get(name) for name in names}:
        return Renewed(False, 0, 0)
    gone = {clip_id for clip_id, row in layout.manifest().items() if REMOVED in row["notes"]}
    before = {i for ids in there.values() for i in ids}
    ids = {*layout.ids("all")} - gone
    videos, lists = videos_of(layout, ids | before), [*there.values()]
    if not there or len({videos[i] for i in ids}) >= len(names):
        lists = split_by_video(ids, len(names), videos, lists)
        lists = [part or old for part, old in itertools.zip_longest(lists, there.values())]
    for name, part in zip(names, lists, strict=True):
        layout.write_split(name, part)
    write_atomic(record, json.dumps(dict(zip(names, map(digest, lists), strict=True))) + "\n")
    after = {i for part in lists for i in part}
    return Renewed(True, len(after - before), len(before - after))


def videos_of(layout: Layout, ids: Iterable[str]) -> dict[str, str]:
    """Name the video of each clip: :func:`video_of`, and files of the same bytes are the first one's, by name."""
    rows, first, same = layout.manifest(), {}, {}

    def follow(video: str) -> str:
        return follow(same[video]) if video in same else video

    for clip_id in sorted(ids):
        video, content = follow(video_of(clip_id)), rows.get(clip_id, {}).get("sha256")
        other = follow(first.setdefault(content, video)) if content else video
        if other != video:
            same[video] = other
    return {clip_id: follow(video_of(clip_id)) for clip_id in ids}


def split_by_video(
    ids: Iterable[str], parts: int, videos: Mapping[str, str] | None = None, there: Sequence[Sequence[str]] = ()
) -> list[list[str]]:
    """Divide clips into `parts` lists, the first of which gets what is left; clips of one video stay together.

    Videos (by clip; default: :func:`video_of`) are ordered by the SHA-256 of their name: the same clips give the same
    lists on any machine, and what they are called says nothing about where they go. Clips that are `there`, in such
    lists, stay, and others of their video join them. Raises ``InputError`` when there are fewer videos than lists.
    """
    videos = videos or {clip_id: video_of(clip_id) for clip_id in ids}
    clips: dict[str, list[str]] = defaultdict(list)
    for clip_id in sorted(ids):
        clips[videos[clip_id]].append(clip_id)
    if len(clips) < parts:
        raise InputError(f"{len(clips)} videos cannot be divided into {parts} lists: more videos are needed")
    listed = {clip_id: part for part, found in enumerate(there) for clip_id in found}
    place = {videos[i]: part for i, part in reversed(listed.items()) if videos[i] in clips}
    order = iter(sorted(clips.keys() - place.keys(), key=lambda video: hashlib.sha256(video.encode()).digest()))
    each = max(1, round(SPLIT_FRACTION * len(clips)))
    for part in range(1, parts):
        wanted = each - sum(other == part for other in place.values())
        place |= dict.fromkeys(itertools.islice(order, max(0, wanted)), part)
    lists: list[list[str]] = [[] for _ in range(parts)]
    for video, found in clips.items():
        for clip_id in found:
            lists[listed.get(clip_id, place.get(video, 0))].append(clip_id)
    return [sorted(part) for part in lists]


def too_few(config: Config, clips: int) -> str:
    """Say that a training list has fewer clips than a batch, and what to do; nothing where it has enough."""
    size, name = config.training.batch_size, config.data.train
    smaller = f", or --set training.batch_size={max(2, 2 ** ((clips // 2).bit_length() - 1))}" if clips > 1 else ""
    says = f"training.batch_size {size} is larger than the {clips} clips of {name!r}: more clips are needed{smaller}"
    return says if clips < size else ""
