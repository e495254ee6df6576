"""Environments: the folder with a codebase, `env.yaml` and an evaluator; its data, noise, templates and catalogue."""
