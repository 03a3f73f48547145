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
# and its store `clips.lmdb`.

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}

# %%
import os
import warnings

from sslib import config as configuration
from sslib import datasets, features, metrics
from sslib.data import media, prepare, splits, store
from sslib.data.layout import REMOVED, Layout
from sslib.data.media import ClipWindow
from sslib.evaluation.bootstrap import bootstrap
from sslib.report import figures, galleries, text
from sslib.report.galleries import Cell
from sslib.report.text import show
from sslib.stamps import scenes

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import Audio, display

# %%
settings = configuration.load(config, overrides)
data, layout, rate = settings.data, Layout(settings.data.root), settings.data.sample_rate

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
source = "the embedded data set, Stamps" if library else source
show(f"This experiment uses {source}.", text.generated_note(library and library.generated))

# %% [markdown] tags=["optional"]
# ### Stamps
#
# Photographs cut out along their outline, recordings of what they sound like, and photographs of places. They come
# from Debian packages; `sslib/stamps/stamps_manifest.csv` pins every file by its digest. *Known* pictures and recordings
# may be used in training; *new* ones are kept for the tests, *val* recordings for `val_new`, where choices are made.

# %%
if library:
    kinds = {"pictures": library.cutouts, "recordings": library.recordings}
    items = [(f"{i.instance} {kind}", i.class_name) for kind in kinds for i in kinds[kind]]
    files = pd.DataFrame(items, columns=["material", "class"])
    counts = files.groupby("material")["class"].agg(files="size", classes="nunique")
    missing = "".join(f"\n- missing: `{name}`" for name in library.missing)
    show(
        counts.rename_axis(None),
        f"{files['class'].nunique()} classes, and {len(library.backgrounds)} places for them to stand in. "
        f"{len(library.missing) or 'No'} files that the manifest pins are missing.{missing}",
    )

# %% [markdown] tags=["optional"]
# ### Pictures
#
# One cut-out of each class on grey, and where the class has a new instance, that one right after it: a test on those
# asks whether the class was learnt or one picture.

# %%
if library:
    renewed = {picture.class_name for picture in library.cutouts if picture.instance == "new"}
    shown = min(64, len({(p.class_name, p.instance) for p in library.cutouts}))
    count = f"{len(renewed)} of {files['class'].nunique()} classes have a new instance."
    show(
        figures.cutouts(library.cutouts, most=64),
        f"{shown} of {len(library.cutouts)} cut-outs. {count}",
    )

# %% [markdown] tags=["optional"]
# ### Places
#
# Backgrounds are divided between the splits, so that no test scene stands in a place that training shows (both tests
# share theirs).

# %%
parts = ("train", "val", "test") if library else ()
use = {name: part for part in parts for name in scenes.background_names(library, part)}
if library:
    counts = [f"{count} for {part}" for part, count in pd.Series(use).value_counts().items()]
    show(
        figures.places(library.backgrounds, use),
        f"{min(24, len(use))} of {len(use)} places; {', '.join(counts)}.",
    )

# %% [markdown] tags=["optional"]
# ### Sounds
#
# A recording with samples $x_n \in [-1, 1]$ has the level $L = 10 \, \log_{10} \frac{1}{N} \sum_{n} x_n^2$ in dBFS.
# It is listed as recorded; composing sets it anew, so that loudness tells nothing about the class.

# %%
sounds = library.recordings if library else ()
table = pd.DataFrame(
    {
        "class": sound.class_name.replace("_", " "),
        "recording": sound.name.replace(":", "/").split("/")[-1],
        "instance": sound.instance,
        "seconds": len(sound.waveform) / rate,
        "level, dBFS": 10 * np.log10(np.mean(sound.waveform**2) + 1e-12),
    }
    for sound in sounds
)
if len(table):
    shown = table.head(12).round({"seconds": 2, "level, dBFS": 1}).astype(str)
    show(text.file_table(shown.replace({"^-": "−"}, regex=True)))

