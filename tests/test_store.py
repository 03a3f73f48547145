"""The LMDB store: equal to the folders clip by clip, complete or not there, checked, and small enough for the disk."""

import ast
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
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
from sslib.config import InputError
from sslib.data import media, store
from sslib.data.layout import ClipError, Layout
from sslib.data.media import ClipWindow
from sslib.data.store import STORE_NAME, Store, StoreError, ensure_store, verify_store, write_store
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


def write(root: Path, **how) -> Path:
    write_store(root, **how)
    return root / STORE_NAME


def names(root: Path) -> list[str]:
    """What lies in the store, without the digests of what shards are made from."""
    return sorted(re.sub("-[0-9a-f]{16}", "", path.name) for path in (root / STORE_NAME).iterdir())


def shard(root: Path, number: int) -> Path:
    [path] = (root / STORE_NAME).glob(f"{number:05d}-*.lmdb")
    return path


def shards(root: Path) -> dict[str, tuple[str, int]]:
    """Name and time of each shard by its number."""
    return {path.name[:5]: (path.name, path.stat().st_mtime_ns) for path in (root / STORE_NAME).glob("*.lmdb")}


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / STORE_NAME).iterdir())}


# Shards


def test_generated_scenes_are_the_same_from_folders_and_store(configure):
    config = configure(data={"loader": "lmdb"})
    write(config.data.root)
    for split, train in (("train", True), ("val", False), ("test_new_instances", False)):
        assert isinstance(AVDataset(config, split).reader, Store)
        assert isinstance(AVDataset(configure(), split).reader, Layout)
        one = AVDataset(config, split, train=train, annotated=not train, loader="folders")
        other = AVDataset(config, split, train=train, annotated=not train)
        assert one.ids == other.ids
        assert_same(iterate(one), iterate(other))


def test_shards_are_the_folder_clip_by_clip(many):
    path = write(many.root)
    assert names(many.root) == [*(f"0000{number}.lmdb" for number in range(4)), "meta.json"]
    meta = json.loads((path / "meta.json").read_text())
    assert [row["ids"] for row in meta["shards"]] == SHARDS
    assert [int(hashlib.sha256(i.encode()).hexdigest()[0], 16) // 4 for ids in SHARDS for i in ids] == [
        number for number, ids in enumerate(SHARDS) for _ in ids
    ]
    assert [row["bytes"] for row in meta["shards"]] == [(path / row["name"]).stat().st_size for row in meta["shards"]]
    for data in ({}, {"time": 0.3}, {"time": "middle", "frame": 2, "sample_rate": 11025, "seconds": 2.0}):
        many.both(**data)


def test_parallel_writers_leave_the_same_bytes(many):
    write(many.root)
    alone = files(many.root)
    shutil.rmtree(many.root / STORE_NAME)
    # Two workers, each its own shards; the size of a shard travels with the task
    write(many.root, workers=2)
    assert files(many.root) == alone


@pytest.mark.parametrize(
    "data", [{}, {"time": 0.0}, {"time": 0.4, "frame_rate": 4.0, "seconds": 0.5}, {"frame": 3, "sample_rate": 11025}]
)
def test_store_of_what_is_used_yields_the_same_clips(many, data):
    config = many.config(**data)
    clips = iterate(AVDataset(config, "all"))
    whole = sum(map(len, files(write(many.root).parent).values()))
    write(many.root, window=ClipWindow.of(config.data))
    assert sum(map(len, files(many.root).values())) < whole
    stored = AVDataset(config, "all", loader="lmdb")
    assert_same(clips, iterate(stored))
    assert {len(stored.reader.frames(clip_id)) for clip_id in stored.ids} == {1}
    with pytest.raises(StoreError, match="only what another configuration uses"):
        AVDataset(many.config(**data | {"seconds": 0.7}), "all", loader="lmdb")
    write(many.root)  # the whole of each clip again
    AVDataset(many.config(seconds=0.7), "all", loader="lmdb")


