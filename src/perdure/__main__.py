"""The `perdure` command, also as `python -m perdure`.

It says what to install where only the client is installed, so it needs nothing but the client's packages.
"""

from __future__ import annotations

import gc
import os
import sys

from perdure.cli.parts import MISSING, advice


def main() -> None:
    """Run the command. Status 2 and one line say that a package is not installed."""
    open_standard_streams()
    gc.disable()  # imports make no garbage, and collecting it anyway takes a twentieth of their time
    try:
        if sys.argv[1:2] in (["serve"], ["api"], ["worker"]):
            from perdure.cli.serving import plain_options, serve_and_exit

            options = plain_options(sys.argv[2:])
            if options is not None:
                serve_and_exit(options, sys.argv[1])
        from perdure.cli.main import main as command

        gc.enable()
        command()
    except ModuleNotFoundError as error:
        message = advice(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(MISSING)


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that our parent has closed.

    Otherwise the next socket or database file gets its number, and with it what is written to standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process


if __name__ == "__main__":
    main()
