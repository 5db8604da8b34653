"""The commands of ffruntime, one module for each; what they need is imported when they run: start-up counts."""
