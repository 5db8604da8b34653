"""The commands of fftrain. Each imports torch, and what else it uses, when it runs, so that `--help` is fast."""
