import numpy as np
import pytest

from worklab import published_policies as policies
from worklab.published_policies import (
    AUGMIX,
    RANDAUGMENT,
    apply,
    augmix,
    augmix_amount,
    randaugment,
    randaugment_amount,
    trivialaugment,
    trivialaugment_amount,
)

from .test_images import bilinear, noise, photo

SHAPE = (60, 80, 3)


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's: clearing it after each test would take seconds."""


# The tables


def test_randaugment_has_the_ranges_of_autoaugment():
    most = {name: randaugment_amount(name, 1.0, SHAPE) for name in RANDAUGMENT}
    assert len(most) == 14
    assert most == {
        "shear_x": 0.3,
        "shear_y": 0.3,
        "translate_x": pytest.approx(80 * 150 / 331),
        "translate_y": pytest.approx(60 * 150 / 331),
        "rotate": 30,
        **dict.fromkeys(("identity", "autocontrast", "equalize"), 1.9),  # not used
        **dict.fromkeys(("brightness", "contrast", "colour", "sharpness"), 1.9),
        "posterize": 4,
        "solarize": 0,
    }
    least = {name: randaugment_amount(name, -1.0, SHAPE) for name in RANDAUGMENT}
    assert least["brightness"] == pytest.approx(0.1)
    assert least["rotate"] == -30
    assert least["posterize"] == 4


def test_trivialaugment_has_the_wide_ranges():
    most = {name: trivialaugment_amount(name, 1.0, SHAPE) for name in RANDAUGMENT}
    assert [most[name] for name in policies.PLACES] == [0.99, 0.99, 32, 32, 135]
    assert (most["posterize"], most["solarize"]) == (2, 0)
    assert most["contrast"] == pytest.approx(1.99)
    assert trivialaugment_amount("colour", -1.0, SHAPE) == pytest.approx(0.01)


def test_no_magnitude_changes_nothing():
    image = noise(9, 12)
    for name in set(RANDAUGMENT) - {"autocontrast", "equalize"}:
        for table in (randaugment_amount, trivialaugment_amount):
            amount = table(name, 0.0, image.shape)
            assert np.array_equal(apply(name, image, amount), image), name


def test_augmix_has_the_levels_of_its_authors():
    # float_parameter(level, m) = level * m / 10, int_parameter cuts it.
    found = {name: augmix_amount(name, 3.0, SHAPE) for name in AUGMIX}
    assert found["rotate"] == 9
    assert found["translate_x"] == 8  # int(3 * (80 / 3) / 10)
    assert found["translate_y"] == 6
    assert found["shear_x"] == pytest.approx(0.09)
    assert found["posterize"] == 3  # 4 - int(3 * 4 / 10)
    assert found["solarize"] == 256 - 76
    assert augmix_amount("rotate", -3.0, SHAPE) == -9
    assert set(AUGMIX) == set(RANDAUGMENT) - {
        "identity", "brightness", "contrast", "colour", "sharpness"
    }  # fmt: skip


# The operations, against their formulas


def test_places_equal_a_reference():
    image = photo(20, 30)
    rows, columns = np.mgrid[:20, :30].astype(float)
    angle = np.radians(20)
    x, y = columns - 14.5, rows - 9.5
    sources = {
        ("shear_x", 0.25): (rows, columns + 0.25 * rows),
        ("shear_y", -0.1): (rows - 0.1 * columns, columns),
        ("translate_x", 3.5): (rows, columns + 3.5),
        ("translate_y", -2.0): (rows - 2, columns),
        ("rotate", 20.0): (
            9.5 + np.sin(angle) * x + np.cos(angle) * y,
            14.5 + np.cos(angle) * x - np.sin(angle) * y,
        ),
    }
    for (name, amount), (row, column) in sources.items():
        found = apply(name, image, amount).astype(float)
        inside = (row > 0) & (row < 19) & (column > 0) & (column < 29)
        expected = bilinear(image, np.clip(row, 0, 18.9), np.clip(column, 0, 28.9))
        assert np.abs(found - expected)[inside].max() < 2.5, name
        outside = (row < -1) | (row > 20) | (column < -1) | (column > 30)
        assert (found[outside] == 128).all(), name
        assert inside.mean() > 0.5


