"""The memories a slice is segmented with: which are kept, and which are recalled.

SAM 2 recalls the six slices that came last, good or bad (``fifo``). MedSAM-2's self-sorting bank
keeps the slices whose mask is trusted and that differ most from each other, wherever they lie, and
recalls them by their likeness to the slice at hand. The paper gives no K, no threshold, and no
word on what E is where it is compared with an image. Here K is 6, the slots that SAM 2 has, the
threshold 0.6, and E is compared by its slice's image feature, as the authors' code does for
single images. Their released code for volumes has no such bank: this follows the text.

Source:  Zhu et al., MedSAM-2, arXiv 2408.00874v2, section 3.2, equations 2 to 5; Ravi et al.,
         SAM 2, arXiv 2408.00714 (fifo).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor

BANKS = ("fifo", "selfsort", "selfsort-noresample", "prompt-only")
"""Stock SAM 2; the paper's; the paper's without resampling; the prompted slice alone."""
SLOTS, THRESHOLD = 6, 0.6


def total_dissimilarity(features: Tensor) -> Tensor:
    """Return D_i = sum over j != i of 1 - cos(E_i, E_j) for features (n, d), equation 3."""
    from torch.nn.functional import normalize

    unit = normalize(features, dim=1)
    return (1 - unit @ unit.T).fill_diagonal_(0).sum(dim=1)


def admitted(confidence: float, threshold: float) -> bool:
    """Tell whether a slice's predicted IoU lets it into the bank, equation 2."""
    return confidence >= threshold


def most_dissimilar(features: Tensor, k: int) -> list[int]:
    """Return which ``k`` of the features (n, d) to keep, equation 4; of equals the older stay."""
    order = (-total_dissimilarity(features)).argsort(stable=True)
    return sorted(order[:k].tolist())


def chances(query: Tensor, features: Tensor) -> Tensor:
    """Return p_i (n,), as the likeness of features (n, d) to a query (d,), equation 5.

    Likeness is the cosine; what is unlike (below 0) has no chance, and where all are, all have one.
    """
    from torch.nn.functional import cosine_similarity

    likeness = cosine_similarity(query[None], features, dim=1).clamp(min=0)
    if not likeness.any():
        likeness = likeness + 1
    return likeness / likeness.sum()


def resampled(chance: Tensor, draw: Generator) -> list[int]:
    """Return as many indices as there are chances (n,), drawn with replacement, equation 5."""
    import torch

    return torch.multinomial(chance, len(chance), replacement=True, generator=draw).tolist()


@dataclass
class Memory:
    """What is remembered of a slice: its place, the network's output, image feature and trust."""

    place: int
    output: dict[str, Any]
    feature: Tensor
    confidence: float


@dataclass
class Bank:
    """One object's memories beside its prompt. ``log`` tells what became of each slice."""

    kind: str = "selfsort"
    k: int = SLOTS
    threshold: float = THRESHOLD
    seed: int = 0
    held: list[Memory] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        self.draw = torch.Generator().manual_seed(self.seed)

    def offer(self, memory: Memory) -> None:
        """Take a slice in if it is trusted; of too many the most redundant one goes."""
        import torch

        entered, left = False, None
        if self.kind != "prompt-only" and admitted(memory.confidence, self.threshold):
            candidates = [*self.held, memory]
            stay = most_dissimilar(torch.stack([one.feature for one in candidates]), self.k)
            gone = set(range(len(candidates))) - set(stay)
            left = candidates[gone.pop()].place if gone else None
            self.held = [candidates[number] for number in stay]
            entered = left != memory.place
        self.log.append({"slice": memory.place, "confidence": memory.confidence,
                         "entered": entered, "left": left,
                         "held": [one.place for one in self.held]})  # fmt: skip

    def recalled(self, query: Tensor, place: int) -> list[Memory]:
        """Return the memories for a slice with feature ``query`` (d,), nearest first."""
        import torch

        found = list(self.held)
        if found and self.kind == "selfsort":
            features = torch.stack([one.feature for one in found])
            chosen = resampled(chances(query, features).cpu(), self.draw)
            found = [self.held[number] for number in chosen]
        return sorted(found, key=lambda one: abs(one.place - place))
