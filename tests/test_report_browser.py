"""The report in a real browser: no errors, no requests, filters work, all images load, no sideways scrolling.

Needs Chromium (CHROMIUM, or chromium or google-chrome on the PATH) and Python's playwright; skipped without.
"""

import http.server
import math
import os
import shutil
import threading
from functools import partial

import pytest

from src.report.history import EpochRow
from tests.test_report import HOSTILE, scored, write_case, write_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium, or set CHROMIUM")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(folder with report.html of hostile names, dataset, paired images)."""
    folder = tmp_path_factory.mktemp("report")
    dataset, table = write_case(folder / "set", val=8, name=HOSTILE)
    rows = [
        EpochRow(n, 3 * n, 9 / n, 5 / n, 3 / n, 1 / n, 0.01, 0.1 * n if n > 1 else math.nan, 0.2 * n, 5, 1)
        for n in (1, 2, 3)
    ]
    write_report(folder, dataset, table, rows)
    return folder, dataset, scored(dataset, table)[1]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(case, browser):
    """Opens the page over HTTP (so that any request would be seen); (page, messages, paths asked for)."""
    folder, *_ = case
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contexts = []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page, messages, requests = context.new_page(), [], []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/report.html")
        page.wait_for_timeout(300)
        return page, messages, requests

    yield open_page, asked
    for context in contexts:
        context.close()
    server.shutdown()


@pytest.mark.parametrize(
    "options",
    [{"viewport": {"width": 1300, "height": 900}}, {"viewport": {"width": 390, "height": 844}, "is_mobile": True},
     {"color_scheme": "dark"}],
    ids=["wide", "phone", "dark"],
)  # fmt: skip
def test_no_errors_no_requests_and_no_sideways_scrolling(opened, options):
    open_page, asked = opened
    page, messages, requests = open_page(**options)
    assert messages == []
    assert asked == ["/report.html"]
    assert [url for url in requests if not url.startswith("data:")] == [page.url]
    width, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(back.split("(")[1].split(",")[0])
    assert red < 60 if options.get("color_scheme") == "dark" else red > 200


def test_all_images_load(opened, case):
    page, messages, _ = opened[0]()
    sizes = page.evaluate(
        """Promise.all([...document.querySelectorAll("image")].map(async element => {
            const image = new Image();
            image.src = element.href.baseVal;
            await image.decode();
            const box = element.getBoundingClientRect();
            return [image.naturalWidth, image.naturalHeight, box.width > 100];
        }))"""
    )
    assert len(sizes) == len(case[2]) and all(size == [150, 120, True] for size in sizes)
    assert page.locator("use").count() == len(sizes) and messages == []
    # The second panel shows the same image: its middle is not the grey behind it.
    panel = page.locator("svg:has(use)").first
    assert len(set(panel.screenshot())) > 50


def test_class_and_kind_filters(opened, case):
    page, messages, _ = opened[0]()
    images = case[2]
    visible = page.locator("figure:visible")
    assert visible.count() == len(images)
    assert page.locator("#class option").all_inner_texts()[2].startswith('"><script>')
    page.select_option("#class", "1")
    having = [p for p in images if 1 in p.record.classes.tolist() or 1 in p.classes.tolist()]
    assert visible.count() == len(having)
    assert page.locator('path.box[data-class="0"]:visible').count() == 0
    assert page.locator('path.box[data-class="1"]:visible').count() > 0
    assert page.locator("#classes tbody tr:visible").count() == 1
    page.select_option("#kind", "crowded")
    few = visible.count()
    assert 0 < few <= 6
    page.reload()
    assert page.input_value("#class") == "1" and visible.count() == few  # as a running page reloads itself
    page.select_option("#class", "")
    page.select_option("#kind", "")
    assert visible.count() == len(images) and page.locator('path.box[data-class="0"]:visible').count() > 0
    assert messages == []
