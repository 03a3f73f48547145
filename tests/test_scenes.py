"""Composed scenes: exact masks, the same bytes for the same seed, and nothing but the sound tells what sounds."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sslib.config import InputError, Stamps
from sslib.data import media
from sslib.data.layout import Layout
from sslib.stamps import generated, scenes
from sslib.stamps import library as stamps

RATE = 8000
INSTANCES = {  # of pictures and of recordings
    "train": ("known", "known"),
    "val": ("known", "known"),
    "test": ("known", "known"),
    "test_new_instances": ("new", "new"),
    "test_new_recordings": ("known", "new"),
    "val_new": ("known", "val"),
}


@pytest.fixture(scope="module")
def library() -> stamps.Library:
    return generated.generate_library(RATE, classes=6, backgrounds=16)


def counts(**changes) -> Stamps:
    new = {"val_new": 5, "test_new_instances": 6, "test_new_recordings": 7}
    return Stamps(**{"train": 40, "val": 9, "test": 10, "height": 60} | new | changes)


def composed(library: stamps.Library, split: str, config: Stamps):
    """Every scene of a split with its clips, in memory."""
    available = scenes.select_pool(library, split)
    for plan in scenes.plan_scenes(library, split, config):
        yield plan, *scenes.make_scene(available, plan, config.seed, config.height)


@pytest.fixture(scope="module")
def many(library) -> list:
    """400 training scenes of two or three objects."""
    return list(composed(library, "train", counts(train=400, one_object_share=0.0)))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def data(configure, root: Path, **changes):
    sizes = {"train": 5, "val": 2, "test": 2, "height": 40}
    sizes |= {"val_new": 2, "test_new_instances": 2, "test_new_recordings": 2}
    return configure(data={"root": str(root), "stamps": sizes | changes}).data


def test_same_seed_same_bytes(configure, tmp_path):
    """In one process or in two."""
    one, two, other = (data(configure, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    for part, workers in ((one, 1), (two, 2), (other, 1)):
        scenes.write_scenes(part, generated.generate_library(RATE, classes=4, backgrounds=8), workers=workers)
    assert digests(one.root) == digests(two.root)
    assert digests(one.root) != digests(other.root)
    assert Layout(one.root).info()["digest"] != Layout(other.root).info()["digest"]


def test_folder_is_what_the_layout_says(configure):
    config = configure()
    folder = Layout(config.data.root)
    info = folder.info()
    assert info["generated"] and info["kind"] == "stamps" and "generated" in info["name"]
    sizes = {"train": 24, "val": 2 * 8 + 4, "test": 2 * 6 + 3}
    sizes |= {"val_new": 2 * 4, "test_new_instances": 2 * 4, "test_new_recordings": 2 * 4}
    for split, size in sizes.items():
        ids, annotations = folder.ids(split), folder.annotations(split)
        assert len(ids) == size and list(annotations) == ids
        for clip_id in ids:
            [frame] = folder.frames(clip_id).values()
            assert media.read_image(frame).shape == (3, 80, 107)
            sound = soundfile.info(folder.audio(clip_id))
            assert (sound.samplerate, sound.frames, sound.channels) == (RATE, RATE, 1)
            [box] = annotations[clip_id]["boxes"]
            assert 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
            if split != "train":
                mask = media.read_mask(folder.mask(clip_id))
                assert box == scenes.bounding_box(mask)
                assert annotations[clip_id]["class"] in annotations[clip_id]["objects"]
    assert not folder.root.with_name("data.partial").exists()


def test_bounding_box_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[3:5, 7] = mask[8, 12] = True
    assert scenes.bounding_box(mask) == [7 / 20, 3 / 10, 13 / 20, 9 / 10]
    assert scenes.bounding_box(np.ones((4, 4), bool)) == [0, 0, 1, 1]


def test_boxes_lie_in_the_picture(many):
    for _, scene, _ in many:
        for placed in scene.objects:
            left, top, right, bottom = scenes.bounding_box(placed.mask)
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            inside = placed.mask[round(top * 60) : round(bottom * 60), round(left * 80) : round(right * 80)]
            assert inside.sum() == placed.mask.sum() and inside[0].any() and inside[:, 0].any()


def test_masks_are_the_pixels_of_their_objects(library, monkeypatch):
    """Composed again from the layers in float arithmetic: the picture is theirs, each mask what can be seen of one."""

    class NoBlur(scenes.ImageFilter.Filter):
        def __init__(self, radius):
            pass

        def filter(self, image):
            return image

    monkeypatch.setattr(scenes.ImageFilter, "GaussianBlur", NoBlur)
    layers, places = [], []

    def remember(original, kept):
        def call(*arguments):
            result = original(*arguments)
            kept.append(result.copy())  # the canvas is painted on later
            return result

        return call

    monkeypatch.setattr(scenes, "_place", remember(scenes._place, layers))
    monkeypatch.setattr(scenes, "_cover", lambda place, size, rng: scenes.Image.fromarray(place.rgb).resize(size))
    monkeypatch.setattr(scenes, "_light", remember(lambda image, rng: image, places))
    rng = np.random.default_rng(0)
    for index in range(20):
        places.clear()
        pictures = list(library.cutouts[index % 4 : index % 4 + 1 + 2 * (index % 3) : 2])
        scene = scenes.compose_image(pictures, library.backgrounds[index % 16], 60, rng)
        used = [np.asarray(layer) / 255 for layer in layers[-len(pictures) :]]
        want = np.asarray(places[0]) / 255
        for layer in used:
            want = layer[..., :3] * layer[..., 3:] + want * (1 - layer[..., 3:])
        assert np.abs(scene.image / 255 - want).max() < 2 / 255
        for number, placed in enumerate(scene.objects):
            covered = np.any([layer[..., 3] > 0.5 for layer in used[number + 1 :]], axis=0)
            assert np.array_equal(placed.mask, (used[number][..., 3] > 0.5) & ~covered)
            assert placed.cutout is pictures[number]


def test_later_objects_hide_earlier_ones():
    one, two, three = np.zeros((3, 4, 6), bool)
    one[:, :4] = two[:2, 2:] = three[1:3, 3:5] = True
    seen = scenes._visible([one, two, three])
    for y in range(4):
        for x in range(6):
            top = max((k for k, mask in enumerate((one, two, three)) if mask[y, x]), default=None)
            assert [bool(mask[y, x]) for mask in seen] == [k == top for k in range(3)]


def test_every_object_is_mostly_visible(library, monkeypatch):
    """Visible pixels against all of the object's, also those that lie outside of the picture."""
    whole = []
    original = scenes._transform

    def remember(*arguments):
        cutout = original(*arguments)
        whole.append((np.asarray(cutout.getchannel("A")) > 127).sum())
        return cutout

    monkeypatch.setattr(scenes, "_transform", remember)
    shares = []
    for _, scene, _ in composed(library, "train", counts(train=120, one_object_share=0.2)):
        last = whole[-len(scene.objects) :]
        shares += [placed.mask.sum() / area for placed, area in zip(scene.objects, last, strict=True)]
        whole.clear()
    assert min(shares) >= 0.6 and max(shares) <= 1
    assert np.mean(np.array(shares) < 0.95) > 0.1  # occlusion does happen


