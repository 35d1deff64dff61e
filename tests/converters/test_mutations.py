"""Weight files changed at random end in tensors or in one sentence."""

import json
from functools import cache

import numpy as np
import pytest

from converters import files, shards
from tests import mutations
from tests.converters import hostile

pytestmark = pytest.mark.full

TENSORS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.ones(3, np.float16),
    "counter": np.array(5),
}


@cache
def originals(folder):
    """{name: bytes} of a small checkpoint in every layout, and its index."""
    files.write(folder / "x.pth", TENSORS)
    files.write(folder / "wrapped.pth", TENSORS, wrapper="state_dict")
    files.write(folder / "x.safetensors", TENSORS)
    six = np.arange(6, dtype="<f4").tobytes()
    hostile.write_legacy(folder / "legacy.pth", hostile.tensor(), {"0": (6, six)})
    index = {"weight_map": dict.fromkeys(TENSORS, "x.safetensors")}
    (folder / "x.safetensors.index.json").write_text(json.dumps(index))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("original")


@pytest.mark.parametrize("seed", range(500))
def test_a_weight_file(folder, tmp_path, seed):
    rng = np.random.default_rng(seed)
    held = originals(folder)
    name = list(held)[seed % len(held)]
    (tmp_path / "x.safetensors").write_bytes(held["x.safetensors"])
    content = held[name]
    for _ in range(20):  # the zip's own checks would catch most changes
        changed = mutations.mutated(content, rng)
        path = tmp_path / name
        path.write_bytes(changed)

        def read(path=path):
            for tensor in files.read(path).values():
                np.asarray(tensor, copy=True)

        said = mutations.answer(read)
        assert said is None or ("\n" not in said and str(tmp_path) in said)
        if said is None:
            break
    assert shards.whole_name(path) is not None


@pytest.mark.parametrize("seed", range(100))
def test_a_pickle_within_a_whole_archive(tmp_path, seed):
    """The pickle alone is changed, so that nothing before the interpreter refuses it."""
    rng = np.random.default_rng(seed)
    six = np.arange(6, dtype="<f4").tobytes()
    pickled = mutations.mutated(hostile.tensor(), rng)
    path = hostile.write_zip(tmp_path / "x.pth", pickled, {"data/0": six})
    said = mutations.answer(lambda: files.read(path))
    assert said is None or ("\n" not in said and "x.pth" in said)
