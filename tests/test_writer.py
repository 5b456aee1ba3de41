import contextlib
import csv
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from sklearn import metrics
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_metadata

from worklab import Writer
from worklab.csv_log import CsvLog
from worklab.curves import threshold_counts
from worklab.graph import keras_graph
from worklab.stopping import StopRequested
from worklab.tensorboard_events import EventFile, cut_events
from worklab.tensorboard_values import histogram, scalar
from worklab.trial_process import TrialPruned


def events(folder):
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append(tf.compat.v1.Event.FromString(record))
    return found


def scalars(folder):
    return [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in events(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]


def rows(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scalars_of_both_splits_share_their_tags(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write_scalars(1, {"loss": 0.5, "learning_rate": 0.1})
        writer.write_scalars(2, {"loss": 0.25, "accuracy": 1.0}, split="valid")
        writer.write_speed(2, {"images_per_second": 100.0})
    train = scalars(tmp_path / "tensorboard/train")
    assert (1, "loss", 0.5) in train
    assert (2, "speed/images_per_second", 100.0) in train
    assert (2, "loss", 0.25) in scalars(tmp_path / "tensorboard/valid")
    assert rows(tmp_path) == [
        {
            "step": "1",
            "split": "train",
            "loss": "0.5",
            "accuracy": "",
            "learning_rate": "0.1",
        },
        {
            "step": "2",
            "split": "valid",
            "loss": "0.25",
            "accuracy": "1",
            "learning_rate": "",
        },
    ]


def test_what_a_dead_run_wrote_beyond_the_state_is_taken_away(tmp_path):
    writer = Writer(tmp_path)
    writer.write_scalars(1, {"loss": 1.0})
    writer.write_scalars(1, {"loss": 1.5}, split="valid")
    writer.write_scalars(2, {"loss": 2.0})
    state = writer.get_state()
    writer.write_scalars(2, {"loss": 99.0}, split="valid")
    writer.write_scalars(3, {"loss": 99.0})
    writer.close()
    torn = next((tmp_path / "tensorboard/train").iterdir())
    torn.write_bytes(torn.read_bytes()[:-3])

    with Writer(tmp_path) as again:
        again.set_state(state)
        again.write_scalars(3, {"loss": 3.0})
    assert [(r["step"], r["loss"]) for r in rows(tmp_path)] == [
        ("1", "1"),
        ("1", "1.5"),
        ("2", "2"),
        ("3", "3"),
    ]
    train = [(s, v) for s, _, v in scalars(tmp_path / "tensorboard/train")]
    assert train == [(1, 1.0), (2, 2.0), (3, 3.0)]
    valid = [(s, v) for s, _, v in scalars(tmp_path / "tensorboard/valid")]
    assert valid == [(1, 1.5)]


def test_rows_end_at_line_ends_alone(tmp_path):
    log = CsvLog(tmp_path / "log.csv", ["step", "name"])
    for step in range(3):
        log.append([[step, "a\u2028b\x85"]])
    log.num_rows = 2
    log.cut()
    with open(log.path, newline="", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1"]
    assert list(tmp_path.iterdir()) == [log.path]


@pytest.mark.parametrize("stamp", ["4102444800", "9999999999.999999", "zz"])
def test_points_stay_in_order_after_the_clock_was_set_back(tmp_path, stamp):
    with Writer(tmp_path) as writer:
        writer.write_scalars(1, {"loss": 1.0})
        state = writer.get_state()
    folder = tmp_path / "tensorboard/train"
    (path,) = folder.iterdir()
    path.rename(folder / f"events.out.tfevents.{stamp}.another.1.9.v2")
    for step in (2, 3):
        with Writer(tmp_path) as again:
            again.set_state(state)
            again.write_scalars(step, {"loss": float(step)})
            state = again.get_state()
    assert [step for step, *_ in scalars(folder)] == [1, 2, 3]


def test_a_run_that_starts_anew_has_an_empty_log(tmp_path):
    with Writer(tmp_path) as writer:
        empty = writer.get_state()
        writer.write_scalars(1, {"loss": 1.0})
    with Writer(tmp_path) as again:
        again.set_state(empty)
    assert not (tmp_path / "history.csv").exists()
    assert events(tmp_path / "tensorboard/train") == []


def test_images_histograms_and_texts_come_back(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), dtype=np.uint8)
    with Writer(tmp_path) as writer:
        writer.write_images(3, {"batch": images})
        writer.write_histograms(3, {"kernel": np.arange(30.0)})
        writer.write_text(3, {"notes": "**bold**"})
    found = {
        value.metadata.plugin_data.plugin_name: tf.make_ndarray(value.tensor)
        for event in events(tmp_path / "tensorboard/train")
        for value in event.summary.value
    }
    decoded = tf.io.decode_png(found["images"][2]).numpy()
    np.testing.assert_array_equal(decoded, images[0])
    assert found["histograms"][:, 2].tolist() == [1.0] * 30
    np.testing.assert_allclose(found["histograms"][[0, -1], [0, 1]], [0, 29])
    assert found["text"] == b"**bold**"


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 2)])
def test_images_of_another_shape_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"images `batch` must be uint8.*Received"):
        Writer(tmp_path).write_images(1, {"batch": np.zeros(shape, np.uint8)})


