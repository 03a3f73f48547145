# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Experiments
#
# One entry for each folder under `reports/`, the latest first. Every number below is read from the
# experiment's own `run/summary.json`: shares of clips, with 95 % intervals
# (or what the configuration says) in brackets.

# %% tags=["parameters"]
reports = "../reports"

# %%
import base64
import json
from datetime import datetime
from html import escape
from pathlib import Path

from IPython.display import HTML, display

from sslib.pages import format_date

reports = Path(reports).resolve()


# %%
# An experiment is a folder with a run/ or a notebook in it; its variants (ablations) lie below it.
def read(folder):
    """What is known about one experiment; `summary` is empty while it is unfinished."""
    file = folder / "run" / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {
        "folder": folder,
        "name": folder.relative_to(reports).as_posix(),
        "summary": summary,
        "changed": (file if file.exists() else folder).stat().st_mtime,
        "pages": sorted(folder.glob("[0-9][0-9]_*.html")),
        "failed": sorted(folder.glob("[0-9][0-9]_*.failed.ipynb")),
    }


def is_experiment(folder):
    return (folder / "run").is_dir() or any(folder.glob("[0-9][0-9]_*.ipynb"))


found = [read(folder) for folder in sorted(reports.glob("*/*")) if is_experiment(folder)]
found.sort(key=lambda experiment: experiment["changed"], reverse=True)


# %%
def number(value):
    return f"{value:.3f}" if isinstance(value, (int, float)) else escape(str(value))


def row(item):
    """One headline number with its interval."""
    interval = (
        f"[{number(item['low'])}, {number(item['high'])}]" if item.get("low") is not None else ""
    )
    label, value = escape(item.get("label", "")), number(item.get("value"))
    return f"<tr><td>{label}</td><td>{value}</td><td>{interval}</td></tr>"


def picture(experiment):
    file = experiment["folder"] / "run" / "thumbnail.png"
    if not file.exists():
        return '<div class="empty">no picture yet</div>'
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<img alt="Heatmaps of {escape(experiment["name"])}" src="data:image/png;base64,{data}">'
    )


def links(experiment):
    """Links to the pages of an experiment, or to what is left of a failed one."""
    pairs = [(page.stem.replace("_", " "), page) for page in experiment["pages"]]
    pairs += [
        (f"{page.name.split('.')[0].replace('_', ' ')} (failed)", page)
        for page in experiment["failed"]
    ]
    return " · ".join(
        f'<a href="{page.relative_to(reports).as_posix()}">{escape(label)}</a>'
        for label, page in pairs
    )


def facts(experiment):
    """A line about data, training and date."""
    data, training = (
        experiment["summary"].get("data", {}),
        experiment["summary"].get("training", {}),
    )
    parts = [format_date(datetime.fromtimestamp(experiment["changed"]))]
    parts += [f"data: {escape(str(data['name']))}"] if "name" in data else []
    parts += [f"{training['epochs']} epochs"] if "epochs" in training else []
    parts += [f"trained in {training['seconds'] / 60:.1f} min"] if "seconds" in training else []
    parts += [] if experiment["summary"] else ['<span class="badge">unfinished</span>']
    parts += ['<span class="badge">generated clips</span>'] if data.get("generated") else []
    return " · ".join(parts)


# %%
def variants(experiment):
    """Links to the last page of each variant."""
    inner = [
        read(folder)
        for folder in sorted(experiment["folder"].glob("variants/*"))
        if is_experiment(folder)
    ]
    names = [
        f'<a href="{variant["pages"][-1].relative_to(reports).as_posix()}">{escape(variant["folder"].name)}</a>'
        for variant in inner
        if variant["pages"]
    ]
    return f'<p class="soft">Variants: {" · ".join(names)}</p>' if names else ""


def card(experiment):
    """One experiment as HTML."""
    headline = experiment["summary"].get("headline", [])
    table = f"<table><tbody>{''.join(map(row, headline))}</tbody></table>" if headline else ""
    return (
        f'<section class="experiment-card"><div class="picture">{picture(experiment)}</div><div>'
        f'<h2 id="{escape(experiment["name"])}">{escape(experiment["name"])}</h2><p class="soft">{facts(experiment)}</p>{table}'
        f"<p>{links(experiment)}</p>{variants(experiment)}</div></section>"
    )


# %%
nothing = "<p>No experiment yet. <code>make demo</code> runs the first one.</p>"
display(HTML(f'<div class="experiments">{"".join(map(card, found))}</div>' if found else nothing))
