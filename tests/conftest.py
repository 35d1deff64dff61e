"""Test-wide settings: eight CPU devices, full float32 products, and programs that compile fast."""

import os
import signal
import sys
from pathlib import Path

# Where Python is told to keep no bytecode, each of the many processes here would compile what it
# imports anew: two thirds of its start. pytest's own folder keeps it.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")

# Compiling is most of what the default tests cost, and this takes two thirds of that away.
# Programs compute the same, only slower, so the heavy tests go without.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_force_inline_before_split": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def pytest_configure(config):
    """Before anything compiles. XLA ends a process at a flag that it does not know, so other
    versions than the one whose flags these are compile as always."""
    if config.option.markexpr == "not full" and jax.__version_info__[:2] == (0, 10):
        quick = (f"--{name}={str(value).lower()}" for name, value in QUICK.items())
        os.environ["XLA_FLAGS"] = " ".join([os.environ["XLA_FLAGS"], *quick])


def pytest_ignore_collect(collection_path, config):
    """Files of heavy tests alone are not even imported for the others: some begin with PyTorch."""
    if config.option.markexpr == "not full" and collection_path.suffix == ".py":
        return "\npytestmark = pytest.mark.full\n" in collection_path.read_text() or None
    return None


@pytest.fixture
def foreground():
    """Ctrl-C and a closed terminal end what a test starts, as where a user types: in the background
    of a script, or after nohup, whole suites and all that they start ignore them."""
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(monkeypatch, capsys):
    """command(main, "name.py", *arguments) -> exit code, stdout, stderr: a command as a shell runs
    it, in this process and without a cache of its own."""
    from dispose_jax import cli

    monkeypatch.setattr(cli, "use_compile_cache", lambda: None)

    def run(main, name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = 0
        with flagsaver.flagsaver():
            try:
                cli.run(main)
            except SystemExit as ended:
                code = ended.code
        return code, *capsys.readouterr()

    return run
