"""Do the nodes of the paper's reasoning module depend on what sounds? 30 epochs on the demo's clips.

    python benchmarks/collapse.py DATA RUN [--size demo|paper] [--scale 1|10] [--clips 8000] [--epochs 30]

DATA is the demo's data folder (data/stamps, after `make demo`); the training is kept in the folder RUN, and goes on
there. `demo` is its small network at 112 px (a quarter of an hour on two cores), `paper` the paper's whole recipe,
ResNet-18 at 224 px, its own rate, batch and spectrogram, in bfloat16 (a GPU, or about an hour on two cores for 1,500
clips). The objective is the paper's in both; --scale is the learned factor of cosines (an inverse temperature) at the
start: 1 in the release. Printed is, for the validation clips, before and after the training, how often each node is
foreground, how many are so always or never, and how alike the features of nodes are.
"""

import argparse
from pathlib import Path

import torch

from sslib import datasets, engine, features, losses
from sslib.checkpoint import load_model
from sslib.config import Config, load
from sslib.model import SoundLocalizer

CONFIGS = Path(__file__).resolve().parents[1] / "notebooks/configs"
PAPERS = {"pool": "max", "symmetric": False, "silent": 0, "global_contrast": 0}


def shortened(data: Path, clips: int, run: Path) -> Path:
    """A data folder beside the run, the same but for its list of training: the first `clips` of it."""
    (folder := run / "data").mkdir(parents=True, exist_ok=True)
    for part in ("video_frames", "audios", "annotations"):
        (folder / part).unlink(missing_ok=True)
        (folder / part).symlink_to((data / part).resolve())
    (folder / "splits").mkdir(exist_ok=True)
    for name, count in (("train", clips), ("val", None)):
        ids = (data / f"splits/{name}.txt").read_text().split()[:count]
        (folder / f"splits/{name}.txt").write_text("\n".join(ids) + "\n")
    return folder.resolve()


@torch.no_grad()
def show(when: str, model: SoundLocalizer, config: Config) -> None:
    """Print how often nodes are foreground on the validation clips, and the mean cosines of their features."""
    clips = datasets.load_in_memory(datasets.AVDataset(config, config.data.val))
    often, alike = torch.zeros(config.model.nodes), torch.zeros(config.model.nodes, config.model.nodes)
    model.train(when == "before")  # random weights know no means of batches yet
    for image, waveform in zip(clips.image.split(32), clips.waveform.split(32), strict=True):
        output = model(features.images(image, config), features.spectrograms(waveform, config))
        ranking = losses.rank_nodes(output.node_features, output.audio)[:, : config.objective.foreground]
        often += torch.bincount(ranking.flatten(), minlength=len(often))
        nodes = torch.nn.functional.normalize(output.node_features, dim=1)
        alike += torch.einsum("bck,bcl->kl", nodes, nodes)
    often, alike = often / len(clips.ids), alike / len(clips.ids)
    front, never = often >= 0.5, ((often < 0.01) | (often > 0.99)).sum()
    print(f"{when}: foreground for a share of the clips", *(f"{share:.2f}" for share in often.sort(descending=True)[0]))
    print(f"{when}: {never} of {len(often)} nodes always or never (beyond 0.99 and 0.01); mean cosine "
          f"{alike[front][:, front].mean():.2f} among the mostly foreground ones (themselves included), "
          f"{alike[front][:, ~front].mean():.2f} with the others")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", choices=("demo", "paper"), default="demo")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=30)
    asked = parser.parse_args()
    data = {"root": str(shortened(asked.data, asked.clips, asked.run)), "loader": "folders", "in_memory": True}
    change = {"model": {"initial_scale": asked.scale}, "training": {"epochs": asked.epochs}}
    if asked.size == "demo":
        change |= {"data": data, "objective": PAPERS}
    else:  # scenes last 1 s, and have one frame
        change["training"]["precision"] = "bf16-mixed"
        change |= {"data": data | {"seconds": 1.0, "frame": None, "tests": ["test"]}}
    config = load(CONFIGS / f"{asked.size}.yaml", change)
    print(f"{asked.size}'s size, scale {asked.scale:g} at first, {asked.clips} clips, {asked.epochs} epochs")
    torch.manual_seed(config.seed)
    show("before", SoundLocalizer(config.model), config)
    show("after", load_model(engine.fit(config, asked.run) / "checkpoint.pt")[0], config)


if __name__ == "__main__":
    main()
