"""Check who can change a file. Files that are run as code must be writable only by this user and root."""

import grp
import os
import pwd
import stat
from pathlib import Path


def risk_of_folder(folder: Path) -> str | None:
    """Return why another user could change the content of `folder`, or None if no other user could.

    If the folder exists, it must belong to this user or root, must not be a symbolic link, and must not be writable by
    other users. A parent folder that other users can write to must be sticky, as /tmp is: in a sticky folder, other
    users cannot rename this user's files. Raise OSError if a folder cannot be examined.
    """
    if folder.is_symlink():
        return f"{folder} is a symbolic link: replace it with a folder"
    nearest = nearest_existing(folder).resolve(strict=True)
    risk = None
    if folder.exists():
        found = folder.lstat()
        risk = _risk(nearest, found) if stat.S_ISDIR(found.st_mode) else f"{folder} is not a folder"
    for parent in nearest.parents if folder.exists() else (nearest, *nearest.parents):
        status = parent.lstat()
        is_sticky = status.st_mode & stat.S_ISVTX and status.st_uid in (0, os.geteuid())
        if risk is None and not is_sticky:
            risk = _risk(parent, status)
    return risk


def nearest_existing(path: Path) -> Path:
    """Return the path if it exists, else its nearest existing parent."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def risk_of_file(path: Path, found: os.stat_result) -> str | None:
    """Return why another user could change a file, or None. `found` is the file's status.

    The folder of the file is not checked.
    """
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file"
    return _risk(path, found)


def _risk(path: Path, found: os.stat_result) -> str | None:
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user ({_name_of(found.st_uid)})"
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable == stat.S_IWGRP and _is_own_group(found.st_gid):
        return None
    return f"other users can write to {path}: run `chmod go-w {path}`" if writable else None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _is_own_group(gid: int) -> bool:
    """Return whether a group contains only this user.

    Debian and Fedora create such a group for each user, and make new files writable by the group (umask 002).
    """
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_gid == user.pw_gid and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
