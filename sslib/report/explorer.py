"""Ask trained models about the pictures and sounds of a list: what they hear, where it is, what is near it.

What a clip's picture and sound are encoded to is kept, so that another sound or slider is answered at once.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sslib import features, metrics
from sslib.data import media
from sslib.datasets import AVDataset
from sslib.evaluation import protocols
from sslib.localizer import Localizer
from sslib.report import figures
from sslib.report.overlay import blend, state
from sslib.report.text import HTML_TEMPLATES

SOUNDS = ("its own", "another clip's", "a mixture", "silence", "noise", "a file of mine")
SIDE = 320  # pixels of a panel
CLASS = "class"


class Explorer:
    """The clips of a list, and what models make of them; :class:`sslib.report.rooms.ExplorerRoom` plays with it.

    Parameters
    ----------
    data : the list, annotated or not.
    models : name -> model; the first one has nodes and the spectrogram shown.
    results : rows of ``clips.csv``; with them clips can be chosen by how good their maps are.
    others : name -> checkpoint or exported folder of models that can be laid beside.
    """

    def __init__(
        self,
        data: AVDataset,
        models: Mapping[str, Localizer],
        results: pd.DataFrame | None = None,
        others: Mapping[str, Path] | None = None,
    ):
        self.data, self.models, self.rate = data, dict(models), data.config.data.sample_rate
        self.others = dict(others or {})
        self.annotations = data.annotations or data.layout.annotations(data.split)
        self.rows = {clip_id: row for row, clip_id in enumerate(data.ids)}
        self.clip = lru_cache(64)(lambda clip_id: data[self.rows[clip_id]])
        self.visual = lru_cache(64)(self._encode_image)
        self.worst_first = _by_score(data, results)

    def class_of(self, clip_id: str) -> str:
        """Name what sounds in a clip, for a reader; "" where it is not known."""
        return self.annotations.get(clip_id, {}).get(CLASS, "").replace("_", " ")

    def picture(self, clip_id: str) -> np.ndarray:
        """Return a clip's picture, uint8 (S, S, 3), as the model sees it."""
        return np.ascontiguousarray(self.clip(clip_id)["image"].numpy().transpose(1, 2, 0))

    def sound(self, clip_id: str, kind: str, other: str = "", share: float = 0.5) -> np.ndarray:
        """Return what is played to a clip, int16 (samples,): one of ``SOUNDS`` but for the last.

        Of a mixture, `share` (0 to 1) is the sound of the clip `other`.
        """
        own = self.clip(clip_id)["waveform"]
        if kind in ("silence", "noise"):
            return getattr(protocols, kind)(own[None], [clip_id])[0].numpy()
        if kind == "its own":
            return own.numpy()
        theirs = self.clip(other)["waveform"].numpy()
        if kind == "another clip's":
            return theirs
        mixed = (1 - share) * own.numpy() + share * theirs
        return np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)

    def _encode_image(self, name: str, clip_id: str) -> Tensor:
        return self.models[name].encode_images([self.picture(clip_id)])

    def map(self, name: str, clip_id: str, waveform: np.ndarray) -> np.ndarray:
        """Return a model's map (h, w) of a clip's picture with a sound, int16 (samples,)."""
        model = self.models[name]
        heard = model.encode_sounds([model.loudest(model.read_sound(waveform, self.rate))])
        return model.maps(self.visual(name, clip_id), heard)[0]

    @torch.inference_mode()
    def node_maps(self, name: str, clip_id: str) -> np.ndarray:
        """Return the maps of the reasoning module's nodes (K, h, w), which hear nothing; none for the base model."""
        model = self.models[name].model
        if model.reasoning is None:
            return np.zeros((0, 1, 1), np.float32)
        return model.visual_reasoning(self.visual(name, clip_id))[0][0].numpy()

    @torch.inference_mode()
    def visual_only(self, name: str, clip_id: str) -> np.ndarray | None:
        """Return the map without a sound (h, w); None for the base model."""
        model = self.models[name].model
        if model.reasoning is None:
            return None
        nodes, _ = model.visual_reasoning(self.visual(name, clip_id))
        return metrics.smooth(model.visual_only(nodes).numpy(), self.models[name].config.evaluation.smoothing)[0]

    def panels(self, clip_id: str, waveform: np.ndarray, node: int | None = None, low: float | None = None,
               opacity: float = 0.75) -> dict[str, np.ndarray]:  # fmt: skip
        """Return what is seen of a clip with a sound: title -> picture, uint8 (H, W, 3).

        Parameters
        ----------
        node : of the first model's reasoning module; None: not shown.
        low : value up to which the maps with sound stay clear (default: their median).
        """
        picture, first = self.picture(clip_id), next(iter(self.models))
        shown = {"picture": picture, "what it hears": self.spectrogram(waveform)}
        for name in self.models:
            title = "where it is" if name == first else f"where it is ({name})"
            shown[title] = blend(picture, self.map(name, clip_id, waveform), low, opacity)
        if (without := self.visual_only(first, clip_id)) is not None:
            shown["without sound"] = blend(picture, without, opacity=opacity)
        if node is not None and len(nodes := self.node_maps(first, clip_id)):
            shown[f"node {node}"] = blend(picture, nodes[node], opacity=opacity)
        return shown

    def spectrogram(self, waveform: np.ndarray) -> np.ndarray:
        """Draw the front end of a window of sound, uint8 (S, S, 3): time to the right, frequency upwards."""
        model = next(iter(self.models.values()))
        bands = features.spectrograms(torch.from_numpy(model.loudest(waveform))[None], model.config)[0, 0].numpy()
        level = (bands - bands.min()) / max(float(np.ptp(bands)), 1e-6)
        drawn = Image.fromarray((figures.HEAT(level[::-1])[..., :3] * 255).astype(np.uint8))
        return np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST))

    def confidence(self, clip_id: str, waveform: np.ndarray) -> str:
        """Say how sure each model is, and whether that is enough for a visible source."""
        said = []
        for name, model in self.models.items():
            found = model.localization(self.map(name, clip_id, waveform), (2, 2))
            said.append(f"{name}: confidence {found.confidence:.2f}, {state(found, waveform)[0]}")
        return "; ".join(said)

    def figure(self, clip_id: str, waveforms: Mapping[str, np.ndarray], node: int | None = None) -> Figure:
        """Draw the panels of a clip with several sounds (name -> int16 samples), a row each: for a page."""
        rows = {name: self.panels(clip_id, waveform, node) for name, waveform in waveforms.items()}
        titles = list(next(iter(rows.values())))
        figure, axes = figures.grid(len(rows), len(titles), 2.3, 2.4)
        for line, (name, panels) in zip(axes, rows.items(), strict=True):
            for axis, (title, panel) in zip(line, panels.items(), strict=True):
                figures.show_image(axis, panel.transpose(2, 0, 1), title if axis in axes[0] else "")
            line[0].set_ylabel(name)
        return figure

    @torch.inference_mode()
    def embeddings(self, most: int = 400) -> tuple[list[str], np.ndarray]:
        """Encode the sounds of at most so many clips, evenly over the list, with the first model: ids, (N, C)."""
        model = next(iter(self.models.values()))
        rows = np.unique(np.linspace(0, len(self.data) - 1, min(most, len(self.data))).astype(int))
        heard = (model.loudest(model.read_sound(self.data[row]["waveform"].numpy(), self.rate)) for row in rows)
        vectors = [model.encode_sounds([waveform])[0].numpy() for waveform in heard]
        return [self.data.ids[row] for row in rows], np.stack(vectors)


