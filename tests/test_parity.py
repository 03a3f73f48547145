"""The reference values of the paper's release (parity.json), reproduced; inputs are made by the formula in it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

from sslib import losses, metrics
from sslib.config import Model
from sslib.features import log_spectrogram
from sslib.model import SoundLocalizer, VisualReasoning

VALUES = json.loads(Path(__file__).with_name("parity.json").read_text())
RELATIVE = 1e-4


def wave(shape: tuple[int, ...], k: float, scale: float = 1.0) -> torch.Tensor:
    """``scale * sin(k + 0.7310585 i)`` over the flattened index, in float64, cast to float32."""
    values = scale * np.sin(k + 0.7310585 * np.arange(math.prod(shape), dtype=np.float64))
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def assert_like(got: torch.Tensor, want: dict) -> None:
    """Shape, mean, spread and both ends of an array: 1e-4 relative plus 1e-4 of the spread."""
    assert list(got.shape) == want["shape"]
    flat = got.detach().double().flatten()
    absolute = RELATIVE * want["std"]
    close = {"rel": RELATIVE, "abs": absolute}
    assert float(flat.mean()) == pytest.approx(want["mean"], **close)
    assert float(flat.std(correction=0)) == pytest.approx(want["std"], **close)
    assert flat[:8].tolist() == pytest.approx(want["first8"], **close)
    assert flat[-4:].tolist() == pytest.approx(want["last4"], **close)


def pool(maps: torch.Tensor, how: str) -> torch.Tensor:
    """Maps of every picture with every sound to logits, through our function.

    `pooled_similarity` takes features, not maps, so each map becomes the features of a picture whose cosine with a
    one-hot sound is that map: the cells are made unit vectors by one more channel.
    """
    largest = float(maps.abs().max()) * maps.shape[1]
    features = maps / largest  # (B, N, h, w)
    rest = (1 - features.square().sum(dim=1, keepdim=True)).sqrt()
    sounds = torch.eye(maps.shape[1], maps.shape[1] + 1)
    return losses.pooled_similarity(torch.cat([features, rest], dim=1), sounds, largest, how)


@pytest.mark.parametrize("how", ["max", "avg"])
def test_localization(how):
    want = VALUES[f"loc_{how}pool"]
    logits = pool(wave((4, 4, 14, 14), 1.0, 3.0), how)
    got = logits.double().flatten()
    # The logits of maximum pooling all lie within 0.002 of 3, float32 resolves 2e-7 there: as close as that allows.
    floor = 1e-6 if how == "max" else 0
    assert got[:8].tolist() == pytest.approx(want["logits"]["first8"], abs=RELATIVE * want["logits"]["std"] + floor)
    assert_like(logits, want["logits"])
    assert float(losses.localization(logits)) == pytest.approx(want["loss"], rel=RELATIVE)


@pytest.mark.parametrize("how", ["max", "avg"])
def test_localization_is_from_pictures_to_sounds(how):
    want = VALUES[f"loc_asymmetric_{how}pool"]
    maps = wave((4, 4, 14, 14), 1.0, 3.0) * wave((4, 4, 1, 1), 2.5)
    logits = pool(maps, how)
    spread = float(np.std(want["logits"]))
    np.testing.assert_allclose(logits, want["logits"], rtol=RELATIVE, atol=RELATIVE * spread)
    ours, turned = float(losses.localization(logits)), float(losses.localization(logits.T))
    assert ours == pytest.approx(want["loss"], rel=1e-6)
    if "loss_if_transposed" in want:
        assert turned == pytest.approx(want["loss_if_transposed"], rel=1e-6)
        assert abs(ours - turned) > 10 * 1e-6 * ours  # the tolerance tells one direction from the other
        both = float(losses.localization(logits, symmetric=True))
        assert both == pytest.approx((want["loss"] + want["loss_if_transposed"]) / 2, rel=1e-6)


@pytest.mark.parametrize("foreground, background", [(8, 8), (4, 4), (4, 8)])
@pytest.mark.parametrize("mode", ["js", "kl"])
def test_discrimination_and_divergence(mode, foreground, background):
    want = VALUES[f"context_{mode}_fg{foreground}_bg{background}"]
    node_features = wave((4, 512, 16), 2.0)
    audio = F.normalize(wave((4, 512), 3.0), dim=1)
    node_maps, similarity = wave((4, 16, 14, 14), 4.0, 2.0), wave((4, 1, 14, 14), 5.0, 2.0)[:, 0]
    ranking = losses.rank_nodes(node_features, audio)
    dis = losses.discrimination(node_features, audio, ranking, foreground, background)
    div = losses.divergence(node_maps, ranking, foreground, similarity, mode)
    assert float(dis) == pytest.approx(want["dis"], rel=RELATIVE)
    assert float(div) == pytest.approx(want["div"], rel=RELATIVE)


@torch.no_grad()
def test_reasoning_module():
    want = VALUES["reasoning_module"]
    module = VisualReasoning(512).eval()
    module.filters.weight.copy_(wave((16, 512, 1, 1), 6.0, 0.1))
    node_maps, node_features = module(wave((2, 512, 14, 14), 7.0))
    assert_like(node_maps, want["node_maps"])
    assert_like(node_features, want["node_features"])


@torch.no_grad()
def test_whole_model():
    want = VALUES["whole_model"]
    model = SoundLocalizer(Model()).eval()
    for encoder, first in ((model.image_encoder, 0), (model.audio_encoder, 100)):
        convolutions = {name: value for name, value in encoder.named_parameters() if value.dim() == 4}
        assert sorted(convolutions) == want["conv_order"]
        for number, name in enumerate(sorted(convolutions), first):
            weight = convolutions[name]
            weight.copy_(wave(tuple(weight.shape), number, math.sqrt(6 / weight[0].numel())))
    model.reasoning.filters.weight.copy_(wave((16, 512, 1, 1), 6.0, 0.1))
    output = model(wave((2, 3, 224, 224), 8.0), wave((2, 1, 257, 301), 9.0))
    similarity = model.similarity(output.visual, output.audio) * model.scale
    assert_like(similarity[:, None], want["av_map"])
    assert_like(output.node_maps, want["node_maps"])


def test_log_spectrogram():
    assert_like(log_spectrogram(wave((72000,), 10.0, 0.8)), VALUES["log_spectrogram"]["value"])


@pytest.mark.parametrize("rate, window, hop, samples", [(24000, 512, 238, 72000), (8000, 255, 100, 3000)])
def test_log_spectrogram_is_that_of_scipy(rate, window, hop, samples):
    rng = np.random.default_rng(0)
    sound = rng.uniform(-1.2, 1.2, (2, 3, samples))
    _, _, power = scipy.signal.spectrogram(sound.clip(-1, 1), rate, nperseg=window, noverlap=window - hop)
    got = log_spectrogram(torch.from_numpy(sound).float(), rate, window, hop)
    np.testing.assert_allclose(got, np.log(power + 1e-7) / 12, atol=2e-4)
    for index in np.ndindex(2, 3):  # batched or alone
        np.testing.assert_allclose(log_spectrogram(torch.from_numpy(sound[index]).float(), rate, window, hop),
                                   got[index], atol=1e-6)  # fmt: skip


def reference_maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth and both sets of heatmaps of the metrics' reference."""
    truth = np.zeros((6, 224, 224))
    row, column = np.mgrid[:14, :14]
    blobs = []
    for i in range(6):
        truth[i, 20 + 10 * i : 160, 10 + 15 * i : 150 + 12 * i] = 1
        blobs.append(np.exp(-((row - 6) ** 2 + (column - 5 - 0.8 * i) ** 2) / (6 + 4 * i)))
    waves = np.stack([wave((14, 14), 11.0 + i).numpy() for i in range(6)])
    return truth, waves, np.stack(blobs).astype(np.float32)


def test_metrics():
    want = VALUES["metrics"]
    truth, waves, blobs = reference_maps()
    for heatmaps, name in ((waves, "a"), (blobs, "b")):
        values = metrics.ciou(heatmaps, truth)
        assert values == pytest.approx(want[f"ciou_{name}"], rel=RELATIVE)
        assert metrics.auc(values) == pytest.approx(want[f"auc_{name}"], rel=RELATIVE)
    assert metrics.success_rate(values) == pytest.approx(want["success_b"], rel=RELATIVE)


def test_every_reference_value_is_used():
    source = Path(__file__).read_text()
    names = {name for name in VALUES if name not in ("input_rule", "tolerance")}
    families = ("loc_{how}pool", "loc_asymmetric_{how}pool", "context_{mode}_fg{foreground}_bg{background}")
    assert all(family in source for family in families)
    alone = {name for name in names if not name.startswith(("loc_", "context_"))}
    assert all(f'VALUES["{name}"]' in source for name in alone)
    assert len(names - alone) == 4 + 6
