"""Published data sets: what is sound in an archive arrives whole, every record loads, every oddity is counted.

Everything else is refused with its reason, and nothing that an archive holds reaches outside of the target.
"""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sslib import metrics
from sslib.config import InputError
from sslib.data import published
from sslib.data.layout import Layout
from sslib.data.published import (
    import_image_audio_pairs,
    read_flickr,
    read_ids,
    read_vggsound,
    read_vggss,
    split_by_heard,
    unpack,
)


def noise(number: int, size: int = 3000) -> bytes:
    """Bytes of file `number`, which no compression makes smaller."""
    return bytes((number * 7919 + i * i * 31 + (i >> 3) * 17) % 251 for i in range(size))


def tar_bytes(files: dict[str, bytes], changes: dict[str, dict] | None = None) -> bytes:
    """A tar of `files`; `changes` sets fields of a member's header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in (changes or {}).get(name, {}).items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def files(folder) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw"


SOUND = {"PK/train/a_000030.mp4": noise(1), "vgg/test/b_000001.mp4": noise(2), "b.xml": b"<a/>"}


@pytest.mark.parametrize(
    "suffix, pack", [(".tar", bytes), (".tar.gz", gzip.compress), (".tgz", gzip.compress), (".tar.bz2", bz2.compress),
                     (".tar.xz", lzma.compress), (".zip", None)]
)  # fmt: skip
def test_every_kind_of_archive_arrives_once(tmp_path, target, suffix, pack):
    path = tmp_path / f"part{suffix}"
    if pack is None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in SOUND.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(pack(tar_bytes(SOUND)))
    done = unpack(path, target)
    assert files(target / path.name) == SOUND
    assert (done.written, done.already, done.refused, done.damaged) == (3, 0, {}, {})
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    again = unpack(path, target)
    assert (again.written, again.already) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == times


def test_folder_of_parts_and_folders(tmp_path, target):
    source = tmp_path / "download"
    (source / "loose/deep").mkdir(parents=True)
    (source / "loose/deep/c.webm").write_bytes(noise(3))
    (source / "part_00.tar.gz").write_bytes(gzip.compress(tar_bytes({"x/a.mp4": noise(1)})))
    (source / "part_01.tar.gz").write_bytes(gzip.compress(tar_bytes({"x/b.mp4": noise(2)})))
    (source / "README.md").write_text("read me")
    done = unpack(source, target)
    assert files(target) == {"part_00.tar.gz/x/a.mp4": noise(1), "part_01.tar.gz/x/b.mp4": noise(2),
                             "loose/deep/c.webm": noise(3)}  # fmt: skip
    assert done.refused == {"README.md": "neither media nor annotations"} and done.written == 3
    assert (source / "loose/deep/c.webm").samefile(target / "loose/deep/c.webm")  # no second copy on the disk


BAD_NAMES = {
    "../escape.mp4": "leaves its folder",
    "a/../../escape.mp4": "leaves its folder",
    "..\\escape.mp4": "leaves its folder",
    "/tmp/absolute.mp4": "absolute",
    "//tmp/absolute.mp4": "absolute",
    "C:\\windows.mp4": "absolute",
    "C:windows.mp4": "absolute",
    "a/b:c.mp4": "not a clip's name",
    "a\x07.mp4": "not a clip's name",
    "y" * 250 + ".mp4": "not a clip's name",
    "ä" * 120 + ".mp4": "not a clip's name",
    "a/" * 500 + "x.mp4": "not a clip's name",
    "run.sh": "neither media nor annotations",
    "x.mp4.exe": "neither media nor annotations",
    "__MACOSX/x.mp4": "hidden",
    "a/._x.mp4": "hidden",
    "inner.tar.gz": "archive in an archive",
}


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_and_the_rest_arrives(tmp_path, target, kind, name):
    contents = {"first.mp4": noise(1), name: noise(2), "last.mp4": noise(3)}
    path = tmp_path / f"evil.{kind}"
    if kind == "tar":
        path.write_bytes(tar_bytes(contents))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in contents.items():
                archive.writestr(member, content)
    done = unpack(path, target)
    assert files(target) == {f"evil.{kind}/first.mp4": noise(1), f"evil.{kind}/last.mp4": noise(3)}
    (place,) = done.refused
    assert place == f"evil.{kind}: {name}" and BAD_NAMES[name] in done.refused[place]
    assert {entry.name for entry in tmp_path.iterdir()} == {"raw", path.name}
    assert not done.damaged and place in str(done)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, target, kind):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    content = {"x.mp4": b"", "good.mp4": noise(1)}
    link = {"type": kind, "linkname": str(secret), "devmajor": 1, "devminor": 3}
    (tmp_path / "evil.tar").write_bytes(tar_bytes(content, {"x.mp4": link}))
    done = unpack(tmp_path / "evil.tar", target)
    assert files(target) == {"evil.tar/good.mp4": noise(1)}
    assert done.refused == {"evil.tar: x.mp4": "a link, a device or another special file"}


def test_link_that_a_later_member_writes_through(tmp_path, target):
    """First a link x.mp4 to a file outside, then a regular x.mp4: the file outside must not change."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("x.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        member = tarfile.TarInfo("x.mp4")
        member.size = 3000
        tar.addfile(member, io.BytesIO(noise(1)))
    (tmp_path / "evil.tar").write_bytes(buffer.getvalue())
    done = unpack(tmp_path / "evil.tar", target)
    assert secret.read_text() == "secret" and files(target) == {}
    assert list(done.refused) == ["evil.tar: x.mp4"]


