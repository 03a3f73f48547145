"""A folder of raw videos to a data folder: every file is listed, nothing is done twice, and no kill loses anything."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import videos
from PIL import Image

from sslib.data import parallel, prepare
from sslib.data.layout import Layout


def hang(path, settings):
    """Stands in for a decoder: hangs on one clip."""
    if "bad" in path.name:
        time.sleep(600)
    return prepare_encode(path, settings)


def crash(path, settings):
    if "bad" in path.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return prepare_encode(path, settings)


def fail(path, settings):
    if "bad" in path.name:
        raise MemoryError("picture of 9 TB")
    return prepare_encode(path, settings)


def slow(path, settings):
    time.sleep(0.1)
    return prepare_encode(path, settings)


prepare_encode, prepare_decoder = prepare.encode, prepare._decoder


class Inline:
    """Decodes in this process, and keeps the names of what it decoded: starting a process each time costs a second."""

    def __init__(self):
        self.names = []

    def stream(self, path, settings, limit):
        self.names.append(path.name)
        return prepare.encode(path, settings)

    def close(self):
        pass


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that get decoded."""
    inline = Inline()
    monkeypatch.setattr(prepare, "_decoder", lambda: inline)
    return inline.names


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A small video file."""
    return videos.make(tmp_path_factory.mktemp("one") / "one.mp4", seconds=1.2)


@pytest.fixture
def raw(tmp_path, one, decoded):
    """A folder with the clips a and b."""
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(one, folder / "a.mp4")
    shutil.copy(one, folder / "deep" / "b.mp4")
    return folder


def run(raw, data, **options):
    return prepare.prepare(raw, data, **{"workers": 0, **options})


def rows(data):
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def content(data):
    """Every file of a data folder but the journal and the description, whose times and names may differ."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name not in ("prepared.jsonl", "dataset.json"))
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files}


def test_the_result_is_a_data_folder(raw, tmp_path):
    data = tmp_path / "data"
    done = run(raw, data)
    assert (done.ready, done.total) == (2, 2) and str(done).startswith("2 of 2 ready, 0 rejected")
    layout = Layout(data)
    assert layout.ids("all") == ["a", "b"]
    frames = list(layout.frames("b").values())
    assert [path.name for path in frames] == ["001.jpg", "002.jpg"]
    assert [videos.number(np.asarray(Image.open(path))) for path in frames] == [0, 25]
    sound = soundfile.info(layout.audio("b"))
    assert (sound.samplerate, sound.channels, sound.subtype) == (24000, 1, "PCM_16")
    info = layout.info()
    assert (info["kind"], info["frame_rate"], info["sample_rate"], info["clips"]) == ("videos", 1.0, 24000, 2)
    row = rows(data)["deep/b.mp4"]
    assert (row["id"], row["outcome"], row["frames"], row["width"], row["height"]) == ("b", "ok", "2", "64", "48")
    assert float(row["rms_dbfs"]) == pytest.approx(20 * np.log10(0.25 / 2**0.5), abs=0.3)  # a sine of amplitude 0.25
    assert float(row["seconds"]) == pytest.approx(1.2) and float(row["frame_rate"]) == pytest.approx(25)
    assert row["sha256"] == subprocess.check_output(["sha256sum", raw / "deep/b.mp4"], text=True)[:64]


def test_one_frame_at_an_exact_time(raw, tmp_path):
    run(raw, tmp_path / "data", at=0.5)
    frames = Layout(tmp_path / "data").frames("a").values()
    assert [videos.number(np.asarray(Image.open(path))) for path in frames] == [12]
    assert Layout(tmp_path / "data").info()["at"] == 0.5
    run(raw, tmp_path / "data")
    assert len(Layout(tmp_path / "data").frames("a")) == 2
    run(raw, tmp_path / "data", at=0.0)  # its frame is the first of those that are there
    assert len(Layout(tmp_path / "data").frames("a")) == 1


