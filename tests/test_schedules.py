import math

import pytest

from worklab.options import ScheduleOptions
from worklab.schedules import make_schedule, one_cycle


def torch_one_cycle(step, num_steps, peak, rise):
    """Compute what PyTorch's OneCycleLR does with its defaults, phase by phase."""
    initial, final = peak / 25, peak / 25 / 1e4
    phases = [
        (rise * num_steps - 1, initial, peak),
        (num_steps - 1, peak, final),
    ]
    begin = 0.0
    for end, start_rate, end_rate in phases:
        if step <= end or end == num_steps - 1:
            share = (step - begin) / (end - begin)
            cosine = math.cos(math.pi * share) + 1
            return end_rate + (start_rate - end_rate) / 2.0 * cosine
        begin = end
    raise AssertionError


@pytest.mark.parametrize("rise", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("num_steps", [30, 100, 997])
def test_one_cycle_is_that_of_pytorch(num_steps, rise):
    options = ScheduleOptions(name="one-cycle", learning_rate=0.4, rise=rise)
    schedule = make_schedule(options, num_steps)
    for step in range(num_steps):
        expected = torch_one_cycle(step, num_steps, 0.4, rise)
        assert schedule(step) == pytest.approx(expected, rel=1e-9)


def test_one_cycle_begins_peaks_and_ends_where_it_should():
    shares = [one_cycle(step, 100, 0.3) for step in range(100)]
    assert shares[0] == pytest.approx(0.04)
    assert shares[29] == pytest.approx(1.0)
    assert shares[99] == pytest.approx(4e-6)
    assert shares[:30] == sorted(shares[:30])
    assert shares[29:] == sorted(shares[29:], reverse=True)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_one_cycle_of_few_steps_is_within_its_bounds(num_steps):
    for step in range(num_steps + 5):  # a longer run stays at the end
        assert 4e-6 <= one_cycle(step, num_steps, 0.3) <= 1


def test_fixed_needs_no_number_of_steps():
    schedule = make_schedule(ScheduleOptions(learning_rate=0.2))
    assert {schedule(step) for step in (0, 1, 10**6)} == {0.2}


@pytest.mark.parametrize("name", ["fixed", "cosine"])
def test_warmup_rises_linearly_and_reaches_the_peak(name):
    options = ScheduleOptions(name=name, learning_rate=0.8, warmup_steps=4)
    schedule = make_schedule(options, 20)
    rates = [schedule(step) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_warmup_longer_than_the_run_never_reaches_the_peak():
    options = ScheduleOptions(name="cosine", learning_rate=1.0, warmup_steps=10)
    schedule = make_schedule(options, 5)
    assert [schedule(step) for step in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_falls_from_the_peak_to_zero(warmup):
    options = ScheduleOptions(name="cosine", learning_rate=0.4, warmup_steps=warmup)
    schedule = make_schedule(options, 110)
    for step in range(warmup, 110):
        share = (step - warmup) / (110 - warmup)
        expected = 0.4 / 2 * (1 + math.cos(math.pi * share))
        assert schedule(step) == pytest.approx(expected, abs=1e-12)
    assert schedule(warmup) == 0.4
    assert schedule((110 + warmup) // 2) == pytest.approx(0.2)
    assert schedule(110) == schedule(1000) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be .*learning_rate=0.0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be .*learning_rate=-1.0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be .*=nan"),
        ({"learning_rate": math.inf}, "`learning_rate` must be .*=inf"),
        ({"rise": 0.0}, r"`rise` must be in \(0, 1\).*rise=0.0"),
        ({"rise": 1.0}, r"`rise` must be in \(0, 1\).*rise=1.0"),
        ({"warmup_steps": -1}, "`warmup_steps` must be .*warmup_steps=-1"),
    ],
)
def test_number_out_of_range_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(ScheduleOptions(**settings), 100)


@pytest.mark.parametrize("name", ["cosine", "one-cycle"])
def test_schedule_that_needs_a_number_of_steps_says_so_at_once(name):
    options = ScheduleOptions(name=name)
    with pytest.raises(ValueError, match=f"`{name}` needs .*launchers/train.py"):
        make_schedule(options)


def test_one_cycle_takes_no_warmup():
    options = ScheduleOptions(name="one-cycle", warmup_steps=5)
    with pytest.raises(ValueError, match=r"has its own rise.*warmup_steps=5"):
        make_schedule(options, 100)