def test_link_in_the_target_is_not_followed(tmp_path, target):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(noise(9))
    (target / "one.tar/d").mkdir(parents=True)
    (target / "one.tar/d/x.mp4").symlink_to(secret)
    (tmp_path / "one.tar").write_bytes(tar_bytes({"d/x.mp4": noise(1), "d/y.mp4": noise(2)}))
    done = unpack(tmp_path / "one.tar", target)
    assert secret.read_bytes() == noise(9) and (target / "one.tar/d/y.mp4").read_bytes() == noise(2)
    assert "something else is at" in done.refused["one.tar: d/x.mp4"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_file_that_is_also_a_folder_is_refused(tmp_path, target, kind):
    path, contents = tmp_path / f"evil.{kind}", {"a.mp4": noise(1), "a.mp4/b.mp4": noise(2), "c.mp4/d.mp4": noise(3),
                                                 "c.mp4": noise(4)}  # fmt: skip
    if kind == "tar":
        path.write_bytes(tar_bytes(contents))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    done = unpack(path, target)
    assert files(target / path.name) == {"a.mp4": noise(1), "c.mp4/d.mp4": noise(3)}
    assert set(done.refused) == {f"{path.name}: a.mp4/b.mp4", f"{path.name}: c.mp4"} and not done.damaged


def test_link_and_encrypted_member_of_a_zip_are_refused(tmp_path, target):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("x.mp4")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("locked.mp4", noise(2))
        archive.writestr("good.mp4", noise(1))
    content = bytearray(path.read_bytes())
    entry = content.index(b"locked.mp4", content.index(b"PK\x01\x02")) - 46
    content[entry + 8] |= 1
    path.write_bytes(content)
    done = unpack(path, target)
    assert files(target) == {"evil.zip/good.mp4": noise(1)}
    assert "a link" in done.refused["evil.zip: x.mp4"] and "encrypted" in done.refused["evil.zip: locked.mp4"]


def test_links_in_a_folder_are_refused(tmp_path, target):
    source, outside = tmp_path / "download", tmp_path / "outside"
    source.mkdir(), outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (source / "a.txt").symlink_to(outside / "secret.txt")
    (source / "folder").symlink_to(outside)
    os.mkfifo(source / "pipe.mp4")
    done = unpack(source, target)
    assert files(target) == {} and set(done.refused) == {"a.txt", "folder", "pipe.mp4"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["bomb.mp4", "bomb.bin"])
def test_bomb_is_stopped_before_it_is_written(tmp_path, target, kind, name):
    """8 MB of zeros in a few kB: more than may be written. What came before is kept."""
    path, contents = tmp_path / f"evil.{kind}", {"good.mp4": noise(1), name: bytes(8 << 20), "later.mp4": noise(2)}
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in contents.items():
                archive.writestr(member, content)
    else:
        path.write_bytes(gzip.compress(tar_bytes(contents)))
    assert path.stat().st_size < 50_000
    done = unpack(path, target, limit=1 << 20)
    assert files(target) == {f"{path.name}/good.mp4": noise(1), f"{path.name}/later.mp4": noise(2)}
    (place,) = done.refused
    assert place == f"{path.name}: {name}" and not done.damaged
    assert name == "bomb.bin" or done.refused[place] == "it takes 8388608 bytes where 1045576 may be written"


def test_member_that_no_memory_should_hold_is_refused(tmp_path, target, monkeypatch):
    monkeypatch.setattr(published, "LARGEST", 5000)
    (tmp_path / "large.tar").write_bytes(tar_bytes({"a.mp4": bytes(6000), "b.mp4": noise(1)}))
    done = unpack(tmp_path / "large.tar", target)
    assert (
        files(target) == {"large.tar/b.mp4": noise(1)} and "6000 bytes where 5000" in done.refused["large.tar: a.mp4"]
    )


def test_many_small_files_cannot_exceed_the_limit_together(tmp_path, target):
    (tmp_path / "many.tar").write_bytes(tar_bytes({f"{n}.mp4": noise(n) for n in range(10)}))
    done = unpack(tmp_path / "many.tar", target, limit=10_000)
    assert done.written == 3 and set(files(target / "many.tar")) == {"0.mp4", "1.mp4", "2.mp4"}
    assert len(done.refused) == 7
    assert unpack(tmp_path / "many.tar", target, limit=100_000).written == 7  # goes on where it stopped


def test_default_limit_is_the_free_disk(tmp_path, target, monkeypatch):
    (tmp_path / "one.tar").write_bytes(tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)}))
    usage = type("Usage", (), {"free": published.RESERVE + 4000})
    monkeypatch.setattr(published.shutil, "disk_usage", lambda path: usage)
    done = unpack(tmp_path / "one.tar", target)
    assert set(files(target)) == {"one.tar/a.mp4"} and "1000 may be written" in done.refused["one.tar: b.mp4"]


