"""`fftrain`, and `python -m fftrain`."""

from ffruntime.start import start


def main() -> None:
    """Entry point of `fftrain`."""
    start("fftrain.cli")


if __name__ == "__main__":
    main()
