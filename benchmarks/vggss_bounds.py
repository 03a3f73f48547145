"""What methods that never look reach on VGG-SS, and what no method can pass: every record of the annotations.

    .venv/bin/python benchmarks/vggss_bounds.py PATH/TO/vggss.json

The last column is what is known of these bounds from outside this repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sslib import metrics
from sslib.data.published import read_vggss
from sslib.evaluation import protocols

PART = 256  # clips at a time
KNOWN = {
    ("whole image", "median"): "21.96 / 31.27",
    ("centre square", "median"): "31.85 / 36.94",
    ("oracle", "median"): "50.56 / 49.49",
    ("centre square", "adaptive"): "41.35 / 42.67",
}


def ciou(truth: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """cIoU of each clip for each bound and rule."""
    values = {}
    for rule in ("median", "adaptive"):
        values["whole image", rule] = metrics.ciou(protocols.whole_image(len(truth)), truth, rule)
        values["centre square", rule] = protocols.centre_square_ciou(truth, rule)
        values["oracle", rule] = metrics.ciou(protocols.oracle(truth), truth, rule)
    return values


def main(path: Path) -> None:
    boxed = read_vggss(path)
    print(f"{path.name}: {len(boxed.rows)} records; {boxed}")
    parts = []
    boxes = [row["boxes"] for row in boxed.rows.values()]
    for start in range(0, len(boxes), PART):
        parts.append(ciou(np.stack([metrics.box_map(b) for b in boxes[start : start + PART]]).astype(np.float32)))
    print(f"{'success / AUC, %':24}{'measured':>16}{'known':>18}")
    for name, rule in parts[0]:
        values = np.concatenate([part[name, rule] for part in parts])
        measured = f"{100 * metrics.success_rate(values):.2f} / {100 * metrics.auc(values):.2f}"
        print(f"{name + ', ' + rule:24}{measured:>16}{KNOWN.get((name, rule), ''):>18}")
    print(f"{int(np.isnan(values).sum())} records without a pixel of ground truth are left out")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
