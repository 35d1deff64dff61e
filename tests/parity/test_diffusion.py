"""Noise schedule, windows, blending and guidance against the original pipeline."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import sampling
from dispose_jax.diffusion import guidance, prediction, schedules, windows
from dispose_jax.diffusion.samplers import Ddim, Euler
from dispose_jax.types import Conditioning
from tests.parity.cases import assert_close, load_case, record


def channels_last(x):
    return np.moveaxis(x, -3, -1)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def test_euler_steps_equal_the_original_scheduler():
    """Tolerances are those of the case's sentence."""
    case = load_case("sampling_scheduler")
    settings = case.config["scheduler"]
    schedule = Euler(sigma_min=settings["sigma_min"], sigma_max=settings["sigma_max"])
    for steps in case.config["steps"]:
        levels = schedule.levels(steps)
        sigmas = case.outputs[f"sigmas_{steps}"]
        np.testing.assert_allclose(levels[:, 0], sigmas[:-1], rtol=1e-6)
        np.testing.assert_allclose(levels[:, 1], sigmas[1:], rtol=1e-6)
        times = schedule.time(jnp.asarray(levels[:, 0]))
        assert_close(case, f"timesteps_{steps}", times, 1e-6, relative=False)
        factor = schedule.start(np.ones(1, np.float32), levels)
        np.testing.assert_allclose(factor, case.outputs[f"init_noise_sigma_{steps}"], rtol=1e-6)

        x = schedule.start(channels_last(case.inputs[f"noise_{steps}"]), levels)
        outputs = channels_last(case.inputs[f"model_output_{steps}"])
        seen, latents = [], []
        for (level, lower), output in zip(levels, outputs, strict=True):
            seen.append(schedule.scale_input(x, level))
            x = schedule.step(x, output, level, lower)
            latents.append(x)
        for name, ours, tolerance in (("scaled", seen, 5e-4), ("latents", latents, 1e-3)):
            ours = channels_first(np.stack(ours))
            assert_close(case, f"{name}_{steps}", ours, tolerance, relative=False)


def test_alphas_equal_those_of_stable_diffusion():
    case = load_case("sampling_scheduler")
    settings = case.config["scheduler"]
    times = [int(t) for t in re.search(r"t=([\d,]+)", case.about["about"])[1].split(",")]
    alphas = schedules.alphas_cumprod(
        settings["num_train_timesteps"], settings["beta_start"], settings["beta_end"]
    )
    expected = case.outputs["dift_alphas_cumprod"]
    np.testing.assert_allclose(alphas[times], expected, rtol=3e-6)  # theirs is a float32 product


def ddim_cases():
    case, cases = load_case("musepose_ddim"), []
    for name, settings in case.config.items():
        schedule = Ddim(
            betas=settings["beta_schedule"],
            zero_terminal=settings.get("rescale_betas_zero_snr", False),
            prediction="v" if settings.get("prediction_type") == "v_prediction" else "epsilon",
            spacing=settings.get("timestep_spacing", "leading"),
        )
        cases.append(pytest.param(case, name, schedule, id=name))
    return cases


@pytest.mark.parametrize(("case", "name", "schedule"), ddim_cases())
def test_ddim_equals_the_original_schedulers(case, name, schedule):
    """MusePose, Moore-AnimateAnyone, and the latter's first version."""
    tolerance = case.about["tolerance"]["value"]
    expected = {k.removeprefix(f"{name}."): v for k, v in case.outputs.items() if name in k}
    close = lambda output, ours: assert_close(case, f"{name}.{output}", ours, tolerance)

    alphas = np.asarray(schedule.alpha(np.arange(1000)), np.float64)
    close("alphas_cumprod", alphas)
    # A ratio of vanishing numbers at the end: the original's own rounding shows there.
    betas, reference = 1 - alphas / np.append(1.0, alphas[:-1]), expected["betas"]
    rounding = 4 * np.finfo(np.float32).eps / np.sqrt(np.maximum(alphas, 1e-12))
    allowed = tolerance * reference.std() + schedule.zero_terminal * rounding
    difference = tolerance * (np.abs(betas - reference) / allowed).max()
    record(case.name, f"{name}.betas", difference, tolerance)
    for output in [o for o in expected if o.startswith("timesteps_")]:
        levels = schedule.levels(int(output.split("_")[1]))
        np.testing.assert_array_equal(levels[:, 0], expected[output])
    sample, network = case.inputs["sample"], case.inputs["model_output"]
    for output in [o for o in expected if o.startswith("prev_")]:
        steps, index = map(int, output.split("_")[1:])
        level, lower = schedule.levels(steps)[index]
        close(output, schedule.step(sample, network, level, lower))
        clean, _ = prediction.unmix(sample, network, schedule.alpha(level), schedule.prediction)
        close(output.replace("prev", "x0"), clean)

    times = case.inputs["train_timesteps"].astype(np.float32)
    each = times.reshape(-1, 1, 1, 1, 1)
    clean, noise = case.inputs["x0"], case.inputs["noise"]
    close("noisy", schedule.noised(clean, noise, each))
    close("min_snr_weight", schedule.weight(times))
    close("velocity", prediction.velocity(clean, noise, schedule.alpha(each)))


def test_uniform_windows_and_padding_equal_the_original_contexts():
    about = load_case("musepose_context_windows").about
    # The others shift the windows from step to step, which the released pipelines never do.
    for case in (case for case in about["cases"] if case["step"] == 0):
        plan = windows.uniform(
            case["num_frames"],
            case["context_size"],
            case["context_overlap"],
            stride=case["context_stride"],
            closed=case["closed_loop"],
        )
        assert plan.frames.tolist() == case["windows"]
    for case in about["padding"]:
        assert windows.padded(case["frames"], case["slice"], case["overlap"]) == case["padded"]


