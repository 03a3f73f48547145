"""Turn an executed notebook into one HTML file that opens without a network: no script, no request.

nbconvert does the work. The template in ``templates/report`` gives the page its look and folds code away, but for cells
tagged ``teach``. Formulas become MathML, pictures get a text alternative, live widgets (dead in a file) are left out,
progress bars shrink to their last line, and a list of contents leads to the headings.
"""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import os
import re
from collections import Counter
from datetime import datetime
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from IPython.display import HTML
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, TagRemovePreprocessor
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config as Traits

from sslib.data.layout import write_atomic
from sslib.data.media import encode_webp
from sslib.evaluation.comparison import ResultsError, read_summary
from sslib.report.text import HTML_TEMPLATES, format_date, headlines, sweep_lines

TEMPLATES = Path(__file__).parent / "templates"
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}
# latex2mathml sets "log x" without a space; inside a subscript pair an added element would be a wrong child
FUNCTION = re.compile(
    r"(?<!<msub>)(?<!<msup>)(?<!<msubsup>)(<mi>(?:log|exp|ln|sin|cos|tanh|arg)</mi>)(?=<m(?:i|n|sub|sup|frac|over)\b)"
)
NAVIGATION = re.compile(r'<nav class="pages">.*?</nav>', re.DOTALL)
LINK = re.compile(r"</?a\b[^>]*>")
HEADING = re.compile(r'<h([23])([^>]*) id="([^"]+)"([^>]*)>(.*?)</h\1>', re.DOTALL)
TABLE_PART, HEAD = re.compile(r"<(thead|tbody)\b.*?</\1>", re.DOTALL), re.compile(r"<th\b(?![^>]*\bscope=)")
DRAWING = 4096  # colours at most; photographs have more
FEWEST_HEADINGS = 3  # fewer are seen at a glance


def mathml(tex: str, display: str = "inline") -> str:
    r"""Write TeX as MathML, or as plain code where latex2mathml does not know a command.

    >>> mathml(r"x_1").startswith("<math")
    True
    """
    known = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", tex.strip())  # the library knows only the latter
    try:
        formula = convert(known, display=display)
    except Exception:  # its many errors share no base class
        formula = "\\"
    if "\\" in formula:  # an unknown command is handed through as text
        return f'<code class="tex">{html.escape(tex.strip())}</code>'
    return FUNCTION.sub(r'\1<mspace width="0.17em"/>', formula)


class Markdown(IPythonRenderer):
    """Render Markdown as nbconvert does, which already tells formulas from code, with MathML for the formulas."""

    def heading(self, text: str, level: int, **attrs: str) -> str:
        name = html.unescape(re.sub(r"<[^>]+>", "", text)).strip().replace(" ", "-")  # the names that Jupyter gives
        return f'<h{level} id="{html.escape(name)}">{text}</h{level}>\n'

    inline_math = staticmethod(mathml)
    block_math = staticmethod(partial(mathml, display="block"))

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown(source: str, folder: str = "") -> str:
    """Write Markdown as HTML; pictures it names, looked for in `folder`, are embedded."""
    return MarkdownWithMath(renderer=Markdown(escape=False, embed_images=True, path=folder)).render(source)


