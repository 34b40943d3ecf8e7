"""The openai package as the judge of the HTTP front end, and plain grpcio of the gRPC one."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from processes import Cluster, check, skip

try:
    import openai
except ImportError:
    skip("the openai package is not installed (scripts/test makes an environment that has it)")

ANSWER = "The quick brown fox jumps over the lazy dog. ¡Olé, 世界! 🦊 Then it sleeps."


def test_chat(client):
    messages = [{"role": "user", "content": "Hi"}]
    answer = client.chat.completions.create(model="fake-model", messages=messages, temperature=0, seed=5)
    check(answer.choices[0].message.content == ANSWER, answer)
    check(answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens > 10, answer)

    stream = client.chat.completions.create(model="fake-model", messages=messages, stream=True, n=2, temperature=1,
                                            stream_options={"include_usage": True})
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    check(texts[0] == ANSWER and texts[1] != ANSWER, texts)
    check(reasons == {0: "stop", 1: "stop"} and usage.completion_tokens > 20, (reasons, usage))

    answer = client.chat.completions.create(model="fake-model", messages=messages, logprobs=True, top_logprobs=3,
                                            max_completion_tokens=4)
    content = answer.choices[0].logprobs.content
    check([x.token for x in content] == ["The", " quick", " brown", " fox"], content)
    check(len(content[0].top_logprobs) == 3 and content[0].logprob <= 0, content[0])
    check(answer.choices[0].finish_reason == "length", answer)

    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    answer = client.chat.completions.create(model="fake-model", messages=messages, tools=tools)
    check(answer.choices[0].message.content == ANSWER, answer)
    try:
        client.chat.completions.create(model="fake-model", messages=messages, tools=tools, tool_choice="required")
        check(False, "tool_choice required was taken")
    except openai.BadRequestError as error:
        check(error.param == "tool_choice", error)


def test_completions(client):
    answer = client.completions.create(model="fake-model", prompt=["a", "b"], max_tokens=5, logprobs=2, echo=False)
    check(len(answer.choices) == 2 and len(answer.choices[1].logprobs.tokens) == 5, answer)
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(
        model="fake-model", prompt=[1, 2, 3], max_tokens=100, stream=True, stop=["dog"]))
    check(text == "The quick brown fox jumps over the lazy ", text)
    answer = client.completions.create(model="fake-model", prompt="a", max_tokens=3, extra_body={
        "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "return_token_ids": True})
    check(len(answer.choices[0].model_extra["token_ids"]) == 3, answer)
    with client.chat.completions.with_streaming_response.create(
            model="fake-model", messages=[{"role": "user", "content": "Hi"}], stream=True) as response:
        check(response.headers["content-type"].startswith("text/event-stream"), response.headers)
        check(response.headers["x-request-id"], response.headers)


def test_errors(client):
    for error_type, call in (
            (openai.NotFoundError, lambda: client.completions.create(model="none", prompt="a")),
            (openai.BadRequestError, lambda: client.completions.create(model="fake-model", prompt="a", temperature=5)),
            (openai.BadRequestError, lambda: client.completions.create(model="fake-model", prompt="a", n=100)),
            (openai.NotFoundError, lambda: client.models.retrieve("none"))):
        try:
            call()
            check(False, f"no {error_type}")
        except error_type as error:
            check(error.body["message"] and error.type == "invalid_request_error", error.body)
    check([model.id for model in client.models.list()] == ["fake-model"], "models")
    check(client.models.retrieve("fake-model").id == "fake-model", "one model")


def test_early_stop_by_the_client(client, cluster):
    stream = client.completions.create(model="fake-model", prompt="a", max_tokens=1500, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()


def main():
    with Cluster() as cluster:
        client = openai.OpenAI(base_url=f"http://{cluster.http}/v1", api_key="none", max_retries=0, timeout=20)
        test_chat(client)
        test_completions(client)
        test_errors(client)
        test_early_stop_by_the_client(client, cluster)
        client.close()
        print("passed with openai", openai.__version__)


main()
