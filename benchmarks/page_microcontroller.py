"""The figures of `docs/microcontrollers.md`, from `results/microcontroller.json`."""

from __future__ import annotations

from typing import Any

from page_text import measured, percent, result, table

NAME, LEARNING = "microcontroller", "chip_learning"


def block() -> str:
    """What a network takes on a chip, and what it is worth."""
    found = result(NAME)
    core, parts, stack = found["core"], found["parts"], found["core"]["learn_stack"]
    whole = parts["all"]
    rows = [
        ["right answers of the C code, MNIST validation images, fp32 / weights in fp16", _validation(found)],
        [
            "right answers, MNIST test images (by `fftrain`, read once)",
            percent(found["trained"]["test"]["goodness"]),
        ],
        ["RAM to classify, arena and stack", _kib(whole["classify"] + core["classify_stack"])],
        *(
            [f"RAM to learn, arena and stack: {words}", _kib(parts[part]["learn"] + stack)]
            for part, words in (
                ("all", "all of it learns"),
                ("last", "the last unit and the readouts"),
                ("readouts", "the readouts"),
            )
        ),
        [f"of it class statistics of {found['dimension']} dimensions", _kib(whole["counting"])],
        ["deepest stack: to classify / to learn / to load a state", _stacks(core)],
        ["code, `-Os`: to classify / with learning, closed form and state files", _code(core, "code")],
        ["what it asks of libc beside it", _code(core, "libc")],
        [
            "weights and class statistics in flash; two slots of what was learned",
            f"{_kib(whole['weights'])}; {_kib(whole['slots'])}",
        ],
        ["instructions of a pass", _millions(core["classify_instructions"])],
        ["instructions of a learning step, all units", _millions(core["learn_instructions"])],
        ["instructions of an example that counts", _millions(core["count_instructions"])],
        [
            "of an answer with class statistics, the first after an example / the next",
            f"{_millions(core['solve_instructions'])} / {_millions(core['counted_instructions'])}",
        ],
        *_general(found),
        *_learned(),
    ]
    learning = (
        "python benchmarks/chip_learning.py --nine nine.ff --untrained untrained.ff --divisive divisive.ff --test"
    )
    command = "python benchmarks/microcontroller.py --emx emx-onnx-cgen micro.ff"
    return (
        f"Recipe `{found['recipe']}`, {found['epochs']} epochs on one core; a Cortex-M4F that QEMU emulates "
        f"(`mps2-an386`), arm-none-eabi-gcc `-Os`. Instructions are exact, and are not cycles.\n\n"
        f"{table(['', ''], rows)}\n{measured(NAME, command)}\n{measured(LEARNING, learning)}"
    )


def memory_map() -> str:
    """RAM and flash of a board, drawn, with the bytes of recipe `micro` of which all learns."""
    found = result(NAME)
    core, parts, replay = found["core"], found["parts"]["all"], result(LEARNING)["replayed"]
    beside = parts["learn"] - parts["classify"] - parts["learned"] - parts["counting"]
    ram = [
        (
            parts["classify"],
            "arena: to classify",
            "image, activations of one unit, its features, goodness of the rows",
        ),
        (beside, "arena: a step, and names", "places of maxima, errors, a file's header; 64 bytes a spare row"),
        (parts["learned"], "arena: what learns", "weights, biases and readouts, fp32, changed in place"),
        (parts["counting"], "arena: class statistics", "counts, sums, second moment, the factor, an example"),
        (core["net_bytes"], "struct ff_net", "classes, steps and examples so far, rate and momentum"),
        (
            replay["replay_ram"],
            "replay, off by default",
            f"of {replay['stored']} images in flash: places, labels, two images",
        ),
        (found["stack_limit"], "stack", f"at most; deepest, ff_load: {core['load_stack']} bytes"),
    ]
    flash = [
        (
            core["learning_code"],
            "code",
            f"ffedge.c, ffcount.c, ffstate.c; to classify alone {core['classifying_code']:,}",
        ),
        (core["learning_libc"], "of libc", "expf, sqrtf, memcpy and what these take"),
        (parts["weights"], "model.c, constant", "weights where learning begins; the training set's statistics"),
        (parts["slots"], "two slots, ff_flash.h", "what was learned, the older and the newer, of 4 KiB sectors"),
        (replay["replay_flash"], "images, ff_replay_flash.h", f"{replay['stored']} of them, off by default"),
    ]
    return f"```\n{_drawn('RAM', ram)}\n{_drawn('flash', flash)}```\n"


