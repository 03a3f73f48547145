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
# # 01 · Data preparation
#
# *What data is there, and can it be trusted?*
#
# A clip is one picture and the sound that belongs to it. A model that learns to find the sounding object learns it
# from such pairs alone; boxes and masks only serve to measure it afterwards. So two things must hold before any
# training: the pairs must be right, and nothing but the sound may tell which object sounds.
#
# **Reads** the configuration and, for the embedded data set (*Stamps*), the media packages it is made of. **Writes**
# the data folder `data.root` (frames, sounds, lists, annotations, masks) and its store `clips.lmdb`. **Before**: this
# is where the workbook begins. **Next**: [02 · Training](02_training.html).

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Audio, Markdown, display

from sslib import config as configuration
from sslib import datasets, features, metrics, scenes, store, viz
from sslib.layout import Layout

settings = configuration.load(config, overrides)
data, layout = settings.data, Layout(settings.data.root)
rate = data.sample_rate

# %% [markdown]
# ## The material
#
# Stamps are photographs cut out along their outline, recordings of what they sound like, and photographs of places.
# They come from four Debian packages; `sslib/stamps_manifest.csv` pins every file by its digest. *Known* pictures and
# recordings may be used in training; *new* ones are a second picture and a second recording of a class, kept for one
# test. A folder of your own clips needs none of this: without `data.stamps`, read on at *The data folder*.

# %%
library = scenes.open_library(data) if data.stamps else None
style = "background:#fff3cd; border:2px solid #b8860b; border-radius:4px; padding:.8rem 1rem; color:#5c4700"
if library and library.generated:
    text = """<b>Generated clips, not real data.</b> Shapes are drawn and sounds synthesized: the configuration asks
    for it, or no media could be had. Every number here and on the following pages shows that the workbook runs. None
    says anything about the method."""
    display(HTML(f'<div role="note" style="{style}">{text}</div>'))

# %%
if library:
    items = [("pictures", item) for item in library.pictures] + [
        ("recordings", item) for item in library.sounds
    ]
    material = pd.DataFrame(
        [(f"{item.instance} {kind}", item.class_name) for kind, item in items]
    )
    material.columns = ["material", "class"]
    display(
        material.groupby("material")["class"]
        .agg(files="size", classes="nunique")
        .rename_axis(None)
    )
    missing = "".join(f"\n- missing: `{name}`" for name in library.missing)
    display(
        Markdown(
            f"{material['class'].nunique()} classes, and {len(library.backgrounds)} places for them to stand in. "
            f"{len(library.missing) or 'No'} files that the manifest pins are missing.{missing}"
        )
    )
else:
    display(
        Markdown(f"This experiment uses the clips in `{data.root.name}`; nothing is composed.")
    )

# %% [markdown]
# ### Pictures
#
# One cut-out of each class on grey, and where the class has a new instance, that one right after it.

# %%
if library:
    first = {(p.class_name, p.instance): p.rgba for p in reversed(library.pictures)}
    paired = {name for name, instance in first if instance == "new"}
    order = sorted(first, key=lambda key: (key[0] not in paired, key))[:64]
    opacity = [first[key][..., 3:] / 255 for key in order]
    sheet = [
        first[key][..., :3] * a + 128 * (1 - a) for key, a in zip(order, opacity, strict=True)
    ]
    titles = [
        {"known": name.replace("_", " "), "new": "… new"}[instance] for name, instance in order
    ]
    display(
        viz.contact_sheet([image.astype(np.uint8).transpose(2, 0, 1) for image in sheet], titles)
    )
    text = f"{len(order)} of {len(library.pictures)} cut-outs. {len(paired)} of {material['class'].nunique()} classes"
    display(
        Markdown(
            f"{text} have a new instance: a test on those asks whether the class was learnt or one picture."
        )
    )

# %% [markdown]
# ### Places
#
# Backgrounds are divided between the splits, so that no test scene stands in a place that training shows.

