"""Opens TensorBoard on a run in the machine's Chromium, and looks at each of its tabs."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no Chromium on this machine",
    ),
]


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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(address)
        yield page
        browser.close()


def open_tab(page, address, name):
    page.goto(f"{address}/#{name}")
    page.reload()


def test_curves_of_train_and_valid_share_a_chart(page, address):
    open_tab(page, address, "timeseries")
    card = page.locator("scalar-card", has_text="loss").first
    card.scroll_into_view_if_needed()
    expect(card).to_be_visible()
    for run in ("tiny/tensorboard/train", "tiny/tensorboard/valid"):
        expect(page.get_by_text(run).first).to_be_visible()
    tags = page.locator("scalar-card .tag").all_inner_texts()
    assert "loss" in tags
    groups = page.locator(
        "mat-expansion-panel-header, .group-toggle, card-group-toolbar"
    )
    names = " ".join(groups.all_inner_texts())
    assert "learning_rate" in names
    assert "update_to_weight" in names


def test_graph_has_boxes_that_open(page, address):
    open_tab(page, address, "graphs")
    box = page.locator("tf-graph-scene g.node text", has_text="slow").first
    expect(box).to_be_visible()
    before = page.locator("tf-graph-scene g.node").count()
    box.dblclick()
    expect(
        page.locator("tf-graph-scene g.node text", has_text="shortcut").first
    ).to_be_visible()
    assert page.locator("tf-graph-scene g.node").count() > before
