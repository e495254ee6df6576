"""The edge to code LLMs: any server that speaks OpenAI's chat completions.

Guarantees: a call waits its turn (concurrency and rate, shared by all clients of one server in this process); what may
pass is tried again; no call starts that could break the run's caps, and what it cost is booked; with a recording, a
call that was answered before is neither sent nor paid again.  An odd answer (empty, refused, cut off) is a `Reply` that
says so; only an answer that cannot be had is an error.  Not streaming; text only.
"""

from ideator_rl.llm.client import ChatClient
from ideator_rl.llm.faults import ContextTooLong, LLMUnavailable
from ideator_rl.llm.reply import Reply
from ideator_rl.llm.settings import LLMSettings

__all__ = ["ChatClient", "ContextTooLong", "LLMSettings", "LLMUnavailable", "Reply"]