def test_ensure_writes_only_what_is_needed_and_never_undoes_only(many):
    config = many.config()
    used, path = ClipWindow.of(config.data), many.root / STORE_NAME
    other = ClipWindow.of(many.config(seconds=0.7).data)
    assert ensure_store(many.root, used) and Store(path).window is None
    for selection in (used, other):  # all of each clip serves both
        assert not ensure_store(many.root, selection)
    write(many.root, window=used)
    before = files(many.root)
    assert not ensure_store(many.root, used) and files(many.root) == before
    with pytest.raises(StoreError, match=r"only what another configuration uses.*python -m sslib store"):
        ensure_store(many.root, other)
    assert files(many.root) == before
    shard(many.root, 1).unlink()
    many.add("new")
    assert ensure_store(many.root, used, workers=2) and Store(path).window == used
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
    assert not (many.root / STORE_NAME).exists()
    config = many.config(loader="lmdb")
    write(many.root, window=ClipWindow.of(config.data))
    before = files(many.root)
    cell_of_the_notebook(config)  # neither undoes `store --only` nor reads all of it again
    assert files(many.root) == before


def test_random_moments_need_the_whole_clip(many):
    with pytest.raises(StoreError, match="random"):
        write(many.root, window=ClipWindow.of(many.config(time="random").data))


def test_store_keeps_pictures_and_flac_byte_for_byte(folder):
    folder.add("flac", frames=3, suffix=".flac", subtype="PCM_24")
    folder.add("wav", sound=tone(1.0), subtype="PCM_16")
    stored = Store(write(folder.root))
    assert stored.frames("flac") == [1, 2, 3]
    for number in (1, 2, 3):
        assert stored.frame("flac", number) == (folder.root / f"video_frames/flac/00{number}.jpg").read_bytes()
    assert stored.audio("flac") == (folder.root / "audios/flac.flac").read_bytes()
    assert stored.meta["schema"] == store.SCHEMA and stored.meta["clips"] == 2


@pytest.mark.parametrize("rate", [8000, 44100])
def test_wav_becomes_flac_losslessly(folder, rate):
    samples = np.random.default_rng(0).integers(-32768, 32768, 3000).astype(np.int16)
    folder.add("wav", sound=samples, rate=rate, subtype="PCM_16")
    content = io.BytesIO(Store(write(folder.root)).audio("wav"))
    with soundfile.SoundFile(content) as file:
        assert (file.format, file.subtype, file.samplerate, file.channels) == ("FLAC", "PCM_16", rate, 1)
        np.testing.assert_array_equal(file.read(dtype="int16"), samples)


def test_sound_that_grows_in_flac_has_room(folder):
    """LMDB's map is reserved from the size of the sources, and compressed sound is much smaller than FLAC."""
    for number in range(20):
        noise = np.random.default_rng(number).uniform(-1, 1, 20 * RATE)
        folder.add(f"{number}", 1, noise, ".ogg", format="OGG", subtype="VORBIS")
    sources = sum(path.stat().st_size for path in (folder.root / "audios").iterdir())
    write(folder.root)
    assert shard(folder.root, 0).stat().st_size > 2 * sources
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
                np.testing.assert_array_equal(dataset[index]["waveform"], dataset.window.crop(whole, time))
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
        write(many.root)
    assert [i for i in range(8) if f"clip 'clip {i}': " in str(caught.value)] == [1, 3, 4, 7]
    for reason in ("not a readable sound", "no frames", "not a readable picture", "clip 4/005.jpg"):
        assert reason in str(caught.value)
    assert names(many.root) == ["00000.lmdb", "00001.lmdb"]  # without meta.json no store


