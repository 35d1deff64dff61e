"""Files against PyTorch itself: what it writes is read, what we write it loads. Needs PyTorch."""

import ml_dtypes
import numpy as np
import pytest

from converters import files

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full


def state_dict():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors = module.state_dict()
    whole = torch.randn(4, 5, 6)
    tensors |= {f"as.{t}": whole.to(t) for t in (torch.float16, torch.bfloat16, torch.float64)}
    tensors |= {f"as.{t}": torch.arange(9).to(t) for t in (torch.int32, torch.int8, torch.uint8)}
    tensors["bool"] = torch.tensor([True, False])
    tensors["turned"] = whole.permute(2, 0, 1)
    tensors["part"] = whole[1:3, ::2, 3:]
    tensors["expanded"] = torch.randn(5, 1).expand(5, 7)
    tensors["parameter"] = torch.nn.Parameter(torch.randn(3))
    tensors["scalar"] = torch.tensor(2.5)
    tensors["none"] = torch.zeros(0, 3)
    return tensors


def numpy(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_what_pytorch_writes_is_read(tmp_path, zipped, wrapped):
    tensors = state_dict()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    content = {"step": 42000, "state_dict": tensors, "optimizer": optimizer.state_dict()}
    path = tmp_path / "x.pth.tar"
    torch.save(content if wrapped else tensors, path, _use_new_zipfile_serialization=zipped)
    found = files.read(path)
    assert list(found) == list(tensors)
    for key, tensor in tensors.items():
        expected = numpy(tensor)
        assert found[key].dtype == expected.dtype and found[key].shape == expected.shape
        np.testing.assert_array_equal(found[key], expected)


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize("mapped", [True, False])
def test_what_we_write_pytorch_loads_without_unpickling_objects(tmp_path, wrapper, mapped):
    tensors = state_dict()
    files.write(tmp_path / "x.pth", {k: numpy(v) for k, v in tensors.items()}, wrapper=wrapper)
    loaded = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mapped)
    loaded = loaded[wrapper] if wrapper else loaded
    assert list(loaded) == list(tensors)
    for key, tensor in tensors.items():
        assert loaded[key].dtype == tensor.dtype and torch.equal(loaded[key], tensor), key


def test_what_we_write_as_safetensors_the_library_loads_into_pytorch(tmp_path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    tensors = state_dict()
    files.write(tmp_path / "x.safetensors", {k: numpy(v) for k, v in tensors.items()})
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert loaded[key].dtype == tensor.dtype and torch.equal(loaded[key], tensor), key


def test_what_pytorch_writes_as_safetensors_is_read(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {k: v.detach().contiguous().clone() for k, v in state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    found = files.read(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(found[key], numpy(tensor))


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="refused.*torch.nn.modules.linear.Linear"):
        files.read(tmp_path / "module.pth")
