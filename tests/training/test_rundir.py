"""The directory of a run: what it records, and when it may be continued."""

import errno
import json

import pytest

from dispose_jax.data import records
from dispose_jax.training import metrics, rundir
from tests.training import toy

WEIGHTS = {"unet": "a" * 64}


@pytest.fixture
def claim(tmp_path):
    """claim(change, weights, free=True, learns=True) in tmp_path / "run"; learns: and measures."""

    def go(change=lambda config: None, weights=WEIGHTS, free=True, learns=True, **train):
        config = toy.config(**train)
        change(config)
        lock = rundir.claim(tmp_path / "run", config, weights)
        if free:
            lock.close()
        if learns:
            (tmp_path / "run" / metrics.FILE).touch()
        return lock

    return go


def read(tmp_path, name):
    return json.loads((tmp_path / "run" / name).read_text())


def test_a_run_records_settings_weights_versions_and_every_start(claim, tmp_path):
    claim()
    claim(steps=9)
    about = read(tmp_path, rundir.ABOUT)
    assert about["weights"] == WEIGHTS and len(about["starts"]) == 2
    start = about["starts"][0]
    assert start["versions"]["jax"] and start["processes"] == 1 and "cpu" in start["devices"]
    assert start["git"] is None or len(start["git"].rstrip("+")) == 40
    assert read(tmp_path, rundir.CONFIG)["train"]["steps"] == 9


@pytest.mark.parametrize(
    "name, value",
    [("seed", 1), ("train.learning_rate", 1.0), ("train.batch", 4), ("train.accumulate", 2)]
    + [("sample.conditioning_fps", 9), ("sample.motion_bucket", 1), ("sample.control_scale", 2.0)],
)
def test_other_settings_are_refused_with_both_values(claim, name, value):
    claim()
    with pytest.raises(
        ValueError, match=f"other settings .*{name} was .*, is {value}; give|{name}"
    ):
        claim(lambda config: config.update_from_flattened_dict({name: value}))


def test_a_run_that_learnt_nothing_may_begin_with_other_settings(claim, tmp_path):
    """As what helps a run whose first step did not fit the memory."""
    claim(learns=False)
    claim(accumulate=2, weights={}, learns=False)
    assert read(tmp_path, rundir.CONFIG)["train"]["accumulate"] == 2
    assert read(tmp_path, rundir.ABOUT)["weights"] == {}
    for learnt in ("checkpoints/7", "bundle"):
        (tmp_path / "run" / learnt).mkdir(parents=True)
        with pytest.raises(ValueError, match="train.accumulate was 2, is 1"):
            claim(weights={}, learns=False)
        (tmp_path / "run" / learnt).rmdir()
    (tmp_path / "run" / rundir.ABOUT).unlink()  # some program's folder with a config.json
    with pytest.raises(ValueError, match="cannot be read"):
        claim(accumulate=2, weights={}, learns=False)


def test_without_locks_a_run_that_learnt_nothing_yet_may_be_going_on(claim, monkeypatch):
    """As on a cluster's disk: tasks of one job that were given one directory by mistake."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(rundir.fcntl, "flock", refuse)
    claim(learns=False)
    claim(learns=False)
    with pytest.raises(ValueError, match="train.accumulate was 1, is 2"):
        claim(accumulate=2, learns=False)


def test_a_run_of_a_version_with_other_settings_is_told_apart(claim, tmp_path):
    """A setting that is new was told as changed from None, and nobody could give that."""
    claim()
    known = read(tmp_path, rundir.CONFIG)
    del known["train"]["face_weight"]
    known["train"]["eye_weight"] = 2.0
    (tmp_path / "run" / rundir.CONFIG).write_text(json.dumps(known))
    message = (
        r"\(it was begun by a version that differs in train.eye_weight, train.face_weight\); "
        "give the same ones to the version in its run.json to continue it, or name another"
    )
    with pytest.raises(ValueError, match=message):
        claim()


@pytest.mark.parametrize(
    "name, value",
    [("train.log_every", 5), ("train.mesh.fsdp", 2), ("train.remat", "layer"), ("train.keep", 9)]
    + [("train.steps", 7), ("data.workers", 2), ("sample.steps", 3)],
)
def test_what_changes_no_number_may_change(claim, name, value):
    claim()
    claim(lambda config: config.update_from_flattened_dict({name: value}))


def test_how_many_drawn_people_are_held_out_changes_nothing_that_is_learnt(claim):
    claim()
    claim(lambda config: config.data.update({"held_out": 3}))


def test_other_weights_are_refused(claim):
    claim()
    with pytest.raises(ValueError, match="the weights of unet are others"):
        claim(weights={"unet": "b" * 64})
    with pytest.raises(ValueError, match="the weights of vae are others"):
        claim(weights={**WEIGHTS, "vae": "random"})


def test_what_is_no_run_is_left_alone(claim, tmp_path):
    (tmp_path / "run").write_text("hello")
    with pytest.raises(ValueError, match="run: is a file; name a directory"):
        claim()
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("hello")
    with pytest.raises(ValueError, match="run: holds something that is no run; name another"):
        claim()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [rundir.CONFIG, rundir.ABOUT])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_damaged_records_are_refused(claim, tmp_path, name, content):
    claim()
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match="cannot be read|holds a run with other settings"):
        claim()


def test_a_run_killed_on_its_first_line_can_start_again(claim, tmp_path):
    claim(learns=False)
    (tmp_path / "run" / rundir.CONFIG).rename(tmp_path / "run" / ".config.123.json")
    claim()


def test_two_runs_cannot_work_in_one_directory(claim):
    lock = claim(free=False)
    with pytest.raises(ValueError, match="run: another process is training in it"):
        claim()
    lock.close()
    claim()


def test_a_folder_that_cannot_be_written_is_one_sentence(claim, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rundir.output, "write_json", full)
    with pytest.raises(OSError, match="run: cannot write this file: No space left on device"):
        claim()


def test_a_prepared_set_may_move_but_not_change(claim, tmp_path):
    def made(name, size=5):
        folder = tmp_path / name
        folder.mkdir()
        (folder / records.META).write_text(json.dumps({"format": records.FORMAT}))
        (folder / records.file_name("a.mp4", 3)).write_bytes(bytes(size))
        return lambda config: config.data.update({"source": str(folder)})

    claim(made("set"))
    (tmp_path / "set").rename(tmp_path / "moved")
    claim(lambda config: config.data.update({"source": str(tmp_path / "moved")}))
    assert read(tmp_path, rundir.CONFIG)["data"]["source"] == str(tmp_path / "moved")
    moved = {"source": str(tmp_path / "moved"), "held_out": 3}
    with pytest.raises(ValueError, match="data.held_out was 16, is 3"):
        claim(lambda config: config.data.update(moved))
    with pytest.raises(ValueError, match="the prepared set .*other is another one or was changed"):
        claim(made("other", size=6))
    with pytest.raises(ValueError, match="data.source was .*moved', is 'synthetic'"):
        claim(lambda config: config.data.update({"source": "synthetic"}))
