"""A folder of raw videos to a data folder: frames, sounds, the list ``all`` and a manifest of every file.

::

    DATA/video_frames/ID/001.jpg  short side 256, upright, square pixels
    DATA/audios/ID.flac           mono, 16 bits
    DATA/splits/all.txt           the clips that are ready; other lists are left alone
    DATA/manifest.csv             one row a file: outcome, reason, what it is, notes
    DATA/prepared.jsonl           the same for the next run, written as it goes

Running again does what is missing or changed. Killing it loses at most the clips under way, which are done again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import threading
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from sslib.config import InputError, SslibError
from sslib.data import video
from sslib.data.layout import ClipError, Layout, check_id, digest, write_atomic
from sslib.data.media import JPEG_QUALITY, encode_flac, encode_jpeg, loudness, raw_files
from sslib.data.parallel import Crashed, KillableProcess, TimedOut, each

SILENT = -80.0  # dBFS: a track whose loudest sample is below (3 of 32768) holds no sound
CLASH = "the same clip id as another file"
VERSION = 1  # of what is written; another one and everything is prepared again
_local = threading.local()  # a decoder of its own for every thread that prepares clips


class PreparationAborted(SslibError):
    """The run cannot go on, whatever the clip; what is finished stays. The message names the folder and the cause."""


class Settings(NamedTuple):
    """What decides the frames and sounds; see :func:`prepare`."""

    frame_rate: float | None  # None with `at`
    at: float | None
    sample_rate: int
    max_seconds: float
    time_limit: float

    @property
    def digest(self) -> str:
        content = {**self._asdict(), "short_side": video.SHORT_SIDE, "quality": JPEG_QUALITY, "version": VERSION}
        del content["time_limit"]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass
class Row:
    """What became of a file: a row of ``manifest.csv`` and, with what the next run needs, a line of the journal."""

    id: str
    source: str  # below the raw folder
    outcome: str = "rejected"  # or "ok"; in the journal also "gone", for a clip that was taken out
    reason: str = ""
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    audio_rate: int | None = None
    frames: int | None = None
    rms_dbfs: float | None = None
    peak_dbfs: float | None = None
    bytes: int | None = None  # of the source
    sha256: str = ""  # of the source; "" where it could not be read
    settings: str = ""  # the digest
    notes: str = ""
    # these four in the journal only
    changed: int = 0  # ns, the source's time
    written: int = 0  # bytes of frames and sound
    limit: float | None = None  # s, which were too few to decode it
    kept: str = ""  # why the source could not be read again, where the clip of an earlier run stays


class Prepared(NamedTuple):
    ready: int
    total: int
    reasons: Counter[str]  # of the rejected ones, without the particulars
    manifest: Path

    def __str__(self) -> str:
        lines = [f"{self.ready} of {self.total} ready, {self.reasons.total()} rejected"]
        lines += [f"{count:6}  {reason}" for reason, count in self.reasons.most_common()]
        return "\n".join([*lines, f"every file and its outcome: {self.manifest}"])


def prepare(
    raw: Path,
    data: Path,
    *,
    frame_rate: float = 1.0,
    at: float | None = None,
    sample_rate: int = 24000,
    max_seconds: float = 60.0,
    time_limit: float = 60.0,
    workers: int = 1,
    scheduler: str | None = None,
    retry: bool = False,
) -> Prepared:
    """Bring every video below `raw` into the layout of `data`; list every file with its outcome.

    A clip whose source was removed or cannot be read now stays, with a note. A clip whose source turns out not to be
    one, or whose id a second file claims, loses its old frames and sound.

    Parameters
    ----------
    raw, data : folders; see :func:`find_sources` for which files are looked at.
    frame_rate, at, sample_rate, max_seconds : as in ``video.read``. Another value prepares all clips again.
    time_limit : seconds that one clip may take to decode, then its decoder is killed and the clip rejected.
    workers, scheduler : processes here, or a Dask cluster; see ``parallel.each``.
    retry : also try rejected clips again whose source has not changed.

    Raises ``FileNotFoundError`` when there is no folder `raw`; ``InputError`` when a setting makes no sense;
    ``PreparationAborted`` when `data` cannot be written, holds another data set or is being prepared already.
    """
    raw, layout = Path(raw).absolute(), Layout(Path(data).absolute())
    rates = (float(frame_rate), None) if at is None else (None, float(at))
    settings = Settings(*rates, sample_rate, float(max_seconds), float(time_limit))
    _check(settings, raw, layout)
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        with closing(_decoder()), closing(Journal(layout.root)) as journal:
            found = find_sources(raw, layout.root)
            task = functools.partial(_prepare_clip, raw, layout, settings)
            jobs = _begin(layout, settings, journal, found, retry)
            for _, row in each(task, jobs, workers=workers, scheduler=scheduler, desc="preparing"):
                journal.add(row)
            return _finish(layout, settings, journal, found)
    except OSError as error:  # of the data folder, and so of every clip: those of a source became its row
        what = f"cannot write into {layout.root}: {error.strerror or error} ({error.filename})"
        raise PreparationAborted(f"{what}. What is finished stays: see to the disk, then run it again") from error


def _check(settings: Settings, raw: Path, layout: Layout) -> None:
    """Refuse settings that make no sense and folders that hold something else."""
    for name, value in settings._asdict().items():
        if value is not None and not (math.isfinite(value) and (value > 0 or (name == "at" and value == 0))):
            raise InputError(f"{name} is {value}: it must be a number above 0")
    if not 1000 <= settings.sample_rate <= 384000:
        raise InputError(f"sample_rate is {settings.sample_rate}: it must be between 1000 and 384000 Hz")
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw}: there is no such folder of raw videos")
    has_clips = any((layout.root / name).exists() for name in ("video_frames", "audios"))
    kind = layout.info().get("kind") or ("clips" if has_clips else "videos")
    if kind != "videos":
        raise PreparationAborted(f"{layout.root} holds {kind}, not prepared here: choose another folder")


class Journal:
    """The rows by clip id, on disk as soon as they are added. The file only grows; the last line of a clip counts."""

    def __init__(self, folder: Path):
        self.lock = FileLock(folder / ".lock", timeout=0)  # a file that is never replaced
        try:
            self.lock.acquire()
        except Timeout:
            raise PreparationAborted(f"{folder} is being prepared by another process: wait for it or end it") from None
        self.file = (folder / "prepared.jsonl").open("a+b", buffering=0)
        self.file.seek(0)
        *lines, torn = self.file.read().split(b"\n")
        self.file.truncate(self.file.tell() - len(torn))  # what was being written when the process died
        self.rows = {row.id: row for row in (Row(**json.loads(line)) for line in lines)}

    def add(self, row: Row) -> None:
        line = json.dumps(asdict(row)).encode() + b"\n"
        if self.file.write(line) != len(line):
            raise OSError(28, "no space for a line", self.file.name)
        self.rows[row.id] = row

    def close(self) -> None:
        self.file.close()
        self.lock.release()


def find_sources(raw: Path, data: Path) -> list[Row]:
    """List the files below `raw` (see ``media.raw_files``); one that cannot become a clip has a reason.

    A file's clip id is its name without the last suffix; of files that claim the same id none is taken.
    """
    rows, claims = [], defaultdict(list)
    for path, status, fault in raw_files(raw, skip=data):
        name = path.relative_to(raw).as_posix().encode(errors="backslashreplace").decode()
        seen = {"bytes": status.st_size, "changed": status.st_mtime_ns} if status else {}
        rows.append(Row(Path(name).stem, name, reason=fault, **seen))
        if not fault:
            try:
                claims[check_id(path.stem)].append(rows[-1])
            except ClipError as error:
                rows[-1].reason = error.problem
    for alike in claims.values():
        for row in alike if len(alike) > 1 else []:
            row.reason = f"{CLASH}: rename one of them ({', '.join(r.source for r in alike if r is not row)})"
    return rows


def _begin(layout: Layout, settings: Settings, journal: Journal, found: list[Row], retry: bool) -> list[tuple]:
    """Mark the folder as unfinished, remove clips whose ids two files claim now; list (source, what is known of it)."""
    _describe(layout, settings, journal, complete=False)
    layout.clear_partial()
    for clip_id in {row.id for row in found if row.reason.startswith(CLASH)} & journal.rows.keys():
        if journal.rows[clip_id].outcome == "ok":
            layout.remove_clip(clip_id)
            journal.add(Row(clip_id, "", "gone"))
    jobs = [(replace(row, settings=settings.digest), journal.rows.get(row.id)) for row in found if not row.reason]
    return [job for job in jobs if not _is_done(layout, settings, *job, retry)]


def _is_done(layout: Layout, settings: Settings, source: Row, known: Row | None, retry: bool) -> bool:
    """Whether `known` tells of this very source under the same settings, and what it tells of is there."""
    decisive = ("source", "bytes", "changed", "settings")
    if known is None or any(getattr(known, name) != getattr(source, name) for name in decisive):
        return False
    if known.outcome == "ok":
        return _is_there(layout, known)
    return not retry and known.sha256 != "" and (known.limit is None or settings.time_limit <= known.limit)


def _is_there(layout: Layout, known: Row) -> bool:
    return layout.size_of_clip(known.id) == (known.frames, known.written)


def _prepare_clip(raw: Path, layout: Layout, settings: Settings, job: tuple[Row, Row | None]) -> Row:
    """Decode, write and describe one clip; the task that runs in workers, and may run twice."""
    row, known = job
    finished = known and (known.outcome, known.settings) == ("ok", row.settings) and _is_there(layout, known)
    try:
        with (raw / row.source).open("rb") as file:
            row.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if finished and known.sha256 == row.sha256:  # touched or moved
            return replace(known, source=row.source, bytes=row.bytes, changed=row.changed, kept="")
        frames, audio, facts = _decoder().call(raw / row.source, settings, limit=settings.time_limit)
    except Crashed as error:
        row.reason, row.limit = f"decoder {error}", settings.time_limit if isinstance(error, TimedOut) else None
    except video.VideoError as error:
        row.reason = str(error)
    except OSError as error:  # it may pass: nothing is removed, and the next run tries again
        row.reason, row.sha256 = f"cannot be read: {error.strerror or error}", ""
        return replace(known, kept=row.reason) if finished else row
    except Exception as error:  # whatever a library makes of a strange file: a row, and the next clip goes on
        row.reason = f"decoder failed ({type(error).__name__}: {error})"
    if row.reason:
        layout.remove_clip(row.id)
        return row
    layout.replace_clip(row.id, frames, audio)
    row.frames, row.written = len(frames), sum(map(len, frames)) + len(audio)
    return replace(row, outcome="ok", **facts)


def _decoder() -> KillableProcess:
    if not hasattr(_local, "decoder"):
        _local.decoder = KillableProcess(encode)
    return _local.decoder


def encode(path: Path, settings: Settings) -> tuple[list[bytes], bytes, dict[str, Any]]:
    """Decode a video to JPEG frames, FLAC sound and the facts of its row; runs in the process that can be killed.

    Raises ``video.VideoError`` when it is no usable video, or its sound is silence.
    """
    rates = {"frame_rate": settings.frame_rate or 1.0, "at": settings.at, "sample_rate": settings.sample_rate}
    clip = video.read(path, **rates, max_seconds=settings.max_seconds)
    facts = loudness(clip.waveform)
    if facts["peak_dbfs"] < SILENT:
        raise video.VideoError(f"a silent sound track (peak below {SILENT:g} dBFS)")
    notes = clip.notes + ([f"only {clip.seconds:.2f} s long"] if clip.seconds < 1 else [])
    facts |= {"seconds": round(clip.seconds, 3), "width": clip.width, "height": clip.height}
    facts |= {"frame_rate": round(clip.frame_rate, 3), "audio_rate": clip.audio_rate, "notes": "; ".join(notes)}
    return [encode_jpeg(frame) for frame in clip.frames], encode_flac(clip.waveform, settings.sample_rate), facts


def _finish(layout: Layout, settings: Settings, journal: Journal, found: list[Row]) -> Prepared:
    """Write the list, the manifest and what the folder is."""
    import pandas as pd  # slow to import, and of no use to decoders

    sources, refused = {row.id for row in found if not row.reason}, {row.source: row for row in found if row.reason}
    rows = []
    for row in journal.rows.values():
        if row.outcome == "gone" or (row.outcome != "ok" and row.source in refused):
            continue  # what is refused now has a newer reason
        why = row.kept
        if row.id not in sources:
            now = refused.pop(row.source, None)
            why = now.reason if now else "no longer in the raw folder"
        rows.append(replace(row, notes="; ".join(filter(None, [row.notes, why and f"kept; its source: {why}"]))))
    rows = sorted([*rows, *refused.values()], key=lambda row: (row.source, row.id))
    layout.write_split("all", sorted(row.id for row in rows if row.outcome == "ok"))
    table = pd.DataFrame(map(asdict, rows), columns=[field.name for field in fields(Row)][:-4], dtype=object)
    path = write_atomic(layout.root / "manifest.csv", table.to_csv(index=False, lineterminator="\n"))
    reasons = Counter(row.reason.partition(" (")[0] for row in rows if row.outcome != "ok")
    _describe(layout, settings, journal, complete=True, rejected=reasons.total())
    layout.clear_partial()
    return Prepared(len(rows) - reasons.total(), len(rows), reasons, path)


def _describe(layout: Layout, settings: Settings, journal: Journal, complete: bool, **counts: int) -> None:
    """Write what the folder is; the digest changes with every clip and with the settings."""
    ready = sorted((row.id, row.sha256, row.settings) for row in journal.rows.values() if row.outcome == "ok")
    about = {name: getattr(settings, name) for name in ("frame_rate", "at", "sample_rate")}
    about |= {"digest": digest([settings.digest, ready]), "complete": complete, "clips": len(ready)}
    layout.write_info(kind="videos", name=layout.root.name, **about, **counts)
