"""The demonstration of learning on the device: what is measured, how it is shown (`docs/demo.md`)."""
