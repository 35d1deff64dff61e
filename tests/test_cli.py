"""Entry points: flags and overrides reach main, mistakes end as one line on stderr."""

import sys

import jax
import pytest
from absl.testing import flagsaver

import sample  # noqa: F401 for its flags
from dispose_jax import cli

CONFIG = "def get_config(argument):\n    return {'argument': argument}\n"


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """start(main, *arguments) -> (exit code or None, stdout, stderr)."""
    monkeypatch.setattr(cli, "use_compile_cache", lambda: None)
    path = tmp_path / "config.py"
    path.write_text(CONFIG)

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["prog.py", f"--config={path}:tiny", *arguments])
        code = None
        with flagsaver.flagsaver():
            try:
                cli.run(main)
            except SystemExit as ended:
                code = ended.code
        return code, *capsys.readouterr()

    return run


def raising(error):
    def main(config):
        raise error

    return main


def test_main_receives_the_config_of_the_flag(start):
    received = []
    assert start(received.append) == (None, "", "")
    assert received == [{"argument": "tiny"}]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--colour=red", "Unknown command line flag 'colour'"),
        ("stray", "unexpected argument 'stray'"),
        ("--config=absent.py", "absent.py: no such file"),
        ("--config.x=1", "--config.x: there is no such setting"),
    ],
)
def test_wrong_flags_end_with_code_2_before_main(start, argument, message):
    code, out, err = start(raising(AssertionError("main was called")), argument)
    assert code == 2
    assert err.startswith("prog.py: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("ref.png: not a picture"), 1, "ref.png: not a picture"),
        (OSError("disk full"), 1, "disk full"),
        (ValueError("one\n  two"), 1, "one two"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory: choose a smaller size"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            1,
            "out of memory: choose a smaller size",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_without_traceback(start, error, code, line):
    found, out, err = start(raising(error))
    assert found == code
    assert err.startswith(f"prog.py: {line}")
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), jax.errors.JaxRuntimeError("x")])
def test_defects_keep_their_traceback(start, error):
    with pytest.raises(type(error)):
        start(raising(error))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_without_a_config(start, flag):
    code, out, err = start(raising(AssertionError("main was called")), flag, "--config=absent.py")
    assert (code, err) == (None, "")
    assert "--config.KEY=VALUE" in out


def test_the_compile_cache_is_private_and_optional(monkeypatch, tmp_path):
    was = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    try:
        monkeypatch.setattr(cli, "CACHE", tmp_path / "a" / "cache")
        cli.use_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "cache")
        assert (tmp_path / "a" / "cache").stat().st_mode & 0o077 == 0
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(cli, "CACHE", tmp_path / "file" / "cache")
        cli.use_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", was[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", was[1])
