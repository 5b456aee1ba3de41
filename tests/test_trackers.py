"""Weights & Biases and MLflow; with the libraries: make trackers."""

import importlib
import json
import math
import shutil
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from worklab import sending
from worklab.tracked_runs import finite, finite_values, project_name
from worklab.trackers import MlflowWriter, WandbWriter, open_trackers

# The libraries' own, of versions of what they are built on.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IMAGES = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """Away from this machine's settings, servers and folders."""
    for variable in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # MLflow's pictures go there
    monkeypatch.setattr("worklab.sending._logger.parent.propagate", True)


@pytest.fixture
def wandb(_alone):
    library = pytest.importorskip("wandb")
    library.teardown()  # it reads the variables once
    yield library
    library.teardown()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty one, whose tables take MLflow many seconds to make."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow.MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(_alone, database, tmp_path):
    shutil.copy(database, tmp_path)
    return importlib.import_module("mlflow").MlflowClient()


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("worklab")]


def write_all(writer, step):
    writer.write_scalars(step, {"loss": step / 4, "accuracy": math.inf})
    writer.write_scalars(step, {"loss": 0.25}, split="valid")
    writer.write_images(step, {"training batch": IMAGES})
    writer.write_histograms(
        step, {"stem/kernel": np.array([0, 1, 2, 3, np.nan]), "empty": np.zeros(0)}
    )
    writer.write_text(step, {"network": "| <a> | b |"})
    writer.write_hparams({"seed": step, "reader.sizes[0]": 8})


def records_of(run):
    """Records of the library's own files, one list for each start."""
    wandb_pb = importlib.import_module("wandb.proto.wandb_internal_pb2")
    importlib.import_module("wandb").teardown()  # all of it is written then
    starts = []
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        pieces = b""
        starts.append([])
        for kind, piece in _chunks(path.read_bytes()):
            pieces += piece
            if kind in (1, 4):  # whole, or the last piece
                starts[-1].append(wandb_pb.Record.FromString(pieces))
                pieces = b""
    return starts


def _chunks(data):
    """Pieces of records, as in LevelDB's log, after a header of seven bytes."""
    start = 7
    while start + 7 <= len(data):
        if start % 32768 > 32768 - 7:
            start += 32768 - start % 32768  # what is left of a block is empty
            continue
        size, kind = struct.unpack_from("<HB", data, start + 4)
        yield kind, data[start + 7 : start + 7 + size]
        start += 7 + size


def name_of(item):
    return item.key or "/".join(item.nested_key)


def history_of(records):
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({name_of(item): json.loads(item.value_json) for item in items})
    return rows


def test_wandb_has_everything_and_a_second_start_continues_it(wandb, tmp_path):
    run = tmp_path / "runs" / "mine"
    for step in (2, 1):  # the second start goes back
        writer = WandbWriter(run)
        write_all(writer, step)
        writer.close()
    starts = records_of(run)
    assert len(starts) == 2
    ids = set()
    for records, step in zip(starts, (2, 1), strict=True):
        kept = next(r.run for r in records if r.WhichOneof("record_type") == "run")
        ids.add(kept.run_id)
        assert (kept.project, kept.display_name) == ("runs", "mine")
        axes = {r.metric.glob_name or r.metric.name: r.metric for r in records}
        assert axes["*"].step_metric == "step"
        rows = history_of(records)
        assert {row["step"] for row in rows} == {step}
        found = {key: value for row in rows for key, value in row.items()}
        assert (found["train/loss"], found["valid/loss"]) == (step / 4, 0.25)
        assert math.isnan(found["train/accuracy"])
        assert found["train/training batch/count"] == 2
        assert sum(found["train/stem/kernel/values"]) == 4
        assert found["train/network/_type"] == "html-file"
        assert records[-1].WhichOneof("record_type") in ("exit", "footer")
    assert ids == {json.loads((run / "wandb.json").read_text())["id"]}
    pages = [p.read_text() for p in run.rglob("*.html")]
    assert any("| &lt;a&gt; | b |" in page for page in pages)
    config = [
        u.value_json for r in starts[1] for u in r.config.update if u.key == "seed"
    ]
    assert config == ["1"]


