"""Say in words and tables what was measured: the only place that formats numbers.

The words are in ``templates/sentences.md.j2``. Functions return Markdown as ``str``, HTML as ``HTML``, and tables that
notebooks show; :func:`show` shows them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from jinja2 import Environment, FileSystemLoader
from pandas.io.formats.style import Styler

from sslib.evaluation import comparison
from sslib.evaluation.measures import METHODS, MODEL
from sslib.evaluation.tables import MEASURES, PROTOCOLS

TEMPLATES = Path(__file__).parent / "templates"
OUTCOMES = "better", "inconclusive", "worse", comparison.TOO_FEW
WIDEST = 6  # measures side by side on a page
SHUFFLED = METHODS["similarity", "shuffled"]


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
    digits = 3 if not percent else 2 if 0 < row["high"] - row["low"] < 0.002 else 1  # else −0.0 [−0.1, −0.0]
    form, scale = ("+" if sign else "") + f".{digits}f", 100 if percent else 1
    value, low, high = (f"{scale * row[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} [{'one recording' if row.get('clusters', 2) < 2 else f'{low}, {high}'}]".replace("-", "−")


def format_spread(row: Mapping[str, Any]) -> str:
    """Format a value in percent with half the width of its interval: ``59.5 ±5.1``; NaN is a dash."""
    if not np.isfinite(row["value"]):
        return "–"
    return f"{100 * row['value']:.1f}" + (f" ±{50 * (row['high'] - row['low']):.1f}" if row["clusters"] > 1 else "")


HTML_TEMPLATES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
SENTENCES = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True)
for environment in (HTML_TEMPLATES, SENTENCES):
    environment.filters |= {"interval": partial(format_interval, percent=True), "spread": format_spread}


SENTENCES.globals["fewest"] = comparison.FEWEST_RECORDINGS


def say(sentence: str, *values: object) -> str:
    """Return a sentence about `values`: a macro of ``templates/sentences.md.j2``."""
    return getattr(SENTENCES.get_template("sentences.md.j2").module, sentence)(*values)


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


class Results:
    """The tables of one ``summary.json`` and their readings.

    A row has protocol, split, subset, method, measure, value, low, high, clips, clusters. The model's also have a
    verdict, the comparison with its best control on the same clips (:func:`sslib.evaluation.comparison.verdict`),
    where there are a control and several recordings.
    """

    def __init__(self, summary: Mapping[str, Any]):
        self.rows, self.differences = pd.DataFrame(summary["tables"]), pd.DataFrame(summary["differences"])
        verdicts = {tuple(row[key] for key in comparison.TABLE_KEY): row for row in summary["verdicts"]}
        places = zip(*(self.rows[key] for key in comparison.TABLE_KEY), strict=True)
        compared = (self.rows["method"] == MODEL) & (self.rows["clusters"] > 1)
        self.rows["verdict"] = [
            verdicts.get(place) if one else None for place, one in zip(places, compared, strict=True)
        ]

    def of(self, protocol: str) -> pd.DataFrame:
        """Return the rows of one protocol; none where the lists do not allow it."""
        return self.rows[self.rows["protocol"] == protocol]

    def report(self, protocol: str, leading: Sequence[str], absent: str) -> HTML | str:
        """Return the tables of one protocol, or the sentence `absent`, which says why there are none."""
        return absent if self.of(protocol).empty else HTML(self.table(protocol, leading))

    def table(self, protocol: str, leading: Sequence[str]) -> str:
        """Return one protocol as HTML: the model beside its best control, a line for each of the `leading` measures.

        Folded below it are all methods and measures, so many of these side by side as fit on a page.
        """
        rows, labels = self.of(protocol), PROTOCOLS[protocol]
        measures = [measure for measure in labels if measure in set(rows["measure"])]
        blocks = np.array_split(measures, max(1, -(-len(measures) // WIDEST)))
        subsets = []
        for place, group in rows.groupby(["split", "subset"], sort=False):
            size = group.loc[group["method"] == MODEL, ["clips", "clusters"]].max()
            unit = "scenes" if protocol == "interaction" else "clips"
            title = f"{subset_title(*place)}: {size['clips']:,.0f} {unit}, {size['clusters']:,.0f} recordings"
            methods = group.groupby("method", sort=False)
            subsets.append((title, {name: cells.set_index("measure").to_dict("index") for name, cells in methods}))
        shown = [measure for measure in leading if measure in measures] or measures
        less = [measure for measure in measures if not MEASURES[measure].higher_is_better]
        others = Counter(verdict["outcome"] for verdict in rows["verdict"] if verdict)
        given = {"labels": labels, "subsets": subsets, "model": MODEL, "leading": shown, "blocks": blocks, "less": less}
        given["others"] = {outcome: others[outcome] for outcome in OUTCOMES if others[outcome]}
        return HTML_TEMPLATES.get_template("results.html.j2").render(given)


def headlines(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a run comes to on each part of its lists, the largest part of each list first, or nothing.

    Entries are ``split``, ``set``, ``model`` (the row of its pointing accuracy, with its verdict) and ``gain``, the row
    of what its own sound adds over another one, None where no other sound was played.
    """
    if not summary.get("tables"):
        return []
    results, keys = Results(summary), ["split", "subset"]
    model = results.of("masks").query("measure == 'pointing' and method == @MODEL")
    gains = results.differences
    if len(gains):
        gains = gains.query("protocol == 'masks' and measure == 'pointing' and control == @SHUFFLED")
    gain = {(row["split"], row["subset"]): row for row in gains.to_dict("records")}
    order = model.assign(list=pd.factorize(model["split"])[0]).sort_values(["list", "clips"], ascending=[True, False])
    return [
        {"split": row["split"], "set": subset_title(*place), "model": row, "gain": gain.get(place)}
        for row in order.to_dict("records")
        for place in [tuple(row[key] for key in keys)]
    ]


