"""One shard of a store: an LMDB file with the JPEG and FLAC bytes of some clips, complete or not there.

Keys: ``meta`` (JSON), ``clip/ID`` (JSON: numbers of its frames, size and sha256 of each value), ``frame/ID/k`` and
``audio/ID``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from sslib.config import InputError
from sslib.data import media
from sslib.data.clock import Selection
from sslib.data.layout import ClipError, Layout

SCHEMA = 3
PAGE = 4096  # bytes; LMDB gives a value of more than half a page pages of its own
BATCH = 32  # clips a transaction: few enough to stay in memory whatever their size
SMALL = 8  # pixels, to see that a picture decodes: JPEG at an eighth of its size, which still reads every byte of it
MOST_OPEN = 512  # shards a process holds open: 512,000 clips, and well below the usual 1,024 files a process


class StoreError(InputError):
    """A store that cannot be read or written; the message says which and why."""


class Shard(NamedTuple):
    """The task of writing one shard: all that a process on any machine needs that sees the folder."""

    root: Path  # the data folder
    target: Path
    digest: str  # of the media it is made from and of how
    ids: tuple[str, ...]
    selection: Selection | None  # None: every frame and the whole sound


class Written(NamedTuple):
    """How a shard went: its size and checksum, or what is wrong with its clips."""

    bytes: int
    sha256: str
    faults: list[str]


def write(shard: Shard) -> Written:
    """Write a shard unless it is there. Doing it twice, also at the same time, leaves the same one file.

    Raises
    ------
    StoreError
        When the file itself cannot be written. Faulty clips do not raise: they are listed, and no shard is left.
    """
    if source(shard.target) != shard.digest:
        partial = shard.target.with_name(f"{shard.target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            faults = _fill(partial, shard)
            if faults:
                return Written(0, "", faults)
            sync(partial)
            partial.replace(shard.target)
            sync(shard.target.parent)
        except lmdb.Error as error:
            raise StoreError(f"{shard.target} cannot be written: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
    return Written(shard.target.stat().st_size, checksum(shard.target), [])


def _fill(path: Path, shard: Shard) -> list[str]:
    """Every clip of `shard` into a new file, and what is wrong with those that cannot be read."""
    layout, faults = Layout(shard.root), []
    meta = {"schema": SCHEMA, "source": shard.digest, "clips": len(shard.ids)}
    # Nothing is on disk for sure before the end: a partial file is never read, so only the last step has to wait.
    with lmdb.open(str(path), subdir=False, map_size=64 << 20, lock=False, sync=False) as database:
        for start in range(0, len(shard.ids), BATCH):
            values = {}
            for clip_id in shard.ids[start : start + BATCH]:
                try:
                    values |= encode(layout, clip_id, shard.selection)
                except ClipError as error:
                    faults.append(str(error))
            if not faults:
                _put(database, values)
        _put(database, {"meta": json.dumps(meta).encode()})
    return faults


def _put(database: lmdb.Environment, values: dict[str, bytes]) -> None:
    """One transaction; the map, which is only reserved address space, grows as far as it must."""
    while True:
        try:
            with database.begin(write=True) as transaction:
                for key, value in values.items():
                    transaction.put(key.encode(), value)
            return
        except lmdb.MapFullError:
            database.set_mapsize(2 * database.info()["map_size"])


def encode(layout: Layout, clip_id: str, selection: Selection | None = None) -> dict[str, bytes]:
    """Every key and value of one clip, decoded once to be sure that they can be.

    Pictures keep their bytes, and so does FLAC; other sound becomes 16-bit FLAC, lossless. A selection keeps one
    frame, and its window of the sound as the loader would cut it.

    Raises
    ------
    ClipError
        When a file of the clip is missing or cannot be read.
    """
    try:
        frames = layout.frames(clip_id)
        if selection is None:
            sound = media.read_flac(layout.audio(clip_id))
        else:
            waveform = media.read_audio(layout.audio(clip_id), selection.sample_rate)
            time = selection.moment(len(waveform))
            number = selection.frame_number(time, frames)
            frames = {number: frames[number]}
            sound = _flac(selection.cut(waveform, time), selection.sample_rate)
        values = {f"frame/{clip_id}/{number}": path.read_bytes() for number, path in frames.items()}
        for value, path in zip(values.values(), frames.values(), strict=True):
            _decode(value, path)
    except (media.MediaError, OSError) as error:
        raise ClipError(clip_id, str(error)) from error
    values[f"audio/{clip_id}"] = sound
    about = {key: [len(value), hashlib.sha256(value).hexdigest()] for key, value in values.items()}
    return values | {f"clip/{clip_id}": json.dumps({"frames": list(frames), "values": about}).encode()}


def _decode(value: bytes, path: Path) -> None:
    try:
        media.read_image(value, SMALL)
    except media.MediaError as error:
        raise media.MediaError(f"{error}, file {path}") from error


def _flac(waveform, sample_rate: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def size_on_disk(values: dict[str, bytes]) -> int:
    """Bytes that the values take in LMDB, nearly: whole pages for large ones, two thirds full pages for small ones."""
    sizes = [len(key) + len(value) + 8 for key, value in values.items()]
    large = sum(-(-(size + 16) // PAGE) * PAGE for size in sizes if size > PAGE // 2)
    return large + sum(size * 3 // 2 for size in sizes if size <= PAGE // 2)


def source(path: Path) -> str | None:
    """What the shard at `path` was made from; None where there is none that can be read."""
    try:
        meta = json.loads(get(path, "meta") or b"{}")
        return meta["source"] if meta.get("schema") == SCHEMA else None
    except (StoreError, lmdb.Error, ValueError, KeyError, AttributeError):
        return None


def get(path: Path, key: str) -> bytes | None:
    """One value of the shard at `path`; None where it has no such key.

    Raises
    ------
    StoreError
        When the file is missing, cut short or no LMDB file.
    """
    with _environment(str(path)).begin() as transaction:
        return transaction.get(key.encode())


def keys(path: Path) -> list[str]:
    """Every key of the shard at `path`. Raises ``StoreError`` as :func:`get`."""
    with _environment(str(path)).begin() as transaction:
        return [key.decode() for key in transaction.cursor().iternext(values=False)]


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_opened: dict[str, tuple[int, lmdb.Environment]] = {}  # path: time of the file, handle; the last used comes last
_lock = threading.RLock()


def _environment(path: str) -> lmdb.Environment:
    """The process's handle of a file, opened when it is first needed: LMDB allows only one."""
    try:
        changed = os.stat(path).st_mtime_ns  # noqa: PTH116  twice as fast, and done at every read
    except OSError as error:
        raise StoreError(f"no shard {path}: write the store again, only what is missing is written") from error
    with _lock:
        known = _opened.pop(path, None)
        if known is None or known[0] != changed:
            known = None  # closed before the file is opened anew
            known = changed, _open(path)
        _opened[path] = known
        while len(_opened) > MOST_OPEN:
            del _opened[next(iter(_opened))]
        return known[1]


def _open(path: str) -> lmdb.Environment:
    try:
        database = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise StoreError(f"{path} is not a readable shard: {error}") from error
    size: dict[str, Any] = database.info() | database.stat()
    expected = (size["last_pgno"] + 1) * size["psize"]
    if Path(path).stat().st_size < expected:  # reading past the end of the file would kill the process
        raise StoreError(f"{path} is cut short, it must have {expected} bytes: delete it, write the store again")
    return database


def _close_all() -> None:
    _lock.acquire()  # no other thread may be opening one, or the child would inherit it, and a lock held for ever
    _opened.clear()


# No handle may cross a fork, and LMDB refuses to open a second one where the first was inherited.
os.register_at_fork(before=_close_all, after_in_parent=_lock.release, after_in_child=_lock.release)
