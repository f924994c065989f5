"""Names: where a tensor of a graph is held in the module, so that it keeps its ONNX name where that can be."""

from __future__ import annotations

from torch.nn import Module


class Names:
    """Gives submodules and tensors of a module the paths that ONNX names are, or others near them."""

    def __init__(self, network: Module) -> None:
        self._network = network

    def container(self, path: str) -> tuple[Module, str]:
        """The module that holds what has this path, made where it is missing, and its own name there."""
        *parents, leaf = path.split(".")
        module = self._network
        for part in parents:
            if part not in module._modules:
                module.add_module(part, Module())
            module = module.get_submodule(part)
        return module, leaf

    def free(self, name: str) -> str:
        """A path that nothing has yet: the name itself, or one without its dots, or that with a number."""
        if self._is_free(name):
            return name
        flat = name.replace(".", "_") or "tensor"
        paths = [flat, *(f"{flat}_{number}" for number in range(2, 10_000))]
        return next(path for path in paths if self._is_free(path))

    def _is_free(self, path: str) -> bool:
        module: Module | None = self._network
        parts = path.split(".")
        if not all(parts):
            return False
        for place, part in enumerate(parts):
            if module is None:
                if hasattr(Module(), part):  # a name that every module has, such as `type`
                    return False
                continue
            known = module._modules.get(part)
            taken = hasattr(type(module), part) or hasattr(module, part)
            if taken and (known is None or type(known) is not Module or place == len(parts) - 1):
                return False
            module = known
        return True
