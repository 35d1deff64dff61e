"""What is compared: how arms are named, what they need, and what their controls are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from dispose_jax.evaluation.ablation import variants
from dispose_jax.models import bundle, networks
from dispose_jax.weights import RANDOM, Weights
from tests import small
from tests.evaluation.ablation.conftest import config

VARIANTS = common.CONTROL


def test_arms_are_variants_with_or_without_a_bundle_and_repeat_as_seeds():
    found = variants.parse(["base", "full=a/b", "no_motion=x,no_motion=y"], VARIANTS)
    assert found == [("base", None), ("full", "a/b"), ("no_motion", "x"), ("no_motion", "y")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--arms is missing: name what to compare"),
        (["ful"], "'ful' is no variant; expected VARIANT or VARIANT=BUNDLE, a variant being one"),
        (["full="], "no folder after 'full='; name a bundle"),
        (["full=a,"], "'' is no variant"),
        (["base", "base"], "'base' comes twice; a second seed needs a bundle of its own"),
    ],
)
def test_other_arms_are_one_sentence(texts, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        variants.parse(texts, VARIANTS)


def test_a_missing_network_names_the_stage_that_makes_it(tmp_path):
    made = small.build("base")
    about = bundle.ModelDescription(
        "svd", made.config.model, made.config.quirks, "configs/svd.py:size=tiny"
    )
    some = {name: made.params[name] for name in ("vae", "unet")}
    bundle.write(tmp_path / "b", some, about, dict.fromkeys(some, bundle.Origin("a test", "none")))
    expected = (
        r"arm no_motion: its bundles \(.*b\) lack networks: stage=vae makes dift_vae; "
        "stage=image makes dift_unet, dift_text_encoder; stage=base makes pose_encoder, "
        r"image_encoder; stage=dispose makes controlnet, point_encoder \(docs/training.md"
    )
    with pytest.raises(ValueError, match=expected):
        variants.Arm("no_motion", config("no_motion"), (str(tmp_path / "b"),))


@pytest.fixture
def arm(tmp_path):
    """arm(variant, folder, *names, factor=1) -> the arm and the folder, a bundle of these networks
    times a factor; all others are random."""

    def make(variant, folder, *names, factor=1):
        made = small.build("full")
        about = bundle.ModelDescription("svd", made.config.model, made.config.quirks, "a test")
        some = {name: jax.tree.map(lambda x: factor * x, made.params[name]) for name in names}
        origins = dict.fromkeys(some, bundle.Origin("a test", "none"))
        bundle.write(tmp_path / folder, some, about, origins)
        path = str(tmp_path / folder)
        return variants.Arm(variant, config(variant), ("random", path)), path

    return make


LEARNT = ("controlnet", "motion_encoder", "point_encoder")


def test_the_bundle_of_another_variant_is_no_arm(arm):
    variants.check_bundles(*zip(arm("full", "a", *LEARNT), arm("base", "b", "unet", *LEARNT)))
    for variant, names, found in (
        ("no_motion", LEARNT, "as it holds motion_encoder; name one"),
        ("base", LEARNT, "as it holds controlnet, motion_encoder, point_encoder; name one"),
    ):
        with pytest.raises(ValueError, match=f"--arms {variant}=.*: .*{found}"):
            variants.check_bundles(*zip(arm(variant, variant, *names)))


def test_one_training_is_no_two_seeds(arm):
    one, same = arm("full", "one", *LEARNT), arm("full", "same", *LEARNT)
    variants.check_bundles(*zip(one, arm("full", "other", *LEARNT, factor=2)))
    with pytest.raises(ValueError, match="full=.*one and full=.*same have the same weights"):
        variants.check_bundles(*zip(one, same))


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_every_network_of_every_variant_comes_from_a_stage(base):
    known = {name for names in variants.STAGES.values() for name in names}
    for variant in VARIANTS:
        assert {*networks.build(small.config(variant, base=base))} <= known


@pytest.mark.parametrize(("base", "more"), [("svd", 0), ("sd15", 1)])
def test_a_clip_is_what_one_window_generates(base, more):
    made = small.config("base", base=base)
    assert variants.Arm("base", made, (RANDOM,)).frames == made.sample.window + more


def test_parameters_are_counted_and_the_base_adds_none():
    full, base = (variants.Arm(name, config(name), (RANDOM,)) for name in ("full", "base"))
    unet = jax.tree.leaves(small.build("base").params["unet"])
    assert base.added == 0 and base.parameters["unet"] == sum(leaf.size for leaf in unet)
    assert full.added == sum(full.parameters[name] for name in variants.STAGES["dispose"])


def test_shuffled_features_all_move_to_another_joint():
    signals = small.signals(3).replace(
        point_features=jnp.arange(18.0)[None, :, None] * jnp.ones((1, 18, 4))
    )
    for seed in range(5):
        moved = variants.shuffle(signals, np.random.default_rng(seed)).point_features[0, :, 0]
        assert sorted(moved.tolist()) == list(range(18))
        assert (np.asarray(moved) != np.arange(18)).all()


@pytest.fixture
def noted(monkeypatch):
    """(clip, signals, clip number) of every sample that an arm asks its model for."""
    calls = []
    monkeypatch.setattr(Weights, "load", lambda self, names: {})
    monkeypatch.setattr(
        variants.control_signals,
        "for_sampling",
        lambda *given: small.signals(4, seed=int(given[2].sum())),
    )
    monkeypatch.setattr(variants.Arm, "_frames", lambda self, _, *given: calls.append(given))
    return calls


def test_controls_of_the_full_model_replace_one_signal_each(noted, sets):
    clips = sets["same"]
    arm = variants.Arm("full", config("full"), (RANDOM,))
    rows = [(row, i) for row, i, _ in arm.sample(clips)]
    names = ("full", variants.SHUFFLED, variants.OTHER_FLOW)
    assert rows == [(name, i) for i in range(len(clips)) for name in names]
    assert [call[2] for call in noted] == [i for _, i in rows], "the noise is the clip's"
    own = {i: signals for (row, _), (_, signals, i) in zip(rows, noted) if row == "full"}
    for (row, i), (clip, signals, _) in zip(rows, noted):
        other = own[(i + 1) % len(clips)]
        assert clip is clips[i]
        same_points = np.array_equal(signals.point_features, own[i].point_features)
        assert same_points == (row != variants.SHUFFLED)
        flows = other if row == variants.OTHER_FLOW else own[i]
        np.testing.assert_array_equal(signals.sparse_flow, flows.sparse_flow)
        np.testing.assert_array_equal(signals.dense_flow, flows.dense_flow)
        np.testing.assert_array_equal(signals.cells, own[i].cells)


def test_controls_of_the_base_take_another_clips_skeletons_or_reference(noted, sets):
    clips = sets["cross"]
    arm = variants.Arm("base", config("base"), (RANDOM,))
    rows = [(row, i) for row, i, _ in arm.sample(clips)]
    for (row, i), (clip, signals, _) in zip(rows, noted):
        other = clips[(i + 1) % len(clips)]
        assert signals is None
        assert clip.skeletons is (other if row == variants.OTHER_POSES else clips[i]).skeletons
        assert clip.reference is (other if row == variants.OTHER_REFERENCE else clips[i]).reference
