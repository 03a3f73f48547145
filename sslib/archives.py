"""Data sets as they are distributed (nested folders, tar parts, zips) unpacked into one plain folder for `prepare`.

Archives come from strangers: only regular files with names of media or annotations are taken, under their bare names,
never more than fits; everything else is refused with its reason. Nothing is half-written: a file gets its name when it
is whole, and running again does only what is missing.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sslib.config import InputError
from sslib.layout import AUDIO_SUFFIXES
from sslib.members import DAMAGE, Member, copy, damage, is_zip, tar_members, zip_members

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
VIDEO = (".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".3gp", ".mpg", ".mpeg", ".flv", ".wmv")
MEDIA = (*VIDEO, *AUDIO_SUFFIXES, ".m4a", ".aac", ".opus", ".jpg", ".jpeg", ".png")
TAKEN = (*MEDIA, ".xml", ".json", ".csv", ".txt")
RESERVE = 1 << 30  # bytes of the disk that unpacking leaves free
LONGEST_NAME = 200  # bytes: disks take 255


class ArchiveError(InputError):
    """What stops unpacking as a whole; the message says why and what to do."""


class Unpacked(NamedTuple):
    """What became of a data set's files. Places are ``archive: member`` or a path."""

    folder: Path
    written: int
    already: int  # files of the right size that were there before
    refused: dict[str, str]  # place: why it was not taken
    renamed: dict[str, str]  # place: the name given to it, since another file has its own
    damaged: dict[str, str]  # archive: why it was read only up to a point, or not at all

    def __str__(self) -> str:
        counts = f"{self.folder}: {self.written} files written, {self.already} already there"
        lists = {"refused": self.refused, "renamed": self.renamed, "damaged archives": self.damaged}
        lines = [f"\n  {place}: {what}" for said in lists.values() for place, what in said.items()]
        return counts + "".join(f", {len(said)} {name}" for name, said in lists.items()) + "".join(lines)


