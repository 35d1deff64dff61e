"""The library call: one program for clips of any length, memory that does not grow with the clip,
and a sentence for what cannot be animated."""

import copy
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import dispose_jax
from dispose_jax import animator as animator_module
from dispose_jax import decoding, memory
from dispose_jax.animator import STAGES, Animator
from dispose_jax.clip import Skeletons, padding
from dispose_jax.conditions import Conditioner
from dispose_jax.models.protocol import generated
from dispose_jax.pose import estimate
from dispose_jax.pose.files import PoseFile
from tests import small

COMPILED = "/jax/core/compile/backend_compile_duration"


def config(variant="full", base="svd"):
    made = small.config(variant, guidance=2.0, base=base)
    made.sample.update(resolution=64, height=64, width=64, stride=1, window=4, overlap=2, steps=2)
    made.motion.update(kernel=9, sigma=1.5, cmp_size=64, chunk=4)
    made.sample.decode_chunk = 4
    return made


def person(num_frames, seed=0):
    return small.pose(num_frames, seed)


REFERENCE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def animator():
    """All of DisPose on one device, with random weights."""
    return Animator.load("random", config=config(), devices=jax.devices()[:1])


def prepare(animator, num_frames):
    """A clip of so many driving frames."""
    poses = PoseFile(person(num_frames, seed=1), 64, 64)
    return animator.prepare(REFERENCE, reference_pose=person(1), poses=poses, fps=15)


@pytest.fixture(scope="module")
def first(animator):
    """Frames of a first clip, two windows long, and what was told meanwhile."""
    told, seen, clip = [], [], prepare(animator, 5)
    parts = list(
        animator(
            clip,
            progress=lambda *report: told.append(report),
            preview=lambda step, picture: seen.append((step, picture)),
        )
    )
    return SimpleNamespace(
        animator=animator, clip=clip, frames=np.concatenate(parts), told=told, seen=seen
    )


def test_arrays_go_in_and_frames_come_out(first):
    assert first.frames.shape == (5, 64, 64, 3) and first.frames.dtype == np.uint8
    assert first.frames.std() > 1


def test_every_stage_tells_how_far_it_is(first):
    ends = {}
    for stage, done, total in first.told:
        assert done <= total and done >= ends.get(stage, (0, 0))[0]
        ends[stage] = done, total
    assert tuple(ends) == STAGES, "in this order"
    assert all(done == total for done, total in ends.values())


def test_a_preview_shows_some_frames_after_every_step(first):
    assert [step for step, _ in first.seen] == [0, 1]
    assert all(picture.shape == (64, 4 * 64, 3) for _, picture in first.seen)
    # After the last step nothing is left of the noise: each is a frame, decoded alone.
    latents = np.asarray(first.animator.latents(first.clip))[0, [1, 2, 4, 5]]
    params = first.animator.weights.load(["vae"])
    alone = decoding.decode_pictures(first.animator.model, params, latents, jax.devices()[0])
    np.testing.assert_array_equal(first.seen[-1][1], np.concatenate(alone, axis=1))


def test_a_clip_of_another_length_compiles_nothing(animator, first):
    compiled = Counter()
    count = lambda name, *_, **about: compiled.update([name])
    jax.monitoring.register_event_duration_secs_listener(count)
    frames = np.concatenate(list(animator(prepare(animator, 11))))
    list(animator(prepare(animator, 5)))
    jax.monitoring.unregister_event_duration_listener(count)
    assert len(frames) == 11
    # A chunk that is left over is decoded alone, as released: that program is its own.
    assert compiled[COMPILED] <= 1, compiled


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_nothing_on_the_devices_grows_with_the_clip(base):
    animator = Animator.load("random", config=config(base=base), devices=jax.devices()[:1])
    largest = {}
    for num_frames in (16, 200):
        sizes = Counter()

        def look(stage, *_, sizes=sizes):
            alive = [x.nbytes for x in jax.live_arrays() if not x.is_deleted()]
            arrays = [nbytes for nbytes in alive if nbytes > 100]  # not keys, which come and go
            sizes[stage] = max([sizes[stage], *arrays])

        frames = sum(len(part) for part in animator(prepare(animator, num_frames), progress=look))
        assert frames == num_frames
        largest[num_frames] = dict(sizes)
    assert largest[16].keys() == set(STAGES)
    assert largest[16] == largest[200]


