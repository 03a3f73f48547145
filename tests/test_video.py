"""Decoding: which picture is taken at which time, the clock of the sound, geometry, and what is no video."""

import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import videos

from sslib.data import media, stream, video

KINDS = {
    "a.mp4": {},
    "a.mkv": {},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "rate": 48000, "options": {"cpu-used": "8"}},
    "vp8.webm": {"video": "libvpx", "audio": "libopus", "rate": 48000},
    "xvid.avi": {"video": "mpeg4", "audio": "libmp3lame", "options": {"bf": "2"}},
    "h264.avi": {"audio": "libmp3lame"},
    "hevc.mkv": {"video": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}},
    "prores.mov": {"video": "prores", "pixels": "yuv422p10le", "audio": "pcm_s16le"},
    "a.ts": {},
    "a.flv": {},
    "a.mpg": {"video": "mpeg2video", "audio": "mp2"},
    "thirty.mp4": {"fps": 30},
    "keys.mp4": {"options": {"g": "10", "bf": "3"}},
    "open.mkv": {"options": {"x264-params": "keyint=12:open-gop=1:bframes=3:b-pyramid=normal"}},
    "refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
}


def onset(clip: video.Video) -> float:
    """Seconds at which the sound first reaches half of its peak."""
    level = np.abs(clip.waveform.astype(float))
    return float(np.argmax(level > level.max() / 2)) / 24000


def numbers(clip: video.Video) -> list[int]:
    return [videos.number(frame) for frame in clip.frames]


@pytest.mark.parametrize("name", KINDS)
def test_frames_and_sound_of_every_kind_of_file(tmp_path, name, monkeypatch):
    """Frame k shows (k - 1) / 5 s, so its number is that time × fps; the click is where it was put."""
    kind = KINDS[name]
    rate, fps = kind.get("rate", videos.RATE), kind.get("fps", 25)
    path = videos.make(tmp_path / name, sounds=[videos.click(2.0, 1.25, rate)], **kind)
    clip = video.read(path, frame_rate=5)
    assert numbers(clip) == [round(k / 5 * fps) for k in range(10)]
    assert clip.seconds == pytest.approx(2.0, abs=0.002) and clip.audio_rate == rate
    # LAME's delay of 1105 samples is written into MP3 files but has no place in AVI
    late = 1105 / rate if name.endswith("avi") else 0
    assert onset(clip) - 1.25 - late == pytest.approx(0, abs=0.001)
    at = video.read(path, at=1.2)
    assert numbers(at) == [round(1.2 * fps)] and np.array_equal(at.frames[0], clip.frames[6])
    assert np.array_equal(at.waveform, clip.waveform)
    monkeypatch.setattr(video, "_decode_wanted", lambda *_: None)
    thorough = video.read(path, frame_rate=5)
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames, thorough.frames, strict=True))


def test_unneeded_pictures_are_not_decoded(tmp_path, monkeypatch):
    path = videos.make(tmp_path / "a.mp4", seconds=4, options={"g": "25", "bf": "0"})
    decoded = []
    inner = video.converter
    monkeypatch.setattr(
        video, "converter", lambda stream: lambda frame: decoded.append(frame.pts) or inner(stream)(frame)
    )
    monkeypatch.setattr(video, "_decode_all", lambda *_: pytest.fail("decoded all"))
    assert numbers(video.read(path, at=3.0)) == [75] and len(decoded) == 1


def test_a_variable_frame_rate(tmp_path):
    stamps = [0, 40, 900, 999, 1000, 1001, 2500, 2540]  # ms
    path = videos.make(tmp_path / "a.mp4", stamps=stamps, seconds=3.0)
    clip = video.read(path)
    assert numbers(clip) == [0, 4, 5]  # at 0, 1 and 2 s
    assert numbers(video.read(path, at=0.95)) == [2]
    assert numbers(video.read(path, at=2.52)) == [6]


