"""Composes the Stamps data set: cut-out photographs on photographs of places, one of which sounds, with exact masks.

What sounds must not be told by anything but the sound: all objects of a scene are drawn by the same rules first, and
only then one of them is chosen (in the test splits each of the two sounds in turn, as two clips of one scene). The
result is the layout every other data set has (``video_frames/``, ``audios/``, ``splits/``, ``annotations/``), so that
everything after this file is the code that VGGSound uses.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from sslib.config import Data, InputError, Stamps
from sslib.data.layout import Layout, digest
from sslib.stamps.generated import generated_library
from sslib.stamps.library import (
    Background,
    Library,
    MediaUnavailable,
    Picture,
    Sound,
    fetch_media,
    load_library,
)

SPLITS = ("train", "val", "test", "test_new_instances")
# Share of the picture that a VGG-SS ground truth covers: quantiles of all 5,158 records.
AREA_QUANTILES = ((0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), (0.012, 0.054, 0.121, 0.253, 0.463, 0.677, 0.95))
VISIBLE = 0.6  # an object hidden more than this allows is placed again
VERSION = 3  # of the rules in this file: another number, other bytes
_SPLIT, _CLIP = f"({'|'.join(SPLITS)})", f"({'|'.join(SPLITS)})_\\d{{5,}}(_[abc])?"
OWN_FILES = re.compile(
    rf"dataset\.json|clips\.lmdb/.*|splits/{_SPLIT}\.txt|annotations/{_SPLIT}\.json"
    rf"|video_frames/{_CLIP}/001\.jpg|audios/{_CLIP}\.flac|masks/{_CLIP}\.png"
)


class Placed(NamedTuple):
    """One object of a scene: its picture and the pixels of it that can be seen."""

    picture: Picture
    mask: np.ndarray  # bool (H, W)


class Scene(NamedTuple):
    """A composed picture."""

    image: np.ndarray  # uint8 (H, W, 3)
    objects: tuple[Placed, ...]
    background: Background


class Plan(NamedTuple):
    """What a scene is to hold; drawn for a whole split at once, so that classes are evenly spread."""

    name: str
    split: str
    index: int
    classes: tuple[str, ...]
    every_sound: bool  # each object sounds in turn, else one of them


class Clip(NamedTuple):
    """One clip of a scene: which of its objects sounds, with what recording."""

    clip_id: str
    place: int
    sound: Sound
    seed: int


class Pool(NamedTuple):
    """What a split may use."""

    pictures: dict[str, list[Picture]]
    sounds: dict[str, list[Sound]]
    backgrounds: list[Background]


def open_library(data: Data) -> Library:
    """The material that ``data.stamps`` asks for: real media, or (``auto``, where there are none) generated clips.

    Raises
    ------
    MediaUnavailable
        With ``source: media`` where the packages are neither installed nor to be had.
    """
    if data.stamps.source != "generated":
        try:
            folder = fetch_media(data.root.parent / "stamps-media", data.stamps.media)
            return load_library(folder, data.sample_rate, subset=data.stamps.subset)
        except MediaUnavailable as error:
            if data.stamps.source == "media":
                raise
            warnings.warn(f"no real media, generated clips instead: {error}", stacklevel=2)
    return generated_library(data.sample_rate)


def pool(library: Library, split: str) -> Pool:
    """Known pictures and recordings, or only new ones for ``test_new_instances``; backgrounds of the split's own."""
    instance = "new" if split == "test_new_instances" else "known"
    pictures: dict[str, list[Picture]] = {}
    sounds: dict[str, list[Sound]] = {}
    for table, items in ((pictures, library.pictures), (sounds, library.sounds)):
        for item in items:
            if item.instance == instance:
                table.setdefault(item.class_name, []).append(item)
    both = sorted(set(pictures) & set(sounds))
    backgrounds = [b for b in library.backgrounds if b.name in background_names(library, split)]
    return Pool({c: pictures[c] for c in both}, {c: sounds[c] for c in both}, backgrounds)


