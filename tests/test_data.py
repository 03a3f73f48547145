"""Data folders, pictures and sounds of all kinds, the clock, the store: handled, or refused with the clip's id."""

import io
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import torch
from folders import RATE, Folder, iterate, picture, tone
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from sslib import datasets
from sslib.config import InputError, Objective
from sslib.data import media, store
from sslib.data.layout import ClipError, check_id
from sslib.data.media import ClipWindow
from sslib.data.store import StoreError
from sslib.datasets import AVDataset

FORMATS = soundfile.available_formats()


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


# Ids and lists


@pytest.mark.parametrize("clip_id", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b",
                                     "`<img src=x onerror=alert(1)>`", "a`b", "a<b", "a>b", 'a"b'])  # fmt: skip
def test_id_that_leaves_the_folder_or_is_markup_is_refused(folder, clip_id):
    with pytest.raises(ClipError, match="not a clip id") as caught:
        check_id(clip_id)
    assert caught.value.clip_id == clip_id and repr(clip_id) in str(caught.value)
    for path in (folder.layout.frames, folder.layout.audio, folder.layout.mask):
        with pytest.raises(ClipError):
            path(clip_id)


@pytest.mark.parametrize("clip_id", ["-_dN2x8TgWk_000030", "a b", "..a", "ä.1", "x.jpg",
                                     "-_dN2x8TgWk_000030+a_8aXq2Pd1U_000010", "Tom & Jerry's #1 (2)?"])  # fmt: skip
def test_odd_but_plain_ids_are_clips(folder, clip_id):
    folder.add(clip_id)
    assert folder.clip()["clip_id"] == clip_id


def test_id_with_a_path_in_a_list(folder):
    folder.add("fine")
    folder.layout.write_split("all", ["fine", "../../secret"])
    with pytest.raises(ClipError, match=r"'\.\./\.\./secret'"):
        AVDataset(folder.config(), "all")


def test_lists_that_cannot_be_used(folder):
    with pytest.raises(FileNotFoundError, match="no data folder"):
        AVDataset(folder.config(), "all")
    folder.add("one")
    with pytest.raises(FileNotFoundError, match=r"no list .*nothere\.txt"):
        AVDataset(folder.config(), "nothere")
    folder.layout.write_split("empty", [])
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        AVDataset(folder.config(), "empty")
    folder.layout.write_split("twice", ["one", "two", "one"])
    with pytest.raises(ValueError, match=r"twice\.txt names clip 'one' twice"):
        AVDataset(folder.config(), "twice")
    with pytest.raises(StoreError, match="no store"):
        AVDataset(folder.config(), "all", loader="lmdb")


def test_annotated_list_needs_every_annotation(folder):
    folder.add("one"), folder.add("two")
    folder.layout.write_annotations("all", {"one": {"boxes": [[0, 0, 1, 1]]}})
    with pytest.raises(ValueError, match=r"1 of 2 clips of 'all' lack boxes.*two"):
        AVDataset(folder.config(), "all", annotated=True)


def test_annotation_without_boxes_is_named(folder):
    folder.add("one")
    folder.layout.write_annotations("all", {"one": {"class": "dog"}})
    with pytest.raises(ValueError, match=r"1 of 1 clips of 'all' lack boxes.*one"):
        AVDataset(folder.config(), "all", annotated=True)


