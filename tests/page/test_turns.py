"""The queue: one after the other, and whatever happens to the worker the next one is served."""

import threading
import time

import pytest

from dispose_jax.page import messages
from dispose_jax.page.turns import MOST_WAITING, WORKING, Turns
from tests.page import fake


@pytest.fixture(scope="module")
def turns():
    made = Turns(fake.serve, grace=1.0)
    yield made
    made.close()


def end(turns, turn):
    """The last state of a turn."""
    return list(turns.watch(turn))[-1]


def begun(turns, turn):
    """Return when a turn is worked on."""
    for state in turns.watch(turn):
        if state.phase == WORKING and state.stage[0] == "sampling":
            return


def test_a_turn_is_done_and_says_what_came_of_it(turns):
    state = end(turns, turns.take("quick"))
    assert (state.phase, state.picture, len(state.files)) == (messages.DONE, b"picture", 1)
    assert state.seconds > 0


def test_one_worker_serves_all(turns):
    assert len({end(turns, turns.take("quick")).files for _ in range(3)}) == 1


def test_turns_are_taken_in_order_and_told_how_many_come_first(turns):
    first, second, third = turns.take("long"), turns.take("quick"), turns.take("quick")
    begun(turns, first)
    assert [turns.look(turn).before for turn in (second, third)] == [1, 2]
    assert turns.look(first).stage[::2] == ("sampling", 600)
    turns.cancel(first)
    assert end(turns, first).phase == messages.CANCELLED
    assert [end(turns, turn).phase for turn in (second, third)] == [messages.DONE] * 2


def test_what_waits_is_cancelled_at_once(turns):
    first, second = turns.take("long"), turns.take("quick")
    begun(turns, first)
    turns.cancel(second)
    assert turns.look(second).phase == messages.CANCELLED
    turns.cancel(first)
    turns.await_end(first)
    assert turns.look(first).phase == messages.CANCELLED


def test_the_queue_is_bounded(turns):
    taken = [turns.take("long")]
    begun(turns, taken[0])
    taken += [turns.take("quick") for _ in range(MOST_WAITING)]
    with pytest.raises(ValueError, match="8 others are waiting already; try again later"):
        turns.take("quick")
    for turn in reversed(taken):
        turns.cancel(turn)
        turns.await_end(turn)


def test_a_failed_turn_says_why(turns):
    state = end(turns, turns.take("fail"))
    assert (state.phase, state.sentence) == (messages.FAILED, "a.png: not a picture")


def test_a_killed_worker_is_told_and_another_one_serves_the_next(turns):
    before = end(turns, turns.take("quick")).files
    state = end(turns, turns.take("die"))
    assert state.phase == messages.FAILED
    assert "was ended by signal 9, which happens when memory runs out" in state.sentence
    after = end(turns, turns.take("quick"))
    assert after.phase == messages.DONE and after.files != before


def test_a_worker_that_does_not_listen_is_ended_when_it_is_to_stop(turns):
    turn = turns.take("sleep")
    time.sleep(0.3)
    start = time.monotonic()
    turns.cancel(turn)
    assert end(turns, turn).phase == messages.CANCELLED
    assert time.monotonic() - start < 5
    assert end(turns, turns.take("quick")).phase == messages.DONE


def test_nobody_has_to_watch_for_the_queue_to_go_on(turns):
    turns.take("quick")
    assert end(turns, turns.take("quick")).phase == messages.DONE


@pytest.mark.parametrize(
    ("begins", "message"), [("failed", "no such bundle"), ("dies", r"did not start \(code 3\)")]
)
def test_a_worker_that_cannot_be_started_says_why(begins, message):
    with pytest.raises(ValueError, match=message):
        Turns(fake.serve, begins)


def test_closing_ends_the_worker_and_what_it_does():
    made = Turns(fake.serve)
    turn, other = made.take("sleep"), made.take("quick")
    process = made._process
    closing = threading.Thread(target=made.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive() and not process.is_alive()
    assert made.look(turn).phase == made.look(other).phase == messages.CANCELLED
