"""Jobs of a file: what a repetition does again, what a failure leaves, who makes what."""

import errno
import json
import os
import shutil

import pytest

import sample
from dispose_jax import job, jobs, provenance, settings
from dispose_jax.inputs.sources import Sources
from dispose_jax.models import bundle
from tests.jobs.given import REFERENCE, asked, go, write


def test_twenty_jobs_killed_and_repeated_leave_what_each_alone_would(tmp_path, fake, config):
    names = [f"{i}.mp4" for i in range(20)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    for i, name in enumerate(names):
        go(config, write(tmp_path, asked(alone, name, seed=i // 5)))
    made = len(fake.made)
    path = write(tmp_path, *(asked(together, name, seed=i // 5) for i, name in enumerate(names)))
    fake.die = "9.mp4"
    with pytest.raises(KeyboardInterrupt):
        go(config, path)
    assert fake.made[made:] == names[:9]
    fake.die, said = None, []
    go(config, path, said)
    assert fake.made[made + 9 :] == names[9:], "what was finished is not made again"
    assert sum("finished before" in sentence for sentence in said) == 9
    for name in names:
        assert (together / name).read_bytes() == (alone / name).read_bytes()


def test_processes_with_the_same_jobs_make_each_once(tmp_path, fake, config, monkeypatch):
    """Both made all of them, one after the other at the same time."""
    path = write(tmp_path, *(asked(tmp_path / "out", name) for name in ("a.mp4", "b.mp4")))
    said, others = [], []

    def run(work):
        monkeypatch.setattr(job, "run", fake.run)
        go(config, path, others)  # what a second process does while the first one makes a.mp4
        fake.run(work)

    monkeypatch.setattr(job, "run", run)
    go(config, path, said)
    assert fake.made == ["b.mp4", "a.mp4"]
    assert others[-3].endswith("a.mp4 (line 1, 1 of 2): another process is making it")
    assert others[-1].startswith("1 of 2 jobs left to other processes, of lines 1; ")
    assert said[-1].endswith("b.mp4 (line 2, 2 of 2): finished before")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *(f"{name}.{ending}" for name in "ab" for ending in ("mp4", "json"))
    }, "no locks"


def test_what_a_process_finished_while_this_one_looked_is_not_made_again(
    tmp_path, fake, config, monkeypatch
):
    path, said, look = write(tmp_path, asked(tmp_path, "a.mp4")), [], jobs.finished
    looks = []

    def late(*given):
        looks.append(given)
        if len(looks) == 3:  # at the start, before the lock, and with it
            monkeypatch.setattr(jobs, "finished", look)
            (tmp_path / ".a.mp4.lock").unlink()  # as of a process that is through
            go(config, path)
        return look(*given)

    monkeypatch.setattr(jobs, "finished", late)
    go(config, path, said)
    assert fake.made == ["a.mp4"] and said[-1].endswith("finished meanwhile")


def test_a_lock_that_its_holder_removed_while_another_took_it_is_taken_anew(tmp_path, monkeypatch):
    """Whoever had opened it held what nobody else looked at, so that two made one video."""
    video, lock, flock = tmp_path / "a.mp4", tmp_path / ".a.mp4.lock", jobs.fcntl.flock

    def late(file, how):
        monkeypatch.setattr(jobs.fcntl, "flock", flock)
        lock.unlink()  # as of a process that is through, between the opening and this
        flock(file, how)

    monkeypatch.setattr(jobs.fcntl, "flock", late)
    with jobs._claimed(video) as one, jobs._claimed(video) as other:
        assert one and not other
    assert not lock.exists()


def test_what_another_process_makes_is_awaited_by_the_lines_that_need_it(
    tmp_path, fake, config, monkeypatch
):
    """They failed for want of it, or took what an earlier run had left there."""
    (tmp_path / "a.mp4").touch()  # of an earlier run
    second = {**asked(tmp_path, "b.mp4"), "driving": str(tmp_path / "a.mp4")}
    third = {**asked(tmp_path, "c.mp4"), "driving": str(tmp_path / "x" / ".." / "b.mp4")}
    path = write(tmp_path, asked(tmp_path, "a.mp4"), second, third, asked(tmp_path, "d.mp4"))
    others = []

    def run(work):
        monkeypatch.setattr(job, "run", fake.run)
        go(config, path, others)
        fake.run(work)

    monkeypatch.setattr(job, "run", run)
    go(config, path)
    assert fake.made == ["d.mp4", "a.mp4", "b.mp4", "c.mp4"]
    told = [line for line in others if line.endswith("which it needs")]
    assert (
        len(told) == 2
        and f"b.mp4 (line 2, 2 of 4): another process is making {tmp_path}/a.mp4" in told[0]
    )
    assert others[-1].startswith("3 of 4 jobs left to other processes, of lines 1, 2, 3; ")


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path, fake, config):
    (tmp_path / ".a.mp4.lock").touch()
    go(config, write(tmp_path, asked(tmp_path, "a.mp4")))
    assert fake.made == ["a.mp4"] and not (tmp_path / ".a.mp4.lock").exists()


def test_where_a_disk_has_no_locks_all_is_made(tmp_path, fake, config, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(jobs.fcntl, "flock", none)
    go(config, write(tmp_path, asked(tmp_path, "a.mp4")))
    assert fake.made == ["a.mp4"]


def test_one_animator_serves_lines_but_of_another_seed_of_random_weights(tmp_path, fake, config):
    lines = [asked(tmp_path, f"{i}.mp4") for i in range(3)]
    lines.append(asked(tmp_path, "other.mp4", sample={"steps": 2}))
    lines.append(asked(tmp_path, "seed.mp4", seed=3, sample={"steps": 2}))
    go(config, write(tmp_path, *lines))
    first, *same, other, drawn = fake.animators
    assert all(one.weights is first.weights for one in (*same, other))
    assert other.sampler.steps == 2
    assert drawn.weights is not other.weights, "random networks are those of the seed"


def test_a_failed_job_is_told_and_the_rest_is_done(tmp_path, fake, config):
    lines = [asked(tmp_path, "a.mp4"), asked(tmp_path, "bad.mp4"), asked(tmp_path, "c.mp4")]
    said = []
    with pytest.raises(ValueError, match="1 of 3 jobs failed, of lines 2"):
        go(config, write(tmp_path, *lines), said)
    assert fake.made == ["a.mp4", "c.mp4"]
    assert any("failed: these files do not go together" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "line 3: --config.sample.stepz: .*did you mean --config.sample.steps"),
        ({"steps": "x"}, "line 3: --config.sample.steps is 'x': expected a whole number"),
        ({"steps": 0}, "line 3: sample.steps is 0: expected 1 or more"),
        ({"resolution": 128}, "line 3: --config.sample.resolution changes nothing where"),
    ],
)
def test_a_setting_that_is_none_is_told_before_the_first_job(
    tmp_path, fake, config, values, message
):
    lines = [asked(tmp_path, f"{i}.mp4") for i in range(2)]
    with pytest.raises(ValueError, match=message):
        go(config, write(tmp_path, *lines, asked(tmp_path, "c.mp4", sample=values)))
    assert fake.made == []


def test_what_would_fail_all_jobs_is_said_once_and_of_no_line(tmp_path, fake, config):
    path = write(tmp_path, asked(tmp_path, "a.mp4"), asked(tmp_path, "b.mp4"))
    wrong = config.copy_and_resolve_references()
    wrong.sample.steps = 0
    with pytest.raises(ValueError, match="^sample.steps is 0"):
        go(wrong, path)
    with pytest.raises(ValueError, match="^absent: no such folder"):
        jobs.run(config, ("absent",), jobs.read(path), say=(said := []).append)
    assert not said and fake.made == []


def test_files_that_are_not_there_are_told_before_the_first_job(tmp_path, fake, config):
    first, absent = asked(tmp_path, "a.mp4"), f"{tmp_path}/absent.json"
    chained = {**asked(tmp_path, "b.mp4"), "driving": f"{tmp_path}/a.mp4"}
    lines = first, chained, {**asked(tmp_path, "c.mp4"), "reference_pose": absent}
    lines = *lines, {**asked(tmp_path, "e.mp4"), "reference": "e" * 300}  # which no file can have
    detected = {key: value for key, value in first.items() if key != "poses"}
    lines = *lines, {**detected, "driving": f"{tmp_path}/a.mp4", "output": f"{tmp_path}/d.mp4"}
    said = []
    go(config, write(tmp_path, *lines), said)
    ahead = [sentence for sentence in said if sentence.startswith("warning")]
    assert [said.index(sentence) for sentence in ahead] == [1, 2, 3], "after the random weights"
    assert f"line 3 will fail as things are: reference_pose {absent}: no such file" in ahead[0]
    assert "line 4 will fail as things are: reference eee" in ahead[1]
    assert "line 5 will fail as things are: keypoints are not given" in ahead[2]
    assert len(fake.made) == 5, "they may have come meanwhile"
    (tmp_path / "d.mp4").unlink()
    (tmp_path / "d.keypoints.safetensors").touch()
    go(config, write(tmp_path, lines[-1]), said := [])
    assert not any("as things are" in sentence for sentence in said), "found by an earlier run"


def test_what_many_lines_lack_is_told_once(tmp_path, fake, config):
    poses = str(tmp_path / "absent.json")
    asks = [asked(tmp_path, f"{i}.mp4") for i in range(7)]
    lines = [
        {key: value for key, value in line.items() if key != "reference_pose"} for line in asks
    ]
    lines[1]["poses"] = lines[3]["poses"] = poses
    go(config, write(tmp_path, *lines), said := [])
    assert [sentence for sentence in said if "as things are" in sentence] == [
        "warning: lines 1, 2, 3, 4, 5 and 2 more will fail as things are: keypoints are not given, "
        "and no weights folder holds DWPose's files",
        f"warning: lines 2, 4 will fail as things are: poses {poses}: no such file",
    ]


def test_weights_are_kept_for_lines_of_other_settings(tmp_path, fake, config):
    more = [{}, {"steps": 2}, {"fps": 5}, {"steps": 2}, {"dtype": "bfloat16"}]
    lines = [asked(tmp_path, f"{i}.mp4", sample=values) for i, values in enumerate(more)]
    go(config, write(tmp_path, *lines))
    *same, other = (one.weights for one in fake.animators)
    assert all(one is same[0] for one in same) and other is not same[0], "of another type"
    assert all(one.recent is fake.animators[0].recent for one in fake.animators), "keypoints too"
    assert [one.sampler.steps for one in fake.animators] == [1, 2, 1, 2, 1]


def test_a_defect_leaves_its_traceback_and_the_rest_is_done(tmp_path, fake, config, capsys):
    lines = [asked(tmp_path, name) for name in ("a.mp4", "defect.mp4", "c.mp4")]
    said = []
    with pytest.raises(ValueError, match="1 of 3 jobs failed, of lines 2"):
        go(config, write(tmp_path, *lines), said)
    assert fake.made == ["a.mp4", "c.mp4"]
    assert any("defect.mp4" in one and "should not be (KeyError)" in one for one in said)
    assert "Traceback" in capsys.readouterr().err


def test_no_device_is_no_single_job_s_fault(tmp_path, fake, config, monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jobs.jax, "devices", none)
    with pytest.raises(RuntimeError, match="Unable to initialize backend"):
        go(config, write(tmp_path, asked(tmp_path, "a.mp4")), said := [])
    assert not said


def test_what_changed_since_is_made_again(tmp_path, fake, config):
    reference = tmp_path / "reference.png"
    shutil.copy(REFERENCE, reference)
    path = write(tmp_path, {**asked(tmp_path, "a.mp4"), "reference": str(reference)})
    go(config, path)
    go(config, path)
    assert fake.made == ["a.mp4"]
    os.utime(reference, (2e9, 2e9))
    go(config, path)
    assert fake.made == ["a.mp4"] * 2, "a newer source"
    record = json.loads((tmp_path / "a.json").read_text())
    record.pop("files")
    (tmp_path / "a.json").write_text(json.dumps(record))  # as earlier versions wrote it
    go(config, path)
    assert fake.made == ["a.mp4"] * 3, "a newer source"
    shutil.copy(REFERENCE, tmp_path / "another.png")
    os.utime(tmp_path / "another.png", (1e9, 1e9))
    os.replace(tmp_path / "another.png", reference)
    go(config, path)
    assert fake.made == ["a.mp4"] * 4, "another source, which is older"
    other = config.copy_and_resolve_references()
    settings.override(other, "sample.steps", "2")
    go(other, path)
    assert fake.made == ["a.mp4"] * 5, "another setting"
    (tmp_path / "a.mp4").unlink()
    go(other, path)
    assert fake.made == ["a.mp4"] * 6, "a video that is gone"


def test_other_weights_in_the_same_place_make_other_videos(tmp_path, fake, config):
    description = tmp_path / "bundle" / bundle.DESCRIPTION
    description.parent.mkdir()
    lines = jobs.read(write(tmp_path, asked(tmp_path, "a.mp4")))
    done = lambda: jobs.finished(lines[0], config, (str(description.parent),), False)
    for content in ("first", "second"):
        description.write_text(content)
        assert not done()
        about = provenance.asked(config, lines[0].sources, [str(description.parent)])
        (tmp_path / "a.json").write_text(json.dumps(about))
        (tmp_path / "a.mp4").touch()
        assert done()


def test_a_real_job_of_a_file_equals_the_job_alone(tmp_path, config):
    lines = jobs.read(write(tmp_path, asked(tmp_path, "a.mp4"), asked(tmp_path, "b.mp4")))
    said = []
    jobs.run(config, ("random",), lines, say=said.append)
    sources = Sources(*sample.DEMO)
    job.run(job.Job(config, ("random",), sources, tmp_path / "alone.mp4", say=said.append))
    whole = (tmp_path / "alone.mp4").read_bytes()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes() == whole
    assert jobs.finished(lines[0], config, ("random",), False)
