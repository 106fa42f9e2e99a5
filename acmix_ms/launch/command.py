"""What msrun is told on one host, and which files its processes write to."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acmix_ms import runtime
from acmix_ms.config import Config
from acmix_ms.engine import run_dir
from acmix_ms.errors import UserError
from acmix_ms.launch.group import MSRUN, SCHEDULER

DEFAULT_PORT = 8118  # msrun's own; on one host any free port serves
MEETING_SECONDS = 600  # how long processes wait for each other at the start


@dataclass
class Command:
    """The start of one host's processes.

    Attributes:
        script, arguments: what every process runs.
        devices: processes on each host.
        hosts: all of them, the master first; ``node`` is the place of this one.
        log_dir: gets a file for each process.
        wanted_port: of the master; None for any free one, with several hosts `DEFAULT_PORT`.
        training: the configuration of a training, which can go on from its last state.
    """

    script: str
    arguments: list[str]
    devices: int
    log_dir: Path
    hosts: Sequence[str] = ("127.0.0.1",)
    node: int = 0
    wanted_port: int | None = None
    training: Config | None = None

    def __post_init__(self):
        if self.wanted_port is None and len(self.hosts) > 1:
            self.wanted_port = DEFAULT_PORT
        self.port = self.wanted_port

    def logs(self) -> dict[str, Path]:
        """The log of each process of this host, in the order of their start."""
        first = self.node * self.devices
        names = {MSRUN: f"msrun_{self.node}.log"}
        if self.node == 0:
            names[SCHEDULER] = "scheduler.log"
        names.update({f"rank {rank}": f"rank_{rank}.log" for rank in range(first, first + self.devices)})
        return {name: self.log_dir / file for name, file in names.items()}

    def line(self) -> list[str]:
        """The command for this host."""
        # msrun takes "python" and "python3" literally, and finds them on the PATH: see `environment`.
        python = "python" if (Path(sys.executable).parent / "python").exists() else "python3"
        return [
            *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
            *("--worker_num", str(self.devices * len(self.hosts)), "--local_worker_num", str(self.devices)),
            *("--master_addr", self.hosts[0], "--master_port", str(self.port or DEFAULT_PORT)),
            *("--node_rank", str(self.node), "--log_dir", str(self.log_dir), "--worker_log_name", "rank"),
            *("--join", "False", "--cluster_time_out", str(MEETING_SECONDS)),
            *(python, self.script, *self.arguments),
        ]

    def environment(self) -> dict[str, str]:
        """The environment of the processes: that of the user, with this Python first, and lines written at once."""
        env = runtime.foreign_environment()
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        env["PYTHONUNBUFFERED"] = "1"
        return env

    def choose_port(self) -> None:
        """A free port if none was asked for; the one asked for must be free."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", self.wanted_port or 0))
            except OSError as error:
                raise UserError(f"--port {self.wanted_port}: is in use on this machine; give another one") from error
            self.port = probe.getsockname()[1]

    def resume(self) -> str:
        """Let a training that has saved something go on from there; returns how to say it."""
        if self.training is None:
            return "from the beginning"
        folder = Path(self.training.run_dir)
        if not run_dir.held(folder):
            return "from the beginning, as there is no checkpoint yet"
        if not self.training.train.resume:
            self.arguments.append("train.resume=true")
            self.training.train.resume = True
        return f"from the newest state in {folder}"