def test_equal_values_and_no_values_have_a_histogram(tmp_path):
    arrays = {"equal": np.full(5, 3.0), "none": np.zeros(0), "bad": np.array([np.nan])}
    with Writer(tmp_path) as writer:
        writer.write_histograms(1, arrays)
    tables = {
        value.tag: tf.make_ndarray(value.tensor)
        for event in events(tmp_path / "tensorboard/train")
        for value in event.summary.value
    }
    assert tables["equal"][-1].tolist() == [3, 3, 5]
    assert tables["none"].sum() == tables["bad"].sum() == 0


def test_precision_and_recall_are_those_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    is_class, scores = rng.random(50) < 0.3, rng.random(50)
    counts = threshold_counts(is_class, scores, num_thresholds=11)
    with Writer(tmp_path) as writer:
        writer.write_pr_curves(4, {"cat": counts}, split="test")
    (event,) = [e for e in events(tmp_path / "tensorboard/test") if e.summary.value]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (4, "cat")
    assert value.metadata.plugin_data.plugin_name == "pr_curves"
    table = tf.make_ndarray(value.tensor)
    for column, threshold in enumerate(np.linspace(0, 1, 11)):
        called = scores >= threshold
        precision = metrics.precision_score(is_class, called, zero_division=0)
        recall = metrics.recall_score(is_class, called)
        np.testing.assert_allclose(table[4:, column], [precision, recall], rtol=1e-6)
    np.testing.assert_array_equal(table[:4].sum(axis=0), 50)


@pytest.mark.parametrize(
    "values", [[1.0, np.nextafter(1, 2)], [0.0, 5e-324], [-1e308, 1.7e308]]
)
def test_values_without_room_for_buckets_are_one(values):
    table = tf.make_ndarray(histogram("kernel", np.array(values)).tensor)
    assert table[-1].tolist() == [*values, 2.0]
    assert table[:-1].tolist() == [[values[0], values[0], 0.0]] * (len(table) - 1)


def test_hyper_parameters_and_end_are_a_session_of_the_run(tmp_path):
    hparams = {"optimizer.name": "sgd", "rate": 0.5, "nesterov": True, "batch": 8}
    with Writer(tmp_path) as writer:
        writer.write_hparams(hparams)
        state = writer.get_state()
        writer.write_end(7)
    again = Writer(tmp_path)

    def found():
        return {
            value.tag: hparams_metadata.HParamsPluginData.FromString(
                value.metadata.plugin_data.content
            )
            for event in events(tmp_path / "tensorboard")
            for value in event.summary.value
        }

    start, end = found().values()
    assert start.session_start_info.group_name == str(tmp_path)
    given = start.session_start_info.hparams
    assert given["optimizer.name"].string_value == "sgd"
    assert given["rate"].number_value == 0.5
    assert given["nesterov"].bool_value is True
    assert end.session_end_info.status == 1  # success
    again.set_state(state)  # as where a complete run goes on
    assert list(found()) == ["_hparams_/session_start_info"]


