import dataclasses
import json
import math

import keras
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


OUT_OF_RANGE = [
    ({"learning_rate": 0.0}, "`learning_rate` of the schedule must be above 0"),
    ({"learning_rate": math.nan}, "`learning_rate` .*Received: learning_rate=nan"),
    ({"learning_rate": math.inf}, "`learning_rate` .*Received: learning_rate=inf"),
    ({"warmup_steps": -1}, "`warmup_steps` .*Received: warmup_steps=-1"),
    ({"name": "one-cycle", "rise": 0.0}, r"`rise` .* in \(0, 1\).*rise=0.0"),
    ({"name": "one-cycle", "rise": 1.0}, r"`rise` .* in \(0, 1\).*rise=1.0"),
    ({"name": "one-cycle", "momentum": (0.9, 0.8)}, "`momentum` .* smaller first"),
    ({"name": "one-cycle", "momentum": (0.9, 1.0)}, r"`momentum` .*\(0.9, 1.0\)"),
    ({"name": "one-cycle", "start_factor": 0.0}, "`start_factor` .*start_factor=0"),
    ({"name": "one-cycle", "final_factor": 2.0}, "`final_factor` .*final_factor=2"),
    (
        {"name": "one-cycle", "three_phase": True, "rise": 0.5},
        "`rise` must be below 0.5. Received: rise=0.5",
    ),
    ({"name": "exponential", "decay_steps": 0}, "`decay_steps` .*decay_steps=0"),
    ({"name": "exponential", "decay_rate": 0.0}, "`decay_rate` .*decay_rate=0.0"),
    ({"name": "polynomial", "power": -1.0}, "`power` .*power=-1.0"),
    ({"name": "polynomial", "end_learning_rate": 1.0}, "`end_learning_rate` .*=1.0"),
    ({"name": "steps"}, "`drops` .* at least one.*drops="),
    ({"name": "steps", "drops": (5, 5)}, r"`drops` .* rising.*drops=\(5, 5\)"),
    ({"name": "steps", "drops": (0,)}, r"`drops` .*drops=\(0,\)"),
    ({"name": "steps", "drops": (5,), "drop_factor": 0.0}, "`drop_factor` .*=0.0"),
    ({"name": "cosine", "period": 0}, "`period` .*period=0"),
    ({"name": "cosine", "period": 5, "period_mult": 0.5}, "`period_mult` .*=0.5"),
    ({"name": "cosine", "period": 5, "peak_mult": 1.5}, r"`peak_mult` .*\(0, 1\]"),
    ({"name": "triangular", "stepsize": 0}, "`stepsize` .*stepsize=0"),
    ({"name": "triangular", "base_learning_rate": 0.1}, "`base_learning_rate` .*=0.1"),
    ({"name": "exp-range", "gamma": 1.1}, "`gamma` .*gamma=1.1"),
    ({"name": "triangular-hold", "hold": 0}, "`hold` .*hold=0"),
    (
        {
            "name": "triangular",
            "stepsize": 5,
            "cool_down": "log",
            "cool_down_decades": 0.0,
        },
        "`cool_down_decades` must be",
    ),
    (
        {"name": "triangular", "cool_down": "plateau", "cool_down_patience": 0},
        "`cool_down_patience` at least",
    ),
    (
        {"name": "triangular", "stepsize": 40, "cool_down": "log"},
        "no room for: give 120 steps.*num_steps=100",
    ),
]


@pytest.mark.parametrize(("settings", "message"), OUT_OF_RANGE)
def test_number_out_of_range_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(ScheduleOptions(**settings), 100)


NOT_DEFAULT = {
    "num_steps": 7,
    "end_learning_rate": 0.01,
    "decay_steps": 7,
    "decay_rate": 0.5,
    "staircase": False,
    "power": 2.0,
    "drops": (7,),
    "drop_factor": 0.5,
    "period": 7,
    "period_mult": 2.0,
    "peak_mult": 0.5,
    "base_learning_rate": 0.01,
    "stepsize": 7,
    "gamma": 0.5,
    "hold": 7,
    "cool_down": "log",
    "cool_down_decades": 2.0,
    "cool_down_patience": 7,
    "snapshots": False,
    "rise": 0.2,
    "start_factor": 0.1,
    "final_factor": 0.1,
    "anneal": "linear",
    "three_phase": True,
    "momentum": None,
}


