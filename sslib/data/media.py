"""Decode and encode images and sounds, and cut from a clip the part that a configuration uses.

The only place that knows image and sound formats, and the one clock that folders, store and loaders share. What cannot
be read or cut raises ``MediaError``.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps, UnidentifiedImageError

from sslib.config import InputError

if TYPE_CHECKING:
    from sslib.config import Data

UNREADABLE = soundfile.LibsndfileError, OSError, RuntimeError, TypeError  # what soundfile raises of a file
REMEDY = "take the clip off the list, or name another time or frame in data"
JPEG_QUALITY = 92
PART = re.compile(r"(.+)@\d{6,}", re.ASCII)  # NAME@000010: the part of the video NAME that begins at 10 s
CLASH = "the same clip id as another file"
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


class MediaError(InputError):
    """A file that cannot be decoded; the message says what is wrong with it."""


def read_image(source: Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode a picture to RGB, uint8 (3, H, W), whatever its colour space (grey, palette, CMYK) and orientation tag.

    With `size` it is squashed to a square of this side (bilinear, antialiased). Raises ``MediaError`` when the file, or
    these encoded bytes, are no picture or only part of one.
    """
    try:
        with Image.open(_file(source)) as image:
            if size is not None:
                image.draft("RGB", (size, size))  # lets JPEG decode at 1/2, 1/4, 1/8 of its size, never below `size`
            image = ImageOps.exif_transpose(image).convert("RGB")
            if size is not None:
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"not a readable picture ({_name(source)}): {error}") from error


def read_mask(source: Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode a mask, bool (H, W): true where the picture is not black, that is where any channel is above 0.

    With `size` it is squashed to a square of this side (nearest pixel). Raises ``MediaError`` as :func:`read_image`.
    """
    mask = (read_image(source) > 0).any(axis=0)
    size = mask.shape[::-1] if size is None else (size, size)
    return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def read_audio(source: Path | bytes, sample_rate: int) -> np.ndarray:
    """Decode a sound file (WAV, FLAC, OGG, MP3) to mono, int16 (samples,): channels averaged, resampled by soxr (HQ).

    Raises ``MediaError`` when the bytes are no sound, hold no sample, or hold values that are not finite.
    """
    try:
        channels, rate = soundfile.read(_file(source), dtype="float32", always_2d=True)  # (samples, channels)
    except UNREADABLE as error:
        raise MediaError(f"not a readable sound ({_name(source)}): {error}") from error
    waveform = channels.mean(axis=1)
    if not len(waveform):
        raise MediaError(f"a sound without a single sample ({_name(source)})")
    if not np.isfinite(waveform).all():
        raise MediaError(f"a sound with samples that are not finite ({_name(source)})")
    return resample(waveform, rate, sample_rate)


def resample(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Bring samples in [-1, 1] from one rate to another (Hz), as int16; what is beyond is clipped."""
    samples = to_int16(waveform)
    if rate != sample_rate:  # from 16 bits in any case: a store holds no more, and must yield the same
        samples = to_int16(soxr.resample(samples.astype(np.float32) / 32768, rate, sample_rate, quality="HQ"))
    return samples


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Round samples in [-1, 1] to 16 bits; what is beyond is clipped."""
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)


def to_mono(values: np.ndarray) -> np.ndarray:
    """Average the channels of samples of any format, (channels, samples), to float32 in about [-1, 1]."""
    mean = values.mean(axis=0, dtype=np.float32)
    if values.dtype.kind == "u":
        return mean / 128 - 1
    return np.nan_to_num(mean / np.float32(1.0 if values.dtype.kind == "f" else -float(np.iinfo(values.dtype).min)))


def loudness(waveform: np.ndarray) -> dict[str, float]:
    """Measure RMS and peak of int16 samples, in dB of full scale, to a tenth."""
    samples = np.abs(waveform.astype(np.float64)) / 32768 if len(waveform) else np.zeros(1)
    values = {"rms_dbfs": np.sqrt(np.mean(samples**2)), "peak_dbfs": samples.max()}
    return {name: round(20 * math.log10(value), 1) if value else -math.inf for name, value in values.items()}


def upright(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """Turn and mirror by the container's display matrix, to the nearest quarter turn.

    The matrix's first four numbers of 16.16 bits, a, b, u, c, d, send (x, y) to (ax + cy, bx + dy).
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def read_flac(source: Path) -> bytes:
    """Read a sound file as FLAC: its own bytes where it is one, else a lossless 16-bit copy at its own rate, mono.

    Raises ``MediaError`` as :func:`read_audio`: the sound is decoded once in any case.
    """
    try:
        info = soundfile.info(source)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"not a readable sound ({source}): {error}") from error
    waveform = read_audio(source, info.samplerate)
    return source.read_bytes() if info.format == "FLAC" else encode_flac(waveform, info.samplerate)


def read_jpeg(source: Path) -> bytes:
    """Read the bytes of an image file. Raises ``MediaError`` as :func:`read_image`: it is decoded once, in small."""
    read_image(source, 8)  # JPEG at an eighth of its size, which still reads every byte of it
    return source.read_bytes()


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


def encode_mp3(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encode a sound, float (samples,) in [-1, 1], small and playable in any browser; other rates than MP3's go up."""
    rate = next((one for one in MP3_RATES if one >= sample_rate), MP3_RATES[-1])
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(soxr.resample(waveform, sample_rate, rate), -1, 1), rate, format="MP3")
    return buffer.getvalue()


