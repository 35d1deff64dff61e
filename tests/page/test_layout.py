"""What a click does, without a browser."""

import threading
import time
from types import SimpleNamespace

import pytest

from dispose_jax.page import messages
from dispose_jax.page.turns import State
from dispose_jax.page.visitors import Session


def test_of_two_clicks_at_once_one_is_told_that_the_page_is_at_work(tmp_path, monkeypatch):
    layout = pytest.importorskip("dispose_jax.page.layout", reason="needs the extra page")
    session, taken, told = Session("ann", tmp_path), [], []

    class Turns:
        def take(self, order):
            taken.append(order)
            return SimpleNamespace(state=State(), number=len(taken))

        def watch(self, turn):
            yield State(messages.CANCELLED)

    def slow(*_):
        time.sleep(0.1)
        return "order"

    monkeypatch.setattr(layout, "_session", lambda page, request: session)
    monkeypatch.setattr(layout, "_order", slow)
    page = SimpleNamespace(turns=Turns())
    click = lambda animate: told.extend(layout._act(page, animate)(None))
    clicks = [threading.Thread(target=click, args=[animate]) for animate in (False, True)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join()
    assert taken == ["order"]
    assert sum("at work already" in str(shown) for shown in told) == 1
