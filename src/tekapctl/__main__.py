"""`python -m tekapctl` is the same program as `tekapctl`."""

from tekapctl.cli.app import app


def main() -> None:
    """Run the program."""
    app(prog_name="tekapctl")


if __name__ == "__main__":
    main()
