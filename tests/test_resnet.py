import math

import numpy as np
import pytest

from worklab.network import Policy
from worklab.networks import resnet
from worklab.networks.digits import DigitsNetwork

# Parameters of torchvision's models, whose bottlenecks are "v1.5" too.
IMAGENET = {
    "ResNet18": 11_689_512,
    "ResNet34": 21_797_672,
    "ResNet50": 25_557_032,
    "ResNet101": 44_549_160,
    "ResNet152": 60_192_808,
}
CIFAR = {"ResNet20": 3, "ResNet32": 5, "ResNet44": 7, "ResNet56": 9}


def count_trained(network):
    return sum(math.prod(v.shape) for v in network.model.trainable_variables)


def count_conv(kernel_size, inputs, outputs):
    """Count a convolution without bias, and scale and shift after it."""
    return kernel_size**2 * inputs * outputs + 2 * outputs


def count_network(stages, *, stem, num_classes, bottleneck):
    """Count a residual network; `stages` are pairs of filters and number of blocks."""
    kernel_size, width = stem
    total = count_conv(kernel_size, 3, width)
    for filters, num_blocks in stages:
        outputs = 4 * filters if bottleneck else filters
        for _ in range(num_blocks):
            if bottleneck:
                total += count_conv(1, width, filters)
                total += count_conv(3, filters, filters)
                total += count_conv(1, filters, outputs)
            else:
                total += count_conv(3, width, filters)
                total += count_conv(3, filters, filters)
            if width != outputs:
                total += count_conv(1, width, outputs)
            width = outputs
    return total + (width + 1) * num_classes


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", ["ResNet18", "ResNet34", "ResNet50"])
def test_imagenet_resnet_has_the_parameters_of_torchvision(name):
    network = getattr(resnet, name)(1000, image_shape=(32, 32, 3))
    assert count_trained(network) == IMAGENET[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_blocks_of_imagenet_resnet_amount_to_the_parameters_of_torchvision(name):
    kind = getattr(resnet, name)
    stages = zip((64, 128, 256, 512), kind.blocks, strict=True)
    count = count_network(
        stages, stem=(7, 64), num_classes=1000, bottleneck=kind.bottleneck
    )
    assert count == IMAGENET[name]


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", CIFAR)
def test_cifar_resnet_has_the_parameters_of_its_depth(name):
    kind = getattr(resnet, name)
    num_blocks = CIFAR[name]
    assert kind.blocks == num_blocks
    assert 6 * num_blocks + 2 == int(name.removeprefix("ResNet"))
    stages = [(filters, num_blocks) for filters in (16, 32, 64)]
    network = kind(10, image_shape=(32, 32, 3))
    assert count_trained(network) == count_network(
        stages, stem=(3, 16), num_classes=10, bottleneck=False
    )


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize(
    ("name", "image_size", "shapes"),
    [
        (
            "ResNet20",
            32,
            [(32, 32, 16), (32, 32, 16), (16, 16, 32), (8, 8, 64)],
        ),
        (
            "ResNet18",
            224,
            [(56, 56, 64), (56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)],
        ),
        (
            "ResNet50",
            65,
            [(17, 17, 64), (17, 17, 256), (9, 9, 512), (5, 5, 1024), (3, 3, 2048)],
        ),
    ],
)
def test_stages_have_their_shapes(name, image_size, shapes):
    kind = getattr(resnet, name)
    network = kind(7, image_shape=(image_size, image_size, 3))
    stem = "stem.relu" if kind is resnet.ResNet20 else "stem.pool"
    layers = [stem, *(f"stage{n}.block1.relu" for n in range(1, len(shapes)))]
    outputs = [network.model.get_layer(layer).output for layer in layers]
    assert [tuple(output.shape[1:]) for output in outputs] == shapes
    assert network.model.output.shape == (None, 7)


def test_resnet_computes_finite_logits():
    network = resnet.ResNet20(5, image_shape=(8, 8, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    logits = network({"images": images}, training=False).numpy()
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()
    assert not np.allclose(logits[0], logits[1])


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("name", ["ResNet20", "ResNet18"])
def test_everything_but_the_logits_restores_under_its_own_name(name):
    network = getattr(resnet, name)(5, image_shape=(32, 32, 3))
    assert network.policies["logits"].restore is False
    others = {k: v for k, v in network.policies.items() if k != "logits"}
    assert all(policy.restore is True for policy in others.values())
    assert {policy.lr_mult for policy in others.values()} == {1.0}


@pytest.mark.usefixtures("without_values")
def test_digits_network_learns_slowly_at_first():
    network = DigitsNetwork(10, image_shape=(32, 32, 3))
    multipliers = {}
    for layer, policy in network.policies.items():
        multipliers.setdefault(layer.split("/")[0], set()).add(policy.lr_mult)
    assert {scope: multipliers[scope] for scope in multipliers if "stage" in scope} == {
        "stage1": {0.1},
        "stage2": {0.3},
        "stage3": {1.0},
    }
    assert multipliers["stem"] == {0.1}
    assert network.policies["logits"] == Policy(1.0, False, 5e-4)


@pytest.mark.usefixtures("without_values")
def test_multipliers_are_those_of_the_class():
    class Slow(resnet.ResNet18):
        lr_mults = (0.0, 0.1, 0.2, 0.3, 0.4)

    network = Slow(10, image_shape=(32, 32, 3))
    layers = ["stem/conv", *(f"stage{n}/block2/b/conv" for n in (1, 2, 3, 4))]
    assert tuple(network.policies[layer].lr_mult for layer in layers) == Slow.lr_mults
