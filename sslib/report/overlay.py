"""One's own video, or a picture and a sound, with the place of the sound drawn over it: a video, a table, a page.

The work is cut into parts that are written whole, one after the other, and joined at the end: a run that was stopped
goes on, and an hour-long video needs no more memory than a short one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import heapq
import io
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
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from sslib.config import InputError
from sslib.data.layout import write_atomic
from sslib.data.media import encode_jpeg, loudness
from sslib.data.stream import Moment, VideoStream, decoded
from sslib.data.video import VideoError
from sslib.localizer import Localization, Localizer, read_picture
from sslib.report import figures
from sslib.report.text import HTML_TEMPLATES, say

SILENT = -60.0  # dBFS: a window whose RMS is below holds nothing to localize
PART, BATCH = 300, 8  # moments of one part, and of one pass through the model
EMBEDDED = 50_000_000  # bytes: a larger video stays beside its page
VISIBLE, UNSEEN, UNHEARD = "visible", "no visible source", "silence"
COLOURS = (figures.HEAT(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.float32)


class OverlayError(InputError):
    """A video, picture or sound that cannot be localized, or an output that is in the way; the message names it."""


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
    _refuse_existing(out, force)
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


def localize_picture(model: Localizer, path: Path, sound: Path, out: Path, force: bool = False) -> Localization:
    """Draw where a sound comes from in a picture into `out` (.png or .jpg); see :meth:`Localizer.localize`."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OverlayError(f"{out}: an overlay picture is a .png or .jpg file")
    _refuse_existing(out, force)
    picture, waveform = read_picture(path), model.loudest(model.read_sound(sound))
    result = model.localize(picture, waveform, model.sample_rate)
    drawn = Image.fromarray(draw(picture, result, state(result, waveform)[0]))
    partial = out.with_name(f".{out.name}")
    drawn.save(partial, "PNG" if out.suffix.lower() == ".png" else "JPEG", quality=92)
    partial.replace(out)
    return result


def state(result: Localization, waveform: np.ndarray) -> tuple[str, float]:
    """Say whether there is a visible source, none, or silence; and how loud the window is (RMS, dBFS)."""
    level = loudness(waveform)["rms_dbfs"]
    if level < SILENT:
        return UNHEARD, level
    return UNSEEN if result.visible is False else VISIBLE, level


