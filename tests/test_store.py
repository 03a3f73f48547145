"""The LMDB store: equal to the folders clip by clip, complete or not there, checked, and small enough for the disk."""

import ast
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jupytext
import lmdb
import numpy as np
import pytest
import soundfile
import torch
from folders import RATE, Folder, assert_same, iterate, picture, tone
from torch.utils.data import DataLoader, StackDataset
from typer.testing import CliRunner

from sslib import datasets
from sslib.__main__ import app
from sslib.data import media, shards, store, verification
from sslib.data.clock import Selection, cut_sound
from sslib.data.layout import ClipError
from sslib.data.store import Store, StoreError
from sslib.datasets import AVDataset


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def many(folder, monkeypatch) -> Folder:
    """Eight clips of different lengths, rates and numbers of frames, three a shard at most on average."""
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 3)
    rng = np.random.default_rng(0)
    for number in range(8):
        rate, suffix = (RATE, 11025)[number % 2], (".wav", ".flac")[number % 3 == 0]
        sound = 0.5 * tone(0.4 + 0.5 * number, rate)
        folder.add(f"clip {number}", 3 + number, sound + 0.1 * rng.standard_normal(len(sound)), suffix, rate=rate)
    return folder


# The clips of `many` by the first two bits of the SHA-256 of their ids (`printf 'clip 0' | sha256sum`: 02…)
SHARDS = [["clip 0", "clip 6"], ["clip 5"], ["clip 1", "clip 3", "clip 4"], ["clip 2", "clip 7"]]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / store.NAME).iterdir())


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / store.NAME).iterdir())}


# Shards


def test_generated_scenes_are_the_same_from_folders_and_store(configure):
    config = configure(data={"loader": "lmdb"})
    store.write(config.data.root)
    for split, train in (("train", True), ("val", False), ("test_new_instances", False)):
        assert isinstance(AVDataset(config, split).reader, datasets.StoreReader)
        assert isinstance(AVDataset(configure(), split).reader, datasets.FolderReader)
        one = AVDataset(config, split, train=train, annotated=not train, loader="folders")
        other = AVDataset(config, split, train=train, annotated=not train)
        assert one.ids == other.ids
        assert_same(iterate(one), iterate(other))


def test_shards_are_the_folder_clip_by_clip(many):
    path = store.write(many.root)
    assert names(many.root) == ["meta.json", *(f"shard-0000{number}.lmdb" for number in range(4))]
    meta = json.loads((path / "meta.json").read_text())
    assert [row["ids"] for row in meta["shards"]] == SHARDS
    assert [int(hashlib.sha256(i.encode()).hexdigest()[0], 16) // 4 for ids in SHARDS for i in ids] == [
        number for number, ids in enumerate(SHARDS) for _ in ids
    ]
    assert [row["bytes"] for row in meta["shards"]] == [(path / row["name"]).stat().st_size for row in meta["shards"]]
    for data in ({}, {"time": 0.3}, {"time": "middle", "frame": 2, "sample_rate": 11025, "seconds": 2.0}):
        many.both(**data)


def test_parallel_writers_leave_the_same_bytes(many):
    store.write(many.root)
    alone = files(many.root)
    shutil.rmtree(many.root / store.NAME)
    # Two workers, each its own shards; the size of a shard travels with the task
    store.write(many.root, workers=2)
    assert files(many.root) == alone


@pytest.mark.parametrize(
    "data", [{}, {"time": 0.0}, {"time": 0.4, "frame_rate": 4.0, "seconds": 0.5}, {"frame": 3, "sample_rate": 11025}]
)
def test_store_of_what_is_used_yields_the_same_clips(many, data):
    config = many.config(**data)
    clips = iterate(AVDataset(config, "all"))
    whole = sum(map(len, files(store.write(many.root).parent).values()))
    store.write(many.root, selection=Selection.of(config.data))
    assert sum(map(len, files(many.root).values())) < whole
    stored = AVDataset(config, "all", loader="lmdb")
    assert_same(clips, iterate(stored))
    assert {len(stored.reader.store.frames(clip_id)) for clip_id in stored.ids} == {1}
    with pytest.raises(StoreError, match="only what another configuration uses"):
        AVDataset(many.config(**data | {"seconds": 0.7}), "all", loader="lmdb")
    store.write(many.root)  # the whole of each clip again
    AVDataset(many.config(seconds=0.7), "all", loader="lmdb")


