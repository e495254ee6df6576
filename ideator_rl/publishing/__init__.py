"""Publishing: a run's model and records as a folder or a repository of the Hugging Face Hub, with their cards."""