def background_names(library: Library, split: str) -> set[str]:
    """A quarter of the places is for the two test splits, an eighth for val, the rest for training."""
    names = sorted((b.name for b in library.backgrounds), key=lambda name: hashlib.sha256(name.encode()).digest())
    test, val = max(1, len(names) // 4), max(1, len(names) // 8)
    parts = {"test": names[:test], "val": names[test : test + val], "train": names[test + val :]}
    return set(parts["test" if split.startswith("test") else split])


def plan(library: Library, split: str, config: Stamps) -> list[Plan]:
    """The scenes of a split: which classes meet, each class equally often within one."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split)])
    classes = list(pool(library, split).pictures)
    if len(classes) < 2:
        raise InputError(f"split {split!r} needs at least two classes with picture and sound, found {classes}")
    count = getattr(config, split)
    if split == "train":
        sizes = np.where(rng.random(count) < config.one_object_share, 1, rng.integers(2, 4, count))
    else:
        sizes = np.array([2] * count + ([1] * (count // 2) if split != "test_new_instances" else []))
    plans, queue = [], []
    for index, size in enumerate(np.minimum(sizes, len(classes))):
        if len(queue) < size:
            # Classes that still wait come first; of a new round they come last, so that no scene has one twice.
            queue += sorted(rng.permutation(classes).tolist(), key=lambda name: name in queue)
        chosen, queue = queue[:size], queue[size:]
        plans.append(Plan(f"{split}_{index:05d}", split, index, tuple(chosen), split != "train"))
    return plans


def compose(pictures: list[Picture], background: Background, height: int, rng: np.random.Generator) -> Scene:
    """Paste `pictures` on `background` one over the other, 4:3, `height` pixels high."""
    size = (round(height * 4 / 3), height)
    canvas = _light(_cover(background, size, rng), rng)
    cutouts = []
    shrink = 1.0
    for attempt in range(200):
        if attempt % 10 == 0:
            cutouts = [_cutout(p, size, shrink, rng) for p in pictures]
            shrink *= 0.95
        layers = [_place(cutout, size, rng) for cutout in cutouts]
        masks = _visible([np.asarray(layer.getchannel("A")) > 127 for layer in layers])
        whole = [(np.asarray(cutout.getchannel("A")) > 127).sum() for cutout in cutouts]
        if all(mask.sum() >= VISIBLE * area for mask, area in zip(masks, whole, strict=True)):
            break
    for layer in layers:
        canvas.paste(layer, (0, 0), layer)
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    objects = tuple(Placed(p, m) for p, m in zip(pictures, masks, strict=True))
    return Scene(np.asarray(canvas), objects, background)


def _cover(background: Background, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random window of the place that fills the canvas, half of them mirrored."""
    image = Image.fromarray(background.rgb)
    scale = max(size[0] / image.width, size[1] / image.height) * rng.uniform(1.0, 1.5)
    image = image.resize((max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))))
    left, top = rng.integers(image.width - size[0] + 1), rng.integers(image.height - size[1] + 1)
    image = image.crop((left, top, left + size[0], top + size[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _cutout(picture: Picture, size: tuple[int, int], shrink: float, rng: np.random.Generator) -> Image.Image:
    """The object turned a little, lit, edges softened, at a size drawn from the areas of VGG-SS."""
    image = Image.fromarray(picture.rgba).convert("RGBa")
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, expand=True)
    image = image.crop(image.getchannel("a").point(lambda a: 255 * (a > 127)).getbbox())
    area = np.interp(rng.random(), *AREA_QUANTILES) * size[0] * size[1] * shrink**2
    width = np.sqrt(area * image.width / image.height)
    scale = min(width / image.width, 1.15 * size[0] / image.width, 1.15 * size[1] / image.height)
    image = image.resize((max(8, round(image.width * scale)), max(8, round(image.height * scale)))).convert("RGBA")
    alpha = image.getchannel("A").filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    image = _light(image.convert("RGB"), rng)
    image.putalpha(alpha)
    return image


def _place(cutout: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The cut-out on an empty canvas, anywhere, up to a tenth of it outside."""
    corner = []
    for inside, length in zip(size, cutout.size, strict=True):
        low, high = sorted((-0.1 * length, inside - 0.9 * length))
        corner.append(round(rng.uniform(low, high)))
    layer = Image.new("RGBA", size)
    layer.paste(cutout, tuple(corner))
    return layer


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gain, contrast and tint of a photograph, alike for objects and places."""
    gain, contrast = rng.uniform(0.88, 1.12), rng.uniform(0.9, 1.1)
    tables = []
    for tint in rng.uniform(0.98, 1.02, 3):
        ramp = ((np.arange(256) - 128) * contrast + 128) * gain * tint
        tables += np.clip(ramp, 0, 255).astype(int).tolist()
    return image.point(tables)


def _visible(masks: list[np.ndarray]) -> list[np.ndarray]:
    """What is left of each mask under the objects pasted after it."""
    seen, covered = [], np.zeros_like(masks[0])
    for mask in reversed(masks):
        seen.append(mask & ~covered)
        covered = covered | mask
    return seen[::-1]


def compose_sound(sound: Sound, samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """`samples` of a recording from a random moment on, repeated if it is short, at a random level, with noise.

    Returns
    -------
    int16 (samples,)
    """
    recording = sound.waveform
    if len(recording) < samples:
        gap = np.zeros(int(rng.uniform(0.0, 0.3) * sample_rate), np.float32)
        unit = np.concatenate([recording, gap])
        recording = np.tile(unit, samples // len(unit) + 2)
        start = rng.integers(len(unit))
    else:
        # Recordings pause: the loudest of a few moments is one at which something sounds.
        starts = rng.integers(len(recording) - samples + 1, size=5)
        start = max(starts, key=lambda at: np.square(recording[at : at + samples]).sum())
    piece = recording[start : start + samples].astype(np.float64)
    level = np.sqrt(np.mean(piece**2)) + 1e-9
    piece *= 10 ** (rng.uniform(-26, -16) / 20) / level
    noise = rng.standard_normal(samples)
    if rng.random() < 0.5:  # half of the noises are pink-ish
        noise = np.convolve(noise, np.full(32, 1 / np.sqrt(32)), mode="same")
    piece += noise * np.sqrt(np.mean(piece**2)) * 10 ** (-rng.uniform(20, 40) / 20)
    return (np.clip(piece, -1, 1) * 32767).astype(np.int16)


def bounding_box(mask: np.ndarray) -> list[float]:
    """xmin, ymin, xmax, ymax in [0, 1] of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


def make_scene(available: Pool, scene: Plan, seed: int, height: int) -> tuple[Scene, list[Clip]]:
    """One scene and its clips; the seed and the scene's number decide everything."""
    rng = np.random.default_rng([seed, SPLITS.index(scene.split), scene.index])
    pictures = [available.pictures[c][rng.integers(len(available.pictures[c]))] for c in scene.classes]
    background = available.backgrounds[rng.integers(len(available.backgrounds))]
    composed = compose(pictures, background, height, rng)
    sounding = range(len(pictures)) if scene.every_sound else [int(rng.integers(len(pictures)))]
    clips = []
    for place in sounding:
        recordings = available.sounds[scene.classes[place]]
        suffix = f"_{'abc'[place]}" if scene.every_sound and len(pictures) > 1 else ""
        recording = recordings[rng.integers(len(recordings))]
        clips.append(Clip(scene.name + suffix, place, recording, int(rng.integers(2**31))))
    return composed, clips


def write(data: Data, library: Library, workers: int = 2) -> Path:
    """Compose all splits of ``data.stamps`` into the layout at ``data.root``; done already, it does nothing.

    The folder appears under its name only when it is complete. It takes the place of scenes of other settings, never
    of a file that this function did not write.

    Raises
    ------
    InputError
        When ``data.root`` holds something else than scenes, or has to be composed anew and holds other files too.
    """
    layout, made_of = Layout(data.root), _digest(data, library)
    if data.root.exists():
        info = layout.info()
        if info.get("digest") == made_of:
            return data.root
        if info.get("kind") != "stamps" and any(data.root.iterdir()):
            raise InputError(f"{data.root} holds other data: give data.root another folder")
        _require_only_scenes(data.root)
    partial = Layout(data.root.with_name(data.root.name + ".partial"))
    shutil.rmtree(partial.root, ignore_errors=True)
    for split in SPLITS:
        _write_split(partial, data, library, split, workers)
    name = "generated clips" if library.generated else f"Stamps ({data.stamps.subset} subset)"
    partial.write_info(
        kind="stamps",
        name=name,
        generated=library.generated,
        digest=made_of,
        missing=list(library.missing),
        sample_rate=data.sample_rate,
        frame_rate=1.0,
    )
    shutil.rmtree(data.root, ignore_errors=True)
    partial.root.rename(data.root)
    return data.root


def _digest(data: Data, library: Library) -> str:
    """Identify the composed bytes by all that decides them: not by where the media were found."""
    rules = data.stamps.model_dump(mode="json", exclude={"source", "media", "subset"})
    return digest([VERSION, rules, data.sample_rate, data.seconds, library.digest])


def _require_only_scenes(root: Path) -> None:
    """Raise where a folder holds files beside scenes and the store made of them."""
    paths = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if not path.is_dir())
    added = [name for name in paths if not OWN_FILES.fullmatch(name)]
    if added:
        more = ", …" if len(added) > 3 else ""
        raise InputError(
            f"{root} holds scenes of other settings and {len(added)} file(s) that were not composed "
            f"({', '.join(added[:3])}{more}): move those elsewhere, or give data.root another folder"
        )


def _write_split(layout: Layout, data: Data, library: Library, split: str, workers: int) -> None:
    plans, available = plan(library, split, data.stamps), pool(library, split)
    # Large arrays go to the workers once, as files in memory that all of them map.
    parallel = joblib.Parallel(workers, return_as="generator", batch_size=16, max_nbytes="100K")
    results = parallel(joblib.delayed(_write_scene)(layout, data, available, scene) for scene in plans)
    rows = [row for rows in tqdm(results, desc=f"composing {split}", total=len(plans)) for row in rows]
    layout.write_split(split, [row["clip_id"] for row in rows])
    layout.write_annotations(split, {row.pop("clip_id"): row for row in rows})


def _write_scene(layout: Layout, data: Data, available: Pool, scene: Plan) -> list[dict]:
    """Write the clips of one scene; their annotations are returned."""
    composed, clips = make_scene(available, scene, data.stamps.seed, data.stamps.height)
    rows = []
    for clip in clips:
        rng = np.random.default_rng(clip.seed)
        samples = round(data.seconds * data.sample_rate)
        sound = compose_sound(clip.sound, samples, data.sample_rate, rng)
        mask = composed.objects[clip.place].mask
        layout.write_clip(clip.clip_id, composed.image, sound, data.sample_rate)
        if scene.split != "train":
            layout.write_mask(clip.clip_id, mask)
        rows.append(
            {
                "clip_id": clip.clip_id,
                "class": scene.classes[clip.place],
                "recording": clip.sound.name,
                "picture": composed.objects[clip.place].picture.name,
                "background": composed.background.name,
                "scene": scene.name,
                "objects": list(scene.classes),
                "boxes": [bounding_box(mask)],
            }
        )
    return rows
