"""The process: arguments in, exit status out. The only place that exits."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from codecell.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