def test_frames_end_with_the_video(tmp_path):
    path = videos.make(tmp_path / "a.mp4", seconds=2.2, sounds=[videos.tone(5.0)])
    clip = video.read(path)
    assert numbers(clip) == [0, 25, 50] and len(clip.waveform) / 24000 == pytest.approx(5.0, abs=0.05)
    assert any("sound for 5" in note for note in clip.notes)
    with pytest.raises(video.VideoError, match=r"no picture at 5 s: the video ends at 2\.20 s"):
        video.read(path, at=5.0)


@pytest.mark.parametrize(("delay", "name"), [(0.5, "late.mkv"), (0.5, "late.mp4")])
def test_sound_that_starts_late(tmp_path, delay, name):
    """0.5 s of silence come first, and the click at 0.7 s of the sound is at 1.2 s."""
    path = videos.make(tmp_path / name, sounds=[videos.click(1.5, 0.7)], delay=delay)
    clip = video.read(path)
    assert onset(clip) == pytest.approx(1.2, abs=0.001) and numbers(clip) == [0, 25]


def test_pictures_that_start_late(tmp_path):
    """The first picture comes 0.4 s after the sound: that is time 0, and the click at 1.0 s is at 0.6 s."""
    path = videos.make(tmp_path / "a.mkv", stamps=list(range(400, 2400, 40)), sounds=[videos.click(2.4, 1.0)])
    clip = video.read(path)
    assert numbers(clip) == [0, 25] and onset(clip) == pytest.approx(0.6, abs=0.0015)


def test_stereo_becomes_the_mean_of_the_channels(tmp_path):
    """A tone on one channel only: half of its level; resampled 44.1 to 24 kHz it stays at 440 Hz."""
    sound = np.concatenate([videos.tone(2.0, level=0.5), np.zeros((1, 88200), np.float32)])
    path = videos.make(tmp_path / "a.mov", sounds=[sound], audio="pcm_s16le")
    waveform = video.read(path).waveform / 32768
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / 24000)
    assert len(waveform) == 48000 and np.abs(waveform - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation(tmp_path, rotation):
    """The display matrix turns counterclockwise; turning back the upright picture shows the bars again."""
    path = videos.make(tmp_path / "a.mov", rotation=rotation, options={"crf": "5"})
    clip = video.read(path, at=1.0)
    turned = np.rot90(videos.picture(25), rotation // 90)
    assert clip.frames[0].shape == turned.shape and (clip.width, clip.height) == (64, 48)
    assert np.abs(clip.frames[0].astype(int) - turned).mean() < 12


def test_a_mirrored_picture():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    one = 1 << 16
    matrix = lambda a, b, c, d: np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30], "i4").tobytes()  # noqa: E731
    assert np.array_equal(media.upright(image, matrix(-1, 0, 0, 1)), image[:, ::-1])
    assert np.array_equal(media.upright(image, matrix(1, 0, 0, -1)), image[::-1])
    assert np.array_equal(media.upright(image, matrix(0, 1, 1, 0)), image.transpose(1, 0, 2))


def test_size_and_aspect(tmp_path):
    path = videos.make(tmp_path / "big.mp4", size=(720, 480), seconds=0.2)
    assert video.read(path).frames[0].shape == (256, 384, 3)
    path = videos.make(tmp_path / "wide.mp4", size=(64, 48), seconds=0.2, aspect=Fraction(4, 3))
    assert video.read(path).frames[0].shape == (48, 85, 3)  # not enlarged, square pixels


def test_one_picture_of_8k(tmp_path):
    path = videos.make(tmp_path / "8k.mp4", size=(7680, 4320), stamps=[0], seconds=0.2, options={"preset": "ultrafast"})
    clip = video.read(path)
    assert clip.frames[0].shape == (256, 455, 3) and (clip.width, clip.height) == (7680, 4320)


def test_a_very_short_clip(tmp_path):
    clip = video.read(videos.make(tmp_path / "a.mp4", seconds=0.2))
    assert numbers(clip) == [0] and clip.seconds == pytest.approx(0.2)


def test_several_sound_tracks(tmp_path):
    path = videos.make(tmp_path / "a.mkv", sounds=[videos.tone(2.0), videos.click(2.0, 1.0)])
    assert "2 sound tracks: used number 1" in video.read(path).notes


