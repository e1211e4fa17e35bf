"""Landlock by its three system calls: a process gives up rights for itself and for all that it starts, for good.

https://docs.kernel.org/userspace-api/landlock.html; constants and structures are those of linux/landlock.h. Own code
because the bindings on the package index are development releases, and would have to be read before they are trusted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

# The same on every architecture that OpenHands runs on: these calls are younger than the common table.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

MINIMUM_ABI = 2
"""ABI 1 refuses every rename and link from one folder to another, which git does all the time."""
SIGNALS_ABI = 6
"""From here on signals and abstract sockets can be held back."""


class Right(IntFlag):
    """What changes a file system (LANDLOCK_ACCESS_FS_*). Reading and running are left alone."""

    WRITE_FILE = 1 << 1
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Scope(IntFlag):
    """What stays within the domain (LANDLOCK_SCOPE_*)."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


_NOTHING = Scope(0)
_SINCE = {Right.REFER: 2, Right.TRUNCATE: 3, Right.IOCTL_DEV: 5}
# Rights that a rule on a single file may name.
_OF_FILES = Right.WRITE_FILE | Right.TRUNCATE | Right.IOCTL_DEV
# Terminals and /dev/null are opened for writing, and asked by ioctl; nothing is made or removed there.
DEVICES = _OF_FILES


class Unavailable(OSError):
    """The kernel does not do it here; the text says why."""


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The version of the kernel's interface, 1 or more.

    Raises:
        Unavailable: there is none to be had.
    """
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError as error:
        why = {
            errno.ENOSYS: "the kernel has no Landlock",
            errno.EOPNOTSUPP: "the kernel has Landlock but was started without it (lsm=)",
            errno.EPERM: "a seccomp filter forbids it (engines before 23.0 do)",
        }
        raise Unavailable(error.errno, why.get(error.errno or 0, os.strerror(error.errno or 0))) from None


def rights(version: int) -> Right:
    """The rights that this version of the interface can take away."""
    found = Right(0)
    for right in Right:
        if _SINCE.get(right, 1) <= version:
            found |= right
    return found


def scopes(version: int) -> Scope:
    """What this version of the interface can keep inside."""
    return Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if version >= SIGNALS_ABI else Scope(0)


def restrict(version: int, writable: Iterable[tuple[Path, Right]], scoped: Scope = _NOTHING) -> None:
    """From now on this thread, what it starts, and its new threads change only what lies beneath these folders.

    Rights can only be given up: a second call narrows the first. Sets no_new_privs, without which the kernel refuses.

    Args:
        version: as `abi` tells it.
        writable: folders or files, with what may be done beneath; those that don't exist are left out.
        scoped: what of `scopes` stays inside too.

    Raises:
        OSError: the kernel refused; nothing is restricted.
    """
    handled = rights(version)
    attributes = _RulesetAttributes(handled, 0, scoped & scopes(version))
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path, allowed in writable:
            _allow(ruleset, path, allowed & handled)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs was refused")
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, allowed: Right) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            allowed &= _OF_FILES
        rule = _PathBeneath(allowed, descriptor)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
