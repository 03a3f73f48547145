"""What became of every source: rows that survive a kill at any moment, and ``manifest.csv`` made from them.

``prepared.jsonl`` has a line for each clip, added when its frames and sound are in place; the last line of a clip
counts (one without an outcome: there is no such clip any more), a line that was cut off does not. It only grows. One
process writes it, and holds a lock on a file beside it while it does.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sslib.config import SslibError

COLUMNS = (
    *("id", "source", "outcome", "reason", "seconds", "width", "height", "frame_rate", "audio_rate", "frames"),
    *("rms_dbfs", "peak_dbfs", "bytes", "sha256", "settings", "notes"),
)
Row = dict[str, Any]


class Busy(SslibError):
    """Another process is preparing the same folder."""


class Journal:
    """The rows by clip id, on disk as soon as they are added."""

    def __init__(self, folder: Path):
        self.path, self.lock = folder / "prepared.jsonl", FileLock(folder / ".lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise Busy(f"{folder} is being prepared by another process: wait for it or end it") from None
        self.file = self.path.open("a+b", buffering=0)
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self.file.truncate(whole)  # what was being written when the process died
        self.rows: dict[str, Row] = {}
        for line in content[:whole].splitlines():
            row = json.loads(line)
            self._take(row)

    def add(self, row: Row) -> None:
        line = json.dumps(row).encode() + b"\n"
        if self.file.write(line) != len(line):
            raise OSError(28, "no space for a line", str(self.path))
        self._take(row)

    def forget(self, clip_id: str) -> None:
        if clip_id in self.rows:
            self.add({"id": clip_id})

    def _take(self, row: Row) -> None:
        if "outcome" in row:
            self.rows[row["id"]] = row
        else:
            self.rows.pop(row["id"], None)

    def close(self) -> None:
        self.file.close()
        self.lock.release()


def write(path: Path, rows: Iterable[Row]) -> None:
    """The table, one row a source, in the order of the sources' names."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: (row["source"], row["id"])))
    replace(path, text.getvalue())


def replace(path: Path, text: str) -> None:
    """Write a file in one step: it is the old or the new one at any moment."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)
