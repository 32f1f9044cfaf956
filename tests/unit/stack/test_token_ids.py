"""Texts told as the tokens that the model would read and say."""

import json
from pathlib import Path
from typing import Any

import pytest

import ftharness
from ftharness.engine import tokens
from ftharness.stack.token_ids import OurTokens

HI = tokens.encode("user: Hi\nassistant:")


@pytest.mark.parametrize(
    "body,ids",
    [
        ({"prompt": "Once"}, tokens.encode("Once")),
        ({"prompt": ["Once"]}, tokens.encode("Once")),
        ({"prompt": [8192, 5, 6]}, [8192, 5, 6]),
        ({"prompt": [[5, 6]]}, [5, 6]),
        ({"messages": [{"role": "user", "content": "Hi"}]}, HI),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, HI),
        ({"prompt": ["Once", "Twice"]}, None),
        ({"prompt": "to the <|eos|> of it"}, None),
        ({"prompt": "Once", "truncate_prompt_tokens": 2}, None),
        ({"messages": [{"role": "user", "content": "Hi"}], "tools": []}, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_prompt_is_told_as_its_tokens(body: dict[str, Any], ids: list[int] | None) -> None:
    """In every form that servers take it in; where servers may read something else it is not told at all."""
    assert OurTokens().of_prompt(body) == ids


def test_an_answer_is_told_as_its_tokens() -> None:
    """However its pieces were merged; not where it ends within a word."""
    ids = tokens.generate(0, tokens.encode("Once"), 20)
    assert OurTokens().of_answer(tokens.decode(ids)) == ids
    assert OurTokens().of_answer(tokens.decode(ids)[:-1] + "?") is None
    assert OurTokens().of_answer("") == []


def test_the_model_has_the_template_that_is_told() -> None:
    """Neither a token before the prompt nor one behind it; ``role: content``, a line each, then ``assistant:``."""
    folder = Path(ftharness.__file__).parent / "engine" / "model"
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["add_bos_token"] is config["add_eos_token"] is False
    assert config["chat_template"] == (
        "{% for message in messages %}{{ message['role'] + ': ' }}{% if message['content'] is string %}"
        "{{ message['content'] }}{% elif message['content'] %}{% for part in message['content'] %}{{ part['text'] }}"
        "{% endfor %}{% endif %}{{ '\\n' }}{% endfor %}{{ 'assistant:' }}"
    )
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["post_processor"] is None
