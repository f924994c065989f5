"""blocks: drop whole layers, those whose absence changes the answers least."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from ...errors import InvalidOption, UnsupportedModel
from ...machine.journal import Journal
from ...progress import Progress
from ...runtimes.hf.widths import drop
from .target import PruningTarget, divergence

LISTS = (torch.nn.ModuleList, torch.nn.Sequential)


def droppable(target: PruningTarget) -> tuple[str, ...]:
    """Blocks in a row of blocks that add something to what they are given, in the network's order; the innermost ones.

    The output of such a block has the shape of its input, and with all its weights at zero the same numbers; where a
    block ends in a layer norm, as BERT's, that is so of an input that is normalized.
    """
    network, calls = target.network, _calls(target)
    found = []
    with torch.inference_mode():
        for name, (arguments, options, output) in calls.items():
            given = arguments[0] if arguments else None
            same = isinstance(output, torch.Tensor) and isinstance(given, torch.Tensor) and given.shape == output.shape
            if same and _passes_on(network.get_submodule(name), arguments, options):
                found.append(name)
    return tuple(name for name in found if not any(other.startswith(f"{name}.") for other in found))


def _calls(target: PruningTarget) -> dict[str, Any]:
    """The arguments and the output of each member of a row of modules, for an example."""
    network = target.network
    rows = {name for name, module in network.named_modules() if isinstance(module, LISTS) and len(module) > 1}
    seen: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(_noting(seen, name), with_kwargs=True)
        for name, module in network.named_modules()
        if name.rpartition(".")[0] in rows and any(True for _ in module.parameters())
    ]
    try:
        with torch.inference_mode():
            target.answer(network, target.example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: seen[name] for name, _ in network.named_modules() if name in seen}


def _noting(seen: dict[str, Any], name: str) -> Any:
    def note(_: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        seen[name] = (arguments, options, output)

    return note


def _passes_on(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    kept = [(parameter, parameter.detach().clone()) for parameter in module.parameters()]
    norms = [each for each in module.modules() if isinstance(each, torch.nn.LayerNorm)]
    given, rest = arguments[0], arguments[1:]
    try:
        for parameter, _ in kept:
            parameter.detach().zero_()
        if torch.allclose(module(given, *rest, **options), given, atol=1e-5):
            return True
        if not norms or len(kept) <= sum(len(list(norm.parameters())) for norm in norms):
            return False
        for norm in norms:
            norm.weight.detach().fill_(1.0)
        normal = torch.nn.functional.layer_norm(given, given.shape[-1:])
        return bool(torch.allclose(module(normal, *rest, **options), normal, atol=1e-3))
    finally:
        for parameter, values in kept:
            parameter.detach().copy_(values)


@contextlib.contextmanager
def without(network: Any, names: Sequence[str]) -> Iterator[None]:
    """A context in which the named blocks are skipped."""
    kept = {name: network.get_submodule(name) for name in names}
    drop(network, names)
    try:
        yield
    finally:
        for name, module in kept.items():
            network.set_submodule(name, module)


def choose(
    target: PruningTarget,
    fraction: float,
    progress: Progress,
    enough: Callable[[Sequence[str]], bool] | None = None,
    journal: Journal | None = None,
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """The blocks to drop, one after the other, each time the one that costs the least; and what was measured.

    fraction: of all that can be dropped; at least one is dropped and one stays. enough: instead of it, whether those
    that are dropped so far suffice. journal: has what was measured before a kill. Raises UnsupportedModel,
    InvalidOption.
    """
    candidates = droppable(target)
    if len(candidates) < 2:
        raise UnsupportedModel(
            f"{type(target.network).__name__} has no row of blocks that could be dropped (the output of each must have"
            " the shape of its input): structure='weights' works with every network"
        )
    count = len(candidates) - 1 if enough else max(1, round(fraction * len(candidates)))
    if count >= len(candidates):
        raise InvalidOption(
            f"prune: sparsity={fraction:g} would drop all {len(candidates)} blocks; at most"
            f" {1 - 1 / len(candidates):.2f} leaves one"
        )
    dropped: list[str] = []
    steps: list[dict[str, Any]] = []
    reference, journal = target.logits(), journal or Journal()

    def loss(name: str) -> float:
        names = [*dropped, name]
        return journal.value(f"without {', '.join(names)}", lambda: _loss(target, reference, names))

    for _ in progress.track(range(count), "block to drop", count):
        nats = {name: loss(name) for name in candidates if name not in dropped}
        best = min(nats, key=nats.__getitem__)
        dropped.append(best)
        steps.append({"dropped": best, "divergence": nats[best], "others": nats})
        if enough and enough(dropped):
            break
    else:
        if enough:
            raise InvalidOption(
                f"prune: the latency cannot be reached by dropping blocks: {count} of {len(candidates)} are too few,"
                " and one must stay"
            )
    return tuple(name for name in candidates if name in dropped), steps


def _loss(target: PruningTarget, reference: torch.Tensor, names: Sequence[str]) -> float:
    with without(target.network, names):
        return divergence(reference, target.logits())


def shortened(network: Any, dropped: Sequence[str]) -> Any:
    """The same network without these blocks, with fewer in its config; None where the config cannot express it.

    Configs have a number of layers, or a list of depths, one for each stage.
    """
    config = type(network.config).from_dict(network.config.to_dict())
    if not _fewer(config, dropped):
        return None
    names = renamed(network.state_dict(), dropped)
    try:
        with torch.random.fork_rng(devices=[]):
            smaller = type(network)(config).float().eval()
        for name, _ in list(smaller.named_children()):
            if getattr(network, name, None) is None:  # a part that was taken off, such as an encoder's pooler
                setattr(smaller, name, None)
        smaller.load_state_dict({names[name]: one for name, one in network.state_dict().items() if name in names})
    except RuntimeError:
        return None
    if hasattr(network, "generation_config"):
        smaller.generation_config = network.generation_config
    return smaller


def _fewer(config: Any, dropped: Sequence[str]) -> bool:
    """Change the config's number of layers; whether there is one."""
    places = [int(name.rpartition(".")[2]) for name in dropped]
    total = getattr(config, "num_hidden_layers", None)
    if isinstance(total, int) and not isinstance(getattr(config, "depths", None), list):
        for name, value in list(vars(config).items()):
            if isinstance(value, list) and len(value) == total:  # a kind for each layer
                setattr(config, name, [each for index, each in enumerate(value) if index not in places])
        config.num_hidden_layers = total - len(dropped)
        return True
    depths = getattr(config, "depths", None)
    if not isinstance(depths, list):
        return False
    for name in dropped:
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if len(numbers) != 2 or numbers[0] >= len(depths):
            return False
        depths[numbers[0]] -= 1
    return all(depth > 0 for depth in depths)


def renamed(tensors: Iterable[str], dropped: Sequence[str]) -> dict[str, str]:
    """The name of each tensor that stays, with its block's number in the shorter row."""
    rows: dict[str, list[int]] = defaultdict(list)
    for block in dropped:
        stem, _, number = block.rpartition(".")
        rows[stem].append(int(number))
    names = {}
    for name in tensors:
        own = next((row for row in rows if name.startswith(f"{row}.")), "")
        number, _, rest = name[len(own) + 1 :].partition(".")
        if not own or not number.isdigit():
            names[name] = name
        elif int(number) not in rows[own]:
            below = sum(other < int(number) for other in rows[own])
            names[name] = f"{own}.{int(number) - below}.{rest}"
    return names
