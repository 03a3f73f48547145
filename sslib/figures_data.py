"""Figures of raw videos that became clips: what they are like, and some of them to look at and listen to."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Audio
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from sslib.viz import COLOURS, grid

PANELS = {"seconds": "length, s", "frame_rate": "pictures a second", "rms_dbfs": "loudness, dBFS (RMS)"}


def sources(table: pd.DataFrame, bins: int = 30) -> Figure:
    """How long, how fast and how loud the ready clips of a ``manifest.csv`` are: a histogram each."""
    figure, axes = grid(1, len(PANELS), 2.7, 2.1)
    for axis, (column, label) in zip(axes[0], PANELS.items(), strict=True):
        values = table[column].to_numpy(float)
        edges = np.histogram_bin_edges(values, bins) if np.ptp(values) > 1e-6 else values[0] + np.linspace(-1, 1, 12)
        axis.hist(values, edges, color=COLOURS[0], edgecolor="white", lw=0.3)
        axis.set(xlabel=label)
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("clips")
    return figure


def gallery(frames: Sequence[Path], waveforms: Sequence[np.ndarray], rate: int, titles: Sequence[str]) -> str:
    """JPEG files, each above its title and a player of its sound, int16 (samples,), as HTML."""
    cells = []
    for path, waveform, title in zip(frames, waveforms, titles, strict=True):
        text = html.escape(title)
        data = base64.b64encode(path.read_bytes()).decode()
        picture = f'<img alt="{text}" src="data:image/jpeg;base64,{data}" style="height:7rem; max-width:100%">'
        player = Audio(waveform / 32768, rate=rate, normalize=False)._repr_html_()
        cells.append(f'<figure style="margin:0">{picture}<figcaption>{text}</figcaption>{player}</figure>')
    return f'<div style="display:grid; grid-template-columns:repeat(3, 1fr); gap:1rem">{"".join(cells)}</div>'


def label(name: str, length: int = 20) -> str:
    """`name` as a figure can show it: cut, no formula, what the font lacks as a box."""
    short = name if len(name) <= length else name[: length - 1] + "…"
    return "".join(c if ord(c) in _characters() else "□" for c in short).replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
