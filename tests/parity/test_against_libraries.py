"""What the evaluation computes against libraries that others report with."""

import jax
import numpy as np
import pytest

from converters import rules
from dispose_jax.evaluation import features, frame_metrics, frechet, preprocess
from dispose_jax.models import evaluation_networks
from dispose_jax.networks.evaluation.vit import AestheticHead
from tests.parity.cases import convert

pytestmark = pytest.mark.full


def pair(seed: int, h: int = 96, w: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures that are alike: blocks of colour, and noise on the second."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (h // 8, w // 8, 3)).repeat(8, 0).repeat(8, 1)
    noise = rng.normal(0, 20, real.shape)
    return real.astype(np.uint8), (real + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_psnr_and_ssim_are_those_of_scikit_image(seed):
    skimage = pytest.importorskip("skimage.metrics")
    real, fake = pair(seed)
    assert frame_metrics.psnr(real, fake) == pytest.approx(
        skimage.peak_signal_noise_ratio(real, fake), abs=1e-9
    )
    grey = [frame_metrics.grey(picture) for picture in (real, fake)]
    assert frame_metrics.ssim(real, fake) == pytest.approx(
        skimage.structural_similarity(*grey, data_range=255), abs=1e-6
    )
    wanted = skimage.structural_similarity(
        real / 255,
        fake / 255,
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    inside = wanted[5:-5, 5:-5]  # the library also scores windows that reach over the edge
    assert frame_metrics.ssim_common(real, fake) == pytest.approx(inside.mean(), abs=1e-6)


def test_the_common_ssim_is_that_of_torchmetrics():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.image")
    real, fake = pair(7)
    planes = [torch.from_numpy(x).double().movedim(-1, 0)[None] / 255 for x in (real, fake)]
    _, windows = functional.structural_similarity_index_measure(
        *planes, data_range=1.0, return_full_image=True
    )
    inside = windows[..., 5:-5, 5:-5]  # its own mean is over padded windows too
    assert frame_metrics.ssim_common(real, fake) == pytest.approx(float(inside.mean()), abs=1e-6)


def test_the_frechet_distance_is_that_of_torchmetrics_where_there_are_enough_videos():
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torchmetrics.image.fid")
    rng = np.random.default_rng(0)
    real, fake = (
        rng.normal(m, s, (500, 12)) @ rng.normal(0, 1, (12, 12)) for m, s in ((0, 1), (0.3, 2))
    )
    moments = [
        torch.from_numpy(np.asarray(m)) for x in (real, fake) for m in (x.mean(0), np.cov(x.T))
    ]
    assert frechet.distance(real, fake) == pytest.approx(
        float(fid._compute_fid(*moments)), rel=1e-6
    )


def test_clip_l14_and_the_aesthetic_score_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
        hidden_act="quick_gelu",
    )
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():  # as drawn, all layers do next to nothing
            if tensor.ndim > 1:
                tensor.mul_(1.5)
    head = torch.nn.Linear(768, 1)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    linear = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    network = evaluation_networks.build("clip_l14").module
    x = preprocess.clip(np.stack([pair(seed, 240, 224)[1] for seed in range(2)]))
    params = {
        "clip_l14": convert(tensors, rules.PLAIN, network, x),
        "aesthetic": convert(linear, rules.AESTHETIC_HEAD, AestheticHead(), np.zeros((1, 768))),
    }
    with torch.no_grad():
        embedding = theirs(torch.from_numpy(np.array(x)).movedim(-1, 1)).image_embeds
        wanted = head(torch.nn.functional.normalize(embedding, dim=-1))[:, 0] / 10
    ours = jax.jit(network.apply)({"params": params["clip_l14"]}, x)
    np.testing.assert_allclose(ours, embedding, rtol=0, atol=1e-4 * float(embedding.abs().max()))
    score = jax.jit(features.FEATURES["aesthetic"].forward)(params, x[:, None])
    np.testing.assert_allclose(score, wanted, rtol=0, atol=1e-5)
