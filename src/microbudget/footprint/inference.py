"""What an answer takes: the time of each phase, by the roofline, times the power in that phase.

A step of decoding reads the weights once and every sequence's cache, computes two operations a parameter and sequence,
and waits between kernels (Pope et al. 2022, section 2, has the same terms). A phase takes as long as its bytes or its
operations need at a share of the device's peak; while it lasts, a device draws a share of its limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InvalidOption
from .diffusion import Picture
from .facts import Device, factor
from .networks import Network
from .ranges import Range, exactly
from .sums import ANYWHERE, J_PER_KWH, Estimate, Line, Place, settled

BYTES = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "q8": 1.06, "q6": 0.82, "q5": 0.71,
    "q4": 0.60, "int4": 0.56, "fp4": 0.56, "q3": 0.48, "q2": 0.36,
}  # a parameter, with scales  # fmt: skip
NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float8": "fp8", "8bit": "int8"}
NAMES |= {"4bit": "int4", "nf4": "int4", "awq": "int4", "gptq": "int4", "mxfp4": "fp4", "nvfp4": "fp4"}
ROUNDS, MOST_BATCH = 60, 1_000_000
SPARE = 1.1  # memory for other than weights


@dataclass(frozen=True)
class Request:
    """An answer and the machine that gives it."""

    network: Network
    device: Device
    devices: int | None = None  # None: as many as hold the weights
    tokens: float = 300
    prompt: float = 200
    batch: float = 1
    precision: str = "bf16"
    software: str | None = None  # serving, eager, compiled, image; None: what is usual
    picture: Picture | None = None
    idle_devices: int = 0
    rate: float | None = None  # answers a second that come in


@dataclass(frozen=True)
class Phase:
    """A part of the time of an answer, of all devices together."""

    name: str
    seconds: Range
    share: Range  # of the power limit
    how: str


def precision_of(text: str) -> str:
    """A precision by its usual names. Raises InvalidOption."""
    plain = text.lower().split("_")[0].replace("-", "")
    name = NAMES.get(plain, plain)
    if name not in BYTES:
        raise InvalidOption(f"there is no precision {text!r}; there are {', '.join(BYTES)}")
    return name


def estimate(request: Request, place: Place = ANYWHERE) -> Estimate:
    """Energy, carbon and cost of an answer. Raises InvalidOption for a device that cannot do it."""
    request = _placed(request)
    if request.rate is not None:
        request = replace(request, batch=_batch_at(request))
    parts = phases(request)
    lines = _facts(request)
    joules = exactly(0.0, "")
    seconds = exactly(0.0, "")
    number = request.devices or 1
    for part in parts:
        watts = part.share * request.device.limit_w
        lines.append(Line(part.name, part.seconds, "s", part.how))
        lines.append(Line(f"power, {part.name}", watts, "W a device", f"share of {request.device.limit_w:g} W"))
        joules = joules + part.seconds * watts * (number / request.batch)
        seconds = seconds + part.seconds
    spread = factor("software", _software(request))
    joules, seconds = joules * spread, seconds * spread
    lines += [
        Line("software", spread, "x", "versions of what runs it"),
        Line("time of an answer", seconds.of("sum of the phases"), "s"),
    ]
    extra = _extra(request, seconds)
    if request.rate is not None:
        joules, lines = _waiting(request, joules, seconds, lines)
    lines.append(Line("accelerators", joules.of("phases x power x devices / batch"), "J an answer"))
    host = (
        exactly(1.0, "counted apart")
        if extra
        else factor("host_infer" if request.device.family == "gpu" else "host", *_host(request.device))
    )
    settled_lines: list[Line] = []
    hours = seconds * (number / request.batch / 3600.0)
    energy, carbon, cost, scopes = settled(
        joules / J_PER_KWH, host, place, request.device.family, settled_lines, hours=hours, extra=extra
    )
    answer = energy * J_PER_KWH
    per = {"answer": answer.of("")}
    if not (request.network.encoder or request.picture):
        per["token"] = answer / request.tokens
    return Estimate(energy, carbon, cost, (*lines, *settled_lines), place.counted, scopes, per, _notes(request))


def _placed(request: Request) -> Request:
    device, network = request.device, request.network
    for what, known, option in (
        ("power limit", device.limit_w, "--tdp 300W"),
        ("bandwidth", device.bytes_per_s or device.family == "mcu", "--bandwidth 900GB/s"),
    ):
        if not known:
            raise InvalidOption(f"the {what} of {device.name} is not known: add {option}")
    weights = network.parameters * BYTES[request.precision]
    if not device.memory_bytes or request.picture or device.family == "mcu":
        return replace(request, devices=request.devices or 1)
    needed = weights / device.memory_bytes
    if request.devices is None:
        number = 1
        while number < needed * SPARE:
            number *= 2
        return replace(request, devices=number)
    if request.devices < needed:
        raise InvalidOption(
            f"{request.devices} x {device.name} hold {request.devices * device.memory_bytes / 1e9:.0f} GB, and the"
            f" weights alone are {weights / 1e9:.0f} GB: give more devices, or fewer bits in --precision"
        )
    return request


def _software(request: Request) -> str:
    if request.software:
        return request.software
    if request.picture:
        return "image"
    if not request.device.in_data_centre:
        return "compiled"
    return "eager" if request.network.encoder else "serving"


def _class(name: str, device: Device) -> Range:
    if name in ("matmul", "image") and device.generation == "blackwell" and device.family == "gpu":
        return factor(name, "newest")
    if name == "image" and device.family != "gpu":
        name = "matmul"
    kind = "cpu" if device.generation == "cpu" and device.family == "soc" else device.family
    return factor(name, kind, "gpu" if not name.startswith("power") or device.family == "tpu" else "other")


def _host(device: Device) -> tuple[str, ...]:
    return ("superchip",) if device.name.startswith("GH") else (device.family, "one device", "gpu")


def joules_to_read(device: Device, read_bytes: float) -> Range:
    """Joules while a device reads so many bytes of weights and cache, its host included: the least for decoding."""
    seconds = _inverse(_class("bandwidth", device)) * (read_bytes / device.bytes_per_s)
    return seconds * _class("power_bandwidth", device) * device.limit_w * factor("host", *_host(device))


def phases(request: Request) -> list[Phase]:
    """The phases of `batch` answers that are given together."""
    if request.picture or request.network.encoder:
        return _one_pass(request)
    network, device, batch = request.network, request.device, request.batch
    number = request.devices or 1
    size = BYTES[request.precision]
    weights = network.read(batch) * size
    cache = batch * network.cache_values * 2.0 * (request.prompt + request.tokens / 2)
    speed = number * device.bytes_per_s
    peak = number * _peak(request)
    read = _inverse(_class("bandwidth", device)) * ((weights + cache) / speed * request.tokens)
    arithmetic = 2 * network.active * batch * (request.tokens + request.prompt)
    computed = _inverse(_class("matmul", device)) * (arithmetic / peak)
    software = _software(request)
    launched = factor("layer_s", f"{software} mixture" if network.mixture and software == "serving" else software)
    waits = launched * (network.layers * request.tokens)
    if software == "serving":
        waits = waits + factor("sequence_s", "serving") * (batch * request.tokens)
    elif software == "eager":
        waits = _beyond(waits, read.middle + computed.middle)
    how = (
        f"{weights / 1e9:.3g} GB of weights and {cache / 1e9:.3g} GB of cache in each of {request.tokens:g} steps, over"
    )
    return [
        Phase("memory", read.of(_class("bandwidth", device).origin), _class("power_bandwidth", device),
              f"{how} {speed / 1e9:.4g} GB/s x share"),
        Phase("arithmetic", computed.of(_class("matmul", device).origin), _class("power_matmul", device),
              f"{arithmetic:.3g} operations, the prompt's too, over {peak / 1e12:.4g} TFLOP/s x share"),
        Phase("between kernels", waits.of(launched.origin), _class("power_waiting", device),
              f"{network.layers} layers and {batch:g} sequences in each step"),
    ]  # fmt: skip


def _one_pass(request: Request) -> list[Phase]:
    """An answer in one pass, or a picture in steps."""
    network, device, batch = request.network, request.device, request.batch
    number = request.devices or 1
    if request.picture and network.image:
        operations, layers = network.image.operations(request.picture), network.image.passes(request.picture)
        passes = request.picture.steps
    else:
        operations = network.operations or 2 * network.active * request.tokens
        layers, passes = network.layers, 1
    peak = number * _peak(request)
    share = (
        factor("matmul", "float32")
        if request.precision == "fp32" and device.family == "gpu"
        else _class("image" if request.picture else "matmul", device)
    )
    computed = _inverse(share) * (operations * batch / peak)
    bytes_read = network.parameters * BYTES[request.precision] * passes
    read = exactly(0.0, "")
    if device.bytes_per_s:
        read = _inverse(_class("bandwidth", device)) * (bytes_read / (number * device.bytes_per_s))
    longer = read.middle > computed.middle
    software = _software(request)
    worked = read if longer else computed
    found = [
        Phase("memory", read.of(_class("bandwidth", device).origin), _class("power_bandwidth", device),
              f"{bytes_read / 1e9:.3g} GB of weights")
        if longer
        else Phase("arithmetic", computed.of(share.origin), _class("power_matmul", device),
                   f"{operations * batch:.3g} operations over {peak / 1e12:.4g} TFLOP/s x share")
    ]  # fmt: skip
    if device.family != "mcu":
        launched = factor("layer_s", software if software != "serving" else "compiled")
        waits = launched * float(layers)
        if software in ("eager", "image"):
            waits = _beyond(waits, worked.middle)
        if software == "eager":
            waits = waits + factor("prepare_s", "eager") * batch
        found.append(Phase("between kernels", waits, _class("power_waiting", device), f"{layers} blocks are launched"))
    return found


def _peak(request: Request) -> float:
    bits = {"fp32": 32, "fp8": 8, "int8": 8}.get(request.precision, 16)
    return request.device.peak(bits)


def _inverse(share: Range) -> Range:
    return Range(1 / share.high, 1 / share.middle, 1 / share.low, share.origin)


def _beyond(launched: Range, worked: float) -> Range:
    """The time between kernels that is not hidden by those that run: launches go ahead of them."""
    return launched * max(0.25, 1 - worked / launched.middle)


def _extra(request: Request, seconds: Range) -> Range | None:
    """kWh of devices that wait in the same node, and of the node at rest."""
    if not request.idle_devices:
        return None
    watts = factor("node_rest", "server") + exactly(request.idle_devices * request.device.idle_w, request.device.origin)
    return (seconds * watts * (1 / request.batch / J_PER_KWH)).of(watts.origin)


def _batch_at(request: Request) -> float:
    """How many answers are on their way at once: rate x time of one (Little's law). Raises InvalidOption."""
    assert request.rate is not None
    batch = 1.0
    for _ in range(ROUNDS):
        seconds = sum(part.seconds.middle for part in phases(replace(request, batch=batch)))
        batch = 0.5 * batch + 0.5 * max(1.0, request.rate * seconds)
        if batch > MOST_BATCH:
            raise InvalidOption(
                f"{request.devices} x {request.device.name} cannot give {request.rate:g} answers a second"
            )
    return batch


def _waiting(request: Request, joules: Range, seconds: Range, lines: list[Line]) -> tuple[Range, list[Line]]:
    """With the power of devices that wait for the next answer."""
    assert request.rate is not None
    idle = max(0.0, 1 / request.rate - seconds.middle / request.batch)
    held = Range(0.8, 1.4, 2.0, "idle power with a model loaded: 26 to 66 W more (devices.csv)")
    waiting = held * (idle * request.device.idle_w * (request.devices or 1))
    lines.append(Line("waiting for answers", waiting, "J an answer", f"at {request.rate:g} answers a second"))
    return joules + waiting, lines


def _facts(request: Request) -> list[Line]:
    network = request.network
    found = [Line("devices", exactly(request.devices or 1, request.device.origin), "", request.device.name)]
    if network.parameters:
        found.append(Line("parameters", exactly(network.parameters, network.origin), "", network.name))
    if network.mixture:
        found.append(Line("active parameters", exactly(network.active, network.origin), ""))
    found.append(
        Line("answers at once", exactly(request.batch, "given" if request.rate is None else "rate x time"), "")
    )
    if request.picture:
        picture = request.picture
        found.append(Line("steps", exactly(picture.steps, "given"), "", f"{picture.width} x {picture.height} pixels"))
    elif not network.operations:
        found.append(Line("tokens", exactly(request.tokens, "given"), "", f"after a prompt of {request.prompt:g}"))
    return found


def _notes(request: Request) -> tuple[str, ...]:
    notes = []
    if request.batch == 1 and request.device.in_data_centre and not request.picture:
        notes.append(
            "one answer at a time; servers give 8 to 64 at once, which takes a tenth of the energy: --batch 32"
        )
    if request.rate is None and not request.idle_devices and request.device.in_data_centre:
        notes.append("the devices are busy all the time; --rate 1/s counts their waiting")
    return tuple(notes)