def test_missing_tracks(tmp_path):
    with pytest.raises(video.VideoError, match="no sound track"):
        video.read(videos.make(tmp_path / "a.mp4", sounds=[]))
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        track = container.add_stream("aac", rate=videos.RATE)
        track.codec_context.layout = "mono"
        videos._encode(container, track, videos.tone(1.0), videos.RATE, 0)
    with pytest.raises(video.VideoError, match="no picture track"):
        video.read(tmp_path / "b.mp4")


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 100, b"#EXTM3U\n#EXTINF:1,\na.mp4\n"])
def test_what_is_no_video(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(video.VideoError, match=r"not a video|empty file"):
        video.read(tmp_path / "a.mp4")


def test_truncated_files(tmp_path):
    whole = videos.make(tmp_path / "a.mp4", seconds=4).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[: len(whole) // 2])  # without its index, which is at the end
    with pytest.raises(video.VideoError, match="cut off"):
        video.read(tmp_path / "head.mp4")
    whole = videos.make(tmp_path / "a.mkv", seconds=4, options={"bf": "0"}).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    clip = video.read(tmp_path / "half.mkv")
    assert 0.5 < clip.seconds < 3.5 and numbers(clip) == [25 * k for k in range(len(clip.frames))]
    assert any(note.startswith("claims to last 4") for note in clip.notes)


def test_damage_in_the_middle(tmp_path):
    path = videos.make(tmp_path / "a.mkv", seconds=4, options={"g": "10"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    clip = video.read(path)
    assert numbers(clip)[0] == 0 and clip.seconds > 1.5


def test_a_container_that_claims_hours(tmp_path):
    """What counts is what it holds; a picture that really comes after two hours is another matter."""
    path = videos.make(tmp_path / "a.mkv")
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88")  # Matroska's Duration: 8 bytes, a float of ms
    path.write_bytes(content[: at + 3] + np.array(7.2e6, ">f8").tobytes() + content[at + 11 :])
    clip = video.read(path)
    assert clip.seconds == pytest.approx(2.0, abs=0.002) and "claims to last 7200.0 s" in clip.notes
    path = videos.make(tmp_path / "b.mkv", stamps=[0, 40, 7_200_000])
    with pytest.raises(video.VideoError, match=r"longer than 60 s \(a picture at 7200\.0 s\).*--max-seconds"):
        video.read(path)


def test_the_limit_of_length(tmp_path):
    path = videos.make(tmp_path / "a.mp4", seconds=3)
    assert len(video.read(path, max_seconds=3).frames) == 3
    with pytest.raises(video.VideoError, match="longer than 2 s"):
        video.read(path, max_seconds=2)


def test_a_single_picture_of_next_to_no_duration(tmp_path):
    """A picture that claims to be shown for 1 ms is on display at 0 s all the same."""
    assert numbers(video.read(videos.make(tmp_path / "a.mp4", stamps=[0, 1], seconds=0.3))) == [0]


# Parts of a long video


def clicks(seconds: float, at: list[float], rate: int = videos.RATE) -> np.ndarray:
    """Several clicks in silence."""
    return np.sum([videos.click(seconds, time, rate) for time in at], axis=0)


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].get("fps", 25) == 25])
def test_parts_of_every_kind_of_file(tmp_path, name):
    """Parts of 2 s of 7 s: each begins with its own picture and has the click that was put at its own 0.5 s."""
    kind = KINDS[name]
    rate = kind.get("rate", videos.RATE)
    path = videos.make(tmp_path / name, seconds=7.0, sounds=[clicks(7.0, [0.5, 2.5, 4.5, 6.5], rate)], **kind)
    parts = list(stream.read_parts(path, 2.0, frame_rate=2.0, sample_rate=24000))
    assert [numbers(part) for part in parts] == [
        [int(25 * (2 * k + j / 2)) for j in range(4 if k < 3 else 2)] for k in range(4)
    ]
    late = 1105 / rate if name.endswith("avi") else 0  # as above
    for part in parts[:3]:
        assert len(part.waveform) == 48000 and part.seconds == pytest.approx(2.0, abs=0.01)
    assert parts[3].seconds == pytest.approx(1.0, abs=0.01)
    for part in parts:
        assert onset(part) - 0.5 - late == pytest.approx(0, abs=0.001)


def test_the_frames_of_a_part_are_those_of_the_whole(tmp_path):
    path = videos.make(tmp_path / "a.mkv", seconds=5.0, stamps=[0, 40, 1500, 1540, 3999, 4001, 4960])
    whole = video.read(path, frame_rate=4.0)
    parts = list(stream.read_parts(path, 1.25, frame_rate=4.0, sample_rate=24000))
    assert [numbers(part) for part in parts] == [numbers(whole)[k : k + 5] for k in range(0, 20, 5)]
    joined = np.concatenate([part.waveform for part in parts])
    inside = np.abs(np.arange(len(joined))[:, None] / 24000 - [1.25, 2.5, 3.75]).min(axis=1) > 0.01
    difference = joined.astype(int) - whole.waveform[: len(joined)]
    assert np.abs(difference[inside]).max() <= 1  # resampling a part knows nothing of its neighbours


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1.88, [1.88]), (2.0, [2.0]), (2.04, [2.0]), (2.96, [2.0]), (3.0, [2.0, 1.0])]
)
def test_what_is_left_at_the_end(tmp_path, seconds, expected):
    path = videos.make(tmp_path / "a.mp4", seconds=seconds)
    parts = stream.read_parts(path, 2.0, frame_rate=1.0, sample_rate=24000)
    assert [part.seconds for part in parts] == pytest.approx(expected, abs=0.001)