# %%
if library:
    parts = ("train", "val", "test")
    use = {name: part for part in parts for name in scenes.background_names(library, part)}
    places = sorted(library.backgrounds, key=lambda place: parts.index(use[place.name]))
    some = [places[i] for i in np.linspace(0, len(places) - 1, min(24, len(places))).astype(int)]
    titles = [
        f"{use[place.name]}: {place.name.replace(':', '/').split('/')[-1]:.15}" for place in some
    ]
    display(
        viz.contact_sheet([place.rgb.transpose(2, 0, 1) for place in some], titles, columns=6)
    )
    words = [f"{count} for {part}" for part, count in pd.Series(use).value_counts().items()]
    display(
        Markdown(
            f"{len(some)} of {len(places)} places; {', '.join(words)} (both tests share theirs)."
        )
    )

# %% [markdown]
# ### Sounds
#
# A recording with samples $x_n \in [-1, 1]$ has the level $L = 10 \, \log_{10} \frac{1}{N} \sum_{n} x_n^2$ in dBFS.
# It is listed as recorded; composing sets it anew, so that loudness tells nothing about the class.

# %%
if library:
    sounds = pd.DataFrame(
        {
            "class": sound.class_name,
            "recording": sound.name.replace(":", "/").split("/")[-1],
            "instance": sound.instance,
            "seconds": len(sound.waveform) / rate,
            "level, dBFS": 10 * np.log10(np.mean(sound.waveform**2) + 1e-12),
        }
        for sound in library.sounds
    )
    display(sounds.head(12).style.hide().format({"seconds": "{:.2f}", "level, dBFS": "{:.1f}"}))

# %%
if library:
    length, level = sounds["seconds"], sounds["level, dBFS"]
    short = (length < data.seconds).mean()
    text = f"The first {min(12, len(sounds))} of {len(sounds)}. Recordings last {length.min():.2f} to "
    text += f"{length.max():.2f} s, half of them at most {length.median():.2f} s; {short:.0%} are shorter than the "
    text += f"{data.seconds:g} s of a clip and are repeated there. Levels span {level.max() - level.min():.0f} dB."
    display(Markdown(text))

# %% [markdown]
# Six of them to listen to, three seconds at most:

# %%
if library:
    players = []
    for sound in [
        library.sounds[i] for i in np.linspace(0, len(library.sounds) - 1, 6).astype(int)
    ]:
        player = Audio(sound.waveform[: 3 * rate], rate=rate)._repr_html_()
        players.append(
            f"<figure><figcaption>{sound.class_name} ({sound.instance})</figcaption>{player}</figure>"
        )
    display(
        HTML(
            f'<div style="display:grid; grid-template-columns:repeat(3, 1fr)">{"".join(players)}</div>'
        )
    )

# %% [markdown]
# ## The data folder
#
# Scenes are composed by rules that leave the sound as the only clue:
#
# - **Picture.** One, two or three cut-outs stand on a place, which is cropped and mirrored at random. Each is mirrored,
#   turned a little, lit, softened at its edge, and scaled so that its box covers a share of the picture drawn from the
#   areas of VGG-SS. It may stick out a little; one that others hide too much is placed again.
# - **Sound.** The recording of one object from a random moment on, repeated when short, at a random level, with noise.
#   In training one object sounds, drawn by lot; in the tests a picture appears once with each of its objects' sounds.
# - **Splits.** `train` and `val` use known instances. `test` has known instances in places never seen, two to a scene,
#   and a part with one. `test_new_instances` has pictures and recordings that occur nowhere else.
#
# A fixed seed gives the same bytes. The folder gets its name when it is complete; a finished one is kept.

# %%
if data.stamps:
    scenes.write(data, library)
splits = list(dict.fromkeys([data.train, data.val, *data.tests]))
unknown = dict.fromkeys(
    ("class", "recording", "picture", "background", "scene", "objects", "boxes")
)
rows = []
for split in splits:
    known = layout.annotations(split)
    rows += [
        unknown | known.get(clip_id, {}) | {"split": split, "clip_id": clip_id}
        for clip_id in layout.ids(split)
    ]
clips = pd.DataFrame(rows)
clips["number"] = [len(objects) if objects else 0 for objects in clips["objects"]]

# %% [markdown]
# What the splits hold, counted in the annotations as they lie on the disk; the last columns count clips by the number
# of objects in their picture:

