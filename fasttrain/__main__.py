"""`python -m fasttrain` and `fasttrain`: the command line, in a process that is its own.

A signal is answered from the first line on, and at the end none can spoil the exit status.
"""

import sys

from .parallel import signals


def main() -> None:
    """Run the command line of this process and leave it."""
    signals.end_at_once()
    from .cli import main as cli
    from .console import stdout

    stdout.open_missing()
    stdout.escape_letters()
    status = cli.main()
    signals.ignore()
    stdout.detach()
    sys.exit(status)


if __name__ == "__main__":
    main()
