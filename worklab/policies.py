"""What a scope hands down to its layers: multiplier, decay, name in the source."""

import dataclasses
import re

Restore = bool | str

_NAME = re.compile(r"[\w-]+(/[\w-]+)*")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What holds for the variables of one layer.

    Attributes:
        lr_mult: Factor on the learning rate; 0 freezes the layer.
        restore: Name of the layer in a pretrained file; None to initialise.
        weight_decay: Decay of the kernel.
    """

    lr_mult: float
    restore: str | None
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Scope:
    """A place among nested scopes, with what it hands down.

    Attributes:
        path: Names from the outermost scope on, joined by slashes.
        restore: True for the own name, the full name in the source, or False.
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
        inherited = self.restore
        if isinstance(inherited, str):
            inherited = f"{inherited}/{name}".lstrip("/")
        return Scope(
            path=path,
            restore=inherited if restore is None else restore,
            lr_mult=self.lr_mult if lr_mult is None else lr_mult,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
        )

    @property
    def source_name(self) -> str | None:
        """The scope's name in a pretrained file; None where it is not restored."""
        if self.restore is False:
            return None
        return self.path if self.restore is True else self.restore