def test_rotation_is_counter_clockwise():
    image = noise(9, 9)
    assert np.array_equal(apply("rotate", image, 90.0), np.rot90(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_posterize_keeps_the_upper_bits(channels, bits):
    image = noise(9, 12, channels).astype(int)
    step = 2 ** (8 - bits)
    found = apply("posterize", image.astype(np.uint8), bits)
    assert np.array_equal(found, image // step * step)


@pytest.mark.parametrize("threshold", [0, 100, 255, 256])
def test_solarize_inverts_from_the_threshold_on(threshold):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    expected = [v if v < threshold else 255 - v for v in range(256)]
    assert apply("solarize", values, threshold).ravel().tolist() == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_stretches_each_channel(channels):
    image = 40 + noise(9, 12, channels) // 3
    image[:, :, 0] = 7 if channels == 3 else image[:, :, 0]  # one value: it stays
    found = apply("autocontrast", image, 0.0)
    for channel in range(channels):
        values = image[:, :, channel].astype(float)
        low, high = values.min(), values.max()
        expected = (
            values if low == high else np.floor((values - low) * 255 / (high - low))
        )
        assert np.abs(found[:, :, channel] - expected).max() <= 1e-6


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "posterize", "solarize"])
def test_tables_equal_those_of_pillow(name):
    pillow = pytest.importorskip("PIL.ImageOps")
    from PIL import Image

    image = photo(40, 60) // 2 + 30
    amount = {"posterize": 3, "solarize": 90}.get(name)
    arguments = [] if amount is None else [amount]
    expected = getattr(pillow, name)(Image.fromarray(image), *arguments)
    assert np.array_equal(apply(name, image, amount or 0.0), np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "pillow_name"),
    [
        ("brightness", "Brightness"),
        ("contrast", "Contrast"),
        ("colour", "Color"),
        ("sharpness", "Sharpness"),
    ],
)
@pytest.mark.parametrize("factor", [0.1, 0.6, 1.9])
def test_factors_equal_those_of_pillow_within_rounding(name, pillow_name, factor):
    enhance = pytest.importorskip("PIL.ImageEnhance")
    from PIL import Image

    image = photo(40, 60)
    expected = getattr(enhance, pillow_name)(Image.fromarray(image)).enhance(factor)
    difference = apply(name, image, factor).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2  # it cuts where we round, and greys are whole


def test_equalize_makes_the_histogram_flat():
    ramp = np.repeat(np.arange(16, dtype=np.uint8), 4080).reshape(255, 256, 1)
    found = apply("equalize", ramp, 0.0)
    assert np.unique(found).tolist() == [17 * k for k in range(16)]
    flat = np.full((8, 8, 3), 9, np.uint8)
    assert np.array_equal(apply("equalize", flat, 0.0), flat)


def test_sharpness_leaves_the_border_and_tiny_images():
    image = noise(9, 12)
    found = apply("sharpness", image, 1.9)
    border = np.ones((9, 12), bool)
    border[1:-1, 1:-1] = False
    assert np.array_equal(found[border], image[border])
    assert not np.array_equal(found, image)
    tiny = noise(2, 5)
    assert np.array_equal(apply("sharpness", tiny, 0.1), tiny)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RANDAUGMENT)
def test_operations_keep_the_form_and_leave_the_image_alone(name, channels):
    for shape in [(1, 1), (2, 9), (16, 16)]:
        image = noise(*shape, channels)
        before = image.copy()
        image.flags.writeable = False
        for share in (-1.0, 0.3, 1.0):
            amount = trivialaugment_amount(name, share, image.shape)
            changed = apply(name, image, amount)
            assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert np.array_equal(image, before)


# The policies


def recorded(monkeypatch):
    """Record names and amounts of the operations, which do nothing."""
    calls = []

    def record(name, image, amount):
        calls.append((name, amount))
        return image

    monkeypatch.setattr(policies, "apply", record)
    return calls


def assert_even(values, expected):
    """Each value as often as any other: 5 standard deviations of a binomial."""
    counts = np.array([list(values).count(each) for each in expected])
    mean = len(values) / len(expected)
    assert sum(counts) == len(values)
    assert (np.abs(counts - mean) < 5 * np.sqrt(mean)).all()


def test_randaugment_draws_operations_evenly_at_one_magnitude(monkeypatch):
    calls, image = recorded(monkeypatch), noise(8, 8)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        randaugment(image, rng, 3, 12.0)
    assert len(calls) == 3000
    assert_even([name for name, _ in calls], RANDAUGMENT)
    shears = [amount for name, amount in calls if name == "shear_x"]
    assert_even(np.round(shears, 9), [-0.12, 0.12])


def test_trivialaugment_draws_one_operation_and_its_strength(monkeypatch):
    calls, image = recorded(monkeypatch), noise(8, 8)
    rng = np.random.default_rng(0)
    for _ in range(5000):
        trivialaugment(image, rng)
    assert len(calls) == 5000
    assert_even([name for name, _ in calls], RANDAUGMENT)
    shifts = [round(abs(x) * 30 / 32) for name, x in calls if name == "translate_x"]
    assert set(shifts) == set(range(31))


def test_augmix_draws_chains_of_one_to_three(monkeypatch):
    calls, image = recorded(monkeypatch), noise(8, 8)
    rng = np.random.default_rng(0)
    for _ in range(500):
        assert np.array_equal(augmix(image, rng, 3.0), image)  # blended with itself
    assert 2.9 * 1000 < len(calls) < 3.1 * 1000  # 3 chains of 2 on average
    assert_even([name for name, _ in calls], AUGMIX)
    shears = np.abs([amount for name, amount in calls if name == "shear_x"])
    assert 0.003 <= shears.min() < shears.max() <= 0.09


def test_augmix_blends_by_shares_that_sum_to_one(monkeypatch):
    monkeypatch.setattr(policies, "apply", lambda name, image, amount: image * 0)
    image = np.full((4, 4, 1), 200, np.uint8)
    rng = np.random.default_rng(0)
    kept = [augmix(image, rng, 3.0)[0, 0, 0] / 200 for _ in range(2000)]
    # Beta(1, 1) is uniform: mean 1/2, variance 1/12.
    assert np.mean(kept) == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / 2000))
    assert np.var(kept) == pytest.approx(1 / 12, rel=0.1)
