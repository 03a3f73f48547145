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
# **Reads** the configuration and what the clips are made from: for the embedded data set (*Stamps*) its media packages,
# for videos the folder `data.raw`. **Writes** the data folder `data.root` (frames, sounds, lists, annotations, masks)
# and its store `clips.lmdb`. **Before**: this is where the workbook begins. **Next**: [02 · Training](02_training.html).

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
import os
import warnings

from sslib import config as configuration
from sslib import datasets, features, metrics
from sslib.data import media, prepare, store
from sslib.data.layout import SPLIT_FRACTION, Layout, video_of
from sslib.data.media import ClipWindow
from sslib.report import figures as viz
from sslib.report import text as presentation
from sslib.stamps import scenes

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Audio, Markdown, display

settings = configuration.load(config, overrides)
data, layout = settings.data, Layout(settings.data.root)
rate = data.sample_rate

# %% [markdown]
# ## The material
#
# Clips come from one of three places: the embedded data set *Stamps* is composed (`data.stamps`), a folder of raw
# videos is prepared (`data.raw`), or a data folder is there already. What does not concern this experiment is left out
# of its page.

# %%
library = scenes.open_library(data) if data.stamps else None
source = f"the folder `{data.root.name}` as it is"
source = f"the videos in `{data.raw.name}`" if data.raw else source
display(
    Markdown(
        f"This experiment uses {'the embedded data set, Stamps' if data.stamps else source}."
    )
)
style = "background:#fff3cd; border:2px solid #b8860b; border-radius:4px; padding:.8rem 1rem; color:#5c4700"
if library and library.generated:
    text = """<b>Generated clips, not real data.</b> Shapes are drawn and sounds synthesized: the configuration asks
    for it, or no media could be had. Every number here and on the following pages shows that the workbook runs. None
    says anything about the method."""
    display(HTML(f'<div role="note" style="{style}">{text}</div>'))

# %% [markdown] tags=["optional"]
# ### Stamps
#
# Photographs cut out along their outline, recordings of what they sound like, and photographs of places. They come
# from four Debian packages; `sslib/stamps/stamps_manifest.csv` pins every file by its digest. *Known* pictures and recordings
# may be used in training; *new* ones are a second picture and a second recording of a class, kept for one test.

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

# %% [markdown] tags=["optional"]
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

# %% [markdown] tags=["optional"]
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

# %% [markdown] tags=["optional"]
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

# %% [markdown] tags=["optional"]
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
# The same layout for every data set: `video_frames/ID/001.jpg`, `audios/ID.flac`, ids in `splits/NAME.txt`, one a
# line, and `annotations/NAME.json` where there are boxes or classes.

# %% [markdown] tags=["optional"]
# ### Scenes
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
    text = (
        f"The folder holds {len(layout.present()):,} clips; those of one scene share its picture."
    )
    display(Markdown(text))

# %% [markdown] tags=["optional"]
# ### Videos
#
# Each file becomes a clip, its pictures at even times and its sound as one mono track on the same clock, or is rejected
# with a reason; `manifest.csv` has a row for every one. Running again does what is missing or changed.

# %%
if data.raw:
    rates = {"frame_rate": data.frame_rate, "sample_rate": rate}
    prepare.prepare(data.raw, data.root, **rates, workers=os.cpu_count() or 1)
listing, manifest = data.root / "manifest.csv", None
PANELS = {
    "seconds": "length, s",
    "frame_rate": "pictures a second",
    "rms_dbfs": "loudness, dBFS (RMS)",
}
if listing.exists():
    manifest = pd.read_csv(listing, dtype=str, keep_default_na=False)
    ready = manifest[manifest["outcome"] == "ok"]
    measures = ready.assign(**{key: pd.to_numeric(ready[key]) for key in PANELS})
    rejected = manifest[manifest["outcome"] != "ok"]
    text = f"**{len(ready):,} of {len(manifest):,} files are ready**, {len(rejected):,} are not. "
    display(Markdown(text + "Hidden files are not looked at."))
    left = {"selector": "th, td", "props": "text-align: left"}