@pytest.mark.parametrize("backgrounds", [4, 8, 16, 31])
def test_places_of_train_val_and_test_are_disjoint(backgrounds):
    library = generated.generate_library(RATE, classes=2, backgrounds=backgrounds)
    used = {split: scenes.background_names(library, split) for split in scenes.SPLITS}
    assert used["test"] == used["test_new_instances"] == used["test_new_recordings"] and used["val"] == used["val_new"]
    assert all(used.values())
    assert not used["train"] & used["val"] and not used["train"] & used["test"] and not used["val"] & used["test"]
    assert used["train"] | used["val"] | used["test"] == {place.name for place in library.backgrounds}


def test_splits_use_what_they_may(configure):
    folder = Layout(configure().data.root)
    rows = {split: list(folder.annotations(split).values()) for split in scenes.SPLITS}
    places = {split: {row["background"] for row in rows[split]} for split in rows}
    places["test"] |= places["test_new_instances"] | places["test_new_recordings"]
    places["val"] |= places["val_new"]
    assert not places["train"] & (places["val"] | places["test"]) and not places["val"] & places["test"]
    for split, (picture, recording) in INSTANCES.items():
        assert all(row["picture"].endswith(f"_{picture}") for row in rows[split])
        assert all(row["recording"].endswith(f"_{recording}") for row in rows[split])


