"""Predictions: what a trained network answers to images without labels."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from worklab.files import write_atomically
from worklab.network import Network
from worklab.reader import Reader
from worklab.session import Session
from worklab.tester import softmax
from worklab.trained import outputs_of

SUFFIXES = (".csv", ".json")
"""Of the files that predictions can be saved as."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network answers to images.

    Attributes:
        step: Training steps of its weights.
        names: What each image is called, usually its path.
        probabilities: float32 (num_images, num_classes).
        class_names: Names in label order.
        skipped: Why which images could not be read; they are in nothing above.
    """

    step: int
    names: list[str]
    probabilities: np.ndarray
    class_names: list[str]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return all but what is of single images, of which there may be many."""
        return {
            "step": self.step,
            "num_images": len(self.names),
            "class_names": self.class_names,
            "skipped": self.skipped,
        }

    def save(self, path: Path, *, top_k: int | None = None) -> None:
        """Write a CSV or JSON file, whole or not at all; it replaces one that is there.

        Args:
            path: The file; its suffix says which.
            top_k: Classes for each image, the most probable first; None: all classes,
                in label order.

        Raises:
            ValueError: If it has another suffix, or `top_k` is below 1.
        """
        check_form(path, top_k)
        as_json = path.suffix.lower() == ".json"
        write = self._write_json if as_json else self.write_csv
        write_atomically(path, lambda file: write(file, top_k=top_k))

    def write_csv(self, file: Any, *, top_k: int | None = None) -> None:
        """Write a table to an open file: image, prediction, probability, and more.

        Args:
            file: Open for text.
            top_k: As for `save`.
        """
        writer = csv.writer(file, lineterminator="\n")
        header = ["image", "prediction", "probability"]
        if top_k is None:
            header += [f"p({name})" for name in self.class_names]
        else:
            for place in range(2, min(top_k, len(self.class_names)) + 1):
                header += [f"prediction{place}", f"probability{place}"]
        writer.writerow(header)
        for name, order, probabilities in self._answers(top_k or 1):
            row = [
                each
                for k in order
                for each in (self.class_names[k], f"{probabilities[k]:.6g}")
            ]
            if top_k is None:
                row += [f"{p:.6g}" for p in probabilities]
            writer.writerow([name, *row])

    def _write_json(self, file: Any, *, top_k: int | None = None) -> None:
        file.write("[")
        rows = self._answers(top_k or len(self.class_names))
        for number, (name, order, probabilities) in enumerate(rows):
            best = order[0]
            shown = range(len(self.class_names)) if top_k is None else order
            row = {
                "image": name,
                "prediction": self.class_names[best],
                "probability": _plain(probabilities[best]),
                "probabilities": {
                    self.class_names[k]: _plain(probabilities[k]) for k in shown
                },
            }
            file.write(",\n " if number else "\n ")
            file.write(json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")

    def _answers(self, k: int) -> Iterator[tuple[str, list[int], np.ndarray]]:
        """Yield name, the k most probable classes, and probabilities of each image."""
        for name, row in zip(self.names, self.probabilities, strict=True):
            yield name, np.argsort(-row, kind="stable")[:k].tolist(), row


def check_form(path: Path | None, top_k: int | None) -> None:
    """Check what predictions are to be saved as, before they are made.

    Raises:
        ValueError: If the file has another suffix, or `top_k` is below 1.
    """
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"predictions are written as {' or '.join(SUFFIXES)}. Received: `{path}`"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1. Received: top_k={top_k}")


def predict(
    network: Network, reader: Reader, session: Session, *, step: int
) -> Predictions:
    """Return what a network answers to each image, as it answers in a test.

    Args:
        network: With its trained weights.
        reader: The images.
        session: Whose devices compute, and whose signals are served.
        step: Step of the weights.

    Raises:
        ValueError: If an image cannot be read and is not to be skipped, or an answer
            is not finite.
        StopRequested: If a signal came.
    """

    def logits_of(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"logits": network(batch, training=False)}

    names, parts = [], []
    for records, arrays in outputs_of(logits_of, reader, session):
        names += [reader.name(int(number)) for number in records]
        parts.append(arrays["logits"])
    logits = np.concatenate(parts)
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"the network's answer for {len(wrong)} images is not finite; its weights "
            f"are of no use. Received: `{names[wrong[0]]}` -> {logits[wrong[0]]}"
        )
    return Predictions(
        step=step,
        names=names,
        probabilities=softmax(logits),
        class_names=reader.class_names,
        skipped=reader.skipped,
    )


def _plain(probability: np.float32) -> float:
    return float(f"{probability:.6g}")