def test_sound_that_ends_before_a_part_and_one_that_goes_on(tmp_path):
    short = videos.make(tmp_path / "a.mkv", seconds=6.0, sounds=[videos.tone(3.0)], audio="pcm_s16le")
    lengths = [len(part.waveform) for part in stream.read_parts(short, 2.0, frame_rate=1.0, sample_rate=24000)]
    assert lengths == [48000, 24000, 0]
    long = videos.make(tmp_path / "b.mkv", seconds=2.0, sounds=[videos.tone(6.0)], audio="pcm_s16le")
    [part] = stream.read_parts(long, 2.0, frame_rate=1.0, sample_rate=24000)
    assert len(part.waveform) == 48000


def test_a_part_says_what_was_damaged_in_it(tmp_path):
    path = videos.make(tmp_path / "a.mkv", seconds=6.0, audio="pcm_s16le", options={"g": "10"}, size=(256, 192))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    parts = list(stream.read_parts(path, 2.0, frame_rate=1.0, sample_rate=24000))
    assert len(parts) == 3 and parts[0].notes == []
    assert numbers(parts[0]) == [0, 25] and numbers(parts[2]) == [100, 125]


def test_what_has_no_parts(tmp_path):
    with pytest.raises(video.VideoError, match="no sound track"):
        next(stream.read_parts(videos.make(tmp_path / "a.mp4", sounds=[]), 1.0, frame_rate=1.0, sample_rate=24000))


def test_only_one_part_of_a_long_video_is_in_memory(tmp_path):
    """Ten minutes: the first part is there when a small share of the file has been read, and none is kept."""
    path = videos.make(
        tmp_path / "a.mkv", seconds=600.0, fps=5, sounds=[videos.tone(600.0, 8000)], rate=8000, audio="pcm_s16le"
    )
    opened = []
    inner = video.open_container
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "open_container", lambda path: opened.append(inner(path)) or opened[-1])
        parts = stream.read_parts(path, 10.0, frame_rate=1.0, sample_rate=8000)
        first = next(parts)
        assert len(first.frames) == 10 and len(first.waveform) == 80000
        tracemalloc.start()
        count = sum(len(part.frames) == 10 for part in parts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 59 and len(opened) == 2
    assert peak < 4e6  # a part here is 0.1 MB of frames and 0.5 MB of sound; all of it would be 36 MB
