"""MusePose's networks against the original modules: pose guider, motion modules, the two U-Nets."""

from functools import cache, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import mapping, rules
from dispose_jax.models.musepose import merged
from dispose_jax.networks import temporal
from dispose_jax.networks.attention import reference_tokens, reference_variables
from dispose_jax.networks.pose_encoder import PoseGuider
from dispose_jax.networks.temporal import MotionModule, MotionSizes
from dispose_jax.networks.unet import Flavour, UNet
from dispose_jax.types import Joining, Residuals
from tests import blockwise
from tests.parity.cases import assert_close, convert, load_case, weights


def channels_last(x):
    """(b, c, ...) -> (b, ..., c)."""
    return np.moveaxis(x, 1, -1)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def test_pose_guider_equals_the_original():
    case = load_case("musepose_pose_guider.tiny")
    config = case.config
    skeletons = channels_last(case.inputs["conditioning"])
    guider = PoseGuider(
        config["conditioning_embedding_channels"], tuple(config["block_out_channels"])
    )
    params = convert(weights(case), rules.PLAIN, guider, skeletons)
    ours = guider.apply({"params": params}, skeletons)
    assert_close(case, "embedding", channels_first(ours), case.about["tolerance"]["value"])


def motion_sizes(config):
    return MotionSizes(
        heads=config["num_attention_heads"],
        positions=config["temporal_position_encoding_max_len"],
    )


def test_motion_modules_and_their_position_code_equal_the_original():
    case = load_case("musepose_motion_module.tiny")
    tolerance = case.about["tolerance"]["value"]
    sizes = motion_sizes(case.config["motion_module_kwargs"])
    for name, path in case.config["modules"].items():
        x = channels_last(case.inputs[name])
        module = MotionModule(*sizes)
        prefix = f"{path}.temporal_transformer."
        params = convert(weights(case), rules.PLAIN, module, x, prefix=prefix)
        ours = np.asarray(blockwise.apply(module, {"params": params}, x))
        assert_close(case, name, channels_first(ours), tolerance)
        assert_close(case, f"delta_{name}", channels_first(ours - x), tolerance)
    positions, channels = case.outputs["pe"].shape
    code = temporal.position_code(positions, channels)
    assert_close(case, "pe", code[0], tolerance)


@cache
def shapes_of(unet, width):
    """Parameter shapes of a U-Net for a context of some width."""
    inputs = jnp.zeros((1, 1, 8, 8, unet.out_channels)), jnp.zeros(1), jnp.zeros((1, 1, width))
    return jax.eval_shape(unet.init, jax.random.key(0), *inputs)["params"]


