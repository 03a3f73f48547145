"""Whether a store still is what was written: every value read again, its checksum compared, decoded."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb

from sslib.data import media, parallel, shards
from sslib.data.shards import StoreError
from sslib.data.store import damage, read_meta


def verify(path: Path, *, workers: int = 0, scheduler: str | None = None) -> list[str]:
    """Read all of the store at `path` again.

    Parameters
    ----------
    workers, scheduler : see :func:`sslib.data.parallel.each`.

    Returns
    -------
    What is wrong, a line each with shard, clip and key; empty for a good store.

    Raises
    ------
    StoreError
        When there is no store, or one of another version.
    """
    path = Path(path).absolute()
    rows = read_meta(path)["shards"]
    names: dict[str, list[str]] = {}
    task = functools.partial(_shard, path)
    for row, found in parallel.each(task, rows, workers=workers, scheduler=scheduler, desc="verifying"):
        names[row["name"]] = found
    return [fault for row in rows for fault in names[row["name"]]]


def _shard(path: Path, row: dict[str, Any]) -> list[str]:
    file = path / row["name"]
    if fault := damage(path, row):
        return [fault]
    if shards.checksum(file) == row["sha256"]:
        return check(file, row["ids"])
    # A damaged tree of pages can kill the process that walks it: let that be another one.
    code = "import sys, json, pathlib; from sslib.data import verification; "
    code += "print(json.dumps(verification.check(pathlib.Path(sys.argv[1]), json.load(sys.stdin))))"
    command = [sys.executable, "-c", code, str(file)]
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=json.dumps(row["ids"]), capture_output=True, text=True, env=surroundings)
    found = json.loads(done.stdout) if done.returncode == 0 else [f"{file.name}: its pages cannot be read"]
    return [f"{file} is not the file that was written (sha256): delete it and write the store again", *found]


def check(file: Path, ids: list[str]) -> list[str]:
    """Faults of the values of one shard, which is to hold the clips `ids`."""
    try:
        present = shards.keys(file)
    except (StoreError, lmdb.Error, ValueError) as error:
        return [f"{file.name}: {error}"]
    found, expected = [], {"meta"}
    for clip_id in ids:
        keys, faults = _clip(file, clip_id)
        expected |= keys
        found += [f"{file.name}: clip {clip_id!r}: {fault}" for fault in faults]
    return found + [f"{file.name}: {key}: belongs to no clip" for key in sorted(set(present) - expected)]


def _clip(file: Path, clip_id: str) -> tuple[set[str], list[str]]:
    """The keys of one clip, and what is wrong with their values."""
    key = f"clip/{clip_id}"
    try:
        values = json.loads(shards.get(file, key) or "no such key")["values"]
        sums = {name: sha256 for name, (_, sha256) in values.items()}
    except (lmdb.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        return {key}, [f"{key}: not readable ({error!r})"]
    faults = {name: _value(file, name, sha256) for name, sha256 in sums.items()}
    return {key, *sums}, [f"{name}: {fault}" for name, fault in faults.items() if fault]


def _value(file: Path, key: str, sha256: str) -> str | None:
    """What is wrong with one value."""
    try:
        value = shards.get(file, key)
        if value is None:
            return "missing"
        if hashlib.sha256(value).hexdigest() != sha256:
            return "not what was written (sha256)"
        if key.startswith("audio/"):
            media.read_audio(value, 24000)  # any rate will do
        else:
            media.read_image(value, shards.SMALL)
    except (lmdb.Error, media.MediaError) as error:
        return str(error)
    return None
