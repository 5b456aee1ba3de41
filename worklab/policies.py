"""What a scope hands down to its layers: multiplier, decay, name in the source."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

Restore = bool | str | Mapping[str, str]

CLASSES = "classes"
"""`restore="classes"` keeps the rows of the last layer whose class names are known."""

_NAME = re.compile(r"[\w-]+(/[\w-]+)*")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What holds for the variables of one layer.

    Attributes:
        lr_mult: Factor on the learning rate; 0 freezes the layer.
        restore: True for the own name, the layer's name in a pretrained file, names
            of its variables there by leaf, `classes`, or False to initialise.
        weight_decay: Decay of the kernel.
    """

    lr_mult: float
    restore: Restore
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Scope:
    """A place among nested scopes, with what it hands down.

    Attributes:
        path: Names from the outermost scope on, joined by slashes.
        restore: True for the own name, the full name in the source, names by the
            path inside this scope, or False.
        lr_mult: Factor on the learning rate.
        weight_decay: Decay of kernels; None: that of the options.
    """

    path: str = ""
    restore: Restore = True
    lr_mult: float = 1.0
    weight_decay: float | None = None

    def inside(
        self,
        name: str,
        restore: Restore | None,
        lr_mult: float | None,
        weight_decay: float | None,
    ) -> "Scope":
        """Return the scope `name` in this one; what is None is handed down.

        Raises:
            ValueError: If the name has other signs than letters, digits, `_`, `-` and
                slashes between them, or a number is negative.
        """
        path = f"{self.path}/{name}".lstrip("/")
        if not _NAME.fullmatch(name):
            raise ValueError(
                "the name of a scope or layer is made of letters, digits, `_` and "
                "`-`, with `/` between the names of nested scopes. "
                f"Received: scope={name!r}"
            )
        for what, value in (("lr_mult", lr_mult), ("weight_decay", weight_decay)):
            if value is not None and not value >= 0:
                raise ValueError(
                    f"`{what}` of `{path}` must be at least 0 (a `lr_mult` of 0 "
                    f"freezes the layer). Received: {what}={value}"
                )
        return Scope(
            path=path,
            restore=_inside(self.restore, name) if restore is None else restore,
            lr_mult=self.lr_mult if lr_mult is None else lr_mult,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
        )


def given_for(path: str, given: Mapping[str, float]) -> float | None:
    """Return the number given for the innermost scope around a layer, or None."""
    parts = path.split("/")
    for length in range(len(parts), 0, -1):
        number = given.get("/".join(parts[:length]))
        if number is not None:
            return number
    return None


def _inside(restore: Restore, name: str) -> Restore:
    """Return what a scope's `restore` means for the scope `name` in it."""
    if isinstance(restore, bool) or restore == CLASSES:
        return restore
    if isinstance(restore, str):
        return f"{restore}/{name}".lstrip("/")
    if name in restore:
        return restore[name]
    inner = {
        key.removeprefix(f"{name}/"): value
        for key, value in restore.items()
        if key.startswith(f"{name}/")
    }
    return inner or True  # what is not named keeps its own name


def is_inside(path: str, scopes: Iterable[str]) -> bool:
    """Return whether a layer is one of these, or inside one of these scopes.

    Example:
        >>> is_inside("block1/a/conv", ["block1"]), is_inside("block10", ["block1"])
        (True, False)
    """
    return any(f"{path}/".startswith(f"{scope}/") for scope in scopes)
