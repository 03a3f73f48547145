# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Training
#
# *What does the network learn from, and how does the learning go?* A picture and a sound that were recorded
# together are the only supervision: no box, no class, no word.
#
# **Reads** the data folder that [01 · Data preparation](01_data_preparation.html) made. **Writes** `run/` of the
# experiment: `checkpoint.pt`, `metrics.csv`, `config.yaml`. **Next**: [03 · Ablations](03_ablations.html).
#
# When the run is complete already, this notebook loads it and reports; `retrain = True` starts over.

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}
retrain = False

# %%
from sslib import checkpoint, datasets, engine, features, losses
from sslib import config as configuration
from sslib.model import SoundLocalizer
from sslib.report import figures as viz

import pandas as pd
import torch
from IPython.display import Markdown, display

settings = configuration.load(config, overrides)
folder = configuration.experiment_folder(settings)
data = datasets.AVDataset(settings, settings.data.train, train=True)
info = data.layout.info()
if info.get("generated"):
    display(
        Markdown(
            "> **Generated clips.** Drawn shapes and synthesized sounds stand in for real media here."
        )
    )

# %% [markdown]
# ## What the network sees
#
# A batch pairs each picture with the sound around its moment. The picture is squashed to a square, cropped at random
# and mirrored; the sound becomes a short-time spectrum on a logarithmic scale.

# %%
torch.manual_seed(settings.seed)
size = min(settings.training.batch_size, len(data))
batch = datasets.collate([data[index] for index in torch.randperm(len(data))[:size].tolist()])
image = features.images(batch["image"], settings, augment=True)  # (B, 3, S, S)
spectrogram = features.spectrograms(batch["waveform"], settings, augment=True)  # (B, 1, F, T)
display(
    Markdown(
        f"{len(data):,} clips of *{info.get('name', data.layout.root.name)}*; a batch holds {size} pictures of "
        f"{image.shape[-1]} × {image.shape[-1]} pixels and as many spectrograms of {spectrogram.shape[-2]} bands × "
        f"{spectrogram.shape[-1]} frames."
    )
)

# %% [markdown]
# The first clips of this batch as the two encoders see them, augmentation included. What belongs together is in one
# column; that is all the network is told.

# %%
shown = min(8, size)
deviation = torch.tensor(features.IMAGENET_STD)[:, None, None]
mean = torch.tensor(features.IMAGENET_MEAN)[:, None, None]
viz.contact_sheet(
    ((image[:shown] * deviation + mean).clamp(0, 1) * 255).byte().numpy(),
    [f"clip {number}" for number in range(1, shown + 1)],
    spectrogram[:shown, 0].numpy(),
)

# %% [markdown]
# ## The model
#
# Two residual encoders give a visual map $V \in \mathbb{R}^{C \times h \times w}$ and a sound vector
# $a \in \mathbb{R}^{C}$. The similarity map is the cosine of every cell with the sound,
#
# $$ S_{xy} = \frac{V_{xy} \cdot a}{\lVert V_{xy} \rVert \, \lVert a \rVert}, $$
#
# and the visual reasoning module looks at the picture alone: $K$ learned filters give node maps $M_k$, and each node
# collects a feature $O_k = \sum_{xy} V_{xy} M_{k,xy}$ (paper, section 3.2).

# %%
model = SoundLocalizer(settings.model)
parameters = pd.DataFrame(
    [
        {"part": name, "parameters": sum(p.numel() for p in part.parameters())}
        for name, part in model.named_children()
    ]
)
parameters.style.format({"parameters": "{:,}"}).hide(axis="index")

# %% [markdown]
# ## One step in the open
#
# Everything that training repeats, once and by hand: forward, the three losses, backward. The **localization** loss
# asks each picture for its own sound among those of the batch, the **discrimination** loss wants the nodes that go
# with the sound to stand apart from the others, the **divergence** loss wants the foreground nodes and the similarity
# map to agree on where.

# %%
model.train()
output = model(image, spectrogram)
logits = losses.pooled_similarity(
    output.visual, output.audio, model.scale, settings.objective.pool
)
terms = {"localization": losses.localization(logits, settings.objective.symmetric)}
{
    "visual map": tuple(output.visual.shape),
    "sound vectors": tuple(output.audio.shape),
    "logits": tuple(logits.shape),
}

# %%
if output.node_maps is not None:
    objective = settings.objective
    ranking = losses.rank_nodes(output.node_features, output.audio)
    terms["discrimination"] = losses.discrimination(
        output.node_features, output.audio, ranking, objective.foreground, objective.background
    )
    similarity = model.similarity(output.visual, output.audio) * model.scale
    terms["divergence"] = losses.divergence(
        output.node_maps, ranking, objective.foreground, similarity, objective.divergence_mode
    )