def test_layers_have_rows_and_curves_that_are_cut_like_the_history(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write_layers(1, {"stem": 0.0, "top": 0.1}, {"top": 0.25})
        state = writer.get_state()
        writer.write_layers(2, {"stem": 0.0, "top": 0.1}, {"top": 99.0})
    Writer(tmp_path).set_state(state)
    assert (tmp_path / "layers.csv").read_text() == (
        "step,group,learning_rate,update_to_weight\n1,stem,0,\n1,top,0.1,0.25\n"
    )
    assert scalars(tmp_path / "tensorboard/train") == [
        (1, "learning_rate/stem", 0.0),
        (1, "learning_rate/top", float(np.float32(0.1))),
        (1, "update_to_weight/top", 0.25),
    ]


class Recorder:
    """Keeps the names of what it is given."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, verb):
        def take(*arguments, **settings):
            names = [sorted(a) for a in arguments if isinstance(a, dict)]
            self.calls.append((verb, *names[:1], *settings.values()))

        return take


def write_everything(writer):
    image = np.zeros((1, 2, 2, 3), np.uint8)
    writer.write_scalars(1, {"loss": 0.5}, split="valid")
    writer.write_layers(1, {"stem": 0.1}, {"stem": 0.01})
    writer.write_speed(1, {"images_per_second": 9.0})
    writer.write_images(1, {"batch": image})
    writer.write_histograms(1, {"kernel": np.zeros(2)})
    writer.write_text(0, {"options": "| a |"})
    writer.write_hparams({"rate": 0.1})
    writer.set_state(writer.get_state())  # nobody is closed by going back
    writer.close()


def test_others_get_what_the_writer_gets(tmp_path):
    other = Recorder()
    write_everything(Writer(tmp_path, others=[other]))
    assert other.calls == [
        ("write_scalars", ["loss"], "valid"),
        ("write_scalars", ["learning_rate/stem", "update_to_weight/stem"], "train"),
        ("write_scalars", ["speed/images_per_second"], "train"),
        ("write_images", ["batch"], "train"),
        ("write_histograms", ["kernel"]),
        ("write_text", ["options"], "train"),
        ("write_hparams", ["rate"]),
        ("close",),
    ]


class Closed:
    """Keeps how it was told that the run ended."""

    def __init__(self):
        self.endings = []

    def close(self, ending="finished"):
        self.endings.append(ending)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "finished"),
        (StopRequested(signal.SIGTERM), "stopped"),
        (TrialPruned(), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (FloatingPointError(), "failed"),
    ],
)
def test_others_are_told_how_the_run_ended(tmp_path, error, ending):
    other = Closed()
    with contextlib.suppress(BaseException), Writer(tmp_path, others=[other]):
        if error is not None:
            raise error
    assert other.endings == [ending]


def test_others_are_closed_where_closing_fails(tmp_path, monkeypatch):
    class Broken(Closed):
        def close(self, ending="finished"):
            super().close(ending)
            raise RuntimeError("of a user's own")

    others = [Broken(), Closed()]
    with pytest.raises(RuntimeError, match="user's own"):
        Writer(tmp_path, others=others).close()
    writer = Writer(tmp_path, others=others[1:])
    monkeypatch.setattr(writer, "stop_profile", lambda: {}["full"])
    with pytest.raises(KeyError):
        writer.close()
    assert [each.endings for each in others] == [["finished"], ["failed", "failed"]]


def test_names_that_are_no_unicode_are_escaped_everywhere(tmp_path):
    name, escaped = "caf\udce9", "caf\\udce9"
    other = Recorder()
    image = np.zeros((1, 2, 2, 3), np.uint8)
    with Writer(tmp_path / name, others=[other]) as writer:
        writer.write_points(1, {name: 0.5})
        writer.write_images(1, {name: image})
        writer.write_histograms(1, {name: np.zeros(2)})
        writer.write_text(1, {name: name})
        counts = threshold_counts(np.ones(1, bool), np.ones(1))
        writer.write_pr_curves(1, {name: counts}, split="train")
        writer.write_hparams({name: name})
    folder = (tmp_path / name).rename(tmp_path / "run")  # TensorFlow reads no other
    values = [
        value
        for event in events(folder / "tensorboard/train")
        for value in event.summary.value
    ]
    assert [value.tag.removesuffix("/text_summary") for value in values] == 5 * [
        escaped
    ]
    assert tf.make_ndarray(values[3].tensor) == escaped.encode()
    assert all(call[1] == [escaped] for call in other.calls[:-1])


def test_silent_writer_writes_nothing_and_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Recorder()
    write_everything(Writer(None, others=[other]))
    assert other.calls == []
    assert not list(tmp_path.iterdir())


def test_event_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = Writer(tmp_path)
    writer.write_scalars(1, {"loss": 0.5})
    assert scalars(tmp_path / "tensorboard/train") == [(1, "loss", 0.5)]


def test_cut_that_was_killed_half_way_leaves_each_event_once(tmp_path, monkeypatch):
    run = tmp_path / "train"
    for step in (1, 2):
        EventFile(run).write_values(step, [scalar("loss", step)])
    unlink = Path.unlink

    def stop_at_events(path, **settings):
        if path.name.startswith("events"):
            raise KeyboardInterrupt
        unlink(path, **settings)

    monkeypatch.setattr(Path, "unlink", stop_at_events)
    with pytest.raises(KeyboardInterrupt):
        cut_events(run, 2)
    monkeypatch.undo()
    assert len(list(run.iterdir())) == 2
    cut_events(run, 2)
    assert [step for step, _, _ in scalars(run)] == [1, 2]


def test_graph_has_a_node_for_each_layer_in_nested_scopes(tmp_path, tiny_network):
    with Writer(tmp_path) as writer:
        writer.write_graph(tiny_network.model)
    graphs = [e.graph_def for e in events(tmp_path / "tensorboard/train")]
    graph = tf.compat.v1.GraphDef.FromString(next(g for g in graphs if g))
    assert graph == keras_graph(tiny_network.model)
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(tiny_network.model.operations)
    assert nodes["slow/add"].op == "Add"
    assert list(nodes["slow/add"].input) == ["slow/b/bn", "slow/shortcut/bn"]
    shape = nodes["logits"].attr["_output_shapes"].list.shape[0]
    assert [dim.size for dim in shape.dim] == [-1, 3]


def test_console_shows_validations_and_progress(tmp_path):
    console = Console(record=True, width=100, force_terminal=True)
    with Writer(tmp_path, console=console) as writer:
        writer.show_progress(20, 100, 0.5, 0.1, 1000.0)
        writer.show_validation(100, 0.25, 0.975, "best")
    assert "valid loss 0.2500  accuracy 97.50%  best" in console.export_text()


def test_notebook_without_widgets_has_lines_and_no_bar(tmp_path):
    console = Console(force_jupyter=True)
    with Writer(tmp_path, console=console) as writer:
        writer.show_progress(1, 2, 0.5, 0.1, 10.0)  # Rich would warn, an error here
        writer.show_progress(2, 2, 0.5, 0.1, 10.0)