def test_windows_and_their_weights_equal_the_original_tiles():
    """Where the original fails or leaves frames out, ours is one window or a clear error."""
    compared = 0
    for tile in load_case("sampling_tiles").about["cases"]:
        size = tile["num_frames"], tile["tile_size"], tile["tile_overlap"]
        impossible = not 0 <= size[2] < size[1] or size[0] < 2 or "uncovered" in tile
        if impossible:
            with pytest.raises(ValueError, match="sample.overlap|driving frame"):
                windows.anchored(*size)
            continue
        plan = windows.anchored(*size)
        if "error" in tile:
            assert size[0] < size[1], f"{size}: the original fails here and ours does not"
            assert plan.frames.tolist() == [list(range(size[0]))]
            continue
        pairs = zip(tile["starts"], tile["last"], strict=True)
        assert plan.frames.tolist() == [[0, *range(start, last + 1)] for start, last in pairs]
        total = windows.total_weight(plan, size[0])
        # The case rounds to six decimals.
        np.testing.assert_allclose(total, tile["count"], rtol=1e-6, atol=6e-7)
        compared += 1
    assert compared > 0, "the case holds no tiling that the original can run"


@dataclass(frozen=True)
class Direct:
    """A schedule whose only step returns the prediction: what remains is blending and guidance."""

    def levels(self, steps):
        return np.array([[1, 0]] * steps, np.float32)

    def start(self, noise, levels):
        return noise

    def scale_input(self, x, level):
        return x

    def time(self, level):
        return level

    def clean(self, x, output, level):
        return output

    def step(self, x, output, level, lower):
        return output

    def sigmas(self, levels):
        return levels


class Recorded:
    """A model that returns the case's predictions.

    Params hold them by the last frame of their window; pose features carry frame numbers, context
    the half.
    """

    schedule = Direct()
    generates_reference = repeats_noise = True

    def windows(self, *size):
        return windows.anchored(*size)

    def unconditional(self, conditioning, drop):
        keep = jnp.where(drop[:, None, None], 0, conditioning.context)
        return conditioning.replace(context=keep)

    def unpaired(self):
        return self

    def hoist(self, params, conditioning):
        return conditioning

    def denoise(self, params, x, t, conditioning):
        last = conditioning.pose_features[:, -1, 0, 0, 0].astype(int)
        half = conditioning.context[:, 0, 0].astype(int)
        return params["predictions"][last, half]


def fusion_cases():
    case = load_case("sampling_fusion")
    return case, list(enumerate(case.config["cases"]))


def test_blended_windows_equal_the_original_fusion():
    """Tolerance of this and the next test is the case's sentence: 2e-6."""
    case, cases = fusion_cases()
    for k, sizes in cases:
        num_frames = sizes["num_frames"]
        plan = windows.anchored(num_frames, sizes["tile_size"], sizes["tile_overlap"])
        assert_close(case, f"weight_{k}", plan.weights, 2e-6, relative=False)
        blend = np.zeros((2, num_frames, *case.inputs[f"pred_{k}"].shape[3:]), np.float32)
        for frames, predicted in zip(plan.frames, case.inputs[f"pred_{k}"], strict=True):
            np.add.at(blend, (slice(None), frames), predicted * plan.weights[:, None, None, None])
        blend /= windows.total_weight(plan, num_frames)[:, None, None, None]
        assert_close(case, f"fused_{k}", blend, 2e-6, relative=False)
        scale = guidance.scales((sizes["min_guidance"], sizes["max_guidance"]), num_frames)
        guided = guidance.combine(*blend[:, None], scale)
        assert_close(case, f"guided_{k}", guided, 2e-6, relative=False)


@pytest.mark.parametrize("window_batch", [1, 2])
def test_the_driver_blends_and_guides_as_the_original_pipeline(window_batch):
    case, cases = fusion_cases()
    for k, sizes in cases:
        num_frames = sizes["num_frames"]
        predictions = channels_last(case.inputs[f"pred_{k}"])
        plan = windows.anchored(num_frames, sizes["tile_size"], sizes["tile_overlap"])
        table = np.zeros((num_frames, *predictions.shape[1:]), np.float32)
        table[plan.frames[:, -1]] = predictions
        numbers = np.arange(num_frames, dtype=np.float32).reshape(1, -1, 1, 1, 1)
        latents = sampling.sample(
            Recorded(),
            {"predictions": table},
            Conditioning(context=jnp.ones((1, 1, 1)), pose_features=numbers),
            jnp.zeros((1, num_frames, *predictions.shape[-3:])),
            sampling.Sampler(
                steps=1,
                window=sizes["tile_size"],
                overlap=sizes["tile_overlap"],
                guidance_scale=(sizes["min_guidance"], sizes["max_guidance"]),
                window_batch=window_batch,
            ),
        )
        assert_close(case, f"guided_{k}", channels_first(latents), 2e-6, relative=False)


def test_initial_noise_repeats_as_in_the_original():
    case, cases = fusion_cases()
    for k, sizes in cases:
        given, repeated = case.inputs[f"noise_{k}"][0], case.outputs[f"noise_repeated_{k}"][0]
        distance = np.abs(repeated[:, None] - given[None]).max((2, 3, 4))  # frames x drawn frames
        drawn = distance.argmin(1)
        assert (distance.min(1) == 0).all()
        shape = channels_last(given).shape[1:]
        ours = sampling.initial_noise(
            Recorded(), jax.random.key(k), sizes["num_frames"], shape, sizes["tile_size"]
        )
        np.testing.assert_array_equal(ours[0], ours[0][drawn])
        assert len(np.unique(ours[0][:, 0, 0, 0])) == len(np.unique(drawn))
