"""Pages and JupyterLab in a real browser: nothing is asked for, players play, widgets answer to the keyboard."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import videos
from conftest import ROOT
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.notebooks,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium"),
]
PLAY = """async player => {
    if (!player.src) return "no source"
    player.muted = true
    await player.play()
    for (let k = 0; k < 50 && !player.currentTime; k++) await new Promise(done => setTimeout(done, 100))
    return player.error ? player.error.message : player.currentTime > 0
}"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def listen(tab: Page) -> list[str]:
    """Collect what a page asks for, but for itself, and its errors."""
    complaints = []
    tab.on("request", lambda asked: asked.url.startswith(("data:", "file:")) or complaints.append(asked.url))
    tab.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def test_pages_ask_for_nothing_fit_a_phone_and_play(finished, browser):
    pages = [finished / "reports" / "index.html", *sorted(finished.glob("reports/smoke/generated/**/*.html"))]
    assert any(page.parent.name == "videos" for page in pages)
    played = 0
    for page in pages:
        tab = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme="light")
        complaints = listen(tab)
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400, f"{page}: wider than a phone"
        for player in tab.query_selector_all("audio, video")[:2]:
            assert player.evaluate(PLAY) is True, page
            played += 1
        light = tab.evaluate(BACKGROUND)
        tab.emulate_media(color_scheme="dark")
        assert tab.evaluate(BACKGROUND) != light, f"{page}: no dark scheme"
        assert complaints == [], page
        tab.close()
    assert played > 10


@pytest.fixture(scope="module")
def lab(finished, tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks that knows the finished experiment."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(finished / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("*.py"))
    for name in ("sslib", "data", "reports"):
        (folder / name).symlink_to(finished / name)
    for path in (folder / "notebooks").glob("0*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        parameters.source = parameters.source.replace("configs/demo.yaml", "configs/smoke.yaml")
        nbformat.write(notebook, path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.port={port}"]
    environment = os.environ | {"PYTHONPATH": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", "jupyter", "lab", *options, "notebooks"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait()


def run_all(browser, lab: str, name: str) -> Page:
    """Open a notebook and run all of its cells."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60_000)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    return page


def field(page: Page, label: str, kind: str):
    """Find the widget beside a label."""
    return page.locator(".jupyter-widgets", has=page.locator(f".widget-label:text-is('{label}')")).last.locator(kind)


def test_every_notebook_opens_in_lab(lab, browser):
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto(f"{lab}/lab/tree/{path.name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        assert page.locator(".jp-Dialog").count() == 0 and errors == []
        page.close()


def test_explorer_answers_to_the_keyboard(lab, browser):
    page = run_all(browser, lab, "05_explore")
    panels = page.locator("img.widget-image")
    expect(page.locator("circle[data-sound]").first).to_be_attached(timeout=120_000)  # the map of sounds, further down
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60_000)

    def changes(move) -> None:
        before = panels.nth(2).get_attribute("src")
        start = time.perf_counter()
        move()
        expect(panels.nth(2)).not_to_have_attribute("src", before, timeout=20_000)
        print(f"a changed map after {1000 * (time.perf_counter() - start):.0f} ms")

    choice = field(page, "sound", "select")
    choice.focus()
    changes(lambda: page.keyboard.press("ArrowDown"))  # another clip's
    changes(lambda: page.keyboard.press("ArrowDown"))  # a mixture
    field(page, "its share", ".noUi-handle").focus()
    changes(lambda: page.keyboard.press("ArrowRight"))
    field(page, "opacity", ".noUi-handle").focus()
    changes(lambda: page.keyboard.press("ArrowLeft"))
    page.locator("button", has_text="next").focus()
    changes(lambda: page.keyboard.press("Enter"))
    assert page.locator("audio").first.evaluate(PLAY) is True
    dot = page.locator("circle[data-sound]").first
    dot.focus()
    page.keyboard.press("Enter")
    player = page.locator("div:has(> svg circle[data-sound]) audio").first
    assert player.evaluate(PLAY) is True
    if folder := os.environ.get("SSLIB_SCREENSHOTS"):
        panels.nth(2).scroll_into_view_if_needed()
        page.screenshot(path=Path(folder, "05.png"))
    page.close()


def test_video_by_its_path_is_localized_and_plays(lab, browser, tmp_path):
    video = videos.make(tmp_path / "mine.mp4", seconds=3.0, size=(160, 120))
    page = run_all(browser, lab, "06_your_video")
    path = page.locator("input[placeholder^='or the path']")
    expect(path).to_be_visible(timeout=120_000)
    path.fill(str(tmp_path / "none.mp4"))
    path.press("Enter")
    expect(page.locator("[role=alert]", has_text="no video")).to_be_visible(timeout=60_000)
    path.fill(str(video))
    path.press("Enter")
    long = "() => [...document.querySelectorAll('video')].find(video => Math.abs(video.duration - 3) < 0.3)"
    assert page.wait_for_function(long, timeout=60_000).evaluate(PLAY) is True
    page.close()