def test_boxes_and_masks_come_with_an_annotated_clip(folder):
    for name in ("one", "two", "three"):
        folder.add(name)
    mask = np.zeros((60, 80), bool)
    mask[5:20, 30:50] = True
    folder.layout.write_mask("two", mask)
    boxes = {"one": [], "two": [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], "three": [[0, 0, 0.5, 0.5]]}
    folder.layout.write_annotations("all", {name: {"boxes": b, "class": name} for name, b in boxes.items()})
    store.write_store(folder.root)
    for loader in ("folders", "lmdb"):
        clips = iterate(AVDataset(folder.config(loader=loader), "all", annotated=True))
        assert [tuple(clip["boxes"].shape) for clip in clips] == [(0, 4), (2, 4), (1, 4)]
        torch.testing.assert_close(clips[1]["boxes"], torch.tensor(boxes["two"]))
        assert clips[0]["mask"] is None and clips[1]["mask"].equal(torch.from_numpy(mask))
        assert clips[2]["annotation"] == {"class": "three"}
        batch = datasets.collate(clips)
        assert batch["image"].shape == (3, 3, 32, 32) and batch["waveform"].shape == (3, 8000)
        assert len(batch["boxes"]) == 3 and batch["clip_id"] == ["one", "two", "three"]


# Pictures


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def squash(image: Image.Image, size: int = 32) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@pytest.mark.parametrize("mode, kind", [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("P", "PNG"), ("LA", "PNG"),
                                        ("RGBA", "PNG"), ("1", "PNG"), ("RGB", "WEBP")])  # fmt: skip
def test_pictures_of_every_kind(folder, mode, kind):
    folder.add("odd")
    original = picture(4, (64, 48))
    converted = original.convert(mode)
    (folder.root / "video_frames/odd/001.jpg").write_bytes(encoded(converted, kind))
    image = folder.clip()["image"]
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 32)
    assert np.abs(image.numpy().astype(int) - squash(converted)).mean() < 6
    if mode in ("L", "LA", "1"):
        assert (image - image[:1]).abs().max() == 0


def test_large_picture_is_decoded_at_a_smaller_size_without_harm(folder):
    """JPEG decodes at a half or a quarter of its size; what comes out must still be the squashed picture."""
    large = picture(2).resize((800, 600), Image.Resampling.BICUBIC)
    got = media.read_image(encoded(large, quality=95), 32)
    assert np.abs(got.astype(int) - squash(large)).mean() < 3


def test_orientation_tag_is_followed():
    original = picture(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = media.read_image(encoded(original, quality=95, exif=exif))
    want = np.asarray(original.transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert turned.shape == (3, 80, 60) and np.abs(turned.astype(int) - want).mean() < 3


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "header"])
def test_picture_that_cannot_be_read_names_its_clip(folder, content):
    folder.add("good"), folder.add("bad")
    path = folder.root / "video_frames/bad/001.jpg"
    whole = path.read_bytes()
    path.write_bytes(
        {"truncated": whole[: len(whole) // 2], "text": b"<html>", "empty": b"", "header": whole[:20]}[content]
    )
    dataset = AVDataset(folder.config(), "all")
    assert dataset[0]["clip_id"] == "good"
    with pytest.raises(ClipError, match="clip 'bad': not a readable picture") as caught:
        dataset[1]
    assert caught.value.clip_id == "bad"
    with pytest.raises(StoreError, match="clip 'bad': not a readable picture"):
        store.write_store(folder.root)


def test_missing_frame_or_sound_names_its_clip(folder):
    folder.add("one"), folder.add("two")
    dataset = AVDataset(folder.config(), "all")
    shutil.rmtree(folder.root / "video_frames/one")
    (folder.root / "audios/two.wav").unlink()
    with pytest.raises(ClipError, match="clip 'one': no frames"):
        dataset[0]
    with pytest.raises(ClipError, match="clip 'two': no sound file"):
        dataset[1]


@pytest.mark.parametrize("train, side", [(False, 40), (True, 44)])
def test_squashing_keeps_boxes_true(folder, train, side):
    """A white rectangle that covers [0.25, 0.5, 0.75, 1] of a 4:3 picture does so in the square one as well."""
    folder.add("clip")
    image = Image.new("RGB", (160, 120))
    ImageDraw.Draw(image).rectangle((40, 60, 119, 119), fill=(255, 255, 255))
    image.save(folder.root / "video_frames/clip/001.jpg", quality=95)
    got = AVDataset(folder.config(image_size=40), "all", train=train)[0]["image"].float().mean(dim=0) / 255
    assert got.shape == (side, side)
    want = torch.zeros(side, side)
    want[side // 2 :, side // 4 : 3 * side // 4] = 1
    assert (got - want).abs().mean() < 0.02
    assert torch.equal(got > 0.5, want > 0.5)


def test_test_pictures_may_be_larger_than_those_of_training(folder):
    folder.add("clip")
    config = folder.config(image_size=40)
    larger = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"image_sizes": (48, 64)})})
    assert AVDataset(larger, "all")[0]["image"].shape == (3, 64, 64)
    assert (
        AVDataset(larger, "all", train=True)[0]["image"].shape == AVDataset(config, "all", train=True)[0]["image"].shape
    )


