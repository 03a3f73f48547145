"""Banks of notes, written by hand after their formats: GUS patches, and SoundFonts with raw or Vorbis notes."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslib.stamps import banks
from sslib.stamps.library import Entry, read_recording

NOTES = {
    "low": np.array([0, 16384, -32768, 8192], "<i2"),
    "lower": np.array([1, 2], "<i2"),
    "high": np.array([-4], "<i2"),
}


def write_patch(path: Path, notes: dict[str, tuple[bytes, int]], rate: int) -> None:
    """Notes with their bytes and their modes: 1 for 16 bits, 2 for unsigned."""
    head = b"GF1PATCH110\0ID#000002\0".ljust(129, b"\0") + bytes(63) + bytes(6) + bytes([len(notes)]) + bytes(40)
    body = b""
    for name, (samples, modes) in notes.items():
        header = name.encode().ljust(7, b"\0") + b"\0" + struct.pack("<IIIH", len(samples), 0, 0, rate)
        body += header.ljust(55, b"\0") + bytes([modes]) + bytes(40) + samples
    path.write_bytes(head + body)


def write_soundfont(path: Path, notes: dict[str, bytes], width: int, rate: int) -> None:
    """A RIFF file with notes of `width` bytes a unit: samples (.sf2) or bytes of a stream (.sf3)."""
    rows, at = b"", 0
    for name, content in notes.items():
        rows += struct.pack("<20s5I6x", name.encode(), at, at + len(content) // width, 0, 0, rate)
        at += len(content) // width
    rows += struct.pack("<20s5I6x", b"EOS", 0, 0, 0, 0, 0)
    data = b"".join(notes.values())
    lists = (
        b"sdta" + b"smpl" + struct.pack("<I", len(data)) + data,
        b"pdta" + b"shdr" + struct.pack("<I", len(rows)) + rows,
    )
    body = b"".join(b"LIST" + struct.pack("<I", len(part)) + part for part in lists)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"sfbk" + body)


def test_patch_of_16_and_8_bits_signed_and_unsigned(tmp_path):
    notes = {
        "s16": (NOTES["low"].tobytes(), 1),
        "u16": ((NOTES["low"].astype(np.int32) + 32768).astype("<u2").tobytes(), 3),
        "s8": (np.array([0, 64, -128, 32], "i1").tobytes(), 0),
        "u8": (np.array([128, 192, 0, 160], "u1").tobytes(), 2),
    }
    write_patch(tmp_path / "a.pat", notes, 11025)
    for waveform, rate in (read := banks.read_notes(tmp_path / "a.pat")):
        assert rate == 11025 and waveform.dtype == np.float32
        np.testing.assert_array_equal(waveform, [0, 0.5, -1, 0.25])
    assert len(read) == 4 and len(banks.read_notes(tmp_path / "a.pat", "u")) == 2


def test_soundfont_of_raw_notes(tmp_path):
    write_soundfont(tmp_path / "a.sf2", {name: note.tobytes() for name, note in NOTES.items()}, 2, 22050)
    (low, rate), (lower, _) = banks.read_notes(tmp_path / "a.sf2", "low")
    assert rate == 22050
    np.testing.assert_array_equal(low, [0, 0.5, -1, 0.25])
    np.testing.assert_array_equal(lower, np.array([1, 2]) / 32768)
    with pytest.raises(ValueError, match=r"a\.sf2: no note in it has a name that begins with 'flat'"):
        banks.read_notes(tmp_path / "a.sf2", "flat")


def test_recording_is_the_notes_of_a_name_one_after_the_other(tmp_path):
    """Each note at its own rate; those of other names are left out."""
    streams, tone = {}, np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    for name, rate, gain in (("Cello C", 16000, 0.5), ("Cello G", 8000, 0.5), ("Violin", 16000, 0.9)):
        soundfile.write(file := io.BytesIO(), gain * tone, rate, format="OGG", subtype="VORBIS")
        streams[name] = file.getvalue()
    write_soundfont(tmp_path / "a.sf3", streams, 1, 16000)
    waveform = read_recording(tmp_path / "a.sf3#Cello", 16000)
    assert abs(len(waveform) - (8000 + 16000)) <= 320 and 0.45 < np.abs(waveform).max() < 0.6
    entry = Entry("sound", "cello", "known", True, "media-a", "usr/a.sf3#Cello", "", "")
    assert entry.name == "media-a:usr/a#Cello" and entry.file == ("media-a", "usr/a.sf3")
