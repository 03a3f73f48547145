"""Baselines against plain double loops over their papers' equations, at extremes, and in a short training."""

import math
import re
import types
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logsumexp, softmax

from sslib import baselines, config, engine, losses
from sslib.config import ConfigError, Objective
from sslib.model import Output

ROOT = Path(__file__).parents[1]
KINDS = [kind for kind in get_args(Objective.model_fields["kind"].annotation) if kind != "context"]
TERMS = {
    "attention": ["triplet"],
    "lvs": ["trimap"],
    "ez_vsl": ["multiple_instance"],
    "slavc": ["pictures", "sounds"],
    "fnac": ["multiple_instance", "false_negatives", "true_negatives"],
    "ssl_align": ["localization", "alignment"],
}


def batch(seed: int, count: int = 5, channels: int = 8, size: tuple[int, int] = (3, 4)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    visual = 2 * torch.randn(count, channels, *size, generator=generator)
    return visual, torch.nn.functional.normalize(torch.randn(count, channels, generator=generator), dim=1)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def loops(visual: torch.Tensor, audio: torch.Tensor) -> tuple[list, list]:
    """Unit cells [image][cell] and unit sounds, float64."""
    v, a = visual.double().numpy(), audio.double().numpy()
    places = [(y, x) for y in range(v.shape[2]) for x in range(v.shape[3])]
    return [[unit(v[b, :, y, x]) for y, x in places] for b in range(len(v))], [unit(sound) for sound in a]


def cross_entropy(scores: np.ndarray) -> float:
    return float(np.mean([logsumexp(row) - row[i] for i, row in enumerate(scores)]))


def attention(visual, audio, boxes=None):
    cells, sounds = loops(visual, audio)
    raw, found, supervised = visual.double().flatten(2).numpy(), [], []
    for b in range(len(cells)):
        weights = softmax([max(cell @ sounds[b], 0) for cell in cells[b]])
        attended = unit(sum(w * raw[b, :, i] for i, w in enumerate(weights)))
        near, far = (np.linalg.norm(attended - sounds[n]) for n in (b, b - 1))
        ratio = softmax([near, far])
        found.append(((ratio - [0, 1]) ** 2).mean())
        if boxes is not None:
            covered = [boxes[b, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3].mean() for y in range(3) for x in range(4)]
            supervised.append(-sum(float(share) * np.log(w) for share, w in zip(covered, weights, strict=True)))
    return {"triplet": np.mean(found)} | ({"supervised": np.mean(supervised)} if supervised else {})


def lvs(visual, audio):
    cells, sounds = loops(visual, audio)
    found = []
    for b in range(len(cells)):
        own = np.array([cell @ sounds[b] for cell in cells[b]])
        likely = 1 / (1 + np.exp(-(own - 0.65) / 0.03))
        unlikely = 1 - 1 / (1 + np.exp(-(own - 0.4) / 0.03))
        positive = (likely * own).sum() / likely.sum() / 0.07
        negatives = [(unlikely * own).sum() / unlikely.sum() / 0.07]
        for n in range(len(sounds)):
            if n != b:
                other = np.array([cell @ sounds[n] for cell in cells[b]])
                likely = 1 / (1 + np.exp(-(other - 0.65) / 0.03))
                negatives.append((likely * other).sum() / likely.sum() / 0.07)
        found.append(-np.log(np.exp(positive) / (np.exp(positive) + np.exp(negatives).sum())))
    return {"trimap": np.mean(found)}


def best_cells(cells, sounds) -> np.ndarray:
    return np.array([[max(cell @ sound for cell in image) for sound in sounds] for image in cells])


def ez_vsl(visual, audio):
    scores = best_cells(*loops(visual, audio)) / 0.03
    return {"multiple_instance": cross_entropy(scores) + cross_entropy(scores.T)}


def slavc(visual, audio):
    half = visual.shape[1] // 2
    streams = [loops(visual[:, part], audio[:, part]) for part in (slice(half), slice(half, None))]
    (where, where_sounds), (which, which_sounds) = streams
    count = len(where)
    scores = np.zeros((count, count))
    for b in range(count):
        for n in range(count):
            places = softmax([cell @ where_sounds[n] / 0.03 for cell in where[b]])
            names = [softmax([cell @ sound / 0.03 for sound in which_sounds])[n] for cell in which[b]]
            scores[b, n] = math.log(sum(p * q for p, q in zip(places, names, strict=True)))
    return {"pictures": cross_entropy(scores), "sounds": cross_entropy(scores)}


def fnac(visual, audio):
    cells, sounds = loops(visual, audio)
    scores, count = best_cells(cells, sounds) / 0.03, len(cells)
    fronts = []
    for b in range(count):
        own = np.array([cell @ sounds[b] for cell in cells[b]])
        bright = (own - own.min()) / (own.max() - own.min()) > 0.6
        fronts.append(sum(cell for cell, inside in zip(cells[b], bright, strict=True) if inside) / len(own))
    means = [sum(image) / len(image) for image in cells]

    def near(vectors):
        return np.array([softmax([one @ other / 0.03 for other in vectors]) for one in vectors])

    across = np.array([softmax(row) for row in scores])
    suppressed = np.abs(across - near(sounds)).mean() + np.abs(across - near(means)).mean()
    return ez_vsl(visual, audio) | {
        "false_negatives": 10 / 128 * count * suppressed,
        "true_negatives": 10 / 128 * count * np.abs(near(fronts) - near(sounds)).mean(),
    }


def ssl_align(visual, audio):
    cells, sounds = loops(visual, audio)
    pooled, count = [unit(v) for v in visual.double().mean(dim=(2, 3)).numpy()], len(cells)
    positives = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        positives.append({i} | {max(others, key=lambda j: v[i] @ v[j]) for v in (pooled, sounds)})

    def contrast(scores):
        return np.mean([np.mean([logsumexp(scores[i]) - scores[i, j] for j in positives[i]]) for i in range(count)])

    found = {}
    meanings = np.array([[v @ a for a in sounds] for v in pooled])
    for name, scores in {"localization": best_cells(cells, sounds), "alignment": meanings}.items():
        found[name] = contrast(scores / 0.07) + contrast(scores.T / 0.07)
    return found


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_baseline_is_its_double_loop(kind, count):
    for seed in range(3):
        visual, audio = batch(seed, count)
        found = getattr(baselines, kind)(visual, audio)
        want = globals()[kind](visual, audio)
        assert list(found) == list(want) == TERMS[kind]
        for name, value in want.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_dropout_of_slavc_drops_images_and_no_sound():
    visual, audio = batch(0)
    torch.manual_seed(1)
    found = baselines.slavc(visual, audio, kept=4)  # of 8 channels
    torch.manual_seed(1)
    for name in ("pictures", "sounds"):  # a mask of its own for each
        dropped = torch.nn.functional.dropout(visual, 0.5)
        torch.testing.assert_close(found[name], baselines.slavc(dropped, audio)[name])
    assert found["pictures"] != found["sounds"]
    wide, state = torch.ones(2, 512, 2, 2), torch.get_rng_state()
    found = baselines.slavc(wide, wide[:, :, 0, 0])
    torch.set_rng_state(state)
    dropped = torch.nn.functional.dropout(wide, 1 - 51 / 512)  # the paper's 0.9
    torch.testing.assert_close(found["pictures"], baselines.slavc(dropped, wide[:, :, 0, 0], kept=512)["pictures"])


def test_each_side_of_slavc_learns_from_its_own_term():
    visual, audio = (part.requires_grad_() for part in batch(0))
    terms = baselines.slavc(visual, audio)
    of_pictures = torch.autograd.grad(terms["pictures"], (visual, audio), allow_unused=True)
    of_sounds = torch.autograd.grad(terms["sounds"], (visual, audio), allow_unused=True)
    assert of_pictures[1] is None and of_sounds[0] is None
    assert of_pictures[0].abs().sum() > 0 and of_sounds[1].abs().sum() > 0


def test_pairs_that_fit_cost_less_than_pairs_that_do_not():
    visual, audio = batch(3, count=6, channels=32)
    fitting = visual.clone()
    fitting[:, :, 1, 2] = 6 * audio
    for kind in KINDS:
        good, bad = (sum(getattr(baselines, kind)(fitting, a).values()) for a in (audio, audio.roll(2, 0)))
        assert good < bad, kind


def extremes() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    visual, audio = batch(4)
    same = audio[:, :, None, None].expand_as(visual)
    return {
        "zeros": (torch.zeros_like(visual), torch.zeros_like(audio)),
        "large": (1e15 * visual, audio),
        "small": (1e-15 * visual, audio),
        "perfect": (3 * same, audio),
        "opposite": (-3 * same, audio),
        "equal rows": (visual[:1].expand_as(visual), audio[:1].expand_as(audio)),
        "two": (visual[:2], audio[:2]),
        "one cell": (visual[:, :, :1, :1], audio),
    }


@pytest.mark.parametrize("case", extremes())
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_finite_at_extremes(kind, case):
    visual, audio = (part.clone().requires_grad_() for part in extremes()[case])
    total = sum(getattr(baselines, kind)(visual, audio).values())
    total.backward()
    assert total.isfinite() and visual.grad.isfinite().all() and audio.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_clips_does_not_matter_and_precision_is_float32(kind):
    visual, audio = batch(5)
    want = getattr(baselines, kind)(visual, audio)
    order = torch.arange(5).roll(2) if kind == "attention" else torch.tensor([3, 0, 4, 1, 2])  # its neighbours stay
    moved = getattr(baselines, kind)(visual[order], audio[order])
    torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-5)
    half = getattr(baselines, kind)(visual.bfloat16(), audio.bfloat16())
    rounded = getattr(baselines, kind)(visual.bfloat16().float(), audio.bfloat16().float())
    assert all(value.dtype == torch.float32 for value in half.values())
    torch.testing.assert_close(half, rounded)


