"""Draw the place of a sound over a picture or the frames of a video, and say what was found: figures and a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from sslib.config import InputError
from sslib.data.media import encode_jpeg, loudness
from sslib.localizer import Localization, Localizer, read_picture
from sslib.report import figures
from sslib.report.text import HTML_TEMPLATES, say

SILENT = -60.0  # dBFS: a window whose RMS is below holds nothing to localize
EMBEDDED = 50_000_000  # bytes: a larger video stays beside its page
VISIBLE, UNSEEN, UNHEARD = "visible", "no visible source", "silence"
COLOURS = (figures.HEAT(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.float32)


class OverlayError(InputError):
    """A video, picture or sound that cannot be localized, or an output that is in the way; the message names it."""


def localize_picture(model: Localizer, path: Path, sound: Path, out: Path, force: bool = False) -> Localization:
    """Draw where a sound comes from in a picture into `out` (.png or .jpg); see :meth:`Localizer.localize`."""
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OverlayError(f"{out}: an overlay picture is a .png or .jpg file")
    refuse_existing(out, force)
    picture, waveform = read_picture(path), model.loudest(model.read_sound(sound))
    result = model.localize(picture, waveform, model.sample_rate)
    drawn = Image.fromarray(draw(picture, result, state(result, waveform)[0]))
    partial = out.with_name(f".{out.name}")
    drawn.save(partial, "PNG" if out.suffix.lower() == ".png" else "JPEG", quality=92)
    partial.replace(out)
    return result


def state(result: Localization, waveform: np.ndarray) -> tuple[str, float]:
    """Say whether there is a visible source, none, or silence; and how loud the window is (RMS, dBFS)."""
    level = loudness(waveform)["rms_dbfs"]
    if level < SILENT:
        return UNHEARD, level
    return UNSEEN if result.visible is False else VISIBLE, level


def draw(picture: np.ndarray, result: Localization, what: str) -> np.ndarray:
    """Draw a localization over its picture, uint8 (H, W, 3): coloured and with a ring at the peak, or in words."""
    height, width = picture.shape[:2]
    if what == VISIBLE:
        canvas = Image.fromarray(blend(picture, result.heatmap))
        y, x = np.unravel_index(result.heatmap.argmax(), result.heatmap.shape)
        radius = max(6, min(height, width) // 24)
        pen = ImageDraw.Draw(canvas)
        for grow, colour in ((1, "black"), (0, "white"), (-1, "white"), (-2, "black")):
            pen.circle((float(x), float(y)), radius + grow, outline=colour)
    else:
        canvas = Image.fromarray(picture)
        pen, size = ImageDraw.Draw(canvas), max(10, height // 18)
        place, font = (size // 2, height - 1.6 * size), ImageFont.load_default(size)
        pen.text(place, what, fill="white", font=font, stroke_width=max(1, size // 8), stroke_fill="black")
    return np.asarray(canvas)


def blend(picture: np.ndarray, heatmap: np.ndarray, low: float | None = None, opacity: float = 0.75) -> np.ndarray:
    """Lay a raw map (h, w) over its picture, uint8 (H, W, 3): bright where the sound comes from, clear up to `low`.

    By default that is the map's median: what a picture's lower half holds is no answer.
    """
    low = float(np.median(heatmap)) if low is None else low
    scaled = figures.scale_map(heatmap, picture.shape[:2], (low, max(float(heatmap.max()), low))).astype(np.float32)
    shown = (opacity * np.sqrt(scaled))[..., None]
    return (picture * (1 - shown) + COLOURS[(255 * scaled).astype(np.uint8)] * shown).astype(np.uint8)


def refuse_existing(out: Path, force: bool) -> None:
    if out.exists() and not force:
        raise OverlayError(f"{out} exists and is kept: give another --out, or --force to replace it")
    if not out.parent.is_dir():
        raise OverlayError(f"{out.parent}: there is no such folder to write to")


def page(model: Localizer, path: Path, overlay: Path, name: str, table: pd.DataFrame, notes: list[str]) -> str:
    """Write one HTML page with the video in it (a large one stays beside it), its course and what the model is."""
    buffer, embedded = io.BytesIO(), overlay.stat().st_size <= EMBEDDED
    course(overlay, table, model.threshold).savefig(buffer, format="png", dpi=130)
    given = {"name": path.name, "player": player(overlay, table, "" if embedded else name), "overlay": name}
    given |= {"embedded": embedded, "table": Path(name).with_suffix(".csv").name, "found": found(table)}
    given |= {"figure": base64.b64encode(buffer.getvalue()).decode(), "notes": notes, "about": model.about}
    return HTML_TEMPLATES.get_template("overlay.html.j2").render(given)


def player(overlay: Path, table: pd.DataFrame, name: str = "") -> HTML:
    """Return an overlay video as HTML, inside or by its `name`; until it plays, its surest moment is seen."""
    best = table["confidence"].where(table["source"] == VISIBLE, -1).idxmax()
    [poster] = frames_at(overlay, [table["time_s"][best]], 480)
    source = name or f"data:video/mp4;base64,{base64.b64encode(overlay.read_bytes()).decode()}"
    given = {"source": source, "poster": base64.b64encode(encode_jpeg(poster)).decode()}
    return HTML(HTML_TEMPLATES.get_template("player.html.j2").render(given))


def found(table: pd.DataFrame) -> str:
    """Say in how many moments (rows) there is a visible source, none, or silence."""
    shares = table["source"].value_counts(normalize=True)
    return say("overlay", len(table), {what: shares.get(what, 0.0) for what in (VISIBLE, UNSEEN, UNHEARD)})


def course(overlay: Path, table: pd.DataFrame, threshold: float | None, count: int = 6) -> Figure:
    """Draw frames of an overlay video over the course of confidence and loudness (columns of its table)."""
    times = table["time_s"].to_numpy()
    shown = times[((np.arange(count) + 0.5) * len(times) / count).astype(int)]
    places = [[f"frame {number}" for number in range(count)], ["confidence"] * count, ["loudness"] * count]
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplot_mosaic(places, figsize=(9.5, 4.4), height_ratios=(1.1, 1, 0.6), layout="constrained")
    plt.close(figure)
    for name, time, picture in zip(places[0], shown, frames_at(overlay, shown), strict=True):
        figures.show_image(axes[name], picture.transpose(2, 0, 1), f"{time:.1f} s")
    upper, lower, ends = axes["confidence"], axes["loudness"], (times[0], times[-1])
    upper.plot(times, table["confidence"], color=figures.COLOURS[0], lw=1.2)
    seen, heights = table["source"] == VISIBLE, upper.get_ylim()
    upper.fill_between(times, *heights, where=seen, step="post", alpha=0.2, color=figures.COLOURS[1], lw=0)
    for axis, level in ((upper, threshold), (lower, SILENT)):
        if level is not None:
            axis.axhline(level, color="0.4", lw=0.8, ls="--")
        axis.set(xlim=ends if ends[0] < ends[1] else None)
    upper.set(
        ylabel="confidence", xticklabels=[], ylim=None if threshold is None else (None, max(heights[1], threshold))
    )
    lower.plot(times, table["loudness_dbfs"].clip(-90, 0), color=figures.COLOURS[2], lw=1.2)
    lower.set(ylabel="dBFS", xlabel="seconds", ylim=(-90, 0))
    return figure


def frames_at(path: Path, times: Sequence[float], height: int = 180) -> list[np.ndarray]:
    """Read the frames of an overlay video that are shown at `times` (rising, s), uint8 (H, W, 3), made small."""
    found = []
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        for frame in container.decode(track):
            while len(found) < len(times) and frame.time >= times[len(found)] - 1e-3:
                width = round(height * frame.width / frame.height)
                found.append(frame.reformat(width, height, format="rgb24").to_ndarray())
    return found
