"""Annotation files as they are distributed: every record loads, every oddity is counted, other files are refused."""

import json

import numpy as np
import pytest

from sslib import heatmaps
from sslib.annotations import AnnotationError, read_vggsound, read_vggss, split_heard
from sslib.flickr import read_flickr
from sslib.layout import Layout

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
    rows, odd = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    assert list(rows) == [record["file"] for record in RECORDS]
    assert [row["class"] for row in rows.values()] == [record["class"] for record in RECORDS]
    _, b, c, d, e, f, g = rows
    assert odd.beyond == [c, d, g] and odd.reversed == [c, d] and odd.flat == [e]
    assert odd.several == [b, c] and odd.unboxed == [f] and odd.empty == [d, e, f]
    assert str(odd) == "3 beyond, 2 reversed, 1 flat, 2 several, 1 unboxed, 3 empty"
    assert all(0 <= value <= 1 for row in rows.values() for box in row["boxes"] for value in box)
    assert rows[c]["boxes"] == [[0.5, 0.25, 0, 0.75], [0, 0, 0.5, 0.5]]  # the reversed box is still there


def test_ground_truth_is_that_of_the_file_itself(tmp_path):
    rows, odd = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    for record in RECORDS:
        truth = by_hand(record["bbox"])
        np.testing.assert_array_equal(heatmaps.box_map(rows[record["file"]]["boxes"]), truth)
        assert truth.any() == (record["file"] not in odd.empty)


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
        ("not json", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("", "not readable as JSON"),
        ({"file": "a"}, "expected a list"),
        ([GOOD, {"file": "a", "class": "b"}], "record 2: expected the keys"),
        ([GOOD, 3], "record 2: expected the keys"),
        ([GOOD, GOOD], "record 2: clip 'aaaaaaaaaaa_000030' comes twice"),
        ([GOOD | {"file": "../x"}], "record 1: .*not a clip id"),
        ([GOOD | {"bbox": [0.1, 0.2, 0.3, 0.4]}], "record 1 .*four numbers"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3]]}], "four numbers"),
        ([GOOD | {"bbox": None}], "four numbers"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, "0.4"]]}], "'0.4' is not a coordinate"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, True]]}], "True is not a coordinate"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, float("nan")]]}], "nan is not a coordinate"),
        ([GOOD | {"bbox": [[0.1, 0.2, 0.3, float("inf")]]}], "inf is not a coordinate"),
    ],
)
def test_file_that_is_not_vggss_is_refused(tmp_path, content, says):
    with pytest.raises(AnnotationError, match=rf"(?s)odd\.json.*{says}"):
        read_vggss(write(tmp_path / "odd.json", content))


# Flickr-SoundNet


def xml(*annotators: str, more: str = "") -> str:
    each = "".join(f"<annotator_{number}>{boxes}</annotator_{number}>" for number, boxes in enumerate(annotators))
    return f"<annotations>{more}{each}</annotations>"


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
    assert odd.several == ["10"] and odd.empty == [] and odd.beyond == []


