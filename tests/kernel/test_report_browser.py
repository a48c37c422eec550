"""The report's page in a real browser: headless Chromium, which the harness installs where it is missing.

One browser serves the module. The page is served from loopback and, where it matters, opened as a file, as people do.
"""

import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import browser
from harness import packages
from harness.errors import HarnessError
from harness.plugin import skip_or_fail
from sockethealth_cli.report import page
from sockethealth_cli.report.page import Report
from unit.cli.builders import NOW, leaking, quiet
from unit.cli.report_builders import hostile, of, running_out

pytestmark = pytest.mark.kernel

WIDE, PHONE = (1280, 900), (360, 740)
DARK, LIGHT = range(64), range(192, 256)
VISIBLE = "[...document.querySelectorAll('svg.chart')].filter(one => one.checkVisibility())"
CUT = """
[...document.querySelectorAll('svg.chart text')].filter(one => one.checkVisibility()).filter(one => {
  const box = one.getBoundingClientRect();
  return box.left < 0 || box.right > document.documentElement.clientWidth;
}).map(one => one.textContent)
"""
TOUCHING = f"""
{VISIBLE}.flatMap(chart => ['.times', '.values'].flatMap(axis => {{
  const boxes = [...chart.querySelectorAll(axis + ' text')].map(one => one.getBoundingClientRect());
  return boxes.slice(1).filter((box, index) => {{
    const last = boxes[index];
    return box.left < last.right && last.left < box.right && box.top < last.bottom && last.top < box.bottom;
  }});
}}))
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Page]:
    try:
        packages.ensure(packages.BROWSER)
    except HarnessError as error:
        skip_or_fail(f"Chromium is missing: {error}")
    with tempfile.TemporaryDirectory(prefix="sockethealth-browser-") as folder, browser.started(Path(folder)) as page:
        yield page


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(Report((running_out(), of([quiet(), *[leaking(300)] * 20]), hostile()), "Test.", NOW))


@pytest.fixture(scope="module")
def file(html, tmp_path_factory) -> str:
    made = tmp_path_factory.mktemp("report") / "incident.html"
    made.write_text(html)
    return made.as_uri()


def test_it_complains_of_nothing_and_asks_for_nothing_but_itself(chromium, html):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/incident.html"
            chromium.screen(*WIDE)
            chromium.open(url)
            chromium.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert chromium.complaints() == []
            assert [one for one in chromium.requests() if not one.startswith("data:")] == [url]
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/incident.html"]


def test_its_policy_is_enforced(chromium, file):
    chromium.screen(*WIDE)
    chromium.open(file)
    chromium.ask(
        "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert chromium.ask("window.ran") is None
    assert any("Content Security Policy" in one for one in chromium.complaints())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_fits_and_is_dark_on_light_or_light_on_dark(chromium, file, size, dark):
    chromium.screen(*size, dark=dark)
    chromium.open(file)
    chromium.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert chromium.ask("document.documentElement.scrollWidth") == size[0]
    red, *_ = chromium.ask("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    ink, *_ = chromium.ask("getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
    ground, letters = (DARK, LIGHT) if dark else (LIGHT, DARK)
    assert red in ground
    assert ink in letters
    assert chromium.ask(f"new Set({VISIBLE}.map(one => one.classList[1])).size") == 1
    wide = chromium.ask(f"{VISIBLE}[0].classList.contains('wide')")
    assert wide is (size is WIDE)
    # Letters as large as they should be, and none of them cut off at an edge of the screen.
    assert chromium.ask(
        "[...document.querySelectorAll('.tick')].filter(one => one.checkVisibility())"
        ".every(one => one.getBoundingClientRect().height >= 11)"
    )
    assert chromium.ask(CUT) == []


def test_labels_of_an_axis_do_not_touch(chromium, file):
    for size in (WIDE, PHONE):
        chromium.screen(*size)
        chromium.open(file)
        assert chromium.ask(f"{VISIBLE}.length") > 3
        assert chromium.ask(TOUCHING) == []


def test_the_pointer_shows_the_values_of_its_moment_and_leaves_nothing_behind(chromium, file):
    chromium.screen(*WIDE)
    chromium.open(file)
    x, y = middle_of(chromium, 1)
    chromium.mouse("mouseMoved", x, y)
    tip = chromium.ask("document.querySelector('.tip').innerText")
    assert tip.splitlines()[0].endswith(" UTC")
    assert "TIME_WAIT, outbound: 26,000" in tip
    chromium.mouse("mouseMoved", 2, 2)
    assert chromium.ask("document.querySelectorAll('.tip, .cursor').length") == 0
    assert chromium.complaints() == []


def test_a_stretch_of_time_can_be_zoomed_into_and_back(chromium, file):
    chromium.screen(*WIDE)
    chromium.open(file)
    labels = f"[...{VISIBLE}[1].querySelectorAll('.times text')].map(one => one.textContent)"
    path = f"{VISIBLE}[1].querySelector('path.area').getAttribute('d')"
    before, drawn = chromium.ask(labels), chromium.ask(path)
    x, y = middle_of(chromium, 1)
    chromium.mouse("mousePressed", x - 100, y, button="left", buttons=1, clickCount=1)
    chromium.mouse("mouseMoved", x + 100, y, button="left", buttons=1)
    chromium.mouse("mouseReleased", x + 100, y, button="left", clickCount=1)
    assert chromium.ask(labels) != before
    assert chromium.ask(path) != drawn
    assert "NaN" not in chromium.ask(path)
    assert chromium.ask("document.querySelector('.reset').checkVisibility()")
    chromium.ask("document.querySelector('.reset').click()")
    assert chromium.ask(labels) == before
    assert chromium.ask(path) == drawn
    assert not chromium.ask("document.querySelector('.reset').checkVisibility()")
    assert chromium.complaints() == []


def test_without_scripts_all_of_it_is_there(chromium, file):
    chromium.screen(*PHONE, javascript=False)
    chromium.open(file)
    try:
        texts = chromium.call("DOM.getOuterHTML", nodeId=chromium.call("DOM.getDocument")["root"]["nodeId"])[
            "outerHTML"
        ]
        assert "uses 26,000 of 28,232 ephemeral ports" in texts
        assert 'class="reset"' not in texts
        assert 'download="sockethealth-1.json" href="data:application/json;base64,' in texts
    finally:
        chromium.screen(*WIDE)


def middle_of(chromium: browser.Page, number: int) -> tuple[float, float]:
    """The middle of a picture, once it is on the screen."""
    x, y = chromium.ask(
        f"(() => {{ const chart = {VISIBLE}[{number}]; chart.scrollIntoView({{block: 'center'}});"
        " const box = chart.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2] })()"
    )
    return x, y
