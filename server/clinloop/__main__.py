"""`clinloop` and `python -m clinloop`: the command line; `connect`, which every agent starts, without importing the rest of it."""

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["connect"] and "--help" not in sys.argv:
        from clinloop.connect import main as connect

        sys.exit(connect(sys.argv[2:]))
    from clinloop.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