def export(notebook: NotebookNode, folder: Path, show_code: bool = True, note: str = "") -> str:
    """Write an executed notebook, which is not changed, as the text of an HTML page.

    Pictures named in its Markdown are looked for in `folder`. `note` is a line above the title, for example when and
    how the notebook was run.
    """
    notebook = tidy(copy.deepcopy(notebook))
    for cell in notebook.cells:
        if "injected-parameters" in tags(cell):  # no reader needs to know where the clone lay
            cell.source = cell.source.replace(f"{folder.parent}/", "")
    style = Traits({"CSSHTMLHeaderPreprocessor": {"style": "default"}})
    without = {"exclude_input": not show_code, "exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(style, template_name="report", extra_template_basedirs=[str(TEMPLATES)], **without)
    exporter.register_filter("markdown2html", lambda source: markdown(source, str(folder)))
    exporter.register_filter("embed", lambda picture: embed(*picture))
    exporter.register_filter("mathml", lambda source: mathml(source.strip().strip("$"), "block"))
    resources = {"metadata": {"name": title(notebook), "path": str(folder)}, "note": note}
    return add_contents(scope_heads(exporter.from_notebook_node(notebook, resources=resources)[0]))


def embed(kind: str, data: str) -> str:
    """Return a picture of type `kind`, in base64, as a data URI; PNG becomes WebP, exact where it is a drawing.

    >>> embed("image/gif", "AAAA")
    'data:image/gif;base64,AAAA'
    """
    if kind == "image/png":
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            drawing = image.getcolors(DRAWING) is not None
            encoded = encode_webp(image, lossless=True) if drawing else encode_webp(image, quality=85)
        kind, data = "image/webp", base64.b64encode(encoded).decode()
    return f"data:{kind};base64,{data.strip()}"


def scope_heads(page: str) -> str:
    """Say of every table's heads whether they stand above a column or before a row, where it is not said."""

    def scoped(part: re.Match) -> str:
        return HEAD.sub(f'<th scope="{"col" if part[1] == "thead" else "row"}"', part[0])

    return TABLE_PART.sub(scoped, page)


def add_contents(page: str) -> str:
    """List the headings of an HTML page (h2 and h3 with an id) after its title; an id that comes again is numbered."""
    seen, entries = Counter(), []

    def enter(heading: re.Match) -> str:
        level, before, name, after, text = heading.groups()
        seen[name] += 1
        name += f"-{seen[name]}" if seen[name] > 1 else ""
        entries.append(f'<li class="level{level}"><a href="#{name}">{LINK.sub("", text)}</a></li>')
        return f'<h{level}{before} id="{name}"{after}>{text}</h{level}>'

    page = HEADING.sub(enter, page)
    contents = f'<nav class="contents" aria-label="On this page"><ul>{"".join(entries)}</ul></nav>'
    return page.replace("</h1>", f"</h1>\n{contents}", 1) if len(entries) >= FEWEST_HEADINGS else page


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Leave out what is dead in a file, and give every picture its text alternative."""
    notebook.metadata.pop("widgets", None)
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    if any("injected-parameters" in tags(cell) for cell in notebook.cells):  # they replace the defaults
        notebook, _ = TagRemovePreprocessor(remove_cell_tags={"parameters"}).preprocess(notebook, {})
    caption, count = title(notebook), 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            caption, count = first_sentence(cell.source) or caption, 0
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_dead(output)]
            cell, _ = CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # what stood around them is one log
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = re.sub(r"(?is)<script\b.*?</script\s*>", "", data["text/html"])
            for kind in (kind for kind in IMAGES if kind in data):
                count += 1
                alt = caption if count == 1 else f"{caption} (figure {count})"
                output.metadata.setdefault(kind, NotebookNode()).setdefault("alt", alt)
    notebook.cells = _without_empty_parts(notebook.cells)
    return notebook


def _is_dead(output: NotebookNode) -> bool:
    """Tell whether an output shows nothing in a file: a live widget, a script, or a line that erased itself."""
    return not output.text.strip() if "text" in output else bool(LIVE & output.get("data", {}).keys())


def _without_empty_parts(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Leave out a text tagged ``optional``, with its code up to the next text, where that code showed nothing.

    A notebook for several kinds of data has such parts: what does not concern this one is not printed.
    """
    starts = [index for index, cell in enumerate(cells) if index == 0 or cell.cell_type == "markdown"]
    parts = [cells[start:end] for start, end in pairwise([*starts, len(cells)])]
    shown = [part for part in parts if "optional" not in tags(part[0]) or any(cell.get("outputs") for cell in part)]
    return [cell for part in shown for cell in part]


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def title(notebook: NotebookNode) -> str:
    """Return the first heading of the notebook, without markup."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = (re.search(r"^#+ +(.+)$", text, re.MULTILINE) for text in texts)
    return next((_plain(heading.group(1)) for heading in headings if heading), "Notebook")


def first_sentence(source: str) -> str:
    """Return the first sentence of the last paragraph of a Markdown text: what leads up to the figure after it."""
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$|<[^>]+>", "", source)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip() and part.strip()[0] != "|"]
    last = re.sub(r"(?m)^\s*(#+|[-*]|\d+\.|>)\s+", "", paragraphs[-1]) if paragraphs else ""
    return re.split(r"(?<=[.!?:])\s", _plain(last))[0].rstrip(":")


def _plain(text: str) -> str:
    """Return Markdown without its marks, on one line."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[*`$]|(?<!\w)_|_(?!\w)", "", text)).strip()