def test_objects_that_are_silent_are_of_the_right_instance_too(library):
    for split in scenes.SPLITS:
        picture, recording = INSTANCES[split]
        for _, scene, clips in composed(library, split, counts(train=20)):
            assert {placed.cutout.instance for placed in scene.objects} == {picture}
            assert {clip.recording.instance for clip in clips} == {recording}


def test_class_without_a_second_recording_is_not_in_new_instances(library):
    recordings = tuple(s for s in library.recordings if s.name != "generated:002_new")
    pool = scenes.select_pool(library._replace(recordings=recordings), "test_new_instances")
    assert set(pool.cutouts) == set(pool.recordings) == {f"shape_{i:03d}" for i in (0, 1, 3, 4, 5)}


def test_sizes_of_splits(library):
    config = counts(train=300, one_object_share=0.7)
    plans = {split: scenes.plan_scenes(library, split, config) for split in scenes.SPLITS}
    sizes = {split: [len(plan.classes) for plan in plans[split]] for split in scenes.SPLITS}
    assert sizes["test"] == [2] * 10 + [1] * 5 and sizes["test_new_instances"] == [2] * 6
    assert sizes["val"] == [2] * 9 + [1] * 4
    assert sizes["val_new"] == [2] * 5 and sizes["test_new_recordings"] == [2] * 7
    ones = sizes["train"].count(1)
    assert len(sizes["train"]) == 300 and abs(ones - 210) < 3.5 * np.sqrt(300 * 0.7 * 0.3)
    assert abs(sizes["train"].count(2) - (300 - ones) / 2) < 3.5 * np.sqrt(90) / 2
    for split in scenes.SPLITS:
        for plan in scenes.plan_scenes(library, split, config):
            assert len(set(plan.classes)) == len(plan.classes)


def test_each_object_of_a_test_scene_sounds_in_turn(library):
    for plan, scene, clips in composed(library, "test", counts()):
        assert [clip.sounding for clip in clips] == list(range(len(scene.objects)))
        for clip in clips:
            sounding = scene.objects[clip.sounding].cutout
            assert clip.recording.class_name == plan.classes[clip.sounding] == sounding.class_name
        assert len({clip.clip_id for clip in clips}) == len(clips)


def spread_of_classes(split: str, classes: int) -> int:
    library = generated.generate_library(RATE, classes=classes, backgrounds=8)
    config = counts(train=101, val=33, val_new=33, test=33, test_new_instances=33, test_new_recordings=33)
    names = [name for plan in scenes.plan_scenes(library, split, config) for name in plan.classes]
    often = [names.count(name) for name in {picture.class_name for picture in library.cutouts}]
    return max(often) - min(often)


@pytest.mark.parametrize("classes", [4, 6, 12])
@pytest.mark.parametrize("split", scenes.SPLITS[1:])
def test_each_class_is_as_often_as_every_other(split, classes):
    assert spread_of_classes(split, classes) <= 1


@pytest.mark.parametrize("split, classes", [("test", 5), ("train", 6), ("train", 12)])
def test_each_class_is_as_often_as_every_other_where_scenes_do_not_divide_them(split, classes):
    assert spread_of_classes(split, classes) <= 1


def ranks(values: list[float]) -> np.ndarray:
    """Rank of each among its scene's, 0 to 1; ties share."""
    values = np.array(values)
    below = (values[None] < values[:, None]).sum(axis=1) + ((values[None] == values[:, None]).sum(axis=1) - 1) / 2
    return below / (len(values) - 1)


