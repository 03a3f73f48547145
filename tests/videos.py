"""Makes small videos whose pictures carry their own number as 8 black or white bars, and whose sound is known."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 44100
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by number of channels


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """The bits of `number` as vertical bars, the lowest bit to the left; uint8 (H, W, 3)."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(8)], np.uint8)
    row = bars[np.arange(width) * 8 // width]
    return np.repeat(np.repeat(row[None, :, None], height, axis=0), 3, axis=2)


def number(image: np.ndarray) -> int:
    """The number that an upright picture carries, read from the middles of its bars."""
    height, width = image.shape[:2]
    bars = image[height // 2, [(2 * bit + 1) * width // 16 for bit in range(8)]].mean(axis=-1)
    return int(sum(1 << bit for bit in range(8) if bars[bit] > 127))


def tone(seconds: float, rate: int = RATE, level: float = 0.25) -> np.ndarray:
    """float32 (1, samples): 440 Hz."""
    return (level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def pitch(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency of a sound (samples,), in Hz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(np.argmax(power) * rate / (8 * len(samples)))


def click(seconds: float, at: float, rate: int = RATE, width: float = 0.002) -> np.ndarray:
    """float32 (1, samples): silence with a burst of noise-free 3 kHz that starts at `at` s."""
    samples = np.zeros((1, round(seconds * rate)), np.float32)
    start, count = round(at * rate), round(width * rate)
    samples[0, start : start + count] = 0.9 * np.cos(2 * np.pi * 3000 * np.arange(count) / rate)
    return samples


def make(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: int = 25,
    stamps: list[int] | None = None,
    size: tuple[int, int] = (64, 48),
    video: str = "libx264",
    audio: str = "aac",
    sounds: list[np.ndarray] | None = None,
    rate: int = RATE,
    rotation: int = 0,
    options: dict | None = None,
    pixels: str = "yuv420p",
    delay: float = 0.0,
    aspect: Fraction | None = None,
    start: float = 0.0,
) -> Path:
    """Write a video of pictures 0, 1, 2, … at `fps`, or at `stamps` (in ms), and one track for each of `sounds`.

    All of it begins at `start` s of the container's clock, the sound `delay` s later; `sounds` are float32 (channels,
    samples) of 1, 2 or 6 channels.
    """
    sounds = [tone(seconds, rate)] if sounds is None else sounds
    count = round(seconds * fps) if stamps is None else len(stamps)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 1000) if stamps else Fraction(1, fps)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tracks = [container.add_stream(audio, rate=rate) for _ in sounds]
        for track, samples in zip(tracks, sounds, strict=True):
            track.codec_context.layout = LAYOUTS[len(samples)]
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(picture(k % 256, *size), format="rgb24")
            first = round(start / stream.codec_context.time_base)
            frame.pts, frame.time_base = first + (stamps[k] if stamps else k), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for track, samples in zip(tracks, sounds, strict=True):
            _encode(container, track, samples, rate, round((start + delay) * rate))
    return path


def _encode(container, track, samples: np.ndarray, rate: int, first: int) -> None:
    resampler = av.AudioResampler(format=track.codec_context.format, layout=track.codec_context.layout, rate=rate)
    fifo, step = av.AudioFifo(), track.codec_context.frame_size or 1024
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=track.codec_context.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    for converted in resampler.resample(frame):
        fifo.write(converted)
    position = first
    while piece := fifo.read(step, partial=True):
        piece.pts, piece.time_base = position, Fraction(1, rate)
        position += piece.samples
        container.mux(track.encode(piece))
    container.mux(track.encode(None))
