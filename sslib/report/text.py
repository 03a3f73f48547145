"""Say in words and tables what was measured: the only place that formats numbers.

Functions return Markdown as ``str``, HTML as ``HTML``, and tables that notebooks show; :func:`show` shows them all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Audio, Markdown, display
from jinja2 import Environment, FileSystemLoader
from pandas.io.formats.style import Styler

from sslib.evaluation import comparison
from sslib.evaluation.measures import METHODS, MODEL
from sslib.evaluation.tables import MEASURES, PROTOCOLS

TEMPLATES = Path(__file__).parent / "templates"
HTML_TEMPLATES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
WIDEST = 8  # measures side by side on a page
SHUFFLED = METHODS["similarity", "shuffled"]
LEGEND = (
    "Brackets are {confidence:.0%} bootstrap intervals over recordings ({resamples:,} resamples). **Bold**: better "
    "than the best control of the table, clip by clip, by an interval that leaves out 0. †: not distinguishable from "
    "its best control. ‡: worse than it. The oracle ranking knows the answer: a bound, not a control."
)
PHRASES = {"better": "better than", "inconclusive": "not distinguishable from", "worse": "worse than"}
MARKS = {"better": "", "inconclusive": "†", "worse": "‡"}


def show(*parts: object) -> None:
    """Show figures, tables and texts (``str`` is Markdown) below a cell; leave out what is None or empty."""
    for part in parts:
        if part is not None and not (isinstance(part, str) and not part):
            display(Markdown(part) if isinstance(part, str) else part)


def generated_note(generated: bool) -> HTML | None:
    """Return the warning that an experiment is not on real data, or nothing."""
    return HTML(HTML_TEMPLATES.get_template("generated.html.j2").render()) if generated else None


def format_interval(row: Mapping[str, Any], *, sign: bool = False, percent: bool = False) -> str:
    """Format a value with its interval: ``0.595 [0.546, 0.647]``, in percent ``59.5 [54.6, 64.7]``; NaN is a dash.

    What rests on a single recording has no interval: resampling one thing always gives it back.
    """
    if not np.isfinite(row["value"]):
        return "–"
    form, scale = ("+" if sign else "") + (".1f" if percent else ".3f"), 100 if percent else 1
    value, low, high = (f"{scale * row[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} [{'one recording' if row.get('clusters', 2) < 2 else f'{low}, {high}'}]".replace("-", "−")


def format_date(moment: datetime) -> str:
    """Format a date as a reader likes it: 22 November 2026, 15:31."""
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def subset_title(split: str, subset: str) -> str:
    """Return what a table calls a part of a list."""
    return split if subset == "all" else f"{split}, {subset}"


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table of strings as Markdown, in columns of equal width."""
    lines = [["", *map(str, table.columns)], *([str(row[0]), *map(str, row[1:])] for row in table.itertuples())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def players(titles: Sequence[str], waveforms: Sequence[np.ndarray], rate: int, images: Sequence[Path] = ()) -> HTML:
    """Return players of sounds (samples,), clipped to [-1, 1], each below its title and, where given, its JPEG file."""
    jpegs = [base64.b64encode(path.read_bytes()).decode() for path in images]
    sounds = [Audio(np.clip(w, -1, 1), rate=rate, normalize=False)._repr_html_() for w in waveforms]
    cells = list(zip_longest(titles, sounds, jpegs))
    return HTML(HTML_TEMPLATES.get_template("players.html.j2").render(cells=cells))


class Results:
    """The tables of one ``summary.json`` and their readings.

    A row has protocol, split, subset, method, measure, value, low, high, clips, clusters; a verdict compares the model
    with its best control on the same clips (:func:`sslib.evaluation.comparison.verdict`).
    """

    def __init__(self, summary: Mapping[str, Any]):
        self.rows = pd.DataFrame(summary["tables"])
        self.differences = pd.DataFrame(summary["differences"])
        self.verdicts = {
            (row["protocol"], row["split"], row["subset"], row["measure"]): row for row in summary["verdicts"]
        }

    def of(self, protocol: str) -> pd.DataFrame:
        """Return the rows of one protocol; none where the lists do not allow it."""
        return self.rows[self.rows["protocol"] == protocol]

    def report(self, protocol: str, leading: str, absent: str) -> tuple[HTML | str, ...]:
        """Return the table of one protocol and its reading, or the sentence `absent`, which says why there is none."""
        if self.of(protocol).empty:
            return (absent,)
        return HTML(self.table(protocol)), self.reading(protocol, leading)

    def table(self, protocol: str) -> str:
        """Return one protocol as HTML: a row for each method, a column for each measure, subsets below each other.

        Measures that do not fit beside each other on a page follow in a second table.
        """
        rows, labels = self.of(protocol), PROTOCOLS[protocol]
        columns = [measure for measure in labels if measure in set(rows["measure"])]
        blocks = np.array_split(columns, max(1, -(-len(columns) // WIDEST)))
        template = HTML_TEMPLATES.get_template("results.html.j2")
        return "".join(
            template.render(labels=[labels[key] for key in block], subsets=self._subsets(rows, list(block)))
            for block in blocks
        )

    def _subsets(self, rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, dict[str, list]]]:
        """Return the title of each subset and, for each method, its cells: value, interval, mark, bold; or None."""
        subsets = []
        for place, group in rows[rows["measure"].isin(columns)].groupby(["split", "subset"], sort=False):
            size = group.loc[group["method"] == MODEL, ["clips", "clusters"]].max()
            title = f"{subset_title(*place)}: n = {size['clips']:.0f}, {size['clusters']:.0f} recordings"
            methods: dict[str, list] = {}
            for row in group.to_dict("records"):
                cells = methods.setdefault(row["method"], [None] * len(columns))
                cells[columns.index(row["measure"])] = self._cell(row)
            subsets.append((title, methods))
        return subsets

    def _cell(self, row: Mapping[str, Any]) -> tuple[str, str, str, bool]:
        value, _, interval = format_interval(row).partition(" ")
        verdict = self._verdict(row) if row["method"] == MODEL else None
        outcome = verdict["outcome"] if verdict else "better"
        return value, interval, MARKS[outcome], bool(verdict) and outcome == "better"

    def _verdict(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if row["clusters"] < 2:
            return None
        return self.verdicts.get(tuple(row[key] for key in ("protocol", "split", "subset", "measure")))

    def reading(self, protocol: str, leading: str) -> str:
        """Say what a table shows, a line for each subset: the `leading` measure in full, then how all others stand."""
        model = self.of(protocol)
        model = model[model["method"] == MODEL]
        groups = model.groupby(["split", "subset"], sort=False)
        return "\n".join(
            f"- **{subset_title(*place)}**: {self._sentence(group.to_dict('records'), leading)}"
            for place, group in groups
        )

    def _sentence(self, rows: Sequence[Mapping[str, Any]], leading: str) -> str:
        labels = PROTOCOLS[rows[0]["protocol"]]
        first = next((row for row in rows if row["measure"] == leading), rows[0])
        line = f"{labels[first['measure']]} {format_interval(first)}"
        if verdict := self._verdict(first):
            difference = format_interval(verdict, sign=True)
            line += f", {PHRASES[verdict['outcome']]} its best control ({verdict['control']}, "
            line += f"{verdict['control_value']:.3f}; difference {difference})"
        others = {labels[row["measure"]]: self._verdict(row) for row in rows if row is not first}
        outcomes = {label: verdict["outcome"] for label, verdict in others.items() if verdict}
        parts = []
        for kind, phrase in PHRASES.items():
            if names := [label for label, found in outcomes.items() if found == kind]:
                listed = f" ({'; '.join(names)})" if len(names) <= 4 else ""
                parts.append(f"{len(names)} {phrase.rsplit(' ', 1)[0]}{listed}")
        return line + (f". Its other measures against their own best controls: {', '.join(parts)}." if parts else ".")


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few numbers that stand for a run in the list of experiments: (what it is, value with interval)."""
    whole = {("masks", "pointing"), ("localization", "success")}
    rows = [
        (MEASURES[row["measure"]].label, row)
        for row in summary.get("tables", [])
        if row["method"] == MODEL and (row["protocol"], row["measure"]) in whole
    ]
    rows += [
        ("pointing gained by the right sound", row)
        for row in summary.get("differences", [])
        if (row["protocol"], row["control"], row["measure"]) == ("masks", SHUFFLED, "pointing")
    ]
    return [(f"{label}: {row['split']}, {row['subset']}", format_interval(row)) for label, row in rows]


def tables_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return tables as plain text that is Markdown too: one for each protocol and subset, percent with intervals."""
    if not rows:
        return "nothing was measured"
    cells = [dict(row) | {"column": row["method"], "text": format_interval(row, percent=True)} for row in rows]
    return "\n\n".join(
        f"{title} ({group['clips'].max()} {'scenes' if title.startswith('interaction') else 'clips'})\n\n{table}"
        for title, group, table in _wide(cells)
    )


def comparison_text(table: pd.DataFrame) -> str:
    """Return a comparison of runs as plain text (Markdown): percent with intervals, and gains in points."""
    cells, gains = [], comparison.gains(table).to_dict("index")
    for number, row in table.to_dict("index").items():
        column = f"{row['run']} ({row['seeds']} seed{'s' if row['seeds'] > 1 else ''})"
        cells.append(row | {"column": column, "text": format_interval(row, percent=True)})
        if gain := gains.get(number):
            single = " (single seed)" * (gain["seeds"] == 1)  # which tells nothing about another training
            text = f"{format_interval(gain, sign=True, percent=True)} {gain['outcome']}{single}"
            cells.append(row | {"column": f"gain of {row['run']}", "text": text})
    texts = f"Compared with {table['run'].iloc[0]}, clip by clip. In brackets: intervals over recordings (and seeds)."
    for title, group, text in _wide(cells):
        count = f"{group['clips'].max()} of {group['all_clips'].max()} clips are in all runs"
        texts += f"\n\n{title} ({count})\n\n{text}"
    return texts


def _wide(cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Yield the title of each protocol and subset, its cells, and its table: a line for each measure."""
    for (protocol, split, subset), group in pd.DataFrame(cells).groupby(["protocol", "split", "subset"], sort=False):
        wide = group.pivot(index="measure", columns="column", values="text").fillna("")
        wide = wide.loc[group["measure"].unique(), group["column"].unique()].rename(
            index=lambda key: MEASURES[key].label
        )
        yield f"{protocol}: {split}, {subset}", group, markdown_table(wide)


def published_results() -> pd.DataFrame:
    """Return published results on VGG-SS and whether they compare with ours; a cell that is not known stays empty."""
    return pd.read_csv(TEMPLATES / "published_results.csv", comment="#", dtype=str, keep_default_na=False)


def file_table(files: pd.DataFrame) -> Styler:
    """Return a table about files whose names may hold anything: escaped, line breaks shown, aligned to the left."""
    left = {"selector": "th, td", "props": "text-align: left"}
    return files.replace({"\n": "↵"}, regex=True).style.hide().format(escape="html").set_table_styles([left])


def rejected_files(reasons: pd.Series, shown: int) -> str:
    """Say which reason of a ``manifest.csv`` is the most frequent, and how many rejected files a table leaves out."""
    kinds = reasons.str.partition(" (")[0].value_counts()
    text = f"The most frequent reason, “{kinds.index[0]}”, holds for {kinds.iloc[0]:,} of {len(reasons):,} files"
    if len(reasons) > shown:
        text += f"; {len(reasons) - shown:,} more are in `manifest.csv`"
    return f"{text}. A file that is mended or renamed is taken up by the next run."


def presence(clips: pd.DataFrame, present: set[str], train: str) -> str:
    """Say how many listed clips (columns split, clip_id, number of objects) are there, and which are missing."""
    there = clips["clip_id"].isin(present)
    text = f"The lists name {len(clips):,} clips: {there.sum():,} of {len(clips):,} present."
    if several := (clips.loc[clips["split"] == train, "number"] > 1).mean():
        text += f" {several:.0%} of those for training show several objects."
    for split, group in clips[~there].groupby("split", sort=False):
        some = ", ".join(f"`{clip_id}`" for clip_id in group["clip_id"][:5])
        text += f"\n- {len(group):,} of `{split}` are missing: {some}{' …' * (len(group) > 5)}"
    return text


def area_gap(quantiles: pd.DataFrame, areas: Mapping[str, np.ndarray], reference: str = "VGG-SS") -> str:
    """Say where the areas of objects differ most from `reference` (a column of quantiles), and how many are small."""
    gaps = quantiles.drop(columns=reference).sub(quantiles[reference], axis=0).stack()
    level, split = gaps.abs().idxmax()
    gap = f"{gaps[level, split]:+.2f}".replace("-", "−")
    small = ", ".join(f"{(values < 0.25).mean():.0%} of `{name}`" for name, values in areas.items())
    return (
        f"The {level:.0%} quantile of `{split}` lies furthest from that of {reference}, by {gap}. Boxes below a "
        f"quarter of the picture are {small}. There a map that claims half of the picture cannot reach "
        r"$\mathrm{IoU} \ge \frac{1}{2}$, however good it is: notebook 04 also uses a threshold that adapts."
    )


def sounding_ranks(table: pd.DataFrame, scenes: int) -> str:
    """Say whether a rank (columns rank, value, low, high; 0 is chance) tells which object of a scene sounds."""
    ranks = [f"{row.rank} {row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]" for row in table.itertuples()]
    fair = ((table["low"] <= 0) & (table["high"] >= 0)).all()
    verdict = "no sign that either tells which object sounds" if fair else "**one betrays the sounding object**"
    return f"In {scenes} scenes: {', '.join(ranks)}: {verdict}.".replace("-", "−")


def overfitting(history: pd.DataFrame) -> str:
    """Say whether the validation loss rose again, by more than 2 % of its lowest value."""
    best, last = history.loc[history["val_loss"].idxmin()], history.iloc[-1]
    rising = last["val_loss"] > best["val_loss"] * 1.02
    return (
        f"The validation loss was lowest in epoch {best['epoch']:.0f} of {len(history)} ({best['val_loss']:.3f}; "
        f"{last['val_loss']:.3f} at the end): "
        + ("it rises again, a sign of learning by heart." if rising else "it had not begun to rise.")
    )


def best_and_worst(results: pd.DataFrame) -> str:
    """Say which variant is best and worst on each set, and whether their intervals overlap (value, low, high)."""
    lines = []
    for name, rows in results.groupby("set", sort=False):
        order = rows.sort_values("value", kind="stable")
        worst, best = order.iloc[0], order.iloc[-1]
        overlap = "overlap" if worst["high"] >= best["low"] else "do not overlap"
        span = f"from {worst['value']:.1%} ({worst['variant']}) to {best['value']:.1%} ({best['variant']})"
        lines.append(f"- {name}: {span}; the intervals of these two {overlap}.")
    return "\n".join(lines)


def settled(pointing: pd.DataFrame, base: str, confidence: float) -> str:
    """Say what gains over `base` allow (columns variant, set, outcome, seeds), and what chance alone would give.

    A single seed settles nothing: its interval tells nothing about another training.
    """
    lines, count = [], len(pointing)
    for row in pointing.itertuples():
        verdict = f"{row.outcome} at this budget, in {row.seeds} seeds"
        if row.outcome == "inconclusive":
            verdict = "single seed: " * (row.seeds == 1) + "not distinguishable at this budget"
        elif row.seeds == 1:
            verdict = f"single seed: inconclusive ({row.outcome} on these recordings, but another seed may differ)"
        lines.append(f"- **{row.variant}** against {base}, {row.set}: {verdict}.")
    chance = f"These are {count} intervals read at once: at {confidence:.0%} each, {count * (1 - confidence):.1f} of "
    chance += "them would leave out 0 by chance where no loss adds anything. "
    chance += f"Seeds of each variant: {pointing['seeds'].min()}."
    clear = ((pointing["outcome"] != "inconclusive") & (pointing["seeds"] > 1)).sum()
    end = f"**{clear} of {count} comparisons are settled at this budget**; the list says what the others lack."
    if not clear:
        end = f"**None of the {count} comparisons settles what a loss adds.** More seeds and epochs could; ask for "
        end += "them in `ablations.seeds` and in `training.epochs` of the variants."
    return "\n\n".join(["\n".join(lines), chance, end])


def sound_gains(gains: pd.DataFrame) -> str:
    """Say what the right sound adds over another one (columns set, value, low, high, clusters), a line for each set."""
    lines = []
    for row in gains.to_dict("records"):
        verdict = "the map follows the sound" if row["low"] > 0 else "no effect of the sound is shown"
        gain = format_interval(row, sign=True)
        lines.append(f"- {row['set']}: the right sound instead of another adds {gain}: {verdict}.")
    return "\n".join(lines) or "These clips have too few classes to play another sound."