PROPERTIES = {
    "area": lambda placed: placed.mask.sum(),
    "box": lambda placed: np.prod(np.diff(np.reshape(scenes.bounding_box(placed.mask), (2, 2)), axis=0)),
    "height": lambda placed: np.mean(np.nonzero(placed.mask)[0]),
    "column": lambda placed: np.mean(np.nonzero(placed.mask)[1]),
    "distance to the middle": lambda placed: np.hypot(*(np.mean(np.nonzero(placed.mask), axis=1) - (29.5, 39.5))),
    "share hidden": lambda placed: placed.mask.sum() / placed.mask.size,
}  # fmt: skip


@pytest.mark.parametrize("name", PROPERTIES)
def test_nothing_to_be_seen_tells_what_sounds(many, name):
    """The rank of the sounding object is uniform on its scene's ranks: its mean is 0.5 within 3 sigma."""
    found, variance = [], 0.0
    for _, scene, [clip] in many:
        rank = ranks([PROPERTIES[name](placed) for placed in scene.objects])
        found.append(rank[clip.sounding])
        variance += rank.var()
    assert abs(np.mean(found) - 0.5) < 3 * np.sqrt(variance) / len(found)


def test_order_and_class_tell_nothing_either(many):
    last = [clip.sounding == len(scene.objects) - 1 for _, scene, [clip] in many]
    chance = np.array([1 / len(scene.objects) for _, scene, _ in many])
    assert abs(np.sum(last) - chance.sum()) < 3 * np.sqrt((chance * (1 - chance)).sum())
    share = {}
    for plan, _, [clip] in many:
        for place, name in enumerate(plan.classes):
            share.setdefault(name, []).append((clip.sounding == place) - 1 / len(plan.classes))
    for residuals in share.values():
        assert abs(np.sum(residuals)) < 4 * np.sqrt(len(residuals) * 0.25)


def test_areas_of_boxes_are_those_of_vggss(library):
    """Quartiles of VGG-SS: 0.121, 0.253, 0.463. Here one object a scene, a tenth of it outside at most."""
    areas = []
    for _, scene, _ in composed(library, "train", counts(train=600, one_object_share=1.0)):
        left, top, right, bottom = scenes.bounding_box(scene.objects[0].mask)
        areas.append((right - left) * (bottom - top))
    assert np.quantile(areas, [0.25, 0.5, 0.75]) == pytest.approx([0.121, 0.253, 0.463], rel=0.2)
    assert min(areas) > 0 and max(areas) <= 1


def test_sound_is_a_window_of_the_recording_at_a_level_with_noise(library):
    rng = np.random.default_rng(0)
    recording = library.recordings[0]
    levels = []
    for _ in range(60):
        got = scenes.compose_audio(recording, RATE, RATE, rng)
        assert got.dtype == np.int16 and got.shape == (RATE,)
        values = got / 32768
        levels.append(20 * np.log10(np.sqrt(np.mean(values**2))))
        correlation = np.fft.irfft(np.fft.rfft(recording.waveform, 32768) * np.conj(np.fft.rfft(values, 32768)))
        start = int(correlation[: len(recording.waveform) - RATE + 1].argmax())
        window = recording.waveform[start : start + RATE]
        assert np.corrcoef(window, values)[0, 1] > 0.99  # noise is 20 dB or more below
    assert min(levels) > -26.5 and max(levels) < -15.5 and max(levels) - min(levels) > 6


@pytest.mark.parametrize("length", [10, 1000, RATE - 1, RATE])
def test_short_recording_is_repeated(library, length):
    sound = library.recordings[0]._replace(waveform=library.recordings[0].waveform[:length])
    got = scenes.compose_audio(sound, RATE, RATE, np.random.default_rng(1))
    assert got.shape == (RATE,)
    quiet = np.abs(got.reshape(10, -1)).max(axis=1)
    assert (quiet > 0).all()


def test_silent_recording_is_no_fault(library):
    sound = library.recordings[0]._replace(waveform=np.zeros(100, np.float32))
    assert np.abs(scenes.compose_audio(sound, RATE, RATE, np.random.default_rng(1))).max() < 100


# Writing


