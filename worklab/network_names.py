"""A Network class by its name, from a file or from a module."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from worklab.network import Network
from worklab.pretrained.cards import FILE_MODULE


def load_network_class(name: str) -> type[Network]:
    """Return the Network class called `file.py:Class` or `package.module:Class`.

    A class of the script or notebook that is running is called `__main__:Class`.

    Raises:
        ValueError: If there is no such file, module or class, or it is no Network;
            names the Networks that are there.
    """
    # In a notebook the class itself may be given.
    module_name, _, class_name = (name if isinstance(name, str) else "").partition(":")
    if not class_name:
        raise ValueError(
            "a network is named `file.py:Class` or `package.module:Class`, e.g. "
            "`my_network.py:MyNetwork`, and one of the running script or notebook "
            f"`__main__:MyNetwork`. Received: {name!r}"
        )
    if module_name.endswith(".py"):
        module = _load_file(Path(module_name))
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"there is no module `{module_name}` ({error}); a file is named with "
                f"its suffix, `{module_name}.py:{class_name}`. Received: {name!r}"
            ) from error
    found = getattr(module, class_name, None)
    if inspect.isclass(found) and issubclass(found, Network):
        return found
    networks = [
        key
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Network) and value != Network
    ]
    raise ValueError(
        f"`{module_name}` has no Network called `{class_name}`; it has {networks}. A "
        f"network is a class that derives from `worklab.Network`. Received: {name!r}"
    )


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            "the network's file does not exist; give the path from here. "
            f"Received: `{path}`"
        )
    name = f"{FILE_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"`{path}` cannot be imported. Received: {path.suffix!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import would, e.g. for `inspect`
    neighbours = str(path.resolve().parent)
    sys.path.insert(0, neighbours)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(neighbours)
    return module
