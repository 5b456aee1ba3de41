"""`python -m worklab show` and `stats`, and the options that take their numbers."""

import base64
import html.parser
import json

import cv2
import numpy as np
import pytest
import tensorflow as tf

from worklab import Network
from worklab.__main__ import main
from worklab.cli import options_from_json, options_to_json
from worklab.image_statistics import image_statistics
from worklab.layouts import TORCH_PREPROCESSING, Layout
from worklab.options import AugmentOptions, LayerOptions, ReaderOptions
from worklab.readers import ArrayReader, JsonListReader
from worklab.showing import take_samples

from .conftest import CLASS_NAMES, TinyNetwork


@pytest.fixture
def broken_folder(tiny_folder, tmp_path):
    """The tiny train list with one empty file more."""
    (tmp_path / "train.json").write_text(
        json.dumps(
            {
                str(tiny_folder / name): label
                for name, label in json.loads(
                    (tiny_folder / "train.json").read_text()
                ).items()
            }
            | {"empty.png": "cross"}
        )
    )
    (tmp_path / "classes.json").write_text(json.dumps(CLASS_NAMES))
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


# Statistics


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.7])
def test_mean_and_std_are_numpys_over_what_a_test_shows(channels, crop_fraction):
    rng = np.random.default_rng(0)
    shapes = [(20, 30), (9, 9), (64, 40), (16, 16)] * 5
    images = [
        rng.integers(0, 50 + 10 * n, (*shape, channels), np.uint8)
        for n, shape in enumerate(shapes)
    ]
    options = ReaderOptions((16, 12), channels=channels, crop_fraction=crop_fraction)
    reader = ArrayReader(images, [0] * 15 + [1] * 5, ["a", "b", "c"], options=options)
    found = image_statistics(reader)
    seen = np.array([reader.centre(image) for image in images], np.float64)
    np.testing.assert_allclose(found.mean, seen.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, seen.std(axis=(0, 1, 2)), rtol=1e-12)
    assert found.counts == {"a": 15, "b": 5, "c": 0}
    assert (found.heights, found.widths) == ((9, 20, 64), (9, 30, 40))
    assert (found.num_images, found.num_sizes) == (20, 4)


def test_printed_lines_can_be_pasted(tiny_folder, tmp_path, capsys):
    path = tmp_path / "stats.json"
    arguments = [str(tiny_folder), "--reader.image-size", "8", "8", "--json", str(path)]
    main(["stats", *arguments])
    *_, first, second, third = capsys.readouterr().out.strip().splitlines()
    body = f"{first}\n{second}\n"
    pasted = {}
    exec(body, pasted)
    found = json.loads(path.read_text())
    for name in ("mean", "std"):
        np.testing.assert_allclose(pasted[name], found[name], atol=0.005)
    words = third.split()
    assert words[0] == "--layers.mean"
    assert words[4] == "--layers.std"
    assert [float(word) for word in words[1:4]] == list(pasted["mean"])
    network = TinyNetwork(
        3,
        image_shape=(8, 8, 3),
        options=LayerOptions(mean=pasted["mean"], std=pasted["std"]),
    )
    reader = JsonListReader(
        tiny_folder / "train.json", CLASS_NAMES, options=ReaderOptions((8, 8))
    )
    images = next(reader.test_batches())["images"][:18]
    seen = network.model.get_layer("preprocessing")(images).numpy()
    np.testing.assert_allclose(seen.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(axis=(0, 1, 2)), 1, atol=1e-3)


