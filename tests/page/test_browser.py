"""The page in a real browser: what a visitor does, from the first upload to the download."""

import json

import numpy as np
import pytest

from dispose_jax.media import image, video
from tests.page import live
from tests.page.live import POSES, REFERENCE, REFERENCE_POSE

pytestmark = pytest.mark.full
MINUTES = 60_000  # of Playwright's clock; the first clip compiles


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with live.started(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def chromium():
    with live.browser() as opened:
        yield opened


@pytest.fixture
def visit(running, chromium):
    """visit() -> a page that a new visitor has open."""
    contexts = []

    def visit():
        context = chromium.new_context(accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.goto(running.url)
        page.wait_for_selector("#preview")
        return page

    yield visit
    for context in contexts:
        context.close()


def upload(page, **files):
    for name, path in files.items():
        page.set_input_files(f"#{name} input[type=file]", str(path))
        page.wait_for_selector(f"#{name} a[download], #{name} .file-preview")


def upload_example(page):
    upload(page, reference=REFERENCE, reference_pose=REFERENCE_POSE, poses=POSES)


def choose(page, name, value):
    page.fill(f"#{name} input[type=number]", str(value))
    page.press(f"#{name} input[type=number]", "Tab")


def status(page, words, minutes=1):
    """Wait until the page says so."""
    page.wait_for_selector(f"#status :text('{words}')", timeout=minutes * MINUTES)


def download(page, title, folder):
    with page.expect_download() as coming:
        page.click(f"a.download:text-is('{title}')")
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def test_upload_preview_animate_download(visit, running, tmp_path):
    page = visit()
    upload_example(page)
    page.click("#preview")
    page.wait_for_selector("#fit img", timeout=MINUTES)
    assert "32 frames of 128 × 128 at 15 a second" in page.inner_text("#fit")
    choose(page, "steps", 4)
    choose(page, "frames", 9)
    choose(page, "seed", 7)
    page.click("#animate")
    page.wait_for_selector("#forming img", timeout=5 * MINUTES)
    assert page.is_enabled("#cancel") and page.is_disabled("#animate")
    assert "of 4 steps" in page.inner_text("#status")
    status(page, "Done after", 5)
    page.wait_for_function("document.querySelector('#result video').readyState > 1")
    assert page.query_selector("#forming img") is None
    film = video.read(download(page, "Video", tmp_path), 1)
    assert film.frames.shape == (9, 128, 128, 3) and film.frames.std() > 10
    about = json.loads(download(page, "Settings (JSON)", tmp_path).read_text())
    assert (about["seed"], about["config"]["sample"]["steps"]) == (7, 4)
    assert about["sources"]["reference"] == "reference/reference.png"
    assert image.read(download(page, "Explained sheet", tmp_path)).shape[0] > 8 * 256
    assert download(page, "Explained video", tmp_path).stat().st_size > 1000


def test_the_example_is_there_at_a_click_at_another_speed_and_alignment(visit):
    page = visit()
    page.click("#example")
    page.wait_for_selector("#poses .file-preview")
    page.click("#speed label:has-text('draft')")
    page.wait_for_function("document.querySelector('#steps input[type=number]').value == '3'")
    page.click("#alignment label:has-text('musepose')")
    page.click("#preview")
    page.wait_for_selector("#fit img", timeout=MINUTES)


def test_cancel_stops_in_the_middle_and_the_next_clip_is_made(visit, running):
    page = visit()
    page.click("#example")
    page.wait_for_selector("#poses .file-preview")
    choose(page, "steps", 100)
    page.click("#animate")
    page.wait_for_selector("#forming img", timeout=5 * MINUTES)
    before = running.worker
    page.click("#cancel")
    status(page, "Cancelled")
    assert page.is_enabled("#animate") and page.is_disabled("#cancel")
    assert running.worker == before, "no need to end the process"
    assert not [path for path in running.files if path.suffix == ".mp4"]
    choose(page, "steps", 2)
    choose(page, "frames", 9)
    page.click("#animate")
    status(page, "Done after", 5)


def test_a_wrong_file_is_told_and_the_right_one_works(visit, tmp_path):
    page = visit()
    (tmp_path / "me.png").write_text("hello")
    upload(page, reference=tmp_path / "me.png", reference_pose=REFERENCE_POSE, poses=POSES)
    page.click("#preview")
    said = page.wait_for_selector("#status [role=alert]").inner_text()
    assert said == (
        "reference/me.png: not a picture that can be read, expected PNG, JPEG, WebP or the like."
    )
    page.click("#reference [aria-label='Clear'], #reference [aria-label='Remove this file']")
    upload(page, reference=REFERENCE)
    page.click("#preview")
    page.wait_for_selector("#fit img", timeout=MINUTES)


def test_a_video_with_its_keypoints_and_warnings_of_the_fit(visit, tmp_path):
    page = visit()
    pose = json.loads(POSES.read_text())[:8]
    (tmp_path / "dance.json").write_text(json.dumps(pose))
    size = pose[0]["canvas_height"], pose[0]["canvas_width"]
    frames = np.random.default_rng(0).integers(0, 256, (8, *size, 3), np.uint8)
    video.write(tmp_path / "dance <b>.mp4", frames, 30)
    upload_example(page)
    upload(page, driving=tmp_path / "dance <b>.mp4")
    page.click("#preview")
    said = page.wait_for_selector("#status [role=alert]").inner_text()
    assert "poses/driving.poses.json: 64 entries, but driving/dance" in said


def test_nothing_to_animate_by_is_told(visit):
    page = visit()
    page.click("#animate")
    said = page.wait_for_selector("#status [role=alert]").inner_text()
    assert said == "No picture to animate: give “Picture of the person”."


def test_two_visitors_wait_for_each_other_and_never_see_each_others_files(visit, running):
    ann, bob = visit(), visit()
    for page in (ann, bob):
        page.click("#example")
        page.wait_for_selector("#poses .file-preview")
        choose(page, "frames", 9)
    choose(ann, "steps", 30)
    choose(bob, "steps", 2)
    ann.click("#animate")
    ann.wait_for_selector("#forming img", timeout=5 * MINUTES)
    bob.click("#animate")
    status(bob, "Waiting for one other turn")
    status(ann, "Done after", 5)
    status(bob, "Done after", 5)
    videos = [page.get_attribute("#result video", "src") for page in (ann, bob)]
    assert videos[0] != videos[1]
    for page, own in ((ann, 0), (bob, 1)):
        found = [page.request.get(running.url + name).status for name in videos]
        assert found[own] == 200 and found[1 - own] == 404


def test_files_are_deleted_when_the_page_is_closed_and_its_clip_is_cancelled(visit, running):
    page = visit()
    upload_example(page)
    choose(page, "steps", 100)
    page.click("#animate")
    page.wait_for_selector("#forming img", timeout=5 * MINUTES)
    assert running.files
    page.close()
    live.wait_for(lambda: not running.files, 60)
    other = visit()
    other.click("#example")
    other.wait_for_selector("#poses .file-preview")
    other.click("#preview")
    other.wait_for_selector("#fit img", timeout=MINUTES)


def test_others_need_a_name_and_a_password(chromium, tmp_path):
    with live.started(tmp_path / "auth", "--host=0.0.0.0", "--auth=ann:correct-horse") as running:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(running.url)
        assert page.request.get(f"{running.url}config").status == 401
        page.fill("input[type=text], input:not([type])", "ann")
        page.fill("input[type=password]", "correct-horse")
        page.click("button:has-text('Login')")
        page.wait_for_selector("#preview")
        page.click("#example")
        page.wait_for_selector("#poses .file-preview")
        page.click("#preview")
        page.wait_for_selector("#fit img", timeout=MINUTES)
        context.close()
