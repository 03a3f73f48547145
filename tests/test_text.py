"""Sentences and tables: what is said is what the numbers allow, worked out by hand."""

import json
import re
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from sslib.config import Evaluation
from sslib.evaluation import comparison
from sslib.report import pages, text


def row(method, measure, value, protocol="detection", clusters=9):
    place = {"protocol": protocol, "split": "test", "subset": "all", "measure": measure, "clips": 20}
    return place | {"method": method, "value": value, "low": value - 0.05, "high": value + 0.05, "clusters": clusters}


def said(measure, control, value, low, high):
    place = {"protocol": "detection", "split": "test", "subset": "all", "measure": measure}
    outcome = comparison.outcome(low, high)
    return place | {
        "control": control, "control_value": 0.3, "value": value, "low": low, "high": high, "outcome": outcome,
    }  # fmt: skip


@pytest.fixture
def summary():
    measures = {"ap": 0.5, "max_f1": 0.3, "loc_acc": 0.1}
    tables = [row("model", name, value) for name, value in measures.items()]
    tables += [row("centre <square>", name, 0.3) for name in measures]
    verdicts = [
        said("ap", "centre <square>", 0.2, 0.1, 0.3),
        said("max_f1", "centre <square>", 0.0, -0.1, 0.1),
        said("loc_acc", "centre <square>", -0.2, -0.3, -0.1),
    ]
    return {"tables": tables, "differences": [], "verdicts": verdicts}


def test_values_with_their_intervals():
    assert text.format_interval({"value": 0.5954, "low": 0.546, "high": 0.6472}) == "0.595 [0.546, 0.647]"
    assert text.format_interval({"value": 0.1, "low": -0.02, "high": 0.22}, sign=True) == "+0.100 [−0.020, +0.220]"
    assert text.format_interval({"value": np.nan, "low": np.nan, "high": np.nan}) == "–"
    assert text.format_interval({"value": 0.5, "low": 0.5, "high": 0.5, "clusters": 1}) == "0.500 [one recording]"
    row = {"value": 0.612, "low": -0.0501, "high": 0.7}
    assert text.format_interval(row, percent=True) == "61.2 [−5.0, 70.0]"
    assert text.format_interval(row, percent=True, sign=True) == "+61.2 [−5.0, +70.0]"
    narrow = {"value": -0.0004, "low": -0.0009, "high": -0.0002}
    assert text.format_interval(narrow, percent=True) == "−0.04 [−0.09, −0.02]"


def tables(summary, protocol, leading):
    """The table of the leading measures and the folded ones."""
    first, *others = BeautifulSoup(text.Results(summary).table(protocol, leading), "html.parser").find_all("table")
    assert all(other.find_parent("details") for other in others) and not first.find_parent("details")
    return first, others


def cells(table):
    """The texts of a table's body, row by row."""
    return [[cell.text for cell in row.find_all(["th", "td"])] for row in table.select("tbody tr")]


def test_a_table_sets_the_model_beside_its_best_control(summary):
    first, (every,) = tables(summary, "detection", ["loc_acc", "ap"])
    assert cells(first) == [
        ["test: 20 clips, 9 recordings"],
        ["LocAcc", "10.0 [5.0, 15.0]", "30.0 centre <square>", "−20.0 [−30.0, −10.0]", "worse"],
        ["AP", "50.0 [45.0, 55.0]", "30.0 centre <square>", "+20.0 [+10.0, +30.0]", "better"],
    ]
    assert [cell.text for cell in first.find_all("b")] == ["50.0 [45.0, 55.0]"]
    assert cells(every) == [
        ["test: 20 clips, 9 recordings"],
        ["model", "50.0 ±5.0", "30.0 ±5.0", "10.0 ±5.0"],
        ["centre <square>", "30.0 ±5.0", "30.0 ±5.0", "30.0 ±5.0"],
    ]
    heads = [*first.find_all("th"), *every.find_all("th")]
    assert {head["scope"] for head in heads} == {"col", "row", "rowgroup"}
    fold = every.find_parent("details").find("summary").text
    assert fold == "All methods and measures (against their best controls: 1 better, 1 inconclusive, 1 worse)"
    assert text.Results(summary).of("retrieval").empty


