"""Show pictures, maps and sounds beside each other, as HTML: a picture grows at a click, its sound plays below it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from contourpy import contour_generator
from IPython.display import HTML
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from sslib.config import Config
from sslib.data import media
from sslib.datasets import AVDataset
from sslib.evaluation.run import as_measured
from sslib.report.figures import HEAT, TRUTH, localization, overlay
from sslib.report.text import HTML_TEMPLATES

SCALE = [to_hex(HEAT(level)) for level in np.linspace(0, 1, 9)]  # the colour bar


class Cell(NamedTuple):
    """A picture, uint8 (3, H, W) or a file, with :func:`outlines`, and a sound (samples,), in [-1, 1] or int16."""

    caption: str
    image: np.ndarray | Path | None = None
    outline: Mapping[str, str] = {}
    waveform: np.ndarray | None = None
    alt: str = ""


def gallery(cells: Iterable[Cell], rate: int = 0, columns: int = 4, bright: str = "") -> HTML:
    """Return cells in rows of at most `columns`, sounds at `rate` Hz, with a colour bar that says what is `bright`."""
    shown = [
        {
            "caption": cell.caption,
            "alt": cell.alt or cell.caption,
            "image": _embed_image(cell.image),
            "outline": cell.outline,
            "sound": _embed_sound(cell.waveform, rate),
        }
        for cell in cells
    ]
    given = {"cells": shown, "columns": columns, "scale": SCALE, "bright": bright, "truth": TRUTH}
    return HTML(HTML_TEMPLATES.get_template("gallery.html.j2").render(given))


def players(titles: Sequence[str], waveforms: Sequence[np.ndarray], rate: int, images: Sequence[Path] = ()) -> HTML:
    """Return players of sounds (samples,) in [-1, 1], each below its title and, where given, its picture file."""
    pairs = zip_longest(titles, waveforms, images)
    return gallery([Cell(title, image, waveform=sound) for title, sound, image in pairs], rate, columns=3)


def nodes(image: np.ndarray, maps: np.ndarray, frequency: np.ndarray) -> HTML:
    """Return the K node maps (K, h, w) of one image, the most frequent first, with how often each was foreground."""
    order = (-frequency).argsort()
    cells = [Cell(f"node {node} · {frequency[node]:.0%}", overlay(image, maps[node])) for node in order]
    return gallery([Cell("picture", image), *cells], columns=5, bright="the node looks here")


def _embed_image(image: np.ndarray | Path | None) -> str:
    """Return a picture as a data URI."""
    if image is None:
        return ""
    if isinstance(image, Path):
        image = media.read_image(image)
    encoded = media.encode_webp(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))), quality=82)
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"


def _embed_sound(waveform: np.ndarray | None, rate: int) -> str:
    """Return a sound as a data URI."""
    if waveform is None:
        return ""
    if waveform.dtype == np.int16:
        waveform = waveform / 32768
    return f"data:audio/mpeg;base64,{base64.b64encode(media.encode_mp3(waveform, rate)).decode()}"


def outlines(boxes: np.ndarray, mask: np.ndarray | None) -> dict[str, str]:
    """Return paths in percent of the picture around `boxes` (N, 4) in [0, 1] (dashed) and a mask (H, W) (solid).

    They are drawn by the browser over the picture, and so stay sharp at any size.
    """
    corners = np.asarray(boxes, float).reshape(-1, 4) * 100
    paths = {"box": "".join(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"
                            for left, top, right, bottom in corners)}  # fmt: skip
    if mask is None:
        return paths
    rows, columns = mask.shape
    x, y = ((np.arange(-1, cells + 1) + 0.5) * 100 / cells for cells in (columns, rows))
    # a ring of nothing, so that the outline of what touches the rim closes
    lines = contour_generator(x, y, np.pad(np.asarray(mask, float), 1)).lines(0.5)
    points = ("L".join(f"{across:.1f} {down:.1f}" for across, down in line[::3]) for line in lines)
    return paths | {"mask": "".join(f"M{line}Z" for line in points)}


class Gallery:
    """Show clips of an annotated test list with their maps (``LIST/KIND`` as in ``maps.npz`` -> maps (N, h, w))."""

    def __init__(self, data: AVDataset, maps: Mapping[str, np.ndarray]):
        self.data, self.maps, self.rate = data, maps, data.config.data.sample_rate
        self.rows = {clip_id: row for row, clip_id in enumerate(data.ids)}

    def maps_of(self, ids: Sequence[str], kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return maps of some clips, of those `kinds` (name in the file -> what a figure calls it) that exist."""
        rows = [self.rows[clip_id] for clip_id in ids]
        names = {kind: f"{self.data.split}/{kind}" for kind in kinds}
        return {kinds[kind]: self.maps[name][rows] for kind, name in names.items() if name in self.maps}

    def class_of(self, clip_id: str) -> str:
        """Return what sounds in a clip, for a reader; its id where the class is not known."""
        return (self.data.annotations[clip_id].get("class") or clip_id).replace("_", " ")

    def clip(self, clip_id: str, title: str, kinds: Mapping[str, str], limits=None) -> list[Cell]:
        """Return one clip: its picture below `title`, then its map of each kind that there is, with what it heard."""
        clip = self.data[self.rows[clip_id]]
        picture = Cell(title, clip["image"].numpy(), outlines(clip["boxes"], clip["mask"]), alt=f"Picture: {title}")
        there = [kind for kind in kinds if f"{self.data.split}/{kind}" in self.maps]
        return [picture, *(self._map(clip_id, kind, kinds[kind], limits) for kind in there)]

    def scene(self, ids: Sequence[str], kinds: Mapping[str, str]) -> list[Cell]:
        """Return clips that share one picture: the picture, a map for each of its sounds, and maps of other `kinds`."""
        first = self.data[self.rows[ids[0]]]
        names = " and ".join(map(self.class_of, ids))
        heard = [self._map(clip_id, "similarity", "") for clip_id in ids]
        others = self.clip(ids[0], "", kinds)[1:]
        picture = Cell(names, first["image"].numpy(), alt=f"Picture: {names}")
        return [picture, *heard, *(cell._replace(outline={}) for cell in others)]

    def show(self, rows: Sequence[Sequence[Cell]]) -> HTML:
        """Return rows of :meth:`clip` or :meth:`scene` below each other, with what the colours of maps mean."""
        return gallery(chain(*rows), self.rate, max(map(len, rows)), bright="heard here")

    def _map(self, clip_id: str, kind: str, label: str, limits: tuple[float, float] | None = None) -> Cell:
        """Return one map over its grey picture, and the sound that it was made with."""
        row, split = self.rows[clip_id], self.data.split
        clip, played = self.data[row], {"similarity": row}
        if f"{split}/{kind}_with" in self.maps:  # another clip's sound
            played[kind] = self.maps[f"{split}/{kind}_with"][row]
        sound = self.data[played[kind]] if kind in played else None
        name = f"♪ {self.class_of(sound['clip_id'])}" if sound else ""
        caption = f"{label}: {name}" if label and name else label or name
        image = overlay(clip["image"].numpy(), self.maps[f"{split}/{kind}"][row], limits)
        waveform = sound["waveform"].numpy() if sound else None
        return Cell(caption, image, outlines(clip["boxes"], clip["mask"]), waveform, f"Map of the picture: {caption}")


def save_thumbnail(run: Path, config: Config, columns: int = 4) -> Figure:
    """Draw the first clips of the first test list and their maps into ``thumbnail.png``, the picture of an experiment.

    They are not chosen by result. `run` holds ``maps.npz``; `config` says where the test data lie.
    """
    data = AVDataset(config, config.data.tests[0], annotated=True)
    chosen, gallery = data.ids[:columns], Gallery(data, as_measured(np.load(run / "maps.npz"), config))
    clips = [data[row] for row in range(len(chosen))]
    images, boxes = ([clip[key].numpy() for clip in clips] for key in ("image", "boxes"))
    titles = [f"♪ {gallery.class_of(clip_id)}" for clip_id in chosen]
    maps = gallery.maps_of(chosen, {"similarity": "map"})
    figure = localization(images, maps, boxes, [clip["mask"] for clip in clips], titles)
    figure.savefig(run / "thumbnail.png", dpi=100)
    return figure
