import dataclasses
import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from worklab import answer_tables
from worklab.report_statistics import detailed_statistics
from worklab.saved_tests import find_test, read_test

from .made_tests import make_test, random_test


@pytest.fixture
def saved(tmp_path):
    test = random_test(40, 3, names=[f'a "{n}", b.png' for n in range(40)])
    return test, test.save(tmp_path / "run" / "tests")


def test_what_was_saved_is_read_to_the_last_bit(saved):
    test, path = saved
    for each in (path, path.with_suffix(".csv")):
        found = read_test(each)
        assert found.names == test.names
        assert found.class_names == test.class_names
        assert found.probabilities.tobytes() == test.probabilities.tobytes()
        assert found.losses.tobytes() == test.losses.tobytes()
        assert (found.labels == test.labels).all()
        assert found.statistics == test.statistics
        assert (found.step, found.split, found.views) == (7, "test", "")
    settings = {"num_resamples": 5}
    assert detailed_statistics(found, **settings) == detailed_statistics(
        test, **settings
    )


def test_skipped_images_and_views_are_read(tmp_path):
    test = random_test(3, 2)
    statistics = dataclasses.replace(test.statistics, num_skipped=1)
    test = dataclasses.replace(
        test, statistics=statistics, skipped=["bad.png"], views="flip"
    )
    found = read_test(test.save(tmp_path))
    assert (found.skipped, found.views) == (["bad.png"], "flip")
    assert found.statistics == statistics


def test_files_of_six_digits_keep_their_predictions(saved):
    """As they were written before: two probabilities may be equal in them."""
    _, path = saved
    table = path.with_suffix(".csv")
    lines = table.read_text().splitlines()
    start = lines[1].rpartition("class")[0]  # the image and its label
    table.write_text(
        "\n".join([lines[0], start + "class 2,0.7,0.4,0.2,0.4", *lines[2:]])
    )
    found = read_test(path)
    assert found.predictions[0] == 2
    assert found.probabilities[0].tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_test_of_a_run_is_found(saved, tmp_path):
    test, path = saved
    run = path.parent.parent
    assert find_test(run) == find_test(path.with_suffix(".csv")) == path
    dataclasses.replace(test, views="flip").save(path.parent)
    assert find_test(run) == path
    with pytest.raises(
        FileNotFoundError, match=r"no test of `valid`.*--split valid.*0007"
    ):
        find_test(run, "valid")
    dataclasses.replace(test, step=8).save(path.parent)
    with pytest.raises(
        ValueError, match=r"has 2 tests of `test`.*Received: step-00000007"
    ):
        find_test(run)
    with pytest.raises(
        FileNotFoundError, match=r"two files.*Received: no `.*none.csv`"
    ):
        find_test(tmp_path / "none.csv")


def change(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("p(class 1)", "p(cat)"), r"line 1, is not of a test.*other columns"),
        (lambda _: "", r"line 0, is not of a test.*other columns: \[\]"),
        (change("class 1,class 1", "class 1,class 9"), r"line \d+, .*'class 9'"),
        (lambda text: text + "7.png,class 1\n", r"line 42, .*not enough values"),
        (lambda text: text + "7.png,class 1,class 1,x,0,1,0\n", r"line 42, .*'x'"),
        (
            lambda text: text + "7.png,class 1,class 1,0,0,1\n",
            r"line 42, .*2 probabilities of `7.png`",
        ),
        (
            lambda text: text + "7.png,class 1,class 0,0,0,1,0\n",
            r"line 42, .*1.0 is more",
        ),
        (
            lambda text: text.rpartition("a ")[0][:-1],
            r"should have the 40.*Received: 39",
        ),
        (lambda text: text + "7.png,class 1,class 1,0,0,1,0\n", r"Received: 41"),
    ],
)
def test_damaged_table_is_named(saved, damage, message):
    _, path = saved
    table = path.with_suffix(".csv")
    table.write_text(damage(table.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        read_test(path)
    assert str(table) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"step": 3}',
        "3",
        '{"step": 3, "split": "test", "class_names": "ab", "num_images": 1}',
        '{"step": 3, "split": "test", "class_names": [1, 2], "num_images": 1}',
        '{"step": 3, "split": "test", "class_names": ["a"], "num_images": "1"}',
    ],
)
def test_json_that_is_none_is_named(saved, text):
    _, path = saved
    path.write_text(text)
    with pytest.raises(ValueError, match=r"step-.*json` is not the result of a test"):
        read_test(path)