def test_one_recording_allows_no_verdict(summary):
    summary["tables"] = [one | {"clusters": 1} for one in summary["tables"]]
    first, (every,) = tables(summary, "detection", ["ap"])
    assert cells(first)[1] == ["AP", "50.0 [one recording]", "–", "–", ""] and not first.find("b")
    assert cells(every)[1] == ["model", "50.0", "30.0", "10.0"]


def test_wide_protocols_become_two_tables():
    names = list(text.PROTOCOLS["retrieval"])
    rows = [row("model", name, 0.1, "retrieval") for name in names]
    first, others = tables({"tables": rows, "differences": [], "verdicts": []}, "retrieval", names[:2])
    assert len(others) == 2 and sum(len(other.find_all("td")) for other in others) == len(names)
    assert len(cells(first)) == 3


def test_what_is_not_known_of_published_results_stays_empty():
    table = text.published_results().set_index("method")
    paper = table.loc["the paper implemented here (Zhou et al. 2023)"]
    assert (paper[["success at 0.5, %", "AUC, %"]] == "").all()
    assert table.loc["LVS (Chen et al. 2021)"].tolist()[:2] == ["30.30", "36.40"]


def test_absent_protocols_say_why(summary):
    results = text.Results(summary)
    assert results.report("retrieval", ["r1_image_to_audio"], "There are none.") == "There are none."
    assert results.report("detection", ["ap"], "").data == results.table("detection", ["ap"])


def test_show_leaves_out_what_is_empty(capsys):
    text.show(None, "", "said")
    assert capsys.readouterr().out.strip() == "<IPython.core.display.Markdown object>"


def test_dates_and_titles():
    assert text.format_date(datetime(2026, 11, 2, 5, 7)) == "2 November 2026, 05:07"
    assert text.subset_title("test", "all") == "test" and text.subset_title("test", "pairs") == "test, pairs"


def test_tables_as_text():
    rows = [row("model", "ap", 0.5), row("noise", "ap", 0.25), row("model", "max_f1", 0.1)]
    assert text.tables_text(rows).splitlines() == [
        "detection: test, all (20 clips)",
        "",
        "|        | model             | noise             |",
        "| ------ | ----------------- | ----------------- |",
        "| AP     | 50.0 [45.0, 55.0] | 25.0 [20.0, 30.0] |",
        "| max-F1 | 10.0 [5.0, 15.0]  |                   |",
    ]
    assert text.tables_text([]) == "nothing was measured"


@pytest.fixture
def pointing():
    """Two parts of a first list, the larger one later, and a second list."""
    places = {("test", "1 object"): 20, ("test", "2 objects"): 600, ("other", "all"): 1000}
    summary = {"tables": [], "differences": [], "verdicts": [], "training": {"epochs": 1, "seed": 3, "seconds": 90}}
    for (split, subset), clips in places.items():
        place = {"split": split, "subset": subset, "clips": clips}
        summary["tables"].append(row("model", "pointing", 0.5, "masks") | place)
        verdict = said("pointing", "centre square", 0.2, 0.1, 0.3) | {"protocol": "masks"} | place
        summary["verdicts"].append(verdict)
    gain = row("", "pointing", 0.1, "masks", clusters=88) | {"control": text.SHUFFLED}
    gain |= {"split": "test", "subset": "2 objects"}
    summary["differences"] = [gain]
    return summary


def test_headlines_begin_with_the_largest_part_of_the_first_list(pointing):
    found = text.headlines(pointing)
    assert [entry["set"] for entry in found] == ["test, 2 objects", "test, 1 object", "other"]
    assert [entry["gain"] and entry["gain"]["value"] for entry in found] == [0.1, None, None]
    assert text.headlines({}) == []