def unpack(source: str | Path, target: str | Path, limit: int | None = None) -> Unpacked:
    """Bring the media and annotation files of an archive, or of a folder of archives and folders, into `target`.

    Names lose their folders. Where two files have one name, the later one (archives and folders go in alphabetical
    order) gets its folders' names in front: ``train__x.mp4``. Plain files are linked where the disk allows it.

    Parameters
    ----------
    limit : bytes that may be written; by default what the disk has, less 1 GiB.

    Raises
    ------
    ArchiveError
        When there is nothing at `source`, when `target` lies in it, or when the disk refuses to be written to.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise ArchiveError(f"nothing at {source}")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise ArchiveError(f"{target} lies in {source}: unpack into a folder outside of it")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for partial in target.glob(".*.partial"):
            partial.unlink()
        room = shutil.disk_usage(target).free - RESERVE if limit is None else limit
        intake = _Intake(target, room)
        if source.is_dir():
            intake.folder(source)
        else:
            intake.archive(source, source.name)
    except OSError as error:
        raise ArchiveError(f"unpacking {source} into {target} stopped: {error}; run it again to go on") from error
    return Unpacked(target, intake.written, intake.already, intake.refused, intake.renamed, intake.damaged)


class _Intake:
    """One run of `unpack`: what was taken so far, under which names."""

    def __init__(self, target: Path, room: int):
        self.target, self.room = target, room
        self.taken: set[str] = set()
        self.written = self.already = 0
        self.refused: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self.damaged: dict[str, str] = {}

    def folder(self, root: Path) -> None:
        for path in sorted(_walk(root)):
            place = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.is_file():
                self.refused[place] = "a link or no regular file"
            elif path.name.lower().endswith(ARCHIVES) and not path.name.startswith("."):
                self.archive(path, place)
            else:
                self._plain_file(path, place)

    def _plain_file(self, path: Path, place: str) -> None:
        member = Member(place, path.stat().st_size, None, functools.partial(path.open, "rb"))
        try:
            self._take(place, member, functools.partial(_link, path))
        except _Full as error:
            self.refused[place] = str(error)

    def archive(self, path: Path, place: str) -> None:
        zipped = is_zip(path)
        try:
            for member in zip_members(path) if zipped else tar_members(path):
                self._member(place, member, zipped)
        except (*DAMAGE, OSError) as error:
            self.damaged[place] = f"not read to its end: {damage(error)}"

    def _member(self, place: str, member: Member, zipped: bool) -> None:
        where = f"{place}: {member.name}"
        try:
            self._take(where, member, functools.partial(copy, member), place.partition(".")[0])
        except (*DAMAGE, OSError) as error:
            if not zipped or isinstance(error, _Full):  # a tar is one stream; a zip's other members are still sound
                raise
            self.refused[where] = f"damaged: {damage(error)}"

    def _take(self, place: str, member: Member, write: Callable[[Path], None], above: str = "") -> None:
        """Write one file, unless it is there or must not be. `above` stands for the archive where names clash."""
        fault = member.fault or _fault(member.name)
        final = None if fault else self._name((*_parts(above), *_parts(member.name)), member.size)
        if final and _size(self.target / final) == member.size:
            self.already += 1
        elif member.size > self.room:  # also of a refused one: to pass over it, a tar must be decompressed
            raise _Full(f"{member.name} takes {member.size} bytes where {self.room} may be written")
        elif final:
            self._write(final, write)
            self.room -= member.size
        else:
            self.refused[place] = fault or "named twice: its name, also with its folders in front, is taken"
            return
        self.taken.add(final)
        if final != _parts(member.name)[-1]:
            self.renamed[place] = final

    def _write(self, final: str, write: Callable[[Path], None]) -> None:
        partial = self.target / f".{self.written}.partial"
        try:
            write(partial)
            partial.replace(self.target / final)
        finally:
            partial.unlink(missing_ok=True)
        self.written += 1

    def _name(self, parts: tuple[str, ...], size: int) -> str | None:
        """The bare name, or the first one with folders in front that no other file has."""
        for start in range(len(parts) - 1, -1, -1):
            candidate = "__".join(parts[start:])
            if _plain(candidate) and candidate not in self.taken and _size(self.target / candidate) in {None, size}:
                return candidate
        return None


class _Full(tarfile.TarError):
    """A file larger than what may still be written: a full disk or a bomb. It ends the reading of its archive."""


def _link(path: Path, partial: Path) -> None:
    try:
        partial.hardlink_to(path)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, partial)


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _plain(name: str) -> bool:
    return name.isprintable() and ":" not in name and len(name.encode()) <= LONGEST_NAME


def _fault(name: str) -> str | None:
    """Why a file of this name is not taken; None when it is."""
    parts = _parts(name)
    if not parts or parts[0].startswith("/") or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if ".." in parts:
        return "a path that leaves its folder"
    if parts[-1].startswith(".") or "__MACOSX" in parts:
        return "a hidden file"
    if parts[-1].lower().endswith(ARCHIVES):
        return "an archive in an archive: unpack it by itself"
    if not parts[-1].lower().endswith(TAKEN):
        return "neither media nor annotations"
    return None if _plain(parts[-1]) else "not a clip's name: too long, with ':' or with control characters"


def _size(path: Path) -> int | None:
    """Bytes of a regular file; None where there is none, -1 for anything else of that name."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in files + links)


class Pairs(NamedTuple):
    """What `lay_out_pairs` found: clips, pictures without a sound, sounds without a picture."""

    ids: list[str]
    silent: list[str]
    unseen: list[str]


def lay_out_pairs(folder: str | Path, root: str | Path) -> Pairs:
    """Put clips that come as one picture and one sound (``ID.jpg``, ``ID.wav``: Flickr-SoundNet) into the layout.

    Files are linked where the disk allows it; those there already stay.

    Raises
    ------
    ArchiveError
        When `folder` holds no such pair.
    """
    files = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
    pictures = {path.stem: path for path in files if path.suffix.lower() in {".jpg", ".jpeg"}}
    sounds = {path.stem: path for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    ids = sorted(pictures.keys() & sounds.keys())
    if not ids:
        raise ArchiveError(f"{folder} holds no pair of a picture ID.jpg and a sound ID.wav")
    for clip_id in ids:
        sound = sounds[clip_id]
        goals = {Path("video_frames", clip_id, "001.jpg"): pictures[clip_id]}
        goals[Path("audios", clip_id + sound.suffix.lower())] = sound
        for goal, path in goals.items():
            final = Path(root) / goal
            final.parent.mkdir(parents=True, exist_ok=True)
            if not final.exists():
                partial = final.with_name(f".{final.name}.partial")
                partial.unlink(missing_ok=True)
                _link(path, partial)
                partial.replace(final)
    return Pairs(ids, sorted(pictures.keys() - sounds.keys()), sorted(sounds.keys() - pictures.keys()))
