"""Videos a moment at a time, against reading them whole, and against pictures and sounds that are known."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import videos

from sslib.data import stream, video
from sslib.data.media import MediaError
from sslib.data.stream import Sound, VideoStream, read_sound
from sslib.data.video import VideoError

RATE = 8000
STAMPS = [0, 100, 450, 900, 1000, 1800, 2500, 2600, 4000, 5600, 5900]  # ms: a variable frame rate


def moments(path: Path, first: int = 0, samples: int = RATE) -> list[stream.Moment]:
    reader = VideoStream(path, 5, RATE, samples)
    reader.first = first
    return list(reader)


def window(waveform: np.ndarray, time: float, samples: int = RATE) -> np.ndarray:
    """Brute force: cut out of all of the sound."""
    start = min(max(round(time * RATE) - samples // 2, 0), len(waveform) - samples)
    return waveform[start : start + samples] if time * RATE < len(waveform) else np.zeros(samples, np.int16)


def begin(waveform: np.ndarray) -> int:
    """The sample at which the click begins; -1 where there is none."""
    loud = np.flatnonzero(np.abs(waveform.astype(int)) > 3000)
    return int(loud[0]) if len(loud) else -1


@pytest.mark.parametrize("first", [0, 17])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {}),
        ("b.mkv", {"delay": 0.3}),
        ("c.avi", {"video": "mpeg4", "audio": "mp3"}),
        ("d.mp4", {"stamps": STAMPS}),
        ("e.mp4", {"rotation": 90}),
        ("f.ts", {"start": 5.0}),
        ("g.mov", {"audio": "pcm_u8", "rate": 8000}),
    ],
)
def test_moments_are_those_of_reading_it_whole(tmp_path, monkeypatch, name, how, first):
    monkeypatch.setattr(stream, "BEFORE", 1)  # s: the sound is looked for in the middle of the file, too
    path = videos.make(tmp_path / name, seconds=6.0, sounds=[videos.click(6.0, 3.63)], **({"rate": 44100} | how))
    whole = video.read(path, frame_rate=5, sample_rate=RATE)
    found = moments(path, first)
    assert [videos.number(m.picture) for m in found] == [videos.number(frame) for frame in whole.frames[first:]]
    for moment, number in zip(found, range(first, 99), strict=False):
        assert moment.time == pytest.approx(number / 5)
        assert begin(moment.waveform) == pytest.approx(begin(window(whole.waveform, moment.time)), abs=8)  # 1 ms


def test_window_of_a_sound_shorter_than_it_is_tiled_and_past_its_end_is_silence(tmp_path):
    path = videos.make(tmp_path / "a.mp4", seconds=3.0, sounds=[videos.tone(0.5)])
    found = moments(path)
    assert videos.pitch(found[0].waveform / 32768, RATE) == pytest.approx(440, abs=2)
    assert np.abs(found[0].waveform[6000:]).max() > 5000  # tiled to its end
    assert not found[4].waveform.any()  # 0.8 s


def test_hour_of_sound_needs_the_memory_of_a_window():
    sound = Sound.__new__(Sound)
    sound.rate, sound.held, sound.begin, drawn = RATE, np.zeros(0, np.int16), 0, 0

    def pieces():
        nonlocal drawn
        while drawn < 3600 * RATE:
            yield np.full(1000, drawn // 1000 % 1000, np.int16)
            drawn += 1000

    sound.pieces = pieces()
    for time in np.arange(0, 3600, 0.5):
        cut = sound.window(time, RATE)
        start = min(max(round(time * RATE) - RATE // 2, 0), 3600 * RATE - RATE)
        assert cut[0] == start // 1000 % 1000 and cut[-1] == (start + RATE - 1) // 1000 % 1000
        assert len(sound.held) <= 3 * RATE


def test_file_that_is_cut_off_is_read_up_to_there_and_says_so(tmp_path):
    whole = videos.make(tmp_path / "a.ts", seconds=8.0, size=(320, 240))
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(videos.make(tmp_path / "b.mkv", seconds=8.0).read_bytes()[:60_000])
    reader = VideoStream(tmp_path / "cut.mkv", 5, RATE, RATE)
    found = list(reader)
    assert 0 < len(found) < 40 and [videos.number(m.picture) for m in found[:3]] == [0, 5, 10]
    assert any("cut off" in note for note in reader.notes)
    (tmp_path / "bad.ts").write_bytes(content[:20_000] + bytes(4000) + content[24_000:])
    assert len(moments(tmp_path / "bad.ts")) > 30  # goes on behind the damage


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty file"), (b"words " * 100, "not a video"), (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture")],
)
def test_what_is_no_video_is_refused(tmp_path, content, says):
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=says):
        VideoStream(tmp_path / "x.mp4", 5, RATE, RATE)


def test_video_without_sound_and_sound_without_video_are_refused(tmp_path):
    with pytest.raises(VideoError, match="no sound track"):
        VideoStream(videos.make(tmp_path / "a.mp4", sounds=[]), 5, RATE, RATE)
    soundfile.write(tmp_path / "a.wav", videos.tone(1.0)[0], videos.RATE)
    with pytest.raises(VideoError, match="no picture track"):
        VideoStream(tmp_path / "a.wav", 5, RATE, RATE)
    with pytest.raises(VideoError, match=r"no video .*none\.mp4"):
        VideoStream(tmp_path / "none.mp4", 5, RATE, RATE)


@pytest.mark.parametrize("name", ["a.mp4", "a.m4a", "a.wav", "a.flac"])
def test_sound_of_any_file(tmp_path, name):
    if name.endswith("mp4"):
        videos.make(tmp_path / name, seconds=2.0)
    elif name.endswith("m4a"):
        with av.open(str(tmp_path / name), "w", format="mp4") as container:
            track = container.add_stream("aac", rate=videos.RATE, layout="mono")
            videos._encode(container, track, videos.tone(2.0), videos.RATE, 0)
    else:
        soundfile.write(tmp_path / name, videos.tone(2.0)[0], videos.RATE)
    waveform = read_sound(tmp_path / name, RATE)
    assert len(waveform) == pytest.approx(2 * RATE, abs=400)
    assert videos.pitch(waveform / 32768, RATE) == pytest.approx(440, abs=2)


def test_what_is_no_sound_is_refused(tmp_path):
    (tmp_path / "x.wav").write_text("words")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), RATE, subtype="FLOAT")
    for name, says in (("x.wav", "not a readable sound"), ("nan.wav", "not finite"), ("none.wav", "no sound file")):
        with pytest.raises(MediaError, match=says):
            read_sound(tmp_path / name, RATE)
