"""Implementers turn an idea into a patch: `llm` asks a code model, `direct` takes the idea's edits, `rules` a catalogue."""
