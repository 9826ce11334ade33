"""The one exception that is meant for users."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that a user can mend.

    The message says where, what was found, what is allowed and what to do. Commands print it as one line
    and exit with status 2; it never appears as a traceback.
    """
