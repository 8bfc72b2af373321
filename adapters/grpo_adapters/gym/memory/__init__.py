"""What policies remember from step to step."""
