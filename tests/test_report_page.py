"""Opens reports in the machine's Chromium and uses them, by mouse and by keyboard."""

import json
import shutil

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browsing import needs_chromium, open_browser
from tests.made_tests import random_test
from worklab.options import ReaderOptions
from worklab.readers import ArrayReader
from worklab.report import contents as contents_module
from worklab.report.writing import write_report

NAMES = ["bird", "ant", "</script><b>cow", "dog"]

pytestmark = [pytest.mark.stress, needs_chromium]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def copied_with(test, tiny_run, folder):
    """A copy of the tiny run with another test."""
    run = shutil.copytree(tiny_run, folder / "run")
    shutil.rmtree(run / "tests")
    test.save(run / "tests")
    return run


@pytest.fixture(scope="module")
def report(tiny_run, tmp_path_factory):
    """A report of a test of four classes, whose images are there."""
    test = random_test(200, 4, hit=0.8, step=3)
    test.class_names[:] = NAMES
    run = copied_with(test, tiny_run, tmp_path_factory.mktemp("report"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (200, 12, 16, 3), dtype=np.uint8)
    options = ReaderOptions(image_size=(12, 16))
    reader = ArrayReader(images, test.labels, NAMES, options=options)
    reader.name = lambda index: test.names[index]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            contents_module, "_open_readers", lambda setup, remarks: {"test": reader}
        )
        return write_report(run)


@pytest.fixture
def open_page(browser):
    """Opens a file; nothing may be asked of a network, or written to the console."""
    pages = []

    def opened(path, *, width=1280, scheme="light"):
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page.set_default_timeout(20_000)
        pages.append((page, noise := []))
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file:", "data:", "blob:"))
                else noise.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("[data-drawn]")
        return page

    yield opened
    for page, noise in pages:
        page.close()
        assert noise == []


def confusion_of(report):
    return json.loads(report.with_suffix(".json").read_text())["test"]["confusion"]


def column(page, number):
    cells = page.locator("#class-table tbody tr").all()
    return [cell.locator("th, td").nth(number).inner_text() for cell in cells]


def test_table_of_classes_sorts_by_mouse_and_keyboard(report, open_page):
    page = open_page(report)
    assert column(page, 0) == NAMES
    titles = page.locator("#class-table thead th")
    recall = titles.filter(has_text="recall")
    recall.locator("button").click()
    assert recall.get_attribute("aria-sort") == "descending"
    number = [each.inner_text() for each in titles.all()].index(recall.inner_text())
    values = [float(text.removesuffix(" %")) for text in column(page, number)]
    assert values == sorted(values, reverse=True)
    assert len({*values}) > 1
    page.locator("#class-table thead button").first.focus()
    page.keyboard.press("Enter")
    assert column(page, 0) == sorted(NAMES, key=str.lower)
    page.keyboard.press("Enter")
    assert column(page, 0) == sorted(NAMES, key=str.lower, reverse=True)
    assert recall.get_attribute("aria-sort") == "none"


def test_confusion_is_sorted_and_tells_counts_under_the_mouse(report, open_page):
    page = open_page(report)
    plot = page.locator('[data-chart="confusion"]')
    plot.scroll_into_view_if_needed()
    page.wait_for_selector('[data-chart="confusion"][data-drawn]')

    labels = plot.locator(".ytick text")  # from below
    expect(labels).to_have_text([f"\u200b{name}" for name in NAMES[::-1]])
    page.get_by_label("order").first.select_option("name")
    expect(labels).to_have_text([f"\u200b{name}" for name in sorted(NAMES)[::-1]])
    place = plot.locator(".plot-container .nsewdrag").first.bounding_box()
    page.mouse.move(
        place["x"] + place["width"] * 3 / 8, place["y"] + place["height"] / 8, steps=3
    )
    row, column = sorted(NAMES)[:2]
    numbers = confusion_of(report)[NAMES.index(row)]
    count = numbers[NAMES.index(column)]
    assert count != confusion_of(report)[NAMES.index(column)][NAMES.index(row)]
    share = f"{100 * count / sum(numbers):.1f}%"
    text = f"{row}, called \u200b{column}: {count} images, {share}"
    expect(plot.locator(".hoverlayer .hovertext")).to_contain_text(text)


def test_theme_changes_page_and_charts(report, open_page):
    page = open_page(report, scheme="dark")

    def expect_colours(back, text):
        expect(page.locator("body")).to_have_css("background-color", back)
        title = page.locator('[data-chart="loss"] .xtitle')
        expect(title).to_have_css("fill", text)

    dark = ("rgb(20, 23, 28)", "rgb(230, 233, 238)")
    expect_colours(*dark)
    button = page.get_by_role("button", name="theme")
    button.click()
    expect(button).to_have_text("theme: light")
    expect_colours("rgb(255, 255, 255)", "rgb(27, 32, 40)")
    button.click()
    expect_colours(*dark)


def test_image_opens_with_its_answers_and_closes_by_keyboard(report, open_page):
    page = open_page(report)
    error = page.locator(".example.wrong").first
    error.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#example")
    assert dialog.get_attribute("open") is not None
    assert dialog.locator("h2").inner_text() == error.get_attribute("data-image")
    shares = [
        float(text.removesuffix(" %"))
        for text in dialog.locator("tbody td").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)
    first = json.loads(report.with_suffix(".json").read_text())["examples"]["errors"][0]
    own = f"{100 * first['label_probability']:.1f} %"
    loss = f"{first['loss']:.4f}"
    expect(dialog.locator("p")).to_have_text(
        f"is {first['label']} ({own}), loss {loss}"
    )
    width = "async image => { await image.decode(); return image.naturalWidth }"
    assert dialog.locator("img").evaluate(width) == 16
    page.keyboard.press("Escape")
    assert dialog.get_attribute("open") is None


def test_phone_shows_all_of_it_within_its_width(report, open_page):
    page = open_page(report, width=360)
    for name in ("confusion", "roc", "reliability", "class_counts"):
        page.locator(f'[data-chart="{name}"]').scroll_into_view_if_needed()
        page.wait_for_selector(f'[data-chart="{name}"][data-drawn]')
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    names = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert {"Summary", "Confusion", "Images"} < {*names}


def test_names_that_are_html_stay_texts(report, open_page):
    page = open_page(report)
    assert page.get_by_text("cow", exact=True).count() == 0
    assert page.get_by_text("</script><b>cow").count() >= 2


def test_many_classes_are_found_by_a_part_of_their_name(tiny_run, tmp_path, open_page):
    test = random_test(400, 80, step=3)
    page = open_page(write_report(copied_with(test, tiny_run, tmp_path)))
    page.get_by_role("searchbox").fill("ss 7")
    assert page.locator("#class-table tbody tr:visible").count() == 11  # 7, 70 to 79
    assert page.locator("#filtered").inner_text() == "11 classes"
    plot = page.locator('[data-chart="confusion"]')
    plot.scroll_into_view_if_needed()
    page.wait_for_selector('[data-chart="confusion"][data-drawn]')
    assert plot.locator(".ytick text").count() > 10
    page.get_by_label("show").select_option("all 80")
    expect(plot.locator(".ytick text")).to_have_count(0)


def test_paper_has_all_charts_and_all_tables(report, open_page):
    page = open_page(report)
    assert page.locator("[data-chart]:not([data-drawn])").count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("[data-chart]:not([data-drawn])").count() == 0
    assert page.locator("details:not([open])").count() == 0