def test_every_number_but_the_general_ones_belongs_to_a_shape():
    fields = {field.name for field in dataclasses.fields(ScheduleOptions)}
    assert fields - set(NOT_DEFAULT) == {"name", "learning_rate", "warmup_steps"}


@pytest.mark.parametrize("option", NOT_DEFAULT)
def test_number_of_another_shape_is_an_error(option):
    options = ScheduleOptions(**{option: NOT_DEFAULT[option]})  # of `fixed`
    with pytest.raises(ValueError, match="belongs to .*with the schedule 'fixed'"):
        make_schedule(options, 100)


@pytest.mark.parametrize("name", ["cosine", "one-cycle"])
def test_schedule_that_needs_a_number_of_steps_says_so_at_once(name):
    options = ScheduleOptions(name=name)
    with pytest.raises(ValueError, match=f"`{name}` needs .*launchers/train.py"):
        make_schedule(options)


def spec_triangular(i, base, peak, s, policy, g=1.0):
    """Compute the formula as it is published."""
    c = math.floor(1 + i / (2 * s))
    x = abs(i / s - 2 * c + 1)
    m = {"triangular": 1, "triangular2": 2.0 ** -(c - 1), "exp-range": g**i}[policy]
    return base + (peak - base) * max(0, 1 - x) * m


@pytest.mark.parametrize("name", ["triangular", "triangular2", "exp-range"])
def test_cycles_are_those_of_the_paper(name):
    settings = {"gamma": 0.99} if name == "exp-range" else {}
    options = ScheduleOptions(
        name=name, learning_rate=6e-3, base_learning_rate=1e-3, stepsize=20, **settings
    )
    schedule = make_schedule(options)
    for step in range(161):
        expected = spec_triangular(step, 1e-3, 6e-3, 20, name, 0.99)
        assert schedule(step) == pytest.approx(expected, rel=1e-12)


def test_triangular_at_its_corners():
    schedule = make_schedule(
        ScheduleOptions(name="triangular2", learning_rate=0.8, stepsize=10)
    )
    corners = [schedule(step) for step in (0, 10, 20, 30, 40, 50)]
    assert corners == pytest.approx([0.2, 0.8, 0.2, 0.5, 0.2, 0.35])


def test_hold_stays_at_the_base_and_keeps_its_end():
    options = ScheduleOptions(name="triangular-hold", learning_rate=0.4, stepsize=4)
    schedule = make_schedule(options)
    period = [0.1, 0.175, 0.25, 0.325, 0.4, 0.325, 0.25, 0.175, 0.1, 0.1, 0.1, 0.1]
    assert [schedule(step) for step in range(24)] == pytest.approx(period * 2)
    # The last step at the base is the 12th, index 11: saved when it is done.
    assert [n for n in range(30) if schedule.is_snapshot(n)] == [12, 24]
    longer = make_schedule(dataclasses.replace(options, hold=6))
    assert [n for n in range(30) if longer.is_snapshot(n)] == [14, 28]


def test_plain_cycles_keep_each_lowest_point_under_a_warmup_too():
    options = ScheduleOptions(name="triangular", stepsize=4, warmup_steps=3)
    schedule = make_schedule(options)
    assert [n for n in range(21) if schedule.is_snapshot(n)] == [11, 19]
    assert schedule(11) == pytest.approx(0.025)
    assert [schedule(step) for step in range(4)] == pytest.approx(
        [0.025 / 3, 0.05 / 3, 0.025, 0.025]
    )
    none = make_schedule(dataclasses.replace(options, snapshots=False))
    assert not any(none.is_snapshot(n) for n in range(21))