@pytest.mark.parametrize("in_memory", [False, True])
def test_training_is_shown_the_boxes_of_a_share_of_those_that_have_some(folder, in_memory):
    for name in "abcdef":
        folder.add(name)
    quarter = {"boxes": [[0.25, 0, 0.5, 1]]}
    folder.layout.write_annotations("all", {"a": {"boxes": []}, "b": quarter, "d": quarter, "e": quarter, "f": quarter})
    config = folder.config(image_size=40)
    assert AVDataset(config, "all", train=True)[1]["image"].shape == (3, 44, 44)
    config = config.model_copy(update={"objective": Objective(kind="attention", boxes=0.5)})
    clips, size = AVDataset(config, "all", train=True), 44
    images = datasets.load_in_memory(clips).image if in_memory else [clip["image"] for clip in clips]
    inside = torch.zeros(size, size, dtype=torch.uint8)
    inside[:, size // 4 : size // 2] = 255
    for name, image in zip("abcdef", images, strict=True):
        assert torch.equal(image[3], inside * (name in "bd")), name
    assert AVDataset(config, "all")[0]["image"].shape == (3, 40, 40)  # of tests, no boxes
    folder.layout.write_annotations("all", {"a": {"boxes": []}})
    with pytest.raises(InputError, match=r"no clip of 'all' in .* has boxes: set objective\.boxes to 0"):
        AVDataset(config, "all", train=True)


# Sounds


def test_sound_is_averaged_over_channels(folder):
    left, right = tone(1.0), np.linspace(-0.5, 0.5, RATE)
    folder.add("stereo", sound=np.stack([left, right], axis=1), subtype="FLOAT")
    got = folder.clip()["waveform"].numpy() / 32768
    np.testing.assert_allclose(got, (left + right) / 2, atol=2 / 32768)


@pytest.mark.parametrize("subtype, tolerance", [("PCM_U8", 1 / 128), ("PCM_16", 1 / 32768), ("PCM_24", 1 / 32768),
                                                ("PCM_32", 1 / 32768), ("DOUBLE", 1 / 32768), ("ULAW", 0.04)])  # fmt: skip  # noqa: E501
def test_sounds_of_every_depth(folder, subtype, tolerance):
    folder.add("sound", sound=tone(1.0), subtype=subtype)
    np.testing.assert_allclose(folder.clip()["waveform"].numpy() / 32768, tone(1.0), atol=tolerance)


@pytest.mark.parametrize("rate", [96000, 44100, 11025, 8000])
def test_sounds_of_every_rate(folder, rate):
    folder.add("sound", sound=tone(1.0, rate), rate=rate)
    waveform = folder.clip()["waveform"]
    assert waveform.dtype == torch.int16 and waveform.shape == (RATE,)
    want = soxr.resample(tone(1.0, rate), rate, RATE, quality="HQ")
    np.testing.assert_allclose(waveform.numpy() / 32768, want[:RATE], atol=3 / 32768)
    middle = slice(RATE // 4, 3 * RATE // 4)  # resampling rings at the ends only
    np.testing.assert_allclose(waveform.numpy()[middle] / 32768, tone(1.0)[middle], atol=0.01)


@pytest.mark.parametrize("suffix, kind", [
    (".wav", {"subtype": "FLOAT"}), (".wav", {"subtype": "PCM_U8"}), (".flac", {"subtype": "PCM_24"}),
    (".ogg", {"format": "OGG"}), (".mp3", {"format": "MP3"}),
])  # fmt: skip
def test_stereo_of_another_rate_is_the_same_from_folders_and_store(folder, suffix, kind):
    """The store rounds to 16 bits before sounds are resampled; reading the file itself must not differ from that."""
    if kind.get("format", "WAV") not in FORMATS:
        pytest.skip(f"this libsndfile writes no {kind['format']}: reading it from a store is not tested")
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (60000, 2))
    folder.add("sound", sound=noise, suffix=suffix, rate=44100, **kind)
    assert folder.clip()["waveform"].float().std() > 1000


@pytest.mark.parametrize("suffix, kind", [(".flac", "FLAC"), (".ogg", "OGG"), (".mp3", "MP3"), (".wav", "WAV")])
def test_sounds_of_every_format(folder, suffix, kind):
    if kind not in FORMATS:
        pytest.skip(f"this libsndfile writes no {kind}: reading it is not tested")
    folder.add("sound", sound=tone(1.5), suffix=suffix, format=kind)
    got = folder.clip()["waveform"].numpy() / 32768
    at = round(0.25 * RATE)
    want = tone(1.5)[at : at + RATE]
    assert got.shape == want.shape
    lossy = kind in ("OGG", "MP3")
    if not lossy:
        np.testing.assert_allclose(got, want, atol=2 / 32768)
    else:  # a lossy coder may be late by some samples
        lags = [np.corrcoef(got[600:-600], want[600 + lag : len(want) - 600 + lag])[0, 1] for lag in range(-600, 600)]
        assert max(lags) > 0.99


def test_very_short_sound_is_tiled(folder):
    short = tone(0.05)
    folder.add("short", sound=short)
    got = folder.clip()["waveform"].numpy()
    assert got.shape == (RATE,)
    np.testing.assert_allclose(got / 32768, np.tile(short, 20), atol=1 / 32768)


def test_loud_sound_is_clipped_not_wrapped(folder):
    folder.add("loud", sound=np.array([0.0, 1.7, -1.7, 1.0, -1.0] * 1600), subtype="FLOAT")
    assert folder.clip()["waveform"][:5].tolist() == [0, 32767, -32768, 32767, -32768]


@pytest.mark.parametrize(
    "fault, says",
    [("text", "not a readable sound"), ("cut", "not a readable sound|without a single sample"), ("none", "single sample"),  # noqa: E501
     ("empty", "not a readable sound"), ("nan", "not finite"), ("inf", "not finite")],
)  # fmt: skip
def test_sound_that_cannot_be_used_names_its_clip(folder, fault, says):
    folder.add("good")
    path = folder.add("bad")
    broken = {"nan": np.array([0.1, np.nan] * 4000), "inf": np.array([0.1, np.inf] * 4000), "none": np.zeros(0)}
    if fault in broken:
        soundfile.write(path, broken[fault], RATE, subtype="FLOAT")
    else:
        path.write_bytes({"text": b"hello", "cut": path.read_bytes()[:30], "empty": b""}[fault])
    dataset = AVDataset(folder.config(), "all")
    assert dataset[0]["clip_id"] == "good"
    with pytest.raises(ClipError, match=f"clip 'bad': .*({says})"):
        dataset[1]
    with pytest.raises(StoreError, match="clip 'bad': "):
        store.write_store(folder.root)
    with pytest.raises(StoreError, match="no store"):
        AVDataset(folder.config(), "all", loader="lmdb")


@pytest.mark.parametrize(
    "samples, seconds, centre, want",
    [
        (10, 4, 5, [3, 4, 5, 6]),
        (10, 4, 0, [0, 1, 2, 3]),  # shifted inside
        (10, 4, 99, [6, 7, 8, 9]),
        (10, 10, 3, list(range(10))),
        (10, 3, 5, [4, 5, 6]),  # round(3.5) = 4
        (4, 10, 2, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]),  # tiled
        (1, 3, 0, [0, 0, 0]),
    ],
)
def test_crop_by_hand(samples, seconds, centre, want):
    """At one sample a second, sample k is at second k."""
    window = ClipWindow("middle", None, 1.0, seconds, 1)
    got = window.crop(np.arange(samples, dtype=np.int16), centre)
    assert got.tolist() == want and got.dtype == np.int16


