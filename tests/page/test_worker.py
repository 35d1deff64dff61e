"""The worker with a small model: what it sends, and that it stops when it is told to."""

import os
import shutil
import threading
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

import sample
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import video
from dispose_jax.page import messages, worker
from dispose_jax.page.messages import Order
from tests import small


def config(steps=2):
    made = small.config("base", guidance=1.0)
    made.sample.update(resolution=64, max_frames=3, window=4, overlap=2, steps=steps)
    made.motion.update(kernel=9, sigma=1.5, cmp_size=64, chunk=3)
    return made


@pytest.fixture(scope="module")
def served():
    """The page's end of the pipe of a worker on a thread, and what it said first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.signal, "signal", lambda *_: None)  # a thread must not
        patch.setattr(worker.cli, "use_compile_cache", lambda: None)
        ours, its = Pipe()
        thread = threading.Thread(target=worker.serve, args=(its, config(), ("random",)))
        thread.start()
        yield SimpleNamespace(pipe=ours, first=ours.recv())
        ours.close()
        thread.join(30)
        assert not thread.is_alive(), "a worker ends with its page"


@pytest.fixture
def ask(served, tmp_path):
    """ask(stop_at=None, ...) -> all messages of a request; told to stop at the first of a kind."""
    for source in (sample.DEMO[0], sample.DEMO[1], sample.DEMO[3]):
        shutil.copy(source, tmp_path)

    def ask(stop_at=None, reference="reference.png", animate=True, watched=True, **values):
        names = Path(reference), Path("reference.poses.json"), None, Path("driving.poses.json")
        made = config()
        made.sample.update(values)
        served.pipe.send(Order(tmp_path, made, Sources(*names), animate, watched))
        told = []
        while not told or told[-1][0] not in messages.ENDS:
            told.append(served.pipe.recv())
            kind, content = told[-1]
            if stop_at and (kind == stop_at or content[:1] == (stop_at,)):
                served.pipe.send(messages.CANCEL)
                stop_at = None
        return told

    return ask


def kinds(told):
    return [kind for kind, _ in told]


def test_it_says_what_it_has_when_it_is_ready(served):
    kind, about = served.first
    assert kind == messages.READY and "unet" in about.random and not about.detects


def test_a_preview_comes_alone_and_first(ask, tmp_path):
    told = ask(animate=False)
    assert told[-1] == (messages.DONE, ())
    (prepared,) = [content for kind, content in told if kind == messages.PREPARED]
    assert (prepared.num_frames, prepared.size, prepared.fps) == (3, (64, 64), 15.0)
    assert prepared.preview.startswith(b"\xff\xd8")
    assert not (tmp_path / "animation.mp4").exists()


def test_a_clip_is_told_stage_by_stage_with_pictures_and_leaves_its_files(ask, tmp_path):
    home = os.getcwd()
    told = ask()
    stages = dict.fromkeys(content[0] for kind, content in told if kind == messages.STAGE)
    assert list(stages)[0] == "reading inputs" and list(stages)[-1] == "explaining"
    assert kinds(told).count(messages.PICTURE) == 2
    assert kinds(told).index(messages.PREPARED) < kinds(told).index(messages.PICTURE)
    kind, files = told[-1]
    assert kind == messages.DONE and all((tmp_path / name).is_file() for name in files)
    assert video.probe(tmp_path / "animation.mp4").num_frames == 3
    assert str(tmp_path) not in (tmp_path / "animation.json").read_text()
    assert os.getcwd() == home


def test_pictures_are_left_out_if_nobody_watches(ask):
    assert messages.PICTURE not in kinds(ask(watched=False))


@pytest.mark.parametrize("when", ["reading inputs", "sampling", messages.PICTURE, "decoding"])
def test_it_stops_when_it_is_told_to_and_goes_on_with_the_next(ask, tmp_path, when):
    told = ask(stop_at=when, steps=8)
    assert told[-1] == (messages.CANCELLED, "")
    assert kinds(told).count(messages.PICTURE) < 8 or when == "decoding"
    assert not (tmp_path / "animation.mp4").exists()
    assert ask(animate=False)[-1][0] == messages.DONE


def test_a_stop_that_comes_too_late_stops_nothing(ask, served):
    assert ask(animate=False)[-1][0] == messages.DONE
    served.pipe.send(messages.CANCEL)
    assert ask(animate=False)[-1][0] == messages.DONE


def test_wrong_files_are_told_by_their_own_names(ask, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    assert ask(reference="text.png")[-1] == (
        messages.FAILED,
        "text.png: not a picture that can be read, expected PNG, JPEG, WebP or the like",
    )


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (MemoryError(), worker.OUT_OF_MEMORY),
        (OSError("a: cannot write this file"), "a: cannot write this file"),
        (
            KeyError("x"),
            r"an error that should not be (KeyError); the server's log has the details",
        ),
    ],
)
def test_whatever_happens_is_a_sentence_and_the_next_is_served(ask, monkeypatch, raised, sentence):
    def fail(*_):
        raise raised

    with monkeypatch.context() as broken:
        broken.setattr(worker.job, "animate", fail)
        assert ask()[-1] == (messages.FAILED, sentence)
    assert ask(animate=False)[-1][0] == messages.DONE


def test_other_settings_than_it_was_built_with_are_refused(ask):
    kind, sentence = ask(dtype="bfloat16")[-1]
    assert kind == messages.FAILED and "sample.dtype differs" in sentence
