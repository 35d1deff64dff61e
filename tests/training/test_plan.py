"""The dry run of training: its numbers against ones worked out by hand, and what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import svd
from dispose_jax import flops
from dispose_jax.models import networks
from dispose_jax.ops.attention import attention
from dispose_jax.synthetic.batches import DrawnBatches
from dispose_jax.training import plan, sharding
from dispose_jax.training.objectives import Objective
from tests import small
from tests.test_dry_run import numbers


def config(variant: str = "full", **train):
    made = small.config(variant)
    made.train.update(frames=3, batch=2, height=small.SIZE[0], width=small.SIZE[1])
    made.train.mesh.update(data=1)
    made.train.trainable = svd.get_config(f"size=tiny,variant={variant}").train.trainable
    made.train.update(train)
    return made


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def layers(remat: bool) -> Objective:
    """Two products with a sine between them, each wrapped or not."""
    wrap = jax.checkpoint if remat else lambda f: f

    def loss(params, batch, key):
        x = wrap(lambda w, x: jnp.sin(x @ w["frozen"] @ w["a"]))(params, batch)
        return wrap(lambda w, x: jnp.sin(x @ w["b"]))(params, x).sum(), {}

    return Objective(("a", "b", "frozen"), loss, None)


def trace(objective: Objective):
    learnt = {"a": struct(5, 7), "b": struct(7, 11)}
    return plan._trace(objective, learnt, {"frozen": struct(3, 5)}, struct(100, 3))


def test_useful_flops_are_those_of_a_gradient_that_keeps_everything():
    forward = 2 * 100 * (3 * 5 + 5 * 7 + 7 * 11)
    # Backward: both kernels that learn, and the way back to the first of them; no further.
    backward = 2 * 100 * (7 * 11 + 7 * 11 + 5 * 7)
    for remat in (False, True):
        jaxpr, _, _ = trace(layers(remat))
        work = flops.work(jaxpr)
        assert work.useful == forward + backward
        assert work.executed >= work.useful and (work.again > 0) == remat


def test_what_is_kept_are_the_inputs_of_blocks_that_are_computed_again():
    jaxpr, residuals, _ = trace(layers(remat=True))
    assert plan._kept(jaxpr, residuals) == 4 * 100 * 7  # the second block's input; the batch is not
    jaxpr, residuals, _ = trace(layers(remat=False))
    # Inputs of both kernels that learn, and both cosines.
    assert plan._kept(jaxpr, residuals) == 4 * 100 * (5 + 7 + 7 + 11)


def test_attention_counts_its_scores_again_whatever_the_kernel():
    q = struct(1, 4096, 1, 128, dtype=jnp.bfloat16)
    product = 2 * 4096 * 4096 * 128
    for name, again in (("explicit", 0), ("chunked", 1), ("tpu", 3)):
        call = lambda q, k, v, name=name: attention(q, k, v, implementation=name).sum()
        gradient = jax.make_jaxpr(jax.grad(call, argnums=(0, 1, 2)))(q, q, q).jaxpr
        work = flops.work(gradient)
        assert work.useful == 6 * product, name
        assert work.again == again * product, name


@pytest.fixture(scope="module")
def control():
    """The plan of a whole DisPose, in half precision where it computes so."""
    return plan.make(config(dtype="bfloat16", optimizer="adamw"))


@pytest.fixture(scope="module")
def base():
    return plan.make(unet())


def unet(**train):
    """A base model whose U-Net learns: quickly traced."""
    return config("base", trainable=("unet",), **train)


def test_parameters_and_their_bytes_are_those_of_the_networks(control):
    built = networks.build(config(), training=True)
    assert set(control.networks) == set(built)
    for name, held in control.networks.items():
        shapes = jax.tree.leaves(built[name].shapes)
        assert held.count == sum(int(np.prod(x.shape)) for x in shapes)
        learns = name in ("controlnet", "motion_encoder", "point_encoder")
        assert held.trainable == learns
        wide = learns or name in ("vae", "cmp", "dift_vae")  # pictures stay float32
        assert held.weights == (4 if wide else 2) * held.count, name
        assert held.copy == (2 * held.count if learns else 0)
        assert held.gradients == (4 * held.count if learns else 0)
        moments = held.optimizer - 8 * held.count if learns else held.optimizer
        assert 0 <= moments <= 16  # two moments per parameter, and counts of steps


def test_muon_keeps_one_moment_of_a_matrix_and_adamw_two(base):
    kernels = {True: 0, False: 0}
    unet = networks.build(config("base"), training=True)["unet"].shapes
    for path, leaf in jax.tree_util.tree_leaves_with_path(unet):
        layer, kind = [entry.key for entry in path][-2:]
        is_matrix = kind == "kernel" and layer not in ("conv_in", "conv_out")
        kernels[is_matrix] += int(np.prod(leaf.shape))
    spare = base.networks["unet"].optimizer - 4 * kernels[True] - 8 * kernels[False]
    assert kernels[True] > 5 * kernels[False] and 0 <= spare <= 32  # counts of steps


def test_an_average_takes_a_float32_of_every_parameter_that_learns(base):
    averaged = plan.make(unet(average=0.99)).networks["unet"]
    assert averaged.optimizer == base.networks["unet"].optimizer + 4 * averaged.count


def test_gradients_reach_what_learns_and_work_is_told_apart_by_network(control):
    forward = {module for module, phase in control.work if phase == "forward"}
    backward = {m for (m, phase), work in control.work.items() if phase == "backward"}
    assert backward - {""} == {"UNet", "ControlNet", "MotionEncoder", "PointEncoder"}
    assert {"VAE", "CMP", "DIFT", "PoseNet", "VisionTransformer"} <= forward
    # The frozen U-Net's way back stops where the residuals join: it costs less than the way there.
    frozen = control.work["UNet", "backward"].useful / control.work["UNet", "forward"].useful
    learnt = (
        control.work["ControlNet", "backward"].useful / control.work["ControlNet", "forward"].useful
    )
    assert frozen < 1 < learnt < 2.1


def test_more_clips_need_as_much_more_and_parameters_do_not_change(base):
    twice = plan.make(unet(batch=4))
    assert twice.networks == base.networks
    assert twice.batch == 2 * base.batch
    assert twice.step_work.useful == pytest.approx(2 * base.step_work.useful, rel=0.01)
    assert twice.kept == pytest.approx(2 * base.kept, rel=0.1)
    assert base.most < twice.most < 2.02 * base.most


@pytest.mark.full
def test_turns_share_a_batch_and_add_gradients(base):
    turns = plan.make(unet(batch=4, accumulate=2))
    assert (turns.clips, turns.kept, turns.most) == (base.clips, base.kept, base.most)
    assert turns.step_work.useful == 2 * base.step_work.useful
    assert turns.static == base.static + base.gradients


def test_remat_keeps_less_and_changes_no_useful_work(base):
    layer = plan.make(unet(remat="layer"))
    assert layer.kept < base.kept / 2 and layer.total < base.total
    assert layer.step_work.useful == base.step_work.useful
    assert layer.step_work.again > base.step_work.again


def test_devices_that_are_not_here_share_clips_and_parameters(base):
    made = unet(batch=32)
    made.train.mesh.update(data=8, fsdp=2, smallest=0.0)  # 16, and here are 8
    spread = plan.make(made)
    assert spread.mesh == (8, 2, 1) and spread.clips == 2 and spread.kept == base.kept
    assert 0.5 <= spread.networks["unet"].weights / base.networks["unet"].weights < 0.6
    assert spread.step_work.useful == 16 * base.step_work.useful


@pytest.mark.full
@pytest.mark.parametrize("stage", ["dispose", "cmp"])
def test_shapes_of_a_batch_are_those_of_what_is_drawn(stage):
    made = svd.get_config(f"size=tiny,stage={stage}")
    made.train.batch, made.train.frames = 2, 3
    drawn = next(DrawnBatches(made))
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), drawn)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), plan.batch_shapes(made, 2))
    assert shapes == expected


def test_the_report_adds_up_and_the_compiler_has_its_say(monkeypatch):
    def loss(params, batch, key):  # reads all there is, and compiles at once
        total = lambda tree: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(tree))
        return total(params) * total(batch) * jax.random.uniform(key), {}

    toy = Objective(("pose_encoder",), loss, None)
    monkeypatch.setattr(plan.objectives, "build", lambda *_: toy)
    made = config("base", trainable=("pose_encoder",), batch=8)
    made.train.mesh.update(data=8)
    text = plan.report(made, compiled=True)
    parts = ("weights", "optimizer", "batch", "intermediate results, at most")
    total = sum(numbers(text, part) for part in parts)
    assert numbers(text, "in all, at most") == pytest.approx(total, rel=0.01)
    assert "8 devices: data 8, fsdp 1, frames 1; each works on 1 clip" in text
    held = plan.make(made)
    assert numbers(text, "arguments") == pytest.approx(held.static + held.batch, rel=0.02)


def test_a_plan_of_what_cannot_run_is_refused():
    with pytest.raises(ValueError, match="choose a multiple of 3"):
        made = config(batch=4)
        made.train.mesh.update(data=3)
        plan.make(made)
    with pytest.raises(ValueError, match="stage=base, or choose another variant"):
        plan.make(config("base"))
    with pytest.raises(ValueError, match="not a multiple of train.mesh.frames, 2"):
        sharding.check_shares(config(), (1, 1, 2))


def test_a_picture_of_the_progress_is_counted_beside_the_state():
    made = unet(frames=8)
    made.sample.update({"decode_chunk": 1, "guidance_scale": 1.0})
    short = plan.of_picture(made)
    made.sample.decode_chunk = 8
    text = plan.report(made)
    state = numbers(text, "weights") + numbers(text, "optimizer")
    found = numbers(text, "a picture of the progress") - state
    # Of decoding, which decides here: a map of the picture's size and its activation, in float32.
    widest = 4 * made.train.height * made.train.width * made.model.vae.widths[0]
    assert found > 1.5 * short and found >= 2 * 8 * widest
    made.train.sample_every = 0
    assert plan.of_picture(made) is None