def test_wandb_reads_its_variables(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_NAME", "called")
    writer = WandbWriter(tmp_path / "mine")
    writer.close()
    kept = next(
        r.run
        for r in records_of(tmp_path / "mine")[0]
        if r.WhichOneof("record_type") == "run"
    )
    assert (kept.project, kept.display_name) == ("ours", "called")


def test_wandb_in_a_folder_that_is_no_unicode_is_an_error(wandb, tmp_path):
    with pytest.raises(ValueError, match=r"WANDB_DIR.*Received: WANDB_DIR='.*udce9'"):
        WandbWriter(tmp_path / "caf\udce9")


def test_wandb_without_login_is_an_error(wandb, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match=r"`wandb login`.*WANDB_MODE=offline.*No API"):
        WandbWriter(tmp_path / "mine")


def test_wandb_without_its_server_keeps_everything(
    wandb, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    writer = WandbWriter(tmp_path / "mine")
    writer.write_scalars(1, {"loss": 1.0})
    writer.close()
    start, end = warnings_of(caplog)
    assert start.startswith("Weights & Biases does not answer; training goes on")
    folder = end.rpartition("wandb sync ")[2]
    assert history_of(records_of(tmp_path / "mine")[0])[0]["train/loss"] == 1
    assert list((tmp_path / "mine/wandb").glob("offline-run-*"))[0].name in folder


def test_wandb_that_refuses_the_run_is_an_error(wandb, tmp_path, monkeypatch):
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            query = self.rfile.read(int(self.headers["content-length"]))
            refused = b"upsertbucket" in query.lower()
            viewer = {"id": "x", "entity": "e", "flags": "{}", "teams": {"edges": []}}
            answer = {"data": {"viewer": viewer, "serverInfo": {"features": []}}}
            if refused:
                answer = {"errors": [{"message": "permission denied"}], "data": None}
            self.send_response(403 if refused else 200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("WANDB_MODE")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ValueError, match=r"WANDB_ENTITY.*: permission denied"):
            WandbWriter(tmp_path / "mine")
        server.shutdown()


@pytest.mark.parametrize(
    ("ending", "code"), [("finished", 0), ("stopped", 0), ("failed", 1)]
)
def test_wandb_is_told_how_the_run_ended(wandb, tmp_path, ending, code):
    writer = WandbWriter(tmp_path / "mine")
    writer.close(ending)
    (records,) = records_of(tmp_path / "mine")
    codes = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert codes == [code]


def test_wandb_that_fails_ends_nothing(wandb, tmp_path, monkeypatch, caplog):
    writer = WandbWriter(tmp_path / "mine")
    monkeypatch.setattr(writer._run, "log", lambda _: 1 / 0)
    write_all(writer, 1)
    writer.close()
    failure, end = warnings_of(caplog)
    assert "training goes on without. Received: ZeroDivisionError" in failure
    assert "not everything is on the server" in end


def run_id(run):
    return json.loads((run / "mlflow.json").read_text())["run_id"]


def test_mlflow_has_everything_and_a_second_start_continues_it(
    client, tmp_path, caplog
):
    run = tmp_path / "runs" / "mine"
    for step in (2, 1):  # the second start goes back
        writer = MlflowWriter(run)
        assert client.get_run(run_id(run)).info.status == "RUNNING"
        write_all(writer, step)
        writer.close()
    assert warnings_of(caplog) == []
    (experiment,) = [e for e in client.search_experiments() if e.name == "runs"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == run_id(run)
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    history = client.get_metric_history(run_id(run), "train/loss")
    assert [(m.step, m.value) for m in history] == [(2, 0.5), (1, 0.25)]
    metrics = found.data.metrics
    assert metrics["valid/loss"] == 0.25
    assert math.isnan(metrics["train/accuracy"])
    assert metrics["train/stem/kernel/mean"] == 1.5
    assert found.data.params == {"seed": "2", "reader.sizes_0_": "8"}
    assert found.data.tags["seed"] == "1"
    texts = client.list_artifacts(run_id(run), "train/network")
    assert [text.path for text in texts] == [
        f"train/network/{step:08d}.md" for step in (1, 2)
    ]
    pictures = [
        picture.path for picture in client.list_artifacts(run_id(run), "images")
    ]
    assert len([path for path in pictures if path.endswith(".png")]) == 2 * len(IMAGES)


@pytest.mark.parametrize(
    ("ending", "status"), [("stopped", "KILLED"), ("failed", "FAILED")]
)
def test_mlflow_is_told_how_the_run_ended(client, tmp_path, ending, status):
    MlflowWriter(tmp_path / "mine").close(ending)
    assert client.get_run(run_id(tmp_path / "mine")).info.status == status


def test_name_of_a_run_that_is_no_unicode_is_escaped(client, tmp_path):
    MlflowWriter(tmp_path / "caf\udce9").close()
    run = client.get_run(run_id(tmp_path / "caf\udce9"))
    assert run.info.run_name == "caf\\udce9"


def test_mlflow_reads_its_variables(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    MlflowWriter(tmp_path / "mine").close()
    experiment = client.get_experiment_by_name("ours").experiment_id
    assert client.get_run(run_id(tmp_path / "mine")).info.experiment_id == experiment
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    MlflowWriter(tmp_path / "other").close()
    assert client.get_run(run_id(tmp_path / "other")).info.experiment_id == experiment


def test_mlflow_that_refuses_the_run_is_an_error(client, tmp_path, monkeypatch):
    (tmp_path / "mlflow.json").write_text('{"run_id": "0123"}')
    with pytest.raises(ValueError, match=r"delete `.*mlflow.json`. Received: .*0123"):
        MlflowWriter(tmp_path)
    (tmp_path / "mlflow.json").write_text("0123")
    with pytest.raises(ValueError, match=r"mlflow.json` should have the id"):
        MlflowWriter(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://here")
    with pytest.raises(ValueError, match=r"nothing://here does not take the run"):
        MlflowWriter(tmp_path)


def test_mlflow_without_its_server_ends_nothing(client, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sending, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    writer = MlflowWriter(tmp_path / "mine")
    write_all(writer, 1)
    writer.close()
    start, end = warnings_of(caplog)
    assert start.startswith("MLflow at http://127.0.0.1:9 does not answer; training")
    assert "9 of 9 entries are not in MLflow" in end
    assert "did not answer to 9, refused 0, and 0 were dropped" in end
    assert not (tmp_path / "mine/mlflow.json").exists()


def test_open_trackers_opens_each_once(wandb, client, tmp_path):
    writers = open_trackers(["mlflow", "wandb", "mlflow"], tmp_path / "mine")
    assert [type(writer) for writer in writers] == [MlflowWriter, WandbWriter]
    for writer in writers:
        writer.write_scalars(1, {"loss": 1.0})
        writer.close()
    assert (tmp_path / "mine/wandb.json").exists()
    assert (tmp_path / "mine/mlflow.json").exists()


def test_tracker_of_a_run_that_cannot_start_is_told(tmp_path, monkeypatch):
    class Opened:
        def __init__(self, run):
            self.close = endings.append

    endings = []
    monkeypatch.setattr("worklab.trackers.WandbWriter", Opened)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match="mlflow"):
        open_trackers(["wandb", "mlflow"], tmp_path)
    assert endings == ["failed"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"pip install -e '.\[{name}\]'"):
        open_trackers([name], tmp_path / "mine")


def test_unknown_tracker_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'wandb', 'mlflow'.*: \['neptune'\]"):
        open_trackers(["wandb", "neptune"], tmp_path)
    assert open_trackers([], tmp_path) == []


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    assert [finite(value) for value in (1, np.float32(0.5))] == [1.0, 0.5]
    assert all(math.isnan(finite(value)) for value in (math.inf, math.nan))
    array = np.array([[1, np.nan], [np.inf, 2]], np.float32)
    assert finite_values(array).tolist() == [1, 2]
    assert project_name(tmp_path / "a: b/mine") == "a_ b"