def test_every_file_is_a_row(tmp_path, one, decoded):
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    names = ["plain.mp4", "with space é 音.mp4", "x/twice.mp4", "y/twice.mkv", ".hidden.mp4", ".git/z.mp4", "a:b.mp4"]
    names += [" edge .mp4", "line\nbreak.mp4", "inside/target.mp4"]
    for name in names:
        (raw / name).parent.mkdir(exist_ok=True)
        shutil.copy(one, raw / name)
    shutil.copy(one, os.fsencode(raw) + b"/bytes\xff.mp4")
    (raw / "folder\udcff").mkdir()
    shutil.copy(one, raw / "folder\udcff" / "inner.mp4")
    shutil.copy(one, tmp_path / "outside.mp4")
    (raw / "out.mp4").symlink_to(tmp_path / "outside.mp4")
    (raw / "in.mp4").symlink_to(raw / "inside" / "target.mp4")
    (raw / "nowhere.mp4").symlink_to(raw / "missing.mp4")
    (raw / "loop").symlink_to(raw)
    os.mkfifo(raw / "pipe.mp4")
    (raw / "empty.mp4").touch()
    (raw / "list.csv").write_text("id\n1\n")
    (raw / "cut.mp4").write_bytes(one.read_bytes()[:2000])
    videos.make(raw / "quiet.mp4", seconds=0.4, sounds=[np.zeros((1, 20000), np.float32)])
    videos.make(raw / "mute.mp4", seconds=0.4, sounds=[])
    videos.make(raw / "short.mp4", seconds=0.2)
    done = run(raw, data)
    table = rows(data)
    reasons = {
        "x/twice.mp4": "rename one of them (y/twice.mkv)",
        "y/twice.mkv": "rename one of them (x/twice.mp4)",
        "a:b.mp4": "not a clip id",
        " edge .mp4": "cannot be a line of a list",
        "line\nbreak.mp4": "cannot be a line of a list",
        "bytes\\udcff.mp4": "not UTF-8",
        "folder\\udcff/inner.mp4": "not UTF-8",
        "out.mp4": "leads out of the raw folder",
        "nowhere.mp4": "a link to nothing",
        "loop": "a link to a folder",
        "pipe.mp4": "not a regular file",
        "empty.mp4": "empty file (0 bytes)",
        "list.csv": "not a video",
        "cut.mp4": "cut off",
        "quiet.mp4": "a silent sound track",
        "mute.mp4": "no sound track",
    }
    ready = ["plain.mp4", "with space é 音.mp4", "inside/target.mp4", "in.mp4", "short.mp4"]
    assert table.keys() == reasons.keys() | set(ready)
    for source, reason in reasons.items():
        assert table[source]["outcome"] == "rejected" and reason in table[source]["reason"], source
    assert all(table[source]["outcome"] == "ok" for source in ready)
    assert "only 0.20 s long" in table["short.mp4"]["notes"]
    assert Layout(data).ids("all") == sorted(Path(source).stem for source in ready)
    assert {path.name for path in (data / "video_frames").iterdir()} == {Path(source).stem for source in ready}
    assert (done.ready, done.total, done.reasons.total()) == (len(ready), len(table), len(reasons))
    assert f"{2:6}  the same clip id as another file: rename one of them" in str(done)


def test_a_second_run_does_only_what_changed(raw, tmp_path, one, decoded):
    data = tmp_path / "data"
    (raw / "broken.mp4").write_bytes(b"nothing")
    run(raw, data)
    before = content(data)
    assert sorted(decoded) == ["a.mp4", "b.mp4", "broken.mp4"]
    decoded.clear()
    run(raw, data)
    assert decoded == [] and content(data) == before
    os.utime(raw / "a.mp4", (1, 1))  # touched, not changed
    run(raw, data)
    assert decoded == [] and content(data) == before
    run(raw, data, retry=True)
    assert decoded == ["broken.mp4"]
    decoded.clear()
    videos.make(raw / "a.mp4", seconds=2.2)
    (data / "audios" / "b.flac").unlink()
    run(raw, data)
    assert sorted(decoded) == ["a.mp4", "b.mp4"]
    assert len(Layout(data).frames("a")) == 3 and Layout(data).audio("b").exists()
    decoded.clear()
    run(raw, data, frame_rate=2.0)
    assert sorted(decoded) == ["a.mp4", "b.mp4", "broken.mp4"] and len(Layout(data).frames("b")) == 3


