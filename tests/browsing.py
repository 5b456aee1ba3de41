"""The machine's Chromium, driven by Playwright."""

import contextlib
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

# In CI a missing browser is a failure.
needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine"
)


@contextlib.contextmanager
def open_browser():
    """Open the browser; it asks nobody for updates."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=[*arguments, "--disable-component-update"]
        )
        yield browser
        browser.close()
