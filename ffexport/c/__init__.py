"""A bundle as a C99 project for a microcontroller: generated tables, and the sources in `src/`."""
