"""Published data sets as they are distributed: unpacks their archives, reads their lists and annotations.

Archives come from strangers: only regular files of media or annotations are taken, never more than fits. What is odd in
annotations is kept as the protocol keeps it; what cannot be used raises ``InputError`` with file and place.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from defusedxml import ElementTree
from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from sslib.config import InputError
from sslib.data.layout import AUDIO_SUFFIXES, ClipError, check_id, write_atomic

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
VIDEO = (".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".3gp", ".mpg", ".mpeg", ".flv", ".wmv")
CLIP_FILES = (*VIDEO, *AUDIO_SUFFIXES, ".m4a", ".aac", ".opus", ".jpg", ".jpeg", ".png", ".xml")
HEADERS = {"id", "file", "filename", "name", "clip", "clip_id", "video", "video_id", "youtube_id", "ytid"}
RESERVE = 1 << 30  # bytes of the disk that unpacking leaves free
LARGEST = 1 << 30  # bytes of a member of an archive: one at a time is held in memory
GRID, FLICKR_FRAME = 224, 256  # pixels: sides of the map on which both are evaluated, of the frame of Flickr's boxes

Rows = dict[str, dict[str, Any]]  # annotations by clip id, as ``Layout.write_annotations`` takes them
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]  # xmin, ymin, xmax, ymax


@dataclass
class Unpacked:
    """What became of a data set's files, by path below the source or ``archive: member``."""

    written: int = 0
    already: int = 0  # files of the right size that were there before
    refused: dict[str, str] = field(default_factory=dict)  # file: why it was not taken
    damaged: dict[str, str] = field(default_factory=dict)  # archive: why it was not read to its end

    def __str__(self) -> str:
        counts = f"{self.written} files written, {self.already} already there, {len(self.refused)} refused"
        faults = [f"  {name}: {why}" for name, why in (self.refused | self.damaged).items()]
        return "\n".join([f"{counts}, {len(self.damaged)} damaged archives", *faults])


def unpack(source: str | Path, target: str | Path, limit: int | None = None) -> Unpacked:
    """Bring the media and annotation files of an archive, or of a folder of archives and files, below `target`.

    Members of ``part.tar`` come to ``target/part.tar/``, with the folders they have in it. Plain files are linked where
    the disk allows it. Running again does what is missing. At most `limit` bytes (free disk less 1 GiB) are written.
    """
    source, target, done, seen = Path(source), Path(target), Unpacked(), set()
    if not source.exists():
        raise InputError(f"nothing at {source}")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target} lies in {source}: unpack into a folder outside of it")
    try:
        target.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(target).free - RESERVE if limit is None else limit
        for archive, name, size, regular, content in _files(source, done.damaged):
            final = target / archive / name.replace("\\", "/")
            fault = _fault(name, regular) or ("named twice in its archive" if final in seen else None)
            seen.add(final)
            if not fault and final.is_file() and not final.is_symlink() and final.stat().st_size == size:
                done.already += 1
            elif fault := fault or _write(final, content, size, min(room, LARGEST)):
                done.refused[f"{archive}: {name}" if archive else name] = fault
            else:
                done.written, room = done.written + 1, room - size
    except OSError as error:
        raise InputError(f"unpacking {source} into {target} stopped: {error}; run it again to go on") from error
    return done


def _write(final: Path, content: Path | Callable, size: int, room: int = LARGEST) -> str | None:
    """Write one file of `size` bytes, a link to a path or what an opener gives, and return None; or tell why not."""
    if os.path.lexists(final) or any(folder.is_file() for folder in final.parents):
        return f"something else is at {final}"
    if isinstance(content, Path):
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another disk, or one without links
            return final.hardlink_to(content)
        content = functools.partial(content.open, "rb")
    if size > room:
        return f"it takes {size} bytes where {room} may be written"
    try:
        with content() as file:
            found = file.read(size + 1)
    except Exception as error:  # a dozen kinds, by what is malformed
        return f"damaged: {error or type(error).__name__}"
    if len(found) != size:
        return f"damaged: {len(found)} bytes, where {size} were announced"
    write_atomic(final, found)


