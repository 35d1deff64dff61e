"""The command that trains: every mistake of a user is one clear line, and leaves nothing behind."""

import pytest

import train
from dispose_jax.data import prepare
from dispose_jax.models import bundle, networks
from dispose_jax.training import loop
from tests.data import clipped
from tests.training import toy

TINY = "--config=configs/svd.py:size=tiny,stage=vae"


@pytest.fixture
def start(command, tmp_path):
    """start("--flag=x ...") -> exit code, stdout, stderr; FOLDER stands for the test's folder."""
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()
    return lambda line: command(
        train.main, "train.py", *line.replace("FOLDER", str(tmp_path)).split()
    )


RUN = "--workdir=FOLDER/run --config.train.batch=8"  # one clip for each of the devices
MISTAKES = [  # exit code, arguments, what the line says
    (1, TINY, "--workdir is missing: name the directory of the run"),
    (1, f"{TINY} {RUN} --workdir=FOLDER/file", "file: is a file; name a directory"),
    (1, f"--config=configs/svd.py {RUN}", "--config.data.source is empty: name a set made by"),
    (
        1,
        f"--config=configs/svd.py {RUN} --config.data.source=synthetic",
        "this run needs --weights with the networks unet, pose_encoder, vae",
    ),
    (1, f"{TINY} {RUN} --weights=FOLDER/absent", "absent: no such folder"),
    (1, f"{TINY} {RUN} --weights=FOLDER/empty", "no bundle.json in it, so it is no weights bundle"),
    (1, f"{TINY} {RUN} --config.data.source=FOLDER/absent", "absent: no such folder; name a set"),
    (1, f"{TINY} {RUN} --config.data.source=FOLDER/empty", "so it is no prepared set; make one"),
    (1, f"{TINY} {RUN} --config.train.batch=3", "train.batch is 3: it does not divide into"),
    (1, f"{TINY} {RUN} --config.train.batch=0", "train.batch is 0: expected 1 or more"),
    (
        1,
        f"{TINY} {RUN} --config.train.mesh.data=3",
        "train.mesh is data=3, fsdp=1, frames=1: 3 dev",
    ),
    (1, f"{TINY} {RUN} --config.train.width=100", "train.width is 100: expected a multiple of 64"),
    (1, f"{TINY} {RUN} --config.train.decay=linear", "train.decay is 'linear': expected one of"),
    (1, f"{TINY} {RUN} --coordinator=node:1", "belong together: give all three, or --distributed"),
    (1, f"{TINY} {RUN} --coordinator=node --num_processes=2 --process_id=0", "expected host:port"),
    (1, f"{TINY} {RUN} --compiled", "--compiled is given without --dry_run"),
    (1, f"{TINY} {RUN} --config.train.region=limbs", "'limbs', which stage=vae does not look at"),
    (
        1,
        f"--config=configs/svd.py:size=tiny {RUN} --config.train.region=hands",
        "train.region is 'hands': drawn people have neither hands nor a face",
    ),
    (
        1,
        f"--config=configs/svd.py:size=tiny {RUN} --config.train.face_weight=5",
        "train.face_weight is 5.0: only an autoencoder that learns from drawn people",
    ),
    (
        1,
        f"{TINY} {RUN} --config.train.face_weight=5 --config.data.source=FOLDER/empty",
        "train.face_weight is 5.0: only an autoencoder that learns from drawn people",
    ),
    (2, f"{TINY} {RUN} --num_processes=two", "train.py: --num_processes=two: expected a whole num"),
    (2, f"{TINY} {RUN} --dry_run=maybe", "train.py: --dry_run=maybe: expected true or false"),
    (2, f"{TINY} {RUN} --config.train.stepz=1", "did you mean --config.train.steps?"),
    (2, f"{TINY} {RUN} --config.train.steps=many", "is 'many': expected a whole number"),
    (2, f"--config=configs/svd.py:stage=unet {RUN}", "stage is one of dispose, pictures, base"),
    (2, f"{TINY} --workdri=FOLDER/run", "Unknown command line flag 'workdri'. Did you mean"),
    (2, f"{TINY} {RUN} stray", "unexpected argument 'stray'"),
]


@pytest.mark.parametrize("code, line, message", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_directory(start, tmp_path, code, line, message):
    ended, out, err = start(line)
    assert ended == code and out == ""
    assert message in err and err.startswith("train.py: ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["empty"]


def test_the_flags_reach_the_run(start, monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(loop, "train", runs.append)
    start(f"{TINY} --workdir=FOLDER --config.train.steps=7 --config.train.batch=8")
    (run,) = runs
    assert run.workdir == tmp_path and run.config.train.steps == 7 and not run.continues
    assert run.trainable == ("vae",) and dict(run.mesh.shape)["data"] == 8


def test_a_set_made_with_another_autoencoder_is_refused(monkeypatch, tmp_path):
    """End to end: the stored latents name their network, and the run's is another."""
    config = clipped.config(source=str(tmp_path / "set"))
    config.model.vae.update({"widths": (4, 4, 8, 8), "groups": 4})
    clipped.film(tmp_path / "videos", "a.mp4", 24)
    vae = networks.build(config)["vae"]
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    for i, name in enumerate(("made_with", "another")):
        params = networks.random({"vae": vae}, seed=i)
        bundle.write(tmp_path / name, params, described, {"vae": bundle.Origin(name, "MIT")})
    prepare.prepare(
        config,
        tmp_path / "videos",
        tmp_path / "set",
        weights=[str(tmp_path / "made_with")],
        latents=True,
        say=lambda _: None,
    )
    config.train.update({"batch": 3, "objective": "video", "trainable": ("unet",)})
    config.train.mesh.data = 1
    monkeypatch.setattr("jax.device_count", lambda: 1)
    monkeypatch.setattr(loop.sharding, "make_mesh", lambda _: None)
    monkeypatch.setattr(loop.sharding, "share_frames", lambda _: lambda tree: tree)
    monkeypatch.setattr(loop.sharding, "rows", lambda *_: None)
    given = ("random", str(tmp_path / "another"))
    with pytest.raises(ValueError, match="its stored posterior come from another vae than"):
        loop.train(loop.Run(config, given, tmp_path / "run", say=lambda _: None))
    assert not (tmp_path / "run").exists()


def test_the_toy_is_the_real_command(start, monkeypatch, tmp_path):
    toy.install(monkeypatch.setattr)
    (tmp_path / "toy.py").write_text(toy.CONFIG)
    monkeypatch.setattr(loop.Metrics, "add", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a defect keeps its traceback
        start("--config=FOLDER/toy.py --workdir=FOLDER/run")
