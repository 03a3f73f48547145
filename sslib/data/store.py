"""A data folder as LMDB shards: JPEG and FLAC bytes, JSON meta with schema version and checksums.

::

    ROOT/clips.lmdb/shard-00000.lmdb  500 to 1,000 clips each, by the hash of their ids (see ``sslib.data.shards``)
    ROOT/clips.lmdb/meta.json         written last: schema, data set, selection, missing clips; the shards with sizes
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from sslib.data import parallel, shards
from sslib.data.clock import Selection
from sslib.data.layout import ClipError, Layout
from sslib.data.shards import SCHEMA, Shard, StoreError

NAME = "clips.lmdb"
# At most, on average: 50 to 500 MB. 256 files for 200,000 clips, as many tasks for a cluster, and a lost one costs a
# minute.
CLIPS_PER_SHARD = 1000
SAMPLE = 32  # clips encoded for the estimate


def write(root: Path, *, selection: Selection | None = None, workers: int = 0, scheduler: str | None = None) -> Path:
    """Write ``root/clips.lmdb`` with every clip that one of the folder's lists names.

    Shards that are there and whose media have not changed (names, sizes, times of the files) stay; the others are
    written, in parallel. ``meta.json`` comes last: before it, nothing looks complete. Clips of the lists that are
    missing from the folder are counted, and listed in ``meta.json``.

    Parameters
    ----------
    selection : keep only the frame and the sound that one configuration uses.
    workers, scheduler : see :func:`sslib.data.parallel.each`.

    Raises
    ------
    StoreError
        When the disk is too small; when clips cannot be read: all of them are listed, with the reasons.
    """
    target = Path(root).absolute() / NAME
    plan = _plan(Path(root).absolute(), selection)
    if _digest(target) == plan.meta["digest"]:
        return target
    _clear(target, plan)
    todo = [shard for shard in plan.shards if shards.source(shard.target) != shard.digest]
    _announce(plan, todo)
    workers = workers if len(todo) > 1 else 0  # starting processes takes longer than a small shard
    written = dict(_each(plan.shards, workers, scheduler))
    faults = [fault for shard in plan.shards for fault in written[shard.target.name].faults]
    if faults:
        count = f"{len(faults)} of {len(plan.sizes)} clips of {root} cannot be stored"
        raise StoreError("\n  ".join([f"{count}:", *faults]))
    for left in target.glob("*.partial"):  # of tasks that were begun twice and died
        left.unlink(missing_ok=True)
    rows = [_row(shard, written[shard.target.name]) for shard in plan.shards]
    _write_meta(target, plan.meta | {"shards": rows})
    return target


def ensure(root: Path, selection: Selection, *, workers: int = 0) -> bool:
    """Write the store for a configuration that uses `selection`, unless a valid one is there; return whether it was.

    A store of only what this configuration uses (``store --only``) stays one of that, brought up to date where media or
    lists have changed.

    Raises
    ------
    StoreError
        When the store holds only what another configuration uses: this one would undo it, and nobody asked for that.
        Otherwise as :func:`write`.
    """
    root = Path(root).absolute()
    held = _held(root / NAME)
    if held not in (None, selection.values()):
        raise StoreError(
            f"{root / NAME} holds only what another configuration uses of each clip ({held}): write it whole by "
            f"`python -m sslib store {root}`, or what this configuration uses by adding `--only CONFIG`"
        )
    selection = selection if held else None
    if _digest(root / NAME) == _plan(root, selection).meta["digest"]:
        return False
    write(root, selection=selection, workers=workers)
    return True


def _held(target: Path) -> dict[str, Any] | None:
    """The selection of the store at `target`, of whatever version and state; None where it is whole, or no store."""
    try:
        return json.loads((target / "meta.json").read_text(encoding="utf-8"))["selection"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Plan(NamedTuple):
    shards: list[Shard]
    sizes: dict[str, int]  # bytes of each clip's files
    meta: dict[str, Any]  # all of meta.json but the finished shards


def _plan(root: Path, selection: Selection | None) -> _Plan:
    """Which clips go into which shard, and what each shard is made from."""
    layout = Layout(root)
    if selection is not None and selection.time == "random":
        raise StoreError("data.time 'random' uses all of a clip: write the store without --only")
    names = sorted({clip_id for path in (root / "splits").glob("*.txt") for clip_id in layout.ids(path.stem)})
    if not names:
        raise StoreError(f"{root} has no lists in splits/: nothing to store")
    there = layout.present()
    ids = [clip_id for clip_id in names if clip_id in there]
    files = {clip_id: _files(layout, clip_id) for clip_id in ids}
    if not ids:
        raise StoreError(f"none of the {len(names)} clips that the lists of {root} name is there: nothing to store")
    held = selection and selection.values()
    plan = []
    for number, part in _divide(ids).items():
        digest = _hash([SCHEMA, held, [[clip_id, files[clip_id]] for clip_id in part]])
        plan.append(Shard(root, root / NAME / f"shard-{number:05d}.lmdb", digest, part, selection))
    meta = {"schema": SCHEMA, "clips": len(ids), "missing": sorted(set(names) - set(ids)), "selection": held}
    meta |= {"info": layout.info()}
    meta["digest"] = _hash([meta, [shard.digest for shard in plan]])
    return _Plan(plan, {i: sum(size for _, size, _ in files[i]) for i in ids}, meta)


def _divide(ids: list[str]) -> dict[int, tuple[str, ...]]:
    """Assign sorted ids to shards by the first bits of their hash: a new clip changes one shard, and no other.

    There are 2, 4, 8 … shards, so that only when the number of clips has doubled all of them are written again.
    """
    bits = (-(-len(ids) // CLIPS_PER_SHARD) - 1).bit_length()  # of the least power of two that is enough
    shards: dict[int, list[str]] = defaultdict(list)
    for clip_id in ids:
        first = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4])
        shards[first >> (32 - bits)].append(clip_id)
    return {number: tuple(shards[number]) for number in sorted(shards)}


def _files(layout: Layout, clip_id: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of a clip."""
    try:
        states = [(path.name, path.stat()) for path in (*layout.frames(clip_id).values(), layout.audio(clip_id))]
    except ClipError:  # without frames; it is listed when it is to be stored
        return []
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(target: Path) -> str | None:
    """What the complete store at `target` was written from; None where there is none."""
    try:
        return Store(target).meta["digest"]
    except StoreError:
        return None


