"""Which calls compute deep features."""

from dispose_jax.diffusion.feature_cache import computed


def test_every_nth_call_computes_everything():
    assert computed([2] * 7, 3) == [True, False, False, True, False, False, True]
    assert computed([2] * 4, 1) == [True] * 4
    assert computed([1], 9) == [True]


def test_features_of_other_rows_of_guidance_do_not_serve():
    assert computed([1, 2, 2, 2, 1, 1, 1], 3) == [True, True, False, False, True, False, False]
