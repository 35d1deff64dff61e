"""The page under faults: it answers, says what is wrong, and serves the next one."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import zlib

import pytest
from PIL import Image

from tests.page import live
from tests.page.live import POSES, REFERENCE, REFERENCE_POSE

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with live.started(tmp_path_factory.mktemp("page")) as page:
        yield page


def ask(client, what, reference=REFERENCE, driving=None, pose=REFERENCE_POSE, poses=POSES, **knobs):
    """What the page shows at the end: the text of the status, and the HTML of the fit."""
    gradio_client = pytest.importorskip("gradio_client")
    files = [path and gradio_client.handle_file(str(path)) for path in (reference, driving)]
    files += [path and gradio_client.handle_file(str(path)) for path in (pose, poses)]
    chosen = {"speed": "exact", "steps": 2, "size": 64, "fit": "mimicmotion", "frames": 9}
    chosen |= {"seed": 42, "watched": True} | knobs
    return shown(client.submit(*files, *chosen.values(), api_name=f"/{what}"))


def shown(work):
    """The text of the status and the HTML of the fit when a turn has ended: what was not changed in
    the end stays as it was."""
    work.result(timeout=600)
    status, _, _, fit = (
        next((part for part in reversed(parts) if isinstance(part, str)), "")
        for parts in zip(*work.outputs())
    )
    return live.text(status), fit


def works(client):
    """Whether a preview of good files comes."""
    said, fit = ask(client, "preview")
    return "This is how the motion fits" in said and "data:image/jpeg" in fit


def bomb(width, height):
    """A PNG whose header promises more than anybody has memory for."""
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, format="PNG")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    content = small.getvalue()
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]


def bad_uploads(folder, count=100):
    """So many bad files, each with the input that it is given to: cut, scrambled, of another kind,
    or promising too much."""
    rng = random.Random(0)
    picture, poses = REFERENCE.read_bytes(), POSES.read_bytes()
    entry = json.loads(poses)[0]
    film = (live.ROOT / "docs" / "demo.mp4").read_bytes()
    scrambled = lambda data: bytes(b if rng.random() > 0.02 else rng.randrange(256) for b in data)
    kinds = [
        ("reference", ".png", lambda: picture[: rng.randrange(8, 60_000)]),
        ("reference", ".png", lambda: b""),
        ("reference", ".jpg", lambda: rng.randbytes(5000)),
        ("reference", ".png", lambda: bomb(rng.choice([5000, 60_000, 2**31 - 1]), 60_000)),
        ("reference", ".png", lambda: film),
        ("driving", ".mp4", lambda: film[: rng.randrange(40)]),
        ("driving", ".mp4", lambda: film[: rng.randrange(100, 3000)]),
        ("driving", ".mp4", lambda: rng.randbytes(20_000)),
        ("driving", ".avi", lambda: picture[:100]),
        ("poses", ".json", lambda: poses[: rng.randrange(1, 20_000)]),
        ("poses", ".json", lambda: scrambled(poses)),
        ("poses", ".json", lambda: b"[" * 100_000),
        ("poses", ".json", lambda: b'{"people": 3}'),
        ("poses", ".json", lambda: json.dumps([entry | {"canvas_width": -1}] * 3).encode()),
        ("poses", ".json", lambda: json.dumps([entry]).encode()),
        ("pose", ".json", lambda: json.dumps([entry] * 2).encode()),
        ("pose", ".json", lambda: json.dumps([{**entry, "people": []}]).encode()),
        ("pose", ".json", lambda: rng.randbytes(300)),
    ]
    for i in range(count):
        kind, ending, content = kinds[i % len(kinds)]
        path = folder / f"bad {i}{ending}"
        path.write_bytes(content())
        yield kind, path


def test_a_hundred_bad_uploads_are_each_one_sentence(running, tmp_path):
    client, worker = running.client(), running.worker
    for kind, path in bad_uploads(tmp_path):
        given = {kind: path}
        if kind == "driving":
            given["poses"] = None
        said, fit = ask(client, "preview", **given)
        assert said.endswith(".") and len(said) < 400, (path, said)
        assert "Error" not in said and "should not be" not in said, (path, said)
        assert "This is how the motion fits" not in said and not fit, path
    assert works(client)
    assert running.worker == worker, "nothing of it ended the process that reads"
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("knob", [{"steps": 10**9}, {"speed": "x"}, {"size": 7}, {"seed": -1}])
def test_impossible_choices_are_told(running, knob):
    client = running.client()
    said, _ = ask(client, "preview", **knob)
    assert "expected" in said and works(client)


def test_another_s_upload_or_a_file_of_the_server_cannot_be_used(running, tmp_path):
    ann, bob = running.client(), running.client()
    assert works(ann)
    upload = next(path for path in running.files if path.name == "reference.png")
    chosen = ["exact", 2, 64, "mimicmotion", 9, 42, True]
    for path in (upload, "/etc/passwd", running.log):
        work = bob.submit({"path": str(path)}, None, None, None, *chosen, api_name="/preview")
        try:
            said, fit = shown(work)
        except Exception as error:  # Gradio itself looks at paths, too
            said, fit = str(error), ""
        assert "not here any more" in said or "raised an exception" in said
        assert not fit
    assert works(bob)


def test_a_killed_worker_is_told_and_the_next_clip_is_made(running):
    client, worker = running.client(), running.worker
    os.kill(worker, signal.SIGKILL)  # between two turns nobody notices
    assert works(client)
    worker = running.worker

    handle = pytest.importorskip("gradio_client").handle_file
    given = handle(str(REFERENCE)), None, handle(str(REFERENCE_POSE)), handle(str(POSES))
    chosen = "exact", 100, 64, "mimicmotion", 96, 42, True
    work = client.submit(*given, *chosen, api_name="/animate")
    live.wait_for(lambda: any("Denoising" in str(parts[0]) for parts in work.outputs()), 300)
    os.kill(worker, signal.SIGKILL)
    said, _ = shown(work)
    assert "was ended by signal 9" in said and "try once more" in said
    assert works(client) and running.worker != worker
    said, _ = ask(client, "animate")
    assert "Done after" in said


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_afterwards_the_next_clip_is_made(small_disk):
    with live.started(small_disk) as running:
        client = running.client()
        assert works(client)
        ballast = small_disk / "ballast"
        fill(ballast)
        with pytest.raises(Exception, match="507|No space left"):  # of the upload
            ask(client, "animate", reference=POSES)
        ballast.unlink()
        fill(ballast, spare=300_000)  # uploads find room, results do not
        said, _ = ask(client, "animate")
        assert "No space left on device" in said and "free space there" in said
        ballast.unlink()
        said, _ = ask(client, "animate")
        assert "Done after" in said


def fill(path, spare=0):
    """A file that takes the room that a disk has, but for so many bytes."""
    free = shutil.disk_usage(path.parent).free - spare
    path.write_bytes(b"\0" * (free // 4096 * 4096))
