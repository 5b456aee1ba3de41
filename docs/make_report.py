"""Makes the README's report and its picture, from the run of `make demo`.

    make demo
    python docs/make_report.py

Needs Chromium on the machine, as the tests of pages do. The page is that of the run,
but for the place of this project on this machine.
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "runs/demo/report.html"
PAGE = ROOT / "docs/demo_report.html"
PICTURE = ROOT / "docs/images/report.png"
SIZE = {"width": 1180, "height": 900}


def main() -> None:
    """Write page and picture."""
    text = REPORT.read_text(encoding="utf-8").replace(f"{ROOT}/", "")
    PAGE.write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(PAGE.as_uri())
        page.wait_for_selector('[data-chart="accuracy"][data-drawn]')
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURE)
        browser.close()
    for path in (PAGE, PICTURE):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