def test_missing_table_is_named(saved):
    _, path = saved
    path.with_suffix(".csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"Received: no `.*csv`"):
        read_test(path)


def test_answer_that_is_not_finite_names_line_and_image(saved):
    _, path = saved
    table = path.with_suffix(".csv")
    text = table.read_text()
    line = text.splitlines()[3]
    table.write_text(text.replace(line, line.rpartition(",")[0] + ",nan"))
    with pytest.raises(ValueError, match=r'line 4, .*not finite, of `a "2", b.png`'):
        read_test(path)


def test_file_of_something_else_is_named(saved):
    _, path = saved
    notes = path.with_name("notes.md")
    notes.write_text("# notes")
    with pytest.raises(ValueError, match=r"notes.md` is not the result of a test"):
        read_test(find_test(notes))


def test_json_of_before_is_read(saved):
    test, path = saved
    numbers = json.loads(path.read_text())
    del numbers["skipped"]
    path.write_text(json.dumps(numbers))
    assert read_test(path).skipped == []
    assert np.array_equal(read_test(path).labels, test.labels)
    assert make_test([0], [[1, 0]]).views == ""


def test_parquet_is_read_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_tables, "_BATCH_BYTES", 7 * 112)  # so, 7 rows at a time
    names = [f'a "{n}", \udc80.png' for n in range(40)]
    test = dataclasses.replace(
        random_test(40, 3, names=names), class_names=["a.b", "c,d", "\udc80"]
    )
    path = test.save(tmp_path, table="parquet")
    table = path.with_suffix(".parquet")
    for each in (path, table):
        found = read_test(find_test(each))
        assert found.names == [name.replace("\udc80", "\\udc80") for name in names]
        assert found.class_names == test.class_names
        assert found.probabilities.tobytes() == test.probabilities.tobytes()
        assert found.losses.tobytes() == test.losses.tobytes()
        assert (found.labels == test.labels).all()
    columns = pyarrow.parquet.read_table(table)
    plain = ["image", "label", "prediction", "loss"]
    assert columns.column_names == [*plain, "p(a.b)", "p(c,d)", "p(\\udc80)"]
    answers = [("a.b", "c,d", "\\udc80")[n] for n in test.predictions]
    assert columns["prediction"].to_pylist() == answers
    assert {str(kind) for kind in columns.schema.types[3:]} == {"float"}


def test_a_test_has_one_table(tmp_path):
    test = random_test(3, 2)
    for table, other in (("csv", "parquet"), ("parquet", "csv"), ("csv", "parquet")):
        path = test.save(tmp_path, table=table)
        assert path.with_suffix(f".{table}").is_file()
        assert not path.with_suffix(f".{other}").exists()
    path.with_suffix(".parquet").touch()
    with pytest.raises(ValueError, match=r"cannot be told.*test.csv', '.*parquet'"):
        read_test(path)


def numbers_of(value, count=40):
    return pyarrow.array([value] * count, pyarrow.float32())


def texts_of(value, count=40):
    return pyarrow.array([value] * count, pyarrow.string())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop_columns("loss"), r"other columns: `p.*not `loss: float`"),
        (lambda t: t.append_column("more", t["loss"]), r"other columns: `more: float"),
        (
            lambda t: t.set_column(3, "loss", t["loss"].cast("double")),
            r"other columns: `loss: double`, not `loss: float`",
        ),
        (lambda t: t.slice(1), r"Received: 39 rows, not 40"),
        (lambda t: t.set_column(0, "image", texts_of(None)), r"row 1 has no name"),
        (
            lambda t: t.set_column(1, "label", texts_of("x")),
            r"row 1 has a label .*no c",
        ),
        (lambda t: t.set_column(1, "label", texts_of(None)), r"row 1 has a label"),
        (
            lambda t: t.set_column(2, "prediction", texts_of("class 1")),
            r"row \d has a prediction below another, of `a \"\d\", b.png`",
        ),
        (lambda t: t.set_column(3, "loss", numbers_of(None)), r"row 1 .*not finite"),
        (
            lambda t: t.set_column(4, t.column_names[4], numbers_of(np.inf)),
            r"row 1 has what is not finite, of `a \"0\", b.png`",
        ),
    ],
)
def test_damaged_parquet_is_named(saved, damage, message):
    test, path = saved
    table = test.save(path.parent, table="parquet").with_suffix(".parquet")
    pyarrow.parquet.write_table(damage(pyarrow.parquet.read_table(table)), table)
    with pytest.raises(ValueError, match=message) as error:
        read_test(path)
    assert str(table) in str(error.value)


def test_torn_and_changed_parquet_is_named(saved):
    test, path = saved
    table = test.save(path.parent, table="parquet").with_suffix(".parquet")
    whole = table.read_bytes()
    place = whole.index(test.losses[5].tobytes())
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for content in (whole[:-100], whole[: len(whole) // 2], b"", b"label", changed):
        table.write_bytes(content)
        with pytest.raises(ValueError, match=r"test\.parquet` is not of a test"):
            read_test(path)


def test_more_images_than_any_memory_holds_are_refused(saved):
    test, path = saved
    for table in ("csv", "parquet"):
        test.save(path.parent, table=table)
        numbers = json.loads(path.read_text())
        path.write_text(json.dumps(numbers | {"num_images": 10**18}))
        with pytest.raises(ValueError, match=rf"{table}` .*Received: 1000+ images"):
            read_test(path)


def test_parquet_without_its_package_says_what_to_install(saved, monkeypatch):
    test, path = saved
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[parquet\]'"):
        test.save(path.parent, table="parquet")
    with pytest.raises(ValueError, match=r"'csv' or 'parquet'. Received: 'xlsx'"):
        test.save(path.parent, table="xlsx")
    assert read_test(path).names == test.names
