"""The wanted pictures of a video track: which packets must be decoded for them, upright, small, square pixels."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from sslib.config import InputError

SHORT_SIDE = 256  # pixels; pictures that are smaller stay as they are
LATE = 0.0005  # s: a picture this late still counts as in time, because many containers round to milliseconds
SHORTEST = 0.002  # s: the last picture does not count as on display at a time that is this close to its end


class VideoError(InputError):
    """A file that is no usable video; the message says what is wrong with it and what to do, without its name."""


def take(
    video: Any, packets: list, wanted: Iterable[float], thorough: bool, notes: list[str]
) -> tuple[list[tuple[float, np.ndarray]], float, float, int]:
    """Wanted pictures with their times, when the first picture is shown on the container's clock, length, count."""
    wanted, again = itertools.tee(wanted)
    shown = [] if video.container.format.name == "avi" else _timeline(packets)
    base = float(video.time_base)
    if shown and not thorough:
        start, last = shown[0], shown[-1]
        seconds = (last - start) * base + _last_duration(video, packets, last)
        stamps = [((pts - start) * base, pts) for pts in shown]
        plan = list(_pick([*stamps, (max(seconds - SHORTEST, 2 * LATE), None)], wanted))
        decoded = _decode_some(video, packets, {pts for _, pts in plan})
        if decoded is not None:
            return [(time, decoded[pts]) for time, pts in plan], start * base, seconds, len(shown)
    return _decode_all(video, packets, again, notes)


def _pick(shown: Iterable[tuple[float, Any]], wanted: Iterable[float]) -> Iterator[tuple[float, Any]]:
    """``(time, picture)`` for each wanted time; `shown` is ``(when it appears, picture)`` in order, None at the end."""
    times = itertools.chain(wanted, itertools.repeat(math.inf))
    time, picture = next(times), None
    for appears, following in shown:
        while picture is not None and time + LATE < appears:
            yield time, picture
            time = next(times)
        picture = following


def _timeline(packets: list) -> list[int]:
    """Time stamps of the pictures that will be shown, in order; empty where packets lack them."""
    first = next((i for i, packet in enumerate(packets) if packet.is_keyframe), None)
    if first is None or any(packet.pts is None for packet in packets[first:]):
        return []
    return sorted(p.pts for p in packets[first:] if not p.is_discard and p.pts >= packets[first].pts)


def _last_duration(video: Any, packets: list, last: int) -> float:
    """Seconds for which the picture of the time stamp `last` is shown."""
    ticks = next((packet.duration for packet in packets if packet.pts == last), None)
    return float(ticks * video.time_base) if ticks else _interval(video)


def _interval(video: Any) -> float:
    """Seconds from one picture to the next, on average, as the container says."""
    rate = video.average_rate or video.guessed_rate
    return 1 / float(rate) if rate else 0.04


def _decode_some(video: Any, packets: list, wanted: set[int]) -> dict[int, np.ndarray] | None:
    """The pictures of the wanted time stamps, from the key picture before each; None where one does not come out."""
    needed, earliest = [False] * len(packets), math.inf
    for i in range(len(packets) - 1, -1, -1):
        if packets[i].pts in wanted:
            earliest = min(earliest, packets[i].pts)
        needed[i] = earliest < math.inf
        if packets[i].is_keyframe and packets[i].pts <= earliest:
            earliest = math.inf  # nothing before this one is needed for what comes after it
    convert, found, context = Converter(video), {}, video.codec_context
    try:
        for is_needed, run in itertools.groupby(zip(needed, packets, strict=True), key=lambda pair: pair[0]):
            for packet in [packet for _, packet in run] + [None] if is_needed else []:
                # a picture that no other one refers to is skipped, unless it is wanted
                context.skip_frame = "DEFAULT" if packet is None or packet.pts in wanted else "NONREF"
                for frame in context.decode(packet):
                    if frame.pts in wanted and not frame.is_corrupt:
                        found[frame.pts] = convert(frame)
            context.flush_buffers()
    except av.FFmpegError:
        return None
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()
    return found if found.keys() == wanted else None


def _decode_all(
    video: Any, packets: list, wanted: Iterable[float], notes: list[str]
) -> tuple[list[tuple[float, np.ndarray]], float, float, int]:
    """As `take`, by decoding every picture there is."""
    start = end = last = None
    count = damaged = 0
    # AVI knows when pictures appear, but not which one: its stamps are those of decoding
    ranks = sorted(p.dts for p in packets if p.dts is not None) if video.container.format.name == "avi" else []

    def frames() -> Iterator[tuple[float, Any]]:
        nonlocal start, end, last, count, damaged
        for packet in [*packets, None]:
            try:
                decoded = video.codec_context.decode(packet)
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in decoded:
                stamp = frame.pts if frame.pts is not None else frame.dts
                if ranks:
                    stamp = ranks[count] if count < len(ranks) else None
                time = (end or 0.0) if stamp is None else float(stamp * video.time_base)
                if last is None or time > last:
                    start, last, count = time if start is None else start, time, count + 1
                    end = time + (float((frame.duration or 0) * video.time_base) or _interval(video))
                    yield time - start, frame
        if count:
            yield max(end - start - SHORTEST, 2 * LATE), None

    convert = Converter(video)
    taken = [(time, convert(frame)) for time, frame in _pick(frames(), wanted)]
    if not count:
        raise VideoError(f"not one of {len(packets)} pictures can be decoded" if packets else "not one picture in it")
    if damaged:
        notes.append(f"damaged: {damaged} of {len(packets)} pictures cannot be decoded")
    return taken, start, end - start, count


class Converter:
    """Decoded pictures to arrays: upright, square pixels, short side at most 256, uint8 (H, W, 3) RGB."""

    def __init__(self, video: Any):
        self.aspect = float(video.sample_aspect_ratio or 1) or 1.0
        self.scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = frame.width * self.aspect, frame.height
        scale = min(1.0, SHORT_SIDE / min(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = self.scaler.reformat(frame, *size, format="rgb24", interpolation="BICUBIC")  # at once: 8K is big
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return np.ascontiguousarray(upright(small.to_ndarray(), bytes(matrix)) if matrix else small.to_ndarray())


def upright(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turn and mirror by the container's display matrix, to the nearest quarter turn.

    The matrix's first four numbers of 16.16 bits, a, b, u, c, d, send (x, y) to (ax + cy, bx + dy).
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
