"""The warm-up: supervised fine-tuning on ideas in the right form, before any reward."""