def _by_score(data: AVDataset, results: pd.DataFrame | None) -> list[str]:
    """List the clips from the worst map to the best (cIoU under the adaptive threshold); in their order without."""
    if results is None:
        return list(data.ids)
    own = results[(results["split"] == data.split) & (results["map_kind"] == "similarity")]
    own = own[(own["condition"] == "own") & own["clip_id"].isin(data.ids)]
    return own.sort_values("ciou_adaptive", kind="stable")["clip_id"].tolist()


def embed(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lay sounds out in the plane, (N, 2) in [0, 1]: like ones are neighbours (t-SNE of their vectors, cosine)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    points = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(embeddings)
    return (points - points.min(axis=0)) / np.ptp(points, axis=0).clip(1e-9)


def sound_map(explorer: Explorer, ids: Sequence[str], points: np.ndarray) -> str:
    """Return the sounds of clips at `points` (N, 2) as HTML for JupyterLab: a click, or Enter, plays one."""
    dots = []
    for clip_id, (x, y) in zip(ids, points, strict=True):
        sound = media.encode_mp3(explorer.sound(clip_id, "its own") / 32768, explorer.rate)
        name = explorer.class_of(clip_id) or clip_id
        look = {"name": name, "colour": f"hsl({zlib.crc32(name.encode()) % 360} 60% 45%)"}
        place = {"x": round(10 + 620 * float(x), 1), "y": round(10 + 420 * float(y), 1)}
        dots.append(look | place | {"sound": base64.b64encode(sound).decode()})
    return HTML_TEMPLATES.get_template("sound_map.html.j2").render(dots=dots)


def sound_map_figure(explorer: Explorer, ids: Sequence[str], points: np.ndarray) -> Figure:
    """Draw the map of sounds for a page: a point each, the class beside the one in the middle of its own."""
    names = np.array([explorer.class_of(clip_id) for clip_id in ids])
    figure, [[axis]] = figures.grid(1, 1, 9.0, 6.0)
    for number, name in enumerate(dict.fromkeys(names)):
        own = points[names == name]
        axis.scatter(*own.T, s=12, color=figures.COLOURS[number % len(figures.COLOURS)], linewidths=0)
        middle = own[((own - np.median(own, axis=0)) ** 2).sum(axis=1).argmin()]
        axis.annotate(figures.printable(name), middle, xytext=(3, 3), textcoords="offset points", fontsize=7)
    axis.invert_yaxis()
    figures.bare(axis)
    return figure