def test_good_shards_stay_for_the_next_attempt(many):
    bad = many.root / "audios/clip 4.wav"
    good = bad.read_bytes()
    bad.write_bytes(b"no")
    with pytest.raises(StoreError, match="clip 4"):
        write(many.root)
    assert names(many.root) == ["00000.lmdb", "00001.lmdb", "00003.lmdb"]
    with pytest.raises(StoreError, match="no store"):
        AVDataset(many.config(), "all", loader="lmdb")
    before = {path: path.stat().st_mtime_ns for path in (many.root / STORE_NAME).iterdir()}
    bad.write_bytes(good)
    many.both()
    assert len(before) == 3 and all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_missing_clips_are_counted_and_listed(many, capsys):
    many.layout.write_split("all", [*many.ids, "gone", "soundless"])
    (many.root / "video_frames/soundless").mkdir()
    path = write(many.root)
    assert "8 clips (2 more are missing" in capsys.readouterr().out
    assert Store(path).meta["missing"] == ["gone", "soundless"]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert AVDataset(many.config(), "all", loader="lmdb").missing == ["gone", "soundless"]


def test_interrupted_store_leaves_nothing_that_looks_complete(many, monkeypatch):
    whole = store.encode_clip

    def interrupted(layout, clip_id, window=None):
        if clip_id == "clip 5":
            raise KeyboardInterrupt
        return whole(layout, clip_id, window)

    monkeypatch.setattr(store, "encode_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(many.root)
    assert names(many.root) == ["00000.lmdb"]
    monkeypatch.undo()
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 3)
    assert len(many.both()) == 8


SLOW = """
import sys, time
from pathlib import Path
from sslib.data import store
store.CLIPS_PER_SHARD, encode = 3, store.encode_clip
def slow(layout, clip_id, window):
    if clip_id == "clip 4":  # the last of its shard
        print("in the middle", flush=True)
        time.sleep(60)
    return encode(layout, clip_id, window)
store.encode_clip = slow
store.write_store(Path(sys.argv[1]))
"""


def test_killed_in_the_middle_and_run_again_is_the_same_store(many):
    write(many.root)
    whole = files(many.root)
    shutil.rmtree(many.root / STORE_NAME)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(many.root)], stdout=subprocess.PIPE, text=True)
    while "in the middle" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(many.root)
    assert left[:2] == ["00000.lmdb", "00001.lmdb"] and len(left) == 3 and left[2].endswith(".partial")
    with pytest.raises(StoreError, match="no store"):
        Store(many.root / STORE_NAME)
    write(many.root)
    assert files(many.root) == whole


def test_only_shards_of_changed_media_are_written_again(many):
    assert write_store(many.root)
    before = shards(many.root)
    assert not write_store(many.root) and shards(many.root) == before
    picture(77).save(many.root / "video_frames/clip 4/002.jpg", quality=95)
    assert write_store(many.root)
    after = shards(many.root)
    assert after.keys() == before.keys() and {name for name in after if after[name] != before[name]} == {"00002"}
    many.both()
    path = many.root / "audios/clip 7.wav"
    os.utime(path, ns=(0, 1))  # the same size, another time: that it is equal is not known
    assert write_store(many.root)
    assert {name for name, changed in shards(many.root).items() if after[name] != changed} == {"00003"}


def test_new_clip_changes_one_shard(many):
    write(many.root)
    before = shards(many.root)
    many.add("a clip before all others")  # its hash begins with the bits 10
    write(many.root)
    after = shards(many.root)
    assert after.keys() == before.keys() and {name for name in after if after[name] != before[name]} == {"00002"}
    many.both()


