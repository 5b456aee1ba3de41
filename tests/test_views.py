import cv2
import numpy as np
import pytest
import tyro
from sklearn.metrics import log_loss

from worklab import Session, Tester
from worklab.images import warp
from worklab.options import AugmentOptions, ReaderOptions
from worklab.reader import Reader, Share
from worklab.readers import ArrayReader
from worklab.views import CENTRE, PLAIN, View, ViewOptions, cut

from .conftest import CLASS_NAMES

ALL = ViewOptions(flip=True, crops=5, scales=(1.0, 1.25))


def make_reader(images, labels, *, test_batch_size=8, reader=ArrayReader, **settings):
    options = ReaderOptions(
        image_size=(8, 8),
        test_batch_size=test_batch_size,
        num_threads=0,
        crop_fraction=0.75,
    )
    return reader(images, labels, CLASS_NAMES, options=options, **settings)


def make_tester(tmp_path, images, labels, network, views=PLAIN, **settings):
    reader = make_reader(images, labels, **settings)
    return Tester(network, reader, Session(tmp_path), split="test", views=views)


def test_plain_options_have_the_view_of_a_plain_test():
    assert PLAIN.views() == [CENTRE]
    assert PLAIN.name() == ""


def test_all_combinations_each_once():
    views = ALL.views()
    assert len(views) == len({*views}) == 20
    assert views[0] == CENTRE
    assert {view.corner for view in views if view.flip and view.scale == 1.25} == {
        *((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
    }
    assert ALL.name() == "flip-crops5-scales1_1.25"


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (0.0,), (-1.0,), (np.nan,), (99,)])
def test_scales_that_are_none(scales):
    with pytest.raises(ValueError, match=r"`scales` must be numbers.*Received: scales"):
        ViewOptions(scales=scales)


def test_number_of_crops_that_is_none():
    with pytest.raises(ValueError, match=r"`crops` must be 1.*Received: crops=10"):
        ViewOptions(crops=10)


def test_options_on_a_command_line():
    words = ["--flip", "--crops", "5", "--scales", "1", "1.25"]
    assert tyro.cli(ViewOptions, args=words) == ALL


def test_corners_are_those_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)
    # Half of the shorter side is seen in 6 pixels, so no pixel is scaled.
    corners = {
        (-1, -1): image[:6, :6],
        (-1, 1): image[:6, -6:],
        (1, -1): image[-6:, :6],
        (1, 1): image[-6:, -6:],
    }
    for corner, expected in corners.items():
        seen = cut(image, (6, 6), View(corner=corner), crop_fraction=0.5)
        assert np.array_equal(seen, expected), corner
    centre = cut(image, (6, 6), CENTRE, crop_fraction=0.5)
    assert np.array_equal(centre, warp(image, (6, 6), crop_fraction=0.5))


def test_corners_of_a_stretched_image_are_scaled_apart():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:2, -4:] = 255
    seen = cut(image, (8, 8), View(corner=(-1, 1)), crop_fraction=0.8, stretch=True)
    assert (seen[0, -1] > 200).all()
    assert not cut(image, (8, 8), CENTRE, crop_fraction=0.8, stretch=True).any()


def test_scale_is_a_zoom_and_corners_never_leave_the_image():
    image = np.full((10, 14, 3), 7, np.uint8)
    large = cut(image, (8, 8), View(scale=1.25))
    assert np.array_equal(large, warp(image, (8, 8), zoom=1.25))
    image[1:-1, 1:-1] = 200
    # Less than the whole is not there to be cut: the corners are the centre.
    small = [cut(image, (8, 8), View(0.5, corner)) for corner in [(0, 0), (1, 0)]]
    assert np.array_equal(*small)


