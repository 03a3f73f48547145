"""The scenes of the Stamps: cut-outs composed on photographs of places, one of which sounds, with exact masks.

What sounds must not be told by anything but the sound: all objects of a scene are drawn by the same rules first, and
only then one of them is chosen (in val and the tests each of them in turn, as clips of one scene). The result is the
layout that every other data set has, so that everything after this file is the code that VGGSound uses.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from PIL import Image, ImageFilter

from sslib.config import Data, InputError, Stamps
from sslib.data.layout import Layout, digest
from sslib.data.parallel import each
from sslib.stamps.generated import generate_library
from sslib.stamps.library import Background, Cutout, Library, MediaUnavailable, Recording, fetch_media, load_library

# Of which instances are the cut-outs and the recordings of a split. Another order gives other scenes.
INSTANCES = {
    "train": ("known", "known"),
    "val": ("known", "known"),
    "test": ("known", "known"),
    "test_new_instances": ("new", "new"),
    "test_new_recordings": ("known", "new"),
    "val_new": ("known", "val"),
}
SPLITS = tuple(INSTANCES)
# Fraction of the image that a VGG-SS ground truth covers: quantiles of all 5,158 records.
AREA_QUANTILES = ((0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), (0.012, 0.054, 0.121, 0.253, 0.463, 0.677, 0.95))
VISIBLE = 0.6  # an object hidden more than this allows is placed again
LICENCE = "media of Debian packages under free licences (GPL, CC BY-SA and others): credits in data/README.md"
VERSION = 4  # of the rules in this file: another number, other bytes
_SPLIT, _CLIP = f"({'|'.join(SPLITS)})", f"({'|'.join(SPLITS)})_\\d{{5,}}(_[abc])?"
OWN_FILES = re.compile(
    rf"dataset\.json|clips\.lmdb/.*|splits/{_SPLIT}\.txt|annotations/{_SPLIT}\.json"
    rf"|video_frames/{_CLIP}/001\.jpg|audios/{_CLIP}\.flac|masks/{_CLIP}\.png"
)


class PlacedObject(NamedTuple):
    cutout: Cutout
    mask: np.ndarray  # bool (H, W): the pixels of it that can be seen


class Scene(NamedTuple):
    image: np.ndarray  # uint8 (H, W, 3)
    objects: tuple[PlacedObject, ...]
    background: Background


class Plan(NamedTuple):
    """What a scene is to hold; drawn for a whole split at once, so that classes are evenly spread."""

    name: str
    split: str
    index: int
    classes: tuple[str, ...]


class Clip(NamedTuple):
    clip_id: str
    sounding: int  # index among the scene's objects
    recording: Recording
    seed: int  # of the audio


class Pool(NamedTuple):
    cutouts: dict[str, list[Cutout]]  # by class, which a split may use
    recordings: dict[str, list[Recording]]
    backgrounds: list[Background]


def open_library(data: Data) -> Library:
    """Read the material that ``data.stamps`` asks for: real media, or (``auto``) generated ones where none are."""
    if data.stamps.source != "generated":
        try:
            folder = fetch_media(data.root.parent / "stamps-media", data.stamps.media)
            return load_library(folder, data.sample_rate, subset=data.stamps.subset)
        except MediaUnavailable as error:
            if data.stamps.source == "media":
                raise
            warnings.warn(f"no real media, generated clips instead: {error}", stacklevel=2)
    return generate_library(data.sample_rate)


def select_pool(library: Library, split: str) -> Pool:
    """Select the cut-outs and recordings of a split's instances, of classes that have both, and its own backgrounds."""
    kinds = [
        [item for item in items if item.instance == instance]
        for items, instance in zip((library.cutouts, library.recordings), INSTANCES[split], strict=True)
    ]
    names = background_names(library, split)
    classes = sorted(set.intersection(*({item.class_name for item in items} for items in kinds)))
    by_class = ({name: [item for item in items if item.class_name == name] for name in classes} for items in kinds)
    return Pool(*by_class, [background for background in library.backgrounds if background.name in names])


