"""An executed notebook as one HTML file that opens without a network: no script, no request, formulas as MathML.

nbconvert does the work; the template in ``templates/report`` gives the page its look. Pictures get a text alternative,
live widgets (dead in a file) are left out, progress bars shrink to their last line.
"""

from __future__ import annotations

import copy
import html
import os
import re
from datetime import datetime
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from traitlets.config import Config as Traits

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}
# latex2mathml sets "log x" without a space; inside a subscript pair an added element would be a wrong child
FUNCTION = re.compile(
    r"(?<!<msub>)(?<!<msup>)(?<!<msubsup>)(<mi>(?:log|exp|ln|sin|cos|tanh|arg)</mi>)(?=<m(?:i|n|sub|sup|frac|over)\b)"
)
NAVIGATION = re.compile(r'<nav class="pages">.*?</nav>', re.DOTALL)


def mathml(tex: str, display: str = "inline") -> str:
    r"""TeX as MathML, or as plain code where latex2mathml does not know a command.

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
    """nbconvert's Markdown, whose parser already tells formulas from code, with MathML for the formulas."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def multiline_math(self, text: str) -> str:
        return mathml(re.sub(r"^(\$\$|\\{1,2}\[)|(\$\$|\\{1,2}\])$", "", text.strip()), "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def markdown(source: str, folder: str = "") -> str:
    """Markdown as HTML; pictures it names, looked for in `folder`, are embedded."""
    renderer = Markdown(escape=False, embed_images=True, path=folder, anchor_link_text="")
    return MarkdownWithMath(renderer=renderer).render(source)


def export(notebook: NotebookNode, folder: Path, show_code: bool = True, note: str = "") -> str:
    """One executed notebook as the text of an HTML page.

    Parameters
    ----------
    notebook : the executed notebook; it is not changed.
    folder : where the pictures named in its Markdown are looked for.
    show_code : False leaves the code out and keeps the outputs.
    note : a line under the title, for example when and how the notebook was run.
    """
    notebook = tidy(copy.deepcopy(notebook))
    for cell in notebook.cells:
        if "injected-parameters" in tags(cell):  # where the clone lay is nobody's business
            cell.source = cell.source.replace(f"{folder.parent}/", "")
    exporter = HTMLExporter(
        config=Traits({"CSSHTMLHeaderPreprocessor": {"style": "default"}}),
        template_name="report",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input=not show_code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    exporter.register_filter("markdown2html", lambda source: markdown(source, str(folder)))
    exporter.register_filter("mathml", lambda source: mathml(source.strip().strip("$"), "block"))
    resources = {"metadata": {"name": title(notebook), "path": str(folder)}, "note": note}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Leave out what is dead in a file, and give every picture its text alternative."""
    notebook.metadata.pop("widgets", None)
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    if any("injected-parameters" in tags(cell) for cell in notebook.cells):  # they replace the defaults
        notebook.cells = [cell for cell in notebook.cells if "parameters" not in tags(cell)]
    caption, count = title(notebook), 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            caption, count = sentence(cell.source) or caption, 0
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not _is_dead(output)]
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = re.sub(r"(?is)<script\b.*?</script\s*>", "", _joined(data["text/html"]))
            for kind in (kind for kind in PICTURES if kind in data):
                count += 1
                alt = caption if count == 1 else f"{caption} (figure {count})"
                output.metadata.setdefault(kind, NotebookNode()).setdefault("alt", alt)
    notebook.cells = _without_empty_parts(notebook.cells)
    return notebook


def _without_empty_parts(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Leave out a text tagged ``optional``, with its code up to the next text, where that code showed nothing.

    A notebook for several kinds of data has such parts: what does not concern this one is not printed.
    """
    kept: list[NotebookNode] = []
    part: list[NotebookNode] = []
    for cell in [*cells, None]:
        if cell is None or cell.cell_type == "markdown":
            if part and ("optional" not in tags(part[0]) or any(code.get("outputs") for code in part)):
                kept += part
            part = []
        part += [cell] if cell is not None else []
    return kept


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def title(notebook: NotebookNode) -> str:
    """The first heading of the notebook, without markup."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+ +(.+)$", cell.source, re.MULTILINE)):
            return _plain(found.group(1))
    return "Notebook"


def sentence(source: str) -> str:
    """First sentence of the last paragraph of a Markdown text: what leads up to the figure that follows it."""
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$|<[^>]+>", "", source)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text)]
    paragraphs = [part for part in paragraphs if part and not part.startswith("|")]
    if not paragraphs:
        return ""
    first = re.split(r"(?<=[.!?:])\s", _plain(re.sub(r"(?m)^\s*(#+|[-*]|\d+\.|>)\s+", "", paragraphs[-1])))[0]
    return first.rstrip(":")


def link_pages(folder: Path, reports: Path) -> None:
    """Write into every page of an experiment the line that leads to its other pages and to the list of experiments."""
    names = sorted(file.name for file in folder.glob("[0-9][0-9]_*.html"))
    up = os.path.relpath(reports / "index.html", folder)
    experiment = html.escape(folder.relative_to(reports).as_posix())
    for name in names:
        links = [f'<a href="{up}">All experiments</a>', f'<span class="experiment">{experiment}</span>']
        for other in names:
            number, label = Path(other).stem.split("_", 1)
            here = ' aria-current="page"' if other == name else ""
            links.append(f'<a href="{other}"{here}>{number} {label.replace("_", " ")}</a>')
        page = (folder / name).read_text(encoding="utf-8")
        linked = NAVIGATION.sub(lambda _, links=links: f'<nav class="pages">{" ".join(links)}</nav>', page, count=1)
        if linked != page:
            replace(folder / name, linked)


def replace(file: Path, text: str) -> None:
    """Write `text` so that the file is either the old one or the whole new one."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def when(moment: datetime) -> str:
    """A date as a reader likes it: 22 November 2026, 15:31."""
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def _is_dead(output: NotebookNode) -> bool:
    """Whether the output shows nothing in a file: a live widget, a script, or a line that erased itself."""
    if output.output_type == "stream":
        return not output.text.strip()
    return bool(LIVE & set(output.get("data", {})))


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _plain(text: str) -> str:
    """Markdown without its marks, on one line."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[*`$]|(?<!\w)_|_(?!\w)", "", text)).strip()
