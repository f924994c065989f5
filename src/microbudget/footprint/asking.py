"""From what a user writes to a Run or a Request: names of models, sizes, devices, options as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InvalidOption, ModelNotFound, UnsupportedModel
from . import diffusion, networks
from . import inference as inferring
from . import training as trained
from .inference import Request, precision_of
from .networks import Network
from .quantities import count, described, numbered, quantity, rate, size
from .sums import SCOPES, Estimate, Place

HOURS = {"h": 1.0, "d": 24.0, "days": 24.0, "hours": 1.0}
SOFTWARE = ("serving", "eager", "compiled", "image")
PARTS = ("transformer", "unet")  # of a pipeline's folder


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """Configs of models that people ask for, by hub id (`facts/models.json`): their sizes without a download."""
    found: dict[str, dict[str, Any]] = json.loads((files(__package__) / "facts" / "models.json").read_text("utf-8"))
    return found


def known_config(name: str) -> tuple[str, dict[str, Any]] | None:
    """The config of a hub id, or of its last part, in any case."""
    wanted = name.lower()
    for each, config in known_configs().items():
        if wanted in (each.lower(), each.lower().rpartition("/")[2]):
            return each, config
    return None


def config_of(name: str) -> tuple[str, Mapping[str, Any]] | None:
    """The config of a folder, a config.json or a known hub id; None where the name is none of them.

    Raises ModelNotFound for a folder without a config, UnsupportedModel for one that is no JSON object.
    """
    path = Path(name)
    if path.is_dir():
        found = [path / "config.json", *(path / part / "config.json" for part in PARTS)]
        path = next((each for each in found if each.is_file()), path)
        if path.is_dir():
            return None
    if path.is_file() and path.suffix.lower() == ".json":
        try:
            read = json.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise UnsupportedModel(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(read, dict):
            raise UnsupportedModel(f"{path} is no config of a model: it holds a {type(read).__name__}")
        return str(name), read
    return known_config(name)


def network_of(name: str) -> Network | None:
    """The network of a size ("70B"), a config or a known hub id; None where it has to be opened or fetched."""
    if not Path(name).exists() and (sizes := size(name)):
        return _sized(*sizes)
    found = config_of(name)
    return network_of_config(found[1], found[0]) if found else None


def network_of_config(config: Mapping[str, Any], name: str) -> Network:
    """A language model, an encoder or an image generator. Raises UnsupportedModel for a config without layers."""
    if diffusion.is_generator(config):
        work = diffusion.of_config(config, name)
        origin = f"config of {name}"
        return Network(name, work.parameters, work.parameters, work.layers, image=work, origin=origin)
    return networks.of_config(config, name)


def _sized(total: float, active: float) -> Network:
    if active > total:
        raise InvalidOption(f"{active:.3g} active parameters are more than all {total:.3g}")
    return networks.of_size(total, active)


def parameters_of(text: str) -> tuple[float, float]:
    """All and active parameters of --params. Raises InvalidOption, InvalidUnit."""
    sizes = size(text)
    if sizes is None:
        total = count(text, "--params")
        sizes = (total, total)
    if sizes[1] > sizes[0]:
        raise InvalidOption(f"--params {text}: more are active than there are")
    if not 1e3 <= sizes[0] <= 1e16:
        raise InvalidOption(f"--params {text}: a network has a thousand parameters or more, and no more than 10P")
    return sizes


def not_found(name: str) -> ModelNotFound:
    """For a name that is neither here nor known."""
    near = get_close_matches(name, known_configs(), n=3, cutoff=0.4)
    hint = f"; known without a download: {', '.join(near)}" if near else ""
    return ModelNotFound(f"there is no model, config or size {name!r} here{hint}; or give --params 7B")


def place_of(given: Mapping[str, Any]) -> Place:
    """Scope, PUE, grid, price and rent of the options. Raises InvalidOption."""
    scope = given.get("scope")
    if scope is not None and scope not in SCOPES:
        raise InvalidOption(f"there is no scope {scope!r}; there are {', '.join(SCOPES)}")
    pue, price, rent = (_decimal(given, name) for name in ("pue", "price", "rent"))
    if pue is not None and not 1 <= pue <= 5:
        raise InvalidOption(f"a PUE is from 1 to 5, not {given['pue']}")
    for name, value in (("price", price), ("rent", rent)):
        if value is not None and not 0 <= value < 1e6:
            raise InvalidOption(f"--{name} is a number of dollars from 0, not {given[name]}")
    return Place(scope, pue, None if given.get("grid") is None else str(given["grid"]), price, rent)


def _decimal(given: Mapping[str, Any], name: str) -> float | None:
    """An option that is a number without a unit. Raises InvalidOption."""
    if given.get(name) is None:
        return None
    try:
        return float(given[name])
    except ValueError:
        raise InvalidOption(f"--{name} is a number, not {given[name]!r}") from None


def _device(given: Mapping[str, Any]) -> tuple[int | None, Any]:
    if not given.get("on"):
        raise InvalidOption("no device is named: add --on 8xH100-SXM, or any name with --tdp, --bandwidth and --peak")
    number, name = numbered(str(given["on"]))
    return number, described(name, given.get("tdp"), given.get("bandwidth"), given.get("peak"))


def _positive(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    return None if value is None else count(value, f"--{name.replace('_', '-')}")


def training(given: Mapping[str, Any], network: Network | None = None) -> Estimate:
    """The estimate of a training's options. Raises what reading them raises."""
    number, device = _device(given)
    total = active = None
    if given.get("params") is not None:
        total, active = parameters_of(str(given["params"]))
    elif network is not None:
        total, active = network.parameters or None, network.active or None
    hours = given.get("device_hours")
    method = given.get("method") or "full"
    if method not in trained.OPERATIONS:
        raise InvalidOption(f"there is no method {method!r}; there are {', '.join(trained.OPERATIONS)}")
    run = trained.Run(
        device,
        number,
        total,
        active,
        _positive(given, "tokens"),
        _positive(given, "flops"),
        None if hours is None else quantity(str(hours), HOURS, "--device-hours"),
        precision_of(str(given.get("precision") or "bf16")),
        method,
    )
    if run.operations is None and network is not None and network.image and run.tokens is None and hours is None:
        raise InvalidOption("the training of an image generator needs --device-hours or --flops")
    return trained.estimate(run, place_of(given))


