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
# # 05 · Explore
#
# *What does the model hear in a picture, and what does it make of another sound?*
#
# In JupyterLab (`make lab`) this page is a room to play in. What is seen here are the same panels, drawn once.

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
from sslib import config as configuration
from sslib import datasets, load
from sslib.evaluation import comparison
from sslib.report import explorer, figures, galleries, rooms, text
from sslib.report.explorer import Explorer
from sslib.report.text import show

import ipywidgets
import numpy as np
from IPython.display import display
from sklearn.metrics import pairwise_distances

# %%
settings = configuration.load(config, overrides)
folder = configuration.experiment_folder(settings)
model, data = load(folder), datasets.AVDataset(settings, settings.data.tests[0])
results = None
if (
    folder / "run/summary.json"
).is_file():  # after notebook 04: the best and the worst maps are known
    results = comparison.read_clips(folder / "run")
found = folder.parents[1].glob("*/*/**/run/checkpoint.pt")
others = {
    path.parents[1].relative_to(folder.parents[1]).as_posix(): path for path in sorted(found)
}
explore = Explorer(data, {settings.exp_name: model}, results, others)
show(text.generated_note(data.layout.info().get("generated", False)))

# %% [markdown]
# ## The room
#
# Choose a clip, then another sound: that of another clip, a mixture of two, silence, noise, or a file of your own. The
# maps answer at once, because what was encoded is kept. *Without sound* is what the picture alone suggests; a node is one
# of the kinds of things that the reasoning module looks for.

# %%
display(rooms.ExplorerRoom(explore).view)

# %% [markdown]
# ## One picture, several sounds
#
# The first scene of the list, not chosen, or the first clip where scenes are not known: with its own sounds, with both at
# once, and with what has no source in it. A model that listens moves its map from row to row.

# %%
about = explore.annotations
scene = about.get(data.ids[0], {}).get("scene", data.ids[0])
clips = [i for i in data.ids if about.get(i, {}).get("scene", i) == scene]
first, last = clips[0], clips[-1] if len(clips) > 1 else data.ids[-1]
sounds = {f"♪ {explore.class_of(i) or i}": explore.sound(i, "its own") for i in (first, last)}
sounds["both"] = explore.sound(first, "a mixture", last)
sounds |= {name: explore.sound(first, name) for name in ("silence", "noise")}
show(explore.figure(first, sounds))
show("\n".join(f"- {name}: {explore.confidence(first, sounds[name])}" for name in sounds))

# %% [markdown]
# ## From one sound to the other
#
# The share of the second sound grows from map to map.

# %%
shares = np.linspace(0, 1, 6)
mixed = {share: explore.sound(first, "a mixture", last, share) for share in shares}
maps = {share: explore.map(settings.exp_name, first, mixed[share]) for share in shares}
low, high = min(map(np.min, maps.values())), max(map(np.max, maps.values()))
image = explore.picture(first).transpose(2, 0, 1)
drawn = {share: figures.overlay(image, maps[share], (low, high)) for share in shares}
cells = [galleries.Cell(f"{share:.0%}", drawn[share], {}, mixed[share]) for share in shares]
show(galleries.gallery(cells, explore.rate, columns=3, bright="heard here"))

# %% [markdown] tags=["optional"]
# ## What the nodes look for
#
# Each node of the reasoning module is a filter over the picture; it hears nothing. In percent: how often it was among
# the foreground nodes in training. Nodes at 0 % or 100 % are chosen whatever sounds.

# %%
nodes = explore.node_maps(settings.exp_name, first)
if len(nodes):
    frequency = model.model.foreground_frequency.numpy()
    show(galleries.nodes(image, nodes, frequency))
    fixed = ((frequency < 0.01) | (frequency > 0.99)).sum()
    show(f"{fixed} of {len(nodes)} nodes are foreground never or always.")

# %% [markdown]
# ## A map of the sounds
#
# Every sound of the list is a point; like ones, as the model hears them, are neighbours (t-SNE). In JupyterLab a click
# plays it.

# %%
ids, vectors = explore.embeddings()
points = explorer.embed(vectors)
show(explorer.sound_map_figure(explore, ids, points))
display(ipywidgets.HTML(explorer.sound_map(explore, ids, points)))

# %% [markdown]
# How far does the ear go? Counted is how often the nearest sound *of another recording* is of the same class:

# %%
classes = np.array([explore.class_of(i) for i in ids])
recording = np.array([about.get(i, {}).get("recording", i) for i in ids])
apart = recording[:, None] != recording[None]
again = np.array([(apart[row] & (classes == classes[row])).any() for row in range(len(ids))])
nearest = np.where(apart, pairwise_distances(vectors, metric="cosine"), np.inf).argmin(axis=1)
right, chance = (classes[nearest] == classes)[again], (classes[:, None] == classes)[again]
if again.any() and classes[0]:
    by_chance = (chance & apart[again]).sum(axis=1) / apart[again].sum(axis=1)
    show(
        f"In {right.mean():.0%} of {len(right)} sounds whose class has several recordings here; "
        f"by chance in {by_chance.mean():.0%}."
    )
else:
    show("No class of this list has several recordings.")