def test_the_seed_of_a_call_replaces_the_config_s(animator, first):
    clip = prepare(animator, 5)
    again = np.concatenate(list(animator(clip, seed=animator.config.seed)))
    np.testing.assert_array_equal(again, first.frames)
    other = np.concatenate(list(animator(clip, seed=7)))
    assert (other != first.frames).any()


@pytest.mark.parametrize("where", ["progress", "preview"])
def test_what_a_callback_raises_ends_this_clip_alone(animator, first, where):
    clip = prepare(animator, 5)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(animator(clip, **{where: stop}))
    np.testing.assert_array_equal(np.concatenate(list(animator(clip))), first.frames)


def test_a_clip_is_animated_by_the_animator_that_prepared_it(animator):
    other = config()
    other.skeleton.style = "musepose"
    foreign = Animator.load("random", config=other, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="skeletons of another config.*prepare it with this"):
        next(animator(prepare(foreign, 5)))


def test_the_second_base_serves_other_configs_too():
    made = Animator.load("random", config=config(base="sd15"))
    other = config(base="sd15")
    other.sample.update(steps=1, solver="heun")
    assert made.under(other).sampler.steps == 1


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_padded_windows_end_with_the_clip(base):
    made = config(base=base)
    made.sample.window_pad = True
    animator = Animator.load("random", config=made)
    for num_frames in range(2, 9):
        needed = generated(animator.model, num_frames + 1)
        count = needed + padding(made.sample, needed)
        assert count == needed + needed % 2  # windows of four, two apart
        rows = animator.model.windows(count, 4, 2).frames
        assert len(rows) == max(1, (count - 2) // 2) and rows[-1][-1] == count - 1


def test_frames_that_nobody_gets_are_told_apart_in_sampling(monkeypatch):
    made = config(base="sd15")
    made.sample.window_pad = True
    animator, seen = Animator.load("random", config=made), {}

    def sample(_model, _params, _conditioning, noise, _sampler, *, spare, **_):
        seen.update(frames=noise.shape[1], spare=spare)
        return noise

    monkeypatch.setattr(animator_module.ahead, "start", lambda *_: None)
    monkeypatch.setattr(animator_module.sampling, "sample", sample)
    monkeypatch.setattr(Conditioner, "conditions", lambda *_: None)
    monkeypatch.setattr(animator, "_load", lambda *_: None)
    assert animator.latents(prepare(animator, 5)).shape[1] == 5
    assert seen == {"frames": 6, "spare": 1}


def test_latents_of_another_clip_are_not_decoded(animator):
    clip, count = prepare(animator, 5), 6  # the reference among them
    for shape in [(1, count - 1, 8, 8, 4), (1, count, 8, 16, 4), (count, 8, 8, 4)]:
        with pytest.raises(ValueError, match="are not this clip's; expected .1, 6, 8, 8, 4"):
            next(animator.decode(clip, np.zeros(shape, np.float32)))


@pytest.fixture
def watched(monkeypatch):
    """watched(animator, clean, preview): a clip of five frames whose latents without noise, after
    its only step, are these."""

    def run(animator, clean, preview):
        def sample(_model, _params, _conditioning, noise, _sampler, *, watch, **_):
            watch(0, noise, clean)
            return noise

        monkeypatch.setattr(animator_module.ahead, "start", lambda *_: None)
        monkeypatch.setattr(Conditioner, "conditions", lambda *_: None)
        monkeypatch.setattr(animator_module.sampling, "sample", sample)
        animator.latents(prepare(animator, 5), preview=preview)

    return run


def test_a_preview_shows_frames_of_the_video_alone(animator, watched, monkeypatch):
    """Not the reference, which is the first of the six that are made."""
    shown = []
    monkeypatch.setattr(animator_module.decoding, "decode_pictures", lambda m, p, x, d: [*x])
    clean = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1, 1), (1, 6, 2, 1, 3))
    watched(animator, clean, lambda step, picture: shown.append(picture[0, :, 0]))
    assert animator.model.generates_reference and shown[0].tolist() == [1, 2, 4, 5]


