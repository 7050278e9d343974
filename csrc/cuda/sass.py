"""The machine code of a kernel's loops: instructions of a way around, and how long a warp that is
alone would take for it.

    python csrc/cuda/sass.py fps.cu "fps_block_kernel<128, 16>"
    python csrc/cuda/sass.py knn.cu knn_warp_kernel --capability 8.0 --listing

Needs nvcc and nvdisasm (`pip install nvidia-cuda-nvdisasm` has one). A loop is what lies between a
jump back and where it leads. Its shortest way is counted: what is done in some turns alone is not.
Cycles are those of an issue in order, one instruction a cycle, each when its operands are there,
after `LATENCY`: figures that others have published for these architectures. So they are an
estimate, good for a comparison of two versions of one loop, and no measurement.
"""

from __future__ import annotations

import argparse
import heapq
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from resources import short_name

HERE = Path(__file__).parent
# Cycles from issue to use, by the beginning of a name; 4 for what is not listed, 1 for none.
LATENCY = {
    "LDS": 24, "LDSM": 28, "LDG": 250, "LD.": 250, "LDC": 30, "ATOM": 250, "ATOMS": 60, "SHFL": 24,
    "REDUX": 14, "VOTE": 8, "MATCH": 20, "BAR": 20, "SYNCS": 40, "HMMA": 18, "MUFU": 18, "POPC": 8,
    "FLO": 10, "BREV": 8, "I2F": 12, "F2I": 12, "F2F": 12, "DADD": 8, "DMUL": 8, "DFMA": 8,
    "S2R": 20, "IMAD.WIDE": 5, "R2UR": 8, "BRA": 6,
}  # fmt: skip
LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(.*?);")
REGISTER = re.compile(r"\bU?[RP](?:\d+|T|Z)\b")
NO_RESULT = ("ST", "BAR", "BRA", "BSSY", "BSYNC", "EXIT", "RED.", "WARPSYNC", "NOP", "SYNCS")


class Instruction(NamedTuple):
    text: str
    name: str
    target: str | None  # of a jump
    is_certain: bool  # no predicate


def disassemble(source: Path, capability: str) -> str:
    """SASS of all kernels of a source."""
    tool = shutil.which("nvdisasm")
    if not tool:
        raise SystemExit("sass.py: nvdisasm is not on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "a.cubin"
        flags = ["-std=c++20", "-O3", "-fmad=false", f"-arch=sm_{capability.replace('.', '')}"]
        command = ["nvcc", *flags, f"-I{HERE.parent}", "-cubin", "-o", cubin, source]
        subprocess.run(command, check=True)
        done = subprocess.run([tool, "-c", cubin], capture_output=True, text=True, check=True)
    return done.stdout


def kernels(sass: str) -> dict[str, list[str]]:
    """Lines by the name of the kernel."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^\.text\.", sass, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition(":")
        found[short_name(head)] = re.split(r"^\s*\.section", body, flags=re.MULTILINE)[0].split(
            "\n"
        )
    return found


def parse(lines: list[str]) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and where labels stand among them."""
    code, labels = [], {}
    for line in lines:
        if label := re.match(r"^(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif match := LINE.match(line):
            text = match[1].strip()
            words = text.split()
            certain = not words[0].startswith("@")
            name = words[0] if certain else words[1]
            jump = re.search(r"`\((\.L_\w+)\)", text) if name.startswith("BRA") else None
            alone = certain and not (jump and re.search(r"BRA !?U?P\d", text))
            code.append(Instruction(text, name, jump[1] if jump else None, alone))
    return code, labels


def loops(code: list[Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of each, widest first."""
    ends: dict[int, int] = {}
    for at, one in enumerate(code):
        if one.target and labels[one.target] < at:
            ends[labels[one.target]] = max(at, ends.get(labels[one.target], 0))
    return sorted(ends.items(), key=lambda pair: pair[0] - pair[1])


def way_around(code: list[Instruction], labels: dict[str, int], first: int, last: int) -> list[int]:
    """The shortest, as numbers of instructions."""
    queue, seen = [(0, first, (first,))], set()
    while queue:
        length, at, way = heapq.heappop(queue)
        if at in seen:
            continue
        seen.add(at)
        one = code[at]
        following = []
        if one.target:
            if labels[one.target] == first:
                return list(way)
            following.append(labels[one.target])
        ends = one.name == "EXIT" or one.target
        if not (ends and one.is_certain) and at < last:
            following.append(at + 1)
        for other in following:
            if first <= other <= last:
                heapq.heappush(queue, (length + 1, other, (*way, other)))
    return []


def latency(name: str) -> int:
    """Cycles from issue to use."""
    fitting = [key for key in LATENCY if name.startswith(key)]
    return LATENCY[max(fitting, key=len)] if fitting else 4


def cycles(way: list[Instruction]) -> int:
    """Of one of many turns, of a warp that is alone."""
    ready: dict[str, int] = {}
    clock, ends = 0, []
    for _ in range(4):
        for one in way:
            registers = [r for r in REGISTER.findall(one.text) if r[-1] not in "TZ"]
            gives = [] if one.name.startswith(NO_RESULT) else _results(one, registers)
            clock = max([clock, *(ready.get(r, 0) for r in registers)])
            for register in gives:
                ready[register] = clock + latency(one.name)
            waits = one.name.startswith(("BAR", "BRA"))
            clock += latency(one.name) if waits else 1
        ends.append(clock)
    return ends[-1] - ends[-2]


def _results(one: Instruction, registers: list[str]) -> list[str]:
    own = registers[1:] if one.text.startswith("@") else registers
    if not own:
        return []
    gives = [own[0]]
    if one.name.startswith(("ISETP", "FSETP", "UISETP", "PLOP3", "VOTE")):
        return [register for register in own[:2] if "P" in register] or gives
    wide = 4 if ".128" in one.name or "HMMA" in one.name else 2 if ".64" in one.name else 1
    if "WIDE" in one.name:
        wide = 2
    if wide > 1 and own[0][1:].isdigit():
        gives = [f"{own[0][0]}{int(own[0][1:]) + i}" for i in range(wide)]
    return gives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a file of csrc/cuda")
    parser.add_argument("kernel", nargs="?", default="", help="the beginning of its name")
    parser.add_argument("--capability", default="9.0")
    parser.add_argument("--listing", action="store_true", help="print the ways, too")
    options = parser.parse_args()
    sass = disassemble(HERE / options.source, options.capability)
    for kernel, lines in sorted(kernels(sass).items()):
        if not kernel.startswith(options.kernel):
            continue
        code, labels = parse(lines)
        print(f"{kernel}, sm_{options.capability.replace('.', '')}: {len(code)} instructions")
        for first, last in loops(code, labels):
            way = [code[i] for i in way_around(code, labels, first, last)]
            if len(way) < 8:
                continue
            kinds = Counter(one.name.split(".")[0] for one in way).most_common(6)
            named = ", ".join(f"{count} {name}" for name, count in kinds)
            print(f"  loop of {len(way)}, {cycles(way)} cycles: {named}")
            if options.listing:
                print("".join(f"    {one.text}\n" for one in way))


if __name__ == "__main__":
    main()
