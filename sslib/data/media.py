"""Decoding: the only place that knows image and sound formats. What cannot be read raises ``MediaError``."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps, UnidentifiedImageError

from sslib.config import InputError

JPEG_QUALITY = 92


class MediaError(InputError):
    """A file that cannot be decoded; the message says what is wrong with it."""


def read_image(source: Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode a picture to RGB, whatever its colour space (grey, palette, CMYK) and orientation tag.

    Parameters
    ----------
    source : a file, or the encoded bytes.
    size : squash the picture to a square of this side (bilinear, antialiased); by default it keeps its size.

    Returns
    -------
    uint8 (3, H, W)

    Raises
    ------
    MediaError
        When the bytes are no picture, or only part of one.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if size is not None:
                image.draft("RGB", (size, size))  # lets JPEG decode at 1/2, 1/4, 1/8 of its size, never below `size`
            image = ImageOps.exif_transpose(image).convert("RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"not a readable picture ({_name(source)}): {error}") from error


def read_mask(source: Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode a mask: true where the picture is not black, that is where any channel is above 0.

    Parameters
    ----------
    size : squash the mask to a square of this side (nearest pixel); by default it keeps its size.

    Returns
    -------
    bool (H, W)

    Raises
    ------
    MediaError
        As :func:`read_image`.
    """
    mask = (read_image(source) > 0).any(axis=0)
    if size is None:
        return mask
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def read_audio(source: Path | bytes, sample_rate: int) -> np.ndarray:
    """Decode a sound file (WAV, FLAC, OGG, MP3) to mono by averaging the channels, resampled by soxr (HQ).

    Returns
    -------
    int16 (samples,)

    Raises
    ------
    MediaError
        When the bytes are no sound, hold no sample, or hold values that are not finite.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        channels, rate = soundfile.read(file, dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise MediaError(f"not a readable sound ({_name(source)}): {error}") from error
    waveform = channels.mean(axis=1)
    if not len(waveform):
        raise MediaError(f"a sound without a single sample ({_name(source)})")
    if not np.isfinite(waveform).all():
        raise MediaError(f"a sound with samples that are not finite ({_name(source)})")
    samples = to_int16(waveform)
    if rate != sample_rate:  # from 16 bits in any case: a store holds no more, and must yield the same
        samples = to_int16(soxr.resample(samples.astype(np.float32) / 32768, rate, sample_rate, quality="HQ"))
    return samples


def read_window(source: Path | bytes, sample_rate: int, window: Callable[[int], slice]) -> tuple[np.ndarray, int]:
    """:func:`read_audio`, but only the samples ``window(length)``: FLAC at this rate is sought, not decoded to its end.

    Returns
    -------
    int16, as ``read_audio(source, sample_rate)[window(length)]``, and the length of the whole sound
    """
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            if file.format == "FLAC" and file.samplerate == sample_rate and file.frames:
                part = window(file.frames)
                file.seek(part.start)
                channels = file.read(part.stop - part.start, dtype="float32", always_2d=True)
                if len(channels) == part.stop - part.start:
                    return to_int16(channels.mean(axis=1)), file.frames
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError):
        pass  # read_audio says what is wrong
    waveform = read_audio(source, sample_rate)
    return waveform[window(len(waveform))], len(waveform)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Round samples in [-1, 1] to 16 bits; what is beyond is clipped."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


def to_mono(values: np.ndarray) -> np.ndarray:
    """Average the channels of samples of any format, (channels, samples), to float32 in about [-1, 1]."""
    mean = values.mean(axis=0, dtype=np.float32)
    if values.dtype.kind == "u":
        return mean / 128 - 1
    return np.nan_to_num(mean / np.float32(1.0 if values.dtype.kind == "f" else -float(np.iinfo(values.dtype).min)))


def upright(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turn and mirror by the container's display matrix, to the nearest quarter turn.

    The matrix's first four numbers of 16.16 bits, a, b, u, c, d, send (x, y) to (ax + cy, bx + dy).
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def read_flac(source: Path) -> bytes:
    """FLAC bytes of a sound file: its own where it is one, else a lossless 16-bit copy at its own rate, mono.

    Raises
    ------
    MediaError
        As :func:`read_audio`: the sound is decoded once in any case.
    """
    try:
        info = soundfile.info(source)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"not a readable sound ({source}): {error}") from error
    waveform = read_audio(source, info.samplerate)
    return source.read_bytes() if info.format == "FLAC" else encode_flac(waveform, info.samplerate)


def encode_flac(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encode a sound, int16 (samples,), without loss."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W, 3) RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _name(source: Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