def test_the_answer_has_a_sentence_for_each_list(pointing):
    first = (
        "In 600 clips never seen (*test, 2 objects*, 9 recordings) the map's highest point lies on what sounds in "
        "**50.0 [45.0, 55.0] %**, better than its best control (centre square, 30.0 %; difference +20.0 [+10.0, +30.0] "
        "points)."
    )
    second = "Its own sound instead of another one adds **+10.0 [+5.0, +15.0] points**: the map follows the sound."
    third = "On *other* (1,000 clips, 9 recordings) it is 50.0 [45.0, 55.0] %, better than its best control."
    last = "All this is one training, seed 3."
    assert text.answer(pointing).splitlines() == [first, second, third, last]
    more = [row for row in pointing["tables"] if row["split"] == "other"]
    pointing["tables"] += [one | {"split": "third", "clips": 7} for one in more]  # lists in their order
    assert text.answer(pointing).splitlines()[:3] == [first, second, third]
    assert text.answer(pointing).splitlines()[3].startswith("On *third* (7 clips, 9 recordings) it is 50.0")
    pointing["tables"] = pointing["tables"][:-2]
    pointing["differences"][0] |= {"low": -0.01}
    said = text.answer(pointing).splitlines()
    assert said[1].endswith("+15.0] points**: no effect of the sound is shown.")
    assert said[2].startswith("This is one training (1 epoch, seed 3): the intervals cover the choice of recordings")
    pointing["differences"] = []
    assert "what the sound adds is not known" in text.answer(pointing)
    assert text.answer({"tables": []}) == "These lists have no boxes: nothing was measured."