def encode_webp(image: Image.Image, **options: object) -> bytes:
    """Encode a picture as browsers like it; `options` are Pillow's, for example ``quality`` or ``lossless``."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class ClipWindow:
    """The part of a clip that a configuration uses: the frame at its time and the sound around it (``config.Data``).

    Frame k (1-based) of a clip prepared at f frames per second shows the time (k - 1) / f.
    """

    time: Literal["middle", "random"] | float  # s
    frame: int | None
    frame_rate: float  # Hz
    seconds: float
    sample_rate: int  # Hz

    @classmethod
    def of(cls, data: Data) -> Self:
        return cls(**{name: getattr(data, name) for name in cls.__dataclass_fields__})

    @property
    def samples(self) -> int:
        """Length of the sound."""
        return round(self.seconds * self.sample_rate)

    def time_of(self, samples: int, position: float = 0.5) -> float:
        """Choose the time (s) to use in a clip of `samples`; one that is not named is at `position` of its length."""
        length = samples / self.sample_rate
        if isinstance(self.time, str):
            return position * length
        if self.time > length:
            raise MediaError(f"its sound ends at {length:.2f} s, before data.time ({self.time:g} s): {REMEDY}")
        return self.time

    def frame_number(self, time: float, there: Collection[int]) -> int:
        """Choose one of the frames `there` (numbers): the nearest to `time`, or with ``data.frame`` that one.

        The last one also serves the half of its time that is nearer to a next; a single picture is a still and serves
        every time. Where no time is named (middle, random) and sound goes on after the pictures, it is the last one.
        """
        number, last = self.frame or int(time * self.frame_rate + 0.5) + 1, max(there)
        if number in there:
            return number
        past = number > last and isinstance(self.time, str)
        if self.frame is None and (past or number == last + 1 or len(there) == 1):
            return last
        wanted = "data.frame" if self.frame else f"{time:.2f} s, data.frame_rate {self.frame_rate:g}"
        has = f"it has {len(there)}, numbered {min(there)} to {last}"
        raise MediaError(f"no frame {number} ({wanted}): {has}; {REMEDY}")

    def crop(self, waveform: np.ndarray, time: float) -> np.ndarray:
        """Cut the window around `time`, shifted to stay inside; a shorter sound, (samples,), is tiled."""
        if len(waveform) < self.samples:
            return np.resize(waveform, self.samples)
        start = self._start(len(waveform), time)
        return waveform[start : start + self.samples]

    def _start(self, samples: int, time: float) -> int:
        return min(max(round((time - self.seconds / 2) * self.sample_rate), 0), samples - self.samples)

    def read_audio(self, source: Path | bytes, position: float = 0.5) -> tuple[np.ndarray, float]:
        """Decode the window of a sound file, int16 (self.samples,), as :meth:`crop` cuts it, and return its time (s).

        In FLAC of this rate only the window is decoded: sound that is not used took most of a clip's time. `position`
        as for :meth:`time_of`. Raises ``MediaError`` as that and :func:`read_audio`.
        """
        with (
            contextlib.suppress(*UNREADABLE),
            soundfile.SoundFile(_file(source)) as file,
        ):  # read_audio says why
            if file.format == "FLAC" and file.samplerate == self.sample_rate and file.frames >= self.samples:
                time = self.time_of(file.frames, position)
                file.seek(self._start(file.frames, time))
                channels = file.read(self.samples, dtype="float32", always_2d=True)
                if len(channels) == self.samples:
                    return to_int16(channels.mean(axis=1)), time
        waveform = read_audio(source, self.sample_rate)
        time = self.time_of(len(waveform), position)
        return self.crop(waveform, time), time


def raw_files(folder: Path, skip: Path) -> Iterator[tuple[Path, os.stat_result | None, str]]:
    """Yield the files below a folder, in order, each with its status, or with why it cannot become a clip.

    Hidden files and folders (``.name``) and the folder `skip` are left out; links are followed inside `folder` only.
    Of files with the same name but for the last suffix none can become a clip, nor one that is named as a part of one.
    """
    paths, unreadable, skip = [], [], skip.resolve()
    for here, folders, files in os.walk(folder, onerror=unreadable.append):
        links = [name for name in folders if Path(here, name).is_symlink()]
        folders[:] = [n for n in folders if n[0] != "." and n not in links and Path(here, n).resolve() != skip]
        paths += [Path(here, name) for name in files + links if name[0] != "."]
    for error in unreadable:
        yield Path(error.filename), None, f"a folder that cannot be read: {error.strerror}"
    found, claims = [], defaultdict(list)
    for path in sorted(paths):
        try:
            fault = _raw_file_fault(path, folder)
            found.append((path, path.lstat() if fault else path.stat(), fault))
        except OSError as error:
            found.append((path, None, f"cannot be read: {error.strerror}"))
        if not found[-1][2]:
            claims[path.stem].append(path.relative_to(folder).as_posix())
    for path, status, fault in found:
        others = {} if fault else {*claims[path.stem]} - {path.relative_to(folder).as_posix()}
        yield path, status, f"{CLASH}: rename one of them ({', '.join(sorted(others))})" if others else fault


def _raw_file_fault(path: Path, folder: Path) -> str:
    if path.is_symlink():
        if not path.exists():
            return "a link to nothing"
        if not path.resolve().is_relative_to(folder.resolve()):
            return "a link that leads out of the raw folder: put the file itself there"
        if path.is_dir():
            return "a link to a folder: those are not followed"
    name = str(path.relative_to(folder))
    if name.encode(errors="replace").decode() != name or path.stem.splitlines() != [path.stem.strip()]:
        return "its name cannot be a line of a list (line breaks, spaces at the ends, or not UTF-8)"
    if PART.fullmatch(path.stem):
        return "named as a part of a video (NAME@000010): rename it"
    if len(f"{path.stem}@000000.flac".encode()) > 255:
        return "its name is too long for a sound file of that name"
    return "" if stat.S_ISREG(path.stat().st_mode) else "not a regular file"


def _file(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _name(source: Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
