"""Checkpoint files are read without PyTorch, completely, and nothing in them is executed."""

import os
import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import files, pth, unpickle
from tests.converters import hostile

FIXTURES = Path(__file__).parent / "fixtures"
SIX = np.arange(6, dtype="<f4").tobytes()


def many_tensors():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 5, 2)).astype(np.float32)
    return {
        "a.weight": noise,
        "a.turned": noise.transpose(2, 0, 1),
        "b.half": noise.astype(np.float16),
        "b.brain": noise.astype(ml_dtypes.bfloat16),
        "b.double": noise.astype(np.float64),
        "c.long": np.arange(7).reshape(7, 1),
        "c.int": np.arange(3, dtype=np.int32),
        "c.small": np.arange(3, dtype=np.int8),
        "c.byte": np.arange(3, dtype=np.uint8),
        "c.bool": np.array([True, False]),
        "d.scalar": np.float32(3).reshape(()),
        "d.none": np.zeros((0, 4), np.float32),
    }


def assert_same(found, expected):
    assert list(sorted(found)) == list(sorted(expected))
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        assert np.ascontiguousarray(found[key]).tobytes() == value.tobytes(), key


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pth.tar", "x.bin"])
def test_every_element_type_and_memory_order_survives_writing_and_reading(tmp_path, name):
    files.write(tmp_path / name, many_tensors())
    assert_same(files.read(tmp_path / name), many_tensors())


def test_wrapped_state_dicts_are_unwrapped(tmp_path):
    files.write(tmp_path / "x.pth.tar", many_tensors(), wrapper="state_dict")
    assert_same(files.read(tmp_path / "x.pth.tar"), many_tensors())


@pytest.mark.parametrize("layout", ["current", "legacy"])
def test_files_that_pytorch_wrote_are_read_with_shared_storages_strides_and_parameters(layout):
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = {
        "weight": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.ones(3, np.float32),
        "num_batches_tracked": np.array(0),
        "whole": whole,
        "turned": whole.transpose(2, 0, 1),
        "part": whole[1, :, 1:3],
        "half": (np.arange(5) / 2).astype(np.float16),
        "brain": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7, np.int32),
        "none": np.zeros((0, 2), np.float32),
    }
    assert_same(files.read(FIXTURES / f"{layout}.pth"), expected)


def test_our_safetensors_are_what_the_library_reads_and_the_reverse(tmp_path):
    plain = {k: v for k, v in many_tensors().items() if v.dtype != ml_dtypes.bfloat16}
    files.write(tmp_path / "ours.safetensors", plain)
    assert_same(load_file(tmp_path / "ours.safetensors"), plain)
    save_file({k: np.array(v, order="C") for k, v in plain.items()}, tmp_path / "library")
    assert_same(files.read(tmp_path / "library"), plain)


def test_floating_tensors_are_cast_on_request_and_integers_are_not(tmp_path):
    for name in ("x.safetensors", "x.pth"):
        files.write(tmp_path / name, many_tensors(), dtype="float16")
        found = files.read(tmp_path / name)
        assert found["a.weight"].dtype == found["b.brain"].dtype == np.float16
        assert found["c.long"].dtype == np.int64
        np.testing.assert_array_equal(
            found["b.brain"], many_tensors()["b.brain"].astype(np.float16)
        )


def test_reading_maps_the_file_instead_of_copying_it(tmp_path):
    for name in ("x.safetensors", "x.pth"):
        files.write(tmp_path / name, {"w": np.zeros(1000, np.float32)})
        found = files.read(tmp_path / name)["w"]
        owner = found
        while not isinstance(owner, np.memmap):
            owner = owner.base
        assert not found.flags.writeable


