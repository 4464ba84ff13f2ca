"""The data folder: only its owner can enter it, and no file in it is reached through a link.

It holds the master key and everybody's conversations. A link that somebody planted there would make the
server write to another place, or read a key that somebody else knows.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.domain.errors import Unavailable

LOCK = "lock"
OURS = frozenset(
    {
        LOCK,
        "perdure.db",
        "perdure.db-wal",
        "perdure.db-shm",
        "perdure.db-journal",
        "perdure.db.restoring",
        "master.key",
        "master.key.next",
        "master.key.draft",
    }
)
"""All files that the server makes in the folder."""

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of everybody but the owner."""

log = logging.getLogger("perdure")


def make_folder(folder: Path) -> None:
    """Create the folder with mode 0700, unless it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def prepare_folder(folder: Path) -> None:
    """Create the data folder, and close it and its files to everybody but the owner.

    A folder that holds other files too may be used by other programs, so its mode stays; a warning tells.

    Raises:
        Unavailable: it cannot be used, or one of the server's files in it is a link.
    """
    try:
        make_folder(folder)
        check_links(folder, OURS)
        _close(folder)
        for name in sorted(OURS):
            _close_file(folder / name)
    except OSError as error:
        raise Unavailable(f"cannot use the data folder {str(folder)!r}: {error.strerror}") from error


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Check that none of these files is a link or anything else but a file.

    Raises:
        Unavailable: one is; the message names it.
    """
    for name in names:
        try:
            mode = os.lstat(folder / name).st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise linked(name) if stat.S_ISLNK(mode) else _no_file(name)


def linked(name: str) -> Unavailable:
    """Return the error for a file of the data folder that is a link."""
    return Unavailable(
        f"{name} in the data folder is a link, and links are not followed there: replace it by the file"
        " itself (the data folder may be a link; a master key may be given as PERDURE_MASTER_KEY)"
    )


def _no_file(name: str) -> Unavailable:
    return Unavailable(f"{name} in the data folder is not a file: remove it")


def open_file(path: Path, flags: int) -> int:
    """Open a file of the data folder without following a link, and return its descriptor.

    A new file gets mode 0600.

    Raises:
        Unavailable: the file is a link, or not a file.
        OSError: it cannot be opened.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise linked(path.name) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_file(path.name)
    return handle


def flush_folder(folder: Path) -> None:
    """Have the names of a folder's files survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def os_errors_explained(attempt: str) -> Iterator[None]:
    """Raise Unavailable, with the system's reason, for an error of the system.

    Args:
        attempt: what cannot be done then, such as `write /backups/monday.zip`.
    """
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot {attempt}: {error.strerror or error}") from error


def _close(folder: Path) -> None:
    """Take the folder's permissions from everybody but its owner, if the folder is the server's alone."""
    about = folder.stat()
    me = os.geteuid()
    if about.st_uid not in (me, 0):
        log.warning("the data folder %s belongs to another user, who can read and replace all data", folder)
    if not about.st_mode & OTHERS:
        return
    if about.st_uid == me and OURS.issuperset(path.name for path in folder.iterdir()):
        folder.chmod(0o700)
        return
    can = "change" if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else "enter"
    log.warning(
        "other users can %s the data folder %s (mode %04o): run chmod 700 on it, or use a folder of its own",
        can,
        folder,
        stat.S_IMODE(about.st_mode),
    )


def _close_file(path: Path) -> None:
    """Take a file's permissions from everybody but its owner; tells if others could read a master key."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if not about.st_mode & OTHERS:
        return
    own = about.st_uid == os.geteuid()
    if own:
        path.chmod(0o600)
    if path.name.startswith("master.key"):
        log.warning(
            "other users could read %s (mode %04o)%s; if one may have, run `perdure keys rotate-master`",
            path.name,
            stat.S_IMODE(about.st_mode),
            ", now only its owner can" if own else ": run chmod 600 on it",
        )