# %%
if len(table):
    length, level = table["seconds"], table["level, dBFS"]
    show(
        f"The first {min(12, len(table))} of {len(table)}. Recordings last {length.min():.2f} to "
        f"{length.max():.2f} s, half of them at most {length.median():.2f} s; "
        f"{(length < data.seconds).mean():.0%} are shorter than the {data.seconds:g} s of a clip and are "
        f"repeated there. Levels span {level.max() - level.min():.0f} dB."
    )

# %% [markdown] tags=["optional"]
# Six of them to listen to, three seconds at most:

# %%
if sounds:
    some = [sounds[i] for i in np.linspace(0, len(sounds) - 1, 6).astype(int)]
    titles = [f"{sound.class_name.replace('_', ' ')} ({sound.instance})" for sound in some]
    show(galleries.players(titles, [sound.waveform[: 3 * rate] for sound in some], rate))

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
#   and a part with one. `test_new_instances` has pictures and recordings that no training has, `test_new_recordings`
#   known pictures with such recordings; `val_new`, for choices, is made like the latter with recordings of its own.
#
# A fixed seed gives the same bytes. The folder gets its name when it is complete; a finished one is kept.

# %%
if data.stamps:
    scenes.write_scenes(data, library)
    count = len(layout.present())
    show(f"The folder holds {count:,} clips; those of one scene share its picture.")

# %% [markdown] tags=["optional"]
# ### Videos
#
# Each file becomes a clip, its pictures at even times and its sound as one mono track on the same clock, or is rejected
# with a reason; `manifest.csv` has a row for every one. Running again does what is missing or changed.

# %%
MEASURED = {
    "seconds": "length, s",
    "frame_rate": "pictures a second",
    "rms_dbfs": "loudness, dBFS (RMS)",
}
if data.raw:
    how = {"frame_rate": data.frame_rate, "sample_rate": rate, "max_seconds": data.max_seconds}
    how |= {"clip_seconds": data.clip_seconds, "workers": os.cpu_count() or 1}
    print(prepared := prepare.prepare(data.raw, data.root, **how))  # in the terminal, too
listing = data.root / "manifest.csv"
manifest = pd.DataFrame(columns=["id", "source", "outcome", "reason", "notes", *MEASURED])
if listing.exists():
    manifest = pd.read_csv(listing, dtype=str, keep_default_na=False)
ready = manifest[manifest["outcome"] == "ok"]
rejected = manifest[manifest["outcome"] != "ok"]
total = f"**{len(ready):,} clips are ready**; {len(rejected):,} files, or parts of one, are not. "
show(total + "Hidden files are not looked at." if len(manifest) else "")

# %% [markdown] tags=["optional"]
# Files that did not become clips, and why:

# %%
if len(rejected):
    table = text.file_table(rejected.rename(columns={"source": "file"})[["file", "reason"]][:60])
    show(table, text.rejected_files(rejected["reason"], shown=60))

# %% [markdown] tags=["optional"]
# Clips with something to know about them:

# %%
noted = ready[ready["notes"] != ""].rename(columns={"source": "file", "notes": "note"})
if len(noted):
    count = f"{min(30, len(noted))} of {len(noted):,} such clips. "
    end = "Sound that ends before the pictures is not filled up."
    show(text.file_table(noted[["file", "note"]][:30]), count + end)

# %% [markdown] tags=["optional"]
# How long, how fast and how loud the ready ones are; lengths and rates are counted in the pictures, not taken from what
# the file claims:

# %%
if len(ready):
    seconds, rates, level = (pd.to_numeric(ready[column]) for column in MEASURED)
    show(
        figures.histograms(ready[list(MEASURED)].apply(pd.to_numeric), MEASURED),
        f"Clips last {seconds.min():.1f} to {seconds.max():.1f} s, half of them at least {seconds.median():.1f} s; "
        f"{(seconds < data.seconds).mean():.0%} are shorter than the {data.seconds:g} s of sound that is used, which "
        f"is repeated there. Pictures come at {rates.min():.4g} to {rates.max():.4g} a second, of which "
        f"{data.frame_rate:g} a second are kept. Loudness spans {level.max() - level.min():.0f} dB.",
    )

