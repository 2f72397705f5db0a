"""Training of one network: one cycle of the learning rate, changed pictures, checkpoints.

Every step draws its numbers from a seed of its own, so training that was stopped at any step and
goes on from a checkpoint ends in the same weights.

Data:    the training and the validation split.
Source:  one cycle: Smith and Topin, arXiv 1708.07120. Nesterov's momentum: Sutskever et al., ICML
         2013. Adam with decoupled decay: Loshchilov and Hutter, ICLR 2019. Smooth labels: Szegedy
         et al., CVPR 2016. Rates by layer: Howard and Ruder, ACL 2018. Mixed precision:
         Micikevicius et al., ICLR 2018. Averaged weights: Polyak and Juditsky, 1992.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from slipway import Run, networks
from slipway.errors import Stopped
from slipway.logs import say

from . import imbalance
from .augment import Augment
from .team import Team

if TYPE_CHECKING:
    import numpy as np

    from .data import Split
    from .model import Classifier

WARM = 0.2
"""Share of all steps in which the learning rate rises."""
MOMENTUM = 0.9
SCORED = 500
"""Pictures at a time when no gradient is needed."""
KEPT_SECONDS = 15.0
"""Between two checkpoints within an epoch: SIGTERM asks for one at the next step anyway."""
HEADS = ("fc.", "classifier.")
LAST = 1 / 3
"""Share of the layers, from the end, that partial fine-tuning moves."""
LEVELS = 4
"""Groups of layers that have a learning rate each, where rates differ."""

Keep = Callable[[dict[str, Any], dict[str, Tensor]], None]


@dataclass(frozen=True)
class Settings:
    """How to train; as JSON can hold it. ``rate`` is the highest learning rate of the cycle.

    ``decay`` is the weight of the L2 penalty; ``tuned`` names the layers that move (all, last,
    head); ``spread`` is the first layers' rate, in rates of the head; ``patience`` is how many
    epochs may pass without a better validation loss, 0 for any number; ``average`` is the decay of
    averaged weights, 0 for none.
    """

    epochs: int = 30
    batch: int = 128
    optimizer: str = "sgd"
    rate: float = 0.05
    decay: float = 5e-4
    smoothing: float = 0.1
    loss: str = "cross-entropy"
    balance: str = "none"
    augment: tuple[str, ...] = ("flip", "crop")
    tuned: str = "all"
    spread: float = 1.0
    patience: int = 0
    average: float = 0.0
    mixed: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the settings as a table."""
        return asdict(self) | {"augment": ", ".join(self.augment) or "none"}


def fit(
    network: Classifier,
    fit: Split,
    validation: Split,
    settings: Settings,
    run: Run,
    state: dict[str, Any] | None = None,
    keep: Keep | None = None,
    seed: int | None = None,
) -> list[dict[str, float]]:
    """Train a network in place and return its curve, an entry an epoch.

    ``state`` is what ``keep`` was last given of this training, with its tensors as ``tensors``;
    ``seed`` is the run's own unless another is given.
    """
    course = Course(network, fit, validation, settings, run, keep or run.checkpoint)
    course.seed = run.seed if seed is None else seed
    course.put_back(state or {})
    while not course.finished:
        course.epoch()
    course.settle()
    return course.curve


