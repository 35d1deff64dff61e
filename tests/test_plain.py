"""Plain values are what JSON gives back, and what differs between two trees is named."""

import json

from configs import svd
from dispose_jax import plain


def test_plain_values_of_a_config_come_back_from_json_as_they_are():
    found = plain.values(svd.get_config("size=tiny").model)
    assert found == json.loads(json.dumps(found))
    assert found["unet"]["channels"] == list(svd.get_config("size=tiny").model.unet.channels)


def test_what_differs_is_named_with_both_values():
    found = {"unet": {"layers": 2, "heads": [1, 2]}, "vae": None}
    expected = {"unet": {"layers": 1, "heads": [1, 2]}, "cmp": {"bins": 99}}
    assert plain.differences(found, expected) == (
        "cmp is absent there, {'bins': 99} here; unet.layers is 2 there, 1 here"
    )
    assert plain.differences(expected, expected) == ""


def test_of_many_differences_eight_are_named():
    many = {f"a{i}": i for i in range(10)}
    assert plain.differences(many, {}).count(" there, ") == 8
    assert plain.differences(many, {}).endswith("; ...")
