"""Entry points: flags and overrides reach main, mistakes end as one line on stderr."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import sample
from dispose_jax import cli, settings

ROOT = Path(__file__).parents[1]
CONFIG = """
from configs import svd

def get_config(argument):
    config = svd.get_config()
    config.name = argument
    return config
"""


@pytest.fixture
def start(command, tmp_path):
    """start(main, *arguments) -> exit code, stdout, stderr."""
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return lambda main, *arguments: command(main, "prog.py", f"--config={path}:tiny", *arguments)


def test_a_tilde_inside_a_flag_s_value_is_the_home_folder(start, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    told = ["--output=~/a.mp4", "--weights=~/one,two,~", "--config.x=a~b", "~/rest"]
    assert settings.at_home(told) == [
        "--output=/home/somebody/a.mp4",
        "--weights=/home/somebody/one,two,/home/somebody",
        "--config.x=a~b",
        "~/rest",
    ]
    # A shell replaces the first character of a word alone.
    told = ["--weights", "/home/somebody/one,~/two", "--arms", "full=~/three", "a,~b.mp4"]
    assert settings.at_home(told) == [
        *("--weights", "/home/somebody/one,/home/somebody/two"),
        *("--arms", "full=/home/somebody/three", "a,~b.mp4"),
    ]
    received = []
    start(lambda config: received.append(sample.OUTPUT.value), "--output=~/a.mp4")
    assert received == ["/home/somebody/a.mp4"]


def test_names_that_are_not_utf8_can_be_printed():
    program = "from dispose_jax import cli; cli.run(lambda config: print('caf\\udce9.mp4'))"
    flags = "from absl import flags; flags.DEFINE_string('config', 'configs/svd.py', '')"
    command = [sys.executable, "-c", f"{flags}\n{program}"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, b"caf\\udce9.mp4\n"), done.stderr


COMPILING = """
import threading, time
from absl import flags
from dispose_jax import ahead, cli

flags.DEFINE_string("config", "configs/svd.py", "")

def main(config):
    threading.Thread(target=time.sleep, args=[60], name=ahead.NAME).start()
    raise ValueError("no such picture")

cli.program(main)
"""


@pytest.mark.parametrize("closed", ["", ">&-"])
def test_a_program_that_fails_does_not_wait_for_what_still_compiles(closed):
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", COMPILING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (1, "-c: no such picture\n")


LOSING = """
import gc, signal, time
from absl import flags
from dispose_jax import cli

flags.DEFINE_string("config", "configs/svd.py", "")

def lose(*_):
    gc.callbacks.remove(lose)
    signal.raise_signal(signal.NUMBER)

def main(config):
    gc.callbacks.append(lose)
    gc.collect()
    print("went on", flush=True)
    time.sleep(30)
    print("ended")

cli.run(main)
"""


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_that_python_drops_while_it_collects_garbage_still_interrupts(number):
    command = [sys.executable, "-c", LOSING.replace("NUMBER", number.name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 130 and "ended" not in done.stdout, done.stderr
    assert done.stderr == "-c: interrupted\n"


LONG = """
import sys, time
from pathlib import Path
from absl import flags
from dispose_jax import cli
from dispose_jax.media import output

flags.DEFINE_string("config", "configs/svd.py", "")

def main(config):
    with output.replacing(WHERE) as place:
        Path(place).write_text("half")
        print("begun")
        time.sleep(30)