def test_experiments_are_cards(tmp_path, pointing):
    assert "No experiment yet" in pages.experiments(tmp_path).data
    for name in ("a/<b>", "c/failed"):
        (tmp_path / name / "run").mkdir(parents=True)
    data = {"name": "stamps", "generated": True}
    (tmp_path / "a/<b>/run/summary.json").write_text(json.dumps(pointing | {"format": comparison.FORMAT, "data": data}))
    for name in ("a/<b>/01_data.html", "c/failed/02_training.failed.ipynb", "a/<b>/variants/v/04_evaluation.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    soup = BeautifulSoup(pages.experiments(tmp_path).data, "html.parser")
    cards = {card.h2.text: card for card in soup.find_all("section")}
    card, failed = cards["a/<b>"], cards["c/failed"]
    assert "no picture yet" in card.text
    assert card.find(class_="number").text == (
        "50.0 % [45.0, 55.0] pointing accuracy on test, 2 objects; best control 30.0 %, centre square; its own sound "
        "adds +10.0 [+5.0, +15.0] points"
    )
    assert "data: stamps · 1 epoch · trained in 1.5 min · one training, seed 3 · generated clips" in card.text
    assert [(link.text, link["href"]) for link in card.find_all("a")] == [
        ("a/<b>", "a/<b>/01_data.html"),
        ("01 data", "a/<b>/01_data.html"),
        ("v", "a/<b>/variants/v/04_evaluation.html"),
    ]
    assert "02 training (the newest try failed)" in failed.text and not failed.find("a")
    # sorted and filtered by the style sheet: by decreasing value, and by what stands before the slash
    ranks = [re.search(r"--pointing:\s*(-?\d+); --gain:\s*(-?\d+)", one["style"]).groups() for one in (card, failed)]
    assert ranks == [("-5000", "-1000"), ("10001", "10001")]
    assert ["finished" in one["class"] for one in (card, failed)] == [True, False]
    assert [label.text.strip() for label in soup.find_all("label")][3:] == ["all", "finished", "a/", "c/"]
    rules = soup.find("style").text
    for one in soup.find_all("input"):
        assert one.get("checked") is not None or f"#{one['id']}:checked" in rules


@pytest.fixture
def sweep():
    """A comparison of two methods over three seeds, on a small and a large part of a list."""
    rows = []
    for subset, clips in (("1 object", 20), ("2 objects", 600)):
        for measure, protocol in (("success_adaptive", "localization"), ("pointing", "masks"),
                                  ("iiou_adaptive", "interaction"), ("miou", "masks")):  # fmt: skip
            for name, value in (("base", 0.5), ("context", 0.6)):
                one = row(name, measure, value, protocol, clusters=88) | {"split": "test", "subset": subset}
                one |= {"run": name, "clips": clips // 2 if protocol == "interaction" else clips, "seeds": 3}
                gain = (0.1, 0.05, 0.15, 3, "better") if name == "context" else (None,) * 5
                keys = ("gain", "gain_low", "gain_high", "gain_seeds", "outcome")
                one |= {"least": value - 0.01, "most": value + 0.02} | dict(zip(keys, gain, strict=True))
                rows.append(one | {"seconds": 600 * value, "parameters": int(1000 * value)})
    return pd.DataFrame(rows)


def test_a_sweep_as_a_table(sweep):
    table = text.methods_table(comparison.leading(sweep))
    assert table.splitlines()[0] == "**test, 2 objects**, 600 clips, 88 recordings, seeds: 3"
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    measures = ["success rate at 0.5, adaptive threshold", "pointing accuracy", "IIoU, adaptive threshold"]
    assert found[0] == ["", *measures, "training, min", "parameters"]
    assert found[2:] == [["base", *["50.0 [45.0, 55.0] (49.0–52.0)"] * 3, "5.0", "500"],
                         ["context", *["60.0 [55.0, 65.0] (59.0–62.0)"] * 3, "6.0", "600"]]  # fmt: skip
    one = text.methods_table(sweep.assign(seeds=1), ["miou"])
    assert "**test, 1 object**, 20 clips" in one and re.search(r"50\.0 \[45\.0, 55\.0\] +\|", one)
    gains = text.methods_table(comparison.gains(sweep), ["pointing"], sign=True)
    assert "| context | +10.0 [+5.0, +15.0] |" in gains and "base" not in gains


def answer_of(sweep, **changes):
    gains = comparison.leading(comparison.gains(sweep)).assign(**changes).to_dict("records")
    found = {"base": "base", "context": "context", "best": None, "own": None, "published": []}
    found |= {"context_over_base": gains, "context_over_best": [], "own_over_best": [], "own_over_context": []}
    return found, text.compared(found, sweep)


def test_the_answer_of_a_sweep(sweep):
    found, said = answer_of(sweep)
    first, second, third = said.split("\n\n")
    assert first == (
        "**Visual context helps** (by pointing, the measure chosen beforehand): context minus base is, in points, on "
        "*test, 2 objects* (88 recordings) success rate at 0.5, adaptive threshold +10.0 [+5.0, +15.0] (better), "
        "pointing accuracy +10.0 [+5.0, +15.0] (better), IIoU, adaptive threshold +10.0 [+5.0, +15.0] (better). "
        "Seeds: 3."
    )
    assert second == (
        "It costs 1.20 times the training (6.0 instead of 5.0 minutes, as measured here) and 20.0 % more parameters "
        "(600 instead of 500)."
    )
    assert third == (
        "Compared with base, and with no other paper's objective: `notebooks/configs/baselines.yaml` trains these."
    )
    both = found | {"best": "base", "published": ["base"], "own": "context", "context_over_best": []}
    said = text.compared(both | {"own_over_best": found["context_over_base"]}, sweep).split("\n\n")[2]
    assert "(base), of which base is the best with 50.0 [45.0, 55.0] % pointing: our own context minus base is" in said
    assert said.count("+10.0 [+5.0, +15.0] (better)") == 1
    lacking = text.compared(found | {"context_over_base": [], "base": None}, sweep)
    assert lacking.startswith("What visual context adds is not known here") and "5.0 to 6.0 minutes" in lacking


@pytest.mark.parametrize(
    ("changes", "begin"),
    [({"outcome": "worse"}, "**Visual context does harm**"),
     ({"outcome": "inconclusive"}, "**It is not shown that visual context helps**"),
     ({"seeds": 1}, "Whether **visual context** helps, a single seed cannot tell"),
     ({"clusters": 9}, "Too few recordings to say whether visual context helps")],
)  # fmt: skip
def test_the_answer_of_a_sweep_says_no_more_than_it_may(sweep, changes, begin):
    said = answer_of(sweep, **changes)[1]
    assert said.startswith(begin)
    assert ("This rests on one seed" in said) == ("seeds" in changes)
    assert ("(better)" in said) == ("outcome" not in changes and changes != {"seeds": 1} and "clusters" not in changes)


def test_a_sweep_is_a_card_with_every_variant(tmp_path, sweep):
    folder = tmp_path / "a" / "sweep"
    (folder / "variants/base-seed0/run").mkdir(parents=True)
    (folder / "03_ablations.ipynb").touch()
    sweep.to_csv(folder / "comparison.csv", index=False)
    (folder / "variants/base-seed0/run/summary.json").write_text(json.dumps({"data": {"name": "s", "generated": True}}))
    (card,) = BeautifulSoup(pages.experiments(tmp_path).data, "html.parser").find_all("section")
    assert "unfinished" not in card.text and "generated clips" in card.text
    assert [[cell.text for cell in line.find_all(["th", "td"])] for line in card.find_all("tr")] == [
        ["context", "60.0 [55.0, 65.0]", "seeds 59.0–62.0"], ["base", "50.0 [45.0, 55.0]", "seeds 49.0–52.0"],
    ]  # fmt: skip
    assert "2 variants, pointing accuracy on test, 2 objects, % [interval] over recordings and 3 seeds" in card.text


def test_experiments_of_another_version_say_so(tmp_path):
    for name, text_ in (("old", '{"tables": []}'), ("new", "")):
        (tmp_path / "a" / name / "run").mkdir(parents=True)
        if text_:
            (tmp_path / "a" / name / "run/summary.json").write_text(text_)
    cards = BeautifulSoup(pages.experiments(tmp_path).data, "html.parser").find_all("section")
    assert {card.h2.text: card.find(class_="badge").text for card in cards} == {
        "a/old": "results of another version: run it again", "a/new": "unfinished",
    }  # fmt: skip


def test_rejected_files():
    reasons = pd.Series(["too long (70 s)", "too long (80 s)", "no sound track"])
    said = text.rejected_files(reasons, shown=2)
    assert said == (
        "The most frequent reason, “too long”, holds for 2 of 3 files; 1 more are in `manifest.csv`. A file that is "
        "mended or renamed is taken up by the next run."
    )
    assert "more are in" not in text.rejected_files(reasons, shown=3)


def test_presence_names_what_is_missing():
    clips = pd.DataFrame({"split": ["train"] * 4 + ["test"] * 6, "clip_id": list("abcdefghij"), "number": [1, 2] * 5})
    assert text.presence(clips, set("abcdefghij"), "train") == (
        "The lists name 10 clips: 10 of 10 present. 50% of those for training show several objects."
    )
    assert text.presence(clips, set("bcd"), "train").splitlines()[1:] == [
        "- 1 of `train` are missing: `a`",
        "- 6 of `test` are missing: `e`, `f`, `g`, `h`, `i` …",
    ]


def test_area_gap():
    quantiles = pd.DataFrame({"train": [0.1, 0.5], "test": [0.2, 0.4], "VGG-SS": [0.15, 0.6]}, index=[0.25, 0.75])
    areas = {"train": np.array([0.1, 0.3]), "test": np.array([0.2, 0.24])}
    said = text.area_gap(quantiles, areas)
    assert said.startswith("The 75% quantile of `test` lies furthest from that of VGG-SS, by −0.20. Boxes below")
    assert "are 50% of `train`, 100% of `test`." in said


@pytest.mark.parametrize(("low", "verdict"), [(-0.1, "no sign that either"), (0.01, "**one betrays the sounding")])
def test_sounding_ranks(low, verdict):
    table = pd.DataFrame(
        [("by area", 0.02, low, 0.1), ("by order", -0.01, -0.1, 0.1)], columns=["rank", "value", "low", "high"]
    )
    said = text.sounding_ranks(table, 200)
    assert (
        said.startswith("In 200 scenes: by area +0.020 [")
        and verdict in said
        and "by order −0.010 [−0.100, +0.100]" in said
    )


@pytest.mark.parametrize(("last", "words"), [(1.02, "it had not begun to rise"), (1.03, "it rises again")])
def test_overfitting(last, words):
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [2.0, 1.0, last]})
    said = text.overfitting(history)
    assert said.startswith(f"The validation loss was lowest in epoch 2 of 3 (1.000; {last:.3f} at the end): {words}")


