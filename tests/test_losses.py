"""The losses against loops over their definitions, library functions and the properties that they must have."""

import math
import re
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax

from sslib import losses
from sslib.config import Objective
from sslib.model import Output

SEEDS = st.integers(0, 2**32 - 1)
CHEAP = settings(max_examples=25, deadline=None)


def tensors(seed: int, count: int = 4, channels: int = 10, nodes: int = 6, size: tuple[int, int] = (3, 5)) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "visual": 3 * draw(count, channels, *size),
        "audio": torch.nn.functional.normalize(draw(count, channels), dim=1),
        "node_maps": 2 * draw(count, nodes, *size),
        "node_features": 5 * draw(count, channels, nodes),
        "similarity": 2 * draw(count, *size),
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("pool", ["max", "avg", "soft"])
def test_pooled_similarity(pool):
    t = tensors(0)
    visual, sounds = t["visual"].double().numpy(), torch.cat([t["audio"], 4 * t["audio"][:2].flip(1)]).numpy()
    logits = losses.pooled_similarity(t["visual"], torch.from_numpy(sounds), 2.5, pool)
    assert logits.shape == (4, 6)
    for b in range(4):
        for n in range(6):
            cells = [cosine(visual[b, :, y, x], sounds[n]) for y in range(3) for x in range(5)]
            shares = [math.exp(cell / 0.1) for cell in cells]  # soft: each cell counts by its softmax at 0.1
            soft = sum(share * cell for share, cell in zip(shares, cells, strict=True)) / sum(shares)
            want = {"max": max(cells), "avg": sum(cells) / len(cells), "soft": soft}[pool]
            assert float(logits[b, n]) == pytest.approx(2.5 * want, abs=1e-5)


def test_localization():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [0.2, 0.1, 0.4]])
    to_sounds = -np.mean([log_softmax(logits[b].numpy())[b] for b in range(3)])
    to_pictures = -np.mean([log_softmax(logits[:, n].numpy())[n] for n in range(3)])
    assert float(losses.localization(logits)) == pytest.approx(to_sounds, rel=1e-6)
    assert float(losses.localization(logits, symmetric=True)) == pytest.approx((to_sounds + to_pictures) / 2, rel=1e-6)
    assert abs(to_sounds - to_pictures) > 0.01


def test_sounds_of_no_image_are_wrong_for_every_image_and_have_no_direction_of_their_own():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])  # two images, their sounds, one of nothing
    to_sounds = -np.mean([log_softmax(logits[b].numpy())[b] for b in range(2)])
    to_pictures = -np.mean([log_softmax(logits[:, n].numpy())[n] for n in range(2)])
    assert float(losses.localization(logits)) == pytest.approx(to_sounds, rel=1e-6)
    assert float(losses.localization(logits, symmetric=True)) == pytest.approx((to_sounds + to_pictures) / 2, rel=1e-6)


@pytest.mark.parametrize("silent", [0, 2])
def test_global_contrast(silent):
    """InfoNCE over the cosines of the mean of each visual map with all sounds, those of nothing among them.

    It teaches the image encoder only.
    """
    t, nothing = tensors(10), tensors(11)["audio"][:silent] if silent else None
    for side in ("visual", "audio"):
        t[side].requires_grad_()
    config = Objective(symmetric=True, global_contrast=0.3, pool="soft")
    result = losses.objective(Output(t["visual"], t["audio"], None, None, nothing), torch.tensor(2.0), config)
    gradients = torch.autograd.grad(result.terms["global_contrast"], [t["visual"], t["audio"]],
                                    retain_graph=True, allow_unused=True)  # fmt: skip
    assert gradients[0].any() and gradients[1] is None
    visual, audio = t["visual"].detach().double().numpy(), t["audio"].detach()
    sounds = torch.cat([audio, nothing]).numpy() if silent else audio.numpy()
    logits = [[2 * cosine(v.mean(axis=(1, 2)), a) for a in sounds] for v in visual]
    to_sounds = [log_softmax(row)[b] for b, row in enumerate(logits)]
    to_pictures = [log_softmax([row[n] for row in logits])[n] for n in range(4)]
    want = -(np.mean(to_sounds) + np.mean(to_pictures)) / 2
    assert result.logits.shape == (4, 4 + silent)
    assert result.terms["global_contrast"].item() == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(result.total, result.terms["localization"] + 0.3 * result.terms["global_contrast"])


def test_localization_of_what_knows_nothing_is_log_of_the_batch():
    assert float(losses.localization(torch.zeros(7, 7))) == pytest.approx(math.log(7), rel=1e-6)


def test_node_ranking():
    t = tensors(1)
    ranking = losses.rank_nodes(t["node_features"], t["audio"])
    for b in range(4):
        values = [cosine(t["node_features"][b, :, k].numpy(), t["audio"][b].numpy()) for k in range(6)]
        assert ranking[b].tolist() == sorted(range(6), key=lambda k: -values[k])


