"""The mapping of one voice to another, learned from pairs of frames.

A network predicts the target's envelope with its slopes from some frames of the source and the
phone that is said; the smoothest path is taken and given the target's liveliness. Retrieval then
pulls it toward the nearest frames that the target really said. A phone that is known helps; it was
hidden now and then in training, so that a recording without phones is mapped by the same network.

Data:    paired frames of `learning`.
Source:  Desai et al., Spectral mapping using artificial neural networks for voice conversion, IEEE
         TASLP 2010; Toda et al., IEEE TASLP 2007 (global variance); Douze et al., The Faiss
         library, arXiv 2401.08281.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from . import conversion
from .conversion import CODED, PitchStats

SLOPES = len(conversion.DELTAS)
NEAREST = 4
LIVELIEST = 1.5
"""The most that a path is stretched to reach the target's variance."""


class Converter(torch.nn.Module):
    """All that is learned of a pair of voices: tensors, and settings that JSON can hold."""

    def __init__(self, hidden: int, bank: int, source: str, target: str, method: str,
                 detail: dict[str, float], pitch: list[float],
                 trained: dict[str, Any]) -> None:  # fmt: skip
        super().__init__()
        self.settings = {"hidden": hidden, "bank": bank, "source": source, "target": target,
                         "method": method, "detail": detail, "pitch": pitch,
                         "trained": trained}  # fmt: skip
        inputs = conversion.INPUTS
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(inputs, hidden), torch.nn.ReLU(),
            torch.nn.Linear(hidden, hidden), torch.nn.ReLU(),
            torch.nn.Linear(hidden, SLOPES * CODED),
        )  # fmt: skip
        shapes = {"source_mean": (CODED,), "source_scale": (CODED,), "target_mean": (CODED,),
                  "target_scale": (CODED,), "liveliness": (CODED,), "variances": (SLOPES, CODED),
                  "ridge": (inputs + 1, CODED), "bank_frames": (bank, CODED), "pause": (CODED,),
                  "identity": (256,)}  # fmt: skip
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def array(self, name: str) -> np.ndarray:
        """Return one of the tensors as float64."""
        return np.asarray(getattr(self, name).detach().double())

    @property
    def pitches(self) -> tuple[PitchStats, PitchStats]:
        """The pitch of the source and of the target."""
        first = self.settings["pitch"]
        return PitchStats(*first[:2]), PitchStats(*first[2:])

    def mapped(self, code: np.ndarray, phones: np.ndarray | None, method: str = "",
               detail: float | None = None) -> np.ndarray:  # fmt: skip
        """Return the target's coded envelope (n, 40) for the source's.

        A share of it, ``detail``, is the source's own envelope with the target's mean and
        deviation: a mean over many frames blurs what tells words apart, and that brings it back.
        """
        method = method or self.settings["method"]
        detail = self.settings["detail"][method] if detail is None else detail
        detail = detail * conversion.audible(code)[:, None]
        path = (1 - detail) * self.path(code, phones, method) + detail * self.own(code)
        return path * self.array("target_scale") + self.array("target_mean")

    def own(self, code: np.ndarray) -> np.ndarray:
        """Return the source's envelope at mean 0 and deviation 1."""
        normal: np.ndarray = (code - self.array("source_mean")) / self.array("source_scale")
        return normal

    def path(self, code: np.ndarray, phones: np.ndarray | None, method: str) -> np.ndarray:
        """Return the target's envelope (n, 40) at mean 0 and deviation 1, as one way maps it.

        Pauses are the target's mean pause: no pair was learned there, and a guess may be loud.
        """
        heard, own = conversion.audible(code), self.own(code)
        given = conversion.inputs_of(own, phones)
        path = self._line(given) if method == "ridge" else self._network(given)
        path = self.livened(path, heard)
        if method in ("knn", "mix"):
            near = self._retrieved(path)
            path = near if method == "knn" else (path + near) / 2
        return np.where(heard[:, None], path, self.array("pause"))

    def _line(self, given: np.ndarray) -> np.ndarray:
        ridge = self.array("ridge")
        found: np.ndarray = given @ ridge[:-1] + ridge[-1]
        return found

    def _network(self, given: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = self.mlp(torch.from_numpy(given.astype("float32")))
        wanted = np.asarray(found.double()).reshape(-1, SLOPES, CODED)
        return conversion.trajectory(wanted, self.array("variances"))

    def livened(self, path: np.ndarray, heard: np.ndarray) -> np.ndarray:
        """Return a normalised path with the target's variance, as far as 1.5 times its own."""
        middle, spread = path[heard].mean(0), path[heard].std(0)
        stretch = np.clip(self.array("liveliness") / np.maximum(spread, 1e-3), 1, LIVELIEST)
        return np.asarray((path - middle) * stretch + middle)

    def _retrieved(self, path: np.ndarray) -> np.ndarray:
        """Return the mean of the four frames of the target that are nearest to each of a path."""
        frames = self.array("bank_frames")
        _, places = self._index.search(path.astype("float32"), NEAREST)
        found: np.ndarray = frames[places].mean(1)
        return found

    @cached_property
    def _index(self) -> Any:
        return indexed(self.bank_frames.numpy())


def indexed(frames: np.ndarray) -> Any:
    """Return an index that finds the nearest of frames (n, d); of unit vectors, by their angle."""
    import logging

    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(frames.shape[1])
    index.add(frames)
    return index
