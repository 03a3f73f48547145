"""Videos of any length, a moment at a time: each picture with the sound around it, in constant memory.

Pictures and sound come from two readers of the same file: it does not matter how far apart they lie in it. The clock is
that of :mod:`sslib.data.video`: time 0 is when the first picture is shown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soxr

from sslib.data import video
from sslib.data.media import MediaError, read_audio, to_int16, to_mono
from sslib.data.video import GAP, LATE, SHORTEST, VideoError

SHORT_SIDE = 720  # pixels: larger pictures are made smaller
BEFORE = 60  # s: sound is read from this much before the first window
SEEKABLE = ("mov", "matroska")  # containers with an index: in others a jump may land behind its aim


class Moment(NamedTuple):
    """A time of a video."""

    time: float  # s since the first picture
    picture: np.ndarray  # uint8 (H, W, 3) RGB, upright, square pixels, short side at most 720
    waveform: np.ndarray  # int16 (samples,) mono: the window around it, shifted to stay inside; zeros past its end


class VideoStream:
    """Iterate over the moments of a video at a frame rate.

    Parameters
    ----------
    frame_rate : moments per second, from 0 s on.
    sample_rate, samples : of the sound, in Hz, and the length of each window.

    Raises ``VideoError`` for a file that is no video or lacks pictures or sound; what is wrong half-way is in `notes`.
    """

    def __init__(self, path: Path, frame_rate: float, sample_rate: int, samples: int):
        if not path.is_file():
            raise VideoError(f"no video {path}")
        self.path, self.frame_rate, self.samples = path, frame_rate, samples
        self.first = 0  # number of the moment to begin at, to go on where another run stopped
        self.sample_rate = sample_rate
        with video.open_container(path) as container:
            track, sound, self.notes = video.choose_tracks(container)
            self.layout = "mono" if len(sound.layout.channels) == 1 else "stereo"  # of the sound, to be written
            self.origin = next((time for time, _ in _frames(container, track, [])), None)
            if self.origin is None:
                raise VideoError("not one picture in it can be decoded")
            self.claimed = (container.duration or 0) / av.time_base  # s, as the file says
            self.seekable = container.format.name.startswith(SEEKABLE)

    def __iter__(self) -> Iterator[Moment]:
        jump = max(0.0, self.first / self.frame_rate - BEFORE) if self.seekable else 0.0
        sound = Sound(self.path, self.sample_rate, self.origin, jump)
        time = 0.0
        for number, picture in enumerate(self._pictures(), self.first):
            time = number / self.frame_rate
            yield Moment(time, picture, sound.window(time, self.samples))
        if self.claimed - time > max(1.0, 2 / self.frame_rate):
            self.notes.append(f"pictures end at {time:.1f} s, the file claims {self.claimed:.1f} s: it may be cut off")

    def _pictures(self) -> Iterator[np.ndarray]:
        start = self.origin + self.first / self.frame_rate
        with video.open_container(self.path) as container:
            track, _, _ = video.choose_tracks(container)
            track.thread_type, track.codec_context.thread_count = "AUTO", 0
            if self.first and self.seekable:
                container.seek(int(start / track.time_base), stream=track)
            convert = video.converter(track, SHORT_SIDE)

            def shown() -> Iterator[tuple[float, Any]]:
                end = start
                for time, frame in _frames(container, track, self.notes):
                    end = time + (float((frame.duration or 0) * track.time_base) or video.mean_interval(track))
                    yield time - start, frame
                yield max(end - start - SHORTEST, 0 if self.first else 2 * LATE), None

            yield from map(convert, video.pick_shown(shown(), (k / self.frame_rate for k in itertools.count())))


class Sound:
    """The sound of a file, mono, read on as it is asked for; `origin` and `start` in s, see :class:`VideoStream`."""

    def __init__(self, path: Path, sample_rate: int, origin: float = 0.0, start: float = 0.0):
        self.rate, self.held = sample_rate, np.zeros(0, np.int16)
        self.begin = round(start * sample_rate)  # sample number of held[0]
        self.pieces = _resampled(_waveform(path, origin, self.begin / sample_rate), sample_rate)

    def window(self, time: float, samples: int) -> np.ndarray:
        """Cut `samples` around `time` (s); times must rise. A sound that is shorter than a window is tiled."""
        wanted = max(round(time * self.rate) - samples // 2, 0)
        keep = max(wanted - samples, self.begin)
        parts, end = [self.held[keep - self.begin :]], self.begin + len(self.held)
        while end < wanted + samples and (piece := next(self.pieces, None)) is not None:
            parts.append(piece)
            end += len(piece)
        self.held, self.begin = np.concatenate(parts), keep
        if len(self.held) > end - keep:  # pieces before what is kept
            self.held = self.held[-(end - keep) :]
        if time * self.rate >= end:
            return np.zeros(samples, np.int16)
        if len(self.held) < samples:
            return np.resize(self.held, samples)
        start = min(wanted, end - samples) - keep
        return self.held[start : start + samples]


def read_parts(path: Path, seconds: float, *, frame_rate: float, sample_rate: int) -> Iterator[video.Video]:
    """Read a video in parts of `seconds`, each as ``video.read`` would, but one at a time is in memory.

    The clock of a part is 0 where it begins. What is left at the end is a part from half of `seconds` on, or else left
    out, as is sound beyond it; a later part may be without sound. Raises ``VideoError`` as ``video.read``.
    """
    start, end, count = 0.0, 0.0, 0  # of all pictures, s on the container's clock
    with video.open_container(path) as container:
        track, _, notes = video.choose_tracks(container)

        def shown() -> Iterator[tuple[float, Any]]:
            nonlocal start, end, count
            for time, frame in _frames(container, track, notes):
                start = start if count else time
                end = time + (float((frame.duration or 0) * track.time_base) or video.mean_interval(track))
                count += 1
                yield time - start, frame
            if not count:
                raise VideoError("not one picture in it can be decoded")
            yield max(end - start - SHORTEST, 2 * LATE), None

        frames = math.ceil(seconds * frame_rate - 1e-6)  # of a part
        times = (k // frames * seconds + k % frames / frame_rate for k in itertools.count())
        found, sounds = enumerate(map(video.converter(track), video.pick_shown(shown(), times))), None
        for part, group in itertools.groupby(found, lambda pair: pair[0] // frames):
            pictures = [picture for _, picture in group]
            length = min(seconds, end - start - part * seconds)
            if part and length < seconds / 2:
                break
            if sounds is None:
                pieces = _waveform(path, start, 0)
                first = next(pieces, None)
                if first is None:
                    raise VideoError("not one part of its sound can be decoded")
                rate, pieces = first[1], itertools.chain([first], pieces)
                sounds = _cut(_resampled(pieces, sample_rate), seconds * sample_rate)
            waveform = next(sounds, np.zeros(0, np.int16))
            mean = count / (end - start)  # pictures a second up to now
            yield video.Video(pictures, waveform, length, track.width, track.height, mean, rate, [*notes])


def _cut(pieces: Iterator[np.ndarray], size: float) -> Iterator[np.ndarray]:
    """Join pieces to parts of `size` samples, which need not be whole; the last is shorter."""
    held, length, part = [], 0, 1
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        while length >= (wanted := round(part * size) - round((part - 1) * size)):
            joined = np.concatenate(held)
            yield joined[:wanted]
            held, length, part = [joined[wanted:]], length - wanted, part + 1
    yield np.concatenate([*held, np.zeros(0, np.int16)])


def read_sound(path: Path, sample_rate: int) -> np.ndarray:
    """Read all of a sound file, or of a video's sound, to int16 (samples,) mono at a rate in Hz.

    Raises ``MediaError`` where there is none.
    """
    if not path.is_file():
        raise MediaError(f"no sound file {path}")
    try:
        return read_audio(path, sample_rate)
    except MediaError as error:
        if "not finite" in str(error):
            raise
        try:
            pieces = list(_resampled(_waveform(path, None, 0), sample_rate))
        except VideoError as other:
            raise MediaError(f"not a readable sound ({path}): {other}") from error
        if not sum(map(len, pieces)):
            raise error
        return np.concatenate(pieces)


def _frames(container: Any, track: Any, notes: list[str]) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield pictures with the time (s, on the container's clock) at which they appear, in rising order."""
    last, damaged, shown, avi = None, 0, 0, container.format.name == "avi"
    order: list[int] = []  # AVI knows when pictures appear, but not which one: the n-th at the n-th of these
    for frame in decoded(container, track, order):
        if frame is None:
            damaged += 1
            continue
        stamp = frame.pts if not avi else order[shown] if shown < len(order) else None
        guess = 0.0 if last is None else last + video.mean_interval(track)
        time, shown = guess if stamp is None else float(stamp * track.time_base), shown + 1
        if last is None or time > last:
            last = time
            yield time, frame
    if damaged:
        notes.append(f"damaged: {damaged} pictures cannot be decoded")


