"""Our Jinja interpreter against jinja2's, set up as transformers does: the same text for every template of templates/
over many conversations, and for small templates that try one rule each. Where jinja2 fails, ours must fail too.
Usage: oracle_template_test.py TEXT_TOOL [--count N] [--seed N]"""
import argparse
import datetime
import json
import os
import random
import sys
import unicodedata

try:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import hostile_text
import text_tool

NOW = 1_732_147_200  # 2024-11-21 00:00 UTC


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def environment():
    """Source: transformers, utils/chat_template_utils.py."""
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)
    return env


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Get the weather \"now\" in <city> & more", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "the City"}, "days": {"type": ["integer", "null"]},
                                         "options": {"type": "object", "additionalProperties": {"type": "number"}}},
        "required": ["city"]}}},
    {"type": "function", "function": {"name": "now", "description": "The time \u00e9\u4e2d", "parameters": {"type": "object", "properties": {}, "required": []},
                                      "return": {"type": "string"}}},
]


def conversations(count, seed):
    rng = random.Random(seed)
    # Whether repr() escapes a character depends on the age of Python's tables; characters that this Python lacks stay out.
    texts = hostile_text.texts(400, seed, unassigned=lambda c: unicodedata.category(chr(c)) == "Cn") + ["", "  padded \n", "a\n\nb", "/no_think", "<think>why</think>\n\nso", "{{ x }}", "it's \"quoted\""]
    out = []
    for _ in range(count):
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(texts)})
        for turn in range(rng.randint(1, 4)):
            content = rng.choice(texts)
            if rng.random() < 0.08:
                content = [{"type": "text", "text": content}, {"type": "image"}]
            messages.append({"role": "user", "content": content})
            kind = rng.random()
            if kind < 0.2:
                call = {"type": "function", "id": "abcdefgh1", "function": {"name": "get_weather", "arguments": {
                    "city": rng.choice(texts), "days": rng.choice([1, 2.5, None, True, 1e20, 1e-7, [1, {"a": []}], -0.0])}}}
                messages.append({"role": "assistant", "content": rng.choice([None, "", "calling"]), "tool_calls": [call] * rng.choice([1, 1, 2])})
                for _ in range(rng.choice([1, 2])):
                    messages.append({"role": "tool", "content": rng.choice(texts), "tool_call_id": "abcdefgh1", "name": "get_weather"})
                messages.append({"role": "assistant", "content": rng.choice(texts)})
            elif turn or kind < 0.9:
                message = {"role": "assistant", "content": rng.choice(texts)}
                if rng.random() < 0.2:
                    message["reasoning_content"] = rng.choice(texts)
                messages.append(message)
        if rng.random() < 0.6:
            messages.append({"role": "user", "content": rng.choice(texts)})
        context = {"messages": messages, "add_generation_prompt": rng.random() < 0.7, "bos_token": "<s>", "eos_token": "</s>"}
        if rng.random() < 0.4:
            context["tools"] = rng.choice([TOOLS, TOOLS[:1], None])
        if rng.random() < 0.2:
            context["documents"] = [{"title": "T", "text": rng.choice(texts)}]
        if rng.random() < 0.2:
            context["enable_thinking"] = rng.random() < 0.5
        if rng.random() < 0.1:
            context["tools_in_user_message"] = False
        out.append(context)
    return out


SMALL = [line for line in open(os.path.join(os.path.dirname(__file__), "small_templates.txt"), encoding="utf-8").read().split("\n====\n") if line]
SMALL_CONTEXT = {"n": 7, "f": 2.5, "s": "Hello, W\u00f6rld! it's <b>", "e": "", "l": [3, 1, 2], "d": {"b": 1, "A": 2, "c": None, "items": "shadow"},
                 "m": [{"role": "user", "k": {"x": 1}}, {"role": "assistant", "k": {"x": 2}}, {"role": "user"}], "t": True, "z": None,
                 "deep": {"a": {"b": [{"c": "found"}]}}, "words": ["b", "A", "a", "B", "c"], "u": "\u65e5\u672c\u8a9e e\u0301 \U0001f642 \u00df", "nl": "a\r\nb\n\n c\n"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20261121)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
    cases = []  # label, template, context
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            source = file.read()
        cases += [(name, source, context) for context in conversations(options.count, f"{options.seed}{name}")]
    cases += [(f"small {i}", source, SMALL_CONTEXT) for i, source in enumerate(SMALL)]
    env = environment()
    compiled, wanted = {}, []
    for _, source, context in cases:
        try:
            if source not in compiled:
                compiled[source] = env.from_string(source)
            wanted.append((compiled[source].render(**context), None))
        except Exception as error:  # jinja2, and Python's own errors that come through it
            wanted.append((None, f"{type(error).__name__}: {error}"))
    answers = text_tool.run(options.binary, ["render"], [{"template": s, "context": c, "now": NOW} for _, s, c in cases])
    wrong = failures = 0
    for (label, source, _), (text, error), answer in zip(cases, wanted, answers):
        failures += text is None
        if (text is None and "error" in answer) or (text is not None and answer.get("text") == text):
            continue
        wrong += 1
        if wrong <= 25:
            print(f"{label}: {source if len(source) < 300 else ''}\n  want {text if text is not None else error!r}\n  got  {answer}")
    print(f"{len(cases)} renderings of {len(compiled)} templates, {failures} of them errors; {wrong} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