# %% [markdown] tags=["optional"]
# Files that did not become clips, and why:

# %%
if manifest is not None and len(rejected):
    shown = rejected[["source", "reason"]].replace({"\n": "↵"}, regex=True)
    shown = shown.set_axis(["file", "reason"], axis=1).head(60)
    display(shown.style.hide().format(escape="html").set_table_styles([left]))
    kinds = rejected["reason"].str.partition(" (")[0].value_counts()
    text = f"The most frequent reason, “{kinds.index[0]}”, holds for {kinds.iloc[0]:,} "
    text += f"of {len(rejected):,} files"
    if len(rejected) > len(shown):
        text += f"; {len(rejected) - len(shown):,} more are in `manifest.csv`"
    display(Markdown(f"{text}. A file that is mended or renamed is taken up by the next run."))


# %% [markdown] tags=["optional"]
# Clips with something to know about them:

# %%
if manifest is not None and (ready["notes"] != "").any():
    noted = ready.loc[ready["notes"] != "", ["source", "notes"]]
    noted = noted.set_axis(["file", "note"], axis=1)
    display(noted.head(30).style.hide().format(escape="html").set_table_styles([left]))
    text = f"{min(30, len(noted))} of {len(noted):,} such clips. "
    display(Markdown(text + "Sound that ends before the pictures is not filled up."))


# %% [markdown] tags=["optional"]
# How long, how fast and how loud the ready ones are; lengths and rates are counted in the pictures, not taken from what
# the file claims:

# %%
if manifest is not None and len(ready):
    display(viz.histograms(measures, PANELS))
    seconds, rates, level = (measures[key] for key in PANELS)
    text = f"Clips last {seconds.min():.1f} to {seconds.max():.1f} s, half of them at least "
    text += f"{seconds.median():.1f} s; {(seconds < data.seconds).mean():.0%} are shorter than "
    text += f"the {data.seconds:g} s of sound that is used, which is repeated there. "
    text += f"Pictures come at {rates.min():.4g} to {rates.max():.4g} a second, of which "
    text += f"{data.frame_rate:g} a second are kept. "
    text += f"Loudness spans {level.max() - level.min():.0f} dB."
    display(Markdown(text))


# %% [markdown] tags=["optional"]
# Some of them, evenly over all names, with the picture in the middle and three seconds of sound at most:

