"""`python -m tekapctl` is the same program as `tekapctl`."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the program."""
    try:
        from tekapctl.cli.app import app

        app(prog_name="tekapctl")
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
