"""The data folder, the same for every data set: where a clip's frames and sound lie, the lists, the annotations.

::

    ROOT/dataset.json             name, digest, what is missing
    ROOT/video_frames/ID/001.jpg  frames, 1-based; frame k shows time (k - 1) / frame_rate
    ROOT/audios/ID.flac|wav       mono sound
    ROOT/splits/NAME.txt          one clip id a line
    ROOT/annotations/NAME.json    {clip id: {"class": …, "boxes": [[xmin, ymin, xmax, ymax] in [0, 1], …], …}}
    ROOT/masks/ID.png             pixels of the sounding object, where they are known
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslib.config import InputError

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
FORBIDDEN = '\0/\\:<>"`'  # in a clip's id


class ClipError(InputError):
    """A clip that cannot be used; the message starts with its id and says what is wrong."""

    def __init__(self, clip_id: str, problem: str):
        super().__init__(f"clip {clip_id!r}: {problem}")
        self.clip_id, self.problem = clip_id, problem

    def __reduce__(self):
        return type(self), (self.clip_id, self.problem)


def check_id(clip_id: str) -> str:
    """Return `clip_id` if it can be a file name below the data folder, and text on a page.

    Raises
    ------
    ClipError
        For an empty id; for one that would leave the folder (``../``, a path, a drive); for one that would be markup on
        a page (``<script>``; a backtick ends the code that it stands in).
    """
    if not clip_id or clip_id in {".", ".."} or any(c in FORBIDDEN for c in clip_id):
        raise ClipError(clip_id, f"not a clip id: it must be a plain name without any of {' '.join(FORBIDDEN[1:])}")
    return clip_id


def write_atomic(path: Path, content: bytes | str) -> Path:
    """Write a file in one step, with the folders above it: a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def digest(values: Any) -> str:
    """Identify plain values (what JSON can hold) by the SHA-256 of their JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """Paths and small files of one data folder."""

    root: Path

    def frames(self, clip_id: str) -> dict[int, Path]:
        """The clip's frames by their numbers (1-based), in order.

        Raises
        ------
        ClipError
            When the clip has no frames, or one whose name is no number or that of another one.
        """
        folder = self.root / "video_frames" / check_id(clip_id)
        found: dict[int, Path] = {}
        for path in sorted(folder.glob("*.jpg")):
            number = int(path.stem) if re.fullmatch("[0-9]+", path.stem) else 0
            if number < 1 or number in found:
                raise ClipError(clip_id, f"{path} is no frame: frames are 001.jpg, 002.jpg, …, each number once")
            found[number] = path
        if not found:
            raise ClipError(clip_id, f"no frames (*.jpg) in {folder}")
        return dict(sorted(found.items()))

    def audio(self, clip_id: str) -> Path:
        """The clip's sound file.

        Raises
        ------
        ClipError
            When there is none.
        """
        stem = self.root / "audios" / check_id(clip_id)
        for suffix in AUDIO_SUFFIXES:
            path = stem.with_name(stem.name + suffix)
            if path.is_file():
                return path
        raise ClipError(clip_id, f"no sound file {stem}{{{','.join(AUDIO_SUFFIXES)}}}")

    def mask(self, clip_id: str) -> Path:
        return self.root / "masks" / f"{check_id(clip_id)}.png"

    def ids(self, split: str) -> list[str]:
        """Clip ids of a list.

        Raises
        ------
        FileNotFoundError
            When the data folder or the list is missing.
        InputError
            When the list is empty or names a clip twice.
        """
        path = self.root / "splits" / f"{split}.txt"
        if not self.root.is_dir():
            raise FileNotFoundError(f"no data folder {self.root}: run notebook 01_data_preparation first")
        if not path.is_file():
            raise FileNotFoundError(f"no list {path}: it names the clips of {split!r}, one id a line")
        ids: dict[str, None] = {}
        for line in path.read_text(encoding="utf-8-sig").splitlines():  # Windows tools put a mark in front of UTF-8
            if clip_id := line.strip():
                if clip_id in ids:
                    raise InputError(f"{path} names clip {clip_id!r} twice")
                ids[check_id(clip_id)] = None
        if not ids:
            raise InputError(f"{path} is empty: it must name at least one clip")
        return list(ids)

    def present(self) -> set[str]:
        """Ids of all clips that have a folder of frames and a sound file: two listings, however many clips there are.

        What is in them is not looked at: a clip whose folder is empty raises when it is read.
        """
        sounds = (entry.name.rpartition(".") for entry in _listing(self.root / "audios"))
        heard = {stem for stem, dot, suffix in sounds if dot + suffix in AUDIO_SUFFIXES}
        return {entry.name for entry in _listing(self.root / "video_frames") if entry.name in heard and entry.is_dir()}

    def annotations(self, split: str) -> dict[str, dict[str, Any]]:
        """Annotations of a list by clip id; none where there is no file."""
        path = self.root / "annotations" / f"{split}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def info(self) -> dict[str, Any]:
        """What ``dataset.json`` says; empty where there is none (a folder made by other tools)."""
        path = self.root / "dataset.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def write_info(self, **values: Any) -> None:
        self._write_text("dataset.json", json.dumps(values, indent=1) + "\n")

    def write_split(self, split: str, ids: list[str]) -> None:
        self._write_text(f"splits/{split}.txt", "".join(f"{i}\n" for i in ids))

    def write_annotations(self, split: str, rows: dict[str, dict[str, Any]]) -> None:
        self._write_text(f"annotations/{split}.json", json.dumps(rows, indent=0) + "\n")

    def write_clip(self, clip_id: str, image: np.ndarray, waveform: np.ndarray, sample_rate: int) -> None:
        """One frame (uint8 (H, W, 3)) and the sound (int16 (samples,)) of a clip."""
        from sslib.data import media

        write_atomic(self.root / "video_frames" / check_id(clip_id) / "001.jpg", media.encode_jpeg(image))
        write_atomic(self.root / "audios" / f"{clip_id}.flac", media.encode_flac(waveform, sample_rate))

    def write_mask(self, clip_id: str, mask: np.ndarray) -> None:
        from PIL import Image

        path = self.mask(clip_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)

    def _write_text(self, name: str, text: str) -> None:
        write_atomic(self.root / name, text)


def _listing(folder: Path) -> list[os.DirEntry]:
    """What lies in `folder`; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
