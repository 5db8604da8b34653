"""Learning on the device: durable examples, layer-local updates, versions of weights (`docs/learning.md`).

What the planner has to know of it, too, stands here: to plan, nothing of learning need be imported.
"""

STEP = 32  # images in a step of an update, each with its negatives
MICRO_BATCH = 8  # images in one call of a gradient graph: more are hardly faster, benchmarks/README.md
REPLAY_BYTES = 1 << 20  # of images that are stored to be replayed
KEPT = 3  # versions whose weights stay on the flash