def test_good_shards_are_not_read_again_for_their_checksums(many, monkeypatch):
    """What is damaged stays known as damaged: its checksum is the one of what was written."""
    path = write(many.root)
    content = bytearray(shard(many.root, 1).read_bytes())
    content[len(content) // 2] ^= 1
    shard(many.root, 1).write_bytes(content)
    many.add("a clip before all others")
    read = []
    checksum = store._checksum
    monkeypatch.setattr(store, "_checksum", lambda path: read.append(path) or checksum(path))
    write(many.root)
    assert read == [shard(many.root, 2)]
    assert [str(shard(many.root, 1)) in fault for fault in verify_store(path)] == [True]


@pytest.mark.parametrize(
    "clips, shards", [(1, 1), (3, 1), (4, 2), (6, 2), (7, 4), (12, 4), (13, 8), (600, 256), (9000, 512)]
)
def test_number_of_shards_is_a_power_of_two(monkeypatch, clips, shards):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 3)
    ids = sorted(f"{number:04d}" for number in range(clips))
    parts = store._assign(ids)
    assert sorted(i for part in parts.values() for i in part) == ids
    assert all(list(part) == sorted(part) and 0 <= number < shards for number, part in parts.items())
    assert shards // 2 < max(parts) + 1 or clips < 10


def test_list_that_grows_or_shrinks(many):
    path = write(many.root)
    for ids in (many.ids[:2], many.ids[2:], many.ids):
        many.layout.write_split("all", ids)
        assert Store(write(many.root)).present() == set(ids)
        assert len(names(many.root)) == {2: 1 + 1, 6: 1 + 2, 8: 1 + 4}[len(ids)]
        assert_same(iterate(AVDataset(many.config(), "all")), iterate(AVDataset(many.config(), "all", loader="lmdb")))
    assert verify_store(path) == []


def test_folder_without_lists_or_clips_is_not_stored(folder):
    folder.add("a")
    folder.layout.write_split("all", ["b"])
    with pytest.raises(StoreError, match="none of the 1 clips"):
        write(folder.root)
    (folder.root / "splits/all.txt").unlink()
    with pytest.raises(StoreError, match="no lists"):
        write(folder.root)


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
    path = folder.root / STORE_NAME
    UNUSABLE[kind](path)
    says = {"older": "has schema 1, this is 3", "newer": "has schema 4, this is 3"}.get(kind, "clips")
    for read in (Store, verify_store):
        with pytest.raises(StoreError, match=says) as caught:
            read(path)
        assert f"python -m sslib store {folder.root}" in str(caught.value)
    assert len(folder.both()) == 1


def test_shard_that_is_no_database_is_written_anew(many):
    path = write(many.root)
    file = shard(many.root, 1)
    for content in (b"", b"no" * 9999, b"\0" * file.stat().st_size):
        file.write_bytes(content)
        with pytest.raises(StoreError, match="delete it and write the store again") as caught:
            iterate(AVDataset(many.config(), "all", loader="lmdb"))
        assert str(file) in str(caught.value) and verify_store(path)
        file.unlink()
        many.both()


def test_shards_missing_or_cut_short_are_named_and_written_anew(many):
    path = write(many.root)
    first, last = shard(many.root, 0), shard(many.root, 2)
    content = last.read_bytes()
    first.unlink()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError) as caught:
        Store(path)
    faults = verify_store(path)
    assert len(faults) == 2
    assert f"{first} is missing" in faults[0] and f"{last} is not the file that was written" in faults[1]
    assert all(fault in str(caught.value) for fault in faults)
    assert len(many.both()) == 8
    assert verify_store(path) == []


# Verification


