"""A folder of every kind of file that people have goes through prepare, store, --verify and both loaders.

The tables say by hand what must come of each file. All pictures carry their number at 25 a second unless said
otherwise, so the frames at 0 and 1 s are the pictures 0 and 25; all sounds are 440 Hz.
"""

import csv
import os
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import videos
from folders import assert_same, iterate
from PIL import Image

from sslib.config import Config
from sslib.data.layout import Layout
from sslib.datasets import AVDataset

LENGTH = 1.2  # s, of every clip that is not about its length


class Ready(NamedTuple):
    """A file that becomes a clip, and what the clip holds."""

    make: dict  # what ``videos.make`` is told
    numbers: tuple[int, ...] = (0, 25)  # of the pictures in its frames
    size: tuple[int, int] = (48, 64)  # height and width of the frames
    seconds: float = LENGTH  # of the sound
    note: str = ""  # a phrase of the manifest's notes


def tones(channels: int, rate: int = videos.RATE, seconds: float = LENGTH) -> list[np.ndarray]:
    """One track: a tone of the same phase on all channels."""
    return [np.repeat(videos.tone(seconds, rate), channels, axis=0)]


OPUS, MP3 = {"audio": "libopus", "rate": 48000}, {"audio": "libmp3lame"}
READY = {
    # containers and codecs
    "h264.mp4": Ready({}),
    "hevc.mkv": Ready({"video": "libx265", "options": {"x265-params": "log-level=none"}} | OPUS),
    "vp9.webm": Ready({"video": "libvpx-vp9", "options": {"cpu-used": "8"}} | OPUS),
    "vp8.webm": Ready({"video": "libvpx"} | OPUS),
    "av1.webm": Ready({"video": "libsvtav1", "options": {"preset": "12"}, "size": (128, 96)} | OPUS, size=(96, 128)),
    "xvid.avi": Ready({"video": "mpeg4", "options": {"bf": "2"}} | MP3),
    "uncompressed.avi": Ready({"video": "rawvideo", "pixels": "bgr24", "audio": "pcm_s16le"}),
    "prores.mov": Ready({"video": "prores", "pixels": "yuv422p10le", "audio": "pcm_s16le"}),
    "mjpeg.mov": Ready({"video": "mjpeg", "pixels": "yuvj420p", "audio": "pcm_alaw", "rate": 8000}),
    "dvd, interlaced.mpg": Ready({"video": "mpeg2video", "audio": "mp2", "options": {"flags": "+ilme+ildct"}}),
    "broadcast.ts": Ready({"audio": "ac3", "rate": 48000, "sounds": tones(6, 48000)}),
    "flash.flv": Ready({"video": "flv"} | MP3),
    "phone.3gp": Ready({"video": "mpeg4", "audio": "libopencore_amrnb", "rate": 8000}),
    "camera.mxf": Ready({"video": "mpeg2video", "audio": "pcm_s16le", "rate": 48000}),
    "archive copy.nut": Ready({"video": "ffv1", "audio": "flac"}),
    # pictures
    "turned a quarter.mov": Ready({"rotation": 90}, size=(64, 48)),
    "turned a half.mp4": Ready({"rotation": 180}),
    "turned back.mp4": Ready({"rotation": -90}, size=(64, 48)),
    "variable rate.mp4": Ready({"stamps": [0, 40, 900, 999, 1001, 1160]}, numbers=(0, 3)),
    "120 a second.mp4": Ready({"fps": 120}, numbers=(0, 120)),
    "1 a second.mp4": Ready({"fps": 1, "seconds": 3.0}, numbers=(0, 1, 2), seconds=3.0),
    "10 bits.mp4": Ready({"pixels": "yuv420p10le"}),
    "grey.mp4": Ready({"pixels": "gray"}),
    "odd size.mkv": Ready({"pixels": "yuv444p", "size": (67, 49)}, size=(49, 67)),
    "wide pixels.mp4": Ready({"aspect": Fraction(4, 3)}, size=(48, 85)),
    "large.mp4": Ready({"size": (640, 480)}, size=(256, 341)),
    "8k.mov": Ready(
        {"video": "mjpeg", "pixels": "yuvj420p", "size": (7680, 4320), "fps": 1, "seconds": 1.0},
        numbers=(0,),
        size=(256, 455),
        seconds=1.0,
    ),
    # sounds
    "stereo.mp4": Ready({"sounds": tones(2)}),
    "surround.mkv": Ready({"audio": "flac", "sounds": tones(6)}),
    "96 kHz.mkv": Ready({"audio": "flac", "rate": 96000}),
    "two tracks.mkv": Ready({"sounds": tones(1) + tones(1)}, note="2 sound tracks: used number 1"),
    "late sound.mp4": Ready({"sounds": tones(1, seconds=0.6), "delay": 0.6}),
    "short sound.mp4": Ready({"sounds": tones(1, seconds=0.5)}, seconds=0.5, note="pictures for 1.20 s, sound for 0.5"),
    # times
    "starts at 5 s.ts": Ready({"start": 5.0}),
    "short.mp4": Ready({"seconds": 0.2}, numbers=(0,), seconds=0.2, note="only 0.20 s long"),
    "claims hours.mkv": Ready({}, note="claims to last 7200.0 s"),
    "second half lost.mkv": Ready({"seconds": 3.0, "audio": "pcm_s16le"}, seconds=1.5, note="claims to last 3.0 s"),
    # names
    "with spaces, é and 音.mp4": Ready({}),
    "dots.in.the.name.mp4": Ready({}),
    "CAPITALS.MP4": Ready({}),
    "-dZ_x9.mp4": Ready({}),
    "take %03d [1] *?.mp4": Ready({}),
    "wrong suffix.txt": Ready({}),
    "a/b/c/deep.mp4": Ready({}),
}
WRONG = {"wrong suffix.txt": ".mp4"}  # what it really is
LINKED = "linked.mp4"  # a link to another file of the folder, outside of which nothing links to it: the clip "linked"
REJECTED = {
    "empty.mp4": "an empty file (0 bytes)",
    "quota.mp4": "not a video but a web page",
    "list.csv": "not a video",
    "playlist.mp4": "not a video",
    "script.mp4": "not a video",
    "photo.jpg": "not a video but a picture",
    "videos.zip": "a zip archive: unpack it first",
    "noise.mp4": "not a video",
    "cut off.mp4": "cut off before its contents can be found",
    "only sound.wav": "no picture track",
    "no sound.mp4": "no sound track",
    "animation.gif": "no sound track",
    "silent.mp4": "a silent sound track",
    "really hours.mkv": "longer than 60 s (a picture at 7200.0 s)",
    "x/twice.mp4": "rename one of them (y/twice.mkv)",
    "y/twice.mkv": "rename one of them (x/twice.mp4)",
    "out.mp4": "a link that leads out of the raw folder",
    "nowhere.mp4": "a link to nothing",
    "folder": "a link to a folder",
    "a:b.mp4": "not a clip id",
    "line\nbreak.mp4": "cannot be a line of a list",
    " edge .mp4": "cannot be a line of a list",
    "pipe.mp4": "not a regular file",
}
HIDDEN = (".hidden.mp4", "._resource fork.mp4", ".cache/z.mp4")  # not looked at, so not listed