def test_ensure_writes_only_what_is_needed_and_never_undoes_only(many):
    config = many.config()
    used, path = Selection.of(config.data), many.root / store.NAME
    other = Selection.of(many.config(seconds=0.7).data)
    assert store.ensure(many.root, used) and Store(path).selection is None
    for selection in (used, other):  # all of each clip serves both
        assert not store.ensure(many.root, selection)
    store.write(many.root, selection=used)
    before = files(many.root)
    assert not store.ensure(many.root, used) and files(many.root) == before
    with pytest.raises(StoreError, match=r"only what another configuration uses.*python -m sslib store"):
        store.ensure(many.root, other)
    assert files(many.root) == before
    (path / "shard-00001.lmdb").unlink()
    many.add("new")
    assert store.ensure(many.root, used, workers=2) and Store(path).selection == used
    assert_same(iterate(AVDataset(config, "all")), iterate(AVDataset(config, "all", loader="lmdb")))


def cell_of_the_notebook(config) -> None:
    """Run the imports of notebook 01 and its code below "The store", as for `config`."""
    cells = jupytext.read(Path(__file__).parents[1] / "notebooks/01_data_preparation.py").cells
    imports = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body
               if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    names = {"settings": config, "data": config.data, "splits": ["all"]}
    exec("\n".join(map(ast.unparse, imports)), names)
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("## The store"))
    exec(cells[start + 1].source, names)


def test_notebook_stores_only_for_the_loader_that_reads_it(many):
    cell_of_the_notebook(many.config(loader="folders"))
    assert not (many.root / store.NAME).exists()
    config = many.config(loader="lmdb")
    store.write(many.root, selection=Selection.of(config.data))
    before = files(many.root)
    cell_of_the_notebook(config)  # neither undoes `store --only` nor reads all of it again
    assert files(many.root) == before


def test_random_moments_need_the_whole_clip(many):
    with pytest.raises(StoreError, match="random"):
        store.write(many.root, selection=Selection.of(many.config(time="random").data))


def test_store_keeps_pictures_and_flac_byte_for_byte(folder):
    folder.add("flac", frames=3, suffix=".flac", subtype="PCM_24")
    folder.add("wav", sound=tone(1.0), subtype="PCM_16")
    stored = Store(store.write(folder.root))
    assert stored.frames("flac") == [1, 2, 3]
    for number in (1, 2, 3):
        assert stored.frame("flac", number) == (folder.root / f"video_frames/flac/00{number}.jpg").read_bytes()
    assert stored.audio("flac") == (folder.root / "audios/flac.flac").read_bytes()
    assert stored.sizes("flac") == [*(len(stored.frame("flac", k)) for k in (1, 2, 3)), len(stored.audio("flac"))]
    assert stored.meta["schema"] == store.SCHEMA and stored.meta["clips"] == 2


@pytest.mark.parametrize("rate", [8000, 44100])
def test_wav_becomes_flac_losslessly(folder, rate):
    samples = np.random.default_rng(0).integers(-32768, 32768, 3000).astype(np.int16)
    folder.add("wav", sound=samples, rate=rate, subtype="PCM_16")
    content = io.BytesIO(Store(store.write(folder.root)).audio("wav"))
    with soundfile.SoundFile(content) as file:
        assert (file.format, file.subtype, file.samplerate, file.channels) == ("FLAC", "PCM_16", rate, 1)
        np.testing.assert_array_equal(file.read(dtype="int16"), samples)