def test_zip_whose_header_lies_about_the_size(tmp_path, target):
    """A member that says 10 bytes and inflates to 8 MB must not be written as 8 MB."""
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("liar.mp4", bytes(8 << 20))
        archive.writestr("good.mp4", noise(1))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 10)
    path.write_bytes(content)
    done = unpack(path, target)
    assert files(target) == {"evil.zip/good.mp4": noise(1)} and "evil.zip: liar.mp4" in done.refused


@pytest.mark.parametrize("size", [1 << 40, -512])
def test_tar_header_that_claims_a_huge_or_negative_size(tmp_path, target, size):
    """A name of a terabyte would be read into memory; a negative size would send the reader round in circles."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, size
    sound = tar_bytes({"good.mp4": noise(1)})[:3584]
    (tmp_path / "evil.tar").write_bytes(sound + long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    done = unpack(tmp_path / "evil.tar", target)
    assert files(target) == {"evil.tar/good.mp4": noise(1)} and list(done.damaged) == ["evil.tar"]


@pytest.mark.parametrize("changes", [{"size": -512}, {"pax_headers": {"size": "-1024"}}])
def test_tar_whose_member_leads_backwards(tmp_path, target, changes):
    """A reader that goes on where the member claims to end would meet it for ever."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT if "pax_headers" in changes else None) as tar:
        for name in ("good.mp4", "back.mp4"):
            member = tarfile.TarInfo(name)
            member.size = 3000
            if name == "back.mp4":
                for key, value in changes.items():
                    setattr(member, key, value)
            tar.addfile(member, io.BytesIO(noise(1)) if member.size > 0 else None)
    (tmp_path / "evil.tar").write_bytes(buffer.getvalue())
    done = unpack(tmp_path / "evil.tar", target)
    assert files(target) == {"evil.tar/good.mp4": noise(1)} and list(done.damaged) == ["evil.tar"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
@pytest.mark.parametrize("keep", [0.97, 0.6])
def test_truncated_tar_keeps_what_was_readable(tmp_path, target, pack, keep):
    contents = {f"{n}.mp4": os.urandom(200_000) for n in range(10)}
    packed = pack(tar_bytes(contents))
    source = tmp_path / "download"
    source.mkdir()
    (source / "part_00.tar.gz").write_bytes(packed[: int(len(packed) * keep)])
    (source / "part_01.tar.gz").write_bytes(pack(tar_bytes({"whole.mp4": noise(1)})))
    done = unpack(source, target)
    assert files(target / "part_01.tar.gz") == {"whole.mp4": noise(1)}
    got = files(target / "part_00.tar.gz")
    assert list(done.damaged) == ["part_00.tar.gz"]
    # bz2 hands out whole blocks of up to 900 kB, the others nearly every byte
    lost = 5 if pack is bz2.compress else 1
    assert 10 * keep - lost - 1 <= len(got) < 10 and all(contents[name] == content for name, content in got.items())
    (source / "part_00.tar.gz").write_bytes(packed)  # fetched again
    again = unpack(source, target)
    assert again.already == len(got) + 1 and again.written == 10 - len(got) and not again.damaged
    assert files(target / "part_00.tar.gz") == contents


def test_tar_cut_between_two_members_is_noticed(tmp_path, target):
    """tarfile itself takes this for the end."""
    whole = tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)})
    (tmp_path / "cut.tar").write_bytes(whole[:3584])
    done = unpack(tmp_path / "cut.tar", target)
    assert set(files(target)) == {"cut.tar/a.mp4"} and "cut short" in done.damaged["cut.tar"]


def test_tar_with_a_damaged_header_in_the_middle_is_noticed(tmp_path, target):
    whole = bytearray(tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)}))
    whole[3584 + 200] ^= 255
    (tmp_path / "bad.tar").write_bytes(whole)
    done = unpack(tmp_path / "bad.tar", target)
    assert set(files(target)) == {"bad.tar/a.mp4"} and "damaged header" in done.damaged["bad.tar"]


def test_gzip_with_a_wrong_checksum_is_noticed(tmp_path, target):
    packed = bytearray(gzip.compress(tar_bytes({"a.mp4": noise(1)})))
    packed[-6] ^= 255
    (tmp_path / "bad.tar.gz").write_bytes(packed)
    assert "CRC" in unpack(tmp_path / "bad.tar.gz", target).damaged["bad.tar.gz"]