def test_a_source_that_goes_bad_and_one_that_goes_away(raw, tmp_path):
    data = tmp_path / "data"
    run(raw, data)
    (raw / "a.mp4").write_bytes(b"nothing")
    (raw / "deep" / "b.mp4").unlink()
    done = run(raw, data)
    assert Layout(data).ids("all") == ["b"] and not (data / "video_frames" / "a").exists()
    assert not (data / "audios" / "a.flac").exists() and done.total == 2
    assert "no longer in the raw folder" in rows(data)["deep/b.mp4"]["notes"]


def test_a_second_file_of_the_same_id_takes_the_clip_out(raw, tmp_path, one):
    data = tmp_path / "data"
    run(raw, data)
    shutil.copy(one, raw / "b.mkv")
    run(raw, data)
    assert Layout(data).ids("all") == ["a"] and not (data / "video_frames" / "b").exists()
    assert {rows(data)[name]["outcome"] for name in ("b.mkv", "deep/b.mp4")} == {"rejected"}


@pytest.mark.parametrize(
    ("method", "reason"), [("", "a link to nothing"), ("stat", "Input/output error"), ("open", "Input/output error")]
)
def test_a_source_that_cannot_be_read_now_leaves_the_clip(raw, tmp_path, monkeypatch, method, reason):
    """A target that is not mounted, an error of a network drive: what was made of it before is not in doubt."""
    data, link, target = tmp_path / "data", raw / "deep" / "b.mp4", raw / ".b"
    link.rename(target)
    link.symlink_to(target)
    run(raw, data)
    before = content(data)
    before.pop("manifest.csv")
    with monkeypatch.context() as patch:
        if method:
            fail_for(patch, method, link.name)
            os.utime(target, (1, 1))  # or it would not be opened
        else:
            target.rename(raw / ".gone")
        done = run(raw, data)
    after = content(data)
    after.pop("manifest.csv")
    assert after == before and (done.ready, done.total) == (2, 2)
    assert rows(data)["deep/b.mp4"]["outcome"] == "ok" and reason in rows(data)["deep/b.mp4"]["notes"]
    if not method:
        (raw / ".gone").rename(target)
    run(raw, data)
    assert rows(data)["deep/b.mp4"]["outcome"] == "ok" and rows(data)["deep/b.mp4"]["notes"] == ""


