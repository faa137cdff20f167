"""Notebooks as their readers meet them: `nbtcp lab`, a browser, Run All Cells, a slider moved.

Real JupyterLab, in Chromium without a window, on a copy of the notebooks. As root the fetch is
live; another user sees the recording.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import nbformat
import pytest
from PIL import Image

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install 'nbtcp[lab]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]

ROOT = Path(__file__).resolve().parents[1]
START = "00-start-here.ipynb"
WITH_SLIDERS = "07-why-is-it-slow-when-full.ipynb"
READY = re.compile(rb"http://127\.0\.0\.1:(\d+)/lab")
CHROMIUM_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WINDOW = {"width": 1280, "height": 24000}  # high enough to have all of a notebook in it
PATIENCE = (
    250_000  # ms, as Playwright counts; for what takes seconds unless the machine is very busy
)
PIXELS = """async image => {
    await image.decode();  // it may be there and not be read yet
    return image.naturalWidth * image.naturalHeight;
}"""
playwright.expect.set_options(timeout=PATIENCE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of package and notebooks, and no output left that could be taken for a new one."""
    for name in ("nbtcp", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for path in (tmp_path / "notebooks" / name for name in (START, WITH_SLIDERS)):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    return tmp_path


def test_start_here_runs_in_jupyterlab_and_shows_its_pictures(
    checkout: Path, tmp_path: Path
) -> None:
    with jupyterlab(checkout) as address, browser(tmp_path / "browser") as page:
        page.goto(address)
        run_to_the_end(page, checkout / "notebooks" / START)
        pictures = page.locator(".jp-OutputArea-output img").all()
        assert len(pictures) >= 6
        for picture in pictures:
            assert picture.evaluate(PIXELS) > 100_000
            assert picture.get_attribute("alt")
            assert is_drawn(picture, tmp_path / "picture.png")
        for wide in (*pictures, page.locator(".jp-OutputArea-output table").first):
            assert is_whole(wide)
    assert list((checkout / "notebooks").glob("*.svg"))


def test_a_slider_redraws_its_picture_when_it_is_released(checkout: Path, tmp_path: Path) -> None:
    with jupyterlab(checkout) as address, browser(tmp_path / "browser") as page:
        page.goto(address.replace(START, WITH_SLIDERS))
        run_to_the_end(page, checkout / "notebooks" / WITH_SLIDERS)
        picture = page.locator(".widget-output img, .jupyter-widgets-output-area img")
        playwright.expect(picture).to_have_count(1)
        before, size = picture.get_attribute("src"), picture.evaluate(PIXELS)
        handle = page.locator(".widget-slider .noUi-handle").first
        handle.hover()  # which waits until it does not move
        box = handle.bounding_box()
        assert box is not None
        page.mouse.down()
        page.mouse.move(box["x"] - 100, box["y"] + box["height"] / 2, steps=5)
        page.wait_for_timeout(500)
        assert picture.get_attribute("src") == before, "redrawn before it was released"
        page.mouse.up()
        playwright.expect(picture).not_to_have_attribute("src", str(before))
        playwright.expect(picture).to_have_count(1)
        assert picture.evaluate(PIXELS) > size / 2 > 50_000
        assert is_drawn(picture, tmp_path / "slider.png")
        assert is_whole(picture)


# --- helpers ---


@contextmanager
def jupyterlab(checkout: Path) -> Iterator[str]:
    """`nbtcp lab`, as on the command line; gives the address to open, with its token.

    It finds a free port itself, beside others that look for one.
    """
    token = secrets.token_hex(16)
    home = checkout / "home"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")},
        **{"HOME": str(home), "PYTHONPATH": str(checkout), "JUPYTER_TOKEN": token},
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # the fonts are known there
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "nbtcp.cli", "lab", "--no-browser"],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert server.stdout is not None
    said: list[bytes] = []
    try:
        for line in server.stdout:
            said.append(line)
            if ready := READY.search(line):
                break
        else:
            pytest.fail(f"JupyterLab did not start: {b''.join(said).decode()}")
        reader = threading.Thread(target=said.extend, args=[server.stdout], daemon=True)
        reader.start()
        yield f"http://127.0.0.1:{int(ready[1])}/lab/tree/{START}?token={token}"
    finally:
        os.killpg(
            server.pid, 15
        )  # nbtcp and the JupyterLab that it started, which ends its kernels
        server.wait(100)
    reader.join(100)
    assert not reader.is_alive(), "something still holds JupyterLab's output open"
    server.stdout.close()


@contextmanager
def browser(profile: Path) -> Iterator["playwright.Page"]:
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=list(CHROMIUM_OPTIONS),
            headless=True,
            viewport=WINDOW,
        )
        context.set_default_timeout(PATIENCE)
        yield context.pages[0]
        context.close()


def run_to_the_end(page: "playwright.Page", path: Path) -> None:
    """Run All Cells, of the notebook at `path` that is open; all run, once, without a complaint."""
    cells = nbformat.read(path, as_version=4).cells
    count = sum(cell.cell_type == "code" for cell in cells)
    page.locator(".jp-Notebook .jp-CodeCell").nth(count - 1).wait_for()
    page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell .jp-InputPrompt").last
    playwright.expect(last).to_have_text(f"[{count}]:")
    assert page.locator("[data-mime-type*=error], [data-mime-type*=stderr]").count() == 0
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{number}]:" for number in range(1, count + 1)]


def is_drawn(picture: "playwright.Locator", screenshot: Path) -> bool:
    """What the screen shows there is white for the most part, with several colours on it."""
    picture.screenshot(path=screenshot)
    with Image.open(screenshot) as shown:
        colors = shown.convert("RGB").getcolors(1 << 24)
        share = 0.003 * shown.width * shown.height
    frequent = sorted((count, color) for count, color in colors if count > share / 10)
    white = frequent[-1]
    return min(white[1]) > 240 and white[0] > 100 * share and len(frequent) > 4


def is_whole(element: "playwright.Locator") -> bool:
    """Nothing of it is cut off or has to be scrolled to."""
    inside = """element => {
        const output = element.closest(".jp-OutputArea-output").getBoundingClientRect();
        const box = element.getBoundingClientRect();
        return box.width > 200 && box.left >= output.left && box.right <= output.right + 1;
    }"""
    return bool(element.evaluate(inside))
