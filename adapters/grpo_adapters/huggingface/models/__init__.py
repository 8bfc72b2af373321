"""A model of Hugging Face, and what is asked of it before it can be trained."""
