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
# # 06 · Your video
#
# *Where does the sound of my own video come from?*
#
# In JupyterLab drop a video below, or name it in `video`. From a shell: `python -m sslib localize VIDEO`.

# %% tags=["parameters"]
config = "configs/demo.yaml"
overrides = {}
video = ""
moments_per_second = 5.0

# %%
from pathlib import Path

from sslib import config as configuration
from sslib import datasets, load
from sslib.data.layout import Layout
from sslib.report import overlay, own_video, rooms, text
from sslib.report.text import show

import numpy as np
import pandas as pd
from IPython.display import HTML, display

# %%
settings = configuration.load(config, overrides)
folder = configuration.experiment_folder(settings)
model, videos = load(folder), folder / "videos"
videos.mkdir(exist_ok=True)
show(text.generated_note(Layout(settings.data.root).info().get("generated", False)))
display(rooms.VideoRoom(model, videos).view)

# %% [markdown]
# ## A video to begin with
#
# Where none is named, one is made of the first clips of the test list: each picture, squashed to
# a square as the model sees it, with its sound, for two seconds.

# %%
if not video:
    data = datasets.AVDataset(settings, settings.data.tests[0])
    clips = [data[row] for row in range(min(8, len(data)))]
    pictures = [np.moveaxis(clip["image"].numpy(), 0, -1) for clip in clips]
    sounds = [
        np.resize(clip["waveform"].numpy(), 2 * settings.data.sample_rate) for clip in clips
    ]
    video = own_video.slideshow(
        pictures, sounds, settings.data.sample_rate, videos / "test_clips.mkv"
    )
out = videos / f"{Path(video).stem}_overlay.mp4"
out = own_video.localize_video(model, Path(video), out, moments_per_second, force=True)

# %% [markdown]
# ## What was found
#
# Coloured, with a ring at the most likely place, is what the model hears *and* sees. Where it is less sure than with
# three quarters of the sounds that have no source in a validation picture, it says so instead of pointing somewhere.

# %%
table = pd.read_csv(out.with_suffix(".csv"))
show(overlay.found(table), overlay.course(out, table, model.threshold))

# %%
page = HTML(f"A large video: <a href='videos/{out.stem}.html'>the page with it inside</a>")
show(overlay.player(out, table) if out.stat().st_size < 3_000_000 else page)

# %% [markdown]
# ## Moment by moment
#
# Every moment is a row of the table beside the video: time, confidence, the most likely place in pixels, loudness.

# %%
show(table.head(8).style.hide().format(precision=2))
