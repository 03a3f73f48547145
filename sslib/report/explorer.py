"""Ask a trained model about any picture with any sound: widgets for JupyterLab, and the same panels as a figure.

What a clip's picture and sound are encoded to is kept, so that another sound or slider is answered at once.
"""

from __future__ import annotations

import base64
import html
import io
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sslib import features, localizer
from sslib.config import InputError, SslibError
from sslib.data import media
from sslib.datasets import AVDataset
from sslib.evaluation import protocols
from sslib.localizer import Localizer
from sslib.report import figures
from sslib.report.overlay import blend
from sslib.report.text import HTML_TEMPLATES

SOUNDS = ("its own", "another clip's", "a mixture", "silence", "noise", "a file of mine")
SIDE = 320  # pixels of a panel
CLASS = "class"


class Explorer:
    """The clips of a list, and what models make of them; :meth:`widget` is the room to play in.

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
        """Return a model's raw map (h, w) of a clip's picture with a sound, int16 (samples,)."""
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
        return model.visual_only(nodes)[0].numpy()

    def panels(self, clip_id: str, waveform: np.ndarray, node: int | None = None, low: float | None = None,
               opacity: float = 0.75) -> dict[str, np.ndarray]:  # fmt: skip
        """Return what is seen of a clip with a sound: title -> picture, uint8 (H, W, 3).

        Parameters
        ----------
        node : of the first model's reasoning module; None: not shown.
        low : cosine up to which the maps with sound stay clear (default: their median).
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
        """Say how sure each model is."""
        said = []
        for name, model in self.models.items():
            found = model.localization(self.map(name, clip_id, waveform), (2, 2))
            verdict = {None: "", True: ": a visible source", False: ": no visible source"}[found.visible]
            said.append(f"{name}: confidence {found.confidence:.2f}{verdict}")
        return "; ".join(said)

    def figure(self, clip_id: str, waveforms: Mapping[str, np.ndarray], node: int | None = None) -> Figure:
        """Draw the panels of a clip with several sounds (name -> int16 samples), a row each: for a page."""
        rows = {name: self.panels(clip_id, waveform, node) for name, waveform in waveforms.items()}
        titles = list(next(iter(rows.values())))
        figure, axes = figures.grid(len(rows), len(titles), 1.9, 2.0)
        for line, (name, panels) in zip(axes, rows.items(), strict=True):
            for axis, (title, panel) in zip(line, panels.items(), strict=True):
                figures.show_image(axis, panel.transpose(2, 0, 1), title if axis in axes[0] else "")
            line[0].set_ylabel(name)
        return figure

    def widget(self) -> widgets.Widget:
        """Make the widgets: choose a clip and a sound, see and hear what comes of it."""
        return Room(self).view


def _by_score(data: AVDataset, results: pd.DataFrame | None) -> list[str]:
    """List the clips from the worst map to the best (cIoU under the adaptive threshold); in their order without."""
    if results is None:
        return list(data.ids)
    own = results[(results["split"] == data.split) & (results["map_kind"] == "similarity")]
    own = own[(own["condition"] == "own") & own["clip_id"].isin(data.ids)]
    return own.sort_values("ciou_adaptive", kind="stable")["clip_id"].tolist()


