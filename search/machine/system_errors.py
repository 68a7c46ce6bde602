"""Advice on errors of the operating system, by error number."""

from __future__ import annotations

import errno

GONE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN,
     errno.ENOLINK}
)  # fmt: skip
"""A file or disk is missing; the message must name it."""
PROCESS_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Limits of the process or the machine: another place for the file would not help."""
_ADVICE = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "free space",
    errno.EROFS: "make it writable",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "allow more open files (`ulimit -n`), or end other programs",
    errno.ENOMEM: "free memory",
    **dict.fromkeys(GONE, "bring it back"),
}
KNOWN_NUMBERS = frozenset(_ADVICE)


def system_advice(number: int | None) -> str:
    """What the user can do, in the imperative, without a full stop."""
    return _ADVICE.get(number or 0, "put that right")
