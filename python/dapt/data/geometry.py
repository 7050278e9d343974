"""Read meshes and clouds in .ply, .off and .obj files, checked here, with trimesh."""

import io
import re
from pathlib import Path

import numpy as np


def read_geometry(path: Path):
    """Read a cloud's points, or a trimesh mesh, without opening other files that it names.

    Args:
        path: The .ply, .off or .obj file.
    """
    import trimesh

    kind = path.suffix[1:].lower()
    content = path.read_bytes()
    if kind == "obj":
        content = _bare_obj(content)
    promised = {"ply": _check_ply, "off": _check_off, "obj": lambda _: None}[kind](content)
    geometry = trimesh.load(io.BytesIO(content), file_type=kind, process=False, skip_materials=True)
    if isinstance(geometry, trimesh.Scene):
        geometry = geometry.to_mesh()
    vertices, faces = np.asarray(geometry.vertices), getattr(geometry, "faces", ())
    if promised not in (None, len(vertices)):
        raise ValueError(f"its header promises {promised} points, but it has {len(vertices)}")
    if len(faces) == 0:
        return vertices
    if np.min(faces) < 0 or np.max(faces) >= len(vertices):
        raise ValueError(f"a face has a corner beyond its {len(vertices)} points")
    return geometry


def _bare_obj(content: bytes) -> bytes:
    """Keep only points and the corners of faces, without groups, materials and textures."""
    lines = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines()
    kept = [line.strip() for line in lines if line.split(None, 1)[:1] in ([b"v"], [b"f"])]
    return b"\n".join(re.sub(rb"/\S*", b"", line) if line[:1] == b"f" else line for line in kept)


def _check_ply(content: bytes) -> int:
    """Check that all elements in the header are present, and return the number of vertices.

    For a binary file, trimesh checks the size.
    """
    head, found, body = content.partition(b"end_header")
    counts, properties = {}, {}
    name = ""
    for words in (line.split() for line in head.decode("latin1").splitlines()):
        if words[:1] == ["element"] and len(words) == 3:
            name, counts[words[1]] = words[1], int(words[2])
            properties[name] = []
        elif words[:1] == ["property"] and name:
            properties[name].append(words[1] == "list")
    if not found or min(counts.values(), default=-1) < 0 or "vertex" not in counts:
        raise ValueError("its ply header is incomplete")
    if re.search(rb"^format +ascii", head, re.MULTILINE):
        _check_rows(body.splitlines()[1:], counts, properties)
    elif sum(counts.values()) > len(body):
        raise ValueError(f"its header promises {sum(counts.values())} elements, which do not fit")
    return counts["vertex"]


def _check_rows(lines: list[bytes], counts: dict[str, int], properties: dict) -> None:
    """Check that an ascii ply has a line of the right length for each element."""
    rows = [len(line.split()) for line in lines]
    if len(rows) < sum(counts.values()) or any(rows[sum(counts.values()) :]):
        raise ValueError(
            f"its header promises {sum(counts.values())} lines, but it has {np.count_nonzero(rows)}"
        )
    start = 0
    for name, count in counts.items():
        wanted, some = len(properties[name]), any(properties[name])
        for number, length in enumerate(rows[start : start + count]):
            if length < wanted or length > wanted and not some:
                raise ValueError(f"its {name} {number} has {length} numbers, not {wanted}")
        start += count


def _check_off(content: bytes) -> int:
    """Check that an off file has a line for each point and face; return the number of points."""
    text = re.sub(rb"#.*", b"", content)
    lines = [line for line in text.partition(b"OFF")[2].splitlines() if line.strip()]
    counts = [int(word) for word in lines[0].split()[:2]] if lines else []
    if len(counts) < 2 or min(counts) < 0:
        raise ValueError("it has no line of counts")
    points, faces = counts
    if len(lines) - 1 != points + faces:
        raise ValueError(
            f"its header promises {points} points and {faces} faces, but it has {len(lines) - 1} "
            "lines for them"
        )
    for number, line in enumerate(lines[1 + points :]):
        words = line.split()
        if not words[0].isdigit() or len(words) <= int(words[0]) or int(words[0]) < 1:
            raise ValueError(f"its face {number} lacks corners")
    return points