def decoded(container: Any, track: Any, order: list[int] | None = None) -> Iterator[Any]:
    """Yield what a track decodes to, None for a damaged packet; a file that is cut off ends there.

    `order` gets the decoding time stamps of its packets.
    """
    packets = container.demux(track)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if order is not None and packet.dts is not None:
            order.append(packet.dts)
        try:
            yield from packet.decode()
        except av.FFmpegError:
            yield None


def _waveform(path: Path, origin: float | None, start: float) -> Iterator[tuple[np.ndarray, int]]:
    """Yield pieces of the sound from `start` s after `origin` (None: its own first sample) on: mono, and their rate."""
    with video.open_container(path) as container:
        track = container.streams.best("audio")
        if track is None:
            raise VideoError("no sound track")
        if start:
            container.seek(int((origin + start) / track.time_base), stream=track)
        length = rate = 0
        for frame in filter(None, decoded(container, track)):
            tick = float(frame.time_base)
            if not rate:
                rate = frame.sample_rate
                origin = float(frame.pts or 0) * tick if origin is None else origin
            if frame.sample_rate != rate:
                raise VideoError(f"its sound changes from {rate} to {frame.sample_rate} Hz half-way: convert it first")
            piece = frame.to_ndarray()  # planar: (channels, samples); packed: (1, samples × channels)
            piece = to_mono(piece if frame.format.is_planar else piece.reshape(-1, len(frame.layout.channels)).T)
            ahead = 0 if frame.pts is None else round((frame.pts * tick - origin - start) * rate) - length
            if not length or abs(ahead) > GAP * rate:  # go by the time stamp
                for gap in range(max(0, ahead), 0, -rate):
                    yield np.zeros(min(gap, rate), np.float32), rate
                length += max(0, ahead)
                piece = piece[max(0, -ahead) :]
            length += len(piece)
            yield piece, rate


def _resampled(pieces: Iterator[tuple[np.ndarray, int]], sample_rate: int) -> Iterator[np.ndarray]:
    """Bring pieces to int16 at `sample_rate`."""
    first = next(pieces, None)
    if first is None:
        return
    resampler = soxr.ResampleStream(first[1], sample_rate, 1, dtype="float32", quality="HQ")
    for piece, _ in itertools.chain([first], pieces):
        yield to_int16(resampler.resample_chunk(piece))
    yield to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
