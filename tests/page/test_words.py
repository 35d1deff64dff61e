"""What the page says: names of files escaped, messages in its own words."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from dispose_jax.page import messages, words
from dispose_jax.page.messages import About, Prepared
from dispose_jax.page.turns import WORKING, State


class Read(HTMLParser):
    """Text and sources of HTML, whose elements are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.text, self.sources, self.open, self.classes = "", [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
        self.classes += attributes.get("class", "").split()
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_messages_of_the_command_are_told_in_the_words_of_the_page():
    assert words.spoken("nothing to animate by: give --driving, --poses, or both") == (
        "Nothing to animate by: give “Driving video”, “Keypoints of the motion”, or both."
    )
    assert words.spoken("a.png: no such picture; see --reference_pose") == (
        "a.png: no such picture; see “Keypoints of the picture”."
    )


@pytest.mark.parametrize("text", ["<script>x</script>.png: bad", "a&b"])
def test_what_others_wrote_is_escaped(text):
    warned = Prepared(b"x", 2, (64, 64), 15.0, (text,))
    failed = State(messages.FAILED, sentence=text)
    shown = [words.error(text), words.preview(warned), words.progress(failed, animate=True)]
    shown.append(words.greeting(About((text,), True)))
    for html in shown:
        read = Read(html)
        assert text in read.text and "script" not in read.open and "<script" not in html


def test_progress_names_the_stage_and_how_far_it_is():
    state = State(WORKING, stage=("sampling", 3, 8), seconds=75)
    html = words.progress(state, animate=True)
    assert "value='0.375'" in html
    read = Read(html)
    assert "Denoising 3 of 8 steps" in read.text and "1 min 15 s" in read.text
    assert read.classes.count("over") == 3 and read.classes.count("now") == 1
    unknown = Read(words.progress(State(WORKING, stage=("reading inputs", 0, 1)), animate=False))
    assert "Reading" in unknown.text and "stages" not in unknown.classes


def test_the_queue_is_told():
    assert "Waiting for one other turn" in words.progress(State(before=1), animate=True)
    assert "Waiting for 3 other turns" in words.progress(State(before=3), animate=True)


def test_every_end_says_so():
    ends = {
        messages.DONE: "Done after 12 s",
        messages.CANCELLED: "Cancelled",
        messages.FAILED: "A.",
    }
    assert set(ends) == set(messages.ENDS)
    for phase, said in ends.items():
        state = State(phase, sentence="a", seconds=12)
        assert said in Read(words.progress(state, animate=True)).text


def test_a_preview_says_what_video_would_come_and_what_is_odd():
    odd = Read(words.preview(Prepared(b"x", 30, (64, 128), 15.0, ("two people", "no feet"))))
    assert "30 frames of 64 × 128 at 15 a second, 2.0 s." in odd.text
    assert "Two people." in odd.text and "No feet." in odd.text and "warning" in odd.classes
    assert odd.sources[0].startswith("data:image/jpeg;base64,")
    assert "Nothing looks odd" in words.preview(Prepared(b"x", 2, (64, 64), 15.0, ()))
    assert words.preview(None) == ""


def test_the_picture_is_shown_while_it_forms_and_no_longer():
    state = State(WORKING, picture=b"x")
    assert Read(words.forming(state)).sources
    assert words.forming(state._replace(phase=messages.DONE)) == words.forming(State()) == ""


def test_results_are_offered_under_addresses_that_a_browser_has_not_seen():
    files = ("animation.mp4", "animation.explain.png", "animation.explain.mp4", "animation.json")
    read = Read(words.result(Path("/made up"), files, 7))
    assert len(read.sources) == 6  # all four, and two of them are shown
    assert {source.partition("?")[0] for source in read.sources} == {
        f"gradio_api/file=/made%20up/{name}" for name in files
    }
    assert all(source.endswith("?turn=7") for source in read.sources)
    assert words.result(Path("/tmp"), (), 7) == ""


def test_the_page_says_what_these_weights_need():
    assert "both are needed" in words.about_keypoints(False)
    assert "that you leave out are found" in words.about_keypoints(True)
    assert "the result is noise" in words.greeting(About(("unet",), True))
    assert "noise" not in words.greeting(About((), True))
