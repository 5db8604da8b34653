"""`python -m ffruntime`."""

from .cli import main

main()
