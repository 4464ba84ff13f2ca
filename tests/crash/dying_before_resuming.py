"""The `perdure` command, killed with -9 when a sign-in is stored, and no call is resumed yet."""

from __future__ import annotations

import os
import signal


def _main() -> None:
    from perdure.app import sign_ins
    from perdure.cli.main import main

    async def die(app: object) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    sign_ins.resume_signed_in = die
    main()


if __name__ == "__main__":
    _main()
