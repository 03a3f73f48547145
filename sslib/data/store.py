"""Write and read a data folder as LMDB shards: JPEG and FLAC bytes, with a checksum for every shard.

::

    ROOT/clips.lmdb/00000-DIGEST.lmdb  500 to 1,000 clips, by the hash of their ids; DIGEST says of which media
    ROOT/clips.lmdb/meta.json          written last: schema, window, missing clips; each shard's size, SHA-256 and clips

Keys of a shard: ``clip/ID`` (JSON: the numbers of its frames), ``frame/ID/k`` and ``audio/ID``. A shard is whole, or it
has not got its name yet; under one name there is only ever one content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from sslib.config import InputError
from sslib.data import media, parallel
from sslib.data.layout import ClipError, Layout, digest, write_atomic
from sslib.data.media import ClipWindow

STORE_NAME = "clips.lmdb"
SCHEMA = 3
CLIPS_PER_SHARD = 1000  # at most, on average: a lost shard costs a minute, and a cluster has tens of tasks
BATCH = 32  # clips a transaction: few enough for memory, and faster than one by one


class StoreError(InputError):
    """A store that cannot be read or written; the message says which and why."""


class Shard(NamedTuple):
    """The task of writing one shard: all that a process on any machine needs that sees the folder."""

    path: Path
    ids: list[str]
    window: ClipWindow | None  # None: every frame and the whole sound
    bytes: int  # no less than it will have, nearly


def write_store(root: Path, window: ClipWindow | None = None, workers: int = 0, scheduler: str | None = None) -> bool:
    """Write ``root/clips.lmdb`` with every clip that one of the folder's lists names; return whether there was need to.

    Of each clip everything is kept, or the frame and the sound of a configuration's `window`. Shards whose media have
    not changed (names, sizes, times) stay; `workers` and `scheduler` as in :func:`sslib.data.parallel.each`. Missing
    clips are listed in ``meta.json``. Raises ``StoreError`` when the disk is too small, and names all unreadable clips.
    """
    root = Path(root).absolute()
    path, (shards, meta) = root / STORE_NAME, _plan(root, window)
    stored = _stored(path)
    rows = {row["name"]: row for row in stored["shards"]}
    faulty = {name for name, row in rows.items() if shard_fault(path, row, checksum=False)}
    todo = [shard for shard in shards if shard.path.name in faulty or shard.path.name not in rows]
    if not todo and meta == {key: stored.get(key) for key in meta}:
        return False
    _clear(path, {shard.path.name for shard in shards} - faulty)
    _require_room(root, meta, [shard for shard in todo if not shard.path.exists()])
    faults = []
    for _, (row, found) in parallel.each(write_shard, todo, workers=workers, scheduler=scheduler, desc="storing"):
        rows[row["name"]], faults = row, faults + found
    if faults:
        count = f"{len(faults)} of {meta['clips']} clips of {root} cannot be stored:"
        raise StoreError("\n  ".join([count, *sorted(faults)]))
    for left in path.glob("*.partial"):  # of tasks that were begun twice and died
        left.unlink(missing_ok=True)
    write_atomic(path / "meta.json", json.dumps(meta | {"shards": [rows[s.path.name] for s in shards]}) + "\n")
    return True


def ensure_store(root: Path, window: ClipWindow, workers: int = 0) -> bool:
    """Write the store for a configuration that uses `window` where there is no valid one; return whether it was.

    One of only that window (``store --only``) stays so; ``StoreError`` where it is of another, which is not undone.
    """
    path = Path(root).absolute() / STORE_NAME
    held = _stored(path).get("window")
    if held not in (None, asdict(window)):
        remedy = f"write it whole by `python -m sslib store {path.parent}`, or what this one uses with `--only CONFIG`"
        raise StoreError(f"{path} holds only what another configuration uses of each clip ({held}): {remedy}")
    return write_store(root, window=window if held else None, workers=workers)


def _stored(path: Path) -> dict[str, Any]:
    """Read ``meta.json`` as :func:`read_meta`, where it can be used."""
    with suppress(StoreError):
        return read_meta(path)
    return {"shards": []}


def _plan(root: Path, window: ClipWindow | None) -> tuple[list[Shard], dict[str, Any]]:
    """Assign clips to shards; return these and all of ``meta.json`` but their rows."""
    if window is not None and window.time == "random":
        raise StoreError("data.time 'random' uses all of a clip: write the store without --only")
    layout = Layout(root)
    if not root.is_dir():
        raise StoreError(f"there is no data folder {root}: `python -m sslib prepare VIDEOS {root}` makes one of videos")
    listed = sorted({clip_id for path in (root / "splits").glob("*.txt") for clip_id in layout.ids(path.stem)})
    if not listed:
        raise StoreError(f"{root} has no lists in splits/: nothing to store")
    there = layout.present()
    ids, missing = [i for i in listed if i in there], [i for i in listed if i not in there]
    if not ids:
        raise StoreError(f"none of the {len(listed)} clips that the lists of {root} name is there: nothing to store")
    shards, meta = [], {"schema": SCHEMA, "clips": len(ids), "missing": missing, "window": window and asdict(window)}
    for number, part in _assign(ids).items():
        files = {clip_id: _files(layout, clip_id) for clip_id in part}
        name = f"{number:05d}-{digest([SCHEMA, meta['window'], files])[:16]}.lmdb"
        sizes = [[size for _, size, _ in clip] for clip in files.values()]
        if window:  # its largest frame, and samples of 16 bits
            sizes = [[max(clip[:-1], default=0), 2 * window.samples] for clip in sizes]
        shards.append(Shard(root / STORE_NAME / name, part, window, sum(map(sum, sizes))))
    return shards, meta


def _assign(ids: list[str]) -> dict[int, list[str]]:
    """Assign sorted ids to shards by the first bits of their hash: a new clip changes one shard, and no other.

    There are 1, 2, 4 … shards, so that only when the number of clips has doubled all of them are written again; 512 at
    most, because a process holds all of them open and may have 1,024 files.
    """
    bits, parts = min(9, (-(-len(ids) // CLIPS_PER_SHARD) - 1).bit_length()), defaultdict(list)
    for clip_id in ids:
        parts[int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16) >> (32 - bits)].append(clip_id)
    return dict(sorted(parts.items()))


def _files(layout: Layout, clip_id: str) -> list[tuple[str, int, int]]:
    """List name, size and time of every file of a clip, the sound last; nothing where it lacks frames."""
    with suppress(ClipError):
        states = [(path.name, path.stat()) for path in (*layout.frames(clip_id).values(), layout.audio(clip_id))]
        return [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    return []


def _clear(path: Path, names: set[str]) -> None:
    """Delete all but the shards `names`, the meta first: from here on nothing looks complete."""
    if path.is_file():  # of the first version
        path.unlink()
    path.mkdir(parents=True, exist_ok=True)
    _opened.clear()  # what is open keeps its room on the disk
    for file in [path / "meta.json", *path.glob("*.partial"), *path.glob("*.lmdb")]:
        if file.name not in names:
            file.unlink(missing_ok=True)


def _require_room(root: Path, meta: dict[str, Any], todo: list[Shard]) -> None:
    """Print how much will be written at most, before it is; refuse where the disk has no room for it."""
    need, free = sum(shard.bytes for shard in todo) / 1e6, shutil.disk_usage(root).free / 1e6
    missing = f" ({len(meta['missing']):,} more are missing, see meta.json)" if meta["missing"] else ""
    count = f"{meta['clips']:,} clips{missing}, {len(todo)} shards to write"
    print(f"{root.name}/{STORE_NAME}: {count}, about {need:,.1f} MB at most; {free:,.1f} MB are free")
    if need > free:
        raise StoreError(f"{root} has room for {free:,.1f} MB, the store needs up to {need:,.1f} MB")


def write_shard(shard: Shard) -> tuple[dict[str, Any], list[str]]:
    """Write a shard unless it is there; doing it twice, also at the same time, leaves the same one file.

    Returns its row of ``meta.json``, and what is wrong with clips, one line each: then there is no shard.
    """
    path, partial = shard.path, shard.path.with_name(f"{shard.path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if not path.exists():
            if faults := _write_clips(partial, shard):
                return {"name": path.name}, faults
            partial.replace(path)
    except lmdb.Error as error:
        raise StoreError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": _checksum(path), "ids": shard.ids}, []


def _write_clips(path: Path, shard: Shard) -> list[str]:
    """Write every clip of `shard` into a new file; list what is wrong with those that cannot be read."""
    layout, faults = Layout(shard.path.parents[1]), []
    room = (1 << 30) + 100 * shard.bytes  # only of address space: compressed sound of other kinds grows in FLAC
    # A partial file is never read, so that only the end of it has to wait for the disk.
    with lmdb.open(str(path), subdir=False, map_size=room, lock=False, sync=False) as database:
        for start in range(0, len(shard.ids), BATCH):
            with database.begin(write=True) as transaction:
                for clip_id in shard.ids[start : start + BATCH]:
                    try:
                        for key, value in encode_clip(layout, clip_id, shard.window).items():
                            transaction.put(key.encode(), value)
                    except ClipError as error:
                        faults.append(str(error))
        database.sync(True)
    return faults


def encode_clip(layout: Layout, clip_id: str, window: ClipWindow | None = None) -> dict[str, bytes]:
    """Encode every key and value of one clip; with a `window`, of one frame and the sound that a loader would cut.

    Pictures and FLAC keep their bytes; other sound becomes 16-bit FLAC. ``ClipError`` says what cannot be decoded.
    """
    try:
        frames, audio = layout.frames(clip_id), layout.audio(clip_id)
        if window is None:
            sound = media.read_flac(audio)
        else:
            waveform, time = window.read_audio(audio)
            number = window.frame_number(time, frames)
            frames, sound = {number: frames[number]}, media.encode_flac(waveform, window.sample_rate)
        values = {f"frame/{clip_id}/{number}": media.read_jpeg(path) for number, path in frames.items()}
    except (media.MediaError, OSError) as error:
        raise ClipError(clip_id, str(error)) from error
    return values | {f"audio/{clip_id}": sound, f"clip/{clip_id}": json.dumps({"frames": list(frames)}).encode()}


def verify_store(path: Path, workers: int = 0, scheduler: str | None = None) -> list[str]:
    """Compare the checksum of every shard of a store, by `workers` as in `parallel.each`; list what is wrong."""
    path = Path(path).absolute()
    rows, check = read_meta(path)["shards"], functools.partial(shard_fault, path)
    found = parallel.each(check, rows, workers=workers, scheduler=scheduler, desc="verifying")
    return sorted(fault for _, fault in found if fault)


def shard_fault(path: Path, row: dict[str, Any], checksum: bool = True) -> str | None:
    """Compare a shard of the store at `path` with its row of ``meta.json``; say what is wrong, if anything is."""
    file = path / row["name"]
    if not file.is_file():
        return f"{file} is missing"
    if file.stat().st_size != row["bytes"] or (checksum and _checksum(file) != row["sha256"]):
        return f"{file} is not the file that was written (size or SHA-256): delete it and write the store again"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Read a store, or raise ``StoreError``; a shard is opened when it is first needed, once in every process."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.meta = read_meta(self.path)
        faults = [fault for row in self.meta["shards"] if (fault := shard_fault(self.path, row, checksum=False))]
        if faults:
            raise StoreError("\n".join([*faults, f"`python -m sslib store {self.path.parent}` writes what is missing"]))
        self._file = {clip_id: str(self.path / row["name"]) for row in self.meta["shards"] for clip_id in row["ids"]}
        self.window = (held := self.meta["window"]) and ClipWindow(**held)

    def present(self) -> set[str]:
        return set(self._file)

    def frames(self, clip_id: str) -> list[int]:
        """Read the numbers (1-based) of the clip's frames, in order."""
        return json.loads(self._read(f"clip/{clip_id}", clip_id))["frames"]

    def frame(self, clip_id: str, number: int) -> bytes:
        """Read the JPEG bytes of frame `number`, one of :meth:`frames`."""
        return self._read(f"frame/{clip_id}/{number}", clip_id)

    def audio(self, clip_id: str) -> bytes:
        """Read the FLAC bytes of the clip's sound."""
        return self._read(f"audio/{clip_id}", clip_id)

    def _read(self, key: str, clip_id: str) -> bytes:
        if file := self._file.get(clip_id):
            try:
                with _open(file).begin() as transaction:
                    if (value := transaction.get(key.encode())) is not None:
                        return value
            except lmdb.Error as error:
                raise StoreError(f"{file} cannot be read ({error}): delete it and write the store again") from error
        raise ClipError(clip_id, f"not in the store {self.path} ({key})")


def read_meta(path: Path) -> dict[str, Any]:
    """Read ``meta.json`` of the store at `path`. Raises ``StoreError`` where there is none, or of another version."""
    again = f"write it with `python -m sslib store {path.parent}`"
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        schema = meta["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"no store {path}, or an unfinished or damaged one ({error!r}): {again}") from error
    if schema != SCHEMA:
        raise StoreError(f"{path} has schema {schema}, this is {SCHEMA}: {again}")
    return meta


_opened: dict[str, lmdb.Environment] = {}  # this process's handles: LMDB allows one for a file, and none from a parent
_opening = threading.Lock()  # two threads must not open one file, nor a thread open one while a process is started
os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release)
os.register_at_fork(after_in_child=_opened.clear)


def _open(path: str) -> lmdb.Environment:
    with _opening:
        if path not in _opened:
            _opened[path] = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
        return _opened[path]
