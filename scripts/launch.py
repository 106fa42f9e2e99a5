"""Run a script in several processes, one per device, with MindSpore's launcher msrun, and watch over them.

msrun starts the processes (HCCL connects them on Ascend, MindSpore's own library on CPU) and leaves. They become
children of this process, which shows what they say, passes signals on to them, and ends all as soon as one fails.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from acmix_ms import config  # noqa: E402
from acmix_ms.arguments import ArgumentParser, positive_int  # noqa: E402
from acmix_ms.errors import UserError, run_cli  # noqa: E402
from acmix_ms.files import writable_folder  # noqa: E402
from acmix_ms.launch import group  # noqa: E402
from acmix_ms.launch.command import DEFAULT_PORT, Command  # noqa: E402
from acmix_ms.launch.hosts import find_node, read_hosts  # noqa: E402
from acmix_ms.launch.logs import set_aside  # noqa: E402

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
    command = command_of(args)
    if args.dry_run:
        print(shlex.join(command.line()))
        return 0
    if sys.platform != "linux":
        raise UserError(f"launch.sh runs on Linux only, this is {sys.platform}; --dry-run prints the command of msrun")
    writable_folder(args.log_dir, "--log-dir")
    group.adopt_orphans()
    signals, restarts = group.Signals(), 0
    while True:
        if command.node == 0:
            command.choose_port()
        set_aside(command.logs().values())
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


def command_of(args: argparse.Namespace) -> Command:
    """What this host runs; the hosts file and a training's configuration are read, and so checked at once."""
    hosts = read_hosts(args.hosts) if args.hosts else ["127.0.0.1"]
    node, arguments, training = find_node(hosts, args.node_rank), list(args.arguments), None
    if Path(args.script).resolve() == ROOT / "train.py":
        parser = ArgumentParser(prog="train.py")
        parser.add_config()
        given = parser.parse_intermixed_args(arguments)
        training = config.load(given.config, given.overrides)
    return Command(args.script, arguments, args.devices, args.log_dir, hosts, node, args.port, training)


if __name__ == "__main__":
    run_cli(main)