def fail_for(patch, method, name):
    """Let ``Path.method`` fail for files of this name, as on a network drive that is away."""
    inner = getattr(Path, method)

    def fail(self, *arguments, **options):
        if self.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return inner(self, *arguments, **options)

    patch.setattr(Path, method, fail)


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (hang, "decoder stopped after 5 s"),
        (crash, "decoder crashed (SIGSEGV)"),
        (fail, "decoder failed (MemoryError: picture of 9 TB)"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_takes_one_clip_along(raw, tmp_path, one, monkeypatch, decoder, reason):
    monkeypatch.setattr(prepare, "encode", decoder)
    monkeypatch.setattr(prepare, "_decoder", prepare_decoder)
    monkeypatch.setattr(prepare, "_local", type("Local", (), {})())
    shutil.copy(one, raw / "aa bad.mp4")
    run(raw, tmp_path / "data", time_limit=5)
    table = rows(tmp_path / "data")
    assert table["aa bad.mp4"]["reason"] == reason
    assert table["a.mp4"]["outcome"] == table["deep/b.mp4"]["outcome"] == "ok"


def test_a_child_ends_by_itself_without_its_parent():
    """Its alarm, GRACE after the limit, ends it while the function runs; here the parent does not look."""
    waiting = parallel.KillableProcess(time.sleep)
    waiting._start()
    waiting.pipe.send(((600,), 0.2 - parallel.GRACE))
    assert waiting.process.wait(timeout=30) == -signal.SIGALRM
    waiting.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("target", ["write_bytes", "mkdir", "rename"])
def test_a_disk_that_is_full_or_read_only_stops_the_run(raw, tmp_path, monkeypatch, code, target):
    data, method = tmp_path / "data", getattr(Path, target)

    def fail(self, *arguments, **options):
        if ".partial" in self.parts and (data / "audios" / "a.flac").exists():
            raise OSError(code, os.strerror(code), str(self))
        return method(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, target, fail)
        with pytest.raises(prepare.PreparationAborted, match=f"cannot write into {data}: {os.strerror(code)}"):
            run(raw, data)
    assert "a" in manifest_rows(data) and not (data / "audios" / "b.flac").exists()
    run(raw, data)
    assert Layout(data).ids("all") == ["a", "b"]


def manifest_rows(data):
    return {json.loads(line)["id"] for line in (data / "prepared.jsonl").read_text().splitlines()}


def test_foreign_folders_are_left_alone(raw, tmp_path):
    Layout(tmp_path / "stamps").write_info(kind="stamps")
    with pytest.raises(prepare.PreparationAborted, match="holds stamps"):
        run(raw, tmp_path / "stamps")
    (tmp_path / "other" / "video_frames").mkdir(parents=True)
    with pytest.raises(prepare.PreparationAborted, match="not prepared here"):
        run(raw, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run(tmp_path / "nothing", tmp_path / "data")


def test_other_lists_stay(raw, tmp_path):
    data = tmp_path / "data"
    run(raw, data)
    Layout(data).write_split("mine", ["a"])
    run(raw, data)
    assert Layout(data).ids("mine") == ["a"]


def test_two_runs_at_once(raw, tmp_path):
    data = tmp_path / "data"
    run(raw, data)
    journal = prepare.Journal(data)
    with pytest.raises(prepare.PreparationAborted, match="another process"):
        run(raw, data)
    journal.close()
    assert run(raw, data).ready == 2


def test_the_journal_only_grows(raw, tmp_path, one):
    """A file that is replaced cannot be locked: who opened the old one locks what nobody else sees."""
    data = tmp_path / "data"
    run(raw, data)
    path = data / "prepared.jsonl"
    before, inode = path.read_bytes(), path.stat().st_ino
    shutil.copy(one, raw / "b.mkv")  # claims the id of another: a line takes the clip out
    shutil.copy(one, raw / "c.mkv")
    run(raw, data)
    assert path.stat().st_ino == inode and path.read_bytes().startswith(before)
    assert Layout(data).ids("all") == ["a", "c"]
    assert {rows(data)[name]["outcome"] for name in ("b.mkv", "deep/b.mp4")} == {"rejected"}
    (raw / "b.mkv").unlink()
    assert run(raw, data).ready == 3


def test_one_clip_prepared_twice_at_once(raw, tmp_path, monkeypatch):
    """As on a cluster that takes a worker for lost: at whichever step the one is, the other one may finish first."""
    data = tmp_path / "data"
    run(raw, data)
    known = next(prepare.encode(raw / "a.mp4", prepare.Settings(1.0, None, 24000, 60.0, 60.0)))
    layout, before, inner, steps = Layout(data), content(data), Path.rename, []

    def rename(self, target):
        steps.append(target)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", inner)
            layout.replace_clip("a", *known[:2])  # the other one, from its beginning to its end
        return inner(self, target)

    layout.remove_clip("a")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        layout.replace_clip("a", *known[:2])
    assert steps and content(data) == before
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: layout.replace_clip("a", *known[:2]), range(200)))
    assert content(data) == before


def test_a_clip_that_is_there_already_is_not_touched(raw, tmp_path, monkeypatch):
    """A second run of a task may come when the run is over and its list written."""
    data = tmp_path / "data"
    run(raw, data)
    known = next(prepare.encode(raw / "a.mp4", prepare.Settings(1.0, None, 24000, 60.0, 60.0)))
    monkeypatch.setattr(Layout, "remove_clip", lambda *_: pytest.fail("removed a clip that is there"))
    Layout(data).replace_clip("a", *known[:2])


def test_a_line_that_was_cut_off_does_not_count(raw, tmp_path, decoded):
    data = tmp_path / "data"
    run(raw, data)
    before, path = content(data), data / "prepared.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    decoded.clear()
    run(raw, data)
    assert decoded == ["b.mp4"] and content(data) == before