class Pair:
    """A case's reference U-Net and denoiser with their weights, and the runs of its outputs.

    All runs are of two rows for each of the case's clips, so that they share their programs.
    """

    def __init__(self, name):
        self.case = case = load_case(name)
        sizes, more = case.config["unet"], case.config["additional"]
        fields = {
            "channels": tuple(sizes["block_out_channels"]),
            "heads": (sizes["attention_head_dim"],) * len(sizes["block_out_channels"]),
            "layers": sizes["layers_per_block"],
            "out_channels": sizes["out_channels"],
        }
        groups = sizes["norm_num_groups"]
        motion = motion_sizes(more["motion_module_kwargs"])
        self.reference = UNet(flavour=Flavour(groups=groups), head=False, **fields)
        self.denoiser = UNet(flavour=Flavour("motion_module", groups, motion=motion), **fields)
        self.latents = channels_last(case.inputs["latents"])
        self.pose = channels_last(case.inputs["pose_features"])
        self.context = case.inputs["context"]
        denoiser, reference = case.about["manifest"]
        spellings = rules.UNET_PICTURE, rules.MOTION_MODULES  # two networks of a bundle
        self.params = self._converted(self.denoiser, weights(case, denoiser), *spellings)
        tensors = weights(case, reference)
        self.reference_params = self._converted(self.reference, tensors, rules.UNET_PICTURE)

    def _converted(self, module, tensors, *spellings):
        """Parameters from exactly these tensors: the picture model's, then the motion modules'."""
        parts = temporal.split_motion(shapes_of(module, self.context.shape[-1]))
        maps = [mapping.derive(part, *spelling) for part, spelling in zip(parts, spellings)]
        expected = {e.key: e.shape for entries in maps for e in entries.values()}
        mapping.accounting(expected, tensors, self.case.name)
        return reduce(merged, (mapping.to_flax(entries, tensors) for entries in maps))

    def write(self):
        """(last hidden map, tokens) of the reference pass."""
        clips, frames = self.latents.shape[:2]
        x = channels_last(self.case.inputs["ref_latents"])[:, None]
        x = np.tile(x, (2, frames, 1, 1, 1))  # frames are pictures here: the denoiser's programs do
        hidden, written = blockwise.apply(
            self.reference,
            {"params": self.reference_params},
            x,
            np.zeros(len(x), np.float32),
            np.concatenate([self.context] * 2),
            writes="reference",
        )
        of_one_frame = lambda leaf: leaf[:clips, : leaf.shape[1] // frames]
        tokens = reference_tokens(written["reference"])
        return hidden[:clips, 0], jax.tree.map(of_one_frame, tokens)

    def run(self, context, pose, *, tokens=None, read=(), residuals=None):
        """The denoiser on the case's latents twice: the two halves of its output, (b, c, f, h, w).

        context, pose, read: one for each half; tokens: those of the reference, if any.
        """
        x = np.concatenate([self.latents] * 2)
        t = np.broadcast_to(self.case.inputs["timestep"], (len(x),)).astype(np.float32)
        variables = {"params": self.params}
        if tokens is not None:
            twice = jax.tree.map(lambda leaf: np.concatenate([leaf] * 2), tokens)
            rows = np.repeat(read, len(self.latents))
            variables["reference"] = reference_variables(twice, rows)
        out = blockwise.apply(
            self.denoiser,
            variables,
            x,
            t,
            np.concatenate(context),
            joining=Joining(np.concatenate(pose), residuals=residuals),
        )
        return np.split(channels_first(out), 2)

    def guided(self, tokens, residuals=None):
        """Both halves of guidance as one array: without context and reference, with them."""
        nothing = np.zeros_like(self.context)
        halves = self.run(
            (nothing, self.context),
            (self.pose, self.pose),
            tokens=tokens,
            read=(False, True),
            residuals=residuals,
        )
        return np.concatenate(halves)

    def residuals(self):
        """The case's residuals: (2 b f, c, h, w), frames fastest -> (2 b, f, h, w, c)."""
        inputs = self.case.inputs
        unflat = lambda x: channels_last(x).reshape(
            2 * len(self.latents), -1, *x.shape[2:], x.shape[1]
        )
        count = sum(name.startswith("down_residual.") for name in inputs)
        skips = tuple(unflat(inputs[f"down_residual.{i}"]) for i in range(count))
        return Residuals(skips, unflat(inputs["mid_residual"]))


@cache
def pair(name):
    return Pair(name)


@cache
def written(name):
    return pair(name).write()


SIZES = pytest.mark.parametrize("name", ["musepose_full.tiny", "musepose_full_oddsize.tiny"])


@SIZES
def test_reference_unet_writes_the_original_tokens(name):
    case = pair(name).case
    tolerance = case.about["tolerance"]["value"]
    hidden, tokens = written(name)
    assert_close(case, "reference_sample", channels_first(hidden), tolerance)
    banks = {
        mapping.spell(path).removeprefix("encoder.").removesuffix(".tokens"): leaf
        for path, leaf in mapping.flatten(tokens).items()
    }
    expected = {k.removeprefix("bank.") for k in case.outputs if k.startswith("bank.")}
    assert banks.keys() == expected
    for path, leaf in banks.items():
        assert_close(case, f"bank.{path}", leaf, tolerance)


@SIZES
def test_denoiser_without_a_reference_equals_the_original(name):
    it = pair(name)
    several = it.case.inputs["context_multi"]
    nothing = np.zeros_like(it.pose)
    multi, _ = it.run((several, several), (it.pose, nothing))
    assert_close(it.case, "multi_token", multi, it.case.about["tolerance"]["value"])


@SIZES
def test_denoiser_rows_that_read_no_reference_equal_the_original_without_one(name):
    it = pair(name)
    tolerance = it.case.about["tolerance"]["value"]
    _, tokens = written(name)
    poses = it.pose, np.zeros_like(it.pose)
    plain, no_pose = it.run((it.context, it.context), poses, tokens=tokens, read=(False, False))
    assert_close(it.case, "plain", plain, tolerance)
    assert_close(it.case, "no_pose", no_pose, tolerance)


@SIZES
def test_denoiser_that_reads_the_reference_equals_the_original(name):
    it = pair(name)
    tolerance = it.case.about["tolerance"]["value"]
    _, tokens = written(name)
    assert_close(it.case, "cfg", it.guided(tokens), tolerance)
    assert_close(it.case, "cfg_residuals", it.guided(tokens, it.residuals()), tolerance)
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), tokens)
    loose = it.case.about["tolerance"]["half_bank_outputs"]
    assert_close(it.case, "cfg_half_bank", it.guided(half), loose)
    # Without guidance every row reads.
    alike = (it.context, it.context), (it.pose, it.pose)
    conditional, _ = it.run(*alike, tokens=tokens, read=(True, True))
    assert_close(it.case, "cond_only", conditional, tolerance)