def test_flipped_bit_is_found(many):
    path, file = write(many.root), shard(many.root, 1)
    good = file.read_bytes()
    assert verify_store(path) == []
    for at in (0, len(good) // 3, len(good) - 1):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        faults = verify_store(path)
        assert faults == [
            f"{file} is not the file that was written (size or SHA-256): delete it and write the store again"
        ]
        result = CliRunner().invoke(app, ["store", str(many.root), "--verify", "--workers", "0"])
        assert result.exit_code == 1 and faults[0] in result.output
        file.unlink()  # as the message says
        write(many.root)
        assert file.read_bytes() == good
    result = CliRunner().invoke(app, ["store", str(many.root), "--verify", "--workers", "0"])
    assert result.exit_code == 0 and "every shard is what was written" in result.output


@pytest.mark.parametrize("page", [0, 2, 4, 8])
def test_damaged_pages_are_reported_whatever_they_do_to_lmdb(many, page):
    path = write(many.root)
    file = shard(many.root, 0)
    content = bytearray(file.read_bytes())
    content[page * 4096 : page * 4096 + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    faults = verify_store(path)
    assert len(faults) == 1 and str(file) in faults[0]


# Size


@pytest.mark.parametrize("selected", [False, True])
def test_size_that_is_asked_for_is_a_bound_and_not_far_off(folder, selected):
    """Sources are JPEG and FLAC or larger, in a store of the same bytes; LMDB adds pages that are not full."""
    rng = np.random.default_rng(0)
    for number in range(40):
        folder.add(f"{number}", 1 + number % 5, rng.uniform(-0.5, 0.5, rng.integers(20000, 30000)), subtype="PCM_16")
    window = ClipWindow.of(folder.config().data) if selected else None
    need = sum(shard.bytes for shard in store._plan(folder.root, window)[0])
    size = sum(path.stat().st_size for path in write(folder.root, window=window).glob("*.lmdb"))
    assert 0.8 * need < size < (1.5 if selected else 1.2) * need


def test_full_disk_is_seen_before_anything_is_written(many, monkeypatch, capsys):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    with pytest.raises(StoreError, match=r"room for 0\.0 MB, the store needs up to 0\.4 MB"):
        write(many.root)
    assert names(many.root) == []
    assert "8 clips, 4 shards to write, about 0.4 MB" in capsys.readouterr().out


def test_disk_that_fills_while_a_shard_is_written(many, monkeypatch):
    opened = lmdb.open

    def small(path, **options):  # LMDB raises this error's class for a full disk as well, which a test cannot have
        return opened(path, **options | ({"map_size": 1 << 16} if "map_size" in options else {}))

    monkeypatch.setattr(lmdb, "open", small)
    with pytest.raises(StoreError, match=r"00000-.*\.lmdb cannot be written: .*MDB_MAP_FULL"):
        write(many.root)
    assert names(many.root) == []


# Processes and memory


@pytest.mark.parametrize("opened", [False, True])
def test_worker_processes_read_the_store(many, opened):
    """Also when the parent has opened every shard before it forks, and opens them again after."""
    write(many.root)
    dataset = AVDataset(many.config(loader="lmdb"), "all")
    if opened:
        iterate(dataset)
    batches = list(DataLoader(dataset, 2, num_workers=2, collate_fn=datasets.collate))
    assert [name for batch in batches for name in batch["clip_id"]] == dataset.ids
    images = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(images, torch.stack([clip["image"] for clip in iterate(dataset)]))


def test_two_processes_forked_after_opening(many):
    write(many.root)
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


def test_threads_open_a_shard_once(many):
    write(many.root)
    dataset, want = AVDataset(many.config(), "all", loader="lmdb"), iterate(AVDataset(many.config(), "all"))
    for _ in range(20):
        store._opened.clear()
        with ThreadPoolExecutor(8) as threads:
            assert_same(want, list(threads.map(dataset.__getitem__, range(8))))
        assert len(store._opened) == 4


def test_store_that_is_written_again_is_read_again(many):
    """Also in the process that has the old shards open, and by a reader of the old store as far as it has them open."""
    write(many.root)
    old = AVDataset(many.config(), "all", loader="lmdb")
    want = iterate(old)
    picture(77).save(many.root / "video_frames/clip 4/002.jpg", quality=95)
    many.both(frame=2)
    with pytest.raises(StoreError, match="cannot be read"):
        iterate(old)
    assert_same(want[:1], [old[0]])


def test_clip_that_the_store_lacks_is_named(folder):
    folder.add("a")
    path = write(folder.root)
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
    with pytest.raises(InputError, match=r"all needs 0\.00 GB of memory, 0\.00 GB are available: use data\.in_memory"):
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
    assert "about" in result.output and str(many.root / STORE_NAME) in result.output
    assert Store(many.root / STORE_NAME).window == ClipWindow("middle", None, 1.0, 0.5, 8000)
