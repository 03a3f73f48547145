"""What became of every source: rows that survive a kill at any moment, and ``manifest.csv`` made from them.

``prepared.jsonl`` has a line for each clip, added when its frames and sound are in place; the last line of a clip
counts, a line that was cut off does not. One process writes it, and holds a lock while it does.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
        self.path = folder / "prepared.jsonl"
        self.file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise Busy(f"{folder} is being prepared by another process: wait for it or end it") from None
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self.file.truncate(whole)  # what was being written when the process died
        self.rows: dict[str, Row] = {}
        for line in content[:whole].splitlines():
            row = json.loads(line)
            self.rows[row["id"]] = row

    def add(self, row: Row) -> None:
        line = json.dumps(row).encode() + b"\n"
        if self.file.write(line) != len(line):
            raise OSError(28, "no space for a line", str(self.path))
        self.rows[row["id"]] = row

    def forget(self, clip_id: str) -> None:
        if self.rows.pop(clip_id, None):
            self.rewrite()

    def rewrite(self) -> None:
        """Keep the last line of each clip only; the lock stays on a file of the same name."""
        lines = [json.dumps(row) for _, row in sorted(self.rows.items())]
        replace(self.path, "".join(f"{line}\n" for line in lines))
        old, self.file = self.file, self.path.open("a+b", buffering=0)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        old.close()

    def close(self) -> None:
        self.file.close()


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
