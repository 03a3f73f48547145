"""A data set in memory: how much there is, and all clips as JPEG and FLAC bytes in one block that processes share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch
from tqdm.auto import tqdm

from sslib.config import SslibError
from sslib.layout import ClipError

SHARED = Path("/dev/shm")  # where shared memory lies on Linux; containers often allow 64 MB of it
READERS = 8  # threads: reading waits for the disk


class NotEnoughMemory(SslibError, MemoryError):
    """What is to be loaded does not fit; the message says how much is needed and what else can be done."""


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that can still be had: of the machine, and of the group the process is confined to, if any.

    A system without ``/proc`` (macOS) is asked for its whole memory only.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = int(lines["MemAvailable"].split()[0]) * 1024
    return min([machine, *_group_limits(proc, cgroups)])


def _group_limits(proc: Path, cgroups: Path) -> list[int]:
    """What each control group above this process leaves it; version 2, or the memory controller of version 1."""
    try:
        entries = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in entries:
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / path.strip("/")
        # In a container the path may be that of the host, and only the root is there to be read.
        for place in {folder, root, *(parent for parent in folder.parents if parent.is_relative_to(root))}:
            try:
                limit, used = ((place / name).read_text().strip() for name in names)
                cache = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if limit != "max":  # files that were read count as used, until something else wants their memory
                found.append(int(limit) - int(used) + int(cache.get("inactive_file", 0)))
    return found


def reserve(need: int, what: str, *, shared: bool = False) -> None:
    """Say how much `what` takes before it is loaded.

    Raises
    ------
    MemoryError
        When there is less; the message says how much, and what else can be done.
    """
    room, kind = available(), "memory"
    if shared and SHARED.is_dir() and shutil.disk_usage(SHARED).free < room:
        room, kind = shutil.disk_usage(SHARED).free, f"shared memory ({SHARED}; in a container: --shm-size)"
    print(f"{what}: {need / 1e9:.2f} GB in memory, {max(room, 0) / 1e9:.2f} GB are available")
    if need > room:
        raise NotEnoughMemory(
            f"{what} needs {need / 1e9:.2f} GB, {max(room, 0) / 1e9:.2f} GB of {kind} are available: use "
            "data.in_memory: encoded (smaller than decoded), a store of what the configuration uses "
            "(`python -m sslib store DATA --only CONFIG`), or data.in_memory: false"
        )


class Encoded:
    """The files of many clips, byte after byte in one block of shared memory: resident, and one for all workers.

    Parameters
    ----------
    ids : the clips.
    sizes : gives the bytes of a clip's frames and, last, of its sound.
    contents : gives these frames and this sound.
    what : what to call it.

    Raises
    ------
    MemoryError
        When it does not fit.
    ClipError
        When a clip cannot be read.
    """

    def __init__(
        self,
        ids: Sequence[str],
        sizes: Callable[[str], list[int]],
        contents: Callable[[str], list[bytes]],
        what: str = "clips",
    ):
        with ThreadPoolExecutor(READERS) as executor:
            lengths = list(executor.map(sizes, ids))
        ends = torch.tensor([size for clip in lengths for size in clip]).cumsum(0)
        reserve(int(ends[-1]) + 8 * (len(ends) + len(ids) + 2), what, shared=True)
        self._row = {clip_id: row for row, clip_id in enumerate(ids)}
        self._first = torch.tensor([0, *map(len, lengths)]).cumsum(0).share_memory_()  # (N + 1,) first value of a clip
        self._start = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).share_memory_()  # (values + 1,)
        self._block = torch.empty(int(ends[-1]), dtype=torch.uint8).share_memory_()
        with ThreadPoolExecutor(READERS) as executor:
            filled = executor.map(lambda clip_id: self._fill(clip_id, contents(clip_id)), ids)
            for _ in tqdm(filled, desc=f"loading {what}", total=len(ids)):
                pass

    def _fill(self, clip_id: str, values: list[bytes]) -> None:
        first, last = self._values(clip_id)
        bounds = self._start[first : last + 1].tolist()
        if [len(value) for value in values] != [end - start for start, end in pairwise(bounds)]:
            raise ClipError(clip_id, "its files changed while they were read")
        self._block.numpy()[bounds[0] : bounds[-1]] = memoryview(b"".join(values))

    def _values(self, clip_id: str) -> tuple[int, int]:
        row = self._row[clip_id]
        return int(self._first[row]), int(self._first[row + 1])

    def _get(self, value: int) -> bytes:
        return self._block.numpy()[int(self._start[value]) : int(self._start[value + 1])].tobytes()

    def frame(self, clip_id: str, number: int) -> bytes:
        """The file of frame `number` (1-based), or of the last one."""
        first, last = self._values(clip_id)
        return self._get(min(first + number, last - 1) - 1)

    def audio(self, clip_id: str) -> bytes:
        """The file of the sound."""
        return self._get(self._values(clip_id)[1] - 1)
