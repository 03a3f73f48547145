"""Archives of strangers: what is sound arrives whole under a name of its own, everything else is refused or listed."""

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from sslib import archives, members
from sslib.archives import ArchiveError, lay_out_pairs, unpack


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
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw"


SOUND = {"vgg/train/a_000030.mp4": noise(1), "vgg/test/b_000001.mp4": noise(2), "b.xml": b"<a/>"}


@pytest.mark.parametrize(
    "suffix, pack", [(".tar", bytes), (".tar.gz", gzip.compress), (".tgz", gzip.compress), (".tar.bz2", bz2.compress),
                     (".tar.xz", lzma.compress), (".zip", None)]
)  # fmt: skip
def test_every_kind_of_archive_arrives_flat_and_once(tmp_path, target, suffix, pack):
    path = tmp_path / f"part{suffix}"
    if pack is None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in SOUND.items():
                archive.writestr(name, content)
    else:
        path.write_bytes(pack(tar_bytes(SOUND)))
    done = unpack(path, target)
    assert files(target) == {name.rpartition("/")[2]: content for name, content in SOUND.items()}
    assert (done.written, done.already, done.refused, done.renamed, done.damaged) == (3, 0, {}, {}, {})
    times = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = unpack(path, target)
    assert (again.written, again.already) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == times


def test_folder_of_parts_and_folders(tmp_path, target):
    source = tmp_path / "download"
    (source / "loose/deep").mkdir(parents=True)
    (source / "loose/deep/c.webm").write_bytes(noise(3))
    (source / "part_00.tar.gz").write_bytes(gzip.compress(tar_bytes({"x/a.mp4": noise(1)})))
    (source / "part_01.tar.gz").write_bytes(gzip.compress(tar_bytes({"x/b.mp4": noise(2)})))
    (source / "README.md").write_text("read me")
    done = unpack(source, target)
    assert files(target) == {"a.mp4": noise(1), "b.mp4": noise(2), "c.webm": noise(3)}
    assert done.refused == {"README.md": "neither media nor annotations"} and done.written == 3
    assert (source / "loose/deep/c.webm").samefile(target / "c.webm")  # no second copy on the disk


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
    assert files(target) == {"first.mp4": noise(1), "last.mp4": noise(3)}
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
    assert files(target) == {"good.mp4": noise(1)}
    assert done.refused == {"evil.tar: x.mp4": members.LINK}


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
    unpack(tmp_path / "evil.tar", target)
    assert secret.read_text() == "secret" and not (target / "x.mp4").is_symlink()
    assert files(target) == {"x.mp4": noise(1)}


def test_link_in_the_target_is_not_followed(tmp_path, target):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(noise(9))
    target.mkdir()
    (target / "x.mp4").symlink_to(secret)
    (tmp_path / "one.tar").write_bytes(tar_bytes({"d/x.mp4": noise(1)}))
    done = unpack(tmp_path / "one.tar", target)
    assert secret.read_bytes() == noise(9) and done.renamed == {"one.tar: d/x.mp4": "d__x.mp4"}
    assert (target / "d__x.mp4").read_bytes() == noise(1)


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
    assert files(target) == {"good.mp4": noise(1)}
    assert done.refused == {"evil.zip: x.mp4": members.LINK, "evil.zip: locked.mp4": "encrypted"}


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
    assert files(target) == {"good.mp4": noise(1)}
    assert f"{name} takes 8388608 bytes where 1045576 may be written" in done.damaged[f"evil.{kind}"]


def test_many_small_files_cannot_exceed_the_limit_together(tmp_path, target):
    (tmp_path / "many.tar").write_bytes(tar_bytes({f"{n}.mp4": noise(n) for n in range(10)}))
    done = unpack(tmp_path / "many.tar", target, limit=10_000)
    assert done.written == 3 and set(files(target)) == {"0.mp4", "1.mp4", "2.mp4"} and done.damaged
    assert unpack(tmp_path / "many.tar", target, limit=100_000).written == 7  # goes on where it stopped


