import csv

import numpy as np
import tensorflow as tf
from rich.console import Console

from worklab import Writer
from worklab.graph import keras_graph


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
        writer.write_histograms(3, {"kernel": np.arange(10.0)})
        writer.write_text(3, {"notes": "**bold**"})
    found = {
        value.metadata.plugin_data.plugin_name: tf.make_ndarray(value.tensor)
        for event in events(tmp_path / "tensorboard/train")
        for value in event.summary.value
    }
    decoded = tf.io.decode_png(found["images"][2]).numpy()
    np.testing.assert_array_equal(decoded, images[0])
    assert found["histograms"][:, 2].sum() == 10
    assert found["text"] == b"**bold**"


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
