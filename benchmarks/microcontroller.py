"""A network in C on an emulated Cortex-M4F: what classifying and a learning step take, and what they are worth.

    python benchmarks/microcontroller.py [--emx PROGRAM] [--no-accuracy] micro.ff

Instructions are exact (QEMU's `-icount`), and are not cycles. Stacks are painted and looked through. `--emx` is the
program of emx-onnx-cgen, a general compiler from ONNX to C: the gradient graphs of the same units go through it,
for the same core with the same compiler and flags.
Accuracy is that of the C code on this machine, on validation images; the test images were read by `fftrain` alone.
With `--no-accuracy` it stays as it was recorded.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import record, recorded

from ffexport.c.arena import PARTS, STACK_BYTES
from ffexport.c.counting import dimension_on_chip
from ffexport.c.footprint import footprint
from ffexport.c.project import FOLDER, export_c
from ffexport.c.project import SOURCE_FOLDER as FOLDER_OF_SOURCES
from ffexport.class_graphs import class_gradient_graph
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples, data_directory
from ffruntime.core.learning import ClassLoss

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from chip import Chip
from linked import MAP, MORE, code_bytes

FAST = ("-std=c99", "-O2")
NAME = "microcontroller"
FLAGS = (
    "-std=gnu99 -Os -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffunction-sections -fdata-sections"
)
QEMU = (
    "qemu-system-arm -machine mps2-an386 -display none -monitor none -serial none "
    "-semihosting-config enable=on,target=native -icount shift=0 -kernel"
)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def said(output: str) -> dict[str, int]:
    """Lines of a name and a number."""
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", output, re.MULTILINE)}


def on_the_core(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """What a pass, a step and an example that counts take on an M4, with all that was trained learning."""
    model = folder / "model.ff"
    shutil.copytree(bundle.path, model)
    export_c(model)
    program, examples = model / FOLDER / "examples" / "qemu", bundle.exemplars()
    (program / "classify.bin").write_bytes(examples.pixels[:3].tobytes())
    labels = (bytes([int(label)]) for label in examples.labels[:3])
    pictures = (image.tobytes() for image in examples.pixels[:3])
    (program / "learn.bin").write_bytes(b"".join(a + b for a, b in zip(labels, pictures, strict=True)))
    found = said(run(["make", "run", f"MORE={MORE}", "RAM=192K"], program))
    if dimension_on_chip(bundle.manifest):
        new = bytes([len(bundle.manifest.classes)])
        (program / "count.bin").write_bytes(new + examples.pixels[0].tobytes())
        again = said(run(["make", "run", "RAM=192K"], program))
        names = ("count_instructions", "solve_instructions", "counted_instructions", "load_stack")
        found |= {name: again[name] for name in names}
    found |= code(program, "learning")
    run(["make", "-B", "run", f"MORE={MORE} -DFF_CLASSIFY_ONLY", "RAM=48K"], program)
    return found | code(program, "classifying")


def code(program: Path, use: str) -> dict[str, int]:
    """Bytes of a program's code, without the network's tables, and of libc."""
    own, libc = code_bytes((program / MAP).read_text())
    return {f"{use}_code": own, f"{use}_libc": libc}


# ---------------------------------------- through a general compiler ----------------------------------------


def through_a_general_compiler(bundle: Bundle, emx: Path, folder: Path) -> dict[str, Any]:
    """Instructions and stack of each unit's gradient graph for one image; what changes the weights is not in it."""
    network, learning = bundle.manifest.network, bundle.manifest.learning
    assert learning
    assert isinstance(learning.loss, ClassLoss)
    rows = []
    for index in range(len(network.units)):
        graph = class_gradient_graph(network, index, learning.loss, np.float32, 1)
        onnx.save(graph, folder / "unit.onnx")
        run([str(emx), "compile", "--large-temp-threshold", "0", "unit.onnx", "unit.c"], folder)
        rows.append(run_graph(graph, folder))
    return {"units": rows, "version": run([str(emx.with_name("pip")), "show", "emx-onnx-cgen"], folder).split()[3]}


