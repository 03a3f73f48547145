"""A folder of raw videos to a data folder: frames, sounds, the list ``all`` and a manifest of every file.

::

    DATA/video_frames/ID/001.jpg  short side 256, upright, square pixels
    DATA/audios/ID.flac           mono, 16 bits
    DATA/splits/all.txt           the clips that are ready; other lists are left alone
    DATA/manifest.csv             one row a file, or a part of one: outcome, reason, what it is, notes
    DATA/prepared.jsonl           the same for the next run, written as it goes

Running again does what is missing or changed. Killing it loses at most the clips under way, which are done again.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout

from sslib.config import InputError, SslibError
from sslib.data import parallel, stream, video
from sslib.data.layout import REMOVED, ClipError, Layout, check_id, digest, part_id, source_of, write_atomic
from sslib.data.media import CLASH, JPEG_QUALITY, encode_flac, encode_jpeg, loudness, raw_files
from sslib.data.parallel import Crashed, KillableProcess, TimedOut, each

SILENT = -80.0  # dBFS: a track whose loudest sample is below (3 of 32768) holds no sound
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
    clip_seconds: float | None = None

    @property
    def digest(self) -> str:
        """Identify what decides a clip: not the limits, and after a dash how long the parts of a video are."""
        rates = [self.frame_rate, self.at, self.sample_rate]
        return digest([rates, video.SHORT_SIDE, JPEG_QUALITY, VERSION])[:16] + f"-{self.clip_seconds or 'whole'}"


@dataclass
class Row:
    """What became of a file or of a part of it: a row of ``manifest.csv`` and, with more, a line of the journal."""

    id: str
    source: str  # below the raw folder
    start: float | None = None  # s of the source, of a part
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
    # these six in the journal only
    changed: int = 0  # ns, the source's time
    written: int = 0  # bytes of frames and sound
    limit: float | None = None  # s, which were too few to decode it
    longest: float | None = None  # s, than which it is longer
    parts: int = 1  # rows of its source
    kept: str = ""  # why the source could not be read again, where the clip of an earlier run stays


class Prepared(NamedTuple):
    ready: int
    total: int
    files: int
    reasons: Counter[str]  # of the rejected ones, without the particulars
    manifest: Path

    def __str__(self) -> str:
        cut = f" (parts of {self.files} files)" if self.files < self.total else ""
        lines = [f"{self.ready} of {self.total} ready, {self.reasons.total()} rejected{cut}"]
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
    clip_seconds: float | None = None,
    time_limit: float = 60.0,
    workers: int = 1,
    scheduler: str | None = None,
    retry: bool = False,
) -> Prepared:
    """Bring every video below `raw` into the layout of `data`; list every file with its outcome.

    A clip whose source was removed, cannot be read now or is longer than is allowed now stays, with a note. A clip
    whose source turns out not to be one, or whose id a second file claims, loses its old frames and sound.

    Parameters
    ----------
    raw, data : folders; see :func:`find_sources` for which files are looked at.
    frame_rate, at, sample_rate : as in ``video.read``. Another value prepares all clips again.
    max_seconds : a longer video is rejected, unless `clip_seconds` cuts it into clips of this length.
        ``NAME@000010`` is the one that begins at 10 s (rounded down). Another value prepares all clips again.
    time_limit : seconds that one clip may take to decode, then its decoder is killed and the clip rejected.
    workers, scheduler : processes here, or a Dask cluster; see ``parallel.each``.
    retry : also try rejected clips again whose source has not changed.

    Raises ``FileNotFoundError`` when there is no folder `raw`; ``InputError`` when a setting makes no sense;
    ``PreparationAborted`` when `data` cannot be written, holds another data set or is being prepared already.
    """
    raw, layout = Path(raw).absolute(), Layout(Path(data).absolute())
    rates = (float(frame_rate), None) if at is None else (None, float(at))
    settings = Settings(*rates, sample_rate, float(max_seconds), float(time_limit), clip_seconds)
    _check(settings, raw, layout)
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        with closing(_decoder()), closing(Journal(layout.root)) as journal:
            found = find_sources(raw, layout.root)
            task = functools.partial(_prepare_file, raw, layout, settings)
            jobs = _begin(layout, settings, journal, found, retry)
            for _, rows in each(task, jobs, workers=workers, scheduler=scheduler, desc="preparing"):
                journal.add(*rows)
            return _finish(layout, settings, journal, found)
    except Timeout:
        raise PreparationAborted(f"{layout.root} is being prepared by another process: wait for it or end it") from None
    except OSError as error:  # of the data folder, and so of every clip: those of a source became its row
        what = f"cannot write into {layout.root}: {error.strerror or error} ({error.filename})"
        raise PreparationAborted(f"{what}. What is finished stays: see to the disk, then run it again") from error


def _check(settings: Settings, raw: Path, layout: Layout) -> None:
    """Refuse settings that make no sense and folders that hold something else."""
    for name, value in settings._asdict().items():
        if value is not None and not (math.isfinite(value) and (value > 0 or (name == "at" and value == 0))):
            raise InputError(f"{name} is {value}: it must be a number above 0")
    if settings.clip_seconds and (settings.clip_seconds < 1 or settings.at is not None):
        raise InputError(f"clip_seconds is {settings.clip_seconds:g}: it must be at least 1, and not go with `at`")
    if not 1000 <= settings.sample_rate <= 384000:
        raise InputError(f"sample_rate is {settings.sample_rate}: it must be between 1000 and 384000 Hz")
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw}: there is no such folder of raw videos")
    has_clips = any((layout.root / name).exists() for name in ("video_frames", "audios"))
    if (kind := layout.info().get("kind") or ("clips" if has_clips else "videos")) != "videos":
        raise PreparationAborted(f"{layout.root} holds {kind}, not prepared here: choose another folder")


Journal = functools.partial(parallel.Journal, name="prepared.jsonl", kind=Row)


def _by_source(journal: parallel.Journal) -> dict[str, list[Row]]:
    """Group the rows of what there is by their file's name without its suffix, which the clips' ids begin with."""
    found = defaultdict(list)
    for row in journal.rows.values():
        if row.outcome != "gone":
            found[source_of(row.id)].append(row)
    return found


def find_sources(raw: Path, data: Path) -> list[Row]:
    """List the files below `raw` (see ``media.raw_files``) by clip id; one that cannot become a clip has a reason."""
    rows = []
    for path, status, fault in raw_files(raw, skip=data):
        name = path.relative_to(raw).as_posix().encode(errors="backslashreplace").decode()
        seen = {"bytes": status.st_size, "changed": status.st_mtime_ns} if status else {}
        try:
            rows.append(Row(Path(name).stem, name, reason=fault, **seen))
            check_id(path.stem)
        except ClipError as error:
            rows[-1].reason = rows[-1].reason or error.problem
    return rows


def _begin(layout: Layout, settings: Settings, journal: parallel.Journal, found: list[Row], retry: bool) -> list[tuple]:
    """Mark the folder as unfinished, remove clips whose ids two files claim now; list (source, what is known of it)."""
    _describe(layout, settings, journal, complete=False)
    layout.clear_partial()
    known = _by_source(journal)
    for row in itertools.chain(*(known.get(row.id, []) for row in found if row.reason.startswith(CLASH))):
        layout.remove_clip(row.id)
        journal.add(Row(row.id, "", outcome="gone"))
    jobs = ((replace(row, settings=settings.digest), known.get(row.id, [])) for row in found if not row.reason)
    return [job for job in jobs if not _is_done(layout, settings, *job, retry)]


def _is_done(layout: Layout, settings: Settings, source: Row, known: list[Row], retry: bool) -> bool:
    """Whether `known` tells of this very source under the same settings, and what it tells of is there."""

    def is_done(row: Row) -> bool:
        same = all(getattr(row, name) == getattr(source, name) for name in ("source", "bytes", "changed"))
        kept = bool(row.kept and row.longest) and not settings.clip_seconds
        more = settings.time_limit > (row.limit or math.inf) or settings.max_seconds > (row.longest or math.inf)
        if not same or more or not (kept or row.settings == source.settings):
            return False
        return _is_there(layout, row, source) if row.outcome == "ok" else kept or (not retry and row.sha256 != "")

    return bool(known) and len(known) == known[0].parts and all(map(is_done, known))


def _is_there(layout: Layout, row: Row, source: Row) -> bool:
    """Whether a clip is there that may lie beside those of `source`: alike in all but the length of parts."""
    return row.settings[:16] == source.settings[:16] and layout.size_of_clip(row.id) == (row.frames, row.written)


def _prepare_file(raw: Path, layout: Layout, settings: Settings, job: tuple[Row, list[Row]]) -> list[Row]:
    """Decode, write and describe the clips of one file; the task that runs in workers, and may run twice."""
    source, known = job
    there = [_is_there(layout, row, source) for row in known if row.outcome == "ok"]
    now = {"source": source.source, "bytes": source.bytes, "changed": source.changed}
    try:
        with (raw / source.source).open("rb") as file:
            source.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        clips = iter([([], b"", {"reason": f"cannot be read: {error.strerror or error}", "sha256": ""})])
    else:
        as_now = [(row.sha256, row.settings, row.outcome) == (source.sha256, source.settings, "ok") for row in known]
        if there and all(there) and all(as_now):  # touched or moved
            return [replace(row, **now, kept="") for row in known]
        clips = _clips(raw / source.source, settings)
    rows: list[Row] = []
    for frames, audio, facts in clips:
        row = replace(source, **facts)
        if there and all(there) and not rows and (row.longest or not row.sha256):  # what is there is not in doubt
            return [replace(old, **(now if row.longest else {}), kept=row.reason, longest=row.longest) for old in known]
        if row.start is not None:
            row.id = part_id(source.id, row.start)
        if row.reason:
            layout.remove_clip(row.id)
        else:
            layout.replace_clip(row.id, frames, audio)
            row.outcome, row.frames, row.written = "ok", len(frames), sum(map(len, frames)) + len(audio)
        rows.append(row)
    gone = {row.id for row in known} - {row.id for row in rows}
    for clip_id in gone:
        layout.remove_clip(clip_id)
    return [replace(row, parts=len(rows)) for row in rows] + [Row(clip_id, "", outcome="gone") for clip_id in gone]


def _clips(path: Path, settings: Settings) -> Iterator[tuple[list[bytes], bytes, dict[str, Any]]]:
    """Yield what :func:`encode` does, by a process that can be killed; what goes wrong there is the last."""
    try:
        yield from _decoder().stream(path, settings, limit=settings.time_limit)
        return
    except Crashed as error:
        fault = {"reason": f"decoder {error}", "limit": settings.time_limit if isinstance(error, TimedOut) else None}
    except video.VideoError as error:
        fault = {"reason": str(error), "longest": settings.max_seconds if isinstance(error, video.TooLong) else None}
    except OSError as error:  # which may pass: without a digest the next run tries again
        fault = {"reason": f"cannot be read: {error.strerror or error}", "sha256": ""}
    except Exception as error:  # whatever a library makes of a strange file: a row, and the next file goes on
        fault = {"reason": f"decoder failed ({type(error).__name__}: {error})"}
    yield [], b"", fault


def _decoder() -> KillableProcess:
    if not hasattr(_local, "decoder"):
        _local.decoder = KillableProcess(encode)
    return _local.decoder


def encode(path: Path, settings: Settings) -> Iterator[tuple[list[bytes], bytes, dict[str, Any]]]:
    """Decode a video; yield JPEG frames, FLAC sound and the facts of the row of each clip, or its ``reason`` for none.

    Runs in the process that can be killed. Raises ``video.VideoError``.
    """
    rates = {"frame_rate": settings.frame_rate or 1.0, "sample_rate": settings.sample_rate}
    if (length := settings.clip_seconds) is None:
        clips = iter([video.read(path, at=settings.at, **rates, max_seconds=settings.max_seconds)])
    else:
        clips = stream.read_parts(path, length, **rates)
    for part, (clip, following) in enumerate(itertools.pairwise(itertools.chain(clips, [None]))):
        facts: dict[str, Any] = loudness(clip.waveform)
        if part or following:
            facts["start"] = part * length
        if facts["peak_dbfs"] < SILENT:
            yield [], b"", facts | {"reason": f"a silent sound track (peak below {SILENT:g} dBFS)"}
            continue
        notes = clip.notes + ([f"only {clip.seconds:.2f} s long"] if clip.seconds < 1 else [])
        facts |= {"seconds": round(clip.seconds, 3), "width": clip.width, "height": clip.height}
        facts |= {"frame_rate": round(clip.frame_rate, 3), "audio_rate": clip.audio_rate, "notes": "; ".join(notes)}
        yield list(map(encode_jpeg, clip.frames)), encode_flac(clip.waveform, settings.sample_rate), facts


def _finish(layout: Layout, settings: Settings, journal: parallel.Journal, found: list[Row]) -> Prepared:
    """Write the list, the manifest and what the folder is."""
    import pandas as pd  # slow to import, and of no use to decoders

    sources, refused = {row.id for row in found if not row.reason}, {row.source: row for row in found if row.reason}
    rows, kept = [], set()
    for row in itertools.chain(*_by_source(journal).values()):
        why = row.kept
        if source_of(row.id) not in sources:
            if row.outcome != "ok":
                continue  # the file is gone, or what is refused now has a newer reason
            why = refused[row.source].reason if row.source in refused else REMOVED
            kept.add(row.source)
        rows.append(replace(row, notes="; ".join(filter(None, [row.notes, why and f"kept; its source: {why}"]))))
    rows = sorted([*rows, *(refused[name] for name in refused.keys() - kept)], key=lambda row: (row.source, row.id))
    layout.write_split("all", sorted(row.id for row in rows if row.outcome == "ok"))
    table = pd.DataFrame(map(asdict, rows), columns=[field.name for field in fields(Row)][:-6], dtype=object)
    path = write_atomic(layout.root / "manifest.csv", table.to_csv(index=False, lineterminator="\n"))
    reasons = Counter(row.reason.partition(" (")[0] for row in rows if row.outcome != "ok")
    _describe(layout, settings, journal, complete=True, rejected=reasons.total())
    layout.clear_partial()
    return Prepared(len(rows) - reasons.total(), len(rows), len({row.source for row in rows}), reasons, path)


def _describe(layout: Layout, settings: Settings, journal: parallel.Journal, complete: bool, **counts: int) -> None:
    """Write what the folder is; the digest changes with every clip and with the settings."""
    ready = sorted((row.id, row.sha256, row.settings) for row in journal.rows.values() if row.outcome == "ok")
    about = {name: getattr(settings, name) for name in ("frame_rate", "at", "sample_rate")}
    about |= {"digest": digest([settings.digest, ready]), "complete": complete, "clips": len(ready)}
    layout.write_info(kind="videos", name=layout.root.name, **about, **counts)