class Room:
    """The widgets of an :class:`Explorer`; `view` holds them. All of them work by keyboard."""

    def __init__(self, explorer: Explorer):
        self.explorer, ids = explorer, explorer.data.ids
        named = [(f"{explorer.class_of(clip_id)} · {clip_id}".strip(" ·"), clip_id) for clip_id in ids]
        classes = sorted({explorer.class_of(clip_id) for clip_id in ids} - {""})
        nodes = len(explorer.node_maps(next(iter(explorer.models)), ids[0]))
        wide, slider = {"layout": {"width": "22rem"}}, {"layout": {"width": "22rem"}, "continuous_update": True}
        self.kind_of_clip = widgets.Dropdown(options=["all classes", *classes], description="class", **wide)
        self.clip = widgets.Dropdown(options=named, description="clip", **wide)
        self.sound = widgets.Dropdown(options=SOUNDS, description="sound", **wide)
        self.other = widgets.Dropdown(options=named, value=ids[len(ids) // 2], description="of clip", **wide)
        self.share = widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="its share", **slider)
        self.file = widgets.FileUpload(accept="audio/*,.wav,.flac,.ogg,.mp3", description="sound file")
        self.low = widgets.FloatSlider(0, min=0, max=1, step=0.01, description="threshold", **slider)
        self.opacity = widgets.FloatSlider(0.75, min=0, max=1, step=0.05, description="opacity", **slider)
        choices = [("none", None), *((f"node {number}", number) for number in range(nodes))]
        self.node = widgets.Dropdown(options=choices, description="node", **wide)
        self.model = widgets.Dropdown(options=["none", *explorer.others], description="beside", **wide)
        steps = ("previous", "next", "random", "worst", "best")
        self.steps = {name: widgets.Button(description=name, layout={"width": "4.3rem"}) for name in steps}
        self.says = widgets.HTML()
        self.audio = widgets.Audio(format="wav", autoplay=False, loop=False)
        self.panels = widgets.GridBox(layout={"grid_template_columns": "repeat(auto-fill, 260px)", "grid_gap": "12px"})
        self._arrange()
        self._listen()
        self.update()

    def _arrange(self) -> None:
        hint = widgets.HTML("<small>threshold 0: each map is clear up to its own median</small>")
        left = [self.kind_of_clip, self.clip, widgets.HBox([*self.steps.values()]), self.sound, self.other, self.share]
        left += [self.file, self.low, hint, self.opacity, self.node, self.model, self.audio]
        right = widgets.VBox([self.says, self.panels], layout={"flex": "1 1 30rem"})
        self.view = widgets.HBox([widgets.VBox(left), right], layout={"flex_flow": "row wrap"})

    def _listen(self) -> None:
        self.kind_of_clip.observe(self._narrow, "value")
        self.model.observe(self._beside, "value")
        for widget in (self.clip, self.sound, self.other, self.share, self.file, self.low, self.opacity, self.node):
            widget.observe(self.update, "value")
        for name, button in self.steps.items():
            button.on_click(lambda _, name=name: self._step(name))

    def _narrow(self, change: dict) -> None:
        """Offer the clips of one class, or all."""
        ids = [i for i in self.explorer.data.ids if change["new"] in ("all classes", self.explorer.class_of(i))]
        self.clip.options = [(f"{self.explorer.class_of(i)} · {i}".strip(" ·"), i) for i in ids]

    def _step(self, name: str) -> None:
        """Go to another clip among those offered."""
        ids = [clip_id for _, clip_id in self.clip.options]
        ranked = [clip_id for clip_id in self.explorer.worst_first if clip_id in set(ids)] or ids
        here = ids.index(self.clip.value)
        aims = {"previous": ids[here - 1], "next": ids[(here + 1) % len(ids)], "worst": ranked[0], "best": ranked[-1]}
        self.clip.value = aims[name] if name in aims else str(np.random.default_rng().choice(ids))

    def _beside(self, change: dict) -> None:
        """Lay another model beside the first."""
        first = next(iter(self.explorer.models))
        self.explorer.models = {first: self.explorer.models[first]}
        try:
            if change["new"] != "none":
                self.explorer.models[change["new"]] = localizer.load(self.explorer.others[change["new"]])
        except SslibError as error:
            self._complain(error)
        else:
            self.update()

    def heard(self) -> np.ndarray:
        """Return the chosen sound, int16 (samples,); raise ``SslibError`` for a file that holds none."""
        if self.sound.value != SOUNDS[-1]:
            return self.explorer.sound(self.clip.value, self.sound.value, self.other.value, self.share.value)
        if not self.file.value:
            raise InputError("choose a sound file with the button below")
        return media.read_audio(bytes(self.file.value[0]["content"]), self.explorer.rate)

    def update(self, _change: dict | None = None) -> None:
        """Show and play what is chosen."""
        clip_id, explorer, sound = self.clip.value, self.explorer, self.sound.value
        self.other.disabled = sound not in SOUNDS[1:3]
        self.share.disabled, self.file.disabled = sound != SOUNDS[2], sound != SOUNDS[-1]
        if clip_id is None:
            return
        try:
            waveform = self.heard()
        except SslibError as error:
            self._complain(error)
            return
        panels = explorer.panels(clip_id, waveform, self.node.value, self.low.value or None, self.opacity.value)
        for box, (title, picture) in zip(self._boxes(len(panels)), panels.items(), strict=True):
            box.children[0].value, box.children[1].value = title, media.encode_jpeg(picture)
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, explorer.rate, format="WAV")
        self.audio.value = buffer.getvalue()
        self.says.value = f"<b>{explorer.class_of(clip_id)}</b> {explorer.confidence(clip_id, waveform)}"

    def _boxes(self, count: int) -> Sequence[widgets.VBox]:
        """Return as many panels as are needed, each a title and a picture; those that are there are used again."""
        if len(self.panels.children) != count:
            self.panels.children = [
                widgets.VBox([widgets.Label(), widgets.Image(format="jpeg", width=256, height=256)])
                for _ in range(count)
            ]
        return self.panels.children

    def _complain(self, error: SslibError) -> None:
        self.says.value = f'<b role="alert" style="color:#b00020">{html.escape(str(error))}</b>'


def embed(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lay sounds out in the plane, (N, 2) in [0, 1], so that like ones are neighbours (t-SNE of their vectors, cosine)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    points = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(embeddings)
    return (points - points.min(axis=0)) / np.ptp(points, axis=0).clip(1e-9)


def sound_map(explorer: Explorer, points: np.ndarray, most: int = 400) -> widgets.HTML:
    """Make a map of the sounds of all clips, at `points` (N, 2): a click, or Enter, plays one."""
    rows = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).astype(int))
    dots = []
    for row in rows:
        clip_id = explorer.data.ids[row]
        sound = media.encode_mp3(explorer.data[row]["waveform"].numpy() / 32768, explorer.rate)
        name = explorer.class_of(clip_id) or clip_id
        colour = f"hsl({zlib.crc32(name.encode()) % 360} 60% 45%)"
        place = {"x": round(10 + 620 * points[row, 0], 1), "y": round(10 + 420 * points[row, 1], 1)}
        dots.append({"name": name, "colour": colour, "sound": base64.b64encode(sound).decode(), **place})
    return widgets.HTML(HTML_TEMPLATES.get_template("sound_map.html.j2").render(dots=dots))


def sound_map_figure(explorer: Explorer, points: np.ndarray) -> Figure:
    """Draw the map of sounds for a page: a point each, the class in the middle of its own."""
    names = np.array([explorer.class_of(clip_id) for clip_id in explorer.data.ids])
    figure, [[axis]] = figures.grid(1, 1, 9.0, 6.0)
    for number, name in enumerate(dict.fromkeys(names)):
        own = points[names == name]
        axis.scatter(*own.T, s=12, color=figures.COLOURS[number % len(figures.COLOURS)], linewidths=0)
        middle = own[((own - np.median(own, axis=0)) ** 2).sum(axis=1).argmin()]
        axis.annotate(figures.printable(name), middle, xytext=(3, 3), textcoords="offset points", fontsize=7)
    axis.invert_yaxis()
    figures.bare(axis)
    return figure
