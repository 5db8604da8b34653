"""Commands of ffruntime. Each imports what it computes with when it runs: `ffruntime --help` imports no numpy."""
