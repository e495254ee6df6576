"""Implementers turn an idea into a patch: `llm` asks a code model, `direct` and `rules` ask none."""