def test_a_preview_is_decoded_on_one_of_the_animator_s_own_devices(animator, watched, monkeypatch):
    own, where = jax.devices()[2:4], []
    other = copy.copy(animator)
    other.devices = own

    def decode(model, params, latents, device):
        held = set.union(*(x.devices() for x in jax.tree.leaves(params)))
        where.append((held, device))
        return [*latents]

    monkeypatch.setattr(animator_module.decoding, "decode_pictures", decode)
    watched(other, np.zeros((1, 6, 2, 1, 3)), lambda *_: None)
    assert where == [({own[0]}, own[0])]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_seed_that_others_stand_for_too_is_refused(animator, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}: expected 0 to 4294967295"):
        animator.latents(prepare(animator, 2), seed=seed)


def test_conditions_that_do_not_fit_name_what_they_are_made_by(animator, monkeypatch):
    def without_room(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    clip = prepare(animator, 2)
    monkeypatch.setattr(animator_module.ahead, "start", lambda *_: None)
    monkeypatch.setattr(animator_module.sampling, "condition_reference", without_room)
    monkeypatch.setattr(animator_module.control_signals, "picture_features", without_room)
    helps = r"lower --config.motion.chunk \(now 4\) or --config.dift.chunk \(now 2\), or choose a"
    with pytest.raises(memory.OutOfMemory, match=f"out of memory while conditioning: {helps}"):
        animator.latents(clip)
    with pytest.raises(memory.OutOfMemory, match=f"while making control signals: {helps}"):
        next(animator.fields(clip))


def test_another_config_keeps_weights_and_programs(animator, first):
    other = config()
    other.sample.update(steps=1, solver="heun")
    other.skeleton.fit, other.seed = "musepose", 7
    made = animator.under(other)
    assert made.weights is animator.weights and made.networks is animator.networks
    assert np.concatenate(list(made(prepare(made, 5)))).shape == first.frames.shape
    np.testing.assert_array_equal(np.concatenate(list(animator(first.clip))), first.frames)


def test_keypoints_that_were_found_serve_later_clips_of_other_configs_too(monkeypatch):
    looked, animator = [], Animator.load("random", config=config())
    monkeypatch.setattr(estimate, "open_models", lambda folder: None)
    monkeypatch.setattr(
        estimate, "estimate", lambda *_, num_frames, **__: looked.append(0) or person(num_frames)
    )
    monkeypatch.setattr(type(animator.weights), "pose_folder", "dwpose")
    other = config()
    other.sample.steps = 3
    for one in (animator, animator, animator.under(other)):
        one.prepare(REFERENCE, poses=PoseFile(person(5), 64, 64))
    assert looked == [0]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"dift": {}}),
        ("quirks", {"missing_joints": "drop"}),
        ("motion", {"sigma": 2.0}),
        ("sample", {"dtype": "bfloat16"}),
        ("sample", {"guidance_scale": 1.0}),
    ],
)
def test_what_networks_are_built_with_cannot_be_changed(animator, section, values):
    other = config()
    other[section].update(values) if section != "model" else other.model.dift.update(layers=2)
    with pytest.raises(ValueError, match="differs from what this animator was made with"):
        animator.under(other)


