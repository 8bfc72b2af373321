"""Language models as policies: completions and conversations encoded and evaluated."""
