import asyncio
import sys
import threading

import pytest

from launchers import test as test_launcher
from launchers import train
from worklab.checkpoints import digest, load_checkpoint
from worklab.network_source import find_file, find_source
from worklab.networks.resnet import ResNet20
from worklab.options import DataOptions, ReaderOptions
from worklab.runs import load_network_class, read_run

CELLS = (
    """
import numpy as np
from math import floor
from pathlib import Path
from worklab import Network

FILTERS, UNUSED = 4, "nothing"
COMPUTED = object()

def plain(function):
    return function

@plain
def doubled(number):
    return floor(np.multiply(2, number))
""",
    """
print("once")

class Base(Network):
    def head(self, x):
        x = self.global_pool(x)
        return self.full_layer(x, self.num_classes, scope="logits")

class Mine(Base):
    mean = (127.5,)

    def _construct(self, images):
        return self.head(self.conv_block(images, doubled(FILTERS), 3))
""",
)


@pytest.fixture
def cells(notebook):
    for cell in CELLS:
        notebook.run(cell)
    return notebook


def options_of(run, folder, **settings):
    return train.Options(
        run=run,
        num_steps=2,
        pretrained=None,
        data=DataOptions(folder=folder),
        reader=ReaderOptions(image_size=(8, 8), batch_size=6, test_batch_size=6),
        **{"network": "__main__:Mine"} | settings,
    )


def test_source_of_a_file_is_the_file():
    file = find_file(ResNet20)
    assert file.name == "resnet.py"
    assert find_source(ResNet20) == file.read_text()


def test_source_of_a_cell_is_the_class_with_what_it_uses(cells, capsys):
    assert find_file(cells.names["Mine"]) is None
    source = find_source(cells.names["Mine"])
    assert "UNUSED" not in source
    assert "Path" not in source
    assert "print" not in source
    names = {"__name__": "elsewhere"}
    exec(compile(source, "elsewhere", "exec"), names)
    network = names["Mine"](3, image_shape=(8, 8, 3))
    assert network.variables["conv/kernel"].shape == (3, 3, 3, 8)


def test_network_of_a_notebook_trains_and_is_tested(
    cells, tmp_path, tiny_folder, caplog
):
    options = options_of(tmp_path / "run", tiny_folder)
    train.main(options)
    assert "FILTERS = 4" in (options.run / "network.py").read_text()
    testing = test_launcher.Options(run=options.run, checkpoint="latest")
    here = test_launcher.main(testing)
    assert read_run(options.run).network == "__main__:Mine"
    sys.modules["__main__"] = pytest  # as in another process
    assert read_run(options.run).network.endswith("network.py:Mine")
    elsewhere = test_launcher.main(testing)
    assert elsewhere.statistics == here.statistics
    ours = [record for record in caplog.records if record.name.startswith("worklab")]
    assert not [record for record in ours if record.levelname == "WARNING"]


def test_network_whose_text_nobody_keeps_trains_with_a_warning(
    notebook, tmp_path, tiny_folder, caplog
):
    exec("\n".join(CELLS), notebook.names)
    options = options_of(tmp_path / "run", tiny_folder)
    train.main(options)
    assert not (options.run / "network.py").exists()
    assert "the source of Mine is not known" in caplog.text


def test_classes_without_methods_are_kept_and_what_cannot_be_is_named(notebook, caplog):
    for cell in (
        "from dataclasses import dataclass\nfrom worklab import Network\n",
        "class Widths:\n    first = 4\n",
        "@dataclass\nclass Depths:\n    second: int = 3\n",
        "images, LOST, cut = object(), object(), lambda x: x\n",
        """
class Mine(Network):
    def _construct(self, images):
        x = cut(self.conv_block(images, Widths.first, Depths().second))
        print(LOST)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")
""",
    ):
        notebook.run(cell)
    source = find_source(notebook.names["Mine"])
    assert "class Widths:\n    first = 4" in source
    assert "@dataclass\nclass Depths:" in source
    lost = [record.args[0] for record in caplog.records]
    assert sorted(lost) == ["LOST", "cut"]
    assert "the run's copy of the network lacks it" in caplog.text


def test_class_in_place_of_its_name_is_an_error_that_says_how(cells):
    with pytest.raises(ValueError, match=r"`__main__:MyNetwork`. Received: <class"):
        load_network_class(cells.names["Mine"])


def test_runs_are_the_same_in_a_thread_and_within_a_running_loop(tmp_path, tiny_folder):
    def trained(name):
        network = "tests.conftest:TinyNetwork"
        options = options_of(tmp_path / name, tiny_folder, network=network)
        train.main(options)
        path = options.run / "checkpoints/step-00000002.safetensors"
        digests[name] = digest(load_checkpoint(path)[0])

    async def cell():  # Jupyter runs cells within a loop
        trained("loop")

    digests = {}
    trained("main")
    thread = threading.Thread(target=trained, args=("thread",))
    thread.start()
    thread.join()
    asyncio.run(cell())
    assert set(digests) == {"main", "thread", "loop"}
    assert len(set(digests.values())) == 1