# %%
total = sum(getattr(settings.objective, name) * value for name, value in terms.items())
total.backward()
whole = losses.objective(output, model.scale, settings.objective).total
assert torch.isclose(total, whole), "the step above must be the one that training takes"
table = pd.DataFrame(
    [
        {
            "loss": name,
            "weight": getattr(settings.objective, name),
            "value before training": value.item(),
        }
        for name, value in terms.items()
    ]
)
table.style.format({"value before training": "{:.3f}"}).hide(axis="index")

# %%
chance = torch.tensor(float(size)).log().item()
gradient = (
    torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
)
display(
    Markdown(
        f"Telling {size} sounds apart by chance costs ln {size} = {chance:.2f} nats; the untrained network pays "
        f"{terms['localization'].item():.2f}. The gradient of the weighted sum has norm {gradient:.2f} and reaches "
        f"{sum(p.grad is not None for p in model.parameters())} of {len(list(model.parameters()))} parameter tensors."
    )
)

# %% [markdown]
# The pictures and sounds of this batch against each other, before any training: nothing stands out on the diagonal.

# %%
labels = list(range(1, shown + 1))
viz.similarity_matrix(logits[:shown, :shown].detach().numpy(), labels)

# %% [markdown]
# ## Training
#
# `engine.fit` repeats this step. After each epoch it validates on a list of its own, never on a test list, and
# replaces the checkpoint; a run that was interrupted goes on from there as if it had never stopped.

# %%
run = engine.fit(settings, folder, retrain=retrain)
state = checkpoint.load_checkpoint(run / checkpoint.NAME)
history = pd.DataFrame(state["history"])
model, _ = checkpoint.load_model(run / checkpoint.NAME)

# %%
last = history.iloc[-1]
display(
    Markdown(
        f"{len(history)} epochs in {history['seconds'].sum() / 60:.1f} minutes "
        f"({len(data) * len(history) / history['seconds'].sum():.0f} clips a second, validation included). "
        f"In the last one {last['accuracy']:.0%} of the training pictures found their own sound among "
        f"{size}; of the validation pictures {last['val_accuracy']:.0%} did among "
        f"{settings.evaluation.batch_size}."
    )
)

# %% [markdown]
# The three losses over the epochs, as they were measured on the training batches.

# %%
viz.curves({"run": history}, {name: [name] for name in terms})

# %% [markdown]
# Did it learn, or learn by heart? The same quantities on clips it was not trained on; where the validation list has
# boxes, they tell how often the map's highest point lies inside one.

# %%
viz.curves(
    {"run": history},
    {
        "localization loss": ["localization", "val_loss"],
        "own sound found": ["accuracy", "val_accuracy"],
        "on the boxes": ["val_pointing", "val_success"],
    },
)

# %%
best = history.loc[history["val_loss"].idxmin()]
rising = last["val_loss"] > best["val_loss"] * 1.02
display(
    Markdown(
        f"The validation loss was lowest in epoch {best['epoch']:.0f} of {len(history)} ({best['val_loss']:.3f}; "
        f"{last['val_loss']:.3f} at the end): "
        + (
            "it rises again, a sign of learning by heart."
            if rising
            else "it had not begun to rise."
        )
        + f" The learned scale went from {settings.model.initial_scale:.1f} to {last['scale']:.1f}."
    )
)

# %% [markdown]
# ## What each node looks at
#
# The node maps of one validation picture, the nodes that were foreground most often first. They are made without
# any sound; the percentage says how often a node was among the foreground nodes of late.

# %%
view = datasets.AVDataset(settings, settings.data.val)
clip = view[0]
picture = clip["image"].numpy()
if model.reasoning is not None:
    with torch.no_grad():
        node_maps, _ = model.visual_reasoning(
            model.encode_image(features.images(clip["image"][None], settings))
        )
    frequency = model.foreground_frequency.numpy()
    display(viz.node_maps(picture, node_maps[0].numpy(), frequency, (-frequency).argsort()))

# %%
if model.reasoning is not None:
    mostly = int((frequency >= 0.5).sum())
    words = (
        f"{mostly} of {len(frequency)} nodes are foreground for most sounds (at least half of the time); their mean "
        f"is the map that localizes without sound. The most frequent one is foreground for {frequency.max():.0%} of "
        f"the clips, the least frequent for {frequency.min():.0%}."
    )
else:
    words = "This is the base model: it has no visual reasoning module, and so no node maps."
display(Markdown(words))

# %% [markdown]
# ## The batch again, after training
#
# The same pictures and sounds as above. Now the pairs should stand out on the diagonal.

# %%
model.train(False)
with torch.no_grad():
    output = model(image, spectrogram)
    logits = losses.pooled_similarity(
        output.visual, output.audio, model.scale, settings.objective.pool
    )
viz.similarity_matrix(logits[:shown, :shown].numpy(), labels)

# %%
found = (logits.argmax(dim=1) == torch.arange(size)).float().mean().item()
display(
    Markdown(
        f"{found:.0%} of the {size} pictures of this batch now rank their own sound first. "
        "How well it localizes on clips never seen is the question of [04 · Evaluation](04_evaluation.html)."
    )
)
