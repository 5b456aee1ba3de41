"""Tests as a Tester would give them, made without a network."""

import numpy as np

from worklab.tester import TestResult


def make_test(labels, probabilities, *, names=None, step=7, split="test"):
    return TestResult.of_probabilities(
        np.array(labels, np.int64),
        np.asarray(probabilities),
        [f"class {number}" for number in range(np.shape(probabilities)[1])],
        names=names or [f"{number}.png" for number in range(len(labels))],
        step=step,
        split=split,
    )


def random_test(num_images, num_classes, *, seed=0, hit=2.0, ties=False, **settings):
    """A test that is right often; with ties, of few different probabilities."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, num_classes, num_images)
    logits = rng.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += hit
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(2 * logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if ties:
        probabilities = np.round(probabilities, 1)
    return make_test(labels, probabilities, **settings)