def build(raw: Path) -> None:
    """Make all of it below `raw`, and a file beside it that a link leads to."""
    for name, expected in READY.items():
        suffix = WRONG.get(name, Path(name).suffix)
        made = videos.make((raw / name).with_suffix(suffix), **{"seconds": LENGTH} | expected.make)
        made.rename(raw / name)
    whole = (raw / "h264.mp4").read_bytes()
    claim(raw / "claims hours.mkv", 7200.0)
    lose_half(raw / "second half lost.mkv")
    for name in (*HIDDEN, "x/twice.mp4", "y/twice.mkv", "a:b.mp4", "line\nbreak.mp4", " edge .mp4", "../outside.mp4"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(whole)
    what_is_no_video(raw, whole)
    videos.make(raw / "no sound.mp4", seconds=LENGTH, sounds=[])
    videos.make(raw / "animation.gif", seconds=LENGTH, sounds=[], video="gif", pixels="rgb8")
    videos.make(raw / "silent.mp4", seconds=LENGTH, sounds=[np.zeros((1, 50000), np.float32)])
    videos.make(raw / "really hours.mkv", seconds=LENGTH, stamps=[0, 40, 7_200_000])
    for name, target in {LINKED: "h264.mp4", "out.mp4": "../outside.mp4", "nowhere.mp4": "gone.mp4"}.items():
        (raw / name).symlink_to(raw / target)
    (raw / "folder").symlink_to(raw)
    os.mkfifo(raw / "pipe.mp4")


def what_is_no_video(raw: Path, whole: bytes) -> None:
    contents = {
        "empty.mp4": b"",
        "quota.mp4": b"\n<HTML>quota exceeded</html>\n" * 40,
        "list.csv": b"id,start\nx,3\n",
        "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nh264.mp4\n",
        "script.mp4": b"ffconcat version 1.0\nfile h264.mp4\n",
        "noise.mp4": np.random.default_rng(0).bytes(20000),
        "cut off.mp4": whole[: len(whole) // 2],  # its index is at the end
    }
    for name, content in contents.items():
        (raw / name).write_bytes(content)
    Image.fromarray(videos.picture(5)).save(raw / "photo.jpg")
    with zipfile.ZipFile(raw / "videos.zip", "w") as archive:
        archive.write(raw / "h264.mp4", "inside.mp4")
    soundfile.write(raw / "only sound.wav", videos.tone(LENGTH)[0], videos.RATE)


def claim(path: Path, seconds: float) -> None:
    """Let a Matroska file say that it lasts `seconds`."""
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88")  # its Duration: 8 bytes, a float of ms
    path.write_bytes(content[: at + 3] + np.array(1000 * seconds, ">f8").tobytes() + content[at + 11 :])


def lose_half(path: Path) -> None:
    """Cut a Matroska file at the middle of its pictures and sound."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def sslib(*arguments: str | Path) -> str:
    """The command line; its standard output."""
    command = [sys.executable, "-m", "sslib", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data folder, prepared and stored by the command line, and what ``prepare`` printed."""
    folder = tmp_path_factory.mktemp("videos")
    build(folder / "raw")
    says = sslib("prepare", folder / "raw", folder / "data", "--workers", "0")
    sslib("store", folder / "data", "--workers", "0")
    return folder / "data", says


def clip_id(source: str) -> str:
    return Path(source).stem


def upright(image: np.ndarray, source: str) -> np.ndarray:
    """A frame of a turned video as it was before it was turned."""
    return np.rot90(image, -READY[source].make.get("rotation", 0) // 90)


def test_every_file_is_one_row_with_its_outcome(data):
    with (data[0] / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(READY) + 1 + len(REJECTED) >= 60
    table = {row["source"]: row for row in rows}
    assert table.keys() == {*READY, LINKED, *REJECTED}
    for source, reason in REJECTED.items():
        assert table[source]["outcome"] == "rejected" and reason in table[source]["reason"], table[source]
    for source, expected in READY.items():
        row = table[source]
        assert (row["id"], row["outcome"], row["reason"]) == (clip_id(source), "ok", ""), row
        assert expected.note in row["notes"] and bool(expected.note) == bool(row["notes"]), row
        width, height = expected.make.get("size", (64, 48))
        assert (int(row["width"]), int(row["height"])) == (width, height), row
        assert int(row["audio_rate"]) == expected.make.get("rate", videos.RATE), row
    assert f"{len(READY) + 1} of {len(rows)} ready, {len(REJECTED)} rejected" in data[1]


@pytest.mark.parametrize("source", READY)
def test_a_clip_holds_what_its_file_does(data, source):
    expected, layout = READY[source], Layout(data[0])
    frames = [np.asarray(Image.open(path)) for path in layout.frames(clip_id(source)).values()]
    assert [frame.shape for frame in frames] == [(*expected.size, 3)] * len(expected.numbers)
    assert [videos.number(upright(frame, source)) for frame in frames] == list(expected.numbers)
    samples, rate = soundfile.read(layout.audio(clip_id(source)))
    assert rate == 24000 and samples.ndim == 1
    assert len(samples) / rate == pytest.approx(expected.seconds, abs=0.04)  # codecs fill their last block
    assert videos.pitch(samples, rate) == pytest.approx(440, abs=2)
    late = expected.make.get("delay", 0.0)
    loud = samples[round((late + 0.05) * rate) : -round(0.05 * rate)]
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(
        0.25 / 2**0.5, rel=0.25
    )  # a sine of amplitude 0.25; AMR is for speech
    assert not late or np.abs(samples[: round((late - 0.05) * rate)]).max() < 0.001


def test_nothing_else_lies_in_the_data_folder(data):
    ready = {clip_id(source): expected for source, expected in READY.items()} | {"linked": READY["h264.mp4"]}
    files = {".lock", "dataset.json", "manifest.csv", "prepared.jsonl", "splits/all.txt"}
    [shard] = (data[0] / "clips.lmdb").glob("00000-*.lmdb")
    files |= {"clips.lmdb/meta.json", f"clips.lmdb/{shard.name}"}
    for name, expected in ready.items():
        files |= {f"video_frames/{name}/{k:03d}.jpg" for k in range(1, len(expected.numbers) + 1)}
        files |= {f"audios/{name}.flac"}
    found = {path.relative_to(data[0]).as_posix() for path in data[0].rglob("*") if path.is_file()}
    assert found == files
    assert Layout(data[0]).ids("all") == sorted(ready)


def test_the_store_is_what_was_written(data):
    assert "every shard is what was written" in sslib("store", data[0], "--verify", "--workers", "0")


@pytest.mark.parametrize("time", ["middle", 0.0])
def test_both_loaders_read_every_clip_alike(data, time):
    values = {"root": data[0], "seconds": 1.0, "image_size": 32, "time": time}
    config = Config(exp_prefix="a", exp_name="b", data=values)
    folders, store = AVDataset(config, "all"), AVDataset(config, "all", loader="lmdb")
    assert folders.present == f"{len(READY) + 1} of {len(READY) + 1} present" == store.present
    clips = list(iterate(folders))
    assert_same(clips, iterate(store))
    for clip in clips:
        assert clip["image"].shape == (3, 32, 32) and clip["waveform"].shape == (24000,)
        assert clip["waveform"].abs().max() > 3000, clip["clip_id"]
