"""Programs as somebody who is not root."""

from __future__ import annotations

import functools

from tests.support.programs import MASDEEPFLOW, run

__all__ = ["ordinary_user", "sudo_variables", "without_capabilities"]

_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")


@functools.cache
def ordinary_user() -> tuple[str, ...]:
    """Return what to put before a command so that nobody runs it.

    Where nobody may not enter the checkout, it is its owner in a user namespace, without any rights.
    """
    if run(*_NOBODY, MASDEEPFLOW, "version").code == 0:
        return _NOBODY
    return ("unshare", "--user")


def sudo_variables() -> dict[str, str]:
    """Return what sudo puts in the environment when the ordinary user calls it."""
    return {"SUDO_UID": "65534", "SUDO_GID": "65534"} if ordinary_user() == _NOBODY else {}


def without_capabilities(*capabilities: str) -> tuple[str, ...]:
    """Return what to put before a command so that root runs it without these capabilities, such as `bpf`."""
    return ("setpriv", f"--bounding-set={','.join(f'-{name}' for name in capabilities)}", "--inh-caps=-all")