def test_clips_larger_than_the_first_map(folder, monkeypatch):
    """The map starts at 64 MB and doubles; here at 64 kB."""
    opened = lmdb.open

    def small(path, **options):
        return opened(path, **options | ({"map_size": 1 << 16} if "map_size" in options else {}))

    monkeypatch.setattr(lmdb, "open", small)
    for number in range(3):
        folder.add(f"{number}", frames=9, sound=np.random.default_rng(number).uniform(-1, 1, 40000))
    assert (store.write(folder.root) / "shard-00000.lmdb").stat().st_size > 4 << 16
    folder.both()


def test_only_the_window_of_flac_is_decoded_and_it_is_the_same(folder, monkeypatch):
    rng = np.random.default_rng(0)
    for number, seconds in enumerate((0.4, 1.0, 1.1, 7.0)):
        sound = rng.uniform(-0.9, 0.9, (round(seconds * RATE), 1 + number % 2))
        folder.add(f"{number}", 7, sound, ".flac", subtype="PCM_24" if number % 2 else "PCM_16")
    for data in ({}, {"time": 0.0}, {"time": 1.1}, {"time": 6.9}):
        config = folder.config(**data)
        dataset, read = AVDataset(config, "all"), 0
        for index in range(4):
            whole = media.read_audio(folder.root / f"audios/{index}.flac", RATE)
            time = data.get("time", len(whole) / RATE / 2)
            if time <= len(whole) / RATE:
                np.testing.assert_array_equal(dataset[index]["waveform"], cut_sound(whole, RATE, 1.0, time))
                read += 1
        assert read == {1.1: 2, 6.9: 1}.get(time, 4)
    config = folder.config()
    monkeypatch.setattr(media, "read_audio", None)  # the long ones never need all of it
    assert [len(AVDataset(config, "all")[index]["waveform"]) for index in (1, 2, 3)] == [RATE] * 3


# Complete or not there


def test_every_bad_clip_is_listed_and_nothing_is_a_store(many):
    for name in ("audios/clip 1.wav", "video_frames/clip 4/005.jpg", "video_frames/clip 7/001.jpg"):
        (many.root / name).write_bytes((many.root / name).read_bytes()[:40])
    for path in (many.root / "video_frames/clip 3").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="4 of 8 clips") as caught:
        store.write(many.root)
    assert [i for i in range(8) if f"clip 'clip {i}': " in str(caught.value)] == [1, 3, 4, 7]
    for reason in ("not a readable sound", "no frames", "not a readable picture", "clip 4/005.jpg"):
        assert reason in str(caught.value)
    assert names(many.root) == ["shard-00000.lmdb", "shard-00001.lmdb"]  # without meta.json no store


def test_good_shards_stay_for_the_next_attempt(many):
    bad = many.root / "audios/clip 4.wav"
    good = bad.read_bytes()
    bad.write_bytes(b"no")
    with pytest.raises(StoreError, match="clip 4"):
        store.write(many.root)
    assert names(many.root) == ["shard-00000.lmdb", "shard-00001.lmdb", "shard-00003.lmdb"]
    with pytest.raises(StoreError, match="no store"):
        AVDataset(many.config(), "all", loader="lmdb")
    before = {name: (many.root / store.NAME / name).stat().st_mtime_ns for name in names(many.root)}
    bad.write_bytes(good)
    many.both()
    assert all((many.root / store.NAME / name).stat().st_mtime_ns == then for name, then in before.items())


