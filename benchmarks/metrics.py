"""Time and memory of the evaluation over 5,158 maps of 14 x 14, next to a plain loop over clips in the same run.

    python benchmarks/metrics.py [--clips N] [--resamples R]

Maps and boxes are random (seed 0), with the size of VGG-SS and areas about as there. ``core`` is cIoU, success and AUC
under the median; the loop does the same one clip at a time with torch's interpolation and ``np.median``, as the
released evaluators do. Values of both are compared before anything is printed. ``all protocols`` is what an
evaluation of one method with its controls asks for, intervals included.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sslib import metrics
from sslib.evaluation import protocols
from sslib.evaluation.bootstrap import Interval, bootstrap, bootstrap_means, bootstrap_statistic, means


def clips(count: int) -> dict[str, Any]:
    """Random raw maps with their own and other sounds, boxes, recordings, classes."""
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(count):
        width, height = np.sqrt(rng.beta(0.9, 2.0)) ** rng.uniform(0.7, 1.3, 2)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        boxes.append([left, top, left + width, top + height])
    truth = np.stack([metrics.box_map([box]) > 0 for box in boxes])
    inside = truth[:, 8::16, 8::16]
    noise = {name: rng.normal(size=(count, 14, 14)) for name in ("own", "silence", "noise", "offscreen")}
    maps = {name: (0.1 * values).astype(np.float32) for name, values in noise.items()}
    maps["own"] += 0.1 * inside
    return {
        "truth": truth,
        "maps": maps,
        "recordings": np.array([f"recording {i}" for i in rng.integers(0, count, count)]),
        "scenes": np.array([f"scene {i // 2}" for i in range(count)]),
        "classes": rng.integers(0, 220, count).astype(str),
        "similarity": rng.normal(size=(count, count)).astype(np.float32),
    }


def core(data: dict[str, Any]) -> np.ndarray:
    values = metrics.ciou(data["maps"]["own"], data["truth"])
    metrics.success_rate(values), metrics.auc(values)
    return values


def plain_loop(data: dict[str, Any]) -> np.ndarray:
    """The same without sslib: a clip at a time, every step written out."""
    import torch

    torch.set_num_threads(1)
    values = []
    for heatmap, truth in zip(data["maps"]["own"], data["truth"], strict=True):
        tensor = torch.from_numpy(heatmap.astype(np.float64))[None, None]
        large = torch.nn.functional.interpolate(tensor, size=truth.shape, mode="bilinear")[0, 0].numpy()
        claimed, wanted = (large >= np.median(large)).astype(float), truth.astype(float)
        total = wanted.sum() + (claimed * (wanted == 0)).sum()
        values.append((claimed * wanted).sum() / total if wanted.any() else np.nan)
    return np.array(values)


def everything(data: dict[str, Any], resamples: int) -> dict[str, Any]:
    """Every protocol for one method, the controls, and every interval."""
    own, truth, recordings = data["maps"]["own"], data["truth"], data["recordings"]
    negatives = {name: maps for name, maps in data["maps"].items() if name != "own"}
    level = protocols.universal_threshold({name: maps[::10] for name, maps in negatives.items()})
    rules = ("median", "top_half", "adaptive", "fixed")
    values = metrics.ciou_by_rule(own, truth, rules, level)
    values["pointing"] = metrics.pointing(own, truth)
    controls = {
        "whole": metrics.ciou(protocols.whole_image(len(truth)), truth),
        "square": protocols.centre_square_ciou(truth),
        "square, adaptive": protocols.centre_square_ciou(truth, "adaptive"),
        "shuffled": metrics.ciou(negatives["offscreen"], truth),
        "oracle": np.concatenate(
            [metrics.ciou(protocols.oracle(truth[i : i + 512]), truth[i : i + 512]) for i in range(0, len(truth), 512)]
        ),
    }
    curves = metrics.mask_curves(own, truth)
    found = {"max F": np.nanmean(curves.f, axis=0).max(), "level": level}
    columns = [
        column for one in (values | controls).values() for column in ((one >= 0.5) * 1.0, metrics.auc_per_clip(one))
    ]
    found["localization"] = bootstrap_means(np.stack(columns, axis=1), recordings, resamples)
    found["detection"] = detect(data, values["median"], resamples)
    found["silence"] = silent(data, negatives, values["fixed"], level, resamples)
    scenes = protocols.iiou(values["median"], data["scenes"])
    found["interaction"] = bootstrap(metrics.auc_per_clip(scenes), np.unique(data["scenes"]), resamples)
    answers = {"": np.eye(len(truth), dtype=bool), "class_": data["classes"][:, None] == data["classes"]}
    hits = protocols.recalls(data["similarity"], answers)
    found["retrieval"] = bootstrap_means(np.stack([*hits.values()], 1), recordings, resamples)
    return found


def detect(data: dict[str, Any], ciou: np.ndarray, resamples: int) -> dict[str, Interval]:
    count = len(ciou)
    score = np.concatenate([protocols.confidence(data["maps"][name]) for name in ("own", "offscreen")])
    positive, twice = np.arange(2 * count) < count, np.tile(data["recordings"], 2)
    values = np.concatenate([np.nan_to_num(ciou), np.full(count, np.nan)])
    statistic = protocols.detection_statistic(score, positive, values)
    return dict(zip(("ap", "max_f1", "loc_acc"), bootstrap_statistic(statistic, twice, resamples), strict=True))


def silent(
    data: dict[str, Any], negatives: dict[str, np.ndarray], ciou: np.ndarray, level: float, resamples: int
) -> list[Any]:
    success, auc = (means(column[:, None]) for column in ((ciou >= 0.5) * 1.0, metrics.auc_per_clip(ciou)))
    shares = np.stack([protocols.pia(maps, level) for maps in negatives.values()], axis=1)
    pia, aoc = (
        means(shares),
        means(np.stack([protocols.aoc_per_clip(one) for one in shares.T], axis=1)),
    )

    def harmonic(weights: np.ndarray) -> np.ndarray:
        both = protocols.f_loc(success(weights), pia(weights)), protocols.f_auc(auc(weights), aoc(weights))
        return np.concatenate(both, axis=1)

    return bootstrap_statistic(harmonic, data["recordings"], resamples)


def timed(function: Callable[[], Any]) -> tuple[Any, str]:
    """Result, and seconds by the clock and of all cores together (what a busy machine lengthens less)."""
    start, busy = time.perf_counter(), time.process_time()
    result = function()
    return result, f"{time.perf_counter() - start:6.2f} s ({time.process_time() - busy:6.2f} s of cores)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=5158)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    data = clips(options.clips)
    everything_found, seconds_all = timed(lambda: everything(data, options.resamples))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ours, seconds_core = timed(lambda: core(data))
    loop, seconds_loop = timed(lambda: plain_loop(data))
    np.testing.assert_array_equal(ours, loop)
    print(f"{options.clips} maps of 14 x 14, {options.resamples} resamples, {metrics.WORKERS} threads")
    print(f"core (cIoU, success, AUC, median)   {seconds_core}")
    print(f"plain loop over clips, the same     {seconds_loop}, every cIoU equal")
    print(f"all protocols, controls, intervals  {seconds_all}, peak memory {memory:.2f} GB")
    for name, interval in everything_found["detection"].items():
        print(f"  {name:8} {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]")


if __name__ == "__main__":
    main()
