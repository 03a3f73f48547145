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
# **Reads** the data folder that notebook 01 made. **Writes** `run/` of the experiment: `checkpoint.pt`, `metrics.csv`,
# `config.yaml`.
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
from sslib.prediction import encode_images
from sslib.report import figures, galleries, text
from sslib.report.galleries import Cell
from sslib.report.text import show

import numpy as np
import pandas as pd
import torch

settings = configuration.load(config, overrides)
folder = configuration.experiment_folder(settings)
data = datasets.AVDataset(settings, settings.data.train, train=True)
info = data.layout.info()
show(text.generated_note(info.get("generated")))

# %% [markdown]
# ## What the network sees
#
# A batch pairs each picture with the sound around its moment. The picture is squashed to a square, cropped at random
# and mirrored; the sound becomes a short-time spectrum on a logarithmic scale.

# %% tags=["teach"]
torch.manual_seed(settings.seed)
size = min(settings.training.batch_size, len(data))
batch = datasets.collate([data[index] for index in torch.randperm(len(data))[:size].tolist()])
image = features.images(batch["image"], settings, augment=True)
image, boxes = image.tensor_split([3], dim=1)  # (B, 3, S, S); boxes: of supervised training only
spectrogram = features.spectrograms(batch["waveform"], settings, augment=True)  # (B, 1, F, T)
show(
    f"{len(data):,} clips of *{info.get('name', data.layout.root.name)}*; a batch holds {size} pictures of "
    f"{image.shape[-1]} × {image.shape[-1]} pixels and as many spectrograms of {spectrogram.shape[-2]} bands × "
    f"{spectrogram.shape[-1]} frames."
)

# %% [markdown]
# The first clips of this batch as the two encoders get them, augmentation included: the picture with its sound, and
# below it the spectrogram (time to the right, frequency upwards). What belongs together is all the network is told.

# %%
shown = min(8, size)
pictures = image[:shown] * features.IMAGENET_STD + features.IMAGENET_MEAN
pictures = (pictures.clamp(0, 1) * 255).byte().numpy()
names = [f"clip {number}" for number in range(1, shown + 1)]
sounds, rate = batch["waveform"][:shown].numpy(), settings.data.sample_rate
seen = [
    Cell(name, picture, {}, sound)
    for name, picture, sound in zip(names, pictures, sounds, strict=True)
]
heard = [
    Cell(f"sound of {name}", figures.paint(spectrogram[i, 0].numpy()))
    for i, name in enumerate(names)
]
show(*(galleries.gallery(seen[i : i + 4] + heard[i : i + 4], rate) for i in range(0, shown, 4)))

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
#
# Maps that are shown and measured may add what stands out whatever sounds (`evaluation.saliency`, ours; 0 in the paper): the
# norm $\lVert V_{xy} \rVert$, which the cosine leaves out, stretched to [0, 1] in each picture and less its mean there.

# %% tags=["teach"]
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
# map to agree on where. With a baseline as `objective.kind` its own terms take their place (`sslib/baselines.py`).
#
# A pair's score is its map, pooled: at the maximum (the paper's `objective.pool: max`), or as the mean of the map under
# its own softmax, $\sum_{xy} \mathrm{softmax}_{xy}(S / 0.1)\, S_{xy}$ (`soft`), which teaches every cell by its share
# and not the one alone that is highest by chance. `silent` adds sounds that go with no picture, so that silence is far
# from all of them. `global_contrast` asks the same of the average-pooled picture, so that maps cover whole objects;
# there the sounds take no gradient, else they are learned by heart. In that average the norm of a cell is its weight, so
# this loss reaches what `saliency` shows.

# %% tags=["teach"]
objective = settings.objective
silent = features.silent_sounds(objective.silent, batch["waveform"])
model.train()
output = model(image, torch.cat([spectrogram, features.spectrograms(silent, settings)]))
sounds = torch.cat([output.audio, output.silent]) if objective.silent else output.audio
logits = losses.pooled_similarity(output.visual, sounds, model.scale, objective.pool)
asked = losses.localization(logits, objective.symmetric)
terms = {"localization": asked} if objective.kind == "context" else {}
if terms and objective.global_contrast:
    whole = output.visual.mean(dim=(2, 3), keepdim=True)
    pooled = losses.pooled_similarity(whole, sounds.detach(), model.scale)
    terms["global_contrast"] = losses.localization(pooled, objective.symmetric)
pd.Series({"visual map": output.visual, "sound vectors": sounds, "logits": logits}).map(np.shape)

# %% tags=["teach"]
if output.node_maps is not None:
    ranking = losses.rank_nodes(output.node_features, output.audio)
    terms["discrimination"] = losses.discrimination(
        output.node_features, output.audio, ranking, objective.foreground, objective.background
    )
    similarity = model.similarity(output.visual, output.audio) * model.scale
    terms["divergence"] = losses.divergence(
        output.node_maps, ranking, objective.foreground, similarity, objective.divergence_mode
    )

