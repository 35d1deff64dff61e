"""The process that holds the animator: it reads what visitors upload, and animates.

It is apart from the server so that the page answers whatever happens to it: a decoder that
crashes, a system out of memory, a stage that does not end. Messages go both ways through a pipe,
one order at a time.
"""

from __future__ import annotations

import os
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from dispose_jax import cli, job, memory
from dispose_jax.animator import Animator
from dispose_jax.job import Job
from dispose_jax.media import image, montage
from dispose_jax.page import bounds
from dispose_jax.page.messages import (
    CANCEL,
    CANCELLED,
    DONE,
    FAILED,
    PICTURE,
    PREPARED,
    READY,
    STAGE,
    About,
    Order,
    Prepared,
)
from dispose_jax.pose import draw

OUTPUT = Path("animation.mp4")  # in the folder of an order
WIDEST = 1280  # pixels of pictures that are shown while it works
LARGE = 768  # pixels to which a small picture is enlarged
OUT_OF_MEMORY = "out of memory: choose a smaller size or fewer frames"


class Cancelled(Exception):
    """Raised where an animator reports, to end a clip."""


def serve(connection: Connection, config, given: tuple[str, ...]) -> None:
    """Answer orders until the page is gone. The target of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the page ends this process
    cli.use_compile_cache()
    home = os.getcwd()
    try:
        try:
            animator = Animator(config, given)
        except (ValueError, OSError) as error:
            connection.send((FAILED, _sentence(error)))
            return
        detects = animator.weights.pose_folder is not None
        connection.send((READY, About(animator.weights.random, detects)))
        while True:
            order = connection.recv()
            if order == CANCEL:
                continue  # it came when the work was done
            try:
                end = _answer(connection, animator, given, order)
            finally:
                os.chdir(home)
            connection.send(end)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the page has ended


def _answer(connection: Connection, animator: Animator, given, order: Order) -> tuple:
    """Do what is asked; returns the message that ends it."""
    try:
        os.chdir(order.folder)  # messages and records name files as their owner does
        bounds.check(order.sources)
        return DONE, _work(connection, animator.under(order.config), given, order)
    except Cancelled:
        return CANCELLED, ""
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except (ValueError, OSError) as error:
        return FAILED, _sentence(error)
    except Exception as error:  # a defect: the next visitor shall not suffer from it
        if memory.is_exhausted(error):
            return FAILED, OUT_OF_MEMORY
        traceback.print_exc()
        return (
            FAILED,
            f"an error that should not be ({type(error).__name__}); the server's log "
            "has the details",
        )


def _work(connection: Connection, animator: Animator, given, order: Order) -> tuple[str, ...]:
    """Names of the files that a visitor can have of it."""

    def attend() -> None:
        """Raise Cancelled if that is wanted; the pipe says nothing else meanwhile."""
        if connection.poll():
            connection.recv()
            raise Cancelled

    def progress(stage: str, done: int, total: int) -> None:
        attend()
        connection.send((STAGE, (stage, done, total)))

    def preview(step: int, picture) -> None:
        attend()
        connection.send((PICTURE, image.as_jpeg(picture, WIDEST)))

    work = Job(
        order.config,
        given,
        order.sources,
        OUTPUT,
        explain=True,
        say=lambda sentence: None,
        animator=animator,
        progress=progress,
        preview=preview if order.watched else None,
    )
    clip = job.prepare(work)
    # Strokes on a picture of 64 pixels would be dots.
    reference = montage.enlarged(clip.reference[None], LARGE)[0]
    shown = image.as_jpeg(draw.preview(reference, clip.pose.at([1])), WIDEST)
    size, warnings = clip.shown[::-1], tuple(clip.warnings)
    connection.send((PREPARED, Prepared(shown, clip.num_frames, size, float(clip.fps), warnings)))
    if not order.animate:
        return ()
    job.animate(work, clip)
    beside = (*job.EXPLANATION, ".json")
    return (OUTPUT.name, *(work.path(ending).name for ending in beside))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
