"""Lists for videos that come without any: training, validation and test, divided by a hash of the video's name."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from sslib.config import InputError
from sslib.data.layout import Layout

SHARE = 0.05  # of the videos, for each list but the first
YOUTUBE = re.compile(r"([\w-]{11})_\d{6}", re.ASCII)  # YOUTUBEID_000030: a clip that begins at 30 s of a video


def video_of(clip_id: str) -> str:
    """The video that a clip was cut from: its YouTube id where it is named so, else the clip stands for itself."""
    found = YOUTUBE.fullmatch(clip_id)
    return found.group(1) if found else clip_id


def divide(ids: Sequence[str], parts: int, share: float = SHARE) -> list[list[str]]:
    """Divide clips into `parts` lists, the first of which gets what is left; clips of one video stay together.

    Videos are ordered by the SHA-256 of their name: the same clips give the same lists on any machine, and what they
    are called says nothing about where they go. Every list gets a video at least.

    Raises
    ------
    ValueError
        When there are fewer videos than lists.
    """
    clips: dict[str, list[str]] = defaultdict(list)
    for clip_id in sorted(ids):
        clips[video_of(clip_id)].append(clip_id)
    if len(clips) < parts:
        raise InputError(f"{len(clips)} videos cannot be divided into {parts} lists: more videos are needed")
    order = sorted(clips, key=lambda video: hashlib.sha256(video.encode()).digest())
    each = max(1, round(share * len(order)))
    cuts = [each * part for part in range(parts)]
    others = [order[start : start + each] for start in cuts[:-1]]
    return [sorted(i for video in videos for i in clips[video]) for videos in (order[cuts[-1] :], *others)]


def write_missing(layout: Layout, names: Sequence[str]) -> bool:
    """Divide the list ``all`` into the lists `names` (training first) where none of them is there; whether it did."""
    names = list(dict.fromkeys(names))
    if any((layout.root / "splits" / f"{name}.txt").exists() for name in names):
        return False
    for name, ids in zip(names, divide(layout.ids("all"), len(names)), strict=True):
        layout.write_split(name, ids)
    return True