class Course:
    """One training under way."""

    def __init__(
        self, network: Classifier, fit: Split, validation: Split, settings: Settings, run: Run,
        keep: Keep,
    ) -> None:  # fmt: skip
        networks.settle(run)
        self.run, self.settings, self.keep, self.validation = run, settings, keep, validation
        self.team, self.seed = Team(), run.seed
        torch.set_num_threads(max(1, torch.get_num_threads() // self.team.size))
        self.device = self.team.meet(run.device)
        self.network = network.to(self.device)
        freeze(network, settings.tuned)
        self.optimizer = optimizer_of(network, settings)
        self.joined = self.team.joined(network, self.device)
        self.images = torch.from_numpy(fit.images).permute(0, 3, 1, 2).to(self.device)
        self.labels = torch.from_numpy(fit.labels)
        self.weights = None
        if settings.balance == "weights":
            weights = imbalance.class_weights(self.labels, len(network.labels))
            self.weights = weights.to(self.device)
        # Half precision loses small gradients unless the loss is scaled; bfloat16 does not.
        scaled = settings.mixed and self.device.startswith("cuda")
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)
        self.averaged = copied(network) if settings.average else {}
        self.best: dict[str, Tensor] = {}
        self.curve: list[dict[str, float]] = []
        self.step, self.losses, self.right, self.seen = 0, 0.0, 0, 0
        self.kept = time.monotonic()

    def put_back(self, state: dict[str, Any]) -> None:
        """Go on where a kept state ends."""
        if not state:
            return
        groups: dict[str, dict[str, Tensor]] = {"averaged": {}, "best": {}, "": {}}
        for key, tensor in state["tensors"].items():
            part, _, name = key.partition(".")
            if part in ("averaged", "best"):
                groups[part][name] = tensor.to(self.device)
            else:
                groups[""][key] = tensor
        networks.put_back(groups[""], self.network, self.optimizer)
        self.averaged, self.best = groups["averaged"], groups["best"]
        self.curve = list(state["curve"])
        self.step, self.losses = state["step"], state["losses"]
        self.right, self.seen = state["right"], state["seen"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones brought nothing."""
        patience = self.settings.patience
        if patience and len(self.curve) > patience:
            losses = [entry["validation loss"] for entry in self.curve]
            if losses.index(min(losses)) < len(losses) - patience:
                return True
        return len(self.curve) >= self.settings.epochs

    def epoch(self) -> None:
        """Go through the training pictures once, from the step where it stopped before."""
        number = len(self.curve)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = imbalance.order(self.labels, self.settings.balance, draw)
        batches = order.tensor_split(max(1, len(order) // self.settings.batch))
        label = f"epoch {number + 1} of {self.settings.epochs}"
        started = time.perf_counter()
        for chosen in self.run.progress(batches[self.step :], label, len(batches) - self.step):
            share = (number + (self.step + 0.5) / len(batches)) / self.settings.epochs
            self.one_step(self.team.share(chosen), one_cycle(share), number)
            self.step += 1
            self.check_in()
        entry = {"training loss": self.losses / self.seen, "training accuracy":
                 self.right / self.seen} | self.measured()  # fmt: skip
        self.curve.append(self.team.agreed(entry, self.device))
        self.step, self.losses, self.right, self.seen = 0, 0.0, 0, 0
        told = self.curve[-1]["validation accuracy"]
        say(f"{label}: validation accuracy {told:.4f}, {time.perf_counter() - started:.0f} s")
        self.remember()
        self.checkpoint()

    def one_step(self, chosen: Tensor, factor: float, epoch: int) -> None:
        """Take one step down the gradient of a batch, at a share of the highest rate."""
        number = (self.seed * 10_007 + epoch) * 100_003 + self.step
        torch.manual_seed(number)  # of dropout
        draw = torch.Generator(self.device).manual_seed(number * 64 + self.team.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate * group["share"] * factor
        labels = self.labels[chosen].to(self.device)
        change = Augment(self.settings.augment, draw)
        pixels, wanted = change.with_labels(
            self.images[chosen.to(self.device)], labels, len(self.network.labels)
        )
        awake(self.network)
        with self.precision():
            logits = self.joined(pixels.contiguous(memory_format=torch.channels_last))
            loss = self.loss(logits.float(), wanted)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.losses += loss.item() * len(chosen)
        self.right += int((logits.argmax(dim=1) == labels).sum())
        self.seen += len(chosen)
        for name, tensor in self.averaged.items():
            now = self.network.state_dict()[name]
            mix(tensor, now, self.settings.average)

    def loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of logits (n, k) for soft labels (n, k)."""
        if self.settings.loss == "focal":
            return imbalance.focal(logits, wanted, self.weights)
        return cross_entropy(
            logits, wanted, weight=self.weights, label_smoothing=self.settings.smoothing
        )

    def precision(self) -> torch.autocast:
        """Return the context of the forward pass: half precision on a GPU, bfloat16 on a CPU."""
        kind = "cuda" if self.device.startswith("cuda") else "cpu"
        short = torch.float16 if kind == "cuda" else torch.bfloat16
        return torch.autocast(kind, dtype=short, enabled=self.settings.mixed)

    def measured(self) -> dict[str, float]:
        """Return loss and accuracy on the validation pictures, by the weights that would serve."""
        with self.served():
            found = torch.from_numpy(logits(self.network.eval(), self.validation.images))
        labels = torch.from_numpy(self.validation.labels)
        right = (found.argmax(dim=1) == labels).float().mean()
        return {
            "validation loss": cross_entropy(found, labels).item(),
            "validation accuracy": right.item(),
        }

    @contextmanager
    def served(self) -> Iterator[None]:
        """Let the network have its averaged weights, where there are some."""
        if not self.averaged:
            yield
            return
        own = copied(self.network)
        self.network.load_state_dict(self.averaged)
        yield
        self.network.load_state_dict(own)

    def remember(self) -> None:
        """Keep the weights of the best epoch, where training may end before its time."""
        losses = [entry["validation loss"] for entry in self.curve]
        if self.settings.patience and losses[-1] == min(losses):
            self.best = copy.deepcopy(self.averaged) or copied(self.network)

    def settle(self) -> None:
        """Leave the network with the weights that serve."""
        if self.best or self.averaged:
            self.network.load_state_dict(self.best or self.averaged)
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)
        self.network.cpu().eval()

    def check_in(self) -> None:
        """Keep a checkpoint now and then, and leave where the run was told to stop."""
        due = time.monotonic() - self.kept > KEPT_SECONDS
        stopping = self.team.any(self.run.stopping, self.device)
        if due or stopping:
            self.checkpoint()
        if stopping:  # of the team any process may have been told so
            raise Stopped("training stopped by SIGTERM; kept in a checkpoint")

    def checkpoint(self) -> None:
        """Keep all that the next step depends on; the first process of a team does."""
        self.kept = time.monotonic()
        if not self.team.first:
            return
        state = {"curve": self.curve, "step": self.step, "losses": self.losses,
                 "right": self.right, "seen": self.seen,
                 "scaler": self.scaler.state_dict()}  # fmt: skip
        tensors = networks.state_of(self.network, self.optimizer)
        tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        self.keep(state, tensors)


def one_cycle(done: float) -> float:
    """Return the learning rate, in peaks, when a share of all steps is done: up, then to zero."""
    return done / WARM if done < WARM else (1 - done) / (1 - WARM)


def copied(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def mix(tensor: Tensor, now: Tensor, decay: float) -> None:
    """Move an averaged tensor a step towards what it is now; whole numbers are taken over."""
    if tensor.is_floating_point():
        tensor.mul_(decay).add_(now, alpha=1 - decay)
    else:
        tensor.copy_(now)


def freeze(network: nn.Module, tuned: str) -> None:
    """Let only some layers learn: all, the head and the last third before it, or the head."""
    names = [name for name, _ in network.named_parameters()]
    body = [name for name in names if not name.startswith(HEADS)]
    still = {"all": 0, "last": round(len(body) * (1 - LAST)), "head": len(body)}[tuned]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in body[:still])


def awake(network: nn.Module) -> None:
    """Set training mode, but for normalisations that are frozen: they keep their statistics."""
    network.train()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def optimizer_of(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer; layers nearer to the pixels may learn at lower rates.

    Weights decay, biases and normalisations do not.
    """
    learning = [entry for entry in network.named_parameters() if entry[1].requires_grad]
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for place, (name, parameter) in enumerate(learning):
        level = LEVELS if name.startswith(HEADS) else LEVELS * place // len(learning)
        share = settings.spread ** (1 - level / LEVELS)
        decay = settings.decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    made = [{"params": parameters, "share": share, "weight_decay": decay}
            for (share, decay), parameters in groups.items()]  # fmt: skip
    if settings.optimizer == "adam":
        return torch.optim.AdamW(made, lr=settings.rate)
    return torch.optim.SGD(made, lr=settings.rate, momentum=MOMENTUM, nesterov=True)


def logits(network: nn.Module, images: np.ndarray, batch: int = SCORED) -> np.ndarray:
    """Return logits (n, k) float32 of pictures (n, side, side, 3) uint8.

    Computed where the network is, in the state it is in.
    """
    device = next(network.parameters()).device
    found = []
    with torch.inference_mode():
        for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(batch):
            found.append(network(part.to(device).float() / 255).float().cpu())
    return torch.cat(found).numpy() if found else torch.zeros(0, len(network.labels)).numpy()
