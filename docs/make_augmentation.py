"""Write docs/augmentation.md and its pictures from the code.

    python docs/make_augmentation.py

Each row of the table is a field of `AugmentOptions` with its docstring; each picture is
what the Reader makes of one image, in five draws. A test compares page and pictures
with what this script would write.
"""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from worklab import options as options_module
from worklab.options import AUGMENT_PRESETS, AugmentOptions, ReaderOptions
from worklab.published_policies import AUGMIX, RANDAUGMENT
from worklab.readers import ArrayReader

DOCS = Path(__file__).resolve().parent
SIZE, NUM_DRAWS = 96, 5

EXAMPLES: dict[str, dict[str, Any]] = {
    "preset": {"preset": "strong"},
    "area": {"area": (0.08, 1.0)},
    "aspect": {"area": (0.4, 0.4), "aspect": (0.4, 2.5)},
    "zoom": {"zoom": 0.5},
    "shift": {"shift": 0.3},
    "rotation": {"rotation": 45.0},
    "flip": {"flip": True},
    "flip_vertical": {"flip_vertical": True},
    "quarter_turns": {"quarter_turns": True},
    "policy": {"policy": "trivialaugment"},
    "num_operations": {"policy": "randaugment", "num_operations": 4},
    "magnitude": {"policy": "augmix", "magnitude": 8.0},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.7},
    "saturation": {"saturation": 1.0},
    "hue": {"hue": 0.3},
    "blur": {"blur": 3.0},
    "noise": {"noise": 40.0},
    "jpeg": {"jpeg": 98.0},
    "erasing": {"erasing": 1.0},
    "erasing_area": {"erasing": 1.0, "erasing_area": (0.02, 0.08)},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
    "mix_probability": {"cutmix": 1.0, "mix_probability": 0.5},
}
"""What shows an option best; every field of `AugmentOptions` has one."""

PAGE = """\
# The table of augmentations

Made by `python docs/make_augmentation.py` from the code; how they fit together stands
in [data.md](data.md#augmentation). Each name is an option, as in `--augment.zoom 0.5`,
and acts in training alone. They come in this order: a random crop with zoom, shift,
rotation and mirroring in one step, a policy, colours, defects, and then the mixing of
images. The first picture of each row is the test form, the others are five draws.

{table}

## Presets

What is not given is the preset's; an amount that is not named is zero.

{presets}

`vgg` and `inception` are tf-slim's: a crop of 224 from a shorter side of 256 to 512,
and a crop of a tenth to all of the image with colours changed in one of four orders;
both mirror left-right. Their test images show 0.875 of the shorter side, or of both.

## Policies

| policy | draws from |
|---|---|
| `randaugment`, `trivialaugment` | {num_randaugment}: {randaugment} |
| `augmix` | {num_augmix}: {augmix} |
"""


def scene() -> np.ndarray:
    """Return a picture of a house, a tree and the sun, uint8 (192, 192, 3)."""
    side = 192
    sky = np.linspace((90, 150, 230), (200, 225, 250), side)[:, None]
    image = np.broadcast_to(sky, (side, side, 3)).astype(np.uint8).copy()
    image[140:] = (96, 160, 70)
    cv2.circle(image, (152, 36), 20, (250, 210, 60), -1, cv2.LINE_AA)
    cv2.rectangle(image, (40, 84), (120, 158), (200, 90, 70), -1)
    roof = np.array([[30, 86], [130, 86], [80, 40]], np.int32)
    cv2.fillPoly(image, [roof], (110, 60, 60), cv2.LINE_AA)
    cv2.rectangle(image, (52, 100), (74, 122), (240, 240, 200), -1)
    cv2.rectangle(image, (90, 112), (108, 158), (90, 60, 40), -1)
    cv2.rectangle(image, (152, 120), (160, 162), (100, 70, 40), -1)
    cv2.circle(image, (156, 104), 24, (50, 120, 60), -1, cv2.LINE_AA)
    cv2.putText(
        image, "lab", (46, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (250, 250, 250), 2
    )
    return image


def strip(example: dict[str, Any]) -> np.ndarray:
    """Return the picture and its draws side by side."""
    image = scene()
    other = np.roll(image, 1, axis=2)  # in other colours
    augment = AugmentOptions(**({"preset": "off"} | example))
    mixes = augment.mixes
    reader = ArrayReader(
        [image, other] if mixes else [image],
        [0, 1] if mixes else [0],
        ["house", "other"],
        options=ReaderOptions((SIZE, SIZE), batch_size=1 + mixes),
        augment=augment,
        seed=3,
    )
    draws = [reader.train_batch(step)["images"][0] for step in range(NUM_DRAWS)]
    return np.concatenate([reader.centre(image), *draws], axis=1)


def docstrings() -> dict[str, str]:
    """Return the docstring of each field of `AugmentOptions`."""
    tree = ast.parse(Path(str(options_module.__file__)).read_text(encoding="utf-8"))
    (body,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "AugmentOptions"
    )
    return {
        field.target.id: text.value.value
        for field, text in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def make_page() -> str:
    """Return the text of docs/augmentation.md."""
    texts = docstrings()
    rows = ["| option | default | what it does | for example |", "|---|---|---|---|"]
    for field in dataclasses.fields(AugmentOptions):
        option = field.name.replace("_", "-")
        shown = ", ".join(
            f"`{name.replace('_', '-')} {_text(value)}".rstrip() + "`"
            for name, value in EXAMPLES[field.name].items()
        )
        picture = f"![{option}](images/augment_{field.name}.jpg)"
        default = "by preset"
        if field.default is not None:
            default = f"`{_text(field.default) or 'off'}`"
        rows.append(
            f"| `{option}` | {default} | {texts[field.name]} | {shown}<br>{picture} |"
        )
    amounts = sorted({name for preset in AUGMENT_PRESETS.values() for name in preset})
    slim = options_module.SLIM_PRESETS
    names = [name for name in AUGMENT_PRESETS if name not in slim]
    presets = [f"| option | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for amount in amounts:
        cells = [f"{AUGMENT_PRESETS[name].get(amount, 0):g}" for name in names]
        presets.append(f"| `{amount}` | {' | '.join(cells)} |")
    return PAGE.format(
        table="\n".join(rows),
        presets="\n".join(presets),
        num_randaugment=len(RANDAUGMENT),
        randaugment=", ".join(f"`{name}`" for name in RANDAUGMENT),
        num_augmix=len(AUGMIX),
        augmix=", ".join(f"`{name}`" for name in AUGMIX),
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{each:.3g}" for each in value)
    if isinstance(value, bool):  # its option has no word
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", "-")


def main() -> None:
    """Write the page and the pictures."""
    (DOCS / "images").mkdir(exist_ok=True)
    for name, example in EXAMPLES.items():
        picture = cv2.cvtColor(strip(example), cv2.COLOR_RGB2BGR)
        path = DOCS / "images" / f"augment_{name}.jpg"
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    (DOCS / "augmentation.md").write_text(make_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
