"""Videos to frames and audio: the only place that knows containers and codecs (FFmpeg through PyAV, soxr).

One clock: time 0 is when the first picture of the video is shown, for the sound too. Frame k (1-based) is the picture
on display at (k - 1) / frame_rate, whatever the video's own, possibly variable, frame rate.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soxr
from av.video.reformatter import VideoReformatter

from sslib.config import InputError
from sslib.data.media import to_int16, to_mono, upright

SHORT_SIDE = 256  # pixels; pictures that are smaller stay as they are
MAX_PIXELS = 16384 * 8640  # of one picture: twice 8K each way
MAX_BYTES = 2**30  # compressed pictures and sound of one clip, held in memory
LATE = 0.0005  # s: a picture this late still counts as in time, because many containers round to milliseconds
SHORTEST = 0.002  # s: the last picture does not count as on display at a time that is this close to its end
GAP = 0.05  # s: where sound and its time stamps differ by more, the stamps are right
CONTAINERS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,rm,mxf,nut,dv,gif,wav,mp3,flac,aac"
OTHERS = {  # what lies among videos most often, by its first bytes in lower case
    "a zip archive: unpack it first (sslib.data.published)": b"pk\x03\x04",
    "a gzip archive: unpack it first (sslib.data.published)": b"\x1f\x8b",
    "a picture": (b"\xff\xd8\xff", b"\x89png"),
    "a web page: a download that failed": (b"<!doctype html", b"<html"),
}


class VideoError(InputError):
    """A file that is no usable video; the message says what is wrong with it and what to do, without its name."""


class TooLong(VideoError):
    """A video that is longer than is allowed."""


class Video(NamedTuple):
    frames: list[np.ndarray]  # uint8 (H, W, 3) RGB, upright, square pixels, short side at most 256
    waveform: np.ndarray  # int16 (samples,) mono at the wanted rate
    seconds: float  # from the first picture to the end of the last
    width: int  # pixels of the source as stored, before rotation
    height: int
    frame_rate: float  # Hz, the source's pictures per second on average
    audio_rate: int  # Hz, of the source
    notes: list[str]  # what a reader of the manifest should know


def read(
    path: Path, *, frame_rate: float = 1.0, at: float | None = None, sample_rate: int = 24000, max_seconds: float = 60.0
) -> Video:
    """Read the frames at a frame rate, or the one at an exact time, and all of the sound, in one pass over the file.

    Parameters
    ----------
    frame_rate : frames per second to take, from 0 s to before the end; none is repeated past the end.
    at : take only the frame on display at this time, in s (VGG-SS's boxes are drawn on 5.0 s).
    sample_rate : of the sound, in Hz; mono is the mean of the channels, resampled by soxr (HQ).
    max_seconds : a longer video is refused (the field's clips have 10 s); sound that goes on for longer is cut. What
        counts is what the file holds, not the duration that it claims.

    Raises ``VideoError`` when the file is no video, has no picture, no sound or no picture at the wanted time, or is
    too long (``TooLong``) or large.
    """

    def pick(shown: Iterable) -> Iterator:
        return pick_shown(shown, (k / frame_rate for k in itertools.count()) if at is None else iter([at, math.inf]))

    with open_container(path) as container:
        video, audio, notes = choose_tracks(container)
        packets = _demux(container, video, audio, max_seconds, notes)
        pictures = packets[video.index]
        found = _decode_wanted(video, pictures, pick) or _decode_all(video, pictures, pick, notes)
        frames, start, seconds, count = found
        if not frames:
            raise VideoError(f"no picture at {at:g} s: the video ends at {seconds:.2f} s")
        waveform, audio_rate = _audio(audio, packets[audio.index], start, max_seconds, notes)
        waveform = to_int16(soxr.resample(waveform, audio_rate, sample_rate, quality="HQ"))
        sound, claimed = len(waveform) / sample_rate, (container.duration or 0) / av.time_base
        if claimed > 0 and abs(claimed - max(seconds, sound)) > 1:
            notes.append(f"claims to last {claimed:.1f} s")
        if abs(sound - seconds) > 0.5:
            notes.append(f"pictures for {seconds:.2f} s, sound for {sound:.2f} s")
        size = video.codec_context.width, video.codec_context.height
        return Video(frames, waveform, seconds, *size, count / seconds, audio_rate, notes)


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file; ``VideoError`` says what it is, where it is no video."""
    if not path.stat().st_size:
        raise VideoError("an empty file (0 bytes)")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:  # with the protocol spelt out: a name may hold a colon
        return av.open(f"file:{path}", metadata_errors="replace", options=options)
    except (av.FFmpegError, ValueError) as error:
        with path.open("rb") as file:
            first = file.read(64).lstrip().lower()
        for what in (what for what, marks in OTHERS.items() if first.startswith(marks)):
            raise VideoError(f"not a video but {what}") from error
        why = getattr(error, "strerror", None) or error
        raise VideoError(f"not a video, or cut off before its contents can be found ({why})") from error


def choose_tracks(container: av.container.InputContainer) -> tuple[Any, Any, list[str]]:
    """Choose the picture track and the sound track to use; add notes."""
    every, notes = container.streams, []
    video, audio = every.best("video"), every.best("audio")
    if video is None or video.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("no picture track")
    if audio is None:
        raise VideoError("no sound track")
    for stream, tracks, what in (audio, every.audio, "sound"), (video, every.video, "picture"):
        if stream.codec_context is None:
            raise VideoError(f"a {what} track in a format that this FFmpeg cannot decode")
        stream.codec_context.thread_count = 1  # many clips at once use the cores better than threads within one
        if len(tracks) > 1:
            notes.append(f"{len(tracks)} {what} tracks: used number {1 + tracks.index(stream)}")
    if video.width * video.height > MAX_PIXELS:
        raise VideoError(f"pictures of {video.width}x{video.height}: more than {MAX_PIXELS:,} pixels")
    video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return video, audio, notes


def _demux(container: Any, video: Any, audio: Any, max_seconds: float, notes: list[str]) -> dict[int, list]:
    """Read the packets of both tracks, by stream index: compressed, so that all fit in memory."""
    packets: dict[int, list[av.Packet]] = {video.index: [], audio.index: []}
    first, size, ticks = None, 0, {stream.index: float(stream.time_base) for stream in (video, audio)}
    try:
        for packet in (packet for packet in container.demux(video, audio) if packet.size):
            when = packet.dts if packet.pts is None else packet.pts
            if when is not None:
                when *= ticks[packet.stream_index]
                first = when if first is None and packet.stream_index == video.index else first
                if first is not None and when - first >= max_seconds:
                    if packet.stream_index == audio.index:
                        continue
                    what = f"longer than {max_seconds:g} s (a picture at {when - first:.1f} s)"
                    cut, allow = "have it cut into clips by --clip-seconds 10", "allow more by --max-seconds"
                    raise TooLong(f"{what}: {cut}, or {allow} (data.clip_seconds, data.max_seconds in a YAML)")
            size += packet.size
            if size > MAX_BYTES:
                raise VideoError(f"more than {MAX_BYTES:,} bytes of pictures and sound: compress it further")
            packets[packet.stream_index].append(packet)
    except av.FFmpegError as error:
        notes.append(f"damaged: reading stopped early ({error.strerror or error})")
    return packets


def pick_shown(shown: Iterable[tuple[float, Any]], times: Iterator[float]) -> Iterator[Any]:
    """Yield the picture on display at each of `times`; `shown` is ``(when it appears, picture)``, None at the end."""
    time, picture = next(times), None
    for appears, following in shown:
        while picture is not None and time + LATE < appears:
            yield picture
            time = next(times)
        picture = following


def _decode_wanted(video: Any, packets: list, pick: Callable[[Iterable], Iterator]) -> tuple | None:
    """As :func:`_decode_all`, but without pictures that no other one refers to: that saves a sixth of the time.

    None where the file's marks do not suffice for that, or where a wanted picture does not come out.
    """
    packets = list(itertools.dropwhile(lambda packet: not packet.is_keyframe, packets))
    stamps = [packet.pts for packet in packets if not packet.is_discard]
    if video.container.format.name == "avi" or not stamps or any(packet.pts is None for packet in packets):
        return None
    stamps = sorted(stamp for stamp in stamps if stamp >= packets[0].pts)
    ticks = next(packet.duration for packet in packets if packet.pts == stamps[-1])
    base, start = float(video.time_base), stamps[0]
    seconds = (stamps[-1] - start) * base + (ticks * base if ticks else mean_interval(video))
    shown = [((stamp - start) * base, stamp) for stamp in stamps]
    plan = list(pick([*shown, (max(seconds - SHORTEST, 2 * LATE), None)]))
    needed = set(plan)
    begin = max((i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= min(plan, default=0)), default=0)
    convert, images, context = converter(video), {}, video.codec_context
    with contextlib.suppress(av.FFmpegError):
        for packet in [*packets[begin:], None]:
            if images.keys() == needed:
                break
            context.skip_frame = "DEFAULT" if packet is None or packet.pts in needed else "NONREF"
            for frame in context.decode(packet):
                if frame.pts in needed and not frame.is_corrupt:
                    images[frame.pts] = convert(frame)
    context.skip_frame = "DEFAULT"
    context.flush_buffers()
    if images.keys() != needed:
        return None
    return [images[stamp] for stamp in plan], start * base, seconds, len(stamps)


def mean_interval(video: Any) -> float:
    """Seconds from one picture to the next, on average, as the container says."""
    return 1 / float(video.average_rate or video.guessed_rate or 25)


def _decode_all(video: Any, packets: list, pick: Callable[[Iterable], Iterator], notes: list[str]) -> tuple:
    """Decode every picture there is, to take those on display at the wanted times.

    Returns the frames (as in `Video`); when the first picture is shown, in s on the container's clock; the length of
    the video in s; the number of all its pictures.
    """
    times, end, damaged = [], 0.0, 0  # when each picture appears and the last one ends, in s on the container's clock
    avi = video.container.format.name == "avi"  # which knows when pictures appear, but not which one
    ranks = sorted(packet.dts for packet in packets if avi and packet.dts is not None)

    def shown() -> Iterator[tuple[float, Any]]:
        nonlocal end, damaged
        for frame in _decode(video, packets):
            if frame is None:
                damaged += 1
                continue
            stamp = frame.pts if frame.pts is not None else frame.dts
            if ranks:
                stamp = ranks[len(times)] if len(times) < len(ranks) else None
            time = end if stamp is None else float(stamp * video.time_base)
            if not times or time > times[-1]:
                times.append(time)
                end = time + (float((frame.duration or 0) * video.time_base) or mean_interval(video))
                yield time - times[0], frame
        if times:
            yield max(end - times[0] - SHORTEST, 2 * LATE), None

    frames = list(map(converter(video), pick(shown())))
    if not times:
        raise VideoError(f"not one of {len(packets)} pictures can be decoded" if packets else "not one picture in it")
    if damaged:
        notes.append(f"damaged: {damaged} of {len(packets)} pictures cannot be decoded")
    return frames, times[0], end - times[0], len(times)


def converter(video: Any, short_side: int = SHORT_SIDE) -> Callable[[av.VideoFrame], np.ndarray]:
    """Make the function that turns decoded pictures into frames as in `Video`, at most `short_side` pixels high."""
    scaler, aspect = VideoReformatter(), float(video.sample_aspect_ratio or 1) or 1.0

    def convert(picture: av.VideoFrame) -> np.ndarray:
        width, height = picture.width * aspect, picture.height
        scale = min(1.0, short_side / min(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = scaler.reformat(picture, *size, format="rgb24", interpolation="BICUBIC").to_ndarray()  # 8K is big
        matrix = picture.side_data.get("DISPLAYMATRIX")
        return np.ascontiguousarray(upright(small, bytes(matrix)) if matrix else small)

    return convert


def _audio(audio: Any, packets: list, start: float, max_seconds: float, notes: list[str]) -> tuple[np.ndarray, int]:
    """Decode the sound, float32 (samples,) mono from time `start` of the container's clock, and say its rate in Hz."""
    mono, pieces = [], []  # (samples,); (channels, samples), about a second of them: what is small is quick
    rate = length = filled = damaged = 0

    def flush() -> None:
        if pieces:
            mono.append(to_mono(np.concatenate(pieces, axis=1)))
            pieces.clear()

    for frame in _decode(audio, packets):
        if frame is None:
            damaged += 1
            continue
        if not rate:
            rate, tick, limit = frame.sample_rate, float(frame.time_base), math.ceil(max_seconds * frame.sample_rate)
        if frame.sample_rate != rate:
            raise VideoError(f"its sound changes from {rate} to {frame.sample_rate} Hz half-way: convert it first")
        piece = frame.to_ndarray()  # planar: (channels, samples); packed: (1, samples × channels)
        if not frame.format.is_planar:
            piece = piece.reshape(-1, len(frame.layout.channels)).T
        ahead = 0 if frame.pts is None else round((frame.pts * tick - start) * rate) - length
        if not length or abs(ahead) > GAP * rate:  # go by the time stamp
            flush()
            filled += max(0, ahead) if length else 0
            mono.append(np.zeros(min(max(0, ahead), limit - length), np.float32))
            length += len(mono[-1])
            piece = piece[:, max(0, -ahead) :]
        if len(pieces) == 40 or (pieces and (len(piece), piece.dtype) != (len(pieces[0]), pieces[0].dtype)):
            flush()  # the channels may change half-way
        pieces.append(piece[:, : limit - length])
        length += pieces[-1].shape[1]
    if not rate:
        raise VideoError(f"none of {len(packets)} parts of its sound can be decoded" if packets else "no sound in it")
    if damaged:
        notes.append(f"damaged: {damaged} of {len(packets)} parts of the sound cannot be decoded")
    if filled:
        notes.append(f"gaps in the sound: {filled / rate:.2f} s filled with silence")
    flush()
    return np.concatenate(mono), rate


def _decode(track: Any, packets: list) -> Iterator[Any]:
    """Yield the pictures or the pieces of sound; None for a packet that is damaged."""
    for packet in [*packets, None]:
        try:
            yield from track.codec_context.decode(packet)
        except av.FFmpegError:
            yield None
