"""What keeps a finished demo from new instances, pictures or recordings: each with known ones of the other kind.

    .venv/bin/python benchmarks/new_instances.py [run/checkpoint.pt]

Scenes of two objects of the classes that have new instances; each clip hears its own class and another of them.
Intervals resample classes: clips of a class share pictures as well as recordings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sslib import checkpoint, datasets, metrics, prediction
from sslib.evaluation import measures
from sslib.evaluation.bootstrap import bootstrap

LISTS = {"known": "test", "new": "test_new_instances"}
RUN = Path(__file__).resolve().parents[1] / "reports/demo/stamps/run/checkpoint.pt"


def main() -> None:
    model, config = checkpoint.load_model(Path(sys.argv[1]) if len(sys.argv) > 1 else RUN, "cpu")
    sets = {name: datasets.AVDataset(config, split, annotated=True) for name, split in LISTS.items()}
    memory = {name: datasets.load_in_memory(dataset) for name, dataset in sets.items()}
    lists = {name: measures.AnnotatedClips.of(dataset) for name, dataset in sets.items()}
    classes = {name: np.array(clips.classes) for name, clips in lists.items()}
    shared = sorted(set(classes["known"]) & set(classes["new"]))
    rng = np.random.default_rng(config.seed)
    print(f"{len(shared)} classes; pointing accuracy with a sound of the right class, of another, and the difference")
    for pictures, clips in lists.items():
        two = np.array([len(objects) == 2 for objects in clips.field("objects")])
        rows = np.flatnonzero(two & np.isin(classes[pictures], shared))
        ids, seen = [clips.ids[row] for row in rows], classes[pictures][rows]
        masks = measures.load_ground_truth(clips._replace(ids=ids)).masks
        for sounds in LISTS:
            usable = np.isin(classes[sounds], shared)
            hits = []
            for alike in (True, False):
                heard = [rng.choice(np.flatnonzero(usable & ((classes[sounds] == name) == alike))) for name in seen]
                played = datasets.InMemory(ids, memory[pictures].image[rows], memory[sounds].waveform[np.array(heard)])
                maps = prediction.predict(model, played, config).maps["similarity"]
                hits.append(metrics.pointing(maps, masks).astype(float))
            resampling = config.evaluation.resamples, config.evaluation.confidence
            gain = bootstrap(hits[0] - hits[1], seen.tolist(), *resampling)
            right, other = (100 * hit.mean() for hit in hits)
            interval = f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
            print(f"{pictures} pictures, {sounds} recordings, {len(ids)} clips: {right:.1f} {other:.1f} {interval}")


if __name__ == "__main__":
    main()
