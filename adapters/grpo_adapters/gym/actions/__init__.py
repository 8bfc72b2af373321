"""What the outputs of networks mean."""
