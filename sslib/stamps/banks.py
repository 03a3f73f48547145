"""Recorded notes of an instrument, out of the files that sampled synthesizers play: GUS patches and SoundFonts."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

SUFFIXES = (".pat", ".sf2", ".sf3")


def read_notes(path: Path, prefix: str = "") -> list[tuple[np.ndarray, int]]:
    """Read the notes of a bank whose names begin with `prefix`: float32 (samples,) in [-1, 1] and their rate in Hz.

    A GUS patch (.pat) holds one instrument. Of a SoundFont, .sf2 is raw, .sf3 has a Vorbis stream for each note.
    Raises ``ValueError`` where there is no such note.
    """
    read = _read_patch if path.suffix == ".pat" else _read_soundfont
    notes = list(read(path, prefix))
    if not notes:
        raise ValueError(f"{path}: no note in it has a name that begins with {prefix!r}")
    return notes


def _read_patch(path: Path, prefix: str) -> Iterator[tuple[np.ndarray, int]]:
    content, at = path.read_bytes(), 239  # after the headers of file, instrument and layer
    for _ in range(content[198]):
        name, size, rate, modes = *struct.unpack_from("<7sxI8xH", content, at), content[at + 55]
        samples = np.frombuffer(content, "<i2" if modes & 1 else "i1", size // (1 + modes % 2), at + 96)
        if modes & 2:  # unsigned: the highest bit is turned
            samples = samples ^ np.iinfo(samples.dtype).min
        if name.startswith(prefix.encode("latin-1")):
            yield samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min), rate
        at += 96 + size


def _read_soundfont(path: Path, prefix: str) -> Iterator[tuple[np.ndarray, int]]:
    content = path.read_bytes()
    base, headers = content.index(b"smpl", content.index(b"sdta")) + 8, content.rindex(b"shdr")
    (size,) = struct.unpack_from("<I", content, headers + 4)
    for row in struct.iter_unpack("<20s5I6x", content[headers + 8 : headers + 8 + size - 46]):  # the last is a mark
        name, start, end, _, _, rate = row
        if not name.startswith(prefix.encode("latin-1")):
            continue
        if path.suffix == ".sf3":
            yield soundfile.read(io.BytesIO(content[base + start : base + end]), dtype="float32")
        else:
            yield np.frombuffer(content, "<i2", end - start, base + 2 * start).astype(np.float32) / 32768, rate
