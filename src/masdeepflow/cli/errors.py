"""Errors as users see them: one sentence and the documented exit code."""

from __future__ import annotations

import click

__all__ = ["HostError", "UsageError"]


class HostError(click.ClickException):
    """This host can't do it."""

    exit_code = 1


class UsageError(click.ClickException):
    """What was asked for is not possible anywhere."""

    exit_code = 2