# %% tags=["teach"]
trained = losses.objective(output, model.scale, objective, boxes).terms
assert all(torch.isclose(value, trained[name]) for name, value in terms.items()), (
    "not what training takes"
)
terms |= trained  # a loss that you added comes along
weights = {name: getattr(objective, name, 1.0) for name in terms}
total = sum(weights[name] * value for name, value in terms.items())
total.backward()
values = {name: value.item() for name, value in terms.items()}
table = pd.DataFrame({"weight": weights, "value before training": values}).rename_axis(None)
table.style.format({"weight": "{:g}", "value before training": "{:.3f}"})

# %%
gradients = [p.grad for p in model.parameters() if p.grad is not None]
norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
show(
    f"Telling {size} sounds apart by chance costs about ln {size} = {torch.tensor(float(size)).log():.2f} nats; the "
    f"untrained network pays {asked.item():.2f}. The gradient of the weighted sum has norm {norm:.2f} "
    f"and reaches {len(gradients)} of {len(list(model.parameters()))} parameter tensors."
)

# %% [markdown]
# The pictures and sounds of this batch against each other, before any training: nothing stands out on the diagonal.

# %%
labels = list(range(1, shown + 1))
figures.similarity_matrix(logits[:shown, :shown].detach().numpy(), labels)

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
validation = datasets.AVDataset(settings, settings.data.val)
last, seconds = history.iloc[-1], history["seconds"].sum()
show(
    f"{len(history)} epoch{'s' * (len(history) > 1)} in {seconds / 60:.1f} minutes ({len(data) * len(history) / seconds:.0f} clips a second, "
    f"validation included). In the last one {last['accuracy']:.0%} of the training pictures found their own sound "
    f"among {size}; of the validation pictures {last['val_accuracy']:.0%} did among "
    f"{min(settings.evaluation.batch_size, len(validation))}."
)

# %% [markdown]
# The losses over the epochs, as they were measured on the training batches.

# %%
figures.curves({"run": history}, {name: [name] for name in terms})

# %% [markdown]
# Did it learn, or learn by heart? The same quantities on clips it was not trained on; where the validation list has
# boxes, they tell how often the map's highest point lies inside one.

# %%
panels = {
    "localization loss": ["localization", "val_loss"],
    "own sound found": ["accuracy", "val_accuracy"],
}
if "val_pointing" in history and history["val_pointing"].notna().any():
    panels["on the boxes"] = ["val_pointing", "val_success"]
scale = f"The learned scale went from {settings.model.initial_scale:.1f} to {last['scale']:.1f}."
if settings.objective.kind != "context":
    scale = f"The validation loss is the paper's, at a scale of {last['scale']:.1f}, whatever is trained."
show(figures.curves({"run": history}, panels), f"{text.overfitting(history)} {scale}")

# %% [markdown]
# ## What each node looks at
#
# The node maps of one validation picture, the nodes that were foreground most often first. They are made without
# any sound; the percentage says how often a node was among the foreground nodes recently.

# %%
clip = validation[0]
if model.reasoning is None:
    show("This is the base model: it has no visual reasoning module, and so no node maps.")
else:
    with torch.no_grad():
        visual = encode_images(model, clip["image"][None], settings)
        maps, _ = model.visual_reasoning(visual)  # (1, K, h, w)
    often = model.foreground_frequency.numpy()
    mostly = (often >= 0.5).sum()
    show(
        galleries.nodes(clip["image"].numpy(), maps[0].numpy(), often),
        f"{mostly} of {len(often)} nodes are foreground for most sounds (at least half of the time); their mean is "
        f"the map that localizes without sound. The most frequent one is foreground for {often.max():.0%} of the "
        f"clips, the least frequent for {often.min():.0%}.",
    )

# %% [markdown] tags=["optional"]
# Do the nodes tell sounds apart? Neither loss asks for it. A node whose map is positive nearly everywhere collects a
# feature like the mean of the picture, one whose map is negative the opposite; every sound is nearer to the former, so
# the sign alone can decide which nodes are foreground, whatever sounds. Cosines between the features of nodes:

# %%
if model.reasoning is not None and 0 < mostly < len(often):
    with torch.no_grad():
        images = torch.stack(
            [validation[row]["image"] for row in range(min(32, len(validation)))]
        )
        maps, nodes = model.visual_reasoning(encode_images(model, images, settings))
    nodes = torch.nn.functional.normalize(nodes, dim=1)
    alike = torch.einsum("bck,bcl->kl", nodes, nodes).numpy() / len(nodes)
    positive, front = (maps > 0).float().mean(dim=(0, 2, 3)).numpy(), often >= 0.5
    always = ((often < 0.01) | (often > 0.99)).sum()
    show(
        f"{always} of {len(often)} nodes are foreground always or never. Among each other foreground nodes have a mean "
        f"cosine of {alike[front][:, front].mean():.2f}, with the others {alike[front][:, ~front].mean():.2f}. Their "
        f"maps are positive in {positive[front].mean():.0%} of the cells, those of the others in "
        f"{positive[~front].mean():.0%}."
    )

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
found = (logits.argmax(dim=1) == torch.arange(size)).float().mean()
show(
    figures.similarity_matrix(logits[:shown, :shown].numpy(), labels),
    f"{found:.0%} of the {size} pictures of this batch now rank their own sound first. How well it localizes on "
    "clips never seen is the question of notebook 04.",
)