# The clock


def moment(clip: dict) -> float:
    """Where in the 6 s ramp of sound the window's middle is, in seconds."""
    return float(clip["waveform"].float().mean()) / 32768 * 6


@pytest.fixture
def clock(folder) -> Folder:
    """12 frames at 2 a second, each of its own brightness, and 6 s of sound that rises from 0 to 1."""
    folder.add("clip", frames=12, sound=np.linspace(0, 1, 6 * RATE, endpoint=False), subtype="PCM_16")
    for number in range(1, 13):
        Image.new("L", (40, 30), 20 * number).save(folder.root / f"video_frames/clip/{number:03d}.jpg")
    return folder


def shown(clip: dict) -> int:
    return round(float(clip["image"].float().mean()) / 20)


@pytest.mark.parametrize(
    "data, frame, second",
    [
        ({"time": "middle"}, 7, 3.0),  # frame 7 of 2 a second shows second 3
        ({"time": 2.0}, 5, 2.0),
        ({"time": 2.2}, 5, 2.2),
        ({"time": 2.3}, 6, 2.3),  # frame 6 shows 2.5: the nearest
        ({"time": 0.0}, 1, 0.5),  # the window stays inside, the frame is the first
        ({"time": 6.0}, 12, 5.5),
        ({"time": 2.0, "frame": 7}, 7, 2.0),
        ({"time": "middle", "frame": 7}, 7, 3.0),  # the release
        ({"time": 4.0, "frame_rate": 1.0}, 5, 4.0),
        ({"time": "middle", "frame_rate": 99.0}, 12, 3.0),  # no time is named, and pictures end before the sound
    ],
)
def test_frame_and_sound_of_a_time(clock, data, frame, second):
    clip = clock.clip(**{"frame_rate": 2.0} | data)
    assert shown(clip) == frame
    assert moment(clip) == pytest.approx(second, abs=0.01)


