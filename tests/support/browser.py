"""Open a built report in headless Chromium, from the file system and without a network."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = (Path(__file__).parent / "axe/axe.min.js").read_text(encoding="utf-8")
SERIOUS = """rules => axe.run({preload: false, ...rules}).then(found => found.violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => `${v.id}: ${v.help}, ${v.nodes.length} times, first ${v.nodes[0].html.slice(0, 200)}`))"""
MATHEMATICS = "span.math, div.math"
HEAVY = 5 * 10**6
"""Bytes that a page and what belongs to it alone may have; what all pages share, a browser loads once."""
SHARED = {"_static", "mathjax"}
MAC_CHROME = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def chromium() -> str:
    """The browser's path. Without one the test is skipped, but in CI it fails."""
    found = next(
        filter(None, map(shutil.which, CHROMIUM)), str(MAC_CHROME) if MAC_CHROME.exists() else None
    )
    if found is None:
        message = f"no browser: install one of {', '.join(CHROMIUM)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def headless() -> Iterator[Browser]:
    """Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
            ],
        )
        yield browser
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, served to this machine as `make serve` does it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(browser: Browser, address: str, path: str) -> tuple[Page, list[str]]:
    """A page of a served folder, and all that goes wrong on it from now on: errors, requests to other hosts."""
    page, problems = browser.new_page(), []
    page.route(
        "**/favicon.ico", lambda route: route.fulfill(status=204)
    )  # no page asks for it, the browser does
    page.on(
        "console", lambda m: problems.append(m.text) if m.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.extend(_elsewhere(request.url, address)))
    page.goto(f"{address}/{path}", wait_until="load")
    return page, problems


def _elsewhere(url: str, address: str) -> list[str]:
    return (
        [] if url.startswith((address, "data:", "blob:")) else [f"request to another host: {url}"]
    )


def problems_of(site: Path, accessibility: bool = True) -> list[str]:
    """All that is wrong with the pages of a built report; an empty list if nothing is.

    On every page: no console error or warning, no failed request, none to another host, all images loaded and
    described, every equation drawn, no more than `HEAVY` bytes, no sideways scrolling on a desktop or a phone,
    and, which takes seconds a page, no serious finding by axe-core in light or in dark.
    """
    problems: list[str] = []
    pages = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    # A page that only sends the reader on would leave while it is looked at; where it leads is looked at itself.
    pages = [
        path
        for path in pages
        if 'http-equiv="refresh"' not in path.read_text(encoding="utf-8").lower()
    ]
    assert pages, f"{site} has no pages"
    with headless() as browser:
        context = browser.new_context(offline=True)
        for path in pages:
            name = str(path.relative_to(site))
            problems += [
                f"{name}: {problem}"
                for problem in _page_problems(context.new_page(), path, accessibility)
            ]
    return problems


def _page_problems(page: Page, path: Path, accessibility: bool) -> list[str]:
    problems: list[str] = []
    files: set[Path] = set()
    page.on("request", lambda request: files.add(Path(unquote(urlparse(request.url).path))))
    page.on(
        "console",
        lambda m: (
            problems.append(f"{m.type}: {m.text}") if m.type in {"error", "warning"} else None
        ),
    )
    page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed request: {request.url}"))
    page.on("request", lambda request: problems.extend(_request_problem(request.url)))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(path.as_uri(), wait_until="load")
    if page.locator(MATHEMATICS).count():
        if page.evaluate(
            "window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => true)"
        ):
            undrawn = page.locator(MATHEMATICS).filter(has_not=page.locator("mjx-container"))
            problems += [f"equation not drawn: {text}" for text in undrawn.all_text_contents()]
            problems += [
                f"wrong mathematics: {t}"
                for t in page.locator("[data-mjx-error]").all_text_contents()
            ]
        else:
            problems.append("MathJax was not loaded")
    page.evaluate("for (const i of document.images) i.loading = 'eager'")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    for image in page.evaluate(
        "[...document.images].map(i => [i.getAttribute('src'), i.alt, i.naturalWidth])"
    ):
        source, alt, natural_width = image
        if not natural_width:
            problems.append(f"image not loaded: {source}")
        if not alt or alt == source or alt.endswith(Path(source).name):
            problems.append(f"image without a description: {source}")
    size = sum(
        file.stat().st_size for file in files if file.is_file() and not SHARED & set(file.parts)
    )
    if size > HEAVY:
        problems.append(f"heavy: {size / 1e6:.1f} MB, and a page may have {HEAVY / 1e6:.0f}")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        if page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        ):
            problems.append(f"sideways scrolling at {width} pixels")
    if accessibility:
        # The theme gives what now scrolls its place in the order of the keyboard 300 ms after the last resize.
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 600)))")
        page.evaluate(AXE)
        for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.emulate_media(color_scheme=scheme)
            problems += [f"in {scheme}: {finding}" for finding in page.evaluate(SERIOUS, rules)]
    page.close()
    return problems


def _request_problem(url: str) -> list[str]:
    parts = urlparse(url)
    if parts.scheme in {"data", "blob", "about"}:
        return []
    if parts.scheme != "file":
        return [f"request to another host: {url}"]
    return [] if Path(unquote(parts.path)).exists() else [f"no such file: {url}"]