def test_storages_start_at_multiples_of_64_bytes_as_pytorch_wants_for_mapping(tmp_path):
    files.write(tmp_path / "x.pth", many_tensors())
    data = (tmp_path / "x.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        for info in archive.infolist():
            header = data[info.header_offset :]
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            assert (info.header_offset + 30 + lengths) % 64 == 0


class Attack:
    """Pickles to a call of a function that leaves a trace."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(trace: Path) -> dict[str, bytes]:
    command = f"touch {trace}"
    return {
        "os.system": pickle.dumps(Attack(os.system, command), 2),
        "builtins.eval": pickle.dumps(Attack(eval, f"open({str(trace)!r}, 'w')"), 4),
        "builtins.exec in a tensor's place": pickle.dumps({"w": Attack(exec, command)}, 2),
        "open": b"\x80\x02cio\nopen\nX\x05\x00\x00\x00trace\x85R.",
        "an allowed name with attributes": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00"
        b"\x00\x00aK\x01sb.",
        "a call of a type": b"\x80\x02ctorch\nfloat16\n)R.",
        "an old-style instance": b"(S'touch'\nios\nsystem\n.",
        "an object by NEWOBJ": b"\x80\x02cdatetime\ndate\nK\x01\x85\x81.",
        "an unknown persistent id": b"\x80\x02X\x06\x00\x00\x00moduleQ.",
        "an extension code": b"\x80\x02\x82\x01.",
        "a storage that is none": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nSize\nX\x01\x00\x00"
        b"\x000X\x03\x00\x00\x00cpuK\x06tQ.",
    }


@pytest.mark.parametrize("layout", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch, name, layout):
    monkeypatch.chdir(tmp_path)
    trace = tmp_path / "trace"
    pickled, path = attacks(trace)[name], tmp_path / "weights.pth"
    if layout == "zip":
        hostile.write_zip(path, pickled, {})
    elif layout == "legacy":
        hostile.write_legacy(path, pickled, {})
    else:
        path.write_bytes(pickled)
    with pytest.raises(ValueError, match="weights.pth: (refused|not a usable)"):
        files.read(path)
    assert not trace.exists()


BAD_TENSORS = {
    "leaves its storage": {"shape": (2, 4), "stride": (4, 1)},
    "(2, 3) and stride (4, 1) leaves": {"stride": (4, 1)},
    "and stride (3, 1) leaves": {"offset": 1},
    "impossible offset": {"offset": -1},
    "impossible offset, shape": {"stride": (-3, 1)},
    "impossible": {"shape": (-2, 3)},
    "beyond reason": {"shape": (2**30, 2**30), "stride": (0, 0)},
    "leaves": {"shape": (2**31 - 1, 1), "stride": (2**31 - 1, 1)},
    "not integers": {"shape": (2,)},
    "expected 7 elements": {"count": 7},
    "expected 6 elements of float64": {"kind": "DoubleStorage"},
    "lacks the record data/../../etc/passwd": {"storage": "../../etc/passwd"},
    "without type": {"kind": "float16"},
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_tensors_that_do_not_fit_their_storage_are_errors(tmp_path, message):
    pickled = hostile.tensor(**BAD_TENSORS[message])
    path = hostile.write_zip(tmp_path / "weights.pth", pickled, {"data/0": SIX})
    with pytest.raises(ValueError) as error:
        files.read(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_repeated_storage_is_read_as_long_as_it_is_small(tmp_path):
    pickled = hostile.tensor(shape=(4, 3), stride=(0, 1))
    path = hostile.write_zip(tmp_path / "weights.pth", pickled, {"data/0": SIX})
    np.testing.assert_array_equal(files.read(path)["w"], [[0, 1, 2]] * 4)


def bad_archives(path: Path) -> dict[str, Path]:
    """What the message says -> a file of the current layout."""
    good = hostile.tensor()
    write = lambda name, *args, **more: hostile.write_zip(path / f"{name}.pth", *args, **more)
    nested = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    keys = b"\x80\x02}(K\x01K\x02u."
    return {
        "compressed": write("z", good, {"data/0": SIX}, compression=zipfile.ZIP_DEFLATED),
        "big-endian": write("e", good, {"data/0": SIX, "byteorder": b"big"}),
        "TorchScript": write("t", good, {"data/0": SIX, "constants.pkl": b""}),
        "lacks the record data/0": write("m", good, {}),
        "two records": write("d", good, {"data/0": SIX, "data.pkl": good}),
        "holds a list": write("n", nested, {}),
        "holds a int": write("i", pickle.dumps(3, 2), {}),
        "entry 1": write("k", keys, {}),
        "entry w is a list": write("l", pickle.dumps({"w": [1.0]}, 2), {}),
        "more than 1000000": write("h", b"N" * 1_000_001, {}),
        "more than 500000 instructions": write("o", b"\x80\x02" + b"N0" * 300_000, {}),
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_pytorch_would_not_write_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "_MAX_PICKLE", 1_000_000)  # the real limits take long to reach
    monkeypatch.setattr(unpickle, "_MAX_OPCODES", 500_000)
    for message, path in bad_archives(tmp_path).items():
        with pytest.raises(ValueError) as error:
            files.read(path)
        assert message in str(error.value) and str(path) in str(error.value)
        assert len(str(error.value)) < 400


def test_an_archive_of_something_else_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("holiday.jpg", b"jpg")
    with pytest.raises(ValueError, match="without a PyTorch checkpoint"):
        files.read(tmp_path / "x.pth")


LEGACY = {
    "big-endian": ({}, {"little_endian": False}),
    "holds 5 elements, expected 6": ({"0": (5, SIX)}, {}),
    "is cut": ({"0": (6, SIX[:-1])}, {}),
    "list of storages": ({"1": (6, SIX)}, {}),
}


@pytest.mark.parametrize("message", LEGACY)
def test_legacy_streams_are_checked_against_the_file(tmp_path, message):
    storages, system = LEGACY[message]
    path = tmp_path / "weights.pth"
    hostile.write_legacy(path, hostile.tensor(), storages, **system)
    with pytest.raises(ValueError, match=message):
        files.read(path)


def test_storages_may_be_numbered(tmp_path):
    path = tmp_path / "weights.pth"
    hostile.write_legacy(path, hostile.tensor(), {0: (6, SIX)})
    new = hostile.write_zip(tmp_path / "new.pth", hostile.tensor(), {"data/0": SIX})
    assert_same(files.read(path), files.read(new))


def test_numbers_too_large_for_a_type_are_not_written_as_infinite(tmp_path):
    large = {"w": np.float32([1.0, 1e6])}
    for name in ("x.safetensors", "x.pth"):
        with pytest.raises(ValueError, match="w has numbers up to 1e.06, too large for float16"):
            files.write(tmp_path / name, large, dtype=np.float16)
    files.write(tmp_path / "x.safetensors", {"w": np.float32([1.0, np.inf])}, dtype=np.float16)


def test_legacy_and_current_layout_give_the_same_tensors(tmp_path):
    pickled = hostile.tensor()
    old = hostile.write_legacy(tmp_path / "old.pth", pickled, {"0": (6, SIX)})
    new = hostile.write_zip(tmp_path / "new.pth", pickled, {"data/0": SIX})
    assert_same(files.read(old), files.read(new))


@pytest.mark.parametrize("name", ["current.pth", "legacy.pth", "x.safetensors"])
def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path, name):
    if name.endswith(".safetensors"):
        files.write(tmp_path / name, many_tensors())
        data = (tmp_path / name).read_bytes()
    else:
        data = (FIXTURES / name).read_bytes()
    path = tmp_path / f"cut_{name}"
    for length in [0, 1, 7, 8, 9, *range(20, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"cut_{name}"):
            files.read(path)


@pytest.mark.parametrize("name", ["current.pth", "legacy.pth", "x.safetensors"])
def test_a_damaged_byte_never_gives_anything_but_arrays_or_a_clear_error(tmp_path, name):
    if name.endswith(".safetensors"):
        files.write(tmp_path / name, many_tensors())
        data = (tmp_path / name).read_bytes()
    else:
        data = (FIXTURES / name).read_bytes()
    rng = np.random.default_rng(0)
    path, errors = tmp_path / f"damaged_{name}", 0
    for position in rng.integers(0, len(data), 300):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = files.read(path)
        except ValueError as error:
            errors += 1
            assert f"damaged_{name}" in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())
    assert errors > 20


NOT_CHECKPOINTS = {
    "an empty file": b"",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3053054914\n",
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "gzip": b"\x1f\x8b\x08\x00rest",
    "JSON": b'{"a": 1}',
    "tar archive": b"name".ljust(257, b"\0") + b"ustar\x0000".ljust(300, b"\0"),
    "neither a zip archive nor a pickle": b"just some text",
    "header too large": b"\xff" * 8 + b"{}",
}


@pytest.mark.parametrize("message", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(NOT_CHECKPOINTS[message])
    with pytest.raises(ValueError) as error:
        files.read(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_missing_files_and_folders_are_errors(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            files.read(path)


def test_a_full_disk_leaves_neither_a_file_nor_a_partial_one(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for name, module in (("x.pth", pth), ("x.safetensors", files.tensor_file)):
        monkeypatch.setattr(module, "raw_bytes" if module is not pth else "_add", full)
        with pytest.raises(OSError, match=f"{name}: cannot write this file: No space left"):
            files.write(tmp_path / name, {"w": np.zeros(3, np.float32)})
    assert not list(tmp_path.iterdir())
