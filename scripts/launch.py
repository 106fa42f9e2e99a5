"""Run a script in several processes, one per device, with MindSpore's launcher msrun, and watch over them.

msrun starts the processes (HCCL connects them on Ascend, MindSpore's own library on CPU) and leaves. They become
children of this process, which shows what they say, passes signals on to them, and ends all as soon as one fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import config, runtime  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.engine import run_dir  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import writable_folder  # noqa: E402
from acmix_ms.launch import group  # noqa: E402

DEFAULT_PORT = 8118  # msrun's own; on one host any free port serves
MEETING_SECONDS = 600  # how long processes wait for each other at the start

HELP = """\
hosts file:
  One host name or address per line; '#' begins a comment. The first host is the master. Every host has N devices.
  Start the same command on every host: each runs its own part, which it finds by its name or addresses, or by
  --node-rank (0 is the master). All need the project, the data and the configuration under the same paths, and
  run_dir on a shared file system if training is to resume.

console and logs:
  The output of rank 0 is shown, and of the other ranks the errors. DIR/rank_<rank>.log has all of it.

ends:
  Ctrl-C and SIGTERM are passed on to the processes; a second one kills them. When a process fails, all of this host
  are ended. Exit code: that of the process that failed, 128 + n if signal n killed it, 2 for a wrong command.
  With --max-restarts they are started again, unless the exit code was 2 (which would come again); train.py goes on
  from its last checkpoint. With several hosts give the same to each.
"""


def main(argv: list[str] | None = None) -> int:
    """Check the command, run it, start again if that is wanted."""
    args = parse(argv)
    hosts = read_hosts(args.hosts) if args.hosts else ["127.0.0.1"]
    node = find_node(hosts, args.node_rank)
    command = Command(args, hosts, node)
    if args.dry_run:
        print(shlex.join(command.line()))
        return 0
    if sys.platform != "linux":
        raise UserError(f"launch.sh runs on Linux only, this is {sys.platform}; --dry-run prints the command of msrun")
    writable_folder(args.log_dir, "--log-dir")
    group.adopt_orphans()
    signals, restarts = group.Signals(), 0
    while True:
        if node == 0:
            command.choose_port()
        group.set_aside(command.logs().values())
        code = group.Group(command.line(), command.environment(), command.logs(), signals).run()
        if code in (0, 2) or signals.received or restarts == args.max_restarts:
            return code
        restarts += 1
        group.say(
            f"restart {restarts} of {args.max_restarts}, {command.resume()}; the logs so far get a number at their end"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, each checked as far as it can be alone."""
    parser = ArgumentParser(
        prog="launch.sh", description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=positive_int, required=True, metavar="N", help="processes on each host")
    parser.add_argument("--hosts", metavar="FILE", help="hosts file, for several machines")
    parser.add_argument("--node-rank", type=int, metavar="I", help="which line of the hosts file is this machine")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="R", help="how often to start again; 0")
    logs = os.path.join("runs", "logs", time.strftime("%Y%m%d-%H%M%S"))
    parser.add_argument("--log-dir", type=Path, default=Path(logs), metavar="DIR", help="runs/logs/<time>")
    parser.add_argument("--port", type=int, metavar="P", help=f"of the master; with several hosts {DEFAULT_PORT}")
    parser.add_argument("--dry-run", action="store_true", help="print the command for this host, and run nothing")
    parser.add_argument("script", help="train.py, eval.py or any other script that calls acmix_ms.runtime.start")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    args = parser.parse_args(argv)
    if args.max_restarts < 0:
        raise UserError(f"--max-restarts {args.max_restarts}: give 0 or more")
    if args.port is not None and not 1024 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: give a number from 1024 to 65535")
    if not Path(args.script).is_file():
        raise UserError(f"script {args.script} does not exist")
    return args


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


class Command:
    """What msrun is told."""

    def __init__(self, args: argparse.Namespace, hosts: list[str], node: int):
        self.devices, self.hosts, self.node = args.devices, hosts, node
        self.wanted_port = self.port = args.port or (DEFAULT_PORT if len(hosts) > 1 else None)
        self.log_dir, self.script, self.arguments = args.log_dir, args.script, list(args.arguments)
        self.training = None  # its configuration, if that is what is launched
        if Path(args.script).resolve() == ROOT / "train.py":
            parser = ArgumentParser(prog="train.py")
            parser.add_config()
            given = parser.parse_intermixed_args(self.arguments)
            self.training = config.load(given.config, given.overrides)

    def logs(self) -> dict[str, Path]:
        """The log of each process of this host, in the order of their start."""
        first = self.node * self.devices
        names = {group.MSRUN: f"msrun_{self.node}.log"}
        if self.node == 0:
            names[group.SCHEDULER] = "scheduler.log"
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


if __name__ == "__main__":
    run_cli(main)
