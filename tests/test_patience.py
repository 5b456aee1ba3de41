import json
import math

import pytest

from worklab.options import PatienceOptions
from worklab.patience import Patience

LOSSES = [3, 2, 2.5, 2.0, 1.9, 2, 2, 2, 2, 2, 2, 2]


def decisions(options, losses):
    patience = Patience(options)
    return [patience.update(10 * n, loss) for n, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("patience", "max_decays", "losses", "expected"),
    [
        (1, 0, [3, 2, 2], "best best stop"),
        (1, 1, [3, 2, 2, 2], "best best decay stop"),
        (2, 1, [3, 4, 2, 3, 3, 3, 3], "best wait best wait decay wait stop"),
        (2, 0, [3, 4, 2.9, 4, 2.8, 9, 9], "best wait best wait best wait stop"),
        # The count begins anew after a decay, and after a best that follows it.
        (2, 1, [1, 2, 2, 2, 0.5, 2, 2], "best wait decay wait best wait stop"),
        # The best stays what it was: 1.5 is better than what led to the decay only.
        (1, 2, [1, 2, 1.5, 1.4], "best decay decay stop"),
        (3, 0, [5, 4, 3, 2, 1], "best best best best best"),
        # Equal is not lower, and a last bit is.
        (1, 1, [2, math.nextafter(2, 0), 2], "best best decay"),
    ],
)
def test_losses_lead_to_decisions(patience, max_decays, losses, expected):
    options = PatienceOptions(patience=patience, max_decays=max_decays)
    assert decisions(options, losses) == expected.split()


def test_validations_in_the_warm_up_are_not_waited_for():
    patience = Patience(PatienceOptions(patience=1, max_decays=0), warmup_steps=30)
    decided = [patience.update(step, loss) for step, loss in [(10, 1), (20, 2)]]
    assert decided == ["best", "wait"]
    assert (patience.wait, patience.best_step) == (0, 10)
    assert patience.update(30, 2) == "stop"


def test_first_loss_is_the_best_whatever_it_is():
    assert decisions(PatienceOptions(), [1e300]) == ["best"]


def test_learning_rate_falls_by_the_factor_at_each_decay():
    patience = Patience(PatienceOptions(patience=1, factor=0.5, max_decays=2))
    factors = []
    for step, loss in enumerate([1, 2, 0.5, 2]):
        patience.update(step, loss)
        factors.append(patience.factor)
    assert factors == [1, 0.5, 0.5, 0.25]


def test_stop_completes_and_does_not_lower_the_learning_rate_again():
    patience = Patience(PatienceOptions(patience=1, factor=0.5, max_decays=1))
    for step, loss in enumerate([1, 2]):
        patience.update(step, loss)
        assert not patience.complete
    assert patience.update(2, 2) == "stop"
    assert patience.complete
    assert (patience.factor, patience.num_decays) == (0.5, 1)


def test_attributes_tell_the_best_and_the_last():
    patience = Patience(PatienceOptions(patience=3))
    assert (patience.best_step, patience.best_loss) == (None, math.inf)
    assert patience.last_step == 0
    for step, loss in [(10, 3), (20, 2), (30, 4)]:
        patience.update(step, loss)
    assert (patience.best_step, patience.best_loss) == (20, 2)
    assert (patience.last_step, patience.wait) == (30, 1)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_killed_after_any_validation_it_goes_on_identically(patience):
    options = PatienceOptions(patience=patience, max_decays=2)
    whole = Patience(options)
    resumed = Patience(options)
    assert resumed.get_state() == whole.get_state()
    for step, loss in enumerate(LOSSES, start=1):
        text = json.dumps(resumed.get_state(), allow_nan=False)
        resumed = Patience(options)  # all else is lost
        resumed.set_state(json.loads(text))
        assert resumed.update(step, loss) == whole.update(step, loss)
        assert vars(resumed) == vars(whole)
        if whole.complete:
            break


def test_state_before_the_first_validation_round_trips():
    text = json.dumps(Patience(PatienceOptions()).get_state(), allow_nan=False)
    patience = Patience(PatienceOptions(patience=1))
    patience.update(1, 2.0)
    patience.set_state(json.loads(text))
    assert vars(patience) == vars(Patience(PatienceOptions(patience=1)))


def test_options_are_not_state():
    """A run may be resumed with more patience."""
    patience = Patience(PatienceOptions(patience=2))
    patience.update(1, 1.0)
    patience.update(2, 2.0)
    longer = Patience(PatienceOptions(patience=3))
    longer.set_state(patience.get_state())
    assert [longer.update(3, 2.0), longer.update(4, 2.0)] == ["wait", "decay"]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_an_error_and_changes_nothing(loss):
    patience = Patience(PatienceOptions())
    patience.update(1, 1.0)
    before = patience.get_state()
    with pytest.raises(ValueError, match=f"at step 7 is not finite.*loss={loss}"):
        patience.update(7, loss)
    assert patience.get_state() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("valid_every", 0),
        ("patience", 0),
        ("factor", 0.0),
        ("factor", 1.0),
        ("factor", math.nan),
        ("max_decays", -1),
    ],
)
def test_option_out_of_range_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is out of range.*{name}={value}"):
        Patience(PatienceOptions(**{name: value}))