# %%
names = {"clip_id": "clips", "scene": "scenes", "class": "classes", "recording": "recordings"}
names |= {"picture": "pictures", "background": "places"}
counts = clips.groupby("split", sort=False)[list(names)].nunique().rename(columns=names)
objects = (
    pd.crosstab(clips["split"], clips["number"]).loc[splits].drop(columns=0, errors="ignore")
)
objects.columns = [f"{number} object{'s' * (number > 1)}" for number in objects]
display(pd.concat([counts, objects], axis=1).rename_axis(None))
several = (clips.loc[clips["split"] == data.train, "number"] > 1).mean()
display(
    Markdown(
        f"In all {len(clips):,} clips; {several:.0%} of those for training show several objects."
    )
)

# %% [markdown]
# ### Training and test clips
#
# Training clips are pictures above the spectrogram of one object's sound, whose class stands above; nothing marks
# where it is.

# %%
training = datasets.AVDataset(settings, data.train)
some = [training[i] for i in np.linspace(0, len(training) - 1, 6).astype(int)]
heard = features.sounds(torch.stack([clip["waveform"] for clip in some]), settings)[
    :, 0
]  # (B, F, T)
label = clips.set_index("clip_id")["class"].to_dict()
titles = [label[clip["clip_id"]] or clip["clip_id"] for clip in some]
viz.clips([clip["image"].numpy() for clip in some], heard.numpy(), titles)

# %% [markdown]
# Test clips come with the outline of the sounding object (green) and its box (dashed); clips of one scene stand side by
# side, the same picture with another sound.

# %%
test = datasets.AVDataset(
    settings, data.tests[0], annotated=bool(layout.annotations(data.tests[0]))
)
some = [test[i] for i in range(min(6, len(test)))]
masks = [clip["mask"].numpy() if clip.get("mask") is not None else None for clip in some]
boxes = [clip.get("boxes", []) for clip in some]
titles = [f"sound: {label[clip['clip_id']] or clip['clip_id']}" for clip in some]
viz.localization([clip["image"].numpy() for clip in some], {}, boxes, masks, titles)

# %% [markdown]
# ## Can it be trusted?
#
# ### Classes
#
# A class that sounds more often than others would be a guess that pays.

# %%
balance = clips.groupby(["split", "class"], sort=False).size().groupby("split", sort=False)
balance = balance.agg(["count", "min", "median", "max"]).rename_axis(None)
balance.columns = ["classes", "clips of the rarest", "of the median", "of the most frequent"]
if data.train in balance.index:
    display(balance.astype(int))
    classes, rare, _, frequent = balance.loc[data.train]
    share = frequent / (clips["split"] == data.train).sum()
    text = f"In `{data.train}` the most frequent class sounds {frequent / rare:.1f} times as often as the rarest."
    text += f" Always naming it would be right in {share:.1%} of the clips, against {1 / classes:.1%} by chance."
    display(Markdown(text))

# %% [markdown]
# ### Sizes
#
# The share of the picture inside the sounding object's boxes should be spread as in VGG-SS, whose quantiles
# are the black dots.

# %%
boxed = clips[clips["boxes"].notna()]
boxed = boxed.assign(area=[metrics.box_map(boxes).mean() for boxes in boxed["boxes"]])
areas = {split: group["area"].to_numpy() for split, group in boxed.groupby("split", sort=False)}
levels, reference = scenes.AREA_QUANTILES
if areas:
    display(viz.cumulative(areas, (reference, levels), "share of the picture inside the boxes"))
    inner = slice(1, -1)  # without smallest and largest
    quantiles = pd.DataFrame(
        {split: np.quantile(values, levels[inner]) for split, values in areas.items()}
    )
    quantiles["VGG-SS"] = reference[inner]
    display(quantiles.set_axis([f"{level:.0%} below" for level in levels[inner]]).T.round(3))

