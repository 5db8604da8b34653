"""The commands of fftrain. They import torch, and what else they use, when they run: `--help` waits for none."""