@pytest.mark.parametrize(("low", "words"), [(0.4, "do not overlap"), (0.3, "overlap")])
def test_best_and_worst(low, words):
    rows = [("base", "test", 0.25, 0.2, 0.3), ("both", "test", 0.5, low, 0.6), ("dis", "test", 0.4, 0.3, 0.5)]
    table = pd.DataFrame(rows, columns=["variant", "set", "value", "low", "high"])
    assert text.best_and_worst(table) == (
        f"- test: from 25.0% (base) to 50.0% (both); the intervals of these two {words}."
    )


def test_equal_variants_are_two():
    table = pd.DataFrame({"variant": ["base", "both"], "set": "test", "value": 0.0, "low": 0.0, "high": 0.0})
    assert text.best_and_worst(table).startswith("- test: from 0.0% (base) to 0.0% (both); the intervals")


def test_who_listens():
    rows = [
        ("test", "all", "a", 0.1, 0.05, 0.15, "better"),
        ("test", "all", "b", 0.1, -0.05, 0.25, "inconclusive"),
        ("new", "2", "a", 0.01, 0.0, 0.02, "inconclusive"),
        ("new", "2", "b", 0.0, -0.1, 0.1, "inconclusive"),
    ]
    rows = pd.DataFrame(rows, columns=["split", "subset", "run", "value", "low", "high", "outcome"])
    rows = rows.assign(clusters=20, seeds=3)
    found = text.heard(rows, ["b"]).split("\n")
    assert [cell.strip() for cell in found[2].split("|")[1:-1]] == ["a", "+10.0 [+5.0, +15.0]", "+1.0 [+0.0, +2.0]"]
    ends = "not shown to point better with the own sound than with another one."
    assert found[5:7] == [f"- test: b is {ends}", f"- new, 2: a, b are {ends}"]
    assert "may lack" in found[-1] and "may lack" not in text.heard(rows, ["a"])
    every = "- test: every one points better with the own sound than with another one"
    assert text.heard(rows[:1], ["a"]).endswith(f"{every}.")
    assert text.heard(rows[:1].assign(seeds=1), ["a"]).endswith(f"{every}, in this one training.")
    assert text.heard(rows[:0], []) == ""