def _drawn(name: str, rows: list[tuple[int, str, str]]) -> str:
    line = "─" * 27
    boxes = [f"          ├{line}┤\n"] * len(rows)
    boxes[0] = f"{name:<6}    ┌{line}┐\n"
    text = "".join(
        f"{box}{size:>9,} │ {what:<25} │ {why}\n" for box, (size, what, why) in zip(boxes, rows, strict=True)
    )
    return f"{text}          └{line}┘ {sum(size for size, _, _ in rows):,} bytes\n"


def _learned() -> list[list[str]]:
    """What the chip's code learns, on this machine."""
    found = result(LEARNING)
    nine, split, replayed = found["never_seen"], found["split"], found["replayed"]
    shown = " / ".join(map(str, nine["examples"]))
    others = " / ".join(percent(value) for value in nine["others"]["mean"])
    new = zip(nine["new"]["mean"], nine["new"]["deviation"], strict=True)
    return [
        [
            f"a digit never seen, counted: right answers after {shown} examples, {nine['draws']} draws",
            " / ".join(f"{100 * mean:.1f} ± {100 * deviation:.1f}" for mean, deviation in new) + " %",
        ],
        [f"the nine others then; {percent(nine['before'])} before", others],
        [
            f"Split-MNIST, counted by untrained units, {split['dimension']} dimensions: two digits after two, "
            f"{split['images']:,} images in one pass, none stored; RAM {_kib(split['ram'])}",
            percent(split["accuracy"]),
        ],
        [
            f"Split-MNIST, by gradients of all units, {replayed['stored']} images stored in flash: "
            f"{replayed['images']:,} images in one pass, {replayed['steps']:,} steps; RAM "
            f"{_kib(replayed['arena'] + replayed['replay_ram'])} without stack; validation / test (read once)",
            f"{percent(replayed['accuracy'])} / {percent(replayed['test'])}",
        ],
    ]


def _validation(found: dict[str, Any]) -> str:
    return f"{percent(found['validation']['fp32'])} / {percent(found['validation']['fp16'])}"


def _stacks(core: dict[str, int]) -> str:
    return f"{core['classify_stack']} / {core['learn_stack']} / {core['load_stack']} bytes"


def _code(core: dict[str, int], what: str) -> str:
    return f"{_kib(core[f'classifying_{what}'])} / {_kib(core[f'learning_{what}'])}"


def _general(found: dict[str, Any]) -> list[list[str]]:
    """Beside the same units' gradient graphs through a general compiler."""
    if "general_compiler" not in found:
        return []
    units, core, whole = found["general_compiler"]["units"], found["core"], found["parts"]["all"]
    instructions, scratch = sum(row["instructions"] for row in units), max(row["stack"] for row in units)
    own = whole["learn"] - whole["learned"] - whole["counting"] + core["learn_stack"]
    name = f"the gradient graphs of its units through emx-onnx-cgen {found['general_compiler']['version']}"
    return [
        [
            f"a step's instructions over those of {name}, which change no weight",
            f"{core['learn_instructions'] / instructions:.2f} (of {_millions(instructions)})",
        ],
        [
            "its memory beside the weights over theirs, which counts neither inputs nor outputs nor gradients",
            f"{own / scratch:.3f} (of {_kib(scratch)})",
        ],
    ]


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f} KiB"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million"
