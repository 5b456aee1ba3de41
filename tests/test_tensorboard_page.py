"""Opens TensorBoard on a run in the machine's Chromium, and uses its tabs."""

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browsing import needs_chromium, open_browser

pytestmark = [pytest.mark.stress, needs_chromium]


@pytest.fixture(scope="module")
def address(tiny_run, tmp_path_factory):
    """The address of a TensorBoard that shows a copy of the tiny run."""
    folder = tmp_path_factory.mktemp("tensorboard")
    shutil.copytree(tiny_run, folder / "runs/tiny")
    log = folder / "log"
    command = [
        *(str(Path(sys.executable).with_name("tensorboard")), "--logdir"),
        *(str(folder / "runs"), "--port", "0", "--load_fast", "false"),
    ]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield wait_for_address(process, log)
    finally:
        process.kill()
        process.wait()


def wait_for_address(process, log, *, seconds=90):
    for _ in range(10 * seconds):
        found = re.search(r"http://localhost:(\d+)", log.read_text())
        if found:
            address = f"http://localhost:{found[1]}"
            runs = urllib.request.urlopen(f"{address}/data/runs").read()
            if b"tiny/tensorboard/train" in runs:
                return address
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def page(address):
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(address)
        yield page


def open_tab(page, address, name):
    page.goto(f"{address}/#{name}")
    page.reload()


def test_curves_of_train_and_valid_share_a_chart(page, address):
    open_tab(page, address, "timeseries")
    card = page.locator("scalar-card", has_text="accuracy").first
    for split in ("train", "valid"):
        expect(card.get_by_text(f"tiny/tensorboard/{split}")).to_be_visible()
    groups = page.locator("metrics-card-groups")
    for name in ("loss", "learning_rate", "update_to_weight", "confusion matrix"):
        expect(groups.get_by_text(name).first).to_be_attached()


def test_graph_has_boxes_that_open(page, address):
    open_tab(page, address, "graphs")
    box = page.locator('g.node[data-name="slow"] > .nodeshape .nodecolortarget').first
    expect(box).to_be_visible()
    inner = page.locator('g.node[data-name="slow/shortcut"]')
    expect(inner).to_have_count(0)
    page.wait_for_timeout(2000)  # until it has stopped moving
    box.dblclick(force=True)
    expect(inner.first).to_be_visible()


def test_other_tabs_show_the_test_and_the_options(page, address):
    open_tab(page, address, "images")
    expect(page.get_by_text("tag: confusion matrix")).to_be_visible()
    open_tab(page, address, "pr_curves")
    expect(page.get_by_text("tag: circle")).to_be_visible()
    open_tab(page, address, "hparams")
    expect(page.get_by_text("optimizer.name").first).to_be_visible()
    expect(page.get_by_text("valid.accuracy").first).to_be_visible()
    open_tab(page, address, "text")
    expect(page.get_by_text("patience.valid_every").first).to_be_visible()
