"""`python -m worklab`: the tools beside the launchers."""

import sys

from worklab import cli, run_tools


def main(arguments: list[str] | None = None) -> None:
    """Run one of the tools."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: cli.Commands = {"runs": run_tools.COMMANDS}
    if words[:1] != ["runs"]:
        # Here, as they import TensorFlow: three seconds that a list of runs can do
        # without.
        from worklab.tools import COMMANDS

        commands = {**COMMANDS, **commands}
    cli.run_commands(commands, words)


if __name__ == "__main__":
    main()
