"""The Stamps' manifest keeps its rules; media come from .deb files, pinned by digest; generated clips repeat."""

import csv
import hashlib
import io
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sslib.config import InputError
from sslib.stamps import generated
from sslib.stamps import library as stamps

RATE = 16000


def png(seed: int, mode: str = "RGBA") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (60, 80, len(mode)), dtype=np.uint8)
    if mode == "RGBA":
        pixels[..., 3] = 0
        pixels[10:40, 20:70, 3] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(seed: int) -> bytes:
    """A quarter second of silence, half a second of noise, a quarter of silence; stereo at 22050 Hz."""
    rng = np.random.default_rng(seed)
    sound = np.zeros((22050, 2))
    sound[5512:16537] = 0.3 * rng.standard_normal((11025, 2))
    file = io.BytesIO()
    soundfile.write(file, sound, 22050, format="WAV")
    return file.getvalue()


FILES = {
    "usr/a/dog.png": ("picture", "dog", "known", png(0)),
    "usr/a/dog.wav": ("sound", "dog", "known", wav(1)),
    "usr/a/cat.png": ("picture", "cat", "known", png(2)),
    "usr/a/cat.wav": ("sound", "cat", "known", wav(3)),
    "usr/a/cat2.png": ("picture", "cat", "new", png(4)),
    "usr/a/place.png": ("background", "", "known", png(5, "RGB")),
    "usr/a/drawing.png": ("picture", "", "rejected", png(6)),
}


def write_manifest(path: Path, files: dict) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "class", "instance", "demo", "package", "path", "sha256", "note"])
        for name, (kind, label, instance, content) in files.items():
            digest = hashlib.sha256(content).hexdigest()
            writer.writerow([kind, label, instance, int(instance != "rejected"), "media-a", name, digest, ""])


def write_deb(path: Path, files: dict[str, bytes], compression: str = "xz") -> None:
    """An `ar` archive such as dpkg-deb makes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}": data.getvalue()}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A manifest of seven files, a folder for .deb files; nothing installed and no apt-get."""
    write_manifest(tmp_path / "manifest.csv", FILES)
    (tmp_path / "debs").mkdir()
    monkeypatch.setattr(stamps, "MANIFEST", tmp_path / "manifest.csv")
    monkeypatch.setattr(stamps, "INSTALLED", tmp_path / "nothing-installed")
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.delenv(stamps.MEDIA_VARIABLE, raising=False)
    return tmp_path


def contents(**replaced: bytes) -> dict[str, bytes]:
    return {name: replaced.get(Path(name).name.replace(".", "_"), content) for name, (*_, content) in FILES.items()}


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_media_come_out_of_a_deb(tiny, compression):
    write_deb(tiny / "debs/media-a_1.0_all.deb", contents() | {"usr/a/other.txt": b"not ours"}, compression)
    folder = stamps.fetch_media(tiny / "media", tiny / "debs")
    written = sorted(p.relative_to(folder / "media-a").as_posix() for p in folder.rglob("*") if p.is_file())
    assert written == sorted(name for name in FILES if name != "usr/a/drawing.png")
    library = stamps.load_library(folder, RATE)
    assert [p.name for p in library.cutouts] == ["media-a:usr/a/dog", "media-a:usr/a/cat", "media-a:usr/a/cat2"]
    assert [p.instance for p in library.cutouts] == ["known", "known", "new"]
    assert library.cutouts[0].rgba.shape == (30, 50, 4), "cropped to the opaque part"
    np.testing.assert_array_equal(library.cutouts[0].rgba, np.array(Image.open(io.BytesIO(png(0))))[10:40, 20:70])
    assert all(s.waveform.dtype == np.float32 and s.waveform.ndim == 1 for s in library.recordings)
    lengths = [len(s.waveform) / RATE for s in library.recordings]
    assert all(0.49 < seconds < 0.53 for seconds in lengths), "silence at the ends is cut off"
    assert library.backgrounds[0].rgb.shape == (60, 80, 3)
    assert not library.missing and not library.generated
    # the second time nothing is looked for
    shutil.rmtree(tiny / "debs")
    assert stamps.load_library(stamps.fetch_media(folder), RATE).digest == library.digest


