"""The rows of ``summary.json`` on paper: tables with intervals, and sentences that say what the controls allow.

A row of a table has protocol, split, part, method, measure, value, low, high, clips, clusters; a verdict compares the
model with its best control on the same clips (:func:`sslib.tables.verdict`).
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Audio

from sslib.names import METHODS, MODEL, PROTOCOLS

UNSEEN = "no source by annotation"
WIDEST = 8  # measures side by side on a page
LEGEND = (
    "Brackets are {confidence:.0%} bootstrap intervals over recordings ({resamples:,} resamples). **Bold**: better "
    "than the best control of the table, clip by clip, by an interval that leaves out 0. †: not distinguishable from "
    "its best control. ‡: worse than it. The oracle ranking knows the answer: a bound, not a control."
)
PHRASES = {"above": "better than", "open": "not distinguishable from", "below": "worse than"}
MARKS = {"above": "", "open": "†", "below": "‡"}
PUBLISHED = (
    # VGG-SS, trained on VGGSound-144k, median threshold, in percent as the papers print them.
    ("LVS (Chen et al. 2021)", "30.30", "36.40", "same list and threshold"),
    ("EZ-VSL (Mo & Morgado 2022)", "35.96", "38.20", "same list and threshold"),
    ("EZ-VSL with object guidance", "38.85", "39.54", "not comparable: adds a second map that hears nothing"),
    ("MarginNCE (Park et al. 2023)", "38.25", "39.06", "same list and threshold"),
    ("FNAC (Sun et al. 2023)", "39.50", "39.66", "same list and threshold"),
    ("SSL-Align (Senocak et al. 2023)", "39.94", "", "same list and threshold"),
    ("SSL-Align, pretrained vision", "41.42", "", "only with pretrained vision"),
    ("methods that build on CLIP", "49–54", "", "not comparable: thresholds swept on the test list"),
    ("the paper implemented here (Zhou et al. 2023)", "", "", "its table is not at hand: left empty"),
)
_CELL = "padding:.2rem .28rem;"
_NARROW = '<div style="max-width:6.5rem;margin-left:auto">'


def text(row: Mapping[str, Any], sign: bool = False) -> str:
    """A value with its interval: ``0.595 [0.546, 0.647]``; a dash where there is none.

    What rests on a single recording has no interval: resampling one thing always gives it back.
    """
    if not np.isfinite(row["value"]):
        return "–"
    form = "+.3f" if sign else ".3f"
    if row.get("clusters", 2) < 2:
        return f"{row['value']:{form}} [one recording]".replace("-", "−")
    return f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]".replace("-", "−")


def standing(verdict: Mapping[str, Any]) -> str:
    """A key of ``PHRASES``: how the model stands to its best control."""
    if verdict["clear"]:
        return "above"
    return "open" if verdict["low"] <= 0 <= verdict["high"] else "below"


class Results:
    """Tables and their readings, from one ``summary.json``.

    Parameters
    ----------
    summary : the file's content.
    """

    def __init__(self, summary: Mapping[str, Any]):
        self.rows = pd.DataFrame(summary["tables"])
        self.differences = pd.DataFrame(summary["differences"])
        self.verdicts = {
            (row["protocol"], row["split"], row["part"], row["measure"]): row for row in summary["verdicts"]
        }

    def of(self, protocol: str) -> pd.DataFrame:
        """The rows of one protocol; none where the lists do not allow it."""
        return self.rows[self.rows["protocol"] == protocol]

    def table(self, protocol: str) -> str:
        """One protocol as HTML: a row a method, a column a measure, the sets of clips below each other.

        Measures that do not fit beside each other on a page follow in a second table.
        """
        rows = self.of(protocol)
        columns = [measure for measure in PROTOCOLS[protocol] if measure in set(rows["measure"])]
        blocks = np.array_split(columns, max(1, -(-len(columns) // WIDEST)))
        return "".join(self._block(rows[rows["measure"].isin(block)], list(block)) for block in blocks)

    def _block(self, rows: pd.DataFrame, columns: Sequence[str]) -> str:
        labels = PROTOCOLS[rows["protocol"].iloc[0]]
        head = "".join(f'<th style="{_CELL}">{_NARROW}{html.escape(labels[name])}</div></th>' for name in columns)
        body = []
        for place, group in rows.groupby(["split", "part"], sort=False):
            size = group.loc[group["method"] == MODEL, ["clips", "clusters"]].max()
            title = f"{name(*place)}: n = {size['clips']:.0f}, {size['clusters']:.0f} recordings"
            heading = f'<th colspan="{len(columns) + 1}" style="{_CELL}padding-top:.7rem;font-weight:600">'
            body.append(f"<tr>{heading}{html.escape(title)}</th></tr>")
            for method, of_method in group.groupby("method", sort=False):
                found = {row["measure"]: row for row in of_method.to_dict("records")}
                cells = "".join(self._cell(found.get(measure)) for measure in columns)
                body.append(f'<tr><th style="{_CELL}">{html.escape(method)}</th>{cells}</tr>')
        head = f"<thead><tr><th></th>{head}</tr></thead>"
        return f'<table style="font-size:.72rem">{head}<tbody>{"".join(body)}</tbody></table>'

    def _cell(self, row: Mapping[str, Any] | None) -> str:
        if row is None:
            return "<td></td>"
        value, _, interval = text(row).partition(" ")
        said = self._verdict(row) if row["method"] == MODEL else None
        if said:
            value = f"<b>{value}</b>" if said["clear"] else value + MARKS[standing(said)]
        return f'<td style="{_CELL}">{value}<br><small style="white-space:nowrap">{interval}</small></td>'

    def _verdict(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if row["clusters"] < 2:
            return None
        return self.verdicts.get(tuple(row[key] for key in ("protocol", "split", "part", "measure")))

    def reading(self, protocol: str, leading: str) -> str:
        """What a table says, one line for each set: the `leading` measure in full, then where all others stand."""
        model = self.of(protocol)
        model = model[model["method"] == MODEL]
        groups = model.groupby(["split", "part"], sort=False)
        return "\n".join(
            f"- **{name(*place)}**: {self._sentence(group.to_dict('records'), leading)}" for place, group in groups
        )

    def _sentence(self, rows: Sequence[Mapping[str, Any]], leading: str) -> str:
        labels = PROTOCOLS[rows[0]["protocol"]]
        first = next((row for row in rows if row["measure"] == leading), rows[0])
        line = f"{labels[first['measure']]} {text(first)}"
        if said := self._verdict(first):
            control = f"{said['control']}, {said['control_value']:.3f}; difference {text(said, sign=True)}"
            line += f", {PHRASES[standing(said)]} its best control ({control})"
        said = {row["measure"]: self._verdict(row) for row in rows if row is not first}
        kinds = {labels[measure]: standing(found) for measure, found in said.items() if found}
        parts = []
        for kind, phrase in PHRASES.items():
            if names := [label for label, found in kinds.items() if found == kind]:
                parts.append(f"{len(names)} {phrase.rsplit(' ', 1)[0]}{_listed(names)}")
        return line + (f". Its other measures against their own best controls: {', '.join(parts)}." if parts else ".")


def _listed(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})" if len(names) <= 4 else ""


def name(split: str, part: str) -> str:
    """How a table calls a set of clips."""
    return split if part == "all" else f"{split}, {part}"


def gallery(titles: Sequence[str], waveforms: Sequence[np.ndarray], rate: int, images: Sequence[Path] = ()) -> str:
    """Return players of sounds (samples,) in [-1, 1] as HTML, each below its title and, where given, its JPEG file."""
    cells = []
    for title, waveform, path in zip_longest(titles, waveforms, images):
        text, image = html.escape(title), ""
        if path is not None:
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{text}" src="data:image/jpeg;base64,{data}" style="height:7rem; max-width:100%">'
        player = Audio(waveform, rate=rate, normalize=False)._repr_html_()
        cells.append(f'<figure style="margin:0">{image}<figcaption>{text}</figcaption>{player}</figure>')
    return f'<div style="display:grid; grid-template-columns:repeat(3, 1fr); gap:1rem">{"".join(cells)}</div>'


def by_method(clips: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """Values of one column of ``clips.csv`` for each method that has any; negative sounds are methods of their own."""
    methods = [METHODS[key] for key in zip(clips["map"], clips["sound"], strict=True)]
    groups = clips[column].dropna().groupby(pd.Series(methods, clips.index), sort=False)
    return {method: values.to_numpy() for method, values in groups}


def confidence_by_sound(clips: pd.DataFrame, sounds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Confidence of the model's maps for each of `sounds` (name in ``clips.csv`` -> label) that these clips heard.

    Clips without a source by annotation are under a label of their own.
    """
    model = clips[clips["map"] == "similarity"]
    labels = model["sound"].map(sounds).where((model["sound"] != "own") | model["source"], UNSEEN)
    return {label: rows.to_numpy() for label in (*sounds.values(), UNSEEN)
            if len(rows := model.loc[labels == label, "confidence"].dropna())}  # fmt: skip


def published() -> pd.DataFrame:
    """Published results on VGG-SS and whether they can be put beside ours; a cell that is not known stays empty."""
    return pd.DataFrame(PUBLISHED, columns=["method", "success at 0.5, %", "AUC, %", "comparable"])