def answer(summary: Mapping[str, Any]) -> str:
    """Say in few sentences what a run comes to: on its first list, by its sounds, on each other list; and how sure."""
    found = headlines(summary)
    if not found:
        return "These lists have no boxes: nothing was measured."
    first, *others = dict.fromkeys(entry["split"] for entry in found)
    largest = {entry["split"]: entry for entry in reversed(found)}
    return say("answer", largest[first], [largest[split] for split in others], summary["training"])


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
        count = f"{group['clips'].max()} scenes" if title.startswith("interaction") else count
        texts += f"\n\n{title} ({count})\n\n{text}"
    return texts


def _wide(cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Yield the title of each protocol and subset, its cells, and its table: a line for each measure."""
    for (protocol, split, subset), group in pd.DataFrame(cells).groupby(["protocol", "split", "subset"], sort=False):
        wide = group.pivot(index="measure", columns="column", values="text").fillna("")
        wide = wide.loc[group["measure"].unique(), group["column"].unique()]
        labels = {measure: MEASURES[measure].label for measure in wide.index}
        yield f"{protocol}: {split}, {subset}", group, markdown_table(wide.rename(index=labels))


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
    return say("rejected_files", kinds.index[0], kinds.iloc[0], len(reasons), shown)


def presence(clips: pd.DataFrame, present: set[str], train: str) -> str:
    """Say how many listed clips (columns split, clip_id, number of objects) are there, and which are missing."""
    there = clips["clip_id"].isin(present)
    several = (clips.loc[clips["split"] == train, "number"] > 1).mean()
    missing = clips[~there].groupby("split", sort=False)["clip_id"].agg(list)
    return say("presence", len(clips), there.sum(), several, missing.to_dict())


def area_gap(quantiles: pd.DataFrame, areas: Mapping[str, np.ndarray]) -> str:
    """Say where the areas of objects differ most from VGG-SS (a column of quantiles), and how many are small."""
    gaps = quantiles.drop(columns="VGG-SS").sub(quantiles["VGG-SS"], axis=0).stack()
    level, split = gaps.abs().idxmax()
    small = {name: (values < 0.25).mean() for name, values in areas.items()}
    return say("area_gap", level, split, gaps[level, split], small)


def sounding_ranks(table: pd.DataFrame, scenes: int) -> str:
    """Say whether a rank (columns rank, value, low, high; 0 is chance) tells which object of a scene sounds."""
    fair = ((table["low"] <= 0) & (table["high"] >= 0)).all()
    return say("sounding_ranks", table.to_dict("records"), scenes, fair)


def overfitting(history: pd.DataFrame) -> str:
    """Say whether the validation loss rose again, by more than 2 % of its lowest value."""
    return say("overfitting", history.loc[history["val_loss"].idxmin()], history.iloc[-1])


def best_and_worst(results: pd.DataFrame) -> str:
    """Say which variant is best and worst on each set, and whether their intervals overlap (value, low, high)."""
    ordered = {name: rows.sort_values("value", kind="stable") for name, rows in results.groupby("set", sort=False)}
    return "\n".join(say("best_and_worst", name, rows.iloc[0], rows.iloc[-1]) for name, rows in ordered.items())


def methods_table(results: pd.DataFrame, measures: Sequence[str] = comparison.HEADLINES, sign: bool = False) -> str:
    """Return a comparison as Markdown, a table for each part of the lists: percent [interval] (lowest–highest seed).

    With `sign` they are gains, without the seeds' own.
    """
    parts = []
    for place, rows in results[results["measure"].isin(measures)].groupby(["split", "subset"], sort=False):
        cells = rows.apply(format_interval, axis=1, percent=True, sign=sign)
        if not sign:
            cells += [f" ({100 * r.least:.1f}–{100 * r.most:.1f})" * (r.seeds > 1) for r in rows.itertuples()]
        wide = rows.assign(text=cells).pivot(index="run", columns="measure", values="text").fillna("–")
        wide = wide.loc[rows["run"].unique(), [name for name in measures if name in wide]]
        wide = wide.rename(columns=lambda name: MEASURES[name].label)
        if "seconds" in rows and not sign:
            first = rows.drop_duplicates("run").set_index("run")
            wide["training, min"] = (first["seconds"] / 60).map("{:.1f}".format)
            wide["parameters"] = first["parameters"].map("{:,.0f}".format)
        seeds = " or ".join(map(str, sorted(set(rows["seeds"]))))
        clips = rows.loc[rows["protocol"] != "interaction", "clips"].max()
        size = f"{clips:,.0f} clips" if clips > 0 else f"{rows['clips'].max():,} scenes"
        title = f"**{subset_title(*place)}**, {size}, {rows['clusters'].max()} recordings, seeds: {seeds}"
        parts.append(f"{title}\n\n{markdown_table(wide)}")
    return "\n\n".join(parts)


def sweep_lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``comparison.csv`` for pointing on the first list, the best first; none without a file."""
    if not file.exists():
        return []
    points = comparison.leading(pd.read_csv(file)).query("measure == 'pointing'").drop_duplicates("run")
    points = points.assign(set=[subset_title(*place) for place in zip(points["split"], points["subset"], strict=True)])
    return points.sort_values("value", ascending=False, kind="stable").to_dict("records")


def compared(found: Mapping[str, Any], results: pd.DataFrame) -> str:
    """Answer in three sentences: does visual context help, at what cost, compared with whom.

    `found` as :func:`sslib.evaluation.comparison.against` returns it, `results` with seconds and parameters.
    """
    points, said = comparison.leading(results).query("measure == 'pointing'").drop_duplicates("run"), dict(found)
    for name in (name for name in found if "_over_" in name):
        said[name] = {}
        for row in found[name]:
            if name != "context_over_base" and row["measure"] != "pointing":
                continue  # the table has it
            lists = said[name].setdefault(subset_title(row["split"], row["subset"]), [])
            lists.append(row | {"label": MEASURES[row["measure"]].label})
    said["pointing"] = next((row for row in found["context_over_base"] if row["measure"] == "pointing"), None)
    return say("compared", said, points.set_index("run").to_dict("index"))


def heard(rows: pd.DataFrame, published: Sequence[str]) -> str:
    """Show what the own sound adds to pointing, and name those that are not shown to listen.

    `rows` as :func:`sslib.evaluation.comparison.heard` returns them (none: nothing to show), `published` as
    :func:`sslib.evaluation.comparison.against` does.
    """
    if rows.empty:
        return ""
    cells = rows.apply(format_interval, axis=1, sign=True, percent=True)
    rows = rows.assign(place=[*map(subset_title, rows["split"], rows["subset"])], cell=cells)
    deaf = {place: [*part["run"][part["outcome"] != "better"]] for place, part in rows.groupby("place", sort=False)}
    table = rows.pivot(index="run", columns="place", values="cell").reindex(rows["run"].unique(), columns=[*deaf])
    return f"{markdown_table(table)}\n\n{say('heard', deaf, published, rows['seeds'].min()).rstrip()}"


def settled(pointing: pd.DataFrame, base: str, confidence: float) -> str:
    """Say what gains over `base` allow (columns variant, set, outcome, seeds), and what chance alone would give."""
    enough = pointing.get("clusters", pd.Series(comparison.FEWEST_RECORDINGS, pointing.index))
    enough = (enough >= comparison.FEWEST_RECORDINGS) & (pointing["seeds"] > 1)
    clear = ((pointing["outcome"] != "inconclusive") & enough).sum()
    return say("settled", pointing.to_dict("records"), base, confidence, pointing["seeds"].min(), clear)


def sound_gains(gains: pd.DataFrame) -> str:
    """Say what the right sound adds over another one (columns set, value, low, high, clusters), a line for each set."""
    return say("sound_gains", gains.to_dict("records"))