def test_damaged_member_of_a_zip_does_not_cost_the_others(tmp_path, target):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.mp4", noise(number))
    content = bytearray(path.read_bytes())
    content[content.index(noise(1)) + 1500] ^= 255
    path.write_bytes(content)
    done = unpack(path, target)
    assert files(target / "bad.zip") == {"0.mp4": noise(0), "2.mp4": noise(2)}
    assert "CRC" in done.refused["bad.zip: 1.mp4"]


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"PK nothing", b"\x1f\x8bnothing"])
@pytest.mark.parametrize("name", ["page.zip", "page.tar.gz"])
def test_file_that_is_no_archive_is_listed(tmp_path, target, name, content):
    (tmp_path / name).write_bytes(content)
    done = unpack(tmp_path / name, target)
    assert list(done.damaged) == [name] and done.written == 0


def test_files_of_one_name_lie_beside_each_other(tmp_path, target):
    """One name in two folders, in two archives, and in two archives that differ in their suffix only."""
    source = tmp_path / "download"
    source.mkdir()
    (source / "a.tar").write_bytes(tar_bytes({"train/x.mp4": noise(1), "test/x.mp4": noise(2)}))
    (source / "b.tar").write_bytes(tar_bytes({"x.mp4": noise(3)}))
    (source / "b.tar.gz").write_bytes(gzip.compress(tar_bytes({"x.mp4": noise(4)})))
    want = {"a.tar/train/x.mp4": noise(1), "a.tar/test/x.mp4": noise(2), "b.tar/x.mp4": noise(3),
            "b.tar.gz/x.mp4": noise(4)}  # fmt: skip
    for written, already in ((4, 0), (0, 4)):
        done = unpack(source, target)
        assert files(target) == want and (done.written, done.already, done.refused) == (written, already, {})


def test_member_named_twice_in_a_tar(tmp_path, target):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo("x.mp4")
            member.size = 3000
            tar.addfile(member, io.BytesIO(noise(number)))
    (tmp_path / "two.tar").write_bytes(buffer.getvalue())
    done = unpack(tmp_path / "two.tar", target)
    assert files(target) == {"two.tar/x.mp4": noise(0)}
    assert "named twice" in done.refused["two.tar: x.mp4"]


def test_what_lies_there_already_is_not_replaced(tmp_path, target):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    unpack(tmp_path / "a.tar", target)
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(2, 2000)}))
    assert "something else is at" in unpack(tmp_path / "a.tar", target).refused["a.tar: x.mp4"]
    assert files(target) == {"a.tar/x.mp4": noise(1)}


def test_file_has_its_name_only_when_it_is_whole(tmp_path, target, monkeypatch):
    """What a killed run leaves: nothing that looks like a clip."""
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1), "y.mp4": noise(2)}))

    def killed(path, final):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack(tmp_path / "a.tar", target)
    assert files(target) == {}
    assert unpack(tmp_path / "a.tar", target).written == 2


def test_files_that_cannot_be_linked_are_copied_within_the_limit(tmp_path, target, monkeypatch):
    def elsewhere(final, source):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.hardlink_to", elsewhere)
    (tmp_path / "download").mkdir()
    for number in range(3):
        (tmp_path / f"download/{number}.mp4").write_bytes(noise(number))
    done = unpack(tmp_path / "download", target, limit=7000)
    assert files(target) == {"0.mp4": noise(0), "1.mp4": noise(1)} and done.written == 2
    assert done.refused == {"2.mp4": "it takes 3000 bytes where 1000 may be written"}


def test_full_disk_is_a_clear_stop(tmp_path, target, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    monkeypatch.setattr(published, "write_atomic", full)
    with pytest.raises(InputError, match=r"stopped: .*No space left.*run it again"):
        unpack(tmp_path / "a.tar", target)
    assert files(target) == {}


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="nothing at"):
        unpack(tmp_path / "none.tar", tmp_path / "raw")
    with pytest.raises(InputError, match="lies in"):
        unpack(tmp_path, tmp_path / "raw")
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    with pytest.raises(InputError, match="stopped"):
        unpack(tmp_path / "a.tar", tmp_path / "file")


# Annotations

