import threading
import time

import pytest

from worklab import sending
from worklab.sending import Sender


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(sending, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("worklab.sending._logger.parent.propagate", True)


@pytest.fixture
def sender():
    sender = Sender("the server", lambda error: isinstance(error, OSError))
    yield sender
    sender.close(5)


def test_calls_are_made_in_order_through_an_outage(sender, caplog):
    failures = iter([OSError("it is\ndown"), OSError("down"), OSError()])
    made, all_made = [], threading.Event()

    def fail_thrice():
        for error in failures:
            raise error
        made.append("first")

    with caplog.at_level("INFO"):
        sender.send(fail_thrice)
        sender.send(lambda: made.append("second"))
        sender.send(all_made.set)
        assert all_made.wait(5)
        sender.close(5)
    assert made == ["first", "second"]
    warning, news = caplog.messages
    assert warning.startswith("the server does not answer; training goes on")
    assert warning.endswith("Received: it is down")
    assert news == "the server answers again."


def test_refused_calls_are_dropped_and_counted(sender, caplog):
    made = []
    sender.send(lambda: made.append(1))
    assert sender.wait(5)
    for _ in range(2):
        sender.send(lambda: {}["no"])
    sender.send(lambda: made.append(2))
    sender.close(5)
    assert made == [1, 2]
    assert isinstance(sender.refusal, KeyError)
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "the server refused an entry; training goes on. Received: 'no'",
        "2 of 4 entries are not in the server: it did not answer to 0",
    ]
    assert "refused 2, and 0 were dropped" in caplog.messages[-1]


def test_first_call_that_is_refused_is_left_to_the_owner(sender, caplog):
    sender.send(lambda: {}["no"])
    assert sender.wait(5)
    assert isinstance(sender.refusal, KeyError)
    assert caplog.messages == []


def test_sending_and_closing_wait_for_no_server(sender, caplog):
    hang = threading.Event()
    start = time.monotonic()
    for _ in range(100):
        sender.send(hang.wait)
    for _ in range(100):  # of which as many wait as without the others
        sender.send(hang.wait, large=True)
    assert not sender.wait(0.01)
    sender.close(0.01)
    assert time.monotonic() - start < 5
    assert caplog.messages[-1] == (
        "200 of 200 entries are not in the server: it did not answer to "
        f"{100 + sending._MOST_LARGE}, refused 0, and {100 - sending._MOST_LARGE} were "
        "dropped, as too many waited."
    )
    hang.set()


def test_large_calls_that_were_made_give_their_places(sender):
    for _ in range(sending._MOST_LARGE + 1):
        sender.send(lambda: None, large=True)
        made = threading.Event()
        sender.send(made.set)
        assert made.wait(5)
    assert sender._num_dropped == 0


def test_a_call_that_always_fails_gives_way_to_the_next(sender, monkeypatch):
    monkeypatch.setattr(sending, "_MOST_SECONDS", 0.0)
    made = []

    def fail():
        raise OSError("a fault of the server's own")

    sender.send(fail)
    sender.send(lambda: made.append(1))
    sender.close(5)
    assert made == [1]
