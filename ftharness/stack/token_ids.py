"""Texts as token ids, for models that have the simulated stack's tokenizer: the tiny one that is made here."""

from collections.abc import Mapping
from typing import Any

from ftharness.engine import tokens
from ftharness.stack.plan import TokenIds

# What would have the server read something else than the conversation, or the prompt, as the model's own template has it.
_OTHER_TEMPLATE = {"tools", "functions", "documents", "chat_template", "chat_template_kwargs", "continue_final_message"}
_OTHER_PROMPT = {"truncate_prompt_tokens", "prompt_embeds"}


class OurTokens(TokenIds):
    """Whole words are generated, and bytes are read; no token is put before a prompt, or behind it."""

    def of_prompt(self, body: Mapping[str, Any]) -> list[int] | None:
        """What the engine reads of this request: a prompt as text or tokens, a conversation by the model's template."""
        if _OTHER_PROMPT & body.keys():
            return None
        if "messages" in body:
            return None if _OTHER_TEMPLATE & body.keys() else _of_chat(body["messages"])
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):  # a batch of one
            prompt = prompt[0]
        if isinstance(prompt, str):
            return _read(prompt)
        if isinstance(prompt, list) and all(isinstance(one, int) for one in prompt):
            return list(prompt)
        return None

    def of_answer(self, text: str) -> list[int] | None:
        """The words of an answer."""
        return tokens.ids_of(text)


def _of_chat(messages: Any) -> list[int] | None:
    try:
        if all(isinstance(message["content"], str | list) for message in messages):
            return _read(tokens.chat_prompt(messages))
    except (KeyError, TypeError):  # a picture, the call of a tool: nothing that the template has words for
        pass
    return None


def _read(text: str) -> list[int] | None:
    """The name of a special token in a text is that token to some servers, and its bytes to others."""
    return None if any(special in text for special in tokens.SPECIALS) else tokens.encode(text)
