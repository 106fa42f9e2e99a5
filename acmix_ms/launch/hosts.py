"""The machines of a group: a file that names them, and which of them this one is."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from acmix_ms.errors import UserError


def read_hosts(path: str) -> list[str]:
    """The hosts of a file, the master first."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--hosts {path}: cannot be read ({error})") from error
    hosts = []
    for number, line in enumerate(lines, 1):
        host = line.partition("#")[0].strip()
        if not host:
            continue
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", host):
            raise UserError(f"--hosts {path}, line {number}: {host!r} is not a host name or address; give one per line")
        if host in hosts:
            raise UserError(f"--hosts {path}, line {number}: {host} is there twice; --devices says how many processes")
        hosts.append(host)
    if not hosts:
        raise UserError(f"--hosts {path}: names no host; give one per line, the master first")
    return hosts


def find_node(hosts: list[str], wanted: int | None) -> int:
    """Which of the hosts this machine is."""
    if wanted is not None:
        if not 0 <= wanted < len(hosts):
            raise UserError(f"--node-rank {wanted}: must be from 0 to {len(hosts) - 1}, the number of hosts less one")
        return wanted
    if len(hosts) == 1:
        return 0
    own = [i for i, host in enumerate(hosts) if is_here(host)]
    if len(own) != 1:
        what = "is none" if not own else "could be several"
        raise UserError(
            f"--hosts: this machine ({socket.gethostname()}) {what} of {', '.join(hosts)}; add --node-rank I"
        )
    return own[0]


def is_here(host: str) -> bool:
    """Whether a host name or address is that of this machine."""
    name = socket.gethostname()
    if host in (name, name.partition(".")[0]):
        return True
    try:
        address = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # only addresses of this machine can be bound
        return True
    except OSError:
        return False
