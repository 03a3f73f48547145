"""Does training on a GPU give what a CPU gives, and how fast is it? For a machine that has one.

    python benchmarks/gpu.py            needs torch, torchvision, lightning-fabric, scipy, librosa and sslib itself

Prints, for the paper's network at 224 px: the largest differences of features, maps, losses and gradients between CPU
and GPU in full precision, then clips per second and peak memory of a training step by precision and batch size.
"""

from __future__ import annotations

import sys
import time

import torch

from sslib import engine, features, losses
from sslib.config import Config, merge
from sslib.model import SoundLocalizer

VALUES = {"exp_prefix": "benchmark", "exp_name": "gpu", "objective": {"symmetric": True}}
STEPS = 20


def batch(config: Config, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, samples = round(config.data.image_size * 1.1), round(config.data.seconds * config.data.sample_rate)
    return {
        "image": torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8),
        "waveform": torch.randint(-3000, 3000, (count, samples), generator=generator, dtype=torch.int16),
    }


def equality(count: int = 8) -> None:
    """One forward and backward pass without dropout on both devices, TF32 off."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = Config.model_validate(merge(VALUES, {"model": {"feature_dropout": 0.0}}))
    torch.manual_seed(0)
    state = SoundLocalizer(config.model).state_dict()
    results = {}
    for device in ("cpu", "cuda"):
        model = SoundLocalizer(config.model).to(device)
        model.load_state_dict(state)
        clips = {name: value.to(device) for name, value in batch(config, count).items()}
        image = features.images(clips["image"][..., :224, :224], config)
        spectrogram = features.spectrograms(clips["waveform"], config)
        output = model(image, spectrogram)
        result = losses.objective(output, model.scale, config.objective)
        result.total.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        values = {"spectrogram": spectrogram, "visual map": output.visual, "sound vectors": output.audio}
        values |= {name: term for name, term in result.terms.items()} | {"gradient": gradient}
        results[device] = {name: value.detach().double().cpu() for name, value in values.items()}
    print("| value | largest difference | relative to its largest value |\n|---|---|---|")
    for name, expected in results["cpu"].items():
        gap = float((results["cuda"][name] - expected).abs().max())
        print(f"| {name} | {gap:.2e} | {gap / float(expected.abs().max()):.2e} |")


def speed(precision: str, count: int) -> tuple[float, float]:
    """Clips per second (median step) and GB of GPU memory at the most."""
    config = Config.model_validate(
        merge(VALUES, {"training": {"precision": precision, "accelerator": "gpu", "batch_size": count}})
    )
    fabric = engine.start_fabric(config)
    model = SoundLocalizer(config.model)
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-4))
    clips = {name: value.to(fabric.device) for name, value in batch(config, count).items()}
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        fabric.backward(engine.training_step(model, clips, config, fabric).total)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return count / sorted(times)[STEPS // 2], torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    print(torch.cuda.get_device_name(), torch.__version__)
    equality()
    print("\n| precision | batch | clips/s | GB |\n|---|---|---|---|")
    for precision in ("32-true", "bf16-mixed"):
        for count in (128, 256):
            clips, memory = speed(precision, count)
            print(f"| {precision} | {count} | {clips:.0f} | {memory:.1f} |")


if __name__ == "__main__":
    main()
