"""Messages to the text of a prompt, by the chat template that a model file carries.

Law: what messages and tools say never becomes a control token, however the template puts it together. While a template
runs, every character of theirs is a stand-in (`sandbox.py`), so in what comes out each character shows whose it is.
Trusted are the template itself, roles, keys that it looks up, and the program's own settings.

Source: huggingface.co/docs/transformers/chat_templating (the dialect).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from .sandbox import FOREIGN, Program, Run, TemplateError

if TYPE_CHECKING:
    from .tokens import Tokenizer

SOURCE_LIMIT: Final = 128 * 1024
"""Characters of a template; the longest in use have some 20,000."""
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function", "ipython")

CHATML: Final = """\
{%- if tools or messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content }}
    {%- endif %}
    {%- if tools %}
        {{- '\\n\\nFunctions that you may call, as JSON schemas, one a line:\\n<tools>' }}
        {%- for tool in tools %}
            {{- '\\n' + tool | tojson }}
        {%- endfor %}
        {{- '\\n</tools>\\n\\nFor each call answer with:\\n<tool_call>\\n{"name": NAME, "arguments": OBJECT}' }}
        {{- '\\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""The common default, for files of models that speak ChatML and say nothing; calls in the Hermes form."""

_PARTS: Final = re.compile(rf"([{FOREIGN}](?:[\s{FOREIGN}]*[{FOREIGN}])?)")


class Template:
    """A chat template, compiled: `source` as the file has it, `specials` the texts that are control tokens.

    Raises:
        TemplateError: it is no template that can be run here.
    """

    def __init__(self, source: str, specials: Collection[str] = (), bos: str = "", eos: str = "") -> None:
        if len(source) > SOURCE_LIMIT:
            raise TemplateError(f"the chat template has {len(source)} characters; at most {SOURCE_LIMIT}")
        if re.search(f"[{FOREIGN}]", source):
            raise TemplateError("the chat template has characters of the private planes 15 or 16")
        self.source = source
        words = {word for quoted in re.findall(r"'(\w+)'|\"(\w+)\"", source) for word in quoted if word}
        self._words = frozenset(word for word in words if not any(word in special for special in specials))
        self._keys = frozenset(re.findall(r"\w+", source))
        self._named = {"bos_token": bos, "eos_token": eos}
        self._program = Program(source)

    @classmethod
    def of(cls, metadata: Mapping[str, Any], tokenizer: Tokenizer) -> Self:
        """The template that a model file carries.

        Raises:
            TemplateError: it carries none, or none that can be run here.
        """
        source = metadata.get("tokenizer.chat_template")
        if not isinstance(source, str):
            raise TemplateError(
                "the model file has no chat template; say which form it speaks (chatml is the common one)"
            )
        return cls.by(source, tokenizer)

    @classmethod
    def by(cls, source: str, tokenizer: Tokenizer) -> Self:
        """A given template (such as CHATML), for a model with this tokenizer."""
        bos, eos = ("" if i is None else tokenizer.tokens[i] for i in (tokenizer.bos_id, tokenizer.eos_id))
        return cls(source, tokenizer.specials, bos, eos)

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True, now: datetime | None = None, **settings: Any,
    ) -> list[tuple[str, bool]]:  # fmt: skip
        """The prompt as parts for `Tokenizer.encode_parts`: text, and whether control tokens in it are meant.

        `messages` and `tools` are as OpenAI's protocol has them; `settings` (`enable_thinking`) are the program's own
        and are trusted. `now` is what the template takes for the time.

        Raises:
            TemplateError: the template refuses them, fails, or goes too far.
        """
        run = Run(self._words, self._keys, now or datetime.now())
        said = [self._message(message, number) for number, message in enumerate(messages)]
        offered = list(tools) if tools is not None else None
        run.seed([said, offered])
        handed = [{**run.hand_in(message), "role": message["role"]} for message in said]
        text = self._program.write(
            run, **settings, **self._named, messages=handed, tools=run.hand_in(offered),
            add_generation_prompt=add_generation_prompt,
        )  # fmt: skip
        parts = _PARTS.split(text)
        return [(run.real(part), i % 2 == 0) for i, part in enumerate(parts) if part]

    def _message(self, message: Mapping[str, Any], number: int) -> dict[str, Any]:
        """A message in the form that templates expect: text in one piece, arguments as maps, thoughts apart."""
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise TemplateError(f"message {number}: the role {role!r:.80} is not one of {', '.join(ROLES)}")
        made = dict(message)
        if isinstance(content, list | tuple):
            if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
                raise TemplateError(f"message {number}: only parts that are text can be read")
            made["content"] = content = "".join(part["text"] for part in content)
        elif content is not None and not isinstance(content, str):
            raise TemplateError(f"message {number}: the content is a {type(content).__name__}, no text")
        if content and role == "assistant" and "</think>" in content and "</think>" in self.source:
            before, _, made["content"] = content.rpartition("</think>")
            made.setdefault("reasoning_content", before.rpartition("<think>")[2].strip("\n"))
            made["content"] = made["content"].lstrip("\n")
        if message.get("tool_calls"):
            made["tool_calls"] = [_with_map(call, number) for call in message["tool_calls"]]
        return made


def _with_map(call: Any, number: int) -> dict[str, Any]:
    """A call whose arguments are a map: clients send them as JSON in a text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise TemplateError(f"message {number}: a tool call has no function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise TemplateError(f"message {number}: the arguments of a tool call are no JSON") from None
    return {**call, "function": {**function, "arguments": arguments}}
