import json
import shutil

import keras
import numpy as np
import pytest

from worklab import Network
from worklab.networks.resnet import ResNet20
from worklab.pretrained import import_weights
from worklab.pretrained.cards import (
    card_path,
    check_place,
    read_card,
    write_card,
)
from worklab.pretrained.files import write_weights

from .conftest import TinyNetwork
from .test_launchers import ROOT

SHAPE = (8, 8, 3)
NAME = "tests.conftest:TinyNetwork"
SHIPPED = ROOT / "pretrained/resnet20_cifar10.safetensors"


@pytest.fixture
def path(tmp_path):
    """A weights file with its card, of a TinyNetwork with statistics of its own."""
    network = TinyNetwork(3, image_shape=SHAPE, seed=4)
    rng = np.random.default_rng(0)
    for name, variable in network.variables.items():
        if "/bn/" in name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = tmp_path / "tiny.safetensors"
    arrays = {name: v.value.numpy() for name, v in network.variables.items()}
    write_weights(path, arrays)
    write_card(path, network, network_name=NAME, class_names=["a", "b", "c"])
    return path


def test_network_that_feeds_and_answers_alike_is_imported(path):
    card = read_card(path)
    assert card.class_names == ["a", "b", "c"]
    assert card.image().shape == SHAPE
    assert len(card.logits) == 3
    report = import_weights(TinyNetwork(3, image_shape=SHAPE), path)
    assert report.is_whole


def test_logits_of_the_card_are_those_of_the_network(path):
    class Whole(TinyNetwork):
        def full_layer(self, *arguments, **settings):
            return super().full_layer(*arguments, **settings | {"restore": True})

    network = Whole(3, image_shape=SHAPE)
    import_weights(network, path)
    card = read_card(path)
    logits = network({"images": card.image()[None]}, training=False).numpy()[0]
    np.testing.assert_allclose(logits, card.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [{"mean": (9.0,)}, {"std": (1.0,)}, {"channel_order": "BGR"}],
    ids=["mean", "std", "order"],
)
def test_other_preprocessing_is_refused_with_what_to_write(path, attributes):
    network = type("Other", (TinyNetwork,), attributes)(3, image_shape=SHAPE)
    before = network.variables["frozen/conv/kernel"].value.numpy()
    with pytest.raises(ValueError, match=r"`mean, std = \(127\.5, 127\.5, "):
        import_weights(network, path)
    after = network.variables["frozen/conv/kernel"].value.numpy()
    np.testing.assert_array_equal(after, before)


def test_network_that_sees_something_else_is_refused(path):
    class Other(TinyNetwork):
        epsilon = 0.5

    with pytest.raises(ValueError, match=r"does not see .* differ by \d+\.\d%"):
        import_weights(Other(3, image_shape=SHAPE), path)


def test_network_of_another_class_is_not_asked_for_the_probe(path):
    class Entry(Network):
        mean, std = TinyNetwork.mean, TinyNetwork.std

        def _construct(self, images):
            with self.scope("frozen"):
                x = self.global_pool(self.conv_block(images, 4, 3, padding="valid"))
            return self.full_layer(x, 3, scope="logits", restore=False)

    assert import_weights(Entry(3, image_shape=SHAPE), path).count("copied") == 5


def test_bfloat16_network_is_checked_with_its_own_tolerance(path):
    import_weights(TinyNetwork(3, image_shape=SHAPE, precision="bfloat16"), path)


def test_card_of_another_file_is_an_error(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that its card"):
        import_weights(TinyNetwork(3, image_shape=SHAPE), path)


def test_card_that_is_none_is_an_error_and_other_json_is_not(path):
    content = json.loads(card_path(path).read_text())
    del content["preprocessing"]
    card_path(path).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not a whole card"):
        read_card(path)
    card_path(path).write_text('{"cat": 0}')
    assert read_card(path) is None


def test_shipped_weights_have_a_card_that_holds(tmp_path):
    network = ResNet20(10, image_shape=(32, 32, 3))
    report = import_weights(network, SHIPPED)
    assert report.is_whole
    card = read_card(SHIPPED)
    assert card.network == "worklab.networks.resnet:ResNet20"
    assert card.class_names[:2] == ["airplane", "automobile"]
    keras.backend.clear_session()


def test_shipped_weights_are_refused_by_a_network_without_their_statistics(tmp_path):
    shutil.copy(SHIPPED, tmp_path)
    shutil.copy(card_path(SHIPPED), tmp_path)

    class Plain(ResNet20):
        mean, std = (0.0,), (255.0,)

    with pytest.raises(ValueError, match=r"mean, std = \(125\.3, 123\.0, 113\.9\)"):
        import_weights(Plain(10, image_shape=(32, 32, 3)), tmp_path / SHIPPED.name)


def test_card_replaces_no_other_file(path):
    list_path = path.with_name("train.json")
    list_path.write_text('{"a.png": 0}')
    with pytest.raises(ValueError, match="would replace .*train.json"):
        check_place(path.with_name("train.safetensors"))
    check_place(path)  # a card may be replaced
