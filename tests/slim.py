"""Networks as tf-slim builds and saves them: plain operations, names of its scopes."""

import tensorflow as tf

from .test_layouts import Tensorflow1, save_tensorflow1

__all__ = ["Slim", "save_tensorflow1"]


class Slim(Tensorflow1):
    """What `slim.conv2d` does under the arguments of one family.

    Args:
        epsilon: Of batch normalisation.
        scale: Whether it has a gamma.
        root: Scope of the network, before all names.
    """

    def __init__(self, epsilon, *, root, scale=True):
        super().__init__(epsilon, "BatchNorm")
        self.root = root
        self.scale = scale

    def named(self, name, shape, scale):
        return self.variable(f"{self.root}/{name}", shape, scale)

    def normalise(self, x, name):
        shape = (x.shape[-1],)
        leaves = ("beta", "moving_mean", "moving_variance")
        beta, mean, variance = (self.named(f"{name}/{n}", shape, 0.1) for n in leaves)
        gamma = self.named(f"{name}/gamma", shape, 1.0) if self.scale else 1.0
        return (x - mean) * gamma / tf.sqrt(variance + self.epsilon) + beta

    def conv(self, x, name, filters, size, strides=1, padding="SAME", *, norm=True):
        height, width = (size, size) if isinstance(size, int) else size
        channels = x.shape[-1]
        scale = (2 / (height * width * channels)) ** 0.5
        shape = (height, width, channels, filters)
        kernel = self.named(f"{name}/weights", shape, scale)
        if padding == "FIXED":  # `conv2d_same`
            pad = [(size - 1) // 2, size // 2]
            x, padding = tf.pad(x, [[0, 0], pad, pad, [0, 0]]), "VALID"
        x = tf.nn.conv2d(x, kernel, strides, padding)
        if norm:
            return tf.nn.relu(self.normalise(x, f"{name}/BatchNorm"))
        return x + self.named(f"{name}/biases", (filters,), 0.1)