def test_windows_are_checked_when_a_clip_is_prepared(animator):
    poses = PoseFile(person(9), 64, 64)
    gaps = config()
    gaps.sample.overlap = 0
    with pytest.raises(ValueError, match="sample.overlap is 0"):
        Animator.load("random", config=gaps).prepare(
            REFERENCE, reference_pose=person(1), poses=poses
        )


WRONG = {
    "poses of another video": (
        {"driving": np.stack([REFERENCE] * 4)},
        "the poses given: 5 entries, but the driving video given has 4 frames",
    ),
    "two frames of a reference": (
        {"reference_pose": person(2)},
        "the reference_pose given: 2 frames, expected one",
    ),
    "nothing to animate by": ({"poses": None}, "nothing to animate by"),
    "nobody to find keypoints": ({"reference_pose": None}, "the reference given: its keypoints"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_animated_is_told_in_a_sentence(animator, case):
    given = {
        "reference": REFERENCE,
        "reference_pose": person(1),
        "poses": PoseFile(person(5), 64, 64),
    }
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        animator.prepare(**given | changes)


def test_networks_without_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        Animator.load(tmp_path / "absent", config=config())


def test_a_config_is_a_file_with_its_argument_too():
    animator = Animator.load("random", config="configs/svd.py:size=tiny,variant=base")
    assert animator.config.base == "svd" and not animator.controlled


def test_skeletons_are_drawn_when_they_are_asked_for(animator):
    skeletons = prepare(animator, 5).skeletons
    assert isinstance(skeletons, Skeletons) and len(skeletons) == 6
    whole = skeletons[:]
    assert whole.shape == (6, 64, 64, 3) and whole.std() > 0
    np.testing.assert_array_equal(skeletons[2], whole[2])
    rows = np.array([[0, 1], [5, 5]])
    np.testing.assert_array_equal(skeletons[rows], whole[rows])


def test_the_rate_of_the_result_is_that_of_the_poses_over_the_stride(animator):
    clip = prepare(animator, 5)
    assert clip.fps == Fraction(15) and clip.num_frames == 5
    for rate in (np.float32(15), np.int64(15), Fraction(15)):
        again = animator.prepare(
            REFERENCE, reference_pose=person(1), poses=PoseFile(person(5), 64, 64), fps=rate
        )
        assert again.fps == Fraction(15) and type(again.fps.numerator) is int


@pytest.mark.filterwarnings("error")  # of NumPy, which cannot turn them into pixels
def test_what_stands_in_place_of_an_absent_point_changes_nothing(animator):
    def poses(num_frames, filler):
        pose, found = person(num_frames, seed=3), {}
        for part in ("body", "hands", "face"):
            score = getattr(pose, f"{part}_score").copy()
            score[..., 3:6] = 0  # on the left and on the right of a limb
            found[f"{part}_score"] = score
            found[part] = np.where(score[..., None] > 0, getattr(pose, part), filler)
        return pose.replace(**found)

    def clip(filler):
        given = {"reference_pose": poses(1, filler), "poses": PoseFile(poses(5, filler), 64, 64)}
        return animator.prepare(REFERENCE, **given, fps=15)

    ours, expected = clip(np.nan), clip(0.0)
    jax.tree.map(np.testing.assert_array_equal, ours.pose, expected.pose)
    np.testing.assert_array_equal(ours.skeletons[np.arange(6)], expected.skeletons[np.arange(6)])
    assert ours.skeletons[np.arange(1, 6)].any()


def test_importing_the_package_loads_no_library_and_no_device():
    code = (
        "import sys, dispose_jax; "
        "heavy = {'jax', 'cv2', 'av', 'flax', 'PIL', 'scipy'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'Animator' in dispose_jax.__all__; dispose_jax.Animator"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert dispose_jax.Animator is Animator
    with pytest.raises(AttributeError, match="no attribute 'Anime'"):
        _ = dispose_jax.Anime
