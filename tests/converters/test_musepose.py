"""What is particular to the files of the second base: tables of positions, start weights, its own
DisPose, and which file serves which base."""

import jax
import ml_dtypes
import numpy as np
import pytest

from configs import sd15
from converters import checkpoints, doctor, files, mapping, releases
from converters.mapping import ConversionError
from dispose_jax.models import networks as model_networks
from tests.converters import built
from tests.converters.test_networks import keyed, same_bits

MOTION = f"{built.MOTION}.tiny"
TABLE = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1"
TABLE += ".pos_encoder.pe"


def read_motion(tensors, row="musepose_motion_module", source="motion_module.pth"):
    return checkpoints.to_flax(releases.release(row), tensors, built.shapes_of(MOTION), source)


def sinusoid(frames: int, channels: int) -> np.ndarray:
    """The table as the originals compute it: float32 throughout."""
    frames = np.arange(frames, dtype=np.float32)[:, None]
    rate = np.float32(-np.log(10000.0) / channels)
    angles = frames * np.exp(np.arange(0, channels, 2, dtype=np.float32) * rate)
    table = np.zeros((1, len(frames), channels), np.float32)
    table[0, :, 0::2], table[0, :, 1::2] = np.sin(angles), np.cos(angles)
    return table


def with_tables(tensors, frames: int, dtype=np.float32) -> dict:
    """The same file with tables of another length and type."""
    of = lambda value: sinusoid(frames, value.shape[2]).astype(dtype)
    return {k: of(v) if k.endswith(".pe") else v for k, v in tensors.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("frames", [24, 32, 128, 500])
def test_tables_of_positions_of_any_length_are_compared_and_left_out(frames, dtype):
    tensors = keyed(MOTION, np.float32)
    params, report = read_motion(with_tables(tensors, frames, dtype))
    assert len(report.notes["constants"]) == 42 and report.matched == len(tensors) - 42
    assert not any("pos" in "/".join(path) for path in mapping.flatten(params))
    without = {key: value for key, value in tensors.items() if not key.endswith(".pe")}
    again, report = read_motion(without)
    assert report.notes == {} and jax.tree.all(jax.tree.map(same_bits, again, params))


@pytest.mark.parametrize("frames", [24, 128])
def test_tables_are_written_for_as_many_positions_as_the_model_has(frames):
    tensors = keyed(MOTION, np.float16)
    params, _ = read_motion(tensors)
    row = releases.release("musepose_motion_module")
    written = checkpoints.to_torch(row, params, "bundle", positions=frames)
    assert written.keys() == tensors.keys()
    assert written[TABLE].shape == (1, frames, 96) and written[TABLE].dtype == np.float16
    np.testing.assert_allclose(written[TABLE], sinusoid(frames, 96), atol=1e-3)


def halves(table):
    """Sines first, cosines after them, as other code has it."""
    return np.concatenate([table[..., 0::2], table[..., 1::2]], -1)


WRONG = {
    "is not the sinusoid": [
        lambda table: np.roll(table, 1, 1),
        lambda table: table * np.float32(1.01),
        lambda table: np.full_like(table, np.nan),
        lambda table: np.zeros_like(table, dtype=np.int64),
        halves,
    ],
    r"expected \[1, frames, 96\]": [
        lambda table: table[0],
        lambda table: table[..., :-2],
        lambda table: np.repeat(table, 2, 0),
    ],
}


@pytest.mark.parametrize("change, message", [(f, m) for m, all_of in WRONG.items() for f in all_of])
def test_a_table_that_is_not_the_sinusoid_is_an_error_that_names_it(change, message):
    tensors = keyed(MOTION, np.float32)
    with pytest.raises(ConversionError, match=rf"motion_module.pth: {TABLE} .*{message}"):
        read_motion(tensors | {TABLE: change(tensors[TABLE])})


def test_a_table_that_belongs_to_no_attention_is_unexpected():
    tensors = keyed(MOTION, np.float32)
    stray = "mid_block.motion_modules.1.pos_encoder.pe"
    with pytest.raises(ConversionError, match=rf"1 unexpected.*\n  \+ {stray}"):
        read_motion(tensors | {stray: tensors[TABLE]})


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_animatediff_is_read_with_and_without_its_wrappings(tmp_path, prefix, wrapper):
    tensors = with_tables(keyed(MOTION, np.float16), 32, np.float16)
    path = tmp_path / "mm_sd_v15_v2.ckpt"
    files.write(path, {prefix + key: value for key, value in tensors.items()}, wrapper=wrapper)
    found = doctor.find(tmp_path)
    assert found == {"animatediff": path}
    params, _ = read_motion(files.read(path), "animatediff", str(path))
    expected, _ = read_motion(tensors)
    assert jax.tree.all(jax.tree.map(same_bits, params, expected))


def test_motion_modules_without_the_middle_one_are_refused():
    tensors = with_tables(keyed(MOTION, np.float16), 24)
    older = {key: value for key, value in tensors.items() if not key.startswith("mid_block.")}
    with pytest.raises(ConversionError, match=r"26 tensors missing(.*\n)* .*- mid_block.motion"):
        read_motion(older, "animatediff")


def test_a_whole_picture_model_is_a_reference_and_its_head_is_counted_as_unused():
    tensors = keyed("musepose_reference_unet.tiny", np.float16)
    shapes = built.shapes_of("musepose_reference_unet.tiny")
    head = {"conv_norm_out.weight": np.ones(32), "conv_norm_out.bias": np.ones(32)}
    head |= {"conv_out.weight": np.ones((4, 32, 3, 3)), "conv_out.bias": np.ones(4)}
    expected, _ = checkpoints.to_flax(
        releases.release("musepose_reference_unet"), tensors, shapes, "file"
    )
    for name in ("musepose_reference_unet", "moore_reference_unet", "variations_reference"):
        row = releases.release(name)
        params, report = checkpoints.to_flax(row, tensors | head, shapes, "file")
        assert report.notes == {"of networks not used here": list(head)}
        assert jax.tree.all(jax.tree.map(same_bits, params, expected))
        assert checkpoints.to_torch(row, params, "bundle").keys() == tensors.keys()
        with pytest.raises(ConversionError, match=r"\+ conv_outer.bias"):
            checkpoints.to_flax(row, tensors | {"conv_outer.bias": np.ones(4)}, shapes, "file")


def test_motion_modules_in_the_denoisers_file_are_unexpected():
    denoiser = f"{built.DENOISER}.tiny"
    both = keyed(denoiser, np.float16) | keyed(MOTION, np.float16)
    for name in ("musepose_denoising_unet", "moore_denoising_unet", "variations_unet"):
        with pytest.raises(ConversionError, match=r"588 unexpected.*(\n.*)*motion_modules"):
            row = releases.release(name)
            checkpoints.to_flax(row, both, built.shapes_of(denoiser), "denoising_unet.pth")


@pytest.fixture(scope="module")
def full_size():
    """The networks that the full-size config builds; shapes are traced when asked for."""
    return model_networks.build(sd15.get_config())


def derived(name: str, networks) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the weights that a release must have for these networks."""
    row = releases.release(name)
    maps = checkpoints.derive(row, {network: networks[network].shapes for network in row.networks})
    return {entry.key: entry.shape for entries in maps.values() for entry in entries.values()}


RELEASED = {
    "musepose_denoising_unet": 686,
    "musepose_motion_module": 588,
    "musepose_reference_unet": 682,
    "musepose_pose_guider": 16,
    "sd_image_variations_image_encoder": 392,
    "sd15_vae": 248,
}


@pytest.mark.parametrize("manifest", RELEASED)
def test_the_full_size_config_has_exactly_the_tensors_of_the_released_file(full_size, manifest):
    expected = built.torch_shapes(f"{manifest}.full")
    assert len(expected) == RELEASED[manifest]
    row = built.release_of(f"{manifest}.full")
    found = derived(row.name, full_size)
    if row.frame_codes:
        tables = checkpoints._frame_codes(found)
        positions = full_size["motion_modules"].module.flavour.motion.positions
        found |= {key: (1, positions, channels) for key, channels in tables.items()}
    assert found == expected


def test_dispose_on_this_base_has_the_first_bases_names_less_what_does_not_exist(full_size):
    # No file was published: the picture model's encoder, and what DisPose adds to any base.
    found = derived("dispose_sd15", full_size)
    is_decoder = lambda key: key.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))
    base = built.torch_shapes(f"{built.DENOISER}.full")
    expected = {key: shape for key, shape in base.items() if not is_decoder(key)}
    added = ("controlnet_", "point_adapter.")
    released = built.torch_shapes("dispose.full").items()
    expected |= {key: shape for key, shape in released if key.startswith(added)}
    assert found == expected
    assert sum(np.prod(shape) for shape in found.values()) == 364_397_184


PLACES = {
    "musepose_denoising_unet": "pretrained_weights/MusePose/denoising_unet.pth",
    "musepose_motion_module": "pretrained_weights/MusePose/motion_module.pth",
    "musepose_reference_unet": "models--TMElyralab--MusePose/snapshots/6b4f/MusePose/"
    "reference_unet.pth",
    "musepose_pose_guider": "MusePose/pose_guider.pth",
    "moore_denoising_unet": "pretrained_weights/denoising_unet.pth",
    "moore_motion_module": "models--patrolli--AnimateAnyone/snapshots/7fd8/motion_module.pth",
    "moore_reference_unet": "AnimateAnyone/reference_unet.pth",
    "moore_pose_guider": "animate_anyone/pose_guider.pth",
    "variations_image_encoder": "pretrained_weights/image_encoder/pytorch_model.bin",
    "variations_unet": "sd-image-variations-diffusers/unet/diffusion_pytorch_model.bin",
    "variations_reference": "sd-image-variations-diffusers/unet/diffusion_pytorch_model.bin",
    "vae_ft_mse": "pretrained_weights/sd-vae-ft-mse/diffusion_pytorch_model.bin",
    "dispose_sd15": "runs/DisPose_sd15.pth",
    "animatediff": "models/mm_sd_v15_v2.ckpt",
    "svd_image_encoder": "svd_xt/image_encoder/model.safetensors",
}


def test_files_are_found_in_the_layouts_of_both_projects_and_not_mixed_up(tmp_path):
    for place in {*PLACES.values(), "elsewhere/denoising_unet.pth", "models/mm_sd_v15.ckpt"}:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert doctor.find(tmp_path) == {name: tmp_path / place for name, place in PLACES.items()}


def test_each_base_has_its_own_files_and_both_share_the_helpers():
    names = {base: {row.name for row in releases.serving(base)} for base in ("svd", "sd15")}
    assert names["svd"] | names["sd15"] == {row.name for row in releases.RELEASES}
    shared = {"sd15_unet", "sd15_vae", "sd15_text_encoder", "cmp"}
    shared |= {row.name for row in releases.RELEASES if row.is_optional and not row.base}
    assert names["svd"] & names["sd15"] == shared
    assert {"mimicmotion", "dispose", "svd_vae"} < names["svd"]
    assert {"musepose_denoising_unet", "dispose_sd15", "vae_ft_mse"} < names["sd15"]