def link_pages(folder: Path, reports: Path) -> None:
    """Write into every page of an experiment the line that leads to its other pages and to the list of experiments."""
    names = sorted(file.name for file in folder.glob("[0-9][0-9]_*.html"))
    given = {"names": names, "experiment": folder.relative_to(reports).as_posix()}
    given["up"] = os.path.relpath(reports / "index.html", folder)
    for name in names:
        navigation = HTML_TEMPLATES.get_template("navigation.html.j2").render(given, here=name)
        page = (folder / name).read_text(encoding="utf-8")
        if (linked := NAVIGATION.sub(lambda _, line=navigation: line, page, count=1)) != page:
            write_atomic(folder / name, linked)


def experiments(reports: Path) -> HTML:
    """Return all experiments under `reports` as HTML, the latest first; the numbers are those of ``summary.json``."""
    folders = (path for path in reports.glob("*/*") if (path / "run").is_dir() or any(path.glob("[0-9][0-9]_*.ipynb")))
    cards = sorted((_card(folder, reports) for folder in folders), key=itemgetter("changed"), reverse=True)
    groups = sorted({card["name"].split("/")[0] for card in cards})
    given = {"cards": cards, "groups": groups, "format_date": format_date}
    return HTML(HTML_TEMPLATES.get_template("experiments.html.j2").render(given))


def _card(folder: Path, reports: Path) -> dict[str, Any]:
    """Return what is known about one experiment; `summary` is empty while it is unfinished."""
    file, sweep = folder / "run" / "summary.json", folder / "comparison.csv"
    pictures = [path for path in (folder / "run" / "thumbnail.png", folder / "methods.png") if path.exists()]
    try:
        summary, lacks = read_summary(folder / "run"), ""
    except ResultsError:  # of another sslib: its pages can be read, its numbers not
        summary, lacks = {}, "results of another version: run it again" if file.exists() else "unfinished"
    if not file.exists() and sweep.exists():  # an experiment of variants only
        first, lacks = next(iter(sorted(folder.glob("variants/*/run/summary.json"))), None), ""
        summary = {"data": json.loads(first.read_text(encoding="utf-8"))["data"]} if first else {}
    pages = {page.stem: page for page in sorted(folder.glob("[0-9][0-9]_*.html"))}
    failed = sorted(page.name for page in folder.glob("[0-9][0-9]_*.failed.ipynb"))
    last = {page.parent.name: page for page in sorted(folder.glob("variants/*/[0-9][0-9]_*.html"))}
    image = embed("image/png", base64.b64encode(pictures[0].read_bytes()).decode()) if pictures else ""
    return {
        "name": folder.relative_to(reports).as_posix(),
        "changed": datetime.fromtimestamp(next(p for p in (file, sweep, folder) if p.exists()).stat().st_mtime),
        "summary": summary,
        "lacks": lacks,
        "headlines": headlines(summary),
        "compared": sweep_lines(sweep),
        "image": image,
        "failed": [name.replace(".failed.ipynb", "").replace("_", " ") for name in failed],
        "pages": {name.replace("_", " "): page.relative_to(reports).as_posix() for name, page in pages.items()},
        "variants": {name: page.relative_to(reports).as_posix() for name, page in last.items()},
    }
