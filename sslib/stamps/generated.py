"""Stand-ins for the Stamps: drawn shapes and synthesized sounds, for tests and for machines without the media."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from sslib.data.layout import digest
from sslib.stamps.library import Background, Cutout, Library, Recording


def generate_library(sample_rate: int, *, classes: int = 12, backgrounds: int = 8, seed: int = 0) -> Library:
    """Make shapes and sounds for each class, and places of smooth noise; `seed` decides every byte.

    Of a class there are a known and a new shape, and a known and a new sound and one for ``val_new``.
    """
    rng = np.random.default_rng([seed, classes, backgrounds])
    cutouts, recordings = [], []
    for index in range(classes):
        for instance in ("known", "new"):
            label = f"generated:{index:03d}_{instance}", f"shape_{index:03d}", instance
            cutouts.append(Cutout(*label, _draw_shape(index, classes, rng)))
            recordings.append(Recording(*label, _synthesize(index, classes, sample_rate, rng)))
        label = f"generated:{index:03d}_val", f"shape_{index:03d}", "val"
        recordings.append(Recording(*label, _synthesize(index, classes, sample_rate, rng)))
    places = tuple(Background(f"generated:place_{index:03d}", _draw_background(rng)) for index in range(backgrounds))
    made_of = digest(["generated", 2, sample_rate, classes, backgrounds, seed])
    return Library(tuple(cutouts), tuple(recordings), places, generated=True, digest=made_of)


def _draw_shape(index: int, classes: int, rng: np.random.Generator, side: int = 160) -> np.ndarray:
    """Draw a flower of the class's number of petals, hue and texture, uint8 (H, W, 4) with a soft edge."""
    width, height = side, round(side * rng.uniform(0.7, 1.0))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals, depth = 2 + index % 6, (0.12, 0.3)[index // 6 % 2]
    outline = 0.97 - depth + depth * np.cos(petals * angle + rng.uniform(0, 2 * np.pi))
    alpha = np.clip((outline - radius) * side / 4 + 0.5, 0, 1)
    wave = (x, y, radius, np.cos(4 * angle) * radius)[index % 4]
    texture = 0.5 + 0.5 * np.sin(2 * np.pi * (2 + index % 3) * wave + rng.uniform(0, 2 * np.pi))
    hue = (index * 0.618 + rng.uniform(-0.03, 0.03)) % 1  # golden ratio: neighbours in number are far apart in hue
    light, dark = (np.array(colorsys.hsv_to_rgb(hue, s, v)) for s, v in ((0.55, 0.95), (0.9, 0.45)))
    rgb = dark + texture[..., None] * (light - dark)  # (H, W, 3)
    rgba = (np.concatenate([rgb, alpha[..., None]], axis=2) * 255).astype(np.uint8)
    rows, columns = (np.flatnonzero((rgba[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _synthesize(index: int, classes: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Synthesize 2 s of the class's kind (harmonics, chirps, noise bursts, warble) at its pitch, float32 (samples,)."""
    time, kind = np.arange(2 * sample_rate) / sample_rate, index % 4
    highest = min(3000.0, sample_rate / 8)
    pitch = 150 * (highest / 150) ** (index / max(1, classes - 1)) * rng.uniform(0.96, 1.04)
    rate, phase = (2 + index % 5) * rng.uniform(0.95, 1.05), rng.uniform(0, 2 * np.pi)  # `rate` beats a second
    cycles, beat = pitch * time, (rate * time + phase) % 1
    if kind == 1:  # chirps upwards
        cycles = np.cumsum(pitch * (0.7 + 0.6 * beat)) / sample_rate
    elif kind == 3:  # warble
        cycles = np.cumsum(pitch * (1 + 0.15 * np.sin(2 * np.pi * rate * time + phase))) / sample_rate
    if kind == 2:
        noise = np.convolve(rng.standard_normal(len(time)), np.full(40, 0.2), mode="same")
        wave = noise * np.cos(2 * np.pi * cycles) * (beat < 0.5)
    else:
        wave = sum(np.sin(2 * np.pi * (n + 1) * cycles + phase * n) * 0.6**n for n in range(3 if kind else 4))
        if kind == 0:
            wave *= 0.6 + 0.4 * np.sin(2 * np.pi * rate * time)
    wave += 0.01 * rng.standard_normal(len(time))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def _draw_background(rng: np.random.Generator, size: tuple[int, int] = (480, 360)) -> np.ndarray:
    """Draw smooth noise of three octaves, uint8 (H, W, 3)."""
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 0.5), (8, 0.3), (30, 0.2)):
        noise = Image.fromarray(rng.integers(0, 256, (cells * 3 // 4 + 1, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return total.astype(np.uint8)
