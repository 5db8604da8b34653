"""Learning on the device: durable examples, layer-local updates, versions of weights (`docs/learning.md`)."""
