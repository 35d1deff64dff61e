"""What the page says, as HTML: how far a turn is, what would be animated, what came of it.

Sentences and names of files are somebody else's and are escaped. Pictures are part of the HTML, so
that no file of them lies anywhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from dispose_jax.job import UNITS
from dispose_jax.page import messages, turns
from dispose_jax.page.messages import About, Prepared
from dispose_jax.page.turns import State

PICTURE, DRIVING = "Picture of the person", "Driving video"
PICTURE_POSE, POSES = "Keypoints of the picture", "Keypoints of the motion"
# What messages call the inputs and settings of the command.
SPOKEN = {
    "--reference_pose": f"“{PICTURE_POSE}”",
    "--reference": f"“{PICTURE}”",
    "--driving video": f"“{DRIVING}”",
    "--driving": f"“{DRIVING}”",
    "--poses file": f"“{POSES}”",
    "--poses": f"“{POSES}”",
}
STAGES = {
    "starting": "Starting",
    "reading inputs": "Reading",
    "finding keypoints": "Finding keypoints",
    "conditioning": "Looking at the picture",
    "control signals": "Control signals",
    "sampling": "Denoising",
    "decoding": "Decoding",
    "explaining": "Explaining",
}
DOWNLOADS = (
    (".mp4", "Video"),
    (".explain.png", "Explained sheet"),
    (".explain.mp4", "Explained video"),
    (".json", "Settings (JSON)"),
)
FILES = "gradio_api/file="  # where the server gives files by their paths


def spoken(sentence: str) -> str:
    """A message of the command in the words of the page: one sentence that starts with a capital
    and ends with a full stop."""
    for flag, name in SPOKEN.items():
        sentence = re.sub(rf"{flag}\b", name, sentence)
    sentence = sentence.strip().rstrip(".")
    if re.match(r"[a-z]+(?:[ ,;]|$)", sentence):  # a word, and no name of a file
        sentence = sentence[0].upper() + sentence[1:]
    return f"{sentence}."


def greeting(about: About) -> str:
    """What to do, when the page opens."""
    random = (
        f"<p class='warning'>No weights for {escape(', '.join(about.random))}: these are random, "
        "so the result is noise.</p>"
        if about.random
        else ""
    )
    return (
        "<div class='empty'><p>Give a picture of a person and a video of a motion, or begin with "
        "the example.</p><p><b>Preview</b> shows how the motion fits the picture, before "
        f"anything long begins. <b>Animate</b> makes the video.</p>{random}</div>"
    )


def about_keypoints(detects: bool) -> str:
    """What the keypoint files are for."""
    need = (
        "Keypoints that you leave out are found; those of the motion may also stand in place of a "
        "video."
        if detects
        else "These weights hold no detector, so both are needed; the video may be left out."
    )
    return f"<p class='note'>Keypoints are OpenPose JSON files. {need}</p>"


def error(sentence: str) -> str:
    """What went wrong."""
    return f"<div class='error' role='alert'>{escape(spoken(sentence))}</div>"


def progress(state: State, *, animate: bool) -> str:
    """How far a turn is."""
    if state.phase == turns.WAITING:
        others = "one other turn" if state.before == 1 else f"{state.before} other turns"
        return _bar(f"Waiting for {others}" if state.before else "Starting", None)
    if state.phase == messages.FAILED:
        return error(state.sentence)
    if state.phase == messages.CANCELLED:
        return "<div class='ended'>Cancelled. Nothing goes on in the background.</div>"
    if state.phase == messages.DONE:
        what = (
            f"Done after {_duration(state.seconds)}"
            if animate
            else "This is how the motion fits; Animate makes the video"
        )
        return f"<div class='ended'>{what}.</div>"
    name, done, total = state.stage
    unit = UNITS.get(name)
    of = f" {done} of {total} {unit}s" if unit and total else ""
    share = done / total if unit and total else None
    title = STAGES.get(name, name.capitalize())
    return _bar(f"{title}{of}", share, _duration(state.seconds), name if animate else "")


def stopping() -> str:
    """Cancel was clicked."""
    return _bar("Stopping", None)


def _bar(title: str, share: float | None, beside: str = "", stage: str = "") -> str:
    """A bar that is full to a share, or moves for None; the stages, if one goes on, above it."""
    value = f" value='{share:.3f}'" if share is not None else ""
    steps, found = [], False
    for name in (
        ("reading inputs", "conditioning", "control signals", "sampling", "decoding", "explaining")
        if stage
        else ()
    ):
        found = found or name == stage
        kind = "now" if name == stage else ("next" if found else "over")
        steps.append(f"<li class='{kind}'>{STAGES[name]}</li>")
    row = f"<ol class='stages'>{''.join(steps)}</ol>" if found else ""
    return (
        f"<div class='progress' role='status'>{row}<div class='line'><span>{escape(title)}</span>"
        f"<span>{beside}</span></div><progress{value}></progress></div>"
    )


def preview(prepared: Prepared | None) -> str:
    """How the motion fits the picture, and what deserves a look."""
    if prepared is None:
        return ""
    width, height = prepared.size
    warnings = "".join(f"<li>{escape(spoken(one))}</li>" for one in prepared.warnings)
    notes = (
        f"<p class='warning'>Worth a look:</p><ul class='warning'>{warnings}</ul>"
        if warnings
        else ("<p class='fine'>Nothing looks odd about the fit.</p>")
    )
    return (
        f"<figure>{_image(prepared.preview, 'the first skeleton on the picture')}"
        f"<figcaption><h3>The first pose on the picture</h3><p>{prepared.num_frames} frames of "
        f"{width} × {height} at {prepared.fps:.4g} a second, "
        f"{prepared.num_frames / prepared.fps:.1f} s.</p>{notes}</figcaption></figure>"
    )


def forming(state: State) -> str:
    """The picture as it forms."""
    if state.picture is None or state.has_ended:
        return ""
    return (
        f"<figure><figcaption><h3>As it forms</h3></figcaption>"
        f"{_image(state.picture, 'some frames as they would be without their noise')}</figure>"
    )


def result(folder: Path, files: Sequence[str], number: int) -> str:
    """The video, what explains it, and what can be had. number: of the turn, as a browser would
    show what it knows under an address."""
    if not files:
        return ""
    address = lambda name: f"{FILES}{quote(str(folder / name))}?turn={number}"
    ended = lambda ending: next(
        name for name in files if name.partition(".")[2] == ending.removeprefix(".")
    )
    links = "".join(
        f"<a class='download' href='{address(ended(ending))}' download='{escape(ended(ending))}'>"
        f"{title}</a>"
        for ending, title in DOWNLOADS
    )
    return (
        "<figure><figcaption><h3>The video</h3></figcaption>"
        f"<video src='{address(ended('.mp4'))}' controls autoplay loop muted playsinline></video>"
        f"<p class='downloads'>{links}</p></figure>"
        "<details><summary>What controlled each frame</summary>"
        f"<img src='{address(ended('.explain.png'))}' alt='a row for each of some frames'>"
        "</details>"
    )


def _image(jpeg: bytes, what: str) -> str:
    content = base64.b64encode(jpeg).decode()
    return f"<img src='data:image/jpeg;base64,{content}' alt='{what}'>"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
