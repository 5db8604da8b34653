"""`python -m ffexport`."""

from .cli import main

main()
