"""Implementers turn an idea into a patch: `llm` calls a code model, `direct` and `rules` call none."""
