"""Runs tests/text/text_tool.cc, which speaks JSON lines."""
import json
import subprocess
import sys


def run(binary, arguments, requests):
    done = subprocess.run([binary, *arguments], input="".join(json.dumps(r) + "\n" for r in requests), capture_output=True,
                          text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"text_tool {arguments} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.split("\n") if line]
