"""Pages made of notebooks that were never run: their outputs are written by hand."""

import base64
import io

import nbformat
import numpy as np
import pandas as pd
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from sslib.report import pages


def page(tmp_path, *cells, **options):
    """The page of a notebook with these cells."""
    return BeautifulSoup(pages.export(new_notebook(cells=list(cells)), tmp_path, **options), "html.parser")


def test_code_folds_away_but_for_cells_that_teach(tmp_path):
    plain, teaching = "a = 1\nb = a < 2", "# One step by hand.\nloss = 1"
    soup = page(
        tmp_path,
        new_markdown_cell("# Title"),
        new_code_cell(plain),
        new_code_cell(teaching, metadata={"tags": ["teach"]}),
        new_code_cell("# What & why:\nc = 3\n\nd = 4\n"),
        new_code_cell("e"),
        new_code_cell("  \n"),
        new_code_cell('config = "x"', metadata={"tags": ["injected-parameters"]}),
    )
    folded = soup.find_all("details", class_="code")
    assert [cell.find("summary").text for cell in folded] == [
        "Code · 2 lines",
        "One step by hand · 2 lines",
        "What & why · 4 lines",
        "Code · 1 line",
        "Parameters of this run",
    ]
    assert [cell.has_attr("open") for cell in folded] == [False, True, False, False, False]
    assert [cell.find(class_="source").text.strip() for cell in folded[:2]] == [plain, teaching]
    assert len(soup.find_all(class_="source")) == 5  # none stands outside a fold, none is lost
    assert not page(tmp_path, new_code_cell(plain), show_code=False).find(["details", "summary"])


def test_contents_lead_to_the_headings(tmp_path):
    cards = nbformat.v4.new_output("display_data", {"text/html": '<h2 class="card" id="a/b">a/b</h2><h2>without</h2>'})
    table = nbformat.v4.new_output("display_data", {"text/markdown": "### By class"})
    soup = page(
        tmp_path,
        new_markdown_cell("# The *title*\n\nText.\n\n## What a `node` sees\n\n### Maps & sounds, $x_1$"),
        new_markdown_cell("## Maps\n\n#### Details\n\n## Maps"),
        new_code_cell("# ## no heading\nshow()", outputs=[table, cards]),
    )
    contents = soup.find("nav", class_="contents")
    assert contents.find_previous_sibling("h1").text == "The title" and contents["aria-label"]
    assert [(entry["class"][0], entry.find("a")["href"]) for entry in contents.find_all("li")] == [
        ("level2", "#What-a-node-sees"),
        ("level3", "#Maps-&-sounds,-x1"),
        ("level2", "#Maps"),
        ("level2", "#Maps-2"),
        ("level3", "#By-class"),
        ("level2", "#a/b"),
    ]
    for link in contents.find_all("a"):
        target = soup.find_all(id=link["href"][1:])
        assert len(target) == 1 and target[0].text == link.text
    assert contents.find("code").text == "node" and contents.find("math")
    few = page(tmp_path, new_markdown_cell("# Title\n\n## One\n\n## Two"))
    assert not few.find("nav", class_="contents")


def test_formulas():
    assert "<mtable" in pages.mathml(r"\begin{aligned} a &= b \end{aligned}", "block")
    assert pages.mathml(r"\nosuchcommand < x") == r'<code class="tex">\nosuchcommand &lt; x</code>'
    assert pages.mathml(r"a_{") == '<code class="tex">a_{</code>'
    text = pages.markdown("$$\na < b\n$$\n\n\\begin{align} a &= b \\end{align}\n\nwith $x * y * z_1$ and $p_a$")
    assert text.count("<math") == 4 and "<em>" not in text and "$" not in text


def test_function_names_stand_apart():
    assert '<mi>log</mi><mspace width="0.17em"/><msub>' in pages.mathml(r"\log p_i")
    assert "mspace" not in pages.mathml(r"\log_2 p") + pages.mathml(r"\exp(x)")


def test_text_alternatives():
    assert pages.first_sentence("# Head\n\nFirst one. Second.\n\n| a | b |\n|---|---|") == "First one."
    assert pages.first_sentence("See [the *map*](x.html) of `node_1`: it is bright.") == "See the map of node_1"
    assert pages.first_sentence("") == ""


def test_optional_parts_that_show_nothing_are_left_out():
    optional = {"tags": ["optional"]}
    shown = nbformat.v4.new_output("display_data", {"text/plain": "a table"})
    erased = nbformat.v4.new_output("stream", text="\n")
    cells = [new_markdown_cell("# Title"), new_markdown_cell("empty", metadata=optional), new_code_cell("a = 1")]
    cells += [new_markdown_cell("erased", metadata=optional), new_code_cell("b = 1", outputs=[erased])]
    cells += [new_markdown_cell("full", metadata=optional), new_code_cell("c = 1"), new_code_cell("d", outputs=[shown])]
    cells += [new_markdown_cell("plain"), new_code_cell("e = 1")]
    left = [cell.source for cell in pages.tidy(new_notebook(cells=cells)).cells]
    assert left == ["# Title", "full", "c = 1", "d", "plain", "e = 1"]


def test_heads_of_tables_say_what_they_head(tmp_path):
    table = pd.DataFrame({"a": [1]}, index=["b"])
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": html})
        for html in (
            table._repr_html_(),
            table.style.to_html(),
            '<table><tbody><tr><th scope="rowgroup">g</th></tr></table>',
        )
    ]
    soup = page(
        tmp_path, new_markdown_cell("| x | y |\n|---|---|\n| 1 | 2 |"), new_code_cell("show()", outputs=outputs)
    )
    scopes = [[(head.text.strip(), head["scope"]) for head in one.find_all("th")] for one in soup.find_all("table")]
    assert scopes[0] == [("x", "col"), ("y", "col")]
    assert [[pair for pair in one if pair[0]] for one in scopes[1:3]] == [[("a", "col"), ("b", "row")]] * 2
    assert scopes[3] == [("g", "rowgroup")]


def test_pictures_are_small_and_grow_at_a_click(tmp_path):
    rng = np.random.default_rng(0)
    drawing = np.zeros((200, 200, 3), np.uint8)
    drawing[50:60] = [255, 0, 0]
    photograph = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    for image, exact in ((drawing, True), (photograph, False)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        output = nbformat.v4.new_output("display_data", {"image/png": data}, metadata={"image/png": {"width": 90}})
        shown = page(tmp_path, new_markdown_cell("What it is."), new_code_cell("show()", outputs=[output])).find("img")
        kind, _, encoded = shown["src"].partition(";base64,")
        assert kind == "data:image/webp" and shown["alt"] == "What it is." and shown["width"] == "90"
        assert shown.find_parent("details", class_="zoom") and not shown.find_parent("details").has_attr("open")
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        assert np.array_equal(found, image) == exact and len(encoded) < len(data)


def test_what_was_printed_is_a_folded_log(tmp_path):
    first, erased, last = (
        nbformat.v4.new_output("stream", name=name, text=text)
        for name, text in (("stdout", "epoch 1\n"), ("stderr", "bar\r   \r"), ("stdout", "epoch 2\n"))
    )
    log = page(tmp_path, new_code_cell("fit()", outputs=[first, erased, last])).find_all("details")[-1]
    assert log.find("summary").text == "Log · 2 lines" and "epoch 2" in log.find("pre").text
