"""Find the sound's place in a video of any length, moment by moment: an overlay video, a table, a page.

The work is cut into parts that are written whole, one after the other, and joined at the end: a run that was stopped
goes on, and an hour-long video needs no more memory than a short one.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sslib.data.layout import write_atomic
from sslib.data.stream import Moment, VideoStream, decoded
from sslib.data.video import VideoError
from sslib.localizer import Localizer
from sslib.report.overlay import OverlayError, draw, page, refuse_existing, state

PART, BATCH = 300, 8  # moments of one part, and of one pass through the model
NOT_FINITE = "its sound holds samples that are not numbers: they are silence here"


def localize_video(model: Localizer, path: Path, out: Path, frame_rate: float = 5.0, force: bool = False) -> Path:
    """Draw where the sound of a video comes from, moment by moment.

    Writes `out` (.mp4, the original sound, upright, the video's own aspect ratio), beside it a .csv (a row a moment)
    and a .html that shows both. Running again goes on where it stopped: finished parts lie in ``OUT.parts``.

    Parameters
    ----------
    frame_rate : moments per second, from 0.1 to 60.

    Raises ``OverlayError`` when `out` exists (unless `force`), the disk is full, or the file is no video with sound.
    """
    if out.suffix.lower() != ".mp4":
        raise OverlayError(f"{out}: an overlay video is an .mp4 file")
    if not 0.1 <= frame_rate <= 60:
        raise OverlayError(f"{frame_rate:g} moments per second: it must be between 0.1 and 60")
    refuse_existing(out, force)
    try:
        stream = VideoStream(path, frame_rate, model.sample_rate, model.samples)
        parts = _begin(model, path, out, frame_rate)
        tables = [pd.read_csv(table) for table in sorted(parts.glob("*.csv"))]
        stream.first = sum(map(len, tables))
        moments = iter(stream)
        with tqdm(total=round(stream.claimed * frame_rate) or None, initial=stream.first, unit=" moments") as bar:
            while (first := next(moments, None)) is not None:
                part = itertools.chain([first], itertools.islice(moments, PART - 1))
                tables.append(_write_part(model, part, parts / f"{len(tables):05}", frame_rate, bar))
        if not tables:
            raise VideoError("not one picture in it can be decoded")
        table = pd.concat(tables, ignore_index=True)
        joined = _join(parts, stream, len(table) / frame_rate)
        write_atomic(out.with_suffix(".csv"), table.to_csv(index=False))
        write_atomic(out.with_suffix(".html"), page(model, path, joined, out.name, table, stream.notes))
        joined.replace(out)
        shutil.rmtree(parts)
    except VideoError as error:
        raise OverlayError(f"{path}: {error}") from error
    except OSError as error:
        what = f"cannot write {error.filename or out}: {error.strerror or error}"
        raise OverlayError(f"{what}. What is finished stays: see to the disk, then run it again") from error
    return out


def _begin(model: Localizer, path: Path, out: Path, frame_rate: float) -> Path:
    """Make the folder of parts, or find that of the same work; parts of other work go."""
    if not path.is_file():
        raise OverlayError(f"no video {path}")
    weights = b"".join(value.numpy().tobytes() for value in model.model.state_dict().values())
    seen = path.stat()
    work = {"video": [str(path.resolve()), seen.st_size, seen.st_mtime_ns], "frame_rate": frame_rate}
    work |= {"model": hashlib.sha256(weights).hexdigest(), "threshold": model.threshold}
    parts = out.with_name(out.name + ".parts")
    known = parts / "work.json"
    if not known.is_file() or json.loads(known.read_text()) != work:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_atomic(known, json.dumps(work))
    return parts


def _write_part(model: Localizer, moments: Iterator[Moment], stem: Path, frame_rate: float, bar: Any) -> pd.DataFrame:
    """Localize, draw and encode some moments: a video without sound, then its table, which makes the part count."""
    rows = []

    def drawn() -> Iterator[np.ndarray]:
        while batch := list(itertools.islice(moments, BATCH)):
            visual = model.encode_images([moment.picture for moment in batch])
            maps = model.maps(visual, model.encode_sounds([moment.waveform for moment in batch]))
            for moment, similarity in zip(batch, maps, strict=True):
                result = model.localization(similarity, moment.picture.shape[:2])
                what, level = state(result, moment.waveform)
                y, x = np.unravel_index(result.heatmap.argmax(), result.heatmap.shape)
                rows.append((round(moment.time, 3), round(result.confidence, 4), x, y, level, what))
                yield draw(moment.picture, result, what)
            bar.update(len(batch))

    _encode(drawn(), stem.with_suffix(".mp4"), frame_rate)
    table = pd.DataFrame(rows, columns=["time_s", "confidence", "peak_x", "peak_y", "loudness_dbfs", "source"])
    write_atomic(stem.with_suffix(".csv"), table.to_csv(index=False))
    return table


def _encode(pictures: Iterator[np.ndarray], path: Path, frame_rate: float) -> None:
    """Write pictures, uint8 (H, W, 3), as H.264 without sound; odd sides lose a pixel."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1000))
        track.options, track.pix_fmt = {"preset": "veryfast", "crf": "21", "bf": "0"}, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if not track.codec_context.is_open:
                track.width, track.height = (side - side % 2 for side in (frame.width, frame.height))
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def _join(parts: Path, stream: VideoStream, seconds: float) -> Path:
    """Join the parts and the original sound, from the first picture to the end of the last, into one video."""
    joined = parts / "joined.mp4"
    with av.open(str(joined), "w", options={"movflags": "+faststart"}) as container:
        files = sorted(parts.glob("[0-9]*.mp4"))
        with av.open(str(files[0])) as first:
            pictures = container.add_stream_from_template(first.streams.video[0])
        sound = container.add_stream("aac", rate=48000, layout=stream.layout)
        sound.bit_rate = 160_000
        tracks = (_pictures(files, stream.frame_rate, pictures), _sound(stream, seconds, sound))
        for _, packet in heapq.merge(*tracks, key=lambda timed: timed[0]):
            container.mux(packet)
    return joined


def _pictures(files: list[Path], frame_rate: float, track: Any) -> Iterator[tuple[float, av.Packet]]:
    """Yield the packets of all parts with their time (s)."""
    done = 0
    for file in files:
        with av.open(str(file)) as container:
            source = container.streams.video[0]
            shift = round(done / frame_rate / source.time_base)
            for packet in container.demux(source):
                if packet.size:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, track
                    done += 1
                    yield float(packet.dts * packet.time_base), packet


def _sound(stream: VideoStream, seconds: float, track: Any) -> Iterator[tuple[float, av.Packet]]:
    """Yield the packets of the video's own sound with their time (s); FFmpeg fills gaps by the time stamps."""
    graph = av.filter.Graph()
    with av.open(f"file:{stream.path}", metadata_errors="replace") as container:
        source = container.streams.best("audio")
        steps = [graph.add_abuffer(template=source), graph.add("asetpts", f"PTS-{stream.origin}/TB")]
        steps += [graph.add("aresample", "48000:async=1:first_pts=0"), graph.add("atrim", f"end={seconds}")]
        steps += [
            graph.add("aformat", f"sample_fmts=fltp:channel_layouts={stream.layout}"),
            graph.add("asetnsamples", "1024"),
        ]
        graph.link_nodes(*steps, graph.add("abuffersink")).configure()
        for frame in itertools.chain(filter(None, decoded(container, source)), [None]):
            with contextlib.suppress(EOFError):  # past the end of the last picture
                graph.push(frame)
            for ready in _pulled(graph):
                heard = _finite(ready, stream.notes)
                yield from ((float(p.dts * p.time_base), p) for p in track.encode(heard))
        yield from ((float(p.dts * p.time_base), p) for p in track.encode(None))


def _pulled(graph: av.filter.Graph) -> Iterator[av.AudioFrame]:
    """Yield what a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return


def _finite(frame: av.AudioFrame, notes: list[str]) -> av.AudioFrame:
    """Return a frame without samples that are not numbers, which no encoder takes; say so, once, in `notes`."""
    samples = frame.to_ndarray()
    if np.isfinite(samples).all():
        return frame
    if NOT_FINITE not in notes:
        notes.append(NOT_FINITE)
    finite = av.AudioFrame.from_ndarray(np.nan_to_num(samples), format=frame.format.name, layout=frame.layout.name)
    finite.pts, finite.sample_rate, finite.time_base = frame.pts, frame.sample_rate, frame.time_base
    return finite


def slideshow(pictures: Sequence[np.ndarray], waveforms: Sequence[np.ndarray], rate: int, out: Path) -> Path:
    """Make a video (.mkv) of pictures, uint8 (H, W, 3), each shown while its sound, int16 (samples,), lasts."""
    with av.open(str(out), "w") as container:
        track = container.add_stream("libx264", rate=10, options={"crf": "18"})
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        (track.height, track.width), track.pix_fmt = (side - side % 2 for side in pictures[0].shape[:2]), "yuv420p"
        for picture, waveform in zip(pictures, waveforms, strict=True):
            for _ in range(round(10 * len(waveform) / rate)):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(track.encode(frame.reformat(track.width, track.height, format="yuv420p")))
            heard = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
            heard.sample_rate = rate
            container.mux(sound.encode(heard))
        container.mux([*track.encode(None), *sound.encode(None)])
    return out