def test_missing_clips_are_counted_and_listed(many, capsys):
    many.layout.write_split("all", [*many.ids, "gone", "soundless"])
    (many.root / "video_frames/soundless").mkdir()
    path = store.write(many.root)
    assert "8 clips (2 more are missing" in capsys.readouterr().out
    assert Store(path).meta["missing"] == ["gone", "soundless"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert AVDataset(many.config(), "all", loader="lmdb").missing == ["gone", "soundless"]


def test_interrupted_store_leaves_nothing_that_looks_complete(many, monkeypatch):
    whole = shards.encode

    def interrupted(layout, clip_id, selection=None):
        if clip_id == "clip 5":
            raise KeyboardInterrupt
        return whole(layout, clip_id, selection)

    monkeypatch.setattr(store, "estimate", lambda *_: 0)
    monkeypatch.setattr(shards, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(many.root)
    assert names(many.root) == ["shard-00000.lmdb"]
    monkeypatch.undo()
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 3)
    assert len(many.both()) == 8


SLOW = """
import os, sys, time
from pathlib import Path
from sslib import shards, store
store.CLIPS_PER_SHARD, shards.BATCH = 3, 1
store.estimate = lambda *_: 0
put = shards._put
def slow(database, values):
    put(database, values)
    if "frame/clip 5/1" in values:
        database.sync(True)
        print("in the middle", flush=True)
        time.sleep(60)
shards._put = slow
store.write(Path(sys.argv[1]))
"""


def test_killed_in_the_middle_and_run_again_is_the_same_store(many, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 1)
    store.write(many.root)
    whole = files(many.root)
    shutil.rmtree(many.root / store.NAME)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(many.root)], stdout=subprocess.PIPE, text=True)
    while "in the middle" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(many.root)
    assert left[0] == "shard-00000.lmdb" and len(left) == 2 and left[1].endswith(".partial")
    with pytest.raises(StoreError, match="no store"):
        Store(many.root / store.NAME)
    store.write(many.root)
    assert files(many.root) == whole


def test_only_shards_of_changed_media_are_written_again(many):
    path = store.write(many.root)
    before = {name: (path / name).stat().st_ino for name in names(many.root)}
    assert store.write(many.root) == path
    assert {name: (path / name).stat().st_ino for name in names(many.root)} == before
    picture(77).save(many.root / "video_frames/clip 4/002.jpg", quality=95)
    store.write(many.root)
    changed = {name for name in names(many.root) if (path / name).stat().st_ino != before[name]}
    assert changed == {"shard-00002.lmdb", "meta.json"}
    many.both()
    content = (
        many.root / "audios/clip 7.wav"
    ).read_bytes()  # the same size, another time: that it is equal is not known
    (many.root / "audios/clip 7.wav").write_bytes(content)
    os.utime(many.root / "audios/clip 7.wav", ns=(0, 1))
    store.write(many.root)
    assert (path / "shard-00003.lmdb").stat().st_ino != before["shard-00003.lmdb"]


def test_new_clip_changes_one_shard(many):
    path = store.write(many.root)
    before = {name: (path / name).stat().st_ino for name in names(many.root)}
    many.add("a clip before all others")  # its hash begins with the bits 10
    store.write(many.root)
    assert before.keys() == set(names(many.root))
    changed = {name for name in before if (path / name).stat().st_ino != before[name]}
    assert changed - {"meta.json"} == {"shard-00002.lmdb"}
    many.both()


@pytest.mark.parametrize("clips, shards", [(1, 1), (3, 1), (4, 2), (6, 2), (7, 4), (12, 4), (13, 8), (600, 256)])
def test_number_of_shards_is_a_power_of_two(monkeypatch, clips, shards):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 3)
    ids = sorted(f"{number:03d}" for number in range(clips))
    parts = store._divide(ids)
    assert sorted(i for part in parts.values() for i in part) == ids
    assert all(list(part) == sorted(part) and 0 <= number < shards for number, part in parts.items())
    assert shards // 2 < max(parts) + 1 or clips < 10


def test_list_that_grows_or_shrinks(many):
    path = store.write(many.root)
    for ids in (many.ids[:2], many.ids[2:], many.ids):
        many.layout.write_split("all", ids)
        assert Store(store.write(many.root)).ids == set(ids)
        assert len(names(many.root)) == {2: 1 + 1, 6: 1 + 2, 8: 1 + 4}[len(ids)]
        assert_same(iterate(AVDataset(many.config(), "all")), iterate(AVDataset(many.config(), "all", loader="lmdb")))
    assert verification.verify(path) == []


