"""Imports point downwards: which module may know of which, and which may use which library.

Read from the import statements alone, those inside functions included.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Programs that live inside the package.
COMMANDS = {
    "dispose_jax.data.prepare",
    "dispose_jax.pose.extract",
    "dispose_jax.correspondence.query",
    "dispose_jax.evaluation.paper",
    "dispose_jax.page",
}
# A module may import lower rows and its own folder, never another member of its row.
ROWS = [
    {
        "dispose_jax.types",
        "dispose_jax.ops",
        "dispose_jax.counting",
        "dispose_jax.flops",
        "dispose_jax.ending",
        "dispose_jax.memory",
        "dispose_jax.plain",
        "dispose_jax.settings",
        "dispose_jax.pose.dwpose",
        "dispose_jax.media.output",
    },
    {"dispose_jax.networks", "dispose_jax.diffusion", "dispose_jax.limits", "dispose_jax.bars"},
    {"dispose_jax.pose", "dispose_jax.motion", "dispose_jax.correspondence"},
    {"dispose_jax.models", "dispose_jax.control_signals"},
    {"dispose_jax.media"},
    {"dispose_jax.clip"},
    {"dispose_jax.inputs"},
    {"dispose_jax.data"},
    {"dispose_jax.synthetic"},
    {"dispose_jax.windowed"},
    {
        "dispose_jax.sampling",
        "dispose_jax.decoding",
        "dispose_jax.explain",
        "dispose_jax.traces",
        "dispose_jax.provenance",
        "dispose_jax.weights",
    },
    {"dispose_jax.ahead", "dispose_jax.conditions", "dispose_jax.dry_run"},
    {"dispose_jax.animator"},
    {"dispose_jax"},  # the package itself, which offers the animator
    {"dispose_jax.training", "dispose_jax.evaluation", "dispose_jax.job", "dispose_jax.cli"},
    {"dispose_jax.jobs"},
    {"train", "sample", "evaluate", "converters", *COMMANDS},
    {"benchmarks", "assets"},  # tools for us: measuring against PyTorch needs the converters
]
# Modules of another height than their folder: programs, names of files, the writing of files.
APART = {*COMMANDS, "dispose_jax.pose.dwpose", "dispose_jax.media.output"}
HEIGHT = {unit: row for row, units in enumerate(ROWS) for unit in units}
# Rows aside: a config is data that programs read, and a conversion needs only what names and shapes
# parameters.
PROGRAMS = ROWS[-2] | ROWS[-1]
ONLY = {
    "configs": {"configs"},
    "converters": {"converters", "configs", *ROWS[0], "dispose_jax.networks", "dispose_jax.models"},
}

# Libraries beyond jax, numpy and flax, and the only places that may import them.
PLACES = {
    "torch": (),
    "diffusers": (),
    "cv2": (
        "dispose_jax.pose",
        "dispose_jax.motion",
        "dispose_jax.media",
        "dispose_jax.data",
        "dispose_jax.explain",
        "dispose_jax.evaluation",
    ),
    "PIL": (
        "dispose_jax.media",
        "dispose_jax.explain",
        "dispose_jax.evaluation",
        "dispose_jax.correspondence.query",
    ),
    "scipy": ("dispose_jax.pose", "dispose_jax.motion", "dispose_jax.evaluation"),
    "av": ("dispose_jax.media",),
    "onnxruntime": ("dispose_jax.pose.estimate",),
    "transformers": ("dispose_jax.correspondence.dift",),
    "safetensors": (
        "dispose_jax.models",
        "dispose_jax.pose.detected",
        "dispose_jax.provenance",
        "dispose_jax.data.records",
    ),
    "ml_dtypes": ("dispose_jax.models", "converters"),
    "ml_collections": (
        "configs",
        "dispose_jax.training",
        "train",
        "sample",
        "evaluate",
        "benchmarks",
        "converters",
    ),
    "absl": (
        "dispose_jax.cli",
        "dispose_jax.data.loader",  # grain reads its flags
        *COMMANDS,
        "train",
        "sample",
        "evaluate",
        "benchmarks",
        "converters",
    ),
    "tqdm": (
        "dispose_jax.bars",
        "dispose_jax.data.prepare",
        "dispose_jax.training",
        "converters",
    ),
    "optax": ("dispose_jax.training", "assets"),
    "tensorboardX": ("dispose_jax.training.metrics",),
    "orbax": ("dispose_jax.training",),
    "grain": ("dispose_jax.data", "dispose_jax.training"),
    "array_record": ("dispose_jax.data",),
    "gradio": ("dispose_jax.page.layout",),
    "starlette": ("dispose_jax.page",),  # what Gradio is a part of
}
EVERYWHERE = {"jax", "jaxlib", "numpy", "flax"}
# Tools beside the package draw and measure with what they need, PyTorch included.
FREE = ROWS[-1]


def modules():
    """{dotted name: path} of all code but the tests."""
    paths = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]  # packaging
    for folder in ("dispose_jax", "converters", "configs", "benchmarks", "assets"):
        paths += (ROOT / folder).rglob("*.py")
    names = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
OURS = {"dispose_jax", "converters", "configs", "benchmarks", "assets", "train", "sample"}
OURS |= {"evaluate", "tests"}


def imports(source):
    """Dotted names that a source imports; `from package import module` gives package.module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write absolute ones"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def unit(name):
    """The member of a row that a module belongs to."""
    if name in APART:
        return name
    depth = 2 if name.startswith("dispose_jax.") else 1
    return ".".join(name.split(".")[:depth])


