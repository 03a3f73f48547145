"""Which files of a folder of raw videos become which clips, and which cannot, with the reason."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from sslib.data.layout import ClipError, check_id


class Source(NamedTuple):
    """A file that may become a clip."""

    clip_id: str
    path: str  # below the raw folder
    size: int  # bytes
    changed: int  # ns, the file's time

    def __str__(self) -> str:
        return self.path


def find(raw: Path, data: Path) -> tuple[list[Source], dict[str, tuple[str, str]], set[str]]:
    """Every file below `raw`: the sources in order, ``{path: (clip id, reason)}`` of the others, ids claimed twice.

    A file's clip id is its name without the last suffix. Hidden files and folders (``.name``) and the folder `data`
    are left out. Links are followed to files inside `raw` only; of files that claim the same id none is taken.
    """
    sources, refused = [], {}
    for path in _walk(raw, data.resolve(), refused):
        name = path.relative_to(raw).as_posix()
        try:
            sources.append(_source(path, name, raw.resolve()))
        except (ClipError, OSError) as error:
            reason = error.problem if isinstance(error, ClipError) else f"cannot be read: {error.strerror}"
            refused[_printable(name)] = (_printable(path.stem), reason)
    claims = defaultdict(list)
    for source in sources:
        claims[source.clip_id].append(source.path)
    for clip_id, paths in claims.items():
        for path in paths if len(paths) > 1 else []:
            others = ", ".join(other for other in paths if other != path)
            refused[path] = (clip_id, f"the same clip id as another file: rename one of them ({others})")
    clashes = {clip_id for clip_id, paths in claims.items() if len(paths) > 1}
    return [source for source in sources if source.path not in refused], refused, clashes


def _walk(raw: Path, data: Path, refused: dict) -> list[Path]:
    """Files and links to folders below `raw`, sorted."""
    paths = []

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(raw).as_posix()
        refused[_printable(name)] = ("", f"a folder that cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(raw, onerror=unreadable):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [n for n in folders if n[0] != "." and n not in links and (here / n).resolve() != data]
        paths += [here / name for name in files + links if not name.startswith(".")]
    return sorted(paths)


def _source(path: Path, name: str, raw: Path) -> Source:
    clip_id = check_id(path.stem)
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise ClipError(clip_id, "a link to nothing") from None
        if not target.is_relative_to(raw):
            raise ClipError(clip_id, "a link that leads out of the raw folder: put the file itself there")
        if target.is_dir():
            raise ClipError(clip_id, "a link to a folder: those are not followed")
    if _printable(clip_id) != clip_id or clip_id.splitlines() != [clip_id.strip()]:
        raise ClipError(clip_id, "its name cannot be a line of a list (line breaks, spaces at the ends, or not UTF-8)")
    if len(f"{clip_id}.flac".encode()) > 255:
        raise ClipError(clip_id, "its name is too long for a sound file of that name")
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ClipError(clip_id, "not a regular file")
    return Source(clip_id, name, info.st_size, info.st_mtime_ns)


def _printable(name: str) -> str:
    """`name`, with bytes that are no UTF-8 spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()
