"""What latents depend on, and how they are kept."""

import os
import subprocess
from fractions import Fraction

import numpy as np
import pytest

from configs import svd
from dispose_jax import provenance, settings
from dispose_jax.clip import Clip
from tests import small


def clip(**changed):
    parts = {
        "reference": small.pictures(1)[0],
        "pose": small.pose(3),
        "skeletons": small.pictures(3),
        "look": {},
        "shown": small.SIZE,
        "fps": Fraction(15),
        "fit": None,
        "warnings": [],
    }
    return Clip(**{**parts, **changed})


def config(**sample):
    config = svd.get_config("size=tiny")
    config.sample.update(sample)
    return config


def test_the_same_run_has_the_same_fingerprint():
    assert provenance.fingerprint(config(), clip(), ()) == provenance.fingerprint(
        config(), clip(), ()
    )


@pytest.mark.parametrize("values", [{"decode_chunk": 3}, {"decode_rest": "short"}, {"fps": 25.0}])
def test_what_comes_after_the_latents_does_not_matter(values):
    expected = provenance.fingerprint(config(), clip(), ())
    assert provenance.fingerprint(config(**values), clip(), ()) == expected
    other_rate = clip(fps=Fraction(25))
    assert provenance.fingerprint(config(), other_rate, ()) == expected


def test_all_that_latents_come_from_matters(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "bundle.json").write_text(folder.name)
    reference, pose = small.pictures(1)[0].copy(), small.pose(3)
    reference[0, 0, 0] ^= 1
    other_seed = config()
    other_seed.seed = 1
    prints = [
        provenance.fingerprint(config(), clip(), ()),
        provenance.fingerprint(config(steps=3), clip(), ()),
        provenance.fingerprint(config(guidance_scale=(1.0, 3.0)), clip(), ()),
        provenance.fingerprint(other_seed, clip(), ()),
        provenance.fingerprint(config(), clip(reference=reference), ()),
        provenance.fingerprint(config(), clip(pose=pose.replace(body=pose.body + 1e-9)), ()),
        provenance.fingerprint(config(), clip(), folders),
        provenance.fingerprint(config(), clip(), folders[::-1]),
    ]
    assert len(set(prints)) == len(prints)


def test_latents_are_given_back_to_the_same_run_only(tmp_path):
    path = tmp_path / "l.safetensors"
    latents = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 5))
    assert provenance.saved_latents(path, "run") is None
    provenance.save_latents(path, latents, "run")
    np.testing.assert_array_equal(provenance.saved_latents(path, "run"), latents)
    assert provenance.saved_latents(path, "another") is None


@pytest.mark.parametrize("share", [0, 0.1, 0.9])
def test_latents_that_are_not_whole_are_none(tmp_path, share):
    path = tmp_path / "l.safetensors"
    provenance.save_latents(path, np.ones((1, 2, 3, 4, 5)), "run")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert provenance.saved_latents(path, "run") is None


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, which holds the folder that the package is said to be in; its
    `git`."""
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    package = tmp_path / "dispose_jax"
    package.mkdir()
    (package / "code.py").write_text("1")
    (tmp_path / "other.txt").write_text("1")

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    git("add", "other.txt")
    git("commit", "-m", "one")
    return git


def test_a_record_tells_the_commit_of_the_code_and_whether_it_was_changed(repository, tmp_path):
    repository("add", "dispose_jax")
    repository("commit", "-m", "two")
    commit = repository("rev-parse", "HEAD")
    assert provenance.program()["git"] == commit
    (tmp_path / "dispose_jax/code.py").write_text("2")
    assert provenance.program()["git"] == f"{commit}+"


def test_a_record_leaves_the_repository_as_it_is(repository, tmp_path):
    repository("add", "dispose_jax")
    index = (tmp_path / ".git" / "index").read_bytes()
    os.utime(tmp_path / "dispose_jax" / "code.py", (1, 1))  # which git would note
    assert provenance.program()["git"].endswith("+")
    assert (tmp_path / ".git" / "index").read_bytes() == index


def test_the_repository_around_an_installed_package_is_not_its_own(repository):
    assert repository("rev-parse", "HEAD")
    assert provenance.program()["git"] is None


def test_without_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    assert provenance.program()["git"] is None