@pytest.mark.parametrize(
    "data, says",
    [
        ({"time": 6.01}, r"its sound ends at 6\.00 s, before data\.time \(6\.01 s\)"),
        ({"frame": 13}, r"no frame 13 \(data\.frame\): it has 12, numbered 1 to 12"),
        ({"time": 5.0, "frame_rate": 3.0}, r"no frame 16 \(5\.00 s, data\.frame_rate 3\): it has 12, numbered 1 to 12"),
    ],
)
def test_clip_that_ends_before_the_named_time_or_frame(clock, data, says):
    """Neither loader, nor a store of what is used, gives another picture or sound than the one that is asked for."""
    config = clock.config(**{"frame_rate": 2.0} | data)
    store.write_store(clock.root)
    for loader in ("folders", "lmdb"):
        with pytest.raises(ClipError, match=rf"clip 'clip': {says}"):
            AVDataset(config, "all", loader=loader)[0]
    with pytest.raises(StoreError, match=rf"1 of 1 clips .*\n  clip 'clip': {says}"):
        store.write_store(clock.root, window=ClipWindow.of(config.data))


def test_gap_in_the_numbers_of_frames_moves_no_other_frame(clock):
    (clock.root / "video_frames/clip/004.jpg").unlink()
    for time, frame in ((1.0, 3), (2.0, 5), (5.5, 12)):
        assert shown(clock.clip(frame_rate=2.0, time=time)) == frame
    with pytest.raises(ClipError, match=r"clip 'clip': no frame 4 \(1\.50 s, .*\): it has 11, numbered 1 to 12"):
        clock.clip(frame_rate=2.0, time=1.5)


