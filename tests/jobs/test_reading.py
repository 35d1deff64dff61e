"""A file of jobs: what it may say."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

import sample
from dispose_jax import jobs
from tests import small
from tests.jobs.given import POSES, asked, go, write


def test_a_line_is_a_clip_with_its_own_files_seed_and_settings(tmp_path):
    more = {"seed": 7, "sample": {"steps": 3, "guidance_scale": [1, 2], "fps": 12.5}}
    path = write(tmp_path, asked(tmp_path, "a.mp4"), "", asked(tmp_path, "b.mp4", **more))
    first, second = jobs.read(path)
    assert (first.number, second.number) == (1, 3)
    assert first.sources.files.keys() == {"reference", "reference_pose", "poses"}
    assert second.output == tmp_path / "b.mp4"
    config = small.config("base")
    assert first.config_of(config).to_dict() == config.to_dict()
    own = second.config_of(config)
    assert (own.seed, own.sample.steps, own.sample.fps) == (7, 3, 12.5)
    assert own.sample.guidance_scale == (1, 2)
    assert config.seed == 42, "the run's config stays as it is"


def test_names_are_read_as_they_stand_but_for_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = {"reference": "~/ä\u2028\x85.png", "poses": POSES, "output": "~ b.mp4"}
    path = tmp_path / "jobs.jsonl"
    path.write_text(f"{json.dumps(line, ensure_ascii=False)}\r\n", encoding="utf-8")
    (found,) = jobs.read(path)
    assert found.sources.reference == tmp_path / "ä\u2028\x85.png"
    assert str(found.output) == "~ b.mp4"


def test_links_in_a_circle_fail_where_they_are_read(tmp_path, fake, config):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    lines = {**asked(tmp_path, "a.mp4"), "reference": str(loop)}, asked(loop, "b.mp4")
    said = []
    with pytest.raises(ValueError, match="1 of 3 jobs failed, of lines 2;"):
        go(config, write(tmp_path, *lines, asked(tmp_path, "c.mp4")), said)
    assert any("b.mp4: cannot make its folder: " in sentence for sentence in said)


MISTAKES = [
    ("{", "line 1: not JSON"),
    ("[1]", "line 1: expected an object"),
    ({"output": "a.mp4", "drivng": "x"}, "line 1: 'drivng' is none of reference, "),
    ({"driving": "x.mp4"}, "line 1: has no output"),
    ({"output": "gs://b/a.mp4"}, "line 1: output gs://b/a.mp4: only paths of this machine"),
    ({"output": 3}, "line 1: output is 3: expected a file's name"),
    ({"output": "a\0.mp4"}, "line 1: output is 'a\\x00.mp4': expected a file's name"),
    ({"output": "a\ud800.mp4"}, "line 1: output is 'a\\ud800.mp4': expected a file's name"),
    ("[" * 100_000, "line 1: not JSON: maximum recursion depth"),
    ('{"output": "a.mp4", "seed": 1, "seed": 2}', "line 1: not JSON: 'seed' stands in it twice"),
    ({"output": "a.mp4", "seed": "x"}, "line 1: seed is 'x': expected a whole number"),
    ({"output": "a.mp4", "seed": True}, "line 1: seed is True: expected a whole number"),
    ({"output": "a.mp4", "sample": 3}, "line 1: sample is 3: expected an object"),
    ({"output": "a.avi"}, "line 1: output is 'a.avi': expected a name ending in .mp4"),
    ({"output": "a.mp4", "poses": "x"}, "line 1: has no reference; name the picture"),
    ({"output": "a.mp4", "reference": "x"}, "line 1: has neither driving nor poses; name one"),
    ("", "holds no job"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_line_before_any_work(tmp_path, line, message):
    with pytest.raises(ValueError, match="--jobs .*jobs.jsonl") as error:
        jobs.read(write(tmp_path, line))
    assert message in str(error.value)


def test_two_lines_that_write_one_file_are_refused(tmp_path):
    path = write(tmp_path, asked(tmp_path, "a.mp4"), asked(tmp_path, "x/../a.mp4"))
    with pytest.raises(ValueError, match="line 2: with .* goes a.mp4, which line 1 writes too"):
        jobs.read(path)
    path = write(tmp_path, asked(tmp_path, "a.mp4"), asked(tmp_path, "a.explain.mp4"))
    with pytest.raises(ValueError, match="line 2: with .* goes a.explain.mp4, which line 1 writes"):
        jobs.read(path)


def test_what_is_read_is_not_written_over(tmp_path):
    poses = tmp_path / "p.json"
    lines = asked(tmp_path, "p.mp4"), {**asked(tmp_path, "b.mp4"), "poses": str(poses)}
    with pytest.raises(ValueError, match="line 2: line 1 would write over .*p.json"):
        jobs.read(write(tmp_path, *lines))
    chain = asked(tmp_path, "a.mp4"), {**asked(tmp_path, "b.mp4"), "driving": f"{tmp_path}/a.mp4"}
    assert len(jobs.read(write(tmp_path, *chain))) == 2
    with pytest.raises(ValueError, match="line 1: line 2 would write over .*a.mp4"):
        jobs.read(write(tmp_path, *chain[::-1]))
    path = tmp_path / "jobs.json"
    path.write_text("\ufeff" + json.dumps(asked(tmp_path, "jobs.mp4")))  # as editors of Windows do
    with pytest.raises(ValueError, match="jobs.json: line 1 would write over"):
        jobs.read(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: cannot read this file: No such file"):
        jobs.read(tmp_path / "absent")


def test_shards_share_the_jobs_and_leave_none_out(tmp_path, config, monkeypatch):
    path, parts = write(tmp_path, *(asked(tmp_path, f"{i}.mp4") for i in range(7))), []
    monkeypatch.setattr(jobs, "run", lambda config, given, lines, *rest: parts.append(lines))
    for given in ({"shard": "0/3"}, {"shard": "1/3"}, {"shard": "2/3"}, {}):
        with flagsaver.flagsaver():
            flags.FLAGS.mark_as_parsed()
            with flagsaver.flagsaver(jobs=str(path), weights=["random"], **given):
                sample.main(config)
    numbers = [[line.number for line in part] for part in parts]
    assert numbers == [[1, 4, 7], [2, 5], [3, 6], [*range(1, 8)]]
