"""The runner and its pages, on tiny notebooks in a temporary clone (papermill and the kernels are the real ones)."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from sslib.__main__ import app, overrides
from sslib.config import ConfigError, find, load
from sslib.data.layout import Layout
from sslib.evaluation import comparison
from sslib.report import workbook
from sslib.stamps import library as stamps

ROOT = Path(__file__).parents[1]
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
PARAMETERS = 'config = "configs/tiny.yaml"\noverrides = {}\n'

FIRST = r"""# The data
This page asks **one** question.

---md
## A formula
The loss is $\mathcal{L} = -\log p_i$, the code `$HOME` stays, and so does \$5. In a line of its own:

$$\mathrm{softmax}(s)_i = \frac{\exp s_i}{\sum_j \exp s_j}$$

```
$not_a_formula$
```

A parabola is drawn. Nothing more.
---
import matplotlib.pyplot as plt
fig, ax = plt.subplots(figsize=(5, 3))
ax.plot([x**2 for x in range(9)])
plt.show()
---
import sys, time
from tqdm import tqdm
for _ in tqdm(range(3), desc="cells"):
    time.sleep(0.01)
---
import ipywidgets
display(ipywidgets.IntSlider(description="dead slider"))
---
from IPython.display import HTML, Audio, Javascript, Math
import numpy as np, pandas as pd
display(HTML("<p>kept</p><script>fetch('//example.org')</script>"), Javascript("1"), Math(r"\alpha^2"))
display(Audio(np.sin(np.arange(800) / 5), rate=8000))
pd.DataFrame({"class": ["bell", "dog"], "cIoU": [0.61, 0.52]})
---
{"python": sys.executable, "folder": __import__("os").getcwd()}
"""


def notebook(text, parameters=PARAMETERS):
    """A notebook from cells between --- lines; the first one, and those that begin with md, are Markdown."""
    first, *rest = re.split(r"^---", text, flags=re.MULTILINE)
    cells = [new_markdown_cell(first.strip()), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for part in rest:
        kind = new_markdown_cell if part.startswith("md\n") else new_code_cell
        cells.append(kind(part.removeprefix("md").strip()))
    return new_notebook(cells=cells, metadata=KERNEL)


def make_clone(folder, **texts):
    """A clone as far as the runner can tell: sslib/config.py, notebooks/ and a configuration."""
    for file in ("sslib/config.py", "notebooks/configs/tiny.yaml"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("exp_prefix: tests\nexp_name: tiny\n" if file.endswith("yaml") else "")
    (folder / "data" / "vggsound").mkdir(parents=True, exist_ok=True)  # the default data.root
    for name, made in texts.items():
        nbformat.write(made, folder / "notebooks" / f"{name.strip('_')}.ipynb")
    return folder / "notebooks" / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, with a kernel named python3 in the way that cannot start."""
    folder = tmp_path_factory.mktemp("clone")
    broken = folder / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "language": "python", "display_name": "x"}))
    second = "# Training\n---\n{'got': overrides, 'retrain': retrain, 'config': config}"
    third = (
        "# Ablations\n---\nfrom sslib.report import workbook\nown = {**overrides, 'exp_name': 'tiny/variants/base'}\n"
        "workbook.run_variants(config, ('02',), {'base': own}, force=retrain)"
    )
    config = make_clone(
        folder,
        _01_data_preparation=notebook(FIRST),
        _02_training=notebook(second, PARAMETERS + "retrain = False"),
        _03_ablations=notebook(third, PARAMETERS + "retrain = False"),
        index=nbformat.read(ROOT / "notebooks" / "index.ipynb", as_version=4),
    )
    row = {"protocol": "masks", "split": "test <", "subset": "all", "method": "model", "measure": "pointing"}
    row |= {"value": 0.63, "low": 0.6, "high": 0.7, "clips": 9, "clusters": 9}
    summary = {"format": comparison.FORMAT, "data": {"name": "stamps", "generated": True}, "tables": [row]}
    summary |= {"differences": [], "verdicts": []}
    run = folder / "reports" / "tests" / "tiny" / "run"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("MPLBACKEND", "Agg")
        workbook.run(config, overrides={"training": {"epochs": 2}})
    return folder


