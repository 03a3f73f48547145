"""Videos to frames and sound: the only place that knows containers and codecs (FFmpeg through PyAV, soxr).

One clock: time 0 is when the first picture of the video is shown, for the sound too. Frame k (1-based) is the picture
on display at (k - 1) / frame_rate, whatever the video's own, possibly variable, frame rate.
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

from sslib.data import pictures
from sslib.data.media import to_int16
from sslib.data.pictures import VideoError

MAX_SECONDS = 60.0  # the field's clips have 10 s; a longer source is another kind of data, cut it first
MAX_PIXELS = 16384 * 8640  # of one picture: twice 8K each way
MAX_BYTES = 2**30  # compressed pictures and sound of one clip, held in memory
GAP = 0.05  # s: where sound and its time stamps differ by more, the stamps are right
CONTAINERS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,rm,mxf,nut,dv,gif,wav,mp3,flac,aac"
OTHERS = {  # the first bytes of what lies among videos most often
    b"PK\x03\x04": "a zip archive: unpack it first (sslib.data.published)",
    b"\x1f\x8b": "a gzip archive: unpack it first (sslib.data.published)",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
    b"<!doctype html": "a web page: a download that failed",
    b"<html": "a web page: a download that failed",
}


class Video(NamedTuple):
    """What was read of a video."""

    frames: list[np.ndarray]  # uint8 (H, W, 3) RGB, upright, square pixels, short side at most 256
    times: list[float]  # s, when each frame is on display
    waveform: np.ndarray  # int16 (samples,) mono
    sample_rate: int  # Hz, of `waveform`
    seconds: float  # from the first picture to the end of the last
    width: int  # pixels of the source as stored, before rotation
    height: int
    frame_rate: float  # Hz, the source's pictures per second on average
    audio_rate: int  # Hz, of the source
    notes: list[str]  # what a reader of the manifest should know


def read(
    path: Path,
    *,
    frame_rate: float = 1.0,
    at: float | None = None,
    sample_rate: int = 24000,
    max_seconds: float = MAX_SECONDS,
    thorough: bool = False,
) -> Video:
    """Read the frames at a frame rate, or the one at an exact time, and all of the sound, in one pass over the file.

    Pictures that are neither wanted nor needed to decode a wanted one are not decoded: for a single time that is
    seeking. Where the file's marks of what needs what turn out wrong, all of it is decoded.

    Parameters
    ----------
    frame_rate : frames per second to take, from 0 s to before the end; none is repeated past the end.
    at : take only the frame on display at this time, in s (VGG-SS's boxes are drawn on 5.0 s).
    sample_rate : of the sound, in Hz; mono is the mean of the channels, resampled by soxr (HQ).
    max_seconds : a longer video is refused; sound that goes on for longer is cut. What counts is what the file holds,
        not the duration that it claims.
    thorough : decode every picture (slower; the same frames).

    Raises
    ------
    VideoError
        When the file is no video, has no picture, no sound or no picture at the wanted time, or is too long or large.
    """
    if not path.stat().st_size:
        raise VideoError("an empty file (0 bytes)")
    try:
        container = av.open(
            f"file:{path}",  # the protocol spelt out: a name may hold a colon
            metadata_errors="replace",
            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS},
        )
    except (av.FFmpegError, ValueError) as error:
        if what := _other(path):
            raise VideoError(f"not a video but {what}") from error
        raise VideoError(f"not a video, or cut off before its contents can be found ({_why(error)})") from error
    with container:
        video, audio, notes = _streams(container)
        packets = _demux(container, video, audio, max_seconds, notes)
        wanted = [at] if at is not None else (k / frame_rate for k in itertools.count())
        taken, start, seconds, count = pictures.take(video, packets[video.index], wanted, thorough, notes)
        if not taken:
            raise VideoError(f"no picture at {at:g} s: the video ends at {seconds:.2f} s")
        waveform, audio_rate = _sound(audio, packets[audio.index], start, sample_rate, max_seconds, notes)
        _compare_lengths(container, seconds, len(waveform) / sample_rate, notes)
        times, frames = zip(*taken, strict=True)
        size = video.codec_context.width, video.codec_context.height
        return Video(
            list(frames), list(times), waveform, sample_rate, seconds, *size, count / seconds, audio_rate, notes
        )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _other(path: Path) -> str | None:
    """What a file is that is no video, where that is known."""
    with path.open("rb") as file:
        first = file.read(64).lstrip()
    return next((what for mark, what in OTHERS.items() if first.lower().startswith(mark.lower())), None)


def _streams(container: av.container.InputContainer) -> tuple[Any, Any, list[str]]:
    """The picture track and the sound track to use, and notes."""
    video, audio = container.streams.best("video"), container.streams.best("audio")
    if video is None or video.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("no picture track")
    if audio is None:
        raise VideoError("no sound track")
    for stream, what in ((video, "pictures"), (audio, "sound")):
        if stream.codec_context is None:
            raise VideoError(f"{what} in a format that this FFmpeg cannot decode")
        stream.codec_context.thread_count = 1  # many clips at once use the cores better than threads within one
    if video.width * video.height > MAX_PIXELS:
        raise VideoError(f"pictures of {video.width}x{video.height}: more than {MAX_PIXELS:,} pixels")
    video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    notes = []
    if len(container.streams.audio) > 1:
        number = 1 + [stream.index for stream in container.streams.audio].index(audio.index)
        notes.append(f"{len(container.streams.audio)} sound tracks: used number {number}")
    if len(container.streams.video) > 1:
        notes.append(f"{len(container.streams.video)} picture tracks: used the best")
    return video, audio, notes


def _demux(container: Any, video: Any, audio: Any, max_seconds: float, notes: list[str]) -> dict[int, list]:
    """The packets of both tracks by stream index: compressed, so that all fit in memory."""
    packets: dict[int, list[av.Packet]] = {video.index: [], audio.index: []}
    first, size = None, 0
    ticks = {stream.index: float(stream.time_base) for stream in (video, audio)}
    try:
        for packet in container.demux(video, audio):
            when = packet.dts if packet.pts is None else packet.pts
            if not packet.size:
                continue
            if when is not None:
                when *= ticks[packet.stream_index]
                first = when if first is None and packet.stream_index == video.index else first
                if first is not None and when - first >= max_seconds:
                    if packet.stream_index == audio.index:
                        continue
                    raise VideoError(
                        f"longer than {max_seconds:g} s (a picture at {when - first:.1f} s): "
                        "cut it into clips, or allow more by --max-seconds"
                    )
            size += packet.size
            if size > MAX_BYTES:
                raise VideoError(f"more than {MAX_BYTES:,} bytes of pictures and sound: compress it further")
            packets[packet.stream_index].append(packet)
    except av.FFmpegError as error:
        notes.append(f"damaged: reading stopped early ({_why(error)})")
    return packets


def _sound(
    audio: Any, packets: list, start: float, sample_rate: int, max_seconds: float, notes: list[str]
) -> tuple[np.ndarray, int]:
    """The sound, int16 (samples,) from time `start` of the container's clock, and its rate in the file."""
    writer, damaged = None, 0
    for frame in _sound_frames(audio, packets):
        if frame is None:
            damaged += 1
            continue
        if writer is None:
            writer = _SoundWriter(frame, start, sample_rate, max_seconds)
        writer.add(frame)
    if writer is None:
        raise VideoError(
            f"not one of {len(packets)} parts of its sound can be decoded" if packets else "no sound in it"
        )
    if damaged:
        notes.append(f"damaged: {damaged} of {len(packets)} parts of the sound cannot be decoded")
    waveform = writer.finish()
    if writer.filled:
        notes.append(f"gaps in the sound: {writer.filled / writer.rate:.2f} s filled with silence")
    return waveform, writer.rate


class _SoundWriter:
    """Puts decoded pieces where their time stamps say, averages the channels and resamples, a second at once."""

    def __init__(self, frame: av.AudioFrame, start: float, sample_rate: int, max_seconds: float):
        self.rate, self.start, self.limit = frame.sample_rate, start, math.ceil(max_seconds * frame.sample_rate)
        self.tick = float(frame.time_base)
        self.resampler = soxr.ResampleStream(self.rate, sample_rate, 1, dtype="float32", quality="HQ")
        self.pieces: list[np.ndarray] = []  # (channels, samples), not yet resampled
        self.pending = self.length = self.filled = 0  # samples: in `pieces`, so far, of silence put into gaps
        self.chunks: list[np.ndarray] = []

    def add(self, frame: av.AudioFrame) -> None:
        if frame.sample_rate != self.rate:
            raise VideoError(f"its sound changes from {self.rate} to {frame.sample_rate} Hz half-way: convert it first")
        ahead = 0 if frame.pts is None else round((frame.pts * self.tick - self.start) * self.rate) - self.length
        piece = frame.to_ndarray()  # planar: (channels, samples); packed: (1, samples × channels)
        if not frame.format.is_planar:
            piece = piece.reshape(-1, len(frame.layout.channels)).T
        if self.length == 0 or abs(ahead) > GAP * self.rate:
            self._resample()
            self.filled += max(0, ahead) if self.length else 0
            silence = np.zeros(min(max(0, ahead), self.limit - self.length), np.float32)
            self.chunks.append(self.resampler.resample_chunk(silence))
            self.length += len(silence)
            piece = piece[:, max(0, -ahead) :]
        piece = piece[:, : self.limit - self.length]
        if self.pieces and (len(piece), piece.dtype) != (len(self.pieces[0]), self.pieces[0].dtype):
            self._resample()  # the channels change half-way
        self.pieces.append(piece)
        self.length += piece.shape[1]
        self.pending += piece.shape[1]
        if self.pending >= self.rate:
            self._resample()

    def _resample(self) -> None:
        if self.pieces:
            self.chunks.append(self.resampler.resample_chunk(_mono(np.concatenate(self.pieces, axis=1))))
        self.pieces, self.pending = [], 0

    def finish(self) -> np.ndarray:
        """int16 (samples,)"""
        self._resample()
        self.chunks.append(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return to_int16(np.concatenate(self.chunks))


def _sound_frames(audio: Any, packets: list) -> Iterator[Any]:
    """Decoded pieces of sound; None for a packet that is damaged."""
    for packet in [*packets, None]:
        try:
            yield from audio.codec_context.decode(packet)
        except av.FFmpegError:
            yield None


def _mono(values: np.ndarray) -> np.ndarray:
    """Samples of any format, (channels, samples), to their mean over the channels, float32 in about [-1, 1]."""
    mean = values.mean(axis=0, dtype=np.float32)
    if values.dtype.kind == "u":
        return mean / 128 - 1
    return np.nan_to_num(mean / np.float32(1.0 if values.dtype.kind == "f" else -float(np.iinfo(values.dtype).min)))


def _compare_lengths(container: Any, seconds: float, sound: float, notes: list[str]) -> None:
    """Note where the claimed duration or that of the sound is another than that of the pictures."""
    claimed = (container.duration or 0) / av.time_base
    if claimed > 0 and abs(claimed - max(seconds, sound)) > 1:
        notes.append(f"claims to last {claimed:.1f} s")
    if abs(sound - seconds) > 0.5:
        notes.append(f"pictures for {seconds:.2f} s, sound for {sound:.2f} s")