# %%
if areas:
    apart = quantiles.drop(columns="VGG-SS").sub(quantiles["VGG-SS"], axis=0).stack()
    furthest, split = apart.abs().idxmax()
    small = ", ".join(
        f"{(values < 0.25).mean():.0%} of `{split}`" for split, values in areas.items()
    )
    text = f"The {levels[inner][furthest]:.0%} quantile of `{split}` lies furthest from that of VGG-SS, by "
    text += f"{apart[furthest, split]:+.2f}".replace("-", "−")
    text += "; large objects lose area to the rim of the picture and to others. Boxes below a quarter of the picture "
    text += f"are {small}. There a map that claims half of the picture cannot reach "
    text += r"$\mathrm{IoU} \ge \frac{1}{2}$, however good it is: notebook 04 also uses a threshold that adapts."
    display(Markdown(text))

# %% [markdown]
# ### No clue but the sound
#
# In training scenes with several objects the sounding one is drawn by lot. They are composed
# once more here, from their seed, with the outlines of *all* objects. The rank of the sounding one is $r = 0$ for the
# smallest (or the first pasted) and $r = 1$ for the largest (or the last); $\bar r = \frac{1}{2}$ gives nothing away.

# %%
ranks, again = [], []
if data.stamps:
    available, annotations = scenes.pool(library, "train"), layout.annotations("train")
    several = [
        scene for scene in scenes.plan(library, "train", data.stamps) if len(scene.classes) > 1
    ][:200]
    for scene in several:
        composed, (clip,) = scenes.make_scene(
            available, scene, data.stamps.seed, data.stamps.height
        )
        area, last = (
            np.array([placed.mask.sum() for placed in composed.objects]),
            len(scene.classes) - 1,
        )
        ranks.append((clip.sound.name, (area < area[clip.place]).sum() / last, clip.place / last))
        box = scenes.bounding_box(composed.objects[clip.place].mask)
        again.append(annotations[clip.clip_id]["boxes"] == [box])
ranks = pd.DataFrame(ranks, columns=["recording", "by area", "by order of pasting"])

# %% [markdown]
# Mean rank of the sounding object above the ½ of pure chance, with its 99 % interval:

# %%
if len(ranks):
    found = {
        name: metrics.bootstrap(ranks[name] - 0.5, ranks["recording"], confidence=0.99)
        for name in ranks.columns[1:]
    }
    table = pd.DataFrame(
        [{"rank": name} | interval._asdict() for name, interval in found.items()]
    )
    display(
        viz.intervals(
            table, "rank", xlabel="mean rank of the sounding object, minus ½", zero=True
        )
    )
    words = ", ".join(
        f"{name} {i.value:+.2f} [{i.low:+.2f}, {i.high:+.2f}]" for name, i in found.items()
    )
    fair = all(i.low <= 0 <= i.high for i in found.values())
    verdict = (
        "no sign that either tells which object sounds"
        if fair
        else "**one betrays the sounding object**"
    )
    text = f"In {len(ranks)} scenes: {words}: {verdict}. {sum(again)} of {len(again)} scenes came out".replace(
        "-", "−"
    )
    display(
        Markdown(f"{text} with the very box that the folder holds: the seed decides everything.")
    )

# %% [markdown]
# In the tests it holds by construction: every picture is shown once with each of its objects' sounds, so a rule that
# does not listen points at the same place each time and is right for one of them at most. That, and that nothing
# leaked between the splits, is counted from the annotations. Every line must be 0.

# %%
parts = {split: group for split, group in clips.groupby("split")}
pairs = [
    (split, kind, data.train)
    for split in (data.val, *data.tests)
    for kind in ("clip_id", "scene", "background")
]
if "test_new_instances" in data.tests:
    others = [split for split in splits if split != "test_new_instances"]
    pairs += [
        ("test_new_instances", kind, split)
        for split in others
        for kind in ("picture", "recording")
    ]
checks = {}
for split, kind, other in pairs:
    mine, theirs = set(parts[split][kind].dropna()), set(parts[other][kind].dropna())
    if mine and theirs:  # a folder of other data may not say
        checks[f"{names[kind]} of {split} that are in {other}"] = len(mine & theirs)
if len(boxed):
    scene = clips[clips["split"].isin(data.tests) & (clips["number"] > 0)].groupby("scene")
    checks["test scenes in which not every object sounds"] = (
        scene["class"].nunique() < scene["number"].first()
    ).sum()
