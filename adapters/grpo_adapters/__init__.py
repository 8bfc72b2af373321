"""Ready policies and reward models for :mod:`grpo`, one module or folder a domain; import the one you need."""
