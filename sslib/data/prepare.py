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

import contextlib
import errno
import functools
import hashlib
import json
import math
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslib.config import InputError, SslibError
from sslib.data import manifest, video
from sslib.data.layout import AUDIO_SUFFIXES, Layout
from sslib.data.manifest import Journal, Row
from sslib.data.media import JPEG_QUALITY, encode_flac, encode_jpeg
from sslib.data.parallel import Crashed, KillableProcess, TimedOut, each
from sslib.data.sources import Source, find

SILENT = -80.0  # dBFS: a track whose loudest sample is below (3 of 32768) holds no sound
VERSION = 1  # of what is written; another one and everything is prepared again
_local = threading.local()  # a decoder of its own for every thread that prepares clips


class Stopped(SslibError):
    """The run cannot go on, whatever the clip; what is finished stays. The message names the folder and the cause."""


class Encoded(NamedTuple):
    """A clip as it will be on disk."""

    frames: list[bytes]  # JPEG
    sound: bytes  # FLAC
    facts: Row


class Prepared(NamedTuple):
    """The outcome of a run."""

    ready: int
    total: int
    reasons: Counter[str]  # of the rejected ones, without the particulars
    manifest: Path

    def __str__(self) -> str:
        lines = [f"{count:6}  {reason}" for reason, count in self.reasons.most_common()]
        head = f"{self.ready} of {self.total} ready, {self.reasons.total()} rejected"
        return "\n".join([head, *lines, f"every file and its outcome: {self.manifest}"])


def prepare(
    raw: Path,
    data: Path,
    *,
    frame_rate: float = 1.0,
    at: float | None = None,
    sample_rate: int = 24000,
    max_seconds: float = video.MAX_SECONDS,
    time_limit: float = 60.0,
    workers: int = 1,
    scheduler: str | None = None,
    retry: bool = False,
) -> Prepared:
    """Bring every video below `raw` into the layout of `data`; list every file with its outcome.

    Parameters
    ----------
    raw, data : folders; see ``sslib.data.sources`` for the files looked at, and the head of this file for the result.
    frame_rate, at, sample_rate, max_seconds : as in ``sslib.data.video.read``. Another value prepares all clips again.
    time_limit : seconds that one clip may take to decode, then its decoder is killed and the clip rejected.
    workers, scheduler : processes here, or a Dask cluster; see ``sslib.data.parallel.each``.
    retry : also try rejected clips again whose source has not changed.

    A clip whose source was removed or cannot be read now stays, with a note. A clip whose source turns out not to be
    one, or whose id a second file claims, loses its old frames and sound.

    Raises
    ------
    FileNotFoundError
        When there is no folder `raw`.
    Stopped
        When `data` cannot be written (full, read-only) or holds another data set.
    manifest.Busy
        When another process prepares the same folder.
    """
    raw, layout = Path(raw).absolute(), Layout(Path(data).absolute())
    settings = _settings(frame_rate, at, sample_rate, max_seconds, time_limit)
    if not raw.is_dir():
        raise FileNotFoundError(f"{raw}: there is no such folder of raw videos")
    _require_own(layout)
    with _writing(layout.root):
        layout.root.mkdir(parents=True, exist_ok=True)
        journal = Journal(layout.root)
    with contextlib.closing(journal):
        sources, refused, clashes = find(raw, layout.root)
        with _writing(layout.root):
            _info(layout, settings, journal, complete=False)
            shutil.rmtree(layout.root / ".partial", ignore_errors=True)
            for clip_id in clashes & journal.rows.keys():
                _remove(layout, clip_id)
                journal.forget(clip_id)
        jobs = [(s, journal.rows.get(s.clip_id)) for s in sources]
        jobs = [job for job in jobs if not _is_done(layout, *job, settings, retry)]
        try:
            task = functools.partial(_prepare_clip, raw, layout, settings)
            for _, row in each(task, jobs, workers=workers, scheduler=scheduler, desc="preparing"):
                with _writing(layout.root):
                    journal.add(row)
        except Stopped as error:
            raise Stopped(str(error)) from None  # without the traceback of another process
        finally:
            _decoder().close()
        with _writing(layout.root):
            return _finish(layout, settings, journal, sources, refused)


def _settings(frame_rate: float, at: float | None, sample_rate: int, max_seconds: float, time_limit: float) -> Row:
    for name, value in {"frame_rate": frame_rate, "max_seconds": max_seconds, "time_limit": time_limit}.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}: it must be a number above 0")
    if at is not None and not (math.isfinite(at) and at >= 0):
        raise InputError(f"at is {at}: it must be a number of seconds, 0 or more")
    if not 1000 <= sample_rate <= 384000:
        raise InputError(f"sample_rate is {sample_rate}: it must be between 1000 and 384000 Hz")
    wanted = {"frame_rate": None, "at": float(at)} if at is not None else {"frame_rate": float(frame_rate), "at": None}
    wanted |= {"sample_rate": sample_rate, "max_seconds": float(max_seconds)}
    content = {**wanted, "short_side": video.SHORT_SIDE, "quality": JPEG_QUALITY, "version": VERSION}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return {**wanted, "time_limit": float(time_limit), "digest": digest}


