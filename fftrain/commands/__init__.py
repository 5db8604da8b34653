"""The commands of fftrain, a module each. They import torch and what they use when they are run."""
