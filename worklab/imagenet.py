"""ImageNet as it is handed out: lists of it, with boxes, for `worklab pack`."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worklab.files import write_json
from worklab.list_making import IMAGE_SUFFIXES, find_classes
from worklab.lists import CLASSES_FILE, read_class_names, write_class_names

_MOST_XML_BYTES = 2**20


def make_imagenet_list(
    images: Path,
    *,
    synsets: Path,
    words: Path | None = None,
    boxes: Path | None = None,
    validation_labels: Path | None = None,
) -> Path:
    """Write a list of ImageNet's images beside their folder, and `classes.json`.

    Classes are synsets (`n01440764`), in the order of their file. An entry has the
    `text` of its synset, and `boxes`, each [xmin, ymin, xmax, ymax] as fractions of
    the image, as in tf-slim's process_bounding_boxes.py.

    Args:
        images: A folder of synset folders or, with `validation_labels`, of images.
        synsets: A synset on each line: imagenet_lsvrc_2015_synsets.txt.
        words: Lines of a synset, a tab and words: imagenet_metadata.txt.
        boxes: Folder of `SYNSET/IMAGE.xml` or `IMAGE.xml`.
        validation_labels: The synset of each image, sorted by name, on a line:
            imagenet_2012_validation_synset_labels.txt.

    Returns:
        The list: `train.json` for a folder `train`.

    Raises:
        ValueError: If the files do not fit together.
    """
    names = _lines(synsets)
    texts = {} if words is None else _words(words)
    if validation_labels is None:
        of_image: Mapping[Path, str] = {
            image: name
            for name, members in find_classes(images).items()
            for image in members
        }
    else:
        of_image = _validation_images(images, validation_labels)
    unknown = sorted(set(of_image.values()) - set(names))
    if unknown:
        raise ValueError(
            f"`{images}` has synsets that `{synsets}` lacks. Give the file of all "
            f"synsets, or take those images out. Received: {unknown[:5]}"
        )
    entries = []
    for image, name in of_image.items():
        entry: dict[str, Any] = {
            "image": image.relative_to(images.parent).as_posix(),
            "label": name,
            "text": texts.get(name, name),
        }
        if boxes is not None:
            entry["boxes"] = _find_boxes(boxes, image, name, names)
        entries.append(entry)
    classes = images.parent / CLASSES_FILE
    if classes.exists() and read_class_names(classes) != names:
        raise ValueError(
            f"`{classes}` has other classes than `{synsets}`. Delete it, or give the "
            f"file that it was made from. Received: {len(names)} synsets"
        )
    write_class_names(classes, names)
    path = images.parent / f"{images.name}.json"
    write_json(path, entries)
    return path


def read_boxes(path: Path, name: str, names: Sequence[str]) -> list[list[float]]:
    """Return the boxes of an annotation file, as fractions of the image.

    Boxes of another synset and empty ones are left out; what is outside of the image
    is cut off. Sizes are those that the file gives, as the annotators saw the image
    in another size.

    Args:
        path: An XML file of ImageNet.
        name: Synset of the image.
        names: All synsets.

    Returns:
        Boxes [xmin, ymin, xmax, ymax] in 0..1.

    Raises:
        ValueError: If the file is no annotation.
    """
    try:
        root = _parse(path)
        width, height = _number(root, "size/width"), _number(root, "size/height")
        found = []
        for element in root.iterfind("object"):
            label = element.findtext("name", "")
            # Many dogs are named in words, so only other synsets are others.
            if label != name and label in names:
                continue
            x = sorted(_number(element, f"bndbox/{key}") for key in ("xmin", "xmax"))
            y = sorted(_number(element, f"bndbox/{key}") for key in ("ymin", "ymax"))
            box = [x[0] / width, y[0] / height, x[1] / width, y[1] / height]
            box = [min(max(value, 0.0), 1.0) for value in box]
            if box[0] < box[2] and box[1] < box[3]:
                found.append(box)
    except (ElementTree.ParseError, ZeroDivisionError, ValueError) as error:
        raise ValueError(
            f"`{path}` is not an annotation of ImageNet ({error}). Get it again, or "
            f"delete it. Received: {path.stat().st_size} bytes"
        ) from error
    return found


def _parse(path: Path) -> ElementTree.Element:
    if path.stat().st_size > _MOST_XML_BYTES:
        raise ValueError("too large")
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # could grow without end
        raise ValueError("with a document type")
    return ElementTree.fromstring(text)


def _number(element: ElementTree.Element, path: str) -> float:
    return float(int(element.findtext(path, "")))


def _find_boxes(
    folder: Path, image: Path, name: str, names: Sequence[str]
) -> list[list[float]]:
    for path in (folder / name / f"{image.stem}.xml", folder / f"{image.stem}.xml"):
        if path.is_file():
            return read_boxes(path, name, names)
    return []


def _validation_images(images: Path, labels: Path) -> Mapping[Path, str]:
    found = sorted(
        path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
    )
    names = _lines(labels)
    if len(found) != len(names):
        raise ValueError(
            f"`{labels}` must have a synset for each image in `{images}`. Give the "
            f"file of these images. Received: {len(names)} lines for {len(found)}"
        )
    return dict(zip(found, names, strict=True))


def _words(path: Path) -> dict[str, str]:
    pairs = [line.split("\t") for line in _lines(path)]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ValueError(
            f"`{path}` must have lines of a synset, a tab and words. "
            f"Received: {wrong[0]}"
        )
    return {name: text for name, text in pairs}


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file `{path}`. It comes with tf-slim's scripts for ImageNet. "
            f"Received: {path}"
        )
    text = path.read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]