def test_consensus_follows_the_pixel_rule_of_the_protocol(tmp_path):
    """int(224 * pixel / 256), by hand; half a vote for each annotator, at most one."""
    corners = [(3, 5, 130, 201), (17, 1, 255, 256), (100, 99, 121, 122)]
    write(tmp_path / "1.xml", xml(*(box(*c) for c in corners)))
    votes = np.zeros((224, 224))
    for x0, y0, x1, y1 in corners:
        votes[224 * y0 // 256 : 224 * y1 // 256, 224 * x0 // 256 : 224 * x1 // 256] += 0.5
    got = heatmaps.consensus_map(read_flickr(tmp_path).rows["1"]["annotators"])
    np.testing.assert_array_equal(got, np.minimum(votes, 1))
    assert set(np.unique(got)) == {0, 0.5, 1}


@pytest.mark.parametrize(
    "content",
    [
        "<a><annotator><bbox><label>dog</label><a>64</a><b>0</b><c>192</c><d>128</d></bbox></annotator></a>",
        "<a><annotator><bbox><a>64</a><b>0</b><c>192</c><d>128</d></bbox></annotator></a>",
        '<a><annotator><bbox xmin="64" ymin="0" xmax="192" ymax="128"/></annotator></a>',
        "<a><who><BBox><ymax>128</ymax><xmax> 192 </xmax><ymin>0.0</ymin><xmin>64</xmin></BBox></who></a>",
        "<a><size><width>256</width><height>256</height></size><who>" + box(64, 0, 192, 128) + "</who></a>",
        '<a><size width="512" height="1024"/><who>' + box(128, 0, 384, 512) + "</who></a>",
        "<a><width>512</width><height>1024</height><all><who>" + box(128, 0, 384, 512) + "</who></all></a>",
        '<?xml version="1.0" encoding="UTF-8"?><!-- x --><a xmlns="u:v"><who>' + box(64, 0, 192, 128) + "</who></a>",
    ],
)
def test_numbers_and_sizes_wherever_they_stand(tmp_path, content):
    write(tmp_path / "1.xml", content)
    assert read_flickr(tmp_path).rows["1"]["annotators"] == [[[0.25, 0, 0.75, 0.5]]]


def test_boxes_beyond_the_frame_and_reversed_are_counted(tmp_path):
    write(tmp_path / "1.xml", xml(box(-5, 0, 300, 128), box(10, 10, 20, 20)))
    write(tmp_path / "2.xml", xml(box(100, 10, 50, 20)))
    rows, odd = read_flickr(tmp_path)
    assert odd.beyond == ["1"] and odd.reversed == ["2"] and odd.empty == ["2"]
    assert rows["1"]["boxes"][0] == [0, 0, 1, 0.5] and rows["2"]["boxes"] == [[100 / 256, 10 / 256, 50 / 256, 20 / 256]]


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content, says",
    [
        (BOMB + "]><b><x>&i;</x></b>", "defines entities"),
        ('<!DOCTYPE b [<!ENTITY x SYSTEM "file:' + '///etc/passwd">]><b>&x;</b>', "defines entities"),
        ("<html><body>quota exceeded</body></html>", "no annotator's boxes below <html>"),
        ("<annotations/>", "no annotator's boxes"),
        ("", "not readable as XML"),
        ("<annotations><annotator>", "not readable as XML"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not readable as XML"),
        (f"<annotations>{box(1, 2, 3, 4)}</annotations>", "directly below <annotations>"),
        (xml(box(1, 2, 3, "")), "'?(None|)'? is not a number|without its four corners"),
        (xml(box(1, 2, 3, "x")), "'x' is not a number"),
        (xml(box(1, 2, 3, "nan")), "'nan' is not a number"),
        (xml("<bbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax></bbox>"), "without its four corners"),
        (xml("<bbox><a>1</a><b>2</b></bbox>"), "without its four corners"),
        (xml(box(1, 2, 3, 4), more="<size><width>0</width><height>5</height></size>"), "frame of 0 x 5"),
        (xml(box(1, 2, 3, 4), more="x" * (1 << 20)), "too many for the boxes"),
    ],
)
def test_xml_that_cannot_be_used_is_named(tmp_path, content, says):
    write(tmp_path / "1.xml", xml(box(1, 2, 3, 4)))
    write(tmp_path / "2.xml", content)
    with pytest.raises(AnnotationError, match=rf"2\.xml: .*({says})"):
        read_flickr(tmp_path)


def test_folder_without_annotations(tmp_path):
    with pytest.raises(AnnotationError, match="no annotations"):
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
    assert list(found.rows) == ["---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "--4gqARaEJE_000000", "--4gqARaEJE_001257"]
    assert found.ids("train") == ["--0PQM4-hqg_000030", "--4gqARaEJE_000000"] and len(found.ids("test")) == 2
    assert found.rows["--4gqARaEJE_001257"] == {
        "class": "female speech, woman speaking",
        "start": 1257,
        "split": "test",
    }
    assert found.repeated == []


def test_vggsound_csv_that_repeats_itself(tmp_path):
    found = read_vggsound(write(tmp_path / "vggsound.csv", CSV + CSV.splitlines()[1] + "\n"))
    assert len(found.rows) == 4 and found.repeated == ["--0PQM4-hqg_000030"]
    with pytest.raises(AnnotationError, match=r"line 6: clip '--0PQM4-hqg_000030' is .*an earlier line says"):
        read_vggsound(write(tmp_path / "vggsound.csv", CSV + "--0PQM4-hqg,30,waterfall burbling,test\n"))


@pytest.mark.parametrize(
    "line", ["a,b,c,train", "a,1,c", "a,1,c,val", "a,1.5,c,train", "a,-1,c,train", "a,1,c,d,train"]
)
def test_vggsound_line_that_is_wrong_is_named(tmp_path, line):
    with pytest.raises(AnnotationError, match=r"vggsound\.csv, line 2: expected"):
        read_vggsound(write(tmp_path / "vggsound.csv", CSV.splitlines()[0] + "\n" + line))


def test_vggsound_csv_that_is_empty_or_no_text(tmp_path):
    with pytest.raises(AnnotationError, match="empty"):
        read_vggsound(write(tmp_path / "vggsound.csv", "\n"))
    (tmp_path / "vggsound.csv").write_bytes(CSV.encode("utf-16"))
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_vggsound(tmp_path / "vggsound.csv")


def test_heard_and_unheard_classes(tmp_path):
    rows, _ = read_vggss(write(tmp_path / "vggss.json", RECORDS))
    split = split_heard(rows, ["cello", "female speech, woman speaking", "siren"])
    a, b, c, d, e, f, g = rows
    assert split == ([a, b, c, g], [d, e, f], ["siren"])
    with pytest.raises(AnnotationError, match="no clip is of a heard class"):
        split_heard(rows, ["siren"])
    with pytest.raises(AnnotationError, match="1 clips have no class"):
        split_heard(rows | {"x": {"boxes": []}}, ["cello"])