FAR = -2.8823037615171176e16  # what the real file has for a corner that was lost
RECORDS = [  # of the shapes that the real file has, with numbers of our own
    {"file": "aaaaaaaaaaa_000030", "class": "female speech, woman speaking", "bbox": [[0.25, 0.5, 0.75, 1.0]]},
    {"file": "bbbbbbbbbbb_000000", "class": "cello", "bbox": [[0, 0.25, 0.5, 0.5], [0.25, 0.25, 1, 0.75]]},
    {"file": "ccccccccccc_000001", "class": "cello", "bbox": [[0.5, 0.25, FAR, 0.75], [0.0, 0.0, 0.5, 0.5]]},
    {"file": "ddddddddddd_000002", "class": "drum", "bbox": [[0.25, 0.5, 0.75, FAR]]},
    {"file": "eeeeeeeeeee_000003", "class": "drum", "bbox": [[0.25, 1.0, 0.75, 1.0]]},
    {"file": "-_fffffffff_000004", "class": "drum", "bbox": []},
    {"file": "ggggggggggg_001257", "class": "cello", "bbox": [[-0.25, 0.5, 1.5, 0.75]]},
]


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def by_hand(boxes) -> np.ndarray:
    """Union of boxes by the protocol's rule, pixel by pixel."""
    truth = np.zeros((224, 224), bool)
    for left, top, right, bottom in boxes:
        for y in range(224):
            for x in range(224):
                if int(224 * max(left, 0)) <= x < int(224 * max(right, 0)):
                    truth[y, x] |= int(224 * max(top, 0)) <= y < int(224 * max(bottom, 0))
    return truth


def test_every_vggss_record_loads_and_odd_ones_are_counted(tmp_path):
    found = rows, odd = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    assert list(rows) == [record["file"] for record in RECORDS]
    assert [row["class"] for row in rows.values()] == [record["class"] for record in RECORDS]
    _, b, c, d, e, f, g = rows
    assert odd["beyond"] == [c, d, g] and odd["reversed"] == [c, d] and odd["flat"] == [e]
    assert odd["several"] == [b, c] and odd["unboxed"] == [f] and odd["empty"] == [d, e, f]
    assert str(found) == "3 beyond, 2 reversed, 1 flat, 2 several, 1 unboxed, 3 empty"
    assert all(0 <= value <= 1 for row in rows.values() for box in row["boxes"] for value in box)
    assert rows[c]["boxes"] == [[0.5, 0.25, 0, 0.75], [0, 0, 0.5, 0.5]]  # the reversed box is still there


def test_ground_truth_is_that_of_the_file_itself(tmp_path):
    rows, odd = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    for record in RECORDS:
        truth = by_hand(record["bbox"])
        np.testing.assert_array_equal(metrics.box_map(rows[record["file"]]["boxes"]), truth)
        assert truth.any() == (record["file"] not in odd["empty"])


def test_rows_go_into_the_layout_and_come_back(tmp_path):
    rows, _ = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    layout = Layout(tmp_path / "data")
    layout.write_annotations("vggss", rows)
    layout.write_split("vggss", list(rows))
    assert layout.annotations("vggss") == rows and layout.ids("vggss") == list(rows)


GOOD = RECORDS[0]


@pytest.mark.parametrize(
    "content, says",
    [
        ("not json", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ("", "Invalid JSON"),
        ({"file": "a"}, "valid array"),
        ([GOOD, {"file": "a", "class": "b"}], "record 2 bbox: Field required"),
        ([GOOD, 3], "record 2: .*valid (dictionary|object)|record 2: Input should be an object"),
        ([GOOD, GOOD], "record 2: clip 'aaaaaaaaaaa_000030' comes twice"),
        ([GOOD | {"file": "../x"}], "record 1: .*not a clip id"),
        ([GOOD | {"bbox": [0.1, 0.2, 0.3, 0.4]}], "record 1 bbox 1: .*valid array"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3]]}], "record 1 bbox 1 4: Field required"),
        ([GOOD | {"bbox": None}], "record 1 bbox: .*valid array"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, "0.4"]]}], "bbox 1 4: .*valid number .found '0.4'"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, True]]}], "bbox 1 4: .*valid number .found True"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, float("nan")]]}], "bbox 1 4: .*finite number"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, float("inf")]]}], "bbox 1 4: .*finite number"),
    ],
)
def test_file_that_is_not_vggss_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=rf"(?s)odd\.json.*{says}"):
        read_vggss(write(tmp_path / "odd.json", content))


# Flickr-SoundNet


def xml(*annotators: str) -> str:
    each = "".join(f"<annotator_{number}>{boxes}</annotator_{number}>" for number, boxes in enumerate(annotators))
    return f"<annotations>{each}</annotations>"


def box(x0, y0, x1, y1) -> str:
    return f"<bbox><id>1</id><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bbox>"


def test_several_annotators_of_a_clip(tmp_path):
    write(tmp_path / "10.xml", xml(box(64, 0, 192, 128), box(0, 0, 128, 256) + box(192, 192, 256, 256), ""))
    write(tmp_path / "9.xml", xml(box(10, 20, 30, 40), box(11, 21, 31, 41), box(12, 22, 32, 42)))
    rows, odd = read_flickr(tmp_path)
    assert list(rows) == ["10", "9"]
    one, two = [[0.25, 0, 0.75, 0.5]], [[0, 0, 0.5, 1], [0.75, 0.75, 1, 1]]
    assert rows["10"] == {"annotators": [one, two, []], "boxes": one + two}
    assert len(rows["9"]["annotators"]) == 3
    assert odd["several"] == ["10"] and odd["empty"] == [] and odd["beyond"] == []