def draw(picture: np.ndarray, result: Localization, what: str) -> np.ndarray:
    """Draw a localization over its picture, uint8 (H, W, 3): coloured and with a ring at the peak, or in words."""
    height, width = picture.shape[:2]
    if what == VISIBLE:
        canvas = Image.fromarray(blend(picture, result.heatmap))
        y, x = np.unravel_index(result.heatmap.argmax(), result.heatmap.shape)
        radius = max(6, min(height, width) // 24)
        pen = ImageDraw.Draw(canvas)
        for grow, colour in ((1, "black"), (0, "white"), (-1, "white"), (-2, "black")):
            pen.circle((float(x), float(y)), radius + grow, outline=colour)
    else:
        canvas = Image.fromarray(picture)
        pen, size = ImageDraw.Draw(canvas), max(10, height // 18)
        place, font = (size // 2, height - 1.6 * size), ImageFont.load_default(size)
        pen.text(place, what, fill="white", font=font, stroke_width=max(1, size // 8), stroke_fill="black")
    return np.asarray(canvas)


def blend(picture: np.ndarray, heatmap: np.ndarray, low: float | None = None, opacity: float = 0.75) -> np.ndarray:
    """Lay a raw map (h, w) over its picture, uint8 (H, W, 3): bright where the sound comes from, clear up to `low`.

    By default that is the map's median: what a picture's lower half holds is no answer.
    """
    low = float(np.median(heatmap)) if low is None else low
    scaled = figures.scale_map(heatmap, picture.shape[:2], (low, max(float(heatmap.max()), low)))
    shown = (opacity * np.sqrt(scaled))[..., None]
    return (picture * (1 - shown) + COLOURS[(255 * scaled).astype(np.uint8)] * shown).astype(np.uint8)


def _refuse_existing(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise OverlayError(f"{out} exists and is kept: give another --out, or --force to replace it")
    if not out.parent.is_dir():
        raise OverlayError(f"{out.parent}: there is no such folder to write to")


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
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
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
        sound = container.add_stream("aac", rate=48000, layout="stereo")
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
        steps += [graph.add("aformat", "sample_fmts=fltp:channel_layouts=stereo"), graph.add("asetnsamples", "1024")]
        graph.link_nodes(*steps, graph.add("abuffersink")).configure()
        for frame in itertools.chain(filter(None, decoded(container, source)), [None]):
            with contextlib.suppress(EOFError):  # past the end of the last picture
                graph.push(frame)
            for ready in _pulled(graph):
                yield from ((float(p.dts * p.time_base), p) for p in track.encode(ready))
        yield from ((float(p.dts * p.time_base), p) for p in track.encode(None))


def _pulled(graph: av.filter.Graph) -> Iterator[av.AudioFrame]:
    """Yield what a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return


def page(model: Localizer, path: Path, overlay: Path, name: str, table: pd.DataFrame, notes: list[str]) -> str:
    """Write one HTML page with the video in it (a large one stays beside it), its course and what the model is."""
    buffer, embedded = io.BytesIO(), overlay.stat().st_size <= EMBEDDED
    course(overlay, table, model.threshold).savefig(buffer, format="png", dpi=130)
    given = {"name": path.name, "player": player(overlay, table, "" if embedded else name), "overlay": name}
    given |= {"embedded": embedded, "table": Path(name).with_suffix(".csv").name, "found": found(table)}
    given |= {"figure": base64.b64encode(buffer.getvalue()).decode(), "notes": notes, "about": model.about}
    return HTML_TEMPLATES.get_template("overlay.html.j2").render(given)


def player(overlay: Path, table: pd.DataFrame, name: str = "") -> HTML:
    """Return an overlay video as HTML, inside or by its `name`; until it plays, its surest moment is seen."""
    best = table["confidence"].where(table["source"] == VISIBLE, -1).idxmax()
    [poster] = frames_at(overlay, [table["time_s"][best]], 480)
    source = name or f"data:video/mp4;base64,{base64.b64encode(overlay.read_bytes()).decode()}"
    given = {"source": source, "poster": base64.b64encode(encode_jpeg(poster)).decode()}
    return HTML(HTML_TEMPLATES.get_template("player.html.j2").render(given))


def found(table: pd.DataFrame) -> str:
    """Say in how many moments (rows) there is a visible source, none, or silence."""
    shares = table["source"].value_counts(normalize=True)
    return say("overlay", len(table), {what: shares.get(what, 0.0) for what in (VISIBLE, UNSEEN, UNHEARD)})


def course(overlay: Path, table: pd.DataFrame, threshold: float | None, count: int = 6) -> Figure:
    """Draw frames of an overlay video over the course of confidence and loudness (columns of its table)."""
    times = table["time_s"].to_numpy()
    shown = times[((np.arange(count) + 0.5) * len(times) / count).astype(int)]
    places = [[f"frame {number}" for number in range(count)], ["confidence"] * count, ["loudness"] * count]
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplot_mosaic(places, figsize=(9.5, 4.4), height_ratios=(1.1, 1, 0.6), layout="constrained")
    plt.close(figure)
    for name, time, picture in zip(places[0], shown, frames_at(overlay, shown), strict=True):
        figures.show_image(axes[name], picture.transpose(2, 0, 1), f"{time:.1f} s")
    upper, lower, ends = axes["confidence"], axes["loudness"], (times[0], times[-1])
    upper.plot(times, table["confidence"], color=figures.COLOURS[0], lw=1.2)
    seen, heights = table["source"] == VISIBLE, upper.get_ylim()
    upper.fill_between(times, *heights, where=seen, step="post", alpha=0.2, color=figures.COLOURS[1], lw=0)
    for axis, level in ((upper, threshold), (lower, SILENT)):
        if level is not None:
            axis.axhline(level, color="0.4", lw=0.8, ls="--")
        axis.set(xlim=ends if ends[0] < ends[1] else None)
    upper.set(
        ylabel="confidence", xticklabels=[], ylim=None if threshold is None else (None, max(heights[1], threshold))
    )
    lower.plot(times, table["loudness_dbfs"].clip(-90, 0), color=figures.COLOURS[2], lw=1.2)
    lower.set(ylabel="dBFS", xlabel="seconds", ylim=(-90, 0))
    return figure


def frames_at(path: Path, times: Sequence[float], height: int = 180) -> list[np.ndarray]:
    """Read the frames of an overlay video that are shown at `times` (rising, s), uint8 (H, W, 3), made small."""
    found = []
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        for frame in container.decode(track):
            while len(found) < len(times) and frame.time >= times[len(found)] - 1e-3:
                width = round(height * frame.width / frame.height)
                found.append(frame.reformat(width, height, format="rgb24").to_ndarray())
    return found


def slideshow(pictures: Sequence[np.ndarray], waveforms: Sequence[np.ndarray], rate: int, out: Path) -> Path:
    """Make a video (.mkv) of pictures, uint8 (H, W, 3), each shown while its sound, int16 (samples,), lasts."""
    with av.open(str(out), "w") as container:
        track = container.add_stream("libx264", rate=10, options={"crf": "18"})
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        (track.height, track.width), track.pix_fmt = (side - side % 2 for side in pictures[0].shape[:2]), "yuv420p"
        for picture, waveform in zip(pictures, waveforms, strict=True):
            for _ in range(round(10 * len(waveform) / rate)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(track.encode(frame.reformat(track.width, track.height, format="yuv420p")))
            heard = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
            heard.sample_rate = rate
            container.mux(sound.encode(heard))
        container.mux([*track.encode(None), *sound.encode(None)])
    return out