def test_folder_without_lists_or_clips_is_not_stored(folder):
    folder.add("a")
    folder.layout.write_split("all", ["b"])
    with pytest.raises(StoreError, match="none of the 1 clips"):
        store.write(folder.root)
    (folder.root / "splits/all.txt").unlink()
    with pytest.raises(StoreError, match="no lists"):
        store.write(folder.root)


UNUSABLE = {
    "old": lambda path: path.write_text("one file, as schema 1 had it"),
    "bare": lambda path: path.mkdir(),
    "empty": lambda path: meta(path, ""),
    "list": lambda path: meta(path, "[1]"),
    "other": lambda path: meta(path, '{"name": "else"}'),
    "older": lambda path: meta(path, '{"schema": 1}'),
    "newer": lambda path: meta(path, '{"schema": 4}'),
}


def meta(path: Path, text: str) -> None:
    path.mkdir()
    (path / "meta.json").write_text(text)


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_store_is_refused_and_written_anew(folder, kind):
    folder.add("a")
    path = folder.root / store.NAME
    UNUSABLE[kind](path)
    says = {"old": "schema 1", "older": "has schema 1, this is 3", "newer": "has schema 4, this is 3"}.get(
        kind, "clips"
    )
    for read in (Store, verification.verify):
        with pytest.raises(StoreError, match=says) as caught:
            read(path)
        assert f"python -m sslib store {folder.root}" in str(caught.value)
    assert len(folder.both()) == 1


def test_shard_that_is_no_database_is_written_anew(many):
    path = store.write(many.root)
    size = (path / "shard-00001.lmdb").stat().st_size
    for content in (b"", b"no" * 9999, b"\0" * size):
        (path / "shard-00001.lmdb").write_bytes(content)
        with pytest.raises((StoreError, lmdb.Error)):
            iterate(AVDataset(many.config(), "all", loader="lmdb"))
        (path / "meta.json").unlink()
        many.both()


def test_shards_missing_or_cut_short_are_named_and_written_anew(many):
    path = store.write(many.root)
    first, last = path / "shard-00000.lmdb", path / "shard-00002.lmdb"
    content = last.read_bytes()
    first.unlink()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError) as caught:
        Store(path)
    faults = verification.verify(path)
    assert len(faults) == 2
    assert (
        f"{first} is missing" in faults[0] and f"{last} has {len(content) // 2} bytes, not {len(content)}" in faults[1]
    )
    assert all(fault in str(caught.value) for fault in faults)
    assert len(many.both()) == 8
    assert verification.verify(path) == []


def test_reading_a_shard_cut_short_after_it_was_opened_raises(many):
    """LMDB maps the file: reading what is missing would end in a bus error, not in an exception."""
    path = store.write(many.root)
    dataset = AVDataset(many.config(), "all", loader="lmdb")
    assert dataset[0]
    content = (path / "shard-00000.lmdb").read_bytes()
    (path / "shard-00000.lmdb").write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="cut short"):
        dataset[6]


# Verification


def test_flipped_bytes_are_found_with_clip_and_key(many):
    path = store.write(many.root)
    assert verification.verify(path) == []
    for key, inside in (("frame/clip 5/8", "frame"), ("audio/clip 5", "audio")):
        file = path / "shard-00001.lmdb"
        value = Store(path).frame("clip 5", 8) if inside == "frame" else Store(path).audio("clip 5")
        good = file.read_bytes()
        assert good.count(value) == 1
        at = good.index(value) + len(value) // 2
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        faults = verification.verify(path)
        assert len(faults) == 2 and str(file) in faults[0]
        assert faults[1] == f"shard-00001.lmdb: clip 'clip 5': {key}: not what was written (sha256)"
        result = CliRunner().invoke(app, ["store", str(many.root), "--verify", "--workers", "0"])
        assert result.exit_code == 1 and faults[1] in result.output
        file.unlink()  # as the message says
        store.write(many.root)
        assert file.read_bytes() == good
    result = CliRunner().invoke(app, ["store", str(many.root), "--verify", "--workers", "0"])
    assert result.exit_code == 0 and "every value is what was written" in result.output