def all_pages(folder):
    return sorted((folder / "reports").rglob("*.html"))


def results(file):
    """Text of the last cell's last output."""
    return nbformat.read(file, as_version=4).cells[-1].outputs[-1].data["text/plain"]


def test_pages_lie_where_they_belong(finished):
    names = [page.relative_to(finished / "reports").as_posix() for page in all_pages(finished)]
    own = [f"tests/tiny/{name}.html" for name in ("01_data_preparation", "02_training", "03_ablations")]
    assert names == ["index.html", *own, "tests/tiny/variants/base/02_training.html"]
    assert not list((finished / "reports").rglob("*.failed.*")) + list((finished / "reports").rglob("*partial*"))


def test_parameters_kernel_and_folder(finished):
    folder = finished / "reports" / "tests" / "tiny"
    got = results(folder / "02_training.ipynb")
    assert "'epochs': 2" in got and "'retrain': False" in got
    assert f"'config': '{finished}/notebooks/configs/tiny.yaml'" in got
    assert sys.executable in results(folder / "01_data_preparation.ipynb")
    assert str(finished / "notebooks") in results(folder / "01_data_preparation.ipynb")
    assert "'exp_name': 'tiny/variants/base'" in results(folder / "variants" / "base" / "02_training.ipynb")


def test_pages_need_no_network_and_no_script(finished):
    for page in all_pages(finished):
        soup = BeautifulSoup(page.read_text(), "html.parser")
        assert not soup.find_all(["script", "iframe", "object", "embed", "link", "base"])
        for tag in soup.find_all(True):
            for name in ("src", "srcset", "data", "poster", "background"):
                assert tag.get(name, "data:").startswith("data:"), tag
            assert not any(name.startswith("on") for name in tag.attrs)
            if tag.name == "a" and not tag["href"].startswith("#"):
                assert (page.parent / tag["href"]).exists(), (page, tag)
        styles = " ".join(tag.text for tag in soup.find_all("style")) + " ".join(
            tag["style"] for tag in soup.find_all(style=True)
        )
        assert "@import" not in styles and not re.findall(r"url\((?!['\"]?data:)", styles)


def test_page_content(finished):
    text = (finished / "reports/tests/tiny/01_data_preparation.html").read_text()
    soup = BeautifulSoup(text, "html.parser")
    assert len(soup.find_all("math")) == 3 and len(soup.find_all("math", display="block")) == 2
    assert "$HOME" in soup.text and "$not_a_formula$" in soup.text and "$5" in soup.text
    assert soup.find("img")["alt"] == "A parabola is drawn."
    assert text.count("cells: 100%") == 1 and "cells:   0%" not in text
    assert soup.find("p", string="kept") and "example.org" not in str(soup.find("p", string="kept").parent)
    assert soup.find("audio") and soup.find("table", class_="dataframe")
    parameters = soup.find("details").text
    assert 'overrides = {"training": {"epochs": 2}}' in parameters and '"notebooks/configs/tiny.yaml"' in parameters
    links = [(link["href"], link.get("aria-current")) for link in soup.find("nav").find_all("a")]
    assert links[:2] == [("../../index.html", None), ("01_data_preparation.html", "page")] and len(links) == 4
    for code in soup.find_all(class_="source"):
        code.decompose()
    assert "slider" not in soup.text.lower()


def test_index_lists_experiments(finished):
    soup = BeautifulSoup((finished / "reports" / "index.html").read_text(), "html.parser")
    assert not soup.find_all("div", class_="source")
    card = soup.find("section", class_="experiment-card")
    assert card.find("h2").text == "tests/tiny"
    assert "63.0 % [60.0, 70.0] pointing accuracy on test <" in card.text and "generated clips" in card.text
    links = {link["href"] for link in card.find_all("a")}
    assert {"tests/tiny/01_data_preparation.html", "tests/tiny/variants/base/02_training.html"} <= links


