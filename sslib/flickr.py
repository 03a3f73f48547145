"""Flickr-SoundNet's XML annotations, several annotators a clip, as rows of our layout (Senocak et al. 2018)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from sslib.annotations import AnnotationError, Annotations, clip_box, clip_id_of, find_oddities

FRAME = 256  # pixels: the square frame on which the boxes were drawn
LARGEST_XML = 1 << 20  # bytes: real ones have a few hundred


def read_flickr(folder: str | Path) -> Annotations:
    """Flickr-SoundNet's boxes (Senocak et al. 2018): one ``ID.xml`` a clip with the boxes of several annotators.

    Rows carry ``annotators``, a list of boxes for each annotator, and ``boxes``, all of them. An annotator is what
    holds ``bbox`` elements; a box has named corners, or four numbers in the order xmin, ymin, xmax, ymax, behind a
    label or not. Pixels are those of a 256 x 256 frame unless the file has a ``size``. ``oddities.several`` names the
    clips of which one annotator boxed more than one thing.

    Raises
    ------
    AnnotationError
        When there is no such file, and for a file with entities (an XML bomb), without boxes of annotators, or with
        boxes that lack a number.
    """
    rows, raw, several = {}, {}, []
    for path in sorted(Path(folder).glob("*.xml")):
        clip_id = clip_id_of(path.name, str(path))
        annotators = _annotators(_root(path), path)
        raw[clip_id] = [box for boxes in annotators for box in boxes]
        several += [clip_id] if any(len(boxes) > 1 for boxes in annotators) else []
        clipped = [[clip_box(box) for box in boxes] for boxes in annotators]
        rows[clip_id] = {"boxes": [box for boxes in clipped for box in boxes], "annotators": clipped}
    if not rows:
        raise AnnotationError(f"{folder}: no annotations (ID.xml) in this folder")
    return Annotations(rows, find_oddities(raw)._replace(several=several))


def _root(path: Path) -> Element:
    if path.stat().st_size > LARGEST_XML:
        raise AnnotationError(f"{path}: {path.stat().st_size} bytes are too many for the boxes of one clip")
    try:
        return ElementTree.fromstring(path.read_bytes())
    except DefusedXmlException as error:
        raise AnnotationError(f"{path}: refused, it defines entities ({error})") from None
    except (ParseError, ValueError, LookupError) as error:  # the latter two: an encoding that is unknown or wrong
        raise AnnotationError(f"{path}: not readable as XML: {error}") from None


def _annotators(root: Element, path: Path) -> list[list[list[float]]]:
    """Boxes in parts of the frame, for each annotator; one who drew nothing has none."""
    width, height = _frame(root, path)
    annotators = []
    for element in root.iter():
        boxes = [child for child in element if _tag(child) in {"bbox", "bndbox"}]
        if boxes and element is root:
            raise AnnotationError(f"{path}: boxes directly below <{root.tag}>, not below an annotator")
        if boxes or (element is not root and re.fullmatch(r"annotator[\W_]?\d*", _tag(element))):
            corners = [_corners(box, path) for box in boxes]
            annotators.append([[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in corners])
    if not annotators:
        raise AnnotationError(f"{path}: no annotator's boxes below <{root.tag}>: is this a Flickr-SoundNet annotation?")
    return annotators


def _corners(box: Element, path: Path) -> list[float]:
    """Pixels xmin, ymin, xmax, ymax."""
    named = {_tag(child): child.text for child in box} | {key.lower(): value for key, value in box.attrib.items()}
    corners = [named.get(key) for key in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners and not any(key in named for key in ("xmin", "ymin", "xmax", "ymax")):
        corners = [child.text for child in box][-4:]  # five are a label and the corners
    if len(corners) != 4 or None in corners:
        raise AnnotationError(f"{path}: a box without its four corners (found {named})")
    return [_number(corner, path) for corner in corners]


def _frame(root: Element, path: Path) -> tuple[float, float]:
    """Width and height of the annotated frame, wherever the file says them."""
    sizes = [element for element in root.iter() if _tag(element) == "size"]
    said = {key.lower(): value for size in sizes for key, value in size.attrib.items()}
    said |= {_tag(child): child.text for element in (root, *sizes) for child in element}
    sides = [_number(said[key], path) if key in said else float(FRAME) for key in ("width", "height")]
    if min(sides) <= 0:
        raise AnnotationError(f"{path}: a frame of {sides[0]:g} x {sides[1]:g} pixels")
    return sides[0], sides[1]


def _number(text: str | None, path: Path) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{path}: {text!r} is not a number of pixels")
    return value


def _tag(element: Element) -> str:
    """Name of an element in lower case, without a namespace."""
    return str(element.tag).rpartition("}")[2].lower()
