"""A streamed chat with the openai package.

    python chat.py [http://127.0.0.1:8000/v1] [question]
"""
import sys

import openai

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
question = sys.argv[2] if len(sys.argv) > 2 else "What is a pagoda?"

client = openai.OpenAI(base_url=base_url, api_key="none")
model = client.models.list().data[0].id
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    max_tokens=200,
    temperature=0.7,
    seed=1,
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"top_k": 40},  # fields beyond OpenAI's have vLLM's names
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
    if chunk.usage:
        print(f"\n[{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out]")
