"""Keras layers that are faster, or simpler to restore, than Keras's own."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="worklab")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of images in one fused operation.

    Keras 3 computes moments and normalisation as separate operations; the fused one
    makes a training step of ResNet-50 about a quarter faster. Statistics, scale and
    shift are float32 whatever the layer's arithmetic.

    *Frozen* (`trainable=False`, which `lr_mult=0` sets) means inference mode as well:
    the layer normalises with its moving statistics, also in training, and these do
    not change. With any other `lr_mult` the batch's statistics are used in training
    and the moving statistics follow them, at the full rate.

    Args:
        momentum: Share of the moving statistics that a step keeps, in [0, 1).
        epsilon: Added to the variance.
        **settings: As for `keras.layers.BatchNormalization`; the channel axis is last.

    Call arguments:
        inputs: Float (batch, height, width, channels).
        training: Whether to use, and learn from, the statistics of the batch.

    Example:
        >>> layer = BatchNormalization()
        >>> layer(tf.ones((2, 4, 4, 3))).shape
        TensorShape([2, 4, 4, 3])

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167. The moving variance follows the
        unbiased variance of the batch, as in PyTorch; Keras takes the biased one.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create scale, shift and moving statistics, float32 and never cast."""
        shape = (input_shape[-1],)

        def add(name: str, initializer: Any, trainable: bool) -> Any:
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                dtype="float32",
                autocast=False,
            )

        self.gamma = add("gamma", self.gamma_initializer, True) if self.scale else None
        self.beta = add("beta", self.beta_initializer, True) if self.center else None
        self.moving_mean = add("moving_mean", self.moving_mean_initializer, False)
        self.moving_variance = add(
            "moving_variance", self.moving_variance_initializer, False
        )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Normalise; see the class for when statistics are used and changed."""
        channels = inputs.shape[-1]
        gamma = tf.ones(channels) if self.gamma is None else self.gamma.value
        beta = tf.zeros(channels) if self.beta is None else self.beta.value
        learning = bool(training) and self.trainable
        # An empty mean asks the operation for the statistics of the batch.
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=tf.zeros(0) if learning else self.moving_mean.value,
            variance=tf.zeros(0) if learning else self.moving_variance.value,
            epsilon=self.epsilon,
            is_training=learning,
        )
        if learning:
            for moving, current in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                moving.assign(
                    moving.value * self.momentum + current * (1 - self.momentum)
                )
        return outputs


@keras.saving.register_keras_serializable(package="worklab")
class GroupedConv2D(keras.layers.Conv2D):
    """Convolution whose groups of channels do not see each other.

    The same variables and results as `keras.layers.Conv2D(groups=...)`, but made of
    one plain convolution for each group: Keras has XLA compile the grouped one, and
    for the two groups of AlexNet's second convolution that took a CPU ten times as
    long.

    Example:
        >>> layer = GroupedConv2D(6, 3, groups=2)
        >>> layer(tf.ones((1, 5, 5, 4))).shape
        TensorShape([1, 3, 3, 6])
        >>> tuple(layer.kernel.shape)
        (3, 3, 2, 6)

    Source: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional
        neural networks", figure 2.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve each group; Keras's `call` adds bias and activation."""
        groups = zip(
            keras.ops.split(inputs, self.groups, axis=-1),
            keras.ops.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        outputs = [
            keras.ops.conv(
                channels,
                filters,
                strides=list(self.strides),
                padding=self.padding,
                dilation_rate=self.dilation_rate,
            )
            for channels, filters in groups
        ]
        return keras.ops.concatenate(outputs, axis=-1)


@keras.saving.register_keras_serializable(package="worklab")
class PointwiseConv2D(keras.layers.Conv2D):
    """Convolution of single pixels, which a CPU trains faster in bfloat16.

    The same variables and results as `keras.layers.Conv2D(kernel_size=1)`. In training
    on a CPU in bfloat16 it is a product of matrices, whose gradient by the kernel takes
    a third of the time of the convolution's; otherwise it is the convolution, which is
    as fast and can be fused.

    Example:
        >>> layer = PointwiseConv2D(6, 1, strides=2)
        >>> layer(tf.ones((1, 4, 4, 3))).shape
        TensorShape([1, 2, 2, 6])
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Convolve; see the class for how."""
        if not training or not self._faster_as_product(inputs):
            return super().call(inputs)
        _, height, width, channels = inputs.shape
        step = self.strides[0]
        height, width = height // step, width // step
        if step > 1:  # `[:, ::2, ::2]` would copy number by number
            rows = tf.reshape(inputs, (-1, height, step, width, step * channels))
            inputs = tf.slice(rows, (0,) * 5, (-1, height, 1, width, channels))
        kernel = keras.ops.reshape(self.kernel, (channels, self.filters))
        outputs = keras.ops.matmul(tf.reshape(inputs, (-1, channels)), kernel)
        outputs = tf.reshape(outputs, (-1, height, width, self.filters))
        if self.use_bias:
            outputs = keras.ops.add(outputs, self.bias)
        return self.activation(outputs)

    def _faster_as_product(self, inputs: Any) -> bool:
        _, height, width, _ = inputs.shape
        return (
            self.compute_dtype == "bfloat16"
            and not tf.config.get_visible_devices("GPU")
            and self.strides[0] == self.strides[1]
            and None not in (height, width)
            and height % self.strides[0] == width % self.strides[0] == 0
        )


@keras.saving.register_keras_serializable(package="worklab")
class LocalResponseNormalization(keras.layers.Layer):
    """Divide each value by what the channels around it have at the same place.

    y = x / (1 + alpha / size * sum of x^2 over `size` channels)^beta

    Args:
        size: Number of channels that are summed, odd.
        alpha: Weight of their mean square.
        beta: Exponent.
        **settings: As for any Keras layer.

    Call arguments:
        inputs: Float (batch, height, width, channels).

    Example:
        >>> layer = LocalResponseNormalization(size=1, alpha=3.0, beta=0.5)
        >>> float(layer(tf.ones((1, 1, 1, 1)))[0, 0, 0, 0])
        0.5

    Source: Krizhevsky et al. 2012, section 3.3, with Caffe's numbers: there alpha is
        divided by `size`, and 1 stands in the place of the paper's 2.
    """

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if size < 1 or size % 2 == 0:
            raise ValueError(
                "`size` must be an odd number of channels, the one in the middle and "
                f"as many on either side. Received: size={size}"
            )
        self.size, self.alpha, self.beta = size, alpha, beta

    def call(self, inputs: Any) -> Any:
        """Normalise; the same in training and inference."""
        outputs = tf.nn.local_response_normalization(
            tf.cast(inputs, tf.float32),  # the only type with kernels everywhere
            depth_radius=self.size // 2,
            bias=1.0,
            alpha=self.alpha / self.size,
            beta=self.beta,
        )
        return tf.cast(outputs, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as a saved model keeps them."""
        own = {"size": self.size, "alpha": self.alpha, "beta": self.beta}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="worklab")
class AdaptedNormalization(keras.layers.Normalization):
    """Normalisation by the mean and variance that its variables have at each call.

    Keras's own takes their values once, when it is built, so that nothing that is
    restored into its variables afterwards has an effect.

    Args:
        **settings: As for `keras.layers.Normalization`, but mean and variance.

    Call arguments:
        inputs: Float; the axes that are kept have the sizes of the variables.

    Example:
        >>> layer = AdaptedNormalization()
        >>> layer.build((None, 1))
        >>> _ = layer.variables[0].assign([2.0])
        >>> float(layer(tf.fill((1, 1), 5.0))[0, 0])
        3.0
    """

    def call(self, inputs: Any) -> Any:
        """Normalise; the same in training and inference."""
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        mean = keras.ops.reshape(self.adapt_mean, self._broadcast_shape)
        variance = keras.ops.reshape(self.adapt_variance, self._broadcast_shape)
        scale = keras.ops.maximum(keras.ops.sqrt(variance), keras.config.epsilon())
        return inputs * scale + mean if self.invert else (inputs - mean) / scale