@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_batches_have_each_view_of_each_record_once(tiny_images, size):
    images, labels = tiny_images
    reader = make_reader(images[:5], labels[:5], test_batch_size=size)
    batches = [*reader.test_batches(views=ALL.views())]
    seen = np.concatenate([batch["images"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[:100].tolist() == np.repeat(np.arange(5), 20).tolist()
    assert (index[100:] == -1).all()
    assert len(index) < 100 + size
    for record in range(5):
        for number, view in enumerate(ALL.views()):
            expected = cut(images[record], (8, 8), view, crop_fraction=0.75)
            expected = expected[:, ::-1] if view.flip else expected
            assert np.array_equal(seen[20 * record + number], expected)


def test_shares_are_the_parts_of_a_batch(tiny_images):
    reader = make_reader(*tiny_images, test_batch_size=9)
    views = ALL.views()
    whole = reader.test_batch(2, views=views)
    parts = [reader.test_batch(2, Share(part, 2), views) for part in range(2)]
    for name in whole:
        both = np.concatenate([part[name] for part in parts])
        assert np.array_equal(both, whole[name])


def test_answer_is_the_mean_over_the_views(tmp_path, tiny_images, tiny_network):
    images, labels = tiny_images
    mirrored = images[:, :, ::-1].copy()
    plain, other = (
        make_tester(tmp_path, each, labels, tiny_network).test()
        for each in (images, mirrored)
    )
    both = make_tester(
        tmp_path, images, labels, tiny_network, ViewOptions(flip=True)
    ).test()
    expected = (plain.probabilities + other.probabilities) / 2
    np.testing.assert_allclose(both.probabilities, expected, rtol=1e-5)
    assert both.statistics.loss == pytest.approx(log_loss(labels, expected), rel=1e-5)
    assert both.statistics.num_images == 30
    assert not np.allclose(plain.probabilities, both.probabilities, rtol=1e-4)


def test_mean_does_not_depend_on_the_batch_size(tmp_path, tiny_images, tiny_network):
    one, other = (
        make_tester(
            tmp_path, *tiny_images, tiny_network, ALL, test_batch_size=size
        ).test()
        for size in (20, 7)
    )
    assert one.names == other.names
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)


def test_plain_views_have_the_bytes_of_a_plain_test(
    tmp_path, tiny_images, tiny_network
):
    plain = make_tester(tmp_path, *tiny_images, tiny_network).test()
    other = make_tester(
        tmp_path, *tiny_images, tiny_network, ViewOptions(scales=(1.0,))
    ).test()
    assert plain.probabilities.tobytes() == other.probabilities.tobytes()
    assert other.save(tmp_path / "tests").name == "step-00000000.test.json"


def test_result_of_views_stands_beside_that_of_the_plain_test(
    tmp_path, tiny_images, tiny_network
):
    result = make_tester(tmp_path, *tiny_images, tiny_network, ALL).test()
    path = result.save(tmp_path / "tests")
    assert path.name == "step-00000000.test.flip-crops5-scales1_1.25.json"
    assert path.with_suffix(".csv").exists()
    assert path not in [*path.parent.glob("step-*.test.json")]


class Holed(ArrayReader):
    def _load(self, index):
        if index == 3:
            raise ValueError("a hole")
        return super()._load(index)


def test_skipped_image_has_no_view(tmp_path, tiny_images, tiny_network):
    settings = {"reader": Holed, "on_bad_file": "skip", "test_batch_size": 7}
    images, labels = (np.concatenate([each] * 4) for each in tiny_images)
    result = make_tester(
        tmp_path, images, labels, tiny_network, ViewOptions(flip=True), **settings
    ).test()
    assert result.skipped == ["record 3"]
    assert len(result.names) == result.statistics.num_images == 119
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_view_that_is_not_finite_names_the_image(tmp_path, tiny_images, tiny_network):
    tester = make_tester(
        tmp_path, *tiny_images, tiny_network, ViewOptions(flip=True), test_batch_size=6
    )
    kernel = tester.network.variables["logits/kernel"]
    kernel.assign(np.full(kernel.shape, np.inf))
    with pytest.raises(ValueError, match=r"for 3 images is not finite.*`record 0`"):
        tester.test()


class Own(ArrayReader):
    def centre(self, image):
        return np.zeros(self.image_shape, np.uint8)


class Complete(Own):
    def view(self, image, view):
        return np.full(self.image_shape, 40 * view.scale, np.uint8)


def test_own_centre_can_be_mirrored_but_not_cut(tiny_images):
    reader = make_reader(*tiny_images, reader=Own)
    assert not next(reader.test_batches(views=ViewOptions(flip=True).views()))[
        "images"
    ].any()
    with pytest.raises(
        ValueError, match=r"`Own` shows test images by its own `centre`"
    ):
        reader.test_batch(0, views=ViewOptions(crops=5).views())
    views = ViewOptions(scales=(1.0, 2.0)).views()
    found = make_reader(*tiny_images, reader=Complete).test_batch(0, views=views)
    assert found["images"][:4, 0, 0, 0].tolist() == [40, 80, 40, 80]


def test_each_record_is_loaded_once_for_all_views(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((8, 8, 3), 9, np.uint8))
    loaded = []

    class Counting(Reader):
        def _load(self, index):
            loaded.append(index)
            return cv2.imread(str(path))

    options = ReaderOptions(image_size=(8, 8), cache_megabytes=0, num_threads=0)
    reader = Counting(
        np.zeros(2, int),
        ["nine"],
        options=options,
        augment=AugmentOptions(preset="off"),
    )
    list(reader.test_batches(views=ALL.views()))
    assert loaded == [0, 1]
