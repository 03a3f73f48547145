"""Shape and type checks of the tensor code, and a tiny data folder drawn and synthesized on the spot."""

from jaxtyping import install_import_hook

CHECKED = ("sslib.model", "sslib.losses", "sslib.baselines", "sslib.features", "sslib.metrics")
# Before anything imports them: every call of their functions then checks dtypes and shapes against the annotations.
install_import_hook(CHECKED, "beartype.beartype")

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from sslib import config  # noqa: E402
from sslib.stamps import generated, scenes  # noqa: E402

torch.set_num_threads(1)  # sums are split the same way everywhere, so "bit for bit" means something

ROOT = Path(__file__).parents[1]
RATE = 8000  # Hz
VALUES = {
    "exp_prefix": "test",
    "exp_name": "tiny",
    "data": {
        "root": "data",
        "in_memory": True,
        "tests": ["test", "test_new_instances"],
        "sample_rate": RATE,
        "seconds": 1.0,
        "image_size": 64,
        "stamps": {
            "source": "generated",
            "train": 24,
            "val": 8,
            "val_new": 4,
            "test": 6,
            "test_new_instances": 4,
            "test_new_recordings": 4,
            "height": 80,
        },
    },
    "front_end": {"kind": "mel", "window": 256, "hop": 128, "mel_bands": 32},
    "model": {"width": 8, "blocks": [1, 1, 1, 1], "nodes": 8, "initial_scale": 4.0},
    "objective": {"symmetric": True, "foreground": 4, "background": 4},
    "training": {"learning_rate": 2e-3, "batch_size": 8, "epochs": 3, "accelerator": "cpu"},
    "evaluation": {"resamples": 200, "batch_size": 8},
}


def tiny(root: Path, **overrides) -> config.Config:
    """The tests' configuration with its paths below `root` and `overrides`, a nested mapping, put in."""
    return config.resolve(config.merge(VALUES, overrides), root)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """The folder that holds ``data``: scenes of generated clips in all four splits."""
    folder = tmp_path_factory.mktemp("home")
    scenes.write_scenes(tiny(folder).data, generated.generate_library(RATE, classes=6, backgrounds=8), workers=1)
    return folder


@pytest.fixture(scope="session")
def configure(home):
    """A function that gives the tests' configuration on that folder, with overrides."""
    return lambda **overrides: tiny(home, **overrides)


def run_smoke(clone: Path, *arguments: str) -> subprocess.CompletedProcess:
    """``python -m sslib run notebooks/configs/smoke.yaml`` in the copy; its kernels import the copy's sslib too."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", "sslib", "run", "notebooks/configs/smoke.yaml", *arguments]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A copy of the library and the notebooks."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("sslib", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return folder


@pytest.fixture(scope="session")
def finished(clone) -> Path:
    """The copy after one whole run."""
    done = run_smoke(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    return clone