def background_names(library: Library, split: str) -> set[str]:
    """Divide the places: a quarter is for the test splits, an eighth for those of val, the rest for training."""
    names = sorted((b.name for b in library.backgrounds), key=lambda name: hashlib.sha256(name.encode()).digest())
    test, val = max(1, len(names) // 4), max(1, len(names) // 8)
    parts = {"test": names[:test], "val": names[test : test + val], "train": names[test + val :]}
    return set(parts[split.partition("_")[0]])


def plan_scenes(library: Library, split: str, config: Stamps) -> list[Plan]:
    """Draw which classes meet in the scenes of a split; how often each occurs differs by one at most."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split)])
    classes = list(select_pool(library, split).cutouts)
    if len(classes) < 2:
        raise InputError(f"split {split!r} needs at least two classes with cut-out and recording, found {classes}")
    count = getattr(config, split)
    if split == "train":
        sizes = np.where(rng.random(count) < config.one_object_share, 1, rng.integers(2, 4, count))
    else:
        sizes = np.array([2] * count + ([1] * (count // 2) if "new" not in split else []))
    plans, queue = [], []
    for index, size in enumerate(np.minimum(sizes, len(classes))):
        if len(queue) < size:
            # Classes that still wait come first; of a new round they come last, so that no scene has one twice.
            queue += sorted(rng.permutation(classes).tolist(), key=lambda name: name in queue)
        chosen, queue = queue[:size], queue[size:]
        plans.append(Plan(f"{split}_{index:05d}", split, index, tuple(chosen)))
    return plans


def compose_image(cutouts: list[Cutout], background: Background, height: int, rng: np.random.Generator) -> Scene:
    """Paste `cutouts` on `background` one over the other, 4:3, `height` pixels high."""
    size = (round(height * 4 / 3), height)
    canvas = _light(_cover(background, size, rng), rng)
    shrink = 1.0
    for attempt in range(200):
        if attempt % 10 == 0:
            objects = [_transform(cutout, size, shrink, rng) for cutout in cutouts]
            shrink *= 0.95
        layers = [_place(image, size, rng) for image in objects]
        masks = _visible([np.asarray(layer.getchannel("A")) > 127 for layer in layers])
        whole = [(np.asarray(image.getchannel("A")) > 127).sum() for image in objects]
        if all(mask.sum() >= VISIBLE * area for mask, area in zip(masks, whole, strict=True)):
            break
    for layer in layers:
        canvas.paste(layer, (0, 0), layer)
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    return Scene(np.asarray(canvas), tuple(map(PlacedObject, cutouts, masks)), background)


def _cover(background: Background, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Cut a random window that fills the canvas out of a background; half of them are mirrored."""
    image = Image.fromarray(background.rgb)
    scale = max(size[0] / image.width, size[1] / image.height) * rng.uniform(1.0, 1.5)
    image = image.resize((max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))))
    left, top = rng.integers(image.width - size[0] + 1), rng.integers(image.height - size[1] + 1)
    image = image.crop((left, top, left + size[0], top + size[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _transform(cutout: Cutout, size: tuple[int, int], shrink: float, rng: np.random.Generator) -> Image.Image:
    """Turn the object a little, light it, soften its edges; its size is drawn from the areas of VGG-SS."""
    image = Image.fromarray(cutout.rgba).convert("RGBa")
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


def _place(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Put the object on an empty canvas, anywhere, up to a tenth of it outside."""
    ranges = [sorted((-0.1 * length, inside - 0.9 * length)) for inside, length in zip(size, image.size, strict=True)]
    layer = Image.new("RGBA", size)
    layer.paste(image, tuple(round(rng.uniform(low, high)) for low, high in ranges))
    return layer


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change gain, contrast and tint, alike for objects and places."""
    gain, contrast, tint = rng.uniform(0.88, 1.12), rng.uniform(0.9, 1.1), rng.uniform(0.98, 1.02, (3, 1))
    table = ((np.arange(256) - 128) * contrast + 128) * gain * tint  # (channels, values)
    return image.point(np.clip(table, 0, 255).astype(int).ravel().tolist())


def _visible(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Take from each mask what the objects pasted after it hide."""
    return [mask & ~np.any(masks[number:], axis=0) for number, mask in enumerate(masks, start=1)]


def compose_audio(recording: Recording, samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Cut `samples` (int16) of a recording, repeated if it is short, at a random moment and level, and add noise."""
    waveform = recording.waveform
    if len(waveform) < samples:
        unit = np.pad(waveform, (0, int(rng.uniform(0.0, 0.3) * sample_rate)))
        waveform = np.tile(unit, samples // len(unit) + 2)
        start = rng.integers(len(unit))
    else:
        # Recordings pause: the loudest of a few moments is one at which something sounds.
        starts = rng.integers(len(waveform) - samples + 1, size=5)
        start = max(starts, key=lambda at: np.square(waveform[at : at + samples]).sum())
    piece = waveform[start : start + samples].astype(np.float64)
    piece *= 10 ** (rng.uniform(-26, -16) / 20) / (np.sqrt(np.mean(piece**2)) + 1e-9)
    noise = rng.standard_normal(samples)
    if rng.random() < 0.5:  # half of the noises are pink-ish
        noise = np.convolve(noise, np.full(32, 1 / np.sqrt(32)), mode="same")
    piece += noise * np.sqrt(np.mean(piece**2)) * 10 ** (-rng.uniform(20, 40) / 20)
    return (np.clip(piece, -1, 1) * 32767).astype(np.int16)


def bounding_box(mask: np.ndarray) -> list[float]:
    """Find xmin, ymin, xmax, ymax in [0, 1] of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


def make_scene(available: Pool, scene: Plan, seed: int, height: int) -> tuple[Scene, list[Clip]]:
    """Compose one scene and draw its clips; the seed and the scene's number decide everything."""
    rng = np.random.default_rng([seed, SPLITS.index(scene.split), scene.index])
    cutouts = [available.cutouts[c][rng.integers(len(available.cutouts[c]))] for c in scene.classes]
    background = available.backgrounds[rng.integers(len(available.backgrounds))]
    composed = compose_image(cutouts, background, height, rng)
    clips, in_turn = [], scene.split != "train"
    for sounding in range(len(cutouts)) if in_turn else [int(rng.integers(len(cutouts)))]:
        recordings = available.recordings[scene.classes[sounding]]
        suffix = f"_{'abc'[sounding]}" if in_turn and len(cutouts) > 1 else ""
        recording = recordings[rng.integers(len(recordings))]
        clips.append(Clip(scene.name + suffix, sounding, recording, int(rng.integers(2**31))))
    return composed, clips


def write_scenes(data: Data, library: Library, workers: int = 2) -> Path:
    """Compose all splits of ``data.stamps`` into the layout at ``data.root``, unless they are there.

    The folder gets its name when it is complete. It takes the place of scenes of other settings, never of other files.
    """
    # The digest is of all that decides the composed bytes: not of where the media were found.
    rules = data.stamps.model_dump(mode="json", exclude={"source", "media", "subset"})
    made_of = digest([VERSION, rules, data.sample_rate, data.seconds, library.digest])
    if Layout(data.root).info().get("digest") == made_of:
        return data.root
    _require_only_scenes(data.root)
    partial = Layout(data.root.with_name(data.root.name + ".partial"))
    shutil.rmtree(partial.root, ignore_errors=True)
    for split in SPLITS:
        _write_split(partial, data, library, split, workers)
    name = "generated clips" if library.generated else f"Stamps ({data.stamps.subset} subset)"
    facts = {"name": name, "generated": library.generated, "digest": made_of, "missing": list(library.missing)}
    facts["licence"] = "MIT, as sslib: drawn and synthesized" if library.generated else LICENCE
    partial.write_info(kind="stamps", **facts, sample_rate=data.sample_rate, frame_rate=1.0)
    shutil.rmtree(data.root, ignore_errors=True)
    partial.root.rename(data.root)
    return data.root


def _require_only_scenes(root: Path) -> None:
    """Raise where a folder holds other data, or files beside scenes and the store made of them."""
    paths = sorted(root.rglob("*"))
    if paths and Layout(root).info().get("kind") != "stamps":
        raise InputError(f"{root} holds other data: give data.root another folder")
    names = (path.relative_to(root).as_posix() for path in paths if not path.is_dir())
    if added := [name for name in names if not OWN_FILES.fullmatch(name)]:
        few = ", ".join(added[:3] + ["…"] * (len(added) > 3))
        found = f"scenes of other settings and {len(added)} file(s) that were not composed ({few})"
        raise InputError(f"{root} holds {found}: move them, or give data.root another folder")


def _write_split(layout: Layout, data: Data, library: Library, split: str, workers: int) -> None:
    plans = plan_scenes(library, split, data.stamps)
    with tempfile.NamedTemporaryFile(suffix=".pool") as file:  # written once, and mapped by all workers
        joblib.dump(select_pool(library, split), file.name)
        task = functools.partial(_write_scene, layout, data, file.name)
        rows_of = dict(each(task, plans, workers=workers, desc=f"composing {split}"))
    rows = [row for scene in plans for row in rows_of[scene]]
    layout.write_split(split, [row["clip_id"] for row in rows])
    layout.write_annotations(split, {row.pop("clip_id"): row for row in rows})


@functools.lru_cache(maxsize=1)
def _read_pool(path: str) -> Pool:
    return joblib.load(path, mmap_mode="r")


def _write_scene(layout: Layout, data: Data, pool: str, scene: Plan) -> list[dict[str, Any]]:
    """Write the clips of one scene, and return their annotations."""
    composed, clips = make_scene(_read_pool(pool), scene, data.stamps.seed, data.stamps.height)
    rows, samples = [], round(data.seconds * data.sample_rate)
    for clip in clips:
        sounding = composed.objects[clip.sounding]
        audio = compose_audio(clip.recording, samples, data.sample_rate, np.random.default_rng(clip.seed))
        layout.write_clip(clip.clip_id, composed.image, audio, data.sample_rate)
        if scene.split != "train":
            layout.write_mask(clip.clip_id, sounding.mask)
        row = {"clip_id": clip.clip_id, "class": scene.classes[clip.sounding], "recording": clip.recording.name}
        row |= {"picture": sounding.cutout.name, "background": composed.background.name, "scene": scene.name}
        rows.append(row | {"objects": list(scene.classes), "boxes": [bounding_box(sounding.mask)]})
    return rows
