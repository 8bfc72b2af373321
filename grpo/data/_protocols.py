"""Whether an object has the methods of a protocol, and what to call it in an error."""

from __future__ import annotations


def missing_methods(model: object, protocol: type) -> list[str]:
    """Methods of the protocol that the model does not have."""
    names = (name for name, member in vars(protocol).items() if callable(member) and not name.startswith("_"))
    return [name for name in names if not callable(getattr(model, name, None))]


def require_methods(model: object, protocol: type, role: str) -> None:
    """Raise a TypeError that names every method the model lacks."""
    missing = missing_methods(model, protocol)
    if missing:
        hint = (
            f"pass an instance, not the class: {model.__name__}(...)"
            if isinstance(model, type)
            else (f"add {'them' if len(missing) > 1 else 'it'}; grpo.{protocol.__name__} documents each")
        )
        raise TypeError(
            f"{role} {type_name(model)} is not a {protocol.__name__}: it lacks {', '.join(missing)}. {hint}"
        )
    if isinstance(model, type):
        raise TypeError(f"{role} is the class {model.__name__}, expected an instance: pass {model.__name__}(...)")


def type_name(value: object) -> str:
    """The name of its class, or its own where it is one."""
    return value.__name__ if isinstance(value, type) else type(value).__name__