def _require_own(layout: Layout) -> None:
    """Refuse a folder that something else has filled."""
    if not layout.root.exists():
        return
    kind = layout.info().get("kind")
    if kind not in (None, "videos"):
        raise Stopped(f"{layout.root} holds {kind}, not prepared videos: choose another folder")
    if kind is None and any((layout.root / name).exists() for name in ("video_frames", "audios")):
        raise Stopped(f"{layout.root} holds clips that were not prepared here: choose another folder")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Where an error is one of the data folder: it concerns every clip, so the run stops."""
    try:
        yield
    except OSError as error:
        raise Stopped(
            f"cannot write into {folder}: {error.strerror or error} ({error.filename}). "
            "What is finished is kept; see to the disk, then run the same again"
        ) from error


def _is_done(layout: Layout, source: Source, row: Row | None, settings: Row, retry: bool) -> bool:
    """Whether `row` tells of this very source under the same settings, and what it tells of is there."""
    if row is None or row["settings"] != settings["digest"]:
        return False
    if (row["source"], row["bytes"], row["changed"]) != (source.path, source.size, source.changed):
        return False
    if row["outcome"] == "ok":
        return _written(layout, source.clip_id) == (row["frames"], row["written"])
    if not row["sha256"]:
        return False  # it could not be read then
    return not retry and (row["limit"] is None or settings["time_limit"] <= row["limit"])


def _written(layout: Layout, clip_id: str) -> tuple[int, int] | None:
    """Number of frames, and bytes of frames and sound, of a clip that is there."""
    try:
        frames = [path.stat().st_size for path in (layout.root / "video_frames" / clip_id).iterdir()]
        return len(frames), sum(frames) + (layout.root / "audios" / f"{clip_id}.flac").stat().st_size
    except FileNotFoundError:
        return None


def _prepare_clip(raw: Path, layout: Layout, settings: Row, job: tuple[Source, Row | None]) -> Row:
    """Decode, write and describe one clip; the task that runs in workers, and may run twice."""
    source, known = job
    row = {"id": source.clip_id, "source": source.path, "bytes": source.size, "changed": source.changed}
    row |= {"settings": settings["digest"], "limit": None, "sha256": "", "kept": ""}
    try:
        with (raw / source.path).open("rb") as file:
            row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        if known and known["sha256"] == row["sha256"] and known["outcome"] == "ok":  # touched or moved, or outputs lost
            renamed = {**known, **row}
            if renamed["settings"] == known["settings"] and _is_done(layout, source, renamed, settings, retry=False):
                return renamed
        clip = _decoder().call(raw / source.path, settings, limit=settings["time_limit"])
    except (TimedOut, Crashed) as error:
        limit = settings["time_limit"] if isinstance(error, TimedOut) else None
        row |= {"outcome": "rejected", "reason": f"decoder {error}", "limit": limit}
    except video.VideoError as error:
        row |= {"outcome": "rejected", "reason": str(error)}
    except OSError as error:
        return _keep(layout, known, row | {"reason": f"cannot be read: {error.strerror or error}"})
    except Exception as error:  # whatever a library makes of a strange file: a row, and the next clip goes on
        row |= {"outcome": "rejected", "reason": f"decoder failed ({type(error).__name__}: {error})"}
    with _writing(layout.root):
        if "outcome" in row:
            _remove(layout, source.clip_id)
            return row
        _place(layout, source.clip_id, clip)
    written = sum(map(len, clip.frames)) + len(clip.sound)
    return row | {"outcome": "ok", "reason": "", "frames": len(clip.frames), "written": written} | clip.facts


def _keep(layout: Layout, known: Row | None, row: Row) -> Row:
    """Row of a clip whose source cannot be read: what was made of it stays, and the next run tries again."""
    finished = known is not None and (known["outcome"], known["settings"]) == ("ok", row["settings"])
    if finished and _written(layout, row["id"]) == (known["frames"], known["written"]):
        return known | {"kept": row["reason"]}
    return row | {"outcome": "rejected", "sha256": ""}


def _decoder() -> KillableProcess:
    """This thread's decoder."""
    if not hasattr(_local, "decoder"):
        _local.decoder = KillableProcess(encode)
    return _local.decoder


def encode(path: Path, settings: Row) -> Encoded:
    """Decode a video and encode its frames and sound; runs in the process that can be killed.

    Raises
    ------
    video.VideoError
        When it is no usable video, or its sound is silence.
    """
    rates = {"frame_rate": settings["frame_rate"] or 1.0, "at": settings["at"], "sample_rate": settings["sample_rate"]}
    clip = video.read(path, **rates, max_seconds=settings["max_seconds"])
    loudness = _loudness(clip.waveform)
    if loudness["peak_dbfs"] < SILENT:
        raise video.VideoError(f"a silent sound track (peak below {SILENT:g} dBFS)")
    notes = clip.notes + ([f"only {clip.seconds:.2f} s long"] if clip.seconds < 1 else [])
    facts = {"seconds": round(clip.seconds, 3), "width": clip.width, "height": clip.height}
    facts |= {"frame_rate": round(clip.frame_rate, 3), "audio_rate": clip.audio_rate, "notes": "; ".join(notes)}
    frames = [encode_jpeg(frame) for frame in clip.frames]
    return Encoded(frames, encode_flac(clip.waveform, settings["sample_rate"]), facts | loudness)