def test_consensus_follows_the_pixel_rule_of_the_protocol(tmp_path):
    """int(224 * pixel / 256), by hand; half a vote for each annotator, at most one."""
    corners = [(3, 5, 130, 201), (17, 1, 255, 256), (100, 99, 121, 122)]
    write(tmp_path / "1.xml", xml(*(box(*c) for c in corners)))
    votes = np.zeros((224, 224))
    for x0, y0, x1, y1 in corners:
        votes[224 * y0 // 256 : 224 * y1 // 256, 224 * x0 // 256 : 224 * x1 // 256] += 0.5
    got = metrics.consensus_map(read_flickr(tmp_path).rows["1"]["annotators"])
    np.testing.assert_array_equal(got, np.minimum(votes, 1))
    assert set(np.unique(got)) == {0, 0.5, 1}


@pytest.mark.parametrize(
    "content",
    [
        "<a><annotator><bbox><label>dog</label><a>64</a><b>0</b><c>192</c><d>128</d></bbox></annotator></a>",
        "<a><who><id>1</id>" + box(" 64 ", "0.0", 192, 128) + "</who></a>",
        '<?xml version="1.0" encoding="UTF-8"?><!-- x --><a><who>' + box(64, 0, 192, 128) + "</who></a>",
    ],
)
def test_annotator_and_corners_whatever_they_are_called(tmp_path, content):
    write(tmp_path / "1.xml", content)
    assert read_flickr(tmp_path).rows["1"]["annotators"] == [[[0.25, 0, 0.75, 0.5]]]


def test_annotations_in_folders_below_of_which_no_clip_has_two(tmp_path):
    for folder in ("a.zip/x", "b.zip"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "a.zip/x/1.xml", xml(box(0, 0, 128, 128)))
    write(tmp_path / "b.zip/2.xml", xml(box(0, 0, 128, 256)))
    assert {clip_id: row["boxes"] for clip_id, row in read_flickr(tmp_path).rows.items()} == {
        "1": [[0, 0, 0.5, 0.5]], "2": [[0, 0, 0.5, 1]]}  # fmt: skip
    write(tmp_path / "b.zip/1.xml", xml(box(0, 0, 128, 128)))
    with pytest.raises(InputError, match=r"b\.zip/1\.xml: clip '1' comes twice, first in a\.zip/x/1\.xml"):
        read_flickr(tmp_path)


def test_boxes_beyond_the_frame_and_reversed_are_counted(tmp_path):
    write(tmp_path / "1.xml", xml(box(-5, 0, 300, 128), box(10, 10, 20, 20)))
    write(tmp_path / "2.xml", xml(box(100, 10, 50, 20)))
    rows, odd = read_flickr(tmp_path)
    assert odd["beyond"] == ["1"] and odd["reversed"] == ["2"] and odd["empty"] == ["2"]
    assert rows["1"]["boxes"][0] == [0, 0, 1, 0.5] and rows["2"]["boxes"] == [[100 / 256, 10 / 256, 50 / 256, 20 / 256]]


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content, says",
    [
        (BOMB + "]><b><x>&i;</x></b>", "EntitiesForbidden"),
        ('<!DOCTYPE b [<!ENTITY x SYSTEM "file:' + '///etc/passwd">]><b>&x;</b>', "EntitiesForbidden"),
        ("<html><body>quota exceeded</body></html>", "no annotator's boxes below <html>"),
        ("<annotations/>", "no annotator's boxes"),
        ("", "not readable as XML"),
        ("<annotations><annotator>", "not readable as XML"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not readable as XML"),
        (f"<annotations>{box(1, 2, 3, 4)}</annotations>", "no annotator's boxes below <annotations>"),
        (xml(box(1, 2, 3, "")), "annotator 1 1 4: .*valid number"),
        (xml(box(1, 2, 3, "x")), "annotator 1 1 4: .*valid number.*'x'"),
        (xml(box(1, 2, 3, "nan")), "annotator 1 1 4: .*finite number"),
        (xml("<bbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax></bbox>"), "annotator 1 1 3: Field required"),
        (xml("<bbox><a>1</a><b>2</b></bbox>"), "annotator 1 1 2: Field required"),
        (xml(box(1, 2, 3, "4</ymax><more>5</more><ymax>6")), "annotator 1 1: .*at most 4 items"),
    ],
)
def test_xml_that_cannot_be_used_is_named(tmp_path, content, says):
    write(tmp_path / "1.xml", xml(box(1, 2, 3, 4)))
    write(tmp_path / "2.xml", content)
    with pytest.raises(InputError, match=rf"2\.xml.*({says})"):
        read_flickr(tmp_path)


def test_folder_without_annotations(tmp_path):
    with pytest.raises(InputError, match="names no clip"):
        read_flickr(tmp_path)


# VGGSound

CSV = (
    '---g-f_I2yQ,1,"people marching",test\r\n'
    '--0PQM4-hqg,30,"waterfall burbling",train\r\n'
    '--4gqARaEJE,0,"female speech, woman speaking",train\r\n\r\n'
    '--4gqARaEJE,1257,"female speech, woman speaking",test\r\n'
)


@pytest.mark.parametrize("head", ["", "\ufeff", "youtube_id,start_seconds,label,split\n"])
def test_vggsound_csv(tmp_path, head):
    found = read_vggsound(write(tmp_path / "vggsound.csv", head + CSV))
    assert list(found) == ["---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "--4gqARaEJE_000000", "--4gqARaEJE_001257"]
    assert [row["split"] for row in found.values()] == ["test", "train", "train", "test"]
    assert found["--4gqARaEJE_001257"] == {
        "class": "female speech, woman speaking",
        "start": 1257,
        "split": "test",
    }


def test_vggsound_csv_that_repeats_itself(tmp_path):
    found = read_vggsound(write(tmp_path / "vggsound.csv", CSV + CSV.splitlines()[1] + "\n"))
    assert len(found) == 4
    with pytest.raises(InputError, match=r"line 6: clip '--0PQM4-hqg_000030' comes twice, first in line 2"):
        read_vggsound(write(tmp_path / "vggsound.csv", CSV + "--0PQM4-hqg,30,waterfall burbling,test\n"))


@pytest.mark.parametrize(
    "line", ["a,b,c,train", "a,1,c", "a,1,c,val", "a,1.5,c,train", "a,-1,c,train", "a,1,c,d,train"]
)
def test_vggsound_line_that_is_wrong_is_named(tmp_path, line):
    with pytest.raises(InputError, match=r"vggsound\.csv, line 2: expected"):
        read_vggsound(write(tmp_path / "vggsound.csv", CSV.splitlines()[0] + "\n" + line))


def test_vggsound_csv_that_is_empty_or_no_text(tmp_path):
    with pytest.raises(InputError, match="names no clip"):
        read_vggsound(write(tmp_path / "vggsound.csv", "\n"))
    (tmp_path / "vggsound.csv").write_bytes(CSV.encode("utf-16"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_vggsound(tmp_path / "vggsound.csv")


def test_heard_and_unheard_classes(tmp_path):
    rows, _ = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    path = tmp_path / "heard.txt"
    path.write_bytes(b'\xef\xbb\xbfcello\r\nfemale speech, woman speaking\r\n\r\n"siren"\r\n')
    a, b, c, d, e, f, g = rows
    assert split_by_heard(rows, path) == ([a, b, c, g], [d, e, f], ["siren"])
    with pytest.raises(InputError, match=r"heard\.txt.*a clip has no class"):
        split_by_heard(rows | {"x": {"boxes": []}}, path)
    for content in ("siren", ""):
        with pytest.raises(InputError, match=r"heard\.txt: no clip is of one of its . classes"):
            split_by_heard(rows, write(path, content))


# Lists

IDS = ["aaaaaaaaaaa_000030", "-_bbbbbbbbb_000000", "10000130166"]
ONE_A_LINE = "".join(f"{name}\n" for name in IDS)
SHAPES = {
    "one a line": ONE_A_LINE,
    "without last line end": ONE_A_LINE.rstrip(),
    "Windows": ONE_A_LINE.replace("\n", "\r\n"),
    "old Mac": ONE_A_LINE.replace("\n", "\r"),
    "byte order mark": "\ufeff" + ONE_A_LINE,
    "blank lines": "\n\n" + ONE_A_LINE.replace("\n", "\n  \n"),
    "spaces": ONE_A_LINE.replace("\n", " \t\n"),
    "csv": "".join(f"{name},{number}\n" for number, name in enumerate(IDS)),
    "csv with header": "video_id,number\n" + "".join(f"{name},{number}\n" for number, name in enumerate(IDS)),
    "header with mark": "\ufeffFile\r\n" + ONE_A_LINE.replace("\n", "\r\n"),
    "semicolons": "".join(f"{name};x\n" for name in IDS),
    "tabs": "".join(f"{name}\tx\n" for name in IDS),
    "quotes": "".join(f'"{name}",x\n' for name in IDS),
    ".mp4": ONE_A_LINE.replace("\n", ".mp4\n"),
    ".wav": ONE_A_LINE.replace("\n", ".wav\n"),
    ".JPG": ONE_A_LINE.replace("\n", ".JPG\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_list_of_every_shape(tmp_path, shape):
    path = tmp_path / "list.csv"
    path.write_bytes(SHAPES[shape].encode())
    assert read_ids(path) == IDS


def test_id_that_looks_like_a_header_is_one_only_at_the_top(tmp_path):
    (tmp_path / "list.txt").write_text("a\nname\nid\n")
    assert read_ids(tmp_path / "list.txt") == ["a", "name", "id"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("a\n\nb\na\n", r"line 4: clip 'a' comes twice, first in line 1"),
        ("a.mp4\na.wav\n", r"line 2: clip 'a' comes twice"),
        ("a\n../b\n", r"line 2: .*not a clip id"),
        ("a\nfolder/b.jpg\n", r"line 2: .*not a clip id"),
        (".mp4\n", r"line 1: .*not a clip id"),
        ("", "names no clip"),
        ("\ufeff\n \n", "names no clip"),
        ("id\n", "names no clip"),
        ('---g-f_I2yQ,1,"people marching",test\n', "line 1: this is VGGSound's csv"),
        ("---g-f_I2yQ,1,female speech, woman speaking,train\n", "line 1: this is VGGSound's csv"),
    ],
)
def test_list_that_cannot_be_used_names_the_line(tmp_path, text, says):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"list\.txt.*{says}"):
        read_ids(tmp_path / "list.txt")


def test_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes("a\nb\n".encode("utf-16"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_ids(tmp_path / "list.txt")


# Pairs


def test_pairs_become_clips_of_the_layout(tmp_path):
    source, root = tmp_path / "flickr", tmp_path / "data"
    for name in ("1.jpg", "a.zip/x/1.wav", "b/2.JPG", "2.mp3", "3.jpg", "4.wav", "1.xml", "._5.jpg", "5.wav"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    for _ in range(2):
        assert import_image_audio_pairs(source, root) == (["1", "2"], ["3"], ["4", "5"])
        found = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}
        assert found == {"video_frames/1/001.jpg": "1.jpg", "audios/1.wav": "a.zip/x/1.wav",
                         "video_frames/2/001.jpg": "b/2.JPG", "audios/2.mp3": "2.mp3"}  # fmt: skip
    (source / "b/2.wav").write_text("another sound of the clip")
    with pytest.raises(InputError, match=r"b/2\.wav: clip '2' comes twice, first in 2\.mp3"):
        import_image_audio_pairs(source, root)
    with pytest.raises(InputError, match="names no clip"):
        import_image_audio_pairs(tmp_path / "data/audios", root)
    (tmp_path / "data/audios/5.jpg").write_text("of no sound that is there")
    with pytest.raises(InputError, match="holds no pair"):
        import_image_audio_pairs(tmp_path / "data/audios", root)


# The manual


def test_the_manual_works_as_it_is_printed(tmp_path, monkeypatch, capsys):
    """The Python code of data/README.md, from downloads to lists, on files of the same shapes."""
    manual = (Path(__file__).parents[1] / "data/README.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in re.split(r"^##+ ", manual, flags=re.MULTILINE)}
    monkeypatch.chdir(tmp_path)
    for folder in ("downloads/vggsound", "downloads/flickr"):
        (tmp_path / folder).mkdir(parents=True)
    Path("downloads/vggsound/part_00.tar.gz").write_bytes(gzip.compress(tar_bytes({"x/---g-f_I2yQ_000001.mp4": b"a"})))
    with zipfile.ZipFile("downloads/flickr/all.zip", "w") as archive:
        for name, content in {"a/9.jpg": b"image", "b/9.wav": b"audio", "c/9.xml": xml(box(0, 0, 64, 64))}.items():
            archive.writestr(name, content)
    write(Path("vggsound.csv"), CSV)
    write(Path("vggss.json"), RECORDS)
    write(Path("heard_classes.txt"), "cello\nsiren\n")
    write(Path("flickr_test.csv"), "9\n")
    write(Path("flickr_144k.csv"), "8\n7\n")
    names = {}
    for title in ("VGGSound", "VGG-SS", "Flickr-SoundNet"):
        for code in re.findall(r"^```python\n(.*?)^```", sections[title], flags=re.MULTILINE | re.DOTALL):
            exec(code, names)
    data = Layout(Path("data/vggsound"))
    assert data.ids("train") == ["--0PQM4-hqg_000030", "--4gqARaEJE_000000"]
    assert data.ids("val") == ["---g-f_I2yQ_000001", "--4gqARaEJE_001257"]
    assert list(data.annotations("vggss_heard")) == data.ids("vggss_heard") and len(data.ids("vggss_unheard")) == 4
    assert names["unknown"] == ["siren"] and Path("raw/vggsound/part_00.tar.gz/x/---g-f_I2yQ_000001.mp4").exists()
    flickr = Layout(Path("data/flickr"))
    assert flickr.present() == {"9"} and flickr.ids("flickr") == ["9"] and names["ids"] == ["9"]
    assert flickr.annotations("flickr")["9"]["annotators"] == [[[0, 0, 0.25, 0.25]]]
    assert "1 files written" in capsys.readouterr().out
