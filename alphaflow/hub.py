"""Whether a model of the Hub can be had at all, before a download is tried."""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import urlparse
from urllib.request import getproxies

from .errors import UserError, reason


def check_hub(what: str, name: str, remedy: str) -> None:
    """Says at once what a download would take long to find out: no such name, or a Hub that can't be reached.

    Args:
        what: what it is, ``"autoencoder"``.
        name: its name, OWNER/NAME.
        remedy: what to do where the Hub can't be reached.

    Raises:
        UserError: so it is.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"can't load the {what} {name}: there is no such folder, and the Hub's are named OWNER/NAME")
    problem = unreachable()
    if problem:
        raise UserError(f"the {what} {name} isn't cached, and {problem}; {remedy}")


def unreachable() -> str:
    """Why the Hub can't be reached; empty if it can be, or only through a proxy."""
    hub = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if {"http", "https", "all"} & getproxies().keys():
        return ""
    try:
        socket.create_connection((hub.hostname, hub.port or (80 if hub.scheme == "http" else 443)), 5).close()
    except (OSError, ValueError, OverflowError) as error:  # also a port that is none
        return f"{hub.hostname} can't be reached ({reason(error)})"
    return ""
