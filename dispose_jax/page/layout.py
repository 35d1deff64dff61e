"""The page itself: where things are, and what a click does (Gradio)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before it is imported

import gradio as gr  # noqa: E402

from dispose_jax import limits, weights  # noqa: E402
from dispose_jax.inputs.sources import Sources  # noqa: E402
from dispose_jax.page import controls, guard, words  # noqa: E402
from dispose_jax.page.controls import Choice  # noqa: E402
from dispose_jax.page.messages import Order  # noqa: E402
from dispose_jax.page.turns import State, Turns  # noqa: E402
from dispose_jax.page.visitors import Session, Visitors  # noqa: E402

NAMES = ("reference", "driving", "reference_pose", "poses")
EXAMPLE = (
    weights.ASSETS / "reference.png",
    None,
    weights.ASSETS / "reference.poses.json",
    weights.ASSETS / "driving.poses.json",
)
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Page:
    """What the clicks need. configs: by speed (controls.at_speeds)."""

    configs: dict[str, object]
    turns: Turns
    visitors: Visitors


def example_files() -> tuple[Path, ...]:
    """What the example consists of; nothing in an installed package, which has no assets."""
    files = tuple(path for path in EXAMPLE if path is not None)
    return files if all(path.is_file() for path in files) else ()


def build(page: Page) -> gr.Blocks:
    """The page, to be launched."""
    usual = controls.usual(page.configs)
    config = page.configs[usual.speed]
    gr.set_static_paths([str(path) for path in example_files()])
    with gr.Blocks(title="dispose_jax", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            "<header><h1>Animate a person</h1><p>One picture and a motion become a video of that "
            f"person moving so. <span>Model: <code>{config.name}</code></span></p></header>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=400):
                files = _files(page.turns.about.detects)
                with gr.Row():
                    button = partial(gr.Button, min_width=90)
                    look = button("Preview", elem_id="preview")
                    animate = button("Animate", variant="primary", elem_id="animate")
                    cancel = button("Cancel", variant="stop", elem_id="cancel", interactive=False)
                knobs = _knobs(page.configs, usual)
            with gr.Column(scale=6, min_width=420):
                status = gr.HTML(words.greeting(page.turns.about), elem_id="status")
                parts = [gr.HTML(elem_id=name) for name in ("forming", "result", "fit")]
        buttons = [look, animate, cancel]
        given, shown = [*files, *knobs], [*buttons, status, *parts]
        for button, act in ((look, _act(page, animate=False)), (animate, _act(page, animate=True))):
            button.click(
                act,
                given,
                shown,
                show_progress="hidden",
                concurrency_limit=None,
                preprocess=False,
                api_name=button.elem_id,
            )
        cancel.click(
            _cancel(page), None, [status], queue=False, show_progress="hidden", api_name="cancel"
        )
        speed, steps = knobs[:2]
        speed.change(
            lambda name: page.configs[name].sample.steps if name in page.configs else 1,
            speed,
            steps,
            show_progress="hidden",
            queue=False,
            api_name=False,
        )
        blocks.unload(lambda: None)  # so that pages hold a connection, which the guard watches
    return blocks


def _files(detects: bool) -> list[gr.File]:
    """The inputs, in the order of NAMES."""
    file = lambda label, name: gr.File(label=label, height=150, elem_id=name)
    with gr.Row():
        reference = file(words.PICTURE, "reference")
        driving = file(words.DRIVING, "driving")
    with gr.Row():
        pose = file(words.PICTURE_POSE, "reference_pose")
        poses = file(words.POSES, "poses")
    gr.HTML(words.about_keypoints(detects))
    files = [reference, driving, pose, poses]
    if example_files():
        button = gr.Button("Use the bundled figure and dance", size="sm", elem_id="example")
        values = [str(path) if path else None for path in EXAMPLE]
        button.click(
            lambda: values, None, files, show_progress="hidden", queue=False, api_name=False
        )
    return files


def _knobs(configs: dict[str, object], usual: Choice) -> list[gr.components.Component]:
    """The settings, in the order of Choice, and whether the picture is shown as it forms."""
    low, high = limits.RANGES["seed"]
    config = configs[usual.speed]
    with gr.Group():
        speed = gr.Radio(
            list(configs),
            value=usual.speed,
            label="Speed",
            elem_id="speed",
            info="fast and draft take less time and cost some quality",
        )
        steps = gr.Slider(
            1, controls.MOST_STEPS, usual.steps, step=1, label="Steps of denoising", elem_id="steps"
        )
        frames = gr.Slider(
            2,
            controls.MOST_FRAMES,
            usual.frames,
            step=1,
            label="Frames of the video at most",
            elem_id="frames",
        )
        fit = gr.Radio(
            controls.FITS,
            value=usual.fit,
            label="Alignment",
            elem_id="alignment",
            info="whose rule brings the motion to this body",
        )
        with gr.Row():
            size = gr.Dropdown(
                controls.sizes(config),
                value=usual.size,
                label="Size",
                elem_id="size",
                info=f"short side; {usual.size} is usual",
            )
            seed = gr.Number(
                usual.seed,
                label="Seed",
                precision=0,
                minimum=low,
                maximum=high,
                elem_id="seed",
                info="another seed, another video",
            )
        watched = gr.Checkbox(True, label="Show the picture as it forms", elem_id="watched")
    return [speed, steps, size, fit, frames, seed, watched]


def _act(page: Page, animate: bool):
    """What a click on Preview or Animate does."""

    def act(request: gr.Request, *values) -> Iterator[list]:
        try:
            session = _session(page, request)
            with session.taking:  # two buttons may be clicked before either is turned off
                if session.is_at_work:
                    raise ValueError("this page is at work already; cancel that first")
                turn = session.turn = page.turns.take(_order(page, session, values, animate))
        except (ValueError, OSError) as error:
            yield [*_buttons(at_work=False), words.error(str(error)), "", "", ""]
            return
        before = None
        for state in page.turns.watch(turn):
            yield _shown(state, before, session, animate)
            before = state

    return act


def _shown(state: State, before: State | None, session: Session, animate: bool) -> list:
    """The page in a state; what has not changed since the one before is left alone."""
    fresh = before is None
    fit = words.preview(state.prepared)
    formed, result = (
        words.forming(state),
        words.result(session.folder, state.files, session.turn.number),
    )
    skip = gr.skip()
    return [
        *_buttons(at_work=not state.has_ended),
        words.progress(state, animate=animate),
        formed if fresh or formed != words.forming(before) else skip,
        result if fresh or state.files != before.files else skip,
        fit if fresh or state.prepared is not before.prepared else skip,
    ]


def _buttons(at_work: bool) -> list:
    """Preview, Animate and Cancel while something goes on or not."""
    return [gr.update(interactive=not at_work)] * 2 + [gr.update(interactive=at_work)]


def _cancel(page: Page):
    """What a click on Cancel does."""

    def cancel(request: gr.Request) -> str:
        try:
            session = _session(page, request)
        except (ValueError, OSError) as error:
            return words.error(str(error))
        if not session.is_at_work:
            return gr.skip()
        page.turns.cancel(session.turn)
        return words.stopping()

    return cancel


def _session(page: Page, request: gr.Request) -> Session:
    """Whose page asks. Raises ValueError without a cookie."""
    visitor = guard.visitor_of(request.headers.get("cookie", ""))
    if not visitor or not request.session_hash:
        raise ValueError("this page needs cookies; allow them and reload it")
    return page.visitors.session(visitor, request.session_hash)


def _order(page: Page, session: Session, values: tuple, animate: bool) -> Order:
    """What is asked, as it came from the browser. Raises ValueError for what cannot be."""
    config = controls.config_of(page.configs, Choice(*values[len(NAMES) : -1]))
    sources = {name: _named(page, session, name, value) for name, value in zip(NAMES, values)}
    sources = Sources(**sources)
    return Order(session.folder, config, sources, animate, watched=bool(values[-1]))


def _named(page: Page, session: Session, name: str, value) -> Path | None:
    """An upload by its own name, in the session's folder: the path from there."""
    if value is None:
        return None
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not page.visitors.may_read(session.visitor, path):
        raise ValueError("this file is not here any more; upload it again")
    return page.visitors.lend(session, name, Path(path))