def test_one_channel_makes_a_tuple_of_one(tiny_folder, capsys):
    main(["stats", str(tiny_folder / "train.json"), "--reader.channels", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("mean = (")
    assert lines[-3].endswith(",)")


def test_unreadable_image_stops_statistics_or_is_left_out(
    broken_folder, tiny_folder, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        main(["stats", str(broken_folder)])
    assert "empty.png` is not a readable image" in capsys.readouterr().err
    main(["stats", str(broken_folder), "--on-bad-file", "skip"])
    skipping = capsys.readouterr().out
    assert "skipped in train, as they cannot be read: 1 (empty.png)" in skipping
    main(["stats", str(tiny_folder)])
    assert skipping.splitlines()[-3:] == capsys.readouterr().out.splitlines()[-3:]


# Normalisation


def test_given_mean_and_std_win_over_the_networks_own():
    network = TinyNetwork(
        3, image_shape=(8, 8, 3), options=LayerOptions(mean=(0.0,), std=(1.0,))
    )
    images = np.full((1, 8, 8, 3), 77, np.uint8)
    seen = network.model.get_layer("preprocessing")(images).numpy()
    assert (seen == 77).all()
    assert (TinyNetwork.mean, TinyNetwork.std) == ((127.5,) * 3, (127.5,) * 3)
    assert TinyNetwork(3, image_shape=(8, 8, 3)).mean == TinyNetwork.mean


@pytest.mark.parametrize("std", [(0.0,), (1.0, -1.0, 1.0), (float("nan"),)])
def test_std_must_be_positive(std):
    with pytest.raises(ValueError, match=r"`std` divides.* above 0\. Received: std="):
        TinyNetwork(3, image_shape=(8, 8, 3), options=LayerOptions(std=std))


def test_mean_of_another_number_of_channels():
    options = LayerOptions(mean=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"for images of 2 channels.*mean=\(1.0, 2.0"):
        TinyNetwork(3, image_shape=(8, 8, 3), options=options)


def test_mean_survives_run_json():
    options = LayerOptions(mean=(1.0, 2.0, 3.0))
    text = json.dumps(options_to_json(options))
    assert options_from_json(LayerOptions, json.loads(text)) == options


def test_mean_of_a_layout_is_replaced_as_well():
    class Laid(TinyNetwork):
        layouts = (Layout("x", "x", lambda name: name, TORCH_PREPROCESSING),)

    assert Laid(3, image_shape=(8, 8, 3)).mean == (123.675, 116.28, 103.53)
    options = LayerOptions(mean=(1.0,))
    network: Network = Laid(3, image_shape=(8, 8, 3), options=options)
    assert network.mean == (1.0,)
    assert network.std == (58.395, 57.12, 57.375)


# Samples


class Page(html.parser.HTMLParser):
    """Collects the images, titles and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.images, self.text, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            kind, _, data = dict(attributes)["src"].partition(",")
            assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
            data = np.frombuffer(base64.b64decode(data), np.uint8)
            self.images.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    def handle_data(self, data):
        self.text.append(data.strip())


SHOW = ["--reader.image-size", "8", "8", "--reader.batch-size", "6", "--seed", "3"]


def test_page_shows_what_tests_and_training_show(tiny_folder, tmp_path, capsys):
    path = tmp_path / "page.html"
    amounts = ["--augment.preset", "strong", "--augment.flip"]
    size = ["--num-images", "2", "--num-draws", "3"]
    main(["show", str(tiny_folder), "--out", str(path), *SHOW, *amounts, *size])
    assert f"{path}: 6 images, 3 of 3 classes" in capsys.readouterr().out
    page = Page(path.read_text())
    assert len(page.images) == 3 * 2 * 5
    assert "circle (6 images)" in page.text
    reader = JsonListReader(
        tiny_folder / "train.json",
        CLASS_NAMES,
        options=ReaderOptions((8, 8), batch_size=6, num_threads=0),
        augment=AugmentOptions(preset="strong", flip=True),
        seed=3,
    )
    epochs = [
        {
            int(index): image
            for step in range(3 * epoch, 3 * epoch + 3)
            for index, image in zip(*_of(reader.train_batch(step)), strict=True)
        }
        for epoch in range(3)
    ]
    for number in range(6):
        original, tested, *trained = page.images[5 * number : 5 * number + 5]
        label, place = divmod(number, 2)
        record = label + 15 * place  # first and last of the class
        assert np.array_equal(original, reader.load(record))
        assert np.array_equal(tested, reader.centre(reader.load(record)))
        for epoch, image in enumerate(trained):
            assert np.array_equal(image, epochs[epoch][record])


def _of(batch):
    return batch["index"], batch["images"]


def test_fixed_forms_are_shown_as_training_has_them(tiny_images):
    options = ReaderOptions((8, 8), batch_size=30, copies=2, num_threads=0)
    augment = AugmentOptions(preset="strong")
    reader = ArrayReader(*tiny_images, CLASS_NAMES, options=options, augment=augment)
    samples = take_samples(reader, num_images=1, num_draws=3, num_classes=9)
    first = samples["square"][0]
    assert np.array_equal(first.trained[0], first.trained[2])
    assert not np.array_equal(first.trained[0], first.trained[1])
    index, images = _of(reader.train_batch(1))
    assert np.array_equal(first.trained[1], images[index.tolist().index(1)])


def test_names_are_text_on_the_page(tmp_path):
    name = "<script>alert(1)</script>"
    image = np.zeros((200, 500, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a & <b>.png"), image)
    (tmp_path / "train.json").write_text(json.dumps({"a & <b>.png": name}))
    path = tmp_path / "page.html"
    main(["show", str(tmp_path), "--out", str(path), "--num-draws", "1"])
    page = Page(path.read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert f"{name} (1 images)" in page.text
    assert page.images[0].shape == (128, 320, 3)  # large images are shown smaller


def test_unreadable_image_is_named_on_the_page(broken_folder, capsys):
    path = broken_folder / "page.html"
    with pytest.raises(SystemExit):
        main(["show", str(broken_folder), "--out", str(path), *SHOW])
    assert "empty.png" in capsys.readouterr().err
    assert not path.exists()
    arguments = ["--on-bad-file", "skip", "--num-images", "9"]
    main(["show", str(broken_folder), "--out", str(path), *SHOW, *arguments])
    page = Page(path.read_text())
    assert "could not be read: empty.png" in page.text
    assert len(page.images) == 18 * 6


def test_tensorboard_has_a_strip_for_each_sample(tiny_folder, tmp_path):
    path = tmp_path / "page.html"
    arguments = ["--num-images", "2", "--tensorboard", str(tmp_path / "logs")]
    main(["show", str(tiny_folder), "--out", str(path), *SHOW, *arguments])
    (events,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    values = {}
    for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
        for value in tf.compat.v1.Event.FromString(record).summary.value:
            values[value.tag] = value.tensor.string_val
    assert set(values) == {f"classes/{name}" for name in CLASS_NAMES}
    width, height, *strips = values["classes/cross"]
    assert (int(width), int(height), len(strips)) == (8 * 5, 8, 2)


def test_few_of_many_classes_are_shown(tiny_images):
    images, _ = tiny_images
    names = [str(number) for number in range(30)]
    reader = ArrayReader(images, range(30), names, options=ReaderOptions((8, 8)))
    samples = take_samples(reader, num_images=1, num_draws=1, num_classes=3)
    assert list(samples) == ["0", "14", "29"]


@pytest.mark.parametrize("name", ["num_images", "num_draws", "num_classes"])
def test_numbers_of_samples_are_at_least_1(tiny_reader, name):
    numbers = {"num_images": 1, "num_draws": 1, "num_classes": 1} | {name: 0}
    with pytest.raises(ValueError, match=rf"at least 1\. Received: .*{name}=0"):
        take_samples(tiny_reader, **numbers)