if again:
    checks["training scenes that come out differently from their seed"] = len(again) - sum(again)
display(pd.DataFrame({"found": checks}))
broken = [name for name, count in checks.items() if count]
assert not broken, f"the data cannot be trusted: {broken}"
display(
    Markdown(f"All {len(checks)} lines are 0; with any other number this notebook stops here.")
)

# %% [markdown]
# ## The store
#
# Training reads one LMDB file instead of many small ones: the same JPEG bytes, the sound as FLAC, meta data as JSON
# with a schema version.

# %%
store.write(data.root)
files = [
    path
    for path in data.root.rglob("*")
    if path.is_file() and not path.name.startswith(store.NAME)
]
sizes = (
    sum(path.stat().st_size for path in files) / 1e6,
    (data.root / store.NAME).stat().st_size / 1e6,
)
compared = 0
for split in splits:
    folders, lmdb = datasets.AVDataset(settings, split), datasets.LmdbDataset(settings, split)
    for index in np.unique(np.linspace(0, len(folders) - 1, 8).astype(int)):
        one, other = folders[index], lmdb[index]
        assert torch.equal(one["image"], other["image"]) and torch.equal(
            one["waveform"], other["waveform"]
        )
        compared += 1
text = f"{len(files):,} files of {sizes[0]:.1f} MB became one of {sizes[1]:.1f} MB. {compared} clips, from every split, "
display(
    Markdown(
        text + "are equal sample by sample and pixel by pixel, read from files or from the store."
    )
)

# %% [markdown]
# ## One clip in detail
#
# Frame $k$ of a clip prepared at $f$ frames a second shows the time $\frac{k - 1}{f}$, and the sound is cut around the
# time of the frame: one clock. The audio trunk sees short-time power spectra $P$, taken every `hop` samples: their
# logarithm, $\frac{1}{12} \log(P + 10^{-7})$ as in the paper, or that of mel bands,
# $\frac{1}{4} (\log(M P + 10^{-6}) + 6)$ with the filter bank $M$ and $P$ relative to full scale.
#
# A test clip as the model gets it: the squashed picture, the sound cut to length, and what the front end makes of it.

# %%
clip = test[0]
spectrogram = features.sounds(clip["waveform"][None], settings)[0, 0]
kind = {"mel": "mel band", "spectrogram": f"bin of {rate / settings.front_end.window:.1f} Hz"}[
    settings.front_end.kind
]
wave = clip["waveform"].numpy() / 32768
display(viz.clip_detail(clip["image"].numpy(), wave, spectrogram.numpy(), data.seconds, kind))
frames = len(layout.frames(clip["clip_id"]))
text = f"`{clip['clip_id']}`: {frames} frame{'s' * (frames > 1)} at {data.frame_rate:g} a second"
text += ", a still that stands for every moment; " if frames == 1 else "; "
text += f"{len(wave):,} samples at {rate:,} Hz become {spectrogram.shape[0]} bands of {spectrogram.shape[1]} frames, "
step = 1000 * settings.front_end.hop / rate
text += f"one every {step:.1f} ms. The picture is {clip['image'].shape[2]} pixels square."
display(Markdown(text))

# %% [markdown]
# ## Look around
#
# Choose any clip (in JupyterLab; a saved page shows no menu, and the figures above stand for it).

# %%
ids = {
    clip_id: (split, index) for split in splits for index, clip_id in enumerate(layout.ids(split))
}
menu, view = ipywidgets.Dropdown(options=list(ids), description="clip"), ipywidgets.Output()


def show(change):
    split, index = ids[menu.value]
    clip = datasets.AVDataset(settings, split)[index]
    wave = clip["waveform"].numpy() / 32768
    bands = features.sounds(clip["waveform"][None], settings)[0, 0].numpy()
    with view:
        view.clear_output(wait=True)
        display(viz.clip_detail(clip["image"].numpy(), wave, bands, data.seconds, kind))
        display(Audio(clip["waveform"].numpy(), rate=rate))


menu.observe(show, names="value")
display(menu, view)
