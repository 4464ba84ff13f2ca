"""The `perdure` command, also as `python -m perdure`.

It says what to install where only the client is installed, so it needs nothing but the client's packages.
"""

from __future__ import annotations

import gc
import sys

from perdure.cli.parts import MISSING, advice


def main() -> None:
    """Run the command. Status 2 and one line say that a package is not installed."""
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


if __name__ == "__main__":
    main()
