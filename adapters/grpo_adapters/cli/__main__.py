"""The command as a module, ``python -m grpo_adapters.cli``."""

import sys

from grpo_adapters.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