def test_still_serves_every_time_but_is_no_other_frame(folder):
    folder.add("still", sound=tone(4.0))
    for time in ("middle", 0.0, 3.9):
        assert folder.clip(time=time)["image"].shape == (3, 32, 32)
    with pytest.raises(ClipError, match=r"clip 'still': no frame 7 \(data\.frame\): it has 1, numbered 1 to 1"):
        folder.clip(frame=7)


@pytest.mark.parametrize("name", ["first.jpg", "0.jpg", "1.jpg", "²001.jpg"])
def test_frame_without_a_number_of_its_own_is_refused(folder, name):
    folder.add("clip", frames=2)
    shutil.copy(folder.root / "video_frames/clip/001.jpg", folder.root / "video_frames/clip" / name)
    with pytest.raises(ClipError, match=r"clip 'clip': .* is no frame: frames are 001\.jpg"):
        AVDataset(folder.config(), "all")[0]


def test_frames_are_in_the_order_of_their_numbers(folder):
    folder.add("clip", frames=3, sound=tone(1.0))
    target = folder.root / "video_frames/clip"
    for path in target.iterdir():
        path.unlink()
    for number in (1, 2, 9, 10, 100, 1000):
        Image.new("L", (40, 30), min(number, 250)).save(target / f"{number}.jpg")
    assert list(folder.layout.frames("clip")) == [1, 2, 9, 10, 100, 1000]


def test_random_moment_stays_inside_and_frame_and_sound_agree(clock):
    torch.manual_seed(0)
    config = clock.config(time="random", frame_rate=2.0)
    training, seen = AVDataset(config, "all", train=True), []
    for _ in range(60):
        clip = training[0]
        assert clip["waveform"].shape == (RATE,)
        second, frame = moment(clip), shown(clip)
        seen.append(second)
        if 0.51 < second < 5.49:  # inside, the window is not shifted
            assert abs((frame - 1) / 2 - second) < 0.27
    assert min(seen) >= 0.49 and max(seen) <= 5.51 and max(seen) - min(seen) > 4
    assert moment(AVDataset(config, "all")[0]) == pytest.approx(3.0, abs=0.01)  # testing is never random


# Loader processes and memory


def test_fault_in_a_worker_process_names_its_clip(folder):
    for name in ("a", "b", "c"):
        folder.add(name)
    (folder.root / "audios/b.wav").write_bytes(b"no")
    loader = DataLoader(AVDataset(folder.config(), "all"), 1, num_workers=1, collate_fn=datasets.collate)
    with pytest.raises(Exception, match="clip 'b'"):
        list(loader)


@pytest.mark.parametrize("loader", ["folders", "lmdb"])
def test_in_memory_is_what_the_items_are(configure, loader):
    config = configure(data={"loader": loader})
    store.write_store(config.data.root)
    dataset = AVDataset(config, "train", train=True)
    clips = datasets.load_in_memory(dataset)
    assert clips.ids == dataset.ids
    items = iterate(dataset)
    assert torch.equal(clips.image, torch.stack([item["image"] for item in items]))
    assert torch.equal(clips.waveform, torch.stack([item["waveform"] for item in items]))


def test_fault_in_memory_names_its_clip(folder):
    folder.add("a"), folder.add("b")
    (folder.root / "audios/b.wav").write_bytes(b"no")
    with pytest.raises(ClipError, match="clip 'b'"):
        datasets.load_in_memory(AVDataset(folder.config(), "all"))
