"""VGG-SS boxes, VGGSound's csv and lists of ids or classes, as they are distributed, as rows of our layout.

Rows are ``{clip id: {"class": …, "boxes": [[xmin, ymin, xmax, ymax] in [0, 1], …], …}}``, what
``Layout.write_annotations`` takes. What is odd in a file is kept as the protocol keeps it, and counted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sslib.config import InputError
from sslib.layout import ClipError, check_id

Rows = dict[str, dict[str, Any]]
GRID = 224  # pixels: the side of the map on which VGG-SS and Flickr-SoundNet are evaluated
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".wav", ".flac", ".mp3", ".ogg", ".jpg", ".jpeg", ".png", ".xml")
HEADERS = {"id", "file", "filename", "name", "clip", "clip_id", "video", "video_id", "youtube_id", "ytid"}


class AnnotationError(InputError):
    """An annotation file or list that cannot be used; the message names the file and the place in it."""


class Oddities(NamedTuple):
    """Clips whose annotation is odd, by kind of oddity; a clip may be in several."""

    beyond: list[str]  # a coordinate outside [0, 1]: clipped, which is what the protocol's pixel rule does
    reversed: list[str]  # a box that ends before it begins: kept, it covers no pixel
    flat: list[str]  # a box without width or height: kept, it covers no pixel
    several: list[str]  # more than one box: the ground truth is their union (or consensus)
    unboxed: list[str]  # no box at all
    empty: list[str]  # no pixel of ground truth, for whatever reason: the metrics leave these out

    def __str__(self) -> str:
        return ", ".join(f"{len(ids)} {kind}" for kind, ids in self._asdict().items())


class Annotations(NamedTuple):
    """Rows of a test set and what is odd among them."""

    rows: Rows
    oddities: Oddities


def read_vggss(path: str | Path) -> Annotations:
    """VGG-SS boxes (Chen et al. 2021): a JSON list of ``{"file": id, "class": …, "bbox": [[xmin, …], …]}``.

    Boxes are clipped to [0, 1]. A pixel is ``int(224 * max(x, 0))`` in the protocol, on a map that ends at 224, so
    clipping changes no ground truth (:func:`sslib.metrics.box_map`).

    Raises
    ------
    AnnotationError
        For a file that is not such a list, a number that is none, or an id that comes twice.
    """
    try:
        records = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(records, list):
        raise AnnotationError(f"{path}: expected a list of records, found {type(records).__name__}")
    rows, raw = {}, {}
    for number, record in enumerate(records, 1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict) or not {"file", "class", "bbox"} <= record.keys():
            raise AnnotationError(f"{where}: expected the keys file, class and bbox")
        clip_id = clip_id_of(str(record["file"]), where)
        if clip_id in rows:
            raise AnnotationError(f"{where}: clip {clip_id!r} comes twice")
        raw[clip_id] = _boxes(record["bbox"], f"{where} ({clip_id})")
        rows[clip_id] = {"class": str(record["class"]), "boxes": [clip_box(box) for box in raw[clip_id]]}
    return Annotations(rows, find_oddities(raw))


class VGGSound(NamedTuple):
    """The clips of VGGSound: rows of ``class``, ``start`` (s) and ``split``; ids that the file repeats unchanged."""

    rows: Rows
    repeated: list[str]

    def ids(self, split: str) -> list[str]:
        """Clips of ``train`` or ``test``, in the order of the file."""
        return [clip_id for clip_id, row in self.rows.items() if row["split"] == split]


def read_vggsound(path: str | Path) -> VGGSound:
    """VGGSound's csv (Chen et al. 2020): YouTube id, start second, label, train or test; every clip lasts 10 s.

    Clip ids are ``YOUTUBEID_000030``: the id, and the start with six digits.

    Raises
    ------
    AnnotationError
        For a line that is not like that, or that contradicts an earlier one.
    """
    rows, repeated = {}, []
    reader = csv.reader(io.StringIO(_text(path)))
    for fields in reader:
        fields, where = [field.strip() for field in fields], f"{path}, line {reader.line_num}"
        if not any(fields) or (not rows and "start" in ",".join(fields[:2]).lower() and fields[-1] == "split"):
            continue
        if len(fields) != 4 or not re.fullmatch(r"\d{1,6}(\.0*)?", fields[1]) or fields[3] not in {"train", "test"}:
            raise AnnotationError(f"{where}: expected YouTube id, whole second, label, train or test; found {fields}")
        start = int(float(fields[1]))
        clip_id = clip_id_of(f"{fields[0]}_{start:06d}", where)
        row = {"class": fields[2], "start": start, "split": fields[3]}
        if rows.setdefault(clip_id, row) is not row:
            if rows[clip_id] != row:
                raise AnnotationError(f"{where}: clip {clip_id!r} is {row}, but an earlier line says {rows[clip_id]}")
            repeated.append(clip_id)
    if not rows:
        raise AnnotationError(f"{path} is empty: it must name at least one clip")
    return VGGSound(rows, repeated)


def read_ids(path: str | Path) -> list[str]:
    """Clip ids of a list as people have them: one a line, or the first column of a csv with or without header.

    Suffixes of media files are cut off; byte order marks, Windows line ends, quotes and blank lines do no harm.

    Raises
    ------
    AnnotationError
        For an id that comes twice or cannot be one, an empty list, and for VGGSound's csv, whose first column is no
        clip id.
    """
    return _entries(path, lambda line: re.split(r"[,;\t]", line)[0], clips=True)


def read_classes(path: str | Path) -> list[str]:
    """Class names, one a line (they may contain commas), such as the 110 that a model has heard.

    Raises
    ------
    AnnotationError
        For a class that comes twice, or an empty list.
    """
    return _entries(path, lambda line: line, clips=False)


class HeardSplit(NamedTuple):
    """Clips of classes that a model was trained on, the other clips, and class names that no clip has."""

    heard: list[str]
    unheard: list[str]
    unknown: list[str]


def split_heard(rows: Rows, heard: Iterable[str]) -> HeardSplit:
    """Split annotated clips by a list of heard classes.

    Raises
    ------
    AnnotationError
        When no clip is of a heard class, or a clip has no class.
    """
    names = set(heard)
    unnamed = [clip_id for clip_id, row in rows.items() if "class" not in row]
    if unnamed:
        raise AnnotationError(f"{len(unnamed)} clips have no class: {unnamed[:5]}")
    known = {row["class"] for row in rows.values()}
    if not names & known:
        raise AnnotationError(f"no clip is of a heard class ({sorted(names)[:3]} …); classes are {sorted(known)[:3]} …")
    of_heard = [clip_id for clip_id, row in rows.items() if row["class"] in names]
    unheard = [clip_id for clip_id, row in rows.items() if row["class"] not in names]
    return HeardSplit(of_heard, unheard, sorted(names - known))


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _entries(path: str | Path, entry: Callable[[str], str], clips: bool) -> list[str]:
    """What each line of a list names, or an error that names the line."""
    places: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        name = entry(line).strip().strip("\"'").strip()
        if not name or (clips and not places and name.lower() in HEADERS):
            continue
        if clips:
            if re.search(r",\s*(train|test)\s*$", line) and line.count(",") >= 3:
                raise AnnotationError(f"{path}, line {number}: this is VGGSound's csv, read it with read_vggsound")
            name = clip_id_of(name, f"{path}, line {number}")
        if name in places:
            raise AnnotationError(f"{path}, line {number}: {name!r} comes twice, first in line {places[name]}")
        places[name] = number
    if not places:
        raise AnnotationError(f"{path} is empty: it must name at least one {'clip' if clips else 'class'}")
    return list(places)


def clip_id_of(name: str, where: str) -> str:
    """The clip id of a file name."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    try:
        return check_id(name[: len(name) - len(suffix)])
    except ClipError as error:
        raise AnnotationError(f"{where}: {error}") from None


