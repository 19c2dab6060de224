"""The page in a headless Chromium: a click draws, a picture is uploaded, nothing is fetched from elsewhere.

pip install -e '.[test,browser]'    # in an environment of its own: gradio wants an older pillow than the locked one
pytest -m browser tests/web
"""

import io
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unitoken_tiny import MODEL

from unitok_jax.conversion.loading import load_run
from unitok_jax.web.page import SHOWN

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
WAIT = 120_000  # ms: the first drawing compiles


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, workdir) of `unitok serve`, as a user starts it."""
    sys.path.append(str(ROOT / "tests" / "conversion"))
    from tiny_release import make_run

    folder = tmp_path_factory.mktemp("web") / "run"
    folder.mkdir()
    make_run(folder, MODEL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "unitok_jax.cli", "serve", "--workdir", str(folder), "--port", str(port)]
    with subprocess.Popen([*command, "--queue", "2"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            yield server.stdout.readline().strip(), folder
        finally:
            server.terminate()


@pytest.fixture
def page(served):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(WAIT)
        page.goto(served[0])
        yield page
        browser.close()


def shown(page, name):
    """The picture of an image box, as the browser got it; None while there is none."""
    source = page.locator(f"#{name} img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(urllib.request.urlopen(source).read())).convert("RGB"))


def test_a_click_draws_what_the_model_draws(served, page, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.get_by_label("Prompt").fill("a red seven")
    page.locator("#draw-button").click()
    wanted = load_run(served[1])[0].generate(["a red seven"], seeds=0)[0]
    times = SHOWN // wanted.shape[0]
    wanted = wanted.repeat(times, axis=0).repeat(times, axis=1)
    page.locator("#drawn img").first.wait_for()
    for _ in range(120):  # pictures follow one another until it is whole
        if np.array_equal(shown(page, "drawn"), wanted):
            break
        page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / "draw.png")
    np.testing.assert_array_equal(shown(page, "drawn"), wanted)
    assert [url for url in asked if not url.startswith((served[0], "data:", "blob:"))] == []


def test_a_mistake_is_told(page):
    page.locator("#draw-button").click()
    page.get_by_text("the prompt is empty; write something first").wait_for()


def test_a_picture_is_compared_with_its_codes(served, page, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    page.get_by_role("tab", name="Codes").click()
    page.locator("#codes-upload input[type=file]").set_input_files(tmp_path / "in.png")
    page.locator("#codes-upload img").first.wait_for()
    page.locator("#codes-button").click()
    page.locator("#codes-back img").first.wait_for()
    told = page.locator("#codes-text textarea").input_value()
    image = np.asarray(Image.open(tmp_path / "in.png"))
    codes = load_run(served[1])[0].encode([image], codes_alone=True).codes.reshape(4, 4)
    assert [list(map(int, line.split())) for line in told.splitlines()] == codes.tolist()
    page.screenshot(path=tmp_path / "codes.png")


def test_no_file_of_the_machine_is_served(served):
    for path in ("/etc/passwd", str(served[1] / "config.json")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served[0]}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)
