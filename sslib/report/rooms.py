"""Rooms to play in, for JupyterLab: the explorer's widgets, and a place to drop a video. All work by keyboard."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import soundfile

from sslib import localizer
from sslib.config import InputError, SslibError
from sslib.data import media
from sslib.data.layout import write_atomic
from sslib.localizer import Localizer
from sslib.report import own_video
from sslib.report.explorer import SOUNDS, Explorer

WIDE = {"width": "22rem"}
# JupyterLab takes the arrow keys for its cells, also from a menu or slider that has the focus, unless that says not to.
OWN_KEYS = """<img alt="" src="data:," style="display:none" onerror="this.closest('.sslib-room').addEventListener(
  'focusin', event => event.target.setAttribute('data-lm-suppress-shortcuts', 'true'))">"""
LARGEST_SHOWN = 50_000_000  # bytes of a video that is shown in the notebook


def complaint(error: Exception) -> str:
    """Return an error as HTML that screen readers announce."""
    return f'<b role="alert" style="color:#b00020">{html.escape(str(error))}</b>'


class ExplorerRoom:
    """The widgets of an :class:`Explorer`; `view` holds them."""

    def __init__(self, explorer: Explorer):
        self.explorer, ids = explorer, explorer.data.ids
        named = [(f"{explorer.class_of(clip_id)} · {clip_id}".strip(" ·"), clip_id) for clip_id in ids]
        classes = sorted({explorer.class_of(clip_id) for clip_id in ids} - {""})
        nodes = len(explorer.node_maps(next(iter(explorer.models)), ids[0]))
        wide = {"layout": WIDE}
        self.kind_of_clip = widgets.Dropdown(options=["all classes", *classes], description="class", **wide)
        self.clip = widgets.Dropdown(options=named, description="clip", **wide)
        self.sound = widgets.Dropdown(options=SOUNDS, description="sound", **wide)
        self.other = widgets.Dropdown(options=named, value=ids[len(ids) // 2], description="of clip", **wide)
        self.share = widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="its share", **wide)
        self.file = widgets.FileUpload(accept="audio/*,.wav,.flac,.ogg,.mp3", description="sound file")
        self.low = widgets.FloatSlider(0, min=0, max=1, step=0.01, description="threshold", **wide)
        self.opacity = widgets.FloatSlider(0.75, min=0, max=1, step=0.05, description="opacity", **wide)
        choices = [("none", None), *((f"node {number}", number) for number in range(nodes))]
        self.node = widgets.Dropdown(options=choices, index=0, description="node", **wide)
        self.model = widgets.Dropdown(options=["none", *explorer.others], description="beside", **wide)
        steps = ("previous", "next", "random", "worst", "best")
        self.steps = {name: widgets.Button(description=name, layout={"width": "auto"}) for name in steps}
        self.says = widgets.HTML()
        self.audio = widgets.Audio(format="wav", autoplay=False, loop=False)
        self.panels = widgets.GridBox(layout={"grid_template_columns": "repeat(auto-fill, 260px)", "grid_gap": "12px"})
        self._arrange()
        self._listen()
        self.update()

    def _arrange(self) -> None:
        hint = widgets.HTML(f"<small>threshold 0: each map is clear up to its own median</small>{OWN_KEYS}")
        left = [self.kind_of_clip, self.clip, widgets.HBox([*self.steps.values()]), self.sound, self.other, self.share]
        left += [self.file, self.low, hint, self.opacity, self.node, self.model, self.audio]
        right = widgets.VBox([self.says, self.panels], layout={"flex": "1 1 30rem"})
        self.view = widgets.HBox([widgets.VBox(left), right], layout={"flex_flow": "row wrap", "grid_gap": "12px"})
        self.view.add_class("sslib-room")

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
            self.says.value = complaint(error)
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
            self.says.value = complaint(error)
            return
        panels = explorer.panels(clip_id, waveform, self.node.value, self.low.value or None, self.opacity.value)
        for box, (title, picture) in zip(self._boxes(len(panels)), panels.items(), strict=True):
            box.children[0].value, box.children[1].value = title, media.encode_jpeg(picture)
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, explorer.rate, format="WAV")
        self.audio.value = buffer.getvalue()
        self.says.value = f"<b>{explorer.class_of(clip_id)}</b> · {explorer.confidence(clip_id, waveform)}"

    def _boxes(self, count: int) -> Sequence[widgets.VBox]:
        """Return as many panels as are needed, each a title and a picture; those that are there are used again."""
        if len(self.panels.children) != count:
            self.panels.children = [
                widgets.VBox([widgets.Label(), widgets.Image(format="jpeg", width=256, height=256)])
                for _ in range(count)
            ]
        return self.panels.children


class VideoRoom:
    """A place to drop a video, or to name one by its path; `view` shows where its sound comes from.

    Results are written into `folder`: see :func:`sslib.report.own_video.localize_video`.
    """

    def __init__(self, model: Localizer, folder: Path):
        self.model, self.folder = model, folder
        self.file = widgets.FileUpload(accept="video/*,.mkv,.avi", description="a small video")
        self.path = widgets.Text(placeholder="or the path of one, then Enter", layout=WIDE, continuous_update=False)
        self.rate = widgets.BoundedFloatText(5.0, min=0.1, max=60, description="per second", layout={"width": "11rem"})
        self.says, self.shown = widgets.HTML(), widgets.VBox()
        self.file.observe(self._dropped, "value")
        self.path.observe(lambda change: change["new"] and self.show(Path(change["new"]).expanduser()), "value")
        self.view = widgets.VBox([widgets.HBox([self.file, self.path, self.rate]), self.says, self.shown])

    def _dropped(self, change: dict) -> None:
        if change["new"]:
            file = change["new"][0]
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / Path(file["name"]).name
            write_atomic(path, bytes(file["content"]))
            self.show(path)

    def show(self, path: Path) -> None:
        """Localize a video, replacing what is there, and play it; say what is wrong where that fails."""
        self.says.value, self.shown.children = "working …", ()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            out = self.folder / f"{path.stem}_overlay.mp4"
            own_video.localize_video(self.model, path, out, self.rate.value, force=True)
        except SslibError as error:
            self.says.value = complaint(error)
            return
        self.says.value = f"<code>{html.escape(str(out))}</code>, beside it a table (.csv) and a page (.html)"
        if out.stat().st_size <= LARGEST_SHOWN:
            video = widgets.Video(value=out.read_bytes(), format="mp4", autoplay=False, loop=False, width=640)
            self.shown.children = (video,)