def test_cosine_restarts_as_in_sgdr():
    options = ScheduleOptions(
        name="cosine",
        learning_rate=0.4,
        end_learning_rate=0.1,
        period=4,
        period_mult=2.0,
        peak_mult=0.5,
    )
    schedule = make_schedule(options)
    step = 0
    for restart, length in enumerate((4, 8, 16)):
        peak = 0.4 * 0.5**restart
        for current in range(length):
            expected = 0.1 + (peak - 0.1) / 2 * (
                1 + math.cos(math.pi * current / length)
            )
            assert schedule(step) == pytest.approx(expected, abs=1e-12)
            step += 1
    assert [n for n in range(30) if schedule.is_snapshot(n)] == [4, 12, 28]


def test_cosine_restarts_are_those_of_keras():
    options = ScheduleOptions(
        name="cosine", learning_rate=0.4, period=7, period_mult=1.5, peak_mult=0.8
    )
    keras_schedule = keras.optimizers.schedules.CosineDecayRestarts(0.4, 7, 1.5, 0.8)
    schedule = make_schedule(options)
    for step in range(60):
        expected = float(keras_schedule(step))
        assert schedule(step) == pytest.approx(expected, abs=1e-6)


def test_snapshot_ensembles_are_cosine_restarts():
    total, members, first = 100, 6, 0.1
    length = math.ceil(total / members)
    schedule = make_schedule(
        ScheduleOptions(name="cosine", learning_rate=first, period=length)
    )
    for t in range(1, total + 1):  # the paper counts from 1
        expected = first / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1)
        assert schedule(t - 1) == pytest.approx(expected, abs=1e-12)
    kept = [n for n in range(total + 1) if schedule.is_snapshot(n)]
    assert kept == [length * k for k in range(1, members)]


@pytest.mark.parametrize("staircase", [True, False])
def test_exponential_is_that_of_keras(staircase):
    options = ScheduleOptions(
        name="exponential", decay_steps=10, decay_rate=0.9, staircase=staircase
    )
    keras_schedule = keras.optimizers.schedules.ExponentialDecay(
        0.1, 10, 0.9, staircase=staircase
    )
    schedule = make_schedule(options)
    for step in range(45):
        assert schedule(step) == pytest.approx(float(keras_schedule(step)), rel=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_is_that_of_keras(power):
    options = ScheduleOptions(name="polynomial", end_learning_rate=0.01, power=power)
    keras_schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 40, 0.01, power)
    schedule = make_schedule(options, 40)
    for step in range(60):
        assert schedule(step) == pytest.approx(float(keras_schedule(step)), rel=1e-6)


def test_steps_fall_at_steps_of_the_run():
    options = ScheduleOptions(name="steps", drops=(6, 8), warmup_steps=4)
    schedule = make_schedule(options)
    expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert [schedule(step) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_momentum_mirrors_the_learning_rate_of_one_cycle(anneal, three_phase):
    options = ScheduleOptions(
        name="one-cycle", anneal=anneal, three_phase=three_phase, learning_rate=1.0
    )
    schedule = make_schedule(options, 100)
    start, bottom = 1 / 25, 58 if three_phase else 99
    for step in range(bottom + 1):
        # From 0 where the cycle begins to 1 at its peak.
        end = start if step <= 29 or three_phase else 1 / 25e4
        height = (schedule(step) - end) / (1 - end)
        assert schedule.momentum(step) == pytest.approx(0.95 - 0.1 * height)
    if three_phase:
        assert {schedule.momentum(step) for step in range(59, 100)} == {0.95}
        assert schedule(99) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cosine", {"period_mult": 2.0}),
        ("cosine", {"peak_mult": 0.5}),
        ("cosine", {"snapshots": False}),
        ("cosine", {"num_steps": 7, "period": 3}),
        ("triangular", {"num_steps": 7}),
        ("triangular", {"cool_down_decades": 2.0}),
        ("triangular", {"cool_down_patience": 7, "cool_down": "log"}),
    ],
)
def test_number_that_would_do_nothing_is_an_error(name, option):
    with pytest.raises(
        ValueError, match=f"`--schedule.{next(iter(option))[:3]}.* only"
    ):
        make_schedule(ScheduleOptions(name=name, **option), 100000)