def inference(given: Mapping[str, Any], network: Network | None = None) -> Estimate:
    """The estimate of an answer's options; network: what MODEL is. Raises what reading them raises."""
    number, device = _device(given)
    network = _network(given, network)
    software = given.get("software")
    if software is not None and software not in SOFTWARE:
        raise InvalidOption(f"there is no software {software!r}; there are {', '.join(SOFTWARE)}")
    tokens, prompt = _positive(given, "tokens"), given.get("prompt")
    batch = _positive(given, "batch") or 1.0
    if batch < 1 or batch != int(batch):
        raise InvalidOption(f"--batch is a whole number from 1, not {given['batch']}")
    picture = None
    if network.image:
        picture = diffusion.picture_of(
            network.image.config, _whole(given, "steps"), given.get("resolution"), _whole(given, "frames")
        )
    idle = _decimal(given, "idle_devices") or 0
    if not 0 <= idle <= 1000:
        raise InvalidOption(f"--idle-devices is from 0 to 1000, not {idle:g}")
    request = Request(
        network,
        device,
        number,
        300.0 if tokens is None else tokens,
        200.0 if prompt is None else 0.0 if str(prompt) == "0" else count(prompt, "--prompt"),
        batch,
        precision_of(str(given.get("precision") or "bf16")),
        software,
        picture,
        int(idle),
        None if given.get("rate") is None else rate(str(given["rate"]), "--rate"),
    )
    return inferring.estimate(request, place_of(given))


def _whole(given: Mapping[str, Any], name: str) -> int | None:
    value = _positive(given, name)
    if value is not None and value != int(value):
        raise InvalidOption(f"--{name} is a whole number, not {given[name]}")
    return None if value is None else int(value)


def _network(given: Mapping[str, Any], network: Network | None) -> Network:
    operations = _positive(given, "flops")
    if given.get("macs") is not None:
        operations = 2 * count(given["macs"], "--macs")
    sizes = parameters_of(str(given["params"])) if given.get("params") is not None else None
    if operations is not None:
        held = network.parameters if network else 0.0
        return networks.of_operations(operations, sizes[0] if sizes else held)
    if sizes:
        network = _sized(*sizes)
    if network is None:
        raise InvalidOption("an answer of what? Give a MODEL, or --params 7B, or --flops of one answer")
    if given.get("encoder"):
        network = replace(network, encoder=True, cache_values=0.0)
    if network.image is None and given.get("steps") is not None:
        work = diffusion.of_size(network.parameters)
        network = replace(network, image=work, layers=work.layers)
    return network