@pytest.mark.parametrize("where", ["media-a/usr/a", "usr/a"])
def test_media_come_out_of_an_extracted_folder(tiny, monkeypatch, where):
    (tiny / "debs" / where).mkdir(parents=True)
    for name, content in contents().items():
        (tiny / "debs" / where / Path(name).name).write_bytes(content)
    monkeypatch.setenv(stamps.MEDIA_VARIABLE, str(tiny / "debs"))
    assert not stamps.load_library(stamps.fetch_media(tiny / "media"), RATE).missing


def test_installed_packages_are_used(tiny, monkeypatch):
    for name, content in contents().items():
        path = tiny / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(stamps, "INSTALLED", tiny / "root")
    assert not stamps.load_library(stamps.fetch_media(tiny / "media"), RATE).missing


def test_file_of_another_digest_is_named_and_changes_the_digest(tiny):
    write_deb(tiny / "debs/media-a_1.0_all.deb", contents())
    whole = stamps.load_library(stamps.fetch_media(tiny / "whole", tiny / "debs"), RATE)
    write_deb(tiny / "debs/media-a_1.0_all.deb", contents(cat2_png=png(99)))
    with pytest.warns(UserWarning, match=r"1 of the 6 media files .* media-a/usr/a/cat2\.png.*do not compare"):
        folder = stamps.fetch_media(tiny / "media", tiny / "debs")
    assert not (folder / "media-a/usr/a/cat2.png").exists()
    with pytest.warns(UserWarning, match=r"media-a/usr/a/cat2\.png"):
        partial = stamps.load_library(folder, RATE)
    assert partial.missing == ("media-a/usr/a/cat2.png",)
    assert partial.digest != whole.digest
    (folder / "media-a/usr/a/cat.wav").write_bytes(b"cut off in the middle")
    with pytest.raises(stamps.MediaUnavailable):
        stamps.load_library(folder, RATE)