def run_graph(graph: onnx.ModelProto, folder: Path) -> dict[str, int]:
    """A gradient graph that is C now, on the core, from numbers that are all the same but for its labels."""
    sources = FOLDER_OF_SOURCES / "examples" / "qemu"
    sizes = [int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim] or [1])) for v in
             (*graph.graph.input, *graph.graph.output)]  # fmt: skip
    names = [f"a{k}" for k in range(len(sizes))]
    kinds = ["int64_t" if v.name == "labels" else "float" for v in (*graph.graph.input, *graph.graph.output)]
    arrays = "".join(
        f"static {kind} {name}[{size}];\n" for kind, name, size in zip(kinds, names, sizes, strict=True)
    )
    fill = "".join(
        f"for (int i = 0; i < {size}; i++) {name}[i] = (float)(i * 7 % 13 - 4) * 0.1f;\n"
        for kind, name, size in [*zip(kinds, names, sizes, strict=True)][: len(graph.graph.input)]
        if kind == "float"
    )
    arguments = ", ".join(f"(void *){name}" for name in names)
    text = (
        '#include "unit.c"\n#include "semihosting.h"\nextern uint32_t stack_used(void);\n'
        f"{arrays}int main(void)\n{{\n{fill}start_counting();\n"
    )
    text += f'model({arguments});\nsay("instructions", instructions());\nsay("stack", stack_used());\nend(0);\n}}\n'
    (folder / "main.c").write_text(text)
    script = (sources / "memory.ld").read_text().replace("STACK_SIZE = 2K", "STACK_SIZE = 3M")
    (folder / "memory.ld").write_text(script)
    command = ["arm-none-eabi-gcc", *FLAGS.split(), "-w", "-nostartfiles", "-Wl,--gc-sections", "-T", "memory.ld"]
    limits = ["-Wl,--defsym=RAM_SIZE=4M", "-Wl,--defsym=FLASH_SIZE=4M"]
    shutil.copy(sources / "semihosting.h", folder)
    run([*command, *limits, "main.c", str(sources / "startup.c"), "-lm", "-o", "unit.elf"], folder)
    return said(run([*QEMU.split(), "unit.elf"], folder))


# ---------------------------------------- accuracy, on this machine ----------------------------------------


def right(chip: Chip, examples: Examples) -> float:
    """Share of right answers."""
    pairs = zip(examples.pixels, examples.labels, strict=True)
    return sum(chip.classify(image)[0] == label for image, label in pairs) / len(examples)


def validation(bundle: Bundle) -> Examples:
    from ffexport.decisions import validation_images

    found = validation_images(bundle.manifest, bundle.exemplars(), data_directory(None))
    assert found is not None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("micro.ff"))
    parser.add_argument("--emx", type=Path)
    parser.add_argument("--no-accuracy", action="store_true")
    given = parser.parse_args()
    bundle, found = Bundle(given.model), recorded(NAME)
    manifest = bundle.manifest
    found["recipe"] = manifest.training.recipe_name
    found["epochs"] = manifest.training.epochs
    found["trained"] = manifest.accuracy
    found["stack_limit"] = STACK_BYTES
    found["dimension"] = dimension_on_chip(manifest)
    for part in PARTS:
        whole = footprint(manifest, part, "fp32")
        found.setdefault("parts", {})[part] = {
            "classify": whole.arena.classify_bytes,
            "learn": whole.arena.learn_bytes,
            "learned": whole.arena.learned_bytes,
            "weights": whole.weights,
            "slots": whole.slots,
            "counting": whole.arena.counting_bytes,
        }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found["core"] = on_the_core(bundle, folder)
        if given.emx:
            found["general_compiler"] = through_a_general_compiler(bundle, given.emx, folder)
        images = validation(bundle)
        for precision in () if given.no_accuracy else ("fp32", "fp16"):
            with Chip.of(folder / precision, bundle, "readouts", precision, flags=FAST) as chip:
                found.setdefault("validation", {})[precision] = right(chip, images)
    record(NAME, {key: value for key, value in found.items() if key != "machine"})


if __name__ == "__main__":
    main()