def test_default_limit_is_the_free_disk(tmp_path, target, monkeypatch):
    (tmp_path / "one.tar").write_bytes(tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)}))
    usage = type("Usage", (), {"free": archives.RESERVE + 4000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    done = unpack(tmp_path / "one.tar", target)
    assert set(files(target)) == {"a.mp4"} and "1000 may be written" in done.damaged["one.tar"]


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
    assert files(target) == {"good.mp4": noise(1)} and "evil.zip: liar.mp4" in done.refused


@pytest.mark.parametrize("size", [1 << 40, -512])
def test_tar_header_that_claims_a_huge_or_negative_size(tmp_path, target, size):
    """A name of a terabyte would be read into memory; a negative size would send the reader round in circles."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, size
    sound = tar_bytes({"good.mp4": noise(1)})[:3584]
    (tmp_path / "evil.tar").write_bytes(sound + long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    done = unpack(tmp_path / "evil.tar", target)
    assert files(target) == {"good.mp4": noise(1)} and "a header of" in done.damaged["evil.tar"]


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
    got = files(target)
    assert got.pop("whole.mp4") == noise(1)
    assert list(done.damaged) == ["part_00.tar.gz"]
    # bz2 hands out whole blocks of up to 900 kB, the others nearly every byte
    lost = 5 if pack is bz2.compress else 1
    assert 10 * keep - lost - 1 <= len(got) < 10 and all(contents[name] == content for name, content in got.items())
    (source / "part_00.tar.gz").write_bytes(packed)  # fetched again
    again = unpack(source, target)
    assert again.already == len(got) + 1 and again.written == 10 - len(got) and not again.damaged
    assert files(target) == contents | {"whole.mp4": noise(1)}


def test_tar_cut_between_two_members_is_noticed(tmp_path, target):
    """tarfile itself takes this for the end."""
    whole = tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)})
    (tmp_path / "cut.tar").write_bytes(whole[:3584])
    done = unpack(tmp_path / "cut.tar", target)
    assert set(files(target)) == {"a.mp4"} and "cut short" in done.damaged["cut.tar"]


def test_tar_with_a_damaged_header_in_the_middle_is_noticed(tmp_path, target):
    whole = bytearray(tar_bytes({"a.mp4": noise(1), "b.mp4": noise(2)}))
    whole[3584 + 200] ^= 255
    (tmp_path / "bad.tar").write_bytes(whole)
    done = unpack(tmp_path / "bad.tar", target)
    assert set(files(target)) == {"a.mp4"} and "damaged header" in done.damaged["bad.tar"]


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
    assert files(target) == {"0.mp4": noise(0), "2.mp4": noise(2)} and "CRC" in done.refused["bad.zip: 1.mp4"]


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"PK nothing", b"\x1f\x8bnothing"])
@pytest.mark.parametrize("name", ["page.zip", "page.tar.gz"])
def test_file_that_is_no_archive_is_listed(tmp_path, target, name, content):
    (tmp_path / name).write_bytes(content)
    done = unpack(tmp_path / name, target)
    assert list(done.damaged) == [name] and done.written == 0


def test_clash_of_names_keeps_both_and_says_so(tmp_path, target):
    source = tmp_path / "download"
    source.mkdir()
    (source / "a.tar").write_bytes(tar_bytes({"train/x.mp4": noise(1), "test/x.mp4": noise(2, 2000)}))
    (source / "b.tar").write_bytes(tar_bytes({"x.mp4": noise(3), "train/x.mp4": noise(4)}))
    want = {"x.mp4": noise(1), "test__x.mp4": noise(2, 2000), "b__x.mp4": noise(3), "train__x.mp4": noise(4)}
    done = unpack(source, target)
    assert files(target) == want
    assert done.renamed == {"a.tar: test/x.mp4": "test__x.mp4", "b.tar: x.mp4": "b__x.mp4",
                            "b.tar: train/x.mp4": "train__x.mp4"}  # fmt: skip
    again = unpack(source, target)
    assert files(target) == want and again.already == 4 and again.renamed == done.renamed


def test_member_named_twice_in_a_tar(tmp_path, target):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo("x.mp4")
            member.size = 3000
            tar.addfile(member, io.BytesIO(noise(number)))
    (tmp_path / "two.tar").write_bytes(buffer.getvalue())
    done = unpack(tmp_path / "two.tar", target)
    assert files(target) == {"x.mp4": noise(0), "two__x.mp4": noise(1)}
    assert "named twice" in done.refused["two.tar: x.mp4"]


def test_later_archive_does_not_replace_what_an_earlier_run_wrote(tmp_path, target):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    (tmp_path / "b.tar").write_bytes(tar_bytes({"x.mp4": noise(2, 2000)}))
    unpack(tmp_path / "a.tar", target)
    assert unpack(tmp_path / "b.tar", target).renamed == {"b.tar: x.mp4": "b__x.mp4"}
    assert files(target) == {"x.mp4": noise(1), "b__x.mp4": noise(2, 2000)}


def test_killed_run_leaves_nothing_half_written(tmp_path, target):
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1), "y.mp4": noise(2)}))
    target.mkdir()
    (target / ".0.partial").write_bytes(b"half of it")  # a kill at the worst moment leaves this
    assert unpack(tmp_path / "a.tar", target).written == 2 and set(files(target)) == {"x.mp4", "y.mp4"}


def test_full_disk_is_a_clear_stop(tmp_path, target, monkeypatch):
    def full(member, partial):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    monkeypatch.setattr(archives, "copy", full)
    with pytest.raises(ArchiveError, match=r"stopped: .*No space left.*run it again"):
        unpack(tmp_path / "a.tar", target)
    assert files(target) == {}


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(ArchiveError, match="nothing at"):
        unpack(tmp_path / "none.tar", tmp_path / "raw")
    with pytest.raises(ArchiveError, match="lies in"):
        unpack(tmp_path, tmp_path / "raw")
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.tar").write_bytes(tar_bytes({"x.mp4": noise(1)}))
    with pytest.raises(ArchiveError, match="stopped"):
        unpack(tmp_path / "a.tar", tmp_path / "file")


def test_pairs_become_clips_of_the_layout(tmp_path):
    source, root = tmp_path / "flickr", tmp_path / "data"
    source.mkdir()
    for name in ("1.jpg", "1.wav", "2.JPG", "2.mp3", "3.jpg", "4.wav", "1.xml"):
        (source / name).write_bytes(name.encode())
    for _ in range(2):
        assert lay_out_pairs(source, root) == (["1", "2"], ["3"], ["4"])
        found = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}
        assert found == {"video_frames/1/001.jpg": "1.jpg", "audios/1.wav": "1.wav",
                         "video_frames/2/001.jpg": "2.JPG", "audios/2.mp3": "2.mp3"}  # fmt: skip
    with pytest.raises(ArchiveError, match="no pair"):
        lay_out_pairs(tmp_path, root)