@pytest.mark.filterwarnings("ignore:.*media files are missing")
def test_damaged_deb_gives_way_to_a_good_one(tiny):
    write_deb(tiny / "debs/media-a_2.0_all.deb", contents())
    whole = (tiny / "debs/media-a_2.0_all.deb").read_bytes()
    (tiny / "debs/media-a_1.0_all.deb").write_bytes(whole[: len(whole) // 2])
    (tiny / "debs/media-a_0.9_all.deb").write_bytes(b"hello")
    folder = stamps.fetch_media(tiny / "media", tiny / "debs")
    assert not stamps.load_library(folder, RATE).missing
    assert not list(folder.rglob(".partial-*"))
    (tiny / "debs/media-a_2.0_all.deb").unlink()
    with pytest.raises(stamps.MediaUnavailable, match=r"media-a_0\.9_all\.deb: cannot be read: not a \.deb file"):
        (tiny / "debs/media-a_1.0_all.deb").unlink()
        stamps.fetch_media(tiny / "again", tiny / "debs")


def test_compression_that_python_cannot_read_is_named(tiny):
    write_deb(tiny / "debs/media-a_1.0_all.deb", contents())
    deb = (tiny / "debs/media-a_1.0_all.deb").read_bytes()
    (tiny / "debs/media-a_1.0_all.deb").write_bytes(deb.replace(b"data.tar.xz ", b"data.tar.zst"))
    with pytest.raises(stamps.MediaUnavailable, match=r"cannot read data\.tar\.zst and there is no dpkg-deb"):
        stamps.fetch_media(tiny / "media", tiny / "debs")


def test_nothing_available_says_what_was_tried_and_what_to_do(tiny):
    with pytest.raises(stamps.MediaUnavailable) as error:
        stamps.fetch_media(tiny / "media")
    for words in ("apt-get: not on this machine", "installed packages: 0 of 6", "media-a", "SSLIB_STAMPS_MEDIA"):
        assert words in str(error.value)
    assert isinstance(error.value, FileNotFoundError)
    with pytest.raises(InputError, match="debz"):
        stamps.fetch_media(tiny / "media", tiny / "debz")


def test_failing_apt_is_reported_and_leaves_nothing(tiny, monkeypatch):
    (tiny / "no-programs").mkdir()
    program = tiny / "no-programs/apt-get"
    program.write_text("#!/bin/sh\necho E: no network >&2\nexit 100\n")
    program.chmod(0o755)
    with pytest.raises(stamps.MediaUnavailable, match="apt-get download media-a: E: no network"):
        stamps.fetch_media(tiny / "media")
    assert not list((tiny / "media").iterdir())


def test_another_release_from_apt_is_downloaded_once(tiny, monkeypatch):
    write_deb(tiny / "media-a_3.0_all.deb", contents(cat2_png=png(99)))
    (tiny / "no-programs").mkdir()
    program = tiny / "no-programs/apt-get"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tiny}/calls\n/bin/cp {tiny}/media-a_3.0_all.deb .\n')
    program.chmod(0o755)
    for _ in range(2):
        with pytest.warns(UserWarning, match="cat2"):
            stamps.fetch_media(tiny / "media")
    assert (tiny / "calls").read_text().count("download media-a") == 1


def test_manifest_keeps_its_rules():
    with stamps.MANIFEST.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["kind", "class", "instance", "demo", "package", "path", "sha256", "note"]
    considered, usable = [stamps.Entry(*row) for row in rows], stamps.read_manifest("all")
    assert len({(e.package, e.path) for e in considered}) == len(considered)
    credits = (Path(__file__).parents[1] / "data/README.md").read_text(encoding="utf-8")
    assert all(f"| `{package}` |" in credits for package in {e.package for e in usable})
    assert {e.kind for e in considered} == {"picture", "sound", "background"}
    assert {e.instance for e in considered} == {"known", "new", "val", "rejected"}
    assert all(len(e.sha256) == 64 and e.note and not e.path.startswith(("/", ".")) for e in considered)
    assert {e.demo for e in considered} == {"0", "1"}
    assert not any(e.demo == "1" for e in considered if e.instance == "rejected")
    assert not any("_desc" in e.path for e in usable), "spoken words"
    notes = {(e.sha256, e.path.partition("#")[2]) for e in usable}
    assert len(notes) == len(usable), "a file twice: a new instance could be a known one"
    assert len({e.file for e in usable}) == len({e.sha256 for e in usable})
    for kind in ("picture", "sound", "background"):
        names = [e.name for e in usable if e.kind == kind]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("subset", ["demo", "all"])
def test_manifest_has_what_scenes_need(subset):
    entries, have = stamps.read_manifest(subset), defaultdict(set)
    for e in entries:
        have[e.class_name].add((e.instance, e.kind))
        assert e.class_name == e.class_name.lower().replace(" ", "_").replace("-", "_")
        assert bool(e.class_name) == (e.kind != "background")
    backgrounds = have.pop("")
    assert backgrounds == {("known", "background")} and sum(e.kind == "background" for e in entries) >= 50
    assert all({("known", "picture"), ("known", "sound")} <= kinds for kinds in have.values())
    assert all(("new", "sound") in kinds for kinds in have.values() if ("new", "picture") in kinds)
    assert sum(("new", "picture") in kinds for kinds in have.values()) >= 30
    heard = Counter((e.class_name, e.instance) for e in entries if e.kind == "sound")
    new, chosen = ({name for name, kind in heard if kind == instance} for instance in ("new", "val"))
    well_known = [name for name in new if heard[name, "known"] >= 2]
    assert len(well_known) >= 40 and sum(heard[name, "new"] for name in well_known) >= 60
    assert len(chosen) >= 20 and all(heard[name, "known"] >= 2 for name in chosen)
    known = sum(e.kind == "picture" and e.instance == "known" for e in entries)
    assert (len(have) >= 60) if subset == "demo" else (known >= 120)
    if subset == "demo":
        files = Counter((e.class_name, e.kind) for e in entries)
        once = [name for name in have if files[name, "picture"] == files[name, "sound"] == 1]
        assert not once, "one picture and one recording: a class that can only be learned by heart"


def test_generated_library_repeats_and_differs_by_class():
    first, second = (generated.generate_library(RATE, classes=6, backgrounds=3, seed=1) for _ in range(2))
    other = generated.generate_library(RATE, classes=6, backgrounds=3, seed=2)
    assert first.generated and first.digest == second.digest != other.digest
    for field in ("cutouts", "recordings", "backgrounds"):
        for a, b in zip(getattr(first, field), getattr(second, field), strict=True):
            assert a.name == b.name
            np.testing.assert_array_equal(a[-1], b[-1])
    assert len(first.cutouts) == 12 and len(first.recordings) == 18 and len(first.backgrounds) == 3
    assert [p.instance for p in first.cutouts[:2]] == ["known", "new"]
    assert [s.instance for s in first.recordings[:3]] == ["known", "new", "val"]
    for picture in first.cutouts:
        alpha = picture.rgba[..., 3]
        assert picture.rgba.dtype == np.uint8 and 0.3 < (alpha > 127).mean() < 0.95
        assert (alpha[0] > 127).any() and (alpha[:, -1] > 127).any() and ((alpha > 0) & (alpha < 255)).any()
    for sound in first.recordings:
        assert sound.waveform.dtype == np.float32 and 0.1 < np.abs(sound.waveform).max() <= 1
    spectra = np.array(
        [np.log(np.abs(np.fft.rfft(s.waveform)) + 1).reshape(-1, 1)[:8000].ravel() for s in first.recordings]
    )
    spectra = np.array([np.convolve(s, np.ones(50) / 50, "valid") for s in spectra])
    distance = np.linalg.norm(spectra[:, None] - spectra[None], axis=2) + 1e9 * np.eye(18)
    nearest = [first.recordings[i].class_name for i in distance.argmin(axis=1)]
    assert nearest == [s.class_name for s in first.recordings], "the recordings of a class are the most alike"


@pytest.mark.media
@pytest.mark.filterwarnings("ignore:.*media files are missing")
def test_real_media(tmp_path):
    """Fetched into data/stamps-media, where the workbook keeps them too, or from $SSLIB_STAMPS_MEDIA or apt."""
    try:
        folder = stamps.fetch_media(Path(__file__).parents[1] / "data/stamps-media")
    except stamps.MediaUnavailable as error:
        pytest.skip(f"the Stamps packages are missing: {error}")
    library = stamps.load_library(folder, RATE, subset="all")
    assert not library.generated and len(library.missing) < 0.2 * len(stamps.read_manifest("all"))
    for picture in library.cutouts:
        opaque = (picture.rgba[..., 3] > 127).mean()
        assert 0.05 < opaque < 0.95 and 40 < max(picture.rgba.shape[:2]) <= stamps.CUTOUT_SIDE, picture.name
    for sound in library.recordings:
        assert len(sound.waveform) > 0.05 * RATE and np.abs(sound.waveform).max() > 0.03, sound.name
        assert np.isfinite(sound.waveform).all(), sound.name
    assert min(min(b.rgb.shape[:2]) for b in library.backgrounds) >= 300
    demo = stamps.load_library(folder, RATE, subset="demo")
    assert {p.name for p in demo.cutouts} < {p.name for p in library.cutouts} and demo.digest != library.digest
