"""`ffexport`, and `python -m ffexport`."""

from ffruntime.start import start


def main() -> None:
    """Entry point of `ffexport`."""
    start("ffexport.cli")


if __name__ == "__main__":
    main()
