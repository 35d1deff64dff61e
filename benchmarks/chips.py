"""The accelerators that programs are compiled for without having one: their facts, and how JAX
comes to know of them.

Peaks are dense bfloat16 with float32 sums, memory and bandwidth those of the makers' data sheets.
For a TPU its compiler (libtpu) knows the rest; for a GPU it is written down here.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple
from unittest import mock

import jax


class Gpu(NamedTuple):
    """What XLA wants to know of a GPU; cores are streaming multiprocessors."""

    capability: tuple[int, int]
    cores: int
    units: int  # for floats, of a core
    threads: int  # of a core
    shared: int  # KiB of a core; a block has 1 less
    cache: int  # MiB
    clock: float  # GHz


class Chip(NamedTuple):
    """kinds: parts of the names that JAX gives such devices, the more special chip first in CHIPS.

    memory: GiB that programs can have. On a TPU the compiler keeps the rest for itself.
    topologies: of a TPU, {devices: shape}.
    """

    kinds: tuple[str, ...]
    teraflops: float
    gb_per_s: float
    memory: float
    gpu: Gpu | None = None
    topologies: dict[int, str] = {}

    @property
    def platform(self) -> str:
        return "cuda" if self.gpu else "tpu"


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4"}
_CUBE = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4"}
CHIPS = {
    "v4": Chip(("TPU v4",), 275, 1228, 31.25, topologies=_CUBE),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 197, 819, 15.75, topologies=_FLAT),
    "v5p": Chip(("TPU v5",), 459, 2765, 95.74, topologies=_CUBE),
    "v6e": Chip(("TPU v6",), 918, 1638, 31.25, topologies=_FLAT),
    "h200": Chip(("H200",), 989, 4800, 139.8, Gpu((9, 0), 132, 128, 2048, 228, 50, 1.98)),
    "h100": Chip(("H100",), 989, 3350, 79.1, Gpu((9, 0), 132, 128, 2048, 228, 50, 1.98)),
    "a100": Chip(("A100",), 312, 2039, 79.1, Gpu((8, 0), 108, 64, 2048, 164, 40, 1.41)),
    "l4": Chip(("NVIDIA L4",), 121, 300, 22.1, Gpu((8, 9), 58, 128, 1536, 100, 48, 2.04)),
    "rtx4090": Chip(("RTX 4090",), 165, 1008, 23.6, Gpu((8, 9), 128, 128, 1536, 100, 72, 2.52)),
    "rtx4080": Chip(("RTX 4080",), 97.5, 717, 15.7, Gpu((8, 9), 76, 128, 1536, 100, 64, 2.51)),
}
# The versions that the GPU's libraries are taken to have.
_CUDNN, _CUDA = (9, 10, 0), (12, 9, 0)
_TARGET = """\
gpu_device_info {{
  cuda_compute_capability {{ major: {0} minor: {1} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {optin}
  shared_memory_per_core: {shared}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {units}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
runtime_version {{ major: {cuda[0]} minor: {cuda[1]} patch: {cuda[2]} }}
device_description_str: "{kind}"
"""


def of_kind(kind: str) -> Chip | None:
    """The chip of a device by the name that JAX gives it, if it is one of CHIPS."""
    return next((c for c in CHIPS.values() if any(part in kind for part in c.kinds)), None)


def target(chip: Chip) -> str:
    """A GPU as XLA's GpuTargetConfigProto in text form."""
    gpu = chip.gpu
    return _TARGET.format(
        *gpu.capability,
        optin=(gpu.shared - 1) * 1024,
        shared=gpu.shared * 1024,
        threads=gpu.threads,
        cores=gpu.cores,
        units=gpu.units,
        bandwidth=int(chip.gb_per_s * 1e9),
        cache=gpu.cache * 2**20,
        clock=gpu.clock,
        memory=int(chip.memory * 2**30),
        cudnn=_CUDNN,
        cuda=_CUDA,
        kind=chip.kinds[0],
    )


def devices(name: str, count: int) -> list:
    """So many devices of a chip that need not exist, in the order of their topology.

    Raises ValueError for a chip that is not in CHIPS, a number of devices that its topologies do
    not have, or if the compiler for it is not installed.
    """
    if name not in CHIPS:
        raise ValueError(f"--chip is {name!r}: expected one of {', '.join(CHIPS)}")
    chip = CHIPS[name]
    if chip.platform == "tpu" and count not in chip.topologies:
        sizes = ", ".join(map(str, chip.topologies))
        raise ValueError(f"--devices is {count}: a slice of {name} has one of {sizes} chips")
    module, extra = {"tpu": ("libtpu", "aot-tpu"), "cuda": ("jax_cuda12_plugin", "aot-gpu")}[
        chip.platform
    ]
    if find_spec(module) is None:
        raise ValueError(
            f"--chip is {name}: its compiler, {module}, is not installed; "
            f'pip install -e ".[{extra}]"'
        )
    from jax.experimental import topologies

    # Else one process at a time has libtpu; and there is no driver that the GPU's could ask.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    if chip.platform == "cuda":
        made = topologies.get_topology_desc(
            name, "cuda", topology=f"1x1x{count}", target_config=target(chip)
        )
        return list(made.devices)
    shape = chip.topologies[count]
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
    return list(topologies.get_topology_desc(f"{name}:{shape}", "tpu", **bounds).devices)


@contextmanager
def answered(capability: tuple[int, int]):
    """Within it, JAX's questions to the local GPU are answered for one of this compute capability.

    They are asked while attention is traced and lowered. What was traced is kept by JAX, so a
    process compiles for one kind of device only.
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    own = float("{}.{}".format(*capability))
    major, minor, patch = _CUDNN
    answers = {
        "check_cudnn_version": lambda: 10000 * major + 100 * minor + patch,
        "check_compute_capability": lambda wanted: float(wanted) <= own,
        "is_cuda_compute_capability_equal": lambda wanted: float(wanted) == own,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(cudnn, name, answer))
        yield


def versions() -> dict[str, str]:
    """Of JAX and of the compilers that are installed."""
    found = {"jax": jax.__version__}
    for name in ("libtpu", "jax-cuda12-plugin", "nvidia-cudnn-cu12"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