def test_one_cycle_under_a_warmup_begins_after_it():
    options = ScheduleOptions(name="one-cycle", learning_rate=1.0, warmup_steps=4)
    schedule = make_schedule(options, 104)
    rates = [schedule(step) for step in range(5)]
    assert rates == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])
    assert schedule(103) == pytest.approx(4e-6)
    assert schedule.momentum(0) == schedule.momentum(4) == pytest.approx(0.95)


def test_factor_multiplies_everything():
    factors = iter([1.0, 0.1])
    schedule = make_schedule(ScheduleOptions(), factor=lambda: next(factors))
    assert [schedule(0), schedule(1)] == pytest.approx([0.1, 0.01])


def cooled(mode="log", num_steps=None, **settings):
    options = ScheduleOptions(
        name="triangular", learning_rate=0.4, stepsize=10, cool_down=mode, **settings
    )
    return make_schedule(options, num_steps)


def test_cool_down_waits_for_the_end_of_a_cycle_and_falls_by_decades():
    schedule = cooled()
    assert [n for n in range(45) if schedule.may_cool_down(n)] == [20, 40]
    schedule.cool_down.begin(20)
    for k in range(11):
        assert schedule(20 + k) == pytest.approx(0.1 * 10 ** (-3 * k / 10))
    assert schedule(100) == pytest.approx(1e-4)
    assert [schedule.is_over(n) for n in (20, 29, 30, 31)] == [False, False, True, True]
    assert not schedule.may_cool_down(40)
    assert not schedule.is_snapshot(40)


def test_cool_down_by_steps_falls_ten_times():
    schedule = cooled("step")
    schedule.cool_down.begin(20)
    rates = [schedule(20 + k) for k in range(11)]
    assert rates == pytest.approx([0.1 * 0.1**k for k in range(11)])


def test_cool_down_on_a_plateau_falls_when_the_loss_does_not():
    schedule = cooled("plateau", cool_down_patience=2)
    cool_down = schedule.cool_down
    cool_down.begin(20)
    cool_down.observe(20, 0.0)  # of a step before it began
    rates = []
    for step, loss in enumerate([3, 2, 2, 2, 1, 1, 1], start=21):
        cool_down.observe(step, loss)
        rates.append(schedule(step))
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])
    assert not schedule.is_over(28)
    for step in range(28, 44):
        cool_down.observe(step, 1.0)
    assert cool_down.num_drops == 10
    assert schedule.is_over(44)


def test_cool_down_is_planned_where_the_run_has_a_length():
    assert cooled(num_steps=100).cool_down.planned == 80
    assert cooled(num_steps=111).cool_down.planned == 100
    assert cooled(num_steps=113, warmup_steps=3).cool_down.planned == 103
    assert cooled("plateau", num_steps=100).cool_down.planned is None
    assert cooled().cool_down.planned is None


def test_state_of_a_cool_down_survives():
    schedule = cooled("plateau", cool_down_patience=3)
    schedule.cool_down.begin(20)
    for step, loss in enumerate([3.0, 2.0, 2.5], start=21):
        schedule.cool_down.observe(step, loss)
    state = json.loads(json.dumps(schedule.get_state()))
    again = cooled("plateau", cool_down_patience=3)
    again.set_state(state)
    for one in (schedule, again):
        one.cool_down.observe(24, 2.0)
        one.cool_down.observe(25, 2.0)
    assert [again(25), again.get_state()] == [schedule(25), schedule.get_state()]
    assert again(25) == pytest.approx(0.01)
    fresh = cooled()
    fresh.set_state(json.loads(json.dumps(fresh.get_state())))
    assert fresh.cool_down.best_loss == math.inf