def test_finished_notebooks_are_skipped_until_something_changes(finished, tmp_path, capsys):
    clone = tmp_path / "clone"
    shutil.copytree(finished, clone)
    config, changes = clone / "notebooks/configs/tiny.yaml", {"training": {"epochs": 2}}

    def steps(**options):
        workbook.run(config, overrides=changes, index=False, **options)
        return [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]

    # The configuration's path is a parameter, so a copied clone is another place; the digest does not care.
    assert [what for _, what in steps()] == ["finished before, skipped"] * 3
    training = clone / "notebooks/02_training.ipynb"
    edited = nbformat.read(training, as_version=4)
    edited.cells[-1].source = "['edited', retrain]"
    nbformat.write(edited, training)
    assert [name for name, what in steps(only=("01", "02")) if "skipped" not in what] == ["02_training"]
    assert [name for name, _ in steps(only=("02",), force=True)] == ["02_training"]
    assert results(clone / "reports/tests/tiny/02_training.ipynb") == "['edited', True]"
    root, folder = clone, clone / "reports/tests/tiny"
    before = workbook._stamp(folder / "03_ablations.ipynb")["digest"]
    ablations = clone / "notebooks/03_ablations.ipynb"
    assert workbook._digest(ablations, load(config, changes), root, folder) != before  # 02 ran again
    first = clone / "notebooks/01_data_preparation.ipynb"

    def digests(file, changes):
        return {workbook._digest(file, load(config, change), root, folder) for change in ({}, changes)}

    rate, size = {"training": {"learning_rate": 0.1}}, {"data": {"image_size": 32}}
    assert [len(digests(training, changes)) for changes in (rate, size)] == [2, 2]
    assert [len(digests(first, changes)) for changes in (rate, size)] == [1, 2]  # 01 does not train
    workbook.run(config, only=("03",), force=True, overrides=changes, index=False)  # its variants too
    assert results(clone / "reports/tests/tiny/variants/base/02_training.ipynb") == "['edited', True]"


PREPARE = """# The data
---
from sslib.config import load
from sslib.data.layout import Layout
data = load(config, overrides).data
layout = Layout(data.root)
ids = sorted(path.stem for path in data.raw.glob("*.mp4"))
layout.write_info(clips=len(ids))  # renewed by every run, as notebook 01 does
if not (data.root / "splits").exists():  # lists that are there are never changed
    layout.write_split("train", ids)
    layout.write_annotations("train", {i: {"class": "bell"} for i in ids})
"""


def test_new_videos_and_edited_lists_make_notebooks_run_again(tmp_path, capsys):
    config = make_clone(
        tmp_path,
        _01_data_preparation=notebook(PREPARE),
        _02_training=notebook("# Training", PARAMETERS + "retrain = False"),
    )
    data, raw = tmp_path / "data", tmp_path / "data" / "raw"  # the raw folder may lie inside the data folder
    raw.mkdir(parents=True)
    (raw / "a.mp4").write_text("first")

    def executed():
        changes = {"data": {"root": "data", "raw": "data/raw"}}
        workbook.run(config, overrides=changes, index=False)
        return "".join(line[1] for line in capsys.readouterr().out.splitlines() if "skipped" not in line)

    def after(change):
        """Numbers of the notebooks that run after a change, and then once more without any."""
        change()
        return executed(), executed()

    assert (executed(), executed()) == ("12", "")  # what 01 writes does not make it run again
    assert after(lambda: (raw / "b.mp4").write_text("second")) == ("12", "")
    assert after(lambda: (data / "splits" / "train.txt").write_text("b\n")) == ("12", "")
    assert (data / "splits" / "train.txt").read_text() == "b\n"


