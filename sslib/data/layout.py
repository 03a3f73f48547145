"""Read and write the data folder, the same for every data set: frames, sounds, lists of clips, annotations.

::

    ROOT/dataset.json             name, digest, what is missing
    ROOT/video_frames/ID/001.jpg  frames, 1-based; frame k shows time (k - 1) / frame_rate
    ROOT/audios/ID.flac|wav       mono sound
    ROOT/splits/NAME.txt          one clip id a line
    ROOT/annotations/NAME.json    {clip id: {"class": …, "boxes": [[xmin, ymin, xmax, ymax] in [0, 1], …], …}}
    ROOT/masks/ID.png             pixels of the sounding object, where they are known
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslib.config import InputError
from sslib.data.media import PART, encode_flac, encode_jpeg

REMOVED = "no longer in the raw folder"  # in the notes of a clip
PARTIAL = ".partial"  # the folder of what is being written
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
YOUTUBE = re.compile(r"([\w-]{11})_\d{6}", re.ASCII)  # YOUTUBEID_000030: a clip that begins at 30 s of a video
FORBIDDEN = '\0/\\:<>"`'  # in a clip's id: what leaves the folder (a path, a drive), and markup on a page


class ClipError(InputError):
    """A clip that cannot be used; the message starts with its id and says what is wrong."""

    def __init__(self, clip_id: str, problem: str):
        super().__init__(f"clip {clip_id!r}: {problem}")
        self.clip_id, self.problem = clip_id, problem

    def __reduce__(self):
        return type(self), (self.clip_id, self.problem)


def check_id(clip_id: str) -> str:
    """Return `clip_id` if it can be a file name below the data folder, and text on a page; else raise ``ClipError``."""
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


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def digest(values: Any) -> str:
    """Identify plain values (what JSON can hold) by the SHA-256 of their JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def list_files(folder: Path, without: Path | None = None) -> list[tuple[str, int, int]]:
    """Return name, bytes and time (ns) of each file below `folder`, but for hidden ones and those below `without`."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and Path(place, name) != without]
        for path in (Path(place, name) for name in files if name[0] != "."):
            with contextlib.suppress(OSError):  # a link to nothing
                info = path.stat()
                found.append((path.relative_to(folder).as_posix(), info.st_size, info.st_mtime_ns))
    return sorted(found)


@dataclass(frozen=True)
class Layout:
    """Find the files of one data folder; read and write the small ones."""

    root: Path

    def frames(self, clip_id: str) -> dict[int, Path]:
        """List the clip's frames by number (1-based), in order; ``ClipError`` for none, or for one without."""
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
        """Find the clip's sound file; raise ``ClipError`` where there is none."""
        stem = self.root / "audios" / check_id(clip_id)
        for suffix in AUDIO_SUFFIXES:
            if (path := stem.with_name(stem.name + suffix)).is_file():
                return path
        raise ClipError(clip_id, f"no sound file {stem}{{{','.join(AUDIO_SUFFIXES)}}}")

    def mask(self, clip_id: str) -> Path:
        return self.root / "masks" / f"{check_id(clip_id)}.png"

    def ids(self, split: str) -> list[str]:
        """Read the clip ids of a list; ``FileNotFoundError`` for none, ``InputError`` for one that cannot be used."""
        path = self.split(split)
        if not self.root.is_dir():
            how = "`python -m sslib run CONFIG --only 01` or `python -m sslib prepare VIDEOS FOLDER` makes one"
            raise FileNotFoundError(f"no data folder {self.root}: {how}; see data/README.md")
        if not path.is_file():
            raise FileNotFoundError(f"no list {path}: it names the clips of {split!r}, one id a line")
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows tools put a mark in front of UTF-8
        ids = [check_id(line.strip()) for line in lines if line.strip()]
        if not ids:
            raise InputError(f"{path} is empty: it must name at least one clip")
        clip_id, times = Counter(ids).most_common(1)[0]
        if times > 1:
            raise InputError(f"{path} names clip {clip_id!r} twice")
        return ids

    def present(self) -> set[str]:
        """Find all clips that have a folder of frames, whatever is in it, and a sound file: in two listings, fast."""
        _, _, sounds = next(os.walk(self.root / "audios"), ("", [], []))
        _, seen, _ = next(os.walk(self.root / "video_frames"), ("", [], []))
        return {name.rpartition(".")[0] for name in sounds if name.endswith(AUDIO_SUFFIXES)}.intersection(seen)

    def identity(self, split: str, sizes: bool = True) -> dict[str, str]:
        """Identify the clips of a list, and their files as far as that is known without reading them.

        ``files`` comes from the manifest of prepared videos, from the digest of composed scenes, or else (unless
        `sizes` is false) from the sizes of first frames and sounds; it is empty where none of these is known.
        """
        ids = self.ids(split)
        if rows := self.manifest():
            files = [[rows[i]["sha256"], rows[i]["settings"]] if i in rows else ["", ""] for i in ids]
        elif not (files := self.info().get("digest")) and sizes:
            files = [self._sizes(clip_id) for clip_id in ids]
        return {"clips": digest(ids), "files": digest(files) if files else ""}

    def manifest(self) -> dict[str, dict[str, str]]:
        """Read the rows of the clips that were prepared from videos, by id; none where there is no ``manifest.csv``."""
        path = self.root / "manifest.csv"
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            return {row["id"]: row for row in csv.DictReader(file) if row["outcome"] == "ok"}

    def _sizes(self, clip_id: str) -> list[int]:
        """Bytes of a clip's first frame and of its sound; nothing for a clip that is missing."""
        with contextlib.suppress(ClipError):
            return [path.stat().st_size for path in (min(self.frames(clip_id).values()), self.audio(clip_id))]
        return []

    def annotations(self, split: str) -> dict[str, dict[str, Any]]:
        """Read the annotations of a list by clip id; none where there is no file."""
        return _read_json(self.root / "annotations" / f"{split}.json")

    def info(self) -> dict[str, Any]:
        """Read ``dataset.json``; empty where there is none (a folder made by other tools)."""
        return _read_json(self.root / "dataset.json")

    def fingerprint(self) -> str:
        """Identify what the folder says of its clips: lists, annotations and masks, and how they were made."""
        patterns = ("dataset.json", "manifest.csv", "splits/*.txt", "annotations/*.json")
        texts = {str(path.relative_to(self.root)): path for pattern in patterns for path in self.root.glob(pattern)}
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in texts.items()}
        return digest([digests, list_files(self.root / "masks")])

    def write_info(self, **values: Any) -> None:
        write_atomic(self.root / "dataset.json", json.dumps(values, indent=1) + "\n")

    def write_split(self, split: str, ids: list[str]) -> None:
        write_atomic(self.split(split), "".join(f"{i}\n" for i in ids))

    def write_annotations(self, split: str, rows: dict[str, dict[str, Any]]) -> None:
        write_atomic(self.root / "annotations" / f"{split}.json", json.dumps(rows, indent=0) + "\n")

    def write_clip(self, clip_id: str, image: np.ndarray, waveform: np.ndarray, sample_rate: int) -> None:
        """Write a clip of one frame, uint8 (H, W, 3), and its sound, int16 (samples,)."""
        write_atomic(self.root / "video_frames" / check_id(clip_id) / "001.jpg", encode_jpeg(image))
        write_atomic(self.root / "audios" / f"{clip_id}.flac", encode_flac(waveform, sample_rate))

    def replace_clip(self, clip_id: str, frames: list[bytes], audio: bytes) -> None:
        """Write JPEG frames and FLAC sound under other names, then rename: each is whole, or not there."""
        partial = self.root / PARTIAL / uuid.uuid4().hex
        for folder in partial / "frames", self.root / "video_frames", self.root / "audios":
            folder.mkdir(parents=True, exist_ok=True)
        for k, frame in enumerate(frames, start=1):
            (partial / "frames" / f"{k:03d}.jpg").write_bytes(frame)
        (partial / "audio.flac").write_bytes(audio)
        # A cluster gives a slow worker's clip to a second one: the later one takes nothing away.
        while not self._holds(clip_id, frames, audio):
            self.remove_clip(clip_id)
            try:
                (partial / "frames").rename(self.root / "video_frames" / clip_id)
                (partial / "audio.flac").rename(self.root / "audios" / f"{clip_id}.flac")
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # the other one's frames are there meanwhile
                    raise
        shutil.rmtree(partial, ignore_errors=True)

    def _holds(self, clip_id: str, frames: list[bytes], audio: bytes) -> bool:
        """Whether this very clip is there, and no frame more."""
        with contextlib.suppress(ClipError, FileNotFoundError):
            there = [path.read_bytes() for path in self.frames(clip_id).values()]
            return there == frames and self.audio(clip_id).read_bytes() == audio
        return False

    def remove_clip(self, clip_id: str) -> None:
        """Take a clip's frames and sound away, the frames in one step; another process may do so at the same time."""
        for suffix in AUDIO_SUFFIXES:
            (self.root / "audios" / f"{clip_id}{suffix}").unlink(missing_ok=True)
        trash = self.root / PARTIAL / uuid.uuid4().hex
        trash.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.root / "video_frames" / clip_id).rename(trash)
            shutil.rmtree(trash)

    def clear_partial(self) -> None:
        """Remove what a killed :meth:`replace_clip` has left."""
        shutil.rmtree(self.root / PARTIAL, ignore_errors=True)

    def size_of_clip(self, clip_id: str) -> tuple[int, int] | None:
        """Count a clip's frames, and the bytes of its frames and FLAC sound; None where one of both is missing."""
        with contextlib.suppress(FileNotFoundError):
            frames = [path.stat().st_size for path in (self.root / "video_frames" / clip_id).iterdir()]
            return len(frames), sum(frames) + (self.root / "audios" / f"{clip_id}.flac").stat().st_size
        return None

    def write_mask(self, clip_id: str, mask: np.ndarray) -> None:
        path = self.mask(clip_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)

    def split(self, name: str) -> Path:
        return self.root / "splits" / f"{name}.txt"


def video_of(clip_id: str) -> str:
    """Name the video that a clip was cut from: of a part NAME, of a clip from YouTube its id there, else its own id."""
    name = source_of(clip_id)
    found = YOUTUBE.fullmatch(name)
    return found.group(1) if found else name


def part_id(name: str, start: float) -> str:
    """Name the part of a video that begins at `start` s; no file may be named so, or ids could collide."""
    return f"{name}@{int(start):06d}"


def source_of(clip_id: str) -> str:
    """Name the file, without its suffix, that a clip was made from."""
    found = PART.fullmatch(clip_id)
    return found.group(1) if found else clip_id
