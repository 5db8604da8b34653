"""`python -m fftrain`."""

from .cli import main

main()
