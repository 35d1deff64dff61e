"""A worker that does as its orders say, in no time: texts in place of orders."""

import os
import signal
import time

from dispose_jax.page import messages
from dispose_jax.page.messages import About


def serve(connection, begins=messages.READY):
    """begins: "failed" for a worker that cannot be started, "dies" for one that ends at once."""
    if begins == "dies":
        os._exit(3)
    connection.send((begins, About((), True) if begins == messages.READY else "no such bundle"))
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        if order != messages.CANCEL:
            connection.send(_answer(connection, order))


def _answer(connection, order):
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "sleep":  # in something that does not listen
        time.sleep(60)
    if order == "fail":
        return messages.FAILED, "a.png: not a picture"
    if order == "long":
        for step in range(600):
            connection.send((messages.STAGE, ("sampling", step, 600)))
            if connection.poll(0.1):
                connection.recv()
                return messages.CANCELLED, ""
    connection.send((messages.PICTURE, b"picture"))
    return messages.DONE, (f"{os.getpid()}",)
