"""Several processes that train one policy: what they add up, what they agree on, and what ends them together.

Here belongs all that talks to another process. The rest of the core asks the :class:`grpo.World` that it is given, and
does the same whether that is one process or many. The lowest floor: it knows nothing of policies or experience.
"""