@pytest.mark.parametrize("foreground, background", [(3, 3), (2, 4), (4, 4), (6, 6), (1, 1)])
def test_discrimination(foreground, background):
    t = tensors(2)
    ranking = losses.rank_nodes(t["node_features"], t["audio"])
    found = losses.discrimination(t["node_features"], t["audio"], ranking, foreground, background)
    want = []
    for b in range(4):
        values = sorted(cosine(t["node_features"][b, :, k].numpy(), t["audio"][b].numpy()) for k in range(6))
        front, back = np.mean(values[-foreground:]), np.mean(values[:background])
        want.append(math.log(1 + math.exp(back - front)))
    assert float(found) == pytest.approx(np.mean(want), rel=1e-5)
    assert math.log(1 + math.exp(-2)) - 1e-6 <= float(found) <= math.log(2) + 1e-6  # cosines are at most 2 apart


@pytest.mark.parametrize("mode", ["js", "kl"])
@pytest.mark.parametrize("foreground", [1, 3, 6])
def test_divergence(mode, foreground):
    t = tensors(3)
    ranking = losses.rank_nodes(t["node_features"], t["audio"])
    want = []
    for b in range(4):
        mean = np.mean([t["node_maps"][b, k].double().numpy() for k in ranking[b, :foreground]], axis=0)
        nodes, sound = softmax(mean.ravel()), softmax(t["similarity"][b].double().numpy().ravel())
        want.append(scipy.stats.entropy(sound, nodes) if mode == "kl" else jensenshannon(nodes, sound) ** 2)
    found = losses.divergence(t["node_maps"], ranking, foreground, t["similarity"], mode)
    assert float(found) == pytest.approx(np.mean(want), rel=1e-5)