@pytest.mark.parametrize("bad", [{"frame_rate": 0.0}, {"at": -1.0}, {"sample_rate": 10}, {"time_limit": float("nan")}])
def test_settings_that_make_no_sense(raw, tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        run(raw, tmp_path / "data", **bad)


def test_killed_and_run_again_is_as_never_killed(tmp_path, one, decoded):
    raw, data, untouched = tmp_path / "raw", tmp_path / "data", tmp_path / "untouched"
    raw.mkdir()
    for k in range(16):
        shutil.copy(one, raw / f"clip {k}.mp4")
    (raw / "clip bad.mp4").write_bytes(b"nothing")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import test_prepare as t; from sslib.data import prepare; from pathlib import Path\n"
        "prepare.encode = t.slow\n"
        f"prepare.prepare(Path({str(raw)!r}), Path({str(data)!r}), workers=0)"
    )
    for lines in (3, 9):  # killed twice: while lines are being added
        main = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(manifest_rows_or_none(data)) < lines:
            time.sleep(0.01)
        main.send_signal(signal.SIGKILL)
        main.wait()
        assert lines <= len(manifest_rows_or_none(data)) < 17
        for folder in (data / "video_frames").iterdir():
            assert len(list(folder.iterdir())) == 2  # whole, or not there
    finished = len(manifest_rows_or_none(data))
    run(raw, data)
    assert len(decoded) == 17 - finished
    run(raw, untouched)
    assert content(data) == content(untouched)