def test_interrupted_writing_leaves_no_finished_folder(configure, tmp_path, monkeypatch):
    part = data(configure, tmp_path / "scenes")
    library = generated.generate_library(RATE, classes=4, backgrounds=8)
    original = scenes._write_split

    def interrupted(folder, data, library, split, workers):
        if split == "test":
            raise KeyboardInterrupt
        original(folder, data, library, split, workers)

    monkeypatch.setattr(scenes, "_write_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_scenes(part, library, workers=1)
    assert not part.root.exists()
    monkeypatch.undo()
    scenes.write_scenes(part, library, workers=1)
    fresh = data(configure, tmp_path / "fresh")
    scenes.write_scenes(fresh, library, workers=1)
    assert digests(part.root) == digests(fresh.root)  # nothing of the first attempt is left in it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "scenes"]


def test_finished_folder_is_left_alone_and_another_seed_replaces_it(configure, tmp_path):
    library = generated.generate_library(RATE, classes=4, backgrounds=8)
    part = data(configure, tmp_path / "scenes")
    scenes.write_scenes(part, library, workers=1)
    mark = part.root / "mark"
    mark.touch()
    scenes.write_scenes(part, library, workers=1)
    assert mark.exists()
    mark.unlink()
    before = digests(part.root)
    other = data(configure, tmp_path / "scenes", seed=1)
    scenes.write_scenes(other, library, workers=1)
    assert digests(part.root) != before and len(Layout(other.root).ids("train")) == 5


@pytest.mark.parametrize("same", [{"media": "debs"}, {"source": "auto"}, {"subset": "all"}])
def test_where_the_media_come_from_composes_nothing_again(configure, tmp_path, same):
    """The bytes of the library count, not the folder or the rule by which it was found."""
    library = generated.generate_library(RATE, classes=4, backgrounds=8)
    scenes.write_scenes(data(configure, tmp_path / "scenes"), library, workers=1)
    mark = tmp_path / "scenes/mark"
    mark.touch()
    before = digests(tmp_path / "scenes")
    scenes.write_scenes(data(configure, tmp_path / "scenes", **same), library, workers=1)
    assert mark.exists() and digests(tmp_path / "scenes") == before


@pytest.mark.parametrize(
    "added", ["splits/mine.txt", "video_frames/mine/001.jpg", "audios/mine.flac", "video_frames/train_00000/002.jpg",
              "annotations/mine.json", "notes.txt"]
)  # fmt: skip
def test_what_the_user_added_is_never_removed(configure, tmp_path, added):
    library = generated.generate_library(RATE, classes=4, backgrounds=8)
    part, other = data(configure, tmp_path / "scenes"), data(configure, tmp_path / "scenes", seed=1)
    scenes.write_scenes(part, library, workers=1)
    path = part.root / added
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = digests(part.root)
    with pytest.raises(InputError, match=rf"other settings and 1 file.*\({re.escape(added)}\): move"):
        scenes.write_scenes(other, library, workers=1)
    assert digests(part.root) == before
    path.unlink()
    (part.root / "clips.lmdb").mkdir()
    (part.root / "clips.lmdb/data.mdb").write_text("a store of the old scenes, which is made of them")
    scenes.write_scenes(other, library, workers=1)
    assert digests(part.root) != before and not (part.root / "clips.lmdb").exists()


@pytest.mark.parametrize("info", [None, {"kind": "vggsound"}])
def test_other_data_are_never_replaced(configure, tmp_path, info):
    part = data(configure, tmp_path / "mine")
    part.root.mkdir()
    (part.root / "precious.txt").write_text("mine")
    if info:
        Layout(part.root).write_info(**info)
    before = digests(part.root)
    with pytest.raises(InputError, match="holds other data"):
        scenes.write_scenes(part, generated.generate_library(RATE, classes=4, backgrounds=8), workers=1)
    assert digests(part.root) == before


def test_too_few_classes_are_refused():
    library = generated.generate_library(RATE, classes=1, backgrounds=8)
    with pytest.raises(ValueError, match="at least two classes"):
        scenes.plan_scenes(library, "train", counts())


def test_picture_is_stored_as_a_good_jpeg(configure):
    folder = Layout(configure().data.root)
    assert media.JPEG_QUALITY >= 90
    with Image.open(folder.frames(folder.ids("train")[0])[1]) as image:
        assert image.format == "JPEG" and max(image.quantization[0]) <= 30
