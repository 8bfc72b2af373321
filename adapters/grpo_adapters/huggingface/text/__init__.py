"""What a language model reads and says: prompts, messages, completions, conversations."""