def manifest_rows_or_none(data):
    """Whole lines of a journal that may be missing or growing."""
    path = data / "prepared.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def test_the_command_line_with_worker_processes(raw, tmp_path):
    (raw / "bad.mp4").touch()
    command = [sys.executable, "-m", "sslib", "prepare", raw, tmp_path / "data", "--workers", "2", "--fps", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 ready, 1 rejected" in done.stdout and "1  an empty file" in done.stdout
    assert str(tmp_path / "data" / "manifest.csv") in done.stdout
    assert len(Layout(tmp_path / "data").frames("a")) == 3
    Layout(tmp_path / "other").write_info(kind="stamps")
    stopped = subprocess.run([*command[:5], tmp_path / "other"], capture_output=True, text=True)
    assert stopped.returncode == 1 and stopped.stderr.startswith("sslib: ") and "holds stamps" in stopped.stderr


# Videos that are cut into clips


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """5 s; in each of them 440 Hz, but for silence from a little before 2 to a little after 4 s."""
    sound = videos.tone(5.0)
    sound[:, round(1.95 * videos.RATE) : round(4.05 * videos.RATE)] = 0
    return videos.make(tmp_path_factory.mktemp("long") / "long.mkv", seconds=5.0, sounds=[sound], audio="pcm_s16le")


def test_a_long_video_becomes_clips(raw, tmp_path, long):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    done = run(raw, data, clip_seconds=2.0)
    assert str(done).startswith("4 of 5 ready, 1 rejected (parts of 3 files)\n     1  a silent sound track")
    layout = Layout(data)
    assert layout.ids("all") == ["a", "b", "long@000000", "long@000004"]
    for clip_id, expected in (("long@000000", [0, 25]), ("long@000004", [100]), ("a", [0, 25])):
        frames = layout.frames(clip_id).values()
        assert [videos.number(np.asarray(Image.open(path))) for path in frames] == expected
    assert soundfile.info(layout.audio("long@000000")).frames == 48000
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        table = {row["id"]: row for row in csv.DictReader(file)}
    assert [table[f"long@00000{k}"]["start"] for k in (0, 2, 4)] == ["0.0", "2.0", "4.0"] and table["a"]["start"] == ""
    assert [table[f"long@00000{k}"]["outcome"] for k in (0, 2, 4)] == ["ok", "rejected", "ok"]
    assert table["long@000004"]["seconds"] == "1.0" and table["long@000002"]["source"] == "long.mkv"


def test_a_second_run_does_nothing_to_what_was_cut(raw, tmp_path, long, decoded):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    run(raw, data, clip_seconds=2.0)
    before = content(data)
    decoded.clear()
    run(raw, data, clip_seconds=2.0)
    assert decoded == [] and content(data) == before
    (data / "audios" / "long@000004.flac").unlink()
    run(raw, data, clip_seconds=2.0)
    assert decoded == ["long.mkv"] and content(data) == before


def test_a_run_that_died_amid_the_clips_of_a_video_does_them_again(raw, tmp_path, long, decoded):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    run(raw, data, clip_seconds=2.0)
    before, journal = content(data), data / "prepared.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    decoded.clear()
    run(raw, data, clip_seconds=2.0)
    assert decoded == ["long.mkv"] and content(data) == before


def test_another_length_takes_the_place_of_the_clips(raw, tmp_path, long):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    run(raw, data, clip_seconds=1.0)
    assert Layout(data).ids("all") == ["a", "b", "long@000000", "long@000001", "long@000004"]
    run(raw, data, clip_seconds=2.0)
    assert Layout(data).ids("all") == ["a", "b", "long@000000", "long@000004"]
    assert {path.name for path in (data / "video_frames").iterdir()} == {"a", "b", "long@000000", "long@000004"}
    run(raw, data)
    assert Layout(data).ids("all") == ["a", "b", "long"]


@pytest.mark.parametrize("cut", [{"max_seconds": 60.0}, {"clip_seconds": 2.0}])
def test_a_limit_that_is_lowered_later_takes_nothing_away(raw, tmp_path, long, cut, decoded):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    run(raw, data, **cut)
    before = content(data)
    os.utime(raw / "long.mkv", (1, 1))
    for _ in range(2):
        decoded.clear()
        done = run(raw, data, max_seconds=3.0)
        after = content(data)
        for name in ("splits/all.txt", *(name for name in before if name.startswith(("video_frames", "audios")))):
            assert after[name] == before[name], name
        assert done.ready == Layout(data).info()["clips"]
    assert "long.mkv" not in decoded  # a limit that has been met once is not tried again
    notes = {row["notes"] for row in csv.DictReader(after["manifest.csv"].decode().splitlines()) if "long" in row["id"]}
    assert ("max_seconds" in cut and notes == {""}) or any(
        "kept; its source: longer than 3 s" in note for note in notes
    )


def test_a_limit_that_is_raised_lets_a_video_in(raw, tmp_path, long, decoded):
    data = tmp_path / "data"
    shutil.copy(long, raw / "long.mkv")
    assert run(raw, data, max_seconds=3.0).reasons.most_common(1)[0][0] == "longer than 3 s"
    decoded.clear()
    run(raw, data, max_seconds=2.0)
    assert decoded == []
    assert run(raw, data, max_seconds=6.0).ready == 3 and decoded == ["long.mkv"]


def test_no_file_may_be_named_as_a_part(raw, tmp_path, one):
    shutil.copy(one, raw / "a@000010.mp4")
    run(raw, tmp_path / "data")
    assert "named as a part of a video" in rows(tmp_path / "data")["a@000010.mp4"]["reason"]


def test_a_decoder_that_dies_amid_a_video_leaves_the_clips_before(raw, tmp_path, long, monkeypatch):
    monkeypatch.setattr(prepare, "encode", dies_later)
    monkeypatch.setattr(prepare, "_decoder", prepare_decoder)
    monkeypatch.setattr(prepare, "_local", type("Local", (), {})())
    shutil.copy(long, raw / "long.mkv")
    run(raw, tmp_path / "data", clip_seconds=1.0)
    assert Layout(tmp_path / "data").ids("all") == ["a", "b", "long@000000", "long@000001"]
    with (tmp_path / "data" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons["long"] == "decoder crashed (SIGSEGV)" and reasons["long@000001"] == ""


def dies_later(path, settings):
    for number, clip in enumerate(prepare_encode(path, settings)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield clip


@pytest.mark.parametrize("bad", [{"clip_seconds": 0.5}, {"clip_seconds": 10.0, "at": 5.0}])
def test_lengths_that_make_no_sense(raw, tmp_path, bad):
    with pytest.raises(ValueError, match="clip_seconds"):
        run(raw, tmp_path / "data", **bad)