# %% [markdown] tags=["optional"]
# Some of them, evenly over all names, with the picture in the middle and three seconds of sound at most:

# %%
if len(ready):
    some = ready["id"].iloc[np.unique(np.linspace(0, len(ready) - 1, 6).astype(int))].tolist()
    heard = [
        media.read_audio(layout.audio(clip_id), rate)[: 3 * rate] / 32768 for clip_id in some
    ]
    frames = [list(layout.frames(clip_id).values()) for clip_id in some]
    show(galleries.players(some, heard, rate, [paths[len(paths) // 2] for paths in frames]))

# %% [markdown] tags=["optional"]
# ### Lists
#
# `splits/` names the clips to train on, to validate with and to test with, one id a line. For videos without any of
# these lists they are made here, and grow with the videos: no clip that is in one ever moves, and those of removed files
# leave. Lists that a person wrote, or changed, are left alone.

# %%
names = list(dict.fromkeys([data.train, data.val, *data.tests]))
if data.raw:
    renewed = splits.renew(layout, names)
    listed = {name: layout.ids(name) for name in names}
    here = ready[~ready["notes"].str.contains(REMOVED)]
    unlisted = set(here["id"]).difference(*listed.values())
    counts = ", ".join(f"{name} {len(ids):,}" for name, ids in listed.items())
    open_ = f" {len(unlisted):,} ready clips are in no list." if unlisted else ""
    print(f"lists: {counts}. {renewed}{open_}")
    others = ", ".join(f"`{name}`" for name in names[1:])
    show(
        f"{splits.SPLIT_FRACTION:.0%} of the videos each for {others}, the rest for `{data.train}`, in the order of a "
        "hash of their names; parts of one video, clips of one YouTube video (`ID_000030`) and files of the same bytes "
        f"stay together. To divide them otherwise, write `splits/{data.train}.txt` and the others."
    )

# %% [markdown]
# ### What the lists hold
#
# Counted in lists and annotations as they lie on the disk; the last columns count clips by the number of objects in
# their picture, where that is known.

# %%
KNOWN = ("class", "recording", "picture", "background", "scene", "objects", "boxes")
rows = []
for split in names:
    annotations = layout.annotations(split)
    for clip_id in layout.ids(split):
        known = dict.fromkeys(KNOWN) | annotations.get(clip_id, {})
        rows.append(known | {"split": split, "clip_id": clip_id})
clips = pd.DataFrame(rows)
clips["number"] = [len(objects) if objects else 0 for objects in clips["objects"]]
contents = {clip_id: row["sha256"] for clip_id, row in layout.manifest().items()}
clips["file"] = clips["clip_id"].map(contents)
clips["video"] = (
    clips["clip_id"].map(splits.videos_of(layout, clips["clip_id"])) if data.raw else None
)

# %%
kinds = {"clip_id": "clips", "scene": "scenes", "class": "classes", "recording": "recordings"}
kinds |= {"picture": "pictures", "background": "places", "video": "videos"}
counts = clips.groupby("split", sort=False)[list(kinds)].nunique().rename(columns=kinds)
objects = pd.crosstab(clips["split"], clips["number"]).loc[names].drop(columns=0, errors="ignore")
objects.columns = [f"{number} object{'s' * (number > 1)}" for number in objects]
table = pd.concat([counts.loc[:, counts.any()], objects], axis=1).rename_axis(None)
show(table, text.presence(clips, layout.present(), data.train))
warnings.filterwarnings("ignore", "list .* present")  # it has just been said
there = (clips["split"] == data.train) & clips["clip_id"].isin(layout.present())
if fault := splits.too_few(settings, int(there.sum())):
    print(fault)

# %% [markdown]
# ### Training and test clips
#
# Training clips are pictures, their sound, and its spectrogram, under their class where it is known, else their id;
# nothing marks where the sound comes from.

# %% tags=["teach"]
training = datasets.AVDataset(settings, data.train, loader="folders")
some = [training[i] for i in np.unique(np.linspace(0, len(training) - 1, 6).astype(int))]
waveforms = torch.stack([clip["waveform"] for clip in some])
heard = features.spectrograms(waveforms, settings)[:, 0]  # (B, F, T)
sounding = clips.set_index("clip_id")["class"]
classes = {one: kind.replace("_", " ") if kind else one for one, kind in sounding.items()}
titles = [classes[clip["clip_id"]] for clip in some]

# %%
pairs = zip(titles, some, strict=True)
pictures = [
    Cell(name, clip["image"].numpy(), {}, clip["waveform"].numpy()) for name, clip in pairs
]
spectra = [
    Cell(f"sound of {title}", figures.paint(one.numpy()))
    for title, one in zip(titles, heard, strict=True)
]
show(
    *(
        galleries.gallery(pictures[i : i + 3] + spectra[i : i + 3], rate, 3)
        for i in range(0, len(some), 3)
    )
)

# %% [markdown] tags=["optional"]
# Test clips come with the outline of the sounding object (green) and its box (dashed); clips of one scene stand side by
# side, the same picture with another sound.

# %%
annotated = bool(layout.annotations(data.tests[0]))
test = datasets.AVDataset(settings, data.tests[0], annotated=annotated, loader="folders")
some = [test[i] for i in range(min(4, len(test)))]
if annotated:
    cells = []
    for clip in some:
        name = f"♪ {classes[clip['clip_id']]}"
        outlines = galleries.outlines(clip["boxes"], clip["mask"])
        cells.append(Cell(name, clip["image"].numpy(), outlines, clip["waveform"].numpy()))
    show(galleries.gallery(cells, rate))

# %% [markdown]
# ## Can it be trusted?
#
# What a model could use instead of listening, or could know before the test, is looked for here.

# %% [markdown] tags=["optional"]
# ### Classes
#
# A class that sounds more often than others would be a guess that pays.

# %%
named = clips[clips["class"].notna()].groupby(["split", "class"], sort=False).size()
balance = named.groupby("split", sort=False).agg(["count", "min", "median", "max"])
balance.columns = ["classes", "clips of the rarest", "of the median", "of the most frequent"]
if data.train in balance.index:
    classes_, rare, _, frequent = balance.loc[data.train]
    share = frequent / (clips["split"] == data.train).sum()
    show(
        balance.rename_axis(None).astype(int),
        f"In `{data.train}` the most frequent class sounds {frequent / rare:.1f} times as often as the rarest. "
        f"Always naming it would be right in {share:.1%} of the clips, against {1 / classes_:.1%} by chance.",
    )

# %% [markdown] tags=["optional"]
# ### Sizes
#
# The share of the picture inside the sounding object's boxes should be spread as in VGG-SS, whose quantiles
# are the black dots. (Large objects of Stamps lose area to the rim of the picture and to others.)

# %%
boxed = clips[clips["boxes"].notna()]
boxed = boxed.assign(area=[metrics.box_map(boxes).mean() for boxes in boxed["boxes"]])
areas = {split: group["area"].to_numpy() for split, group in boxed.groupby("split", sort=False)}
levels, reference = scenes.AREA_QUANTILES
if areas:
    show(figures.cumulative(areas, (reference, levels), "share of the picture inside the boxes"))

# %%
if areas:
    inner = slice(1, -1)  # without smallest and largest
    found = {split: np.quantile(values, levels[inner]) for split, values in areas.items()}
    quantiles = pd.DataFrame(found | {"VGG-SS": reference[inner]}, index=levels[inner])
    table = quantiles.rename(index=lambda level: f"{level:.0%} below").T.round(3)
    show(table, text.area_gap(quantiles, areas))

# %% [markdown] tags=["optional"]
# ### No clue but the sound
#
# In training scenes with several objects the sounding one is drawn by lot. They are composed
# once more here, from their seed, with the outlines of *all* objects. The rank of the sounding one is $r = 0$ for the
# smallest (or the first pasted) and $r = 1$ for the largest (or the last); $\bar r = \frac{1}{2}$ gives nothing away.

# %% tags=["teach"]
ranks, again = [], []
plans = scenes.plan_scenes(library, "train", data.stamps) if data.stamps else []
for plan in [plan for plan in plans if len(plan.classes) > 1][:200]:
    available = scenes.select_pool(library, "train")
    scene, (clip,) = scenes.make_scene(available, plan, data.stamps.seed, data.stamps.height)
    area, last = np.array([placed.mask.sum() for placed in scene.objects]), len(plan.classes) - 1
    by_area = (area < area[clip.sounding]).sum() / last
    ranks.append((clip.recording.name, by_area, clip.sounding / last))
    box = scenes.bounding_box(scene.objects[clip.sounding].mask)
    again.append(layout.annotations("train")[clip.clip_id]["boxes"] == [box])
ranks = pd.DataFrame(ranks, columns=["recording", "by area", "by order of pasting"])
show(f"{len(ranks)} such scenes were composed again." if len(ranks) else "")

# %% [markdown] tags=["optional"]
# Mean rank of the sounding object above the ½ of pure chance, with its 99 % interval:

# %% tags=["teach"]
if len(ranks):
    table = pd.DataFrame(
        {"rank": name}
        | bootstrap(ranks[name] - 0.5, ranks["recording"], confidence=0.99)._asdict()
        for name in ("by area", "by order of pasting")
    )
    same = (
        f" {sum(again)} of {len(again)} scenes came out with the very box that the folder holds: "
    )
    show(
        figures.intervals(
            table,
            "rank",
            xlabel="mean rank of the sounding object, minus ½",
            zero=True,
            percent=False,
        ),
        text.sounding_ranks(table, len(ranks)) + same + "the seed decides everything.",
    )

# %% [markdown]
# ### Between the lists
#
# What is tested may not occur in training: no clip, and no file of the same bytes, video (all parts of it), scene, place,
# picture or recording where those are known. Where scenes are known, each test picture must be shown once with each of its objects' sounds: a rule that does
# not listen then points at the same place each time and is right for one of them at most. Every line must be 0.

# %% tags=["teach"]
SHARED = ("clip_id", "file", "video", "scene", "background")
kinds["file"] = "files"
pairs = [(split, kind, data.train) for split in (data.val, *data.tests) for kind in SHARED]
others = [split for split in names if not split.startswith("test_new")]
for new in (split for split in names if "_new" in split):
    own = ("picture", "recording") if new == "test_new_instances" else ("recording",)
    pairs += [(new, kind, split) for split in others if split != new for kind in own]
checks, values = {}, clips.set_index("split")
for split, kind, other in pairs:
    mine, theirs = (set(values.loc[[name], kind].dropna()) for name in (split, other))
    if mine and theirs:  # a folder of other data may not say
        checks[f"{kinds[kind]} of {split} that are in {other}"] = len(mine & theirs)

# %% tags=["teach"]
if len(boxed):
    scene = clips[clips["split"].isin(data.tests) & (clips["number"] > 0)].groupby("scene")
    silent = scene["class"].nunique() < scene["number"].first()
    checks["test scenes in which not every object sounds"] = silent.sum()
if again:
    checks["training scenes that come out differently from their seed"] = len(again) - sum(again)
show(pd.DataFrame({"found": checks}))
broken = [name for name, count in checks.items() if count]
assert not broken, f"the data cannot be trusted: {broken}"
show(f"All {len(checks)} lines are 0; with any other number this notebook stops here.")

# %% [markdown]
# ## The store
#
# With `data.loader: lmdb`, training reads a few LMDB files of 500 to 1,000 clips each instead of many small ones: the
# same JPEG bytes, the sound as FLAC, a checksum for each file. A store that is there and holds what this configuration
# needs stays as it is.

# %%
if data.loader == "lmdb":
    cores = os.cpu_count() or 1
    written = store.ensure_store(data.root, ClipWindow.of(data), workers=cores)
    faults = store.verify_store(data.root / store.STORE_NAME, workers=cores) if written else []
    assert not faults, faults
    shards = sorted((data.root / store.STORE_NAME).glob("*.lmdb"))
    size = sum(path.stat().st_size for path in shards) / 1e6
    again_read = "It was written now, then read again: all of it is what was written."
    show(
        f"The store has {size:,.1f} MB in {len(shards)} file{'s' * (len(shards) > 1)}. "
        + (again_read if written else "It was there.")
    )
else:
    show(
        "This configuration reads the frames and sounds themselves (`data.loader: folders`): no store is needed."
    )

# %% [markdown] tags=["optional"]
# Clips from every list, read from files and from the store, must be equal sample by sample and pixel by pixel.

# %%
compared = 0
for split in names if data.loader == "lmdb" else []:
    folders = datasets.AVDataset(settings, split, loader="folders")
    lmdb = datasets.AVDataset(settings, split, loader="lmdb")
    for index in np.unique(np.linspace(0, len(folders) - 1, 8).astype(int)):
        one, other = folders[index], lmdb[index]
        assert torch.equal(one["image"], other["image"]), one["clip_id"]
        assert torch.equal(one["waveform"], other["waveform"]), one["clip_id"]
        compared += 1
show(f"{compared} clips were compared, and are." if compared else "")

# %% [markdown]
# ## One clip in detail
#
# Frame $k$ of a clip prepared at $f$ frames a second shows the time $\frac{k - 1}{f}$, and the sound is cut around the
# time of the frame: one clock. The audio encoder sees short-time power spectra $P$, taken every `hop` samples: their
# logarithm, $\frac{1}{12} \log(P + 10^{-7})$ as in the paper, or that of mel bands,
# $\frac{1}{4} (\log(M P + 10^{-6}) + 6)$ with the filter bank $M$ and $P$ relative to full scale.
#
# A test clip as the model gets it: the squashed picture, the sound cut to length, and what the front end makes of it.

# %% tags=["teach"]
clip = test[0]
spectrogram = features.spectrograms(clip["waveform"][None], settings)[0, 0].numpy()  # (F, T)
waveform = clip["waveform"].numpy() / 32768
front_end = settings.front_end
kind = "mel band" if front_end.kind == "mel" else f"bin of {rate / front_end.window:.1f} Hz"
figures.clip_detail(clip["image"].numpy(), waveform, spectrogram, data.seconds, kind)

# %%
count = len(layout.frames(clip["clip_id"]))
still = ", a still that stands for every moment" if count == 1 else ""
show(
    f"`{clip['clip_id']}`: {count} frame{'s' * (count > 1)} at {data.frame_rate:g} a second{still}; "
    f"{len(waveform):,} samples at {rate:,} Hz become {spectrogram.shape[0]} bands of {spectrogram.shape[1]} "
    f"frames, one every {1000 * front_end.hop / rate:.1f} ms. The picture is {clip['image'].shape[2]} pixels square."
)

# %% [markdown] tags=["optional"]
# ## Look around
#
# Choose any of the first 300 clips of each list (in JupyterLab; a saved page has no menu).

# %%
places = {one: (split, i) for split in names for i, one in enumerate(layout.ids(split)[:300])}
options = [(f"{split}: {classes[one]} ({one})", one) for one, (split, _) in places.items()]
menu = ipywidgets.Dropdown(options=options, description="clip", layout={"width": "30em"})
view = ipywidgets.Output()


def update(change):
    split, index = places[menu.value]
    clip = datasets.AVDataset(settings, split, loader="folders")[index]
    waveform = clip["waveform"].numpy() / 32768
    bands = features.spectrograms(clip["waveform"][None], settings)[0, 0].numpy()
    drawn = figures.clip_detail(clip["image"].numpy(), waveform, bands, data.seconds, kind)
    view.outputs = ()
    view.append_display_data(drawn)
    view.append_display_data(Audio(waveform, rate=rate))


menu.observe(update, names="value")
update(None)
display(menu, view)
