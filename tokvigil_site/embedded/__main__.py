"""`python -m tokvigil_site.embedded start|stop|status|delete [--home DIR]` prints the URLs of what runs."""

import argparse
import sys
from pathlib import Path

from tokvigil_site.embedded import placement, stack
from tokvigil_site.embedded.errors import StackError


def main() -> int:
    """The exit status: 0 done, 1 failed, 3 not running (`status` only)."""
    arguments = _parsed()
    try:
        return _COMMANDS[arguments.command](arguments.home)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tokvigil_site.embedded", description=stack.__doc__)
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("--home", type=Path, default=placement.default_home(), help="default: %(default)s")
    return parser.parse_args()


def _start(home: Path) -> int:
    stack.start(home)
    return _status(home)


def _stop(home: Path) -> int:
    stack.stop(home)
    return 0


def _delete(home: Path) -> int:
    stack.delete(home)
    return 0


def _status(home: Path) -> int:
    urls = stack.running_urls(home)
    if urls is None:
        down = [server.name for server in stack.servers(home) if server.ended()]
        which = f"{down[0]} is not running" if len(down) == 1 else "Not running"
        print(f"{which} in {home}.", file=sys.stderr)
        return 3
    print("DATABASE_URL={}\nREDIS_URL={}".format(*urls))
    return 0


_COMMANDS = {"start": _start, "stop": _stop, "status": _status, "delete": _delete}

if __name__ == "__main__":
    sys.exit(main())
