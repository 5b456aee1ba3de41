"""Auxiliary logits: they add to the training loss, and to nothing else."""

import keras
import numpy as np
import pytest

from worklab import Network
from worklab.counting import count_work
from worklab.options import TrainingOptions
from worklab.serving import plain_model

from .test_trainer import history, make_trainer, values


class WithHead(Network):
    """Two layers; logits after the first add half of their loss in training."""

    weight = 0.5
    width = None

    def _construct(self, images):
        x = self.conv_block(images, 4, 3)
        with self.scope("head"):
            logits = self.full_layer(x, self.width or self.num_classes)
            self.add_auxiliary_logits(logits, weight=self.weight)
        with self.scope("second"):
            x = self.conv_block(x, 4, 3)
        return self.full_layer(self.global_pool(x), self.num_classes, scope="logits")

    def losses(self, batch, logits, *, training):
        """Double the loss, once."""
        return 2 * super().losses(batch, logits, training=training)


def make(**attributes):
    kind = type("Made", (WithHead,), attributes)
    return kind(3, image_shape=(8, 8, 3))


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    return {"images": images, "labels": np.array([0, 1, 2, 0])}


def test_training_loss_has_its_share_and_the_test_loss_has_not():
    network = make()
    logits = network(batch(), training=True)
    assert [each.shape for each in logits] == [(4, 3), (4, 3)]
    losses = network.losses(batch(), logits, training=True)
    parts = [network.losses(batch(), each, training=False).numpy() for each in logits]
    np.testing.assert_allclose(losses, parts[0] + 0.5 * parts[1], rtol=1e-6)
    assert network(batch(), training=False).shape == (4, 3)


def test_head_is_trained_and_saved_with_the_rest(tmp_path, tiny_reader):
    options = TrainingOptions(log_every=5)
    trainer = make_trainer(tmp_path, tiny_reader, network=make(), options=options)
    before = values(trainer.network)
    trainer.train(5)
    after = values(trainer.network)
    assert (before["head/full/kernel"] != after["head/full/kernel"]).any()
    assert float(history(tmp_path)[-1]["loss"]) > 0
    trainer.session.save()
    trainer.session.close()
    again = make_trainer(tmp_path, tiny_reader, network=make(), options=options)
    restored = values(again.network)
    assert restored.keys() == after.keys()
    assert all((restored[name] == after[name]).all() for name in after)


def test_counts_and_exports_are_without_it():
    network = make()
    assert "head/full/kernel" in network.variables
    assert network.keras_layer("head/full").units == 3
    assert not any("head" in row.layer for row in count_work(network).rows)
    plain = plain_model(network)
    assert not any("head" in variable.path for variable in plain.variables)
    np.testing.assert_allclose(
        plain({"images": batch()["images"]}),
        network(batch(), training=False),
        rtol=1e-5,
    )


def test_keras_file_of_the_network_is_read_without_it(tmp_path):
    network = make()
    network.model.save_weights(tmp_path / "model.weights.h5")
    plain = plain_model(network)
    for variable in plain.variables:
        variable.assign(keras.ops.zeros_like(variable))
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(
        plain({"images": batch()["images"]}),
        network(batch(), training=False),
        rtol=1e-5,
    )


def test_logits_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"must return logits of shape .*Received"):
        make(width=4)


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"`weight` of auxiliary.*weight=-1"):
        make(weight=-1)