def test_what_comparisons_settle():
    one = {"variant": "both", "set": "test, pairs", "outcome": "better", "seeds": 1}
    two = one | {"seeds": 2}
    open_ = [one | {"outcome": "inconclusive"}, two | {"outcome": "inconclusive"}]
    said = text.settled(pd.DataFrame([one, *open_]), "base", 0.95)
    begin = "- **both** against base, test, pairs: "
    assert said.splitlines()[:3] == [
        f"{begin}single seed: inconclusive (better on these recordings, but another seed may differ).",
        f"{begin}single seed: not distinguishable at this budget.",
        f"{begin}not distinguishable at this budget.",
    ]
    assert "These are 3 intervals read at once: at 95% each, 0.2 of them" in said
    assert "None of the 3 comparisons settles" in said
    said = text.settled(pd.DataFrame([two | {"outcome": "worse"}, *open_]), "base", 0.95)
    assert said.startswith(f"{begin}worse at this budget, in 2 seeds.\n")
    assert "**1 of 3 comparisons are settled at this budget**" in said


def test_sound_gains():
    gains = pd.DataFrame({"set": ["a", "b"], "value": [0.2, 0.1], "low": [0.1, -0.1], "high": [0.3, 0.3]})
    assert text.sound_gains(gains).splitlines() == [
        "- a: its own sound instead of another adds +20.0 [+10.0, +30.0] points: the map follows the sound.",
        "- b: its own sound instead of another adds +10.0 [−10.0, +30.0] points: no effect of the sound is shown.",
    ]
    few = gains.assign(clusters=[10, 9])
    assert [line.rpartition(": ")[2] for line in text.sound_gains(few).splitlines()] == [
        "the map follows the sound.", "too few recordings for a verdict.",
    ]  # fmt: skip
    assert text.sound_gains(gains[:0]) == "These clips have too few classes to play another sound."


def test_the_legend_names_what_the_intervals_are():
    said = text.say("legend", Evaluation(confidence=0.9, resamples=2000))
    assert "Brackets are 90% bootstrap intervals over recordings (2,000 resamples); ± is half of their width" in said