def _boxes(boxes: Any, where: str) -> list[list[float]]:
    """Boxes of finite numbers, or an error."""
    if not isinstance(boxes, list) or not all(isinstance(box, list) and len(box) == 4 for box in boxes):
        raise AnnotationError(f"{where}: expected a list of boxes of four numbers, found {boxes!r:.80}")
    for value in (value for box in boxes for value in box):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise AnnotationError(f"{where}: {value!r} is not a coordinate")
    return boxes


def clip_box(box: list[float]) -> list[float]:
    return [min(max(float(value), 0.0), 1.0) for value in box]


def find_oddities(raw: dict[str, list[list[float]]]) -> Oddities:
    def having(odd: Callable[[list[float]], bool]) -> list[str]:
        return [clip_id for clip_id, boxes in raw.items() if any(odd(box) for box in boxes)]

    return Oddities(
        beyond=having(lambda box: min(box) < 0 or max(box) > 1),
        reversed=having(lambda box: box[2] < box[0] or box[3] < box[1]),
        flat=having(lambda box: box[2] == box[0] or box[3] == box[1]),
        several=[clip_id for clip_id, boxes in raw.items() if len(boxes) > 1],
        unboxed=[clip_id for clip_id, boxes in raw.items() if not boxes],
        empty=[clip_id for clip_id, boxes in raw.items() if not any(_covers(clip_box(box)) for box in boxes)],
    )


def _covers(box: list[float]) -> bool:
    """Does a box cover a pixel of the protocol's map?"""
    left, top, right, bottom = (int(GRID * value) for value in box)
    return left < right and top < bottom
