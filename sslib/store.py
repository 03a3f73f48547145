"""The data folder as one LMDB file: JPEG and FLAC bytes, JSON meta with a schema version, complete or not there.

Keys: ``meta`` (JSON), ``clip/ID`` (JSON: number of frames, sha256 of each value), ``frame/ID/k``, ``audio/ID``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import lmdb
from tqdm.auto import tqdm

from sslib import media
from sslib.layout import ClipError, Layout

SCHEMA = 1
NAME = "clips.lmdb"


class StoreError(ValueError):
    """A store that cannot be read or written; the message says which and why."""


def write(root: Path) -> Path:
    """Write ``root/clips.lmdb`` with every clip that one of the folder's lists names.

    Pictures keep their original JPEG bytes; FLAC stays, other sound becomes 16-bit FLAC. Everything is decoded once
    on the way. The file gets its name only when it is complete.

    Raises
    ------
    StoreError
        When clips cannot be read: all of them are listed, and nothing is written.
    """
    layout, target = Layout(root), root / NAME
    splits = {path.stem: layout.ids(path.stem) for path in sorted((root / "splits").glob("*.txt"))}
    ids = sorted({clip_id for names in splits.values() for clip_id in names})
    if not ids:
        raise StoreError(f"{root} has no lists in splits/: nothing to store")
    digest = hashlib.sha256(json.dumps([SCHEMA, splits, layout.info()], sort_keys=True).encode()).hexdigest()
    if _source(target) == digest:
        return target
    partial, faults = target.with_name(NAME + ".partial"), []
    partial.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    # The map is only reserved, not used: twice the files' size leaves room for pages and for sounds that grow.
    with lmdb.open(str(partial), subdir=False, map_size=2 * size + (64 << 20), lock=False) as database:
        for clip_id in tqdm(ids, desc="storing"):
            try:
                values = _encode(layout, clip_id)
            except (ClipError, media.MediaError) as error:
                faults.append(str(error) if isinstance(error, ClipError) else str(ClipError(clip_id, str(error))))
                continue
            with database.begin(write=True) as transaction:
                for key, value in values.items():
                    transaction.put(key.encode(), value)
        meta = {"schema": SCHEMA, "source": digest, "clips": len(ids), "info": layout.info()}
        with database.begin(write=True) as transaction:
            transaction.put(b"meta", json.dumps(meta).encode())
    if faults:
        partial.unlink()
        shown = "\n  ".join(faults[:20]) + (f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise StoreError(f"{len(faults)} of {len(ids)} clips of {root} cannot be stored:\n  {shown}")
    return partial.replace(target)


def _source(path: Path) -> str | None:
    """What the store at `path` was written from; None where there is none that can be read."""
    try:
        return Store(path).meta.get("source")
    except StoreError:
        return None


def _encode(layout: Layout, clip_id: str) -> dict[str, bytes]:
    """Every key and value of one clip, decoded once to be sure that they can be."""
    values = {}
    frames = layout.frames(clip_id)
    for number, path in enumerate(frames, 1):
        values[f"frame/{clip_id}/{number}"] = path.read_bytes()
        media.read_image(values[f"frame/{clip_id}/{number}"])
    values[f"audio/{clip_id}"] = media.read_flac(layout.audio(clip_id))
    sums = {key: hashlib.sha256(value).hexdigest() for key, value in values.items()}
    values[f"clip/{clip_id}"] = json.dumps({"frames": len(frames), "sha256": sums}).encode()
    return values


class Store:
    """Reader of a store. The LMDB file is opened lazily, once in every process that reads.

    Raises
    ------
    StoreError
        When `path` is missing, is no store, or was written by another version.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise StoreError(f"no store {path}: write it with `python -m sslib store {Path(path).parent}`")
        try:
            self.meta = self._json("meta")
            schema = self.meta.get("schema")
        except (KeyError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise StoreError(f"{path} is no store of clips ({error!r}): write it again") from error
        if schema != SCHEMA:
            raise StoreError(f"{path} has schema {schema}, this is {SCHEMA}: write it again")

    def frame_count(self, clip_id: str) -> int:
        try:
            return self._json(f"clip/{clip_id}")["frames"]
        except KeyError:
            raise ClipError(clip_id, f"not in the store {self.path}") from None

    def frame(self, clip_id: str, number: int) -> bytes:
        """JPEG bytes of frame `number` (1-based)."""
        return self._get(f"frame/{clip_id}/{number}")

    def audio(self, clip_id: str) -> bytes:
        """FLAC bytes of the clip's sound."""
        return self._get(f"audio/{clip_id}")

    def _json(self, key: str) -> dict[str, Any]:
        return json.loads(self._get(key))

    def _get(self, key: str) -> bytes:
        with _open(str(self.path), self.path.stat().st_mtime_ns).begin() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            raise KeyError(key)
        return value


@functools.lru_cache(maxsize=8)
def _open(path: str, changed: int) -> lmdb.Environment:
    """The process's handle of a file; LMDB allows only one. `changed` is the file's time: a new file, a new handle."""
    try:
        database = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise StoreError(f"{path} is not a readable store: {error}") from error
    size = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if Path(path).stat().st_size < size:  # reading past the end of the file would kill the process
        raise StoreError(f"{path} is cut short, it must have {size} bytes: copy or write it again")
    return database


# No handle may cross a fork, and LMDB refuses to open a second one where the first was inherited.
os.register_at_fork(before=_open.cache_clear)
