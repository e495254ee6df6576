"""Calls to code LLMs: any server with OpenAI's chat completions API.

Guaranteed:
- All clients of one server in this process share one limit on concurrency and one on the rate of starts.
- A temporary fault is retried; a permanent one is raised at once.
- No call starts that could break the run's caps, and its cost is booked in the ledger.
- With a recording, a call that has an answer there is neither sent nor paid again.
- An odd answer (empty, refused, cut off) is a `Reply` with that `finish`.  Only a missing answer is an error.

Not covered: anything but text.
"""

from ideator_rl.llm.client import ChatClient
from ideator_rl.llm.faults import ContextTooLong, LLMUnavailable
from ideator_rl.llm.reply import Reply
from ideator_rl.llm.settings import LLMSettings

__all__ = ["ChatClient", "ContextTooLong", "LLMSettings", "LLMUnavailable", "Reply"]
