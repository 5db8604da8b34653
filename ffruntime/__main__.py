"""`ffruntime`, and `python -m ffruntime`."""

from ffruntime.start import start


def main() -> None:
    """Entry point of `ffruntime`."""
    start("ffruntime.cli")


if __name__ == "__main__":
    main()
