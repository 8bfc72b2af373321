"""The state of objects as plain data: numbers, strings, tensors, and dicts and lists of these.

An object becomes a table of nodes, one for each object that it reaches, however often. Values are made anew from it;
what has an identity (environments, modules, generators, instances of classes without ``__eq__``) is changed in place.
"""

from grpo_adapters.gym.plain_state.leaves import new_array
from grpo_adapters.gym.plain_state.putting import put_state
from grpo_adapters.gym.plain_state.taking import NotPlainError, take_state

__all__ = ["NotPlainError", "new_array", "put_state", "take_state"]