def within(name, place):
    return name == place or name.startswith(place + ".")


def complaints(module, source):
    """What is wrong with the imports of a module, one sentence each."""
    own = unit(module)
    for target in imports(source):
        top = target.split(".")[0]
        if top in OURS:
            wanted = unit(target)
            if wanted == own or wanted == "dispose_jax":
                continue
            if own in ONLY:
                if wanted not in ONLY[own]:
                    yield f"{module} imports {target}: {own} may import {sorted(ONLY[own])}"
            elif wanted == "configs":
                if own not in PROGRAMS:
                    yield f"{module} imports {target}: a config is passed to it"
            elif wanted not in HEIGHT:
                yield f"{module} imports {target}, which no row of ROWS holds"
            elif HEIGHT[wanted] >= HEIGHT[own]:
                yield f"{module} imports {target}: an arrow upwards or sideways"
        elif top not in sys.stdlib_module_names and top not in EVERYWHERE and own not in FREE:
            if not any(within(module, place) for place in PLACES.get(top, ())):
                yield f"{module} imports {target}: not a library for this place"


def test_every_module_has_a_row():
    members = {unit(name) for name in MODULES} - {"dispose_jax", "configs"}
    assert members <= HEIGHT.keys(), f"no row for {sorted(members - HEIGHT.keys())}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module):
    found = list(complaints(module, MODULES[module].read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dispose_jax.networks.unet", "from dispose_jax.models import bundle"),  # upwards
        ("dispose_jax.networks.unet", "import dispose_jax.diffusion.windows"),  # sideways
        ("dispose_jax.ops.resize", "from dispose_jax.types import Pose"),
        ("dispose_jax.pose.draw", "def f():\n    from dispose_jax.motion import tracks"),
        ("dispose_jax.sampling", "from converters import mapping"),
        ("converters.convert", "from dispose_jax.data import video"),
        ("configs.svd", "from dispose_jax.types import Pose"),
        ("dispose_jax.job", "from configs import svd"),
        ("sample", "from converters import convert"),
        ("dispose_jax.models.bundle", "import torch"),
        ("dispose_jax.networks.vae", "def f():\n    import cv2"),
        ("dispose_jax.pose.draw", "import onnxruntime"),
        ("dispose_jax.motion.field", "from somewhere_new import anything"),
    ],
)
def test_a_wrong_import_is_noticed(module, source):
    assert len(list(complaints(module, source))) == 1


def test_right_imports_are_accepted():
    source = "import jax\nfrom dispose_jax.ops import resize\nfrom dispose_jax.types import Pose\n"
    assert not list(complaints("dispose_jax.motion.field", source + "import math, cv2"))
    assert not list(complaints("sample", "from dispose_jax import cli\nfrom absl import flags"))
    assert not list(complaints("benchmarks.step", "import torch\nfrom configs import svd"))


def test_no_bar_goes_into_a_log():
    """tqdm draws them there too, over and over, unless it is told otherwise."""
    bars = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                bars[name, node.lineno] = {word.arg for word in node.keywords}
    assert len(bars) > 3 and all("disable" in words for words in bars.values()), bars


BLOCKED_IMPORT = """
import sys
import jax, flax.linen, numpy  # these may use SciPy themselves

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked here")

for name in [n for n in sys.modules if n.split(".")[0] in {blocked}]:
    del sys.modules[name]
sys.meta_path.insert(0, Block())
import importlib
for name in {names}:
    importlib.import_module(name)
"""


def test_model_packages_import_with_jax_flax_and_numpy_alone():
    packages = ("ops", "types", "networks", "diffusion", "models")
    names = [n for n in MODULES if unit(n).removeprefix("dispose_jax.") in packages]
    blocked = {"cv2", "av", "scipy", "PIL", "ml_collections", "grain", "torch", "transformers"}
    blocked |= {"onnxruntime", "diffusers", "optax", "orbax", "absl", "huggingface_hub", "tqdm"}
    assert len(names) > len(packages)
    code = BLOCKED_IMPORT.format(blocked=blocked, names=names)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
