"""The workbook as a user gets it: every notebook on smoke.yaml, in a copy of the repository and its own processes."""

import itertools
import re

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import run_smoke as run

PAGES = ("01_data_preparation", "02_training", "03_ablations", "04_evaluation", "05_explore", "06_your_video")
RUN = ("checkpoint.pt", "clips.csv", "config.yaml", "maps.npz", "metrics.csv", "summary.json")

pytestmark = pytest.mark.notebooks


def test_everything_is_there(finished):
    experiment = finished / "reports" / "smoke" / "generated"
    assert (finished / "reports" / "index.html").is_file()
    assert sorted(page.stem for page in experiment.glob("*.html")) == list(PAGES)
    runs = [experiment / "run", *(experiment / "variants" / f"{name}-seed0" / "run" for name in ("base", "both"))]
    assert [str(folder / name) for folder in runs for name in RUN if not (folder / name).is_file()] == []
    for folder in runs[1:]:
        assert sorted(page.stem for page in folder.parent.glob("*.html")) == [PAGES[1], PAGES[3]]
    assert not [*finished.rglob("*.failed.*"), *finished.rglob("*.partial*"), *finished.rglob("*.tmp")]
    assert len(pd.read_csv(runs[0] / "metrics.csv")) == 2 and len(pd.read_csv(runs[1] / "metrics.csv")) == 1


def test_pages_are_whole_and_need_no_network(finished):
    for page in sorted((finished / "reports").rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        assert '<code class="tex">' not in text, f"{page}: a formula that did not become MathML"
        soup = BeautifulSoup(text, "html.parser")
        assert not soup.find_all(["script", "iframe", "object", "embed", "link", "base"]), page
        for tag in soup.find_all(True):
            for name in ("src", "srcset", "data", "poster", "background"):
                assert tag.get(name, "data:").startswith("data:"), (page, tag.name)
            if tag.name == "a":
                assert not re.match(r"\w+:", tag.get("href", "")), (page, tag)
        levels = [int(heading.name[1]) for heading in soup.find_all(re.compile("^h[1-6]$"))]
        assert levels[0] == 1 and all(new <= old + 1 for old, new in itertools.pairwise(levels)), f"{page}: {levels}"
        contents = soup.select("nav.contents a")
        few = page.name == "index.html" or page.parent.name == "videos"  # seen at a glance
        assert len(contents) > 2 or few, f"{page}: no contents"
        assert all(len(soup.find_all(id=link["href"][1:])) == 1 for link in contents), page
        assert not [code for code in soup.find_all(class_="source") if not code.find_parent("details")], page
        assert not re.findall(r"url\((?!['\"]?data:)|@import", " ".join(tag.text for tag in soup.find_all("style")))
        assert page.stat().st_size < 5e6 and all(head["scope"] for head in soup.find_all("th")), page
        assert all(image.get("alt") and "No description" not in image["alt"] for image in soup.find_all("img")), page
        for code in soup.find_all(class_="source"):
            code.decompose()
        assert "Traceback" not in soup.text and "nan" not in re.findall(r"\w+", soup.text), page
        if page.stem in PAGES:
            assert "generated clips" in soup.text.lower(), f"{page} must say that these are not real data"


def test_sounds_lie_beside_their_pictures_and_04_begins_with_the_answer(finished):
    folder = finished / "reports" / "smoke" / "generated"
    soups = {name: BeautifulSoup((folder / f"{name}.html").read_text(), "html.parser") for name in PAGES}
    for name in (PAGES[0], PAGES[1], PAGES[3]):
        heard = [figure for figure in soups[name].find_all("figure") if figure.find("audio")]
        assert len(heard) >= 4 and all(figure.find("figcaption").text for figure in heard), name
        assert all(figure.find("img") for figure in heard) or name == PAGES[0]  # recordings of its material have none
    first = soups[PAGES[3]].find("h2")
    assert len(first.find_all_previous("img")) >= 3 and len(first.find_all_previous("audio")) >= 2
    answer = next(text for text in first.find_all_previous("p") if "highest point lies on" in text.text).text
    assert " %" in answer and "Its own sound instead of another one adds" in answer


def test_a_second_run_skips_everything(finished):
    pages = {page: page.stat().st_mtime_ns for page in finished.rglob("[0-9]*.html")}
    done = run(finished)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before, skipped") == len(PAGES)
    assert pages == {page: page.stat().st_mtime_ns for page in finished.rglob("[0-9]*.html")}


def test_a_failing_notebook_stops_the_run(clone):
    foreign = clone / "data" / "foreign" / "notes.txt"  # a data folder that is somebody else's
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    done = run(clone, "--set", "data.root=data/foreign", "--set", "exp_name=broken")
    folder = clone / "reports" / "smoke" / "broken"
    assert done.returncode != 0
    assert "holds other data" in done.stderr and "02_training" not in done.stdout
    assert [file.name for file in folder.iterdir()] == ["01_data_preparation.failed.ipynb"]
    assert foreign.read_text() == "mine"
