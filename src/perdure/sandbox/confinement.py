"""What the kernel denies to the sandbox's processes, and to others that would read the server's memory.

Everything here fails open: where a kernel lacks a protection, the others remain. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPABILITIES_VERSION = 0x20080522
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | 2 | _READ_FILE | 1 << 14
"""The rights that a rule about a file, and not about a folder, may have."""

TEMPORARY = "SQLITE_TMPDIR"
"""The environment variable with the folder for temporary files; SQLite reads it as it is loaded."""

_BIND_TCP, _OTHERS_SOCKETS_AND_SIGNALS = 1, 3
_ETC = (
    "ca-certificates", "gai.conf", "host.conf", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "pki",
    "protocols", "resolv.conf", "services", "ssl",
)  # fmt: skip
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/nix/store", "/dev/null", "/dev/urandom", "/dev/random")


def hide_memory() -> bool:
    """Keep other processes of the same user from reading this one's memory and environment.

    It also disables core dumps, and debuggers that do not run as root. Returns whether it worked.
    """
    return _prctl(_SET_DUMPABLE, 0)


def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 without it."""
    return max(0, _syscall(_CREATE_RULESET, None, 0, 1))


def confine() -> None:
    """Take from this process what a sandbox does not need. Call it before any thread starts.

    Afterwards it reads only Python's code, the system's libraries and what name resolution needs, and writes
    only to the folder that its environment names as TEMPORARY. It reads neither the server's data nor /proc.
    """
    _prctl(_SET_NO_NEW_PRIVS, 1)
    hide_memory()
    _drop_capabilities()
    with contextlib.suppress(OSError):
        _restrict(_readable(), os.environ.get(TEMPORARY, ""))


def temporary_folder() -> str | None:
    """Make the folder for the temporary files of this user's sandboxes; None if it cannot be made.

    It is not the system's own, which may hold the server's data.
    """
    folder = Path(os.environ.get("TMPDIR") or "/tmp", f"perdure-sandbox-{os.getuid()}")  # noqa: S108
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return str(folder) if mine else None


def _readable() -> Iterable[str]:
    """What the shell and SQL read: Python's code and the system's libraries, in their own folders."""
    yield str(Path(os.__file__).parent)  # the standard library, without the import of sysconfig
    yield f"{sys.base_prefix}/lib"
    yield str(Path(__file__).parents[1])
    yield str(Path(msgspec.__file__).parents[1])
    for package in ("bashkit", "PIL", "pypdfium2"):
        yield from (folder for folder in sys.path if Path(folder, package).is_dir())
    yield from (*_SYSTEM, *(f"/etc/{name}" for name in _ETC))
    yield from (os.environ[name] for name in ("SSL_CERT_DIR", "SSL_CERT_FILE") if name in os.environ)
    yield from os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)


def _restrict(readable: Iterable[str], writable: str) -> None:
    import ctypes

    version = landlock_version()
    if version == 0:
        return
    # Bits that came later: moving (2), cutting (3), device controls (5).
    handled = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    fields = [handled]
    fields += [_BIND_TCP] if version >= 4 else []
    fields += [_OTHERS_SOCKETS_AND_SIGNALS] if version >= 6 else []
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    rules = _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    if rules < 0:
        return
    try:
        for path in filter(None, readable):
            _allow(rules, path, _READ)
        if writable:
            _allow(rules, writable, handled)
        _syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    import ctypes

    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = rights if stat.S_ISDIR(os.fstat(place).st_mode) else rights & _FILE_RIGHTS
        rule = rights.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        _syscall(_ADD_RULE, rules, 1, ctypes.c_char_p(rule), 0)
    finally:
        os.close(place)


def _drop_capabilities() -> None:
    """Drop root's privileges, if it has them: among others, to read other processes' memory."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    with contextlib.suppress(OSError, AttributeError):
        _libc().capset(ctypes.byref(header), ctypes.byref(none))


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(_libc().prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _syscall(number: int, *arguments: Any) -> int:
    """The result, or -1."""
    if sys.platform != "linux":
        return -1
    try:
        return int(_libc().syscall(number, *arguments))
    except (OSError, AttributeError):
        return -1


def _libc() -> Any:
    if sys.platform != "linux":
        raise OSError("only Linux has these calls")
    import ctypes

    return ctypes.CDLL(None)