def _loudness(waveform: np.ndarray) -> Row:
    """RMS and peak in dB of full scale."""
    samples = np.abs(waveform.astype(np.float64)) / 32768
    values = {"rms_dbfs": np.sqrt(np.mean(samples**2)), "peak_dbfs": samples.max()} if len(samples) else {}
    decibel = {name: round(20 * math.log10(value), 1) if value else -math.inf for name, value in values.items()}
    return decibel or {"rms_dbfs": -math.inf, "peak_dbfs": -math.inf}


def _place(layout: Layout, clip_id: str, clip: Encoded) -> None:
    """Write frames and sound under other names, then rename: each is whole, or not there.

    Another run of the same task may do so at the same time: a cluster gives the work of a slow worker to a second one.
    """
    if _holds(layout, clip_id, clip):
        return  # a late second run takes nothing away, even for a moment
    partial = layout.root / ".partial" / uuid.uuid4().hex
    (partial / "frames").mkdir(parents=True)
    for k, frame in enumerate(clip.frames, start=1):
        (partial / "frames" / f"{k:03d}.jpg").write_bytes(frame)
    (partial / "sound.flac").write_bytes(clip.sound)
    while not _holds(layout, clip_id, clip):
        _remove(layout, clip_id)
        try:
            for name, target in ("frames", f"video_frames/{clip_id}"), ("sound.flac", f"audios/{clip_id}.flac"):
                (layout.root / target).parent.mkdir(exist_ok=True)
                (partial / name).rename(layout.root / target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # the other one has put its frames there meanwhile
                raise
    shutil.rmtree(partial, ignore_errors=True)


def _holds(layout: Layout, clip_id: str, clip: Encoded) -> bool:
    """Whether this very clip is there, and no frame more."""
    folder, sound = layout.root / "video_frames" / clip_id, layout.root / "audios" / f"{clip_id}.flac"
    try:
        frames = [path.read_bytes() for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))]
        return frames == clip.frames and sound.read_bytes() == clip.sound
    except FileNotFoundError:
        return False


def _remove(layout: Layout, clip_id: str) -> None:
    """Take a clip's frames and sound away, the frames in one step; another process may do so at the same time."""
    for suffix in AUDIO_SUFFIXES:
        (layout.root / "audios" / f"{clip_id}{suffix}").unlink(missing_ok=True)
    trash = layout.root / ".partial" / uuid.uuid4().hex
    trash.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (layout.root / "video_frames" / clip_id).rename(trash)
        shutil.rmtree(trash)


def _finish(layout: Layout, settings: Row, journal: Journal, sources: list[Source], refused: dict) -> Prepared:
    """Write the list, the manifest and what the folder is."""
    there, refused = {source.clip_id for source in sources}, dict(refused)
    rows = []
    for clip_id, row in journal.rows.items():
        if clip_id not in there and row["outcome"] != "ok" and row["source"] in refused:
            continue  # the newer reason is below
        kept = row.get("kept", "")
        if clip_id not in there:
            kept = refused.pop(row["source"], ("", "is no longer in the raw folder"))[1]
        kept = kept and f"kept; its source {kept}"
        rows.append({**row, "notes": "; ".join(filter(None, [row.get("notes", ""), kept]))})
    for path, (clip_id, reason) in refused.items():
        rows.append({"id": clip_id, "source": path, "outcome": "rejected", "reason": reason})
    layout.write_split("all", sorted(row["id"] for row in rows if row["outcome"] == "ok"))
    path = layout.root / "manifest.csv"
    manifest.write(path, rows)
    reasons = Counter(row["reason"].partition(" (")[0] for row in rows if row["outcome"] != "ok")
    _info(layout, settings, journal, complete=True, rejected=reasons.total())
    shutil.rmtree(layout.root / ".partial", ignore_errors=True)
    return Prepared(len(rows) - reasons.total(), len(rows), reasons, path)


def _info(layout: Layout, settings: Row, journal: Journal, complete: bool, **counts: int) -> None:
    """What the folder is; the digest changes with every clip and with the settings."""
    ready = sorted(
        (row["id"], row["sha256"], row["settings"]) for row in journal.rows.values() if row["outcome"] == "ok"
    )
    digest = hashlib.sha256(json.dumps([settings["digest"], ready]).encode()).hexdigest()
    about = {name: settings[name] for name in ("frame_rate", "at", "sample_rate")}
    layout.write_info(
        kind="videos", name=layout.root.name, **about, digest=digest, complete=complete, clips=len(ready), **counts
    )
