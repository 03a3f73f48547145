"""What tables call the methods and the measures of each protocol, and which methods are controls."""

from __future__ import annotations

from collections.abc import Iterator

from sslib.evaluation.protocols import Ranks

NEGATIVES = ("silence", "noise", "offscreen")  # sounds that nothing in the picture makes
# What a row is: kind of map and sound, and how tables call it.
METHODS = {
    ("similarity", "own"): "model",
    ("similarity", "shuffled"): "model, shuffled sounds",
    ("untrained", "own"): "untrained weights",
    ("visual_only", "none"): "visual-only (foreground nodes)",
    ("visual_only_mean", "none"): "visual-only (all nodes)",
    ("whole_image", "none"): "whole image",
    ("centre_square", "none"): "centre square",
    ("oracle", "none"): "oracle ranking",
    ("random_order", "none"): "random order",
    **{("similarity", sound): f"model, {sound}" for sound in NEGATIVES},
    **{("untrained", sound): f"untrained weights, {sound}" for sound in NEGATIVES},
}
RANKS = (1, 5, 10)


def array_name(kind: str, sound: str) -> str:
    """What the array of a kind of map under a sound is called in ``maps.npz``."""
    if sound in ("own", "none"):
        return kind
    return sound if kind == "similarity" else f"{kind}_{sound}"


def recall_names() -> Iterator[tuple[str, bool, str, int]]:
    """Column, class-aware or not, direction and k of every measure of retrieval."""
    for of_class in (False, True):
        for direction in Ranks._fields:
            for k in RANKS:
                yield f"{'class_' if of_class else ''}r{k}_{direction}", of_class, direction, k


_KINDS = {"": "all negatives", **{f"_{name}": name for name in NEGATIVES}, "_native": "clips without a source"}
_THRESHOLDS = {"": "median", "_top_half": "top half", "_fixed": "universal", "_adaptive": "adaptive"}
_DIRECTIONS = {"image_to_sound": "image to sound", "sound_to_image": "sound to image"}
_LOCALIZATION = {
    f"{measure}{suffix}": f"{label}, {name} threshold"
    for suffix, name in _THRESHOLDS.items()
    for measure, label in (("success", "success rate at 0.5"), ("auc", "AUC"))
}
_MASKS = {
    "pointing": "pointing accuracy",
    "miou": "mean IoU, adaptive threshold",
    "miou_half": "mean IoU, threshold 0.5 of the scaled map",
    "f": "F (β² = 0.3)",
}
_GROUPED = {
    name: (_LOCALIZATION | _MASKS)[name]
    for name in ("pointing", "miou", "success", "auc", "success_adaptive", "auc_adaptive")
}
PROTOCOLS: dict[str, dict[str, str]] = {
    "localization": _LOCALIZATION,
    "masks": _MASKS,
    "detection": {"ap": "AP", "max_f1": "max-F1", "loc_acc": "LocAcc"},
    "universal": {
        "f_loc": "F_LOC",
        "f_auc": "F_AUC",
        **{f"pia{suffix}": f"pIA, {name}" for suffix, name in _KINDS.items()},
        **{f"aoc{suffix}": f"AOC, {name}" for suffix, name in _KINDS.items()},
    },
    "interaction": {
        "iiou": "IIoU, median threshold",
        "iauc": "IAUC, median threshold",
        "iiou_adaptive": "IIoU, adaptive threshold",
        "iauc_adaptive": "IAUC, adaptive threshold",
    },
    "retrieval": {
        name: f"R@{k}, {_DIRECTIONS[direction]}{', of the class' if of_class else ''}"
        for name, of_class, direction, k in recall_names()
    },
    "area": _GROUPED,
    "class": _GROUPED,
}
MEASURES = {measure: label for measures in PROTOCOLS.values() for measure, label in measures.items()}
LOWER_IS_BETTER = tuple(f"pia{suffix}" for suffix in _KINDS)
MODEL = "model"
# What knows less than the model: a result has to differ from all of them.
CONTROLS = tuple(
    METHODS[key]
    for key in (
        ("similarity", "shuffled"),
        ("visual_only", "none"),
        ("visual_only_mean", "none"),
        ("untrained", "own"),
        ("centre_square", "none"),
        ("whole_image", "none"),
        ("random_order", "none"),
    )
)