def test_what_counts_as_other_data(tmp_path):
    config = load(find(make_clone(tmp_path)), {"data": {"root": "data", "raw": "data/raw"}})
    data, raw = Layout(tmp_path / "data"), tmp_path / "data" / "raw"  # the raw folder may lie inside the data folder
    (raw / "deep").mkdir(parents=True)
    (raw / "deep" / "a.mp4").write_text("first")
    data.write_split("train", ["a"])
    data.write_annotations("train", {"a": {"class": "bell"}})

    def changed(change):
        """Whether a change alters the digests: of the sources, of the lists."""
        before = workbook._sources(config.data), data.fingerprint()
        change()
        after = workbook._sources(config.data), data.fingerprint()
        return tuple(old != new for old, new in zip(before, after, strict=True))

    assert changed(lambda: (raw / "b.mp4").write_text("new")) == (True, False)
    assert changed(lambda: (raw / "deep" / "a.mp4").write_text("mended")) == (True, False)
    assert changed(lambda: os.utime(raw / "b.mp4", (1, 1))) == (True, False)
    assert changed(lambda: (raw / "b.mp4").rename(raw / "c.mp4")) == (True, False)
    assert changed(lambda: (raw / "gone.mp4").symlink_to("nowhere")) == (False, False)
    assert changed(lambda: (raw / ".DS_Store").write_text("hidden")) == (False, False)
    assert changed(lambda: data.write_split("train", ["b"])) == (False, True)
    assert changed(lambda: data.write_split("val", ["a"])) == (False, True)
    assert changed(lambda: data.write_annotations("train", {"b": {"class": "bell"}})) == (False, True)
    assert changed(lambda: data.write_mask("a", np.zeros((2, 2), np.uint8))) == (False, True)
    assert changed(lambda: data.write_info(name="videos")) == (False, True)
    assert changed(lambda: shutil.rmtree(data.root / "splits")) == (False, True)
    assert changed(lambda: os.utime(data.root / "annotations" / "train.json", (1, 1))) == (False, False)


def test_media_that_appear_make_notebook_01_run_again(tmp_path, monkeypatch):
    config = make_clone(tmp_path, _01_data_preparation=notebook("# The data"))
    media, installed = tmp_path / "media", tmp_path / "usr"
    media.mkdir(), installed.mkdir()
    monkeypatch.setattr(stamps, "INSTALLED", installed)
    monkeypatch.delenv(stamps.MEDIA_VARIABLE, raising=False)

    def digest(source):
        settings = load(config, {"data": {"stamps": {"source": source}}})
        notebook = tmp_path / "notebooks" / "01_data_preparation.ipynb"
        return workbook._digest(notebook, settings, tmp_path, tmp_path / "reports")

    auto, generated = [digest("auto")], digest("generated")
    monkeypatch.setenv(stamps.MEDIA_VARIABLE, str(media))
    (media / "tuxpaint-stamps-default_1_all.deb").write_bytes(b"package")
    auto.append(digest("auto"))
    path = installed / stamps.read_manifest()[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"picture")
    auto.append(digest("auto"))
    assert len(set(auto)) == 3 and digest("auto") == auto[-1] and digest("generated") == generated


