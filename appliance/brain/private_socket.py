"""The Unix socket of an offline brain that is private to this process."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final
from urllib.parse import quote

from appliance.errors import ApplianceError

__all__ = ["PATH", "PrivateSocket", "private_socket"]

PATH: Final = "/v1/realtime"
"""Of the Realtime protocol, in every URL of the brain."""

_MAX_FOLDER_BYTES = 75  # the path of a Unix socket has at most 107, of which ours adds 32


@dataclass(frozen=True, slots=True)
class PrivateSocket:
    """A listening Unix socket of mode 0600 in a folder of mode 0700, and the random token that its clients need."""

    listening: socket.socket
    path: Path
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """The URL to connect to, without the model: ``ws+unix:PATH:/v1/realtime``."""
        return f"ws+unix:{quote(str(self.path))}:{PATH}"

    def headers(self) -> dict[str, str]:
        """Return the headers that let a client in; they contain the token."""
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def private_socket(folder: Path | None = None) -> Iterator[PrivateSocket]:
    """Listen on a Unix socket until the context exits, and then remove it.

    The kernel keeps connections waiting until a server accepts them.

    Args:
        folder: Where the folder of the socket is made; None uses the system's folder for temporary files. If its path
            is too long for a socket, ``/tmp`` is used.

    Raises:
        ApplianceError: The folder or the socket cannot be made.
    """
    try:
        parent = folder or gettempdir()
        if len(os.fsencode(parent)) > _MAX_FOLDER_BYTES:
            parent = "/tmp"
        private = TemporaryDirectory(prefix="appliance-brain-", dir=parent, ignore_cleanup_errors=True)
    except OSError as exc:
        raise ApplianceError(
            f"the offline brain cannot make a folder for its socket ({exc}): choose another one, as with TMPDIR"
        ) from exc
    with private as made, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        path = Path(made, "socket")
        try:
            listening.setblocking(False)
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen()
        except OSError as exc:
            raise ApplianceError(
                f"the offline brain cannot listen on {path} ({exc.strerror or exc}): "
                "choose another folder, as with TMPDIR"
            ) from exc
        yield PrivateSocket(listening, path)
