"""Text for people: what is safe to show, number formats, and the removal of secrets."""
