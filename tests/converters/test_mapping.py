"""The derivation itself: spelling, rules, unit axes."""

import numpy as np
import pytest

from converters import mapping
from converters.mapping import ConversionError

TREE = {
    "blocks_0": {"conv_12": {"kernel": np.zeros((3, 5, 2, 7)), "bias": np.zeros(7)}},
    "norm": {"scale": np.zeros(4), "mean": np.zeros(4), "var": np.zeros(4)},
    "mix_factor": np.zeros(1),
}


def test_names_are_spelt_as_pytorch_spells_lists_and_leaves():
    keys = {entry.key: entry.shape for entry in mapping.derive(TREE).values()}
    assert keys == {
        "blocks.0.conv.12.weight": (7, 2, 3, 5),
        "blocks.0.conv.12.bias": (7,),
        "norm.weight": (4,),
        "norm.running_mean": (4,),
        "norm.running_var": (4,),
        "mix_factor": (1,),
    }


@pytest.mark.parametrize(
    ("kernel", "torch"),
    [
        ((2, 3), (3, 2)),
        ((5, 2, 3), (3, 2, 5)),
        ((5, 7, 2, 3), (3, 2, 5, 7)),
        ((5, 7, 9, 2, 3), (3, 2, 5, 7, 9)),
    ],
)
def test_kernels_of_every_rank_go_there_and_back(kernel, torch):
    value = np.arange(np.prod(kernel)).reshape(kernel)
    entries = mapping.derive({"layer": {"kernel": value}})
    tensors = mapping.to_torch(entries, {"layer": {"kernel": value}})
    assert tensors["layer.weight"].shape == torch
    assert tensors["layer.weight"][0, 1].ravel()[-1] == value[..., 1, 0].ravel()[-1]
    np.testing.assert_array_equal(mapping.to_flax(entries, tensors)["layer"]["kernel"], value)


def test_unit_axes_are_added_to_the_weight_and_not_to_its_bias():
    tree = {"proj": {"kernel": np.arange(6).reshape(2, 3), "bias": np.zeros(3)}}
    entries = mapping.derive(tree, (), {r"^proj\.": 2})
    tensors = mapping.to_torch(entries, tree)
    assert tensors["proj.weight"].shape == (3, 2, 1, 1) and tensors["proj.bias"].shape == (3,)
    np.testing.assert_array_equal(
        mapping.to_flax(entries, tensors)["proj"]["kernel"], tree["proj"]["kernel"]
    )


def test_a_rule_or_unit_axis_that_matches_nothing_is_an_error():
    with pytest.raises(ConversionError, match="match no tensor.*absent"):
        mapping.derive(TREE, [(r"^absent\.", "")])
    with pytest.raises(ConversionError, match="match no tensor.*absent"):
        mapping.derive(TREE, [], {"absent": 1})


def test_unit_axes_of_layers_that_may_be_absent_are_added_where_they_are_present():
    here, absent = {r"^blocks\.": 1}, {r"^absent\.": 1}
    entries = mapping.derive(TREE, (), {}, here | absent)
    shapes = {entry.key: entry.shape for entry in entries.values()}
    assert shapes["blocks.0.conv.12.weight"] == (7, 2, 3, 5, 1)
    assert shapes["blocks.0.conv.12.bias"] == (7,)


def test_two_leaves_with_one_key_are_an_error_that_names_both():
    with pytest.raises(ConversionError, match="norm/mean and norm/scale|norm/scale.*norm/mean"):
        mapping.derive(TREE, [(r"norm\.running_mean", "norm.weight")])


def test_nothing_is_copied_on_the_way_in():
    tensor = np.zeros((3, 2, 5, 5), np.float16)
    entries = mapping.derive({"c": {"kernel": np.zeros((5, 5, 2, 3))}})
    assert np.shares_memory(mapping.to_flax(entries, {"c.weight": tensor})["c"]["kernel"], tensor)