def _clear(target: Path, plan: _Plan) -> None:
    """Take away what no longer holds, the meta first: from here on nothing looks complete."""
    if target.is_file():  # of an older version
        target.unlink()
    target.mkdir(parents=True, exist_ok=True)
    (target / "meta.json").unlink(missing_ok=True)
    kept = {shard.target.name for shard in plan.shards}
    for path in [*target.glob("*.partial"), *target.glob("shard-*.lmdb")]:
        if path.name not in kept:
            path.unlink()


def _announce(plan: _Plan, todo: list[Shard]) -> None:
    """Say how much will be written, before it is.

    Raises
    ------
    StoreError
        When the disk has no room for it.
    """
    first = plan.shards[0]
    ids = [clip_id for shard in todo for clip_id in shard.ids]
    need = estimate(first.root, {i: plan.sizes[i] for i in ids}, first.selection)
    free = shutil.disk_usage(first.target.parent).free
    missing = len(plan.meta["missing"])
    there = f" ({missing:,} more are missing, see meta.json)" if missing else ""
    count = f"{len(plan.shards)} shard{'s' * (len(plan.shards) != 1)}"
    print(
        f"{first.root.name}/{NAME}: {len(plan.sizes):,} clips{there} in {count}, {len(todo)} of them to write: "
        f"about {_size(need)}; {_size(free)} are free"
    )
    if need > free:
        raise StoreError(f"{first.root} has room for {_size(free)}, the store needs about {_size(need)}")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def estimate(root: Path, sizes: dict[str, int], selection: Selection | None = None) -> int:
    """Bytes in LMDB of clips whose files have `sizes`: some are encoded, the others are taken to be like them."""
    ids, before, after = list(sizes), 0, 0
    for clip_id in ids[:: max(1, -(-len(ids) // SAMPLE))]:
        try:
            after += shards.size_on_disk(shards.encode(Layout(root), clip_id, selection))
            before += sizes[clip_id]
        except ClipError:  # it will be listed, with all others
            continue
    return round(sum(sizes.values()) * (after / before if before else 1))


def _each(tasks: list[Shard], workers: int, scheduler: str | None):
    for shard, written in parallel.each(shards.write, tasks, workers=workers, scheduler=scheduler, desc="storing"):
        yield shard.target.name, written


def _row(shard: Shard, written: shards.Written) -> dict[str, Any]:
    row = {"name": shard.target.name, "bytes": written.bytes, "sha256": written.sha256}
    return row | {"clips": len(shard.ids), "ids": shard.ids}


def _write_meta(target: Path, meta: dict[str, Any]) -> None:
    temporary = target / "meta.json.partial"
    temporary.write_text(json.dumps(meta) + "\n", encoding="utf-8")
    shards.sync(temporary)
    temporary.replace(target / "meta.json")
    shards.sync(target)


class Store:
    """Reader of a store. A shard is opened lazily, once in every process that reads.

    Raises
    ------
    StoreError
        When `path` is missing, is no store, was written by another version, or lacks a shard or part of one.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.meta = read_meta(self.path)
        faults = [fault for row in self.meta["shards"] if (fault := damage(self.path, row))]
        if faults:
            again = f"python -m sslib store {self.path.parent}"
            raise StoreError("\n".join([*faults, f"`{again}` writes what is missing"]))
        self._file = {i: self.path / row["name"] for row in self.meta["shards"] for i in row["ids"]}
        held = self.meta["selection"]
        self.selection = Selection.of(held) if held else None

    @property
    def ids(self) -> set[str]:
        """Every clip of the store."""
        return set(self._file)

    def frames(self, clip_id: str) -> list[int]:
        """The numbers (1-based) of the clip's frames, in order."""
        return self._about(clip_id)["frames"]

    def sizes(self, clip_id: str) -> list[int]:
        """Bytes of each frame of a clip, and of its sound."""
        return [size for size, _ in self._about(clip_id)["values"].values()]

    def frame(self, clip_id: str, number: int) -> bytes:
        """JPEG bytes of frame `number`, one of :meth:`frames`."""
        return self._get(f"frame/{clip_id}/{number}", clip_id)

    def audio(self, clip_id: str) -> bytes:
        """FLAC bytes of the clip's sound."""
        return self._get(f"audio/{clip_id}", clip_id)

    def _about(self, clip_id: str) -> dict[str, Any]:
        return json.loads(self._get(f"clip/{clip_id}", clip_id))

    def _get(self, key: str, clip_id: str) -> bytes:
        file = self._file.get(clip_id)
        value = shards.get(file, key) if file else None
        if value is None:
            raise ClipError(clip_id, f"not in the store {self.path} ({key})")
        return value


def read_meta(path: Path) -> dict[str, Any]:
    again = f"`python -m sslib store {path.parent}`"
    if path.is_file():
        raise StoreError(f"{path} is one file, a store of schema 1, and this is {SCHEMA}: write it again, {again}")
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        schema = meta["schema"]
    except FileNotFoundError:
        raise StoreError(f"no store {path}, or an unfinished one: write it with {again}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/meta.json is not that of a store ({error!r}): write it again, {again}") from error
    if schema != SCHEMA:
        raise StoreError(f"{path} has schema {schema}, this is {SCHEMA}: write it again, {again}")
    return meta


def damage(path: Path, row: dict[str, Any]) -> str | None:
    """What can be said of a shard without reading it."""
    file = path / row["name"]
    if not file.is_file():
        return f"{file} is missing"
    size = file.stat().st_size
    return None if size == row["bytes"] else f"{file} has {size} bytes, not {row['bytes']}: delete it"
