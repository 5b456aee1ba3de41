import subprocess
import sys

import pytest

from worklab import runtime
from worklab.options import SessionOptions

from .test_launchers import ROOT


def with_hardware(monkeypatch, name):
    monkeypatch.setattr(runtime, "bfloat16_hardware", lambda: name)


@pytest.mark.parametrize(
    ("hardware", "expected"), [("amx_bf16", "bfloat16"), ("", "float32")]
)
def test_auto_takes_what_the_machine_has(monkeypatch, hardware, expected):
    with_hardware(monkeypatch, hardware)
    assert runtime.choose_precision("auto") == expected
    assert runtime.choose_precision("float32") == "float32"
    assert runtime.choose_precision("bfloat16") == "bfloat16"


def test_bfloat16_without_hardware_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr("worklab.runtime._logger.parent.propagate", True)
    with_hardware(monkeypatch, "")
    runtime.configure(SessionOptions(precision="bfloat16"))
    assert "no bfloat16 in hardware" in caplog.text
    assert "--session.precision auto" in caplog.text


def test_device_line_says_which_hardware(monkeypatch):
    with_hardware(monkeypatch, "amx_bf16")
    assert runtime.describe_device("bfloat16") == "CPU, bfloat16 by amx_bf16"
    assert runtime.describe_device("float32") == "CPU, float32"


def test_hardware_is_read_from_the_flags_of_the_processor():
    found = runtime.bfloat16_hardware()
    flags = (ROOT / "/proc/cpuinfo").read_text().split()
    assert (found != "") == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_limit_is_that_of_a_product_of_matrices():
    limit = runtime.matmul_limit("float32")
    assert 1e8 < limit < 1e16
    assert runtime.matmul_limit("float32") == limit  # measured once


@pytest.mark.parametrize(
    "settings",
    [{"gpu_megabytes": 0}, {"gpu_megabytes": 100, "device": "cpu"}],
)
def test_limits_that_make_no_sense_are_errors(settings):
    with pytest.raises(
        ValueError, match="`gpu_megabytes` must be at least 1, and does"
    ):
        runtime.configure(SessionOptions(**settings))


def test_device_is_chosen_before_tensorflow_starts():
    code = (
        "from worklab import runtime; from worklab.options import SessionOptions\n"
        "import tensorflow as tf\n"
        "runtime.configure(SessionOptions(device='cpu', num_threads=1))\n"
        "assert tf.config.get_visible_devices('GPU') == []\n"
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 1\n"
        "tf.constant(1) + 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
