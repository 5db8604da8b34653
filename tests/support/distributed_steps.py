"""Five training steps in float64, by as many processes as torchrun starts; the first one saves the network.

python -m torch.distributed.run --standalone --nproc-per-node 2 distributed_steps.py recipe.toml out.safetensors
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from ffruntime.core.data import data_directory
from fftrain.dataset import load_dataset
from fftrain.epoch import epoch_batches
from fftrain.hardware import join, leave, rank
from fftrain.recipe import load_recipe
from fftrain.run import start
from fftrain.step import training_step
from fftrain.training import make_optimizers

torch.set_num_threads(1)
join("cpu")
recipe = load_recipe(sys.argv[1])
dataset = load_dataset("mnist", data_directory(None), offline=True)
run = start(recipe, dataset, 0, torch.device("cpu"), torch.float64)
run.tensors = {name: tensor.double() for name, tensor in run.tensors.items()}
run.optimizers = make_optimizers(recipe, run.network, run.tensors)
for index, batch in enumerate(epoch_batches(dataset.train, recipe, 0, 0, skip=0)):
    if index == 5:
        break
    training_step(run, batch, torch.tensor(recipe.negatives.hard))
if rank() == 0:
    save_file({name: tensor.contiguous() for name, tensor in run.tensors.items()}, sys.argv[2])
leave()