@pytest.mark.parametrize("page", [0, 2, 4, 8])
def test_damaged_pages_are_reported_whatever_they_do_to_lmdb(many, page):
    path = store.write(many.root)
    file = path / "shard-00000.lmdb"
    content = bytearray(file.read_bytes())
    content[page * 4096 : page * 4096 + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    faults = verification.verify(path)
    assert str(file) in faults[0] and all("shard-00000.lmdb" in fault for fault in faults)


def test_values_that_do_not_decode_and_keys_of_no_clip(many):
    """A store that was written so: its checksums are right."""
    path = store.write(many.root)
    file, rows = path / "shard-00003.lmdb", json.loads((path / "meta.json").read_text())
    values = {key: shards.get(file, key) for key in shards.keys(file)}
    frame = b"\xff\xd8 no picture"
    about = json.loads(values["clip/clip 2"])
    about["values"]["frame/clip 2/2"] = [len(frame), hashlib.sha256(frame).hexdigest()]
    values |= {"frame/clip 2/2": frame, "clip/clip 2": json.dumps(about).encode(), "frame/x/1": b"1"}
    del values["audio/clip 7"]
    write_lmdb(file, values)
    rows["shards"][3] |= {"bytes": file.stat().st_size, "sha256": shards.checksum(file)}
    (path / "meta.json").write_text(json.dumps(rows))
    faults = verification.verify(path)
    assert len(faults) == 3
    assert "clip 'clip 2': frame/clip 2/2: " in faults[0] and "not a readable picture" in faults[0]
    assert faults[1:] == [
        "shard-00003.lmdb: clip 'clip 7': audio/clip 7: missing",
        "shard-00003.lmdb: frame/x/1: belongs to no clip",
    ]


def write_lmdb(path: Path, values: dict[str, bytes]) -> None:
    path.unlink()
    with lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False) as database, database.begin(write=True) as t:
        for key, value in values.items():
            t.put(key.encode(), value)


# Size


@pytest.mark.parametrize("selected", [False, True])
def test_estimate_is_near(configure, tmp_path, selected):
    config = configure()
    root = tmp_path / "data"
    shutil.copytree(config.data.root, root, ignore=shutil.ignore_patterns("clips.lmdb"))
    selection = Selection.of(config.data) if selected else None
    plan = store._plan(root, selection)
    need = store.estimate(root, plan.sizes, selection)
    path = store.write(root, selection=selection)
    assert need == pytest.approx(sum(file.stat().st_size for file in path.glob("*.lmdb")), rel=0.2)


def test_estimate_of_sounds_that_grow_and_many_clips(folder):
    rng = np.random.default_rng(0)
    for number in range(80):
        folder.add(f"{number}", 1 + number % 5, rng.uniform(-0.5, 0.5, rng.integers(20000, 30000)), subtype="PCM_U8")
    plan = store._plan(folder.root, None)
    need = store.estimate(folder.root, plan.sizes)
    assert need == pytest.approx((store.write(folder.root) / "shard-00000.lmdb").stat().st_size, rel=0.2)


def test_full_disk_is_seen_before_anything_is_written(many, monkeypatch, capsys):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(StoreError, match=r"room for 0\.0 MB, the store needs about"):
        store.write(many.root)
    assert names(many.root) == []
    assert "4 shards, 4 of them to write: about" in capsys.readouterr().out


def test_disk_that_fills_while_a_shard_is_written(many, monkeypatch):
    def full(database, values):
        raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(shards, "_put", full)
    with pytest.raises(StoreError, match=r"shard-00000\.lmdb cannot be written: .*No space left"):
        store.write(many.root)
    assert names(many.root) == []


# Processes and memory