# %%
if manifest is not None and len(ready):
    chosen = np.unique(np.linspace(0, len(ready) - 1, 6).astype(int))
    some = [ready["id"].iloc[i] for i in chosen]
    heard = [media.read_audio(layout.audio(clip_id), rate)[: 3 * rate] for clip_id in some]
    frames = [list(layout.frames(clip_id).values()) for clip_id in some]
    frames = [paths[len(paths) // 2] for paths in frames]
    display(presentation.players(some, [wave / 32768 for wave in heard], rate, frames))

# %% [markdown] tags=["optional"]
# ### Lists
#
# `splits/` names the clips to train on, to validate with and to test with, one id a line. For videos without any of
# these lists they are made here; lists that are there are never changed.

# %%
splits = list(dict.fromkeys([data.train, data.val, *data.tests]))
if data.raw:
    made = layout.write_missing_splits(splits)
    listed = {clip_id for split in splits for clip_id in layout.ids(split)}
    others = ", ".join(f"`{split}`" for split in splits[1:])
    text = "There were none: " if made else "Those that are there are used. Without them: "
    text += f"{SPLIT_FRACTION:.0%} of the videos each for {others}, the rest for `{data.train}`, in the "
    text += "order of a hash of their names; clips of one YouTube video (`ID_000030`) stay "
    text += (
        f"together. To divide them otherwise, write `splits/{data.train}.txt` and the others. "
    )
    text += f"{len(set(ready['id']) - listed):,} ready clips are in no list."
    display(Markdown(text))

# %% [markdown]
# ### What the lists hold
#
# Counted in lists and annotations as they lie on the disk; the last columns count clips by the number of objects in
# their picture, where that is known.

# %%
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
clips["video"] = clips["clip_id"].map(video_of) if data.raw else None

# %%
names = {"clip_id": "clips", "scene": "scenes", "class": "classes", "recording": "recordings"}
names |= {"picture": "pictures", "background": "places", "video": "videos"}
counts = clips.groupby("split", sort=False)[list(names)].nunique().rename(columns=names)
objects = (
    pd.crosstab(clips["split"], clips["number"]).loc[splits].drop(columns=0, errors="ignore")
)
objects.columns = [f"{number} object{'s' * (number > 1)}" for number in objects]
display(pd.concat([counts.loc[:, counts.any()], objects], axis=1).rename_axis(None))
there = clips["clip_id"].isin(layout.present())
text = f"The lists name {len(clips):,} clips: {there.sum():,} of {len(clips):,} present."
if several := (clips.loc[clips["split"] == data.train, "number"] > 1).mean():
    text += f" {several:.0%} of those for training show several objects."
for split, group in clips[~there].groupby("split", sort=False):
    some = ", ".join(f"`{clip_id}`" for clip_id in group["clip_id"][:5])
    text += f"\n- {len(group):,} of `{split}` are missing: {some}{' …' * (len(group) > 5)}"
display(Markdown(text))
warnings.filterwarnings("ignore", "list .* present")  # it has just been said

# %% [markdown]
# ### Training and test clips
#
# Training clips are pictures above the spectrogram of their sound, under their class where it is known, else their id;
# nothing marks where the sound comes from.

# %%
training = datasets.AVDataset(settings, data.train, loader="folders")
some = [training[i] for i in np.linspace(0, len(training) - 1, 6).astype(int)]
heard = features.spectrograms(torch.stack([clip["waveform"] for clip in some]), settings)[
    :, 0
]  # (B, F, T)
classes = clips.set_index("clip_id")["class"].to_dict()
titles = [viz.printable(classes[clip["clip_id"]] or clip["clip_id"]) for clip in some]
viz.contact_sheet([clip["image"].numpy() for clip in some], titles, heard.numpy())

# %% [markdown] tags=["optional"]
# Test clips come with the outline of the sounding object (green) and its box (dashed); clips of one scene stand side by
# side, the same picture with another sound.

# %%
annotated = bool(layout.annotations(data.tests[0]))
test = datasets.AVDataset(settings, data.tests[0], annotated=annotated, loader="folders")
some = [test[i] for i in range(min(6, len(test)))]
masks = [clip["mask"].numpy() if clip.get("mask") is not None else None for clip in some]
boxes = [clip.get("boxes", []) for clip in some]
titles = [f"sound: {classes[clip['clip_id']] or clip['clip_id']}" for clip in some]
if annotated:
    pictures = [clip["image"].numpy() for clip in some]
    display(viz.localization(pictures, {}, boxes, masks, titles))

# %% [markdown]
# ## Can it be trusted?
#
# What a model could use instead of listening, or could know before the test, is looked for here.

# %% [markdown] tags=["optional"]
# ### Classes
#
# A class that sounds more often than others would be a guess that pays.

# %%
named = clips[clips["class"].notna()]
balance = named.groupby(["split", "class"], sort=False).size().groupby("split", sort=False)
balance = balance.agg(["count", "min", "median", "max"]).rename_axis(None)
balance.columns = ["classes", "clips of the rarest", "of the median", "of the most frequent"]
if data.train in balance.index:
    display(balance.astype(int))
    classes, rare, _, frequent = balance.loc[data.train]
    share = frequent / (clips["split"] == data.train).sum()
    text = f"In `{data.train}` the most frequent class sounds {frequent / rare:.1f} times as often as the rarest."
    text += f" Always naming it would be right in {share:.1%} of the clips, against {1 / classes:.1%} by chance."
    display(Markdown(text))

# %% [markdown] tags=["optional"]
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
    if data.stamps:
        text += "; large objects lose area to the rim of the picture and to others"
    text += f". Boxes below a quarter of the picture are {small}. There a map that claims half of the picture cannot reach "
    text += r"$\mathrm{IoU} \ge \frac{1}{2}$, however good it is: notebook 04 also uses a threshold that adapts."
    display(Markdown(text))

# %% [markdown] tags=["optional"]
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
if len(ranks):
    display(Markdown(f"{len(ranks)} such scenes were composed again."))

# %% [markdown] tags=["optional"]
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
# ### Between the lists
#
# What is tested may not occur in training: no clip, and no video, scene, place, picture or recording where those are
# known. Where scenes are known, each test picture must be shown once with each of its objects' sounds: a rule that does
# not listen then points at the same place each time and is right for one of them at most. Every line must be 0.

# %%
parts = {split: group for split, group in clips.groupby("split")}
pairs = [
    (split, kind, data.train)
    for split in (data.val, *data.tests)
    for kind in ("clip_id", "video", "scene", "background")
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
# With `data.loader: lmdb`, training reads a few LMDB files of 500 to 1,000 clips each instead of many small ones: the
# same JPEG bytes, the sound as FLAC, a checksum for each file. A store that is there and holds what this configuration
# needs stays as it is.

# %%
text = "This configuration reads the frames and sounds themselves (`data.loader: folders`): no store is needed."
if data.loader == "lmdb":
    cores = os.cpu_count() or 1
    written = store.ensure_store(data.root, ClipWindow.of(data), workers=cores)
    faults = store.verify_store(data.root / store.STORE_NAME, workers=cores) if written else []
    assert not faults, faults
    shards = sorted((data.root / store.STORE_NAME).glob("*.lmdb"))
    size = sum(path.stat().st_size for path in shards) / 1e6
    text = f"The store has {size:,.1f} MB in {len(shards)} file{'s' * (len(shards) > 1)}. "
    text += (
        "It was written now, then read again: all of it is what was written."
        if written
        else "It was there."
    )
display(Markdown(text))

# %% [markdown] tags=["optional"]
# Clips from every list, read from files and from the store, must be equal sample by sample and pixel by pixel.

# %%
compared = 0
for split in splits if data.loader == "lmdb" else []:
    folders = datasets.AVDataset(settings, split, loader="folders")
    lmdb = datasets.AVDataset(settings, split, loader="lmdb")
    for index in np.unique(np.linspace(0, len(folders) - 1, 8).astype(int)):
        one, other = folders[index], lmdb[index]
        assert torch.equal(one["image"], other["image"]), one["clip_id"]
        assert torch.equal(one["waveform"], other["waveform"]), one["clip_id"]
        compared += 1
if compared:
    display(Markdown(f"{compared} clips were compared, and are."))

# %% [markdown]
# ## One clip in detail
#
# Frame $k$ of a clip prepared at $f$ frames a second shows the time $\frac{k - 1}{f}$, and the sound is cut around the
# time of the frame: one clock. The audio encoder sees short-time power spectra $P$, taken every `hop` samples: their
# logarithm, $\frac{1}{12} \log(P + 10^{-7})$ as in the paper, or that of mel bands,
# $\frac{1}{4} (\log(M P + 10^{-6}) + 6)$ with the filter bank $M$ and $P$ relative to full scale.
#
# A test clip as the model gets it: the squashed picture, the sound cut to length, and what the front end makes of it.

# %%
clip = test[0]
spectrogram = features.spectrograms(clip["waveform"][None], settings)[0, 0]
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
# Choose any of the first thousand clips (in JupyterLab; a saved page shows no menu, and the figures above stand for it).

# %%
ids = {
    clip_id: (split, index) for split in splits for index, clip_id in enumerate(layout.ids(split))
}
menu, view = (
    ipywidgets.Dropdown(options=list(ids)[:1000], description="clip"),
    ipywidgets.Output(),
)


def show(change):
    split, index = ids[menu.value]
    clip = datasets.AVDataset(settings, split, loader="folders")[index]
    wave = clip["waveform"].numpy() / 32768
    bands = features.spectrograms(clip["waveform"][None], settings)[0, 0].numpy()
    with view:
        view.clear_output(wait=True)
        display(viz.clip_detail(clip["image"].numpy(), wave, bands, data.seconds, kind))
        display(Audio(clip["waveform"].numpy(), rate=rate))


menu.observe(show, names="value")
display(menu, view)
