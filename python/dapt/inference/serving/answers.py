"""Encode labels in the requested format: JSON, npz, ply or las."""

import io
import json
from collections.abc import Sequence

import numpy as np

from dapt.inference import labeling
from dapt.inference.labeling import Scan
from dapt.inference.serving.limits import Refused
from dapt.inference.serving.work import Labeled

TYPES = {
    "json": "application/json",
    "npz": "application/octet-stream",
    "ply": "application/octet-stream",
    "las": "application/octet-stream",
}


def check_answer(kind: str, labels_points: bool) -> None:
    """Refuse to return a file of points for an adapter that labels whole clouds.

    Args:
        kind: One of `TYPES`.
        labels_points: Whether the adapter labels points.
    """
    if kind != "json" and not labels_points:
        raise Refused(422, f"this adapter labels whole clouds: ask for json, not {kind}")


def written(name: str, labeled: Sequence[Labeled], kind: str) -> bytes:
    """Encode the body of an answer.

    Args:
        name: The name of the adapter.
        labeled: The labeled clouds.
        kind: One of `TYPES`; all except JSON hold a single cloud.
    """
    if kind == "json":
        return json.dumps({"adapter": name, "answers": [_told(each) for each in labeled]}).encode()
    if len(labeled) != 1:
        raise Refused(422, f"a {kind} file holds one cloud: send one, or ask for json")
    scan = labeled[0].scan
    return {"npz": _npz, "ply": labeling.ply, "las": _las}[kind](scan)


def _told(each: Labeled) -> dict[str, object]:
    answer = each.answer
    told = {
        "label": answer.label,
        "probability": answer.probability,
        "probabilities": answer.probabilities,
    }
    if each.scan is not None:
        told["point_labels"] = answer.point_labels.tolist()
        told["point_probabilities"] = [round(p, 6) for p in answer.point_probabilities.tolist()]
    if each.remark is not None:
        told["remark"] = each.remark
    return told


def _npz(scan: Scan) -> bytes:
    buffer = io.BytesIO()
    labels, chances = scan.result
    names = np.array(scan.label_names)
    np.savez_compressed(
        buffer, points=scan.points, labels=labels, probabilities=chances, label_names=names
    )
    return buffer.getvalue()


def _las(scan: Scan) -> bytes:
    """LAS 1.4 with dimensions `label` and `confidence`; labels that fit a byte also become the
    classification."""
    import laspy

    low, size = scan.points.min(0), np.ptp(scan.points, axis=0)
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.offsets = low
    header.scales = np.maximum(size / 2**31 * 1.01, 1e-9)  # the full resolution of 32 bits
    header.add_extra_dims(
        [laspy.ExtraBytesParams("label", "int32"), laspy.ExtraBytesParams("confidence", "float32")]
    )
    file = laspy.LasData(header)
    file.xyz = scan.points
    labels, chances = scan.result
    file["label"], file["confidence"] = labels, chances
    if len(scan.label_names) <= 256:
        file.classification = labels.astype(np.uint8)
    buffer = io.BytesIO()
    file.write(buffer)
    return buffer.getvalue()