@pytest.mark.parametrize("opened", [False, True])
def test_worker_processes_read_the_store(many, opened):
    """Also when the parent has opened every shard before it forks, and opens them again after."""
    store.write(many.root)
    dataset = AVDataset(many.config(loader="lmdb"), "all")
    if opened:
        iterate(dataset)
    batches = list(DataLoader(dataset, 2, num_workers=2, collate_fn=datasets.collate))
    assert [name for batch in batches for name in batch["clip_id"]] == dataset.ids
    images = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(images, torch.stack([clip["image"] for clip in iterate(dataset)]))


def test_two_processes_forked_after_opening(many):
    store.write(many.root)
    dataset = AVDataset(many.config(), "all", loader="lmdb")
    want = iterate(dataset)
    children = []
    for order in (range(8), range(7, -1, -1)):
        if not (child := os.fork()):
            same = all(torch.equal(dataset[i]["waveform"], want[i]["waveform"]) for i in order)
            os._exit(0 if same else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert_same(want, iterate(dataset))


def test_more_shards_than_may_be_open(many, monkeypatch):
    store.write(many.root)
    monkeypatch.setattr(shards, "MOST_OPEN", 1)
    dataset = AVDataset(many.config(), "all", loader="lmdb")
    clips = [dataset[i] for i in (0, 4, 7, 1, 5, 0)]
    assert len(shards._opened) == 1
    assert_same(clips, [AVDataset(many.config(), "all")[i] for i in (0, 4, 7, 1, 5, 0)])


def test_clip_that_the_store_lacks_is_named(folder):
    folder.add("a")
    path = store.write(folder.root)
    folder.add("b")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert AVDataset(folder.config(), "all", loader="lmdb").missing == ["b"]
    with pytest.raises(ClipError, match="clip 'b': not in the store"):
        Store(path).audio("b")


def test_clips_in_memory_with_workers(many):
    clips = datasets.load_in_memory(AVDataset(many.config(), "all"))
    loader = DataLoader(StackDataset(image=clips.image, waveform=clips.waveform), 3, num_workers=2)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), clips.image)


def test_short_memory_is_refused_before_loading(many, monkeypatch, capsys):
    dataset, need = AVDataset(many.config(), "all"), 8 * (3 * 32 * 32 + 2 * RATE)
    monkeypatch.setattr(datasets, "available_memory", lambda: need - 1)
    monkeypatch.setattr(AVDataset, "__getitem__", None)
    with pytest.raises(MemoryError, match=r"all needs 0\.00 GB of memory, 0\.00 GB are available: use data\.in_memory"):
        datasets.load_in_memory(dataset)
    assert "all: 0.00 GB in memory" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "available_memory", lambda: need)
    datasets.load_in_memory(dataset)


def test_available_memory_of_machine_and_groups(tmp_path):
    """Numbers in made-up system files; the smallest of all that bind counts."""
    machine = datasets.available_memory(tmp_path, tmp_path)
    assert 0 < machine <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    job = groups / "slurm/job_1"
    job.mkdir(parents=True)
    (proc / "self/cgroup").write_text("8:pids:/\n0::/slurm/job_1\n")
    for place, limit, used in ((job, "max", 10), (job.parent, "500000", 200000), (groups, "700000", 60000)):
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text("anon 5\ninactive_file 50000\nactive_file 3\n")
    assert datasets.available_memory(proc, groups) == 350000
    (proc / "self/cgroup").write_text("0::/named/as/outside\n")  # in a container
    assert datasets.available_memory(proc, groups) == 690000
    (groups / "memory.current").write_text("900000\n")
    assert datasets.available_memory(proc, groups) == 0


# Command line


def test_command_line_stores_what_a_configuration_uses(many, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("exp_prefix: a\nexp_name: b\ndata: {root: data, sample_rate: 8000, seconds: 0.5}\n")
    result = CliRunner().invoke(app, ["store", str(many.root), "--only", str(config), "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "about" in result.output and str(many.root / store.NAME) in result.output
    assert Store(many.root / store.NAME).selection == Selection("middle", None, 1.0, 0.5, 8000)