cli.run(main)
"""


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_told_to_end_leaves_no_half_file_and_all_that_it_said(tmp_path, number):
    program = LONG.replace("WHERE", repr(str(tmp_path / "a.txt")))
    log, command = tmp_path / "log", [sys.executable, "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with log.open("w") as out:
        run = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
    deadline = time.monotonic() + 30
    while "begun" not in log.read_text():
        assert time.monotonic() < deadline, "the log says nothing"
        time.sleep(0.1)
    run.send_signal(number)
    code = run.wait(60)
    if number == signal.SIGKILL:
        assert (code, log.read_text()) == (-9, "begun\n")
    else:
        assert (code, log.read_text()) == (130, "begun\n-c: interrupted\n")
        assert [*tmp_path.iterdir()] == [log]


@pytest.mark.parametrize("text", ["3/3", "1", "1/0", "-1/4", "a/b", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    assert cli.parse_shard("7/8") == (7, 8)
    with pytest.raises(ValueError, match=f"--shard {text}: expected i/n with i from 0 to n - 1"):
        cli.parse_shard(text)


@pytest.mark.parametrize(
    "program", ["sample.py", "dispose_jax/data/prepare.py", "dispose_jax/evaluation/paper.py"]
)
def test_all_commands_count_shards_alike(program):
    text = (ROOT / program).read_text(encoding="utf-8")
    assert 'flags.DEFINE_string("shard", "0/1", cli.SHARD)' in text
    assert text.count("cli.parse_shard(") == 1


def test_what_main_hears_of_late_failures_is_heard_until_the_program_has_ended(start, monkeypatch):
    """Orbax's reading tells of its failure once more when the program ends."""
    usual, own = sys.unraisablehook, lambda late: None
    monkeypatch.setattr(sys, "unraisablehook", usual)  # put back afterwards
    start(lambda config: setattr(sys, "unraisablehook", own))
    assert sys.unraisablehook is own
    sys.unraisablehook = usual
    start(lambda config: None)
    assert sys.unraisablehook is usual


def raising(error):
    def main(config):
        raise error

    return main


def test_main_receives_the_config_of_the_flag(start):
    received = []
    assert start(received.append) == (0, "", "")
    assert [config.name for config in received] == ["tiny"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--colour=red",
            "Unknown command line flag 'colour'; settings are given as --config.NAME=VALUE, what "
            "chooses among configurations as --config FILE:NAME=VALUE",
        ),
        ("--solver=x", "flag 'solver'; did you mean --config.sample.solver?"),
        ("--train.solver=x", "flag 'train.solver'; did you mean --config.sample.solver?"),
        ("--confi=x", "flag 'confi'. Did you mean: config ?"),
        ("--output=https://host/a.mp4", "download the file, or mount the bucket"),
        ("stray", "unexpected argument 'stray'"),
        ("--config=absent.py", "absent.py: no such file"),
        ("--config.x=1", "--config.x: there is no such setting"),
        ("--output=gs://bucket/a.mp4", "--output gs://bucket/a.mp4: only paths of this machine"),
        ("--reference=", "--reference is empty: give it a value, or leave it out"),
        ("--weights=", "--weights is empty: give it a value, or leave it out"),
        ("--weights=,runs/a", "--weights is ',runs/a': a part of it is empty; give it a value, or"),
        ("--weights=a,s3://b/c", "--weights s3://b/c: only paths of this machine"),
        ("--config.data.source=gs://b/set", "--config.data.source gs://b/set: only paths"),
    ],
)
def test_wrong_flags_end_with_code_2_before_main(start, argument, message):
    code, out, err = start(raising(AssertionError("main was called")), argument)
    assert code == 2
    assert err.startswith("prog.py: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_a_setting_of_a_flags_name_is_meant_rather_than_a_flag_of_nearly_that_name(start):
    """The nearest of sample.py's flags to --height is --weights."""
    code, _, err = start(raising(AssertionError), f"--config={ROOT}/configs/svd.py", "--height=512")
    assert code == 2
    assert err == (
        "prog.py: Unknown command line flag 'height'; did you mean --config.sample.height or "
        "--config.train.height?\n"
    )


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
        (RuntimeError("Unable to initialize backend 'tpu': none"), 1, "JAX_PLATFORMS is '"),
        (RuntimeError("Unknown backend: 'rocm' requested"), 1, "JAX_PLATFORMS is '"),
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
    assert (code, err) == (0, "")
    assert "--config.KEY=VALUE" in out


def test_a_user_without_a_home_has_no_compile_cache_and_is_served_all_the_same(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cli.Path, "home", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert cli._cache() == Path("/a/dispose_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cli._cache() is None
    was = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(cli, "CACHE", cli._cache())
    cli.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == was


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
        compilation_cache.reset_cache()

        def little(x):
            return x + 1

        jax.jit(little)(2)
        kept = [file.name for file in (tmp_path / "a" / "cache").iterdir()]
        assert any(name.startswith("jit_little") for name in kept), "however fast it compiled"
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(cli, "CACHE", tmp_path / "file" / "cache")
        cli.use_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", was[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", was[1])
        compilation_cache.reset_cache()