def _files(source: Path, damaged: dict[str, str]) -> Iterator[tuple]:
    """Yield archive (if any), name, bytes, whether it is a regular file and content of all that lies in `source`."""
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        name = path.name if path == source else path.relative_to(source).as_posix()
        regular = path.is_file() and not path.is_symlink()
        if path == source or (regular and name.lower().endswith(ARCHIVES) and not re.search(r"(^|/)\.", name)):
            try:
                with path.open("rb") as file:
                    is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")  # its suffix may say anything
                yield from ((name, *member) for member in (_zip_members if is_zip else _tar_members)(path))
            except Exception as error:  # a dozen kinds, by what is malformed
                damaged[name] = f"not read to its end: {error or type(error).__name__}"
        elif path.is_symlink() or not path.is_dir():
            yield "", name, path.lstat().st_size, regular, path


def _zip_members(path: Path) -> Iterator[tuple[str, int, bool, Callable]]:
    with zipfile.ZipFile(path) as archive:
        for info in (info for info in archive.infolist() if not info.is_dir()):
            regular = stat.S_IFMT(info.external_attr >> 16) in {0, stat.S_IFREG}
            yield info.filename, info.file_size, regular, functools.partial(archive.open, info)


def _tar_members(path: Path) -> Iterator[tuple[str, int, bool, Callable]]:
    with tarfile.open(path) as tar:
        while member := tar.next():
            tar.members.clear()  # or all 200,000 of them stay in memory
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes, which leads round in circles")
            if not member.isdir():
                yield member.name, member.size, member.isreg(), functools.partial(tar.extractfile, member)
        tar.fileobj.seek(tar.offset)  # tarfile takes any end for the end
        if (mark := tar.fileobj.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("a damaged header" if mark else "no end mark, it may be cut short")
        tar.fileobj.read(tarfile.RECORDSIZE)  # to the end of the stream, where its checksum is


def _fault(name: str, regular: bool) -> str | None:
    """Tell why a file of this name is not taken; None when it is."""
    parts, lower = PurePosixPath(name.replace("\\", "/")).parts, name.lower()
    faults = {
        "a link, a device or another special file": not regular,
        "an absolute path, or one that leaves its folder": ".." in parts or re.match(r"$|[/\\]|[A-Za-z]:", name),
        "a hidden file": any(part.startswith(".") or part == "__MACOSX" for part in parts),
        "an archive in an archive: unpack it by itself": lower.endswith(ARCHIVES),
        "neither media nor annotations": not lower.endswith((*CLIP_FILES, ".json", ".csv", ".txt")),
        "not a clip's name: it has ':' or control characters": ":" in name or not name.isprintable(),
        "not a clip's name: it is too long": len(name) > 800 or any(len(os.fsencode(part)) > 200 for part in parts),
    }
    return next((fault for fault, applies in faults.items() if applies), None)


def import_image_audio_pairs(folder: str | Path, root: str | Path) -> tuple[list[str], list[str], list[str]]:
    """Link or copy pairs ``ID.jpg`` and ``ID.wav`` below `folder` (Flickr-SoundNet) into the layout at `root`.

    Returns ids of the clips that are there now, of images without audio, and of audio files without an image.
    """
    images, audios = _files_by_id(folder, (".jpg", ".jpeg")), _files_by_id(folder, AUDIO_SUFFIXES)
    ids = sorted(images.keys() & audios.keys())
    if not ids:
        raise InputError(f"{folder} holds no pair of an image ID.jpg and an audio file ID.wav")
    wanted = {Path(root, "video_frames", i, "001.jpg"): images[i] for i in ids}
    wanted |= {Path(root, "audios", i + audios[i].suffix.lower()): audios[i] for i in ids}
    for final, path in wanted.items():
        if not final.exists() and (fault := _write(final, path, path.stat().st_size)):
            raise InputError(f"{path}: {fault}")
    return ids, sorted(images.keys() - ids), sorted(audios.keys() - ids)


def _files_by_id(folder: str | Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    paths = [path for path in sorted(Path(folder).rglob("[!.]*")) if path.suffix.lower() in suffixes]
    return _by_clip_id(folder, ((path.relative_to(folder), path.name, path) for path in paths))


def _by_clip_id(source: str | Path, entries: Iterable[tuple[Any, str, Any]]) -> dict[str, Any]:
    """Collect values by clip id from triples of place, name and value; no clip may come twice."""
    places, values = {}, {}
    for place, name, value in entries:
        stem, dot, suffix = name.rpartition(".")
        try:
            clip_id = check_id(stem if dot + suffix.lower() in CLIP_FILES else name)
        except ClipError as error:
            raise InputError(f"{source}, {place}: {error}") from None
        if clip_id in values:
            raise InputError(f"{source}, {place}: clip {clip_id!r} comes twice, first in {places[clip_id]}")
        places[clip_id], values[clip_id] = place, value
    if not values:
        raise InputError(f"{source} names no clip")
    return values


class Annotations(NamedTuple):
    """Annotations of a test set, and the clips that are odd in some way; printed, these are counted."""

    rows: Rows
    oddities: dict[str, list[str]]

    def __str__(self) -> str:
        return ", ".join(f"{len(ids)} {kind}" for kind, ids in self.oddities.items())


def _find_oddities(clips: dict[str, list[list[Box]]]) -> dict[str, list[str]]:
    """List the clips whose boxes (of each annotator) are odd, by kind of oddity; a clip may be in several."""
    oddities: dict[str, list[str]] = {}
    for clip_id, annotators in clips.items():
        corners = np.array([box for boxes in annotators for box in boxes], float).reshape(-1, 4)
        pixels = (GRID * corners.clip(0, 1)).astype(int)
        odd = {
            "beyond": (corners != corners.clip(0, 1)).any(),  # clipped, which is what the protocol's pixel rule does
            "reversed": (corners[:, :2] > corners[:, 2:]).any(),  # kept, it covers no pixel
            "flat": (corners[:, :2] == corners[:, 2:]).any(),  # likewise
            "several": max(map(len, annotators)) > 1,  # of one annotator: the ground truth is their union
            "unboxed": not len(corners),
            "empty": not (pixels[:, :2] < pixels[:, 2:]).all(axis=1).any(),  # the metrics leave these out
        }
        for kind, applies in odd.items():
            oddities.setdefault(kind, []).extend([clip_id] if applies else [])
    return oddities


class _Record(BaseModel, strict=True):
    file: str
    class_name: str = Field(alias="class")
    bbox: list[Box]


def read_vggss(path: str | Path) -> Annotations:
    """Read VGG-SS's boxes (Chen et al. 2021): a JSON list of ``{"file": id, "class": …, "bbox": [[xmin, …], …]}``.

    They are clipped to [0, 1], which changes no pixel ``int(224 * max(x, 0))`` of the protocol's map, 224 wide.
    """
    records = _validate(TypeAdapter(list[_Record]).validate_json, Path(path).read_bytes(), f"{path}, record")
    clips = _by_clip_id(path, ((f"record {number}", clip.file, clip) for number, clip in enumerate(records, 1)))
    rows = {i: {"class": clip.class_name, "boxes": np.clip(clip.bbox, 0.0, 1.0).tolist()} for i, clip in clips.items()}
    return Annotations(rows, _find_oddities({i: [clip.bbox] for i, clip in clips.items()}))


def read_flickr(folder: str | Path) -> Annotations:
    """Read Flickr-SoundNet's boxes (Senocak et al. 2018): one ``ID.xml`` a clip, anywhere below `folder`.

    Rows carry ``annotators``, a list of boxes for each annotator, and ``boxes``, all of them. An annotator is a child
    of the root with ``bbox`` elements: a label, then xmin, ymin, xmax and ymax in pixels of a 256 x 256 frame.
    """
    clips = {clip_id: _read_annotators(path) for clip_id, path in _files_by_id(folder, (".xml",)).items()}
    drawn = {i: [np.clip(boxes, 0.0, 1.0).tolist() for boxes in annotators] for i, annotators in clips.items()}
    rows = {i: {"boxes": [box for boxes in each for box in boxes], "annotators": each} for i, each in drawn.items()}
    return Annotations(rows, _find_oddities(clips))


def _read_annotators(path: Path) -> list[list[Box]]:
    """Read the boxes of each annotator in parts of the frame; one who drew nothing has none."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (SyntaxError, ValueError, LookupError) as error:  # ValueError also where it defines entities, a bomb
        raise InputError(f"{path}: not readable as XML, or refused: {error}") from None
    drawn = [each.findall("bbox") for each in root if each.tag.startswith("annotator") or each.find("bbox") is not None]
    if not drawn:
        raise InputError(f"{path}: no annotator's boxes below <{root.tag}>: is this a Flickr-SoundNet annotation?")
    pixels = [[[corner.text for corner in box][1:] for box in boxes] for boxes in drawn]
    corners = _validate(TypeAdapter(list[list[Box]]).validate_python, pixels, f"{path}, annotator")
    return [[tuple(value / FLICKR_FRAME for value in box) for box in boxes] for boxes in corners]


def _validate(validate: Callable, values: Any, where: str) -> Any:
    try:
        return validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = " ".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise InputError(f"{where} {place}: {first['msg']} (found {first['input']!r:.80})") from None


def read_vggsound(path: str | Path) -> Rows:
    """Read VGGSound's csv (Chen et al. 2020): YouTube id, start second, label, train or test; lines may be repeated.

    Clip ids are ``YOUTUBEID_000030``, with the start in six digits; rows have ``class``, ``start`` (s) and ``split``.
    """
    entries = {}
    for number, line in enumerate(_lines(path), 1):
        fields = [part.strip() for part in next(csv.reader([line]), [])]
        if not any(fields) or (not entries and fields[-1] == "split"):
            continue
        if len(fields) != 4 or not re.fullmatch(r"\d{1,6}(\.0*)?", fields[1]) or fields[3] not in {"train", "test"}:
            raise InputError(f"{path}, line {number}: expected id, whole second, label, train or test; found {fields}")
        row = {"class": fields[2], "start": int(float(fields[1])), "split": fields[3]}
        entries.setdefault(tuple(fields), (f"line {number}", f"{fields[0]}_{row['start']:06d}", row))
    return _by_clip_id(path, entries.values())


def read_ids(path: str | Path) -> list[str]:
    """Read clip ids, one a line or in the first column of a csv, with or without header, quotes, suffixes of media."""
    entries = []
    for number, line in enumerate(_lines(path), 1):
        name = re.split(r"[,;\t]", line)[0].strip(" \"'")
        if re.search(r",.*,.*,\s*(train|test)\s*$", line):
            raise InputError(f"{path}, line {number}: this is VGGSound's csv, read it with read_vggsound")
        if name and (entries or name.lower() not in HEADERS):
            entries.append((f"line {number}", name, None))
    return list(_by_clip_id(path, entries))


def split_by_heard(rows: Rows, path: str | Path) -> tuple[list[str], list[str], list[str]]:
    """Split annotated clips by a list of the classes that a model has heard, one a line (they may contain commas).

    Returns ids of clips of heard classes, ids of the others, and those classes of the list that no clip has.
    """
    heard, classes = {line.strip(" \"'") for line in _lines(path)} - {""}, {row.get("class") for row in rows.values()}
    if None in classes or not heard & classes:
        raise InputError(f"{path}: no clip is of one of its {len(heard)} classes, or a clip has no class")
    ids = {known: [i for i, row in rows.items() if (row["class"] in heard) == known] for known in (True, False)}
    return ids[True], ids[False], sorted(heard - classes)


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
