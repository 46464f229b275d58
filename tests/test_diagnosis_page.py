"""The page of a diagnosis: one file, safe with hostile names, and what a browser shows of it.

The browser is Debian's chromium, spoken to through its debugging pipe: no driver and no network.
"""

import contextlib
import fcntl
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

import lossjax as lj
from lossjax.diagnosis.curve_answer import examine_curve
from lossjax.diagnosis.curves import Curve
from lossjax.diagnosis.page import to_page
from lossjax.reports.page import render

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror=\"window.pwned = 1\">",
    "'\"></title></style><svg onload=window.pwned=1>",
    "{{ 7 * 7 }}{% raw %}",
]  # fmt: skip


def diagnosis(hostile=True, checkpoints=6):
    rng = np.random.default_rng(0)
    truth = 1.5 * rng.normal(size=(400, 4))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    scales = np.linspace(0.4, 3, checkpoints)
    logits = np.stack([scale * (truth + 0.4 * rng.normal(size=truth.shape)) for scale in scales])
    return lj.diagnose(
        logits,
        labels=labels,
        steps=100 * np.arange(checkpoints),
        train_counts=np.array([100, 40, 10, 3]),
        class_names=HOSTILE if hostile else ["a", "b", "c", "d"],
    )


@pytest.fixture(scope="module")
def found():
    return diagnosis()


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_page(found, "<b>run</b>.npz"), encoding="utf-8")
    return path


def test_the_same_diagnosis_gives_the_same_bytes(page):
    assert to_page(diagnosis(), "<b>run</b>.npz") == page.read_text(encoding="utf-8")


def test_nothing_in_it_asks_a_network_or_runs(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|iframe|object|embed|form|img)\b", text)
    assert not re.search(r"\b(src|href|srcset|action|data)\s*=\s*[\"'](?!#)", text)
    assert not re.search(r"\bon\w+\s*=|\bstyle\s*=", re.sub(r">[^<]*<", "><", text))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_names_are_text_and_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;window.pwned = 1&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "&lt;b&gt;run&lt;/b&gt;" in text


def test_a_curve_has_a_page_too():
    curve = Curve(
        "epoch", np.arange(4.0), np.array([1, 0.5, 0.6, 0.9]), np.array([0.5, 0.8, 0.8, 0.9]), "held-out", None, ()
    )
    text = to_page(examine_curve(curve), "log.csv")
    assert "A curve cannot say why" in text
    assert 'id="cells"' not in text


def test_a_name_that_a_template_lacks_is_an_error():
    with pytest.raises(Exception, match="undefined"):
        render("diagnosis.html")


# In a browser ---------------------------------------------------------------------------------------------------------


class Browser:
    """Chromium without a window; ``send`` is one command of its debugging protocol."""

    def __init__(self, program: str, folder: str) -> None:
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        # the browser expects them at descriptors 3 and 4; high ones cannot be overwritten on the way there
        to_browser, from_browser = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers))
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += ["--hide-scrollbars", f"--user-data-dir={folder}", "about:blank"]
        moved = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *command],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        for end in (commands, answers, to_browser, from_browser):
            os.close(end)
        self._ids, self._rest, self.events = itertools.count(1), b"", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width=1000, dark=False):
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=f"file://{path}")
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def value(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13}[key]
            text = {"text": "\r"} if key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def _receive(self):
        while b"\0" not in self._rest:
            piece = os.read(self._in, 2**16)
            assert piece, "the browser ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self._out)
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here; install Debian's: apt-get install --no-install-recommends chromium")
    folder = tempfile.mkdtemp()
    opened = Browser(program, folder)
    yield opened
    opened.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_the_verdict_is_seen_first(browser, page, found):
    browser.open(page)
    assert browser.value("document.getElementById('verdict').innerText") == found.verdict
    assert browser.value("document.getElementById('verdict').getBoundingClientRect().bottom") < 500
    shown = browser.value("document.body.innerText")
    for part in (found.regime_name, found.recommendation, *found.evidence, *found.notes):
        assert part in shown
    assert all(name in shown for name in HOSTILE if any(e.label == name for e in found.examples))


def test_the_browser_runs_no_script_and_asks_for_nothing(browser, page):
    browser.open(page)
    assert browser.value("typeof window.pwned") == "undefined"
    assert browser.value("document.querySelectorAll('script, img, iframe, link').length") == 0
    methods = [event.get("method") for event in browser.events]
    assert methods.count("Network.requestWillBeSent") == 1  # the page itself
    assert "Log.entryAdded" not in methods, browser.events  # no violation of the policy, no error


def test_the_style_sheet_is_applied(browser, page):
    """Its hash in the policy is right: otherwise there would be no style at all."""
    browser.open(page)
    assert browser.value("getComputedStyle(document.querySelector('.beside')).display") == "grid"


def test_it_fits_a_phone(browser, page):
    browser.open(page, width=360)
    assert browser.value("document.documentElement.scrollWidth") <= 360
    assert (
        browser.value("Math.min(...[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width))")
        > 280
    )
    numbers = "document.querySelector('#numbers + .scroll')"  # before, after and change are seen without scrolling
    assert browser.value(f"{numbers}.scrollWidth - {numbers}.clientWidth") <= 0
    sizes = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    assert browser.value(f"Math.min(...{sizes}.filter(h => h > 0))") >= 8


CONTRAST = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
  };
  let least = 99;
  for (const e of document.querySelectorAll('p, li, td, th, dt, dd, h1, h2, a, caption, figcaption, svg text')) {
    const ink = parts(e.closest('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(browser, page, dark):
    browser.open(page, dark=dark)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark
    assert browser.value(CONTRAST) >= 4.5  # WCAG 2.1, 1.4.3


def test_it_can_be_used_by_keyboard(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0  # seen once it has the focus
    browser.press("Enter")
    assert browser.value("location.hash") == "#content"
    reached = set()
    for _ in range(40):
        browser.press("Tab")
        reached.add(browser.value("document.activeElement.getAttribute('aria-label')"))
    tables = browser.value("[...document.querySelectorAll('.scroll')].map(e => e.getAttribute('aria-label'))")
    assert set(tables) <= reached
    links = browser.value(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )
    assert links


def test_pictures_have_names_and_numbers_beside_them(browser, page, found):
    browser.open(page)
    assert browser.value("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label'))")
    pictures = browser.value("document.querySelectorAll('svg').length")
    assert pictures == 6  # path, two curves, cells, reliability, groups
    assert browser.value("document.querySelectorAll('table').length") >= 7
    circles = browser.value("document.querySelectorAll('#path ~ .beside circle').length")
    assert circles > len(found.path)
    outside = """[...document.querySelectorAll('svg')].some(s => {
      const box = s.getBoundingClientRect();
      return [...s.querySelectorAll('circle, rect, path, text')].some(e => {
        const b = e.getBoundingClientRect();
        return Math.min(b.left - box.left, box.right - b.right, b.top - box.top, box.bottom - b.bottom) < -2;
      });
    })"""
    assert not browser.value(outside)