def test_attention_is_shown_boxes():
    """Cells of 2 x 3 pixels; of the second clip no box is known."""
    visual, audio = batch(4)
    boxes = torch.zeros(5, 6, 12)
    boxes[0, 1:5, 2:9] = boxes[2, :, 4:] = boxes[3, 0, 0] = boxes[4] = 1
    got = baselines.attention(visual, audio, boxes)
    assert {name: float(value) for name, value in got.items()} == pytest.approx(attention(visual, audio, boxes))
    result = losses.objective(Output(visual, audio, None, None), torch.tensor(1.0),
                              Objective(kind="attention", boxes=0.8), boxes[:, None])  # fmt: skip
    torch.testing.assert_close(result.total, got["triplet"] + got["supervised"])


def test_object_guidance():
    similarity = torch.tensor([[[-1.0, 0.0], [0.5, 1.0]], [[0.2, 0.2], [0.2, 0.2]]])
    prior = torch.tensor([[[0.0, 4.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    want = [[[0.0, 0.4 * 0.5 + 0.6], [0.4 * 0.75 + 0.3, 0.4]], [[0.6, 0.0], [0.0, 0.0]]]
    torch.testing.assert_close(baselines.object_guided(similarity, prior), torch.tensor(want))
    torch.testing.assert_close(baselines.object_guided(similarity, prior, share=1.0)[0], (similarity[0] + 1) / 2)


def test_objective_takes_the_terms_of_its_kind():
    visual, audio = batch(6)
    output, scale = Output(visual, audio, None, None), torch.tensor(3.0)
    result = losses.objective(output, scale, Objective(kind="fnac"))
    torch.testing.assert_close(result.terms, baselines.fnac(visual, audio))
    torch.testing.assert_close(result.total, sum(result.terms.values()))
    torch.testing.assert_close(result.logits, losses.pooled_similarity(visual, audio, scale))
    assert result.node_ranking is None
    plain = losses.objective(output, scale, Objective(kind="ssl_align"))
    half = losses.objective(output, scale, Objective(kind="ssl_align", localization=0.5))
    torch.testing.assert_close(half.total, plain.total - 0.5 * plain.terms["localization"])
    warm = losses.objective(output, scale, Objective(kind="ez_vsl", temperature=0.1))
    torch.testing.assert_close(warm.terms, baselines.ez_vsl(visual, audio, temperature=0.1))


def test_names_of_terms_are_no_other_settings():
    """A term is weighed by the field of its name: only a weight may have one."""
    names = {name for terms in TERMS.values() for name in terms}
    assert names & set(Objective.model_fields) == {"localization"}
    assert list(TERMS) == KINDS


def test_kinds_that_cannot_be_are_refused(tmp_path):
    values = {"exp_prefix": "a", "exp_name": "b", "objective": {"kind": "lsv"}}
    with pytest.raises(ConfigError, match=r"objective\.kind: .*'context', .*'lvs', .*'ssl_align'.*lsv"):
        config.resolve(values, tmp_path)
    values["objective"]["kind"] = "lvs"
    with pytest.raises(ConfigError, match=r"objective\.kind lvs trains no nodes: set model\.reasoning to false"):
        config.resolve(values, tmp_path)
    assert config.resolve(values | {"model": {"reasoning": False}}, tmp_path).objective.kind == "lvs"
    with pytest.raises(ConfigError, match=r"objective\.kind attention has no temperature: set it to null"):
        cold = {"objective": {"kind": "attention", "temperature": 0.1}}
        config.resolve(values | cold | {"model": {"reasoning": False}}, tmp_path)
    values["objective"]["boxes"] = 0.5
    with pytest.raises(ConfigError, match=r"objective\.boxes is for attention, lvs learns without"):
        config.resolve(values | {"model": {"reasoning": False}}, tmp_path)


def test_a_baseline_is_added_as_the_readme_says():
    example = re.search(r"```python\n(def margin.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    module = types.ModuleType("with_margin")
    exec(compile(Path(baselines.__file__).read_text() + example, "baselines.py", "exec"), module.__dict__)
    visual, audio = batch(7)
    scores = best_cells(*loops(visual, audio))
    want = [max(0, 0.2 - scores[b, b] + np.mean([scores[b, n] for n in range(5) if n != b])) for b in range(5)]
    assert float(module.margin(visual, audio)["margin"]) == pytest.approx(np.mean(want), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_trains(configure, tmp_path, monkeypatch, kind):
    """Its scale waits for no gradient: several processes, waiting, would not add up the others' either."""
    step, waits = engine.training_step, set()

    def observed(model, *rest):
        waits.add(model.scale.requires_grad)
        return step(model, *rest)

    monkeypatch.setattr(engine, "training_step", observed)
    still = {"epochs": 8, "augment": {"crop": 1.0, "flip": False}}
    settings = configure(objective={"kind": kind}, model={"reasoning": False}, training=still)
    rows = pd.read_csv(engine.fit(settings, tmp_path) / "metrics.csv")
    assert set(TERMS[kind]) <= set(rows) and not {"discrimination", "divergence"} & set(rows)
    assert np.isfinite(rows.to_numpy()).all() and (rows["scale"] == settings.model.initial_scale).all()
    np.testing.assert_allclose(rows["loss"], rows[TERMS[kind]].sum(axis=1), rtol=1e-5)
    assert waits == {False}
    assert rows["loss"].iloc[-2:].mean() < rows["loss"].iloc[:2].mean()


def test_the_comparison_differs_from_the_demo_in_the_objective_and_its_saliency():
    demo, compared = (config.load(ROOT / f"notebooks/configs/{name}.yaml") for name in ("demo", "baselines"))
    for section in ("data", "front_end", "model", "objective", "training", "evaluation"):
        assert getattr(demo, section) == getattr(compared, section), section
    plain, kinds = compared.model_dump(mode="json"), set()
    for name, change in compared.ablations.variants.items():
        assert {*change} <= {"model", "objective", "evaluation"} and {*change.get("evaluation", {})} <= {"saliency"}
        used = config.resolve(config.merge(plain, change | {"exp_name": name}), ROOT)
        kinds.add(kind := used.objective.kind)
        averages = used.objective.global_contrast > 0 if kind == "context" else kind == "ssl_align"
        assert used.evaluation.saliency == (demo.evaluation.saliency if averages else 0), name
    assert kinds == {*KINDS, "context"}