@pytest.mark.parametrize("mode", ["js", "kl"])
def test_divergence_of_equal_maps_is_nothing(mode):
    maps = torch.randn(3, 4, 5)
    ranking = torch.arange(2).expand(3, 2)
    nodes = torch.stack([maps + 1, maps - 3], dim=1)  # their mean differs by a constant only
    assert float(losses.divergence(nodes, ranking, 2, maps, mode)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", ["js", "kl"])
def test_divergence_of_maps_far_apart_is_finite(mode):
    """Softmax of these maps has exact zeros in float32; in log space neither value nor gradient minds."""
    one, other = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    one[0, 0, 0], other[0, 1, 1] = 300, 300
    one.requires_grad_()
    found = losses.divergence(one[:, None], torch.zeros(1, 1, dtype=torch.long), 1, other, mode)
    found.backward()
    assert float(found.detach()) == pytest.approx(math.log(2) if mode == "js" else 300, rel=1e-5)
    assert one.grad.isfinite().all()


@CHEAP
@given(SEEDS, st.floats(0.01, 30))
def test_js_is_symmetric_and_at_most_log_2(seed, sharpness):
    t = tensors(seed)
    one, other = sharpness * t["node_maps"][:, 0], sharpness * t["similarity"]
    ranking = torch.zeros(4, 1, dtype=torch.long)
    there = float(losses.divergence(one[:, None], ranking, 1, other, "js"))
    back = float(losses.divergence(other[:, None], ranking, 1, one, "js"))
    assert there == pytest.approx(back, rel=1e-4, abs=1e-6)
    assert -1e-6 <= there <= math.log(2) + 1e-6


def values(t: dict, config: Objective) -> list[float]:
    output = Output(t["visual"], t["audio"], t["node_maps"], t["node_features"])
    result = losses.objective(output, torch.tensor(3.0), config)
    return [float(result.total), *map(float, result.terms.values())]


@CHEAP
@given(SEEDS, st.booleans(), st.sampled_from(["js", "kl"]))
def test_order_of_clips_nodes_and_cells_does_not_matter(seed, symmetric, mode):
    config = Objective(foreground=2, background=3, symmetric=symmetric, divergence_mode=mode)
    t, rng = tensors(seed), np.random.default_rng(seed)
    want = values(t, config)
    clips, nodes = rng.permutation(4), rng.permutation(6)
    assert values({name: value[clips] for name, value in t.items()}, config) == pytest.approx(want, rel=1e-4)
    moved = t | {"node_maps": t["node_maps"][:, nodes], "node_features": t["node_features"][:, :, nodes]}
    assert values(moved, config) == pytest.approx(want, rel=1e-4)
    turned = t | {"visual": t["visual"].flip(3), "node_maps": t["node_maps"].flip(3)}
    assert values(turned, config) == pytest.approx(want, rel=1e-4)


@CHEAP
@given(SEEDS, st.floats(0.1, 10))
def test_only_directions_of_features_count(seed, factor):
    """Cosines mind no lengths, softmax no offset."""
    config, t = Objective(foreground=3, background=3), tensors(seed)
    longer = t | {name: factor * t[name] for name in ("visual", "audio", "node_features")}
    longer["node_maps"] = t["node_maps"] + factor
    assert values(longer, config) == pytest.approx(values(t, config), rel=1e-4)


def test_objective_weighs_the_terms_by_name():
    t = tensors(5)
    config = Objective(foreground=2, background=2, localization=0.7, discrimination=0.3, divergence=2.0)
    output = Output(t["visual"], t["audio"], t["node_maps"], t["node_features"])
    result = losses.objective(output, torch.tensor(3.0), config)
    logits = losses.pooled_similarity(t["visual"], t["audio"], 3.0)
    ranking = losses.rank_nodes(t["node_features"], t["audio"])
    similarity = torch.stack([3 * torch.cosine_similarity(v, a[:, None, None], dim=0)
                              for v, a in zip(t["visual"], t["audio"], strict=True)])  # fmt: skip
    want = {
        "localization": losses.localization(logits),
        "discrimination": losses.discrimination(t["node_features"], t["audio"], ranking, 2, 2),
        "divergence": losses.divergence(t["node_maps"], ranking, 2, similarity, "js"),
    }
    torch.testing.assert_close(result.terms, want)
    total = 0.7 * want["localization"] + 0.3 * want["discrimination"] + 2 * want["divergence"]
    torch.testing.assert_close(result.total, total)
    torch.testing.assert_close(result.logits, logits)
    assert torch.equal(result.node_ranking, ranking)


def test_base_model_has_the_localization_loss_only():
    t = tensors(6)
    result = losses.objective(Output(t["visual"], t["audio"], None, None), torch.tensor(2.0), Objective())
    assert list(result.terms) == ["localization"] and result.node_ranking is None
    torch.testing.assert_close(result.total, result.terms["localization"])


def test_a_loss_is_added_as_the_readme_says():
    """Its lines put where they say: without a weight, and with one."""
    source, readme = Path(losses.__file__).read_text(), Path(losses.__file__).parents[1] / "README.md"
    example = re.search(r"```python\n(def smoothness.*?)```", readme.read_text(), re.DOTALL)[1]
    function, term = example.split('\n\n\nterms["')
    before, after = source.split("class Losses(")
    place = "    # A new term comes here"
    assert place in after
    changed = before + function + "\n\n\nclass Losses(" + after.replace(place, f'    terms["{term}\n{place}')
    module = types.ModuleType("with_smoothness")
    exec(compile(changed, "losses.py", "exec"), module.__dict__)

    class More(Objective):
        smoothness: float = Field(0.0, ge=0.0)

    t, scale = tensors(9), torch.tensor(3.0)
    output = Output(t["visual"], t["audio"], t["node_maps"], t["node_features"])
    found = module.objective(output, scale, More(foreground=3, background=3, smoothness=0.5))
    plain = losses.objective(output, scale, Objective(foreground=3, background=3))
    maps = 3 * torch.stack([torch.cosine_similarity(v, a[:, None, None], dim=0)
                            for v, a in zip(t["visual"], t["audio"], strict=True)])  # fmt: skip
    jumps = (maps[:, 1:] - maps[:, :-1]).abs().mean() + (maps[:, :, 1:] - maps[:, :, :-1]).abs().mean()
    assert list(found.terms) == [*plain.terms, "smoothness"]
    torch.testing.assert_close(found.terms["smoothness"], jumps)
    torch.testing.assert_close(found.total, plain.total + 0.5 * jumps)
    unweighted = module.objective(output, scale, Objective(foreground=3, background=3))
    torch.testing.assert_close(unweighted.total, plain.total + jumps)


def test_float32_inside_whatever_the_precision():
    t = tensors(7)
    half = {name: value.bfloat16() for name, value in t.items()}
    config = Objective(foreground=3, background=3)
    output = Output(half["visual"], half["audio"], half["node_maps"], half["node_features"])
    result = losses.objective(output, torch.tensor(3.0), config)
    assert all(value.dtype == torch.float32 for value in (result.total, result.logits, *result.terms.values()))
    rounded = {name: value.float() for name, value in half.items()}
    again = [float(result.total), *map(float, result.terms.values())]
    assert again == pytest.approx(values(rounded, config), rel=1e-5)


def test_wrong_shapes_and_kinds_are_refused_under_test():
    """The shape annotations are live: a transposed batch cannot slip through unseen."""
    t = tensors(8)
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        losses.localization(torch.zeros(3, 4, 1))
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        losses.pooled_similarity(t["visual"], t["audio"][:, :-1])
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        losses.rank_nodes(t["node_features"].transpose(1, 2), t["audio"])
