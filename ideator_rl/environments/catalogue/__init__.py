"""A catalogue: the edits of an environment that rules can read, write about and apply, without a language model."""
