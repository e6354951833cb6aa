"""A folder with every kind of results, and a browser that opens reports."""

import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from tests.support import picture_files as files
from training.pictures.content import Choice
from training.report.discovery import found_in
from training.report.page import page_of

CHOICE = Choice(points=20, seed=0)
NASTY = "<script>alert(1)</script>"
LOUD = ("error", "warning")
LOCAL = ("file:", "data:", "blob:")
LABELS = np.eye(3)[np.arange(10) % 3]


@pytest.fixture(scope="package")
def everything(tmp_path_factory):
    """Results of every kind that a report shows, in folders of their own below one whose name a
    browser could take for a script."""
    folder = tmp_path_factory.mktemp("report") / NASTY.replace("/", "|")
    for name in ("toy", "toy-3D", "images", "rest", "posterior", "run"):
        (folder / name).mkdir(parents=True)
    for kind in ("melt", "roundtrip", "gen"):
        files.save_simulation(folder / "toy", kind, log_prob=np.arange(30.0))
        files.save_simulation(folder / "toy-3D", kind, dim=3)
        files.save_images(folder / "images", kind, labels=LABELS)
    for save in (files.save_coverage, files.save_summary, files.save_roundtrips, files.save_check):
        save(folder / "rest")
    files.save_posterior(folder / "posterior")
    files.save_stats(folder / "run")
    return folder


@pytest.fixture(scope="package")
def html(everything):
    return page_of(found_in([everything], CHOICE), everything.name, CHOICE)


@pytest.fixture(scope="module")
def chromium():
    """A browser without a network; tests without one are skipped, which says how to get it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(chromium):
    """``with opened(path, width=..., dark=...) as page:`` and its ``page.complaints``."""

    @contextmanager
    def open_page(path, width=1280, dark=False):
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=scheme, offline=True)
        context.set_default_timeout(60_000)
        page = context.new_page()
        complaints = []
        page.complaints = complaints
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type in LOUD and complaints.append(line.text))
        page.on("request", lambda to: to.url.startswith(LOCAL) or complaints.append(to.url))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")
        yield page
        context.close()

    return open_page