def test_configuration_outside_the_clone(tmp_path, monkeypatch):
    make_clone(tmp_path / "clone", _01_data_preparation=notebook("# The data\n---\nconfig"))
    outside = tmp_path / "mine.yaml"
    outside.write_text("exp_prefix: tests\nexp_name: mine\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(workbook.NotebookError, match="inside a clone"):
        workbook.run(outside)
    monkeypatch.chdir(tmp_path / "clone")
    folder = workbook.run("../mine.yaml", index=False)
    assert folder == tmp_path / "clone" / "reports" / "tests" / "mine"
    assert results(folder / "01_data_preparation.ipynb") == repr(str(outside))


def test_failing_cell(tmp_path, capfd):
    bad = notebook("# Bad\n---\nprint('before')\n---\nraise KeyError('no such clip')\n---\nprint('after')")
    config = make_clone(tmp_path, _01_data_preparation=bad, _02_training=notebook("# Never"))
    folder = tmp_path / "reports/tests/tiny"
    folder.mkdir(parents=True)
    (folder / "01_data_preparation.html").write_text("of an earlier run")
    (folder / "01_data_preparation.ipynb").write_text("of an earlier run")
    result = CliRunner().invoke(app, ["run", str(config), "--only", "1"])
    assert result.exit_code == 1
    assert "01_data_preparation.ipynb: cell" in result.stderr and "KeyError: 'no such clip'" in result.stderr
    assert "Traceback (most recent call last)\n  File" not in result.stderr
    assert "KeyboardInterrupt" not in capfd.readouterr().err  # a kernel logs one after each failing cell
    names = [f"01_data_preparation{suffix}" for suffix in (".failed.ipynb", ".html", ".ipynb")]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert [(folder / name).read_text() for name in names[1:]] == ["of an earlier run"] * 2
    assert f"{folder / names[1]} stays as it was: it is of an earlier run" in result.stderr
    nbformat.write(notebook("# Repaired"), tmp_path / "notebooks" / "01_data_preparation.ipynb")
    workbook.run(config, only=("01",), index=False)
    assert sorted(file.suffixes[-1] for file in folder.iterdir()) == [".html", ".ipynb"]
    assert not list(folder.glob("*.failed.ipynb"))


def test_a_good_page_stays_until_its_successor_is_good(tmp_path, capsys):
    cell = "---\nassert overrides.get('seed', 0) < 5, 'seed'\noverrides.get('seed', 0)"
    config = make_clone(tmp_path, _02_training=notebook("# Training\n" + cell, PARAMETERS + "retrain = False"))
    index = nbformat.read(ROOT / "notebooks" / "index.ipynb", as_version=4)
    nbformat.write(index, tmp_path / "notebooks" / "index.ipynb")
    folder = tmp_path / "reports/tests/tiny"
    workbook.run(config)
    page = (folder / "02_training.html").read_text()
    with pytest.raises(workbook.NotebookError, match="is of an earlier run"):
        workbook.run(config, overrides={"seed": 7})
    assert (folder / "02_training.html").read_text() == page and results(folder / "02_training.ipynb") == "0"
    card = BeautifulSoup((tmp_path / "reports/index.html").read_text(), "html.parser").find("section")
    links = {link.text: link["href"] for link in card.find_all("a")}
    assert "02 training (the newest try failed)" in card.text and "02 training" in links
    capsys.readouterr()
    workbook.run(config, index=False)  # what failed may have changed the run: it is not taken for finished
    assert "skipped" not in capsys.readouterr().out and not list(folder.glob("*.failed.ipynb"))


def test_ctrl_c_is_one_line(tmp_path, monkeypatch, capsys):
    config = make_clone(tmp_path, _01_data_preparation=notebook("# Data"))
    interrupt = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    monkeypatch.setattr(workbook.papermill, "execute_notebook", interrupt)
    result = CliRunner().invoke(app, ["run", str(config)])
    assert result.exit_code == 130 and result.stderr == "interrupted; run the same command again to go on\n"
    assert result.stdout == "01_data_preparation interrupted\n"


def test_an_error_of_sslib_is_a_sentence_and_a_bug_a_traceback(tmp_path):
    for cell, says in (
        ("from sslib.config import ConfigError\n\ndef f():\n    raise ConfigError('too few clips')\nf()", ""),
        ("def f():\n    raise KeyError('a bug')\nf()", "----> "),
    ):
        config = make_clone(tmp_path, _01_data_preparation=notebook(f"# Data\n---\n{cell}"))
        result = CliRunner().invoke(app, ["run", str(config)])
        assert result.exit_code == 1 and says in result.stderr
        assert ("def f()" in result.stderr) == bool(says)
        assert ("  ConfigError: too few clips\n" in result.stderr) == (not says)


def test_wrong_notebooks_are_refused_before_anything_runs(tmp_path):
    misspelt = notebook("# Wrong", "config = ''\noverides = {}")
    config = make_clone(tmp_path, _01_data_preparation=notebook("# Fine"), _04_evaluation=misspelt)
    with pytest.raises(workbook.NotebookError, match=r"04_evaluation.*no overrides.*it has: config, overides"):
        workbook.run(config)
    (tmp_path / "notebooks/01_data_preparation.py").write_text("# %% [markdown]\n# # Other text\n")
    with pytest.raises(workbook.NotebookError, match="jupytext --sync"):
        workbook.run(config, only=("01",))
    with pytest.raises(workbook.NotebookError, match="no notebook 07; there are 01, 04"):
        workbook.run(config, only=("07",))
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "notebooks/configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_variant_of_the_repository_is_a_configuration(file):
    settings, found = load(file), workbook.variants(file)
    assert {name for name, _ in found} <= {*settings.ablations.variants}
    for (name, seed), changes in found.items():
        variant = load(file, changes)
        assert variant.exp_name == f"{settings.exp_name}/variants/{name}-seed{seed}" and variant.seed == seed
        assert variant.ablations.variants == {}


def test_the_papers_ablations_over_a_configuration_leave_out_what_it_has_itself():
    file = ROOT / "notebooks/configs/paper_ablations.yaml"
    on_paper = {name for name, _ in workbook.variants(file)}
    given = {"extends": "demo.yaml", "ablations": {"variants": {"imagenet": None}}}
    on_demo = {name for name, _ in workbook.variants(file, given)}
    assert on_paper - on_demo == {"pool_soft", "symmetric", "scale_10", "mel", "batch_32", "imagenet"}
    assert on_demo - on_paper == {"pool_max", "one_way", "scale_1", "spectrogram", "batch_128"}


def test_a_sweep_says_first_how_long_it_takes(configure, tmp_path):
    """From the median of the epochs that were trained, of all its runs; else from a few steps."""
    configs = {tmp_path / str(seed): configure(seed=seed, training={"epochs": 100}) for seed in range(4)}
    for seed, seconds in enumerate(([50.0] * 100, [60.0, 50.0, 500.0])):
        (tmp_path / str(seed)).mkdir()
        pd.DataFrame({"seconds": seconds}).to_csv(tmp_path / str(seed) / "metrics.csv")
    said = workbook.expected_time(configs, jobs=2)  # (97 + 100 + 100) x 50 s / 2
    assert said == "3 of 4 trainings left, about 2.1 h (two at a time), and their evaluation."
    assert workbook.expected_time(configs, 2, force=True).startswith("4 of 4 trainings left, about 2.8 h")
    assert "about 4.1 h on one worker of tcp://a:1, and" in workbook.expected_time(configs, 1, "tcp://a:1")
    first = dict([*configs.items()][:1])
    assert workbook.expected_time(first, 1) == "None of 1 trainings left."
    new = {tmp_path / "new": configs[tmp_path / "3"]}
    assert re.match(r"1 of 1 trainings left, about [\d.]+ (s|min|h) \(one at a time\)", workbook.expected_time(new, 2))
    nowhere = {tmp_path / "new": configure(data={"root": "nowhere"})}
    assert "not known before the first (one at a time)" in workbook.expected_time(nowhere, 1)


def test_variants_two_at_a_time(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cell = "---\nimport os\nassert overrides['seed'] != 7, 'seven'\nos.environ['OMP_NUM_THREADS'], overrides['seed']"
    config = make_clone(tmp_path, _02_training=notebook("# Training\n" + cell, PARAMETERS + "retrain = False"))

    def changes(*seeds):
        return {("some", seed): {"exp_name": f"tiny/variants/some-seed{seed}", "seed": seed} for seed in seeds}

    folders = workbook.run_variants(config, ("02",), changes(3, 1, 2), jobs=2)
    assert list(folders) == [("some", 3), ("some", 1), ("some", 2)]
    threads = str(max(1, os.cpu_count() // 2))  # joblib divides them
    for (_, seed), folder in folders.items():
        assert folder.name == f"some-seed{seed}" and results(folder / "02_training.ipynb") == f"('{threads}', {seed})"
    with pytest.raises(workbook.NotebookError, match=r"(?s)AssertionError.*seven.*some-seed7/02_training.failed.ipynb"):
        workbook.run_variants(config, ("02",), changes(7, 1), jobs=2)
    assert "OMP_NUM_THREADS" not in os.environ and not (tmp_path / "reports" / "index.html").exists()


def test_a_killed_sweep_goes_on_where_it_was(tmp_path, capsys):
    """What is finished, training and evaluation, is not executed again; the others are."""
    text = "# Training\n---\nfrom pathlib import Path\nimport os\nlog = Path(os.environ['LOG'])\n"
    text += "log.write_text(log.read_text() + overrides['exp_name'][-1])\nassert overrides['seed'] != int(log.stem)"
    config = make_clone(tmp_path, _02_training=notebook(text, PARAMETERS + "retrain = False"))
    changes = {seed: {"exp_name": f"tiny/variants/some-seed{seed}", "seed": seed} for seed in range(3)}
    with pytest.MonkeyPatch.context() as patch:
        for broken, done in (("1", "01"), ("7", "12")):  # breaks at seed 1, and at none
            log = tmp_path / broken
            log.write_text("")
            patch.setenv("LOG", str(log))
            if broken == "1":
                with pytest.raises(workbook.NotebookError):
                    workbook.run_variants(config, ("02",), changes)
            else:
                workbook.run_variants(config, ("02",), changes)
            assert log.read_text() == done
    assert capsys.readouterr().out.count("3 of 3 trainings left, how long they take is not known") == 2


def test_a_sweep_on_a_dask_cluster(tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    cell = "# Training\n---\nimport os\nos.getppid(), overrides['seed']"
    config = make_clone(tmp_path, _02_training=notebook(cell, PARAMETERS + "retrain = False"))
    changes = {seed: {"exp_name": f"tiny/variants/some-seed{seed}", "seed": seed} for seed in range(3)}
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, host="127.0.0.1") as cluster:
        address = cluster.scheduler_address
        folders = workbook.run_variants(config, ("02",), changes, scheduler=address)
    found = [results(folders[seed] / "02_training.ipynb").strip("()").split(", ") for seed in range(3)]
    assert [int(seed) for _, seed in found] == [0, 1, 2]
    assert str(os.getpid()) not in {parent for parent, _ in found}  # kernels of the workers, not ours
    assert f"on one worker of {address}" in capsys.readouterr().out


def test_command_line_errors_are_one_message(tmp_path):
    config = make_clone(tmp_path, _01_data_preparation=notebook("# Fine"))
    for arguments, message in (
        (["nowhere.yaml"], "no configuration file nowhere.yaml"),
        ([str(config), "--set", "training.epoch=2"], "training.epoch: unknown key"),
        ([str(config), "--set", "training"], "expected KEY=VALUE"),
        ([str(config), "--set", "training.learning_rate=.nan"], "training.learning_rate"),
        ([str(config), "--set", "ablations.variants.a.seed=.nan"], "plain finite values"),
        ([str(config), "--set", "data.raw=nowhere"], "data.raw: there is no folder"),
        ([str(config), "--set", "data.root=nowhere"], "data.root: there is no folder"),
    ):
        result = CliRunner().invoke(app, ["run", *arguments])
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_changes_of_the_command_line():
    assert overrides(["training.epochs=2", "training.optimizer=adamw", "data.tests=[test, new]", "seed=3"]) == {
        "training": {"epochs": 2, "optimizer": "adamw"},
        "data": {"tests": ["test", "new"]},
        "seed": 3,
    }
    with pytest.raises(ConfigError, match="readable as YAML"):
        overrides(["a=["])


def test_experiment_folder(tmp_path):
    config = load(find(make_clone(tmp_path)), {"exp_name": "tiny/variants/base"})
    assert workbook.experiment_folder(config, tmp_path) == tmp_path / "reports/tests/tiny/variants/base"


@pytest.mark.browser
def test_browser_asks_for_nothing(finished):
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed (.ci/run installs it)")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=options)
        for page in all_pages(finished):
            requests, complaints = [], []
            tab = browser.new_page()
            tab.on("request", lambda request, requests=requests: requests.append(request.url))
            tab.on("console", lambda message, complaints=complaints: complaints.append(message.text))
            tab.goto(page.as_uri(), wait_until="networkidle")
            assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
            assert complaints == []  # the policy of the page would complain about anything it blocked
            assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            tab.close()
        browser.close()
